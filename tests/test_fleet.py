"""All hosts at once, with hosts that fit on a page: what one does is no other's loss."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import fleet as fleet_module
from orchestrator.connection import Joined
from orchestrator.errors import DdpOrchError, HostError, LinkLost, RequestFailed
from orchestrator.fleet import EVENT, ROOM, Arrived, Finished, Fleet, Lost, Rejoined, StillAway
from orchestrator.link import Call, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.host.protocol import Request

SOON = 5.0
QUEUE = ROOM // EVENT


class FakeHost:
    """Does as it is told; its calls are answered by the test."""

    def __init__(self, name: str, on_lost: Callable[[str, DdpOrchError], None]) -> None:
        self.name = name
        self.overdue: float | None = None
        self.noise = f"hello from {name}"
        self.address: str | None = None
        self.lose = on_lost
        self.opening: Callable[[], None] = lambda: None
        self.answer: Callable[[Call, dict[str, Any], bytes], None] = lambda *_: None
        self.closed = 0
        self.silent = 0.0
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
        if self.silent > patience:
            self.lose(self.name, LinkLost("nothing was heard", check="ssh.reach", host=self.name))

    def silence(self) -> float:
        return self.silent

    def our_time(self, theirs: float) -> float:
        return theirs

    def close(self) -> None:
        self.closed += 1


class Making:
    """Makes hosts by name, keeps the newest of each; `then` may change one before it is used."""

    def __init__(self) -> None:
        self.hosts: dict[str, FakeHost] = {}
        self.made: list[FakeHost] = []
        self.then: Callable[[FakeHost], None] = lambda _: None

    def __call__(self, name: str, on_lost: Callable[[str, DdpOrchError], None]) -> FakeHost:
        host = self.hosts[name] = FakeHost(name, on_lost)
        self.made.append(host)
        self.then(host)
        return host


@pytest.fixture
def making() -> Making:
    return Making()


@pytest.fixture
def fleet(making):
    made = Fleet(making, ("c", "a", "b"))
    yield made
    made.close()


@pytest.fixture
def hosts(making, fleet) -> dict[str, FakeHost]:
    return making.hosts


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
    asked, typed = threading.Event(), threading.Event()
    making = Making()
    fleet = Fleet(making, ("open", "locked"), meanwhile=lambda: person())
    making.hosts["open"].opening = asked.wait
    making.hosts["locked"].opening = typed.wait

    def person() -> None:
        if not asked.is_set():
            asked.set()
            kept_alive.append(making.hosts["open"].pulsed.wait(SOON))
            typed.set()

    kept_alive: list[bool] = []
    try:
        fleet.connect(lambda _: [])
        assert fleet.joined == {"open", "locked"}
    finally:
        fleet.close()
    assert kept_alive == [True]


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
    making = Making()
    waiting = Fleet(making, "a", meanwhile=done.set)
    making.hosts["a"].opening = lambda: assert_soon(done)
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
    fleet.connect(lambda _: [])
    error = gone("b")
    hosts["b"].lose("b", error)
    hosts["b"].lose("b", gone("b"))
    assert told(fleet) == Lost("b", error)
    assert fleet.next(0) is None, "once"
    assert fleet.joined == {"a", "c"}


def gone(name: str) -> LinkLost:
    return LinkLost("gone", check="ssh.reach", host=name)


# --- closing ------------------------------------------------------------------------------------


def test_closing_closes_every_host_and_may_be_done_again(fleet, hosts):
    fleet.close()
    fleet.close()
    assert {host.closed for host in hosts.values()} == {1}


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


def test_what_waits_is_held_back_by_its_size(fleet, hosts):
    """Of a large log each event has a quarter of a megabyte."""
    call = fleet.stream("a", "follow.follow", {})
    size = 1 << 18
    count = 3 * ROOM // size

    def write() -> None:
        for n in range(count):
            call.on_event({"n": n}, bytes(size))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    until(lambda: fleet._room.free < size + EVENT)
    until(lambda: fleet._queue.qsize() == ROOM // (size + EVENT))
    assert fleet._room.free < size + EVENT
    assert [told(fleet).event["n"] for _ in range(count)] == list(range(count))
    writer.join(SOON)
    assert fleet._room.free == ROOM


def test_one_that_is_larger_than_all_room_comes_alone(fleet, hosts):
    call = fleet.stream("a", "follow.follow", {})
    sizes = [10, ROOM + 1, 20, ROOM + 2, 30]
    writer = threading.Thread(
        target=lambda: [call.on_event({}, bytes(size)) for size in sizes], daemon=True
    )
    writer.start()
    assert [len(told(fleet).body) for _ in sizes] == sizes
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


def test_what_the_hosts_share_is_closed_after_them(making):
    seen: list[list[int]] = []
    close_last = lambda: seen.append([h.closed for h in making.made])  # noqa: E731
    Fleet(making, "ab", close_last=close_last).close()
    assert seen == [[1, 1]]


# --- reconnecting -------------------------------------------------------------------------------


@pytest.fixture
def connected(fleet) -> Fleet:
    fleet.connect(lambda _: [])
    return fleet


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def refuse(host: FakeHost) -> None:
    def fails() -> None:
        raise HostError("refused", check="ssh.reach", host=host.name)

    host.opening = fails


def test_a_lost_host_comes_back_with_a_new_connection(connected, making):
    first = making.hosts["a"]
    first.lose("a", gone("a"))
    assert isinstance(told(connected), Lost)
    connected.reconnect("a")
    assert told(connected) == Rejoined("a")
    second = making.hosts["a"]
    assert connected.hosts["a"] is second
    assert second is not first
    assert connected.joined == {"a", "b", "c"}
    until(lambda: first.closed)
    assert not second.closed
    second.answer = lambda call, *_: call.future.set_result("here")
    assert connected.ask("x.y", {"a": {}}, SOON) == {"a": "here"}
    connected.stream("a", "x.y", {})
    assert told(connected) == Finished("a", "here", None)
    second.lose("a", gone("a"))
    assert isinstance(told(connected), Lost), "and that one may be lost, too"


def test_one_that_cannot_be_reached_is_still_away_and_may_be_tried_again(connected, making):
    first = making.hosts["a"]
    first.lose("a", gone("a"))
    told(connected)
    making.then = refuse
    for _ in range(3):
        connected.reconnect("a")
        item = told(connected)
        assert isinstance(item, StillAway)
        assert str(item.error) == "a: refused"
        assert connected.hosts["a"] is first
    assert connected.joined == {"b", "c"}
    assert connected.next(0) is None
    making.then = lambda _: None
    connected.reconnect("a")
    assert told(connected) == Rejoined("a")
    until(lambda: [host.closed for host in making.made if host.name == "a"] == [1, 1, 1, 1, 0])


def test_one_that_never_joined_may_yet(fleet, making):
    refuse(making.hosts["b"])
    fleet.connect(lambda _: [])
    making.hosts["b"].lose("b", gone("b"))  # as a link says whose agent did not come up
    assert fleet.next(0) is None
    fleet.reconnect("b")
    assert told(fleet) == Rejoined("b")


def test_while_a_reconnect_is_under_way_another_one_does_nothing(connected, making):
    go_on = threading.Event()
    making.then = lambda host: setattr(host, "opening", go_on.wait)
    for _ in range(3):
        connected.reconnect("a")
    go_on.set()
    until(lambda: not connected._queue.empty())
    connected.reconnect("a")  # how it went has yet to be heard
    assert told(connected) == Rejoined("a")
    assert connected.next(0.1) is None
    assert len(making.made) == 4


def test_a_reconnect_that_is_overdue_is_given_up(connected, making):
    def never(host: FakeHost) -> None:
        def opening() -> None:
            host.overdue = time.monotonic() - 1
            assert host.aborted.wait(SOON)
            raise OSError("the socket was closed")

        host.opening = opening

    making.then = never
    connected.reconnect("a")
    item = told(connected)
    assert isinstance(item, StillAway)
    assert item.error.message == "no answer while dreaming"


def test_old_news_are_not_taken_for_the_new_connections(connected, making):
    first, go_on = making.hosts["a"], threading.Event()
    streaming, waiting = (connected.stream("a", "follow.follow", {}) for _ in range(2))
    making.then = lambda host: setattr(host, "opening", go_on.wait)
    connected.reconnect("a")
    streaming.on_event({"n": 1}, b"")
    assert told(connected) == Arrived("a", {"n": 1}, b""), "it has not come back yet"
    go_on.set()
    until(lambda: not connected._queue.empty())
    for _ in range(QUEUE + 10):  # more than there is room for, were it not given back
        if connected._room.free:
            streaming.on_event({"n": 2}, b"")
    streaming.future.set_result("done")
    assert told(connected) == Rejoined("a")
    waiting.future.set_exception(gone("a"))
    first.lose("a", gone("a"))
    streaming.on_event({"n": 3}, b"")
    assert connected.next(0) is None
    assert connected._room.free == ROOM
    connected.stream("a", "x.y", {}).future.set_result("new")
    assert told(connected) == Finished("a", "new", None)


def test_a_writer_that_waits_for_room_is_freed_when_its_connection_is_replaced(connected):
    streaming = connected.stream("a", "follow.follow", {})
    connected.reconnect("a")
    until(lambda: not connected._queue.empty())
    for _ in range(QUEUE):
        streaming.on_event({}, b"")
    writer = threading.Thread(target=streaming.on_event, args=({}, b""), daemon=True)
    writer.start()
    assert told(connected) == Rejoined("a")
    writer.join(SOON)
    assert not writer.is_alive()


def test_one_that_is_lost_as_soon_as_it_is_back_is_lost_after_it_is_back(connected, making):
    def brief(host: FakeHost) -> None:
        host.opening = lambda: host.lose("a", gone("a"))

    making.then = brief
    connected.reconnect("a")
    assert told(connected) == Rejoined("a")
    assert isinstance(told(connected), Lost)
    assert connected.next(0.05) is None


def test_who_reconnects_is_kept_alive_from_when_it_is_back_and_a_lost_one_is_not(
    monkeypatch, making
):
    monkeypatch.setattr(fleet_module, "BEAT", 0.02)
    fleet, go_on = Fleet(making, "ab"), threading.Event()
    try:
        fleet.connect(lambda _: [])
        first, other = making.hosts["a"], making.hosts["b"]
        first.lose("a", gone("a"))
        assert isinstance(told(fleet), Lost)
        making.then = lambda host: setattr(host, "opening", go_on.wait)
        fleet.reconnect("a")
        new = making.hosts["a"]
        first.pulsed.clear()
        for _ in range(3):
            other.pulsed.clear()
            assert other.pulsed.wait(SOON)
        assert not first.pulsed.is_set()
        assert not new.pulsed.is_set()
        go_on.set()
        assert new.pulsed.wait(SOON), "though nobody has asked what there is to tell"
        assert told(fleet) == Rejoined("a")
        new.pulsed.clear()
        assert new.pulsed.wait(SOON)
    finally:
        fleet.close()


def test_closing_while_hosts_reconnect_leaves_nothing(connected, making):
    go_on = threading.Event()

    def slow(host: FakeHost) -> None:
        def close() -> None:
            host.closed += 1
            go_on.set()

        host.opening, host.close = go_on.wait, close

    making.then = slow
    connected.reconnect("a")
    connected.reconnect("b")
    connected.close()
    assert [host.closed for host in making.made] == [1] * 5
    making.hosts["c"].lose("c", gone("c"))
    connected.reconnect("c")
    assert connected.next(0.1) is None
    assert len(making.made) == 5
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("reconnect ")])
