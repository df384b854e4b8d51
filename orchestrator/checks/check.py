"""What a check is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.events import Verdict
from orchestrator.facts import ClusterFacts, HostFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, kw_only=True)
class Check:
    id: str
    about: str
    judge: Callable[[ClusterFacts], Iterator[Verdict]]


def hosts_with_facts(
    cluster: ClusterFacts, check: str
) -> Iterator[tuple[str, HostFacts | Verdict]]:
    """Yield every connected host with its facts, or with the verdict that they are unknown."""
    for host in cluster.hosts:
        found = cluster.facts.get(host)
        if isinstance(found, HostFacts):
            yield host, found
        elif found is not None:
            yield host, Verdict(id=check, status="unknown", host=host, message=found)
