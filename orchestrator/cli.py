"""The command: its verbs, put together, and the exit code of every end."""

from __future__ import annotations

import gc
import io
import itertools
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import __version__
from orchestrator.errors import INTERNAL, INTERRUPTED, DdpOrchError, UsageError
from orchestrator.verbs import asked, extras, runs, start

if TYPE_CHECKING:
    from collections.abc import Callable

# New objects, before the collector looks for circles among them.
MANY = 50_000
app = typer.Typer(
    name="ddp-orch",
    help="Start, watch and take down PyTorch DDP jobs on a few machines that answer SSH.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verbs in (start, runs, extras):
    app.add_typer(verbs.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from orchestrator import screen

        screen.show_text(f"ddp-orch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    # What is loaded stays; to look again and again for what could go takes a tenth of a start.
    gc.set_threshold(MANY)
    _open_closed_streams()
    # What the terminal's encoding lacks is shown escaped, as stderr does; it must not end a run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:]
    if "--" in argv:
        at = argv.index("--")
        argv, asked.after_dashes = argv[:at], argv[at + 1 :]
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
    if asked.after_dashes is not None or argv[:1] not in (["up"], ["plan"]):
        return None
    values = [b for a, b in itertools.pairwise(argv) if not a.startswith("-")]
    return next((word for word in values if word.endswith(".py")), None)


def _command_before_dashes(argv: list[str]) -> str | None:
    """Find a second word that is no option's, nor its value: `exec` takes an inventory alone."""
    if asked.after_dashes is not None or argv[:1] != ["exec"]:
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
        # Who never had a screen has nothing drawn there, and need not load it now.
        if "orchestrator.screen" in sys.modules:
            from orchestrator.screen import make_way

            make_way()
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

        show_error(error, asked.mask or Mask())
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last resort: people get a line, we get the traceback
        import traceback

        from orchestrator import screen, store
        from orchestrator.masking import Mask

        mask = asked.mask or Mask()
        kept = store.keep_report(mask.text(traceback.format_exc()))
        report = f"please report it with {kept}" if kept else f"please report it: {error!r}"
        said = ["ddp-orch: internal error, which is our fault", f"  -> {report}"]
        screen.show_lines(said, mask)
        return INTERNAL
    return 0
