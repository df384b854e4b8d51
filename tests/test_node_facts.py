"""What a host says of itself."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from orchestrator.node import facts, network

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return home


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not (got := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return got


def test_loopback_is_among_the_addresses():
    assert ["lo", "127.0.0.1", 8] in network.addresses()


def test_gather_tells_of_this_host():
    got = facts.gather(None, sys.executable)
    assert got["interpreter"]["version"] == sys.version.split()[0]
    assert 1 <= got["cores"] <= len(os.sched_getaffinity(0))
    assert got["home"] == os.environ["HOME"]
    assert got["system"] == "Linux"
    assert len(got["boot_id"]) == 36


def test_a_look_for_environments_that_hangs_takes_nothing_else_along(tmp_path, monkeypatch):
    """It is for a hint alone: a home may hold a dead mount, or a very large tree."""
    never = threading.Event()
    monkeypatch.setattr(facts.interpreter, "seen", never.wait)
    monkeypatch.setattr(facts, "SEEING", 0.05)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    try:
        got = facts.gather(None, str(bare))["interpreter"]
    finally:
        never.set()
    assert got["version"] == sys.version.split()[0]
    assert got["seen"] == []


def test_what_has_torch_is_told_where_the_interpreter_has_none(home):
    site = home / "venvs/train/lib/python3.11/site-packages/torch"
    site.mkdir(parents=True)
    (site / "version.py").touch()
    got = facts.gather(None, "/no/such/python")["interpreter"]
    assert got == {"problem": "not found", "seen": [f"{home}/venvs/train/bin/python"]}


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
    ("visible", "count"),
    [(None, None), ("", 0), ("-1", 0), ("0", 1), ("0,1,3", 3), ("GPU-8f, MIG-2a", 2)],
)
def test_the_visible_gpus_are_counted(monkeypatch, visible, count):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert facts.gpus_visible() == count


@pytest.mark.parametrize(
    ("files", "cgroup", "quotas"),
    [
        # Version 2: a container sees its own limit at the top.
        ({"cpu.max": "150000 100000"}, "0::/", [1.5]),
        ({"cpu.max": "max 100000"}, "0::/", []),
        # A batch system's job: each group around it counts.
        (
            {"slurm/cpu.max": "400000 100000", "slurm/job7/cpu.max": "200000 100000"},
            "0::/slurm/job7/step0",
            [4.0, 2.0],
        ),
        # Version 1, and both at once.
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", [0.5]),
        (
            {"cpu/d/cpu.cfs_quota_us": "300000", "cpu/d/cpu.cfs_period_us": "100000"},
            "9:name=systemd:/d\n3:memory:/d\n2:cpu,cpuacct:/d\n0::/",
            [3.0],
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", []),
        ({"cpu.max": "what?"}, "0::/", []),
        ({}, "0::/gone", []),
    ],
)
def test_a_control_groups_share_of_the_cores(tmp_path, files, cgroup, quotas):
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "own").write_text(cgroup + "\n")
    assert facts.cpu_quotas(str(tmp_path / "fs"), str(tmp_path / "own")) == quotas


@pytest.mark.parametrize(("quotas", "cores"), [([], 8), ([3.9, 5.0], 3), ([0.5], 1), ([64.0], 8)])
def test_the_smallest_limit_counts_and_one_core_is_the_least(monkeypatch, quotas, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(facts, "cpu_quotas", lambda: quotas)
    assert facts.cores() == cores


def test_where_workers_are_to_start(home):
    (home / "work").mkdir()
    (home / "file").touch()

    def found(workdir):
        got = facts.folder_to_start_in(workdir)
        return got["path"], got.get("problem")

    assert facts.folder_to_start_in(None) is None
    assert found("~/work") == (f"{home}/work", None)
    assert found("work") == (f"{home}/work", None)  # relative to the home
    assert found(str(home)) == (str(home), None)
    assert found("~/none") == (f"{home}/none", "is not there")
    assert found("file") == (f"{home}/file", "is no folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everywhere")
def test_a_folder_that_may_not_be_entered(home):
    (home / "closed").mkdir(mode=0)
    assert facts.folder_to_start_in("closed")["problem"] == "may not be entered by this user"
