"""Where this machine keeps what it remembers, and that nobody else can put anything there."""

from __future__ import annotations

import getpass
import os
import socket
import stat
from pathlib import Path

from orchestrator.errors import UsageError

HINT = "set DDP_ORCH_STATE_DIR to a folder that you alone may write to"


def state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    chosen = os.environ.get("DDP_ORCH_STATE_DIR") or f"{base}/ddp-orch"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:  # how pathlib says that there is no home
        raise UsageError("this user has no home folder to keep runs in", hint=HINT) from None


def runs_folder() -> Path:
    """Return the folder of all runs' records, which may still be to be made.

    No symlink, nobody else's, not writable by others: else someone could slip us his records.
    """
    base = state_dir()
    for place in (base, base / "runs"):
        try:
            if problem := open_to_others(place):
                raise UsageError(f"no records are kept in {place}: {problem}", hint=HINT)
        except OSError as error:
            what = f"no records can be kept in {place}: {error.strerror}"
            raise UsageError(what, hint=HINT) from None
    return base / "runs"


def open_to_others(place: Path) -> str | None:
    """Say why a folder is not private to us; None where it is, or is not there."""
    try:
        found = place.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file, no folder"
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    if found.st_mode & 0o022:
        return f"others may write to it: chmod go-w {place}"
    return None


def who_we_are() -> str:
    """Name this user and machine, for those who find a run of ours."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
