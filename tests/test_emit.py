"""Who is told what: sinks and state the masked form, the keeper alone the bytes as they came."""

from __future__ import annotations

import errno

import pytest

from orchestrator.emit import Emitter
from orchestrator.events import Ended, Event, Logged, NodeEnded, Planned, Warned, WorkerEnded
from orchestrator.masking import Mask, Secret
from orchestrator.state import summary

S = "s3cr3t-value"
MASK = Mask([Secret(S)])
PLANNED = Planned(
    run="r", hosts=("a", "b"), workers=(1, 1), what="t.py", endpoint="a:1",
    addresses=("a", "b"), max_restarts=0, time=1.0,
)  # fmt: skip


def logged(data: str, *, node: int = 0, stream: str = "out", offset: int = 0) -> Logged:
    return Logged(
        node=node, host="ab"[node], rank=node, stream=stream, round=0, offset=offset,
        data=data.encode(),
    )  # fmt: skip


def node_ended(node: int) -> NodeEnded:
    return NodeEnded(
        node=node, host="ab"[node], code=1, signal=None, reason="exited", survivors=(), time=3.0
    )


class Told:
    def __init__(self, mask: Mask = MASK) -> None:
        self.events: list[Event] = []
        self.kept: list[Logged] = []
        self.emit = Emitter([lambda event, _: self.events.append(event)], mask, self.kept.append)

    def logs(self) -> str:
        return "".join(e.data.decode() for e in self.events if isinstance(e, Logged))


def test_the_keeper_alone_gets_the_bytes_as_they_came():
    told = Told()
    told.emit(logged(f"is {S}\n"))
    assert told.kept == [logged(f"is {S}\n")]
    assert told.events == [logged("is ********\n")]


def test_streams_are_apart_and_offsets_are_those_of_the_raw_bytes():
    told = Told()
    told.emit(logged("x " + S[:5]))
    told.emit(logged(S[5:], stream="err"))
    told.emit(logged(S[5:], node=1))
    told.emit(logged(S[5:] + " y\n", offset=7))
    assert told.events == [
        logged("x "), logged(S[5:], stream="err"), logged(S[5:], node=1),
        logged("******** y\n", offset=2),
    ]  # fmt: skip


def test_what_was_held_back_comes_before_the_nodes_end():
    told = Told()
    told.emit(PLANNED)
    told.emit(logged("a s3c"))
    told.emit(logged("b s3c", node=1))
    told.emit(node_ended(0))
    assert told.logs() == "a b s3c"[:4] + "s3c"
    assert isinstance(told.events[-1], NodeEnded)
    ended = Ended(
        run="r", exit_code=0, seconds=1.0, hosts=(), why="", failure=None, survivors=(), logs=""
    )
    told.emit(ended)
    assert told.logs().endswith("s3c")
    assert told.events[-1] == ended


def test_the_summary_is_made_of_what_is_masked():
    told = Told()
    told.emit(PLANNED)
    told.emit(logged(f"Traceback\nValueError: {S}\n", stream="err"))
    told.emit(
        WorkerEnded(
            node=0, host="a", rank=0, local_rank=0, pid=1, code=1, signal=None, restart=0,
            error=f"ValueError: {S}", traceback=S, time=2.0,
        )
    )  # fmt: skip
    for node in (0, 1):
        told.emit(node_ended(node))
    made = summary(told.emit.state, 4.0, "")
    assert made.failure is not None
    assert made.failure.message == "ValueError: ********"
    assert made.failure.tail == ("Traceback", "ValueError: ********")
    assert S not in repr(told.events)
    assert S not in repr(told.emit.state)


def test_without_secrets_events_pass_as_they_are():
    told = Told(Mask())
    event = logged("s3c")
    told.emit(event)
    assert told.events[0] is event


@pytest.mark.parametrize(("number", "unread"), [(errno.EPIPE, True), (errno.ENOSPC, False)])
def test_a_reader_that_has_gone_is_no_full_disk(number: int, unread: bool):
    def broken(*_: object) -> None:
        raise OSError(number, "told no more")

    emit = Emitter([broken])
    assert not emit.unread
    emit(logged("x"))
    assert emit.unread == unread


def test_a_keeper_that_breaks_is_dropped_and_the_run_goes_on():
    def full(_: Logged) -> None:
        raise OSError(28, "No space left on device", "rank0.out")

    events: list[Event] = []
    emit = Emitter([lambda event, _: events.append(event)], None, full)
    emit(logged("x"))
    emit(logged("y"))
    assert [e.message for e in events if isinstance(e, Warned)] == [
        "rank0.out: No space left on device; no more is written there"
    ]
    assert [e.data for e in events if isinstance(e, Logged)] == [b"x", b"y"]
