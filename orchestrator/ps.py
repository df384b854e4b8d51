"""The verb `ps`: the runs known here, with what their hosts say of those that have not ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import errors
from orchestrator.errors import NoSuchRun
from orchestrator.listing import (
    Listing,
    from_hosts,
    from_record,
    long_ended,
    newest_first,
    together,
)
from orchestrator.local_runs import find, known, meant
from orchestrator.reports import merge, the_one
from orchestrator.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.model import Inventory
    from orchestrator.listing import ListedRun
    from orchestrator.local_runs import LocalRun
    from orchestrator.reports import FoundRun
    from orchestrator.run import Options


def ps(
    wanted: str | None,
    inventory: Inventory | None,
    options: Options,
    now: float,
    warn: Callable[[str], None],
) -> Listing:
    """List all runs, or the one that is wanted; then the exit code is its own."""
    local = known()
    if wanted is not None:
        fitting = [run for run in local if run.name.startswith(wanted)]
        local = [find(wanted)] if inventory is None else fitting
    # What has ended is told from its record, without a look at any host.
    asked = [run for run in local if not run.ended]
    names = [wanted] if wanted is not None else [run.name for run in asked]
    survey = Survey(filter(None, [*(run.inventory for run in asked), inventory]), options)
    try:
        survey.ask(warn, names if wanted is not None or inventory is None else None)
    finally:
        survey.close()
    runs = listed(local, inventory, survey)
    if wanted is not None:
        try:
            # A name that another machine has given as well is ours first.
            runs.sort(key=lambda run: not run.here)
            runs = [runs[meant(wanted, [run.name for run in runs], "here or on these hosts")]]
        except NoSuchRun:
            for error in survey.unreachable():
                raise error from None  # it may be there
            raise
    return Listing(
        runs=tuple(runs),
        unreachable=tuple(survey.unreachable()),
        problems=tuple(survey.problems()),
        long_ended=len(long_ended(runs, now)),
        exit_code=_exit_code(runs, wanted, inventory, survey),
    )


def _exit_code(
    runs: Sequence[ListedRun], wanted: str | None, inventory: Inventory | None, survey: Survey
) -> int:
    if wanted is not None:
        return runs[0].own_exit_code
    silent = inventory is not None and survey.of(inventory).failed
    return errors.HOST if silent else errors.OK


def listed(
    local: Sequence[LocalRun], inventory: Inventory | None, survey: Survey
) -> list[ListedRun]:
    """Put together what is known here and what the hosts have said, the newest first."""
    runs = []
    found = on_hosts(inventory, survey)
    for run in local:
        told = told_of(run, inventory, survey)
        runs.append(told)
        same = the_one(found, run.name, run.started if run.plan else None)
        found = [other for other in found if other is not same]
    silent = survey.of(inventory).failures if inventory else []
    for there in found:
        of_run = [failure for failure in silent if failure[0] in there.silent]
        runs.append(from_hosts(there, of_run))
    return newest_first(runs)


def on_hosts(inventory: Inventory | None, survey: Survey) -> list[FoundRun]:
    """Return the runs that the hosts of an inventory tell of."""
    if inventory is None:
        return []
    said = survey.of(inventory)
    return merge(said.reports, said.answered)


def told_of(run: LocalRun, inventory: Inventory | None, survey: Survey) -> ListedRun:
    """List a run that is known here; its own hosts know best, then those of the inventory."""
    started = run.started if run.plan else None
    if run.inventory and survey.has(run.inventory):
        said = survey.of(run.inventory)
        own = the_one(merge(said.reports, said.answered), run.name, started)
        return together(run, own, said.failures)
    there = the_one(on_hosts(inventory, survey), run.name, started)
    return together(run, there, ()) if there else from_record(run)
