"""Lines at the end of a terminal that are drawn anew as things change, and taken away again.

The cursor stays visible, below them: whoever ends this process in whatever way leaves a terminal
that needs no mending.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_drawn: Redrawn | None = None


def make_way() -> None:
    """Take away what is drawn, before anything else is written to the terminal."""
    if _drawn:
        _drawn.erase()


def size_of(out: TextIO) -> tuple[int, int] | None:
    """Return columns and lines of a terminal that can be drawn on; None: this is none."""
    if not out.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return None
    try:
        columns, lines = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return None
    return columns or 80, lines or 24


class Redrawn:
    """Each line has to fit the terminal, and all of them its height but one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: tuple[str, ...] = ()
        self._columns = 0

    def draw(self, lines: Sequence[str], columns: int) -> None:
        global _drawn
        if len(lines) == len(self._lines) and columns == self._columns:
            text = self._changes(lines)
        else:
            text = self._away(columns) + "".join(f"{line}\n" for line in lines)
        self._lines, self._columns, _drawn = tuple(lines), columns, self
        self._write(text)

    def erase(self) -> None:
        global _drawn
        size = size_of(self._out)
        text = self._away(size[0] if size else self._columns)
        self._lines, _drawn = (), None
        self._write(text)

    def _changes(self, lines: Sequence[str]) -> str:
        """What is as it was is not sent: over a slow link a table is much, and a cell is not."""
        text = ""
        for index, (old, new) in enumerate(zip(self._lines, lines, strict=True)):
            if old != new:
                up = len(lines) - index
                text += f"\x1b[{up}A\r{new}\x1b[K\x1b[{up}B\r"
        return text

    def _away(self, columns: int) -> str:
        if not self._lines:
            return ""
        # In a window that has become narrower a line takes up several.
        rows = sum(max(1, -(-len(COLOUR.sub("", line)) // columns)) for line in self._lines)
        return f"\x1b[{rows}A\r\x1b[J"

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
