"""The worst jobs there are, as workers of real runs: `down` leaves nothing of any of them."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.hosts.launched import USER, became, empty, launch
from tests.hosts.processes import until
from tests.workers import worker

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster

PORT = 23456
ZOO = {
    "n1": ["term_ignorer", "daemon", "renamed", "respawner", "stopped"],
    "n2": ["bomb,200,1", "orphan", "pipeline", "native", f"port_holder,{PORT - 4}"],
    "n3": ["hopper", "vforked", "leaderless", "checkpointer,600", "../stubborn"],
}
EACH = 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "kept"),
    [("root", True), ("root", False), (USER, True), (USER, False)],
    ids=["root", "root, supervisors dead", "ordinary user", "ordinary user, supervisors dead"],
)
def test_nothing_is_left_of_the_zoo(cluster: Cluster, user: str, kept: bool) -> None:
    """Every process of each host's pid namespace is looked at, from outside."""
    hosts = cluster.hosts
    if user == USER:
        for host in hosts:
            host.add_user(USER)
    animals = [animal for host in hosts for animal in ZOO[host.name]]
    keeper = [sys.executable, worker("zoo_keeper"), *animals]
    run = launch(
        cluster, "zoo", hosts, *keeper, user=user, defaults={"nproc_per_node": EACH}
    ).ready(EACH)
    until(lambda: len(cluster["n2"].pids()) > 150, "the bomb is there")
    if not kept:
        for host in hosts:
            for pid in run.keepers(host)[::-1]:  # the guard first: it would take over
                host.kill(pid)
    done = run.down("--grace", "1s")
    empty(*hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in hosts:
        assert became(done, host) == "down"
    assert done.stdout.endswith("run zoo: down\n")
    bound = f"import socket; socket.create_server(('', {PORT}))"
    again = cluster["n2"].run([sys.executable, "-c", bound])
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_torchrun_in_the_middle_of_an_all_reduce(cluster: Cluster) -> None:
    hosts = cluster.hosts[:2]
    run = launch(cluster, "reduce", hosts, sys.executable, worker("reduces")).ready()
    # One that waits for the other, in native code.
    hosts[1].kill(run.workers(hosts[1])[0], signal.SIGSTOP)
    done = run.down("--grace", "1s")
    empty(*hosts)
    assert done.returncode == 0, done.stdout + done.stderr
