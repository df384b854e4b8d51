"""A run as people watch it. Log lines go the short way, without rich: they are many."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, TextIO

from rich.table import Table
from rich.text import Text

from inventory.names import folded
from orchestrator.errors import INTERRUPTED
from orchestrator.events import (
    Checked,
    Connected,
    Connecting,
    Detached,
    Ended,
    Event,
    GaveUp,
    HostFailed,
    LinkDown,
    LinkUp,
    Logged,
    Looked,
    NodeEnded,
    Planned,
    SetupBegan,
    SetupEnded,
    StopAsked,
    Stopping,
    Warned,
    WorkerEnded,
    WorkersUp,
    brief,
)
from orchestrator.lines import LineCutter, safe
from orchestrator.screen.findings import findings, lines
from orchestrator.screen.progress import Progress
from orchestrator.screen.redrawn import Redrawn, make_way, size_of
from orchestrator.screen.terminal import coloured, console, whole
from orchestrator.screen.verdicts import SEVERITY, verdict_table
from orchestrator.state import RunState, signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


# One colour per host, by its place in the inventory.
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Screen:
    """A sink for people."""

    def __init__(
        self, *, verbose: bool = False, colour: bool | None = None, quiet: bool = False
    ) -> None:
        self._verbose = verbose
        self._quiet = quiet
        self._out: TextIO = sys.stdout
        self._colours = coloured(self._out) if colour is None else colour
        self._console = console(self._out, colour=self._colours)
        self._cutters: dict[tuple[str, str, str, int], LineCutter] = {}
        self._order: dict[str, int] = {}
        self._table_shown: set[tuple[int, int]] = set()
        self._progress: Progress | None = None
        self._redrawn = Redrawn(self._out)

    def __call__(self, event: Event, state: RunState) -> None:
        if isinstance(event, Looked):
            self._looked(event)
            return
        make_way()
        match event:
            case Logged():
                self._logged(event)
            case Connecting():
                if not self._quiet:
                    count = len(event.hosts)
                    self._say(f"checking {count} host{'s' * (count != 1)} ...", "dim")
                    self._progress = Progress(event.hosts)
                    self._draw()
            case Checked():
                self._checked(event)
            case Planned():
                self._planned(event)
            case WorkersUp():
                self._workers_up(event, state)
            case SetupBegan():
                self._say(
                    f"{event.host}: setup {event.number} of {event.of}: {brief(event.command)}"
                )
            case SetupEnded():
                self._finish_lines(event.host)
            case StopAsked() | Stopping() if _began(event, state):
                again = f" ({event.grace:.0f} s to end; Ctrl-C again kills at once)"
                again = again if event.exit_code == INTERRUPTED else ""
                self._say(f"stopping everywhere: {event.why}{again}", "yellow")
            case StopAsked() if event.grace == 0:
                left = folded(node.host for node in state.nodes.values() if not node.over)
                self._say(f"killing what is left on {left}", "yellow")
            case WorkerEnded() if event.failed and state.plan:
                self._restarting(event, state.plan.max_restarts)
            case NodeEnded() | GaveUp():
                self._finish_lines(event.host)
                if isinstance(event, GaveUp):
                    self._say(f"{event.host}: {event.message}", "bold red")
            case LinkDown():
                # Of one that is to end nobody knows whether it goes on.
                on = "" if state.stop else "its part of the run goes on, and "
                what = f"no contact with {event.host}: {event.message}; {on}it is tried again"
                self._say(what, "yellow")
            case LinkUp():
                self._say(f"{event.host} is back", "green")
            case Detached():
                self._say(f"run {event.run} goes on without us on {folded(event.hosts)}", "bold")
                self._say(f"  ddp-orch attach {event.run}    or: logs, ps, down")
            case Warned():
                self._say(f"warning: {event.message}", "yellow")
                if event.hint:
                    self._say(f"  {event.hint}")
            case Ended():
                self._ended(event)
            case Connected() | HostFailed():
                pass  # the table says it, with everything else that is known of the host
            case _:
                pass

    def _say(self, text: str, style: str | None = None) -> None:
        # One line each, whatever a host put into a message: a second one could pretend to be ours.
        one = safe(text, colours=False).replace("\n", " ")
        self._console.print(one, style=style, markup=False)

    # ---- preflight ----

    def _looked(self, event: Looked) -> None:
        if self._progress:
            self._progress.looked(event.host, event.part, event.came)
            self._draw()

    def _draw(self) -> None:
        """Draw how far the checks are, where a terminal can be drawn on; else say nothing."""
        if self._progress and (size := size_of(self._out)):
            columns, height = size
            drawn = self._progress.lines(columns, height, colour=self._colours)
            self._redrawn.draw(drawn, columns)

    def _checked(self, event: Checked) -> None:
        self._progress = None
        counts = Counter(v.status for v in event.verdicts)
        if not self._quiet or counts["fail"]:
            self._console.print(verdict_table(event))
        told = ("fail", "unknown", "warn", *(("info", "skip") if self._verbose else ()))
        for text, style in lines(findings(event.verdicts, told), verbose=self._verbose):
            self._say(text, style)
        listed = ", ".join(f"{counts[status]} {status}" for status in SEVERITY if counts[status])
        took = f" in {event.seconds:.1f} s" if event.seconds else ""
        self._say(f"checks: {listed or 'none'}{took}", "bold red" if counts["fail"] else None)

    # ---- the run ----

    def _planned(self, event: Planned) -> None:
        self._order = {host: index for index, host in enumerate(event.hosts)}
        many = f"{len(event.hosts)} host{'s' * (len(event.hosts) != 1)}"
        workers = f"{event.world_size} worker{'s' * (event.world_size != 1)}"
        self._say(
            f"run {event.run}: {event.what} on {many}, {workers}, rendezvous at {event.endpoint}",
            "bold",
        )

    def _workers_up(self, event: WorkersUp, state: RunState) -> None:
        """Show the ranks once all nodes have them; they come from the workers themselves."""
        if state.stop or not state.all_up:
            return  # of those that are to end nobody wants to read that they have come
        if any(n.round != event.round and not n.over for n in state.nodes.values()):
            return
        if (event.round, len(state.nodes)) in self._table_shown:
            return
        self._table_shown.add((event.round, len(state.nodes)))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("rank", "host", "address", "node", "local rank", "pid", "world"):
            table.add_column(heading)
        rows = sorted((w.rank, node.host, w) for node in state.nodes.values() for w in node.workers)
        for rank, host, worker in rows:
            known = state.plan.addresses if state.plan else ()
            # In a world other than the planned one a node may be one that is not ours.
            address = known[worker.group_rank] if 0 <= worker.group_rank < len(known) else "?"
            where = (rank, host, address, worker.group_rank, worker.local_rank)
            cells = map(str, (*where, worker.pid, worker.world_size))
            table.add_row(*(Text(safe(cell, colours=False)) for cell in cells))
        again = (
            f" again (restart {event.workers[0].restart})" if event.round and event.workers else ""
        )
        self._say(f"all workers run{again}:")
        self._console.print(table)

    def _restarting(self, event: WorkerEnded, most: int) -> None:
        if event.restart < most:
            how = signal_name(event.signal) if event.signal else f"exit code {event.code}"
            self._say(
                f"rank {event.rank} on {event.host} failed ({how}): torchrun restarts all workers, "
                f"{event.restart + 1} of {most}",
                "yellow",
            )

    def _logged(self, event: Logged) -> None:
        if event.rank is None and event.setup is None and not self._verbose:
            return  # torchrun's own words are in the files, and in the summary when they matter
        who = "torchrun" if event.rank is None else f"r{event.rank}"
        label = f"{event.host}[{who}]" if event.setup is None else event.host
        key = (event.host, label, event.stream, event.round)
        cutter = self._cutters.setdefault(key, LineCutter())
        self._lines(event.host, label, cutter.feed(event.data, time.monotonic()))

    def _lines(self, host: str, label: str, lines: Iterable[str]) -> None:
        prefix = f"{label}| "
        if self._colours:
            prefix = f"\x1b[{COLOURS[self._order.get(host, 0) % len(COLOURS)]}m{prefix}\x1b[0m"
        text = "".join(f"{prefix}{safe(line, colours=self._colours)}\n" for line in lines)
        if text:
            self._out.write(text)
            self._out.flush()

    def _finish_lines(self, host: str) -> None:
        for (name, label, *_), cutter in self._cutters.items():
            if name == host:
                self._lines(name, label, cutter.close())

    def _ended(self, event: Ended) -> None:
        took = f"{event.seconds:.1f} s on {folded(event.hosts)}"
        if event.exit_code == 0:
            self._say(f"run {event.run}: done in {took}", "bold green")
        else:
            self._say(
                f"run {event.run}: {event.why} (after {took}; exit {event.exit_code})", "bold red"
            )
        if event.failure:
            failure = event.failure
            who = (
                f"setup on {failure.host}, {brief(failure.setup)}"
                if failure.setup
                else f"rank {failure.rank} on {failure.host}"
                if failure.rank is not None
                else f"torchrun on {failure.host}"
            )
            how = (
                f"killed by {signal_name(failure.signal)}" if failure.signal else
                f"exit code {failure.code}" if failure.code is not None else "not started"
            )  # fmt: skip
            said = f": {failure.message}" if failure.message else ""
            self._say(f"first failure: {who}, {how}{said}", "bold red")
            for line in failure.tail if failure.tail != (failure.message,) else ():
                self._say(f"    {line}")
            if failure.hint:
                self._say(f"   -> {failure.hint}")
        if event.unverified:
            hosts = folded(event.unverified)
            self._say(
                f"not verified on {hosts}: ddp-orch down {event.run}, once it can be reached",
                "yellow",
            )
        for survivor in event.survivors:
            self._say(f"still there, could not be ended: {survivor}", "bold red")
        if event.logs:
            self._say(f"logs: {event.logs}")

    # ---- logs ----

    def begin(self, run: str, hosts: Sequence[str]) -> None:
        self._order = {host: index for index, host in enumerate(hosts)}

    def logged(self, events: Sequence[Logged]) -> None:
        for event in events:
            self._logged(event)

    def ended(self) -> None:
        """Show the last lines of all streams, which have no newline."""
        cutters, self._cutters = self._cutters, {}
        for (host, label, *_), cutter in cutters.items():
            self._lines(host, label, cutter.close())

    # ---- exec ----

    def output(self, host: str, stream: str, data: bytes) -> None:
        self._order.setdefault(host, len(self._order))
        cutter = self._cutters.setdefault((host, host, stream, 0), LineCutter())
        self._lines(host, host, cutter.feed(data, time.monotonic()))

    def output_ended(self) -> None:
        for host in self._order:
            self._finish_lines(host)


def _began(event: StopAsked | Stopping, state: RunState) -> bool:
    """Whether it was this that began the end: each node tells of it, and other controllers."""
    return state.stop is not None and state.stop.time == event.time


@whole()
def show_event(sink: Callable[[Event, RunState], None], *events: Event) -> None:
    """Show what is on record as if it had happened just now."""
    for event in events:
        sink(event, RunState())
