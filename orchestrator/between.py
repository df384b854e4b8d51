"""The second round of preflight: what the hosts find out between them, and this machine of them.

Listeners stay open until everybody has reported, and are closed before anything is started.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.dialling import elsewhere, gaps, targets
from orchestrator.errors import DdpOrchError, HostError
from orchestrator.facts import ClusterFacts, Dialled, Listening, Named, understood
from orchestrator.mesh import all_candidates
from orchestrator.node import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inventory.model import Host, Inventory
    from orchestrator.dialling import Target
    from orchestrator.facts import Network
    from orchestrator.fleet import Fleet

# A host takes at most probe.WHOLE for its dialling; then there is the way there and back.
DIAL_SECONDS = 15.0
ASK_SECONDS = 5.0
FROM_HERE_SECONDS = 2.0


@dataclass
class Found:
    candidates: dict[str, tuple[str, ...]]
    listening: Listening | None = None
    dialled: dict[tuple[str, str], tuple[Dialled, ...]] = field(default_factory=dict)
    rendezvous: dict[str, tuple[Dialled, ...]] = field(default_factory=dict)
    unheard: dict[str, str] = field(default_factory=dict)
    head_named: dict[str, Named] = field(default_factory=dict)
    from_here: Dialled | str | None = None
    silent: set[str] = field(default_factory=set)
    """Hosts that have not reported, be it when they were asked again: nobody waits for them."""

    lost: dict[str, HostError] = field(default_factory=dict)
    """Hosts whose connection ended meanwhile."""


def ports_to_hold(host: Host, inventory: Inventory, token: str) -> dict[str, Any]:
    """Return what a host is asked to open: any port, and on the head the rendezvous' as well."""
    ports = {"mesh": 0}
    if host == inventory.hosts[0]:
        port = inventory.rendezvous.port
        ports["rendezvous"] = 0 if port == "auto" else port
    return {"token": token, "name": host.name, "ports": ports}


def explore(
    fleet: Fleet,
    inventory: Inventory,
    token: str,
    networks: Mapping[str, Network | str],
    held: Mapping[str, Any],
    looked: Callable[[str, str, bool], None] = lambda host, part, came: None,
) -> Found:
    """`held` is what became of the ports that each host was asked to open."""
    hosts = [host.name for host in inventory.hosts]
    head = hosts[0]
    found = Found(candidates=all_candidates(inventory, networks))
    ports: dict[str, int] = {}
    for host, got in held.items():
        listening = understood(lambda told: Listening.parse(told["mesh"]), got)
        if isinstance(listening, str):
            found.unheard[host] = listening
        elif listening.port is None:
            found.unheard[host] = f"it could open no port: {listening.error}"
        else:
            ports[host] = listening.port
    if head in held:
        found.listening = _rendezvous(fleet, head, held[head], inventory.rendezvous.port)
    rendezvous = found.listening.port if found.listening else None
    outside = FromHere(fleet, head, rendezvous, token)
    told = networks.get(head)
    name = told.hostname if told and not isinstance(told, str) else None

    def dial(listed: Mapping[str, Sequence[Target]], name: str | None = None) -> None:
        asked = {
            host: {
                "targets": [[t.host, t.address, t.port] for t in each],
                "token": token,
                "name": None if host == head else name,
            }
            for host, each in listed.items()
            if host not in found.silent
        }
        for host, got in fleet.ask("probe.dial", asked, DIAL_SECONDS).items():
            _take(found, host, listed[host], got)

    def so_far() -> ClusterFacts:
        return ClusterFacts(
            hosts=tuple(hosts),
            ssh={},
            networks=dict(networks),
            candidates=found.candidates,
            dialled=found.dialled,
            rendezvous=found.rendezvous,
        )

    # Where all is well the first is the only one: the others have nobody to dial.
    dial(targets(hosts, found.candidates, ports, rendezvous), name)
    dial(elsewhere(so_far(), ports))
    dial(gaps(so_far(), ports, rendezvous))
    for host in networks:
        looked(host, "probe.dial", host not in found.unheard)
    found.from_here = outside.result()
    _release(fleet, held, found, token)
    return found


def _release(fleet: Fleet, held: Mapping[str, Any], found: Found, token: str) -> None:
    """Close all ports; of those who have not answered so far nobody waits for another answer."""
    asked = {host: {"token": token} for host in held}
    silent = [host for host in asked if host in found.unheard or host in found.silent]
    for host in silent:
        with contextlib.suppress(HostError):  # lost: its agent ends, and its ports with it
            fleet.hosts[host].call("listening.release", asked.pop(host))
    fleet.ask("listening.release", asked, ASK_SECONDS)


def _rendezvous(fleet: Fleet, head: str, got: Any, asked: int | str) -> Listening | None:  # noqa: ANN401  JSON, or an error
    """Read what became of the head's port; who holds it is asked for when somebody does."""
    listening = understood(lambda told: Listening.parse(told["rendezvous"]), got)
    if isinstance(listening, str):
        return None  # unknown: it was not measured
    if listening.error != "EADDRINUSE":
        return listening
    holder = fleet.ask("probe.who_holds", {head: {"port": asked}}, ASK_SECONDS)[head]
    named = understood(lambda told: Listening.parse({"error": "EADDRINUSE"}, told), holder)
    return listening if isinstance(named, str) else named


def _take(found: Found, host: str, listed: Sequence[Target], got: Any) -> None:  # noqa: ANN401  JSON, or an error
    if isinstance(got, HostError):
        found.lost[host] = got

    def read(told: dict[str, Any]) -> list[tuple[Target, Dialled | None]]:
        return [
            (target, Dialled.parse(target.address, each))
            for target, each in zip(listed, told["dials"], strict=True)
        ]

    dials = understood(read, got)
    if isinstance(dials, str):
        found.silent.add(host)
        if not any(source == host for source, _ in found.dialled):
            found.unheard[host] = dials
        return  # else what it told before stands
    for target, dialled in dials:
        if dialled is None:
            continue
        if target.rendezvous:
            found.rendezvous[host] = (*found.rendezvous.get(host, ()), dialled)
        else:
            pair = host, target.host
            found.dialled[pair] = (*found.dialled.get(pair, ()), dialled)
    named = None if isinstance(got, DdpOrchError) else got.get("name")
    if named:
        looked_up = understood(Named.parse, named)
        if not isinstance(looked_up, str):
            found.head_named[host] = looked_up


class FromHere:
    """This machine tries the head's rendezvous port: where it gets in, so may others."""

    def __init__(self, fleet: Fleet, head: str, port: int | None, token: str) -> None:
        self._result: Dialled | str = "not tried: the port was not opened"
        self._thread: threading.Thread | None = None
        if port is not None:
            self._result = "not tried: the address is not known"
            work = threading.Thread(
                target=self._try, args=(fleet, head, port, token), daemon=True, name="from here"
            )
            self._thread = work
            work.start()

    def _try(self, fleet: Fleet, head: str, port: int, token: str) -> None:
        try:
            address = fleet.hosts[head].ping_address()
        except HostError:
            self._result = "not tried: it is reached through another host, or a command"
            return
        seconds = FROM_HERE_SECONDS
        got = probe.attempt(head, address, port, token, seconds, seconds, payload=b"")
        self._result = Dialled.parse(address, got) or "not tried"

    def result(self) -> Dialled | str:
        if self._thread:
            self._thread.join(2 * FROM_HERE_SECONDS)
        return self._result
