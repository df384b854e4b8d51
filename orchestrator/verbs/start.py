"""The verbs that start something, or look whether it could be started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import UsageError
from orchestrator.verbs.asked import (
    for_programs,
    inventory_of,
    inventory_to_run,
    job_of,
    named_by,
    options_of,
    program_of,
    refuse_words,
    words,
    words_for_checks,
)

# typer reads the verbs' annotations when the program runs.
from orchestrator.verbs.flags import (  # noqa: TC001
    AcceptOption,
    EnvFileOption,
    EnvOption,
    ExcludeOption,
    ExplainOption,
    HostsOption,
    IncludeOption,
    InventoryPath,
    ModuleOption,
    NoPythonOption,
    OnlyOption,
    OutputOption,
    QuietOption,
    RestartsOption,
    SecretOption,
    SkipOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from orchestrator.emit import Sink

app = typer.Typer()


@app.command()
def up(
    inventory: InventoryPath = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    name: Annotated[
        str | None, typer.Option("-n", "--name", help="A name for the run; default: one is found.")
    ] = None,
    module: ModuleOption = None,
    max_restarts: RestartsOption = None,
    no_python: NoPythonOption = False,
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    secret: SecretOption = None,
    skip_check: SkipOption = None,
    accept_new_host_keys: AcceptOption = False,
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Leave once all workers run; see attach.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    output: OutputOption = "table",
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check the hosts, then start, watch and end a job on all.

    ddp-orch up inventory.yaml [-- SCRIPT ARGS]. Without a script the bundled trainer runs.
    """
    from orchestrator import local_runs, program, run, screen, store

    found = inventory_to_run(inventory, hosts, include, exclude)
    names = [*found.job.secrets, *(secret or ())]
    named = named_by(inventory, hosts)
    options = options_of(
        name, max_restarts, env, skip_check, accept_new_host_keys, env_file, names, named=named
    )
    what = program_of(found, options, module, no_python)
    if dry_run:
        screen.show_plan(run.plan(found, what, options), options.mask)
        return
    people = screen.Screen(verbose=verbose, quiet=quiet)
    shown: Sink = screen.JsonLines() if for_programs(output) else people
    run_name = program.new_name(local_runs.taken, name, local_runs.has_ended)
    # With the names of the secrets: who attaches is to mask them as well.
    job = found.job.model_copy(update={"secrets": tuple(dict.fromkeys(names))})
    record = store.RunStore(run_name, found.model_copy(update={"job": job}).model_dump_json())
    try:
        sinks: list[Sink] = [shown, record]
        logs = str(record.logs)
        code = run.up(found, what, options, run_name, sinks, record.keep, logs, detach=detach)
    finally:
        record.close()
    raise typer.Exit(code)


@app.command()
def check(
    inventory: InventoryPath = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    only: OnlyOption = None,
    skip_check: SkipOption = None,
    explain: ExplainOption = None,
    accept_new_host_keys: AcceptOption = False,
    output: OutputOption = "table",
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tell the infos too, and each finding.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Check whether the hosts can run a job; start nothing.

    Exit code 3: a check failed; 4: a host cannot be reached or trusted. What was not
    measured is `unknown`, and no failure.
    """
    from orchestrator import checks, run, screen

    refuse_words()
    if explain:
        asked_for = words_for_checks("--explain", explain)
        told = dict.fromkeys(check for word in asked_for for check in checks.named(word))
        screen.show_checks(tuple(told), as_json=for_programs(output))
        return
    found = inventory_of(inventory, hosts, include, exclude)
    named = named_by(inventory, hosts)
    options = options_of(None, None, None, skip_check, accept_new_host_keys, only=only, named=named)
    people = screen.Screen(verbose=verbose, quiet=quiet)
    shown: Sink = screen.JsonVerdicts() if for_programs(output) else people
    raise typer.Exit(run.check(found, options, [shown], job_of(found)))


@app.command()
def plan(
    inventory: InventoryPath = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    module: ModuleOption = None,
    max_restarts: RestartsOption = None,
    no_python: NoPythonOption = False,
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    secret: SecretOption = None,
) -> None:
    """Show the ranks and each host's command; touch no host."""
    from orchestrator import run, screen

    found = inventory_to_run(inventory, hosts, include, exclude)
    names = [*found.job.secrets, *(secret or ())]
    options = options_of(None, max_restarts, env, None, False, env_file, names)
    what = program_of(found, options, module, no_python)
    screen.show_plan(run.plan(found, what, options), options.mask)


@app.command("exec")
def exec_(
    inventory: InventoryPath = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    secret: SecretOption = None,
    accept_new_host_keys: AcceptOption = False,
) -> None:
    """Run a command on all hosts at once.

    ddp-orch exec inventory.yaml -- nvidia-smi -L. One word is a line for the shell
    there: -- 'df -h | tail -1'. The exit code is the worst host's. It
    gets workdir: and env:, but not secrets: nor the environment around python:.
    """
    from orchestrator import refusals, run, screen

    if not words():
        raise UsageError("no command", hint="ddp-orch exec inventory.yaml -- COMMAND")
    found = inventory_of(inventory, hosts, include, exclude)
    options = options_of(None, None, env, None, accept_new_host_keys, env_file, secret)
    refusals.shown_secrets([("the command", words())], options.secrets)
    shown, mask = screen.Screen(), options.mask
    try:
        code = run.exec_(
            found, words(), options, shown.output, lambda e: screen.show_error(e, mask)
        )
    finally:
        shown.output_ended()
    raise typer.Exit(code)
