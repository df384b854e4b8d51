"""Gather the facts that the checks judge: once per host, in parallel. It judges nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DdpOrchError, HostError, LinkLost
from orchestrator.facts import ClusterFacts, Dialled, HostFacts, Listening, SshState, StateFolder
from orchestrator.fleet import wait_for
from orchestrator.node import probe
from orchestrator.plan import candidates, state_dir_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inventory.model import Inventory
    from orchestrator.connection import Joined
    from orchestrator.fleet import Fleet
    from orchestrator.host.protocol import Host
    from orchestrator.link import Call

FACTS_SECONDS = 30.0
PROBE_SECONDS = 15.0
# A home on a file server that has gone answers to nobody, ever.
DISK_SECONDS = 10.0
# An address on which many machines answer, or a host with dozens of them, must not cost N squared.
MOST_CANDIDATES = 8


def gather(fleet: Fleet, inventory: Inventory, token: str) -> ClusterFacts:
    """Connect to everyone and find out. `token` proves to who dials that it reached this run."""
    pings = Pings(fleet.hosts)
    asked_of = {h.name: {"python": h.python, "workdir": h.workdir} for h in inventory.hosts}
    state_dirs = {host.name: state_dir_of(host) for host in inventory.hosts}
    joined = fleet.connect(
        lambda name: [
            ("facts.gather", asked_of[name]),
            ("files.try_out", {"state_dir": state_dirs[name]}),
        ]
    )
    here = {name: got for name, got in joined.items() if not isinstance(got, HostError)}
    calls = {name: got.calls[0] for name, got in here.items()}
    trials = {name: got.calls[1] for name, got in here.items()}
    tried = wait_for(trials, DISK_SECONDS)
    answers = wait_for(calls, FACTS_SECONDS)
    facts: dict[str, HostFacts | str] = {
        name: str(got) if isinstance(got, DdpOrchError) else HostFacts.parse(got)
        for name, got in answers.items()
    }
    head = inventory.hosts[0]
    port = inventory.rendezvous.port
    listening, dialled, addresses = None, {}, []
    if head.name in joined and not isinstance(joined[head.name], HostError):
        asked = {"port": 0 if port == "auto" else port, "token": token}
        opened = fleet.ask("probe.listen", {head.name: asked}, PROBE_SECONDS)
        answers |= opened
        listening = _listening(opened[head.name])
        known = facts.get(head.name)
        if listening and listening.port and isinstance(known, HostFacts):
            alone = inventory.same_machine or len(inventory.hosts) == 1
            addresses = candidates(head, known, alone=alone)[:MOST_CANDIDATES]
            others = [name for name in calls if name != head.name]
            targets = [[address, listening.port] for address in addresses]
            asked = {"targets": targets, "token": token}
            reached = fleet.ask("probe.dial", dict.fromkeys(others, asked), PROBE_SECONDS)
            answers |= reached
            dialled = _dialled(reached, addresses)
        fleet.ask("probe.release", {head.name: {"token": token}}, PROBE_SECONDS)
    return ClusterFacts(
        hosts=tuple(host.name for host in inventory.hosts),
        # A host that was lost on the way counts as one that cannot be reached.
        ssh={name: _ssh_state(got, answers.get(name)) for name, got in joined.items()},
        facts=facts,
        state={n: _state_folder(state_dirs[n], trials[n], got) for n, got in tried.items()},
        ping=pings.collect(),
        gpus={host.name: host.gpus for host in inventory.hosts if host.gpus is not None},
        workdirs={host.name: host.workdir for host in inventory.hosts if host.workdir is not None},
        same_machine=inventory.same_machine,
        port=None if port == "auto" else port,
        listening=listening,
        dialled=dialled,
        candidates=tuple(addresses),
    )


def _ssh_state(got: Joined | HostError, last: object) -> SshState:
    if isinstance(got, HostError):
        return SshState(check=got.check, message=got.message, hint=got.hint)
    if isinstance(last, HostError):
        lost = "lost again: " if isinstance(last, LinkLost) else ""
        return SshState(check=last.check, message=f"{lost}{last.message}", hint=last.hint)
    return SshState(seconds=got.seconds, noise=got.noise)


def _state_folder(asked: str, call: Call, got: Any) -> StateFolder | str:  # noqa: ANN401  JSON, or an error
    if isinstance(got, HostError):
        return got.message
    if not call.future.done():
        return StateFolder(asked=asked, problem="its disk, or file server, does not answer")
    if isinstance(got, DdpOrchError):
        return StateFolder(asked=asked, problem=got.message)
    return StateFolder(asked=asked, problem=got["problem"], free=got.get("free", 0))


def _listening(got: Any) -> Listening | None:  # noqa: ANN401  JSON, or an error
    if isinstance(got, DdpOrchError):
        return None  # unknown: it was not measured
    holder = got.get("holder")
    return Listening(
        port=got.get("port"),
        error=got.get("error"),
        holder=f"{holder['pid']} ({holder['command']})" if holder else None,
    )


def _dialled(answers: Mapping[str, Any], addresses: list[str]) -> dict[str, tuple[Dialled, ...]]:
    return {
        name: tuple(
            Dialled(address=a, error=r.get("error"), local=r.get("local"), ms=r["ms"])
            for a, r in zip(addresses, got, strict=True)
        )
        for name, got in answers.items()
        if not isinstance(got, DdpOrchError)
    }


class Pings:
    """Pings from this machine, under way while the connections are made."""

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self._results: dict[str, float | str | None] = dict.fromkeys(hosts, "no answer in time")
        self._threads = [
            threading.Thread(target=self._one, args=item, daemon=True) for item in hosts.items()
        ]
        for thread in self._threads:
            thread.start()

    def _one(self, name: str, host: Host) -> None:
        try:
            self._results[name] = probe.ping(host.ping_address())
        except HostError as error:
            self._results[name] = error.message
        except OSError as error:
            self._results[name] = error.strerror or str(error)

    def collect(self) -> dict[str, float | str | None]:
        for thread in self._threads:
            thread.join(0.5)
        return dict(self._results)
