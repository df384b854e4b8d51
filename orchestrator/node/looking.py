"""One look over /proc that nobody in it can hold up: who is there, and what is known of our own.

What a process was started with is in its memory, and reading it waits for whoever holds that: one
whose threads hang in the kernel may keep a reader for ever. So a thread reads, and one that hangs
is left behind with the process at which it hangs.
"""

from __future__ import annotations

import os
import threading
import time

from . import jobs, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

# All of it, and one process, in seconds.
LOOKING, STUCK = 8.0, 1.0
NAMES = (
    *jobs.BY_HAND,
    jobs.ELASTIC,
    processes.COOKIE,
    "DDP_ORCH_RUN",
    "DDP_ORCH_RUN_DIR",
)
# Most processes have none of them, and need not be taken apart.
SIGNS = (b"TORCHELASTIC_RUN_ID=", b"DDP_ORCH_", b"WORLD_SIZE=")


class Look:
    """`everyone` that is shown, and of this user's own their words and what of NAMES they have."""

    def __init__(self) -> None:
        self.everyone: dict[int, processes.Process] = {}
        self.words: dict[int, list[str]] = {}
        self.env: dict[int, dict[str, str]] = {}
        self.others = 0
        self.own: set[int] = set()
        self.unread: list[int] = []
        """Those that could not be read in time."""

        self._user = os.geteuid()
        self._todo = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        deadline = time.monotonic() + LOOKING
        while self._todo and time.monotonic() < deadline:
            self._read_on(deadline)
        self.unread += self._todo

    @property
    def problem(self) -> str:
        """Say who could not be looked at; "" where all could."""
        listed = ", ".join(map(str, self.unread[:5]))
        return (
            "%d processes could not be looked at in time: pid %s" % (len(self.unread), listed)
            if self.unread
            else ""
        )

    def _read_on(self, deadline: float) -> None:
        reader = Reader(self)
        thread = threading.Thread(target=reader.run, args=(self._todo,), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
            with reader.lock:
                now = time.monotonic()
                if thread.is_alive() and (now > deadline or now > reader.since + STUCK):
                    reader.left = True
                    self.unread.append(reader.at)
                    return

    def one(self, pid: int, reader: Reader) -> None:
        process = processes.find(pid)
        if process is None or process.of_kernel:
            return
        folder = "/proc/%d" % pid
        try:
            ours = os.stat(folder).st_uid == self._user
            words = processes.read(folder + "/cmdline")
            signs = processes.read(folder + "/environ") if ours and not process.dead else b""
        except OSError:
            words, signs, ours = b"", b"", False  # gone, or another user's after all
        split = words.decode("utf-8", "replace").rstrip("\0").split("\0")
        env = taken_apart(signs)
        with reader.lock:
            if reader.left:
                return  # nobody waits for it any more
            self.everyone[pid] = process
            if ours:
                self.own.add(pid)
                self.words[pid], self.env[pid] = split, env
            elif jobs.is_launcher(split):
                self.others += 1

    def above(self, pid: int) -> list[processes.Process]:
        return jobs.chain(pid, self.everyone)


class Reader:
    def __init__(self, look: Look) -> None:
        self.look = look
        self.at = 0
        self.since = time.monotonic()
        self.left = False
        self.lock = threading.Lock()

    def run(self, todo: list[int]) -> None:
        while True:
            with self.lock:
                if self.left or not todo:
                    return
                self.at, self.since = todo.pop(), time.monotonic()
            self.look.one(self.at, self)


def taken_apart(environment: bytes) -> dict[str, str]:
    if not any(sign in environment for sign in SIGNS):
        return {}
    text = environment.decode("utf-8", "surrogateescape")
    pairs = (pair.partition("=") for pair in text.split("\0"))
    return {name: value for name, equals, value in pairs if name in NAMES}


# ---- ports ----


def listening() -> dict[str, int]:
    """Return the ports on which somebody listens, by their sockets' inodes."""
    found: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        # Column 1 is address:port in hexadecimal, column 3 the state (0A: listening), 9 the inode.
        found.update((r[9], int(r[1].rpartition(":")[2], 16)) for r in rows if r[3] == "0A")
    return found


def ports_of(pid: int, ports: dict[str, int]) -> list[int]:
    return sorted({ports[inode] for inode in sockets(pid) if inode in ports})


def sockets(pid: int) -> Iterator[str]:
    folder = "/proc/%d/fd" % pid
    try:
        numbers = os.listdir(folder)
    except OSError:
        return
    for number in numbers:
        try:
            link = os.readlink(folder + "/" + number)
        except OSError:
            continue
        if link.startswith("socket:["):
            yield link[8:-1]
