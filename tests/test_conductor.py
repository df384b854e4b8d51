"""One run on hosts that fit on a page: who is asked what, and how it ends."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import conductor
from orchestrator.conductor import Conductor, Interrupts
from orchestrator.emit import Emitter
from orchestrator.errors import LinkLost, RequestFailed
from orchestrator.events import (
    Ended,
    Launched,
    LinkDown,
    NodeEnded,
    Planned,
    StopAsked,
    Warned,
    WorkersUp,
)
from orchestrator.fleet import Fleet
from orchestrator.plan import NodePlan, Program, RunPlan
from tests.test_fleet import FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.events import Event
    from orchestrator.link import Call

HOSTS = ("a", "b")


class Node(FakeHost):
    """Does what a host does when all goes well, but where `instead` says otherwise."""

    def __init__(self, name: str, on_lost: Any) -> None:
        super().__init__(name, on_lost)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.instead: dict[str, Callable[[Call], None]] = {}
        self.answer = self._answer
        self.on_setup: Callable[[str], None] = lambda _: self.end(0)
        self._follower: Call | None = None

    def _answer(self, call: Call, args: dict[str, Any], body: bytes) -> None:
        self.asked.append((call.op, args))
        if call.op in self.instead:
            self.instead[call.op](call)
        elif call.op == "follow.launch":
            self._follower = call
            self.tell("started", pid=1)
            if args.get("output") == "setup":
                self.on_setup(args["argv"][-1])
        elif call.op == "runs.stop":
            call.future.set_result(True)
            self.end(None, 15, "stopped")
        else:
            call.future.set_result(None)

    def tell(self, event: str, **more: Any) -> None:
        assert self._follower is not None
        assert self._follower.on_event is not None
        line = json.dumps({"event": event, "time": time.time(), **more}) + "\n"
        self._follower.on_event({"file": "journal.jsonl", "offset": 0}, line.encode())

    def up(self) -> None:
        rank = HOSTS.index(self.name)
        worker = {"rank": rank, "local_rank": 0, "group_rank": rank, "world_size": 2, "pid": 7}
        self.tell("workers", round=0, workers=[worker])

    def fail(self, code: int) -> None:
        more = {"rank": HOSTS.index(self.name), "local_rank": 0, "pid": 7, "error": None}
        self.tell("worker", code=code, signal=None, **more)

    def end(self, code: int | None, signal: int | None = None, reason: str = "exited") -> None:
        self.tell("ended", code=code, signal=signal, reason=reason, survivors=[])
        assert self._follower is not None
        self._follower.future.set_result({})

    def grace(self) -> list[float]:
        return [args["grace"] for op, args in self.asked if op == "runs.stop"]


class Run:
    """A run of two nodes; `then` says what happens after an event, as the hosts bring it on."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.events: list[Event] = []
        self.then: dict[type, Callable[[Any], None]] = {}
        self.interrupts = Interrupts()
        self.fleet = Fleet(self._make)
        self.fleet.connect(lambda _: [])
        self.emit = Emitter([self._sink])

    def _make(self, on_lost: Any) -> list[Any]:
        self.nodes = {name: Node(name, on_lost) for name in HOSTS}
        return list(self.nodes.values())

    def _sink(self, event: Event, _: object) -> None:
        self.events.append(event)
        if type(event) in self.then:
            self.then[type(event)](event)

    def conduct(self, **setup: tuple[str, ...]) -> Ended:
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
        self.emit(
            Planned(
                run="r",
                hosts=HOSTS,
                workers=(1, 1),
                what="t.py",
                endpoint=plan.endpoint,
                addresses=("10.0.0.0", "10.0.0.1"),
                max_restarts=0,
                time=100.0,
            )
        )
        made = Conductor(self.fleet, plan, {"t.py": b"pass"}, self.emit, self.interrupts)
        return made.conduct("")

    def ops(self, host: str) -> list[str]:
        return [op for op, _ in self.nodes[host].asked]

    def everyone(self, what: str, *args: Any) -> None:
        for node in self.nodes.values():
            getattr(node, what)(*args)


@pytest.fixture
def run():
    made = Run()
    yield made
    made.fleet.close()


def all_launched(run: Run, act: Callable[[], None]) -> Callable[[Any], None]:
    """Act once torchrun runs on both."""
    return lambda _: act() if sum(isinstance(e, Launched) for e in run.events) == 2 else None


def test_all_goes_well(run):
    run.then[Launched] = all_launched(run, lambda: (run.everyone("up"), run.everyone("end", 0)))
    ended = run.conduct()
    assert (ended.exit_code, ended.failure, ended.survivors) == (0, None, ())
    for host in HOSTS:
        *shipping, launch = run.ops(host)
        assert shipping == ["files.prepare", "files.put", "files.put", "files.put"]
        assert launch == "follow.launch"
    put = [args["path"] for op, args in run.nodes["a"].asked if op == "files.put"]
    assert put[0] == "code/t.py"
    assert sorted(path.partition("/")[0] for path in put) == ["code", "lib", "lib"]
    assert not any(isinstance(event, Warned) for event in run.events)


def test_ranks_that_nobody_saw_are_owned_up_to(run):
    """Workers may come and go between two looks."""
    run.then[Launched] = all_launched(run, lambda: run.everyone("end", 0))
    assert run.conduct().exit_code == 0
    (said,) = [event.message for event in run.events if isinstance(event, Warned)]
    assert said == "the workers of a, b came and went before their ranks were read"


def test_that_workers_failed_says_enough(run):
    run.then[Launched] = all_launched(run, lambda: run.nodes["a"].end(1))
    assert run.conduct().exit_code == 100
    assert not any(isinstance(event, Warned) for event in run.events)


def test_a_host_that_cannot_take_the_files_lets_nothing_start(run):
    run.nodes["b"].instead["files.prepare"] = lambda call: call.future.set_exception(
        RequestFailed("disk full", host="b")
    )
    ended = run.conduct()
    assert ended.exit_code == 100
    assert ended.failure is not None
    assert (ended.failure.host, ended.failure.message) == ("b", "could not be started: disk full")
    assert "follow.launch" not in run.ops("a") + run.ops("b")


def test_a_host_that_does_not_start_ends_the_others(run):
    run.nodes["b"].instead["follow.launch"] = lambda call: call.future.set_exception(
        RequestFailed("no such workdir", host="b")
    )
    ended = run.conduct()
    assert ended.exit_code == 100
    assert "no such workdir" in ended.why
    assert run.nodes["a"].grace() == [conductor.GRACE]
    assert run.nodes["b"].grace() == []


def test_the_first_worker_that_fails_ends_all(run):
    run.then[Launched] = all_launched(run, lambda: run.everyone("up"))
    run.then[WorkersUp] = lambda event: run.nodes["b"].fail(3) if event.host == "b" else None
    ended = run.conduct()
    assert (ended.exit_code, ended.why) == (100, "rank 1 on b exited with code 3")
    assert [run.nodes[host].grace() for host in HOSTS] == [[conductor.GRACE]] * 2
    assert sum(isinstance(event, StopAsked) for event in run.events) == 1


def test_a_lost_link_ends_the_others_and_says_which(run):
    lost = LinkLost("gone", check="ssh.reach", host="b")
    run.then[Launched] = all_launched(run, lambda: run.nodes["b"].lose("b", lost))
    ended = run.conduct()
    assert (ended.exit_code, ended.why) == (4, "lost the connection to b: gone")
    assert run.nodes["a"].grace() == [conductor.GRACE]
    assert run.nodes["b"].grace() == [conductor.GRACE], "its link may live"
    assert ended.unverified == ("b",)
    assert sum(isinstance(event, LinkDown) for event in run.events) == 1


def test_a_run_whose_last_word_could_not_be_written_ends(run):
    """The folder was removed, the disk is full: the agent says that it is over, and no more."""

    def over() -> None:
        run.nodes["a"].end(0)
        run.nodes["b"]._follower.future.set_result({})

    run.then[Launched] = all_launched(run, over)
    ended = run.conduct()
    assert (ended.exit_code, ended.unverified) == (100, ())
    assert "its last word could not be written" in ended.why


def test_ctrl_c_stops_with_grace_and_a_second_one_without(run):
    def stop(call: Call) -> None:
        call.future.set_result(True)
        if len(run.nodes["a"].grace()) == 2:
            run.everyone("end", None, 9, "stopped")

    for node in run.nodes.values():
        node.instead["runs.stop"] = stop if node.name == "b" else lambda c: c.future.set_result(1)
    run.then[Launched] = all_launched(run, run.interrupts._note)
    run.then[StopAsked] = lambda _: run.interrupts._note()
    ended = run.conduct()
    assert ended.exit_code == 130
    assert run.nodes["a"].grace() == [conductor.GRACE, 0.0]
    assert run.nodes["b"].grace() == [conductor.GRACE, 0.0]


def test_ctrl_c_while_files_are_sent_does_not_wait_for_a_slow_host(run):
    run.nodes["b"].instead["files.prepare"] = lambda _: run.interrupts._note()  # and no answer
    ended = run.conduct()
    assert (ended.exit_code, ended.why) == (130, "interrupted")
    assert "follow.launch" not in run.ops("a") + run.ops("b")


def test_a_node_that_never_says_its_last_word_is_given_up(run, monkeypatch):
    monkeypatch.setattr(conductor, "GRACE", 0.05)
    monkeypatch.setattr(conductor, "LAST_WORD", 0.05)
    run.nodes["b"].instead["runs.stop"] = lambda call: call.future.set_result(True)
    run.then[Launched] = all_launched(run, run.interrupts._note)
    ended = run.conduct()
    assert ended.exit_code == 130
    assert [e.host for e in run.events if isinstance(e, LinkDown)] == ["b"]
    assert [e.host for e in run.events if isinstance(e, NodeEnded)] == ["a"]


def test_ranks_that_were_not_seen_are_owned_up_to(run):
    run.then[Launched] = all_launched(run, lambda: run.everyone("end", 0))
    assert run.conduct().exit_code == 0
    (warning,) = [event for event in run.events if isinstance(event, Warned)]
    assert "a, b" in warning.message


def test_a_sink_that_breaks_is_dropped_and_the_run_goes_on(run):
    def full(event: Event, _: object) -> None:
        raise OSError(28, "No space left on device", "events.jsonl")

    run.emit = Emitter([full, run._sink])
    run.then[Launched] = all_launched(run, lambda: (run.everyone("up"), run.everyone("end", 0)))
    assert run.conduct().exit_code == 0
    warnings = [event.message for event in run.events if isinstance(event, Warned)]
    assert warnings == ["events.jsonl: No space left on device; no more is written there"]


# --- setup --------------------------------------------------------------------------------------


def launches(run: Run, host: str) -> list[tuple[str, str]]:
    """Return what was started on a host, and in which folder."""
    asked = [args for op, args in run.nodes[host].asked if op == "follow.launch"]
    return [(args["argv"][-1], args["folder"]) for args in asked]


def test_setup_comes_before_the_start_on_any_host(run):
    began = []
    run.nodes["b"].on_setup = lambda c: (began.append(launches(run, "a")), run.nodes["b"].end(0))
    run.then[Launched] = all_launched(run, lambda: (run.everyone("up"), run.everyone("end", 0)))
    assert run.conduct(a=("one",), b=("two", "three")).exit_code == 0
    assert began == [[("one", "/r/0/setup/1")]] * 2, "torchrun waits for the other host's setup"
    (_, folder), *rest = launches(run, "b")
    assert folder == "/r/1/setup/1"
    assert [where for _, where in rest] == ["/r/1/setup/2", "/r/1"]
    first = next(args for op, args in run.nodes["a"].asked if op == "follow.launch")
    assert first["argv"] == ["/bin/sh", "-c", "one"]
    assert first["cwd"] == "/r/0", "where the workers start"
    last = [args for op, args in run.nodes["a"].asked if op == "follow.launch"][-1]
    assert last["env"] == first["env"]
    assert last["cookie"] != first["cookie"]


def test_a_setup_that_fails_ends_the_others_and_nothing_starts(run):
    run.nodes["a"].on_setup = lambda _: None  # it goes on
    run.nodes["b"].on_setup = lambda _: run.nodes["b"].end(7)
    ended = run.conduct(a=("long", "never"), b=("bad", "never"))
    assert (ended.exit_code, ended.why) == (100, "setup failed on b: `bad` exited with code 7")
    assert [words for words, _ in launches(run, "a") + launches(run, "b")] == ["long", "bad"]
    stopped = [args["folder"] for op, args in run.nodes["a"].asked if op == "runs.stop"]
    assert stopped == ["/r/0/setup/1"]
    assert "runs.stop" not in run.ops("b")
    assert not any(isinstance(event, Launched) for event in run.events)


def test_a_setup_that_could_not_be_started_fails_as_well(run):
    run.nodes["b"].instead["follow.launch"] = lambda call: call.future.set_exception(
        RequestFailed("no such workdir", host="b")
    )
    ended = run.conduct(b=("x",))
    assert ended.why == "setup failed on b: `x` ended: no such workdir"


def test_ctrl_c_while_a_setup_runs(run):
    run.nodes["b"].on_setup = lambda _: run.interrupts._note()
    ended = run.conduct(b=("long",))
    assert (ended.exit_code, ended.why) == (130, "interrupted")
    assert run.nodes["b"].grace() == [conductor.GRACE]
    assert [type(e) for e in run.events if isinstance(e, NodeEnded)] == [NodeEnded] * 2
    assert not any(isinstance(event, Launched) for event in run.events)


def test_a_link_that_is_lost_while_a_setup_runs(run):
    lost = LinkLost("gone", check="ssh.reach", host="b")
    run.nodes["a"].on_setup = lambda _: None
    run.nodes["b"].on_setup = lambda _: run.nodes["b"].lose("b", lost)
    ended = run.conduct(a=("long",), b=("long",))
    assert (ended.exit_code, ended.why) == (4, "lost the connection to b: gone")
    assert run.nodes["a"].grace() == [conductor.GRACE]
    assert ended.unverified == ("b",)
    assert [event.host for event in run.events if isinstance(event, NodeEnded)] == ["a"]


def test_what_a_setup_left_and_could_not_be_ended_is_named(run):
    left = {"pid": 7, "name": "x", "state": "D"}

    def end(_: str) -> None:
        run.nodes["b"].tell("ended", code=0, signal=None, reason="exited", survivors=[left])
        run.nodes["b"]._follower.future.set_result({})

    run.nodes["b"].on_setup = end
    ended = run.conduct(b=("x",))
    assert ended.exit_code == 100
    assert ended.survivors == ("b: pid 7 (x, state D)",)


def test_after_a_stop_no_next_command_begins(run):
    """Also where the one that was stopped ends well."""
    run.nodes["a"].on_setup = lambda _: None
    run.nodes["a"].instead["runs.stop"] = lambda call: (
        call.future.set_result(True),
        run.nodes["a"].end(0),
    )
    run.nodes["b"].on_setup = lambda _: run.nodes["b"].end(7)
    assert run.conduct(a=("long", "never"), b=("bad",)).exit_code == 100
    assert [words for words, _ in launches(run, "a")] == ["long"]
