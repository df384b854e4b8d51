"""What `ps` tells of runs on real hosts: with one home for two, and when supervisors are dead."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.processes import until
from tests.workers import worker

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.hosts.cluster import Cluster


def ddp_orch(cluster: Cluster, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *map(str, words)]
    return cluster.run(command, timeout=150, env=env)


def listed(cluster: Cluster, *words: object, **env: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and the one run that is listed."""
    done = ddp_orch(cluster, "ps", "-o", "json", *words, **env)
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def states(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(node["host"], node["state"]) for node in run["nodes"]]


@pytest.mark.slow
def test_two_hosts_with_one_home_and_one_without_its_supervisor(
    cluster: Cluster, tmp_path: Path
) -> None:
    shared = cluster.folder / "home-of-both"
    shared.mkdir(mode=0o700)
    go_on = shared / "go-on"
    first, second = cluster.hosts[:2]
    both = {"defaults": {"state_dir": str(shared)}}
    inventory = cluster.inventory([first, second], **both)
    other = cluster.inventory([first], **both)
    elsewhere = {"DDP_ORCH_STATE_DIR": str(tmp_path / "elsewhere")}
    up = ddp_orch(cluster, "up", "-d", "-n", "shared", inventory, "--", worker("waits"), go_on)
    assert up.returncode == 0, up.stdout + up.stderr

    code, run = listed(cluster, "shared")
    assert (code, run["state"], run["ranks_alive"], run["ranks"]) == (101, "running", 2, 2)
    assert states(run) == [(first.name, "running"), (second.name, "running")]
    # One of them sees the other's folder, and cannot know what became of its processes.
    code, run = listed(cluster, "-i", other, "shared", **elsewhere)
    assert (code, run["state"], run["ranks_alive"]) == (101, "running", 1)
    assert states(run) == [(first.name, "running"), (second.name, "elsewhere")]

    known = json.loads((shared / "runs/shared/1/run.json").read_text())
    # The guard first: it would take the supervisor's place.
    for who in ("guard", "supervisor"):
        second.kill(known[who][0])
    code, run = listed(cluster, "shared")
    assert (code, run["state"], run["ranks_alive"]) == (101, "lost", 2)
    assert states(run) == [(first.name, "running"), (second.name, "lost")]

    go_on.touch()
    until(lambda: not first.pids() and not second.pids(), "both hosts without processes")
    code, run = listed(cluster, "shared")
    assert (code, run["state"], run["ranks_alive"]) == (100, "lost", 0)
    kept = ddp_orch(cluster, "prune", "shared")
    assert kept.returncode == 101
    assert f"it is not over on {second.name} (lost)" in kept.stderr
    # What is over on one host is so for all that see the folder.
    code, run = listed(cluster, "-i", other, "shared", **elsewhere)
    assert (code, run["state"]) == (4, "unknown")
    assert states(run) == [(first.name, "ended"), (second.name, "elsewhere")]
