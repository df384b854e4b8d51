"""Can the hosts reach each other."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from orchestrator.checks import infiniband, nat, nics, pairs, payload
from orchestrator.checks.check import Check, hosts_with_facts
from orchestrator.checks.dials import ssh_cause
from orchestrator.events import Verdict
from orchestrator.facts.strays import lasting
from orchestrator.mesh import ambiguous, cluster_address, is_local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.events import Status
    from orchestrator.facts import ClusterFacts, Listening


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
    shared = ambiguous(cluster.networks)
    for host, facts in hosts_with_facts(cluster, "net.name.self"):
        if isinstance(facts, Verdict):
            yield facts
            continue
        own = {address for _, address in facts.addresses if not is_local(address)}
        own -= shared.keys()
        good = bool(facts.own_name) and own.issuperset(facts.own_name or ())
        named = ", ".join(facts.own_name or ()) or "nothing"
        yield Verdict(
            id="net.name.self",
            status="pass" if good else "info",
            host=host,
            message=f"its own name {facts.hostname} resolves to {named}"
            + ("" if good else "; that does not matter here, addresses are given"),
        )


def _heads_name(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Information only: the others are told the head's address, and never its name."""
    head, *others = cluster.hosts
    told = cluster.networks.get(head)
    if told is None or isinstance(told, str):
        return
    own = {address for _, address in told.addresses if not is_local(address)}
    for host in others:
        named = cluster.head_named.get(host)
        if named is None:
            continue
        good = bool(named.addresses) and own.issuperset(named.addresses)
        to = named.problem or ", ".join(named.addresses) or "nothing"
        yield Verdict(
            id="net.name.peer",
            status="pass" if good else "info",
            host=host,
            message=f"the head's name {told.hostname} is looked up there: {to}"
            + ("" if good else "; that does not matter here, addresses are given"),
        )


def _port(cluster: ClusterFacts) -> Iterator[Verdict]:
    head = cluster.hosts[0]
    got = cluster.listening
    if got is None:
        yield Verdict(
            id="net.port.rdzv", status="unknown", host=head, message="not tried",
            caused_by=ssh_cause(cluster, head),
        )  # fmt: skip
    elif got.error:
        asked = cluster.port or "any port"
        yield Verdict(
            id="net.port.rdzv",
            status="fail",
            host=head,
            message=f"port {asked} {_not_free(got)}",
            evidence={"error": got.error, "port": cluster.port, "pid": got.pid, "age": got.age},
            hint="rendezvous: {port: auto} takes a free one"
            + ("; or end what holds it" if got.error == "EADDRINUSE" else ""),
        )
    else:
        yield Verdict(
            id="net.port.rdzv",
            status="pass",
            host=head,
            message=f"{got.port} is free",
            evidence={"port": got.port},
        )


def _not_free(got: Listening) -> str:
    if got.error == "EACCES":
        return "may not be opened by this user"
    if got.error != "EADDRINUSE":
        return f"cannot be opened: {got.error}"
    if not got.holder:
        return "is taken by another user's process, or a container"
    since = "" if got.age is None else f", for {lasting(got.age)}"
    return f"is taken by pid {got.holder}{since}"


def _open_to_others(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Torch's store has no password and unpickles what it is sent: it should be shut off."""
    head, port, got = cluster.hosts[0], cluster.listening, cluster.from_here
    if port is None or port.port is None or got is None or isinstance(got, str):
        message = got if isinstance(got, str) else "not tried"
        yield Verdict(id="sec.rdzv_open", status="skip", host=head, message=message)
        return
    at = got.peer or got.address
    own = cluster_address(cluster, head) or ""
    reached = got.connected
    status: Status
    public = next((a for a in (at, own) if _public(a)), None)
    if reached and public:
        status, words = "warn", f"is on a public address, {public}"
        if public == at:
            words = f"can be opened from this machine, at a public address, {at}"
    elif _public(own):
        # A campus has such addresses, and a firewall in front: this machine stands for the world.
        status = "info"
        words = f"is on a public address, {own}; this machine cannot open it at {at}"
    elif reached and not is_local(at):
        status, words = "info", f"can be opened from this machine, at {at}, a private address"
    else:
        status, words = "pass", f"cannot be opened from this machine at {at}"
        if reached:
            words = "is on loopback here"
    hint = (
        f"on {head} allow TCP {port.port} from the other hosts alone: torch's store has no "
        "password; or give `addr:` of a private network to every host"
    )
    yield Verdict(
        id="sec.rdzv_open",
        status=status,
        host=head,
        message=f"the rendezvous port {words}",
        evidence={"address": at, "port": port.port, "error": got.error},
        hint=hint if status == "warn" else None,
    )


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


CHECKS = (
    Check(
        id="net.ping",
        about="ICMP from this machine; information only",
        without="a false alarm: ICMP is often blocked where TCP works",
        how="one ICMP echo from this machine",
        judge=_ping,
        worst="info",
    ),
    Check(
        id="net.name.self",
        about="what the host's own name resolves to there",
        without="`Gloo connectFullMesh failed`, remote=[127.0.1.1]; or a gaierror of torchrun",
        how="getaddrinfo of the host's own name there",
        judge=_own_name,
        worst="info",
    ),
    Check(
        id="net.name.peer",
        about="the head's name leads to the head on every host; information only",
        without="`IPv6 network addresses of (...) cannot be retrieved (gai error: -3)`",
        how="getaddrinfo of it on every other host, within 2 s",
        judge=_heads_name,
        worst="info",
    ),
    Check(
        id="net.nic",
        about="which interface carries the cluster; every host has an address to be reached at",
        without="`remote=[172.17.0.1] refused`: docker0 has the same address on every host",
        how="the kernel's list of addresses, and which of them the others reached",
        judge=nics.nic,
    ),
    Check(
        id="net.if_env",
        about="NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, where you set them, name an interface by "
        "which the others reach the host",
        without="`Unable to find address for: ^docker0`; NCCL retries until it times out",
        how="the inventory's env, --env and the host's own, against the interfaces there",
        judge=nics.if_env,
    ),
    Check(
        id="net.ipv6_only",
        about="who has no IPv4; information only",
        without="`gai error: -3` of what looks for IPv4",
        how="the kernel's list of addresses",
        judge=nics.ipv6_only,
        worst="info",
    ),
    Check(
        id="host.nat",
        about="the address that ssh goes to is the host's own, or another one is known to work",
        without="a hang: the others dial an address that leads elsewhere",
        how="where the connection arrived, against the host's interfaces",
        judge=nat.nat,
    ),
    Check(
        id="ib.link",
        about="InfiniBand ports are active, as many as on most hosts, and may be opened",
        without="no error: NCCL falls back to sockets, or to the slowest host's rails",
        how="/sys/class/infiniband, and who may open /dev/infiniband/uverbs*",
        judge=infiniband.infiniband,
        worst="warn",
    ),
    Check(
        id="net.port.rdzv",
        about="the rendezvous port is free on the head",
        without="minutes of silence, or an old torchrun's store takes part",
        how="bind, on the head",
        judge=_port,
    ),
    Check(
        id="net.pair",
        about="every host opens TCP to every other one, on ports that the kernel picks",
        without="init hangs to its timeout, on a random port",
        how="every ordered pair at once; who answers says who it is",
        judge=pairs.pair,
    ),
    Check(
        id="net.rdzv",
        about="every other host reaches the head's rendezvous port",
        without="`client socket has timed out`, after minutes",
        how="every host dials the head and is told a secret of this run",
        judge=pairs.rendezvous,
    ),
    Check(
        id="net.payload",
        about="64 KiB get through between every two hosts, and back",
        without="small tensors pass and large ones hang: `Timed out ... send`",
        how="an echo on every ordered pair",
        judge=payload.payload,
    ),
    Check(
        id="net.mtu_diff",
        about="the interfaces that carry the cluster have one MTU",
        without="the same, where nothing tells the larger one that it is too large",
        how="/sys/class/net",
        judge=nics.mtu_diff,
        worst="warn",
    ),
    Check(
        id="sec.rdzv_open",
        about="the rendezvous port is not open to the world",
        without="nothing: whoever can open it can run code on every host",
        how="this machine dials it, at the address that ssh goes to",
        judge=_open_to_others,
        worst="warn",
    ),
)
