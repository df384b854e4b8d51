"""A folder that cannot be removed, by whoever tries."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def obstructed(folder: Path) -> Iterator[None]:
    """Have something in `folder` that stays, whatever that is called by then, and two that can go.

    For root it is a mount; for others a file where they may not write.
    """
    (folder / "a").mkdir()
    (folder / "z").mkdir()
    stays = folder / "m" / "stays"
    stays.mkdir(parents=True)
    there = os.open(stays if os.geteuid() == 0 else stays.parent, os.O_RDONLY)
    try:
        if os.geteuid():
            os.fchmod(there, 0o500)
            yield
            os.fchmod(there, 0o700)
            return
        if subprocess.run(["mount", "-t", "tmpfs", "none", stays], check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            yield
        finally:
            subprocess.run(["umount", Path(f"/proc/self/fd/{there}").readlink()], check=True)
    finally:
        os.close(there)
