"""Ask the hosts of one or many inventories what runs there, and have them forget what is over.

A host that several runs share is connected once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import DdpOrchError, HostError
from orchestrator.fleet import wait_for
from orchestrator.plan import state_dir_of
from orchestrator.reports import read_reports
from orchestrator.run import doors_for, fleet_of, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inventory.model import Host, Inventory
    from orchestrator.reports import NodeReport
    from orchestrator.run import Options

# A file server that hangs must not hold up what the others tell.
ANSWER = 30.0
# Removing takes as long as there are files: an agent that is left before ends half-way.
REMOVAL = 1800.0
# What tells whether two entries are one host to us; their names alone do not.
REACHED_BY = {"name", "ssh", "user", "port", "identity_file", "known_hosts", "ssh_config"}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the hosts of one inventory say, or why they say nothing."""

    reports: list[NodeReport] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    failed: dict[str, HostError] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Said by a host about what it has, not about a run's node."""

    @property
    def failures(self) -> list[tuple[str, str]]:
        return [(host, error.message) for host, error in self.failed.items()]


class Survey:
    """The hosts of some inventories, asked once; to be closed."""

    def __init__(self, inventories: Iterable[Inventory], options: Options) -> None:
        self._entries = {_key(host): host for each in inventories for host in each.hosts}
        self._doors = doors_for(options)
        # By their keys: runs' inventories may give one name to hosts that are not the same.
        self._fleet = fleet_of(self._entries, self._doors)
        self._answers: dict[str, Answers] = {}

    def ask(self, warn: Callable[[str], None], names: Sequence[str] | None = None) -> None:
        """Connect to all, as patiently as `up`, and ask those that can be reached.

        `names`: only of runs whose names begin with one of these.
        """
        joined = self._fleet.connect(lambda _: [])
        failed = {key: got for key, got in joined.items() if isinstance(got, HostError)}
        wanted = {
            key: {"state_dir": state_dir_of(host), "names": names}
            for key, host in self._entries.items()
            if key not in failed
        }
        told = self._fleet.ask("reports.tell", wanted, ANSWER)
        for key, host in self._entries.items():
            clock = self._fleet.hosts[key].our_time
            self._answers[key] = _read(host.name, failed.get(key) or told[key], clock)
        for notice in self._doors.known.notices():
            warn(notice)

    def has(self, inventory: Inventory) -> bool:
        return all(_key(host) in self._answers for host in inventory.hosts)

    def of(self, inventory: Inventory) -> Answers:
        """Return what the hosts of this inventory have said."""
        all_told = Answers()
        for told in (self._answers[_key(host)] for host in inventory.hosts):
            all_told.reports.extend(told.reports)
            all_told.answered.extend(told.answered)
            all_told.failed.update(told.failed)
            all_told.problems.extend(told.problems)
        return all_told

    def forget(
        self, inventory: Inventory, nodes: Iterable[NodeReport], *, old: bool
    ) -> list[DdpOrchError]:
        """Have each host remove these folders; return what went wrong."""
        keys = {host.name: _key(host) for host in inventory.hosts}
        errors: list[DdpOrchError] = []
        calls = {}
        for node in nodes:
            host = self._fleet.hosts[keys[node.host]]
            try:
                call = host.call("reports.forget", {"folder": node.folder, "old": old})
                calls[node.folder] = call
            except DdpOrchError as error:
                errors.append(error)
        answers = wait_for(calls, REMOVAL).values()
        return errors + [answer for answer in answers if isinstance(answer, DdpOrchError)]

    def unreachable(self) -> list[HostError]:
        """Return those that did not answer, grouped by what they have in common."""
        return together(pair for told in self._answers.values() for pair in told.failed.items())

    def problems(self) -> list[str]:
        return [line for told in self._answers.values() for line in told.problems]

    def close(self) -> None:
        self._fleet.close()


def _read(name: str, said: object, our_time: Callable[[float], float]) -> Answers:
    match said:
        case HostError():
            return Answers(failed={name: said})
        case DdpOrchError():  # it is there, but cannot tell: its folder is not private, say
            failed = HostError(said.message, check="ssh.agent", hint=said.hint, host=name)
            return Answers(failed={name: failed})
        case _:
            reports, problems = read_reports(name, said, our_time)
            return Answers(
                reports=reports,
                answered=[name],
                problems=[f"{name}: {problem}" for problem in problems],
            )


def _key(host: Host) -> str:
    return host.model_dump_json(include=REACHED_BY) + state_dir_of(host)
