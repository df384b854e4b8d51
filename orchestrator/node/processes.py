"""Know the processes of a run, and signal them without ever hitting another's.

Who belongs to a run: every descendant of its supervisor, which is a child subreaper (so an orphan
becomes its child, whatever session it made for itself); whoever carries the run's cookie in its
environment, or the run's mark among its limits; and the descendants of those. The last three need
no living supervisor. Assumptions, numbered:
1. A pid is reused only after its process was reaped: an unreaped child of ours is safe to signal by
   pid; anything else is compared by start time, and held by a pidfd meanwhile where there is one.
2. RLIMIT_RTTIME limits the real-time scheduler alone, and in microseconds: 2**52 of them are 142
   years. So it may be any such number, and the number may say whose process it is. It survives
   fork, exec, setsid, `env -i`, a new name and a new uid, and everyone may read it in
   /proc/PID/limits, where an environment is for its own user's eyes.
3. A process group's number is not given to a new process while anyone is in that group or session.
   Nobody joins a session but by being born in it, nor a group but one of its own session.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

COOKIE = "DDP_ORCH_COOKIE"
PR_SET_CHILD_SUBREAPER = 36
# The same number on every architecture; the resource module of a Python may lack its name.
RLIMIT_RTTIME = 15
# Of /proc/PID/stat.
KERNEL_THREAD = 0x00200000
# System calls this new have one number everywhere; Python has names for them from 3.9 on.
PIDFD_SEND_SIGNAL, PIDFD_OPEN = 424, 434
# An ioctl, since Linux 6.13, and what it may be asked for since 6.15. Its struct begins with what
# is asked for, or was told; in the first 64 bytes, which all know, the status is the last number.
PIDFD_GET_INFO, PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3
PIDFD_INFO = struct.Struct("Q52xi")
LIBC = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    if LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def mark_of(cookie: str) -> int:
    """Return the run's RLIMIT_RTTIME: absurdly large, and nobody else's."""
    return (1 << 52) | int(cookie[:12], 16)


def brand(cookie: str) -> None:
    """Mark this process, and so all that come of it; called between fork and exec."""
    mark = mark_of(cookie)
    try:
        resource.setrlimit(RLIMIT_RTTIME, (mark, mark))
    except (OSError, ValueError):
        return  # this user has a lower limit already; cookie and descent remain


class Process:
    """One process, known by pid and start time."""

    def __init__(self, pid: int) -> None:
        text = read("/proc/%d/stat" % pid)
        # The name in brackets may hold brackets and blanks itself.
        fields = text[text.rindex(b")") + 2 :].split()
        self.pid = pid
        self.name = text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "replace")
        self.state = fields[0].decode()
        self.parent, self.group, self.session = map(int, fields[1:4])
        self.terminal = int(fields[4])  # 0: it has none, or that was closed
        self.of_kernel = bool(int(fields[6]) & KERNEL_THREAD)
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


def read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


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


class Census:
    """The living of a run, and which process groups are theirs alone.

    `at_sight` is a signal for who has the run's mark or cookie, sent before the next one is looked
    at: who forks and ends as fast as he can is not there any more when all have been looked at.
    """

    def __init__(
        self,
        cookie: str,
        supervisor: int = 0,
        since: int = 0,
        never: Iterable[int] = (),
        at_sight: int = 0,
    ) -> None:
        spared = {0, 1, supervisor, *never, *lineage()}
        mark = b" %d " % mark_of(cookie)
        pair = ("%s=%s" % (COOKIE, cookie)).encode()
        snapshot: dict[int, Process] = {}
        offspring: dict[int, list[int]] = {}
        bearers: list[int] = []
        # The newest first, and all of one before the next: who lives for a moment only is seen.
        for pid in sorted((int(n) for n in os.listdir("/proc") if n.isdigit()), reverse=True):
            process = find(pid)
            if process is None or process.of_kernel:
                continue
            try:
                if process.start >= since and bears(pid, mark, pair):
                    bearers.append(pid)
                    if at_sight and pid not in spared:
                        send(process, at_sight)
            except OSError:
                continue
            snapshot[pid] = process
            offspring.setdefault(process.parent, []).append(pid)
        todo = bearers + (offspring.get(supervisor, []) if supervisor else [])
        found: dict[int, Process] = {}
        while todo:
            pid = todo.pop()
            if pid in snapshot and pid not in found and pid not in spared:
                found[pid] = snapshot[pid]
                todo += offspring.get(pid, ())
        self.members = [process for process in found.values() if not process.dead]
        shared = {p.session for p in snapshot.values() if p.pid not in found and not p.dead}
        # 0 is a group of another pid namespace, and would mean our own; 1 would mean everyone.
        self.groups = {
            p.group for p in self.members if min(p.group, p.session) > 1 and p.session not in shared
        }
        self._known = {(process.pid, process.start) for process in found.values()}

    def signal_groups(self, number: int) -> None:
        """Signal those groups, each at once: nobody in them forks his way out meanwhile."""
        for group in self.groups:
            leader = find(group)
            # A leader we do not know: the group has ended, and its number is another's.
            if leader is None or (leader.pid, leader.start) in self._known:
                try:
                    os.killpg(group, number)
                except OSError:
                    continue  # nobody is left in it, or nobody whom we may signal


def lineage() -> Iterable[int]:
    """Yield our own pid and those of whom we come from."""
    process = find(os.getpid())
    while process:
        yield process.pid
        process = find(process.parent)


def bears(pid: int, mark: bytes, pair: bytes) -> bool:
    """Whether a process has the run's mark, or its cookie; OSError when it is gone.

    The limits first: whose threads hang in the kernel may keep readers of its environment waiting.
    """
    if mark in read("/proc/%d/limits" % pid):
        return True
    try:
        return pair in read("/proc/%d/environ" % pid).split(b"\0")
    except OSError:
        return False  # another user's, or its first thread has ended: its limits have to do


def members(
    cookie: str, supervisor: int = 0, since: int = 0, never: Iterable[int] = ()
) -> list[Process]:
    """List the living of a run; `since`: the start of its oldest, if known, makes it quicker.

    Never among them: process 1, ourselves and those we come from, the supervisor, and `never`.
    """
    return Census(cookie, supervisor, since, never).members


def send(process: Process, number: int) -> int:
    """Signal a process unless its pid has become another's; return the errno of a refusal, or 0."""
    pidfd = pidfd_open(process.pid)
    try:
        now = find(process.pid)
        if now is None or now.start != process.start:
            return 0
        if pidfd >= 0:
            refused = LIBC.syscall(PIDFD_SEND_SIGNAL, pidfd, number, None, 0)
            if not refused or ctypes.get_errno() == errno.ESRCH:
                return 0
        os.kill(process.pid, number)  # where there is no pidfd, or a sandbox forbids its use
    except ProcessLookupError:
        return 0
    except OSError as error:
        return error.errno or errno.EPERM
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return 0


def pidfd_open(pid: int) -> int:
    """Return -1 where the kernel (before 5.3) or a sandbox has none to give."""
    return int(LIBC.syscall(PIDFD_OPEN, pid, 0)) if sys.platform == "linux" else -1


def status_of_reaped(pidfd: int) -> int | None:
    """Return how one ended whom somebody else has waited for, as waitpid would have told it.

    None where the kernel (before 6.15) keeps no such thing, or the process is not reaped yet.
    """
    if pidfd < 0:
        return None
    try:
        told = fcntl.ioctl(pidfd, PIDFD_GET_INFO, PIDFD_INFO.pack(PIDFD_INFO_EXIT, 0))
    except OSError:
        return None
    known, status = PIDFD_INFO.unpack(told)
    return int(status) if known & PIDFD_INFO_EXIT else None
