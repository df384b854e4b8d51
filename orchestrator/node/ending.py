"""End the processes of a run, whatever they do to get away, and prove it.

First everything is stopped until nobody new turns up, then killed, until none is left. Assumptions:
1. A stopped process cannot fork: a fork that is under way when the signal comes is undone and tried
   again later, or its child was there to be signalled. To a group a signal comes at once.
2. A subreaper has no child left if and only if none of its descendants lives: what waitpid() says
   is a proof, whatever /proc shows. What carries the run's marks and does not descend from us is
   ended all the same.
3. Without a supervisor there is /proc alone, and reading it takes time, in which somebody may be
   born and pass the run on. So one of the empty looks must be one during which nobody was born:
   who lives at its end lived all the while, and was looked at. The kernel gives numbers in turn:
   two new ones of ours that follow each other say so. A host where others are born all the time
   gets many looks instead, each of which sees the newest first.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

# How often nobody must have been seen, and how often where somebody is born at every look.
LOOKS, MANY_LOOKS = 3, 30
PAUSE = 0.01
# Who makes new processes faster than they are stopped is killed all the same.
MOST_STOPPED = 10_000


def end_all(
    cookie: str,
    supervisor: int = 0,
    reap: Callable[[], bool] = lambda: True,
    timeout: float = 10.0,
    since: int = 0,
    never: Iterable[int] = (),
) -> list[dict[str, Any]]:
    """Stop, then kill every member until none is left. Return those that could not be ended.

    With `supervisor`, the caller is it and gives `reap`, which collects what has ended and returns
    True when no child is left at all: the proof. `since` and `never` as in processes.members.
    """
    assert supervisor in (0, os.getpid())
    begin = time.monotonic()
    never = tuple(never)
    stopped: set[tuple[int, int]] = set()
    looks, unbroken = 0, False
    while True:
        alone = reap()
        before = 0 if supervisor else next_number()
        # Towards the end, who still makes new processes is killed as he is.
        hurry = time.monotonic() - begin > timeout / 2 or len(stopped) > MOST_STOPPED
        number = signal.SIGKILL if hurry else signal.SIGSTOP
        census = processes.Census(cookie, supervisor, since, never, number)
        found = census.members
        late = time.monotonic() - begin > timeout
        if alone and not found:
            looks += 1
            unbroken = unbroken or (before > 0 and next_number() == before + 1)
            if supervisor or (looks >= LOOKS and unbroken) or looks >= MANY_LOOKS:
                return []
            continue
        looks, unbroken = 0, False
        if late and not found:
            return [unseen(pid) for pid in processes.children(supervisor)] or [unseen(0)]
        new = [p for p in found if (p.pid, p.start) not in stopped]
        if new and not hurry:
            census.signal_groups(signal.SIGSTOP)
            for process in new:
                processes.send(process, signal.SIGSTOP)
                stopped.add((process.pid, process.start))
            continue
        census.signal_groups(signal.SIGKILL)
        refused = {process.pid: processes.send(process, signal.SIGKILL) for process in found}
        if late:
            return [named(process, refused[process.pid], timeout) for process in found]
        time.sleep(PAUSE)


def next_number() -> int:
    """Return the number the kernel has for who is born now: a thread of ours; 0 if it has none."""
    thread = threading.Thread(target=int, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # as many as this user may have
        return 0
    thread.join()
    return thread.native_id or 0


def named(process: processes.Process, refused: int, timeout: float) -> dict[str, Any]:
    """Say of one that lives on who it is, and why."""
    try:
        uid = os.stat("/proc/%d" % process.pid).st_uid
    except OSError:
        uid = -1
    if refused == errno.EPERM:
        why = "belongs to root" if uid == 0 else "belongs to uid %d" % uid
    elif refused:
        why = "cannot be signalled: %s" % os.strerror(refused)
    elif is_frozen(process.pid):
        why = "is frozen by a cgroup"
    elif process.state == "D":
        why = "is in uninterruptible sleep (D)"
    else:
        why = "did not end in %g s" % timeout
    return {
        "pid": process.pid,
        "start": process.start,
        "name": process.name,
        "state": process.state,
        "uid": uid,
        "why": why,
    }


def unseen(pid: int) -> dict[str, Any]:
    why = "is not shown in /proc"
    return {"pid": pid, "start": 0, "name": "?", "state": "?", "uid": -1, "why": why}


def is_frozen(pid: int) -> bool:
    """Whether a freezer of cgroup version 1 holds it, until it is thawed; version 2's would not."""
    try:
        lines = processes.read("/proc/%d/cgroup" % pid).decode().splitlines()
        groups = [line.split(":", 2) for line in lines]
        path = next(path for _, kinds, path in groups if "freezer" in kinds.split(","))
        mount = next(m[1] for m in mounts() if m[2] == "cgroup" and "freezer" in m[3].split(","))
        return processes.read(mount + path + "/freezer.state").strip() != b"THAWED"
    except (OSError, StopIteration):
        return False


def mounts() -> list[list[str]]:
    """Return each mount's device, folder, type and options, and two numbers."""
    text = processes.read("/proc/self/mounts").decode("utf-8", "surrogateescape")
    return [line.split(" ") for line in text.splitlines()]


def hidden_by() -> str:
    """Say what keeps this user from seeing every process in /proc; "" when nothing does."""
    proc = [mount[3].split(",") for mount in mounts() if mount[1:3] == ["/proc", "proc"]]
    if os.geteuid() == 0 or not proc:
        return ""
    options = dict(option.partition("=")[::2] for option in proc[-1])
    hides = options.get("hidepid", "off")
    if hides in ("0", "off"):
        return ""
    # One group may be trusted to see them; root's, unless another is given.
    trusted = int(options.get("gid", 0)) in {os.getegid(), *os.getgroups()}
    if trusted and hides not in ("4", "ptraceable"):
        return ""
    return "/proc is mounted with hidepid=%s" % hides
