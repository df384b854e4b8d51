"""What lies between a look at the hosts and a run."""

from __future__ import annotations

import pytest

from inventory.model import Host, Inventory, Rendezvous
from orchestrator.errors import PreflightFailed
from orchestrator.facts import ClusterFacts
from orchestrator.plan import Program, RunPlan, make_plan
from orchestrator.run import _refuse_gaps
from orchestrator.verbs.asked import named_by
from tests.test_plan import facts

ONE_GPU = Host(name="a", addr="10.0.0.1", gpus=(0,))
BY_ENV = Host(name="a", addr="10.0.0.1", env={"CUDA_VISIBLE_DEVICES": "0,1"})


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


@pytest.mark.parametrize("wanted", [None, "gpu", "auto"])
def test_a_number_of_workers_that_nobody_knows_is_not_taken_for_one(wanted):
    unknown = facts("10.0.0.1", gpus=None)
    with pytest.raises(PreflightFailed, match="a: how many GPUs it has is not known") as refused:
        _refuse_gaps(planned(Host(name="a", addr="10.0.0.1", nproc_per_node=wanted), unknown))
    assert "`nproc_per_node: 8`" in refused.value.hint
    for known in (Host(name="a", addr="10.0.0.1", nproc_per_node=4), ONE_GPU, BY_ENV):
        _refuse_gaps(planned(known, unknown))


def test_what_names_the_same_hosts_on_another_command_line(monkeypatch):
    monkeypatch.setenv("DDP_ORCH_INVENTORY", "of env.yaml")
    assert named_by("x.yaml", None) == "x.yaml"
    assert named_by(None, None) == "'of env.yaml'"
    assert named_by(None, ["gpu[1-2]", "me@b"]) == "-H 'gpu[1-2],me@b'"
