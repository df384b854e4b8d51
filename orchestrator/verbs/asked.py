"""What a command line asks for: its words and options as inventories, options and programs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from inventory.model import Inventory
    from orchestrator.loglines import Wanted
    from orchestrator.masking import Mask
    from orchestrator.plan import Program
    from orchestrator.run import Options

# What follows the first "--" is the worker's; split off before any parser sees it.
after_dashes: list[str] | None = None
# Of the secrets that were read: the last resort, which shows what nobody expected, masks as well.
mask: Mask | None = None


def inventory_of(
    path: str | None,
    hosts: list[str] | None,
    include: list[str] | None,
    exclude: list[str] | None,
) -> Inventory:
    from inventory.choose import choose
    from inventory.load import InventoryError, from_names, load
    from orchestrator.checks import refused

    # Not typer's envvar: that one could not be told from a path beside -H.
    if path is None and hosts is None:
        path = os.environ.get("DDP_ORCH_INVENTORY") or None
    if (path is None) == (hosts is None):
        what = "no inventory" if path is None else "an inventory and -H as well"
        verb = f"ddp-orch {sys.argv[1]}"
        raise UsageError(what, hint=f"{verb} inventory.yaml, or {verb} -H gpu1,gpu2")
    try:
        found = load(path, refused) if path is not None else from_names(",".join(hosts or ()))
        return choose(found, include or (), exclude or ())
    except InventoryError as error:
        count = len(error.problems)
        # A line of its own first: the others begin with what an editor or a terminal can open.
        head = f"{count} mistakes in the inventory:\n" if count > 1 else ""
        raise UsageError(f"{head}{error}") from None


def named_by(path: str | None, hosts: list[str] | None) -> str:
    """Return the words that name the same hosts on another command line."""
    import shlex

    if hosts is not None:
        return f"-H {shlex.quote(','.join(hosts))}"
    return shlex.quote(path or os.environ["DDP_ORCH_INVENTORY"])


def options_of(
    name: str | None,
    max_restarts: int | None,
    env: list[str] | None,
    skip: list[str] | None,
    accept: bool,
    env_files: list[str] | None = None,
    secrets: list[str] | None = None,
    only: list[str] | None = None,
    named: str | None = None,
) -> Options:
    import re

    from orchestrator import given, run, screen
    from orchestrator.program import from_locale

    # Here, before there is a record of the run: a typing error leaves nothing behind.
    skipped, wanted = words_for_checks("--skip-check", skip), words_for_checks("--only", only)
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise UsageError(f"{name!r} is not a run's name", hint="lower-case letters, digits and -")
    global mask  # what goes wrong from here on may have a secret in its words
    options = run.Options(
        only=frozenset(wanted),
        skip=frozenset(skipped),
        accept_new_host_keys=accept,
        max_restarts=max_restarts,
        env=given.environment(env_files or (), map(from_locale, env or ())),
        secrets=given.secrets(secrets or ()),
        name=name,
        ask=screen.asker(),
        named=named,
    )
    mask = options.mask
    return options


def words_for_checks(option: str, given: list[str] | None) -> tuple[str, ...]:
    """Read ids of checks and of groups, which may have commas between them."""
    from orchestrator import checks

    words = [word.strip() for value in given or () for word in value.split(",")]
    for word in words:
        if option == "--explain" and word == "all":
            continue
        if wrong := checks.refused(word, "off" if option == "--skip-check" else "fail"):
            raise UsageError(f"{option} {word}: {wrong[0]}", hint=wrong[1])
    return tuple(dict.fromkeys(words))


def with_secrets_of(
    inventory: Inventory | None, options: Options, more: list[str] | None
) -> Options:
    """Know the run's secrets, as far as this machine has them: what is shown is masked."""
    import dataclasses

    from orchestrator import given, screen

    names = inventory.job.secrets if inventory else ()
    found = given.at_hand(names)
    if missing := [name for name in names if name not in found]:
        what = f"no value for it here, so it cannot be masked: {', '.join(missing)}"
        screen.show_lines([what], options.mask)
    global mask  # as in options_of
    options = dataclasses.replace(options, secrets=given.secrets([*found, *(more or ())]))
    mask = options.mask
    return options


def inventory_to_run(
    path: str | None,
    hosts: list[str] | None,
    include: list[str] | None,
    exclude: list[str] | None,
) -> Inventory:
    """Read an inventory whose job is to be run, all of it."""
    from orchestrator import refusals

    found = inventory_of(path, hosts, include, exclude)
    refusals.not_there_yet(found)
    return found


def program_of(found: Inventory, options: Options, module: str | None, no_python: bool) -> Program:
    from orchestrator import program, refusals

    what = program.program_for(found, words(), module, no_python=no_python)
    refusals.contradictions(found, what, options.env, options.secrets)
    return what


def job_of(found: Inventory) -> Program | None:
    """Return what the inventory's job runs, if it names anything: `check` looks for it."""
    from orchestrator import program

    job = found.job
    named = job.script is not None or job.module is not None or job.command is not None
    return program.program_for(found, (), None) if named else None


def wanted_lines(
    rank: list[str] | None,
    host: list[str] | None,
    stream: str | None,
    tail: int | None,
    since: str | None,
    grep: str | None,
    follow: bool,
    own: bool,
) -> Wanted:
    """Read which lines of the logs are asked for."""
    import datetime

    from inventory.names import between_commas, written_out
    from orchestrator import loglines

    now = datetime.datetime.now().astimezone()
    try:
        hosts = [
            h for value in host or () for word in between_commas(value) for h in written_out(word)
        ]
    except ValueError as error:
        raise UsageError(f"--host {error}") from None
    if grep is not None:
        loglines.expression(grep)
    return loglines.Wanted(
        hosts=tuple(hosts) or None,
        ranks=loglines.ranks_of(rank or ()),
        streams=loglines.streams_of(stream),
        own=own,
        tail=tail,
        since=None if since is None else loglines.seconds_ago(since, now),
        grep=grep,
        on=follow,
    )


def inventory_beside(
    path: str | None,
    hosts: list[str] | None,
    include: list[str] | None,
    exclude: list[str] | None,
) -> Inventory | None:
    """Read the inventory of a verb that needs none; $DDP_ORCH_INVENTORY alone asks for nothing."""
    if path is not None or hosts is not None:
        return inventory_of(path, hosts, include, exclude)
    if include or exclude:
        raise UsageError("--include and --exclude choose hosts of -i INVENTORY, and there is none")
    return None


def is_inventory(word: str) -> bool:
    # Not pathlib's: that one raises where a word is too long for a file's name.
    return word.endswith((".yaml", ".yml")) or os.path.isfile(word)  # noqa: PTH113


def refuse_inventory(run: str | None, there: str | list[str] | None) -> None:
    """Say how an inventory is given where a run is wanted; `there`: -i or -H as they are given."""
    import shlex

    from orchestrator.local_runs import known
    from orchestrator.node.files import RUN_NAME

    if run is None or not is_inventory(run):
        return
    # A file may be called as a run is: `ddp-orch logs brave-otter > brave-otter` makes one.
    if RUN_NAME.match(run) and (there or any(each.name.startswith(run) for each in known())):
        return
    raise UsageError(
        f"{run} is an inventory, and here a run's name is wanted",
        hint=f"the newest run of its hosts: ddp-orch {sys.argv[1]} -i {shlex.quote(run)}",
    )


def seconds_of(option: str, text: str) -> float:
    from inventory.kinds import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def for_programs(output: str) -> bool:
    if output not in ("table", "json"):
        raise UsageError(f"-o {output}: there is table and json")
    return output == "json"


def words() -> list[str]:
    from orchestrator.program import from_locale

    return [from_locale(word) for word in after_dashes or ()]


def refuse_words() -> None:
    if after_dashes:
        raise UsageError(f"nothing is run here, but {after_dashes[0]!r} follows --")
