"""What came of dialling, as the checks read it: by pair, at the address that counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator.events import Verdict
from orchestrator.mesh import cluster_addresses, head_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.checks.blocks import Block, Pair
    from orchestrator.facts import ClusterFacts, Dialled

DROPPED = "no answer (a firewall drops it, or the address is not that host's)"
ERRORS = {
    "ETIMEDOUT": DROPPED,
    "ECONNREFUSED": "refused (a firewall rejects it, or the address is another machine's)",
    "EHOSTUNREACH": "no route to host (a firewall rejects it, or nobody has that address)",
    "ENETUNREACH": "network unreachable (it has no route there)",
    "EPERM": "its own firewall forbids it",
    "EACCES": "its own firewall forbids it",
    "STRANGER": "something else answers there",
    "OTHER": "another host of ours answers there",
    "EAI": "the name does not resolve there",
}
SILENT = "connected, then silence (a firewall or a middlebox in between)"
MOST_SHOWN = 8


def judged(cluster: ClusterFacts) -> dict[Pair, Dialled]:
    """Return by pair the dial that counts: at the address by which the cluster knows the peer."""
    found: dict[Pair, Dialled] = {}
    for peer, address in cluster_addresses(cluster).items():
        if not connected(cluster, peer):
            continue
        for host in cluster.hosts:
            dials = cluster.dialled.get((host, peer), ())
            if not dials or not connected(cluster, host):
                continue
            there = [dial for dial in dials if dial.address == address]
            # That it got in elsewhere says nothing of that address.
            counts = there or [dial for dial in dials if not dial.connected]
            if counts:
                found[host, peer] = counts[0]
    return found


def connected(cluster: ClusterFacts, host: str) -> bool:
    state = cluster.ssh.get(host)
    return state is not None and state.check is None


def ssh_cause(cluster: ClusterFacts, host: str) -> str | None:
    """Return the id under which it stands that a host is not connected."""
    if connected(cluster, host):
        return None
    state = cluster.ssh.get(host)
    return (state and state.check) or "ssh.reach"


def left_out(
    cluster: ClusterFacts, check: str, hosts: tuple[str, ...] | list[str] | None = None
) -> Iterator[Verdict]:
    """Say once of each host that took no part in it why."""
    at = head_address(cluster) if check == "net.rdzv" else None
    for host in cluster.hosts if hosts is None else hosts:
        cause = ssh_cause(cluster, host)
        if cause:
            message = "not tried: there is no connection to it"
        elif host in cluster.unheard:
            message = f"not tried: {cluster.unheard[host]}"
        elif at and not any(dial.address == at for dial in cluster.rendezvous.get(host, ())):
            message = "not tried"
        elif not cluster.candidates.get(host):
            message = "not tried: no address of it is known that others could reach"
        else:
            continue
        yield Verdict(id=check, status="unknown", host=host, message=message, caused_by=cause)


def most_common(block: Block, failed: Mapping[Pair, Dialled]) -> Dialled:
    """Return one of those that fail in the way that most of the block do."""
    ways = Counter((failed[pair].error, failed[pair].phase) for pair in block.pairs)
    way = ways.most_common(1)[0][0]
    dials = (failed[pair] for pair in block.pairs)
    return next(dial for dial in dials if (dial.error, dial.phase) == way)


def reason(dial: Dialled) -> str:
    if dial.error == "ETIMEDOUT" and dial.phase == "greeting":
        return SILENT
    if dial.error == "OTHER":
        return f"{dial.who} answers there"
    return ERRORS.get(dial.error or "", str(dial.error))


def place(block: Block) -> dict[str, Any]:
    if block.kind == "all":
        return {"scope": "cluster", "host": None}
    if block.kind != "some":
        return {"scope": "host", "host": block.host}
    host, peer = block.pairs[0]
    return {"scope": "pair", "host": host, "peer": peer}


def evidence(block: Block, failed: Mapping[Pair, Dialled]) -> dict[str, Any]:
    def one(pair: Pair) -> dict[str, Any]:
        dial = failed[pair]
        told = {
            "err": dial.error, "phase": dial.phase, "way": dial.way, "address": dial.address,
            "local": dial.local, "after_ms": dial.after_ms, "path_mtu": dial.mtu,
        }  # fmt: skip
        return {name: value for name, value in told.items() if value is not None}

    if len(block.pairs) == 1:
        return one(block.pairs[0])
    return {
        "of": block.kind,
        "pairs": [{"host": p[0], "peer": p[1], **one(p)} for p in block.pairs[:100]],
        "count": len(block.pairs),
    }


def names(hosts: list[str]) -> str:
    if len(hosts) > MOST_SHOWN:
        return f"{', '.join(hosts[:MOST_SHOWN])} and {len(hosts) - MOST_SHOWN} more"
    return ", ".join(hosts)


def sides(block: Block) -> str:
    first = block.pairs[0][0]
    there = [peer for source, peer in block.pairs if source == first]
    here = [source for source in block.sources if source not in there]
    return f"{names(here)} and {names(there)}"


def the_others(count: int, cluster: ClusterFacts) -> str:
    every = len(cluster.hosts) - 1
    return f"the other {count}" if count == every else f"{count} of the other {every}"
