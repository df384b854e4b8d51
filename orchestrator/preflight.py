"""Gather the facts that the checks judge: once per host, in parallel. It judges nothing.

Two rounds: what each host is asked as it is connected, and then what they find out between them.
Nobody waits for a part that hangs: each is asked on its own, and has its own deadline.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.asked import NEXT, Asked, Question
from orchestrator.between import explore, ports_to_hold
from orchestrator.connection import Joined
from orchestrator.errors import DdpOrchError, HostError, LinkLost
from orchestrator.facts import (
    Clock,
    ClusterFacts,
    Code,
    Conditions,
    HostFacts,
    Interfaces,
    Network,
    Smi,
    SshState,
    StateFolder,
    Strays,
    Wanted,
    understood,
)
from orchestrator.fleet import BEAT
from orchestrator.node import ping
from orchestrator.plan import around_python, state_dir_of, worker_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from inventory.model import Host, Inventory
    from orchestrator.fleet import Fleet
    from orchestrator.host.protocol import Host as HostDoor
    from orchestrator.link import Call
    from orchestrator.plan import Program

# What a ping gets on top, once all else is known: many networks drop them, and they would be all
# that is waited for.
LATE_PING = 0.5
# Three signs of life that did not come.
SILENT_SECONDS = 3 * BEAT
SOCKET_NAMES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def gather(
    fleet: Fleet,
    inventory: Inventory,
    token: str,
    looked: Callable[[str, str, bool], None] = lambda host, part, came: None,
    program: Program | None = None,
    env: Mapping[str, str] | None = None,
) -> ClusterFacts:
    """Connect to everyone and find out. `token` proves to who dials that it reached this run.

    `looked` hears of every part of every host when it is there, or will not come. `program` is what
    is to run; `env` comes over the inventory's environment.
    """
    pings = Pings(fleet.hosts)
    wanted = wanted_there(program)
    around = {h.name: around_python(given_to(h, inventory, env or {})) for h in inventory.hosts}
    look = [code_question(wanted, around)] if wanted else []
    more = {
        "listening.hold": {h.name: ports_to_hold(h, inventory, token) for h in inventory.hosts},
        "facts.gather": {name: {"env": found} for name, found in around.items()},
        "conditions.gather": {
            h.name: {"tmpdir": given_to(h, inventory, env or {}).get("TMPDIR")}
            for h in inventory.hosts
        },
    }
    round_one = Asked(fleet, inventory, looked, (*NEXT, *look), more)
    joined = fleet.connect(round_one.first, round_one.then, round_one.look)
    networks = round_one.answers("network.tell", Network.parse)
    # What is slow to answer, as an interpreter on a file server, is waited for after it.
    found = explore(fleet, inventory, token, networks, round_one.raw("listening.hold"), looked)
    port = inventory.rendezvous.port
    trials = round_one.calls["files.try_out"]
    tried = round_one.raw("files.try_out")
    smi = round_one.answers("smi.ask", Smi.parse)
    facts = {
        host: _host_facts(got, networks[host], smi.get(host))
        for host, got in round_one.raw("facts.gather").items()
    }
    lost = {name: found.lost.get(name) or round_one.lost(name) for name in joined}
    lost |= {name: _gone_silent(fleet, name) for name in joined if not lost[name]}
    return ClusterFacts(
        hosts=tuple(host.name for host in inventory.hosts),
        # A host that was lost on the way counts as one that cannot be reached.
        ssh={
            name: _ssh_state(got, lost[name], fleet.hosts[name].address)
            for name, got in joined.items()
        },
        facts=facts,
        networks=networks,
        state={
            host.name: _state_folder(state_dir_of(host), trials[host.name], tried[host.name])
            for host in inventory.hosts
            if host.name in tried
        },
        conditions=round_one.answers("conditions.gather", Conditions.parse),
        smi=smi,
        strays=round_one.answers("strays.find", Strays.parse),
        wanted=wanted,
        code=round_one.answers("code.look", Code.parse) if wanted else {},
        clocks=dict(_clocks(fleet, joined)),
        ping=pings.collect(),
        gpus={host.name: host.gpus for host in inventory.hosts if host.gpus is not None},
        **_wanted_of_gpus(inventory, facts, env or {}),
        workdirs={host.name: host.workdir for host in inventory.hosts if host.workdir is not None},
        same_machine=inventory.same_machine,
        port=None if port == "auto" else port,
        interfaces=round_one.answers("interfaces.tell", Interfaces.parse),
        listening=found.listening,
        candidates=found.candidates,
        given_addresses=tuple(host.name for host in inventory.hosts if host.addr is not None),
        dialled=found.dialled,
        rendezvous=found.rendezvous,
        unheard=found.unheard,
        head_named=found.head_named,
        from_here=found.from_here,
        ssh_to=_ssh_to(fleet, joined),
        socket_names={h.name: _socket_names(inventory, h, env or {}) for h in inventory.hosts},
    )


def wanted_there(program: Program | None) -> Wanted | None:
    """Return what the hosts are to have of their own: what is sent along they need not."""
    if program is None or program.ships:
        return None
    kind: Literal["script", "module", "command"] = "script" if program.python else "command"
    return Wanted(kind="module" if program.module else kind, target=program.target)


def given_to(host: Host, inventory: Inventory, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that the workers are given, the later over the earlier."""
    return {**inventory.job.env, **host.env, **env}


def code_question(wanted: Wanted, around: Mapping[str, dict[str, str]]) -> Question:
    def args(host: Host) -> dict[str, Any]:
        return {
            "kind": wanted.kind,
            "target": wanted.target,
            "python": host.python,
            "workdir": host.workdir,
            "env": around[host.name],
        }

    return Question("code.look", 15.0, args)


def _host_facts(
    got: Any,  # noqa: ANN401  JSON, or an error
    network: Network | str,
    smi: Smi | str | None,
) -> HostFacts | str:
    if isinstance(network, str):
        return network
    gpus, amd = (smi.count, smi.amd) if isinstance(smi, Smi) else (None, None)
    return understood(lambda told: HostFacts.parse(told, network, gpus, amd), got)


def _wanted_of_gpus(
    inventory: Inventory, facts: Mapping[str, HostFacts | str], env: Mapping[str, str]
) -> dict[str, Any]:
    """Return which GPUs the workers will be let see, and how many workers there are for them."""
    visible: dict[str, str] = {}
    workers: dict[str, int | None] = {}
    for host in inventory.hosts:
        given = given_to(host, inventory, env)
        known = facts.get(host.name)
        known = known if isinstance(known, HostFacts) else None
        workers[host.name] = worker_count(host, known, given)
        # One worker per core has no GPU of its own to use.
        none = host.nproc_per_node == "cpu" and host.gpus is None
        if none or "CUDA_VISIBLE_DEVICES" in given:
            visible[host.name] = "" if none else given["CUDA_VISIBLE_DEVICES"]
    counted = frozenset(
        host.name
        for host in inventory.hosts
        if host.gpus is None and host.nproc_per_node in (None, "gpu", "auto")
    )
    per_gpu = frozenset(host.name for host in inventory.hosts if host.nproc_per_node == "gpu")
    return {"visible": visible, "workers": workers, "counted": counted, "per_gpu": per_gpu}


def _clocks(fleet: Fleet, joined: Mapping[str, Joined | HostError]) -> Iterator[tuple[str, Clock]]:
    for name, got in joined.items():
        if isinstance(got, Joined):
            offset, trip = fleet.hosts[name].clock()
            if trip < float("inf"):
                yield name, Clock(offset=offset, trip=trip)


def _ssh_state(got: Joined | HostError, last: HostError | None, address: str | None) -> SshState:
    if isinstance(got, HostError):
        error, again = got, ""
    elif last is not None:
        error, again = last, "lost again: " if isinstance(last, LinkLost) else ""
    else:
        return SshState(seconds=got.seconds, noise=got.noise, address=address)
    message = f"{again}{error.message}"
    return SshState(check=error.check, message=message, hint=error.hint, address=address)


def _state_folder(asked: str, call: Call, got: Any) -> StateFolder | str:  # noqa: ANN401  JSON, or an error
    if isinstance(got, HostError):
        return got.message
    if not call.future.done():
        late = "its disk, or file server, does not answer"
        return StateFolder(asked=asked, problem=late, late=True)
    if isinstance(got, DdpOrchError):
        return StateFolder(asked=asked, problem=got.message)
    return understood(lambda told: StateFolder.parse(asked, told), got)


def _gone_silent(fleet: Fleet, name: str) -> HostError | None:
    """Find out whether a host that was there is so no more: a cable that is pulled says nothing."""
    silence = fleet.hosts[name].silence() if name in fleet.joined else 0.0
    if silence < SILENT_SECONDS:
        return None
    return LinkLost(
        f"nothing was heard from it for {silence:.0f} s",
        check="ssh.reach",
        host=name,
        hint="is it up, and its network? try again",
    )


def _ssh_to(fleet: Fleet, joined: Mapping[str, Joined | HostError]) -> dict[str, str]:
    found = {}
    for name, got in joined.items():
        with contextlib.suppress(HostError):  # it is reached through another one
            if isinstance(got, Joined):
                found[name] = fleet.hosts[name].ping_address()
    return found


def _socket_names(inventory: Inventory, host: Host, env: Mapping[str, str]) -> dict[str, str]:
    given = given_to(host, inventory, env)
    return {name: given[name] for name in SOCKET_NAMES if name in given}


class Pings:
    """Pings from this machine, under way while the connections are made."""

    def __init__(self, hosts: Mapping[str, HostDoor]) -> None:
        self._results: dict[str, float | str | None] = dict.fromkeys(hosts, "no answer in time")
        self._threads = [
            threading.Thread(target=self._one, args=item, daemon=True) for item in hosts.items()
        ]
        for thread in self._threads:
            thread.start()

    def _one(self, name: str, host: HostDoor) -> None:
        try:
            address = host.ping_address()
            self._results[name] = None  # on its way, and so far without an answer
            self._results[name] = ping.ping(address)
        except HostError as error:
            self._results[name] = error.message
        except OSError as error:
            self._results[name] = error.strerror or str(error)

    def collect(self) -> dict[str, float | str | None]:
        """Whoever has been connected and asked meanwhile, and has not answered, will not."""
        end = time.monotonic() + LATE_PING
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return dict(self._results)
