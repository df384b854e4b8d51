"""The verbs' arguments and options that more than one of them has, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

InventoryPath = Annotated[
    str | None,
    typer.Argument(
        metavar="INVENTORY", help="The inventory, or a hostfile.  [default: $DDP_ORCH_INVENTORY]"
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option("-i", "--inventory", metavar="INVENTORY", help="Ask the hosts of this one too."),
]
ThereOption = Annotated[
    str | None,
    typer.Option("-i", "--inventory", metavar="INVENTORY", help="Find runs on this one's hosts."),
]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run, by its name or how that begins."),
]
HostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "-H", "--hosts", metavar="HOSTS", help="Hosts, with commas between, in place of a file."
    ),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="HOSTS",
        help="Only these: gpu1,gpu[3-4]; or only some of a host's GPUs: gpu1:0,2.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="HOSTS", help="All but these, written in the same way."),
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip-check",
        metavar="ID",
        help="Leave a check out, or a group such as net; may be given more than once.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="ID", help="Judge by this check or group, and by no other but ssh.*."
    ),
]
ExplainOption = Annotated[
    list[str] | None,
    typer.Option(
        "--explain", metavar="ID", help="Say what a check, a group or `all` is about; no hosts."
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-new-host-keys",
        help="Trust hosts that are not in known_hosts, and add them. "
        "A changed key is refused all the same.",
    ),
]
ModuleOption = Annotated[
    str | None,
    typer.Option("-m", "--module", metavar="MODULE", help="Run a module; its arguments follow --."),
]
RestartsOption = Annotated[
    int | None,
    typer.Option("--max-restarts", min=0, metavar="N", help="Restarts of the workers by torchrun."),
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="K[=V]", help="Environment of what runs; without =V this machine's."
    ),
]
EnvFileOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="Lines K=V, over the inventory's; V up to the line's end as it is, without quotes "
        "around it; # begins a line of comment. --env wins.",
    ),
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="K",
        help="Environment of what runs, from this machine's: in no command line, never shown.",
    ),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="K", help="Mask the value of this variable as well."),
]
NoPythonOption = Annotated[
    bool,
    typer.Option("--no-python", help="Run a program there that is no Python script: -- PROGRAM."),
]
OutputOption = Annotated[
    str, typer.Option("-o", "--output", metavar="table|json", help="For people or for programs.")
]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Show torchrun's own output too.")
]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="No table of checks while all is well.")
]
YesOption = Annotated[
    bool, typer.Option("-y", "--yes", help="Ask nothing.  [default: $DDP_ORCH_YES]")
]
