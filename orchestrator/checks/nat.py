"""Is the address that ssh goes to a host's own; and where it is not, do the others get to it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from orchestrator.checks.dials import judged
from orchestrator.events import Verdict
from orchestrator.mesh import cluster_address, dials_to, subnet, within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Dialled, Network

# Addresses that mean something within one site alone; two sites may both have them.
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
# What a dial ends with whose packets lead nowhere, or to another machine.
ASTRAY = ("ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "STRANGER", "OTHER")


def nat(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Fail only where the others are elsewhere, and their packets get lost.

    In one network with it they dial the right address, and what keeps them out is a firewall: a
    cloud's hosts have public addresses for ssh, and their ports are closed at those as well.
    """
    dials = judged(cluster)
    for host, told in cluster.networks.items():
        if isinstance(told, str):
            continue
        own = [address for _, address in told.addresses]
        went = cluster.ssh_to.get(host, "")
        came = next((a for a in (told.ssh_address, went) if _is_address(a) and a not in own), None)
        if came is None:
            continue
        tried = dials_to(cluster, host)
        reached = any(dial.connected for dial in tried)
        into = [dial for (_, peer), dial in dials.items() if peer == host]
        lost = bool(into) and not reached and all(_is_astray(dial, told) for dial in into)
        fails = lost and host not in cluster.given_addresses
        if reached:
            how = f"the others reach it at {cluster_address(cluster, host)}"
        elif fails:
            how = "and no other host reaches it at one of its own"
        else:
            where = into[0].address if into else None
            how = f"the others dial {where}" if where else "no other host tried to reach it"
        yield Verdict(
            id="host.nat",
            status="fail" if fails else "info",
            host=host,
            message=f"ssh reaches it at {came}, which is none of its own addresses (NAT): {how}",
            evidence={"ssh_address": came, "own": own},
            hint=f"give {host} an `addr:` in the inventory, such as {came}" if fails else None,
        )


def _is_astray(dial: Dialled, told: Network) -> bool:
    if dial.error not in ASTRAY or (dial.error == "ETIMEDOUT" and dial.phase != "connect"):
        return False
    local = dial.local or ""
    shared = [*PRIVATE, subnet(dial.address, told) or ""]
    return not any(within(local, network) and within(dial.address, network) for network in shared)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
