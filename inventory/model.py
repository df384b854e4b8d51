"""Who the hosts are and what they run: plain frozen values, each field documented beneath it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inventory.kinds import (
    DESTINATION,
    Address,
    Argument,
    CheckLevels,
    Commands,
    Destination,
    Env,
    GpuList,
    HostName,
    Misplaced,
    NodeCount,
    Port,
    Seconds,
    SecretName,
    StateDir,
    Text,
    TorchrunArgs,
    UserName,
    Workers,
)


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
    A file on this machine, relative to the inventory's folder; ~ and $VAR are filled in."""

    known_hosts: Text | None = None
    """The file of host keys to trust. Default: ~/.ssh/known_hosts.
    A file on this machine, relative to the inventory's folder; ~ and $VAR are filled in."""

    ssh_config: Text | None = None
    """The ssh configuration to read; `none` reads none. Default: ~/.ssh/config.
    A file on this machine, relative to the inventory's folder; ~ and $VAR are filled in."""

    python: Text = "python3"
    """What has torch on the host: an interpreter (a name or a path), the folder of a virtual or
    conda environment, or a conda environment's name. ~ is the home there, and a relative path
    begins at it. Workers get what activating the environment would set; nothing is sourced."""

    workdir: Text | None = None
    """The folder on the host where workers start; it must be there. ~ is the home there, and a
    relative path begins at it. Default: the run's own folder."""

    state_dir: StateDir | None = None
    """The folder on the host that holds the runs' folders. Default: ~/.ddp-orch, where ~ is the
    home there. For homes that are read-only, full or slow. What it is in must be there."""

    nproc_per_node: Workers | None = None
    """Workers on this host: a number, gpu, cpu or auto. Default: one per GPU, else 1."""

    gpus: GpuList | None = None
    """The GPUs to use, as nvidia-smi numbers them. Default: all that are visible there."""

    setup: Commands = ()
    """Commands for the host's sh, a list or one text, run in workdir before any worker starts; one
    that fails stops the start on all hosts. They see the environment that the workers will have;
    what they export themselves ends with them."""

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


class Sync(Value):
    model_config = ConfigDict(populate_by_name=True)  # Sync(from_="src") in Python

    from_: Text = Field(default=".", alias="from")
    """The folder to send, on this machine, relative to the inventory's folder; ~ and $VAR are
    filled in."""

    exclude: tuple[Text, ...] = Field(default=(), strict=False)
    """What to leave out: names and patterns, as .gitignore has them."""


class Rendezvous(Value):
    backend: Literal["c10d"] = "c10d"
    """How the nodes find each other."""

    port: Port | Literal["auto"] = "auto"
    """The port on the first host. auto: one that preflight finds free there."""

    timeout: Seconds = 600.0
    """How long a node waits for the others to come. Default: 10m."""


class Job(Value):
    script: Text | None = None
    """A Python script. One that exists here is shipped; an absolute path that exists only on the
    hosts runs in place. Without script and module the bundled trainer runs."""

    module: Text | None = None
    """A module for `python -m`, in place of a script."""

    command: Annotated[tuple[Argument, ...], Field(min_length=1, strict=False)] | None = None
    """A program on the hosts that is no Python script, in place of one, with its arguments."""

    args: tuple[Argument, ...] = Field(default=(), strict=False)
    """The worker's arguments, passed on unchanged."""

    launcher: Literal["torchrun", "accelerate", "plain"] = "torchrun"
    """What starts the workers on a host. Not there yet, and refused by `up` and `plan`: accelerate,
    and plain, which is the command itself, once per host."""

    torchrun_args: TorchrunArgs = ()
    """More options for torchrun; those that are set here already are refused."""

    nnodes: NodeCount | None = None
    """How many of the hosts take part: a number, or min:max for an elastic run. Not there yet, and
    refused by `up` and `plan`, but for the number of all hosts. Default: all."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 0
    """How often torchrun may restart the workers. 0: the first that dies ends the run."""

    lost_after: Annotated[Seconds, Field(ge=10)] = 30.0
    """How long a host may be out of the other hosts' reach before the run ends everywhere, as its
    collectives would hang: a number of seconds from 10 on. Default: 30s."""

    sync: Sync | None = None
    """A folder of this machine that is sent to the hosts before the start. Not there yet, and
    refused by `up` and `plan`. Default: none."""

    env: Env = {}
    """Environment of every worker."""

    secrets: tuple[SecretName, ...] = Field(default=(), strict=False)
    """Variables of this machine's environment that workers get as well. Their values stand in no
    command line, and are masked on the screen and in records; what a worker itself writes of them
    stays in its own log files."""

    @model_validator(mode="after")
    def _one_of(self) -> Job:
        given = [n for n in ("script", "module", "command") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(
                f"give {' or '.join(given)}, not {'both' if given[2:] == [] else 'all'}"
            )
        return self

    @model_validator(mode="after")
    def _plain_starts_a_command(self) -> Job:
        if self.launcher == "plain" and self.command is None:
            raise Misplaced("plain runs job.command, and there is none", "launcher")
        if self.launcher == "plain" and self.torchrun_args:
            raise Misplaced("launcher plain starts no torchrun", "torchrun_args")
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

    checks: CheckLevels = {}
    """How grave what a check finds may be: off, info, warn or fail, by its id or its group
    (`net.ping: off`). off: it is left out. info, warn: what is worse becomes that. fail: a warning
    becomes that. `ddp-orch check --explain all` lists them. --only and --skip-check win."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Inventory:
        twice = [n for n, count in Counter(h.name for h in self.hosts).items() if count > 1]
        if twice:
            raise ValueError(f"host names must differ; given more than once: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _enough_hosts(self) -> Inventory:
        least = int((self.job.nnodes or "1").partition(":")[0])
        if least > len(self.hosts):
            message = f"asks for {least} hosts; the inventory has {len(self.hosts)}"
            raise Misplaced(message, "job", "nnodes")
        return self

    @model_validator(mode="after")
    def _secrets_have_no_other_value(self) -> Inventory:
        if not self.job.secrets:
            return self
        envs = [("the job", self.job.env), *((host.name, host.env) for host in self.hosts)]
        owners = {name: owner for owner, env in reversed(envs) for name in env}
        for index, name in enumerate(self.job.secrets):
            if name in owners:
                message = f"{name} stands in the env of {owners[name]} as well; keep one of the two"
                raise Misplaced(message, "job", "secrets", index)
        return self
