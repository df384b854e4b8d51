"""Runs as this machine remembers them: the plan, every event, every byte that a worker wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orchestrator.errors import DdpOrchError, UsageError
from orchestrator.events import Event, Logged, Planned, encode

if TYPE_CHECKING:
    from orchestrator.state import RunState


def state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    chosen = os.environ.get("DDP_ORCH_STATE_DIR") or f"{base}/ddp-orch"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:  # how pathlib says that there is no home
        raise UsageError(
            "this user has no home folder to keep runs in",
            hint="set DDP_ORCH_STATE_DIR to a folder that you may write to",
        ) from None


def taken(name: str) -> bool:
    return (state_dir() / "runs" / name).exists()


def keep_report(text: str) -> Path | None:
    """Write down what went wrong in the program itself, where that is possible."""
    with contextlib.suppress(OSError, DdpOrchError):
        path = state_dir() / f"error-{int(time.time())}.txt"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        # What is no text, such as the name of a file, must not raise once more.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path
    return None


class RunStore:
    """Writes one run's record; 0700 and 0600, as workers may print what is not for everyone.

    The record begins with the plan: a run that its preflight stopped leaves none.
    """

    def __init__(self, name: str) -> None:
        self.folder = state_dir() / "runs" / name
        self.logs = self.folder / "logs"
        self._before: list[Event] | None = []
        runs = self.folder.parent
        try:
            runs.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Said now, and not when the hosts are ready to start.
            if not os.access(runs, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UsageError(
                f"no record of the run can be kept in {runs}: {error.strerror}",
                hint="set DDP_ORCH_STATE_DIR to a folder that you may write to",
            ) from None
        self._files: dict[str, IO[bytes]] = {}

    def keep(self, event: Logged) -> None:
        """Keep what was written byte for byte, secrets and all: these files are private."""
        self._append(f"logs/{log_name(event)}", event.data)

    def __call__(self, event: Event, state: RunState) -> None:
        if isinstance(event, Logged):
            return
        if self._before is None:
            self._write(event)
        else:
            self._before.append(event)
            if isinstance(event, Planned):
                self._begin()

    def _begin(self) -> None:
        self.logs.mkdir(mode=0o700, parents=True)
        for folder in (self.folder.parent, self.folder):
            folder.chmod(0o700)
        before, self._before = self._before or [], None
        for event in before:
            self._write(event)

    def _write(self, event: Event) -> None:
        self._append("events.jsonl", encode(event).encode() + b"\n")

    def _append(self, name: str, data: bytes) -> None:
        file = self._file(name)
        while data:
            data = data[file.write(data) :]  # a raw write may be short

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            path = self.folder / name
            # Unbuffered: what was shown is on the disk, also when the machine goes down.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._files[name] = os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0)
        return self._files[name]

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def log_name(event: Logged) -> str:
    """Name the file of a stream: per rank; a later round of workers gets files of its own."""
    if event.setup is not None:
        return f"node{event.node}.setup{event.setup}.{event.stream}"
    if event.rank is None:
        return f"node{event.node}.torchrun.{event.stream}"
    turn = f".round{event.round}" if event.round else ""
    return f"rank{event.rank}{turn}.{event.stream}"
