"""The network as a host sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is there at once, and decides who dials whom where."""

    addresses: tuple[tuple[str, str], ...]
    """Pairs of interface and address."""

    ssh_address: str
    """The address our connection arrived at, as the host sees it."""

    prefixes: dict[str, int] = field(default_factory=dict)
    """By address: how many of its bits are its subnet's."""

    idle: tuple[str, ...] = ()
    """Bridges that nothing is plugged into: docker0 without a container."""

    tunnels: tuple[str, ...] = ()
    """Interfaces that are no wire: of a VPN, say."""

    hostname: str = ""
    machine: str = ""
    """The same on two hosts: these are one machine, with one network."""

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Network:
        return cls(
            addresses=tuple((str(name), str(address)) for name, address, _ in got["addresses"]),
            prefixes={str(address): int(prefix) for _, address, prefix in got["addresses"]},
            ssh_address=str(got["ssh_address"]),
            idle=tuple(str(name) for name in got.get("idle", ())),
            tunnels=tuple(str(name) for name in got.get("tunnels", ())),
            hostname=str(got["hostname"]),
            machine=str(got["machine"]),
        )


@dataclass(frozen=True, kw_only=True)
class Interface:
    name: str
    mtu: int | None = None


@dataclass(frozen=True, kw_only=True)
class InfinibandPort:
    device: str
    port: str
    state: str
    """As the kernel has it: ACTIVE, INIT, ARMED, DOWN."""

    layer: str
    """InfiniBand, or Ethernet."""


@dataclass(frozen=True, kw_only=True)
class Interfaces:
    """What a host's interfaces are like; it may come later than `Network`."""

    interfaces: tuple[Interface, ...] = ()
    ephemeral: tuple[int, int] | None = None
    """The ports that the kernel gives to who asks for any: first and last."""

    infiniband: tuple[InfinibandPort, ...] = ()
    verbs: tuple[str, ...] | None = None
    """The devices by which we may use them; None: it was not told."""

    env: dict[str, str] = field(default_factory=dict)
    """What the host's own environment tells NCCL and gloo of interfaces."""

    def mtu_of(self, name: str | None) -> int | None:
        return next((each.mtu for each in self.interfaces if each.name == name), None)

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Interfaces:
        ephemeral = tuple(int(port) for port in got["ephemeral"])
        verbs = got.get("verbs")
        return cls(
            interfaces=tuple(
                Interface(
                    name=str(each["name"]),
                    mtu=None if each["mtu"] is None else int(each["mtu"]),
                )
                for each in got["interfaces"]
            ),
            ephemeral=(ephemeral[0], ephemeral[1]) if ephemeral else None,
            infiniband=tuple(
                InfinibandPort(
                    device=str(each["device"]),
                    port=str(each["port"]),
                    state=str(each["state"]),
                    layer=str(each["layer"]),
                )
                for each in got["infiniband"]
            ),
            verbs=None if verbs is None else tuple(str(name) for name in verbs),
            env={str(name): str(value) for name, value in got["env"].items()},
        )
