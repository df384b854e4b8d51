"""When a run's files grew. Their lines carry no time, as workers write straight to them.

growth.jsonl: {"time", "sizes": {file: size}} for the files that grew since the line before. So what
was written before a time is known, to EVERY seconds. Nothing is noted while nothing grows.
"""

from __future__ import annotations

import json
import os
import time

from . import outputs, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INDEX = "growth.jsonl"
EVERY = 15.0
LARGEST = 1 << 20


class Growth:
    """Written by a run's supervisor, whose sleep ends in time for it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: dict[str, int] = {}
        self._next = 0.0

    def timeout(self, now: float, most: float) -> float:
        return max(0.0, min(most, self._next - now))

    def tick(self, now: float) -> None:
        """Look, when it is time to; `now` is of a clock that nobody sets."""
        if now >= self._next:
            self._next = now + EVERY
            self.note()

    def note(self) -> None:
        sizes = outputs.sizes(self._folder)
        grown = {name: size for name, size in sizes.items() if size != self._known.get(name, 0)}
        if not grown:
            return
        try:
            append(self._folder, {"time": time.time(), "sizes": grown})
        except OSError:
            return  # a full disk; the next line will tell of all that grew meanwhile
        self._known.update(grown)


def append(folder: str, entry: dict[str, Any]) -> None:
    line = json.dumps(entry).encode() + b"\n"
    with open(os.path.join(folder, INDEX), "ab", buffering=0, opener=record.private) as file:
        size = file.tell()
        if file.write(line) != len(line):
            file.truncate(size)  # half a line would spoil the next one
    if size + len(line) > LARGEST:
        thin(folder)


def thin(folder: str) -> None:
    """Keep every other line, with what the one before it tells: then less is known, not wrong."""
    kept: list[dict[str, Any]] = []
    for number, entry in enumerate(entries(folder)):
        if number % 2:
            before = kept.pop()
            entry = dict(entry, sizes=dict(before["sizes"], **entry["sizes"]))
        kept.append(entry)
    temporary = os.path.join(folder, ".%s.%d" % (INDEX, os.getpid()))
    try:
        with open(temporary, "wb", opener=record.private) as file:
            file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in kept))
        os.rename(temporary, os.path.join(folder, INDEX))
    except BaseException:  # whatever ended it, no half of an index stays
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def entries(folder: str) -> list[dict[str, Any]]:
    """Return the whole lines; what makes no sense is left out."""
    found = []
    with open(os.path.join(folder, INDEX), "rb", opener=record.reading) as file:
        for line in file:
            try:
                entry = json.loads(line)
                float(entry["time"]), entry["sizes"].items()
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            found.append(entry)
    return found


def sizes_at(folder: str, when: float) -> dict[str, int] | None:
    """Return how long the files were then, at least as far as known; None where nothing is."""
    try:
        known = entries(folder)
    except OSError:
        return None
    sizes: dict[str, int] = {}
    for entry in known:
        if entry["time"] > when:
            break
        sizes.update(entry["sizes"])
    return sizes
