"""`logs` on real hosts: of a run under way while one of them is away, and from another machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from inventory.load import load
from tests.hosts.processes import until
from tests.workers import worker

if TYPE_CHECKING:
    import subprocess

    from tests.hosts.cluster import Cluster

DDP_ORCH = [sys.executable, "-m", "orchestrator"]
STATE = ".local/state/ddp-orch/runs"


def ddp_orch(cluster: Cluster, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return cluster.run([*DDP_ORCH, *map(str, words)], timeout=150, env=env)


@pytest.mark.slow
def test_a_host_that_is_away_is_named_and_what_is_here_of_it_is_shown(cluster: Cluster) -> None:
    inventory = cluster.inventory()
    go = "/tmp/go"
    script = [worker("told"), 3, go]
    done = ddp_orch(cluster, "up", "-d", "-n", "away", inventory, "--", *script)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        for n, host in enumerate(cluster.hosts):
            path = host.home / f".ddp-orch/runs/away/{n}/worker-logs/0/r{n}.out"
            until(lambda path=path: "token" in path.read_text(), "it has said it", seconds=60)
        record = cluster.home / STATE / "away"
        (record / "inventory.json").write_text(load(inventory).model_dump_json())
        here = record / "logs" / "rank2.out"
        here.parent.mkdir(exist_ok=True)
        here.write_text("rank 2 line 0\nrank 2 li")  # as far as it came before we left
        cluster["n3"].link_down()
        words = ["--stream", "out"]
        lost = ddp_orch(cluster, "logs", "away", *words)
        elsewhere = ddp_orch(cluster, "logs", "-i", inventory, *words, XDG_STATE_HOME="/nowhere")
        cluster["n3"].link_up()
        back = ddp_orch(cluster, "logs", "away", *words)
    finally:
        cluster["n3"].link_up()
        for host in cluster.hosts:
            host.write(go, "")

        def over() -> bool:
            places = [h.home / f".ddp-orch/runs/away/{n}" for n, h in enumerate(cluster.hosts)]
            return all((place / "exit.json").exists() for place in places)

        until(over, "all have ended", seconds=60)
        # Who lost sight of the others waits a little for them to hear of its end.
        until(lambda: not cluster.leftovers(), "their supervisors have gone", seconds=30)
    shown = [
        f"n{n + 1}[r{n}]| {line}"
        for n in range(3)
        for line in (*(f"rank {n} line {i}" for i in range(3)), "token none käse ")
    ]
    assert lost.returncode == 4
    assert lost.stdout.splitlines() == [*shown[:8], "n3[r2]| rank 2 line 0", "n3[r2]| rank 2 li"]
    assert lost.stderr.startswith("ddp-orch: n3: ")
    assert elsewhere.returncode == 4
    assert elsewhere.stdout.splitlines() == shown[:8]
    assert "ddp-orch: n3: " in elsewhere.stderr
    assert back.returncode == 0, back.stderr
    assert back.stdout.splitlines() == shown
