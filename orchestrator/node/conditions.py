"""What a host is like for those who work there: each part under its own deadline."""

from __future__ import annotations

import ctypes
import os

from . import disks, facts, limits, logind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .agent import Call

# A file server may have to wake its disks first; one that takes longer is as good as gone.
PATIENCE = 8.0
# All of glibc's categories. LC_ALL itself is 6.
EVERY_CATEGORY = 0x1FBF
# Of a root that is made anew at each start, from an image or a file server's folder for all.
IMAGES = ("overlay", "tmpfs", "rootfs", "squashfs", "nfs", "nfs4")
CONTAINER = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")


def gather(
    call: Call,
    state_dir: str,
    workdir: str | None = None,
    tmpdir: str | None = None,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    home = os.path.expanduser("~")
    folders = {
        "state": os.path.expanduser(state_dir),
        "tmp": tmpdir or os.environ.get("TMPDIR") or "/tmp",  # noqa: S108  looked at, not used
        "shm": "/dev/shm",  # noqa: S108
    }
    if workdir is not None:
        folders["workdir"] = os.path.join(home, os.path.expanduser(workdir))
    waiting = {
        role: looked_at(role, path, patience)
        for role, path in folders.items()
        if os.path.isabs(path)  # without a home it is not: files.try_out says so
    }
    parts: dict[str, Callable[[], Any]] = {
        "threads": limits.threads,
        "session": logind.ask,
        "locale": missing_locale,
        "hides": disks.hides_processes,
        "memory": limits.memory,
        "memory_groups": lambda: limits.groups("memory"),
        "pid_groups": lambda: limits.groups("pids"),
        "infiniband": limits.infiniband,
    }
    got = {name: facts.within(5.0, part) for name, part in parts.items()}
    return {
        "machine_id": machine_id(),
        "container": in_container(),
        "uid": os.getuid(),
        "limits": limits.own(),
        **{name: wait() for name, wait in got.items()},
        # Where it hangs, the table of mounts still knows what it is.
        "disks": {
            role: dict(disks.mount_of(folders[role]), path=folders[role], **wait())
            for role, wait in waiting.items()
        },
    }


def looked_at(role: str, path: str, patience: float) -> Callable[[], Any]:
    """Look, and beside it try to write: a disk that takes its time for that is not dead."""
    look = facts.within(patience, lambda: disks.look(path))
    if role == "state":
        return look  # files.try_out has a trial of its own
    trial = facts.within(patience, lambda: [disks.refusal(path)])

    def wait() -> dict[str, Any]:
        found: dict[str, Any] = look()
        if found.get("there"):
            tried = trial()
            late = not isinstance(tried, list)
            found.update(slow=late, refused=None if late else tried[0])
        return found

    return wait


def machine_id() -> str:
    try:
        return facts.read("/etc/machine-id").strip()
    except OSError:
        return ""


def in_container() -> bool:
    """Say whether this is made from an image, as its machine-id then is; not each kind is known."""
    return any(map(os.path.exists, CONTAINER)) or disks.mount_of("/")["type"] in IMAGES


def missing_locale() -> str | None:
    """Return the variable that names a locale which is not there, as perl and bash would say."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.newlocale.restype = ctypes.c_void_p
    libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    libc.freelocale.argtypes = [ctypes.c_void_p]
    # Not setlocale(): that would change how this process says its errors.
    made = libc.newlocale(EVERY_CATEGORY, b"", None)
    if made:
        libc.freelocale(made)
        return None
    names = ["LC_ALL", *sorted(name for name in os.environ if name.startswith("LC_")), "LANG"]
    for name in names:
        value = os.environ.get(name)
        if value:
            made = libc.newlocale(EVERY_CATEGORY, value.encode("utf-8", "surrogateescape"), None)
            if not made:
                return "%s=%s" % (name, value)
            libc.freelocale(made)
    return "LANG"
