"""Which interface carries the cluster, and what could lead NCCL or gloo to another one."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Literal

from orchestrator.checks.check import each
from orchestrator.checks.dials import names
from orchestrator.checks.payload import mtu_of
from orchestrator.events import Verdict
from orchestrator.mesh import ambiguous, cluster_address, dials_to, interface_of, is_local

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.facts import ClusterFacts, Network

GLOO = "GLOO_SOCKET_IFNAME"


def nic(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, told in each(cluster, "net.nic", cluster.networks):
        if isinstance(told, Verdict):
            yield told
            continue
        address, interface = cluster_address(cluster, host), interface_of(cluster, host)
        if not cluster.candidates.get(host):
            yield _no_address(cluster, host, told)
        elif address is None or _is_unreached_head(cluster, host):
            yield Verdict(
                id="net.nic", status="unknown", host=host, message="no other host has reached it"
            )
        else:
            yield Verdict(
                id="net.nic",
                status="pass",
                host=host,
                message=f"{interface}, {address}" if interface else address,
                evidence={"interface": interface, "address": address},
            )
    shared = {a: hosts for a, hosts in ambiguous(cluster.networks).items() if not is_local(a)}
    if shared:
        listed = [f"{a} ({_interface(cluster, a, h)}) on {names([*h])}" for a, h in shared.items()]
        yield Verdict(
            id="net.nic",
            status="info",
            scope="cluster",
            message=f"not used, as several hosts have the same: {'; '.join(listed)}",
            evidence={"addresses": {a: list(hosts) for a, hosts in shared.items()}},
        )


def _is_unreached_head(cluster: ClusterFacts, host: str) -> bool:
    """Tell whether nobody who dialled the head got through; what others use they have come from."""
    dials = [*dials_to(cluster, host), *chain(*cluster.rendezvous.values())]
    return host == cluster.hosts[0] and bool(dials) and not any(d.connected for d in dials)


def _no_address(cluster: ClusterFacts, host: str, told: Network) -> Verdict:
    shared = ambiguous(cluster.networks)
    own = [f"{address} ({interface})" for interface, address in told.addresses]
    not_alone = [a for _, a in told.addresses if a in shared and not is_local(a)]
    also = [f"; {a} is also on {_another(shared[a], host)}" for a in not_alone[:1]]
    return Verdict(
        id="net.nic",
        status="fail",
        host=host,
        message="has no address that another host could reach: it has "
        + (", ".join(own) or "none at all")
        + "".join(also),
        evidence={"addresses": [list(pair) for pair in told.addresses]},
        hint=f"give {host} an `addr:` in the inventory",
    )


def _another(hosts: Sequence[str], host: str) -> str:
    return next(other for other in hosts if other != host)


def _interface(cluster: ClusterFacts, address: str, hosts: Sequence[str]) -> str:
    told = cluster.networks[hosts[0]]
    own = () if isinstance(told, str) else told.addresses
    return next((interface for interface, a in own if a == address), "?")


def mtu_diff(cluster: ClusterFacts) -> Iterator[Verdict]:
    if len(cluster.hosts) < 2:
        return
    found: dict[str, tuple[int, str]] = {}
    for host, told in each(cluster, "net.mtu_diff", cluster.interfaces):
        if isinstance(told, Verdict):
            yield told
            continue
        interface = interface_of(cluster, host)
        mtu = mtu_of(cluster, host, interface)
        if interface and mtu:
            found[host] = mtu, interface
    by_mtu: dict[int, list[str]] = {}
    for host, (mtu, _) in found.items():
        by_mtu.setdefault(mtu, []).append(host)
    if len(by_mtu) < 2:
        for host, (mtu, interface) in found.items():
            yield Verdict(
                id="net.mtu_diff", status="pass", host=host, message=f"{mtu} on {interface}"
            )
        return
    least = min(by_mtu)
    counted = Counter({mtu: len(hosts) for mtu, hosts in by_mtu.items()}).most_common()
    odd = by_mtu[counted[-1][0]]
    # Without a majority nobody is the odd one.
    one = odd[0] if len(odd) == 1 and counted[0][1] > 1 else None
    large = [host for host, (mtu, _) in found.items() if mtu > least]
    listed = [f"{mtu} on {names(hosts)}" for mtu, hosts in by_mtu.items()]
    yield Verdict(
        id="net.mtu_diff",
        status="warn",
        scope="cluster",
        host=one,
        message=f"the MTU of the interfaces that carry the cluster differs: {', '.join(listed)}",
        evidence={"mtus": {host: mtu for host, (mtu, _) in found.items()}},
        hint=f"on {names(large)}: sudo ip link set dev {found[large[0]][1]} mtu {least}; or raise "
        f"the others to {max(by_mtu)}, if all that is in between takes it",
    )


# ---- what the environment says ----


def if_env(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Judge what is set by the user: what our launch sets itself it sets from what was found."""
    for host, told in each(cluster, "net.if_env", cluster.interfaces):
        if isinstance(told, Verdict):
            if cluster.socket_names.get(host):
                yield told
            continue
        given = cluster.socket_names.get(host, {})
        found = {name: value for name, value in (told.env | given).items() if value}
        if not found:
            continue
        there = [each.name for each in told.interfaces]
        carrier = interface_of(cluster, host)
        taken = {
            name: _gloo(value, there) if name == GLOO else _nccl(value, there)
            for name, value in sorted(found.items())
        }
        said = [(name, *_fits(cluster, host, carrier, those)) for name, those in taken.items()]
        bad = [(name, status, words) for name, status, words in said if status != "pass"]
        if not bad:
            shown = [f"{name}={value}" for name, value in sorted(found.items())]
            yield Verdict(id="net.if_env", status="pass", host=host, message=", ".join(shown))
            continue
        whose = {
            name: "inventory or --env" if name in given else "host's own environment"
            for name in found
        }
        listed = [f"{name}={found[name]} ({whose[name]}) {words}" for name, _, words in bad]
        wanted = carrier or "the interface"
        status = min((status for _, status, _ in bad), key=("fail", "warn", "unknown").index)
        yield Verdict(
            id="net.if_env",
            status=status,
            host=host,
            message="; ".join(listed),
            evidence={"set": found, "interfaces": there, "carrier": carrier},
            hint=None
            if status == "unknown"
            else "leave it out, and it is set to what was found here; or set "
            + ", ".join(f"{name}: {wanted if name == GLOO else '=' + wanted}" for name, *_ in bad),
        )


def _fits(
    cluster: ClusterFacts, host: str, carrier: str | None, taken: list[str] | str
) -> tuple[Literal["pass", "fail", "warn", "unknown"], str]:
    """Judge which interfaces are taken; a text says why none is."""
    if isinstance(taken, str):
        return "fail", taken
    if carrier is None or carrier in taken or len(cluster.hosts) == 1:
        return "pass", ""
    # Another one than ours may be the better one: IPoIB, where our ssh came by Ethernet.
    serves = [_serves(cluster, host, name) for name in taken]
    if all(serves):
        return "pass", ""
    known = f"{carrier} was found to carry the cluster"
    if False not in serves:
        return (
            "unknown",
            f"takes {names(taken)}, where no other host has tried to reach it; {known}",
        )
    return "warn", f"takes {names(taken)}; {known}"


def _serves(cluster: ClusterFacts, host: str, interface: str) -> bool | None:
    """Say whether all who dialled its addresses have reached them; None: nobody dialled."""
    told = cluster.networks.get(host)
    own = () if told is None or isinstance(told, str) else told.addresses
    addresses = {a for name, a in own if name == interface} & set(cluster.candidates.get(host, ()))
    dials = [dial for dial in dials_to(cluster, host) if dial.address in addresses]
    if addresses and not dials:
        return None
    return bool(dials) and all(dial.error is None for dial in dials)


def _gloo(value: str, there: Sequence[str]) -> list[str] | str:
    """Gloo takes names as they are, several with commas between them."""
    for name in value.split(","):
        if name[:1] in ("^", "="):
            return f"is NCCL's way to write it: gloo looks for an interface called {name}"
        if name not in there:
            longer = next((each for each in there if each.startswith(name)), None)
            more = f" (gloo takes the whole name: {longer})" if longer else ""
            return f"names an interface that is not there{more}"
    return value.split(",")


def _nccl(value: str, there: Sequence[str]) -> list[str] | str:
    taken = [name for name in there if nccl_takes(value, name)]
    return taken or "leaves no interface that is there"


def nccl_takes(value: str, name: str) -> bool:
    """Match as NCCL does: a name's beginning; with `=` the whole; with `^` before it all others."""
    excluded = value.startswith("^")
    value = value.removeprefix("^")
    exact = value.startswith("=")
    wanted = [part.partition(":")[0] for part in value.removeprefix("=").split(",") if part]
    matched = any(name == part if exact else name.startswith(part) for part in wanted)
    return matched != excluded


# ---- what is worth knowing of a host's addresses ----


def ipv6_only(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, told in cluster.networks.items():
        if isinstance(told, str):
            continue
        own = [address for _, address in told.addresses if not is_local(address)]
        if own and all(":" in address for address in own):
            yield Verdict(
                id="net.ipv6_only",
                status="info",
                host=host,
                message=f"has no IPv4 address but loopback: the cluster talks over {own[0]}",
            )
