"""A run on hosts that fit on a page: what they keep outlives the connections to them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import backoff
from orchestrator.conductor import Conductor
from orchestrator.emit import Emitter
from orchestrator.errors import HostError, LinkLost
from orchestrator.events import Launched, Planned
from orchestrator.fleet import Fleet
from orchestrator.plan import NodePlan, Program, RunPlan
from orchestrator.watch import Interrupts, Watch, Watched
from tests.test_fleet import FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.events import Detached, Ended, Event
    from orchestrator.link import Call

HOSTS = ("a", "b")
ENDED = {"state": "ended", "survivors": [], "verified": True}
PLANNED = Planned(
    run="r", hosts=HOSTS, workers=(1, 1), what="t.py", endpoint="10.0.0.0:29400",
    addresses=("10.0.0.0", "10.0.0.1"), max_restarts=0, time=100.0, folders=("/r/0", "/r/1"),
)  # fmt: skip


class Machine:
    """Does what a host does when all goes well, but where `instead` says otherwise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.instead: dict[str, Callable[[Call], None]] = {}
        self.on_setup: Callable[[str], None] = lambda _: self.end(0)
        self.reachable = True
        self.tries = 0
        self.folder = ""
        self.journals: dict[str, bytes] = {}
        self._connection: FakeHost | None = None
        self._follower: Call | None = None
        self._sent = 0

    def connect(self, on_lost: Any) -> FakeHost:
        made = FakeHost(self.name, on_lost)

        def opening() -> None:
            self.tries += 1
            if not self.reachable:
                raise HostError("no route", check="ssh.reach", host=self.name)
            self._connection = made

        def answer(call: Call, args: dict[str, Any], body: bytes) -> None:
            if made is self._connection:
                self._answer(call, args)
            else:
                call.future.set_exception(LinkLost("gone", check="ssh.reach", host=self.name))

        made.opening, made.answer = opening, answer
        return made

    def lose(self, *, reachable: bool = True) -> None:
        """Cut the connection: each request that is open is told, then the fleet."""
        lost = LinkLost("gone", check="ssh.reach", host=self.name)
        connection, self._connection = self._connection, None
        follower, self._follower = self._follower, None
        self.reachable = reachable
        if follower:
            follower.future.set_exception(lost)
        assert connection is not None
        connection.lose(self.name, lost)

    def _answer(self, call: Call, args: dict[str, Any]) -> None:
        self.asked.append((call.op, args))
        if call.op in self.instead:
            self.instead[call.op](call)
        elif call.op.startswith("follow."):
            self.folder, self._follower = args["folder"], call
            self._sent = args["cursors"].get("journal.jsonl", 0)
            begins = call.op == "follow.launch" and self.folder not in self.journals
            self._send()
            assert call.on_event is not None
            call.on_event({"caught_up": True}, b"")
            if begins:
                self.tell("started", pid=1)
                if args.get("output") == "setup":
                    self.on_setup(args["argv"][-1])
        elif call.op == "stopping.stop":
            call.future.set_result(ENDED)
            if b'"ended"' not in self.journals.get(self.folder, b'"ended"'):
                self.end(None, 15, "stopped")
        else:
            call.future.set_result(None)

    def tell(self, event: str, **more: Any) -> None:
        line = json.dumps({"event": event, "time": time.time(), **more}) + "\n"
        self.journals[self.folder] = self.journals.get(self.folder, b"") + line.encode()
        self._send()

    def _send(self) -> None:
        written = self.journals.get(self.folder, b"")
        follower, offset = self._follower, self._sent
        if follower is None:
            return
        assert follower.on_event is not None
        if written[offset:]:
            self._sent = len(written)
            follower.on_event({"file": "journal.jsonl", "offset": offset}, written[offset:])
        if b'"ended"' in written:
            self._follower = None
            follower.future.set_result({"offsets": {}, "state": "ended"})

    def hang_up(self, state: str) -> None:
        """End the request to follow with nothing told."""
        follower, self._follower = self._follower, None
        assert follower is not None
        follower.future.set_result({"offsets": {}, "state": state})

    def emit(self, event: dict[str, Any], body: bytes = b"") -> None:
        assert self._follower is not None
        assert self._follower.on_event is not None
        self._follower.on_event(event, body)

    def write(self, name: str, offset: int, data: bytes) -> None:
        self.emit({"file": name, "offset": offset}, data)

    def up(self) -> None:
        rank = HOSTS.index(self.name)
        worker = {"rank": rank, "local_rank": 0, "group_rank": rank, "world_size": 2, "pid": 7}
        self.tell("workers", round=0, workers=[worker])

    def fail(self, code: int) -> None:
        more = {"rank": HOSTS.index(self.name), "local_rank": 0, "pid": 7, "error": None}
        self.tell("worker", code=code, signal=None, **more)

    def end(self, code: int | None, signal: int | None = None, reason: str = "exited") -> None:
        self.tell("ended", code=code, signal=signal, reason=reason, survivors=[])

    def stops(self) -> list[dict[str, Any]]:
        return [args for op, args in self.asked if op == "stopping.stop"]

    def grace(self) -> list[float]:
        return [args["grace"] for args in self.stops()]


class Run:
    """A run of two nodes; `then` says what happens after an event, as the hosts bring it on."""

    def __init__(self) -> None:
        self.nodes = {name: Machine(name) for name in HOSTS}
        self.events: list[Event] = []
        self.then: dict[type, Callable[[Any], None]] = {}
        self.interrupts = Interrupts()
        self.fleet = Fleet(lambda name, on_lost: self.nodes[name].connect(on_lost), HOSTS)
        self.fleet.connect(lambda _: [])
        self.emit = Emitter([self._sink])

    def _sink(self, event: Event, _: object) -> None:
        self.events.append(event)
        if type(event) in self.then:
            self.then[type(event)](event)

    def conduct(self, *, detach: bool = False, **setup: tuple[str, ...]) -> Ended | Detached:
        nodes = tuple(
            NodePlan(host=h, rank=i, python="python3", folder=f"/r/{i}", workdir=None, workers=1,
                     threads=1, address=f"10.0.0.{i}", interface="eth0", setup=setup.get(h, ()))
            for i, h in enumerate(HOSTS)
        )  # fmt: skip
        plan = RunPlan(
            name="r",
            rendezvous_id="r-1",
            nodes=nodes,
            program=Program(target="t.py", ships=("t.py",)),
            port=29400,
            join_timeout=600,
            max_restarts=0,
        )
        self.emit(PLANNED)
        made = Conductor(
            self.fleet, plan, {"t.py": b"pass"}, self.emit, self.interrupts, "alice@laptop"
        )
        return made.conduct("", detach=detach)

    def watch(self) -> Watch:
        """Watch what others began."""
        self.emit(PLANNED)
        nodes = tuple(Watched(host, rank, f"/r/{rank}") for rank, host in enumerate(HOSTS))
        return Watch(self.fleet, nodes, self.emit, "bob@desk")

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def ops(self, host: str) -> list[str]:
        return [op for op, _ in self.nodes[host].asked]

    def everyone(self, what: str, *args: Any) -> None:
        for node in self.nodes.values():
            getattr(node, what)(*args)

    def once_all_launched(self, act: Callable[[], Any]) -> None:
        self.then[Launched] = lambda _: act() if len(self.of(Launched)) == len(HOSTS) else None


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(backoff, "BACKOFF", (0.01,))
    made = Run()
    yield made
    made.fleet.close()
