"""`ps` and `prune` of what this machine knows by itself, as people run them; no host is asked."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.events import Ended, Planned
from orchestrator.state import RunState
from orchestrator.store import RunStore

ROOT = Path(__file__).parent.parent
PLANNED = Planned(
    run="r",
    hosts=("gpu1", "gpu2"),
    workers=(1, 1),
    what="train.py",
    endpoint="10.0.0.1:29400",
    addresses=("10.0.0.1", "10.0.0.2"),
    max_restarts=0,
    time=0.0,
    folders=("/h/.ddp-orch/runs/r/0", "/h/.ddp-orch/runs/r/1"),
)
ENDED = Ended(
    run="r", exit_code=100, seconds=60.0, hosts=("gpu1",), why="w", failure=None, survivors=(),
    logs="",
)  # fmt: skip
# Who asked one of these would not get an answer.
NOWHERE = '{"hosts": [{"name": "gpu1", "ssh": "x@127.0.0.1:1"}, {"name": "gpu2"}]}'
FAR = NOWHERE.replace('{"name": "gpu2"}', '{"name": "gpu2", "ssh": "x@127.0.0.1:1"}')
DAY = 86400.0


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def record(name: str, days_ago: float, ended: Ended | None = ENDED, inventory=NOWHERE) -> Path:
    store = RunStore(name, inventory)
    store(replace(PLANNED, run=name, time=time.time() - days_ago * DAY), RunState())
    if ended:
        store(replace(ended, run=name), RunState())
    store.close()
    return store.folder


def environment(state: Path, **more: str) -> dict[str, str]:
    # No PATH: no ssh, nothing may be reached from here.
    base = {"HOME": str(state), "PATH": "", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return base | {"DDP_ORCH_STATE_DIR": str(state), "COLUMNS": "200"} | more


def ddp_orch(state, *words, stdin=subprocess.DEVNULL, **env):
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        env=environment(state, **env),
        cwd=state.parent,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_has_ended_is_told_from_the_record(state):
    record("brave-otter", 40)
    record("calm-owl", 0.5, replace(ENDED, exit_code=0))
    (state / "runs" / "half").mkdir()
    shown = ddp_orch(state, "ps")
    assert shown.returncode == 0, shown.stderr
    head, *rows = [line.split() for line in shown.stdout.splitlines()]
    assert " ".join(head) == "run state age owner hosts ranks last log"
    cells = {row[0]: row[1:] for row in rows}
    assert cells["calm-owl"][:5] == ["ended", "(exit", "0)", "12", "h"]
    assert cells["brave-otter"][:5] == ["ended", "(exit", "100)", "40", "d"]
    assert cells["brave-otter"][6:] == ["gpu1,", "gpu2", "-", "-"]
    assert cells["half"][0] == "unknown"
    assert shown.stderr.splitlines() == [
        "half: its record cannot be read: No such file or directory",
        "1 run ended more than 30 days ago: ddp-orch prune",
    ]


def test_one_run_brings_its_own_exit_code_and_json(state):
    record("brave-otter", 1)
    record("calm-owl", 2)
    shown = ddp_orch(state, "ps", "brave", "-o", "json")
    assert (shown.returncode, shown.stderr) == (100, "")
    (line,) = shown.stdout.splitlines()
    assert {"run": "brave-otter", "state": "ended", "exit_code": 100}.items() <= json.loads(
        line
    ).items()


def test_a_run_that_nobody_knows(state):
    for words in (["ps", "x"], ["prune", "x"]):
        shown = ddp_orch(state, *words)
        assert (shown.returncode, shown.stdout) == (102, "")
        assert shown.stderr.startswith("ddp-orch: no run")
    empty = ddp_orch(state, "ps")
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "no runs are known\n")


def test_a_file_that_is_called_like_a_run_is_not_taken_for_an_inventory(state):
    """`logs brave-otter > brave-otter` makes one before it begins."""
    record("brave-otter", 1, replace(ENDED, logs="x", exit_code=0))
    (state.parent / "brave-otter").touch()
    for verb in "logs", "attach":
        shown = ddp_orch(state, verb, "brave-otter")
        assert shown.returncode == 0, shown.stderr
    (state.parent / "calm-owl").touch()
    shown = ddp_orch(state, "logs", "calm-owl")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "ddp-orch logs -i calm-owl" in shown.stderr


def test_records_that_others_can_change_are_not_read(state):
    record("r", 1)
    state.chmod(0o777)
    shown = ddp_orch(state, "ps")
    assert shown.returncode == 2
    assert f"no records are kept in {state}: others may write to it" in shown.stderr


def test_old_runs_are_forgotten_and_young_ones_kept(state):
    # Of before there was an inventory in the record: their hosts are not known, nor asked.
    old = record("old", 31, inventory=None)
    young = record("young", 29, inventory=None)
    shown = ddp_orch(state, "prune")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-1] == "1 run removed"
    assert (old.exists(), young.exists()) == (False, True)
    ddp_orch(state, "prune", "young")
    assert not young.exists(), "by name, however young"


def test_where_hosts_cannot_be_asked_the_record_stays(state):
    folder = record("r", 40)
    shown = ddp_orch(state, "prune")
    assert shown.returncode == 4
    assert folder.exists()
    assert "r is kept: what is left on its other hosts stays: gpu1: " in shown.stderr
    assert shown.stdout.splitlines()[-1] == "0 runs removed"


def test_a_run_that_may_still_run_is_kept(state):
    folder = record("r", 40, None)
    shown = ddp_orch(state, "prune", "r")
    assert (shown.returncode, folder.exists()) == (4, True)
    assert "r is kept: whether it has ended is not known: gpu1: " in shown.stderr
    told = ddp_orch(state, "ps", "r")
    assert told.returncode == 4
    assert "unknown" in told.stdout
    assert "gpu1: " in told.stderr
    assert ddp_orch(state, "ps").returncode == 0, "the list is all that was asked for"


def test_the_end_outlives_an_attach_that_reaches_no_host(state):
    folder = record("r", 1, replace(ENDED, exit_code=103), FAR)
    before = (folder / "events.jsonl").read_bytes()
    tried = ddp_orch(state, "attach", "r")
    assert (tried.returncode, "gpu1: " in tried.stderr) == (4, True), tried.stderr
    told = ddp_orch(state, "ps", "r")
    assert (told.returncode, "ended (exit 103)" in told.stdout) == (103, True), told.stdout
    assert (folder / "events.jsonl").read_bytes().startswith(before)


def test_a_run_whose_hosts_are_gone_for_good_can_be_forgotten(state):
    folder, other = record("r", 40, None, FAR), record("other", 40, None, FAR)
    kept = ddp_orch(state, "prune", "r")
    assert (kept.returncode, folder.exists()) == (4, True)
    assert "if these hosts are gone for good: ddp-orch prune --here r" in kept.stderr
    unasked = ddp_orch(state, "prune", "--here", "r")
    assert (unasked.returncode, folder.exists()) == (2, True)
    assert unasked.stderr.splitlines()[-2:] == [
        "ddp-orch: nothing was removed: it may still run, and nobody is here to be asked",
        "  -> -y asks nobody",
    ]
    shown = ddp_orch(state, "prune", "--here", "-y", "r")
    assert (shown.returncode, folder.exists(), other.exists()) == (0, False, True)
    assert shown.stderr.splitlines() == [
        "these records alone: no host is asked, and what hosts have of it stays",
        "not known to have ended: r",
    ]
    assert shown.stdout.splitlines()[-1] == "1 run removed from this machine"


def test_of_a_run_that_has_ended_the_record_here_goes_without_a_question(state):
    folder = record("r", 1, ENDED, FAR)
    kept = ddp_orch(state, "prune", "r")
    assert (kept.returncode, folder.exists()) == (4, True)
    assert "if these are gone for good: ddp-orch prune --here r" in kept.stderr
    assert ddp_orch(state, "prune", "--here", "r").returncode == 0
    assert not folder.exists()


def test_what_is_recorded_at_this_moment_stays_here(state):
    folder = record("r", 1, None, FAR)
    held = RunStore.reopen("r")
    shown = ddp_orch(state, "prune", "--here", "-y", "r")
    held.close()
    assert (shown.returncode, folder.exists()) == (101, True)
    assert "r is kept: a ddp-orch that runs now records it" in shown.stderr


@pytest.mark.parametrize("answer", [b"n\n", b"y\n"])
def test_on_a_terminal_it_asks_before_it_forgets_what_may_run(state, answer):
    folder = record("r", 1, None, FAR)
    master, slave = pty.openpty()
    try:
        os.write(master, answer)
        shown = ddp_orch(state, "prune", "--here", "r", stdin=slave)
    finally:
        os.close(master)
        os.close(slave)
    assert "[y/N]" in shown.stderr
    assert folder.exists() is (answer == b"n\n")


@pytest.mark.parametrize(
    ("answer", "env", "removed"),
    [
        (b"n\n", {}, False),
        (b"\n", {}, False),
        (b"y\n", {}, True),
        (None, {"DDP_ORCH_YES": "1"}, True),
    ],
)
def test_on_a_terminal_it_asks(state, answer, env, removed):
    folder = record("r", 40, inventory=None)
    master, slave = pty.openpty()
    try:
        if answer:
            os.write(master, answer)
        shown = ddp_orch(state, "prune", stdin=slave, **env)
    finally:
        os.close(master)
        os.close(slave)
    assert ("[y/N]" in shown.stderr) is (answer is not None)
    assert shown.stdout.splitlines()[-1] == f"{int(removed)} run{'s' * (not removed)} removed"
    assert folder.exists() is not removed
