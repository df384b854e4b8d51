"""The runs that this machine remembers: which there are, which is meant, and forgetting them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inventory.model import Inventory
from orchestrator.errors import NoSuchRun, UsageError
from orchestrator.events import Detached, Ended, Event, Planned, parse
from orchestrator.folders import HINT, runs_folder, who_we_are
from orchestrator.node.files import RUN_NAME
from orchestrator.node.reports import remove

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

EVENTS, LOGS, INVENTORY, LOCK, OWNER = "events.jsonl", "logs", "inventory.json", "lock", "owner"
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
# Looking whether a record is taken holds its lock for a moment.
MOMENT = 1.0
# How a record that is being removed is called.
GOING = ".forgotten-"
# Of a file system that has none, as some servers' have; then whoever asks gets it.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """A run's record on this machine."""

    name: str
    folder: Path
    owner: str
    mtime: float
    plan: Planned | None = None
    """None where the record is broken."""

    ended: Ended | None = None
    """None: it has not ended, or did so while nobody was attached."""

    detached: bool = False
    recording: bool = False
    """A controller that runs now writes it."""

    inventory: Inventory | None = None
    problem: str | None = None

    @property
    def logs_are_here(self) -> bool:
        """Whether it was watched to its end; who took it down unwatched left its logs there."""
        return bool(self.ended and self.ended.logs and not self.ended.unverified)

    @property
    def started(self) -> float:
        return self.plan.time if self.plan else self.mtime

    @property
    def ended_at(self) -> float | None:
        return self.started + self.ended.seconds if self.ended else None


def taken(name: str) -> bool:
    return os.path.lexists(runs_folder() / name)


def has_ended(name: str) -> bool:
    """Say whether that run is over by its record here, and nobody writes it any more."""
    return any(run.name == name and run.ended and not run.recording for run in known())


def known() -> list[LocalRun]:
    """Return all, the newest first; one that is broken is among them, and says so."""
    try:
        folders = list(runs_folder().iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        what = f"the records in {runs_folder()} cannot be read: {error.strerror}"
        raise UsageError(what, hint=HINT) from None
    found = [_read(folder) for folder in folders if RUN_NAME.match(folder.name)]
    return sorted((run for run in found if run), key=lambda run: run.started, reverse=True)


def find(wanted: str | None) -> LocalRun:
    """Return the run of that name, or whose name alone begins so; without a name the newest.

    Raise NoSuchRun where there is none, UsageError where more than one fits.
    """
    runs = known()
    if not runs:
        raise NoSuchRun(
            f"no run called {wanted} is known here" if wanted else "no run is known here",
            hint="those on the hosts: ddp-orch ps -i inventory.yaml",
        )
    if wanted is None:
        return runs[0]
    return runs[meant(wanted, [run.name for run in runs], "here")]


def meant(wanted: str, names: Sequence[str], where: str) -> int:
    """Return the index of the one name that is wanted, or begins so."""
    if wanted in names:
        return names.index(wanted)
    fitting = [name for name in names if name.startswith(wanted)] if wanted else []
    if len(set(fitting)) > 1:
        listed = ", ".join(sorted(set(fitting))[:8])
        raise UsageError(f"{wanted} fits more than one run: {listed}", hint="write more of it")
    if not fitting:
        called = f" called {wanted}" if wanted else ""
        raise NoSuchRun(
            f"no run{called} is known {where}",
            hint="ddp-orch ps lists those known here, ddp-orch ps -i inventory.yaml the hosts'",
        )
    return names.index(fitting[0])


def _read(folder: Path) -> LocalRun | None:
    try:
        if folder.is_symlink() or not folder.is_dir():
            return None
        changed = max(path.stat().st_mtime for path in (folder, folder / EVENTS) if path.exists())
    except OSError:
        return None  # forgotten at this moment
    plan, ended, detached, problem = None, None, False, None
    try:
        for event in _milestones(folder):
            match event:
                case Planned() if event.is_sound and event.run == folder.name:
                    plan = plan or event
                case Ended():
                    ended = event
                case Detached():
                    detached = True
                case _:
                    pass
    except OSError as error:
        problem = f"its record cannot be read: {error.strerror}"
    if plan is None:
        problem = problem or "its record is broken: no plan is in it"
    return LocalRun(
        name=folder.name,
        folder=folder,
        mtime=changed,
        owner=_text(folder / OWNER) or who_we_are(),
        plan=plan,
        ended=ended,
        detached=detached and not ended,
        recording=_is_locked(folder / LOCK),
        inventory=_inventory(folder / INVENTORY),
        problem=problem,
    )


def _milestones(folder: Path) -> Iterator[Event]:
    """Read the few events that say what became of a run, not all that happened."""
    starts = tuple(f'{{"event":"{kind}"'.encode() for kind in ("Planned", "Ended", "Detached"))
    with (folder / EVENTS).open("rb") as file:
        for line in file:
            if line.startswith(starts):
                with contextlib.suppress(ValueError):
                    event = event_of(line)
                    if event:
                        yield event


def event_of(line: bytes) -> Event | None:
    """Read a line of a record; None: of a later version.

    Raise ValueError where it is none, as a machine that went down may leave half of one.
    """
    try:
        return parse(line.decode())
    except (TypeError, KeyError, AttributeError, StopIteration, RecursionError) as error:
        raise ValueError(line) from error


def _inventory(path: Path) -> Inventory | None:
    try:
        return Inventory.model_validate_json(path.read_bytes())
    except (OSError, ValueError):  # of an older version, or broken: its hosts are not known
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:200].strip()
    except OSError:
        return ""


# ---- the lock ----


def lock(path: Path, patience: float = 0.0) -> int | None:
    """Take the record for as long as the descriptor is open; None where somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
        return descriptor


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


# ---- forgetting ----


def sweep() -> list[UsageError]:
    """Remove what is left of records that could not be removed wholly; return what stays."""
    failed = []
    for going in runs_folder().glob(f"{GOING}*"):
        try:
            _remove(going)
        except UsageError as error:
            failed.append(error)
    return failed


def _remove(going: Path) -> None:
    """Remove a folder that was renamed; what stays of it is hidden, and to be swept later."""
    try:
        remove(str(going))
    except FileNotFoundError:
        pass  # by another prune
    except OSError as error:
        what = f"not all of {going} can be removed: {error.filename}: {error.strerror}"
        hint = "look who owns it; the next `ddp-orch prune` tries it again"
        raise UsageError(what, hint=hint) from None


def forget(run: LocalRun) -> None:
    """Remove a run's record from this machine."""
    held = None
    try:
        held = lock(run.folder / LOCK, MOMENT)
        if held is None:
            raise UsageError(
                f"run {run.name} is being recorded by another ddp-orch; it is kept",
                hint=f"when that has ended: ddp-orch prune {run.name}",
            )
        # At once for who looks meanwhile: half a record would look like a broken one.
        going = run.folder.with_name(f"{GOING}{secrets.token_hex(6)}")
        run.folder.rename(going)
        _remove(going)
    except FileNotFoundError:
        pass  # by another prune
    except OSError as error:
        what = f"the record {run.folder} cannot be removed: {error.strerror}"
        raise UsageError(what, hint="look who owns it") from None
    finally:
        if held is not None:
            with contextlib.suppress(OSError):
                os.close(held)
