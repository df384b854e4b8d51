"""A whole run between hosts that have no IPv4: ssh, rendezvous, and what the workers say."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.hosts.processes import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

# Of the range for documentation: it leads nowhere.
OURS = "2001:db8:78::1/64"


@pytest.fixture
def only_ipv6(cluster: Cluster) -> Iterator[dict[str, NsHost]]:
    """Two hosts by their one address."""
    hosts = {f"2001:db8:78::{i}0": host for i, host in enumerate(cluster.hosts[:2], 1)}
    command("ip", "-n", cluster.netns, "addr", "add", OURS, "dev", "br0", "nodad")
    for address, host in hosts.items():
        command("ip", "-n", host.netns, "-4", "addr", "flush", "dev", "eth0")
        command("ip", "-n", host.netns, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    yield hosts
    command("ip", "-n", cluster.netns, "addr", "del", OURS, "dev", "br0")
    for address, host in hosts.items():
        command("ip", "-n", host.netns, "addr", "del", f"{address}/64", "dev", "eth0")
        command("ip", "-n", host.netns, "addr", "add", f"{host.address}/24", "dev", "eth0")


@pytest.mark.slow
def test_training_over_ipv6_alone(cluster: Cluster, only_ipv6: dict[str, NsHost]) -> None:
    keys = [
        f"{address} {host.known_hosts_line().split(' ', 1)[1]}"
        for address, host in only_ipv6.items()
    ]
    cluster.known_hosts.write_text("".join(keys))
    document = yaml.safe_load(cluster.inventory(list(only_ipv6.values())).read_text())
    for host, address in zip(document["hosts"], only_ipv6, strict=True):
        host["ssh"] = f"root@[{address}]"
    document["job"] = {"args": ["--steps", "3"]}
    path = cluster.home / "v6.yaml"
    path.write_text(yaml.safe_dump(document))
    done = cluster.run([sys.executable, "-m", "orchestrator", "up", path], timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rendezvous at [2001:db8:78::10]:" in done.stdout
    assert "parameters: equal on 2 ranks" in done.stdout
