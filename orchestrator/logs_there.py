"""The hosts of a run whose logs are wanted: reached, asked which run it is and what they have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import DdpOrchError, HostError, NoSuchRun, UsageError
from orchestrator.journal import UNTOLD
from orchestrator.local_runs import known, meant
from orchestrator.loglines import file_called, only
from orchestrator.logs_here import Subject, of_record
from orchestrator.plan import state_dir_of
from orchestrator.reports import merge, read_reports, refuse_doubles
from orchestrator.run import doors_for, fleet_of, together
from orchestrator.watch import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.model import Host, Inventory
    from orchestrator.local_runs import LocalRun
    from orchestrator.logfiles import LogFile
    from orchestrator.loglines import Wanted
    from orchestrator.reports import NodeReport
    from orchestrator.run import Options

    Say = Callable[[DdpOrchError], None]

# A file server that hangs must not hold up what the others tell.
ANSWER = 30.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which run: that of a record, or one that an inventory's hosts have."""

    record: LocalRun | None
    name: str | None = None
    inventory: Inventory | None = None

    @property
    def whole(self) -> LocalRun | None:
        """The record, where no host need be asked to know which run it is."""
        return self.record if self.inventory is None else None


class LogHosts:
    """The run's hosts, connected; those that could not be are in `failed`, and have been named."""

    def __init__(self, asked: Asked, wanted: Wanted, options: Options, say: Say) -> None:
        self.failed: dict[str, DdpOrchError] = {}
        self._say = say
        subject = of_record(asked.whole, wanted) if asked.whole else None
        entries = _known_hosts(subject) if subject else _hosts_of(asked.inventory, wanted)
        doors = doors_for(options)
        self.fleet = fleet_of(entries, doors)
        try:
            joined = self.fleet.connect(lambda _: [])
            away = {host: got for host, got in joined.items() if isinstance(got, HostError)}
            self.failed.update(away)
            for notice in doors.known.notices():
                say(DdpOrchError(notice))
            if subject is None:
                subject = self._found(entries, asked.name)
            for alike in together(away.items()):
                say(alike)
            for host, error in self.failed.items():
                if host not in away:
                    say(error)
            self.subject = self._looked(subject)
        except BaseException:  # Ctrl-C too: nobody else closes what was opened here
            self.fleet.close()
            raise

    def __enter__(self) -> LogHosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close()

    def _fail(self, host: str, error: DdpOrchError) -> None:
        self.failed[host] = error
        self._say(error)

    def _found(self, entries: Sequence[Host], name: str | None) -> Subject:
        """Find the run by what the hosts have of it."""
        names = None if name is None else [name]
        places = {h.name: {"state_dir": state_dir_of(h), "names": names} for h in entries}
        asked = {host: args for host, args in places.items() if host not in self.failed}
        reports: list[NodeReport] = []
        for host, answer in self.fleet.ask("reports.tell", asked, ANSWER).items():
            if isinstance(answer, DdpOrchError):
                self.failed[host] = answer
                continue
            told, problems = read_reports(host, answer, self.fleet.hosts[host].our_time)
            reports += told
            for problem in problems:
                self._say(DdpOrchError(problem, host=host))
        found = merge(reports, [host for host in asked if host not in self.failed])
        found.sort(key=lambda run: run.started or 0.0, reverse=True)
        try:
            which = 0
            if name is not None or not found:
                which = meant(name or "", [run.name for run in found], "on these hosts")
        except NoSuchRun:
            for error in self.failed.values():
                raise error from None  # it may be there
            raise
        run = found[which]
        nodes = {n: Watched(run.host_of(n, places), n, at.folder) for n, at in run.nodes.items()}
        at_hosts = {node.host for node in nodes.values()}
        for node, host in enumerate(run.plan.hosts if run.plan else ()):
            if host in self.failed:
                nodes.setdefault(node, Watched(host, node, ""))
            elif host in asked and node not in nodes and host not in at_hosts:
                nodes[node] = Watched(host, node, "")
                self.failed[host] = _nothing_of(run.name, host)
        refuse_doubles(run.name, [node.host for node in nodes.values()])
        started = run.plan.time if run.plan else None
        record = next((r for r in known() if r.name == run.name and r.started == started), None)
        return Subject(
            name=run.name,
            nodes=tuple(nodes[node] for node in sorted(nodes)),
            workers=run.plan.workers if run.plan else (),
            record=record,
        )

    def _looked(self, subject: Subject) -> Subject:
        """Ask which files there are."""
        reached = [node for node in subject.nodes if node.host not in self.failed]
        told = self.fleet.ask("logs.look", {n.host: {"folder": n.folder} for n in reached}, ANSWER)
        seen: dict[str, dict[LogFile, int]] = {}
        for node in reached:
            answer = told[node.host]
            if isinstance(answer, DdpOrchError):
                self._fail(node.host, answer)
            elif answer["state"] == "absent":
                self._fail(node.host, _nothing_of(subject.name, node.host))
            else:
                named = {file_called(n, node.rank): size for n, size in answer["files"].items()}
                seen[node.host] = {file: size for file, size in named.items() if file}
        return dataclasses.replace(subject, seen=seen)


def _nothing_of(run: str, host: str) -> NoSuchRun:
    return NoSuchRun(f"it has nothing of run {run}: {UNTOLD['absent']}", host=host)


def _hosts_of(inventory: Inventory | None, wanted: Wanted) -> list[Host]:
    hosts = inventory.hosts if inventory else ()
    only(wanted.hosts or (), [host.name for host in hosts], "host", "the inventory")
    return [host for host in hosts if wanted.hosts is None or host.name in wanted.hosts]


def _known_hosts(subject: Subject) -> list[Host]:
    """Return the run's hosts as its record here has them."""
    inventory = subject.record.inventory if subject.record else None
    entries = {host.name: host for host in inventory.hosts} if inventory else {}
    if missing := [host for host in subject.hosts if host not in entries]:
        raise UsageError(
            f"the record of run {subject.name} does not say how to reach {', '.join(missing)}",
            hint=f"ddp-orch logs {subject.name} -i inventory.yaml",
        )
    return [entries[host] for host in subject.hosts]
