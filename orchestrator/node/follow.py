"""Send a run's files as they grow: the journal, torchrun's output, every worker's two streams.

The reader keeps the cursor (file, offset); nothing is kept here. What is new is sent every PULSE,
so that many short lines make few packets. Where nothing is new for a while it is looked less often;
and which files there are, and what earlier rounds still write, is looked at once in a LOOK, and
whenever the journal tells of something.
"""

from __future__ import annotations

import contextlib
import os
import time

from . import outputs, processes, record, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

PULSE = 0.03
# So long after the last line a job may be about to write the next; then the pulse slows down.
TALKING, SLOWER, SLOWEST = 5.0, 1.5, 0.3
CHUNK = 1 << 18
# How often a run is looked at that says nothing of its end: its supervisor may be dead.
LOOK = 1.0


def launch(
    call: Call,
    folder: str,
    cursors: dict[str, int],
    **spec: Any,  # noqa: ANN401  see runs.start
) -> dict[str, Any]:
    """Start a run, if that is still to be done, and follow it."""
    runs.start(call, folder, **spec)
    return follow(call, folder, cursors)


def follow(call: Call, folder: str, cursors: dict[str, int]) -> dict[str, Any]:
    """Emit {"file", "offset"} with the bytes there, until the run has ended and all is sent.

    {"caught_up": true} comes when all that was there at the beginning is sent, after {"unstarted":
    true} where nothing was; {"unattended": true} when its supervisor is found dead. Such a run ends
    when none of its processes is left.
    """
    offsets = dict(cursors)
    open_files: dict[str, int] = {}
    end = End(folder)
    files = Files(folder, open_files)
    pace = Pace(time.monotonic())
    caught_up = unattended = False
    try:
        while not call.cancelled.is_set():
            # First the journal is looked at, then the logs, then both are sent as far as seen, the
            # logs first: whatever the journal tells of, the lines written before it go ahead of it.
            ended = end.reached(open_files.get(record.JOURNAL))
            journal = seen(folder, [record.JOURNAL], open_files)
            told = journal.get(record.JOURNAL, 0) > offsets.get(record.JOURNAL, 0)
            logs = files.look(every=ended or told)
            end.learn()
            grown = send(call, logs, open_files, offsets)
            send(call, journal, open_files, offsets)
            if not caught_up:
                caught_up = True
                if end.state in ("starting", "setting-up"):
                    call.emit({"unstarted": True})
                call.emit({"caught_up": True})
            if end.state == "lost" and not unattended and not ended:
                unattended = True
                call.emit({"unattended": True})
            if ended:
                break
            call.cancelled.wait(pace.next(time.monotonic(), grown=grown or told))
    finally:
        for descriptor in open_files.values():
            os.close(descriptor)
    return {"offsets": offsets, "state": end.state}


class End:
    """Whether a run has ended, by its own last word; else by what is left of it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.state = "running"
        self._record: dict[str, Any] = {}
        self._looked = float("-inf")
        self._gone = False  # when its keepers and all that they kept were looked for
        self._told = -1  # how long the journal was, when its last line was no end

    def reached(self, journal: int | None) -> bool:
        """Look at the journal, which is held open: its folder may have been removed meanwhile."""
        if journal is not None and self._last_word(journal):
            self.state = "ended"
            return True
        if time.monotonic() - self._looked < LOOK:
            return False
        self._looked = time.monotonic()
        self.state = record.state_of(self.folder)
        if self.state in ("absent", "unreadable"):
            return self._is_gone()
        self._read()
        if self.state == "lost":
            cookie, since = self._record.get("cookie"), self._record.get("since") or 0
            gone, self._gone = self._gone, not (cookie and processes.members(cookie, since=since))
            # Who has just ended it is about to write its last word: another look is his.
            return gone and self._gone
        if self.state == "ended":
            return self._is_gone()  # its last line comes right after the record
        return self.state in ("rebooted", "elsewhere")

    def learn(self) -> None:
        """Know who keeps the run before anything of it is sent.

        Its folder may be removed at any time, perhaps by a worker that waits for its line to come.
        """
        if not self._record.get("supervisor"):
            self._read()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it could be read a moment ago
            self._record = record.read(self.folder, record.RUN) or self._record

    def _is_gone(self) -> bool:
        known = self._record
        return not any(record.is_alive(known.get(who)) for who in ("supervisor", "guard"))

    def _last_word(self, journal: int) -> bool:
        try:
            size = os.fstat(journal).st_size
        except OSError:
            return False
        if size == self._told:
            return False
        self._told = size
        return record.last_entry(journal).get("event") == "ended"


class Files:
    """The files that workers write to: those of the last round closely, the others now and then."""

    def __init__(self, folder: str, open_files: dict[str, int]) -> None:
        self._folder = folder
        self._open = open_files
        self._close: list[str] = []
        self._looked = float("-inf")

    def look(self, *, every: bool) -> dict[str, int]:
        """Return their sizes; of `every` one there is, if that is wanted or it is time to."""
        now = time.monotonic()
        if not every and now - self._looked < LOOK:
            return seen(self._folder, self._close, self._open)
        self._looked = now
        known = [name for name in self._open if name != record.JOURNAL]
        sizes = seen(self._folder, [*known, *outputs.names(self._folder)], self._open)
        last = max(map(outputs.turn_of, sizes), default=0)
        self._close = [name for name in sizes if outputs.turn_of(name) in (outputs.NO_TURN, last)]
        return sizes


class Pace:
    """How long to wait before the next look; `now` is of a clock that nobody sets."""

    def __init__(self, now: float) -> None:
        self._pause = PULSE
        self._grew = now

    def next(self, now: float, *, grown: bool) -> float:
        if grown:
            self._grew = now
        talks = now - self._grew < TALKING
        self._pause = PULSE if talks else min(SLOWEST, self._pause * SLOWER)
        return self._pause


def seen(folder: str, names: list[str], open_files: dict[str, int]) -> dict[str, int]:
    """Return the sizes of the files by now; those that are new are opened."""
    sizes = {}
    for name in names:
        try:
            if name not in open_files:
                # Held open: a file that is removed, or written anew, is still read to its end.
                open_files[name] = record.reading(os.path.join(folder, name), os.O_RDONLY)
            sizes[name] = os.fstat(open_files[name]).st_size
        except OSError:
            # Not there yet. Or a file server has lost it: that is no matter of the run's.
            if name in open_files:
                os.close(open_files.pop(name))
    return sizes


def send(
    call: Call, sizes: dict[str, int], open_files: dict[str, int], offsets: dict[str, int]
) -> bool:
    """Send the files as far as they were seen, in turns, lest a long one hold up the others.

    Return whether there was anything to send.
    """
    behind, grown = sizes, False
    while behind and not call.cancelled.is_set():
        left = {}
        for name, size in behind.items():
            offset = offsets.get(name, 0)
            if offset >= size:
                continue
            try:
                data = os.pread(open_files[name], min(CHUNK, size - offset), offset)
            except OSError:
                continue  # of a file server's; the next look tries again
            if data:
                call.emit({"file": name, "offset": offset}, data)
                offsets[name] = offset + len(data)
                left[name], grown = size, True
        behind = left
    return grown
