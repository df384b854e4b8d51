"""What the hosts said of themselves, and what was found out between them. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The Python that is to run the workers."""

    asked: str = "python3"
    """As the inventory has it."""

    path: str | None = None
    """What that is on the host: the program to call."""

    environment: dict[str, str] = field(default_factory=dict)
    """What activating the virtual or conda environment around it would set; {}: there is none."""

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
    gpus_installed: int | None = None
    """All that nvidia-smi knows, whatever the environment leaves visible."""

    workdir: str | None = None
    """The inventory's workdir, as an absolute path."""

    workdir_problem: str | None = None

    @classmethod
    def parse(cls, got: dict[str, Any]) -> HostFacts:
        python = got["interpreter"]
        own = got["own_name"]
        workdir = got["workdir"] or {}
        installed = got["gpus_installed"] if isinstance(got["gpus_installed"], int) else None
        visible = got["gpus_visible"]
        return cls(
            hostname=got["hostname"],
            boot_id=got["boot_id"],
            network_id=got["network_id"],
            user=got["user"],
            home=got["home"],
            cores=got["cores"],
            gpus=installed if visible is None else visible,
            gpus_installed=installed,
            workdir=workdir.get("path"),
            workdir_problem=workdir.get("problem"),
            addresses=tuple((interface, address) for interface, address in got["addresses"]),
            ssh_address=got["ssh_address"],
            own_name=tuple(own) if isinstance(own, list) else None,
            interpreter=Interpreter(
                asked=got["python"],
                path=python.get("path"),
                environment=python.get("environment") or {},
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

    gpus: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The GPUs that the inventory asks for, by host; hosts that do not say are left out."""

    workdirs: dict[str, str] = field(default_factory=dict)
    """The inventory's workdirs, by host."""

    same_machine: bool = False
    port: int | None = None
    """The port asked for; None: any."""

    listening: Listening | None = None
    dialled: dict[str, tuple[Dialled, ...]] = field(default_factory=dict)
    """By host: what it reached of the head's candidate addresses."""

    candidates: tuple[str, ...] = ()
    """The head's addresses that may carry the cluster, best first."""
