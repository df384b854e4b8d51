"""Lines of a file that may be large: found from its end, in blocks, and by what matches them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

    Pick = Callable[[list[bytes]], list[bool]]
    Line = tuple[int, bytes]

BLOCK = 1 << 18
# A longer line is looked at in parts of about this size.
LONGEST = 1 << 20


def begin_of(file: int, at: int) -> int:
    """Return where the line begins that goes on at this offset; the offset, where one begins."""
    end = at
    while end > 0:
        begin = max(0, end - BLOCK)
        newline = os.pread(file, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def tail(file: int, begin: int, end: int, count: int) -> tuple[int, int]:
    """Return where the last lines between two offsets begin, and how many they are.

    What comes after the last newline is a line, too.
    """
    if count == 0 or end <= begin:
        return end, 0
    found = 0
    at = end - 1  # a newline there ends the last line, and begins none
    while at > begin:
        low = max(begin, at - BLOCK)
        data = os.pread(file, at - low, low)
        newlines = data.count(b"\n")
        if found + newlines >= count:
            place = len(data)
            for _ in range(count - found):
                place = data.rfind(b"\n", 0, place)
            return low + place + 1, count
        found += newlines
        at = low
    return begin, found + 1


def matching(file: int, begin: int, end: int, pick: Pick) -> Iterator[list[Line]]:
    """Read forward; return the lines that match, with their offsets, block by block."""
    rest = b""
    at = begin  # of what was not looked at yet
    read = begin
    while read < end:
        data = os.pread(file, min(BLOCK, end - read), read)
        if not data:
            break  # cut off meanwhile
        read += len(data)
        whole, newline, rest = (rest + data).rpartition(b"\n")
        whole += newline
        if len(rest) > LONGEST:
            whole, rest = whole + rest, b""
        yield picked(whole, at, pick)
        at += len(whole)
    yield picked(rest, at, pick)


def picked(block: bytes, at: int, pick: Pick) -> list[Line]:
    lines = block.split(b"\n")
    last = lines.pop()
    lines = [line + b"\n" for line in lines] + ([last] if last else [])
    found = []
    for line, wanted in zip(lines, pick(lines) if lines else ()):
        if wanted:
            found.append((at, line))
        at += len(line)
    return found


def last_matching(file: int, begin: int, end: int, count: int, pick: Pick) -> list[tuple[int, int]]:
    """Return the last lines that match, as (offset, length), read backwards in blocks of lines."""
    found: list[tuple[int, int]] = []
    while end > begin and len(found) < count:
        low = max(begin, begin_of(file, max(begin, end - BLOCK)))
        blocks = matching(file, low, end, pick)
        found = [(at, len(line)) for lines in blocks for at, line in lines] + found
        end = low
    return found[max(0, len(found) - count) :]
