"""What lies between a look at the hosts and a run."""

from __future__ import annotations

import pytest

from inventory.model import Host, Inventory, Rendezvous
from orchestrator.errors import PreflightFailed
from orchestrator.facts import ClusterFacts
from orchestrator.plan import Program, RunPlan, make_plan
from orchestrator.run import _refuse_gaps
from tests.test_plan import facts


def planned(host: Host, found: object) -> RunPlan:
    return make_plan(
        Inventory(hosts=(host,), rendezvous=Rendezvous(port=29400)),
        Program(target="t.py"),
        name="r",
        token="t",
        max_restarts=0,
        env={},
        cluster=ClusterFacts(hosts=("a",), ssh={}, facts={"a": found}),
    )


def test_a_host_that_told_nothing_starts_nothing_though_the_inventory_says_the_rest():
    host = Host(name="a", addr="10.0.0.1", nproc_per_node=2)
    _refuse_gaps(planned(host, facts("10.0.0.1")))
    with pytest.raises(PreflightFailed, match="a: it did not tell its facts in time"):
        _refuse_gaps(planned(host, "no answer in 30 s"))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (Host(name="a"), "a: no address is known"),
        (Host(name="a", addr="10.0.0.1", nproc_per_node="gpu"), "a: has no GPU"),
    ],
)
def test_gaps_that_the_inventory_can_fill(host, message):
    with pytest.raises(PreflightFailed, match=message):
        _refuse_gaps(planned(host, facts("10.0.0.1")))
