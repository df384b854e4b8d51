"""Runs that are cut loose: where their parts are on the hosts, and what is left of them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.hosts.processes import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

DDP_ORCH = [sys.executable, "-m", "orchestrator"]
USER = "trainee"


def ddp_orch(cluster: Cluster, *words: object, **kw: Any) -> subprocess.CompletedProcess[str]:
    return cluster.run([*DDP_ORCH, *map(str, words)], **{"timeout": 200, **kw})


def inventory_for(cluster: Cluster, hosts: Sequence[NsHost], user: str, **fields: Any) -> Path:
    path = cluster.inventory(hosts, **fields)
    path.write_text(path.read_text().replace("root@", f"{user}@"))
    return path


@dataclass(frozen=True)
class Run:
    """A run whose nodes are these hosts, in this order."""

    cluster: Cluster
    name: str
    inventory: Path
    hosts: Sequence[NsHost]
    user: str = "root"

    def folder(self, host: NsHost) -> str:
        home = f"/run/home/{self.user}" if self.user != "root" else str(host.home)
        return f"{home}/.ddp-orch/runs/{self.name}/{list(self.hosts).index(host)}"

    def record(self, host: NsHost, name: str = "run.json") -> dict[str, Any]:
        return json.loads(self.read(host, name))

    def read(self, host: NsHost, name: str) -> str:
        return host.run(["cat", f"{self.folder(host)}/{name}"], check=True).stdout

    def change(self, host: NsHost, **changes: Any) -> None:
        """Let a host's record say something else."""
        path = f"{self.folder(host)}/run.json"
        host.write(path, json.dumps(self.record(host) | changes), 0o600)

    def keepers(self, host: NsHost) -> tuple[int, int]:
        """Return the pids of the supervisor and of the guard."""
        known = self.record(host)
        return known["supervisor"][0], known["guard"][0]

    def workers(self, host: NsHost) -> list[int]:
        """Return the workers' pids, as the journal has them."""
        lines = self.read(host, "journal.jsonl").splitlines()
        tables = [e["workers"] for e in map(json.loads, lines) if e["event"] == "workers"]
        return [worker["pid"] for worker in tables[-1]]

    def said(self, host: NsHost) -> str:
        """Return all that the workers of a host have written to stdout."""
        return host.run(["sh", "-c", f"cat {self.folder(host)}/worker-logs/*/r*.out"]).stdout

    def ready(self, times: int = 1) -> Run:
        for host in self.hosts:
            what = f"{host.name}'s workers are ready"
            until(lambda host=host: self.said(host).count("ready") >= times, what, seconds=90)
        return self

    def down(self, *words: object, **kw: Any) -> subprocess.CompletedProcess[str]:
        return ddp_orch(self.cluster, "down", self.name, *words, **kw)


def launch(
    cluster: Cluster,
    name: str,
    hosts: Sequence[NsHost],
    *command: object,
    user: str = "root",
    **fields: Any,
) -> Run:
    """Start a command under torchrun and leave it there."""
    path = inventory_for(cluster, hosts, user, **fields)
    words = ["up", "-d", "-q", "-n", name, "--no-python", path, "--", *command]
    done = ddp_orch(cluster, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(cluster, name, path, hosts, user)


def on(*hosts: NsHost) -> dict[str, dict[int, str]]:
    """Return what runs on hosts, by name; empty when nothing does."""
    return {host.name: pids for host in hosts if (pids := host.pids())}


def empty(*hosts: NsHost) -> None:
    """Assert that nothing runs there; sshd's end of a connection outlives ours by a moment."""
    try:
        until(lambda: not on(*hosts), "the hosts are empty", seconds=10)
    except TimeoutError:
        raise AssertionError(f"left: {on(*hosts)}") from None


def became(done: subprocess.CompletedProcess[str], host: NsHost) -> str:
    """Return what `down` says of a host."""
    lines = [x for x in done.stdout.splitlines() if x.startswith(f"{host.name}: ")]
    assert len(lines) == 1, done.stdout + done.stderr
    return lines[0].partition(": ")[2]
