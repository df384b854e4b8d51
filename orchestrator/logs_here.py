"""A run's logs as far as this machine's own record has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.local_runs import LOGS
from orchestrator.logfiles import log_file
from orchestrator.loglines import expression, in_order, only, parts, selects
from orchestrator.node import reader, sieve
from orchestrator.watch import Watched

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orchestrator.local_runs import LocalRun
    from orchestrator.logfiles import LogFile
    from orchestrator.loglines import Wanted
    from orchestrator.node.lines import Pick
    from orchestrator.tailing import Telling


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The run whose logs are wanted."""

    name: str
    nodes: tuple[Watched, ...]
    workers: tuple[int, ...]
    """How many each node was planned to have; empty where that is not known."""

    record: LocalRun | None = None
    seen: dict[str, dict[LogFile, int]] = field(default_factory=dict)
    """By host that was asked, its files and how long they are."""

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(node.host for node in self.nodes)

    @property
    def asked(self) -> tuple[Watched, ...]:
        return tuple(node for node in self.nodes if node.host in self.seen)


def is_whole(record: LocalRun) -> bool:
    """Say whether all that the run ever wrote is here."""
    return bool(record.plan and record.ended and record.logs_are_here)


def of_record(record: LocalRun, wanted: Wanted) -> Subject:
    """Return the run with those of its hosts that are wanted."""
    plan = record.plan
    if plan is None:
        hint = f"its hosts may know of it: ddp-orch logs {record.name} -i inventory.yaml"
        raise UsageError(f"run {record.name}: {record.problem}", hint=hint)
    only(wanted.hosts or (), plan.hosts, "host", f"run {record.name}")
    folders = plan.folders or ("",) * len(plan.hosts)
    nodes = [Watched(h, n, f) for n, (h, f) in enumerate(zip(plan.hosts, folders, strict=False))]
    kept = tuple(node for node in nodes if wanted.hosts is None or node.host in wanted.hosts)
    return Subject(name=record.name, nodes=kept, workers=plan.workers, record=record)


def check_ranks(subject: Subject, wanted: Wanted) -> None:
    ranks = set(range(sum(subject.workers)))
    named = [*files_of(subject), *(file for files in subject.seen.values() for file in files)]
    ranks |= {file.rank for file in named if file.rank is not None}
    only(wanted.ranks or (), sorted(ranks), "rank", f"run {subject.name}")


def files_of(subject: Subject) -> dict[LogFile, Path]:
    record = subject.record
    if record is None or record.plan is None or not (record.folder / LOGS).is_dir():
        return {}
    found = {
        file: path
        for path in (record.folder / LOGS).iterdir()
        if not path.is_symlink() and (file := log_file(path.name, record.plan.workers))
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1].name))


def files_here(subject: Subject, hosts: Iterable[str], wanted: Wanted) -> dict[LogFile, Path]:
    of_hosts = set(hosts)
    nodes = {node.rank for node in subject.nodes if node.host in of_hosts}
    files = files_of(subject).items()
    return {file: path for file, path in files if file.node in nodes and selects(wanted, file)}


def show_from_here(subject: Subject, hosts: Iterable[str], wanted: Wanted, tell: Telling) -> None:
    """Show what is here of these hosts' logs; it is not known here how old a line is."""
    host_of = {node.rank: node.host for node in subject.nodes}
    paths = files_here(subject, hosts, wanted)
    pick = _picker(wanted)
    for stream in in_order(paths):
        of_name = {paths[file].name: file for file in stream}

        def emit(event: dict[str, Any], body: bytes, of: dict[str, LogFile] = of_name) -> None:
            file = of[event["file"]]
            for part in parts(file, host_of[file.node], event, body):
                tell(part)

        files = reader.Reader(str(paths[stream[0]].parent), emit, lambda: False, pick)
        try:
            files.begin([list(of_name)], wanted.tail, {})
            for name in of_name:
                files.send(name, final=True)
                tell.ended()
        finally:
            files.close()


def _picker(wanted: Wanted) -> Pick | None:
    if wanted.grep is None:
        return None
    compiled = expression(wanted.grep)
    return lambda lines: [sieve.matches(compiled, line) for line in lines]
