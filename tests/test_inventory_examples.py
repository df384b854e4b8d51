"""The examples that are shipped: each loads, and says what its comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from inventory.load import load
from inventory.model import Host, Inventory, Job, Rendezvous

EXAMPLES = Path(__file__).parent.parent / "inventory" / "examples"


@pytest.fixture
def example(monkeypatch):
    """A function that loads an example, with a home that is known."""
    monkeypatch.setenv("HOME", "/home/me")
    return lambda name: load(EXAMPLES / f"{name}.yaml")


def test_minimal(example):
    assert example("minimal") == Inventory(hosts=(Host(name="gpu1"), Host(name="gpu2")))


def test_private_addresses(example):
    shared = {"user": "ubuntu", "identity_file": "/home/me/.ssh/id_ed25519"}
    assert example("private-addresses") == Inventory(
        hosts=(
            Host(name="node-a", ssh="203.0.113.7", addr="10.0.0.5", **shared),
            Host(name="node-b", ssh="203.0.113.8:2222", addr="10.0.0.6", **shared),
            Host(name="spare1", ssh="203.0.113.21", addr="10.0.0.21", **shared),
            Host(name="spare2", ssh="203.0.113.22", addr="10.0.0.22", **shared),
        ),
        rendezvous=Rendezvous(port=29500, timeout=300),
        job=Job(script="train.py", args=("--epochs", "3"), secrets=("WANDB_API_KEY",)),
    )


def test_different_gpus(example):
    inventory = example("different-gpus")
    shown = [(h.name, h.nproc_per_node, h.gpus, h.env) for h in inventory.hosts]
    warn = {"NCCL_DEBUG": "WARN"}
    assert shown == [
        ("big1", 8, None, {**warn, "NCCL_IB_HCA": "mlx5_0"}),
        ("big2", 8, None, {**warn, "NCCL_IB_HCA": "mlx5_0"}),
        ("small", None, (0, 2), {**warn, "NCCL_IB_DISABLE": "1"}),
        ("workstation", None, None, warn),
        *((f"old{i}.lab", None, None, warn) for i in ("01", "02", "03", "07")),
    ]
    assert {(h.python, h.workdir, h.setup) for h in inventory.hosts} == {
        ("~/venvs/train", "~/project", ("pip install -q -r requirements.txt",))
    }
    assert inventory.hosts[3].destination == ("alice", "workstation", None)
    assert inventory.checks == {"env.torch": "warn", "net.ping": "off"}
    assert inventory.job == Job(
        module="pkg.train",
        args=("--lr", "3e-4", "--resume"),
        max_restarts=2,
        env={"OMP_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "false"},
    )


def test_jump_host(example):
    inventory = example("jump-host")
    assert [h.destination for h in inventory.hosts] == [
        (None, f"gpu{i}", None) for i in (1, 2, 3, 4)
    ]
    assert inventory.hosts[0].env == {"NCCL_SOCKET_IFNAME": "=ib0"}


def test_elastic(example):
    inventory = example("elastic")
    assert (len(inventory.hosts), inventory.job.nnodes, inventory.job.max_restarts) == (4, "2:4", 3)


def test_containers(example):
    inventory = example("containers")
    assert [(h.name, h.destination, h.addr) for h in inventory.hosts] == [
        ("box1", ("root", "gpu-server1", 2222), "10.10.0.1"),
        ("box2", ("root", "gpu-server2", 2222), "10.10.0.2"),
    ]
    assert inventory.hosts[0].known_hosts == str(EXAMPLES / "containers.known_hosts")
    assert inventory.hosts[0].state_dir == "/scratch/ddp-orch"
    assert inventory.job == Job(script="train.py")


def test_every_example_has_a_test():
    tested = {name.removeprefix("test_") for name in globals()}
    assert {path.stem.replace("-", "_") for path in EXAMPLES.iterdir()} <= tested
