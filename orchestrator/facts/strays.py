"""What runs on a host that could be in the way of a run: earlier ones, and what is left of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run of ours on that host that is not over."""

    run: str
    node: int
    state: str
    owner: str
    age: float | None
    """Seconds."""

    alive: int
    """So many of its processes were seen."""

    @property
    def named(self) -> str:
        owner = f" of {self.owner}" if self.owner else ""
        return f"run {self.run}{owner}"


@dataclass(frozen=True, kw_only=True)
class Stray:
    """A process of a distributed job that no run of ours keeps, or one that was asked for."""

    pid: int
    start: int
    """With the pid it says who it is, until the next start of the host."""

    parent: int
    command: str
    age: float
    kind: str
    """torchrun, worker, helper (begun by a worker), keeper (of a run whose folder was removed), or
    port: it is none of a job's, and holds the port that was asked about."""

    root: int
    """The topmost process of its job."""

    id: str
    """As torchrun calls the job."""

    run: str
    """Of ours, that it once belonged to."""

    endpoint: str
    orphan: bool
    """Nobody is above its job any more who could want it."""

    owner: str
    """Who is, otherwise."""

    ports: tuple[int, ...]

    def __str__(self) -> str:
        return f"pid {self.pid} {shortened(self.command)} ({lasting(self.age)})"


@dataclass(frozen=True, kw_only=True)
class Strays:
    runs: tuple[KnownRun, ...] = ()
    strays: tuple[Stray, ...] = ()
    more: int = 0
    """So many more strays than are told of."""

    others: int = 0
    """So many torchruns of other users, or in containers."""

    problem: str = ""
    """What could not be looked at."""

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Strays:
        return cls(
            runs=tuple(map(_run, got["runs"])),
            strays=tuple(map(_stray, got["strays"])),
            more=int(got["more"]),
            others=int(got["others"]),
            problem=str(got["problem"])[:300],
        )

    @property
    def left(self) -> tuple[Stray, ...]:
        return tuple(stray for stray in self.strays if stray.orphan)

    @property
    def owned(self) -> tuple[Stray, ...]:
        return tuple(stray for stray in self.strays if not stray.orphan)


def _run(row: dict[str, Any]) -> KnownRun:
    return KnownRun(
        run=str(row["run"]),
        node=int(row["node"]),
        state=str(row["state"]),
        owner=str(row["owner"]),
        age=None if row["age"] is None else float(row["age"]),
        alive=int(row["alive"]),
    )


def _stray(row: dict[str, Any]) -> Stray:
    if not isinstance(row["orphan"], bool):
        raise TypeError("orphan is yes or no")
    return Stray(
        pid=int(row["pid"]),
        start=int(row["start"]),
        parent=int(row["parent"]),
        command=str(row["command"]),
        age=float(row["age"]),
        kind=str(row["kind"]),
        root=int(row["root"]),
        id=str(row["id"]),
        run=str(row["run"]),
        endpoint=str(row["endpoint"]),
        orphan=row["orphan"],
        owner=str(row["owner"]),
        ports=tuple(map(int, row["ports"])),
    )


def lasting(seconds: float) -> str:
    """Say how long, in one unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(0.0, seconds))} s"


def shortened(command: str, most: int = 100) -> str:
    return command if len(command) <= most else f"{command[: most - 4]} ..."
