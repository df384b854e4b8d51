"""The run's folder on a host, and what is put into it."""

from __future__ import annotations

import os
import re
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent import Call

BASE = "~/.ddp-orch"
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")


def run_folder(run: str, node: int) -> str:
    """Where a run keeps its things: one folder per node, as several hosts may share one home."""
    if not RUN_NAME.match(run) or not isinstance(node, int):
        raise ValueError("not a run's name: %r" % run)
    return os.path.join(os.path.expanduser(BASE), "runs", run, str(node))


def prepare(call: Call, run: str, node: int) -> str:
    """Make the folder, private; refuse one that is there already. Return its path."""
    folder = run_folder(run, node)
    base = os.path.expanduser(BASE)
    for place in (base, os.path.join(base, "runs"), os.path.dirname(folder)):
        os.makedirs(place, mode=0o700, exist_ok=True)
        private(place)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        # Another machine's run, of which this controller's own record does not know.
        message = "%s is there already, from another run of that name; choose another --name"
        raise FileExistsError(message % folder) from None
    os.mkdir(os.path.join(folder, "worker-logs"), 0o700)
    return folder


def private(place: str) -> None:
    """No symlink, nobody else's, not writable by others: else someone could slip us his files."""
    found = os.lstat(place)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError("%s is not a private folder of this user's" % place)


def put(call: Call, folder: str, path: str, mode: int = 0o600) -> None:
    """Write the request's body to folder/path."""
    target = os.path.join(folder, path)
    if os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError("%r leads out of the run's folder" % path)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(call.body)
