"""What a host is to the rest of the program. SshHost is one, and tests have another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.errors import DdpOrchError, HostError
    from orchestrator.link import Call

Request = tuple[str, dict[str, Any]]
# Told of the host's name and of what became of it, once.
OnLost: TypeAlias = "Callable[[str, DdpOrchError], None]"


class Host(Protocol):
    """One connection: once it is lost, or could not be made, it takes another one to try again."""

    name: str
    overdue: float | None
    """When the stage of connecting that is under way has had its time, by the monotonic clock."""

    noise: str

    @property
    def address(self) -> str | None:
        """Where it is tried; None until that is known."""
        ...

    def open(self, first: Sequence[Request]) -> list[Call]: ...
    def abort(self) -> HostError: ...
    def ping_address(self) -> str: ...
    def call(
        self,
        op: str,
        args: dict[str, Any],
        body: bytes = b"",
        on_event: Callable[[dict[str, Any], bytes], None] | None = None,
    ) -> Call: ...
    def pulse(self, patience: float) -> None: ...
    def silence(self) -> float: ...
    def our_time(self, theirs: float) -> float: ...
    def clock(self) -> tuple[float, float]:
        """Return by how much its clock is ahead of ours, and the round trip that says so."""
        ...

    def close(self) -> None: ...


class Closable(Protocol):
    def close(self) -> None: ...


class Watch(Protocol):
    """Who waits for a connection: told of each stage, handed what to close to make it end."""

    def enter(self, stage: str, seconds: float | None) -> None:
        """Without `seconds` it has no deadline: a person is asked, or has one of its own."""

    def hold(self, closable: Closable) -> None: ...
