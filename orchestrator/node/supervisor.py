"""Keeps one node of one run: starts torchrun, watches its workers, ends everything, writes it down.

A process of its own, one per run and host, that nobody need be connected to. What happens goes into
the journal, a file of JSON lines that followers read by offset: nothing needs to be asked, nothing
is lost when nobody reads. Above it sits a guard (guard.py), which carries on should it be killed.
SIGTERM: look into stop.json, and stop as it says. SIGINT: stop now, without grace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from . import company, ending, growth, journal, outputs, processes, record, root, workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

TORCHRUN = outputs.TORCHRUN
GRACE = 10.0
# Nothing is waited for that does not wake us; this is for what a full disk did not take.
IDLE, RETRY = 30.0, 1.0
# Whoever ends with his worker, as helpers of Python's do, has so long for it; and how often those
# who stay are looked for.
FAREWELL, LOOK = 1.0, 0.2
CANCELLED, FAILED = 103, 100


class Supervisor:
    def __init__(self, spec: dict[str, Any], guard: int) -> None:
        self.spec = spec
        self.folder: str = spec["folder"]
        # Of whom a setup command is a part: whoever wants its end says so there.
        self.node: str = spec.get("node", self.folder)
        self.cookie: str = spec["cookie"]
        self.grace: float = spec.get("grace", GRACE)
        self.guard = guard
        self.since = 0  # when the run's oldest process began
        self.root: int | None = None
        self.inherited: list[int] | None = None  # its identity, where another one started it
        self.status: int | None = None  # torchrun's, as waitpid gives it
        self.stopping = False
        self.why, self.code = "", FAILED  # of the end, for the others
        self.asked: set[int] = set()  # signals, till they are obeyed
        self.kill_at: float | None = None
        self.bade_farewell = False  # to what workers left in the background
        self.remembered = True
        self.journal = journal.Journal(self.folder)
        self.note = self.journal.note
        self.growth = growth.Growth(self.folder)
        self._wake = -1
        secrets = spec.get("env", {}).get("secrets", {}).values()
        self.workers = workers.Workers(self.note, secrets, spec.get("max_restarts"))
        self.company = company.Company(spec, self.note)
        self.host = "this host"  # as the run calls it, once its record has been read

    # ---- its life ----

    def run(self) -> None:
        """Start torchrun and see it through."""
        self.heed_signals()
        try:
            if self.wish() is None:
                journal.save_room(self.folder)
                # Who we are, first: whoever wants the end knows whom to tell, or is heard below.
                self.remember()
            if self.wish() is not None:
                self.finish("stopped before it started")
                return
            self.root = root.start(self.spec)
        except (OSError, ValueError) as error:
            self.finish(root.why_not(error, self.spec["argv"][0]))
            return
        self.try_to_remember()
        self.note("started", pid=self.root)
        self.company.begin()
        self.see_through()

    def take_over(self) -> None:
        """Carry on where a supervisor was killed: what it had started is our child now."""
        self.heed_signals()
        if record.told_end(self.folder):
            return
        if os.path.lexists(os.path.join(self.folder, record.EXIT)):
            self.note("ended", **journal.last_word(self.folder))  # it died between the two
            return
        told = record.entries(self.folder)
        for entry in told:
            if entry["event"] == "leftovers":
                self.status, self.bade_farewell = entry["status"], True
        self.note("took-over")
        with contextlib.suppress(OSError, ValueError):
            self.inherited = (record.read(self.folder, record.RUN) or {}).get("root")
        self.root = self.inherited[0] if self.inherited else None
        self.try_to_remember()
        self.workers.go_on(told)
        self.go_on_stopping(told)
        self.company.begin(next((e["port"] for e in told if e["event"] == "listening"), 0))
        if self.root is None:
            # Between the start and the record of it: what was started is our child.
            self.finish("its supervisor was killed as it started", self.end_all())
            return
        self.see_through()

    def see_through(self) -> None:
        while not self.over():
            self.obey()
            self.look()
            self.keep_company()
            self.wait()
        self.look()
        self.workers.ending = True
        how = "stopped" if self.stopping else "exited" if self.status is not None else journal.LOST
        well = self.status == 0 and not self.stopping
        left = self.left()
        if well and not self.bade_farewell:
            self.bid_farewell()
        survivors = self.end_all()
        self.look()
        if not self.workers.failed and self.status != 0 and not self.stopping:
            self.workers.note_unseen_failures(os.path.join(self.folder, TORCHRUN + ".err"))
        if not well:
            self.company.tell(self.why or self.what_failed(), self.code)
        self.finish(how, survivors, len(left))
        self.company.leave(well=well)

    def keep_company(self) -> None:
        """Stop at the first bad end on any node; nobody need be attached for that."""
        if self.stopping:
            return
        if self.workers.lost:
            self.stop(self.grace, {"why": self.what_failed(), "exit_code": FAILED})
        elif heard := self.company.heard():
            self.stop(self.grace, heard)

    def what_failed(self) -> str:
        host, status = self.host, self.status
        if self.workers.lost:
            return self.workers.lost % host
        if status is None:
            return "torchrun on %s was lost" % host
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = None if number else os.WEXITSTATUS(status)
        return "torchrun on %s %s" % (host, workers.how(code, number))

    def left(self) -> list[processes.Process]:
        members = processes.members(self.cookie, os.getpid(), self.since)
        return [process for process in members if process.pid != self.root]

    def bid_farewell(self) -> None:
        """Ask what workers left in the background to end, an upload say, and give it the grace."""
        since, patience, grace = time.monotonic(), FAREWELL, self.grace
        while left := self.left():
            if time.monotonic() >= since + patience:
                if self.bade_farewell:
                    return
                self.bade_farewell, since, patience = True, time.monotonic(), grace
                # With torchrun's own status: from here on it is known to nobody else.
                self.note("leftovers", count=len(left), status=self.status)
                for process in left:
                    for number in (signal.SIGTERM, signal.SIGCONT):
                        processes.send(process, number)
            self.look()
            self.sleep([], LOOK)
            self.reap()
            if wanted := self.wanted():
                grace = min(grace, wanted[0])
                patience = min(patience, time.monotonic() - since + grace)

    def end_all(self) -> list[dict[str, Any]]:
        return ending.end_all(self.cookie, os.getpid(), self.reap, since=self.since)

    def over(self) -> bool:
        self.reap()
        late = self.kill_at is not None and time.monotonic() >= self.kill_at
        # A supervisor that was killed after it had reaped torchrun took its exit code along.
        gone = self.inherited is not None and not record.is_alive(self.inherited)
        return late or gone or self.status is not None

    def look(self) -> None:
        if self.spec.get("output", TORCHRUN) == TORCHRUN:
            self.workers.look(self.root if self.status is None else None)
        self.journal.write()
        if not self.remembered:
            self.try_to_remember()
        self.growth.tick(time.monotonic())

    def heed_signals(self) -> None:
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(waker)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Only noted: it may interrupt anything halfway. The wakeup pipe ends the wait. And not
            # ignored: what is started would inherit that.
            signal.signal(number, lambda number, frame: self.asked.add(number))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def wait(self) -> None:
        """Sleep until something may have happened."""
        timeout = RETRY if self.journal.unwritten or not self.remembered else IDLE
        if self.spec.get("output", TORCHRUN) == TORCHRUN:
            timeout = self.workers.look_again_in(timeout)
        timeout = self.growth.timeout(time.monotonic(), timeout)
        if self.kill_at is not None:
            timeout = min(timeout, max(0.0, self.kill_at - time.monotonic()))
        self.sleep(self.workers.fds(), timeout)

    def sleep(self, readable: list[int], timeout: float) -> None:
        ready = self.company.wait([self._wake, *readable], timeout)
        if self._wake in ready:
            os.read(self._wake, 4096)

    def obey(self) -> None:
        if wanted := self.wanted():
            self.stop(*wanted)

    def wanted(self) -> tuple[float, dict[str, Any]] | None:
        """Return how soon somebody wants the end, and what he says; None where nobody asks."""
        asked, self.asked = self.asked, set()
        if not asked & {signal.SIGTERM, signal.SIGINT}:
            return None
        try:
            wanted = self.wish() or {}
        except OSError:
            wanted = {}
        return 0.0 if signal.SIGINT in asked else seconds(wanted, self.grace), wanted

    def wish(self) -> dict[str, Any] | None:
        """Return what stop.json says; None where nobody wants the end."""
        try:
            return record.read(self.node, record.STOP)
        except ValueError:
            return {}  # it makes no sense, but somebody put it there

    def stop(self, grace: float, wanted: dict[str, Any]) -> None:
        if not self.stopping:
            self.stopping = True
            if self.root is not None and self.is_child(self.root):
                # Our unreaped child. Only torchrun is told; it tells its workers.
                for number in (signal.SIGTERM, signal.SIGCONT):
                    os.kill(self.root, number)
            # Noted when it is done: who takes over from here on does not do it again, as to a
            # torchrun that is about to end a second signal is the end of its patience.
            self.why = str(wanted.get("why", "its supervisor was told to end"))
            self.code = wanted.get("exit_code", CANCELLED)
            by = wanted.get("by", "")
            self.note("stopping", grace=grace, why=self.why, exit_code=self.code, by=by)
            self.company.tell(self.why, self.code)
        kill_at = time.monotonic() + grace
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)

    def go_on_stopping(self, told: list[dict[str, Any]]) -> None:
        """Give what another one was about to end the rest of its grace."""
        begun = [entry for entry in told if entry["event"] == "stopping"]
        for entry in begun[:1]:
            self.stopping, self.why, self.code = True, entry["why"], entry["exit_code"]
            rest = seconds(entry, self.grace) - abs(time.time() - entry["time"])
            self.kill_at = time.monotonic() + max(0.0, rest)
        with contextlib.suppress(OSError):
            if self.wish() is not None:
                self.asked.add(signal.SIGTERM)

    def is_child(self, pid: int) -> bool:
        self.reap()
        found = processes.find(pid)
        return self.status is None and found is not None and found.parent == os.getpid()

    def reap(self) -> bool:
        """Collect what has ended; return True when no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.root and self.status is None:
                self.status = status
            else:
                self.workers.reaped(pid, status)

    # ---- the record ----

    def try_to_remember(self) -> None:
        """Remember what is so already; what a full disk does not take is tried again later."""
        try:
            self.remember()
            self.remembered = True
        except (OSError, ValueError):
            self.remembered = False

    def remember(self) -> None:
        """Write down who keeps the run, and what it keeps."""
        known = record.read(self.folder, record.RUN) or {"version": record.VERSION}
        self.host = known.get("host", self.host)
        known.update(record.here(), cookie=self.cookie)
        known.update(supervisor=identity(os.getpid()), guard=identity(self.guard))
        known.update(root=identity(self.root) or known.get("root"))
        oldest = known["guard"] or known["supervisor"] or [0, 0]
        self.since = known["since"] = known.get("since") or oldest[1]
        record.write(self.folder, record.RUN, known)

    def finish(
        self, reason: str, survivors: Iterable[dict[str, Any]] = (), leftovers: int = 0
    ) -> None:
        self.growth.note()
        # waitpid() has said that no child of ours is left, or who is: whatever /proc shows.
        self.journal.write_exit(self.status, reason, survivors, leftovers, proven=True)


def identity(pid: int | None) -> list[int] | None:
    found = processes.find(pid) if pid else None
    return [found.pid, found.start] if found else None


def seconds(wanted: dict[str, Any], otherwise: float) -> float:
    """Return the grace that somebody asked for."""
    grace = wanted.get("grace")
    return grace if isinstance(grace, (int, float)) and grace >= 0 else otherwise
