"""What was found out between hosts: who listens where, and who reaches whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Dialled:
    """One host dialled another one at one of its addresses."""

    address: str
    error: str | None = None
    """A name of errno's; STRANGER: not this run; OTHER: another host of ours; EAI: no such name;
    EOF: it hung up; CHANGED: other bytes came back."""

    phase: str | None = None
    """In which phase that was: connect, greeting, payload."""

    way: str | None = None
    """Of the payload: there, or back."""

    who: str | None = None
    """With OTHER: which host answered."""

    local: str | None = None
    """The address that we came from; where there was no connection, would have come from."""

    peer: str | None = None
    """What `address` was, where that is a name."""

    arrived: str | None = None
    """The other host's own address, as it sees the connection."""

    ms: float = 0.0
    """What connecting took."""

    after_ms: float | None = None
    """When it was given up."""

    mtu: int | None = None
    """The path's, as far as the kernel here knows."""

    @property
    def connected(self) -> bool:
        """The right host answered, whatever became of the payload."""
        return self.error is None or self.phase == "payload"

    @classmethod
    def parse(cls, address: str, got: dict[str, Any]) -> Dialled | None:
        """Read an answer; None: there was no time to try, or another address had answered."""
        if got.get("error") == "UNTRIED":
            return None
        texts = {
            name: None if got.get(name) is None else str(got[name])
            for name in ("error", "phase", "way", "who", "local", "peer", "arrived")
        }
        after, mtu = got.get("after_ms"), got.get("mtu")
        return cls(
            address=address,
            **texts,
            ms=float(got.get("ms") or 0.0),
            after_ms=None if after is None else float(after),
            mtu=None if mtu is None else int(mtu),
        )


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a name was looked up to on a host."""

    addresses: tuple[str, ...] = ()
    problem: str | None = None

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Named:
        problem = got.get("problem")
        return cls(
            addresses=tuple(str(address) for address in got.get("addresses", ())),
            problem=None if problem is None else str(problem),
        )


@dataclass(frozen=True, kw_only=True)
class Listening:
    """What became of opening a port."""

    port: int | None = None
    error: str | None = None
    holder: str | None = None
    """Process id and command."""

    pid: int | None = None
    age: float | None = None
    """Of the holder, in seconds."""

    @classmethod
    def parse(cls, got: dict[str, Any], holder: dict[str, Any] | None = None) -> Listening:
        port, error = got.get("port"), got.get("error")
        held: dict[str, Any] = {}
        if holder:
            pid, age = int(holder["pid"]), float(holder["age"])
            held = {"holder": f"{pid} ({holder['command']})", "pid": pid, "age": age}
        if port is not None and not 0 < int(port) < 1 << 16:
            raise ValueError(f"{port} is no port")
        return cls(
            port=None if port is None else int(port),
            error=None if error is None else str(error),
            **held,
        )
