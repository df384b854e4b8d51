"""The preflight catalogue: a check is an id, what it does, and a pure judge(facts) -> verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks import env, fs, host, net, ssh

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.checks.check import Check
    from orchestrator.events import Verdict
    from orchestrator.facts import ClusterFacts

CATALOGUE: tuple[Check, ...] = (*ssh.CHECKS, *host.CHECKS, *fs.CHECKS, *env.CHECKS, *net.CHECKS)
IDS = tuple(check.id for check in CATALOGUE)
# Without a connection there is nothing to start with.
SKIPPABLE = tuple(id_ for id_ in IDS if id_ != "ssh.reach")


def judge(cluster: ClusterFacts, skip: Collection[str] = ()) -> tuple[Verdict, ...]:
    return tuple(
        verdict for check in CATALOGUE if check.id not in skip for verdict in check.judge(cluster)
    )


def failures(verdicts: tuple[Verdict, ...]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.status == "fail"]
