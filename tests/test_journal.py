"""A host's run folder as events: names matched, lines cut anywhere, nonsense survived."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import (
    Launched,
    Logged,
    NodeEnded,
    SetupBegan,
    SetupEnded,
    Stopping,
    Warned,
    Worker,
    WorkerEnded,
    WorkersUp,
)
from orchestrator.journal import JOURNAL, NodeFiles, why_untold

WORKER = {"pid": 77, "rank": 2, "local_rank": 0, "group_rank": 1, "world_size": 4, "restart": 1}
LINES = {
    "started": {"event": "started", "time": 105.0, "pid": 70},
    "workers": {"event": "workers", "time": 105, "round": 1, "workers": [WORKER]},
    "worker": {
        **WORKER,
        "event": "worker",
        "time": 105.0,
        "code": None,
        "signal": 9,
        "error": {"message": "ValueError: x", "traceback": "Traceback"},
    },
    "stopping": {
        "event": "stopping",
        "time": 105.0,
        "grace": 10,
        "why": "taken down",
        "exit_code": 103,
        "by": "alice@laptop",
    },
    "leftovers": {"event": "leftovers", "time": 105.0, "count": 2, "status": 0},
    "ended": {
        "event": "ended",
        "time": 105.0,
        "code": 1,
        "signal": None,
        "reason": "exited",
        "leftovers": 0,
        "survivors": [{"pid": 9, "name": "python", "state": "D"}],
    },
}
EVENTS = {
    "started": Launched(node=1, host="b", time=100.0),
    "workers": WorkersUp(
        node=1,
        host="b",
        round=1,
        workers=(Worker(rank=2, local_rank=0, group_rank=1, world_size=4, pid=77, restart=1),),
        time=100.0,
    ),
    "worker": WorkerEnded(
        node=1,
        host="b",
        rank=2,
        local_rank=0,
        pid=77,
        code=None,
        signal=9,
        restart=1,
        error="ValueError: x",
        traceback="Traceback",
        time=100.0,
    ),
    "stopping": Stopping(node=1, host="b", why="taken down", exit_code=103, grace=10.0, time=100.0),
    "leftovers": Warned(
        message="b: 2 processes that workers left in the background were ended",
        hint="what is to finish, the script has to wait for: `wait` in a shell, "
        "`.wait()` or `.join()` in Python",
    ),
    "ended": NodeEnded(
        node=1,
        host="b",
        code=1,
        signal=None,
        reason="exited",
        survivors=("pid 9 (python, state D)",),
        time=100.0,
    ),
}


def files(cursors: dict[str, int] | None = None) -> NodeFiles:
    return NodeFiles(1, "b", lambda theirs: theirs - 5.0, None, cursors)


def line(entry: object) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def told(*entries: object, by: NodeFiles | None = None) -> list:
    node = by or files()
    return node.feed(JOURNAL, node.cursors.get(JOURNAL, 0), b"".join(map(line, entries)))


@pytest.mark.parametrize("kind", LINES)
def test_each_line_is_an_event(kind):
    assert told(LINES[kind]) == [EVENTS[kind]]


def test_of_a_setup_command_its_end_is_told_and_who_wanted_that():
    began = SetupBegan(node=1, host="b", number=1, of=2, command="x", time=0.0)
    node = NodeFiles(1, "b", lambda theirs: theirs - 5.0, began)
    lines = ("started", "stopping", "leftovers", "ended")
    stopping, end = told(*(LINES[kind] for kind in lines), by=node)
    assert stopping == EVENTS["stopping"], "or it would have failed by itself"
    assert isinstance(end, SetupEnded)


def test_of_one_that_was_left_in_the_background_it_is_told_as_of_one():
    (warned,) = told(LINES["leftovers"] | {"count": 1})
    assert warned.message == "b: 1 process that workers left in the background was ended"


def test_keys_of_a_later_supervisor_are_passed_over():
    later = LINES["workers"] | {"new": 1, "workers": [WORKER | {"new": 1}]}
    assert told(later, {"event": "teleported", "time": 1.0}) == [EVENTS["workers"]]


def test_a_worker_that_torchrun_tells_of_has_less_to_say():
    seen = {"event": "worker", "time": 1.0, "pid": 77, "rank": 2, "local_rank": 0, "error": None}
    (worker,) = told(seen | {"code": 1, "signal": None})
    assert (worker.rank, worker.restart, worker.error) == (2, 0, None)


@given(st.lists(st.integers(0, 1200), max_size=8))
def test_lines_may_be_cut_anywhere(cuts):
    data = b"".join(map(line, LINES.values()))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    node = files()
    got = [
        event
        for start, end in itertools.pairwise(edges)
        for event in node.feed(JOURNAL, start, data[start:end])
    ]
    assert got == list(EVENTS.values())


# --- nonsense -----------------------------------------------------------------------------------

NONSENSE = [
    b"\n",
    b"{\n",
    b"\xff\xfe\n",
    b"null\n",
    b"[]\n",
    b'"ended"\n',
    b"{}\n",
    b"[" * 100_000 + b"\n",
    line({"event": "started"}),
    line({"event": "started", "time": "now"}),
    line({"event": "started", "time": True}),
    b'{"event":"started","time":NaN}\n',
    b'{"event":"started","time":1e999}\n',
    line({"event": ["started"], "time": 1.0, "code": 1})[:-2] + b"\n",
    line({"event": "workers", "time": 1.0, "round": 0, "workers": 7}),
    line({"event": "workers", "time": 1.0, "round": 0, "workers": [{}]}),
    line(LINES["workers"] | {"workers": [WORKER | {"rank": "0"}]}),
    line(LINES["workers"] | {"round": None}),
    line(LINES["worker"] | {"pid": []}),
    line(LINES["worker"] | {"code": "1"}),
    line(LINES["worker"] | {"error": 7}),
    line(LINES["ended"] | {"survivors": None}),
    line(LINES["ended"] | {"signal": 1.5}),
    line(LINES["stopping"] | {"grace": "long"}),
    line(LINES["stopping"] | {"exit_code": None}),
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_a_line_that_makes_no_sense_is_passed_over_and_told_once(nonsense):
    node = files()
    (warning,) = node.feed(JOURNAL, 0, nonsense)
    assert isinstance(warning, Warned)
    assert warning.message.startswith("b: ")
    assert len(warning.message) < 200
    assert node.feed(JOURNAL, len(nonsense), nonsense) == []
    assert told(LINES["ended"], by=node) == [EVENTS["ended"]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(
    st.sampled_from(sorted(LINES)), st.dictionaries(st.sampled_from(sorted(WORKER)), json_values)
)
def test_no_value_upsets_it(kind, changes):
    assert len(told(LINES[kind] | changes)) == 1
    told({**LINES["workers"], "workers": [WORKER | changes]})


@given(st.binary(max_size=60))
def test_no_bytes_upset_it(data):
    node = files()
    node.feed(JOURNAL, 0, data + b"\n")
    assert told(LINES["ended"], by=node) == [EVENTS["ended"]]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rank", "turn", "stream"),
    [
        ("worker-logs/0/r0.out", 0, 0, "out"),
        ("worker-logs/12/r345.err", 345, 12, "err"),
        ("torchrun.out", None, 0, "out"),
        ("torchrun.err", None, 0, "err"),
    ],
)
def test_logs(name, rank, turn, stream):
    assert files({name: 40}).feed(name, 40, b"\xffx") == [
        Logged(node=1, host="b", rank=rank, stream=stream, round=turn, offset=40, data=b"\xffx")
    ]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "worker-logs/0/r0.log",
        "worker-logs/0/../r0.out",
        "../logs/0/r0.out",
        "/logs/0/r0.out",
        "/etc/torchrun.out",
        "x/torchrun.out",
        "xtorchrun.out",
        "torchrun.out\n",
        "torchrunxout",
        "worker-logs/0/r0.out\n",
        "worker-logs/0/r0.out/x",
        "worker-logs/0/r0xout",
        "worker-logs/00000/r0.out",
        "worker-logs/0/r000000.out",
        "logs//r0.out",
        "logs/-1/r0.out",
        "worker-logs/0/r-1.out",
        "worker-logs/٣/r0.out",
        "worker-logs/0/r³.out",
        "journal.jsonl\n",
        "x/journal.jsonl",
    ],
)
def test_other_names_are_nobodys(name):
    assert files().feed(name, 0, line(LINES["ended"])) == []


# --- once more, after a lost connection ---------------------------------------------------------

OUT = "worker-logs/0/r2.out"


def logged(node: NodeFiles, name: str, offset: int, data: bytes) -> list[tuple[int, bytes]]:
    return [(event.offset, event.data) for event in node.feed(name, offset, data)]


@pytest.mark.parametrize(
    ("offset", "data", "news"),
    [
        (4, b"efgh", [(4, b"efgh")]),
        (0, b"abcdefgh", [(4, b"efgh")]),
        (2, b"cdef", [(4, b"ef")]),
        (0, b"abcd", []),
        (0, b"ab", []),
    ],
)
def test_what_comes_twice_is_taken_once(offset, data, news):
    node = files({OUT: 4})
    assert logged(node, OUT, offset, data) == news
    assert node.cursors == {OUT: 4 + sum(len(data) for _, data in news)}


def test_what_is_missing_is_told_once_and_nothing_is_put_in_its_place():
    node = files({OUT: 4})
    (warning,) = node.feed(OUT, 9, b"jk")
    assert warning == Warned(message=f"b: 5 bytes of {OUT} are missing")
    assert node.feed(OUT, 11, b"l") == []
    assert node.cursors == {OUT: 4}
    assert logged(node, OUT, 4, b"efghi") == [(4, b"efghi")]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=8))
def test_a_journal_that_is_sent_again_and_again_is_read_once(pieces):
    data = b"".join(map(line, LINES.values()))
    node, got = files(), []
    for start, size in [*pieces, (0, len(data))]:
        offset = min(start, node.cursors.get(JOURNAL, 0))
        got += node.feed(JOURNAL, offset, data[offset : offset + size])
    assert got == list(EVENTS.values())


def test_each_node_has_cursors_of_its_own():
    known = {OUT: 4}
    files(known).feed(OUT, 4, b"x")
    assert known == {OUT: 4}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"state": "lost"}, "its supervisor was killed, and how it ended is not known"),
        ({"state": "rebooted"}, "the host was restarted"),
        ({"state": "ended"}, "its last word could not be written"),
        ({}, "its last word could not be written"),
        (None, "its last word could not be written"),
    ],
)
def test_an_end_that_is_not_told_has_a_reason(answer, why):
    assert why_untold(answer) == why
