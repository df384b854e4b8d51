"""What the command line gives the workers: --env, --env-file and --secret."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from inventory.kinds import ENV_NAME
from orchestrator.errors import UsageError
from orchestrator.masking import SHORTEST, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of an environment file: it holds settings, not data.
LARGEST = 1 << 20


def environment(files: Iterable[str], items: Iterable[str]) -> dict[str, str]:
    """Put together what --env-file and --env say: a later file over an earlier, --env over all."""
    given: dict[str, str] = {}
    for path in files:
        given |= _file(path)
    for item in items:
        key, equals, value = item.partition("=")
        if not ENV_NAME.match(key):
            raise UsageError(f"--env {item!r} is not K or K=V")
        mine = None if equals else of_this_machine(key)
        if not equals and mine is None:
            raise UsageError(
                f"--env {key}: this machine has no such variable", hint=f"--env {key}=VALUE"
            )
        given[key] = value if mine is None else mine
    return given


def of_this_machine(name: str) -> str | None:
    """Return a variable's very bytes, as text that becomes them again on a host."""
    value = os.environb.get(name.encode())
    return None if value is None else value.decode("utf-8", "surrogateescape")


def secrets(names: Iterable[str]) -> dict[str, Secret]:
    """Take secrets from this machine's environment, where no command line shows them."""
    found = {}
    for name in names:
        if not ENV_NAME.match(name):
            key = name.partition("=")[0]
            if ENV_NAME.match(key):
                # Not even in this sentence: it may be kept in a log.
                raise UsageError(
                    f"--secret {key}=...: a value does not belong on a command line",
                    hint=f"read -rs {key} && export {key}, and then --secret {key}",
                )
            raise UsageError("--secret takes the name of a variable of this machine's environment")
        value = of_this_machine(name)
        if not value:
            state = "is not set" if value is None else "is empty"
            raise UsageError(
                f"the secret {name} {state} in this machine's environment",
                hint=f"read -rs {name} && export {name}",
            )
        # Output is masked line by line.
        if max(len(line.strip()) for line in value.splitlines()) < SHORTEST:
            raise UsageError(
                f"the secret {name} is shorter than {SHORTEST} characters in every line: to mask "
                "it would blank what it stands in by chance, and so tell it",
                hint=f"if it is no secret: --env {name}",
            )
        found[name] = Secret(value)
    return found


def at_hand(names: Iterable[str]) -> list[str]:
    """Return the names of those secrets that can be taken; to mask the others is not possible."""
    found: list[str] = []
    for name in names:
        with contextlib.suppress(UsageError):
            found += secrets([name])
    return found


def _file(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  it may be a pipe: <(sops -d env)
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"--env-file {path}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise UsageError(f"--env-file {path}: larger than {LARGEST >> 20} MiB")
    return parse(data, path)


def parse(data: bytes, path: str) -> dict[str, str]:
    """Read lines of K=V, each value byte for byte up to the line's end.

    There may be blank lines, lines that begin with #, and `export ` before K. What other readers
    of such files take in different ways is refused: quotes around a value, a comment behind one.
    """
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = raw.decode("utf-8", "surrogateescape")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = re.sub(r"^\s*(?:export[ \t]+)?", "", line).partition("=")
        problem = _problem(key, equals, value)
        if not problem and key in lines:
            problem = f"{key} stands in line {lines[key]} already", "leave one of them out"
        if problem:
            raise UsageError(f"{path}:{number}: {problem[0]}", hint=problem[1])
        found[key], lines[key] = value, number
    return found


def _problem(key: str, equals: str, value: str) -> tuple[str, str] | None:
    """Say what is wrong with a line, and what to do; the value may be private, and is not said."""
    if not equals:
        return "no = in this line", "K=V; to take K from this machine's environment: --env K"
    if not ENV_NAME.match(key):
        # It may be a later line of a value, such as a key's.
        return "what stands before = is not a variable's name", "K=V, without blanks around ="
    if "\0" in value:
        return f"{key}: a value holds no NUL", "it cannot be in any environment"
    if value.endswith("\r"):
        return (
            f"{key}: the line ends as in Windows; the CR would be part of the value",
            "tr -d '\\r' < FILE takes them out",
        )
    if value[:1] in ("'", '"'):
        return (
            f"{key}: the value begins with a quote, which some readers take away and others keep",
            f"a value ends with its line: leave the quotes out; or --env '{key}=...' with them",
        )
    if re.search(r"\s#", value):
        return (
            f"{key}: # after a blank begins a comment to some readers, and not to others",
            f"give comments lines of their own; or --env '{key}=...'",
        )
    return None
