"""Does what is large get through between the hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.blocks import Block, blocks
from orchestrator.checks.dials import (
    MOST_SHOWN,
    evidence,
    judged,
    left_out,
    most_common,
    names,
    place,
    sides,
    the_others,
)
from orchestrator.events import Verdict
from orchestrator.mesh import interface_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.checks.blocks import Pair
    from orchestrator.facts import ClusterFacts, Dialled

ORDINARY_MTU, TUNNELLED_MTU = 1500, 1400


def payload(cluster: ClusterFacts) -> Iterator[Verdict]:
    if len(cluster.hosts) < 2:
        return
    yield from left_out(cluster, "net.payload")
    tried = judged(cluster)
    dials = {pair: dial for pair, dial in tried.items() if dial.connected}
    failed = {pair: dial for pair, dial in dials.items() if dial.error}
    found = blocks(cluster.hosts, dials, failed)
    named = {block.host for block in found}
    for host in cluster.hosts:
        own = [dial for (source, _), dial in dials.items() if source == host]
        if not own and any(source == host for source, _ in tried):
            yield Verdict(
                id="net.payload", status="unknown", host=host,
                message="not tried: it has opened a connection to no other host",
            )  # fmt: skip
        elif own and host not in named and not any(dial.error for dial in own):
            yield Verdict(
                id="net.payload",
                status="pass",
                host=host,
                message=f"64 KiB there and back with {the_others(len(own), cluster)}",
            )
    for block in found:
        yield _stuck(cluster, block, failed)


def _stuck(cluster: ClusterFacts, block: Block, failed: Mapping[Pair, Dialled]) -> Verdict:
    main = most_common(block, failed)
    involved = list(dict.fromkeys(host for pair in sorted(block.pairs) for host in pair))
    interfaces = {host: interface_of(cluster, host) for host in involved}
    mtus = {host: mtu_of(cluster, host, interfaces[host]) for host in involved}
    if block.kind == "all":
        between = "between any two hosts"
    elif block.host:
        between = f"between {block.host} and the other hosts"
    elif block.mutual:
        between = f"between {sides(block)}"
    else:
        between = f"from {names(block.sources)} to {names(block.peers)}"
    shown = [f"{mtus[host]} on {host}" for host in involved[:MOST_SHOWN] if mtus[host]]
    why = {
        "ETIMEDOUT": "they never come",
        "CHANGED": "other bytes come back",
        "EOF": "the connection is cut",
    }.get(main.error or "", main.error)
    evidence_ = evidence(block, failed) | {"mtus": mtus}
    return Verdict(
        id="net.payload",
        status="fail",
        **place(block),
        message=f"a short message passes {between}, 64 KiB do not: {why}"
        + (f" (MTU {', '.join(shown)})" if shown else ""),
        evidence=evidence_,
        hint=_smaller(cluster, block, mtus, interfaces),
        duration_ms=max((failed[pair].after_ms or 0.0 for pair in block.pairs), default=None),
    )


def _smaller(
    cluster: ClusterFacts,
    block: Block,
    mtus: Mapping[str, int | None],
    interfaces: Mapping[str, str | None],
) -> str:
    every = [
        mtu
        for host in cluster.hosts
        if (mtu := mtu_of(cluster, host, interface_of(cluster, host))) is not None
    ]
    least = min(every, default=ORDINARY_MTU)
    large = [host for host, mtu in mtus.items() if mtu and mtu > least]
    if not large:  # all alike: what is in between takes less than they think
        least = ORDINARY_MTU if least > ORDINARY_MTU else TUNNELLED_MTU
        large = [block.host] if block.host else list(mtus)
    where = names(large)
    interface = interfaces.get(large[0]) or "eth0"
    return (
        f"on {where}: sudo ip link set dev {interface} mtu {least}; or let the ICMP messages "
        f'"fragmentation needed" through in between'
    )


def mtu_of(cluster: ClusterFacts, host: str, interface: str | None) -> int | None:
    told = cluster.interfaces.get(host)
    return None if told is None or isinstance(told, str) else told.mtu_of(interface)
