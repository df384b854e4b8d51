"""Whether hosts have a run already of the name that a new one is to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inventory.names import folded
from orchestrator.errors import UsageError
from orchestrator.hints import named_in
from orchestrator.plan import state_dir_of
from orchestrator.reports import OVER, merge, read_reports, state_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inventory.model import Inventory
    from orchestrator.fleet import Fleet
    from orchestrator.reports import NodeReport

# So long is waited for what hosts have of a run: it is a few small files.
NAME_SECONDS = 10.0


def there_already(fleet: Fleet, inventory: Inventory, name: str) -> list[NodeReport]:
    """Return what hosts have of a run of that name, another machine's; who is late finds it too.

    `runs.prepare` refuses it on its own host, when others have made their folders already.
    """
    asked = {h.name: {"state_dir": state_dir_of(h), "names": [name]} for h in inventory.hosts}
    told = fleet.ask("reports.tell", asked, NAME_SECONDS)
    found = [
        report
        for host, answer in told.items()
        for report in read_reports(host, answer, fleet.hosts[host].our_time)[0]
    ]
    # What could not be wholly removed is in nobody's way.
    return [report for report in found if report.run == name and report.state != "forgotten"]


def refuse_a_taken_name(there: Sequence[NodeReport], named: str | None) -> None:
    if not there:
        return
    # Of several, as of hosts whose runs never met, what is not over is to be looked at first.
    runs = [(state_of([n.state for n in run.nodes.values()]), run) for run in merge(there)]
    state, run = min(runs, key=lambda each: each[0] in OVER)
    hosts = folded(dict.fromkeys(report.host for report in there))
    owner = f" of {run.owner}" if run.owner else ""
    then = f"to end that one: ddp-orch down {run.name} -i INVENTORY"
    if state in OVER:
        then = f"to forget that one: ddp-orch prune {run.name} -i INVENTORY"
    elif state == "unknown":
        then = "to see what is there: ddp-orch ps -i INVENTORY"
    raise UsageError(
        f"a run {run.name}{owner} is there already, on {hosts} ({state}); nothing was started",
        hint=named_in(f"choose another --name; or, {then}", named),
    )
