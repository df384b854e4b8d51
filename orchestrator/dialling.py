"""Who dials whom, and where: first all at once, then what that has left open. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import TYPE_CHECKING

from orchestrator.mesh import cluster_addresses, dials_to, head_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.facts import ClusterFacts, Dialled, Network

# So many hosts try every ordered pair: 4,032 of them, which took 2.5 s on two cores.
FULL_MESH = 64
# A host with dozens of addresses must not cost N squared times as many.
MOST_ADDRESSES = 8
# How many more of a host that not everybody reached: with a host's others they are dialled at once.
MOST_MORE = 2


@dataclass(frozen=True, kw_only=True)
class Target:
    host: str
    address: str
    port: int
    rendezvous: bool = False
    """The head's rendezvous port; else one that the kernel picked, as gloo's and NCCL's are."""


# ---- at first ----


def partners(hosts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """List by host whom it dials: everybody, or among very many enough to find a fault by."""
    if len(hosts) <= FULL_MESH:
        return {host: tuple(other for other in hosts if other != host) for host in hosts}
    head = hosts[0]
    chosen: dict[str, set[str]] = {host: {head} - {host} for host in hosts}
    chosen[head] = set(hosts[1:])
    rings = [list(hosts)]
    random = Random("".join(hosts))  # noqa: S311  the same hosts try the same pairs again
    for _ in range(math.ceil(math.log2(len(hosts)))):
        rings.append(list(hosts))
        random.shuffle(rings[-1])
    for number, ring in enumerate(rings):
        for here, there in zip(ring, [*ring[1:], ring[0]], strict=True):
            chosen[here].add(there)
            if number == 0:  # the inventory's own order both ways: racks are often written so
                chosen[there].add(here)
    return {host: tuple(other for other in hosts if other in chosen[host]) for host in hosts}


def targets(
    hosts: Sequence[str],
    candidates: Mapping[str, Sequence[str]],
    ports: Mapping[str, int],
    rendezvous: int | None,
) -> dict[str, tuple[Target, ...]]:
    """List by host what it dials, of the hosts in `ports`, which have a port open."""
    head = hosts[0]
    most = most_addresses(len(hosts))

    def at(host: str, *, port: int, rendezvous: bool = False) -> Iterable[Target]:
        # All depends on the head's address: it is chosen from as many as there may be.
        several = MOST_ADDRESSES if host == head else most
        for address in candidates.get(host, ())[:several]:
            yield Target(host=host, address=address, port=port, rendezvous=rendezvous)

    found: dict[str, tuple[Target, ...]] = {}
    for host, others in partners(hosts).items():
        if host not in ports:
            continue
        listed = [t for other in others if other in ports for t in at(other, port=ports[other])]
        if rendezvous and host != head and head in ports:
            listed += at(head, port=rendezvous, rendezvous=True)
        found[host] = tuple(listed)
    return found


def most_addresses(hosts: int) -> int:
    return MOST_ADDRESSES if hosts <= 8 else 2 if hosts <= 32 else 1


# ---- and again, where that was not enough ----


def elsewhere(cluster: ClusterFacts, ports: Mapping[str, int]) -> dict[str, tuple[Target, ...]]:
    """List by host more addresses of those whom not everybody has reached at one already tried.

    All who dialled such a host dial it again: where a network works for some alone, it is another
    one that is to be found. First the networks that the head is reached by, and that most share.
    """
    found: dict[str, list[Target]] = {}
    shared = Counter(net for told in cluster.networks.values() for net in set(_nets(told).values()))
    reached_by = _nets(cluster.networks.get(cluster.hosts[0])).get(_where_reached(cluster) or "")
    for peer, port in ports.items():
        tried = {dial.address for dial in dials_to(cluster, peer)}
        dialled = {h: d for h in cluster.hosts if (d := cluster.dialled.get((h, peer)))}
        if all(any(dial.connected for dial in dials) for dials in dialled.values()):
            continue
        nets = _nets(cluster.networks.get(peer))
        left = [a for a in cluster.candidates.get(peer, ()) if a not in tried]
        left.sort(key=lambda a: (nets.get(a) != reached_by, -shared[nets.get(a, "")]))
        for host in dialled:
            more = (Target(host=peer, address=a, port=port) for a in left[:MOST_MORE])
            found.setdefault(host, []).extend(more)
    return {host: tuple(listed) for host, listed in found.items() if listed}


def gaps(
    cluster: ClusterFacts, ports: Mapping[str, int], rendezvous: int | None
) -> dict[str, tuple[Target, ...]]:
    """List by host the addresses that the cluster is to use, and that it has not tried itself.

    It was answered at another one in time, or tried them when others did not.
    """
    found: dict[str, list[Target]] = {}
    head = cluster.hosts[0]

    def look(host: str, target: Target, dials: Iterable[Dialled]) -> None:
        tried = {dial.address for dial in dials}
        if tried and target.address not in tried:
            found.setdefault(host, []).append(target)

    for peer, address in cluster_addresses(cluster).items():
        if peer in ports and address in cluster.candidates.get(peer, ()):
            target = Target(host=peer, address=address, port=ports[peer])
            for host in cluster.hosts:
                look(host, target, cluster.dialled.get((host, peer), ()))
    if rendezvous and (address := head_address(cluster)):
        target = Target(host=head, address=address, port=rendezvous, rendezvous=True)
        for host, dials in cluster.rendezvous.items():
            look(host, target, dials)
    return {host: tuple(listed) for host, listed in found.items()}


def _where_reached(cluster: ClusterFacts) -> str | None:
    address = head_address(cluster)
    dials = (*dials_to(cluster, cluster.hosts[0]), *chain(*cluster.rendezvous.values()))
    return address if any(d.connected for d in dials if d.address == address) else None


def _nets(told: Network | str | None) -> dict[str, str]:
    """Return the network that each of a host's addresses is in, written in one way."""
    found: dict[str, str] = {}
    if told is None or isinstance(told, str):
        return found
    for address, prefix in told.prefixes.items():
        with contextlib.suppress(ValueError):  # no host is trusted to make sense
            found[address] = str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
    return found
