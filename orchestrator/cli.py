"""Verbs and exit codes; nothing else. What is slow to import is imported where it is used."""

from __future__ import annotations

import io
import itertools
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import INTERNAL, INTERRUPTED, DdpOrchError, UsageError

# typer reads the verbs' annotations when the program runs.
from orchestrator.flags import (  # noqa: TC001
    AcceptOption,
    EnvFileOption,
    EnvOption,
    ExcludeOption,
    HostsOption,
    IncludeOption,
    InventoryPath,
    ModuleOption,
    NoPythonOption,
    OutputOption,
    QuietOption,
    RestartsOption,
    SecretOption,
    SkipOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from inventory.model import Inventory
    from orchestrator.emit import Sink
    from orchestrator.masking import Mask
    from orchestrator.plan import Program
    from orchestrator.run import Options

app = typer.Typer(
    name="ddp-orch",
    help="Start, watch and take down PyTorch DDP jobs on a few machines that answer SSH.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What follows the first "--" is the worker's; split off before any parser sees it.
_after_dashes: list[str] | None = None
# Of the secrets that were read: the last resort, which shows what nobody expected, masks as well.
_mask: Mask | None = None


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    output: OutputOption = "table",
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check the hosts, then start, watch and end a job on all.

    ddp-orch up inventory.yaml [-- SCRIPT ARGS]. Without a script the bundled trainer runs.
    """
    from orchestrator import program, run, screen, store

    found = _to_run(inventory, hosts, include, exclude)
    names = [*found.job.secrets, *(secret or ())]
    options = _options(name, max_restarts, env, skip_check, accept_new_host_keys, env_file, names)
    what = _program(found, options, module, no_python)
    if dry_run:
        screen.show_plan(run.plan(found, what, options), options.mask)
        return
    shown = _output(output, screen.Screen(verbose=verbose, quiet=quiet), screen.JsonLines())
    run_name = program.new_name(store.taken, name)
    record = store.RunStore(run_name)
    try:
        sinks: list[Sink] = [shown, record]
        code = run.up(found, what, options, run_name, sinks, record.keep, str(record.logs))
    finally:
        record.close()
    raise typer.Exit(code)


@app.command()
def check(
    inventory: InventoryPath = None,
    hosts: HostsOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    skip_check: SkipOption = None,
    accept_new_host_keys: AcceptOption = False,
    output: OutputOption = "table",
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Tell the infos too.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Check whether the hosts can run a job; start nothing."""
    from orchestrator import run, screen

    _refuse_words()
    found = _inventory(inventory, hosts, include, exclude)
    options = _options(None, None, None, skip_check, accept_new_host_keys)
    shown = _output(output, screen.Screen(verbose=verbose, quiet=quiet), screen.JsonVerdicts())
    raise typer.Exit(run.check(found, options, [shown]))


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

    found = _to_run(inventory, hosts, include, exclude)
    names = [*found.job.secrets, *(secret or ())]
    options = _options(None, max_restarts, env, None, False, env_file, names)
    what = _program(found, options, module, no_python)
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

    if not _after_dashes:
        raise UsageError("no command", hint="ddp-orch exec inventory.yaml -- COMMAND")
    found = _inventory(inventory, hosts, include, exclude)
    options = _options(None, None, env, None, accept_new_host_keys, env_file, secret)
    refusals.shown_secrets([("the command", _words())], options.secrets)
    shown, mask = screen.Screen(), options.mask
    try:
        code = run.exec_(
            found, _words(), options, shown.output, lambda e: screen.show_error(e, mask)
        )
    finally:
        shown.output_ended()
    raise typer.Exit(code)


@app.command()
def demo(
    hosts: Annotated[
        int, typer.Option("--hosts", min=1, max=16, help="How many hosts to play.")
    ] = 3,
    verbose: VerboseOption = False,
) -> None:
    """Play it all on this machine, with hosts on loopback."""
    import tempfile
    from pathlib import Path

    from inventory.load import load
    from orchestrator import lab, program, run, screen

    with (
        tempfile.TemporaryDirectory(prefix="ddp-orch-demo-") as folder,
        lab.Lab(hosts=hosts, folder=Path(folder)) as rooms,
    ):
        screen.show_text(f"{hosts} hosts on loopback: {rooms.inventory_path}")
        found = load(rooms.inventory_path)
        what = program.bundled_trainer(tuple(_words()))
        code = run.up(found, what, run.Options(), "demo", [screen.Screen(verbose=verbose)])
    screen.show_text("everything is taken down again; nothing is left on this machine")
    raise typer.Exit(code)


@app.command()
def schema(
    path: Annotated[
        str | None, typer.Argument(metavar="FILE.json", help="Where to write it; default: stdout.")
    ] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="Print the fields as Markdown tables instead.")
    ] = False,
) -> None:
    """Write a JSON Schema of inventories, for editors.

    ddp-orch schema inventory.schema.json, and as the inventory's first line:
    # yaml-language-server: $schema=inventory.schema.json
    """
    from pathlib import Path

    from inventory.fields import field_tables
    from inventory.schema import schema_text
    from orchestrator import screen

    _refuse_words()
    if path is None or fields:
        screen.show_text(field_tables() if fields else schema_text())
        return
    # Who takes it for a check of inventory.yaml must not lose that file.
    if Path(path).suffix != ".json":
        hint = "ddp-orch schema inventory.schema.json; ddp-orch plan reads an inventory"
        raise UsageError(f"{path} would be written, and does not end in .json", hint=hint)
    try:
        Path(path).write_text(schema_text() + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path} cannot be written: {why}") from None


def _inventory(
    path: str | None,
    hosts: list[str] | None,
    include: list[str] | None,
    exclude: list[str] | None,
) -> Inventory:
    from inventory.choose import choose
    from inventory.load import InventoryError, from_names, load

    # Not typer's envvar: that one could not be told from a path beside -H.
    if path is None and hosts is None:
        path = os.environ.get("DDP_ORCH_INVENTORY") or None
    if (path is None) == (hosts is None):
        what = "no inventory" if path is None else "an inventory and -H as well"
        verb = f"ddp-orch {sys.argv[1]}"
        raise UsageError(what, hint=f"{verb} inventory.yaml, or {verb} -H gpu1,gpu2")
    try:
        found = load(path) if path is not None else from_names(",".join(hosts or ()))
        return choose(found, include or (), exclude or ())
    except InventoryError as error:
        count = len(error.problems)
        # A line of its own first: the others begin with what an editor or a terminal can open.
        head = f"{count} mistakes in the inventory:\n" if count > 1 else ""
        raise UsageError(f"{head}{error}") from None


def _options(
    name: str | None,
    max_restarts: int | None,
    env: list[str] | None,
    skip: list[str] | None,
    accept: bool,
    env_files: list[str] | None = None,
    secrets: list[str] | None = None,
) -> Options:
    import re

    from orchestrator import checks, given, run, screen
    from orchestrator.program import from_locale

    # Here, before there is a record of the run: a typing error leaves nothing behind.
    if unknown := sorted(set(skip or ()) - set(checks.SKIPPABLE)):
        raise UsageError(
            f"no check to skip: {', '.join(unknown)}",
            hint=f"there are: {', '.join(checks.SKIPPABLE)}",
        )
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise UsageError(f"{name!r} is not a run's name", hint="lower-case letters, digits and -")
    global _mask  # what goes wrong from here on may have a secret in its words
    options = run.Options(
        skip=frozenset(skip or ()),
        accept_new_host_keys=accept,
        max_restarts=max_restarts,
        env=given.environment(env_files or (), map(from_locale, env or ())),
        secrets=given.secrets(secrets or ()),
        name=name,
        ask=screen.asker(),
    )
    _mask = options.mask
    return options


def _to_run(
    path: str | None,
    hosts: list[str] | None,
    include: list[str] | None,
    exclude: list[str] | None,
) -> Inventory:
    """Read an inventory whose job is to be run, all of it."""
    from orchestrator import refusals

    found = _inventory(path, hosts, include, exclude)
    refusals.not_there_yet(found)
    return found


def _program(found: Inventory, options: Options, module: str | None, no_python: bool) -> Program:
    from orchestrator import program, refusals

    what = program.program_for(found, _words(), module, no_python=no_python)
    refusals.contradictions(found, what, options.env, options.secrets)
    return what


def _output(wanted: str, table: Sink, as_json: Sink) -> Sink:
    if wanted not in ("table", "json"):
        raise UsageError(f"-o {wanted}: there is table and json")
    return table if wanted == "table" else as_json


def _words() -> list[str]:
    from orchestrator.program import from_locale

    return [from_locale(word) for word in _after_dashes or ()]


def _refuse_words() -> None:
    if _after_dashes:
        raise UsageError(f"nothing is run here, but {_after_dashes[0]!r} follows --")


def main() -> None:
    global _after_dashes  # the parser must not see it, and typer has no place for it
    _open_closed_streams()
    # What the terminal's encoding lacks is shown escaped, as stderr does; it must not end a run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:]
    if "--" in argv:
        at = argv.index("--")
        argv, _after_dashes = argv[:at], argv[at + 1 :]
    try:
        sys.exit(_run(lambda: _parsed(argv)))
    finally:
        _leave_quietly()


def _parsed(argv: list[str]) -> None:
    if word := _command_before_dashes(argv):
        hint = f"ddp-orch exec inventory.yaml -- {word} ..."
        raise UsageError(f"{word} stands before --; the command follows it", hint=hint)
    if script := _script_before_dashes(argv):
        hint = f"ddp-orch {argv[0]} inventory.yaml -- {script} ..."
        raise UsageError(
            f"{script} stands before --; a script and its arguments follow it", hint=hint
        )
    app(args=argv, prog_name="ddp-orch", standalone_mode=True)


def _script_before_dashes(argv: list[str]) -> str | None:
    """Find what everyone forgets once: the "--" before the script."""
    if _after_dashes is not None or argv[:1] not in (["up"], ["plan"]):
        return None
    values = [b for a, b in itertools.pairwise(argv) if not a.startswith("-")]
    return next((word for word in values if word.endswith(".py")), None)


def _command_before_dashes(argv: list[str]) -> str | None:
    """Find a second word that is no option's, nor its value: `exec` takes an inventory alone."""
    if _after_dashes is not None or argv[:1] != ["exec"]:
        return None
    words = [b for a, b in itertools.pairwise(argv) if not a.startswith("-")]
    words = [word for word in words if not word.startswith("-")]
    return words[1] if words[1:] else None


def _open_closed_streams() -> None:
    """Put nothing in the place of a closed stream: else its number goes to the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  for good


def _leave_quietly() -> None:
    """Let Python's last flush not change the exit code when nobody reads our output any more."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  the process ends with it


def _run(verb: Callable[[], object]) -> int:
    """Every end has its exit code and, when it is an error, one line and a next step."""
    try:
        verb()
    except DdpOrchError as error:
        from orchestrator.masking import Mask
        from orchestrator.screen import show_error

        show_error(error, _mask or Mask())
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last resort: people get a line, we get the traceback
        import traceback

        from orchestrator import screen, store
        from orchestrator.masking import Mask

        mask = _mask or Mask()
        kept = store.keep_report(mask.text(traceback.format_exc()))
        report = f"please report it with {kept}" if kept else f"please report it: {error!r}"
        said = ["ddp-orch: internal error, which is our fault", f"  -> {report}"]
        screen.show_lines(said, mask)
        return INTERNAL
    return 0
