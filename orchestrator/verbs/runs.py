"""The verbs for runs that were started: watch, read, list, take down, forget."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import UsageError
from orchestrator.verbs.asked import (
    for_programs,
    inventory_beside,
    inventory_of,
    is_inventory,
    options_of,
    refuse_inventory,
    refuse_words,
    seconds_of,
    wanted_lines,
    with_secrets_of,
)

# typer reads the verbs' annotations when the program runs.
from orchestrator.verbs.flags import (  # noqa: TC001
    AcceptOption,
    ExcludeOption,
    HostsOption,
    IncludeOption,
    MaskOption,
    OutputOption,
    RunArgument,
    ThereOption,
    VerboseOption,
    WhereOption,
    YesOption,
)

if TYPE_CHECKING:
    from inventory.model import Inventory
    from orchestrator.emit import Sink
    from orchestrator.errors import DdpOrchError
    from orchestrator.run import Options

app = typer.Typer()


@app.command()
def attach(
    run: RunArgument = None,
    inventory: ThereOption = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    secret: MaskOption = None,
    accept_new_host_keys: AcceptOption = False,
    output: OutputOption = "table",
    verbose: VerboseOption = False,
) -> None:
    """Go on watching a run; Ctrl-C leaves it running.

    The newest known here, or RUN; with -i or -H one found on the hosts, whichever
    machine it was started from. Ends with the run's own exit code, also when it has
    ended already; 101 when it still runs. Secrets are masked as `logs` does it.
    """
    from orchestrator import screen
    from orchestrator.attach import attach as watch_on
    from orchestrator.attach import begun, record_of

    refuse_words()
    refuse_inventory(run, inventory or hosts)
    found = inventory_beside(inventory, hosts, include, exclude)
    options = options_of(None, None, None, None, accept_new_host_keys)
    known = begun(run, found, options, lambda w: screen.show_lines([w], options.mask))
    options = with_secrets_of(known.inventory, options, secret)
    people = screen.Screen(verbose=verbose)
    shown: Sink = screen.JsonLines() if for_programs(output) else people
    if run is None:
        screen.show_lines([f"the newest run: {known.plan.run}"], options.mask)
    if known.over:
        screen.show_event(shown, known.plan, known.over)
        raise typer.Exit(known.over.exit_code)
    record = record_of(known)
    if record is None:
        what = f"run {known.plan.run} is on record here already; all of it is shown, none kept"
        screen.show_lines([what], options.mask)
    try:
        sinks: list[Sink] = [shown, record] if record else [shown]
        code = watch_on(known, options, sinks, record)
    finally:
        if record:
            record.close()
    raise typer.Exit(code)


@app.command()
def logs(
    run: RunArgument = None,
    inventory: ThereOption = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the run ends, or Ctrl-C.")
    ] = False,
    rank: Annotated[
        list[str] | None, typer.Option("--rank", metavar="R", help="Only these: 0, or 0,4-7.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="H", help="Only these: gpu1,gpu[3-4].")
    ] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="out|err", help="Only one of the two.")
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option("--tail", min=0, metavar="N", help="Only the last N lines of each stream."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="5m", help="From then on, to 15 seconds: 90s, 5m, 2h, 1d or 14:30."
        ),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option(
            "--grep", metavar="RE", help="Only lines in which this regular expression is found."
        ),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Bring the raw files here, unmasked.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="Where to; default: ./RUN-logs.")
    ] = None,
    secret: MaskOption = None,
    accept_new_host_keys: AcceptOption = False,
    output: OutputOption = "table",
    verbose: VerboseOption = False,
) -> None:
    """Show what the workers of a run have written, on all its hosts.

    Each stream by itself, in the order of ranks; with -f as they come, until the run
    ends or Ctrl-C (130). Masked are the secrets that this machine's environment has:
    the inventory's, and --secret. Unmasked they are in the raw files alone.
    """
    from pathlib import Path

    from orchestrator import screen
    from orchestrator.local_runs import find
    from orchestrator.logs import fetch as fetch_logs
    from orchestrator.logs import logs as show_logs
    from orchestrator.logs_there import Asked

    refuse_words()
    refuse_inventory(run, inventory or hosts)
    wanted = wanted_lines(rank, host, stream, tail, since, grep, follow, verbose or fetch)
    if fetch and (follow or since or grep or tail is not None or output != "table"):
        raise UsageError("--fetch brings whole files: -f, --tail, --since, --grep, -o do not apply")
    if to is not None and not fetch:
        raise UsageError("--to is where --fetch brings files, and there is no --fetch")
    found = inventory_beside(inventory, hosts, include, exclude)
    record = find(run) if found is None else None
    known = found or (record.inventory if record else None)
    options = options_of(None, None, None, None, accept_new_host_keys)
    options = with_secrets_of(known, options, secret)
    asked = Asked(record=record, name=run, inventory=found)

    def say(error: DdpOrchError) -> None:
        screen.show_error(error, options.mask)

    if fetch:
        brought, code = fetch_logs(asked, wanted, options, Path(to) if to else None, say)
        screen.show_text(f"{brought.files} files, {brought.bytes:,} new bytes: {brought.folder}")
        raise typer.Exit(code)
    by_line = for_programs(output)
    shown = screen.JsonLog() if by_line else screen.Screen(verbose=verbose)
    code = 0
    with screen.whole():
        code = show_logs(asked, wanted, options, shown, say, by_line=by_line)
    raise typer.Exit(code)


@app.command()
def ps(
    run: RunArgument = None,
    inventory: WhereOption = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    accept_new_host_keys: AcceptOption = False,
    output: OutputOption = "table",
) -> None:
    """List the runs known here, and with -i those on the hosts.

    The hosts of runs that have not ended are asked. With RUN the exit code is the
    run's own: 101 while it runs, 102 where there is none of that name.
    """
    import time

    from orchestrator import screen
    from orchestrator.ps import ps as list_runs

    refuse_words()
    found = inventory_beside(inventory, hosts, include, exclude)
    options = options_of(None, None, None, None, accept_new_host_keys)
    show = screen.show_runs_as_json if for_programs(output) else screen.show_runs
    now = time.time()
    listing = list_runs(run, found, options, now, lambda w: screen.show_lines([w], options.mask))
    show(listing, now)
    raise typer.Exit(listing.exit_code)


@app.command()
def down(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN | INVENTORY]",
            help="A run, by its name or how that begins; default: the newest that runs. Or an "
            "inventory.",
        ),
    ] = None,
    inventory: ThereOption = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="With -i or -H: all runs of this user that are found there. With --strays: also "
            "what a terminal or a session still keeps.",
        ),
    ] = False,
    strays: Annotated[
        bool,
        typer.Option(
            "--strays",
            help="No run, but what earlier jobs left on an inventory's hosts, whoever started "
            "them, and who holds the rendezvous port.",
        ),
    ] = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="10s", help="From SIGTERM to SIGKILL.")
    ] = "10s",
    force: Annotated[bool, typer.Option("--force", help="No grace: SIGKILL at once.")] = False,
    accept_new_host_keys: AcceptOption = False,
    yes: YesOption = False,
    output: OutputOption = "table",
) -> None:
    """Take a run down on all its hosts, and prove that it is.

    With -i or -H it takes what the hosts themselves tell of, whichever machine it was
    started from. "down" is said of what is proven to be empty. With --strays it ends
    what earlier jobs left on an inventory's hosts: torchruns and workers, by whatever
    started, that nobody keeps any more. Exit code: 0 all is down, 4 a host was not
    reached (repeat it later), 100 something is left or could not be verified, 102 no
    such run.
    """
    from orchestrator import screen
    from orchestrator.down import Listener, down_on
    from orchestrator.down import down as take_down

    refuse_words()
    if run is not None and (strays or is_inventory(run)):
        if inventory is not None:
            raise UsageError(f"{run} and -i {inventory}: one inventory at a time")
        run, inventory = None, run
    if strays:
        if not (inventory or hosts or os.environ.get("DDP_ORCH_INVENTORY")):
            raise UsageError(
                "--strays is for the hosts of an inventory", hint="ddp-orch down --strays INVENTORY"
            )
        asked = inventory_of(inventory, hosts, include, exclude)
        seconds = 0.0 if force else seconds_of("--grace", grace)
        options = options_of(None, None, None, None, accept_new_host_keys)
        raise typer.Exit(_end_strays(asked, seconds, options, output, every=every, yes=yes))
    found = inventory_beside(inventory, hosts, include, exclude)
    if every and (found is None or run is not None):
        raise UsageError(
            "--all is for all runs of an inventory's hosts", hint="ddp-orch down --all -i INVENTORY"
        )
    seconds = 0.0 if force else seconds_of("--grace", grace)
    options = options_of(None, None, None, None, accept_new_host_keys)
    sure = yes or bool(os.environ.get("DDP_ORCH_YES"))
    told = screen.DownJson() if for_programs(output) else screen.DownLines()
    listener = Listener(
        confirm=lambda lines: screen.confirm_down(lines, yes=sure),
        begin=told.begin,
        show=told.show,
        warn=screen.show_warning,
        tell=lambda line: screen.show_lines([line], options.mask),
        end=told.end,
    )
    if found is None:
        raise typer.Exit(take_down(run, seconds, options, listener))
    raise typer.Exit(down_on(found, run, seconds, options, listener, every=every))


def _end_strays(
    inventory: Inventory, grace: float, options: Options, output: str, *, every: bool, yes: bool
) -> int:
    from orchestrator import screen
    from orchestrator.strays import Listener, down_strays

    sure = yes or bool(os.environ.get("DDP_ORCH_YES"))
    told = screen.StrayJson() if for_programs(output) else screen.StrayLines()
    listener = Listener(
        confirm=lambda lines: screen.confirm_strays(lines, yes=sure),
        show=told.show,
        warn=screen.show_warning,
        end=told.end,
    )
    return down_strays(inventory, grace, options, listener, every=every)


@app.command()
def prune(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="These runs, however long ago they ended."),
    ] = None,
    older: Annotated[
        str, typer.Option("--older", metavar="30d", help="All that ended longer ago.")
    ] = "30d",
    inventory: WhereOption = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    here: Annotated[
        bool,
        typer.Option(
            "--here",
            help="Only what this machine has of the runs named, whether they have ended or not: "
            "no host is asked, and what hosts have stays there.",
        ),
    ] = False,
    accept_new_host_keys: AcceptOption = False,
    yes: YesOption = False,
) -> None:
    """Forget ended runs: their records here and on the hosts.

    On the hosts their folders go, logs and all. Runs known here, and with -i or -H
    those found there. A run whose hosts cannot all be reached keeps its record
    here, so that it can be tried again; --here is for hosts that are gone for good.
    """
    import time

    from orchestrator import screen
    from orchestrator.prune import prune as forget_runs
    from orchestrator.prune import prune_here

    refuse_words()
    options = options_of(None, None, None, None, accept_new_host_keys)
    sure = yes or bool(os.environ.get("DDP_ORCH_YES"))
    now = time.time()

    def warn(line: str) -> None:
        screen.show_lines([line], options.mask)

    if here:
        _refuse_beside_here(runs, inventory or hosts)
        pruned = prune_here(
            runs or (), lambda those: screen.confirm_here(those, now, yes=sure), warn
        )
    else:
        pruned = forget_runs(
            runs or (),
            inventory_beside(inventory, hosts, include, exclude),
            seconds_of("--older", older),
            options,
            now,
            lambda those: screen.confirm(those, now, yes=sure),
            warn,
        )
    screen.show_pruned(pruned)
    raise typer.Exit(pruned.exit_code)


def _refuse_beside_here(runs: list[str] | None, there: object) -> None:
    if there:
        raise UsageError("--here asks no host: -i and -H do not apply")
    if not runs:
        raise UsageError("--here is for runs that are named", hint="ddp-orch prune --here RUN")
