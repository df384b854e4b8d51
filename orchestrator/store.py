"""Runs as this machine remembers them: the plan, every event, every byte that a worker wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import IO, TYPE_CHECKING

from orchestrator.errors import DdpOrchError, UsageError
from orchestrator.events import (
    Detached,
    Ended,
    Event,
    Launched,
    Listening,
    Logged,
    Looked,
    NodeEnded,
    Planned,
    SetupEnded,
    Stopping,
    WorkerEnded,
    WorkersUp,
    encode,
)
from orchestrator.folders import HINT, runs_folder, state_dir
from orchestrator.local_runs import (
    EVENTS,
    INVENTORY,
    LOCK,
    LOGS,
    MOMENT,
    OWNER,
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    event_of,
    lock,
    taken,
)
from orchestrator.logfiles import LogFile, log_file, log_name
from orchestrator.state import SETUP, TAIL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.state import RunState

# What the nodes' journals tell: whoever attaches reads them from their beginning, and all of these
# come again.
TOLD = (
    Launched,
    Listening,
    WorkersUp,
    WorkerEnded,
    NodeEnded,
    Stopping,
    SetupEnded,
)


def keep_report(text: str) -> Path | None:
    """Write down what went wrong in the program itself, where that is possible."""
    with contextlib.suppress(OSError, DdpOrchError):
        path = state_dir() / f"error-{int(time.time())}.txt"
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        path.touch(mode=PRIVATE_FILE)
        # What is no text, such as the name of a file, must not raise once more.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path
    return None


class RunStore:
    """Writes one run's record; 0700 and 0600, as workers may print what is not for everyone.

    The record begins with the plan: a run that its preflight stopped leaves none.
    """

    def __init__(self, name: str, inventory_json: str | None = None) -> None:
        """`inventory_json` says where the run's hosts are, for whoever asks for them later."""
        runs = runs_folder()
        self.folder = runs / name
        self.logs = self.folder / LOGS
        self._inventory_json = inventory_json
        self._before: list[Event] | None = []
        # Of a record that is gone on with: how much of it was there, and which nodes have told
        # nothing since.
        self._old = 0
        self._silent: set[int] = set()
        self._plan: Planned | None = None
        self._lock: int | None = None
        self._files: dict[str, IO[bytes]] = {}
        try:
            for place in (runs.parent, runs):
                place.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            # Said now, and not when the hosts are ready to start.
            if not os.access(runs, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            what = f"no record of the run can be kept in {runs}: {error.strerror}"
            raise UsageError(what, hint=HINT) from None

    @classmethod
    def adopt(cls, planned: Planned, inventory_json: str, owner: str) -> RunStore:
        """Begin a record of a run that was started from elsewhere."""
        if taken(planned.run):
            raise UsageError(
                f"there is a record of a run called {planned.run} already",
                hint=f"if that is another run: ddp-orch prune {planned.run}",
            )
        store = cls(planned.run, inventory_json)
        store._begin(planned)
        store._put(OWNER, owner.encode())
        store._write(planned)
        return store

    @classmethod
    def reopen(cls, name: str) -> RunStore | None:
        """Go on with a record; None where another controller that runs now writes it."""
        store = cls(name)
        try:
            store._lock = lock(store.folder / LOCK, MOMENT)
            if store._lock is None:
                return None
            store._before = None
            store.logs.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            data = (store.folder / EVENTS).read_bytes()
            store._old = len(data)
            store._plan = next((e for _, e in _events(data) if isinstance(e, Planned)), None)
            store._silent = set(range(len(store._plan.hosts))) if store._plan else set()
        except OSError as error:
            store.close()
            what = f"the record {store.folder} cannot be written to: {error.strerror}"
            raise UsageError(what, hint=f"look at it; or: ddp-orch prune {name}") from None
        return store

    @classmethod
    def note_end(cls, name: str, ended: Ended) -> None:
        """Add how a run ended, for which nobody here was attached; whoever is does so himself."""
        store = cls(name)
        try:
            store._lock = lock(store.folder / LOCK, MOMENT)
            if store._lock is not None:
                store._write(ended)
        finally:
            store.close()

    def _forget_what_comes_again(self, node: int) -> None:
        """Make room for what a node's host tells once more, from its beginning.

        Not before it does: its folder there may be gone for good. And never the end: of several the
        last one counts.
        """
        if node not in self._silent:
            return
        data = (self.folder / EVENTS).read_bytes()
        lines = list(_events(data[: self._old]))
        end = next((event for _, event in reversed(lines) if isinstance(event, Ended)), None)
        kept = b"".join(
            line
            for line, event in lines
            if not (isinstance(event, TOLD) and event.node == node)
            and not isinstance(event, Detached)
            and (event is end or not isinstance(event, Ended))
        )
        if file := self._files.pop(EVENTS, None):
            file.close()
        self._put(EVENTS, kept + data[self._old :].lstrip(b"\n"))
        self._old = len(kept)
        self._silent.discard(node)

    # ---- writing ----

    def keep(self, event: Logged) -> None:
        """Keep what was written byte for byte, secrets and all: these files are private."""
        if self._plan is None:
            return  # no record could be begun, and that has been told
        name = f"{LOGS}/{log_name(event, self._plan.workers)}"
        file = self._file(name)
        # The size says how far this file has come. What comes twice, as over two links, is kept
        # once; what the host itself has lost is a hole, lest all that follows be taken for it.
        size = os.fstat(file.fileno()).st_size
        if size < event.offset:
            os.ftruncate(file.fileno(), event.offset)
        _write_all(self.folder / name, file, event.data[max(0, size - event.offset) :])

    def __call__(self, event: Event, state: RunState) -> None:
        if isinstance(event, Logged | Looked):
            return
        if self._before is None:
            # Who attaches tells its own sinks of the plan again; it is the record's first line.
            if not isinstance(event, Planned):
                # That it ends may be our own word, of one that is not there any more.
                if isinstance(event, TOLD) and not isinstance(event, NodeEnded):
                    self._forget_what_comes_again(event.node)
                self._write(event)
            return
        self._before.append(event)
        if isinstance(event, Planned):
            before = self._before
            self._begin(event)
            for one in before:
                self._write(one)

    def _begin(self, planned: Planned) -> None:
        self.folder.mkdir(mode=PRIVATE_FOLDER)
        self._lock = lock(self.folder / LOCK, MOMENT)
        self.logs.mkdir(mode=PRIVATE_FOLDER)
        if self._inventory_json is not None:
            self._put(INVENTORY, self._inventory_json.encode())
        self._before, self._plan = None, planned

    def _write(self, event: Event) -> None:
        begun = EVENTS in self._files
        file = self._file(EVENTS)
        # Who wrote it before may have gone down, or found the disk full, at half a line.
        torn = not begun and _is_torn(file)
        _write_all(self.folder / EVENTS, file, b"\n" * torn + encode(event).encode() + b"\n")

    def _put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        temporary = self.folder / f".{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, PRIVATE_FILE), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.folder / name)

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            # Unbuffered: what was shown is on the disk, also when the machine goes down.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            descriptor = os.open(self.folder / name, flags, PRIVATE_FILE)
            self._files[name] = os.fdopen(descriptor, "ab", buffering=0)
        return self._files[name]

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- what is here already ----

    @property
    def _workers(self) -> tuple[int, ...]:
        return self._plan.workers if self._plan else ()

    def cursors(self, node: int, setup: int | None = None) -> dict[str, int]:
        """Return the files of a node, or of its setup command, as the host calls them: their sizes.

        So much of each is here; from there on it is to be read.
        """
        return {
            file.there: path.stat().st_size
            for file, path in self._log_files()
            if file.node == node and file.setup == setup
        }

    def tails(self) -> dict[tuple[int, int | None, str], bytes]:
        """Return the last words of each stream, as RunState has them: those of the last round."""
        tails = {}
        for file, path in sorted(
            self._log_files(), key=lambda each: (each[0].round, each[0].setup or 0)
        ):
            with path.open("rb") as opened:
                opened.seek(max(0, path.stat().st_size - TAIL_BYTES))
                rank = file.rank if file.setup is None else SETUP
                tails[file.node, rank, str(file.stream)] = opened.read(TAIL_BYTES)
        return tails

    def _log_files(self) -> Iterator[tuple[LogFile, Path]]:
        if self.logs.is_dir():
            for path in self.logs.iterdir():
                if not path.is_symlink() and (file := log_file(path.name, self._workers)):
                    yield file, path


def _events(data: bytes) -> Iterator[tuple[bytes, Event | None]]:
    """Read what is on record, but for lines that are none."""
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            yield line + b"\n", event_of(line)


def _is_torn(file: IO[bytes]) -> bool:
    size = os.fstat(file.fileno()).st_size
    return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"


def _write_all(path: Path, file: IO[bytes], data: bytes) -> None:
    try:
        while data:
            data = data[file.write(data) :]  # a raw write may be short
    except OSError as error:
        error.filename = str(path)  # a write knows no name, and who is told wants to make room
        raise
