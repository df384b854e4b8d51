"""Is each host what the inventory takes it for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks import clock, session
from orchestrator.checks.check import Check, each, hosts_with_facts
from orchestrator.events import Verdict
from orchestrator.facts import HostFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts

MOST_NAMED = 8


def _duplicates(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Two names for one machine would share its GPUs and ports. Containers differ by network."""
    first: dict[tuple[str, int], str] = {}
    for host, facts in hosts_with_facts(cluster, "host.dup"):
        if isinstance(facts, Verdict):
            yield facts
            continue
        other = first.setdefault((facts.boot_id, facts.network_id), host)
        if other == host or cluster.same_machine:
            yield Verdict(id="host.dup", status="pass", host=host, message="a machine of its own")
        else:
            yield Verdict(
                id="host.dup",
                status="fail",
                scope="pair",
                host=host,
                peer=other,
                message=f"{host} is the same machine as {other}",
                hint="leave one of them out and give the other `nproc_per_node:`; "
                "or, in a lab, say `same_machine: true`",
            )


def _clones(cluster: ClusterFacts) -> Iterator[Verdict]:
    """By machine-id. Containers of one image have it in common, and so have names of one boot."""
    first: dict[str, tuple[str, str]] = {}
    clones: dict[str, list[str]] = {}
    contained: set[str] = set()
    for host, found in each(cluster, "host.clone", cluster.conditions):
        facts = cluster.facts.get(host)
        if isinstance(found, Verdict) or not isinstance(facts, HostFacts):
            why = found.message if isinstance(found, Verdict) else str(facts or "not asked")
            yield Verdict(id="host.clone", status="unknown", host=host, message=why)
            continue
        # An image may have none, to be made at the first boot.
        known = found.machine_id or f"none on {host}"
        original, boot_id = first.setdefault(known, (host, facts.boot_id))
        if found.container:
            contained.add(original)
        if boot_id == facts.boot_id:
            yield Verdict(
                id="host.clone", status="pass", host=host, message="its machine-id is no other's"
            )
        else:
            clones.setdefault(original, []).append(host)
    for original, hosts in clones.items():
        yield Verdict(
            id="host.clone",
            status="info" if original in contained else "warn",
            scope="pair" if len(hosts) == 1 else "cluster",
            host=hosts[0] if len(hosts) == 1 else None,
            peer=original if len(hosts) == 1 else None,
            message=f"{_listed(hosts)} {'has' if len(hosts) == 1 else 'have'} the machine-id of "
            f"{original}: cloned, and perhaps given one address by DHCP",
            evidence={"hosts": hosts, "original": original},
            hint="on each clone: sudo rm -f /etc/machine-id /var/lib/dbus/machine-id; "
            "sudo systemd-machine-id-setup; sudo reboot",
        )


def _listed(hosts: list[str]) -> str:
    shown = hosts if len(hosts) <= MOST_NAMED else [*hosts[:MOST_NAMED], f"{len(hosts)} in all"]
    return ", ".join(shown)


CHECKS = (
    Check(
        id="host.dup",
        about="every entry is a machine of its own",
        without="`Duplicate GPU detected`, or a world that is too small",
        how="boot id and network namespace, compared",
        judge=_duplicates,
    ),
    Check(
        id="host.clone",
        about="no entry is a copy of another machine's disk",
        without="two hosts with one address, now and then",
        how="machine-id and boot id, compared",
        judge=_clones,
        worst="warn",
    ),
    *clock.CHECKS,
    *session.CHECKS,
)
