"""What the checks say, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from inventory.names import folded
from orchestrator.lines import safe
from orchestrator.screen.columns import COLUMNS, column_of

if TYPE_CHECKING:
    from orchestrator.events import Checked, Status, Verdict
    from orchestrator.screen.columns import Column


MARKS = {"pass": "ok", "fail": "FAIL", "warn": "warn", "info": "-", "skip": "-", "unknown": "?"}
STYLES = {"pass": "green", "fail": "bold red", "warn": "yellow", "unknown": "yellow"}
SEVERITY: tuple[Status, ...] = ("fail", "unknown", "warn", "pass", "info", "skip")
MANY_HOSTS = 16
"""From here on hosts that are alike share a line."""
WIDEST = 28

Cell = tuple[str, str]


def verdict_table(event: Checked) -> Table:
    """A line per host; in each column the worst that the checks behind it say."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in event.verdicts:
        column = column_of(verdict.id)
        if verdict.host and column:
            found.setdefault((verdict.host, column.heading), []).append(verdict)
    told = {heading for _, heading in found}
    columns = [column for column in COLUMNS if column.heading in told]
    alike: dict[tuple[object, ...], list[str]] = {}
    many = len(event.hosts) > MANY_HOSTS
    for host in event.hosts:
        cells = [_cell(column, found.get((host, column.heading), [])) for column in columns]
        # How long a connection took is of nobody's interest where there are many.
        unlike = [("ok", "green") if many and s == "green" and t.endswith(" s") else (t, s)
                  for t, s in cells]  # fmt: skip
        alike.setdefault(tuple(unlike) if many else (host, *unlike), []).append(host)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("host", *(column.heading for column in columns)):
        table.add_column(heading, overflow="fold")
    for row, hosts in alike.items():
        cells = [cell for cell in row if isinstance(cell, tuple)]
        table.add_row(Text(folded(hosts)), *(Text(text, style=style) for text, style in cells))
    return table


def _cell(column: Column, verdicts: list[Verdict]) -> Cell:
    worst = min(verdicts, key=lambda v: SEVERITY.index(v.status), default=None)
    if worst is None:
        return "-", ""
    if worst.status in ("fail", "unknown", "warn"):
        return MARKS[worst.status], STYLES[worst.status]
    for id_ in column.says:
        for verdict in verdicts:
            if verdict.id == id_ and verdict.status in ("pass", "info"):
                return _short(verdict), STYLES["pass"]
    return ("-", "") if worst.status == "skip" else (MARKS["pass"], STYLES["pass"])


def _short(verdict: Verdict) -> str:
    if verdict.id == "ssh.reach" and verdict.duration_ms is not None:
        return f"{verdict.duration_ms / 1000:.1f} s"
    one = " ".join(safe(verdict.message, colours=False).split())
    return one if len(one) <= WIDEST else one[: WIDEST - 3] + "..."
