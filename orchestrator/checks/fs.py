"""Can each host keep a run's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check
from orchestrator.events import Verdict
from orchestrator.facts import HostFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts

# Below it a talkative job's logs may not find room; the job itself would go on.
LITTLE = 100 << 20


def _write(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, state in cluster.state.items():
        if isinstance(state, str):
            yield Verdict(id="fs.write", status="unknown", host=host, message=state)
            continue
        facts = cluster.facts.get(host)
        user = facts.user if isinstance(facts, HostFacts) else "you"
        elsewhere = f"a folder elsewhere on that host, such as /tmp/{user}-ddp-orch"
        if state.problem:
            yield Verdict(
                id="fs.write",
                status="fail",
                host=host,
                message=f"{state.asked}, where the runs' folders go, cannot be used: "
                f"{state.problem}",
                hint=f"mend that, or set `state_dir:` to {elsewhere}",
            )
            continue
        little = state.free < LITTLE
        yield Verdict(
            id="fs.write",
            status="warn" if little else "pass",
            host=host,
            message=f"{state.asked}, where the runs' folders go, has {state.free >> 20} MiB left",
            evidence={"folder": state.asked, "free": state.free},
            hint=f"what finds no room in the logs is lost; `state_dir:` may be {elsewhere}"
            if little
            else None,
        )


CHECKS = (Check(id="fs.write", about="the runs' folders can be made and written to", judge=_write),)
