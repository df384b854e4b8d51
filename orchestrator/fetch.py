"""Bring a run's raw log files to a folder here, byte for byte, and go on with what was begun."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import DdpOrchError, HostError, UsageError
from orchestrator.fleet import Arrived, Finished, Lost
from orchestrator.loglines import file_called, name_there, selects
from orchestrator.logs_here import files_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.fleet import Fleet
    from orchestrator.logfiles import LogFile
    from orchestrator.loglines import Wanted
    from orchestrator.logs_here import Subject

CHUNK = 1 << 20
# To read again what was brought already, and compare it, on a slow disk there.
COMPARE = 600.0


@dataclass(frozen=True, kw_only=True)
class Brought:
    folder: Path
    files: int
    bytes: int
    """New ones; of files that were begun already there are more."""


class Folder:
    """Where the files go. Their names are ours: no host chooses where anything is written."""

    def __init__(self, path: Path | None, subject: Subject) -> None:
        self.path = path or Path(f"{subject.name}-logs")
        self._workers = subject.workers
        self._files: set[LogFile] = set()
        self._new = 0

    def begun(self, files: Iterable[LogFile]) -> dict[LogFile, int]:
        """Return those of the files that are here, and how long they are."""
        found = {}
        for file in files:
            try:
                there = self._target(file).lstat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._refused(file, error.strerror or str(error)) from None
            if not stat.S_ISREG(there.st_mode):
                raise self._refused(file, "is there already, and is no file")
            found[file] = there.st_size
        return found

    def _target(self, file: LogFile) -> Path:
        return self.path / file.here(self._workers)

    def _refused(self, file: LogFile, why: str) -> UsageError:
        hint = "choose another folder with --to, or move that one away"
        return UsageError(f"{self._target(file)}: {why}", hint=hint)

    def is_another(self, file: LogFile) -> UsageError:
        return self._refused(file, "is there already, and is not the beginning of this log")

    def digest(self, file: LogFile) -> str:
        with self._target(file).open("rb") as opened:
            seen = hashlib.sha256()
            while data := opened.read(CHUNK):
                seen.update(data)
        return seen.hexdigest()

    def add(self, file: LogFile, offset: int, data: bytes) -> None:
        """Write what comes next of a file; each begins empty, or as it was found."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            descriptor = os.open(self._target(file), flags, 0o600)
            with os.fdopen(descriptor, "ab", buffering=0) as opened:
                if os.fstat(descriptor).st_size != offset:
                    raise self.is_another(file)
                self._files.add(file)
                while data:
                    written = opened.write(data)
                    self._new += written
                    data = data[written:]
        except OSError as error:
            raise UsageError(f"{self._target(file)}: {error.strerror}") from None

    @property
    def brought(self) -> Brought:
        return Brought(folder=self.path, files=len(self._files), bytes=self._new)


def copied(subject: Subject, wanted: Wanted, path: Path | None) -> Brought:
    """Copy the files from the record here."""
    folder = Folder(path, subject)
    files = files_here(subject, subject.hosts, wanted)
    begun = folder.begun(files)
    for file, size in begun.items():
        if size > files[file].stat().st_size or _digest(files[file], size) != folder.digest(file):
            raise folder.is_another(file)
    for file, source in files.items():
        with source.open("rb") as opened:
            opened.seek(begun.get(file, 0))
            folder.add(file, opened.tell(), b"")
            while data := opened.read(CHUNK):
                folder.add(file, opened.tell() - len(data), data)
    return folder.brought


def fetched(
    fleet: Fleet,
    subject: Subject,
    wanted: Wanted,
    path: Path | None,
    say: Callable[[DdpOrchError], None],
) -> tuple[Brought, dict[str, DdpOrchError]]:
    """Bring the files from the hosts; a host that is lost on the way keeps none from the others."""
    folder = Folder(path, subject)
    nodes = {node.host: node for node in subject.asked}
    files = {host: [f for f in subject.seen[host] if selects(wanted, f)] for host in nodes}
    begun = {host: folder.begun(files[host]) for host in nodes}
    _refuse_others(fleet, subject, folder, begun)
    failed: dict[str, DdpOrchError] = {}
    going = set()
    for host, node in nodes.items():
        for file in files[host]:
            folder.add(file, begun[host].get(file, 0), b"")
        cursors = {name_there(file): size for file, size in begun[host].items()}
        try:
            fleet.stream(
                host, "logs.read", {"folder": node.folder, **wanted.as_args(), "cursors": cursors}
            )
            going.add(host)
        except HostError as error:
            failed[host] = error
    while going:
        match fleet.next(0.5):
            case Arrived(host, {"file": name, "offset": offset}, body) if host in going:
                if (its := file_called(name, nodes[host].rank)) is not None:
                    folder.add(its, offset, body)
            case Finished(host, _, why) | Lost(host, why) if host in going:
                going.discard(host)
                if why:
                    failed[host] = why
            case _:
                pass
    for each in failed.values():
        say(each)
    return folder.brought, failed


def _refuse_others(
    fleet: Fleet, subject: Subject, folder: Folder, begun: dict[str, dict[LogFile, int]]
) -> None:
    """Refuse files that are here already, and are not the beginnings of the hosts'."""
    asked = {}
    for node in subject.asked:
        for file, size in begun[node.host].items():
            if size > subject.seen[node.host][file]:
                raise folder.is_another(file)
        told = {name_there(f): (size, folder.digest(f)) for f, size in begun[node.host].items()}
        if told:
            asked[node.host] = {"folder": node.folder, "begun": told}
    for host, answer in fleet.ask("logs.differing", asked, COMPARE).items():
        if isinstance(answer, DdpOrchError):
            raise answer
        others = [file for file in begun[host] if name_there(file) in answer]
        if others:
            raise folder.is_another(others[0])


def _digest(path: Path, size: int) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as opened:
        while size and (data := opened.read(min(CHUNK, size))):
            seen.update(data)
            size -= len(data)
    return seen.hexdigest()
