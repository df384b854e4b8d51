"""What the checks say, as a table and in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from orchestrator.lines import safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.events import (
        Checked,
        Status,
        Verdict,
    )


MARKS = {"pass": "ok", "fail": "FAIL", "warn": "warn", "info": "-", "skip": "-", "unknown": "?"}
STYLES = {"pass": "green", "fail": "bold red", "warn": "yellow", "unknown": "yellow"}
# The table's columns: a heading, and the checks whose worst verdict stands there.
COLUMNS = {
    "ssh": ("ssh.",),
    "ping": ("net.ping",),
    "python": ("env.python",),
    "torch": ("env.torch",),
    "rendezvous": ("net.port.rdzv", "net.rdzv"),
}
SEVERITY: tuple[Status, ...] = ("fail", "unknown", "warn", "pass", "info", "skip")


def folded(verdicts: Iterable[Verdict]) -> Iterator[tuple[Verdict, str]]:
    """Return what is the same on many hosts once, with their names."""
    found: dict[tuple[str, str, str, str | None], tuple[Verdict, list[str]]] = {}
    for verdict in verdicts:
        shown = (verdict.status, verdict.id, verdict.message, verdict.hint)
        _, hosts = found.setdefault(shown, (verdict, []))
        hosts.extend([verdict.host] if verdict.host else [])
    return ((verdict, ", ".join(hosts)) for verdict, hosts in found.values())


def verdict_table(event: Checked) -> Table:
    """A line per host; in each column the worst that the checks behind it say."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("host", *COLUMNS):
        table.add_column(heading, overflow="fold")
    for host in event.hosts:
        cells = [Text(host)]
        for prefixes in COLUMNS.values():
            of_host = [v for v in event.verdicts if v.host == host and v.id.startswith(prefixes)]
            cells.append(_cell(min(of_host, key=lambda v: SEVERITY.index(v.status), default=None)))
        table.add_row(*cells)
    return table


def _cell(verdict: Verdict | None) -> Text:
    if verdict is None:
        return Text("-")
    short = verdict.status in ("pass", "info")
    mark = safe(verdict.message, colours=False) if short else MARKS[verdict.status]
    return Text(mark, style=STYLES.get(verdict.status, ""))
