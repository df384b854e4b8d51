"""Can each host be reached, trusted and talked to."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.checks.check import Check
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, SshState


def _stage(stage: str, cluster: ClusterFacts) -> Iterator[Verdict]:
    """Tell of the hosts whose connection failed there. Of those that stand ssh.reach tells."""
    for host in cluster.hosts:
        state = cluster.ssh.get(host)
        if state is not None and state.check == stage:
            yield _failed(stage, host, state)


def _failed(id_: str, host: str, state: SshState) -> Verdict:
    tried = {} if state.address is None else {"tried": state.address}
    message, hint = state.message, state.hint
    return Verdict(id=id_, status="fail", host=host, message=message, hint=hint, evidence=tried)


def _connection(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host in cluster.hosts:
        state = cluster.ssh.get(host)
        if state is None:
            yield Verdict(id="ssh.reach", status="unknown", host=host, message="not tried")
        elif state.check == "ssh.reach" or (state.check and state.check not in STAGES):
            yield _failed("ssh.reach", host, state)
        elif state.check is None:
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
        id="ssh.config",
        about="your ssh configuration can be read, and says nothing that cannot be done here",
        without="another user, key or way than `ssh` itself would take",
        how="`ssh -G`, or its files where there is no ssh program; on this machine alone",
        judge=partial(_stage, "ssh.config"),
    ),
    Check(
        id="ssh.jump",
        about="the way there stands: gateways (ProxyJump) and programs (ProxyCommand)",
        without="the same time-out once for each host behind it",
        how="each gateway is connected once, and judged as a host is",
        judge=partial(_stage, "ssh.jump"),
    ),
    Check(
        id="ssh.name",
        about="the host's name has an address, as this machine sees it",
        without="`Name or service not known`",
        how="getaddrinfo on this machine, within a deadline",
        judge=partial(_stage, "ssh.name"),
    ),
    Check(
        id="ssh.reach",
        about="the connection stands, and has not been lost since",
        without="a stack trace, or silence",
        how="one TCP connection per host, with a deadline; refused, silence and no route differ",
        judge=_connection,
    ),
    Check(
        id="ssh.banner",
        about="an sshd answers there, and agrees on how to speak",
        without="`Error reading SSH protocol banner`, or silence from a frozen sshd",
        how="its first line and the key exchange, each within a deadline",
        judge=partial(_stage, "ssh.banner"),
    ),
    Check(
        id="ssh.hostkey",
        about="the host's key is the one that is known for it",
        without="a run on a machine that is not yours, or `Host key verification failed`",
        how="known_hosts, authorities and revoked keys, as `ssh` reads them",
        judge=partial(_stage, "ssh.hostkey"),
    ),
    Check(
        id="ssh.auth",
        about="a key of yours lets you in",
        without="`Permission denied (publickey)`",
        how="the keys that `ssh` would offer, in its order",
        judge=partial(_stage, "ssh.auth"),
    ),
    Check(
        id="ssh.agent",
        about="a command runs there, and finds a python3 (3.8 or newer) to run our agent with",
        without="`python3: command not found`, or a startup file that ends or eats the session",
        how="the agent is started and says that it is there, within a deadline",
        judge=partial(_stage, "ssh.agent"),
    ),
    Check(
        id="ssh.noise",
        about="nothing but the agent writes to the connection",
        without="`Garbage packet received` from what speaks over ssh",
        how="all output before the agent's marker",
        judge=_noise,
        worst="warn",
    ),
)
STAGES = tuple(check.id for check in CHECKS if check.id != "ssh.noise")
"""Of a connection, each of which may fail: then there is nothing else to know of that host."""
