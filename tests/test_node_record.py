"""What a node's folder tells: each state, and what must not be believed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from orchestrator.node import kept, processes, record

DEAD = [1 << 30, 7]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "0"


def me():
    return [os.getpid(), processes.find(os.getpid()).start]


def entry(**more):
    who = {"supervisor": DEAD, "guard": DEAD, "root": DEAD}
    return {"version": 1, **record.here(), **who, **more}


def write(folder, *claims, run=None, **records):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {"run": run, **records}.items():
        if value is not None:
            record.write(str(folder), f"{name}.json", value)
    for name in claims:
        (folder / name).touch()


def state(folder):
    return record.state_of(str(folder))


NOBODY = {"supervisor": None, "guard": None, "root": None}


def aged(folder, seconds):
    path = folder / "claim"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_absent(folder):
    assert state(folder) == "absent"
    folder.write_text("a file")
    assert state(folder) == "absent"


def test_starting_until_somebody_keeps_it(folder):
    write(folder, run=entry(**NOBODY))
    assert state(folder) == "starting"
    write(folder, "claim")
    assert state(folder) == "starting"
    write(folder, run=entry(supervisor=me()))
    assert state(folder) == "running"


@pytest.mark.parametrize("seconds", [60, -60], ids=["long ago", "in the future"])
def test_one_that_began_and_never_said_who_keeps_it_is_lost(folder, seconds):
    write(folder, "claim", run=entry(**NOBODY))
    aged(folder, seconds)
    assert state(folder) == "lost"


@pytest.mark.parametrize(("ago", "told"), [(1.0, "starting"), (60.0, "lost")])
def test_when_it_began_is_told_by_the_kernels_clock(folder, ago, told):
    """A file server's may be minutes off."""
    write(folder, "claim", run=entry(**NOBODY, began=time.monotonic() - ago))
    for seconds in (-600, 1200):
        aged(folder, seconds)
        assert state(folder) == told


def test_stopped_before_it_started(folder):
    write(folder, run=entry(**NOBODY), stop={"grace": 1.0})
    assert state(folder) == "ended"
    write(folder, "claim")
    assert state(folder) == "starting", "one may be under way; it looks for stop.json itself"


def test_a_tombstone_alone(folder):
    write(folder, stop={})
    assert state(folder) == "ended"


def test_setting_up(folder):
    write(folder, run=entry(**NOBODY))
    write(folder / "setup/1", "claim", run=entry(), exit={})
    assert state(folder) == "starting"
    write(folder / "setup/2", "claim", run=entry(supervisor=me()))
    assert state(folder) == "setting-up"
    assert [os.path.basename(path) for path in record.setups(str(folder))] == ["1", "2"]  # noqa: PTH119


@pytest.mark.parametrize("who", ["supervisor", "guard"])
def test_running_while_one_of_both_lives(folder, who):
    write(folder, "claim", run=entry(**{who: me()}))
    assert state(folder) == "running"


def test_lost_without_both(folder):
    write(folder, "claim", run=entry())
    assert state(folder) == "lost"


def test_a_stranger_with_that_pid_is_nobody(folder):
    pid, start = me()
    write(folder, "claim", run=entry(supervisor=[pid, start - 1], guard=[pid, start + 1]))
    assert state(folder) == "lost"


def test_a_zombie_keeps_nothing(folder):
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        identity = [process.pid, processes.find(process.pid).start]
        write(folder, "claim", run=entry(supervisor=identity))
        assert state(folder) == "lost"


def test_ended_whoever_lives(folder):
    write(folder, "claim", run=entry(supervisor=me()), exit={})
    assert state(folder) == "ended"


@pytest.fixture
def holder(folder):
    """Somebody who holds the lock, as a guard does; it goes with him."""
    folder.mkdir()
    program = "import sys; from orchestrator.node import kept; kept.hold(sys.argv[1]); print(1)"
    words = [sys.executable, "-c", program + "; sys.stdout.flush(); sys.stdin.read()", str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        yield process
        process.kill()


def elsewhere(boot=None):
    """A place that is not this one, but may be on this kernel."""
    return {"place": f"{boot or record.place().split()[0]} pid:[1] 7"}


def test_another_container_on_this_kernel_is_no_restart(folder, holder):
    write(folder, "claim", run=entry(**elsewhere()))
    assert [path.name for path in folder.iterdir() if path.name.startswith(kept.LOCK)] == [".kept"]
    assert [state(folder), state(folder)] == ["elsewhere", "elsewhere"]
    write(folder, run=entry(**elsewhere("another-boot")))
    assert state(folder) == "rebooted", "of that kernel nobody is left"
    write(folder, run=entry(**elsewhere()))
    holder.kill()
    holder.wait()
    assert state(folder) == "rebooted"


def test_the_keepers_of_a_setup_command_count_too(folder):
    write(folder, run=entry(**elsewhere(), supervisor=None))
    (folder / "setup/1").mkdir(parents=True)
    assert state(folder) == "rebooted"
    kept.hold(str(folder / "setup/1"))
    assert state(folder) == "elsewhere"


def test_without_locks_it_is_as_if_nobody_held_one(folder, holder, monkeypatch):
    """A file server may have none; or not answer, and then nobody waits for it."""
    write(folder, "claim", run=entry(**elsewhere()))
    forever = threading.Event()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(kept, "PATIENCE", 0.05)
    for flock in (refuse, lambda *_: forever.wait()):
        monkeypatch.setattr(kept.fcntl, "flock", flock)
        assert state(folder) == "rebooted"
        kept.hold(str(folder))
    forever.set()
    monkeypatch.undo()
    assert state(folder) == "elsewhere", "nobody has put another in its place"
    assert sorted(path.name for path in folder.iterdir()) == [".kept", "claim", "run.json"]
    (folder / ".kept").unlink()
    (folder / ".kept").symlink_to("run.json")
    assert state(folder) == "rebooted"


ENDED = b'{"event": "workers"}\n{"event": "ended", "code": 3}\n'


@pytest.mark.parametrize(
    "more",
    [{}, {"place": "another boot"}, {"place": "x", "machine": "another"}, NOBODY],
    ids=["here", "restarted since", "elsewhere", "it never said who it was"],
)
def test_where_its_end_found_no_room_for_a_record_the_journals_word_counts(folder, more):
    write(folder, "claim", run=entry(**more))
    aged(folder, 60)
    before = state(folder)
    assert before in ("lost", "rebooted", "elsewhere")
    (folder / "journal.jsonl").write_bytes(ENDED)
    assert state(folder) == "ended"
    assert record.last_word(str(folder)) == {"event": "ended", "code": 3}
    for later in (b'{"event": "took-over"}\n', b'{"event": "ended"'):
        (folder / "journal.jsonl").write_bytes(ENDED + later)
        assert (state(folder), record.last_word(str(folder))) == (before, None)
    write(folder, exit={"code": 0})
    assert record.last_word(str(folder)) == {"code": 0}


def test_who_lives_has_not_ended_whatever_the_journal_says(folder):
    write(folder, "claim", run=entry(supervisor=me()))
    (folder / "journal.jsonl").write_bytes(ENDED)
    assert state(folder) == "running"


@pytest.mark.parametrize(
    ("place", "machine", "told"),
    [("another boot", None, "rebooted"), ("another boot", "another", "elsewhere")],
)
def test_what_was_started_on_another_kernel(folder, place, machine, told):
    here = record.here()
    of = {"place": place, "machine": machine or here["machine"]}
    write(folder, "claim", run=entry(supervisor=me(), **of))
    assert state(folder) == told
    write(folder, exit={})
    assert state(folder) == "ended", "its end is known, wherever it was"


def test_a_container_on_the_same_kernel_is_another_place():
    boot, _, namespace = record.place().partition(" ")
    assert len(boot) == 36
    assert namespace.startswith("pid:[")


def test_a_container_that_is_started_anew_is_another_place(monkeypatch):
    """Its namespace may have got the number that the one before had."""
    before = record.place()
    assert record.place() == before
    started = processes.find(1).start + 1000
    monkeypatch.setattr(record.processes, "find", lambda _: SimpleNamespace(start=started))
    assert record.place() != before


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", "{}", '{"version": 2}', '{"version": 1}', "\xff",
        '{"version": 1, "place": 3}', '{"version": "1"}',
    ],
)  # fmt: skip
def test_a_record_that_makes_no_sense(folder, text):
    folder.mkdir()
    (folder / "run.json").write_bytes(text.encode("latin-1"))
    assert state(folder) == "unreadable"


@pytest.mark.parametrize("who", [3, [1], ["x", 1], {}])
def test_keepers_that_make_no_sense_are_none_that_live(folder, who):
    write(folder, "claim", run=entry(supervisor=who, guard=None))
    assert state(folder) in ("lost", "unreadable")


def test_a_folder_of_a_version_without_records(folder):
    write(folder)
    assert state(folder) == "unreadable"


def test_one_that_is_made_at_this_moment(folder):
    """A setup command's folder: its claim comes first."""
    write(folder, "claim")
    assert state(folder) == "starting"
    aged(folder, 60)
    assert state(folder) == "unreadable"


@pytest.mark.parametrize("name", ["run.json", "stop.json"])
def test_links_are_not_followed(folder, tmp_path, name):
    write(folder, run=entry(supervisor=me()))
    (folder / name).unlink(missing_ok=True)
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(entry(supervisor=me())))
    (folder / name).symlink_to(elsewhere)
    assert state(folder) == ("unreadable" if name == "run.json" else "running")
    with pytest.raises(OSError, match="symbolic"):
        record.read(str(folder), name)
    record.write(str(folder), name, {"ours": 1})
    assert "ours" not in elsewhere.read_text()


def test_a_pipe_in_place_of_a_record_holds_nobody_up(folder):
    write(folder)
    os.mkfifo(folder / "run.json")
    assert state(folder) == "unreadable"


def test_a_record_is_written_whole_or_not_at_all(folder):
    write(folder, run=entry())
    before = (folder / "run.json").read_text()
    with pytest.raises(TypeError):
        record.write(str(folder), record.RUN, {"x": object()})
    assert (folder / "run.json").read_text() == before
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert (folder / "run.json").stat().st_mode & 0o777 == 0o600


def test_a_claim_is_given_once(folder):
    write(folder)
    assert not record.is_claimed(str(folder))
    assert [record.claim(str(folder)) for _ in range(3)] == [True, False, False]
    assert record.is_claimed(str(folder))


def test_of_a_journal_only_whole_lines_count(folder):
    write(folder)
    lines = [b'{"event": "a"}', b"nonsense", b"[]", b"{}", b"\xff", b'{"event": "b"}', b'{"event"']
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines))
    assert [found["event"] for found in record.entries(str(folder))] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (b"", None), (b'{"event": "a"}\n{"event": "b"}\n', "b"), (b'{"event": "a"}\n{"ev', None),
        (b"[]\n", None), (b"3\n", None), (b"{}\n", None), (b"\xff\n", None),
        (b'{"event": "a"}\n' * 9000 + b'{"event": "z"}\n', "z"),
    ],
)  # fmt: skip
def test_the_last_entry_of_a_journal(folder, text, last):
    write(folder)
    (folder / "journal.jsonl").write_bytes(text)
    with (folder / "journal.jsonl").open("rb") as file:
        assert record.last_entry(file.fileno()).get("event") == last


@pytest.mark.parametrize(
    ("theirs", "state"),
    [("b pid:[1] 5", "lost"), ("b pid:[1] 0", "lost"), ("b pid:[1] 6", "rebooted"),
     ("c pid:[1] 0", "rebooted"), ("b pid:[2] 5", "rebooted")],
)  # fmt: skip
def test_a_first_process_that_proc_hides_is_no_restart(tmp_path, monkeypatch, theirs, state):
    """Else what runs there would count as gone."""
    entry = {"version": 1, **record.here(), "place": theirs, "guard": None}
    gone = [1, 1]  # nobody began so early
    record.write(str(tmp_path), record.RUN, dict(entry, supervisor=gone))
    monkeypatch.setattr(record, "place", lambda: "b pid:[1] 5")
    assert record.state_of(str(tmp_path)) == state
