"""The run's folder on a host, and what is put into it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")
# What a run writes before its first worker has said anything, and a little to spare.
ROOM = 1 << 18


def run_folder(run: str, node: int, state_dir: str) -> str:
    """Where a run keeps its things: one folder per node, as several hosts may share one home."""
    if not RUN_NAME.match(run) or not isinstance(node, int):
        raise ValueError("not a run's name: %r" % run)
    return os.path.join(base_of(state_dir), "runs", run, str(node))


def base_of(state_dir: str) -> str:
    base = os.path.expanduser(state_dir)
    if not os.path.isabs(base):
        raise ValueError("%s is no absolute path (HOME is %r)" % (base, os.environ.get("HOME")))
    return base


def try_out(call: Call, state_dir: str) -> dict[str, Any]:
    """Try whether runs' folders can be made and written to. Nothing stays."""
    try:
        base = base_of(state_dir)
        for folder in (base, os.path.join(base, "runs")):
            if os.path.lexists(folder):
                private(folder)
        # Where it is still to be made, what it will be made in is tried.
        place = base if os.path.lexists(base) else os.path.dirname(base.rstrip("/"))
        if not os.path.isdir(place):
            return {"problem": "there is no folder %s to make it in" % place}
        trial = os.path.join(place, ".ddp-orch-" + os.urandom(6).hex())
        os.mkdir(trial, 0o700)
        try:
            write_and_remove(os.path.join(trial, "trial"))
        finally:
            os.rmdir(trial)
        free = os.statvfs(place)
    except OSError as error:
        return {"problem": error.strerror or str(error)}
    except ValueError as error:
        return {"problem": str(error)}
    return {
        "problem": None,
        "free": free.f_bavail * free.f_frsize,
        "total": free.f_blocks * free.f_frsize,
    }


def write_and_remove(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        data = memoryview(os.urandom(ROOM))
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(path)


def private(place: str) -> None:
    """No symlink, nobody else's, not writable by others: else someone could slip us his files."""
    found = os.lstat(place)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError("%s is a link or a file, no folder" % place)
    if found.st_uid != os.geteuid():
        raise PermissionError("%s belongs to %s" % (place, user_name(found.st_uid)))
    if found.st_mode & 0o022:
        raise PermissionError("%s may be written to by others: chmod go-w" % place)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_way(folder: str, path: str) -> None:
    """Make folder/path with all on the way there private; makedirs would make but the last one."""
    for part in path.split("/") if path else ():
        folder = os.path.join(folder, part)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)


def home_or_root() -> str:
    """Return where to start what needs no folder: a home may be missing, or not be mounted yet."""
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"


def put(call: Call, folder: str, path: str, mode: int = 0o600) -> None:
    """Write the request's body to folder/path."""
    target = os.path.join(folder, path)
    if os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError("%r leads out of the run's folder" % path)
    make_way(folder, os.path.dirname(path))
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(call.body)
