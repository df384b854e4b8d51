"""What earlier jobs left: `check` says so, and `down --strays` ends it. On real hosts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.launched import USER, became, ddp_orch, empty, inventory_for, launch
from tests.hosts.processes import until
from tests.hosts.smi import install, two

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster
    from tests.hosts.faults import Ground
    from tests.hosts.host import NsHost

PORT = 29411
pytestmark = pytest.mark.slow
# It waits for a second node, which never comes; its head has the store.
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"),
    *("--rdzv-backend", "c10d", "--rdzv-id", "old", "--rdzv-conf", "is_host=1", "--no-python"),
]


def torchrun(host: NsHost, *worker: str, nodes: int = 2) -> list[str]:
    where = ["--nnodes", str(nodes), "--rdzv-endpoint", f"{host.address}:{PORT}"]
    where += ["--local-addr", host.address]  # its own name resolves nowhere
    return [*TORCHRUN, *where, "--", *(worker or ("sleep", "1000"))]


def left_behind(
    cluster: Cluster, host: NsHost, *worker: str, nodes: int = 2, user: str = "root"
) -> int:
    """Start a torchrun on a host over ssh, as by hand, and lose the connection; return its pid."""
    argv = cluster.ssh_argv(host, *torchrun(host, *worker, nodes=nodes))
    argv = [word.replace("root@", f"{user}@") for word in argv]
    with cluster.popen(argv, stdin=subprocess.PIPE) as ssh:

        def found() -> list[int]:
            return [pid for pid, line in host.pids().items() if "torch.distributed.run" in line]

        listens = ["sh", "-c", f"grep -qi ':{PORT:04X} .* 0A' /proc/net/tcp /proc/net/tcp6"]
        until(lambda: host.run(listens).returncode == 0, "its store listens", seconds=90)
        ssh.send_signal(signal.SIGKILL)
    gone = "sshd has noticed that nobody is there"
    until(lambda: not any("sshd" in line for line in host.pids().values()), gone, seconds=30)
    until(lambda: len(found()) == 1, "it alone; what it starts has its words for a moment")
    return found()[0]


def bystander(host: NsHost) -> int:
    """Start what has to do with no job, and is as much left behind; return its pid."""
    return orphan(host, "sleep 987")


def orphan(host: NsHost, command: str) -> int:
    host.run(["sh", "-c", f"setsid {command} >/dev/null 2>&1 &"])

    def found() -> list[int]:
        return [pid for pid, line in host.pids().items() if line == command]

    until(found, "it runs")
    return found()[0]


def checked(cluster: Cluster, *words: object) -> tuple[int, list[dict[str, Any]]]:
    done = ddp_orch(cluster, "check", "-o", "json", *words)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, [line for line in lines if "id" in line]


def of(verdicts: list[dict[str, Any]], check: str) -> dict[str, tuple[str, str]]:
    return {v["host"]: (v["status"], v["message"]) for v in verdicts if v["id"] == check}


def test_what_a_killed_ssh_left_is_told_and_ended(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.hosts
    path = cluster.inventory(rendezvous={"port": PORT})
    pid = left_behind(cluster, n1)
    sleeper = bystander(n2)
    code, verdicts = checked(cluster, path)
    assert code == 3, verdicts
    found = of(verdicts, "run.leftover")
    assert found["n1"][0] == "fail"
    assert f"pid {pid} " in found["n1"][1]
    assert "torch.distributed.run" in found["n1"][1]
    assert {host: status for host, (status, _) in found.items() if host != "n1"} == {
        "n2": "pass",
        "n3": "pass",
    }
    (verdict,) = [v for v in verdicts if v["id"] == "run.leftover" and v["status"] == "fail"]
    assert verdict["hint"] == f"ddp-orch down --strays {path}"
    (row,) = verdict["evidence"]["strays"]
    assert (row["pid"], row["kind"], row["endpoint"]) == (pid, "torchrun", f"{n1.address}:{PORT}")
    assert PORT in row["ports"]
    status, message = of(verdicts, "net.port.rdzv")["n1"]
    assert (status, str(pid) in message) == ("fail", True)

    done = ddp_orch(cluster, "down", "--strays", "-y", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "strays: gone (1 process)"
    assert f"n1: pid {pid} " in done.stderr
    empty(n1, n3)
    assert sleeper in n2.pids()
    assert checked(cluster, path)[0] == 0
    done = ddp_orch(cluster, "down", "--strays", "-y", path)
    assert done.returncode == 0
    assert done.stdout.endswith("nothing is left on these hosts\n")
    n2.kill(sleeper)


def test_a_host_that_cannot_be_reached_keeps_nobody(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.hosts
    for host in (n2, n3):
        left_behind(cluster, host)
    n1.stop_sshd()
    done = ddp_orch(cluster, "down", "--strays", "-y", "-o", "json", cluster.inventory())
    assert done.returncode == 4, done.stdout + done.stderr
    *lines, last = map(json.loads, done.stdout.splitlines())
    outcomes = {line["host"]: line["outcome"] for line in lines}
    assert outcomes == {"n1": "unreachable", "n2": "gone", "n3": "gone"}
    assert last["summary"]["exit_code"] == 4
    empty(n2, n3)


def test_who_gets_away_and_who_cannot_be_ended(cluster: Cluster) -> None:
    """n1 has a child that is root's; on n2 there is always another one, in another session."""
    n1, n2 = cluster.hosts[:2]
    (home,) = {host.add_user(USER) for host in (n1, n2)}
    # As sudo does: who has only the bit may still be signalled by who started him.
    up, script = f"{home}/up", f"{home}/worker"
    n1.run(["sh", "-c", f"cp $(command -v setpriv) {up}; chmod 4755 {up}"], check=True)
    n1.write(script, f"{up} --reuid 0 sleep 601 &\ntrap '' TERM\nsleep 600\nsleep 600\n")
    n2.write(script, f"trap '' TERM\nsleep 0.05\nsetsid sh {script} &\nwait\n")
    for host in (n1, n2):
        left_behind(cluster, host, "sh", script, nodes=1, user=USER)
    until(lambda: "sleep 601" in n1.pids().values(), "the child of root runs", seconds=90)
    path = inventory_for(cluster, [n1, n2], USER)
    done = ddp_orch(cluster, "down", "--strays", "-y", "--grace", "1s", path)
    assert done.returncode == 100, done.stdout + done.stderr
    assert became(done, n1) == "NOT gone: 1 process could not be ended"
    until(lambda: len(n1.pids()) == 1, "one is left, and nobody who asked")
    (pid,) = n1.pids()
    assert re.search(rf"^  pid {pid} \(sleep, .* belongs to root$", done.stdout, re.M)
    assert f"-> on n1, as root: kill -9 {pid}\n" in done.stdout
    assert became(done, n2).startswith("gone (")
    assert done.stdout.endswith("NOT known to be gone on n1\n")
    empty(n2)
    n1.kill(pid)
    done = ddp_orch(cluster, "down", "--strays", "-y", path)
    assert done.stdout.endswith("nothing is left on these hosts\n")


def test_what_runs_of_ours_keep_is_named_and_left_alone(cluster: Cluster) -> None:
    n1, n2 = cluster.hosts[:2]
    run = launch(cluster, "kept", [n1, n2], "sh", "-c", "echo ready; exec sleep 1000").ready()
    for pid in run.keepers(n2)[::-1]:  # the guard first: it would take over
        n2.kill(pid)
    path = cluster.inventory()
    code, verdicts = checked(cluster, path)
    assert code == 3, verdicts
    found = of(verdicts, "run.leftover")
    assert {host: status for host, (status, _) in found.items()} == {
        "n1": "warn",
        "n2": "fail",
        "n3": "pass",
    }
    assert "run kept of " in found["n1"][1]
    assert "nobody keeps it any more" in found["n2"][1]
    hints = {v["host"]: v["hint"] for v in verdicts if v["id"] == "run.leftover" and v["hint"]}
    assert hints["n2"] == f"ddp-orch down kept -i {path}"

    done = ddp_orch(cluster, "down", "--strays", "--all", "-y", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is left on these hosts\n")
    assert "n1: run kept of " in done.stderr
    assert "n2: run kept of " in done.stderr
    assert "ddp-orch down kept" in done.stderr
    for host in (n1, n2):
        (worker,) = run.workers(host)
        assert worker in host.pids()

    done = run.down("-i", path, "--grace", "2s")
    assert done.returncode == 0, done.stdout + done.stderr
    empty(*cluster.hosts)
    assert checked(cluster, path)[0] == 0


def test_what_somebody_still_keeps_is_ended_only_when_that_is_asked_for(cluster: Cluster) -> None:
    n1 = cluster.hosts[0]
    path = cluster.inventory()
    with cluster.popen(cluster.ssh_argv(n1, *torchrun(n1)), stdin=subprocess.PIPE) as ssh:
        try:
            until(lambda: any("torch.distributed.run" in x for x in n1.pids().values()), "it runs")
            code, verdicts = checked(cluster, path)
            assert code == 0, verdicts
            status, message = of(verdicts, "run.leftover")["n1"]
            assert status == "warn"
            assert "runs here under sshd" in message
            done = ddp_orch(cluster, "down", "--strays", "-y", path)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.endswith("nothing is left on these hosts\n")
            assert "is left alone: it runs under sshd" in done.stderr
            assert ssh.poll() is None
            done = ddp_orch(cluster, "down", "--strays", "--all", "-y", path)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.endswith("strays: gone (1 process)\n")
            ssh.wait(30)
        finally:
            ssh.kill()
    empty(*cluster.hosts)


def test_who_was_left_on_a_gpu_is_told_and_ended(ground: Ground) -> None:
    """By its command it is no job: that it is on a GPU, and this user's, is what makes it one."""
    n2 = ground["n2"]
    ground.undo.callback(n2.kill_all)
    holder, other = orphan(n2, "sleep 986"), bystander(n2)
    there = two(n2, memory__used="20480")
    # That of MPS is there for others, and no stray.
    program = "/tmp/nvidia-cuda-mps-server"
    ground.on(n2, "cp", "/bin/sleep", program, then=["rm", program])
    server = orphan(n2, f"{program} 983")
    known = {"sleep": (holder, "20479"), "nvidia-cuda-mps-server": (server, "30")}
    listed = [
        {
            "gpu_uuid": there.gpus[0]["uuid"],
            "pid": str(pid),
            "used_memory": memory,
            "process_name": name,
        }
        for name, (pid, memory) in known.items()
    ]
    for host in ground:
        apps = listed if host is n2 else []
        install(ground, host, there.but(apps=apps) if apps else two(host))
    path = ground.cluster.inventory()
    code, verdicts = checked(ground.cluster, path)
    assert code == 3, verdicts
    (busy,) = [v for v in verdicts if v["status"] == "fail"]
    assert (busy["id"], busy["host"]) == ("gpu.busy", "n2")
    assert f"ddp-orch down --strays {path}" in busy["hint"]
    done = ddp_orch(ground.cluster, "down", "--strays", "-y", "--grace", "1s", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert holder not in n2.pids()
    assert {other, server} <= n2.pids().keys()
    assert became(done, n2) == "gone (1 process)"
