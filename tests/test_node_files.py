"""The run's folder: private, where it was asked for, and nowhere else."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.node import command, files, processes, record, runs
from tests.test_node_processes import until


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def prepare(run, node, state_dir):
    told = {"host": "gpu1", "owner": "alice@laptop", "plan": {"event": "Planned"}}
    return runs.prepare(None, run, node, state_dir, told)


def body(data):
    return SimpleNamespace(body=data)


def test_all_folders_are_private_and_files_too_whatever_the_umask(home, open_umask):
    folder = prepare("brave-otter", 3, "~/.ddp-orch")
    assert folder == str(home / ".ddp-orch/runs/brave-otter/3")
    files.put(body(b"print()"), folder, "code/train.py")
    made = [".ddp-orch", ".ddp-orch/runs", ".ddp-orch/runs/brave-otter"]
    for path in [*(home / name for name in made), folder, f"{folder}/worker-logs"]:
        assert mode(path) == 0o700, path
    assert mode(f"{folder}/code/train.py") == 0o600
    assert mode(f"{folder}/run.json") == 0o600
    # The workers inherit the umask: their checkpoints are to be as the user has them elsewhere.
    assert os.umask(0) == 0


def test_a_folder_that_is_there_already_is_another_run():
    prepare("brave-otter", 0, "~/.ddp-orch")
    prepare("brave-otter", 1, "~/.ddp-orch")
    with pytest.raises(FileExistsError, match="choose another --name"):
        prepare("brave-otter", 0, "~/.ddp-orch")


def test_whose_it_is_is_written_down_before_anything_is_started():
    folder = prepare("brave-otter", 3, "~/.ddp-orch")
    known = record.read(folder, record.RUN)
    assert abs(known.pop("time") - time.time()) < 60
    assert known == {
        "version": 1, "run": "brave-otter", "node": 3, "host": "gpu1", "owner": "alice@laptop",
        "plan": {"event": "Planned"}, **record.here(),
        "supervisor": None, "guard": None, "root": None,
    }  # fmt: skip
    assert record.state_of(folder) == "starting"


@pytest.mark.parametrize("place", [".ddp-orch", ".ddp-orch/runs", ".ddp-orch/runs/brave-otter"])
def test_a_symlink_in_place_of_a_folder_is_refused(home, place):
    elsewhere = home / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="is a link or a file"):
        prepare("brave-otter", 0, "~/.ddp-orch")
    assert list(elsewhere.rglob("0")) == []


@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_a_folder_that_others_may_write_is_refused(home, bits):
    (home / ".ddp-orch").mkdir()
    (home / ".ddp-orch").chmod(0o700 | bits)
    with pytest.raises(PermissionError, match="may be written to by others"):
        prepare("brave-otter", 0, "~/.ddp-orch")


def try_out(state_dir="~/.ddp-orch"):
    return files.try_out(None, state_dir)


def test_trying_leaves_nothing(home):
    assert try_out()["problem"] is None
    assert try_out()["free"] > 0
    assert list(home.iterdir()) == []
    prepare("brave-otter", 0, "~/.ddp-orch")
    assert try_out()["problem"] is None
    assert [path.name for path in (home / ".ddp-orch").iterdir()] == ["runs"]


def test_trying_finds_what_preparing_would(home, monkeypatch):
    assert try_out(f"{home}/no/such")["problem"] == f"there is no folder {home}/no to make it in"
    with pytest.raises(FileNotFoundError):
        prepare("brave-otter", 0, f"{home}/no/such")
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    assert try_out("~/open")["problem"].endswith("/open may be written to by others: chmod go-w")
    (home / "file").touch()
    assert try_out("~/file")["problem"].endswith("/file is a link or a file, no folder")
    monkeypatch.setenv("HOME", "relative")
    assert "is no absolute path (HOME is 'relative')" in try_out()["problem"]


def test_a_full_disk_is_found_and_nothing_left(home, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert try_out()["problem"] == "No space left on device"
    assert list(home.iterdir()) == []


def test_a_command_starts_at_home_or_where_there_is_none_in_root(home, monkeypatch):
    assert files.home_or_root() == str(home)
    monkeypatch.setenv("HOME", str(home / "gone"))
    assert files.home_or_root() == "/"


def test_a_command_s_last_words_are_told_though_it_ends_right_after_a_look(home, monkeypatch):
    def look(*args):
        got = select(*args)
        if not got[0] and pid.exists() and not speak.exists():
            speak.touch()  # and it does, and ends, before it is asked for
            until(lambda: processes.find(int(pid.read_text())).dead)
        return got

    select, said = command.select.select, []
    pid, speak = home / "pid", home / "speak"
    monkeypatch.setattr(command.select, "select", look)
    call = SimpleNamespace(
        cancelled=threading.Event(),
        at_end=lambda _: None,
        emit=lambda event, data: said.append((event, data)),
    )
    line = f"echo $$ > {pid}.new; mv {pid}.new {pid}; while [ ! -e {speak} ]; do sleep 0.01; done"
    ended = command.run(call, ["sh", "-c", f"{line}; echo last words"], {}, None)
    assert ended == {"code": 0, "signal": None}
    assert said == [({"stream": "out"}, b"last words\n")]


@pytest.mark.parametrize("run", ["", "..", "../x", "a/b", "-x", "A", "a\n", "x" * 65])
def test_a_run_is_called_by_a_plain_name(run):
    with pytest.raises(ValueError, match="not a run's name"):
        files.run_folder(run, 0, "~/.ddp-orch")


def test_a_node_is_a_number():
    with pytest.raises(ValueError, match="not a run's name"):
        files.run_folder("brave-otter", "../../x", "~/.ddp-orch")


@pytest.mark.parametrize("path", ["../x", "code/../../x", "/tmp/ddp-orch-x", ".."])
def test_what_leads_out_of_the_folder_is_refused(home, path):
    folder = prepare("brave-otter", 0, "~/.ddp-orch")
    with pytest.raises(ValueError, match="leads out"):
        files.put(body(b"x"), folder, path)
    assert not Path("/tmp/ddp-orch-x").exists()
    assert not (home / ".ddp-orch/runs/brave-otter/x").exists()


def test_a_symlink_is_not_written_through(home):
    folder = prepare("brave-otter", 0, "~/.ddp-orch")
    (home / "precious").write_text("kept")
    Path(folder, "train.py").symlink_to(home / "precious")
    with pytest.raises(OSError, match="symbolic"):
        files.put(body(b"x"), folder, "train.py")
    assert (home / "precious").read_text() == "kept"


def test_a_shorter_file_leaves_nothing_of_the_longer_one():
    folder = prepare("brave-otter", 0, "~/.ddp-orch")
    files.put(body(b"a long one"), folder, "x")
    files.put(body(b"short"), folder, "x")
    assert Path(folder, "x").read_bytes() == b"short"
