"""The kinds of values in an inventory, and the allow-lists that hold them: one for each."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

# Allow-lists, checked before anything looks a name up: a name that begins with "-" would be an
# option to ssh, and one with shell characters would run in a `Match exec` of the user's ssh config.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}\Z")
ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}\Z")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\Z")
CHECK = re.compile(r"[a-z][a-z0-9_]{0,31}(\.[a-z0-9_]{1,31}){0,3}\Z")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\s*\Z")
NODES = re.compile(r"([1-9][0-9]{0,3})(?::([1-9][0-9]{0,3}))?\Z")
DESTINATION = re.compile(
    r"(?:(?P<user>.+)@)?"
    # A host with two colons or more is an IPv6 address; the first two parts hold no colon
    # themselves, so that a long line of colons costs no more than its length.
    r"(?:\[(?P<bracketed>[^@\[\]]+)\]"
    r"|(?P<host>[^:@\[\]]+|[^:@\[\]]*:[^:@\[\]]*:[^@\[\]]*))"
    r"(?::(?P<port>[0-9]{1,9}))?\Z"
)

MOST_HOSTS = 1024
MOST_WORKERS = 1024
MOST_ENTRIES = 1024
"""Of what a host may have: a range multiplies it."""

OURS = (
    "nnodes nproc-per-node max-restarts rdzv-backend rdzv-endpoint rdzv-id rdzv-conf local-addr "
    "log-dir redirects logs-specs node-rank master-addr master-port standalone no-python module "
    "help"
).split()
"""torchrun's options that are ours to set, or that would start something else."""

OURS_SHORT = ("-m", "-r", "-h")


class Misplaced(ValueError):
    """A mistake between two fields, told at the one where people will mend it."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.match(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def _written(
    pattern: re.Pattern[str], what: str, number: dict[str, object] | None = None
) -> WithJsonSchema:
    """Say in JSON Schema what may stand in a file. Editors take text such as 010 for a number."""
    ecma = "^" + pattern.pattern.replace(r"\Z", "$")
    if number is None:
        return WithJsonSchema({"type": ["string", "number"], "pattern": ecma, "title": what})
    text = {"type": "string", "pattern": ecma}
    return WithJsonSchema({"anyOf": [number, text], "title": what})


def seconds(text: str) -> float:
    """Read a duration: seconds, or 30s, 10m, 2h, 7d."""
    found = DURATION.match(text)
    if not found:
        raise ValueError(f"{text!r} is not a duration such as 30s, 10m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _env_value(value: object) -> object:
    """Take a number for its text, for those who build a Job in Python; files bring text alone."""
    if isinstance(value, bool):
        raise ValueError(  # noqa: TRY004  pydantic collects ValueErrors, and lets others through
            'true and false are ambiguous here; put the value in quotes: "1", "true"'
        )
    return str(value) if isinstance(value, int | float) else value


def _node_count(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _node_range(value: str) -> str:
    found = NODES.match(value)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise ValueError(f"{value!r} is not a number of hosts, such as 4, nor a range, such as 2:4")
    return value


def _once_each(numbers: tuple[int, ...]) -> tuple[int, ...]:
    twice = [str(n) for n, count in Counter(numbers).items() if count > 1]
    if twice:
        raise ValueError(f"given more than once: {', '.join(twice)}")
    return numbers


def _no_option_of_ours(word: str) -> str:
    """Refuse an option that we set, in any spelling that torchrun's argparse would take for it."""
    if word == "--":
        raise ValueError("-- would end torchrun's options")
    if word.startswith("--"):
        name = word[2:].partition("=")[0].replace("_", "-")
        # argparse takes any beginning of an option for it: --nno, --rdzv-c.
        ours = next((f"--{option}" for option in OURS if option.startswith(name)), None)
    else:
        ours = next((option for option in OURS_SHORT if word.startswith(option)), None)
    if ours:
        raise ValueError(f"torchrun's {ours} is set by ddp-orch itself")
    return word


def _options_alone(words: tuple[str, ...]) -> tuple[str, ...]:
    for before, word in zip(("", *words), words, strict=False):
        takes_value = before.startswith("-") and "=" not in before
        if not word.startswith("-") and not takes_value:
            raise ValueError(f"{word!r} follows no option: torchrun would run it as the script")
    return words


def _destination(value: str) -> str:
    found = DESTINATION.match(value)
    if not found:
        raise ValueError(f"{value!r} is not of the form [user@]host[:port]")
    for part, pattern, what in (
        (found["user"], USER, "a user name"),
        (found["bracketed"] or found["host"], ADDRESS, "a host name or address"),
    ):
        if part is not None and not pattern.match(part):
            raise ValueError(f"{part!r} is not {what}")
    if found["port"] and not 1 <= int(found["port"]) <= 65535:
        raise ValueError(f"port {found['port']} is not between 1 and 65535")
    return value


HostName = Annotated[str, _matching(NAME, "a host name (letters, digits, and . _ - inside)")]
Address = Annotated[str, _matching(ADDRESS, "a host name or address")]
Destination = Annotated[str, AfterValidator(_destination)]
UserName = Annotated[str, _matching(USER, "a user name"), _written(USER, "a user name")]
Port = Annotated[int, Field(ge=1, le=65535)]
EnvName = Annotated[
    str,
    _matching(ENV_NAME, "an environment variable's name"),
    _written(ENV_NAME, "a variable's name"),
]
# What is no name may be a value, and is not said.
SecretName = Annotated[
    EnvName,
    BeforeValidator(
        lambda v: (
            v
            if not isinstance(v, str) or ENV_NAME.match(v)
            else _refuse("takes the name of a variable alone; its value does not belong in a file")
        )
    ),
]
EnvValue = Annotated[
    str,
    BeforeValidator(_env_value),
    AfterValidator(lambda v: v if "\0" not in v else _refuse("an environment value holds no NUL")),
]
Env = Annotated[dict[EnvName, EnvValue], Field(max_length=MOST_ENTRIES)]
CheckName = Annotated[
    str,
    _matching(CHECK, "the id of a check, such as net.ping, nor a group of them, such as net"),
    _written(CHECK, "a check or a group of checks"),
]
CheckLevel = Literal["off", "info", "warn", "fail"]
CheckLevels = Annotated[dict[CheckName, CheckLevel], Field(max_length=MOST_ENTRIES)]
Argument = Annotated[
    str, AfterValidator(lambda v: v if "\0" not in v else _refuse("an argument holds no NUL"))
]
Text = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(lambda v: v if "\0" not in v else _refuse("a path or name holds no NUL")),
]
StateDir = Annotated[
    Text, _matching(re.compile("/|~/|~\\Z"), "an absolute path on the host, nor one below ~")
]
Seconds = Annotated[
    float,
    BeforeValidator(lambda v: seconds(v) if isinstance(v, str) else v),
    Field(gt=0, allow_inf_nan=False),
    _written(DURATION, "seconds, or `30s`, `10m`, `2h`", {"type": "number", "exclusiveMinimum": 0}),
]
GpuIndex = Annotated[int, Field(ge=0, le=1023)]
GpuList = Annotated[
    tuple[GpuIndex, ...],
    Field(min_length=1, max_length=MOST_ENTRIES, strict=False),
    AfterValidator(_once_each),
]
NodeCount = Annotated[
    str,
    BeforeValidator(_node_count),
    AfterValidator(_node_range),
    _written(NODES, "a number, or `min:max`", {"type": "integer", "minimum": 1, "maximum": 9999}),
]
Commands = Annotated[tuple[Argument, ...], Field(max_length=MOST_ENTRIES, strict=False)]
TorchrunArgs = Annotated[
    tuple[Annotated[Argument, AfterValidator(_no_option_of_ours)], ...],
    Field(strict=False),
    AfterValidator(_options_alone),
]
Workers = Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["gpu", "cpu", "auto"]


def _refuse(why: str) -> Any:  # noqa: ANN401  a lambda's other branch: it never returns
    raise ValueError(why)
