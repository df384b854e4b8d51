"""A terminal to test against: a real pty, and what somebody who sits before it would see."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import time

TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b.|([\r\n])|([^\x1b\r\n])", re.DOTALL)


class Seen:
    """As much of a terminal as we use: lines, a cursor, what scrolls away, and what is erased."""

    def __init__(self, columns: int, height: int) -> None:
        self.columns, self.height = columns, height
        self.rows = [""]
        self.row = self.column = 0
        self.cursor = True
        self.colours = 0

    def feed(self, text: str) -> None:
        for number, letter, control, char in TOKEN.findall(text):
            if letter:
                self._control(number, letter)
            elif control:
                self.column = 0 if control == "\r" else self.column
                self._down(control == "\n")
            elif char:
                self._put(char)

    def _control(self, number: str, letter: str) -> None:
        if letter == "A":
            self.row = max(self._top, self.row - int(number or 1))
        elif letter == "B":
            self.row = min(len(self.rows) - 1, self.row + int(number or 1))
        elif letter == "J":
            assert number in ("", "0"), "only from the cursor on"
            self.rows[self.row + 1 :] = []
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif letter == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif letter == "m":
            self.colours += 1
        elif (number, letter) in (("?25", "l"), ("?25", "h")):
            self.cursor = letter == "h"
        else:
            raise AssertionError(f"not played here: CSI {number} {letter}")

    @property
    def _top(self) -> int:
        """The first row that can still be reached."""
        return max(0, len(self.rows) - self.height)

    def _down(self, down: bool) -> None:
        if down:
            self.row += 1
            if self.row == len(self.rows):
                self.rows.append("")

    def _put(self, char: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._down(True)
        line = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = line[: self.column] + char + line[self.column + 1 :]
        self.column += 1

    @property
    def lines(self) -> list[str]:
        """All that was ever shown and not erased, without the spaces at the ends of lines."""
        found = [row.rstrip() for row in self.rows]
        return found[:-1] if found[-1] == "" else found


class Pty:
    def __init__(self, columns: int = 100, height: int = 24) -> None:
        self.ours, self.theirs = os.openpty()
        self.seen = Seen(columns, height)
        self.raw = ""
        self.resize(columns, height)

    def resize(self, columns: int, height: int) -> None:
        size = struct.pack("HHHH", height, columns, 0, 0)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.theirs)[3] & termios.ECHO)

    def look(self, seconds: float = 0.0) -> list[str]:
        """Return what is shown by now."""
        while select.select([self.ours], [], [], seconds)[0]:
            try:
                text = os.read(self.ours, 1 << 16).decode()
            except OSError:  # nobody has the other end any more
                break
            self.raw += text
            self.seen.feed(text)
        return self.seen.lines

    def look_until(self, words: str, seconds: float = 60) -> list[str]:
        deadline = time.monotonic() + seconds
        while not any(words in line for line in self.look(0.05)):
            assert time.monotonic() < deadline, "\n".join([f"{words!r} not in:", *self.seen.lines])
        return self.seen.lines

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)
