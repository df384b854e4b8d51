"""A folder that grows: every byte, once, in order, and the logs before the word of their end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestrator.node import follow, processes, record
from orchestrator.node.record import JOURNAL
from tests.node_run import GO, NOTHING, Run, cookie, run

__all__ = ["cookie", "run"]

OUT = "worker-logs/0/r0.out"


class Reader:
    """The controller's side: puts the bytes together and checks where they belong."""

    def __init__(self, folder, cursors=None, on_journal=lambda reader: None, **spec):
        self.cancelled = threading.Event()
        self.files = {}
        self.start = dict(cursors or {})
        self.order = []
        self.told = []
        self.spec = spec
        self.body = spec.pop("body", b"")
        self.answer = None
        self.problem = None
        self.on_journal = on_journal
        self.thread = threading.Thread(target=self._run, args=(str(folder),), daemon=True)
        self.thread.start()

    def _run(self, folder):
        try:
            begin = follow.launch if self.spec else follow.follow
            self.answer = begin(self, folder, dict(self.start), **self.spec)
        except Exception as error:  # noqa: BLE001  raised again in finish()
            self.problem = error

    def emit(self, event, body=b""):
        if "file" not in event:
            assert not body
            self.told.append((event, dict(self.files)))
            return
        name = event["file"]
        so_far = self.files.get(name, b"")
        assert event["offset"] == self.start.get(name, 0) + len(so_far)
        assert body
        self.files[name] = so_far + body
        self.order.append(name)
        if name == JOURNAL:
            self.on_journal(self)

    def finish(self):
        self.thread.join(60)
        assert not self.thread.is_alive(), "it did not come to its end"
        if self.problem:
            raise self.problem
        assert not self.cancelled.is_set() or self.answer
        return self.files

    @property
    def cursors(self):
        return self.answer["offsets"]


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not (got := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return got


@pytest.fixture
def folder(tmp_path):
    """A run that goes on: its supervisor is this process."""
    (tmp_path / "worker-logs/0").mkdir(parents=True)
    keep(tmp_path, supervisor=ourselves(), guard=None)
    return tmp_path


def ourselves():
    return [os.getpid(), processes.find(os.getpid()).start]


def keep(folder, **who):
    known = {"version": 1, **record.here(), "root": None, "cookie": "none has it", **who}
    record.write(str(folder), record.RUN, known)


@pytest.fixture
def read(folder):
    readers = []

    def begin(**more):
        readers.append(Reader(folder, **more))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.cancelled.set()
        reader.thread.join(60)


def journal(folder, event, **more):
    with (folder / JOURNAL).open("a") as file:
        file.write(json.dumps({"event": event, **more}) + "\n")


def end(folder):
    (folder / record.EXIT).write_text("{}")
    journal(folder, "ended")


def test_every_byte_of_files_that_grow_and_appear_comes_in_order(folder, read):
    reader = read()
    text = b""
    with (folder / OUT).open("ab", buffering=0) as out:
        for number in range(300):
            line = b"line %d \xe4\xff\n" % number
            text += line
            out.write(line[:5])
            out.write(line[5:])
            if number == 150:
                until(lambda: reader.files.get(OUT))  # so that it is followed, not just found
                (folder / "worker-logs/1").mkdir()
                (folder / "worker-logs/1/r0.err").write_bytes(b"second round")
                (folder / "torchrun.err").write_bytes(b"\0\1")
    end(folder)
    files = reader.finish()
    assert files.pop(JOURNAL) == (folder / JOURNAL).read_bytes()
    assert files == {OUT: text, "worker-logs/1/r0.err": b"second round", "torchrun.err": b"\0\1"}


def test_what_is_larger_than_a_chunk_comes_whole(folder, read):
    data = os.urandom(follow.CHUNK * 3 + 17)
    (folder / OUT).write_bytes(data)
    end(folder)
    reader = read()
    assert reader.finish()[OUT] == data
    assert reader.order[-1] == JOURNAL


def test_a_reader_comes_back_to_where_it_was(folder, read):
    (folder / OUT).write_bytes(b"one ")
    journal(folder, "started")
    first = read()
    until(lambda: OUT in first.files and JOURNAL in first.files)
    first.cancelled.set()
    first.finish()
    with (folder / OUT).open("ab") as out:
        out.write(b"two")
    end(folder)
    second = read(cursors=first.cursors)
    assert first.finish()[OUT] == b"one "
    files = second.finish()
    assert files[OUT] == b"two"
    assert json.loads(files[JOURNAL])["event"] == "ended"


def test_it_goes_on_until_the_journal_has_its_last_word(folder, read):
    journal(folder, "started")
    (folder / record.EXIT).write_text("{}")
    reader = read()
    until(lambda: reader.files)
    with (folder / JOURNAL).open("a") as file:
        file.write('{"event": "en')  # half written
        file.flush()
        until(lambda: reader.files[JOURNAL].endswith(b"en"))
        assert reader.thread.is_alive()
        file.write('ded"}\n')
    assert reader.finish()[JOURNAL].endswith(b'"ended"}\n')


def test_a_file_removed_and_written_anew_is_read_to_the_end_of_the_first(folder, read):
    reader = read()
    with (folder / OUT).open("ab", buffering=0) as old:
        old.write(b"old ")
        until(lambda: reader.files.get(OUT) == b"old ")
        (folder / OUT).unlink()
        (folder / OUT).write_bytes(b"a new one, longer than the old")
        old.write(b"tail")
        until(lambda: reader.files[OUT] == b"old tail")
    end(folder)
    assert reader.finish()[OUT] == b"old tail"


def test_a_file_that_a_file_server_has_lost_ends_nothing(folder, read, monkeypatch):
    """As on NFS, when another machine removes it: what is open is stale, for ever."""
    fstat, pread, stale, broken = os.fstat, os.pread, [], [True]

    def fails(call):
        def failing(file, *args):
            if file in stale:
                raise OSError(errno.ESTALE, "Stale file handle")
            return call(file, *args)

        return failing

    def failing_once(file, *args):
        if broken.pop() if broken else False:
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, *args)

    (folder / OUT).write_bytes(b"one")
    monkeypatch.setattr(follow.os, "fstat", fails(fstat))
    monkeypatch.setattr(follow.os, "pread", failing_once)
    reader = read()
    until(lambda: reader.files.get(OUT) == b"one")
    opened = {n.resolve(): n for n in Path("/proc/self/fd").iterdir()}[folder / OUT]
    stale.append(int(opened.name))
    until(lambda: not opened.exists())
    stale.clear()
    with (folder / OUT).open("ab") as file:
        file.write(b", two")
    until(lambda: reader.files[OUT] == b"one, two")
    end(folder)
    assert reader.finish()[OUT] == b"one, two"


def test_a_file_that_is_only_removed_is_read_to_its_end(folder, read):
    reader = read()
    with (folder / OUT).open("ab", buffering=0) as old:
        old.write(b"old ")
        until(lambda: reader.files.get(OUT) == b"old ")
        (folder / OUT).unlink()
        (folder / "worker-logs/0").rmdir()
        old.write(b"tail")
        until(lambda: reader.files[OUT] == b"old tail")
    end(folder)
    reader.finish()


def test_symlinks_and_other_files_are_not_sent(folder, read, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("secret")
    (folder / OUT).symlink_to(secret)
    (folder / "worker-logs/0/r0.error.json").write_text("{}")
    (folder / "worker-logs/0/r1.out").write_text("ours")
    end(folder)
    files = read().finish()
    assert set(files) == {"worker-logs/0/r1.out", JOURNAL}


def test_a_long_backlog_goes_ahead_of_the_word_that_its_worker_ended(folder, read):
    """One chunk of each and then the journal: that was a worker's end before its last words."""
    size = follow.CHUNK * 4
    (folder / OUT).write_bytes(bytes(size))
    journal(folder, "worker")
    seen = []
    reader = read(on_journal=lambda reader: seen.append(len(reader.files[OUT])))
    until(lambda: seen)
    end(folder)
    reader.finish()
    assert seen[0] == size


def test_lines_go_ahead_of_the_journal_while_both_grow(folder, read):
    late = []

    def check(reader):
        told = [json.loads(line) for line in reader.files[JOURNAL].splitlines()]
        lines = reader.files.get(OUT, b"").count(b"\n")
        if told[-1]["event"] == "worker" and lines < told[-1]["line"]:
            late.append((told[-1], lines))

    reader = read(on_journal=check)
    with (folder / OUT).open("ab", buffering=0) as out:
        for number in range(1, 2000):
            out.write(b"line\n")
            journal(folder, "worker", line=number)
    end(folder)
    reader.finish()
    assert late == []


def test_one_who_goes_on_writing_does_not_keep_the_end_away(folder, read):
    """A survivor that nobody could kill may write for ever."""
    done = threading.Event()

    def babble():
        with (folder / OUT).open("ab", buffering=0) as out:
            while not done.is_set():
                out.write(b"x" * 1000)

    writer = threading.Thread(target=babble)
    writer.start()
    try:
        reader = read()
        until(lambda: reader.files.get(OUT))
        end(folder)
        reader.finish()
    finally:
        done.set()
        writer.join()


# --- how often it is looked ----------------------------------------------------------------------


def test_a_job_that_talks_is_looked_at_closely_and_one_that_is_silent_less_and_less():
    pace = follow.Pace(100.0)
    assert pace.next(100.0, grown=False) == follow.PULSE
    assert pace.next(104.9, grown=False) == follow.PULSE
    pauses = [pace.next(105.0 + i, grown=False) for i in range(20)]
    assert pauses[0] > follow.PULSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == follow.SLOWEST
    assert pace.next(200.0, grown=True) == follow.PULSE, "at once"
    assert pace.next(204.9, grown=False) == follow.PULSE
    assert pace.next(205.1, grown=False) > follow.PULSE


def test_folders_and_earlier_rounds_are_looked_at_now_and_then(folder, monkeypatch):
    monkeypatch.setattr(follow, "LOOK", 3600.0)
    # By number, not by name; and one that is no number is nobody's.
    for name in ("worker-logs/9/r0.out", "worker-logs/10/r0.out", "worker-logs/\u00b2/r0.out"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    (folder / OUT).write_text("1")
    (folder / "torchrun.err").write_text("1")
    open_files = {}
    files = follow.Files(str(folder), open_files)
    first = {OUT, "worker-logs/9/r0.out", "worker-logs/10/r0.out", "torchrun.err"}
    try:
        assert set(files.look(every=False)) == first
        (folder / "worker-logs/10/r1.out").write_text("1")
        (folder / "worker-logs/10/r0.out").write_text("22")
        close = {"worker-logs/10/r0.out": 2, "torchrun.err": 1}
        assert [files.look(every=False) for _ in range(3)] == [close] * 3
        assert set(files.look(every=True)) == first | {"worker-logs/10/r1.out"}
        assert files.look(every=False) == close | {"worker-logs/10/r1.out": 1}
        monkeypatch.setattr(follow, "LOOK", 0.0)
        assert set(files.look(every=False)) == first | {"worker-logs/10/r1.out"}
    finally:
        for descriptor in open_files.values():
            os.close(descriptor)


def test_what_an_earlier_round_and_a_new_file_have_goes_ahead_of_the_journal(
    folder, read, monkeypatch
):
    monkeypatch.setattr(follow, "LOOK", 3600.0)
    for name in (OUT, "worker-logs/1/r0.out"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("begun\n")
    seen = []
    reader = read(on_journal=lambda reader: seen.append(dict(reader.files)))
    until(lambda: reader.told)
    with (folder / OUT).open("a") as late:
        late.write("late\n")
    (folder / "worker-logs/1/r1.err").write_text("new\n")
    journal(folder, "worker")
    until(lambda: seen)
    assert seen[0][OUT] == b"begun\nlate\n"
    assert seen[0]["worker-logs/1/r1.err"] == b"new\n"
    end(folder)
    reader.finish()


# --- a run that others began --------------------------------------------------------------------


def test_all_that_was_there_is_told_apart_from_what_comes(folder, read):
    data = os.urandom(follow.CHUNK * 2)
    (folder / OUT).write_bytes(data)
    journal(folder, "started")
    reader = read()
    until(lambda: reader.told)
    journal(folder, "worker")
    end(folder)
    reader.finish()
    ((event, files),) = reader.told
    assert event == {"caught_up": True}
    assert files[OUT] == data
    assert files[JOURNAL].count(b"\n") == 1
    assert reader.answer["state"] == "ended"


def test_a_run_that_has_ended_long_ago_is_sent_all_the_same(folder, read):
    (folder / OUT).write_bytes(b"old")
    end(folder)
    reader = read(cursors={OUT: 1})
    assert reader.finish()[OUT] == b"ld"
    assert [event for event, _ in reader.told] == [{"caught_up": True}]


def test_one_whose_last_word_could_not_be_written_ends_when_its_keepers_have(folder, read):
    """The disk was full for the journal; the exit record says it."""
    journal(folder, "started")
    reader = read()
    until(lambda: reader.told)
    (folder / record.EXIT).write_text("{}")
    keep(folder, supervisor=[1 << 30, 1], guard=[1 << 30, 1])
    reader.finish()
    assert reader.answer["state"] == "ended"


@pytest.mark.parametrize(
    ("change", "state"),
    [({"place": "before"}, "rebooted"), ({"place": "x", "machine": "y"}, "elsewhere")],
)
def test_what_no_kernel_here_runs_is_followed_to_what_is_there(folder, read, change, state):
    (folder / OUT).write_bytes(b"so far")
    keep(folder, supervisor=[os.getpid(), 1], guard=None, **change)
    reader = read()
    assert reader.finish()[OUT] == b"so far"
    assert reader.answer["state"] == state


def test_what_is_not_there_is_said(tmp_path, read):
    reader = Reader(tmp_path / "no")
    assert reader.finish() == {}
    assert reader.answer["state"] == "absent"


def test_what_is_of_another_version_is_said(folder, read):
    keep(folder, version=99)
    reader = read()
    reader.finish()
    assert reader.answer["state"] == "unreadable"


def launch(run: Run, *workers: str) -> Reader:
    run.start(*workers)  # so that a claim is there: what it is started with does not matter
    spec = {"argv": ["false"], "env": NOTHING, "cwd": "/no/such", "cookie": "x", "grace": 1.0}
    return Reader(run.folder, **spec)


def test_asked_for_again_after_a_lost_connection_it_is_followed_and_not_started(run):
    """Also where its workdir has gone meanwhile, or somebody has stopped it."""
    reader = launch(run, GO + "exit 3")
    run.wait_for("workers")
    until(lambda: reader.told)
    (run.folder / "stop.json").write_text("{}")
    again = launch(run)
    run.go()
    for each in (reader, again):
        assert json.loads(each.finish()[JOURNAL].splitlines()[-1])["code"] == 1
        assert each.answer["state"] == "ended"
    run.ended()


def test_a_lost_run_is_followed_until_nothing_of_it_is_left(run, monkeypatch):
    run.start(GO + "echo last; exit 0").wait_for("workers")
    reader = Reader(run.folder)
    until(lambda: reader.told)
    run.kill("guard", "supervisor")
    until(lambda: len(reader.told) == 2)
    assert [event for event, _ in reader.told] == [{"caught_up": True}, {"unattended": True}]
    assert reader.thread.is_alive()

    def after_a_look(folder, name, value):
        """The follower finds nobody left before it is written why."""
        if name == record.EXIT:
            until(lambda: looks[-1] == [])
            monkeypatch.setattr(follow, "LOOK", 3600.0)
        write(folder, name, value)

    def looking(*args, **more):
        found = members(*args, **more)
        if threading.current_thread() is reader.thread:
            looks.append(found)
        return found

    looks, members, write = [None], processes.members, record.write
    monkeypatch.setattr(processes, "members", looking)
    monkeypatch.setattr(record, "write", after_a_look)
    run.stop(0.0)
    assert json.loads(reader.finish()[JOURNAL].splitlines()[-1])["event"] == "ended"


def test_a_lost_run_that_ends_by_itself_is_lost(run):
    (run.folder / "untold").touch()
    run.start(GO + "echo last > torchrun.out; exit 0").wait_for("workers")
    run.kill("guard", "supervisor")
    reader = Reader(run.folder)
    until(lambda: len(reader.told) == 2)
    run.go()
    assert reader.finish()["torchrun.out"] == b"last\n"
    assert reader.answer["state"] == "lost"


def test_a_folder_that_is_removed_while_it_runs_ends_with_the_run(run):
    run.start(GO + "exit 3", grace=0.3).wait_for("workers")
    keeper = run.pid("supervisor")
    reader = Reader(run.folder)
    until(lambda: reader.told)
    for path in sorted(run.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.folder.rmdir()
    assert reader.thread.is_alive()
    os.kill(keeper, signal.SIGTERM)
    last = json.loads(reader.finish()[JOURNAL].splitlines()[-1])
    assert (last["event"], last["reason"]) == ("ended", "stopped")


def test_a_folder_that_is_removed_as_soon_as_a_line_came_is_followed_to_its_end(
    tmp_path, monkeypatch
):
    """Its supervisor has begun since the last look at it, and is known all the same."""
    folder = tmp_path / "run"
    (folder / "worker-logs/0").mkdir(parents=True)
    keep(folder, supervisor=None, guard=None)
    monkeypatch.setattr(follow, "LOOK", 0.0)
    reached, emit, states = follow.End.reached, Reader.emit, []

    def begin_after_the_first_look(end, descriptor):
        ended = reached(end, descriptor)
        states.append(end.state)
        if len(states) == 1:
            keep(folder, supervisor=ourselves(), guard=None)
            journal(folder, "started")
            (folder / OUT).write_text("going")
        return ended

    def remove(reader, event, body=b""):
        emit(reader, event, body)
        if event.get("file") == OUT:
            kept.append((folder / JOURNAL).open("a"))
            shutil.rmtree(folder)

    kept = []
    monkeypatch.setattr(follow.End, "reached", begin_after_the_first_look)
    monkeypatch.setattr(Reader, "emit", remove)
    reader = Reader(folder)
    try:
        until(lambda: states.count("absent") > 1 or reader.answer)
        assert reader.answer is None
        with kept[0] as file:
            file.write('{"event": "ended"}\n')
        assert reader.finish()[OUT] == b"going"
        assert reader.answer["state"] == "ended"
    finally:
        reader.cancelled.set()


def test_files_are_held_open_once_and_closed_at_the_end(folder, read):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    (folder / OUT).write_bytes(b"x")
    end(folder)
    read().finish()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
