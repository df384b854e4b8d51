"""A run's record on this machine: whose it is, and that no byte of it is lost."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.events import (
    Connected,
    Detached,
    Ended,
    Launched,
    Logged,
    NodeEnded,
    Planned,
    SetupEnded,
    Stopping,
    Warned,
    WorkerEnded,
    WorkersUp,
    encode,
    parse,
)
from orchestrator.folders import state_dir
from orchestrator.local_runs import find, taken
from orchestrator.logfiles import log_name
from orchestrator.state import SETUP, TAIL_BYTES, RunState, fold
from orchestrator.store import RunStore

PLANNED = Planned(
    run="r",
    hosts=("a", "b"),
    workers=(1, 1),
    what="train.py",
    endpoint="10.0.0.1:29400",
    addresses=("10.0.0.1", "10.0.0.2"),
    max_restarts=0,
    time=1.0,
)
COMES_AGAIN = [
    Launched(node=0, host="a", time=2.0),
    WorkersUp(node=0, host="a", round=0, workers=(), time=3.0),
    WorkerEnded(
        node=0, host="a", rank=0, local_rank=0, pid=1, code=0, signal=None, restart=0,
        error=None, traceback=None, time=4.0,
    ),
    SetupEnded(
        node=0, host="a", number=1, of=1, command="x", code=0, signal=None, reason="exited",
        survivors=(), time=4.0,
    ),
    Stopping(node=0, host="a", why="x", exit_code=103, grace=1.0, time=5.0),
    NodeEnded(
        node=0, host="a", code=0, signal=None, reason="exited", survivors=(), time=6.0
    ),
    Detached(run="r", hosts=("a",), time=7.0),
    Ended(
        run="r", exit_code=0, seconds=1.0, hosts=("a",), why="w", failure=None, survivors=(),
        logs="",
    ),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def logged(
    data: bytes,
    *,
    offset: int = 0,
    node: int = 0,
    rank: int | None = 0,
    stream: str = "out",
    turn: int = 0,
    host="a",
    setup: int | None = None,
):
    return Logged(
        node=node, host=host, rank=rank, stream=stream, round=turn, offset=offset, data=data,
        setup=setup,
    )  # fmt: skip


def recorded(*events, inventory=None) -> RunStore:
    record = RunStore("r", inventory)
    for event in (PLANNED, *events):
        record(event, RunState())
    return record


def modes(top: Path) -> dict[str, int]:
    return {str(p.relative_to(top)): stat.S_IMODE(p.stat().st_mode) for p in top.rglob("*")}


def test_a_record(folder):
    before = os.umask(0)  # the widest: what is private is so by our own doing
    try:
        record = RunStore("brave-otter", '{"hosts": []}')
        record(Connected(host="a", seconds=0.5), RunState())
        record(PLANNED, RunState())
        record.keep(logged(b"\xff one \r\x1b[1m\n"))
        record.keep(logged(b"two", offset=12))
        record(Warned(message="é"), RunState())
        record.close()
    finally:
        os.umask(before)
    run = folder / "runs" / "brave-otter"
    lines = (run / "events.jsonl").read_text().splitlines()
    # Logs are in files of their own, as they came.
    assert [parse(line) for line in lines] == [
        Connected(host="a", seconds=0.5),
        PLANNED,
        Warned(message="é"),
    ]
    assert (run / "logs" / "rank0.out").read_bytes() == b"\xff one \r\x1b[1m\ntwo"
    assert modes(folder) == {
        "runs": 0o700,
        "runs/brave-otter": 0o700,
        "runs/brave-otter/lock": 0o600,
        "runs/brave-otter/inventory.json": 0o600,
        "runs/brave-otter/logs": 0o700,
        "runs/brave-otter/events.jsonl": 0o600,
        "runs/brave-otter/logs/rank0.out": 0o600,
    }


def test_as_a_sink_it_leaves_the_logs_to_keep(folder):
    """Sinks are given what is masked; the bytes as they came go another way."""
    record = RunStore("r")
    record(PLANNED, RunState())
    record(logged(b"******** masked"), RunState())
    record.close()
    assert list(record.logs.iterdir()) == []
    assert len((record.folder / "events.jsonl").read_text().splitlines()) == 1


def test_what_was_written_is_there_at_once(folder):
    record = RunStore("r")
    record(PLANNED, RunState())
    record.keep(logged(b"x"))
    assert (record.logs / "rank0.out").read_bytes() == b"x"
    record.close()


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (logged(b""), "rank0.out"),
        (logged(b"", node=1, rank=12, stream="err"), "rank12.err"),
        (logged(b"", turn=2), "rank0.round2.out"),
        (logged(b"", node=1, rank=None, stream="err"), "node1.torchrun.err"),
        (logged(b"", node=1, rank=None, setup=2), "node1.setup2.out"),
        # Two worlds in place of one: the other node's rank 0 has a file of its own.
        (logged(b"", node=1, rank=0), "node1.rank0.out"),
    ],
)
def test_each_stream_has_its_file(event, name):
    assert log_name(event, (4, 12)) == name


def test_the_hosts_name_is_in_no_files_name(folder):
    record = RunStore("r")
    record(PLANNED, RunState())
    record.keep(logged(b"x", host="../../../etc/passwd"))
    record.keep(logged(b"x", node=1, rank=None, host="/tmp/x"))
    record.close()
    written = sorted(p.name for p in record.logs.iterdir())
    assert written == ["node1.torchrun.out", "rank0.out"]


def test_taken(folder):
    record = RunStore("r")
    record(Connected(host="a", seconds=0.5), RunState())
    assert not taken("r"), "a run that its preflight stops keeps no name"
    record(PLANNED, RunState())
    record.close()
    assert taken("r")


def test_a_record_that_cannot_be_kept_is_one_line(folder):
    folder.write_text("a file in its place")
    with pytest.raises(UsageError, match="it is a link or a file") as caught:
        RunStore("r")
    assert "DDP_ORCH_STATE_DIR" in caught.value.hint


def test_where_it_is_kept(monkeypatch):
    monkeypatch.delenv("DDP_ORCH_STATE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_dir() == Path("/home/u/.local/state/ddp-orch")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert state_dir() == Path("/x/ddp-orch")
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", "~/mine")
    assert state_dir() == Path("/home/u/mine")


# --- what is here already -----------------------------------------------------------------------


def test_the_sizes_are_the_cursors(folder):
    record = recorded()
    record.keep(logged(b"12345"))
    record.keep(logged(b"1", turn=1))
    record.keep(logged(b"123", rank=None, stream="err"))
    record.keep(logged(b"12", node=1, rank=1))
    record.keep(logged(b"1234", node=1, rank=None, setup=2))
    record.keep(logged(b"1234567", node=1, rank=0))
    (record.logs / "notes.txt").write_text("mine")
    (record.logs / "rank1.err").symlink_to("/etc/passwd")
    assert record.cursors(0) == {
        "worker-logs/0/r0.out": 5,
        "worker-logs/1/r0.out": 1,
        "torchrun.err": 3,
    }
    assert record.cursors(1) == {"worker-logs/0/r1.out": 2, "worker-logs/0/r0.out": 7}
    assert record.cursors(1, setup=2) == {"setup.out": 4}
    assert record.cursors(1, setup=1) == {}
    record.close()


def test_what_comes_twice_is_kept_once_and_what_is_lost_is_a_hole(folder):
    record = recorded()
    record.keep(logged(b"0123"))
    record.keep(logged(b"2345", offset=2))
    record.keep(logged(b"01", offset=0))
    record.keep(logged(b"89", offset=8))
    record.close()
    assert (record.logs / "rank0.out").read_bytes() == b"012345\0\089"


def test_reopened_it_has_what_does_not_come_again(folder):
    torn = b'{"event":"Warned","mess'
    later = b'{"event":"OfALaterVersion","x":1}\n'
    record = recorded(*COMES_AGAIN, Warned(message="mine"))
    assert RunStore.reopen("r") is None, "a controller that runs records it"
    record.close()
    with (record.folder / "events.jsonl").open("ab") as file:
        file.write(later + torn)
    again = RunStore.reopen("r")
    again(PLANNED, RunState())
    for event in COMES_AGAIN:
        again(event, RunState())
    again.close()
    lines = (record.folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    expected = [encode(event).encode() + b"\n" for event in (PLANNED, Warned(message="mine"))]
    assert lines == [
        expected[0],
        encode(COMES_AGAIN[-1]).encode() + b"\n",  # an end stands until there is a later one
        expected[1],
        later,
        *(encode(event).encode() + b"\n" for event in COMES_AGAIN),
    ]
    assert modes(folder)["runs/r/events.jsonl"] == 0o600


def ended(code: int) -> Ended:
    return dataclasses.replace(COMES_AGAIN[-1], exit_code=code)


def test_reopened_it_loses_nothing_before_a_host_has_told_anything(folder):
    """Hosts may be gone for good; then all that is known of the run is here."""
    recorded(*COMES_AGAIN[:-1], ended(103)).close()
    before = (folder / "runs/r/events.jsonl").read_bytes()
    again = RunStore.reopen("r")
    again(PLANNED, RunState())
    assert (again.folder / "events.jsonl").read_bytes() == before
    again(Warned(message="no answer"), RunState())
    again.close()
    assert find("r").ended == ended(103)
    lines = (folder / "runs/r/events.jsonl").read_bytes()
    assert lines == before + encode(Warned(message="no answer")).encode() + b"\n"


def test_an_end_stands_until_there_is_a_later_one(folder):
    recorded(*COMES_AGAIN[:-1], ended(103), ended(103)).close()
    again = RunStore.reopen("r")
    for event in (Warned(message="mine"), *COMES_AGAIN[:3]):
        again(event, RunState())
    again.close()  # it is left before all is told
    assert find("r").ended == ended(103)
    lines = (again.folder / "events.jsonl").read_text().splitlines()
    assert [parse(line) for line in lines] == [
        PLANNED, ended(103), Warned(message="mine"), *COMES_AGAIN[:3],
    ]  # fmt: skip
    path = again.folder / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # whole, but for its last byte
    once_more = RunStore.reopen("r")
    for event in (*COMES_AGAIN[:-1], ended(100)):
        once_more(event, RunState())
    once_more.close()
    assert find("r").ended == ended(100)


def test_of_each_node_it_keeps_what_is_not_told_again(folder):
    """One host may be out of reach, and another have nothing of the run any more."""
    of_b = [dataclasses.replace(event, node=1, host="b") for event in COMES_AGAIN[:6]]
    recorded(*COMES_AGAIN[:6], *of_b, ended(103)).close()
    gone = dataclasses.replace(of_b[-1], reason="its folder is not there any more")
    again = RunStore.reopen("r")
    for event in (gone, COMES_AGAIN[0], Warned(message="mine"), COMES_AGAIN[1]):
        again(event, RunState())
    again.close()
    lines = (again.folder / "events.jsonl").read_text().splitlines()
    assert [parse(line) for line in lines] == [
        PLANNED, *of_b, ended(103), gone, COMES_AGAIN[0], Warned(message="mine"), COMES_AGAIN[1],
    ]  # fmt: skip


@pytest.mark.parametrize("torn", [b"", b'{"event":"Warned","mess'])
def test_an_end_that_is_added_begins_a_line(folder, torn):
    """A machine that went down, or a full disk, may have left half of one."""
    record = recorded()
    record.close()
    path = record.folder / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    RunStore.note_end("r", ended(103))
    assert find("r").ended == ended(103)
    half = torn + b"\n" if torn else b""
    assert path.read_bytes() == whole + half + encode(ended(103)).encode() + b"\n"


def test_one_of_two_has_the_record(folder):
    recorded().close()
    first = RunStore.reopen("r")
    assert RunStore.reopen("r") is None
    assert find("r").recording
    first.close()
    assert not find("r").recording
    second = RunStore.reopen("r")
    assert second is not None
    second.close()


def test_a_record_without_events_cannot_be_gone_on_with(folder):
    record = recorded()
    record.close()
    (record.folder / "events.jsonl").unlink()
    with pytest.raises(UsageError, match="cannot be written to: No such file"):
        RunStore.reopen("r")
    assert not find("r").recording


def test_the_last_words_are_there_again(folder):
    said = [
        logged(b"old" * 5000),
        logged(b"new", turn=1),
        logged(b"x" * TAIL_BYTES + b"end", node=1, rank=1, stream="err"),
        logged(b"torch", rank=None),
        logged(b"first", node=1, rank=None, setup=1),
        logged(b"second", node=1, rank=None, setup=2),
    ]
    record, state = recorded(), RunState()
    for event in said:
        record.keep(event)
    for event in said[2:4] + said[5:]:
        state = fold(state, event)
    assert record.tails() == state.tails | {(0, 0, "out"): b"new"}
    assert record.tails()[1, SETUP, "out"] == b"second"
    record.close()


def test_a_run_from_elsewhere_is_adopted(folder):
    record = RunStore.adopt(PLANNED, '{"hosts": ["gpu1"]}', "alice@laptop")
    record(PLANNED, RunState())
    record(COMES_AGAIN[0], RunState())
    record.keep(logged(b"x"))
    assert RunStore.reopen("r") is None
    record.close()
    lines = (record.folder / "events.jsonl").read_text().splitlines()
    assert [parse(line) for line in lines] == [PLANNED, COMES_AGAIN[0]]
    found = find("r")
    assert (found.owner, found.plan) == ("alice@laptop", PLANNED)
    with pytest.raises(UsageError, match="there is a record of a run called r already"):
        RunStore.adopt(PLANNED, "{}", "bob@desk")


def test_where_a_record_cannot_be_begun_nothing_is_kept_in_anothers(folder):
    first, second = RunStore("r"), RunStore("r")
    first(PLANNED, RunState())
    with pytest.raises(FileExistsError):
        second(PLANNED, RunState())
    second.keep(logged(b"not mine"))
    assert list(first.logs.iterdir()) == []
    first.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_told_with_the_file_that_it_was_met_at(folder):
    store = RunStore("r")
    store(PLANNED, RunState())
    # A link to it would not be followed.
    store._files["logs/rank0.out"] = os.fdopen(os.open("/dev/full", os.O_RDWR), "ab", 0)
    store._files["events.jsonl"] = os.fdopen(os.open("/dev/full", os.O_RDWR), "ab", 0)
    met = []
    for write in (lambda: store.keep(logged(b"x")), lambda: store(COMES_AGAIN[-1], RunState())):
        with pytest.raises(OSError, match="No space left on device") as raised:
            write()
        met.append(raised.value.filename)
    store.close()
    run = folder / "runs/r"
    assert met == [str(run / "logs/rank0.out"), str(run / "events.jsonl")]
