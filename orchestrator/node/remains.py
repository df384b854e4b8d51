"""What lives of a run without a record: its folder is gone, or has nothing but a tombstone.

Somebody has removed it, or the home it was in is not mounted any more. Its processes tell of it all
the same: supervisor and guard have their log in it, open, and all of the job have its name in their
environment, and the run's cookie.
"""

from __future__ import annotations

import os
import re
from functools import partial

from . import facts, jobs, looking, processes, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

RUN_DIR = "DDP_ORCH_RUN_DIR"
# A file server that does not answer keeps only its own runs from being told.
READING = 6.0
# A node's folder, or a setup command's in it, and a file there.
PLACE = re.compile(r"(.*/runs/[a-z0-9][a-z0-9-]{0,63}/[0-9]{1,5})/.*", re.DOTALL)


class Remains:
    """Those who are of a folder, whatever is in it."""

    def __init__(self, folder: str, look: looking.Look) -> None:
        keepers = {pid: process for pid, process, place in keepers_of(look) if is_at(place, folder)}
        # A supervisor before its guard, which would take its place.
        self._keepers = sorted(keepers.values(), key=lambda each: each.parent not in keepers)
        self.cookies = {
            env[processes.COOKIE]
            for pid, env in look.env.items()
            if processes.COOKIE in env
            and (env.get(RUN_DIR) == folder or any(p.pid in keepers for p in look.above(pid)))
        }
        self.unread = look.problem
        self.members = [p for cookie in self.cookies for p in processes.members(cookie)]

    def __bool__(self) -> bool:
        return bool(self.members or self.keepers())

    def keepers(self) -> list[processes.Process]:
        """Return supervisors and guards as they are by now, those that live."""
        now = (record.alive([known.pid, known.start]) for known in self._keepers)
        return [process for process in now if process]


def keepers_of(look: looking.Look) -> list[tuple[int, processes.Process, str]]:
    """Return supervisors and guards, and each one's node's folder as the kernel knows it."""
    found = []
    for pid, words in look.words.items():
        if not jobs.is_keeper(words) or look.everyone[pid].dead:
            continue
        try:
            log = PLACE.fullmatch(os.readlink("/proc/%d/fd/2" % pid))
        except OSError:
            continue  # gone
        if log:
            found.append((pid, look.everyone[pid], log.group(1)))
    return found


def is_at(place: str, folder: str) -> bool:
    """Whether the kernel means that folder.

    It knows no symlinks, and of what is not mounted any more only how it ended.
    """
    return folder.endswith(place) or place == os.path.realpath(folder)


def has_record(folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, record.RUN))


def of(folder: str) -> Remains:
    return Remains(folder, looking.Look())


def find(call: Call | None) -> list[dict[str, Any]]:
    """List what lives here without a record: by folder, and how many each."""
    look = looking.Look()
    folders = {env[RUN_DIR] for env in look.env.values() if RUN_DIR in env}
    for _, _, place in keepers_of(look):
        if not any(folder.endswith(place) for folder in folders):
            folders.add(place)
    asked = {each: facts.within(READING, partial(unrecorded, each, look)) for each in folders}
    told = {folder: wait() for folder, wait in asked.items()}
    counts = {folder: count for folder, count in told.items() if isinstance(count, int) and count}
    return [{"folder": folder, "processes": counts[folder]} for folder in sorted(counts)]


def unrecorded(folder: str, look: looking.Look) -> int:
    """Count those who live of a folder, where that has no record."""
    if has_record(folder):
        return 0
    left = Remains(folder, look)
    return len(left.members) + len(left.keepers())
