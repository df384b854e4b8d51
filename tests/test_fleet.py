"""All hosts at once, with hosts that fit on a page: what one does is no other's loss."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import fleet as fleet_module
from orchestrator.errors import DdpOrchError, HostError, LinkLost, RequestFailed
from orchestrator.fleet import QUEUE, Arrived, Finished, Fleet, Joined, Lost
from orchestrator.link import Call, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.host.protocol import Host, Request

SOON = 5.0


class FakeHost:
    """Does as it is told; its calls are answered by the test."""

    def __init__(self, name: str, on_lost: Callable[[str, DdpOrchError], None]) -> None:
        self.name = name
        self.overdue: float | None = None
        self.noise = f"hello from {name}"
        self.lose = on_lost
        self.opening: Callable[[], None] = lambda: None
        self.answer: Callable[[Call, dict[str, Any], bytes], None] = lambda *_: None
        self.closed = 0
        self.aborted = threading.Event()
        self.pulsed = threading.Event()
        self._link = Link(name, lambda _: None)

    def open(self, first: Sequence[Request]) -> list[Call]:
        self.opening()
        return [self._link.prepare(op) for op, _ in first]

    def abort(self) -> HostError:
        self.aborted.set()
        return HostError("no answer while dreaming", check="ssh.reach", host=self.name)

    def call(
        self,
        op: str,
        args: dict[str, Any],
        body: bytes = b"",
        on_event: Callable[[dict[str, Any], bytes], None] | None = None,
    ) -> Call:
        call = self._link.prepare(op, on_event)
        self.answer(call, args, body)
        return call

    def pulse(self, patience: float) -> None:
        self.pulsed.set()

    def our_time(self, theirs: float) -> float:
        return theirs

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def hosts() -> dict[str, FakeHost]:
    return {}


@pytest.fixture
def fleet(hosts):
    def make(on_lost: Callable[[str, DdpOrchError], None]) -> Sequence[Host]:
        hosts.update({name: FakeHost(name, on_lost) for name in ("c", "a", "b")})
        return list(hosts.values())

    made = Fleet(make)
    yield made
    made.close()


def told(fleet: Fleet):
    """What comes next; None would be a hang, and fails the test."""
    item = fleet.next(SOON)
    assert item is not None
    return item


# --- connecting ---------------------------------------------------------------------------------


def test_all_join_in_the_inventorys_order(fleet):
    got = fleet.connect(lambda name: [("facts.gather", {"python": name}), ("x.y", {})])
    assert list(got) == ["c", "a", "b"]
    assert fleet.joined == {"a", "b", "c"}
    for name, joined in got.items():
        assert isinstance(joined, Joined)
        assert [call.op for call in joined.calls] == ["facts.gather", "x.y"]
        assert joined.noise == f"hello from {name}"


def test_hosts_are_opened_side_by_side(fleet, hosts):
    all_there = threading.Barrier(3, timeout=SOON)
    for host in hosts.values():
        host.opening = all_there.wait
    assert len(fleet.connect(lambda _: [])) == 3


def test_one_that_fails_hides_no_other(fleet, hosts):
    error = HostError("refused", check="ssh.reach")

    def fails() -> None:
        raise error

    hosts["a"].opening = fails
    got = fleet.connect(lambda _: [])
    assert got["a"] is error
    assert fleet.joined == {"b", "c"}


def test_one_that_is_overdue_is_given_up(fleet, hosts):
    slow = hosts["a"]

    def never() -> None:
        slow.overdue = time.monotonic() - 1
        assert slow.aborted.wait(SOON)  # as a socket that is closed under a reader
        raise OSError("the socket was closed")

    slow.opening = never
    got = fleet.connect(lambda _: [])
    # Its own last words, no HostError, neither replace ours nor end the others' connecting.
    assert isinstance(got["a"], HostError)
    assert got["a"].message == "no answer while dreaming"
    assert fleet.joined == {"b", "c"}
    assert not hosts["b"].aborted.is_set()


def test_who_has_joined_is_kept_alive_while_a_person_types(monkeypatch):
    """The thread that connects asks for a passphrase; an agent that hears nothing ends."""
    monkeypatch.setattr(fleet_module, "BEAT", 0.02)
    hosts: dict[str, FakeHost] = {}
    asked, typed = threading.Event(), threading.Event()

    def make(on_lost: Callable[[str, DdpOrchError], None]) -> Sequence[Host]:
        hosts.update({name: FakeHost(name, on_lost) for name in ("open", "locked")})
        hosts["open"].opening = asked.wait
        hosts["locked"].opening = typed.wait
        return list(hosts.values())

    def person() -> None:
        if not asked.is_set():
            asked.set()
            kept_alive.append(hosts["open"].pulsed.wait(SOON))
            typed.set()

    kept_alive: list[bool] = []
    fleet = Fleet(make, meanwhile=person)
    try:
        fleet.connect(lambda _: [])
    finally:
        fleet.close()
    assert kept_alive == [True]
    assert fleet.joined == {"open", "locked"}


def test_even_a_bug_of_ours_does_not_hide_the_other_hosts(fleet, hosts):
    def bug() -> None:
        raise ZeroDivisionError("by zero")

    hosts["a"].opening = bug
    got = fleet.connect(lambda _: [])
    assert str(got["a"]) == "a: ZeroDivisionError: by zero"
    assert isinstance(got["b"], Joined)


def test_who_connects_does_something_meanwhile():
    """Hosts may wait for what only the main thread can do, such as ask a person."""
    done = threading.Event()
    host = FakeHost("a", lambda *_: None)
    host.opening = lambda: assert_soon(done)
    waiting = Fleet(lambda _: [host], meanwhile=done.set)
    assert isinstance(waiting.connect(lambda _: [])["a"], Joined)
    waiting.close()


def assert_soon(event: threading.Event) -> None:
    assert event.wait(SOON)


# --- asking -------------------------------------------------------------------------------------


def test_answers_by_host(fleet, hosts):
    for host in hosts.values():
        host.answer = lambda call, args, body: call.future.set_result([call.op, args, body])
    got = fleet.ask("x.y", {"a": {"n": 1}, "b": {"n": 2}}, SOON, b"body")
    assert got == {"a": ["x.y", {"n": 1}, b"body"], "b": ["x.y", {"n": 2}, b"body"]}


def test_one_fails_and_one_is_late(fleet, hosts):
    failed = RequestFailed("no", host="a")
    hosts["a"].answer = lambda call, *_: call.future.set_exception(failed)
    hosts["c"].answer = lambda call, *_: call.future.set_result("fine")
    got = fleet.ask("x.y", {"a": {}, "b": {}, "c": {}}, 0.05)
    assert got["a"] is failed
    assert str(got["b"]) == "b: no answer to x.y in 0 s"
    assert got["c"] == "fine"  # though it was looked at after the time was up


def test_an_answer_is_waited_for(fleet, hosts):
    later: list[threading.Timer] = []

    def answer(call: Call, *_: object) -> None:
        later.append(threading.Timer(0.05, call.future.set_result, ["in the end"]))
        later[-1].start()

    hosts["a"].answer = answer
    assert fleet.ask("x.y", {"a": {}}, SOON) == {"a": "in the end"}
    later[0].join()


# --- streams ------------------------------------------------------------------------------------


def test_a_streams_events_and_its_end(fleet, hosts):
    def answer(call: Call, args: dict, body: bytes) -> None:
        call.on_event({"n": args["n"]}, b"bytes")
        call.future.set_result("done")

    hosts["a"].answer = answer
    fleet.stream("a", "follow.follow", {"n": 7})
    assert told(fleet) == Arrived("a", {"n": 7}, b"bytes")
    assert told(fleet) == Finished("a", "done", None)
    assert fleet.next(0) is None


def test_a_stream_that_fails(fleet, hosts):
    call = fleet.stream("a", "follow.follow", {})
    error = LinkLost("gone", check="ssh.reach", host="a")
    call.future.set_exception(error)
    assert told(fleet) == Finished("a", None, error)


def test_a_lost_host_is_told_of(fleet, hosts):
    error = LinkLost("gone", check="ssh.reach", host="b")
    hosts["b"].lose("b", error)
    assert told(fleet) == Lost("b", error)


# --- closing ------------------------------------------------------------------------------------


def test_closing_closes_every_host_and_may_be_done_again(fleet, hosts):
    fleet.close()
    fleet.close()
    assert {host.closed for host in hosts.values()} == {2}


def test_a_full_queue_holds_writers_back_and_loses_nothing(fleet, hosts):
    call = fleet.stream("a", "follow.follow", {})
    count = QUEUE + 50

    def write() -> None:
        for n in range(count):
            call.on_event({"n": n}, b"")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert [told(fleet).event["n"] for _ in range(count)] == list(range(count))
    writer.join(SOON)


def test_a_full_queue_does_not_hold_the_closing_back(fleet, hosts):
    call = fleet.stream("a", "follow.follow", {})
    for n in range(QUEUE):
        call.on_event({"n": n}, b"")
    writing = threading.Event()

    def write() -> None:
        writing.set()
        call.on_event({"n": QUEUE}, b"")  # nobody takes any more

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert writing.wait(SOON)
    # As a Link does: it is closed when its reader, who writes, has ended.
    hosts["a"].close = lambda: writer.join(SOON)
    fleet.close()
    assert not writer.is_alive()


def test_what_the_hosts_share_is_closed_after_them(hosts):
    seen: list[list[int]] = []

    def make(on_lost: Callable[[str, DdpOrchError], None]) -> Sequence[Host]:
        hosts.update({name: FakeHost(name, on_lost) for name in ("a", "b")})
        return list(hosts.values())

    made = Fleet(make, close_last=lambda: seen.append([h.closed for h in hosts.values()]))
    made.close()
    assert seen == [[1, 1]]
