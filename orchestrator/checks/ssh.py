"""Can each host be reached, trusted and talked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts


def _connection(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host in cluster.hosts:
        state = cluster.ssh.get(host)
        if state is None:
            yield Verdict(id="ssh.reach", status="unknown", host=host, message="not tried")
        elif state.check:
            # The id says at which stage: ssh.config, .jump, .name, .reach, .banner, .hostkey,
            # .auth, .agent
            yield Verdict(
                id=state.check, status="fail", host=host, message=state.message, hint=state.hint
            )
        else:
            yield Verdict(
                id="ssh.reach",
                status="pass",
                host=host,
                message=f"connected in {state.seconds:.1f} s",
                duration_ms=round(state.seconds * 1000, 1),
            )


def _noise(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host in cluster.hosts:
        state = cluster.ssh.get(host)
        if state and state.noise.strip():
            first = state.noise.strip().splitlines()[0][:80]
            yield Verdict(
                id="ssh.noise",
                status="warn",
                host=host,
                message=f"a startup file of the shell prints: {first}",
                hint="print only in interactive shells; at its top, bash and zsh: "
                "[[ $- == *i* ]] || return; csh: if (! $?prompt) exit; "
                "fish: status is-interactive || return",
            )


CHECKS = (
    Check(
        id="ssh.reach",
        about="log in and start the agent, each stage with a deadline",
        judge=_connection,
    ),
    Check(id="ssh.noise", about="nothing but the agent writes to the connection", judge=_noise),
)
