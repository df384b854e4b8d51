"""The verbs around it all."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.errors import UsageError
from orchestrator.verbs.asked import (
    refuse_words,
    words,
)

# typer reads the verbs' annotations when the program runs.
from orchestrator.verbs.flags import (  # noqa: TC001
    VerboseOption,
)

app = typer.Typer()


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
        what = program.bundled_trainer(tuple(words()))
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

    refuse_words()
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
