"""The verb `down`: end runs on their hosts, whoever started them, and say what is proven."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inventory.names import folded
from orchestrator import errors
from orchestrator.down_there import Ending, Target, unrecorded
from orchestrator.ends import note, note_if_over, told_by_hosts
from orchestrator.errors import HostError, NoSuchRun, UsageError
from orchestrator.local_runs import find, known, meant
from orchestrator.ps import on_hosts
from orchestrator.reports import OVER
from orchestrator.survey import Survey
from orchestrator.taken_down import NodeDown, exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from inventory.model import Host, Inventory
    from orchestrator.errors import DdpOrchError
    from orchestrator.local_runs import LocalRun
    from orchestrator.reports import FoundRun
    from orchestrator.run import Options
    from orchestrator.survey import Answers


HERE, THERE = "that is known here", "on these hosts"


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told of what happens, and asked."""

    confirm: Callable[[Sequence[str]], bool]
    """Asked, with a line for each run, before what nobody has named is taken down."""

    begin: Callable[[str, Sequence[str], float], None]
    """Told of each run, its hosts and the grace."""

    show: Callable[[NodeDown], None]
    warn: Callable[[str, str | None], None]
    tell: Callable[[str], None]
    """Told of runs that are passed over: they had ended."""

    end: Callable[[Sequence[NodeDown], str], None]
    """Told of all, at the end; and where runs were looked for, should there be none."""


def down(wanted: str | None, grace: float, options: Options, listener: Listener) -> int:
    """Take down a run by this machine's own record of it; without a name the newest that runs."""
    if wanted is None:
        return _down_newest(grace, options, listener)
    done = _take_down(find(wanted), grace, options, listener)
    listener.end(done, THERE)
    return exit_code(done)


def _down_newest(grace: float, options: Options, listener: Listener) -> int:
    """Take down the newest that has not ended; what is found to have done so is passed over."""
    runs = known() or [find(None)]  # which raises where there is none at all
    done: list[NodeDown] = []
    for run in _may_run(runs):
        _refuse_unknown(run)
        found = told_by_hosts(run, options, listener.warn)
        if found and (ended := note_if_over(run, found, listener.warn)):
            listener.tell(f"{run.name} had ended (exit {ended.exit_code}) already")
            continue
        hosts = run.plan.hosts if run.plan else ()
        if not listener.confirm([_named(found) if found else f"{run.name} on {folded(hosts)}"]):
            return errors.INTERRUPTED
        nodes = _take_down(run, grace, options, listener)
        done += nodes
        if any(node.outcome == "down" or not node.empty for node in nodes):
            break
    listener.end(done, HERE)
    return exit_code(done)


def _may_run(runs: Sequence[LocalRun]) -> list[LocalRun]:
    """Return those that may not be over, the newest first; those whose hosts nobody knows last.

    What ended here with some hosts out of reach comes after what is not known to have ended.
    """
    going = [run for run in runs if run.plan and not run.ended]
    left = [run for run in runs if run.plan and run.ended and run.ended.unverified]
    return sorted([*going, *left], key=lambda run: not _has_hosts(run))


def _has_hosts(run: LocalRun) -> bool:
    return bool(run.plan and run.inventory and run.plan.folders)


def _refuse_unknown(run: LocalRun) -> None:
    if not _has_hosts(run):
        raise UsageError(
            f"the record of {run.name} here does not say where its hosts are",
            hint=f"ddp-orch down {run.name} -i inventory.yaml",
        )


def _take_down(run: LocalRun, grace: float, options: Options, listener: Listener) -> list[NodeDown]:
    _refuse_unknown(run)
    assert run.plan is not None
    assert run.inventory is not None
    plan = run.plan
    listener.begin(run.name, plan.hosts, grace)
    targets = [
        # A run that may still be about to start must not do so later.
        Target(run=run.name, node=rank, host=host, folder=folder, bury=run.ended is None)
        for rank, (host, folder) in enumerate(zip(plan.hosts, plan.folders, strict=True))
    ]
    hosts = [host for host in run.inventory.hosts if host.name in plan.hosts]
    return _end(hosts, targets, (), [run], grace, options, listener)


def down_on(
    inventory: Inventory,
    wanted: str | None,
    grace: float,
    options: Options,
    listener: Listener,
    *,
    every: bool,
) -> int:
    """Take down what the hosts themselves tell of, whichever machine it was started from."""
    survey = Survey([inventory], options)
    try:
        names = None if wanted is None else [wanted]
        survey.ask(lambda notice: listener.warn(notice, None), names)
    finally:
        survey.close()
    said = survey.of(inventory)
    for problem in said.problems:
        listener.warn(problem, None)
    runs = _meant(on_hosts(inventory, survey), wanted, every=every)
    if not runs:
        return _unrecorded(inventory, said, wanted, grace, options, listener, every=every)
    if wanted is None and not listener.confirm([_named(run) for run in runs]):
        return errors.INTERRUPTED
    for run in runs:
        listener.begin(run.name, run.hosts, grace)
    targets = [target for run in runs for target in _targets(run, inventory, said)]
    lost = [node for run in runs for node in _lost(run, inventory, said)]
    asked = {target.host for target in targets}
    hosts = [host for host in inventory.hosts if host.name in asked]
    plans = {run.name: run.plan for run in runs}
    ours = [run for run in known() if run.plan and run.plan == plans.get(run.name)]
    done = _end(hosts, targets, lost, ours, grace, options, listener)
    listener.end(done, THERE)
    return exit_code(done)


def _meant(found: Sequence[FoundRun], wanted: str | None, *, every: bool) -> list[FoundRun]:
    if wanted is not None:
        try:
            return [found[meant(wanted, [run.name for run in found], "on these hosts")]]
        except NoSuchRun:
            return []
    runs = [run for run in found if _may_be_there(run)]
    _refuse_many([_named(run) for run in runs], every=every)
    return runs


def _refuse_many(named: Sequence[str], *, every: bool) -> None:
    if len(named) > 1 and not every:
        listed = "\n".join(f"  {name}" for name in named)
        raise UsageError(
            f"{len(named)} runs are on these hosts:\n{listed}",
            hint="name the one that is meant, or take them all: --all",
        )


def _may_be_there(run: FoundRun) -> bool:
    over = all(node.state in OVER for node in run.nodes.values())
    return not over or any(node.survivors for node in run.nodes.values())


def _named(run: FoundRun) -> str:
    owner = f" of {run.owner}" if run.owner else ""
    ranks = f", {run.ranks_alive} of {run.ranks} workers alive" if run.ranks else ""
    return f"{run.name}{owner}: {run.state} on {folded(run.hosts)}{ranks}"


def _targets(run: FoundRun, inventory: Inventory, said: Answers) -> Iterator[Target]:
    names = {host.name for host in inventory.hosts}
    for rank, node in run.nodes.items():
        host = run.host_of(rank, names)
        yield Target(run=run.name, node=rank, host=host, folder=node.folder)
    # That a host tells of no folder is no proof that nothing runs there.
    for rank, folder in enumerate(run.plan.folders if run.plan else ()):
        host = run.hosts[rank]
        if rank not in run.nodes and host in said.answered:
            yield Target(run=run.name, node=rank, host=host, folder=folder)


def _lost(run: FoundRun, inventory: Inventory, said: Answers) -> Iterator[NodeDown]:
    """Name the run's hosts that could not be asked, or that nobody has told us of."""
    names = {host.name for host in inventory.hosts}
    for rank, host in enumerate(run.plan.hosts if run.plan else ()):
        target = Target(run=run.name, node=rank, host=host, folder="")
        if rank in run.nodes:
            continue
        if host not in names:
            what = "it is not in this inventory"
            yield target.lost(HostError(what, check="ssh.reach", hint="use one that has it"))
        elif host in said.failed:
            yield target.lost(said.failed[host])


def _unrecorded(
    inventory: Inventory,
    said: Answers,
    wanted: str | None,
    grace: float,
    options: Options,
    listener: Listener,
    *,
    every: bool,
) -> int:
    """Take down what runs without a record, whose folder there somebody has removed."""
    there = [host for host in inventory.hosts if host.name in said.answered]
    found, failed = unrecorded(there, options) if there else ([], {})
    names = list(dict.fromkeys(target.run for target in found))
    if wanted is not None:
        try:
            names = [names[meant(wanted, names, "on these hosts")]]
        except NoSuchRun:
            names = []
    targets = [target for target in found if target.run in names]
    hosts = {name: [t.host for t in targets if t.run == name] for name in names}
    named = [f"{name}: without its folder on {folded(hosts[name])}" for name in names]
    _refuse_many(named, every=every)
    if not names:
        return _nothing(said.failed | failed, wanted, listener)
    if wanted is None and not listener.confirm(named):
        return errors.INTERRUPTED
    for name in names:
        listener.begin(name, hosts[name], grace)
    asked = {target.host for target in targets}
    with_some = [host for host in there if host.name in asked]
    done = _end(with_some, targets, (), (), grace, options, listener)
    listener.end(done, THERE)
    return exit_code(done)


def _nothing(failed: Mapping[str, DdpOrchError], wanted: str | None, listener: Listener) -> int:
    for error in failed.values():
        listener.warn(str(error), error.hint)
    if failed:
        return errors.HOST  # what runs there is not known
    if wanted is not None:
        raise NoSuchRun(
            f"no run called {wanted} is on these hosts",
            hint="ddp-orch ps -i inventory.yaml lists those that are",
        )
    listener.end([], THERE)
    return errors.OK


def _end(
    hosts: Sequence[Host],
    targets: Sequence[Target],
    lost: Sequence[NodeDown],
    ours: Iterable[LocalRun],
    grace: float,
    options: Options,
    listener: Listener,
) -> list[NodeDown]:
    """End them, and note in the records here what is proven; return what became of each."""
    for node in lost:
        listener.show(node)
    ending = Ending(hosts, targets, grace, options, listener.show, listener.warn)
    with contextlib.closing(ending):
        ending.see_through()
    done = [*lost, *ending.done]
    for run in ours:
        note(run, [node for node in done if node.run == run.name], options, listener.warn)
    return done
