"""Sends files, or the lines in them that match, from where they are known to or asked for."""

from __future__ import annotations

import os
import stat

from . import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

CHUNK = 1 << 18


class Reader:
    """The files of one folder; each is held open to the end, as it may be removed meanwhile.

    What is emitted is {"file", "offset", "next"} with bytes; of lines that match also "at", where
    each begins. "next" is from where on to go on after it.
    """

    def __init__(
        self,
        folder: str,
        emit: Callable[[dict[str, Any], bytes], None],
        cancelled: Callable[[], bool],
        pick: lines.Pick | None,
    ) -> None:
        self.offsets: dict[str, int] = {}
        self._folder = folder
        self._emit = emit
        self._cancelled = cancelled
        self._pick = pick
        self._files: dict[str, int] = {}
        # The last lines that match, found already and yet to be sent: (offset, length).
        self._found: dict[str, list[tuple[int, int]]] = {}
        self._seen: dict[str, int] = {}

    def begin(self, streams: list[list[str]], tail: int | None, then: dict[str, int]) -> None:
        """Find where each stream's files begin: `then` is how long they were when it begins."""
        for stream in streams:
            left = tail
            for name in reversed(stream):
                file = self.open(name)
                if file is None:
                    continue
                size = os.fstat(file).st_size
                start = min(size, then.get(name, 0))
                if start < size:
                    # A line that was begun before that time, and ended after it, belongs to it.
                    start = lines.begin_of(file, start)
                if left is not None:
                    start, found = self._tail(name, file, start, size, left)
                    left -= found
                self.offsets[name] = start

    def _tail(self, name: str, file: int, start: int, size: int, count: int) -> tuple[int, int]:
        if self._pick is None:
            return lines.tail(file, start, size, count)
        found = lines.last_matching(file, start, size, count, self._pick)
        self._found[name] = found
        # A line that is still being written, and does not match yet, is looked at when it is whole.
        last = lines.begin_of(file, size)
        return size if found and found[-1][0] >= last else last, len(found)

    def cursors(self) -> dict[str, int]:
        first = {name: found[0][0] for name, found in self._found.items() if found}
        return dict(self.offsets, **first)

    def open(self, name: str) -> int | None:
        if name not in self._files:
            # What is no file, as a pipe that a worker put there, must not hold us up.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                self._files[name] = os.open(os.path.join(self._folder, name), flags)
            except OSError:
                return None  # not yet, or not any more
        file = self._files[name]
        return file if stat.S_ISREG(os.fstat(file).st_mode) else None

    def send(self, name: str, final: bool) -> None:
        """Send what is new by now; what has no newline yet is whole only when it is final."""
        file = self.open(name)
        if file is None:
            return
        offset, size = self.offsets.get(name, 0), os.fstat(file).st_size
        for at, length in self._found.pop(name, ()):
            self._send_lines(name, [(at, os.pread(file, length, at))])
        if size <= offset or (size == self._seen.get(name) and not final):
            return
        self._seen[name] = size
        if self._pick is None:
            self._send_bytes(name, file, offset, size)
            return
        if not final and size - offset <= lines.LONGEST:
            size = lines.begin_of(file, size)  # half a line may match when it is whole
        for found in lines.matching(file, offset, size, self._pick):
            self._send_lines(name, found)
            if self._cancelled():
                return
        self.offsets[name] = max(offset, size)

    def _send_bytes(self, name: str, file: int, offset: int, size: int) -> None:
        while offset < size and not self._cancelled():
            data = os.pread(file, min(CHUNK, size - offset), offset)
            if not data:
                break  # cut off meanwhile
            after = offset + len(data)
            self._emit({"file": name, "offset": offset, "next": after}, data)
            self.offsets[name] = offset = after

    def _send_lines(self, name: str, found: list[lines.Line]) -> None:
        if found:
            at = [offset for offset, _ in found]
            after = at[-1] + len(found[-1][1])
            body = b"".join(line for _, line in found)
            self._emit({"file": name, "offset": at[0], "next": after, "at": at}, body)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
