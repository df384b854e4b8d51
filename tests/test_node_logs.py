"""What a host sends of a run's logs: streams in order, ends, matches, and where to go on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time

import pytest

from orchestrator import boot
from orchestrator.node import growth, lines, logs, record, sieve

PROGRAM = boot.program(["sieve"], "m.main()").encode()
R0, R1, R0E = ("worker-logs/0/r0.out", "worker-logs/0/r1.out", "worker-logs/0/r0.err")


class Call:
    """The controller's side: puts together what arrives."""

    def __init__(self, body=b""):
        self.body = body
        self.cancelled = threading.Event()
        self.start = None
        self.dated = None
        self.files = {}
        self.at = {}
        self.cursors = {}

    def emit(self, event, body=b""):
        json.dumps(event)
        if "from" in event:
            self.start, self.dated = event["from"], event["dated"]
            self.cursors = dict(self.start)
            return
        assert body
        name = event["file"]
        self.files[name] = self.files.get(name, b"") + body
        self.at.setdefault(name, []).extend(event.get("at", [event["offset"]]))
        self.cursors[name] = event["next"]


def read(folder, **more):
    call = Call(PROGRAM if more.get("grep") else b"")
    answer = logs.read(call, str(folder), **more)
    return call, answer


@pytest.fixture
def folder(tmp_path):
    """A run that has ended."""
    for turn in "0", "1":
        (tmp_path / "worker-logs" / turn).mkdir(parents=True)
    written = {
        "setup/1/setup.out": b"installed\n",
        "torchrun.err": b"W1120 said\n",
        R0: b"zero\none\ntwo\n",
        R0E: b"",
        "worker-logs/0/r10.out": b"ten\n",
        R1: b"only\r\nhalf a line",
        "worker-logs/1/r0.out": b"again\nmore",
    }
    (tmp_path / "setup/1").mkdir(parents=True)
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
    record.write(str(tmp_path), record.RUN, {"version": record.VERSION, **record.here()})
    record.write(str(tmp_path), record.EXIT, {"version": record.VERSION, "code": 0})
    (tmp_path / record.JOURNAL).write_text('{"event": "ended"}\n')
    return tmp_path


def test_all_of_it_stream_by_stream_in_the_order_of_ranks(folder):
    call, answer = read(folder)
    assert list(call.files) == [
        "setup/1/setup.out", "torchrun.err", R0, "worker-logs/1/r0.out", R1,
        "worker-logs/0/r10.out",
    ]  # fmt: skip
    assert all((folder / name).read_bytes() == data for name, data in call.files.items())
    assert answer == {"state": "ended"}


@pytest.mark.parametrize(
    ("more", "files"),
    [
        ({"ranks": [1]}, [R1]),
        ({"ranks": [0], "ends": ["err"]}, []),
        ({"own": False, "ends": ["err"]}, []),
        ({"own": True, "ends": ["err"]}, ["torchrun.err"]),
        ({"ranks": [0, 10]}, [R0, "worker-logs/1/r0.out", "worker-logs/0/r10.out"]),
        ({"ranks": [7]}, []),
    ],
)
def test_only_what_is_wanted(folder, more, files):
    assert list(read(folder, **more)[0].files) == files


def test_the_last_lines_of_a_stream_go_back_over_its_rounds(folder):
    call, _ = read(folder, ranks=[0], tail=3)
    assert call.files == {R0: b"two\n", "worker-logs/1/r0.out": b"again\nmore"}
    call, _ = read(folder, ranks=[0], tail=2)
    assert call.files == {"worker-logs/1/r0.out": b"again\nmore"}
    assert call.start[R0] == len(b"zero\none\ntwo\n"), "who comes again does not get it either"
    assert read(folder, tail=0)[0].files == {}


def test_only_matching_lines_and_where_they_were(folder):
    call, _ = read(folder, grep="o|f$")
    assert call.files[R0] == b"zero\none\ntwo\n"
    assert call.at[R0] == [0, 5, 9]
    call, _ = read(folder, grep="^(zero|two|only|half.*)$")
    assert call.files == {R0: b"zero\ntwo\n", R1: b"only\r\nhalf a line"}
    assert call.at == {R0: [0, 9], R1: [0, 6]}


def test_the_last_lines_that_match(folder):
    call, _ = read(folder, grep="e", tail=2, ranks=[0])
    assert call.files == {R0: b"one\n", "worker-logs/1/r0.out": b"more"}
    call, _ = read(folder, grep="nothing of that kind", tail=2)
    assert call.files == {}


def test_what_is_no_text_is_matched_as_it_is_shown(folder):
    (folder / R0).write_bytes(b"a \xff b\nk\xc3\xa4se\n")
    assert read(folder, grep=r"a \\xff b", ranks=[0])[0].files[R0] == b"a \xff b\n"
    assert read(folder, grep="^k.se$", ranks=[0])[0].files[R0] == "käse\n".encode()


def test_an_expression_that_takes_for_ever_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(sieve, "SECONDS", 1)
    program = PROGRAM.replace(b"SECONDS = 5", b"SECONDS = 1")
    assert program != PROGRAM
    (folder / R0).write_bytes(b"a" * 64 + b"!\n")
    call = Call(program)
    with pytest.raises(sieve.TooHardError, match="--grep takes more than 1 s"):
        logs.read(call, str(folder), grep="(a|a|aa)+$")


def test_an_expression_that_this_python_does_not_know(folder):
    with pytest.raises(sieve.re.error):
        read(folder, grep="(")


def test_since_a_time(folder, monkeypatch):
    now = time.time()
    note = {"time": now - 100, "sizes": {R0: 7, R1: 6, "worker-logs/1/r0.out": 10}}
    (folder / growth.INDEX).write_text(json.dumps(note) + "\n")
    inner = {"time": now - 100, "sizes": {"setup.out": 10}}
    (folder / "setup/1" / growth.INDEX).write_text(json.dumps(inner) + "\n")
    call, _ = read(folder, since=60.0)
    assert call.dated
    assert call.files[R0] == b"one\ntwo\n", "its line was not whole at that time"
    assert call.files[R1] == b"half a line"
    assert "worker-logs/1/r0.out" not in call.files, "it has not grown since, not even a newline"
    assert "setup/1/setup.out" not in call.files
    assert call.files["worker-logs/0/r10.out"] == b"ten\n", "which was not there yet"
    assert read(folder, since=60.0, tail=1, ranks=[0])[0].files == {R0: b"two\n"}
    assert read(folder, since=200.0, ranks=[0])[0].files[R0] == b"zero\none\ntwo\n"


def test_without_an_index_since_is_said_not_to_be_heeded(folder):
    call, _ = read(folder, since=60.0)
    assert call.dated is False
    assert call.files[R0] == b"zero\none\ntwo\n"


def test_cursors_say_where_to_go_on(folder):
    call, _ = read(folder, cursors={R0: 5, R1: 17}, ranks=[0, 1])
    assert call.files == {R0: b"one\ntwo\n", "worker-logs/1/r0.out": b"again\nmore"}


@pytest.mark.parametrize("grep", [None, "line"])
def test_what_is_written_while_it_is_followed_arrives_once(folder, grep):
    for name in (record.EXIT, record.JOURNAL):
        (folder / name).unlink()
    run = record.read(str(folder), record.RUN)
    me = [os.getpid(), record.processes.find(os.getpid()).start]
    record.write(str(folder), record.RUN, {**run, "supervisor": me, "guard": None, "cookie": "c"})
    call = Call(PROGRAM if grep else b"")
    done = threading.Thread(
        target=logs.read,
        args=(call, str(folder)),
        kwargs={"ranks": [5], "on": True, "grep": grep},
        daemon=True,
    )
    done.start()
    path = folder / "worker-logs/1/r5.out"
    with path.open("wb", buffering=0) as file:
        for number in range(200):
            file.write(b"li")
            file.write(b"ne %d\n" % number)
            time.sleep(0.002)
        file.write(b"line without an end")
    until(lambda: b"line 199" in call.files.get("worker-logs/1/r5.out", b""))
    if grep:
        assert b"without" not in call.files["worker-logs/1/r5.out"], "it may still change"
    (folder / record.JOURNAL).write_text('{"event": "ended"}\n')
    done.join(60)
    assert not done.is_alive()
    assert call.files == {"worker-logs/1/r5.out": path.read_bytes()}
    assert call.cursors == {"worker-logs/1/r5.out": path.stat().st_size}


def test_following_ends_when_it_is_cancelled(folder):
    (folder / record.EXIT).unlink()
    (folder / record.JOURNAL).unlink()
    run = record.read(str(folder), record.RUN)
    me = [os.getpid(), record.processes.find(os.getpid()).start]
    record.write(str(folder), record.RUN, {**run, "supervisor": me, "guard": None, "cookie": "c"})
    call = Call()
    done = threading.Thread(target=logs.read, args=(call, str(folder)), kwargs={"on": True})
    done.start()
    until(lambda: R0 in call.files)
    assert done.is_alive()
    call.cancelled.set()
    done.join(60)
    assert not done.is_alive()


def test_the_tail_of_a_line_that_is_being_written_goes_on_where_it_was(folder):
    """With --grep half a line is not taken for a whole one, however it begins."""
    (folder / R0).write_bytes(b"line 1\nli")
    call = Call(PROGRAM)
    files = logs.reader.Reader(
        str(folder), call.emit, call.cancelled.is_set, lambda part: [b"line" in e for e in part]
    )
    files.begin([[R0]], 5, {})
    files.send(R0, final=False)
    assert call.files == {R0: b"line 1\n"}
    with (folder / R0).open("ab") as file:
        file.write(b"ne 2\n")
    files.send(R0, final=False)
    files.close()
    assert call.files == {R0: b"line 1\nline 2\n"}


def test_a_pipe_or_a_link_in_the_place_of_a_log_is_passed_over(folder, tmp_path):
    os.mkfifo(folder / "worker-logs/1/r1.out")
    (folder / "worker-logs/1/r10.out").symlink_to("/etc/passwd")
    (folder / "worker-logs/1/r10.err").mkdir()
    call, _ = read(folder, ranks=[1, 10])
    assert list(call.files) == [R1, "worker-logs/0/r10.out"]


def test_a_look_names_the_files_and_their_lengths(folder):
    told = logs.look(Call(), str(folder))
    assert told["state"] == "ended"
    assert told["files"][R0] == 13
    assert told["files"]["setup/1/setup.out"] == 10
    assert record.JOURNAL not in told["files"]
    assert logs.look(Call(), str(folder / "nowhere")) == {"state": "absent", "files": {}}


def test_what_was_brought_is_compared(folder):
    def begun(name, data):
        return {name: (len(data), hashlib.sha256(data).hexdigest())}

    same = begun(R0, b"zero\non") | begun(R1, b"only\r\nhalf a line") | begun(R0E, b"")
    assert logs.differing(Call(), str(folder), same) == []
    others = begun(R0, b"zero\nno") | begun(R1, b"only\r\nhalf a line, and more")
    assert logs.differing(Call(), str(folder), others) == [R0, R1]


def test_memory_does_not_hold_a_file(folder):
    """100 MB of which only the last lines, or those that match, are wanted."""
    with (folder / R0).open("wb") as file:
        file.truncate(100 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast line\n")
    call, _ = read(folder, ranks=[0], tail=3)
    assert call.files[R0] == b"last line\n"
    call, _ = read(folder, ranks=[0], grep="last", cursors={R0: 90 << 20})
    assert call.files[R0].endswith(b"last line\n")
    assert len(call.files[R0]) <= lines.LONGEST


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
