"""What people do without us: the same torchrun on every host, typed into an ssh to each."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.workers import worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

PORT = 29400


@dataclass
class Node:
    """One host's torchrun, and the ssh that it was typed into."""

    host: NsHost
    process: subprocess.Popen[str]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """None: it goes on."""
        return self.process.poll()


@dataclass
class Plain:
    nodes: list[Node] = field(default_factory=list)

    @property
    def codes(self) -> list[int | None]:
        return [node.code for node in self.nodes]

    @property
    def said(self) -> str:
        return "\n".join(f"--- {node.host.name} {node.code}\n{node.said}" for node in self.nodes)

    def ended(self, seconds: float) -> bool:
        """Say whether all came to an end in that time."""
        deadline = time.monotonic() + seconds
        while None in self.codes and time.monotonic() < deadline:
            time.sleep(0.05)
        return None not in self.codes

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.host.name == name)


@contextmanager
def torchrun(
    cluster: Cluster,
    *words: object,
    head: str | None = None,
    hosts: Sequence[NsHost] | None = None,
    nnodes: str | None = None,
    script: str | None = None,
    port: int = PORT,
) -> Iterator[Plain]:
    """Start it on each host; what the body does not wait for is killed."""
    hosts = cluster.hosts if hosts is None else hosts
    script = worker("sums") if script is None else script
    argv = [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", nnodes or str(len(hosts)),
        "--nproc-per-node", "1",
        "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"{head or hosts[0].address}:{port}",
        "--rdzv-id", "job",
        script, *map(str, words),
    ]  # fmt: skip
    run = Plain()
    with ExitStack() as undo:
        for host in hosts:
            undo.callback(host.kill_all)
        for host in hosts:
            output = cluster.folder / f"plain-{secrets.token_hex(4)}.txt"
            file = undo.enter_context(output.open("w"))
            process = cluster.popen(
                cluster.ssh_argv(host, shlex.join(argv)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            undo.callback(process.wait)
            undo.callback(process.kill)
            run.nodes.append(Node(host, process, output))
        yield run
