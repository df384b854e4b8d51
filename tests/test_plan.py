"""Inventory and findings in, the plan out."""

from __future__ import annotations

import dataclasses
import random

import pytest

from inventory.model import Host, Inventory, Job, Rendezvous
from orchestrator.facts import ClusterFacts, Dialled, HostFacts, Interpreter, Listening, Network
from orchestrator.masking import Secret
from orchestrator.plan import (
    Program,
    bracketed,
    make_plan,
    run_name,
    worker_count,
)


def facts(
    *addresses: str, ssh: str = "", cores: int = 8, gpus: int | None = 0, build: str | None = None
) -> HostFacts:
    return HostFacts(
        hostname="h",
        boot_id="b",
        network_id=1,
        user="u",
        home="/home/u",
        cores=cores,
        gpus=gpus,
        addresses=tuple((f"eth{i}", address) for i, address in enumerate(addresses)),
        ssh_address=ssh,
        own_name=(),
        interpreter=Interpreter(build=build),
    )


def planned(inventory: Inventory, cluster: ClusterFacts | None = None, **more):
    chosen = {"name": "brave-otter", "token": "t0", "max_restarts": 0, "env": {}} | more
    return make_plan(inventory, Program(target="t.py"), cluster=cluster, **chosen)


# --- addresses ----------------------------------------------------------------------------------


def cluster(*hosts: str, **more) -> ClusterFacts:
    told = {
        host: Network(addresses=known.addresses, ssh_address=known.ssh_address)
        for host, known in more.get("facts", {}).items()
        if isinstance(known, HostFacts)
    }
    return ClusterFacts(hosts=hosts, ssh={}, networks=told, **more)


@pytest.mark.parametrize(("address", "text"), [("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")])
def test_bracketed(address, text):
    assert bracketed(address) == text


# --- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [
        (None, 0, 1),
        (None, None, None),
        ("auto", None, None),
        ("cpu", None, 8),
        (3, None, 3),
        (None, 4, 4),
        ("auto", 0, 8),
        ("auto", 2, 2),
        ("gpu", 2, 2),
        ("gpu", 0, 0),
        ("gpu", None, None),
        ("cpu", 4, 8),
        (3, 4, 3),
    ],
)
def test_worker_count(wanted, gpus, expected):
    assert worker_count(Host(name="h", nproc_per_node=wanted), facts(gpus=gpus), {}) == expected


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [
        (None, 8, 1),
        ("auto", 8, 16),
        ("cpu", 8, 16),
        (3, 8, 3),
        # And nobody needs to count what they would not see.
        (None, None, 1),
        ("auto", None, 16),
        # Said so, it is what is meant: it is a finding's to say that the torch is the wrong one.
        ("gpu", 8, 8),
        ("gpu", None, None),
    ],
)
def test_workers_of_a_torch_that_sees_no_gpu(wanted, gpus, expected):
    there = facts(gpus=gpus, build="cpu", cores=16)
    assert worker_count(Host(name="h", nproc_per_node=wanted), there, {}) == expected
    visible = {"CUDA_VISIBLE_DEVICES": "0,1"}
    if wanted in (None, "auto"):
        assert worker_count(Host(name="h", nproc_per_node=wanted), there, visible) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, None), ("gpu", None), ("cpu", None), ("auto", None), (3, 3)]
)
def test_worker_count_of_a_host_not_looked_at(wanted, expected):
    assert worker_count(Host(name="h", nproc_per_node=wanted), None, {}) == expected


@pytest.mark.parametrize(
    ("same_machine", "cores", "workers", "threads"),
    [
        (False, 8, (1, 2), (8, 4)),
        (False, 8, (3, 16), (2, 1)),
        (True, 8, (1, 2), (2, 2)),  # the machine is shared by all three
        (True, 2, (4, 4), (1, 1)),
    ],
)
def test_threads(same_machine, cores, workers, threads):
    inventory = Inventory(
        hosts=tuple(Host(name=f"h{i}", nproc_per_node=n) for i, n in enumerate(workers)),
        same_machine=same_machine,
    )
    known = {host.name: facts(cores=cores) for host in inventory.hosts}
    plan = planned(inventory, cluster("h0", "h1", facts=known))
    assert tuple(node.threads for node in plan.nodes) == threads


# --- the whole plan -----------------------------------------------------------------------------

THREE = Inventory(hosts=(Host(name="zeta"), Host(name="alpha"), Host(name="mid")))


def test_ranks_follow_the_inventory():
    plan = planned(THREE)
    assert [(n.rank, n.host) for n in plan.nodes] == [(0, "zeta"), (1, "alpha"), (2, "mid")]
    assert plan.head.host == "zeta"


def test_without_a_look_the_plan_has_open_values():
    plan = planned(THREE)
    assert plan.world_size is None
    assert plan.port is None
    assert plan.endpoint == "<address of zeta>:<a free port there>"
    assert {(n.workers, n.threads, n.address, n.interface) for n in plan.nodes} == {(None,) * 4}
    assert plan.nodes[1].folder == "~/.ddp-orch/runs/brave-otter/1"


def test_what_the_inventory_says_stands_without_a_look():
    inventory = Inventory(
        hosts=(Host(name="a", addr="fd00::1", nproc_per_node=2),),
        rendezvous=Rendezvous(port=29500, timeout=0.2),
    )
    plan = planned(inventory)
    assert plan.endpoint == "[fd00::1]:29500"
    assert plan.world_size == 2
    assert plan.join_timeout == 1  # torch takes whole seconds, and 0 would be none


def test_with_findings_the_plan_is_closed():
    known = {
        "zeta": facts("127.0.0.1", "10.0.0.1", gpus=2),
        "alpha": facts("127.0.0.1", "10.0.0.2", gpus=0),
        "mid": "it did not answer",
    }
    got = cluster(
        *("zeta", "alpha", "mid"),
        facts=known,
        candidates={"zeta": ("10.0.0.1",), "alpha": ("10.0.0.2",)},
        listening=Listening(port=41000),
        rendezvous={"alpha": (Dialled(address="10.0.0.1", local="10.0.0.2"),)},
    )
    inventory = THREE.model_copy(update={"rendezvous": Rendezvous(port=29500)})
    plan = planned(inventory, got)
    assert plan.endpoint == "10.0.0.1:41000"  # what was opened, not what was asked for
    assert plan.rendezvous_id == "brave-otter-t0"
    assert [n.workers for n in plan.nodes] == [2, 1, None]
    assert [n.interface for n in plan.nodes] == ["eth1", "eth1", None]
    assert plan.nodes[0].folder == "/home/u/.ddp-orch/runs/brave-otter/0"
    assert plan.world_size is None  # mid's workers are not known


def test_port_asked_for_when_none_was_opened():
    inventory = THREE.model_copy(update={"rendezvous": Rendezvous(port=29500)})
    refused = cluster("zeta", "alpha", "mid", listening=Listening(error="EADDRINUSE"))
    assert planned(inventory, refused).port == 29500


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("~/venv/bin/python", "/home/u/venv/bin/python"),
        ("python3", "python3"),
        ("~other/bin/python", "~other/bin/python"),
        ("/opt/~/python", "/opt/~/python"),
    ],
)
def test_python_at_the_hosts_home(python, expected):
    inventory = Inventory(hosts=(Host(name="a", python=python),))
    assert planned(inventory, cluster("a", facts={"a": facts()})).head.python == expected


@pytest.mark.parametrize(
    ("state_dir", "expected"),
    [
        (None, "/home/u/.ddp-orch"),
        ("~/scratch", "/home/u/scratch"),
        ("~", "/home/u"),
        ("/tmp/mine/", "/tmp/mine"),
    ],
)
def test_the_runs_folders_are_where_the_inventory_says(state_dir, expected):
    inventory = Inventory(hosts=(Host(name="a", state_dir=state_dir),))
    head = planned(inventory, cluster("a", facts={"a": facts()})).head
    assert (head.state_dir, head.folder) == (expected, f"{expected}/runs/brave-otter/0")


def test_what_a_host_found_is_what_is_run():
    found = Interpreter(
        asked="train",
        path="/c/envs/train/bin/python",
        environment={"CONDA_PREFIX": "/c/envs/train"},
    )
    told = dataclasses.replace(facts(), interpreter=found, workdir="/home/u/work")
    host = Host(name="a", python="train", workdir="work", setup=("true",), gpus=(0,))
    (node,) = planned(Inventory(hosts=(host,)), cluster("a", facts={"a": told})).nodes
    assert (node.python, node.activated) == (found.path, found.environment)
    assert (node.workdir, node.home) == ("/home/u/work", "/home/u")
    assert (node.setup, node.gpus) == (("true",), (0,))


@pytest.mark.parametrize(
    ("python", "shown"),
    [
        ("python3", "python3"),
        ("~/v/bin/python3.12", "~/v/bin/python3.12"),
        ("/opt/pypy3", "/opt/pypy3"),
        ("~/venvs/train", "<python of ~/venvs/train>"),
        ("train", "<python of train>"),
    ],
)
def test_python_as_it_is_shown_without_a_look(python, shown):
    assert planned(Inventory(hosts=(Host(name="a", python=python),))).head.python == shown


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, 2), ("gpu", 2), ("auto", 2), ("cpu", 8), (5, 5)]
)
def test_workers_on_the_gpus_that_are_named(wanted, expected):
    host = Host(name="h", gpus=(0, 3), nproc_per_node=wanted)
    assert worker_count(host, facts(gpus=8), {}) == expected
    if wanted != "cpu":
        assert worker_count(host, None, {}) == expected, "no look at the host is needed"


@pytest.mark.parametrize(
    ("visible", "wanted", "expected"),
    [("0,1", None, 2), ("", None, 1), ("-1", "auto", 6), ("", "gpu", 0), ("3", 4, 4)],
)
@pytest.mark.parametrize("where", ["job", "host", "flag"])
def test_workers_on_the_gpus_that_their_environment_leaves_visible(
    visible, wanted, expected, where
):
    env = {"CUDA_VISIBLE_DEVICES": visible}
    host = Host(name="a", nproc_per_node=wanted, env=env if where == "host" else {})
    job = Job(env=env if where == "job" else {})
    there = cluster("a", facts={"a": facts(gpus=8, cores=6)})
    made = planned(Inventory(hosts=(host,), job=job), there, env=env if where == "flag" else {})
    assert made.head.workers == expected


def test_the_jobs_own_things_are_in_the_plan():
    job = Job(torchrun_args=("--numa-binding", "node"))
    secrets = {"TOKEN": Secret("hf_secret")}
    plan = planned(Inventory(hosts=(Host(name="a"),), job=job), secrets=secrets)
    assert plan.torchrun_args == job.torchrun_args
    assert plan.secrets == secrets
    assert "hf_secret" not in repr(plan)


def test_the_nearer_environment_wins():
    inventory = Inventory(
        hosts=(Host(name="a", env={"B": "host", "C": "host"}),),
        job=Job(env={"A": "job", "B": "job", "C": "job"}),
    )
    plan = planned(inventory, env={"C": "flag"})
    assert plan.head.env == {"A": "job", "B": "host", "C": "flag"}


def test_names_are_names_of_runs():
    names = {run_name(random.Random(seed)) for seed in range(300)}  # noqa: S311  repeatable
    assert len(names) > 200
    assert all(name.replace("-", "").isalpha() and name.islower() for name in names)
    assert run_name(random.Random(7)) == run_name(random.Random(7))  # noqa: S311  repeatable
