"""End a run's node from outside, whatever became of its supervisor; and prove that it is gone.

The supervisor is asked first, as it knows most and its word is a proof. One that is frozen is
woken; one that does not end in time is killed, so that its guard does it; then the guard; then we
do what is left to do ourselves. Each step is bounded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from . import ending, journal, processes, record, remains, runs, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .agent import Call

# How long after the grace the supervisor, and after it the guard, may take.
PATIENCE = 15.0
# One that is stopped (T) is woken; should it stay so, it is not waited for.
WAKING = 2.0
# After its SIGKILL; who takes longer hangs in the kernel, or is frozen.
DYING = 5.0
ASK_AGAIN = 5.0
# For those whom the supervisor itself could not end just now.
ONCE_MORE = 1.0
PULSE = 0.02
NONE = "0" * 32  # of what was never started: nobody's cookie is empty
KILLED = "its supervisor was killed, and how it ended is not known"
RESTARTED = "the host was restarted"


def stop(
    call: Call,
    folder: str,
    grace: float,
    why: str = "stopped",
    exit_code: int = supervisor.CANCELLED,
    by: str = "",
    bury: bool = False,
) -> dict[str, Any]:
    """Return what told() does, when it is over.

    `bury`: where there is nothing of it, nothing of it will ever start.
    """
    wanted = {"grace": grace, "why": why, "exit_code": exit_code, "by": by, "time": time.time()}
    absent = not os.path.lexists(folder)
    # What has lost its folder runs on all the same.
    left = None if remains.has_record(folder) else remains.of(folder)
    if bury and absent:
        try:
            runs.make(*place_of(folder), record.STOP, wanted)  # or it has come into being just now
        except OSError:
            if not left:  # else it has begun already, and is ended wherever its folder was
                raise
    if left and not remains.has_record(folder):
        if os.path.isdir(folder):
            wish(folder, wanted)
        return end_remains(folder, left, grace)
    unread = left.unread if left is not None else ""
    if bury and absent and not remains.has_record(folder):
        return told("ended", "absent", problem=unread)
    before = record.state_of(folder)
    if before in ("absent", "unreadable", "elsewhere"):
        return told(before, before, problem=unread)
    unwritten = "" if before == "ended" else wish(folder, wanted)
    failed = before == "ended" and has_failed(folder)
    # From here on no other begins: whoever starts one looks for stop.json after his claim.
    begun = [inner for inner in record.setups(folder) if record.is_claimed(inner)]
    parts = [end(inner, grace) for inner in [*begun, folder]]
    return {
        "state": parts[-1]["state"],
        "before": before,
        "survivors": [survivor for part in parts for survivor in part["survivors"]],
        "verified": not unread and all(part["verified"] for part in parts),
        "processes": sum(part["processes"] for part in parts),
        "failed": failed,
        "problem": unwritten or unread or next((p["problem"] for p in parts if p["problem"]), ""),
    }


def place_of(folder: str) -> tuple[str, int, str]:
    """Return a folder's run, node and state_dir."""
    runs_folder, run, node = folder.rsplit("/", 2)
    return run, int(node), os.path.dirname(runs_folder)


def has_failed(folder: str) -> bool:
    """Whether it came to a bad end by itself, or was stopped as a part of one."""
    begun = [entry for entry in record.entries(folder) if entry["event"] == "stopping"]
    if begun:
        return begun[0].get("exit_code") != supervisor.CANCELLED
    last_word = last_word_of(folder) or {}
    return last_word.get("reason") == "exited" and last_word.get("code") != 0


def wish(folder: str, wanted: dict[str, Any]) -> str:
    """Write down what is wanted. Who wanted the end first has said why; how soon, the last one."""
    try:
        earlier = wish_of(folder)
        record.write(folder, record.STOP, dict(earlier or wanted, grace=wanted["grace"]))
    except OSError as error:
        # The signal is enough for what runs; what does not run yet cannot be kept from it.
        return "nothing can be written there: %s" % error.strerror
    return ""


def wish_of(folder: str) -> dict[str, Any]:
    try:
        return record.read(folder, record.STOP) or {}
    except ValueError:
        return {}  # it makes no sense, and what is wanted now does


def told(
    state: str,
    before: str,
    survivors: list[dict[str, Any]] | None = None,
    processes: int = 0,
    problem: str = "",
) -> dict[str, Any]:
    sound = state in ("ended", "rebooted", "absent") and not problem
    return {
        "state": state,
        "before": before,
        "survivors": survivors or [],
        "verified": sound and not survivors,
        "processes": processes,
        "failed": False,
        "problem": problem,
    }


def end(folder: str, grace: float) -> dict[str, Any]:
    """Bring one supervisor's run to its end, and look whether it is."""
    before = record.state_of(folder)
    if before == "rebooted":
        # With the kernel all its processes went. Nothing may be signalled: pids are others' now.
        write_down(folder, RESTARTED, [])
    if before in ("rebooted", "absent", "elsewhere", "unreadable"):
        return told(before, before)
    if before == "ended" and not is_ours(folder):
        return told(ended_elsewhere(folder), before)
    cookie, since = marks_of(folder)
    there = len(processes.members(cookie, since=since))
    stuck = [] if before in ("ended", "lost") else let_it_end(grace, lambda: kept_by(folder))
    if record.state_of(folder) == "starting":
        return told("starting", before)
    stuck = stuck or see_off(folder)
    last_word = last_word_of(folder)
    if last_word is None and not stuck and cookie != NONE:
        note_stopping(folder, grace)
    survivors = stuck + left(folder, last_word, just_now=before != "ended")
    if stuck:
        # A supervisor that cannot even be killed may start anything, once it can.
        return told("running", before, survivors, there)
    if last_word is None and os.path.lexists(os.path.join(folder, record.RUN)):
        cookie, _ = marks_of(folder)
        write_down(folder, KILLED if cookie != NONE else "stopped before it started", survivors)
    elif last_word and last_word.get("survivors") != survivors:
        with contextlib.suppress(OSError):
            known = dict(last_word, version=record.VERSION, survivors=survivors)
            record.write(folder, record.EXIT, known)
    proven = last_word is not None and last_word.get("proven")
    cookie, _ = marks_of(folder)
    return told("ended", before, survivors, there, "" if proven or survivors else unseen(cookie))


def end_remains(folder: str, left: remains.Remains, grace: float) -> dict[str, Any]:
    """End what has no record; its supervisor knows all of it, if it lives."""
    before, there = "running" if left.keepers() else "lost", len(left.members)
    stuck = let_it_end(grace, lambda: left.keepers() or None)
    survivors = list(stuck)
    for cookie in left.cookies:
        survivors += ending.end_all(cookie, timeout=DYING)
    if stuck:
        return told("running", before, survivors, there)
    proven = survivors or (last_word_of(folder) or {}).get("proven")
    problem = "" if proven else next(filter(None, map(unseen, left.cookies)), "")
    return told("ended", before, survivors, there, problem)


def is_ours(folder: str) -> bool:
    """Whether what it ran, it ran here: a tombstone is everybody's."""
    known = record.read(folder, record.RUN)
    return known is None or record.is_here(known)


def ended_elsewhere(folder: str) -> str:
    """Say what is known of the end of what ran under another kernel: nobody is to be found here."""
    known, last_word = record.read(folder, record.RUN) or {}, last_word_of(folder) or {}
    if known.get("machine") == record.here()["machine"]:
        return "ended"  # this host was restarted since, and whoever was left is gone
    return "ended" if last_word.get("proven") and not last_word.get("survivors") else "elsewhere"


def last_word_of(folder: str) -> dict[str, Any] | None:
    try:
        return record.last_word(folder)
    except (OSError, ValueError):
        return {}  # it makes no sense, but somebody wrote it


def write_down(folder: str, reason: str, survivors: list[dict[str, Any]]) -> None:
    """Say the last word in place of a supervisor that cannot."""
    with contextlib.suppress(OSError):
        words = journal.Journal(folder)
        words.write_exit(None, reason, survivors)
        words.close()


def note_stopping(folder: str, grace: float) -> None:
    """Tell who watches that somebody ends it, as its supervisor would have, unless it has."""
    if any(entry["event"] == "stopping" for entry in record.entries(folder)):
        return
    wanted: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        wanted = wish_of(folder)
    why, by = wanted.get("why", "stopped"), wanted.get("by", "")
    code = wanted.get("exit_code", supervisor.CANCELLED)
    with contextlib.suppress(OSError):
        words = journal.Journal(folder)
        words.note("stopping", grace=grace, why=why, exit_code=code, by=by)
        words.close()


def see_off(folder: str) -> list[dict[str, Any]]:
    """Let supervisor and guard end too, now that nothing is left to do; return who stays."""
    known = record.read(folder, record.RUN) or {}
    if not known or not record.is_here(known):
        return []  # it has ended elsewhere; here those pids are strangers'
    began = time.monotonic()
    while True:
        found = keepers_of(known)
        waited = time.monotonic() - began
        if not found or waited > 2 * DYING:
            return [ending.named(process, 0, DYING) for process in found]
        for process in found:
            # One that is stopped would stay for ever.
            processes.send(process, signal.SIGCONT if waited < DYING else signal.SIGKILL)
        time.sleep(PULSE)


def keepers_of(known: dict[str, Any]) -> list[processes.Process]:
    """Return supervisor and guard as far as they live; a guard that took over is both."""
    both = [record.alive(known.get(who)) for who in ("supervisor", "guard")]
    return list({process.pid: process for process in both if process}.values())


def marks_of(folder: str) -> tuple[str, int]:
    """Return what a run's processes are known by."""
    known = record.read(folder, record.RUN) or {}
    return known.get("cookie") or NONE, known.get("since") or 0


def left(folder: str, last_word: dict[str, Any] | None, *, just_now: bool) -> list[dict[str, Any]]:
    """End whoever is left of it; return those who cannot be, they and those known from before."""
    known = (last_word or {}).get("survivors", [])
    cookie, since = marks_of(folder)
    patience = ONCE_MORE if known and just_now else DYING
    survivors = ending.end_all(cookie, since=since, timeout=patience)
    pids = {survivor["pid"] for survivor in survivors}
    for survivor in known:
        who = [survivor["pid"], survivor["start"]]
        if survivor["pid"] not in pids and record.is_alive(who):
            survivors.append(survivor)
    return survivors


def unseen(cookie: str) -> str:
    """Say why that nobody is seen proves nothing; "" when it does."""
    why = ending.hidden_by()
    if not why or cookie == NONE:
        return ""  # without a cookie nothing was ever started
    look = "grep -l %d /proc/[0-9]*/limits" % processes.mark_of(cookie)
    return (
        "its supervisor was killed, and %s, so that nobody but root sees what may run there as "
        "another user; as root: %s" % (why, look)
    )


def kept_by(folder: str) -> list[processes.Process] | None:
    """Return who keeps what runs, nobody while that is to be seen, None where it does not run."""
    state = record.state_of(folder)
    if state == "starting" and record.is_claimed(folder):
        return []  # it writes down who it is before it looks for a tombstone
    return keepers_of(record.read(folder, record.RUN) or {}) if state == "running" else None


def let_it_end(
    grace: float, kept: Callable[[], list[processes.Process] | None]
) -> list[dict[str, Any]]:
    """Make the supervisor, or else the guard, end it; kill him who does not. Return who stays.

    `kept` tells who keeps it, the supervisor first; None when nobody does any more.
    """
    began = time.monotonic()
    deadline = began + grace + PATIENCE
    told_to, asked = -1, began
    frozen_since: float | None = None
    killed: dict[int, float] = {}
    while True:
        keepers = kept()
        if keepers is None:
            return []
        if not keepers:
            time.sleep(PULSE)
            continue
        process, now = keepers[0], time.monotonic()
        if now > killed.get(process.pid, now) + DYING:
            return [ending.named(keeper, 0, DYING) for keeper in keepers]
        if process.state in "Tt":
            frozen_since = frozen_since or now
            processes.send(process, signal.SIGCONT)
        else:
            frozen_since = None
        # A guard does not heed it, unless it is the supervisor by now.
        if process.pid != told_to or now > asked + ASK_AGAIN:
            processes.send(process, signal.SIGTERM if grace else signal.SIGINT)
            told_to, asked = process.pid, now
        if now > deadline or (frozen_since and now > frozen_since + WAKING):
            processes.send(process, signal.SIGKILL)
            killed.setdefault(process.pid, now)
            # Whoever comes next has what is left of the grace, and his own time.
            deadline, frozen_since = max(began + grace, now) + PATIENCE, None
        time.sleep(PULSE)
