"""How far the checks are: a line per host, a cell per group, each filled in as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.screen.columns import BETWEEN, COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.screen.columns import Column

AWAITED, CAME, LOST, NONE = "...", "ok", "?", "-"
COLOURS = {CAME: "32", LOST: "33", "no": "1;31", AWAITED: "2", NONE: "2"}
WIDEST_NAME = 32


class Progress:
    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = tuple(hosts)
        self._came: dict[tuple[str, str], bool] = {}
        """By host and heading."""
        of_each = [column.heading for column in COLUMNS if column is not BETWEEN]
        self._waiting = {host: set(of_each) for host in hosts}
        """Headings that something is still awaited for, of hosts that are not done."""
        self._name = min(WIDEST_NAME, max([len("host"), *map(len, self._hosts)]))

    def looked(self, host: str, part: str, came: bool) -> None:
        for column in COLUMNS:
            if part.startswith(column.parts):
                before = self._came.get((host, column.heading), True)
                self._came[host, column.heading] = came and before
                self._waiting.get(host, set()).discard(column.heading)
        if not self._waiting.get(host, True) or not self._is_there(host):
            self._waiting.pop(host, None)

    def lines(self, columns: int, height: int, *, colour: bool) -> list[str]:
        """Draw no more than fit; of many hosts those that something is still awaited of."""
        room = max(1, height - 3)  # the headings, the last line, and the cursor's own
        waiting = self._waiting
        shown = self._hosts if len(self._hosts) <= room else tuple(waiting)[:room]
        name = min(self._name, columns - 1)
        fitting = list(_fitting(columns - 1 - name))
        drawn = ["  ".join([f"{'host'[:name]:{name}}", *(f"{c.heading:{w}}" for c, w in fitting)])]
        for host in shown:
            cells = [f"{host[:name]:{name}}"]
            cells += [_painted(self._cell(host, c), w, colour=colour) for c, w in fitting]
            drawn.append("  ".join(cells))
        drawn.append(self._last(len(waiting), len(waiting) - len(shown))[: columns - 1])
        return drawn

    def _last(self, waiting: int, hidden: int) -> str:
        count = len(self._hosts)
        if not waiting:
            return "every host has told of itself; now between them"
        more = f", {hidden} of them not shown" if hidden > 0 else ""
        return f"waiting for {waiting} of {count} host{'s' * (count != 1)}{more}"

    def _is_there(self, host: str) -> bool:
        return self._came.get((host, COLUMNS[0].heading), True)

    def _cell(self, host: str, column: Column) -> str:
        if not self._is_there(host):
            return "no" if column is COLUMNS[0] else NONE
        came = self._came.get((host, column.heading))
        return AWAITED if came is None else CAME if came else LOST


def _fitting(room: int) -> Iterator[tuple[Column, int]]:
    for column in COLUMNS:
        width = max(len(column.heading), len(AWAITED))
        room -= width + 2
        if room < 0:
            return
        yield column, width


def _painted(cell: str, width: int, *, colour: bool) -> str:
    text = f"{cell:{width}}"
    return f"\x1b[{COLOURS[cell]}m{text}\x1b[0m" if colour else text
