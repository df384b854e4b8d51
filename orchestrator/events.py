"""What happens, as values. Everything that is shown, stored or decided upon is one of these.

The encoded form (events.jsonl, `-o json`) is public: keys are only ever added.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["pass", "fail", "warn", "info", "skip", "unknown"]
Stream: TypeAlias = Literal["out", "err"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check says of one host, or of one ordered pair."""

    id: str
    status: Status
    scope: Literal["cluster", "host", "pair"] = "host"
    host: str | None = None
    peer: str | None = None
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None
    caused_by: str | None = None
    duration_ms: float | None = None
    tier: Literal["instant", "gpu", "deep"] = "instant"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker as its own environment has it."""

    rank: int
    local_rank: int
    group_rank: int
    world_size: int
    pid: int
    restart: int = 0


@dataclass(frozen=True, kw_only=True)
class Connecting:
    """What follows takes as long as the slowest host, at most its deadlines."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Connected:
    host: str
    seconds: float
    noise: str = ""


@dataclass(frozen=True, kw_only=True)
class HostFailed:
    """A host that cannot be used: by which check, why, and what to do."""

    host: str
    check: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One more part of what the checks want to know of a host is there, or will not come.

    For who watches: it is not recorded.
    """

    host: str
    part: str
    came: bool


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The preflight's result."""

    verdicts: tuple[Verdict, ...]
    hosts: tuple[str, ...]
    seconds: float = 0.0
    """From the first connection's begin to the last verdict."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    run: str
    hosts: tuple[str, ...]
    workers: tuple[int, ...]
    what: str
    endpoint: str
    addresses: tuple[str, ...]
    max_restarts: int
    time: float
    folders: tuple[str, ...] = ()
    """Where each node's part of the run is kept, on its host."""

    @property
    def world_size(self) -> int:
        return sum(self.workers)

    @property
    def is_sound(self) -> bool:
        """Whether all of it speaks of the same nodes; what was read from a file may not."""
        return (
            len(self.hosts) == len(self.workers)
            and len(self.folders) in (0, len(self.hosts))
            and min((self.max_restarts, *self.workers)) >= 0
        )


@dataclass(frozen=True, kw_only=True)
class SetupBegan:
    """One of a host's `setup:` commands runs."""

    node: int
    host: str
    number: int
    of: int
    command: str
    time: float


@dataclass(frozen=True, kw_only=True)
class SetupEnded:
    """It has ended, and all that it started with it."""

    node: int
    host: str
    number: int
    of: int
    command: str
    code: int | None
    signal: int | None
    reason: str
    survivors: tuple[str, ...]
    time: float

    @property
    def went_well(self) -> bool:
        return self.code == 0 and self.reason == "exited" and not self.survivors


@dataclass(frozen=True, kw_only=True)
class Launched:
    """torchrun runs on a node."""

    node: int
    host: str
    time: float


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The head's supervisor waits there for those of the other nodes."""

    node: int
    host: str
    address: str
    port: int
    time: float


@dataclass(frozen=True, kw_only=True)
class WorkersUp:
    """All workers of a node run; once per round."""

    node: int
    host: str
    round: int
    workers: tuple[Worker, ...]
    time: float


@dataclass(frozen=True, kw_only=True)
class WorkerEnded:
    node: int
    host: str
    rank: int
    local_rank: int
    pid: int
    code: int | None
    signal: int | None
    restart: int
    error: str | None
    traceback: str | None
    time: float
    ours: bool = False
    """It was ended with what was left after torchrun, or after the grace: no failure of its own."""

    @property
    def failed(self) -> bool:
        return bool(self.code or self.signal) and not self.ours


@dataclass(frozen=True, kw_only=True)
class Logged:
    """New bytes of one worker's stream, or (rank None) of torchrun's own or a setup command's."""

    node: int
    host: str
    rank: int | None
    stream: Stream
    round: int
    offset: int
    data: bytes
    setup: int | None = None
    """The number of the setup command that wrote them."""


@dataclass(frozen=True, kw_only=True)
class NodeEnded:
    """Nothing of the run is left on this node, or what is left is named."""

    node: int
    host: str
    code: int | None
    signal: int | None
    reason: str
    survivors: tuple[str, ...]
    time: float


@dataclass(frozen=True, kw_only=True)
class LinkDown:
    """A node's host is out of contact: no failure, its part of the run goes on without us."""

    host: str
    node: int
    message: str
    time: float


@dataclass(frozen=True, kw_only=True)
class LinkUp:
    """It is back, and what it has written meanwhile is on its way."""

    host: str
    node: int
    time: float


@dataclass(frozen=True, kw_only=True)
class GaveUp:
    """A node is waited for no more; what is left on its host is not known."""

    host: str
    node: int
    message: str
    time: float


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """A node is told to end, perhaps by another controller: why, and the run's exit code then."""

    node: int
    host: str
    why: str
    exit_code: int
    grace: float
    time: float


@dataclass(frozen=True, kw_only=True)
class Detached:
    """We leave, and the run goes on."""

    run: str
    hosts: tuple[str, ...]
    time: float


@dataclass(frozen=True, kw_only=True)
class StopAsked:
    """The run is being taken down: why, and the exit code if nothing worse is found."""

    why: str
    exit_code: int
    grace: float
    time: float


@dataclass(frozen=True, kw_only=True)
class Warned:
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The first failure of a run, for its summary."""

    host: str
    rank: int | None
    code: int | None
    signal: int | None
    message: str
    tail: tuple[str, ...]
    setup: str | None = None
    """The setup command that failed, before any worker was started."""

    hint: str | None = None
    """What to try next; INVENTORY in it is for the words that name the hosts."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The run is over."""

    run: str
    exit_code: int
    seconds: float
    hosts: tuple[str, ...]
    why: str
    failure: Failure | None
    survivors: tuple[str, ...]
    logs: str
    unverified: tuple[str, ...] = ()
    """Hosts that were lost before they could say that nothing is left there."""


Event: TypeAlias = (
    Connecting
    | Connected
    | HostFailed
    | Looked
    | Checked
    | Planned
    | SetupBegan
    | SetupEnded
    | Launched
    | Listening
    | WorkersUp
    | WorkerEnded
    | Logged
    | NodeEnded
    | LinkDown
    | LinkUp
    | GaveUp
    | Stopping
    | StopAsked
    | Detached
    | Warned
    | Ended
)


def brief(command: str) -> str:
    """Return a shell command as one line of a sentence."""
    one = " ".join(command.split())
    return f"`{one}`" if len(one) <= 100 else f"`{one[:96]} ...`"


_NAMES: dict[str, type[Any]] = {cls.__name__: cls for cls in typing.get_args(Event)}


def encode(event: Event) -> str:
    """One line of JSON; bytes become text as a terminal would show them."""
    head = {"event": type(event).__name__}
    return json.dumps(
        head | dataclasses.asdict(event), default=_encode_bytes, separators=(",", ":")
    )


def _encode_bytes(value: object) -> str:
    assert isinstance(value, bytes)
    return value.decode("utf-8", "backslashreplace")


def parse(line: str) -> Event | None:
    """Read what encode wrote. None: an event of a later version; unknown keys are passed over."""
    fields = json.loads(line)
    cls = _NAMES.get(fields.pop("event", ""))
    return None if cls is None else typing.cast("Event", _build(cls, fields))


def _build(wanted: Any, value: Any) -> Any:  # noqa: ANN401  it rebuilds whatever the annotations say
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        types_of = typing.get_type_hints(wanted)
        known = {f.name for f in dataclasses.fields(wanted)}
        built = {k: _build(types_of[k], v) for k, v in value.items() if k in known}
        return wanted(**built)  # type: ignore[operator]
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(args[0], item) for item in value)
    if origin in (typing.Union, types.UnionType) and value is not None:
        return _build(next(a for a in args if a is not type(None)), value)
    if wanted is bytes:
        return value.encode()
    if not _fits(wanted, origin, value):
        raise TypeError(f"{value!r} is no {wanted}")
    return value


def _fits(wanted: Any, origin: Any, value: object) -> bool:  # noqa: ANN401  as in _build
    """Say whether a value is what the annotation says: a file may be broken, and a host may lie."""
    if wanted is float:
        return type(value) in (int, float) and math.isfinite(typing.cast("float", value))
    if wanted in (str, int, bool):
        return type(value) is wanted
    return not dataclasses.is_dataclass(wanted) and origin is not tuple
