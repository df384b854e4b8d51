"""Logs as the hosts send them: one host after the other, or all at once until the run ends."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from orchestrator import boot
from orchestrator.backoff import Backoff
from orchestrator.errors import DdpOrchError, HostError, RequestFailed
from orchestrator.events import Logged
from orchestrator.fleet import Arrived, Finished, Lost, Rejoined, StillAway
from orchestrator.journal import UNTOLD
from orchestrator.loglines import Cutter, file_called, parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Protocol

    from orchestrator.emit import MaskedLogs
    from orchestrator.fleet import Fleet, Item
    from orchestrator.loglines import Wanted
    from orchestrator.watch import Watched

    class LogSink(Protocol):
        """Who shows the lines."""

        def begin(self, run: str, hosts: Sequence[str]) -> None: ...
        def logged(self, events: Sequence[Logged]) -> None: ...
        def ended(self) -> None: ...


class Telling:
    """Hands on what was read, masked; with `by_line` each line by itself."""

    def __init__(self, sink: LogSink, mask: MaskedLogs, *, by_line: bool) -> None:
        self._sink = sink
        self._mask = mask
        self._cutter = Cutter() if by_line else None

    def __call__(self, event: Logged) -> None:
        self._show(self._cutter.feed(event) if self._cutter else [event])

    def ended(self) -> None:
        """Tell what has no newline: nothing comes after it."""
        if self._cutter:
            self._show(self._cutter.close())
        self._sink.logged([event for event in self._mask.closed(None) if isinstance(event, Logged)])
        self._sink.ended()

    def _show(self, events: Iterator[Logged] | list[Logged]) -> None:
        masked = [shown for event in events for shown in self._mask(event)]
        self._sink.logged([event for event in masked if isinstance(event, Logged)])


class Tailing:
    """What is wanted of a run's nodes, from hosts that are connected."""

    def __init__(
        self,
        fleet: Fleet,
        nodes: Sequence[Watched],
        wanted: Wanted,
        tell: Telling,
        say: Callable[[DdpOrchError], None],
    ) -> None:
        self._fleet = fleet
        self._nodes = {node.host: node for node in nodes}
        self._wanted = wanted
        self._tell = tell
        self._say = say
        self._cursors: dict[str, dict[str, int]] = {}
        self._open: set[str] = set()
        self._last: object = None
        self.failed: dict[str, DdpOrchError] = {}

    def in_turn(self, hosts: Iterable[str], from_here: Callable[[str], None]) -> None:
        """Tell all that is there now, stream by stream; of hosts that are away what is here."""
        # The ends of all are few: they are asked for at once. Else the others' logs would pile up.
        ahead = len(self._nodes) if self._wanted.tail is not None else 1
        waiting = list(self._nodes)
        early: dict[str, list[Item]] = defaultdict(list)
        for host in hosts:
            if host not in self._nodes:
                from_here(host)
                continue
            while waiting and (host in waiting or len(waiting) > len(self._nodes) - ahead):
                self._ask(waiting.pop(0))
            while host in self._open:
                item = early[host].pop(0) if early[host] else self._fleet.next(0.5)
                if item is not None and item.host != host:
                    early[item.host].append(item)
                elif item is not None:
                    self._take(item)
            self._tell.ended()

    def to_the_end(self) -> None:
        """Tell what comes until all nodes have ended; a host that is lost is waited for."""
        for host in self._nodes:
            self._ask(host)
        again = Backoff(self._fleet)
        while self._open:
            again.turn()
            item = self._fleet.next(0.1)
            match item:
                case None:
                    pass
                case Finished(host, _, HostError() as error) | Lost(host, HostError() as error):
                    if host in self._open and again.lost(host):
                        what = f"no contact: {error.message}; it is tried again"
                        self._say(DdpOrchError(what, host=host))
                case StillAway(host):
                    again.later(host)
                case Rejoined(host):
                    again.back(host)
                    self._say(DdpOrchError("is back", host=host))
                    self._ask(host, again)
                case _:
                    self._take(item)
        self._tell.ended()

    def _ask(self, host: str, again: Backoff | None = None) -> None:
        args: dict[str, Any] = {"folder": self._nodes[host].folder, **self._wanted.as_args()}
        args["cursors"] = self._cursors.get(host)
        body = b"" if self._wanted.grep is None else sieve()
        self._open.add(host)
        try:
            self._fleet.stream(host, "logs.read", args, body)
        except HostError as error:
            if again is None or not again.lost(host):
                self._ended(host, error)

    def _take(self, item: Item) -> None:
        match item:
            case Arrived(host, event, body) if host in self._open:
                try:
                    self._arrived(host, event, body)
                except (KeyError, TypeError, ValueError):
                    what = "what it sends of its logs makes no sense"
                    self._ended(host, RequestFailed(what, host=host))
            case Finished(host, _, error) | Lost(host, error) if host in self._open:
                state = None if error else item.answer["state"]  # type: ignore[union-attr]
                if self._wanted.on and state in UNTOLD:
                    self._say(DdpOrchError(UNTOLD[state], host=host))
                self._ended(host, error)

    def _ended(self, host: str, error: DdpOrchError | None) -> None:
        self._open.discard(host)
        if error:
            self.failed[host] = error
            self._say(error)

    def _arrived(self, host: str, event: dict[str, Any], body: bytes) -> None:
        if "from" in event:
            first = host not in self._cursors  # and not once more after a lost connection
            self._cursors[host] = event["from"]
            if first and event["from"] and not event["dated"]:
                what = "there is no record of when its lines were written: all are shown"
                self._say(DdpOrchError(what, host=host))
            return
        name = event["file"]
        file = file_called(name, self._nodes[host].rank)
        if file is None:
            return
        if not self._wanted.on and (host, name) != self._last:
            self._tell.ended()
            self._last = host, name
        self._cursors[host][name] = event["next"]
        for part in parts(file, host, event, body):
            self._tell(part)


def sieve() -> bytes:
    """Return the program that looks for what is wanted, away from the agent."""
    return boot.program(["sieve"], "m.main()").encode()
