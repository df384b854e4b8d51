"""The workers of a node: who they are, by their own word, and how each of them ended."""

from __future__ import annotations

import json
import os
import re
import signal
import time

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

STARS = "********"
# How often new workers are looked for: closely for the first while, so that one that dies at once
# is seen. Their end is not polled for: a pidfd tells.
LOOK_CLOSELY, LOOK, FIRST_WHILE = 0.02, 0.1, 60.0
# torchrun starts new ones when all have ended: as long as the rest of a round lives, and those that
# ended have ended well, none is to be expected.
LOOK_SELDOM = 5.0
# torchrun's closing words, a block for each worker that failed: one that came and went between two
# looks is known from there.
REPORTED = re.compile(
    r"^ +rank +: (\d+) \(local_rank: (\d+)\)\n +exitcode +: (-?\d+) \(pid: (\d+)\)", re.MULTILINE
)


RANKS = "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE".split()
# Of its environment, what the journal says of a worker as well.
TOLD = {
    "RANK": "rank",
    "LOCAL_RANK": "local_rank",
    "GROUP_RANK": "group_rank",
    "WORLD_SIZE": "world_size",
    "TORCHELASTIC_RESTART_COUNT": "restart",
}


def has_ranks(env: dict[str, Any]) -> bool:
    restart = env.get("TORCHELASTIC_RESTART_COUNT", 0)
    try:
        return all(int(n) >= 0 for n in (*(env[name] for name in RANKS), restart))
    except (KeyError, ValueError):
        return False


class Worker:
    """A worker as it is: its ranks are read from its own environment."""

    def __init__(self, process: processes.Process, env: dict[str, Any]) -> None:
        self.process = process
        self.rank = int(env["RANK"])
        self.table: dict[str, Any] = {
            "pid": process.pid,
            "start": process.start,
            "rank": self.rank,
            "local_rank": int(env["LOCAL_RANK"]),
            "group_rank": int(env["GROUP_RANK"]),
            "world_size": int(env["WORLD_SIZE"]),
            "restart": int(env.get("TORCHELASTIC_RESTART_COUNT", 0)),
        }
        self.siblings = int(env["LOCAL_WORLD_SIZE"])
        self.error_file = env.get("TORCHELASTIC_ERROR_FILE", "")
        self.pidfd = processes.pidfd_open(process.pid)


class Workers:
    """Those of one torchrun, round after round."""

    def __init__(
        self, note: Callable[..., None], secrets: Iterable[str], most_restarts: int | None = None
    ) -> None:
        self._note = note
        # What no record may hold; a worker's exception may have it in its message.
        self._secrets = list(secrets)
        self._living: dict[int, Worker] = {}  # by pid
        # Of workers that became our children, as waitpid gave them.
        self._statuses: dict[int, int] = {}
        self._round = -1
        self._unannounced = True  # there are some to look for
        self._all_well = False  # of this round all were there, and none has ended badly
        self._since = time.monotonic()
        self.failed = 0
        # How the first ended after which there is no restart, where those are counted.
        self.lost: str | None = None
        self._most_restarts = most_restarts
        self.ending = False  # from here on it is we who end what is left

    def go_on(self, told: Iterable[dict[str, Any]]) -> None:
        """Go on from a journal in which another one has told of some; nothing is told twice."""
        rows: dict[int, dict[str, Any]] = {}
        siblings = 0
        for entry in told:
            if entry["event"] == "workers":
                self._round, rows = entry["round"], {row["pid"]: row for row in entry["workers"]}
                siblings = len(rows)
                self._unannounced, self._all_well = False, True
            elif entry["event"] == "worker":
                rows.pop(entry["pid"], None)
                self.failed += bool(entry["code"] or entry["signal"])
                self._unannounced = True
                self._all_well = self._all_well and entry["code"] == 0
        for pid, row in rows.items():
            process = processes.find(pid)
            if process and not process.dead and process.start == row["start"]:
                # It may have written over its environment since, as who sets a title does.
                env = {name: row[key] for name, key in TOLD.items() if key in row}
                env.update(processes.environment(pid), LOCAL_WORLD_SIZE=siblings)
                self._living[pid] = Worker(process, env)
            else:
                self._tell_end(row, None, "")

    def fds(self) -> list[int]:
        """Return what becomes readable when one ends."""
        return [worker.pidfd for worker in self._living.values() if worker.pidfd >= 0]

    def look_again_in(self, most: float) -> float:
        """Say when to look again; without pidfds (Linux before 5.3) ends are polled for as well."""
        if len(self.fds()) == len(self._living):
            if not self._unannounced:
                return most
            if self._living and self._all_well:
                return min(most, LOOK_SELDOM)
        close = time.monotonic() - self._since < FIRST_WHILE
        return LOOK_CLOSELY if close else LOOK

    def reaped(self, pid: int, status: int) -> None:
        if pid in self._living:
            self._statuses[pid] = status

    def look(self, root: int | None) -> None:
        """Note who has ended; and, while torchrun (root) lives, who has begun."""
        for worker in list(self._living.values()):
            now = processes.find(worker.process.pid)
            if now is None or now.dead or now.start != worker.process.start:
                # torchrun looks every 100 ms and reaps; until then the zombie tells its status,
                # and from then on its pidfd, where the kernel is new enough.
                if now is not None and now.start == worker.process.start:
                    status: int | None = now.status
                else:
                    status = self._statuses.pop(worker.process.pid, None)
                    if status is None:
                        status = processes.status_of_reaped(worker.pidfd)
                self._ended(worker, status)
        if root and self._unannounced:
            self._find(root)

    def _ended(self, worker: Worker, status: int | None) -> None:
        del self._living[worker.process.pid]
        if worker.pidfd >= 0:
            os.close(worker.pidfd)
        self._tell_end(worker.table, status, worker.error_file)

    def _tell_end(self, table: dict[str, Any], status: int | None, error_file: str) -> None:
        self._unannounced = True
        self._all_well = self._all_well and status == 0
        self._since = time.monotonic()
        code = number = None
        if status is not None:
            code, number = (None, status & 0x7F) if status & 0x7F else (status >> 8, None)
            self.failed += bool(status)
        if (
            status
            and self.lost is None
            and not self.ending
            and self._no_restart_left(table, number)
        ):
            self.lost = "rank %d on %%s %s" % (table["rank"], how(code, number))
        error = error_in(error_file, self._secrets)
        self._note("worker", code=code, signal=number, error=error, ours=self.ending, **table)

    def _no_restart_left(self, table: dict[str, Any], number: int | None) -> bool:
        most = self._most_restarts
        # torchrun ends healthy workers by these two when another node restarts.
        ended_by_torchrun = bool(most) and number in (signal.SIGTERM, signal.SIGKILL)
        return most is not None and table.get("restart", 0) >= most and not ended_by_torchrun

    def _find(self, root: int) -> None:
        for process, env in self._below(root):
            self._living[process.pid] = Worker(process, env)
        ranks = {worker.rank for worker in self._living.values()}
        if self._living and len(ranks) == max(w.siblings for w in self._living.values()):
            self._unannounced, self._all_well = False, True
            self._round += 1
            table = sorted((w.table for w in self._living.values()), key=lambda row: row["rank"])
            self._note("workers", round=self._round, workers=table)

    def _below(self, parent: int) -> Iterable[tuple[processes.Process, dict[str, Any]]]:
        """Yield the workers that are not known yet, below torchrun or a wrapper around it."""
        for pid in processes.children(parent):
            if pid in self._living:
                continue
            env = processes.environment(pid)
            process = processes.find(pid)
            if not process or process.dead:
                continue
            if has_ranks(env):
                yield process, env
                continue
            # A wrapper around the real torchrun, or torchrun's fork before exec. That may have
            # become a worker since: what it has started is none, though it inherits all.
            below = list(self._below(pid))
            if not has_ranks(processes.environment(pid)):
                yield from below

    def note_unseen_failures(self, path: str) -> None:
        """Add what torchrun's stderr says of workers that came and went between two looks."""
        try:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return
        for rank, local_rank, value, pid in REPORTED.findall(text):
            code = int(value) if int(value) >= 0 else None
            number = None if code is not None else -int(value)
            # torchrun has given up, so there was no restart left. The last one is the root cause.
            self.lost = "rank %s on %%s %s" % (rank, how(code, number))
            self._note(
                "worker",
                pid=int(pid),
                rank=int(rank),
                local_rank=int(local_rank),
                code=code,
                signal=number,
                error=None,
            )


def how(code: int | None, number: int | None) -> str:
    """Say how something ended."""
    if number is None:
        return "exited with code %s" % code
    try:
        return "was killed by %s" % signal.Signals(number).name
    except ValueError:
        return "was killed by signal %d" % number


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
