"""What the faults that hurt most do to plain ssh and torchrun: the checks are of real things.

Each is what one sees who types the same torchrun into an ssh to every host. The names that it
needs are all there unless they are the fault; the first test shows that it works then.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts import test_faults_net as net
from tests.hosts.clock import set_back
from tests.hosts.faults import Ground  # noqa: TC001  for the fixtures
from tests.hosts.plain import PORT, torchrun
from tests.hosts.processes import until
from tests.workers import worker

if TYPE_CHECKING:
    from tests.hosts.plain import Node, Plain

pytestmark = pytest.mark.slow
# Torch's own is half an hour, and five minutes for the rendezvous: nobody waits that long here.
PATIENCE = 10
# What is waited for comes in under a minute on a free machine.
SLOW = 240
MANY = 1 << 20  # 4 MB of numbers


@pytest.fixture
def head(ground: Ground) -> str:
    """The head's name, on a cluster where all names are as they should be."""
    net.names(ground)
    return ground["n1"].hostname


def summed(run: Plain) -> list[Node]:
    """Return who got a result."""
    return [node for node in run.nodes if re.search(r"^sum \d", node.said, re.MULTILINE)]


def test_it_works_where_nothing_is_wrong(ground: Ground, head: str) -> None:
    with torchrun(ground.cluster, 200, MANY, head=head) as run:
        assert run.ended(SLOW), run.said
        assert run.codes == [0, 0, 0], run.said
        assert [node.said.count("sum 3 of 3") for node in run.nodes] == [1, 1, 1]


def test_own_name_on_127_0_1_1(ground: Ground) -> None:
    """As Debian's installer writes it: workers tell the others to meet them there."""
    net.own_name_is_127_0_1_1(ground)
    assert_nobody_is_met_at(ground, "127.0.1.1")


def assert_nobody_is_met_at(ground: Ground, address: str) -> None:
    with torchrun(ground.cluster, PATIENCE, 1, head=ground["n1"].hostname) as run:
        until(lambda: run["n2"].code and run["n3"].code, "two of them fail", SLOW)
        assert all("started in a world of 3" in node.said for node in run.nodes), run.said
        assert f"remote=[{address}]" in run.said
        assert "failed to connect" in run.said
        assert not summed(run)
        assert run["n1"].code != 0


def test_own_name_does_not_resolve(ground: Ground) -> None:
    """Although the head is given by its address."""
    net.no_name_resolves(ground)
    with torchrun(ground.cluster, PATIENCE, 1) as run:
        assert run.ended(SLOW), run.said
        assert run.codes == [1, 1, 1], run.said
        assert all("socket.gaierror" in node.said for node in run.nodes)
        assert "started" not in run.said


def test_one_way_block(ground: Ground, head: str) -> None:
    """All have started, and n1, whose ways are all open, fails like the others."""
    net.n3_cannot_dial_n2(ground)
    with torchrun(ground.cluster, PATIENCE, 1, head=head) as run:
        assert run.ended(SLOW), run.said
        assert 0 not in run.codes, run.said
        assert all("started in a world of 3" in node.said for node in run.nodes)
        assert not summed(run)
        assert "10.77.0.10" not in re.sub(r"addr=\[[^]]*\]", "", run["n1"].said), "no word of n2"


def test_docker0_on_every_host(ground: Ground) -> None:
    """Its address is the same everywhere, and a host's own name may be resolved to it."""
    net.docker0_is_everywhere(ground)
    assert_nobody_is_met_at(ground, "172.17.0.1")


def test_a_clock_20_seconds_behind(ground: Ground, head: str) -> None:
    """Three nodes were asked for; two train alone, and say that all is well."""
    set_back(ground.cluster, ground["n3"], 20)
    with torchrun(ground.cluster, 200, 1, head=head) as run:
        assert run.ended(SLOW), run.said
        assert run.codes[:2] == [0, 0], run.said
        assert run.codes[2] != 0, run.said
        assert [node.said.count("sum 2 of 2") for node in run.nodes] == [1, 1, 0], run.said


def test_large_packets_vanish(ground: Ground, head: str) -> None:
    """What is small passes, so all looks well until the first gradients."""
    net.large_packets_vanish(ground)
    with torchrun(ground.cluster, PATIENCE, 1, MANY, head=head) as run:
        assert run.ended(SLOW), run.said
        assert 0 not in run.codes, run.said
        assert all("sum 3 of 3: 1 numbers" in node.said for node in run.nodes), run.said
        assert f"{MANY} numbers" not in run.said
        assert re.search(r"Timed out waiting \d+ms", run.said), run.said


def test_the_port_is_held_by_a_stranger(ground: Ground, head: str) -> None:
    """Not a word from anybody."""
    net.serve(ground, ground["n1"], PORT)
    with torchrun(ground.cluster, PATIENCE, 1, head=head) as run:
        assert not run.ended(30)
        assert run.codes == [None, None, None]
        assert not re.search("started|rror", run.said), run.said


def test_a_torchrun_that_was_left_takes_part_in_the_next_run(ground: Ground, head: str) -> None:
    """It has a rank, and computes; a host of the new run has none, and fails."""
    first = {"hosts": [ground["n1"]], "nnodes": "3", "head": head}
    with torchrun(ground.cluster, 200, 1, **first) as old:
        until(lambda: net.is_open(ground, ground["n1"], PORT), "its store is there", SLOW)
        with torchrun(ground.cluster, 200, 1, head=head) as run:
            assert run.ended(SLOW), run.said
            assert "sum 3 of 3" in old["n1"].said, old.said
            assert len(summed(run)) == 2, run.said
            assert sorted(code or 0 for code in run.codes)[:2] == [0, 0], run.said
            assert [code for code in run.codes if code], run.said


def test_a_script_is_missing_on_one_host(ground: Ground, head: str) -> None:
    script = "/tmp/job/sums.py"
    for name in ("n1", "n2"):
        ground.undo.callback(ground[name].run, ["rm", "-rf", "/tmp/job"])
        ground[name].write(script, Path(worker("sums")).read_text())
    with torchrun(ground.cluster, 600, 1, head=head, script=script) as run:
        until(lambda: run["n3"].code, "n3 gives up", SLOW)
        assert "can't open file '/tmp/job/sums.py'" in run["n3"].said
        assert not run.ended(10), run.said
        assert [run["n1"].code, run["n2"].code] == [None, None], run.said
        assert not summed(run)
        assert "rror" not in run["n1"].said, "nobody there hears of it"


# Of torch one version alone is at hand: its drift leads to the same, but is not shown.
DRIFTED = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
print("started", flush=True)
for step in range(3):
    dist.all_reduce(torch.ones(4))
    {more}
print("sum 0", flush=True)
"""


def test_a_script_differs_on_one_host(ground: Ground, head: str) -> None:
    script = "/tmp/job/train.py"
    for host in ground:
        more = "" if host.name == "n3" else "dist.all_reduce(torch.ones(3))"
        ground.undo.callback(host.run, ["rm", "-rf", "/tmp/job"])
        host.write(script, DRIFTED.format(more=more))
    with torchrun(ground.cluster, head=head, script=script) as run:
        until(lambda: all("started" in node.said for node in run.nodes), "all have started", SLOW)
        assert not run.ended(10), run.said
        assert run.codes == [None, None, None], run.said
        assert not summed(run)
