"""What is to run: the command line's word, else the inventory's, else the bundled trainer."""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError
from orchestrator.plan import Program, run_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.model import Inventory


def program_for(
    inventory: Inventory, argv: Sequence[str], module: str | None, *, no_python: bool = False
) -> Program:
    """Take the command line's word, else the inventory's, else the bundled trainer.

    Words that begin with an option name no program: they are for the one that runs without them.
    """
    job = inventory.job
    args = tuple(argv) or job.args
    if no_python:
        if module is not None:
            raise UsageError("--no-python and -m: a module is run by Python")
        if not argv and job.command is None:
            raise UsageError("no command", hint="--no-python -- PROGRAM ARGS")
        return _command(argv or (*(job.command or ()), *job.args))
    if module is not None:
        return Program(target=module, args=tuple(argv), module=True)
    if argv and argv[0] == "-m":
        raise UsageError("-m follows --; it is an option of ours", hint="-m MODULE -- ARGS")
    if argv and not argv[0].startswith("-"):
        return _script(argv[0], tuple(argv[1:]))
    if job.command is not None:
        return _command(job.command + args)
    if job.module is not None:
        return Program(target=job.module, args=args, module=True)
    if job.script is not None:
        return _script(job.script, args)
    return bundled_trainer(args)


def from_locale(word: str) -> str:
    """Take a word of this process for its bytes: they are the same there, whatever the locale here.

    Python has decoded it as the locale says; what goes to a host is encoded as UTF-8.
    """
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def _in_locale(word: str) -> str:
    """The way back, for the names of files here."""
    return os.fsdecode(word.encode("utf-8", "surrogateescape"))


def _command(words: Sequence[str]) -> Program:
    target, *args = words
    if not target or target.startswith("-"):
        raise UsageError(f"{target!r} is not a program", hint="a program there, then its arguments")
    return Program(target=target, args=tuple(args), python=False)


def _script(path: str, args: tuple[str, ...]) -> Program:
    try:
        here = Path(_in_locale(path)).expanduser()
        found, folder = here.is_file(), here.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a path that cannot be
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"no such script here: {path[:200]} ({why})") from None
    if folder:
        raise UsageError(f"{path} is a folder, not a script", hint="a module is run by -m NAME")
    if found and not os.access(here, os.R_OK):
        raise UsageError(f"{path} may not be read", hint="see who owns it, and its mode")
    if found:
        return Program(target=from_locale(here.name), args=args, ships=(str(here),))
    if here.is_absolute():
        return Program(target=path, args=args)  # it is on the hosts, or their Python says so
    raise UsageError(
        f"no such script here: {path}",
        hint="a relative path is looked for in this folder; an absolute one may be on the hosts",
    )


LARGEST = 32 << 20  # of a file that is sent: a script, not a data set


def files_to_ship(program: Program) -> dict[str, bytes]:
    """Read them now: what runs is what stood there when the command was given."""
    files = {}
    for path in map(Path, program.ships):
        try:
            size = path.stat().st_size
            if size > LARGEST:
                raise UsageError(
                    f"{path} has {size >> 20} MiB; more than {LARGEST >> 20} are not sent along",
                    hint="put it on the hosts, and give its absolute path there",
                )
            files[from_locale(path.name)] = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return files


def lies_beside(program: Program, module: str) -> bool:
    """Whether a module is here, where the script that is sent alone would find it."""
    folders = [Path(path).absolute().parent for path in program.ships[:1]]
    return any((f / f"{module}.py").is_file() or (f / module).is_dir() for f in folders)


def bundled_trainer(args: tuple[str, ...]) -> Program:
    spec = importlib.util.find_spec("trainer")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    data = sorted(str(path) for path in folder.glob("*.gz"))
    return Program(target="train.py", args=args, ships=(str(folder / "train.py"), *data))


def new_name(taken: Callable[[str], bool], wanted: str | None, ended: Callable[[str], bool]) -> str:
    """Return the name that is wanted, or find one; `ended` says what may be forgotten."""
    if wanted is not None:
        if taken(wanted):
            hint = "choose another --name"
            if ended(wanted):
                hint = f"to forget it, logs and all: ddp-orch prune {wanted}; or {hint}"
            raise UsageError(f"there is a run called {wanted} already", hint=hint)
        return wanted
    chance = random.SystemRandom()
    return next(name for _ in range(1000) if not taken(name := run_name(chance)))
