"""Hosts for tests: where the machine can have them, shared, and as good as new for each test."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts.cluster import Cluster
from tests.hosts.faults import Ground
from tests.hosts.host import SSHD
from tests.hosts.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PROGRAMS = ("ssh", "ssh-keygen", "ip", "nft", "unshare", "nsenter")
INSTALL = "sudo apt-get install openssh-server nftables iproute2 util-linux"


def missing() -> str | None:
    """Say why this machine cannot have hosts in namespaces, and what would enable them."""
    if sys.platform != "linux":
        return "needs Linux: network namespaces"
    if os.geteuid() != 0:
        return f"needs root: run as root, such as `sudo {sys.executable} -m pytest tests/hosts`"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    absent += [] if SSHD else ["sshd"]
    return f"needs {', '.join(absent)}: `{INSTALL}`" if absent else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = missing()
    if why and os.environ.get("DDP_ORCH_TEST_HOSTS") == "required":
        raise pytest.UsageError(f"DDP_ORCH_TEST_HOSTS=required, but: {why}")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.hosts)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts; whoever asks for them gets them clean, and has to leave nothing running."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _as_good_as_new(request: pytest.FixtureRequest) -> Iterator[None]:
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    yield
    # Faults go first: behind a dead link not even a well-behaved session can end.
    for host in cluster.hosts:
        host.nft_flush()
        host.link_up()
    left: dict[str, dict[int, str]] = {}
    try:
        # sshd's end of a connection outlives ours by a moment.
        until(lambda: not cluster.leftovers(), "nothing left on the hosts", seconds=10)
    except TimeoutError:
        left = cluster.leftovers()
    cluster.restore()
    assert not left, f"the test left processes: {left}"


@pytest.fixture
def ground(cluster: Cluster) -> Iterator[Ground]:
    """The shared hosts, for one to be broken: what is done to them is undone first."""
    with ExitStack() as undo:
        yield Ground(cluster, undo)
