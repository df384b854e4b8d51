"""Send a run's files as they grow: the journal, torchrun's output, every worker's two streams.

The reader keeps the cursor (file, offset); nothing is kept here. What is new is sent every PULSE,
so that many short lines make few packets.
"""

from __future__ import annotations

import os
import time

from . import runs, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

PULSE = 0.03
CHUNK = 1 << 18
LOGS = "worker-logs"


def launch(call: Call, folder: str, **spec: Any) -> dict[str, int]:  # noqa: ANN401  see runs.start
    """Start a run and follow it from its beginning."""
    runs.start(call, folder, **spec)
    return follow(call, folder, {})


def follow(call: Call, folder: str, cursors: dict[str, int]) -> dict[str, int]:
    """Emit {"file", "offset"} with the bytes there, until the run has ended and all is sent.

    A run whose last word could not be written, on a full disk or in a folder that somebody has
    removed, ends as well: its supervisor was ours.
    """
    offsets = dict(cursors)
    open_files: dict[str, int] = {}
    try:
        while not call.cancelled.is_set():
            # First the journal is looked at, then the logs, then both are sent as far as seen, the
            # logs first: whatever the journal tells of, the lines written before it go ahead of it.
            ended = last_word(folder) or runs.over(folder)
            journal = seen(folder, [supervisor.JOURNAL], open_files)
            known = [name for name in open_files if name != supervisor.JOURNAL]
            logs = seen(folder, [*known, *names(folder)], open_files)
            send(call, logs, open_files, offsets)
            send(call, journal, open_files, offsets)
            if ended:
                break
            time.sleep(PULSE)
    finally:
        for descriptor in open_files.values():
            os.close(descriptor)
    return offsets


def last_word(folder: str) -> bool:
    """Whether the journal's last line is the end: the exit record is renamed just before it."""
    if not os.path.exists(os.path.join(folder, supervisor.EXIT_RECORD)):
        return False
    return supervisor.last_event(folder) == "ended"


def names(folder: str) -> list[str]:
    outputs = (supervisor.TORCHRUN, supervisor.SETUP)
    found = [name + end for name in outputs for end in (".out", ".err")]
    logs = os.path.join(folder, LOGS)
    for turn in listed(logs):
        files = listed(os.path.join(logs, turn)) if turn.isdigit() else []
        found += ["%s/%s/%s" % (LOGS, turn, name) for name in files]
    return [name for name in found if name.endswith((".out", ".err"))]


def listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # made or removed at this moment; the next look sees it


def seen(folder: str, names: list[str], open_files: dict[str, int]) -> dict[str, int]:
    """Return the sizes of the files by now; those that are new are opened."""
    for name in names:
        if name not in open_files:
            try:
                # Held open: a file that is removed, or written anew, is still read to its end.
                flags = os.O_RDONLY | os.O_NOFOLLOW
                open_files[name] = os.open(os.path.join(folder, name), flags)
            except OSError:
                continue
    return {name: os.fstat(open_files[name]).st_size for name in names if name in open_files}


def send(
    call: Call, sizes: dict[str, int], open_files: dict[str, int], offsets: dict[str, int]
) -> None:
    """Send the files as far as they were seen, in turns, lest a long one hold up the others."""
    behind = sizes
    while behind and not call.cancelled.is_set():
        left = {}
        for name, size in behind.items():
            offset = offsets.get(name, 0)
            if offset >= size:
                continue
            data = os.pread(open_files[name], min(CHUNK, size - offset), offset)
            if data:
                call.emit({"file": name, "offset": offset}, data)
                offsets[name] = offset + len(data)
                left[name] = size
        behind = left
