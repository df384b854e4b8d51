"""What of this user runs here that could be in the way of a run: runs, and what jobs have left.

Ended is only what is named by pid and start, and what comes of it. What a run of ours keeps is
never touched, whatever is asked: its own `down` ends it.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial

from . import facts, family, jobs, looking, processes, record, remains, reports, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator

    from .agent import Call

# A file server that does not answer keeps only the runs from being told.
READING = 6.0
# What is said of one host has an end, however many there are.
MOST = 200
# In these states it is for the run itself to say what becomes of its processes.
KEPT = ("running", "lost", "starting", "setting-up", "unreadable", "elsewhere", "unknown")
TOLD = ("running", "lost", "starting", "setting-up")
PULSE = 0.05


def find(
    call: Call | None, state_dir: str, port: int = 0, holders: Iterable[int] = ()
) -> dict[str, Any]:
    """Look once. Who of this user listens on `port` is told of too, and who of `holders` is his."""
    room = Room(state_dir)
    strays = room.strays(port, holders)
    return {
        "runs": room.runs(),
        "strays": strays[:MOST],
        "more": max(0, len(strays) - MOST),
        "others": room.look.others + room.inside,
        "problem": "; ".join(room.problems),
    }


class Room:
    """This host at one moment: whose is whose."""

    def __init__(self, state_dir: str) -> None:
        telling = facts.within(READING, lambda: reports.list(None, state_dir))
        self.look = looking.Look()
        self.namespace = os.readlink("/proc/self/ns/pid")
        self.inside = 0
        self.never = {0, 1, *processes.lineage()}
        told = telling()
        self.problems = list(problems_of(state_dir, told, self.look.problem))
        self.told: list[dict[str, Any]] = told if isinstance(told, list) else []
        dirs = (env.get("DDP_ORCH_RUN_DIR") for env in self.look.env.values())
        self.folders = states(folder for folder in dirs if folder)
        self.cookies = self._cookies()
        self.stale = self._stale()
        self.kept = self._kept()

    def _cookies(self) -> dict[str, str]:
        """Return the runs that are not over, by their cookies."""
        kept = (each for each in self.told if each["state"] in KEPT and each["record"])
        pairs = ((each["record"].get("cookie"), name_of(each["folder"])) for each in kept)
        return {cookie: run for cookie, run in pairs if isinstance(cookie, str)}

    def _stale(self) -> set[int]:
        """Return supervisors and guards whose run's folder, or its record, somebody has removed."""
        found: dict[int, set[bool]] = {}
        for pid, env in self.look.env.items():
            gone = self.folders.get(env.get("DDP_ORCH_RUN_DIR", "")) == "absent"
            for process in self.look.above(pid) if "DDP_ORCH_RUN_DIR" in env else ():
                if jobs.is_keeper(self.look.words.get(process.pid, ())):
                    found.setdefault(process.pid, set()).add(gone)
        return {pid for pid, gone in found.items() if gone == {True}}

    def _kept(self) -> dict[int, str]:
        """Return whom a run keeps, by pid: those that say so, their keepers, all below these."""
        keepers: dict[int, str] = {}
        for pid, argv in self.look.words.items():
            env = self.look.env[pid]
            if jobs.is_keeper(argv):
                if pid not in self.stale:
                    keepers[pid] = argv[-2]
            elif self.folders.get(env.get("DDP_ORCH_RUN_DIR", "")) in KEPT:
                keepers[pid] = env.get("DDP_ORCH_RUN", "")
            elif env.get(processes.COOKIE) in self.cookies:
                keepers[pid] = self.cookies[env[processes.COOKIE]]
        kept: dict[int, str] = {}
        for pid in self.look.everyone:
            for process in self.look.above(pid):
                if process.pid in keepers:
                    kept[pid] = keepers[process.pid]
                    break
        return kept

    def keeper_of(self, pid: int) -> str | None:
        """Name the run that keeps a process; also one that has only the run's mark left."""
        if pid in self.kept or not self.cookies:
            return self.kept.get(pid)
        try:
            limits = processes.read("/proc/%d/limits" % pid)
        except OSError:
            return None  # gone
        marks = ((b" %d " % processes.mark_of(cookie), run) for cookie, run in self.cookies.items())
        return next((run for mark, run in marks if mark in limits), None)

    def runs(self) -> list[dict[str, Any]]:
        """Tell of runs that are not over; of those with another state_dir their processes tell."""
        listed = {status["folder"]: status for status in self.told}
        for folder, state in self.folders.items():
            if state in TOLD and folder not in listed:
                listed[folder] = reports.status(None, folder)
        return [run for run in map(self._told_of, listed.values()) if run]

    def _told_of(self, status: dict[str, Any]) -> dict[str, Any] | None:
        known, state = status["record"] or {}, status["state"]
        if state not in TOLD:
            return None
        cookie = known.get("cookie")
        alive = sum(env.get(processes.COOKIE) == cookie for env in self.look.env.values())
        alive = max(alive if cookie else 0, status["ranks_alive"], int(status["root_alive"]))
        if state == "lost" and not alive:
            return None  # nothing of it is left here to be in the way
        began = known.get("time")
        return {
            "run": name_of(status["folder"]),
            "node": int(status["folder"].split("/")[-1]),
            "state": state,
            "owner": str(known.get("owner") or ""),
            "age": max(0.0, time.time() - began) if isinstance(began, (int, float)) else None,
            "alive": alive,
        }

    def strays(self, port: int = 0, holders: Iterable[int] = ()) -> list[dict[str, Any]]:
        kinds: dict[int, str] = {}
        free = [pid for pid in self.look.own if pid not in self.never and pid not in self.kept]
        for pid in free:
            kind = self._kind(pid)
            if not kind or self.look.everyone[pid].dead:
                continue
            if self._is_inside(pid):
                self.inside += kind == "torchrun"
            else:
                kinds[pid] = kind
        listening = looking.listening()
        named = set(holders)
        kinds.update((pid, "gpu") for pid in free if pid in named and pid not in kinds)
        if port in listening.values():
            for pid in free:
                if pid not in kinds and port in looking.ports_of(pid, listening):
                    kinds[pid] = "port"
        for pid in [pid for pid in kinds if self.keeper_of(pid) is not None]:
            del kinds[pid]
        uptime = float(processes.read("/proc/uptime").split()[0])
        return [self._row(pid, kinds, listening, uptime) for pid in sorted(kinds)]

    def _is_inside(self, pid: int) -> bool:
        """Whether it is in a container on this host, which keeps it whatever became of others."""
        try:
            return os.readlink("/proc/%d/ns/pid" % pid) != self.namespace
        except OSError:
            return False

    def _kind(self, pid: int) -> str:
        env, argv = self.look.env[pid], self.look.words[pid]
        if pid in self.stale:
            return "keeper"
        if jobs.is_launcher(argv):
            return "torchrun"
        if processes.COOKIE in env or jobs.is_worker(self.look.everyone[pid], env):
            return "worker"
        return ""

    def _row(
        self, pid: int, kinds: dict[int, str], listening: dict[str, int], uptime: float
    ) -> dict[str, Any]:
        process, env, argv = self.look.everyone[pid], self.look.env[pid], self.look.words[pid]
        job = [each.pid for each in self.look.above(pid) if each.pid in kinds]
        kind = kinds[pid]
        if kind == "worker" and any(kinds[above] == "worker" for above in job[1:]):
            kind = "helper"  # it has its environment from the worker that started it
        owner = jobs.owner(job[-1], self.look.everyone)
        return {
            "pid": pid,
            "start": process.start,
            "parent": process.parent,
            "command": words.shown(argv, jobs.LONGEST) or process.name,
            "age": max(0.0, uptime - process.start / os.sysconf("SC_CLK_TCK")),
            "kind": kind,
            "root": job[-1],
            "id": shown(env.get(jobs.ELASTIC, "")[:100]),
            "run": shown(env.get("DDP_ORCH_RUN", "")[:64]),
            "endpoint": jobs.endpoint(argv)[:200] if kind == "torchrun" else "",
            "orphan": owner is None,
            "owner": owner or "",
            "ports": looking.ports_of(pid, listening),
        }


def name_of(folder: str) -> str:
    return folder.split("/")[-2]


def problems_of(state_dir: str, told: object, unread: str) -> Iterator[str]:
    if isinstance(told, dict):
        yield "%s: %s" % (state_dir, told["problem"])
    if unread:
        yield unread


def shown(text: str) -> str:
    """Return it without the bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def states(folders: Iterable[str]) -> dict[str, str]:
    """Return the states of runs' folders; "unknown" of those that cannot be looked at."""
    asked = {each: facts.within(READING, partial(state_of, each)) for each in set(folders)}
    got = {folder: wait() for folder, wait in asked.items()}
    return {folder: state if isinstance(state, str) else "unknown" for folder, state in got.items()}


def state_of(folder: str) -> str:
    # A home that is not mounted has not lost its runs.
    if not os.path.isdir(above_base(folder)):
        return "unknown"
    # Whatever else is there, a tombstone say: nobody who lives is known by it.
    return record.state_of(folder) if remains.has_record(folder) else "absent"


def above_base(folder: str) -> str:
    """Return what a run's folder's state_dir is in: STATE_DIR/runs/RUN/NODE."""
    return os.path.normpath(os.path.join(folder, *[os.pardir] * 4))


# ---- the end of them ----


def end(
    call: Call | None, targets: list[list[int]], grace: float, state_dir: str
) -> dict[str, Any]:
    """End those [pid, start] and all that they have started; say who lives on.

    Nobody is taken for another whose pid he has by now; nor what a run keeps.
    """
    room = Room(state_dir)
    theirs = family.Family({*room.never, *room.kept})
    kept = {}
    for pid, start in targets:
        run = room.keeper_of(pid)
        if run is not None:
            kept[str(pid)] = run
        else:
            theirs.take(pid, start)
    theirs.grow()
    asked = len(theirs.living())
    if asked and grace > 0:
        for process in theirs.roots():
            processes.send(process, signal.SIGTERM)
            processes.send(process, signal.SIGCONT)  # one that is stopped would not heed it
        deadline = time.monotonic() + grace
        while theirs.living() and time.monotonic() < deadline:
            time.sleep(PULSE)
            theirs.grow()
    survivors = theirs.kill()
    return {"ended": len(theirs.known) - len(survivors), "survivors": survivors, "kept": kept}
