"""Know the processes of a run, and end them.

Who belongs to a run: every descendant of its supervisor, which is a child subreaper (so an orphan
becomes its child, whatever session it made for itself), and whoever carries the run's cookie in its
environment (which finds them when the supervisor is dead). Assumptions, numbered:
1. A pid is reused only after its process was reaped: an unreaped child of ours is safe to signal by
   pid; anything else is compared by start time, and held by a pidfd meanwhile where there is one.
2. A stopped process cannot fork. So: stop everything until nothing new turns up, then kill.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

COOKIE = "DDP_ORCH_COOKIE"
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Process:
    """One process, known by pid and start time."""

    def __init__(self, pid: int) -> None:
        with open("/proc/%d/stat" % pid, "rb") as file:
            text = file.read()
        # The name in brackets may hold brackets and blanks itself.
        fields = text[text.rindex(b")") + 2 :].split()
        self.pid = pid
        self.name = text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "replace")
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.threads = int(fields[17])
        self.start = int(fields[19])
        # What waitpid() would tell the parent; 0 unless it is a zombie (or may not be read).
        self.status = int(fields[49])

    @property
    def dead(self) -> bool:
        # A leader that ended before its other threads is shown as a zombie, but lives.
        return self.state in "ZX" and self.threads <= 1


def find(pid: int) -> Process | None:
    try:
        return Process(pid)
    except (OSError, ValueError):  # gone, perhaps between open and read
        return None


def everyone() -> dict[int, Process]:
    found = (find(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process}


def environment(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; {} when it may not be read or is gone."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            pairs = file.read().split(b"\0")
    except OSError:
        return {}
    split = (pair.decode("utf-8", "surrogateescape").partition("=") for pair in pairs)
    return {name: value for name, equals, value in split if equals}


def children(pid: int) -> list[int]:
    """Return the pids of its children; without CONFIG_PROC_CHILDREN by looking at everyone."""
    try:
        pids: list[int] = []
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:
                pids += map(int, file.read().split())
    except FileNotFoundError:
        if not find(pid):
            return []
        return [process.pid for process in everyone().values() if process.parent == pid]
    except ProcessLookupError:
        return []
    return pids


def members(cookie: str, supervisor: int = 0) -> list[Process]:
    """List the living: descendants of the supervisor, bearers of the cookie, and theirs."""
    snapshot = everyone()
    offspring: dict[int, list[int]] = {}
    for process in snapshot.values():
        offspring.setdefault(process.parent, []).append(process.pid)
    todo = list(offspring.get(supervisor, ())) if supervisor else []
    todo += [pid for pid in snapshot if environment(pid).get(COOKIE) == cookie]
    never = {1, os.getpid(), supervisor}
    found: dict[int, Process] = {}
    while todo:
        pid = todo.pop()
        if pid in snapshot and pid not in found and pid not in never:
            found[pid] = snapshot[pid]
            todo += offspring.get(pid, ())
    return [process for process in found.values() if not process.dead]


def send(process: Process, number: int) -> bool:
    """Signal a process unless its pid has become another's; return whether that was possible."""
    pidfd = pidfd_open(process.pid)
    try:
        now = find(process.pid)
        if now and now.start == process.start:
            if sys.platform == "linux" and pidfd >= 0:
                signal.pidfd_send_signal(pidfd, number)
            else:
                os.kill(process.pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return True


def pidfd_open(pid: int) -> int:
    """Return -1 where Python (before 3.9) or the kernel (before 5.3) has none."""
    try:
        if sys.platform == "linux":
            return os.pidfd_open(pid)
    except (AttributeError, OSError):
        pass
    return -1


def end_all(
    cookie: str,
    supervisor: int = 0,
    reap: Callable[[], bool] = lambda: True,
    timeout: float = 10.0,
) -> list[dict[str, Any]]:
    """Stop, then kill every member until none is left. Return those that could not be ended.

    With `supervisor`, the caller is it and gives `reap`, which collects what has ended and returns
    True when no child is left at all: the proof.
    """
    end = time.monotonic() + timeout
    stopped: set[tuple[int, int]] = set()
    quiet = 0
    while True:
        reaped = reap()
        found = members(cookie, supervisor)
        new = [process for process in found if (process.pid, process.start) not in stopped]
        # A fork bomb makes new ones faster than we look; then killing must begin all the same.
        if new and len(stopped) < 10_000:
            for process in new:
                send(process, signal.SIGSTOP)
                stopped.add((process.pid, process.start))
            continue
        for process in found:
            send(process, signal.SIGKILL)
        quiet = 0 if found or not reaped else quiet + 1
        if quiet >= 2:
            return []
        if time.monotonic() > end:
            return [
                {"pid": p.pid, "name": p.name, "state": p.state}
                for p in members(cookie, supervisor)
            ]
        time.sleep(0.01)
