"""GPUs on real hosts, as far as there can be any: a nvidia-smi of ours stands first on PATH."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.processes import until
from tests.hosts.smi import torch_built_for
from tests.hosts.test_up import ddp_orch
from tests.smi_cases import UUIDS, asked
from tests.workers import worker

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

SAYS = """#!/bin/sh
case $1 in
  --query-gpu=*) cat ~/smi/rows; exit $(cat ~/smi/code) ;;
  *) cat ~/smi/apps ;;
esac
"""
HANGS = "#!/bin/sh\nsleep 600 &\nwait\n"


@pytest.fixture(autouse=True)
def _torch_that_sees_gpus(cluster: Cluster) -> None:
    for host in cluster.hosts:
        built_for(host, "cu128")


def built_for(host: NsHost, build: str) -> None:
    """Let torch pass for that build, and programs of ours come first on a host's PATH."""
    finds = torch_built_for(host, build, f"{host.home}/{build}")
    host.write(".bashrc", f"export PATH=~/bin:$PATH {finds}\n")


def give(host: NsHost, case: str = "h100-590.csv", apps: str = "", script: str = SAYS) -> None:
    """Put a nvidia-smi on a host's PATH."""
    told = asked(case)
    for name, text in (("rows", told["out"]), ("code", str(told["code"])), ("apps", apps)):
        host.write(f"smi/{name}", text)
    host.write("bin/nvidia-smi", script, 0o755)


def check(cluster: Cluster, *words: str, **fields: Any) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code, and all that is said of GPUs."""
    done = ddp_orch(cluster, "check", "-o", "json", *words, cluster.inventory(**fields))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    verdicts = [line for line in lines if line.get("id")]
    assert verdicts, done.stdout + done.stderr
    bad = [v for v in verdicts if v["status"] == "fail" and not v["id"].startswith("gpu.")]
    assert not bad, "nothing else fails"
    return done.returncode, [v for v in verdicts if v["id"].startswith("gpu.")]


def not_well(verdicts: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    found = [(v["id"], v["status"], v["host"]) for v in verdicts if v["status"] != "pass"]
    return [each for each in found if each[1] != "unknown"]


def test_gpus_that_are_well_get_a_worker_each(cluster: Cluster) -> None:
    for host in cluster.hosts:
        give(host)
    code, verdicts = check(cluster)
    assert (code, not_well(verdicts)) == (0, [])
    count = [v for v in verdicts if v["id"] == "gpu.count"]
    assert {(v["host"], v["message"]) for v in count} == {
        (host.name, "8 GPUs, 0 to 7") for host in cluster.hosts
    }
    assert {v["tier"] for v in verdicts} == {"gpu"}


def test_hosts_without_any_hear_nothing_of_gpus(cluster: Cluster) -> None:
    assert check(cluster) == (0, [])


def test_a_process_on_a_gpu_is_named_with_who_has_it(cluster: Cluster) -> None:
    for host in cluster.hosts:
        give(host)
    second = cluster.hosts[1]
    with second.popen(["sleep", "600"], env={"DDP_ORCH_RUN": "calm-ray"}):
        try:
            until(lambda: "sleep 600" in second.pids().values(), "it sleeps")
            pid = next(pid for pid, line in second.pids().items() if line == "sleep 600")
            give(second, apps=f"{UUIDS[5]}, {pid}, 30000, sleep\n")
            code, verdicts = check(cluster)
            assert (code, not_well(verdicts)) == (3, [("gpu.busy", "fail", "n2")])
            (busy,) = [v for v in verdicts if v["id"] == "gpu.busy" and v["host"] == "n2"]
            assert re.fullmatch(
                rf"GPU 5 is held by pid {pid} of run calm-ray \(root: sleep 600\), for \d+ s, "
                "30000 MiB",
                busy["message"],
            )
            assert re.match(r"ddp-orch down calm-ray -i \S+/inventory-\d+\.yaml; ", busy["hint"])
            # Whom it does not concern hears nothing of it.
            code, verdicts = check(cluster, "--include", "n1,n2:0-3,n3:0-3")
            assert (code, not_well(verdicts)) == (0, [])
        finally:
            second.kill_all()


@pytest.mark.slow
def test_a_driver_that_hangs_costs_one_host_its_gpus_and_nobody_else_anything(
    cluster: Cluster,
) -> None:
    for host in cluster.hosts:
        give(host)
    third = cluster.hosts[2]
    give(third, script=HANGS)
    code, verdicts = check(cluster)
    assert (code, not_well(verdicts)) == (3, [("gpu.smi", "fail", "n3")])
    # It waits as any program does, and so its driver may be well.
    (said,) = [v for v in verdicts if v["id"] == "gpu.smi" and v["status"] == "fail"]
    assert "nvidia-smi is slow" in said["message"]
    unknown = [v for v in verdicts if v["status"] == "unknown"]
    assert {(v["host"], v["caused_by"]) for v in unknown} == {("n3", "gpu.smi")}
    # It was ended, with what it had started.
    until(lambda: not any("sleep" in line for line in third.pids().values()), "nothing sleeps")


@pytest.mark.slow
def test_how_many_workers_is_not_guessed(cluster: Cluster) -> None:
    """One would start, where there may be eight GPUs."""
    host = cluster.hosts[0]
    give(host, script=HANGS)
    words = ["up", "--skip-check", "gpu.smi", cluster.inventory([host]), "--", worker("ranks")]
    done = ddp_orch(cluster, *words)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "n1: how many GPUs it has is not known" in done.stdout + done.stderr
    assert "nproc_per_node: 8" in done.stdout + done.stderr


def test_a_torch_that_sees_no_gpu(cluster: Cluster) -> None:
    """Where it is the same on all, as in a lab that computes on its cores, nothing fails."""
    first, second = cluster.hosts[:2]
    for host in (first, second):
        built_for(host, "cpu")
    give(first, apps=f"{UUIDS[0]}, 4711, 30000, python\n")
    done = ddp_orch(cluster, "check", "-o", "json", cluster.inventory([first, second]))
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = [v for line in done.stdout.splitlines() if "id" in (v := json.loads(line))]
    warned = [(v["id"], v["host"]) for v in verdicts if v["status"] == "warn"]
    assert warned == [("env.torch", "n1")]
    of_gpus = [(v["id"], v["host"], v["status"]) for v in verdicts if v["tier"] == "gpu"]
    assert of_gpus == [("gpu.smi", "n1", "skip")]
    # One worker for each of them would be on the cores; on each host there is one.
    done = ddp_orch(cluster, "up", cluster.inventory([first, second]), "--", worker("ranks"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on 2 hosts, 2 workers" in done.stdout
    asked_for = cluster.inventory([first], defaults={"nproc_per_node": "gpu"})
    done = ddp_orch(cluster, "check", asked_for)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "is a CPU build, and there are 8 GPUs, which the inventory asks for" in done.stdout


@pytest.mark.parametrize(
    ("case", "check_id", "words"),
    [
        ("lost-between-rows-550.txt", "gpu.lost", "GPU at 0000:0a:00.0: GPU is lost"),
        ("lost-in-fields-535.csv", "gpu.lost", "GPU 0: GPU is lost"),
        ("not-started-fabric-535.csv", "gpu.fabric", "NVLink fabric In Progress"),
    ],
)
def test_a_gpu_that_is_of_no_use(cluster: Cluster, case: str, check_id: str, words: str) -> None:
    first = cluster.hosts[0]
    give(first, case)
    code, verdicts = check(cluster, hosts=[first])
    assert code == 3
    failed = [v for v in verdicts if v["status"] == "fail"]
    assert [(v["id"], v["host"]) for v in failed] == [(check_id, "n1")]
    assert words in failed[0]["message"]


def test_one_host_of_the_three_has_none(cluster: Cluster) -> None:
    for host in cluster.hosts[:2]:
        give(host)
    code, verdicts = check(cluster)
    assert (code, not_well(verdicts)) == (3, [("gpu.count", "fail", "n3")])
    # Who says how many workers there are to be knows.
    code, verdicts = check(cluster, defaults={"nproc_per_node": 2})
    assert (code, not_well(verdicts)) == (0, [])
