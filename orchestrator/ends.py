"""How a run ended whose end nobody here saw: as `down` proves it, and as its hosts tell it.

What is written into the record here is an end without logs: those are still on the hosts, and so
`attach` and `logs` ask there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator import errors
from orchestrator.errors import UsageError
from orchestrator.events import Ended
from orchestrator.folders import who_we_are
from orchestrator.reports import exit_code_of, merge, state_of, the_one
from orchestrator.store import RunStore
from orchestrator.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orchestrator.local_runs import LocalRun
    from orchestrator.reports import FoundRun, NodeReport
    from orchestrator.run import Options
    from orchestrator.taken_down import NodeDown

    Warn = Callable[[str, str | None], None]


def told_by_hosts(run: LocalRun, options: Options, warn: Warn) -> FoundRun | None:
    """Ask a run's hosts for it."""
    if run.inventory is None:
        return None
    survey = Survey([run.inventory], options)
    try:
        survey.ask(lambda notice: warn(notice, None), [run.name])
    finally:
        survey.close()
    said = survey.of(run.inventory)
    return the_one(merge(said.reports, said.answered), run.name, run.started)


def note_if_over(run: LocalRun, found: FoundRun, warn: Warn) -> Ended | None:
    """Note an end of which all hosts tell, with a proof that nothing is left; None where not."""
    assert run.plan is not None
    nodes = [found.nodes[n] for n in range(len(run.plan.hosts)) if n in found.nodes]
    if len(nodes) < len(run.plan.hosts) or not all(map(_is_proven, nodes)):
        return None
    ended = _without_doubt(run.ended, run.plan.hosts) if run.ended else _as_told(run, nodes)
    if ended:
        _write(run, ended, warn)
    return ended


def note(run: LocalRun, nodes: Sequence[NodeDown], options: Options, warn: Warn) -> None:
    """Note what `down` has proven of a run's nodes."""
    if run.plan is None or not nodes:
        return
    empty = all(node.empty for node in nodes)
    ended: Ended | None = None
    if run.ended:
        ended = _without_doubt(run.ended, {node.host for node in nodes if node.empty})
    elif empty and any(node.outcome == "down" for node in nodes):
        ended = _by_us(run, nodes)
    elif empty:
        # Where there was nothing of it there is no end to be told; all else has ended by itself.
        there = {node.node for node in nodes if node.outcome != "absent"}
        found = told_by_hosts(run, options, warn)
        told = [node for rank, node in found.nodes.items() if rank in there] if found else []
        if len(told) == len(there):
            ended = _as_told(run, told)
    if ended and ended != run.ended:
        _write(run, ended, warn)


def _is_proven(node: NodeReport) -> bool:
    # With the kernel all its processes went.
    return node.state == "rebooted" or (node.state == "ended" and node.proven)


def _without_doubt(ended: Ended, proven: Collection[str]) -> Ended:
    """Return an end that is known without what is disproved of it by now: how it ended it did."""
    unverified = tuple(host for host in ended.unverified if host not in proven)
    return replace(
        ended,
        unverified=unverified,
        survivors=tuple(who for who in ended.survivors if who.partition(": ")[0] not in proven),
        # What a host that was lost has not sent is there, and not here.
        logs=ended.logs if unverified == ended.unverified else "",
    )


def _by_us(run: LocalRun, nodes: Sequence[NodeDown]) -> Ended:
    failed = [node.host for node in nodes if node.failed]
    before = f"{', '.join(failed)} had failed, and the rest was " if failed else ""
    code = errors.JOB_FAILED if failed else errors.CANCELLED
    return _end(run, code, f"{before}taken down by {who_we_are()}", time.time())


def _as_told(run: LocalRun, nodes: Sequence[NodeReport]) -> Ended | None:
    """Return the end that these nodes make; without any, that of what can start no more."""
    if not nodes:
        why = f"nothing of it was on its hosts when it was taken down by {who_we_are()}"
        return _end(run, errors.CANCELLED, why, time.time())
    code = exit_code_of(state_of([node.state for node in nodes]), nodes)
    if code is None or code == errors.STILL_RUNNING:
        return None
    ends = [node.ended_at for node in nodes if node.ended_at is not None]
    return _end(run, code, "it ended while nobody watched", max(ends, default=time.time()))


def _end(run: LocalRun, exit_code: int, why: str, when: float) -> Ended:
    assert run.plan is not None
    return Ended(
        run=run.name,
        exit_code=exit_code,
        seconds=max(0.0, when - run.started),
        hosts=run.plan.hosts,
        why=why,
        failure=None,
        survivors=(),
        logs="",
    )


def _write(run: LocalRun, ended: Ended, warn: Warn) -> None:
    """Add it to the record, unless a controller that runs now does so itself."""
    try:
        RunStore.note_end(run.name, ended)
    except UsageError as error:
        warn(error.message, error.hint)
    except OSError as error:
        warn(f"the record {run.folder} cannot be written to: {error.strerror}", None)
