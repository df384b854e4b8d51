"""What `logs` is asked for, whose file is whose, and the line of JSON that is frozen here."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.events import Logged
from orchestrator.logfiles import LogFile
from orchestrator.loglines import (
    Cutter,
    Wanted,
    as_object,
    expression,
    file_called,
    in_order,
    name_there,
    only,
    parts,
    ranks_of,
    seconds_ago,
    selects,
    spans,
    streams_of,
)
from orchestrator.screen import JsonLog

NOON = datetime.datetime(2026, 11, 20, 12, 0, 0, tzinfo=datetime.timezone.utc)


def logged(data=b"", offset=0, **more):
    known = {"node": 1, "host": "gpu2", "rank": 3, "stream": "out", "round": 0}
    return Logged(**(known | more), offset=offset, data=data)


@pytest.mark.parametrize(
    ("values", "ranks"),
    [([], None), (["0"], (0,)), (["3,0", "5-7"], (0, 3, 5, 6, 7)), ([" 1 , 2"], (1, 2))],
)
def test_ranks(values, ranks):
    assert ranks_of(values) == ranks


@pytest.mark.parametrize("value", ["", "x", "-1", "1-", "3-1", "1,,2", "1000000"])
def test_what_is_no_rank(value):
    with pytest.raises(UsageError, match="--rank"):
        ranks_of([value])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400), ("0s", 0),
        ("11:59", 60), ("11:59:30", 30), ("12:01", 86340), ("9:00", 10800), ("12:00", 0),
    ],
)  # fmt: skip
def test_since(text, seconds):
    assert seconds_ago(text, NOON) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5w", "-5m", "25:00", "12:60", "yesterday", "1.5h"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="--since"):
        seconds_ago(text, NOON)


def test_streams():
    assert streams_of(None) == ("out", "err")
    assert streams_of("err") == ("err",)
    with pytest.raises(UsageError, match="there is out and err"):
        streams_of("stdout")


@pytest.mark.parametrize("text", ["(", "*", "a{99999999999999999999}", "[z-a]"])
def test_what_is_no_expression(text):
    with pytest.raises(UsageError, match="--grep") as raised:
        expression(text)
    assert "\n" not in str(raised.value)


def test_who_is_not_there_is_named_with_those_who_are():
    only([0, 2], [0, 1, 2], "rank", "run r")
    with pytest.raises(UsageError, match="run r has no rank 7, 9") as raised:
        only([0, 7, 9], [0, 1, 2, 5], "rank", "run r")
    assert raised.value.hint == "there are: 0-2, 5"
    with pytest.raises(UsageError, match="run r has no host x") as raised:
        only(["x"], ["a", "b"], "host", "run r")
    assert raised.value.hint == "there are: a, b"


@given(st.sets(st.integers(0, 50)))
def test_spans_say_all_of_them_in_order(numbers):
    text = spans(numbers)
    written = [tuple(map(int, part.split("-"))) for part in text.split(", ") if part]
    assert {n for span in written for n in range(span[0], span[-1] + 1)} == numbers
    assert text == spans(sorted(numbers))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("worker-logs/2/r13.err", LogFile(node=1, rank=13, round=2, stream="err")),
        ("torchrun.out", LogFile(node=1)),
        ("setup/3/setup.err", LogFile(node=1, setup=3, stream="err")),
    ],
)
def test_the_names_that_hosts_have(name, file):
    assert file_called(name, 1) == file
    assert name_there(file) == name


@pytest.mark.parametrize(
    "name",
    [
        "../../.ssh/authorized_keys", "worker-logs/0/r0.out/../../x", "worker-logs/0/r0.out\n",
        "/torchrun.out", "torchrun.log", "worker-logs/x/r0.out", "journal.jsonl", "", None, 3,
        "worker-logs/0/r٣.out",
    ],
)  # fmt: skip
def test_other_names_are_nobodys(name):
    assert file_called(name, 0) is None


def test_torchruns_own_words_are_for_who_asks():
    torchrun, setup = LogFile(node=0), LogFile(node=0, setup=1)
    worker = LogFile(node=0, rank=2, stream="err")
    assert [selects(Wanted(), f) for f in (torchrun, setup, worker)] == [False, True, True]
    assert selects(Wanted(own=True), torchrun)
    assert [selects(Wanted(ranks=(2,), own=True), f) for f in (torchrun, setup, worker)] == [
        False, False, True,
    ]  # fmt: skip
    assert not selects(Wanted(streams=("out",)), worker)


def test_streams_in_the_order_of_ranks_with_their_rounds_together():
    files = [
        LogFile(node=1, rank=2), LogFile(node=0, rank=10), LogFile(node=0, rank=9, round=1),
        LogFile(node=0, rank=9, stream="err"), LogFile(node=0, rank=9), LogFile(node=0),
        LogFile(node=0, setup=1),
    ]  # fmt: skip
    assert in_order(files) == [
        [files[6]], [files[5]], [files[4], files[2]], [files[3]], [files[1]], [files[0]],
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=30)), st.integers(0, 1000))
def test_lines_are_cut_with_their_offsets(chunks, begins):
    data = b"".join(chunks)
    cutter, found, at = Cutter(), [], begins
    for chunk in chunks:
        found += cutter.feed(logged(chunk, at))
        at += len(chunk)
    found += cutter.close()
    assert b"".join(event.data for event in found) == data
    for event in found:
        start = event.offset - begins
        assert data[start : start + len(event.data)] == event.data
        assert b"\n" not in event.data[:-1]
    assert all(event.data.endswith(b"\n") for event in found[:-1])


def test_streams_are_cut_each_by_itself_and_a_gap_ends_a_line():
    cutter = Cutter()
    assert list(cutter.feed(logged(b"a"))) == []
    assert list(cutter.feed(logged(b"b\n", stream="err"))) == [logged(b"b\n", stream="err")]
    assert list(cutter.feed(logged(b"c\n", 5))) == [logged(b"a"), logged(b"c\n", 5)]


def test_a_line_without_an_end_comes_in_parts():
    cutter = Cutter()
    half = b"x" * (1 << 20)
    assert list(cutter.feed(logged(half))) == []
    assert [len(event.data) for event in cutter.feed(logged(half, len(half)))] == [2 << 20]
    assert list(cutter.feed(logged(b"y\n", 2 << 20))) == [logged(b"y\n", 2 << 20)]


def test_lines_from_here_and_there_keep_their_places():
    file = LogFile(node=1, rank=3)
    event = {"file": "x", "offset": 5, "next": 99, "at": [5, 90]}
    assert list(parts(file, "gpu2", event, b"a\nb")) == [logged(b"a\n", 5), logged(b"b", 90)]
    with pytest.raises(ValueError, match="zip"):
        list(parts(file, "gpu2", event, b"a\nb\nc\n"))
    with pytest.raises(TypeError):
        list(parts(file, "gpu2", {"offset": "5"}, b"a"))


FROZEN = [
    (
        logged(b"loss 0.5\n", 12),
        (
            '{"run":"brave-otter","host":"gpu2","node":1,"rank":3,"stream":"out","round":0,'
            '"line":"loss 0.5","offset":12,"setup":null}\n'
        ),
    ),
    (
        logged(b"caf\xe9 k\xc3\xa4se \x1b[31m\x00\x9b\r\n", rank=None, stream="err", round=2),
        (
            '{"run":"brave-otter","host":"gpu2","node":1,"rank":null,"stream":"err","round":2,'
            '"line":"caf\\\\xe9 k\\u00e4se \\u001b[31m\\u0000\\\\x9b","offset":0,"setup":null}\n'
        ),
    ),
    (
        logged(b"half", rank=None, setup=1),
        (
            '{"run":"brave-otter","host":"gpu2","node":1,"rank":null,"stream":"out","round":0,'
            '"line":"half","offset":0,"setup":1}\n'
        ),
    ),
]


@pytest.mark.parametrize(("event", "line"), FROZEN)
def test_the_line_of_json_is_frozen(capsys, event, line):
    sink = JsonLog()
    sink.begin("brave-otter", ["gpu1", "gpu2"])
    sink.logged([event])
    sink.ended()
    assert capsys.readouterr().out == line
    assert json.loads(line) == as_object("brave-otter", event)
