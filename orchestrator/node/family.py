"""Processes that are to end, with all that comes of them, where no supervisor is above them.

Whoever begins a session of his own and leaves his parent between two looks gets away from here: he
is found again by what he is, as the others were. Assumptions are those of processes.py.
"""

from __future__ import annotations

import signal
import time

from . import ending, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

# Who is killed is given so long; who makes new processes faster than they are stopped, half.
DYING = 10.0
PULSE = 0.05


class Family:
    """Processes by pid and start, with those that came of them since."""

    def __init__(self, never: Iterable[int]) -> None:
        self.known: dict[tuple[int, int], processes.Process] = {}
        self.never = set(never)

    def take(self, pid: int, start: int) -> None:
        process = processes.find(pid)
        if process and process.start == start and not process.dead and pid not in self.never:
            self.known[pid, start] = process

    def living(self) -> list[processes.Process]:
        found = (processes.find(pid) for pid, _ in self.known)
        return [p for p in found if p and (p.pid, p.start) in self.known and not p.dead]

    def roots(self) -> list[processes.Process]:
        """Return those whose parent is none of them: torchrun tells its workers itself."""
        living = self.living()
        pids = {process.pid for process in living}
        return [process for process in living if process.parent not in pids]

    def grow(self) -> None:
        """Look for children, and for who is in a session that one of them leads."""
        everyone = processes.everyone()
        offspring: dict[int, list[processes.Process]] = {}
        for process in everyone.values():
            offspring.setdefault(process.parent, []).append(process)
            if process.session not in (0, 1, process.pid):
                offspring.setdefault(process.session, []).append(process)
        # Of a leader that has ended his session's number is left, and not given to another while
        # anyone is in it. Who else has that number by now is none of ours.
        todo = [
            pid
            for (pid, start), known in self.known.items()
            if (everyone[pid].start == start if pid in everyone else known.session == pid)
        ]
        while todo:
            for process in offspring.get(todo.pop(), ()):
                who = process.pid, process.start
                if who in self.known or process.pid in self.never or process.of_kernel:
                    continue
                if not process.dead:
                    self.known[who] = process
                    todo.append(process.pid)

    def kill(self) -> list[dict[str, Any]]:
        """Stop all until nobody new turns up, then kill them; return those that live on."""
        begin = time.monotonic()
        stopped: set[tuple[int, int]] = set()
        while True:
            self.grow()
            living = self.living()
            late = time.monotonic() - begin
            if not living:
                return []
            new = [p for p in living if (p.pid, p.start) not in stopped]
            if new and late < DYING / 2:
                for process in new:
                    processes.send(process, signal.SIGSTOP)
                    stopped.add((process.pid, process.start))
                continue
            refused = {p.pid: processes.send(p, signal.SIGKILL) for p in living}
            if late > DYING:
                return [ending.named(p, refused[p.pid], DYING) for p in living]
            time.sleep(PULSE)
