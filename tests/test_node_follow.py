"""A folder that grows: every byte, once, in order, and the logs before the word of their end."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from orchestrator.node import follow, supervisor

OUT = "worker-logs/0/r0.out"


class Reader:
    """The controller's side: puts the bytes together and checks where they belong."""

    def __init__(self, folder, cursors=None, on_journal=lambda reader: None):
        self.cancelled = threading.Event()
        self.files = {}
        self.start = dict(cursors or {})
        self.order = []
        self.cursors = None
        self.problem = None
        self.on_journal = on_journal
        self.thread = threading.Thread(target=self._run, args=(str(folder),), daemon=True)
        self.thread.start()

    def _run(self, folder):
        try:
            self.cursors = follow.follow(self, folder, self.start)
        except Exception as error:  # noqa: BLE001  raised again in finish()
            self.problem = error

    def emit(self, event, body=b""):
        name = event["file"]
        so_far = self.files.get(name, b"")
        assert event["offset"] == self.start.get(name, 0) + len(so_far)
        assert body
        self.files[name] = so_far + body
        self.order.append(name)
        if name == supervisor.JOURNAL:
            self.on_journal(self)

    def finish(self):
        self.thread.join(20)
        assert not self.thread.is_alive(), "it did not come to its end"
        if self.problem:
            raise self.problem
        return self.files


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not (got := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return got


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "worker-logs/0").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def read(folder):
    readers = []

    def begin(**more):
        readers.append(Reader(folder, **more))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.cancelled.set()
        reader.thread.join(20)


def journal(folder, event, **more):
    with (folder / supervisor.JOURNAL).open("a") as file:
        file.write(json.dumps({"event": event, **more}) + "\n")


def end(folder):
    (folder / supervisor.EXIT_RECORD).write_text("{}")
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
    assert files.pop(supervisor.JOURNAL) == (folder / supervisor.JOURNAL).read_bytes()
    assert files == {OUT: text, "worker-logs/1/r0.err": b"second round", "torchrun.err": b"\0\1"}


def test_what_is_larger_than_a_chunk_comes_whole(folder, read):
    data = os.urandom(follow.CHUNK * 3 + 17)
    (folder / OUT).write_bytes(data)
    end(folder)
    reader = read()
    assert reader.finish()[OUT] == data
    assert reader.order[-1] == supervisor.JOURNAL


def test_a_reader_comes_back_to_where_it_was(folder, read):
    (folder / OUT).write_bytes(b"one ")
    journal(folder, "started")
    first = read()
    until(lambda: OUT in first.files and supervisor.JOURNAL in first.files)
    first.cancelled.set()
    first.finish()
    with (folder / OUT).open("ab") as out:
        out.write(b"two")
    end(folder)
    second = read(cursors=first.cursors)
    assert first.finish()[OUT] == b"one "
    files = second.finish()
    assert files[OUT] == b"two"
    assert json.loads(files[supervisor.JOURNAL])["event"] == "ended"


def test_it_goes_on_until_the_journal_has_its_last_word(folder, read):
    journal(folder, "started")
    (folder / supervisor.EXIT_RECORD).write_text("{}")
    reader = read()
    until(lambda: reader.files)
    with (folder / supervisor.JOURNAL).open("a") as file:
        file.write('{"event": "en')  # half written
        file.flush()
        until(lambda: reader.files[supervisor.JOURNAL].endswith(b"en"))
        assert reader.thread.is_alive()
        file.write('ded"}\n')
    assert reader.finish()[supervisor.JOURNAL].endswith(b'"ended"}\n')


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
    assert set(files) == {"worker-logs/0/r1.out", supervisor.JOURNAL}


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
        told = [json.loads(line) for line in reader.files[supervisor.JOURNAL].splitlines()]
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
