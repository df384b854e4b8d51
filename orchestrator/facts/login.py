"""How the connection to a host went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SshState:
    """How the connection went. Without a check's id it stands."""

    seconds: float = 0.0
    check: str | None = None
    message: str = ""
    hint: str | None = None
    noise: str = ""
    address: str | None = None
    """Where it was tried, as far as it came to that."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A host's clock, by the shortest round trip of a sign of life (Cristian's algorithm)."""

    offset: float
    """Theirs minus ours, in seconds."""

    trip: float
    """How long that round trip took: the offset is that exact, at worst half of it wrong."""
