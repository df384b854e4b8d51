"""What is refused before a host is looked at."""

from __future__ import annotations

import pytest

from inventory.model import Host, Inventory, Job, Sync
from orchestrator.errors import UsageError
from orchestrator.masking import Secret
from orchestrator.plan import Program
from orchestrator.refusals import contradictions, not_there_yet

TOKEN = {"TOKEN": Secret("hf_secret")}


def inventory(*, hosts: int = 2, job: Job | None = None, **host) -> Inventory:
    first = Host(name="a", **host)
    others = [Host(name=f"b{i}") for i in range(1, hosts)]
    return Inventory(hosts=(first, *others), job=job or Job())


@pytest.mark.parametrize(
    "job",
    [Job(), Job(nnodes="2"), Job(nnodes="2:2"), Job(launcher="torchrun"), Job(command=("x",))],
)
def test_what_is_there(job):
    not_there_yet(inventory(job=job))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (Job(launcher="accelerate"), "job.launcher: accelerate is not there yet; torchrun is"),
        (
            Job(launcher="plain", command=("x",)),
            "job.launcher: plain is not there yet; torchrun is",
        ),
        (
            Job(nnodes="1:2"),
            "job.nnodes: 1:2 of 2 hosts is not there yet; a run takes all of them",
        ),
        (Job(nnodes="1"), "job.nnodes: 1 of 2 hosts is not there yet; a run takes all of them"),
        (Job(sync=Sync()), "job.sync: not there yet; a script is sent along, a folder is not"),
    ],
)
def test_what_is_not_there_yet(job, message):
    with pytest.raises(UsageError) as caught:
        not_there_yet(inventory(job=job))
    assert str(caught.value) == message


def test_all_of_it_at_once():
    with pytest.raises(UsageError) as caught:
        not_there_yet(inventory(job=Job(launcher="accelerate", nnodes="1", sync=Sync())))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "job.launcher", "job.nnodes", "job.sync",
    ]  # fmt: skip


def refused(found: Inventory, program: Program | None = None, env=(), secrets=TOKEN) -> UsageError:
    with pytest.raises(UsageError) as caught:
        contradictions(found, program or Program(target="t.py"), dict(env), secrets)
    assert "hf_secret" not in f"{caught.value} {caught.value.hint}"
    return caught.value


def test_what_agrees():
    found = inventory(gpus=(0,), env={"A": "1"}, setup=("echo $TOKEN",))
    contradictions(found, Program(target="t.py", args=("$TOKEN",)), {"B": "2"}, TOKEN)


@pytest.mark.parametrize("where", ["host", "job", "flag"])
def test_gpus_are_said_once(where):
    env = {"CUDA_VISIBLE_DEVICES": "1"}
    found = inventory(
        gpus=(0,),
        env=env if where == "host" else {},
        job=Job(env=env if where == "job" else {}),
    )
    error = refused(found, env=env if where == "flag" else {})
    assert str(error).startswith("a: gpus: or --include says which GPUs to use, and CUDA_")


def test_a_secret_has_one_value():
    assert str(refused(inventory(env={"TOKEN": "x"}))).startswith("a: TOKEN is a secret, and has")
    assert str(refused(inventory(), env={"TOKEN": "x"})).startswith("a: TOKEN is a secret")


@pytest.mark.parametrize(
    ("found", "program", "where"),
    [
        ({}, Program(target="t.py", args=("--token=hf_secret",)), "the program's arguments"),
        ({"job": Job(torchrun_args=("--x", "hf_secret"))}, None, "job.torchrun_args"),
        ({"setup": ("login hf_secret",)}, None, "setup: of a"),
        ({"workdir": "/hf_secret"}, None, "python:, workdir: or state_dir: of a"),
        ({"state_dir": "/hf_secret"}, None, "python:, workdir: or state_dir: of a"),
        ({"env": {"PYTHONPATH": "/hf_secret"}}, None, "PYTHONPATH of a"),
        ({"job": Job(env={"LD_LIBRARY_PATH": "/a:/hf_secret"})}, None, "LD_LIBRARY_PATH of a"),
    ],
)
def test_a_secret_stands_in_no_command_line(found, program, where):
    assert f"the value of the secret TOKEN stands in {where}," in str(
        refused(inventory(**found), program)
    )


@pytest.mark.parametrize(
    ("found", "program", "what"),
    [
        ({"env": {"BIG": "x" * 131_069}}, None, "the variable BIG has 128 KiB"),
        ({"env": {"BIG": "é" * 65_534}}, None, "the variable BIG has 128 KiB"),
        ({}, Program(target="t.py", args=("x", "y" * 131_072)), "argument 2 has 128 KiB"),
        ({"setup": ("true", "z" * 140_000)}, None, "setup command 2 has 136 KiB"),
        (
            {"env": {f"V{i}": "x" * 130_000 for i in range(60)}},
            None,
            "environment and arguments have 7 MiB",
        ),
    ],
)
def test_what_no_linux_takes(found, program, what):
    assert what in str(refused(inventory(**found), program))


def test_the_largest_that_linux_takes(tmp_path):
    """K=V and the zero at its end have 128 KiB: held against a real kernel."""
    import subprocess

    value = "x" * (131_072 - len("BIG=") - 1)
    contradictions(inventory(env={"BIG": value}), Program(target="t.py"), {}, {})
    subprocess.run(["/bin/true"], env={"BIG": value}, check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true"], env={"BIG": value + "x"}, check=True)
    assert "the variable BIG" in str(refused(inventory(env={"BIG": value + "x"})))


def test_a_secret_that_is_too_large():
    big = {"TOKEN": Secret("x" * 140_000)}
    assert "the variable TOKEN has 136 KiB" in str(refused(inventory(), secrets=big))
