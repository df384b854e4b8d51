"""What a stream's file is called, here and on its host. Pure; two ways, each other's inverse.

Here all nodes' files share a folder. A file's bytes are its host's from the first on, so that its
size says from where on more is wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.events import Logged, Stream

_NUMBER = "(0|[1-9][0-9]{0,8})"
_NAME = re.compile(
    rf"(?:node(?P<node>{_NUMBER})\.)?"
    rf"(?:rank(?P<rank>{_NUMBER})(?:\.round(?P<round>[1-9][0-9]{{0,8}}))?"
    rf"|setup(?P<setup>{_NUMBER})|torchrun)"
    r"\.(?P<stream>out|err)\Z"
)


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """One stream of one node: a worker's, torchrun's own or a setup command's."""

    node: int
    rank: int | None = None
    setup: int | None = None
    round: int = 0
    stream: Stream = "out"

    def here(self, workers: Sequence[int]) -> str:
        """Name the file on this machine; `workers` is how many each node was planned to have.

        A rank is its node's, so that the node is not named; one that came up where it was not
        planned, as when two nodes form a world each, must not write into the other's file.
        """
        if self.setup is not None:
            return f"node{self.node}.setup{self.setup}.{self.stream}"
        if self.rank is None:
            return f"node{self.node}.torchrun.{self.stream}"
        turn = f".round{self.round}" if self.round else ""
        where = "" if node_of(self.rank, workers) == self.node else f"node{self.node}."
        return f"{where}rank{self.rank}{turn}.{self.stream}"

    @property
    def there(self) -> str:
        """Name the file on its host, in the node's folder or in the setup command's own."""
        if self.setup is not None:
            return f"setup.{self.stream}"
        if self.rank is None:
            return f"torchrun.{self.stream}"
        return f"worker-logs/{self.round}/r{self.rank}.{self.stream}"


def log_name(event: Logged, workers: Sequence[int]) -> str:
    return LogFile(
        node=event.node,
        rank=event.rank,
        setup=event.setup,
        round=event.round,
        stream=event.stream,
    ).here(workers)


def log_file(name: str, workers: Sequence[int]) -> LogFile | None:
    """Read a name that `here` made; None where it made no such one."""
    found = _NAME.match(name)
    if not found:
        return None
    rank, setup = found["rank"], found["setup"]
    node = int(found["node"]) if found["node"] else node_of(int(rank), workers) if rank else None
    if node is None:
        return None
    made = LogFile(
        node=node,
        rank=int(rank) if rank else None,
        setup=int(setup) if setup else None,
        round=int(found["round"] or 0),
        stream="err" if found["stream"] == "err" else "out",
    )
    return made if made.here(workers) == name else None


def node_of(rank: int, workers: Sequence[int]) -> int | None:
    """Return the node that a rank was planned for."""
    for node, count in enumerate(workers):
        if rank < count:
            return node
        rank -= count
    return None
