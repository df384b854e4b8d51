"""What happens to a run, a JSON line each; and its last word, also when the disk is full.

Followers read it by offset: nothing needs to be asked, and nothing is lost when nobody reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from . import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

# Given back at the end, so that a full disk still has room for the last word.
SPARE, SPARE_BYTES = ".spare", 1 << 16
# Of the exit record, what the journal does not repeat.
APART = ("version", "time", "proven")
LOST = "its supervisor was killed as it ended; the exit code is not known"


class Journal:
    def __init__(self, folder: str) -> None:
        self.unwritten = b""
        self._folder = folder
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.open(record.journal_of(folder), flags, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self.unwritten = b"\n"  # who wrote it was killed at half a line, and it stays one

    def note(self, event: str, **more: Any) -> None:  # noqa: ANN401  JSON
        line = json.dumps(dict({"event": event, "time": time.time()}, **more)) + "\n"
        self.unwritten += line.encode()
        self.write()

    def write(self) -> None:
        """Write what is noted. A full disk ends no job: what it refuses is tried again later."""
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[os.write(self._file, self.unwritten) :]
        except OSError:
            return

    def close(self) -> None:
        os.close(self._file)

    def write_exit(
        self,
        status: int | None,
        reason: str,
        survivors: Iterable[dict[str, Any]] = (),
        leftovers: int = 0,
        *,
        proven: bool = False,
    ) -> None:
        """Write the last word: the exit record, then the journal's line.

        `proven`: it comes from a subreaper, who knows that nobody else is left.
        """
        code = number = None
        if status is not None:
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
            else:
                code = os.WEXITSTATUS(status)
        ended = {
            "code": code,
            "signal": number,
            "reason": reason,
            "leftovers": leftovers,
            "survivors": list(survivors),
        }
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, SPARE))
        self.write()
        try:
            whole = dict(ended, version=record.VERSION, time=time.time(), proven=proven)
            record.write(self._folder, record.EXIT, whole)
        except OSError as error:
            with contextlib.suppress(OSError):  # the log may be on the same disk
                sys.stderr.write("no exit record: %s\n" % error)
        self.note("ended", **ended)


def save_room(folder: str) -> None:
    """Keep what the last word takes, for later."""
    with open(os.path.join(folder, SPARE), "wb", opener=record.private) as file:
        file.write(bytes(SPARE_BYTES))


def last_word(folder: str) -> dict[str, Any]:
    """Return the exit record as the journal has it."""
    try:
        found = record.read(folder, record.EXIT) or {}
    except (OSError, ValueError):
        found = {}
    whole: dict[str, Any] = {"code": None, "signal": None, "reason": LOST}
    whole.update(leftovers=0, survivors=[])
    whole.update(found)
    return {name: value for name, value in whole.items() if name not in APART}
