"""What the hosts said of themselves, and what was found out between them. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The Python that is to run the workers."""

    asked: str = "python3"
    """As the inventory has it."""

    executable: str | None = None
    version: str | None = None
    torch: str | None = None
    problem: str | None = None
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    hostname: str
    boot_id: str
    network_id: int
    user: str
    home: str
    cores: int
    gpus: int | None
    addresses: tuple[tuple[str, str], ...]
    """Pairs of interface and address."""

    ssh_address: str
    """The address our connection arrived at, as the host sees it."""

    own_name: tuple[str, ...] | None
    """What its own host name resolves to; None: to nothing."""

    interpreter: Interpreter

    @classmethod
    def parse(cls, got: dict[str, Any]) -> HostFacts:
        python = got["interpreter"]
        own = got["own_name"]
        return cls(
            hostname=got["hostname"],
            boot_id=got["boot_id"],
            network_id=got["network_id"],
            user=got["user"],
            home=got["home"],
            cores=got["cores"],
            gpus=got["gpus"] if isinstance(got["gpus"], int) else None,
            addresses=tuple((interface, address) for interface, address in got["addresses"]),
            ssh_address=got["ssh_address"],
            own_name=tuple(own) if isinstance(own, list) else None,
            interpreter=Interpreter(
                asked=got["python"],
                executable=python.get("executable"),
                version=python.get("version"),
                torch=python.get("torch"),
                problem=python.get("problem"),
                seen=tuple(python.get("seen", ())),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class StateFolder:
    """What trying to write where the runs' folders go has shown."""

    asked: str
    """As the inventory has it."""

    problem: str | None = None
    free: int = 0
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Dialled:
    """One host dialled the head's rendezvous port at one of its addresses."""

    address: str
    error: str | None = None
    local: str | None = None
    ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Listening:
    """What became of opening the rendezvous port on the head."""

    port: int | None = None
    error: str | None = None
    holder: str | None = None


@dataclass(frozen=True, kw_only=True)
class SshState:
    """How the connection went. Without a check's id it stands."""

    seconds: float = 0.0
    check: str | None = None
    message: str = ""
    hint: str | None = None
    noise: str = ""


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """All there is to judge."""

    hosts: tuple[str, ...]
    ssh: dict[str, SshState]
    facts: dict[str, HostFacts | str] = field(default_factory=dict)
    """By host; a text where they could not be had: why."""

    state: dict[str, StateFolder | str] = field(default_factory=dict)
    """By host; a text where it could not be tried: why."""

    ping: dict[str, float | str | None] = field(default_factory=dict)
    """Milliseconds; None: no answer; a text: why it was not tried."""

    same_machine: bool = False
    port: int | None = None
    """The port asked for; None: any."""

    listening: Listening | None = None
    dialled: dict[str, tuple[Dialled, ...]] = field(default_factory=dict)
    """By host: what it reached of the head's candidate addresses."""

    candidates: tuple[str, ...] = ()
    """The head's addresses that may carry the cluster, best first."""
