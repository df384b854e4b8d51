"""The far end of a link: reads requests on stdin, runs each in a thread, answers on stdout.

A request is {"id", "op": "module.function", "args"} and a body. Its function is called with a Call
and the args; what it returns is the answer, what it emits on the way are events of the same id.
The agent owns no job: it may die at any moment, and dies with its channel or when the controller
has been silent for PATIENCE seconds.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
import time
import types

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn, Sequence

PATIENCE = 30.0
PACKAGE = __name__.rpartition(".")[0]


class Call:
    """One request in progress, as its function sees it."""

    def __init__(self, agent: Agent, number: int, body: bytes) -> None:
        self._agent = agent
        self._number = number
        self.body = body
        self.cancelled = threading.Event()

    def emit(self, event: dict[str, Any], body: bytes = b"") -> None:
        self._agent.send({"id": self._number, "event": event}, body)

    def at_end(self, clean_up: Callable[[], None]) -> None:
        """Call clean_up when the agent ends, however it ends short of SIGKILL."""
        self._agent.endings.append(clean_up)


class Agent:
    def __init__(self, out: int) -> None:
        self.endings: list[Callable[[], None]] = []
        self._out = out
        self._calls: dict[int, Call] = {}
        self._writing = threading.Lock()
        self._heard = time.monotonic()
        self._beats: queue.SimpleQueue[int] = queue.SimpleQueue()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._write(frames.pack(head, body))

    def _write(self, frame: bytes) -> None:
        data = memoryview(frame)
        with self._writing:
            try:
                while data:
                    data = data[os.write(self._out, data) :]
            except OSError:
                self.end(0)  # nobody listens any more

    def end(self, code: int) -> NoReturn:
        # Endings may start threads' worth of killing; none may keep the others from their turn.
        for clean_up in self.endings:
            try:
                clean_up()
            except Exception as error:
                sys.stderr.write("agent: %s\n" % error)
        os._exit(code)

    def serve(self, first: Sequence[dict[str, Any]]) -> NoReturn:
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._answer_beats, daemon=True).start()
        for head in first:
            self._receive(head, b"")
        unpacker = frames.Unpacker()
        while True:
            try:
                data = os.read(0, 1 << 18)
            except OSError:  # closed by what began the shell
                data = b""
            if not data:
                self.end(frames.EXIT_NO_INPUT)
            self._heard = time.monotonic()
            for head, body in unpacker.feed(data):
                self._receive(head, body)

    def _watch(self) -> None:
        """End with a controller that vanished without closing anything, as a lost network does."""
        while time.monotonic() - self._heard < PATIENCE:
            time.sleep(1)
        self.end(0)

    def _answer_beats(self) -> None:
        """Answer apart from the reader: a full channel must not keep it from hearing."""
        while True:
            self.send({"beat": self._beats.get(), "now": time.time()})

    def _receive(self, head: dict[str, Any], body: bytes) -> None:
        op = head["op"]
        if op == "beat":
            self._beats.put(head["beat"])
        elif op == "load":
            try:
                install(head["name"], body.decode())
            except Exception as error:
                # The request that needs it fails too, and is told.
                sys.stderr.write("agent: %s: %r\n" % (head["name"], error))
        elif op == "cancel":
            call = self._calls.get(head["id"])
            if call:
                call.cancelled.set()
        elif op == "bye":
            self.end(0)
        else:
            call = self._calls[head["id"]] = Call(self, head["id"], body)
            try:
                threading.Thread(target=self._run, args=(call, head), daemon=True).start()
            except RuntimeError as error:
                # A limit of this user's, or the memory's end: that request's failure, not ours.
                del self._calls[head["id"]]
                kind = type(error).__name__
                self.send({"id": head["id"], "failed": str(error), "kind": kind, "errno": None})

    def _run(self, call: Call, head: dict[str, Any]) -> None:
        try:
            module, _, function = head["op"].partition(".")
            run = getattr(sys.modules[PACKAGE + "." + module], function)
            answer = frames.pack({"id": head["id"], "done": run(call, **head["args"])})
        except Exception as error:
            where = error.__traceback__
            while where and where.tb_next:
                where = where.tb_next
            answer = frames.pack(
                {
                    "id": head["id"],
                    "failed": words_of(error),
                    "kind": type(error).__name__,
                    "errno": getattr(error, "errno", None),
                    "where": where
                    and "%s:%d" % (where.tb_frame.f_code.co_filename, where.tb_lineno),
                }
            )
        self._calls.pop(head["id"], None)
        self._write(answer)


def words_of(error: Exception) -> str:
    """Say it as the system does, without Python's number and quotes: people read it."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return str(error) or type(error).__name__


def install(name: str, source: str) -> None:
    """Make a module of the node room importable here, as `from . import name` and to requests."""
    module = types.ModuleType(PACKAGE + "." + name)
    module.__package__ = PACKAGE
    sys.modules[module.__name__] = module
    exec(compile(source, "<%s>" % module.__name__, "exec"), module.__dict__)  # noqa: S102  this is a loader


def main(first: Sequence[dict[str, Any]]) -> NoReturn:
    # Two log files per worker and round; what is started from here wants many files as well.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # Threads are many, and each would take 8 MiB of the address space where that is limited.
    threading.stack_size(1 << 20)
    # Only frames may reach the channel's stdout; a stray print of some library goes to stderr.
    out = os.dup(1)
    os.dup2(2, 1)
    # sshd's own end of the session, or an administrator: leave as at any other end.
    agent = Agent(out)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: agent.end(0))
    marker = memoryview(frames.MARKER)
    while marker:
        marker = marker[os.write(out, marker) :]
    agent.send({"hello": frames.PROTOCOL, "pid": os.getpid(), "python": sys.version.split()[0]})
    try:
        agent.serve(first)
    except BaseException as error:
        # What came was no frame; or Ctrl-C, when somebody runs this by hand.
        sys.stderr.write("agent: %r\n" % error)
        agent.end(1)
