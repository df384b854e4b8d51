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

from orchestrator.errors import DdpOrchError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.host.protocol import Host, Request
    from orchestrator.link import Call

AT_ONCE = 128
BEAT = 5.0
# Three beats missed twice over: a laptop's Wi-Fi may be away for a while.
PATIENCE = 30.0
# Reader threads wait when the screen cannot keep up; then ssh's own windows hold the hosts' agents
# back, and the jobs, which write to files, do not notice.
QUEUE = 2000


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
    host: str
    error: DdpOrchError


Item: TypeAlias = Arrived | Finished | Lost


@dataclass(frozen=True)
class Joined:
    """A host that is connected, with the answers to its first requests under way."""

    seconds: float
    noise: str
    calls: list[Call]


class Fleet:
    def __init__(
        self,
        make_hosts: Callable[[Callable[[str, DdpOrchError], None]], Sequence[Host]],
        meanwhile: Callable[[], None] = lambda: None,
        close_last: Callable[[], None] = lambda: None,
    ) -> None:
        """`meanwhile` is what the thread that connects has to do while it waits."""
        self._meanwhile = meanwhile
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._room = threading.Semaphore(QUEUE)
        self._closed = threading.Event()
        self._close_last = close_last  # what the hosts share: gateways
        self.hosts = {host.name: host for host in make_hosts(self._lost)}
        self.joined: set[str] = set()

    def connect(self, first: Callable[[str], Sequence[Request]]) -> dict[str, Joined | HostError]:
        """Open all hosts in parallel; return what became of each, in their order."""
        # The first word stands: a host that was given up does not come back, nor end the others.
        results: dict[str, Joined | HostError] = {}
        gate = threading.Semaphore(AT_ONCE)

        def one(host: Host) -> None:
            with gate:
                began = time.monotonic()
                try:
                    calls = host.open(first(host.name))
                    joined = Joined(time.monotonic() - began, host.noise, calls)
                    if results.setdefault(host.name, joined) is joined:
                        self.joined.add(host.name)
                except HostError as error:
                    results.setdefault(host.name, error)
                except Exception as error:  # noqa: BLE001  one host must not hide the others' state
                    what = f"{type(error).__name__}: {error}"
                    failed = HostError(what, check="ssh.reach", host=host.name)
                    results.setdefault(host.name, failed)

        allow_many_files()
        # Who has joined is kept alive while the slowest, or a person who types, are waited for.
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()
        waiting = dict(self.hosts)
        # Daemons: a name server that does not answer cannot be interrupted, only left behind.
        for host in waiting.values():
            threading.Thread(
                target=one, args=(host,), name=f"connect {host.name}", daemon=True
            ).start()
        while waiting:
            for name, host in list(waiting.items()):
                due = host.overdue
                if name in results:
                    del waiting[name]
                elif due is not None and time.monotonic() > due:
                    results[name] = host.abort()  # over what its thread says as a consequence
                    self.joined.discard(name)
                    del waiting[name]
            self._meanwhile()
            time.sleep(0.02)
        return {name: results[name] for name in self.hosts}

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
        call = self.hosts[host].call(
            op, args, body, on_event=lambda event, data: self._arrived(Arrived(host, event, data))
        )

        def finished(_: object) -> None:
            error = call.future.exception()
            answer = None if error else call.future.result()
            if error is None or isinstance(error, DdpOrchError):
                self._queue.put(Finished(host, answer, error))

        call.future.add_done_callback(finished)
        return call

    def next(self, timeout: float) -> Item | None:
        try:
            item = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item, Arrived):
            self._room.release()
        return item

    def close(self) -> None:
        """Leave all hosts; return when their agents have ended."""
        self._closed.set()
        threads = [
            threading.Thread(target=host.close, name=f"close {host.name}", daemon=True)
            for host in self.hosts.values()
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 10
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._close_last()

    def _lost(self, host: str, error: DdpOrchError) -> None:
        self._queue.put(Lost(host, error))

    def _arrived(self, item: Arrived) -> None:
        # In a reader's thread: it waits for room. Once nobody takes any more, nothing may wait.
        while not self._closed.is_set():
            if self._room.acquire(timeout=0.5):
                self._queue.put(item)
                return

    def _pulse(self) -> None:
        while not self._closed.wait(BEAT):
            for name in tuple(self.joined):
                self.hosts[name].pulse(PATIENCE)


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

    Once `stop` says so, nobody is waited for any more.
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
