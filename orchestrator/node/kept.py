"""A lock in a run's folder that its keepers hold: whether they live in another container.

Two containers on one kernel may have one name, one machine-id and one home, and in each the pids of
the other mean nothing. Supervisor and guard hold one lock together, until both are gone; the kernel
frees it. A file server may have no locks, or not answer: then nothing is known, and nobody waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

LOCK = ".kept"
# A file server may take its time even where nothing is to be waited for.
PATIENCE = 2.0


def hold(folder: str) -> None:
    """Hold it as long as this process lives, or one that it forks; what these execute has it not.

    Whoever looks finds no file, or one that is held already.
    """
    path = os.path.join(folder, "%s.%s" % (LOCK, os.urandom(6).hex()))
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        if locked(descriptor, fcntl.LOCK_EX):
            os.rename(path, os.path.join(folder, LOCK))
        else:
            os.unlink(path)


def is_held(folder: str) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(os.path.join(folder, LOCK), flags)
    except OSError:
        return False
    got = locked(descriptor, fcntl.LOCK_SH)  # two who ask are not in each other's way
    if got is not None:
        os.close(descriptor)  # else somebody is still at it
    return got is False


def locked(descriptor: int, kind: int) -> bool | None:
    """Say whether the lock could be had, at once; None where that is not known."""
    got: list[bool | None] = []

    def lock() -> None:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            got.append(True)
        except BlockingIOError:
            got.append(False)
        except OSError:
            got.append(None)

    thread = threading.Thread(target=lock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return got[0] if got else None
