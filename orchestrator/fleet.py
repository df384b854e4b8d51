"""All hosts at once: connect, ask, listen. A failure stays with its host and hides no other."""

from __future__ import annotations

import contextlib
import queue
import resource
import threading
import time
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.backpressure import Room
from orchestrator.connection import Connection, Joined
from orchestrator.errors import DdpOrchError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orchestrator.host.protocol import Host, OnLost, Request
    from orchestrator.link import Call

AT_ONCE = 128
BEAT = 5.0
# Three beats missed twice over: a laptop's Wi-Fi may be away for a while.
PATIENCE = 30.0
# So many bytes may wait for a screen that cannot keep up, then reader threads do; ssh's own windows
# hold the hosts' agents back, and the jobs, which write to files, do not notice.
ROOM = 16 << 20
# What an event takes beside its body, about.
EVENT = 1 << 10
# How often it is looked whether a host is overdue, or somebody is to be asked, in seconds.
LOOK = 0.02
# How often it is looked whether a reconnect has had its time, in seconds.
WATCH = 0.1


@dataclass(frozen=True)
class Arrived:
    """An event of a request that streams."""

    host: str
    event: dict[str, Any]
    body: bytes


@dataclass(frozen=True)
class Finished:
    """A request that streams has ended, with its answer or an error."""

    host: str
    answer: Any
    error: DdpOrchError | None


@dataclass(frozen=True)
class Lost:
    """A connection has ended that had joined: told once, after the end of each open request."""

    host: str
    error: DdpOrchError


@dataclass(frozen=True)
class Rejoined:
    """A reconnect has succeeded: what comes next from the host is of its new connection."""

    host: str


@dataclass(frozen=True)
class StillAway:
    """A reconnect has failed."""

    host: str
    error: HostError


Item: TypeAlias = Arrived | Finished | Lost | Rejoined | StillAway


class Fleet:
    """Hosts by name. `reconnect` and `next` are for one thread: in `next` it sees hosts change."""

    def __init__(
        self,
        make_host: Callable[[str, OnLost], Host],
        names: Iterable[str],
        meanwhile: Callable[[], None] = lambda: None,
        close_last: Callable[[], None] = lambda: None,
    ) -> None:
        """`meanwhile` is what the thread that connects has to do while it waits."""
        self._make_host = make_host
        self._meanwhile = meanwhile
        self._queue: queue.SimpleQueue[tuple[Connection, Item]] = queue.SimpleQueue()
        self._room = Room(ROOM)
        self._gate = threading.Semaphore(AT_ONCE)
        self._closed = threading.Event()
        self._leaving = threading.Lock()
        self._closing: list[threading.Thread] = []
        self._close_last = close_last  # what the hosts share: gateways
        self._connections = {name: self._new(name) for name in names}
        self._coming: dict[str, Connection] = {}
        """Those that shall take the place of a lost one, until next() has told how that went."""

        self.hosts = {name: each.host for name, each in self._connections.items()}

    def _new(self, name: str) -> Connection:
        return Connection(
            lambda on_lost: self._make_host(name, on_lost),
            lambda connection, error: self._put(connection, Lost(name, error)),
        )

    @property
    def joined(self) -> set[str]:
        """Those that can be talked to."""
        return {name for name, each in self._connections.items() if each.alive}

    def connect(
        self,
        first: Callable[[str], Sequence[Request]],
        then: Callable[[str, Joined | HostError], None] = lambda name, got: None,
        look: Callable[[], None] = lambda: None,
    ) -> dict[str, Joined | HostError]:
        """Open all hosts in parallel; return what became of each, in their order.

        `then` is told of each at once, before the slowest is there; `look` is called now and then.
        """
        results: dict[str, Joined | HostError] = {}
        allow_many_files()
        # Who has joined is kept alive while the slowest, or a person who types, are waited for.
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()
        waiting = dict(self._connections)
        settled = threading.Event()
        for connection in waiting.values():
            connection.start(first, self._gate, settled.set)
        while waiting:
            settled.clear()  # before the look: who settles during it is seen at the next one
            for name, connection in list(waiting.items()):
                got = connection.outcome()
                if got is not None:
                    results[name] = got
                    del waiting[name]
                    then(name, got)
                if isinstance(got, Joined):
                    connection.announce()
            self._meanwhile()
            look()
            if waiting:
                settled.wait(LOOK)
        return {name: results[name] for name in self._connections}

    def reconnect(self, name: str) -> None:
        """Connect to a host anew, unless that is under way; how it went comes out of next()."""
        if name in self._coming or self._closed.is_set():
            return
        self._leave(self._connections[name])
        new = self._coming[name] = self._new(name)
        threading.Thread(
            target=self._rejoin, args=(name, new), name=f"reconnect {name}", daemon=True
        ).start()

    def _rejoin(self, name: str, new: Connection) -> None:
        new.start(lambda _: (), self._gate)
        while (got := new.outcome(WATCH)) is None:
            if self._closed.is_set():
                return
        if isinstance(got, Joined):
            self._put(new, Rejoined(name))
            new.announce()
        else:
            self._leave(new)  # it may have got as far as a connection without an agent
            self._put(new, StillAway(name, got))

    def ask(
        self,
        op: str,
        args: Mapping[str, dict[str, Any]],
        timeout: float,
        body: bytes = b"",
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Ask the named hosts at once; answers by host, a DdpOrchError where it failed."""
        calls: dict[str, Call] = {}
        answers: dict[str, Any] = {}
        for name, arguments in args.items():
            try:
                calls[name] = self.hosts[name].call(op, arguments, body)
            except DdpOrchError as error:
                answers[name] = error
        return answers | wait_for(calls, timeout, stop)

    def stream(self, host: str, op: str, args: dict[str, Any], body: bytes = b"") -> Call:
        """Ask for what streams: its events, and its end, come out of next()."""
        connection = self._connections[host]
        call = connection.host.call(
            op,
            args,
            body,
            on_event=lambda event, data: self._arrived(connection, Arrived(host, event, data)),
        )

        def finished(_: object) -> None:
            error = call.future.exception()
            answer = None if error else call.future.result()
            if error is None or isinstance(error, DdpOrchError):
                self._queue.put((connection, Finished(host, answer, error)))

        call.future.add_done_callback(finished)
        return call

    def next(self, timeout: float) -> Item | None:
        """Return what has happened; nothing of a connection once another has taken its place."""
        end = time.monotonic() + timeout
        while True:
            try:
                connection, item = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(item, Arrived):
                self._room.give_back(EVENT + len(item.body))
            if isinstance(item, Rejoined | StillAway):
                del self._coming[item.host]
            if isinstance(item, Rejoined):
                self._connections[item.host].replaced = True
                self._connections[item.host] = connection
                self.hosts[item.host] = connection.host
            if not connection.replaced:
                return item

    def close(self) -> None:
        """Leave all hosts; return when their agents have ended."""
        self._closed.set()
        for connection in (*self._connections.values(), *self._coming.values()):
            self._leave(connection)
        end = time.monotonic() + 10
        for thread in tuple(self._closing):
            thread.join(max(0.0, end - time.monotonic()))
        self._close_last()

    def _leave(self, connection: Connection) -> None:
        """Hang up in the background: a dead connection, or a ProxyCommand, may take its time."""
        host = connection.host
        with self._leaving:
            if connection.left:
                return
            connection.left = True
            thread = threading.Thread(target=host.close, name=f"close {host.name}", daemon=True)
            self._closing = [*(t for t in self._closing if t.is_alive()), thread]
            thread.start()

    def _put(self, connection: Connection, item: Item) -> None:
        if not self._closed.is_set():
            self._queue.put((connection, item))

    def _arrived(self, connection: Connection, item: Arrived) -> None:
        # In a reader's thread: it waits for room. Once nobody takes any more, nothing may wait.
        while not (self._closed.is_set() or connection.replaced):
            if self._room.take(EVENT + len(item.body), 0.5):
                self._queue.put((connection, item))
                return

    def _pulse(self) -> None:
        while not self._closed.wait(BEAT):
            # One that has come back is kept alive, also while nobody asks what there is to tell.
            for connection in (*self._connections.values(), *self._coming.values()):
                if connection.alive:
                    connection.host.pulse(PATIENCE)


def allow_many_files() -> None:
    """Raise the soft limit to the hard one: a socket per host, two log files per rank."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says "unlimited" and then takes no more than this.
    most = 10_240 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def wait_for(
    calls: Mapping[str, Call], timeout: float, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Collect answers by host; whoever fails or is late gets a DdpOrchError for an answer.

    Once `stop`, asked again and again meanwhile, says so, nobody is waited for any more.
    """
    end = time.monotonic() + timeout
    futures = [call.future for call in calls.values()]
    while time.monotonic() < end and not stop() and wait(futures, 0.1).not_done:
        pass
    if stop():
        end = time.monotonic()
    answers: dict[str, Any] = {}
    for name, call in calls.items():
        try:
            answers[name] = call.result(max(0.0, end - time.monotonic()))
        except DdpOrchError as error:
            answers[name] = error
    return answers
