"""Who the hosts are and what they run: plain frozen values, each field documented beneath it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# Allow-lists, checked before anything looks a name up: a name that begins with "-" would be an
# option to ssh, and one with shell characters would run in a `Match exec` of the user's ssh config.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}\Z")
ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}\Z")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\Z")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
DESTINATION = re.compile(
    r"(?:(?P<user>.+)@)?"
    # A host with two colons or more is an IPv6 address; the first two parts hold no colon
    # themselves, so that a long line of colons costs no more than its length.
    r"(?:\[(?P<bracketed>[^\]]+)\]"
    r"|(?P<host>[^:@\[\]]+|[^:@\[\]]*:[^:@\[\]]*:[^@\[\]]*))"
    r"(?::(?P<port>[0-9]{1,9}))?\Z"
)


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.match(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def _seconds(value: object) -> object:
    """Read a duration: a number of seconds, or 30s, 10m, 2h."""
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smh]?)", value.strip())
        if not found:
            raise ValueError(f"{value!r} is not a duration such as 30s, 10m or 2h")
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
    return value


def _env_value(value: object) -> object:
    """Take a number for its text, for those who build a Job in Python; files bring text alone."""
    if isinstance(value, bool):
        raise ValueError(  # noqa: TRY004  pydantic collects ValueErrors, and lets others through
            'true and false are ambiguous here; put the value in quotes: "1", "true"'
        )
    return str(value) if isinstance(value, int | float) else value


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
UserName = Annotated[str, _matching(USER, "a user name")]
Port = Annotated[int, Field(ge=1, le=65535)]
EnvName = Annotated[str, _matching(ENV_NAME, "an environment variable's name")]
EnvValue = Annotated[
    str,
    BeforeValidator(_env_value),
    AfterValidator(lambda v: v if "\0" not in v else _refuse("an environment value holds no NUL")),
]
Env = dict[EnvName, EnvValue]
Argument = Annotated[
    str, AfterValidator(lambda v: v if "\0" not in v else _refuse("an argument holds no NUL"))
]
Text = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(lambda v: v if "\0" not in v else _refuse("a path or name holds no NUL")),
]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Workers = Annotated[int, Field(ge=1, le=1024)] | Literal["gpu", "cpu", "auto"]


def _refuse(why: str) -> Any:  # noqa: ANN401  a lambda's other branch: it never returns
    raise ValueError(why)


class Value(BaseModel):
    """What every entry shares: frozen, unknown fields refused, nothing coerced."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Host(Value):
    name: HostName
    """What the host is called; where ssh finds it, unless `ssh` says otherwise."""

    ssh: Destination | None = None
    """Where this machine reaches it: [user@]host[:port], or any name your ssh config knows."""

    user: UserName | None = None
    """The user to log in as. Default: what your ssh configuration says, else your own name."""

    port: Port | None = None
    """The port of its sshd. Default: what your ssh configuration says, else 22."""

    addr: Address | None = None
    """Where the other hosts reach it. Default: found out by preflight."""

    identity_file: Text | None = None
    """The private key to log in with. Default: those that ssh itself would try.
    A file on this machine: ~ is your home, and a relative path starts at the inventory's folder."""

    known_hosts: Text | None = None
    """The file of host keys to trust. Default: ~/.ssh/known_hosts.
    A file on this machine: ~ is your home, and a relative path starts at the inventory's folder."""

    ssh_config: Text | None = None
    """The ssh configuration to read; `none` reads none. Default: ~/.ssh/config.
    A file on this machine: ~ is your home, and a relative path starts at the inventory's folder."""

    python: Text = "python3"
    """The interpreter on the host that has torch: a name or a path; ~ is the home there."""

    workdir: Text | None = None
    """The folder on the host where workers start. Default: the run's own folder."""

    nproc_per_node: Workers | None = None
    """Workers on this host: a number, gpu, cpu or auto. Default: one per GPU, else 1."""

    env: Env = {}
    """Environment of the workers on this host, over the job's own."""

    @model_validator(mode="after")
    def _ssh_agrees(self) -> Host:
        found = DESTINATION.match(self.ssh or "")
        if not found:
            return self
        for field, given, twice in (
            ("user", self.user, found["user"]),
            ("port", self.port, found["port"] and int(found["port"])),
        ):
            if given is not None and twice is not None and given != twice:
                raise ValueError(f"ssh says {field} {twice}, but {field} says {given}")
        return self

    @property
    def destination(self) -> tuple[str | None, str, int | None]:
        """User, host name and port to hand to ssh; None where ssh's own configuration decides."""
        found = DESTINATION.match(self.ssh or "")
        if not found:
            return self.user, self.name, self.port
        port = int(found["port"]) if found["port"] else self.port
        return found["user"] or self.user, found["bracketed"] or found["host"], port


class Rendezvous(Value):
    backend: Literal["c10d"] = "c10d"
    """How the nodes find each other."""

    port: Port | Literal["auto"] = "auto"
    """The port on the first host. auto: one that preflight finds free there."""

    timeout: Seconds = 600.0
    """How long a node waits for the others: seconds, or 30s, 10m, 2h."""


class Job(Value):
    script: Text | None = None
    """A Python script. One that exists here is shipped; an absolute path that exists only on the
    hosts runs in place. Without script and module the bundled trainer runs."""

    module: Text | None = None
    """A module for `python -m`, in place of a script."""

    args: tuple[Argument, ...] = Field(default=(), strict=False)
    """The worker's arguments, passed on unchanged."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 0
    """How often torchrun may restart the workers. 0: the first that dies ends the run."""

    env: Env = {}
    """Environment of every worker."""

    @model_validator(mode="after")
    def _one_of(self) -> Job:
        if self.script is not None and self.module is not None:
            raise ValueError("give script or module, not both")
        return self


class Inventory(Value):
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, strict=False)]
    """The hosts, in rank order; the first is the head."""

    same_machine: bool = False
    """Several hosts may be one machine (labs)."""

    rendezvous: Rendezvous = Rendezvous()
    """How the nodes find each other."""

    job: Job = Job()
    """What to run, unless the command line says."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Inventory:
        twice = [n for n, count in Counter(h.name for h in self.hosts).items() if count > 1]
        if twice:
            raise ValueError(f"host names must differ; given more than once: {', '.join(twice)}")
        return self
