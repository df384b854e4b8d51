"""The run's folder: private, where it was asked for, and nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.node import files


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


def body(data):
    return SimpleNamespace(body=data)


def test_all_folders_are_private_and_files_too_whatever_the_umask(home, open_umask):
    folder = files.prepare(None, "brave-otter", 3)
    assert folder == str(home / ".ddp-orch/runs/brave-otter/3")
    files.put(body(b"print()"), folder, "code/train.py")
    made = [".ddp-orch", ".ddp-orch/runs", ".ddp-orch/runs/brave-otter"]
    for path in [*(home / name for name in made), folder, f"{folder}/worker-logs"]:
        assert mode(path) == 0o700, path
    assert mode(f"{folder}/code/train.py") == 0o600
    # The workers inherit the umask: their checkpoints are to be as the user has them elsewhere.
    assert os.umask(0) == 0


def test_a_folder_that_is_there_already_is_another_run():
    files.prepare(None, "brave-otter", 0)
    files.prepare(None, "brave-otter", 1)
    with pytest.raises(FileExistsError, match="choose another --name"):
        files.prepare(None, "brave-otter", 0)


@pytest.mark.parametrize("place", [".ddp-orch", ".ddp-orch/runs", ".ddp-orch/runs/brave-otter"])
def test_a_symlink_in_place_of_a_folder_is_refused(home, place):
    elsewhere = home / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="private"):
        files.prepare(None, "brave-otter", 0)
    assert list(elsewhere.rglob("0")) == []


@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_a_folder_that_others_may_write_is_refused(home, bits):
    (home / ".ddp-orch").mkdir()
    (home / ".ddp-orch").chmod(0o700 | bits)
    with pytest.raises(PermissionError, match="private"):
        files.prepare(None, "brave-otter", 0)


@pytest.mark.parametrize("run", ["", "..", "../x", "a/b", "-x", "A", "a\n", "x" * 65])
def test_a_run_is_called_by_a_plain_name(run):
    with pytest.raises(ValueError, match="not a run's name"):
        files.run_folder(run, 0)


def test_a_node_is_a_number():
    with pytest.raises(ValueError, match="not a run's name"):
        files.run_folder("brave-otter", "../../x")


@pytest.mark.parametrize("path", ["../x", "code/../../x", "/tmp/ddp-orch-x", ".."])
def test_what_leads_out_of_the_folder_is_refused(home, path):
    folder = files.prepare(None, "brave-otter", 0)
    with pytest.raises(ValueError, match="leads out"):
        files.put(body(b"x"), folder, path)
    assert not Path("/tmp/ddp-orch-x").exists()
    assert not (home / ".ddp-orch/runs/brave-otter/x").exists()


def test_a_symlink_is_not_written_through(home):
    folder = files.prepare(None, "brave-otter", 0)
    (home / "precious").write_text("kept")
    Path(folder, "train.py").symlink_to(home / "precious")
    with pytest.raises(OSError, match="symbolic"):
        files.put(body(b"x"), folder, "train.py")
    assert (home / "precious").read_text() == "kept"


def test_a_shorter_file_leaves_nothing_of_the_longer_one():
    folder = files.prepare(None, "brave-otter", 0)
    files.put(body(b"a long one"), folder, "x")
    files.put(body(b"short"), folder, "x")
    assert Path(folder, "x").read_bytes() == b"short"
