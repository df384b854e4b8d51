"""The verb `attach`: go on with a run that was begun before, from here or from another machine."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import errors
from orchestrator.emit import Emitter
from orchestrator.errors import HostError, UsageError
from orchestrator.events import Detached, Ended, Warned
from orchestrator.fleet import Lost
from orchestrator.folders import who_we_are
from orchestrator.journal import UNTOLD
from orchestrator.local_runs import find, known, meant, taken
from orchestrator.ps import on_hosts
from orchestrator.reports import refuse_doubles
from orchestrator.run import doors_for, fleet_of
from orchestrator.state import RunState
from orchestrator.store import RunStore
from orchestrator.survey import Survey
from orchestrator.watch import Interrupts, Watch, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.model import Inventory
    from orchestrator.emit import Sink
    from orchestrator.events import Planned
    from orchestrator.reports import FoundRun
    from orchestrator.run import Options


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that was begun before."""

    plan: Planned
    inventory: Inventory
    owner: str
    over: Ended | None = None
    """Its end, where all of it is on record here."""

    ended: Ended | None = None
    """Its end as it is on record here, though not with all that was written."""


def begun(
    wanted: str | None,
    inventory: Inventory | None,
    options: Options,
    warn: Callable[[str], None],
) -> Begun:
    """Find the run by the records here; with an inventory, by those of its hosts."""
    if inventory is not None:
        return _on_hosts(wanted, inventory, options, warn)
    local = find(wanted)
    if local.plan is None or local.inventory is None or not local.plan.folders:
        raise UsageError(
            f"run {local.name}: {local.problem or 'its record does not say where its hosts are'}",
            hint=f"ddp-orch attach {local.name} -i inventory.yaml",
        )
    # One that was taken down while nobody watched has logs that are still to be fetched.
    over = local.ended if local.logs_are_here else None
    return Begun(
        plan=local.plan,
        inventory=local.inventory,
        owner=local.owner,
        over=over,
        ended=local.ended,
    )


def _on_hosts(
    wanted: str | None, inventory: Inventory, options: Options, warn: Callable[[str], None]
) -> Begun:
    survey = Survey([inventory], options)
    try:
        survey.ask(warn, None if wanted is None else [wanted])
        found = [run for run in on_hosts(inventory, survey) if run.plan]
        found.sort(key=lambda run: run.started or 0.0, reverse=True)
        try:
            which = 0
            if wanted is not None or not found:
                which = meant(wanted or "", [run.name for run in found], "on these hosts")
        except errors.NoSuchRun:
            for error in survey.unreachable():
                raise error from None  # it may be there
            raise
    finally:
        survey.close()
    run = found[which]
    return Begun(plan=_as_found(run, inventory), inventory=inventory, owner=run.owner)


def _as_found(run: FoundRun, inventory: Inventory) -> Planned:
    """Name the hosts as this inventory does: another machine may have called them otherwise."""
    assert run.plan is not None
    names = [host.name for host in inventory.hosts]
    hosts = [run.host_of(node, names) for node in range(len(run.plan.hosts))]
    if missing := [host for host in hosts if host not in names]:
        raise UsageError(
            f"run {run.name} has a part on {', '.join(missing)}, which this inventory lacks",
            hint="attach with an inventory of all its hosts",
        )
    refuse_doubles(run.name, hosts)
    folders = [
        run.nodes[n].folder if n in run.nodes else folder
        for n, folder in enumerate(run.plan.folders or [""] * len(hosts))
    ]
    return dataclasses.replace(run.plan, hosts=tuple(hosts), folders=tuple(folders))


def record_of(run: Begun) -> RunStore | None:
    """Go on with the record here, or begin one; None where another one may not be disturbed."""
    name = run.plan.run
    if not taken(name):
        return RunStore.adopt(run.plan, run.inventory.model_dump_json(), run.owner)
    same = [local for local in known() if local.name == name and local.plan]
    if same and same[0].started == run.plan.time:
        return RunStore.reopen(name)
    return None


def attach(run: Begun, options: Options, sinks: Sequence[Sink], record: RunStore | None) -> int:
    """Watch the run to its end and return its exit code; Ctrl-C leaves it alone."""
    logs = str(record.logs) if record else ""
    state = RunState(tails=record.tails()) if record else RunState()
    emit = Emitter(sinks, options.mask, record.keep if record else None, state)
    doors = doors_for(options)
    wanted = [host for host in run.inventory.hosts if host.name in run.plan.hosts]
    fleet = fleet_of(wanted, doors)
    places = zip(run.plan.hosts, run.plan.folders, strict=True)
    nodes = tuple(Watched(host, rank, folder) for rank, (host, folder) in enumerate(places))
    try:
        joined = fleet.connect(lambda _: [])
        for notice in doors.known.notices():
            emit(Warned(message=notice))
        failed = [got for got in joined.values() if isinstance(got, HostError)]
        if len(failed) == len(nodes):
            raise failed[0]
        emit(run.plan)
        with Interrupts() as interrupts:
            watch = Watch(fleet, nodes, emit, who_we_are(), record.cursors if record else None)
            for node in nodes:
                got = joined[node.host]
                if isinstance(got, HostError):
                    watch.take(Lost(node.host, got))
                else:
                    watch.catch_up(node.host)
            # One that watches for nobody would stay for as long as the run does, and say nothing.
            while not (emit.state.over or interrupts.count or interrupts.leave or emit.unread):
                if (item := watch.turn()) is not None:
                    watch.take(item)
            last: Ended | Detached = Detached(
                run=run.plan.run, hosts=run.plan.hosts, time=time.time()
            )
            if emit.state.over:
                # Where hosts have nothing of it any more, what is known here is all that is known.
                gone = run.ended if _is_gone(emit.state) else None
                last = gone or watch.summary(logs)
            fleet.close()
            emit(last)
    finally:
        fleet.close()
    return last.exit_code if isinstance(last, Ended) else errors.STILL_RUNNING


def _is_gone(state: RunState) -> bool:
    ends = [node.ended for node in state.nodes.values()]
    return all(ended is not None and ended.reason == UNTOLD["absent"] for ended in ends)
