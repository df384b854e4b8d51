"""The verb `prune`: forget runs that are over, first on their hosts, then here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import local_runs
from orchestrator.errors import NoSuchRun, UsageError
from orchestrator.listing import Pruned, from_hosts, from_record, together
from orchestrator.local_runs import known, meant
from orchestrator.ps import on_hosts
from orchestrator.reports import OVER, merge, the_one
from orchestrator.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.model import Inventory
    from orchestrator.listing import Failure, ListedRun
    from orchestrator.local_runs import LocalRun
    from orchestrator.reports import FoundRun, NodeReport
    from orchestrator.run import Options

RECORDED = "a ddp-orch that runs now records it"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that may be forgotten, with all that is known of it."""

    run: ListedRun
    here: LocalRun | None = None
    found: FoundRun | None = None
    inventory: Inventory | None = None
    """By which its hosts are reached; None where nobody knows them."""

    unreachable: tuple[Failure, ...] = ()

    @property
    def nodes(self) -> list[NodeReport]:
        """Those whose folders can go."""
        every = self.found.nodes.values() if self.found else ()
        return [node for node in every if node.state in OVER or node.old]

    def over_since(self, now: float) -> float:
        """Say when it ended, or at least when it was last heard of."""
        if self.run.ended_at is not None:
            return self.run.ended_at
        if self.found and self.found.last_log_age is not None:
            return now - self.found.last_log_age
        if self.here:
            return self.here.mtime
        return now if self.run.started is None else self.run.started


def prune(
    names: Sequence[str],
    inventory: Inventory | None,
    older: float,
    options: Options,
    now: float,
    confirm: Callable[[list[ListedRun]], bool],
    warn: Callable[[str], None],
) -> Pruned:
    """Forget the runs of these names, or all that ended longer ago than `older` seconds."""
    for left in local_runs.sweep():
        warn(f"{left}")
    local = known()
    if names:
        local = _named(names, local, elsewhere_too=inventory is not None)
    old = [run for run in local if names or now - (run.ended_at or run.started) > older]
    survey = Survey(filter(None, [*(run.inventory for run in old), inventory]), options)
    try:
        alone = [*names, *(run.name for run in old)]
        survey.ask(warn, alone if names or inventory is None else None)
        every = _candidates(old, inventory, survey)
        wanted = _those(names, every, survey) if names else _long_over(every, now, older)
        judged = [(each, why_kept(each, now, older)) for each in wanted]
        # Of those that nobody has named, who still runs is no question here.
        kept = [(c.run.name, why) for c, why in judged if why and (names or c.unreachable)]
        chosen = [candidate for candidate, why in judged if why is None]
        removed, refused = [], len(kept)
        if chosen and confirm([candidate.run for candidate in chosen]):
            for candidate in chosen:
                if why := _forget(candidate, survey):
                    kept.append((candidate.run.name, why))
                else:
                    removed.append(candidate.run.name)
        return Pruned(
            removed=tuple(removed),
            kept=tuple(kept),
            unfinished=len(kept) > refused,
            unreachable=tuple(survey.unreachable()),
        )
    finally:
        survey.close()


def prune_here(
    names: Sequence[str],
    confirm: Callable[[list[ListedRun]], bool],
    warn: Callable[[str], None],
) -> Pruned:
    """Forget what this machine has of the runs of these names: their hosts may be gone for good."""
    for left in local_runs.sweep():
        warn(f"{left}")
    named = _named(names, known(), elsewhere_too=False)
    kept = [(run.name, RECORDED) for run in named if run.recording]
    chosen = [run for run in named if not run.recording]
    removed, refused = [], len(kept)
    if chosen and confirm([from_record(run) for run in chosen]):
        for run in chosen:
            try:
                local_runs.forget(run)
            except UsageError as error:
                kept.append((run.name, str(error)))
            else:
                removed.append(run.name)
    return Pruned(
        removed=tuple(removed), kept=tuple(kept), unfinished=len(kept) > refused, here=True
    )


def _long_over(every: Sequence[Candidate], now: float, older: float) -> list[Candidate]:
    return [candidate for candidate in every if now - candidate.over_since(now) > older]


def _named(names: Sequence[str], local: list[LocalRun], *, elsewhere_too: bool) -> list[LocalRun]:
    """Return the records that are meant; the rest of the names may be of runs on the hosts."""
    found: dict[str, LocalRun] = {}
    for name in names:
        try:
            run = local[meant(name, [each.name for each in local], "here")]
        except NoSuchRun:
            if not elsewhere_too:
                raise
        else:
            found[run.name] = run
    return list(found.values())


def _candidates(
    local: Sequence[LocalRun], inventory: Inventory | None, survey: Survey
) -> list[Candidate]:
    """Return the runs known here, then those that the hosts alone know of: a name is ours first."""
    found = on_hosts(inventory, survey)
    every = []
    for run in local:
        candidate = _of_record(run, inventory, survey)
        every.append(candidate)
        same = the_one(found, run.name, run.started if run.plan else None)
        found = [other for other in found if other is not same]
    silent = survey.of(inventory).failures if inventory else []
    for there in found:
        of_run = tuple(failure for failure in silent if failure[0] in there.silent)
        every.append(
            Candidate(
                run=from_hosts(there, of_run),
                found=there,
                inventory=inventory,
                unreachable=of_run,
            )
        )
    return every


def _of_record(run: LocalRun, inventory: Inventory | None, survey: Survey) -> Candidate:
    where = run.inventory or inventory
    if where is None or not survey.has(where):
        return Candidate(run=from_record(run), here=run)
    said = survey.of(where)
    started = run.started if run.plan else None
    found = the_one(merge(said.reports, said.answered), run.name, started)
    return Candidate(
        run=together(run, found, said.failures),
        here=run,
        found=found,
        inventory=where,
        unreachable=tuple(said.failures),
    )


def _those(names: Sequence[str], every: Sequence[Candidate], survey: Survey) -> list[Candidate]:
    there = [candidate.run.name for candidate in every]
    chosen: dict[int, Candidate] = {}
    for name in names:
        try:
            at = meant(name, there, "here or on these hosts")
        except NoSuchRun:
            for error in survey.unreachable():
                raise error from None  # it may be there
            raise
        chosen[at] = every[at]
    return list(chosen.values())


def why_kept(candidate: Candidate, now: float, older: float) -> str | None:
    """Say why a run is not to be forgotten; None where it is over."""
    name = candidate.run.name
    if candidate.here and candidate.here.recording:
        return RECORDED
    nodes = list(candidate.found.nodes.values()) if candidate.found else []
    for node in nodes:
        if node.state not in (*OVER, "absent", "unreadable", "elsewhere"):
            return f"it is not over on {node.host} ({node.state}); to end it: ddp-orch down {name}"
    ended = candidate.here is not None and candidate.here.ended is not None
    for node in nodes:
        long_ago = node.last_log_age is not None and node.last_log_age > older
        if node.state == "unreadable" and not (node.old and (ended or long_ago)):
            return f"on {node.host}: {node.problem}"
        if node.state == "elsewhere" and not ended:
            return f"it may run where {node.host} cannot see it: on another host with this home"
    if candidate.unreachable and not ended:
        gone = f"if these hosts are gone for good: ddp-orch prune --here {name}"
        return f"whether it has ended is not known: {_said(candidate.unreachable)}; {gone}"
    return None


def _forget(candidate: Candidate, survey: Survey) -> str | None:
    """Remove a run's records; say why they are not all gone."""
    if candidate.inventory and candidate.nodes:
        failed = survey.forget(candidate.inventory, candidate.nodes, old=True)
        if failed:
            return "; ".join(map(str, failed))
    if candidate.unreachable:
        # Its record here says where the rest is, for another time.
        gone = f"if these are gone for good: ddp-orch prune --here {candidate.run.name}"
        return f"what is left on its other hosts stays: {_said(candidate.unreachable)}; {gone}"
    if candidate.here:
        try:
            local_runs.forget(candidate.here)
        except UsageError as error:
            return str(error)
    return None


def _said(unreachable: Sequence[Failure]) -> str:
    return "; ".join(f"{host}: {message}" for host, message in unreachable)
