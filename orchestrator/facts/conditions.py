"""What a host is like for those who work there: limits, memory, disks, its system."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.facts.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What getrlimit says; None is no limit."""

    soft: int | None = None
    hard: int | None = None

    @classmethod
    def parse(cls, got: list[int | None]) -> Limit:
        soft, hard = (None if value is None else int(value) for value in got)
        return cls(soft=soft, hard=hard)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A control group's limit, and how much of that is in use."""

    limit: int
    used: int

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What logind does when the user logs out."""

    kills: bool
    spared: tuple[str, ...]
    only: tuple[str, ...]
    """Empty: everyone but those who are spared."""

    removes_ipc: bool
    lingers: bool
    in_session: bool
    """Whether what we start is in the scope of a session at all."""

    def ends_runs_of(self, user: str) -> bool:
        """Say whether a run goes with its connection. Lingering saves nobody in a session's scope.

        It keeps the user's own systemd alive, and with that what was started by it.
        """
        chosen = not self.only or user in self.only
        return self.kills and self.in_session and user not in self.spared and chosen


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes."""

    total: int
    available: int


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A text in place of a value says why it could not be had."""

    machine_id: str
    """Empty where there is none."""

    container: bool
    uid: int
    nofile: Limit
    memlock: Limit
    nproc: Limit
    threads: int | str
    """All that the user runs on that host, as the limit on processes counts."""

    pid_groups: tuple[Group, ...] | str
    memory: Memory | str
    memory_groups: tuple[Group, ...] | str
    infiniband: tuple[str, ...] | str
    """Adapters with a port that is up."""

    session: Session | str | None
    """None: there is no logind."""

    hides: str | None
    """The option of /proc that hides others' processes."""

    locale: str | None
    """The variable with a locale that is not there."""

    disks: dict[str, Disk] = field(default_factory=dict)
    """By role: state, workdir, tmp, shm."""

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Conditions:
        limits = got["limits"]
        return cls(
            machine_id=str(got["machine_id"]),
            container=bool(got["container"]),
            uid=int(got["uid"]),
            nofile=Limit.parse(limits["nofile"]),
            memlock=Limit.parse(limits["memlock"]),
            nproc=Limit.parse(limits["nproc"]),
            threads=_or_why(got["threads"], int),
            pid_groups=_or_why(got["pid_groups"], _groups),
            memory=_or_why(got["memory"], _memory),
            memory_groups=_or_why(got["memory_groups"], _groups),
            infiniband=_or_why(got["infiniband"], lambda names: tuple(map(str, names))),
            session=_or_why(got["session"], _session),
            hides=_text(got["hides"]),
            locale=_text(got["locale"]),
            disks={str(role): Disk.parse(told) for role, told in got["disks"].items()},
        )


def _or_why(got: Any, parse: Callable[[Any], T]) -> T | str:  # noqa: ANN401  JSON
    if isinstance(got, dict) and "problem" in got:
        return str(got["problem"])
    return parse(got)


def _text(got: Any) -> str | None:  # noqa: ANN401  JSON
    """Of what is only worth knowing nobody needs to know why it is not known."""
    return got if isinstance(got, str) else None


def _groups(got: list[list[int]]) -> tuple[Group, ...]:
    return tuple(Group(limit=int(limit), used=int(used)) for limit, used in got)


def _memory(got: dict[str, int]) -> Memory:
    return Memory(total=int(got["total"]), available=int(got["available"]))


def _session(got: dict[str, Any] | None) -> Session | None:
    if got is None:
        return None
    return Session(
        kills=bool(got["kills"]),
        spared=tuple(map(str, got["spared"])),
        only=tuple(map(str, got["only"])),
        removes_ipc=bool(got["removes_ipc"]),
        lingers=bool(got["lingers"]),
        in_session=bool(got["in_session"]),
    )
