"""What the file systems are like on which folders lie. Each call may hang as long as they do."""

from __future__ import annotations

import errno
import os
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A file server that went away, and came back without our file, or a FUSE program that died.
BROKEN = (errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.EHOSTDOWN, errno.ETIMEDOUT)
# What a file system says that knows no files without a name: NFS, FUSE, overlays on old kernels.
NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS)
if sys.platform == "linux":
    NOEXEC, NAMELESS = os.ST_NOEXEC, os.O_TMPFILE
else:
    NOEXEC, NAMELESS = 0, 0
SHOWS = ("0", "off")  # hidepid=, on old kernels and new
ESCAPED = re.compile(r"\\([0-7]{3})")


def look(path: str) -> dict[str, Any]:
    """Return what the file system says on which path lies, or will lie."""
    try:
        there = nearest(path)
        space = os.statvfs(there)
        return {
            "answered": True,
            "there": there == path,
            "device": os.stat(there).st_dev,
            "free": space.f_bavail * space.f_frsize,
            "total": space.f_blocks * space.f_frsize,
            "inodes_free": space.f_favail,
            "inodes": space.f_files,
            "read_only": bool(space.f_flag & os.ST_RDONLY),
            "noexec": bool(space.f_flag & NOEXEC),
            **mount_of(os.path.realpath(there)),
        }
    except OSError as error:
        return {
            "answered": True,
            "problem": error.strerror or str(error),
            "broken": error.errno in BROKEN,
        }


def nearest(path: str) -> str:
    """Return path, or the folder above it that is there."""
    while True:
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path.rstrip("/")) or "/"
        else:
            return path


def refusal(folder: str) -> str | None:
    """Say why nothing can be written there; by a file without a name, so that nobody sees it."""
    try:
        descriptor = os.open(folder, NAMELESS | os.O_WRONLY, 0o600)
    except OSError as error:
        if error.errno not in NO_NAMELESS:
            return errno.errorcode.get(error.errno or 0, "?")
        return None if os.access(folder, os.W_OK | os.X_OK) else "EACCES"
    try:
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    finally:
        os.close(descriptor)
    return None


def mount_of(path: str, table: str = "/proc/self/mountinfo") -> dict[str, str]:
    """Return what is mounted where path lies. It does not touch path: that may hang."""
    best = {"mount": "", "type": "", "source": ""}
    with open(table, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            point = unescaped(before.split(" ")[4])
            # Of two at one place the later lies above.
            if covers(point, path) and len(point) >= len(best["mount"]):
                kind, source = after.split(" ")[:2]
                best = {"mount": point, "type": kind, "source": unescaped(source)}
    return {name: text.encode("utf-8", "replace").decode() for name, text in best.items()}


def covers(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def unescaped(text: str) -> str:
    return ESCAPED.sub(lambda octal: chr(int(octal.group(1), 8)), text)


def hides_processes(table: str = "/proc/self/mountinfo") -> str | None:
    """Return how /proc is mounted where it shows a user his own processes alone."""
    hides: str | None = None
    with open(table, encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            if before.split(" ")[4] == "/proc":
                said = re.search(r"\bhidepid=(\w+)", after)
                hides = said.group() if said and said.group(1) not in SHOWS else None
    return hides
