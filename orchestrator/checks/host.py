"""Is each host what the inventory takes it for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, hosts_with_facts
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts


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


CHECKS = (Check(id="host.dup", about="every entry is a machine of its own", judge=_duplicates),)
