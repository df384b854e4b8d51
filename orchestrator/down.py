"""The verb `down`: end runs on their hosts, whoever started them, and say what is proven."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import errors
from orchestrator.down_there import Ending, Target, unrecorded
from orchestrator.errors import HostError, NoSuchRun, UsageError
from orchestrator.events import Ended
from orchestrator.folders import who_we_are
from orchestrator.local_runs import find, known, meant
from orchestrator.ps import on_hosts
from orchestrator.reports import OVER
from orchestrator.store import RunStore
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


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told of what happens, and asked."""

    confirm: Callable[[Sequence[str]], bool]
    """Asked, with a line for each run, before what nobody has named is taken down."""

    begin: Callable[[str, Sequence[str], float], None]
    """Told of each run, its hosts and the grace."""

    show: Callable[[NodeDown], None]
    warn: Callable[[str, str | None], None]
    end: Callable[[Sequence[NodeDown]], None]


def down(wanted: str | None, grace: float, options: Options, listener: Listener) -> int:
    """Take down a run by this machine's own record of it; without a name the newest."""
    run = find(wanted) if wanted is not None else _newest()
    if run.plan is None or run.inventory is None or not run.plan.folders:
        raise UsageError(
            f"the record of {run.name} here does not say where its hosts are",
            hint=f"ddp-orch down {run.name} -i inventory.yaml",
        )
    plan = run.plan
    if wanted is None and not listener.confirm([f"{run.name} on {', '.join(plan.hosts)}"]):
        return errors.INTERRUPTED
    listener.begin(run.name, plan.hosts, grace)
    targets = [
        # A run that may still be about to start must not do so later.
        Target(run=run.name, node=rank, host=host, folder=folder, bury=run.ended is None)
        for rank, (host, folder) in enumerate(zip(plan.hosts, plan.folders, strict=True))
    ]
    hosts = [host for host in run.inventory.hosts if host.name in plan.hosts]
    return _end(hosts, targets, (), [run], grace, options, listener)


def _newest() -> LocalRun:
    """The newest that has not ended, as far as is known here; else the newest of all."""
    return next((run for run in known() if run.ended is None and run.plan), None) or find(None)


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
    return _end(hosts, targets, lost, ours, grace, options, listener)


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
    return f"{run.name}{owner}: {run.state} on {', '.join(run.hosts)}{ranks}"


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
    named = [f"{name}: without its folder on {', '.join(hosts[name])}" for name in names]
    _refuse_many(named, every=every)
    if not names:
        return _nothing(said.failed | failed, wanted, listener)
    if wanted is None and not listener.confirm(named):
        return errors.INTERRUPTED
    for name in names:
        listener.begin(name, hosts[name], grace)
    asked = {target.host for target in targets}
    return _end([h for h in there if h.name in asked], targets, (), (), grace, options, listener)


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
    listener.end([])
    return errors.OK


def _end(
    hosts: Sequence[Host],
    targets: Sequence[Target],
    lost: Sequence[NodeDown],
    ours: Iterable[LocalRun],
    grace: float,
    options: Options,
    listener: Listener,
) -> int:
    for node in lost:
        listener.show(node)
    ending = Ending(hosts, targets, grace, options, listener.show, listener.warn)
    with contextlib.closing(ending):
        ending.see_through()
    done = [*lost, *ending.done]
    for run in ours:
        nodes = [node for node in done if node.run == run.name]
        if all(node.empty for node in nodes):
            _write_down(run, nodes, listener)
    listener.end(done)
    return exit_code(done)


def _write_down(run: LocalRun, nodes: Sequence[NodeDown], listener: Listener) -> None:
    """Note the end in the record here, unless a controller that runs now does so itself."""
    if run.ended or run.plan is None or not any(node.outcome == "down" for node in nodes):
        return  # what had ended by itself is for `attach` to tell, with all that led to it
    failed = [node.host for node in nodes if node.failed]
    before = f"{', '.join(failed)} had failed, and the rest was " if failed else ""
    ended = Ended(
        run=run.name,
        exit_code=errors.JOB_FAILED if failed else errors.CANCELLED,
        seconds=time.time() - run.started,
        hosts=run.plan.hosts,
        why=f"{before}taken down by {who_we_are()}",
        failure=None,
        survivors=(),
        logs="",  # what nobody watched is still on the hosts
    )
    try:
        RunStore.note_end(run.name, ended)
    except UsageError as error:
        listener.warn(error.message, error.hint)
    except OSError as error:
        what = f"the record {run.folder} cannot be written to: {error.strerror}"
        listener.warn(what, None)
