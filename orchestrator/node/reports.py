"""Tell of the runs whose folders are on this host, and forget those that are over."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time

from . import files, outputs, processes, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Sequence  # `list` is no type here

    from .agent import Call

RANK = re.compile(r"[0-9]{1,5}\Z")
# A node's folder that is being removed, or could not be wholly.
GOING = re.compile(r"\.forgotten-([0-9]{1,5})-[0-9a-f]{8}\Z")
OVER = ("ended", "rebooted")
OLDER = "written by an older ddp-orch: its logs can be read; whether it runs is not known"


# What is told of a node's record; the rest of it is of no interest elsewhere.
TOLD = ("version", "owner", "time")


def tell(call: Call, state_dir: str, names: Sequence[str] | None = None) -> List[dict[str, Any]]:
    """Report as `list` does, in few words: with hundreds of nodes on one home they are many.

    Every node's record has the plan of the whole run, which is told once: "plan_of" is the folder
    that it was told with.
    """
    told_with: dict[str, str] = {}
    reports = list(call, state_dir, names)
    for told in reports:
        known = told["record"]
        if not known:
            continue
        told["record"] = {key: known[key] for key in TOLD if key in known}
        if known.get("plan") is not None:
            text = json.dumps(known["plan"], sort_keys=True)
            told["plan_of"] = told_with.setdefault(text, told["folder"])
            if told["plan_of"] == told["folder"]:
                told["record"]["plan"] = known["plan"]
    return reports


def list(
    call: Call | None, state_dir: str, names: Sequence[str] | None = None
) -> List[dict[str, Any]]:
    """Report every node's folder; several hosts that share a home all report the same ones.

    `names`: only of runs whose names begin with one of these.
    """
    base = files.base_of(state_dir)
    runs = os.path.join(base, "runs")
    for place in (base, runs):
        if not os.path.lexists(place):
            return []
        files.private(place)
    there = [name for name in outputs.listed(runs) if files.RUN_NAME.match(name)]
    if names is not None:
        there = [name for name in there if name.startswith(tuple(names))]
    return [told for name in there for told in of_run(os.path.join(runs, name))]


def of_run(folder: str) -> Iterator[dict[str, Any]]:
    try:
        files.private(folder)
    except FileNotFoundError:
        return  # forgotten at this moment
    except OSError as error:
        yield blank(folder, words_of(error))
        return
    names = outputs.listed(folder)
    for name in names:
        if RANK.match(name):
            yield status(None, os.path.join(folder, name))
    for rank in sorted({found[1] for found in map(GOING.match, names) if found} - set(names)):
        what = "not all of it is removed: ddp-orch prune %s" % os.path.basename(folder)
        yield dict(blank(os.path.join(folder, rank), what), state="forgotten")


def status(call: Call | None, folder: str) -> dict[str, Any]:
    """Report one node's folder. Whatever is in there, it hides no other."""
    told = blank(folder)
    try:
        if not os.path.lexists(folder):
            return dict(told, state="absent")
        files.private(folder)
        told["last_log_age"] = last_log_age(folder)
        # What it says first, then what is written: at the run's end exit.json comes in between.
        state = record.state_of(folder)
        told["record"] = record.read(folder, record.RUN)
        told["here"] = bool(told["record"]) and told["record"].get("place") == record.place()
        told["stop"] = record.read(folder, record.STOP) or stopping(folder)
        told["exit"] = record.last_word(folder)
        told["problem"] = problem(told["record"]) if state == "unreadable" else None
        if state == "lost":
            told["problem"] = "its supervisor and guard were killed; what is left runs on unwatched"
        told["ranks_alive"] = ranks_alive(folder) if state in ("running", "lost") else 0
        told["root_alive"] = state == "lost" and record.is_alive(told["record"]["root"])
        told["state"] = state
    except Exception as error:
        told["problem"] = words_of(error)
    return told


def blank(folder: str, problem: str | None = None) -> dict[str, Any]:
    return {
        "folder": folder,
        "state": "unreadable",
        "here": False,
        "record": None,
        "exit": None,
        "stop": None,
        "ranks_alive": 0,
        "root_alive": False,
        "last_log_age": None,
        "problem": problem,
    }


def problem(found: dict[str, Any] | None) -> str:
    """Say of what cannot be read what can be done."""
    version = found.get("version") if found else 0
    if version == 0:
        return OLDER
    if isinstance(version, int) and version > record.VERSION:
        return "written by a newer ddp-orch (state version %d): use that one" % version
    return "its records make no sense"


def stopping(folder: str) -> dict[str, Any] | None:
    """Return why its supervisor stopped it with nobody asking: a failure, here or elsewhere."""
    begun = (entry for entry in record.entries(folder) if entry["event"] == "stopping")
    return next(begun, None)


def ranks_alive(folder: str) -> int:
    """Count the workers of the last round that live."""
    rows: Any = []
    for entry in record.entries(folder):
        if entry["event"] == "workers":
            rows = entry["workers"]
    return sum(map(lives, rows))


def lives(row: dict[str, Any]) -> bool:
    process = processes.find(row["pid"])
    return process is not None and not process.dead and row.get("start") in (None, process.start)


def last_log_age(folder: str) -> float | None:
    """Return how long nobody has written a line; None where nobody ever did."""
    newest = None
    for path in log_files(folder):
        try:
            found = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_size:
            newest = max(newest or 0.0, found.st_mtime)
    # On a shared home it is another machine's clock that says when.
    return None if newest is None else max(0.0, time.time() - newest)


def log_files(folder: str) -> Iterator[str]:
    for place in (folder, *record.setups(folder)):
        for name in outputs.names(place):
            yield os.path.join(place, name)


def words_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return "%s: %s" % (error.filename, error.strerror)
    if isinstance(error, OSError):
        return str(error)
    return "its records make no sense: %s" % (str(error) or type(error).__name__)


# ---- forgetting ----


def forget(call: Call, folder: str, old: bool = False) -> None:
    """Remove what a run that is over has left in its node's folder, and the run's own if empty.

    What could not be removed is told, and asked for again it is tried again.
    `old`: also what is of the version without records, which says of no run whether it is over.
    """
    run, rank = os.path.split(folder)
    runs, name = os.path.split(run)
    if not (RANK.match(rank) and files.RUN_NAME.match(name) and os.path.basename(runs) == "runs"):
        raise ValueError("%s is no run's folder" % folder)
    for place in (os.path.dirname(runs), runs, run):
        if not os.path.lexists(place):
            return  # forgotten already, perhaps by a host with the same home
        files.private(place)
    if os.path.lexists(folder):
        files.private(folder)
        refuse_what_is_not_over(folder, name, old)
        # At once for who looks meanwhile: half a folder would look like a run of an older version.
        os.rename(folder, os.path.join(run, ".forgotten-%s-%s" % (rank, os.urandom(4).hex())))
    left_there = []
    for going in outputs.listed(run):
        found = GOING.match(going)
        if found and found[1] == rank:
            try:
                remove(os.path.join(run, going))
            except OSError as error:
                left_there.append("%s: %s" % (os.path.join(run, going), words_of(error)))
    if left_there:
        raise RuntimeError("not all of it can be removed: %s" % "; ".join(left_there))
    with contextlib.suppress(OSError):  # other nodes' folders are in it
        os.rmdir(run)


def refuse_what_is_not_over(folder: str, name: str, old: bool) -> None:
    told = status(None, folder)
    if told["state"] == "unreadable":
        if not (old and told["problem"] == OLDER):
            raise RuntimeError("%s is kept: %s" % (folder, told["problem"]))
    elif told["state"] not in OVER:
        raise RuntimeError("run %s is not over here (%s), and is kept" % (name, told["state"]))
    for who in left(told):
        raise RuntimeError("pid %(pid)s (%(name)s) of it still lives; it is kept" % who)


def remove(folder: str) -> None:
    """Remove all of a folder that can be; raise an OSError where something of it stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        shutil.rmtree(folder)  # which says why


def left(told: dict[str, Any]) -> List[dict[str, Any]]:
    """List those who could not be ended and are still there."""
    if not told["exit"] or not told["record"] or not record.is_here(told["record"]):
        return []
    survivors = told["exit"].get("survivors", [])
    return [who for who in survivors if record.is_alive([who["pid"], who["start"]])]
