"""At which addresses hosts may reach each other; then, of what came of dialling, at which they do.

Pure.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from inventory.model import Inventory
    from orchestrator.facts import ClusterFacts, Dialled, Network

# Milliseconds, and how many times as long as the quickest one a way takes that is clearly slower: a
# busy host answers late as well.
CLEARLY, SLOWER = 2.0, 5.0

# ---- at which they may ----


def all_candidates(
    inventory: Inventory, networks: Mapping[str, Network | str]
) -> dict[str, tuple[str, ...]]:
    """List by host the addresses at which others may reach it, best first."""
    known = {name: told for name, told in networks.items() if not isinstance(told, str)}
    alone = inventory.same_machine or len(inventory.hosts) == 1
    twice = ambiguous(known)
    found: dict[str, tuple[str, ...]] = {}
    near: str | None = None
    for host in inventory.hosts:
        if host.addr is not None:
            found[host.name] = (host.addr,)
        elif told := known.get(host.name):
            listed = [a for a in candidates(told, alone=alone, near=near) if a not in twice]
            found[host.name] = tuple(listed)
        if near is None and (own := found.get(host.name)):
            near = subnet(own[0], known.get(host.name))
    return found


def candidates(network: Network, *, alone: bool, near: str | None = None) -> list[str]:
    """List a host's addresses: in the head's subnet, then on no tunnel, then where our ssh arrived.

    The one our own connection arrived at is an address of the host's and carries traffic; behind
    NAT it is not among its interfaces' and nothing can be bound to it.
    """
    unique = dict.fromkeys(address for _, address in network.addresses)
    own = [a for a in unique if alone or not is_local(a)]
    own.sort(
        key=lambda a: (
            near is None or not within(a, near),
            is_on(a, network, network.tunnels),
            a != network.ssh_address,
        )
    )
    # One that has nothing else is dialled all the same: then it is told why that fails.
    return [a for a in own if not on_idle_bridge(a, network)] or own


def on_idle_bridge(address: str, network: Network) -> bool:
    """Tell whether it is in a subnet that nobody else is in; alone in it, it may be routed to."""
    if address == network.ssh_address or network.prefixes.get(address) in (32, 128):
        return False
    return is_on(address, network, network.idle)


def is_on(address: str, network: Network, interfaces: Collection[str]) -> bool:
    """Tell whether it belongs to some of a host's interfaces, and to none besides."""
    found = [name for name, own in network.addresses if own == address]
    return bool(found) and all(name in interfaces for name in found)


def ambiguous(networks: Mapping[str, Network | str]) -> dict[str, tuple[str, ...]]:
    """Return the addresses that several machines have, as docker0's and virbr0's: with the hosts.

    Whoever dials one reaches himself.
    """
    owners: dict[str, dict[str, str]] = {}
    for name, told in networks.items():
        if not isinstance(told, str):
            for address in {address for _, address in told.addresses}:
                owners.setdefault(address, {})[name] = told.machine or name
    return {
        address: tuple(hosts) for address, hosts in owners.items() if len(set(hosts.values())) > 1
    }


def subnet(address: str, network: Network | None) -> str | None:
    prefix = network.prefixes.get(address) if network else None
    return None if prefix is None else f"{address}/{prefix}"


def within(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


# ---- what came of it ----


def head_address(cluster: ClusterFacts) -> str | None:
    """Return the address of the head that most of the other hosts reached; of equals the best."""
    head = cluster.hosts[0]
    at_rendezvous = [d for dials in cluster.rendezvous.values() for d in dials]
    at_any = dials_to(cluster, head)

    def worth(address: str) -> tuple[int, int]:
        return reached(address, at_rendezvous), reached(address, at_any)

    return next(iter(_best(cluster, head, worth, [*at_rendezvous, *at_any])), None)


def cluster_address(cluster: ClusterFacts, host: str) -> str | None:
    """Return where the others reach a host: as the inventory says, or as the dialling has shown."""
    return _address(cluster, host, head_address(cluster))


def cluster_addresses(cluster: ClusterFacts) -> dict[str, str | None]:
    """Return them of all hosts."""
    at_head = head_address(cluster)
    return {host: _address(cluster, host, at_head) for host in cluster.hosts}


def _address(cluster: ClusterFacts, host: str, at_head: str | None) -> str | None:
    """Prefer, of equals, the one from which the host itself reaches the head.

    What it says of itself and what carries its packets are the same interface then.
    """
    if host == cluster.hosts[0]:
        return at_head
    dials = dials_to(cluster, host)
    local = way_to_head(cluster, host, at_head)
    best = _best(cluster, host, lambda a: (reached(a, dials),), dials)
    if best and reached(best[0], dials):
        return local if local in best else best[0]
    return local


def _best(
    cluster: ClusterFacts,
    host: str,
    worth: Callable[[str], tuple[int, ...]],
    dials: Sequence[Dialled],
) -> list[str]:
    """List the addresses that most reached; no tunnel and no slow way among them, if they can.

    A VPN that our ssh came by may reach everybody, and is not what training should go by.
    """
    values = {address: worth(address) for address in cluster.candidates.get(host, ())}
    most = max(values.values(), default=None)
    equal = [address for address, value in values.items() if value == most]
    told = cluster.networks.get(host)
    if told is None or isinstance(told, str):
        return equal
    equal = [a for a in equal if not is_on(a, told, told.tunnels)] or equal
    # Between addresses of one interface a difference is chance.
    names = {own: interface for interface, own in reversed(told.addresses)}
    times: dict[str | None, float] = {}
    for dial in dials:
        if dial.connected and dial.address in equal:
            name = names.get(dial.address)
            times[name] = min(dial.ms, times.get(name, dial.ms))
    least = min(times.values(), default=0.0)
    slow = max(SLOWER * least, least + CLEARLY)
    return [a for a in equal if times.get(names.get(a), least) <= slow]


def interface_of(cluster: ClusterFacts, host: str) -> str | None:
    """Return the interface that carries the cluster, also where others know it by another address.

    Behind NAT, or by a name, it is the one where their connections arrived.
    """
    told = cluster.networks.get(host)
    at_head = head_address(cluster)
    address = _address(cluster, host, at_head)
    if told is None or isinstance(told, str) or address is None:
        return None
    arrived = [d.arrived for d in dials_to(cluster, host) if d.address == address and d.arrived]
    names = {own: interface for interface, own in reversed(told.addresses)}
    for own in (address, *arrived, way_to_head(cluster, host, at_head)):
        if own in names:
            return names[own]
    return None


def way_to_head(cluster: ClusterFacts, host: str, address: str | None) -> str | None:
    """Return the address from which a host reached the head; the kernel chose it by its route."""
    head = cluster.hosts[0]
    dials = (*cluster.rendezvous.get(host, ()), *cluster.dialled.get((host, head), ()))
    return next((d.local for d in dials if d.address == address and d.connected), None)


def dials_to(cluster: ClusterFacts, host: str) -> list[Dialled]:
    return [d for other in cluster.hosts for d in cluster.dialled.get((other, host), ())]


def reached(address: str, dials: Iterable[Dialled]) -> int:
    """Count who reached it; what lets nothing large through counts, but for less."""
    at = [d for d in dials if d.address == address]
    return sum(d.connected for d in at) + sum(d.error is None for d in at)
