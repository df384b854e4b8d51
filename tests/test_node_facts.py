"""What a host says of itself, and what it says when its interpreter is not one."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from orchestrator.node import facts, processes

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return home


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not (got := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return got


@pytest.fixture
def script(tmp_path):
    def make(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def bare_python(script):
    """A real Python without site-packages, so that only PYTHONPATH has torch."""
    return script(f'exec "{sys.executable}" -S "$@"')


def install_torch(folder, version):
    (folder / "torch").mkdir(parents=True)
    (folder / "torch/__init__.py").write_text("raise SystemExit('imported')\n")
    information = folder / f"torch-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
    )


def test_loopback_is_among_the_addresses():
    assert ["lo", "127.0.0.1"] in facts.addresses()


def test_gather_tells_of_this_host():
    got = facts.gather(None, sys.executable)
    assert got["interpreter"]["version"] == sys.version.split()[0]
    assert got["cores"] == len(os.sched_getaffinity(0))
    assert got["home"] == os.environ["HOME"]
    assert got["system"] == "Linux"
    assert len(got["boot_id"]) == 36
    assert got["addresses"] == facts.addresses()


def test_a_torch_is_known_by_its_metadata_without_being_imported(
    bare_python, tmp_path, monkeypatch
):
    install_torch(tmp_path / "path", "2.9.1+cpu")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    got = facts.interpreter(bare_python, DEADLINE)
    assert got["torch"] == "2.9.1+cpu"
    assert "problem" not in got
    assert got["version"] == sys.version.split()[0]


def test_an_empty_folder_called_torch_is_no_torch(bare_python, tmp_path, monkeypatch):
    (tmp_path / "path/torch").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    got = facts.interpreter(bare_python, DEADLINE)
    assert "torch" not in got
    assert got["seen"] == []


def test_an_environment_that_has_torch_is_named_as_a_hint(bare_python, home):
    site = home / "venvs/train/lib/python3.11/site-packages/torch"
    site.mkdir(parents=True)
    (site / "version.py").touch()
    assert facts.interpreter(bare_python, DEADLINE)["seen"] == [f"{home}/venvs/train/bin/python"]


def test_files_in_the_home_do_not_pass_for_modules(bare_python, home):
    (home / "json.py").write_text("raise SystemExit('the wrong json')\n")
    install_torch(home, "1.0")
    got = facts.interpreter(bare_python, DEADLINE)
    assert got["version"] == sys.version.split()[0]
    assert "torch" not in got


def test_a_missing_interpreter():
    assert facts.interpreter("/no/such/python", DEADLINE)["problem"] == "not found"
    assert facts.interpreter("no-such-python", DEADLINE)["problem"] == "not found"


def test_a_directory_and_a_plain_file_are_no_interpreters(tmp_path):
    (tmp_path / "plain").touch(mode=0o644)
    for path in (tmp_path, tmp_path / "plain"):
        assert facts.interpreter(str(path), DEADLINE)["problem"] == "not an executable file"


def test_a_tilde_is_the_home(home, bare_python):
    (home / "mine").symlink_to(bare_python)
    assert "version" in facts.interpreter("~/mine", DEADLINE)


@pytest.mark.parametrize("prints", ["echo hello", "echo 42", "echo '[1, 2]'", "true"])
def test_a_program_that_prints_something_else_is_no_python(script, prints):
    assert "is no Python" in facts.interpreter(script(prints), DEADLINE)["problem"]


def test_the_last_line_of_its_stderr_is_told(script):
    got = facts.interpreter(script("echo first >&2; echo wrong libc >&2; exit 1"), DEADLINE)
    assert got["problem"] == "is no Python: wrong libc"


def test_one_that_hangs_is_ended_with_all_that_it_started(script, tmp_path):
    pids = tmp_path / "pids"
    hanging = script(f'sleep 60 & echo $$ $! > "{pids}"; wait')
    assert facts.interpreter(hanging, 2.0)["problem"] == "did not answer in 2 s"
    for pid in map(int, pids.read_text().split()):
        until(lambda pid=pid: (now := processes.find(pid)) is None or now.dead)


def test_a_part_that_takes_too_long_is_left_behind():
    never = threading.Event()
    try:
        assert facts.within(0.05, never.wait)() == {"problem": "no answer in 0.05 s"}
    finally:
        never.set()


def test_a_part_that_fails_says_so_and_one_that_works_is_passed_on():
    assert facts.within(DEADLINE, lambda: 1 // 0)()["problem"].startswith("ZeroDivisionError")
    assert facts.within(DEADLINE, lambda: 7)() == 7


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1,3", 3), ("GPU-8f, MIG-2a", 2)]
)
def test_the_visible_gpus_are_counted(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert facts.gpus() == count
