"""What a check is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.facts import ClusterFacts, HostFacts

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Check:
    id: str
    about: str
    """What holds when it passes, in one line."""

    without: str
    """What one meets who is not told by it: the error, the hang, the wrong result."""

    how: str
    """How it is found out."""

    judge: Callable[[ClusterFacts], Iterator[Verdict]]
    worst: Literal["fail", "warn", "info"] = "fail"
    """The worst that it may say."""

    tier: Literal["instant", "gpu", "deep"] = "instant"


def user_of(cluster: ClusterFacts, host: str) -> str | None:
    """Return who is logged in there, as far as that is known."""
    facts = cluster.facts.get(host)
    return None if facts is None or isinstance(facts, str) else facts.user


def hosts_with_facts(
    cluster: ClusterFacts, check: str
) -> Iterator[tuple[str, HostFacts | Verdict]]:
    """Yield every connected host with its facts, or with the verdict that they are unknown."""
    return each(cluster, check, cluster.facts)


def each(
    cluster: ClusterFacts, check: str, told: Mapping[str, T | str]
) -> Iterator[tuple[str, T | Verdict]]:
    """Yield every host of which `told` knows, with that, or with the verdict that it is unknown."""
    for host in cluster.hosts:
        found = told.get(host)
        if isinstance(found, str):
            yield host, Verdict(id=check, status="unknown", host=host, message=found)
        elif found is not None:
            yield host, found
