"""Clocks that are wrong, for what is started over ssh: a host of these has the machine's clock."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts.processes import command

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

SOURCE = Path(__file__).with_name("clock.c")


def set_back(cluster: Cluster, host: NsHost, seconds: int) -> None:
    """Let all that sshd starts there believe that it is so much earlier; until restored."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: `sudo apt-get install gcc libc6-dev`")
    shim = cluster.folder / "clock.so"
    if not shim.exists():
        command(compiler, "-shared", "-fPIC", "-O1", "-o", shim, SOURCE, "-ldl")
    host.restart_sshd({"SetEnv": f"LD_PRELOAD={shim} CLOCK_BEHIND={seconds}"})
    right = next(other for other in cluster.hosts if other is not host)
    asked = (right, host, right)
    before, there, after = (int(cluster.ssh(each, "date +%s").stdout) for each in asked)
    assert before - 1 <= there + seconds <= after + 1, "it is"
