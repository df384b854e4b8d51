"""What a process of ours may have here, and how much of it is in use."""

from __future__ import annotations

import glob
import os
import resource

from . import facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = {"nofile": "RLIMIT_NOFILE", "memlock": "RLIMIT_MEMLOCK", "nproc": "RLIMIT_NPROC"}
# Bits of CapEff: who has them is not held to that limit.
CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 1 << 14, 1 << 21, 1 << 24
# Version 1 says "no limit" by a number that no machine has.
UNREAL = 1 << 60


def own() -> dict[str, Any]:
    """Return soft and hard limits; None is no limit. The agent has raised what it may."""
    may = capabilities()
    found: dict[str, Any] = {}
    for name, constant in NAMES.items():
        pair = resource.getrlimit(getattr(resource, constant))
        found[name] = [None if value == resource.RLIM_INFINITY else value for value in pair]
    if may & CAP_IPC_LOCK:
        found["memlock"] = [None, None]
    if may & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE) or os.getuid() == 0:
        found["nproc"] = [None, None]
    return found


def capabilities() -> int:
    for line in facts.read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def threads() -> int:
    """Count what the limit on processes counts: every thread of this user."""
    user, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat("/proc/" + name).st_uid == user:
                told = facts.read("/proc/%s/stat" % name)
                count += int(told[told.rindex(")") + 2 :].split()[17])
        except (OSError, ValueError):
            continue  # it has ended
    return count


def memory() -> dict[str, int]:
    """Return how much there is, and how much of it is to be had, in bytes."""
    found = {}
    for line in facts.read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(value.split()[0]) << 10
    return {"total": found["MemTotal"], "available": found["MemAvailable"]}


def groups(
    controller: str, top: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup"
) -> list[list[int]]:
    """List [limit, in use] of every control group around us that has a limit, in order."""
    try:
        lines = facts.read(own).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        # Version 2 has no controllers in its line, and stands at the top.
        base = top + ("/" + controller if controllers else "")
        for depth in range(len(parts) + 1):
            folder = "/".join([base, *parts[:depth]])
            try:
                found.append(READ[controller](folder, bool(controllers)))
            except (OSError, ValueError):
                continue  # no such file at the top or in a container; "max" is no number
    return [pair for pair in found if pair[0] < UNREAL]


def pids_in(folder: str, first: bool) -> list[int]:
    names = ("/pids.max", "/pids.current")
    return [int(facts.read(folder + name)) for name in names]


def memory_in(folder: str, first: bool) -> list[int]:
    """Count what cannot be had back: the cache of files gives way to whoever needs the room."""
    v1, v2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
    limit, used = (int(facts.read(folder + "/" + name)) for name in (v1 if first else v2))
    before = "total_" if first else ""
    for line in facts.read(folder + "/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in (before + "inactive_file", before + "active_file"):
            used -= int(value)
    return [limit, max(0, used)]


READ = {"pids": pids_in, "memory": memory_in}


def infiniband(top: str = "/sys/class/infiniband") -> list[str]:
    """Name the adapters that have a port which is up."""
    up = []
    for device in sorted(glob.glob(top + "/*")):
        for state in glob.glob(device + "/ports/*/state"):
            try:
                if "ACTIVE" in facts.read(state):
                    up.append(os.path.basename(device))
                    break
            except OSError:
                continue
    return up
