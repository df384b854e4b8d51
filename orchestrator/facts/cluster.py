"""All there is to judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.facts.code import Code, Wanted
    from orchestrator.facts.conditions import Conditions
    from orchestrator.facts.disk import StateFolder
    from orchestrator.facts.host import HostFacts
    from orchestrator.facts.login import Clock, SshState
    from orchestrator.facts.mesh import Dialled, Listening, Named
    from orchestrator.facts.network import Interfaces, Network
    from orchestrator.facts.smi import Smi
    from orchestrator.facts.strays import Strays


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """By host, where nothing else is said; a text where it could not be had: why.

    Hosts without a connection are in `ssh` alone.
    """

    hosts: tuple[str, ...]
    ssh: dict[str, SshState]
    facts: dict[str, HostFacts | str] = field(default_factory=dict)
    networks: dict[str, Network | str] = field(default_factory=dict)
    interfaces: dict[str, Interfaces | str] = field(default_factory=dict)
    state: dict[str, StateFolder | str] = field(default_factory=dict)
    conditions: dict[str, Conditions | str] = field(default_factory=dict)
    smi: dict[str, Smi | str] = field(default_factory=dict)
    strays: dict[str, Strays | str] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    ping: dict[str, float | str | None] = field(default_factory=dict)
    """Milliseconds; None: no answer; a text: why it was not tried."""

    gpus: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The GPUs that the inventory asks for; hosts that do not say are left out."""

    visible: dict[str, str] = field(default_factory=dict)
    """CUDA_VISIBLE_DEVICES where the run itself sets it, or uses no GPU at all."""

    workers: dict[str, int | None] = field(default_factory=dict)
    """How many are to run there, as far as that is known."""

    counted: frozenset[str] = frozenset()
    """Hosts on which there is to be one worker per GPU that is found."""

    per_gpu: frozenset[str] = frozenset()
    """Those of which the inventory says so: `nproc_per_node: gpu`."""

    workdirs: dict[str, str] = field(default_factory=dict)
    """The inventory's workdirs."""

    wanted: Wanted | None = None
    """What every host is to have; None: nothing, or it is sent along."""

    code: dict[str, Code | str] = field(default_factory=dict)
    same_machine: bool = False
    port: int | None = None
    """The port asked for; None: any."""

    listening: Listening | None = None
    """The rendezvous port, on the head."""

    candidates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The addresses at which others may reach it, best first; the inventory's `addr:` alone."""

    given_addresses: tuple[str, ...] = ()
    """The hosts whose address is the inventory's."""

    dialled: dict[tuple[str, str], tuple[Dialled, ...]] = field(default_factory=dict)
    """By host and peer: what came of dialling a port there that the kernel had picked."""

    rendezvous: dict[str, tuple[Dialled, ...]] = field(default_factory=dict)
    """What it reached of the head's addresses, at the rendezvous port."""

    unheard: dict[str, str] = field(default_factory=dict)
    """Hosts that are connected, but took no part in the dialling, or did not report: why."""

    head_named: dict[str, Named] = field(default_factory=dict)
    """What the head's own name is looked up to, on the others."""

    from_here: Dialled | str | None = None
    """This machine at the head's rendezvous port; a text: why that was not tried."""

    ssh_to: dict[str, str] = field(default_factory=dict)
    """The name or address that our ssh went to, where it went there directly."""

    socket_names: dict[str, dict[str, str]] = field(default_factory=dict)
    """NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, where the inventory or --env sets them."""
