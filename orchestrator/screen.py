"""Shows what happens: (event, state) to a terminal, to plain lines, or to JSON.

The only place that writes. Log lines go the short way, without rich: they are many.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.commands import as_typed
from orchestrator.errors import INTERRUPTED, UsageError
from orchestrator.events import (
    Checked,
    Connected,
    Connecting,
    Ended,
    Event,
    HostFailed,
    LinkDown,
    Logged,
    NodeEnded,
    Planned,
    SetupBegan,
    SetupEnded,
    Status,
    StopAsked,
    Verdict,
    Warned,
    WorkerEnded,
    WorkersUp,
    brief,
    encode,
)
from orchestrator.lines import LineCutter, safe
from orchestrator.state import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.errors import DdpOrchError
    from orchestrator.masking import Mask
    from orchestrator.plan import RunPlan
    from orchestrator.state import RunState

# What `nproc_per_node:` says, where only the hosts can tell how many that makes.
WORKERS = {
    None: "one per GPU, else 1",
    "gpu": "one per GPU",
    "cpu": "one per core",
    "auto": "one per GPU, else one per core",
}
# One colour per host, by its place in the inventory.
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
MARKS = {"pass": "ok", "fail": "FAIL", "warn": "warn", "info": "-", "skip": "-", "unknown": "?"}
STYLES = {"pass": "green", "fail": "bold red", "warn": "yellow", "unknown": "yellow"}
# The table's columns: a heading, and the checks whose worst verdict stands there.
COLUMNS = {
    "ssh": ("ssh.",),
    "ping": ("net.ping",),
    "python": ("env.python",),
    "torch": ("env.torch",),
    "rendezvous": ("net.port.rdzv", "net.rdzv"),
}
UNBOUNDED = 10_000
SEVERITY: tuple[Status, ...] = ("fail", "unknown", "warn", "pass", "info", "skip")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller: rich would end the program, and a run must not end so."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")


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

    def __call__(self, event: Event, state: RunState) -> None:
        match event:
            case Logged():
                self._logged(event)
            case Connecting():
                if not self._quiet:
                    count = len(event.hosts)
                    self._say(f"checking {count} host{'s' * (count != 1)} ...", "dim")
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
            case StopAsked():
                again = "; Ctrl-C again kills it now" if event.exit_code == INTERRUPTED else ""
                self._say(f"stopping everywhere: {event.why}{again}", "yellow")
            case WorkerEnded() if event.failed and state.plan:
                self._restarting(event, state.plan.max_restarts)
            case NodeEnded() | LinkDown():
                self._finish_lines(event.host)
                if isinstance(event, LinkDown):
                    self._say(f"{event.host}: {event.message}", "bold red")
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

    def _checked(self, event: Checked) -> None:
        failed = [v for v in event.verdicts if v.status == "fail"]
        if not self._quiet or failed:
            self._console.print(verdict_table(event))
        told = ("fail", "warn", *(("info", "unknown", "skip") if self._verbose else ()))
        for verdict, hosts in folded(v for v in event.verdicts if v.status in told):
            self._verdict(verdict, hosts)
        counts = Counter(v.status for v in event.verdicts)
        listed = ", ".join(f"{counts[status]} {status}" for status in SEVERITY if counts[status])
        self._say(f"checks: {listed}", "bold red" if failed else None)

    def _verdict(self, verdict: Verdict, hosts: str) -> None:
        where = f"{hosts}: " if hosts and not verdict.message.startswith(hosts) else ""
        self._say(
            f"{MARKS[verdict.status]} {verdict.id}  {where}{verdict.message}",
            STYLES.get(verdict.status),
        )
        if verdict.hint:
            self._say(f"   -> {verdict.hint}")

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
        if not state.all_up or any(
            n.round != event.round and not n.over for n in state.nodes.values()
        ):
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
        took = f"{event.seconds:.1f} s on {', '.join(event.hosts)}"
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
                signal_name(failure.signal) if failure.signal else
                f"exit code {failure.code}" if failure.code is not None else "not started"
            )  # fmt: skip
            said = f": {failure.message}" if failure.message else ""
            self._say(f"first failure: {who}, {how}{said}", "bold red")
            for line in failure.tail if failure.tail != (failure.message,) else ():
                self._say(f"    {line}")
        if event.unverified:
            hosts = ", ".join(event.unverified)
            self._say(
                f"not verified on {hosts}: without a connection the agent there ends the job by "
                "itself, within a minute",
                "yellow",
            )
        for survivor in event.survivors:
            self._say(f"still there, could not be ended: {survivor}", "bold red")
        if event.logs:
            self._say(f"logs: {event.logs}")

    # ---- exec ----

    def output(self, host: str, stream: str, data: bytes) -> None:
        self._order.setdefault(host, len(self._order))
        cutter = self._cutters.setdefault((host, host, stream, 0), LineCutter())
        self._lines(host, host, cutter.feed(data, time.monotonic()))

    def output_ended(self) -> None:
        for host in self._order:
            self._finish_lines(host)


class JsonLines:
    """A sink for programs: one event per line on stdout."""

    def __call__(self, event: Event, state: RunState) -> None:
        if isinstance(event, Checked):
            return  # said verdict by verdict
        sys.stdout.write(encode(event) + "\n")
        sys.stdout.flush()


class JsonVerdicts:
    """A sink for programs: one verdict per line, then a summary."""

    def __call__(self, event: Event, state: RunState) -> None:
        if not isinstance(event, Checked):
            return
        for verdict in event.verdicts:
            sys.stdout.write(json.dumps(asdict(verdict), separators=(",", ":")) + "\n")
        counts = Counter(verdict.status for verdict in event.verdicts)
        sys.stdout.write(json.dumps({"summary": {s: counts[s] for s in SEVERITY}}) + "\n")
        sys.stdout.flush()


def folded(verdicts: Iterable[Verdict]) -> Iterator[tuple[Verdict, str]]:
    """Return what is the same on many hosts once, with their names."""
    found: dict[tuple[str, str, str, str | None], tuple[Verdict, list[str]]] = {}
    for verdict in verdicts:
        shown = (verdict.status, verdict.id, verdict.message, verdict.hint)
        _, hosts = found.setdefault(shown, (verdict, []))
        hosts.extend([verdict.host] if verdict.host else [])
    return ((verdict, ", ".join(hosts)) for verdict, hosts in found.values())


def verdict_table(event: Checked) -> Table:
    """A line per host; in each column the worst that the checks behind it say."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("host", *COLUMNS):
        table.add_column(heading, overflow="fold")
    for host in event.hosts:
        cells = [Text(host)]
        for prefixes in COLUMNS.values():
            of_host = [v for v in event.verdicts if v.host == host and v.id.startswith(prefixes)]
            cells.append(_cell(min(of_host, key=lambda v: SEVERITY.index(v.status), default=None)))
        table.add_row(*cells)
    return table


def _cell(verdict: Verdict | None) -> Text:
    if verdict is None:
        return Text("-")
    short = verdict.status in ("pass", "info")
    mark = safe(verdict.message, colours=False) if short else MARKS[verdict.status]
    return Text(mark, style=STYLES.get(verdict.status, ""))


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """What is asked for is written, all of it, or that it could not be is said."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # nobody reads any more, which is no mistake
    except OSError as error:
        raise UsageError(f"the output cannot be written: {error.strerror}") from None


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
def show_text(text: str) -> None:
    sys.stdout.write(text + "\n")


def show_error(error: DdpOrchError, mask: Mask) -> None:
    show_lines([f"ddp-orch: {error}"] + ([f"  -> {error.hint}"] if error.hint else []), mask)


def show_lines(lines: Sequence[str], mask: Mask) -> None:
    sys.stderr.write("".join(safe(mask.text(line), colours=False) + "\n" for line in lines))


def asker() -> Callable[[str], str] | None:
    """Return who asks the person at the terminal for a passphrase; None where there is none.

    What is written goes to the terminal itself: stdout may be a file, or JSON for a program.
    """
    try:
        # In the background a question would only stop the program.
        there = sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return None
    return _asked if there else None


def _asked(prompt: str) -> str:
    try:
        return getpass.getpass(safe(prompt, colours=False))
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\n")  # what is said next is not to stand behind the prompt
        raise


def console(stream: TextIO, *, colour: bool) -> _Console:
    return _Console(
        file=stream,
        no_color=not colour,
        force_terminal=colour,
        highlight=False,
        soft_wrap=True,
        emoji=False,
        # Off a terminal there is no edge to wrap a table at.
        width=None if stream.isatty() else UNBOUNDED,
    )


def coloured(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
