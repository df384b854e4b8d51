"""Can the hosts reach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, hosts_with_facts
from orchestrator.events import Verdict
from orchestrator.facts import HostFacts
from orchestrator.plan import head_address, is_local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Dialled

ERRORS = {
    "ETIMEDOUT": "no answer (a firewall drops it, or the address is not that host's)",
    "ECONNREFUSED": "refused (a firewall rejects it, or the address is another machine's)",
    "EHOSTUNREACH": "no route to host",
    "ENETUNREACH": "network unreachable",
    "STRANGER": "something else answers there",
    "EAI": "the name does not resolve there",
}


def _ping(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Information only: ICMP is often blocked where TCP works, and answers where TCP does not."""
    for host in cluster.hosts:
        got = cluster.ping.get(host)
        if isinstance(got, str):
            yield Verdict(id="net.ping", status="skip", host=host, message=got)
        elif host not in cluster.ping:
            yield Verdict(id="net.ping", status="skip", host=host, message="not tried")
        elif got is None:
            yield Verdict(id="net.ping", status="info", host=host, message="no answer")
        else:
            yield Verdict(
                id="net.ping",
                status="pass",
                host=host,
                message=f"{got:.1f} ms",
                duration_ms=round(got, 2),
            )


def _own_name(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Information only: most failed multi-node starts begin here, but ours are told addresses."""
    for host, facts in hosts_with_facts(cluster, "net.name.self"):
        if isinstance(facts, Verdict):
            yield facts
            continue
        own = {address for _, address in facts.addresses if not is_local(address)}
        good = bool(facts.own_name) and own.issuperset(facts.own_name or ())
        named = ", ".join(facts.own_name or ()) or "nothing"
        yield Verdict(
            id="net.name.self",
            status="pass" if good else "info",
            host=host,
            message=f"its own name {facts.hostname} resolves to {named}"
            + ("" if good else "; that does not matter here, addresses are given"),
        )


def _port(cluster: ClusterFacts) -> Iterator[Verdict]:
    head = cluster.hosts[0]
    got = cluster.listening
    if got is None:
        yield Verdict(id="net.port.rdzv", status="unknown", host=head, message="not tried")
    elif got.error:
        asked = cluster.port or "any port"
        who = f"pid {got.holder}" if got.holder else "another user's process, or a container"
        denied = got.error == "EACCES"
        yield Verdict(
            id="net.port.rdzv",
            status="fail",
            host=head,
            message=f"port {asked} may not be opened by this user"
            if denied
            else f"port {asked} is taken by {who}",
            evidence={"error": got.error, "port": cluster.port},
            hint="rendezvous: {port: auto} takes a free one"
            + ("" if denied else "; or end what holds it"),
        )
    else:
        yield Verdict(
            id="net.port.rdzv",
            status="pass",
            host=head,
            message=f"{got.port} is free",
            evidence={"port": got.port},
        )


def _rendezvous(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Ask of every host whether it reaches the address that most of the others reach."""
    head, *others = cluster.hosts
    if not others:
        return
    listening = cluster.listening
    if listening is None or listening.error:
        for host in others:
            yield Verdict(
                id="net.rdzv",
                status="unknown",
                scope="pair",
                host=host,
                peer=head,
                message=f"could not be tried: the port on {head} was not opened",
                caused_by="net.port.rdzv" if listening else "ssh.reach",
            )
        return
    if not cluster.candidates and isinstance(cluster.facts.get(head), HostFacts):
        yield Verdict(
            id="net.rdzv",
            status="fail",
            host=head,
            message="has no address that another host could reach",
            hint=f"give {head} an `addr:` in the inventory",
        )
        return
    address = head_address(cluster)
    for host in others:
        dialled = cluster.dialled.get(host)
        if dialled is None:
            yield Verdict(
                id="net.rdzv", status="unknown", scope="pair", host=host, peer=head,
                message="not tried", caused_by="ssh.reach",
            )  # fmt: skip
        else:
            yield _pair(
                host, head, next((d for d in dialled if d.address == address), None), listening.port
            )


def _pair(host: str, head: str, got: Dialled | None, port: int | None) -> Verdict:
    if got is None:
        return Verdict(
            id="net.rdzv", status="unknown", scope="pair", host=host, peer=head,
            message="not tried",
        )  # fmt: skip
    if got.error is None:
        return Verdict(
            id="net.rdzv",
            status="pass",
            scope="pair",
            host=host,
            peer=head,
            message=f"{got.address} in {got.ms:.1f} ms",
            evidence={"address": got.address, "local": got.local},
            duration_ms=got.ms,
        )
    return Verdict(
        id="net.rdzv",
        status="fail",
        scope="pair",
        host=host,
        peer=head,
        message=f"{host} cannot reach {head} at {got.address} port {port}: "
        + ERRORS.get(got.error, got.error),
        evidence={"address": got.address, "error": got.error},
        hint=f"open TCP (all ports above 1023) from {host} to {head}; or, if {got.address} is the "
        f"wrong network, set `addr:` of {head}",
        duration_ms=got.ms,
    )


CHECKS = (
    Check(id="net.ping", about="ICMP from this machine; information only", judge=_ping),
    Check(id="net.name.self", about="what the host's own name resolves to there", judge=_own_name),
    Check(id="net.port.rdzv", about="the rendezvous port is free on the head", judge=_port),
    Check(
        id="net.rdzv",
        about="every other host reaches the head's rendezvous port",
        judge=_rendezvous,
    ),
)
