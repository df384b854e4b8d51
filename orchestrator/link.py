"""One conversation with one agent: requests out, answers and events in.

A writer and a reader thread each: a host that takes no more bytes, or sends too many, holds up
nobody but itself.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator import boot
from orchestrator.errors import AgentFailed, DdpOrchError, HostError, LinkLost, RequestFailed
from orchestrator.hostclock import HostClock, Now
from orchestrator.node import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOISE_KEPT = 4096
# Asked for the silence twice, at beats, with more than this between them in seconds: we were
# stopped meanwhile (SIGSTOP, a machine that slept), and could not have heard anything.
STOPPED = 12.0


class Pipe(Protocol):
    """What carries the bytes; a paramiko Channel is one."""

    def recv(self, nbytes: int) -> bytes: ...
    def sendall(self, s: bytes) -> None: ...
    def close(self) -> None: ...


@dataclass(eq=False)
class Call:
    """A request under way."""

    link: Link
    number: int
    op: str
    on_event: Callable[[dict[str, Any], bytes], None] | None = None
    future: Future[Any] = field(default_factory=Future)

    def result(self, timeout: float) -> Any:  # noqa: ANN401  JSON: as the request's function returned it
        try:
            return self.future.result(timeout)
        except FutureTimeout:
            raise RequestFailed(
                f"no answer to {self.op} in {timeout:.0f} s", host=self.link.host
            ) from None

    def cancel(self) -> None:
        self.link.send({"op": "cancel", "id": self.number})


class Link:
    """The near end. One reader thread; writers take turns."""

    def __init__(self, host: str, on_lost: Callable[[DdpOrchError], None]) -> None:
        self.host = host
        self.noise = b""
        self._heard = self._awake_since = self._asked = time.monotonic()
        self._handing_on = False
        self.clock = HostClock()
        self._on_lost = on_lost
        self._pipe: Pipe | None = None
        self._ending: Callable[[], tuple[int | None, str]] = lambda: (None, "")
        self._why_lost: Callable[[], LinkLost | None] = lambda: None
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._loaded: set[str] = set()
        self._outbox: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        self._hello: Future[None] = Future()
        self._closing = False
        self._ended: DdpOrchError | None = None
        self._given_up: str | None = None
        self._reader: threading.Thread | None = None

    # ---- starting ----

    def command_line(self, first: Sequence[tuple[Call, dict[str, Any]]]) -> str:
        """Return what sshd shall run: the agent, with the first requests in it."""
        modules = boot.in_order(call.op.partition(".")[0] for call, _ in first)
        self._loaded.update(modules, boot.in_order(["agent"]))
        return boot.command_line([self._head(call, args) for call, args in first], modules)

    def start(
        self,
        pipe: Pipe,
        ending: Callable[[], tuple[int | None, str]],
        why_lost: Callable[[], LinkLost | None] = lambda: None,
    ) -> None:
        """Begin to read. `ending` tells, once the pipe has ended, exit code and stderr.

        `why_lost` may know better than we why it ended.
        """
        self._pipe = pipe
        self._ending = ending
        self._why_lost = why_lost
        self._reader = threading.Thread(target=self._read, name=f"link {self.host}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, name=f"to {self.host}", daemon=True).start()

    def wait_for_hello(self, timeout: float) -> None:
        try:
            self._hello.result(timeout)
        except FutureTimeout:
            said = f"; it printed: {boot.first_line(self.noise)}" if self.noise.strip() else ""
            raise AgentFailed(
                f"logged in, but the shell did not start the agent in {timeout:.0f} s{said}",
                check="ssh.agent",
                host=self.host,
                hint=f"look for {boot.STARTUP} that waits for input, sleeps, redirects its output "
                "or starts another shell; or for a forced command",
            ) from None

    # ---- talking ----

    def prepare(
        self, op: str, on_event: Callable[[dict[str, Any], bytes], None] | None = None
    ) -> Call:
        call = Call(link=self, number=next(self._numbers), op=op, on_event=on_event)
        self._calls[call.number] = call
        if self._ended is not None:
            # Nobody reads any more. Whoever takes the call out of the table, we or _end, ends it.
            ours = self._calls.pop(call.number, None)
            if ours is not None:
                ours.future.set_exception(self._ended)
        return call

    def call(
        self,
        op: str,
        args: dict[str, Any],
        body: bytes = b"",
        on_event: Callable[[dict[str, Any], bytes], None] | None = None,
    ) -> Call:
        """Send a request; its module goes ahead of it when the agent does not have it yet."""
        for module in boot.in_order([op.partition(".")[0]]):
            if module not in self._loaded:
                self._loaded.add(module)
                self.send({"op": "load", "name": module}, boot.bare(module).encode())
        call = self.prepare(op, on_event)
        self.send(self._head(call, args), body)
        return call

    @staticmethod
    def _head(call: Call, args: dict[str, Any]) -> dict[str, Any]:
        return {"id": call.number, "op": call.op, "args": args}

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Hand a message to the writer; never waits."""
        if self._pipe is None:
            raise LinkLost("not connected", check="ssh.reach", host=self.host)
        self._outbox.put((head, body))

    def _write(self) -> None:
        assert self._pipe is not None
        while message := self._outbox.get():
            try:
                frame = frames.pack(*message)
            except ValueError as error:  # too large: that request's failure, not the link's
                if call := self._calls.pop(message[0].get("id", 0), None):
                    call.future.set_exception(RequestFailed(f"{error}", host=self.host))
                continue
            try:
                self._pipe.sendall(frame)
            except Exception:  # noqa: BLE001  paramiko's are many, and what follows is the same
                # The reader sees the same end and tells whoever waits what became of it.
                self._pipe.close()
                return

    def beat(self) -> None:
        """Ask for a sign of life; the answers also measure the host's clock."""
        number = next(self._numbers)
        self.clock.asked(number, _now())
        self.send({"op": "beat", "beat": number})

    def silence(self) -> float:
        """How long nothing was heard, in seconds; while we do not listen ourselves, that is none.

        Who reads our output may have stopped it (Ctrl-S, a pager): events wait, and we with them.
        Or we were stopped as a whole: what was said meanwhile has yet to be read.
        """
        now = time.monotonic()
        if now - self._asked > STOPPED:
            self._awake_since = now
        self._asked = now
        return 0.0 if self._handing_on else now - max(self._heard, self._awake_since)

    def give_up(self, why: str) -> None:
        """Say why the link will be found ended; the caller ends it."""
        self._given_up = why

    def close(self, timeout: float = 3.0) -> None:
        """End the agent, and return when it has ended or had its time."""
        self._closing = True
        if self._pipe:
            self.send({"op": "bye"})
        self._outbox.put(None)
        if self._reader and self._reader is not threading.current_thread():
            self._reader.join(timeout)
        if self._pipe:
            self._pipe.close()

    # ---- listening ----

    def _read(self) -> None:
        assert self._pipe is not None
        unpacker = frames.Unpacker()
        early = b""
        try:
            while data := self._pipe.recv(1 << 18):
                self._heard = time.monotonic()
                if not self._hello.done():
                    # Whatever the shell's startup files print comes before the marker.
                    noise, marker, data = (early + data).partition(frames.MARKER)
                    if not marker:
                        early = noise[-(1 << 20) :]
                        self.noise = early[:NOISE_KEPT]
                        continue
                    self.noise = noise[:NOISE_KEPT]
                    self._hello.set_result(None)
                self._hand_on(unpacker.feed(data))
        except (OSError, EOFError, ValueError) as error:
            self._end(str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001  whatever a host sends, nobody waits for ever
            self._end(f"what it sends makes no sense ({type(error).__name__}: {error})")
        else:
            self._end("the connection was closed")

    def _hand_on(self, messages: list[tuple[dict[str, Any], bytes]]) -> None:
        self._handing_on = True
        try:
            for head, body in messages:
                self._dispatch(head, body)
        finally:
            self._heard = time.monotonic()
            self._handing_on = False

    def _dispatch(self, head: dict[str, Any], body: bytes) -> None:
        if "beat" in head:
            self.clock.told(head["beat"], head["now"], _now())
            return
        call = self._calls.get(head.get("id", 0))
        if call is None:
            return
        if "event" in head:
            if call.on_event:
                call.on_event(head["event"], body)
            return
        failed = None if "done" in head else RequestFailed(f"{head['failed']}", host=self.host)
        del self._calls[call.number]
        if failed is None:
            call.future.set_result(head["done"])
        else:
            call.future.set_exception(failed)

    def _end(self, how: str) -> None:
        hung_up = self._closing  # whoever hears of it below may do so now, and it is a loss yet
        how = self._given_up or how
        self._outbox.put(None)
        error: HostError
        lost = None if hung_up or self._given_up else self._why_lost()
        if lost and not self._hello.done():
            self._hello.set_exception(lost)
        if lost:
            error = lost
        elif self._hello.done():
            error = self._loss(how)
        else:
            error = boot.failure(self.host, *self._ending(), self.noise)
            self._hello.set_exception(error)
        self._ended = error
        for number in list(self._calls):
            if call := self._calls.pop(number, None):
                call.future.set_exception(error)
        if not hung_up:
            self._on_lost(error)

    def _loss(self, how: str) -> HostError:
        """Say what became of an agent that was there."""
        if not self._closing and self._ending()[0] == frames.EXIT_NO_INPUT:
            return AgentFailed(
                "the agent's input ended, though nobody hung up",
                check="ssh.agent",
                host=self.host,
                hint=f"look for {boot.STARTUP} that closes or redirects stdin",
            )
        return LinkLost(how, check="ssh.reach", host=self.host)


def _now() -> Now:
    return Now(time.time(), time.monotonic())
