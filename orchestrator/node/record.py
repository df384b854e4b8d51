"""What is written down of one node of a run, and what state it tells of.

run.json    who and where: written before anything is started, completed by the supervisor
claim       made by whoever starts the supervisor: of two only one can
stop.json   somebody wants the end; what is stopped before it starts never does
exit.json   the end
.kept       locked by who keeps it; see kept.py
peers.json  where the head's supervisor listens: {"address", "port"}; put there once it does
journal     what happened on the way, a JSON line each

Homes are often shared between hosts, and hosts start anew: `place` says which kernel, and which
container on it, the pids are those of.
"""

from __future__ import annotations

import json
import os
import stat
import time

from . import kept, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
PEERS = "peers.json"
RUN, CLAIM, STOP, EXIT, JOURNAL = "run.json", "claim", "stop.json", "exit.json", "journal.jsonl"
LARGEST = 1 << 20
# What a supervisor that is started may take to say who it is, in seconds.
STARTING = 30.0


def here() -> dict[str, str]:
    return {"place": place(), "machine": "%s %s" % (os.uname().nodename, machine_id())}


def place() -> str:
    # A container that is started anew may get the number that its namespace had before.
    first = processes.find(1)
    started = first.start if first else 0  # /proc may hide it
    with open("/proc/sys/kernel/random/boot_id") as file:
        return "%s %s %d" % (file.read().strip(), os.readlink("/proc/self/ns/pid"), started)


def is_here(known: dict[str, Any]) -> bool:
    """Whether a record is about this kernel and container, as far as both could tell."""
    ours, theirs = place().split(), str(known["place"]).split()
    # Where /proc hid the first process from one of them, when that began says nothing.
    known_parts = 2 if "0" in (ours[-1], theirs[-1]) else 3
    return ours[:known_parts] == theirs[:known_parts]


def machine_id() -> str:
    try:
        with open("/etc/machine-id") as file:
            return file.read(64).strip()
    except OSError:
        return ""


# ---- files ----


def write(folder: str, name: str, value: dict[str, Any]) -> None:
    """Write a record whole or not at all."""
    temporary = os.path.join(folder, ".%s.%s" % (name, os.urandom(6).hex()))
    try:
        with open(temporary, "w", encoding="utf-8", opener=private) as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, os.path.join(folder, name))
    except BaseException:  # whatever ended it, no half of a record stays
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def read(folder: str, name: str) -> dict[str, Any] | None:
    """Return a record; None where there is none. Raise ValueError where it makes no sense."""
    try:
        descriptor = os.open(
            os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("%s is no file" % name)
        value = json.loads(file.read(LARGEST))
    if not isinstance(value, dict):
        raise ValueError("%s is no record" % name)  # noqa: TRY004  as any other nonsense
    return value


def claim(folder: str) -> bool:
    """Say whether the supervisor is ours to start."""
    try:
        descriptor = os.open(
            os.path.join(folder, CLAIM), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
        )
    except FileExistsError:
        return False
    os.close(descriptor)
    return True


def is_claimed(folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, CLAIM))


# ---- what they tell ----


def state_of(folder: str) -> str:
    """Name the state of a run's node, or of a setup command's folder."""
    if not os.path.isdir(folder):
        return "absent"
    try:
        state = _state_of(folder)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "unreadable"
    # Where its end found no room for a record, the journal may have had some.
    unknown = state in ("lost", "rebooted", "elsewhere")
    return "ended" if unknown and told_end(folder) else state


def _state_of(folder: str) -> str:
    known = read(folder, RUN)
    # That they are there says all; who makes no sense of one has been told all the same.
    stopped, ended = (os.path.lexists(os.path.join(folder, name)) for name in (STOP, EXIT))
    claimed = is_claimed(folder)
    # It writes down who it is within a moment, or was killed before.
    claimed_now = claimed and age_of_claim(folder, known) < STARTING
    if known is None:
        # A tombstone alone: stopped before it was sent. Else it is of a version without records,
        # or a setup command's that is made at this moment.
        return "ended" if stopped else "starting" if claimed_now else "unreadable"
    if known["version"] != VERSION:
        return "unreadable"
    if ended:
        return "ended"
    if not is_here(known):
        return state_from_here(folder, known)
    if known["supervisor"] is None:
        if any(state_of(path) == "running" for path in setups(folder)):
            return "setting-up"
        if not claimed:
            return "ended" if stopped else "starting"
        return "starting" if claimed_now else "lost"
    if any(is_alive(known[who]) for who in ("supervisor", "guard")):
        return "running"
    # It may have ended between the two looks.
    return "ended" if os.path.lexists(os.path.join(folder, EXIT)) else "lost"


def state_from_here(folder: str, known: dict[str, Any]) -> str:
    """Tell a restart, of the host or of a container, from another container on this kernel."""
    if known["machine"] != here()["machine"]:
        return "elsewhere"
    same_kernel = str(known["place"]).split()[:1] == place().split()[:1]
    if same_kernel and any(map(kept.is_held, [folder, *setups(folder)])):
        return "elsewhere"
    return "rebooted"


def age_of_claim(folder: str, known: dict[str, Any] | None) -> float:
    """Say how long ago somebody began to start it.

    By this kernel's own clock, where that is known: a file server's may be another.
    """
    began: float | None = (known or {}).get("began")
    if began is not None:
        return time.monotonic() - began
    return abs(time.time() - os.lstat(os.path.join(folder, CLAIM)).st_mtime)


def is_alive(identity: list[int] | None) -> bool:
    return alive(identity) is not None


def alive(identity: list[int] | None) -> processes.Process | None:
    """Return the process that was written down, unless its pid is another's by now."""
    process = processes.find(identity[0]) if identity else None
    if process is None or identity is None:
        return None
    return process if process.start == identity[1] and not process.dead else None


def setups(folder: str) -> list[str]:
    """List the folders of a node's setup commands."""
    inner = os.path.join(folder, "setup")
    try:
        return [os.path.join(inner, name) for name in sorted(os.listdir(inner))]
    except OSError:
        return []


def journal_of(folder: str) -> str:
    return os.path.join(folder, JOURNAL)


def entries(folder: str) -> list[dict[str, Any]]:
    """Return the journal's whole lines; what makes no sense is left out."""
    found = []
    try:
        with open(journal_of(folder), "rb", opener=reading) as file:
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            found.append(entry)
    return found


def last_entry(journal: int) -> dict[str, Any]:
    """Return the journal's last entry; {} when it has none, or one that is only half written."""
    try:
        at = max(0, os.fstat(journal).st_size - (1 << 16))
        entry = json.loads(os.pread(journal, 1 << 16, at).splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return entry if isinstance(entry, dict) else {}


def told_end(folder: str) -> dict[str, Any] | None:
    """Return the end as the journal has it, if that is the last it tells."""
    try:
        with open(journal_of(folder), "rb", opener=reading) as file:
            entry = last_entry(file.fileno())
    except OSError:
        return None
    return entry if entry.get("event") == "ended" else None


def last_word(folder: str) -> dict[str, Any] | None:
    """Return how it ended: the exit record, or else what the journal has of it."""
    found = read(folder, EXIT)
    return told_end(folder) if found is None else found


def reading(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
