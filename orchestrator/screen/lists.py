"""Plans and lists of runs, and what became of them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from inventory.names import folded
from orchestrator import cleared, taken_down
from orchestrator.commands import as_typed
from orchestrator.errors import UsageError
from orchestrator.lines import safe
from orchestrator.listing import HEADINGS, as_json, cells
from orchestrator.masking import Mask
from orchestrator.screen.terminal import agreed, coloured, console, show_error, show_lines, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.checks.check import Check
    from orchestrator.cleared import Cleared
    from orchestrator.errors import DdpOrchError
    from orchestrator.listing import ListedRun, Listing, Pruned
    from orchestrator.plan import RunPlan
    from orchestrator.taken_down import NodeDown


# What `nproc_per_node:` says, where only the hosts can tell how many that makes.
WORKERS = {
    None: "one per GPU, else 1",
    "gpu": "one per GPU",
    "cpu": "one per core",
    "auto": "one per GPU, else one per core",
}


@whole()
def show_plan(plan: RunPlan, mask: Mask) -> None:
    shown = console(sys.stdout, colour=coloured(sys.stdout))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("node", "host", "workers", "address"):
        table.add_column(heading)
    for node in plan.nodes:
        workers = str(node.workers) if node.workers else WORKERS[node.workers_wanted]
        table.add_row(
            str(node.rank), Text(node.host), workers, node.address or "found out by preflight"
        )
    shown.print(table)
    for node in plan.nodes:
        shown.print(f"\n# {node.host}", style="bold", markup=False)
        for number, command in enumerate(node.setup, 1):
            first, *more = mask.text(command).splitlines() or [""]
            lines = [f"# setup {number} of {len(node.setup)}: {first}", *(f"#   {m}" for m in more)]
            shown.print("\n".join(safe(line, colours=False) for line in lines), markup=False)
        shown.print(safe(mask.text(as_typed(plan, node)), colours=False), markup=False)


@whole()
def show_runs(listing: Listing, now: float) -> None:
    """Show what `ps` has found; what could not be found out is said beside it, on stderr."""
    if listing.runs:
        runs_table(listing.runs, now)
    else:
        show_lines(["no runs are known"], Mask())
    for run in listing.runs:
        show_lines([f"{run.name}: {problem}" for problem in run.problems], Mask())
    _show_unheard(listing.unreachable, listing.problems)
    if count := listing.long_ended:
        show_lines([f"{_runs(count)} ended more than 30 days ago: ddp-orch prune"], Mask())


def runs_table(runs: Sequence[ListedRun], now: float) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading)
    for run in runs:
        table.add_row(*(Text(safe(cell, colours=False)) for cell in cells(run, now)))
    console(sys.stdout, colour=coloured(sys.stdout)).print(table)
    sys.stdout.flush()  # before what is said of it on stderr


def _show_unheard(unreachable: Sequence[DdpOrchError], problems: Sequence[str]) -> None:
    for error in unreachable:
        show_error(error, Mask())
    show_lines(problems, Mask())


@whole()
def show_runs_as_json(listing: Listing, now: float) -> None:
    for run in listing.runs:
        sys.stdout.write(json.dumps(as_json(run, now), separators=(",", ":")) + "\n")
    _show_unheard(listing.unreachable, listing.problems)


def confirm(runs: Sequence[ListedRun], now: float, *, yes: bool) -> bool:
    """Show what is about to be forgotten; ask where somebody sits at a terminal."""
    runs_table(runs, now)
    if yes or not sys.stdin.isatty():
        return True
    return agreed(f"remove all that is kept of {_runs(len(runs))}, logs and all?")


def confirm_here(runs: Sequence[ListedRun], now: float, *, yes: bool) -> bool:
    """Say that hosts keep what they have, and ask; somebody has to say so of what may still run."""
    runs_table(runs, now)
    show_lines(["these records alone: no host is asked, and what hosts have of it stays"], Mask())
    unknown = [run.name for run in runs if run.exit_code is None]
    if unknown:
        show_lines([f"not known to have ended: {', '.join(unknown)}"], Mask())
    if yes or not (sys.stdin.isatty() or unknown):
        return True
    if not sys.stdin.isatty():
        what = "nothing was removed: it may still run, and nobody is here to be asked"
        raise UsageError(what, hint="-y asks nobody")
    return agreed(f"remove what this machine has of {_runs(len(runs))}, logs and all?")


@whole()
def show_pruned(pruned: Pruned) -> None:
    for name, why in pruned.kept:
        show_lines([f"{name} is kept: {why}"], Mask())
    _show_unheard(pruned.unreachable, ())
    where = " from this machine" if pruned.here else ""
    sys.stdout.write(f"{_runs(len(pruned.removed))} removed{where}\n")


def confirm_down(lines: Sequence[str], *, yes: bool) -> bool:
    """Name what is about to be taken down; ask where somebody sits at a terminal."""
    show_lines(lines, Mask())
    return yes or not sys.stdin.isatty() or agreed("take it down?")


def confirm_strays(lines: Sequence[str], *, yes: bool) -> bool:
    """Name what is about to be ended, which nobody may have started with us, and ask."""
    show_lines([line.replace("\n", " ") for line in lines], Mask())
    if not yes and not sys.stdin.isatty():
        raise UsageError("nothing was ended: nobody is here to be asked", hint="-y asks nobody")
    return yes or agreed("end them?")


@whole()
def show_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    """Say what each is about. `worst` and `tier` are words of the catalogue's own."""
    if as_json:
        keys = ("id", "about", "without", "how", "worst", "tier")
        told = [{key: getattr(check, key) for key in keys} for check in checks]
        sys.stdout.write(json.dumps({"checks": told}, separators=(",", ":")) + "\n")
        return
    shown = console(sys.stdout, colour=coloured(sys.stdout))
    for number, check in enumerate(checks):
        shown.print(("\n" if number else "") + check.id, style="bold", markup=False)
        for title, text in (
            ("holds when it passes", check.about),
            ("without it", check.without),
            ("how it is found out", check.how),
            ("at worst", f"{check.worst}; tier {check.tier}"),
        ):
            shown.print(f"  {title + ':':21} {text}", markup=False)


class DownLines:
    """What became of hosts that were told to end runs, for people."""

    def __init__(self) -> None:
        self._runs: set[str] = set()

    def begin(self, run: str, hosts: Sequence[str], grace: float) -> None:
        self._runs.add(run)
        _say(f"taking down {run} on {folded(hosts)} (grace {grace:g} s)")

    def show(self, node: NodeDown) -> None:
        which = f"{node.run} on " if len(self._runs) > 1 else ""
        _say(f"{which}{taken_down.sentence(node)}")
        for survivor in node.survivors:
            _say(f"  {survivor}")
        if hint := taken_down.hint(node):
            _say(f"  -> {hint}")

    def end(self, nodes: Sequence[NodeDown], where: str) -> None:
        for line in taken_down.summary(nodes, where):
            _say(line)


class DownJson:
    """The same for programs: an object per node, then a summary."""

    def begin(self, run: str, hosts: Sequence[str], grace: float) -> None:
        pass

    def show(self, node: NodeDown) -> None:
        _write(taken_down.as_json(node))

    def end(self, nodes: Sequence[NodeDown], where: str) -> None:
        _write(taken_down.summary_json(nodes))


class StrayLines:
    """What became of what earlier jobs left, for people."""

    def show(self, host: Cleared) -> None:
        _say(cleared.sentence(host))
        for survivor in host.survivors:
            _say(f"  {survivor}")
        if hint := cleared.hint(host):
            _say(f"  -> {hint}")

    def end(self, hosts: Sequence[Cleared]) -> None:
        _say(cleared.summary(hosts))


class StrayJson:
    """The same for programs: an object per host, then a summary."""

    def show(self, host: Cleared) -> None:
        _write(cleared.as_json(host))

    def end(self, hosts: Sequence[Cleared]) -> None:
        _write(cleared.summary_json(hosts))


def _say(line: str) -> None:
    with whole():
        one = safe(line, colours=False).replace("\n", " ")
        sys.stdout.write(one + "\n")


def _write(value: object) -> None:
    with whole():
        sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
