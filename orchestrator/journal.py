"""What a host's run folder tells, as events: the journal, and which file is whose. Pure."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from orchestrator import errors
from orchestrator.events import (
    Event,
    Launched,
    Listening,
    Logged,
    NodeEnded,
    SetupEnded,
    Stopping,
    Warned,
    Worker,
    WorkerEnded,
    WorkersUp,
)
from orchestrator.survivors import survivor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.events import SetupBegan

# Names are matched, not believed: a host must not choose what files are written here.
_WORKER = re.compile(r"worker-logs/([0-9]{1,4})/r([0-9]{1,5})\.(out|err)\Z")
_TORCHRUN = re.compile(r"torchrun\.(out|err)\Z")
_SETUP = re.compile(r"setup\.(out|err)\Z")
JOURNAL = "journal.jsonl"
# How a request to follow may end with the run's end not told.
UNTOLD = {
    "lost": "its supervisor was killed, and how it ended is not known",
    "rebooted": "the host was restarted",
    "elsewhere": "its record is another host's",
    "absent": "its folder is not there any more",
    "unreadable": "its record cannot be read",
}


class NodeFiles:
    """The files of one node, or of one setup command there, as their bytes arrive."""

    def __init__(
        self,
        node: int,
        host: str,
        our_time: Callable[[float], float],
        setup: SetupBegan | None = None,
        cursors: Mapping[str, int] | None = None,
    ) -> None:
        """`cursors`: how much of each file is known already; of the journal always nothing."""
        self.cursors = dict(cursors or {})
        self._setup = setup
        self._node = node
        self._host = host
        self._our_time = our_time
        self._rest = b""
        self._complained = False
        self._gaps: set[str] = set()

    @property
    def whole(self) -> bool:
        """Whether no byte of them is missing so far."""
        return not self._gaps

    def feed(self, name: str, offset: int, data: bytes) -> Sequence[Event]:
        # What is asked for again after a lost connection may come twice, in part.
        known = self.cursors.get(name, 0)
        if offset > known:
            # What follows would not stand where it belongs: nothing more of it is taken.
            told, self._gaps = name in self._gaps, self._gaps | {name}
            return [] if told else [self._nonsense(f"{offset - known} bytes of {name} are missing")]
        data = data[known - offset :]
        if not data:
            return []
        offset = known
        self.cursors[name] = offset + len(data)
        if name == JOURNAL:
            *lines, self._rest = (self._rest + data).split(b"\n")
            return [event for line in lines if (event := self._told(line))]
        if self._setup:
            found = _SETUP.match(name)
            return [self._logged(None, found[1], 0, offset, data)] if found else []
        if found := _WORKER.match(name):
            return [self._logged(int(found[2]), found[3], int(found[1]), offset, data)]
        if found := _TORCHRUN.match(name):
            return [self._logged(None, found[1], 0, offset, data)]
        return []

    def _told(self, line: bytes) -> Event | None:
        """Read one line. One that makes no sense is passed over, and said once: the run goes on."""
        try:
            return self._event(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if self._complained:
                return None
            self._complained = True
            start = line[:80].decode("utf-8", "replace")
            return self._nonsense(f"its journal has a line that is none: {start}")

    def _nonsense(self, what: str) -> Warned:
        return Warned(message=f"{self._host}: {what}")

    def _logged(self, rank: int | None, stream: str, turn: int, offset: int, data: bytes) -> Logged:
        return Logged(
            node=self._node,
            host=self._host,
            rank=rank,
            stream="err" if stream == "err" else "out",
            round=turn,
            offset=offset,
            data=data,
            setup=self._setup.number if self._setup else None,
        )

    def _event(self, entry: dict[str, Any]) -> Event | None:
        time = self._our_time(_number(entry["time"]))
        where: Any = {"node": self._node, "host": self._host, "time": time}
        kind: str = entry["event"]
        if self._setup and kind != "stopping":
            return self._setup_ended(self._setup, entry, time) if kind == "ended" else None
        match kind:
            case "started":
                return Launched(**where)
            case "workers":
                workers = tuple(map(_worker, entry["workers"]))
                return WorkersUp(round=_whole(entry["round"]), workers=workers, **where)
            case "worker":
                error = entry["error"] or {}
                return WorkerEnded(
                    rank=_whole(entry["rank"]),
                    local_rank=_whole(entry["local_rank"]),
                    pid=_whole(entry["pid"]),
                    code=_maybe(entry["code"]),
                    signal=_maybe(entry["signal"]),
                    restart=_whole(entry.get("restart", 0)),
                    ours=bool(entry.get("ours")),
                    error=_text(error.get("message")),
                    traceback=_text(error.get("traceback")),
                    **where,
                )
            case "ended":
                return NodeEnded(
                    code=_maybe(entry["code"]),
                    signal=_maybe(entry["signal"]),
                    reason=str(entry["reason"]),
                    survivors=_survivors(entry),
                    **where,
                )
            case "listening":
                port, address = _whole(entry["port"]), str(entry["address"])
                return Listening(address=address, port=port, **where) if port else None
            case "alone":
                return Warned(
                    message=f"{self._host}: its supervisor does not reach the others': "
                    f"{entry['problem']}",
                    hint="with nobody attached, a failure elsewhere will not end the run there",
                )
            case "leftovers":
                return _leftovers(self._host, _whole(entry["count"]))
            case "stopping":
                return Stopping(
                    why=str(entry.get("why", "stopped")),
                    exit_code=_whole(entry.get("exit_code", errors.CANCELLED)),
                    grace=_number(entry["grace"]),
                    **where,
                )
            case _:  # of a later supervisor, or of no interest here: took-over
                return None

    def _setup_ended(self, setup: SetupBegan, entry: dict[str, Any], time: float) -> SetupEnded:
        return SetupEnded(
            node=self._node,
            host=self._host,
            number=setup.number,
            of=setup.of,
            command=setup.command,
            code=_maybe(entry["code"]),
            signal=_maybe(entry["signal"]),
            reason=str(entry["reason"]),
            survivors=_survivors(entry),
            time=time,
        )


def _leftovers(host: str, count: int) -> Warned:
    processes, were = ("1 process", "was") if count == 1 else (f"{count} processes", "were")
    return Warned(
        message=f"{host}: {processes} that workers left in the background {were} ended",
        hint="what is to finish, the script has to wait for: `wait` in a shell, "
        "`.wait()` or `.join()` in Python",
    )


def _survivors(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(survivor(row)) for row in entry["survivors"])


def _worker(row: dict[str, Any]) -> Worker:
    return Worker(
        rank=_whole(row["rank"]),
        local_rank=_whole(row["local_rank"]),
        group_rank=_whole(row["group_rank"]),
        world_size=_whole(row["world_size"]),
        pid=_whole(row["pid"]),
        restart=_whole(row.get("restart", 0)),
    )


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _maybe(value: object) -> int | None:
    return None if value is None else _whole(value)


def _number(value: object) -> float:
    number = float(_whole(value)) if type(value) is int else value
    if type(number) is not float or not math.isfinite(number):
        raise TypeError(f"{value!r} is not a number")
    return number


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def why_untold(answer: dict[str, Any] | None) -> str:
    """Say why a run that is followed no more has not told of its end."""
    state = (answer or {}).get("state", "")
    return UNTOLD.get(state, "its last word could not be written")
