"""Which lines of a run's logs are wanted, and what each of them is. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from orchestrator.errors import UsageError
from orchestrator.events import Logged, Stream
from orchestrator.logfiles import LogFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

STREAMS: tuple[Stream, ...] = get_args(Stream)
# A longer line is told in parts of about this size, each with its own offset.
LONGEST = 1 << 20
_AGO = re.compile(r"([0-9]{1,7})([smhd])\Z")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")
# Names are matched, not believed: a host must not choose what is shown, or written here, as whose.
_THERE = re.compile(
    r"(?:worker-logs/(?P<round>[0-9]{1,4})/r(?P<rank>[0-9]{1,5})"
    r"|setup/(?P<setup>[0-9]{1,4})/setup|torchrun)\.(?P<stream>out|err)\Z"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line asks for; as it is, everything but torchrun's own words."""

    hosts: tuple[str, ...] | None = None
    ranks: tuple[int, ...] | None = None
    streams: tuple[Stream, ...] = STREAMS
    own: bool = False
    """torchrun's own output, too."""

    tail: int | None = None
    since: float | None = None
    """How many seconds ago it begins."""

    grep: str | None = None
    on: bool = False
    """Go on until the run ends."""

    def as_args(self) -> dict[str, Any]:
        """Put it as the agents' logs.read takes it."""
        return {
            "ranks": self.ranks,
            "ends": self.streams,
            "own": self.own,
            "tail": self.tail,
            "since": self.since,
            "grep": self.grep,
            "on": self.on,
        }


# ---- what the command line says ----


def streams_of(text: str | None) -> tuple[Stream, ...]:
    found = tuple(stream for stream in STREAMS if text in (None, stream))
    if not found:
        raise UsageError(f"--stream {text}: there is out and err")
    return found


def ranks_of(values: Iterable[str]) -> tuple[int, ...] | None:
    """Read --rank 0 --rank 2,4-7; None where nothing is said."""
    found: set[int] = set()
    for word in (word for value in values for word in value.split(",")):
        span = _SPAN.match(word.strip())
        if not span or int(span[2] or span[1]) < int(span[1]):
            raise UsageError(f"--rank {word}: it takes numbers, such as 0 or 0,2-5")
        found.update(range(int(span[1]), int(span[2] or span[1]) + 1))
    return tuple(sorted(found)) or None


def seconds_ago(text: str, now: datetime) -> float:
    """Read 90s, 5m, 2h, 1d, or a time of the last day by this machine's clock."""
    if ago := _AGO.match(text):
        return float(ago[1]) * _SECONDS[ago[2]]
    if clock := _CLOCK.match(text):
        hour, minute, second = (int(part or 0) for part in clock.groups())
        then = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
        return (now - then).total_seconds() % 86_400
    raise UsageError(f"--since {text}: it takes 90s, 5m, 2h or 1d, or a time of day such as 14:30")


def expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        hint = "it takes a Python regular expression, where . * + ? ( ) [ ] need a \\ before them"
        raise UsageError(f"--grep {text}: {error}", hint=hint) from None


def only(wanted: Sequence[Any], there: Sequence[Any], what: str, whose: str) -> None:
    """Refuse a rank or a host that is not there."""
    missing = [str(each) for each in wanted if each not in there]
    if missing:
        known = spans(there) if what == "rank" else ", ".join(there)
        raise UsageError(
            f"{whose} has no {what} {', '.join(missing)}", hint=f"there are: {known or 'none'}"
        )


def spans(numbers: Iterable[int]) -> str:
    """Write 0,1,2,5 as 0-2, 5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


# ---- whose lines they are ----


def file_called(name: object, node: int) -> LogFile | None:
    """Read a file's name as its host has it; None where it is no stream's."""
    found = _THERE.match(name) if isinstance(name, str) else None
    if found is None:
        return None
    return LogFile(
        node=node,
        rank=None if found["rank"] is None else int(found["rank"]),
        setup=None if found["setup"] is None else int(found["setup"]),
        round=int(found["round"] or 0),
        stream="err" if found["stream"] == "err" else "out",
    )


def name_there(file: LogFile) -> str:
    """Name a file as its host does, from the node's folder on."""
    return file.there if file.setup is None else f"setup/{file.setup}/{file.there}"


def selects(wanted: Wanted, file: LogFile) -> bool:
    if file.stream not in wanted.streams:
        return False
    if wanted.ranks is not None:
        return file.rank in wanted.ranks
    return wanted.own or file.rank is not None or file.setup is not None


def in_order(files: Iterable[LogFile]) -> list[list[LogFile]]:
    """Return the streams in the order of nodes and ranks, each as its files, round by round."""
    streams: dict[tuple[int, int, int, int], list[LogFile]] = {}
    for file in files:
        kind = 0 if file.setup is not None else 1 if file.rank is None else 2
        number = file.setup or file.rank or 0
        key = (file.node, kind, number, STREAMS.index(file.stream))
        streams.setdefault(key, []).append(file)
    return [sorted(streams[key], key=lambda file: file.round) for key in sorted(streams)]


def parts(file: LogFile, host: str, event: dict[str, Any], body: bytes) -> Iterator[Logged]:
    """Return what a Reader emits: bytes in a row, or lines from here and there."""
    at = event.get("at")
    for offset, data in zip(at or [event["offset"]], apart(body) if at else [body], strict=True):
        if type(offset) is not int:
            raise TypeError(offset)
        yield Logged(
            node=file.node,
            host=host,
            rank=file.rank,
            stream=file.stream,
            round=file.round,
            offset=offset,
            data=data,
            setup=file.setup,
        )


def apart(data: bytes) -> list[bytes]:
    """Return the lines, each with its newline; the last one may have none."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


class Cutter:
    """Cuts what arrives into whole lines, each with its newline; many streams at once."""

    def __init__(self) -> None:
        self._rest: dict[Logged, tuple[int, bytes]] = {}

    def feed(self, event: Logged) -> Iterator[Logged]:
        stream = replace(event, offset=0, data=b"")
        at, rest = self._rest.pop(stream, (event.offset, b""))
        if at + len(rest) != event.offset:  # lines were left out between the two
            yield replace(stream, offset=at, data=rest)
            at, rest = event.offset, b""
        *whole, rest = (rest + event.data).split(b"\n")
        for line in whole:
            yield replace(stream, offset=at, data=line + b"\n")
            at += len(line) + 1
        if len(rest) > LONGEST:
            yield replace(stream, offset=at, data=rest)
        elif rest:
            self._rest[stream] = at, rest

    def close(self) -> Iterator[Logged]:
        """Return the last lines, which have no newline."""
        rest, self._rest = self._rest, {}
        for stream, (at, data) in rest.items():
            yield replace(stream, offset=at, data=data)


def as_object(run: str, event: Logged) -> dict[str, Any]:
    """Put one line as `-o json` has it; keys are only ever added."""
    line = event.data.removesuffix(b"\n").removesuffix(b"\r")
    return {
        "run": run,
        "host": event.host,
        "node": event.node,
        "rank": event.rank,
        "stream": event.stream,
        "round": event.round,
        "line": line.decode("utf-8", "backslashreplace"),
        "offset": event.offset,
        "setup": event.setup,
    }
