"""Keeps one node of one run: starts torchrun, watches its workers, ends everything, writes it down.

A process of its own, one per run and host. What happens goes into the journal, a file of JSON lines
that followers read by offset: nothing needs to be asked, nothing is lost when nobody reads.
For now it ends with the agent that started it: `leash`, its stdin, says stop, or ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

JOURNAL = "journal.jsonl"
EXIT_RECORD = "exit.json"
# How its command's own output is called: torchrun's, or a setup command's.
TORCHRUN, SETUP = "torchrun", "setup"
STARS = "********"
# Given back at the end, so that a full disk still has room for the last word.
SPARE, SPARE_BYTES = ".spare", 1 << 16
GRACE = 10.0
# How often new workers are looked for: closely for the first while, so that one that dies at once
# is seen. Their end is not polled for: a pidfd tells.
LOOK_CLOSELY, LOOK, FIRST_WHILE = 0.02, 0.1, 60.0
# torchrun's closing words, a block for each worker that failed: one that came and went between two
# looks is known from there.
REPORTED = re.compile(
    r"^ +rank +: (\d+) \(local_rank: (\d+)\)\n +exitcode +: (-?\d+) \(pid: (\d+)\)", re.MULTILINE
)


class Worker:
    """A worker as it is: its ranks are read from its own environment."""

    def __init__(self, process: processes.Process, env: dict[str, str]) -> None:
        self.process = process
        self.rank = int(env["RANK"])
        self.table: dict[str, Any] = {
            "pid": process.pid,
            "rank": self.rank,
            "local_rank": int(env["LOCAL_RANK"]),
            "group_rank": int(env["GROUP_RANK"]),
            "world_size": int(env["WORLD_SIZE"]),
            "restart": int(env.get("TORCHELASTIC_RESTART_COUNT", 0)),
        }
        self.siblings = int(env["LOCAL_WORLD_SIZE"])
        self.error_file = env.get("TORCHELASTIC_ERROR_FILE", "")
        self.pidfd = processes.pidfd_open(process.pid)


class Supervisor:
    def __init__(self, spec: dict[str, Any], leash: int | None) -> None:
        self.folder: str = spec["folder"]
        self.cookie: str = spec["cookie"]
        self.spec = spec
        self.leash = leash
        self.grace: float = spec.get("grace", GRACE)
        self.output: str = spec.get("output", TORCHRUN)
        # What no record may hold; a worker's exception may have it in its message.
        self.secrets: list[str] = list(spec.get("env", {}).get("secrets", {}).values())
        self.root: int | None = None
        self.status: int | None = None  # torchrun's, as waitpid gives it
        self.workers: dict[int, Worker] = {}  # by pid, those that live
        # Of workers that became our children, as waitpid gave them.
        self.statuses: dict[int, int] = {}
        self.round = -1
        self.failed_workers = 0
        self.stopping = False
        self.ending = False  # from here on it is we who end what is left
        self.signalled = False
        self.kill_at: float | None = None
        self._line = b""
        self._unwritten = b""
        self._unannounced = self.output == TORCHRUN  # there are workers to look for
        self._since = time.monotonic()
        self._journal = os.open(
            os.path.join(self.folder, JOURNAL), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    # ---- the record ----

    def note(self, event: str, **more: Any) -> None:  # noqa: ANN401  JSON
        line = json.dumps(dict({"event": event, "time": time.time()}, **more)) + "\n"
        self._unwritten += line.encode()
        self.write()

    def write(self) -> None:
        """Write what is noted. A full disk ends no job: what it refuses is tried again later."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._journal, self._unwritten) :]
        except OSError:
            return

    def finish(
        self, reason: str, survivors: Iterable[dict[str, Any]] = (), leftovers: int = 0
    ) -> None:
        code, number = None, None
        if self.status is not None:
            if os.WIFSIGNALED(self.status):
                number = os.WTERMSIG(self.status)
            else:
                code = os.WEXITSTATUS(self.status)
        record = {
            "code": code,
            "signal": number,
            "reason": reason,
            "leftovers": leftovers,
            "survivors": list(survivors),
        }
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.folder, SPARE))
        self.write()
        temporary = os.path.join(self.folder, "." + EXIT_RECORD)
        try:
            with open(temporary, "w", encoding="utf-8", opener=private) as file:
                json.dump(dict(record, time=time.time()), file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, os.path.join(self.folder, EXIT_RECORD))
        except OSError as error:
            sys.stderr.write("no exit record: %s\n" % error)
        self.note("ended", **record)

    # ---- its life ----

    def run(self) -> None:
        processes.become_subreaper()
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda number, frame: self.on_signal(number))
        try:
            with open(os.path.join(self.folder, SPARE), "wb") as file:
                file.write(bytes(SPARE_BYTES))
            self.root = self.start()
        except OSError as error:
            self.finish(why_not(error, self.spec["argv"][0]))
            return
        self.note("started", pid=self.root)
        while self.status is None:
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                break
            self.wait(wake)
            if self.signalled:
                self.signalled = False
                self.stop(self.grace)
            self.watch_workers()
            self.reap()
            self.write()
        self.watch_workers()
        self.ending = True
        left = [p for p in processes.members(self.cookie, os.getpid()) if p.pid != self.root]
        survivors = processes.end_all(self.cookie, os.getpid(), self.reap)
        self.watch_workers()
        self.note_unseen_failures()
        self.finish("stopped" if self.stopping else "exited", survivors, len(left))

    def start(self) -> int:
        spec = self.spec
        path = os.path.join(self.folder, self.output)
        env = merged(dict(os.environ), spec["env"])
        env[processes.COOKIE] = self.cookie
        with open(path + ".out", "ab", opener=private) as out, open(
            path + ".err", "ab", opener=private
        ) as err:
            child = subprocess.Popen(
                spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=env,
                cwd=spec["cwd"],
                start_new_session=True,
            )
        child.returncode = 0  # reaped by us; Popen need not try
        return child.pid

    def on_signal(self, number: int) -> None:
        # Only noted: it may interrupt anything halfway. The wakeup pipe ends the wait.
        if number != signal.SIGCHLD:
            self.signalled = True

    def wait(self, wake: int) -> None:
        """Sleep until something may have happened."""
        fds = [wake, *(worker.pidfd for worker in self.workers.values() if worker.pidfd >= 0)]
        if self.leash is not None:
            fds.append(self.leash)
        # Without pidfds (Linux before 5.3) the workers' ends are polled for like their beginnings.
        polled = self._unannounced or len(fds) < len(self.workers) + 2
        close = time.monotonic() - self._since < FIRST_WHILE
        timeout = 1.0 if not polled else LOOK_CLOSELY if close else LOOK
        if self.kill_at is not None:
            timeout = min(timeout, max(0.0, self.kill_at - time.monotonic()))
        ready, _, _ = select.select(fds, [], [], timeout)
        if wake in ready:
            os.read(wake, 4096)
        if self.leash is not None and self.leash in ready:
            self.obey(os.read(self.leash, 4096))

    def obey(self, data: bytes) -> None:
        """Take a line {"stop": grace}; or the end of the agent, and then ours too."""
        if not data:
            self.leash = None
            self.stop(self.grace)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self.stop(json.loads(line)["stop"])

    def stop(self, grace: float) -> None:
        if not self.stopping:
            self.stopping = True
            self.note("stopping", grace=grace)
            if self.root is not None and self.status is None:
                # Our unreaped child. Only torchrun is told; it tells its workers.
                os.kill(self.root, signal.SIGTERM)
        kill_at = time.monotonic() + grace
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)

    def reap(self) -> bool:
        """Collect what has ended; return True when no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.root:
                self.status = status
            elif pid in self.workers:
                self.statuses[pid] = status

    # ---- the workers ----

    def watch_workers(self) -> None:
        for worker in list(self.workers.values()):
            now = processes.find(worker.process.pid)
            if now is None or now.dead or now.start != worker.process.start:
                # torchrun looks every 100 ms and reaps; until then the zombie tells its status.
                if now is not None and now.start == worker.process.start:
                    self.worker_ended(worker, now.status)
                else:
                    self.worker_ended(worker, self.statuses.pop(worker.process.pid, None))
        if self.root and self.status is None:
            self.find_workers(self.root)

    def worker_ended(self, worker: Worker, status: int | None) -> None:
        del self.workers[worker.process.pid]
        if worker.pidfd >= 0:
            os.close(worker.pidfd)
        self._unannounced = True
        self._since = time.monotonic()
        code = number = None
        if status is not None:
            code, number = (None, status & 0x7F) if status & 0x7F else (status >> 8, None)
            self.failed_workers += bool(status)
        error = error_in(worker.error_file, self.secrets)
        ours = self.ending
        self.note("worker", code=code, signal=number, error=error, ours=ours, **worker.table)

    def find_workers(self, parent: int) -> None:
        if not self._unannounced:
            return
        for pid in processes.children(parent):
            if pid in self.workers:
                continue
            env = processes.environment(pid)
            process = processes.find(pid)
            if not process or process.dead:
                continue
            try:
                self.workers[pid] = Worker(process, env)
            except (KeyError, ValueError):
                # A wrapper around the real torchrun, or its fork before exec.
                self.find_workers(pid)
        ranks = {worker.rank for worker in self.workers.values()}
        if self.workers and len(ranks) == max(w.siblings for w in self.workers.values()):
            self._unannounced = False
            self.round += 1
            table = sorted((w.table for w in self.workers.values()), key=lambda row: row["rank"])
            self.note("workers", round=self.round, workers=table)

    def note_unseen_failures(self) -> None:
        """Add what torchrun says of workers that came and went between two looks."""
        if self.failed_workers or self.status == 0 or self.stopping:
            return
        try:
            with open(os.path.join(self.folder, TORCHRUN + ".err"), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return
        for rank, local_rank, value, pid in REPORTED.findall(text):
            code = int(value)
            self.note(
                "worker",
                pid=int(pid),
                rank=int(rank),
                local_rank=int(local_rank),
                code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                error=None,
            )


def merged(here: dict[str, str], env: dict[str, Any]) -> dict[str, str]:
    """Lay the run's environment over this host's: see commands.Environment for the kinds."""
    kept = {name: value for name, value in here.items() if name not in env.get("removed", ())}
    whole = dict(env["defaults"], **kept)
    whole.update(env["fixed"])
    whole.update(env.get("secrets", {}))
    for name, value in env["prepended"].items():
        parts = [value, whole.get(name)]
        whole[name] = ":".join(part for part in parts if part)
    return whole


def why_not(error: OSError, program: str) -> str:
    if error.errno == errno.E2BIG:
        return "the environment and the arguments together are more than this host's kernel takes"
    named = error.filename or program
    return "%s: %s" % (named, error.strerror)


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def last_event(folder: str) -> str | None:
    """Name the journal's last entry; None when it has none, or one that is only half written."""
    try:
        with open(os.path.join(folder, JOURNAL), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
            name: str = json.loads(file.read(1 << 16).splitlines()[-1])["event"]
            return name
    except (OSError, ValueError, KeyError, IndexError):
        return None


def error_in(path: str, secrets: Iterable[str] = ()) -> dict[str, str] | None:
    """Read the exception that torch's @record wrote, where the script uses it."""

    def known(text: object, most: int) -> str:
        text = str(text)
        for secret in secrets:  # before it is cut: half a one would be known to nobody
            text = text.replace(secret, STARS).replace(repr(secret)[1:-1], STARS)
        return text[:most]

    try:
        with open(path, encoding="utf-8") as file:
            message = json.load(file)["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if isinstance(message, dict):
        more = message.get("extraInfo")
        callstack = more.get("py_callstack", "") if isinstance(more, dict) else ""
        return {
            "message": known(message.get("message", ""), 2000),
            "traceback": known(callstack, 20000),
        }
    return {"message": known(message, 2000), "traceback": ""}


def main(spec: dict[str, Any], leash: int) -> None:
    Supervisor(spec, leash).run()
