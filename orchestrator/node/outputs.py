"""The files that a run's processes write to, by their names in its folder."""

from __future__ import annotations

import os

# How a command's own output is called: torchrun's, or a setup command's.
TORCHRUN, SETUP = "torchrun", "setup"
LOGS = "worker-logs"
NO_TURN = -1


def names(folder: str) -> list[str]:
    found = [name + end for name in (TORCHRUN, SETUP) for end in (".out", ".err")]
    logs = os.path.join(folder, LOGS)
    for turn in listed(logs):
        files = listed(os.path.join(logs, turn)) if turn.isdecimal() else []
        found += ["%s/%s/%s" % (LOGS, turn, name) for name in files]
    return [name for name in found if name.endswith((".out", ".err"))]


def turn_of(name: str) -> int:
    """Return of which round a file is; NO_TURN where it is of none, as torchrun's own."""
    return int(name.split("/")[1]) if name.startswith(LOGS + "/") else NO_TURN


def listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # made or removed at this moment; the next look sees it


def sizes(folder: str) -> dict[str, int]:
    found = {}
    for name in names(folder):
        try:
            found[name] = os.lstat(os.path.join(folder, name)).st_size
        except OSError:
            continue
    return found
