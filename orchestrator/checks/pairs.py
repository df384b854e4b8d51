"""Do the hosts reach each other, on any port and on the rendezvous'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.blocks import Block, blocks
from orchestrator.checks.dials import (
    MOST_SHOWN,
    connected,
    evidence,
    judged,
    left_out,
    most_common,
    names,
    place,
    reason,
    sides,
    ssh_cause,
    the_others,
)
from orchestrator.events import Verdict
from orchestrator.mesh import cluster_address, dials_to, head_address, subnet, within

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.checks.blocks import Pair
    from orchestrator.facts import ClusterFacts, Dialled

# Where the address itself is in doubt, and no port that is opened helps.
NOT_ITS_ADDRESS = ("STRANGER", "OTHER", "EAI", "ENETUNREACH")


# ---- net.pair ----


def pair(cluster: ClusterFacts) -> Iterator[Verdict]:
    if len(cluster.hosts) < 2:
        return
    yield from left_out(cluster, "net.pair")
    dials = judged(cluster)
    failed = {pair: dial for pair, dial in dials.items() if not dial.connected}
    found = blocks(cluster.hosts, dials, failed)
    named = {block.host for block in found}
    for host in cluster.hosts:
        own = [dial for (source, _), dial in dials.items() if source == host]
        if own and host not in named and all(dial.connected for dial in own):
            yield Verdict(
                id="net.pair",
                status="pass",
                host=host,
                message=f"reaches {the_others(len(own), cluster)}",
                duration_ms=max(dial.ms for dial in own),
            )
    for block in found:
        yield _blocked(cluster, block, failed, dials)


def _blocked(
    cluster: ClusterFacts,
    block: Block,
    failed: Mapping[Pair, Dialled],
    tried: Mapping[Pair, Dialled],
) -> Verdict:
    main = most_common(block, failed)
    words = reason(main)
    count = len(block.pairs)
    if block.kind == "all":
        message = f"no host can open TCP to another on ephemeral ports ({count} of {count} pairs)"
    elif block.kind == "alone":
        message = f"{block.host} and the other hosts cannot open TCP to each other ({count} pairs)"
    elif block.kind == "in":
        message = f"{block.host} cannot be reached over TCP by any other host ({count} of {count})"
    elif block.kind == "out":
        message = f"{block.host} can open TCP to no other host ({count} of {count})"
    elif block.mutual and count == 2:
        here, there = block.pairs[0]
        message = f"{here} and {there} cannot open TCP to each other on ephemeral ports"
    else:
        there, way = names(block.peers), "to" if not block.mutual else "to and from"
        message = f"{names(block.sources)} cannot open TCP {way} {there} on ephemeral ports"
        if block.mutual:
            message = f"{sides(block)} cannot open TCP to each other on ephemeral ports"
        elif count == 1 and (back := tried.get(block.pairs[0][::-1])) and back.connected:
            message += f" ({block.peers[0]} to {block.sources[0]} works)"
    return Verdict(
        id="net.pair",
        status="fail",
        **place(block),
        message=f"{message}: {words}",
        evidence=evidence(block, failed),
        hint=_hint(cluster, block, failed, main),
        duration_ms=max((failed[pair].after_ms or 0.0 for pair in block.pairs), default=None),
    )


def _hint(
    cluster: ClusterFacts, block: Block, failed: Mapping[Pair, Dialled], main: Dialled
) -> str:
    if block.kind in ("all", "alone"):
        from_whom = "the other hosts"
    else:
        from_whom = _addresses_of(cluster, block, failed)
    at = block.host if block.kind in ("in", "alone") else None
    at = at or (block.peers[0] if len(block.peers) == 1 else None)
    if main.error in NOT_ITS_ADDRESS:
        whose = at or "them"
        return (
            f"give {whose} an `addr:` in the inventory: an IP address in a network that they share"
            f"; by hand: ip route get {main.address}"
        )
    if main.error in ("EPERM", "EACCES"):
        return f"on {names(block.sources)} allow outgoing TCP to {main.address}"
    if block.kind == "out":
        return (
            f"on {block.host} allow outgoing TCP; or on the others allow TCP "
            f"{_ports(cluster, block.peers[0])} from {from_whom}"
        )
    where = "every host" if block.kind == "all" else f"{at or names(block.peers)}"
    ports = _ports(cluster, at or block.peers[0])
    hint = f"on {where} allow TCP {ports} from {from_whom}"
    whose = at or "them"
    if left := _not_tried(cluster, block):
        return f"{hint}; or set `addr:` of {whose} in another network (not tried: {names(left)})"
    if (
        main.error == "ETIMEDOUT"
        and main.phase == "connect"
        and _in_one_subnet(cluster, block, main)
    ):
        return hint
    return f"{hint}; or, if {main.address} is the wrong network, set `addr:` of {whose}"


def _not_tried(cluster: ClusterFacts, block: Block) -> list[str]:
    """List the interfaces at whose addresses nobody has dialled those that are not reached."""
    found: dict[str, None] = {}
    for peer in block.peers:
        told = cluster.networks.get(peer)
        tried = {dial.address for dial in dials_to(cluster, peer)}
        left = set(cluster.candidates.get(peer, ())) - tried
        own = () if told is None or isinstance(told, str) else told.addresses
        found |= {interface: None for interface, address in own if address in left}
    return list(found)


def _in_one_subnet(cluster: ClusterFacts, block: Block, main: Dialled) -> bool:
    """Tell whether it was dialled from its own subnet: then it is the right address."""
    nets = (
        subnet(main.address, told)
        for told in map(cluster.networks.get, block.peers)
        if told and not isinstance(told, str)
    )
    return any(within(main.local or "", net) for net in nets if net)


def _ports(cluster: ClusterFacts, host: str) -> str:
    told = cluster.interfaces.get(host)
    if told is None or isinstance(told, str) or told.ephemeral is None:
        return "1024-65535"
    return "{}-{}".format(*told.ephemeral)


def _addresses_of(cluster: ClusterFacts, block: Block, failed: Mapping[Pair, Dialled]) -> str:
    local = {source: failed[source, peer].local for source, peer in block.pairs}
    found = [local[source] or cluster_address(cluster, source) for source in block.sources]
    known = list(dict.fromkeys(address for address in found if address))
    if not known:
        return names(block.sources)
    return ", ".join(known) if len(known) <= MOST_SHOWN else "the other hosts"


# ---- net.rdzv ----


def rendezvous(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Ask of every host whether it reaches the head's port, at the address that most reach."""
    head, *others = cluster.hosts
    if not others:
        return
    listening = cluster.listening
    if listening is None or listening.error:
        why = "was not opened" if listening else "could not be tried"
        yield Verdict(
            id="net.rdzv",
            status="unknown",
            host=head,
            message=f"could not be tried by the others: the port on {head} {why}",
            caused_by="net.port.rdzv" if listening else ssh_cause(cluster, head),
        )
        return
    address = head_address(cluster)
    if address is None:
        yield Verdict(
            id="net.rdzv", status="unknown", host=head,
            message=f"could not be tried by the others: no address of {head} is known",
        )  # fmt: skip
        return
    yield from left_out(cluster, "net.rdzv", others)
    dials = {
        (host, head): dial
        for host in others
        for dial in cluster.rendezvous.get(host, ())
        if dial.address == address and connected(cluster, host)
    }
    failed = {pair: dial for pair, dial in dials.items() if not dial.connected}
    for (host, _), dial in dials.items():
        if dial.connected:
            yield Verdict(
                id="net.rdzv",
                status="pass",
                scope="pair",
                host=host,
                peer=head,
                message=f"{dial.address} in {dial.ms:.1f} ms",
                evidence={"address": dial.address, "local": dial.local},
                duration_ms=dial.ms,
            )
    for block in blocks(cluster.hosts, dials, failed):
        yield _unreached(cluster, block, failed, listening.port)


def _unreached(
    cluster: ClusterFacts, block: Block, failed: Mapping[Pair, Dialled], port: int | None
) -> Verdict:
    head = cluster.hosts[0]
    main = most_common(block, failed)
    count = len(block.pairs)
    who = names(block.sources) if block.kind == "some" else "no other host"
    can = "cannot" if block.kind == "some" else "can"
    whole = "" if block.kind == "some" else f" ({count} of {count})"
    where = Block(kind="some" if block.kind == "some" else "in", pairs=block.pairs, host=head)
    from_whom = _addresses_of(cluster, block, failed)
    return Verdict(
        id="net.rdzv",
        status="fail",
        **place(where),
        message=f"{who} {can} reach {head} at {main.address} port {port}{whole}: {reason(main)}",
        evidence=evidence(block, failed) | {"port": port},
        hint=f"on {head} allow TCP {port} from {from_whom}; or, if {main.address} is the wrong "
        f"network, set `addr:` of {head}"
        + ("" if cluster.port else "; `rendezvous: {port: ...}` keeps it to one port"),
        duration_ms=max((failed[pair].after_ms or 0.0 for pair in block.pairs), default=None),
    )
