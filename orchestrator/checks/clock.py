"""Do the hosts agree on what time it is."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from orchestrator.checks.check import Check
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts

# Seconds. The rendezvous drops a node whose sign of life is older than 15 s by another's clock.
WRONG, DOUBTFUL = 10.0, 2.0
HINT = "there: sudo chronyc makestep; or: sudo timedatectl set-ntp true"


def _clocks(cluster: ClusterFacts) -> Iterator[Verdict]:
    clocks = {host: cluster.clocks[host] for host in cluster.hosts if host in cluster.clocks}
    offsets = {host: clock.offset for host, clock in clocks.items()}
    # This machine is no part of the run: it has a say where half of the hosts stand against half.
    deciding = [] if len(offsets) % 2 else [0.0]
    usual = median([*offsets.values(), *deciding])
    wrong = []
    for host in cluster.hosts:
        state = cluster.ssh.get(host)
        clock = clocks.get(host)
        if clock is None:
            if state and not state.check:
                yield Verdict(
                    id="host.clock", status="unknown", host=host, message="was not measured"
                )
            continue
        off = abs(clock.offset - usual) - clock.trip / 2
        # What hurts is how far two hosts are apart.
        others = [offset for other, offset in offsets.items() if other != host]
        apart = max((abs(clock.offset - offset) for offset in others), default=0.0)
        evidence = {"offset": round(clock.offset, 3), "trip": round(clock.trip, 3)}
        if off < DOUBTFUL or not others or cluster.same_machine:
            yield Verdict(
                id="host.clock",
                status="pass",
                host=host,
                message=f"{clock.offset - usual:+.1f} s" if others else "alone",
                evidence=evidence,
            )
            continue
        wrong.append(host)
        yield Verdict(
            id="host.clock",
            status="fail" if apart - clock.trip / 2 >= WRONG else "warn",
            host=host,
            message=f"{host}'s clock is {_said(clock.offset - usual)} the others",
            evidence=evidence,
            hint=HINT,
        )
    agreed = [clock for host, clock in clocks.items() if host not in wrong]
    if agreed:
        hosts = median(clock.offset for clock in agreed)
        if abs(hosts) - max(clock.trip for clock in agreed) / 2 >= DOUBTFUL:
            yield Verdict(
                id="host.clock",
                status="info",
                scope="cluster",
                message=f"this machine's clock is {_said(-hosts)} the hosts'",
                hint="sudo chronyc makestep; or: sudo timedatectl set-ntp true",
            )


def _said(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'behind' if seconds < 0 else 'ahead of'}"


CHECKS = (
    Check(
        id="host.clock",
        about="the hosts' clocks agree",
        without="the world silently shrinks: nodes train alone and exit 0, or all hang",
        how="each host's time over the link, by the shortest round trip",
        judge=_clocks,
    ),
)
