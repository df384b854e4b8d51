"""What a host tells of the runs' folders on it, and that it forgets what is over alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from orchestrator.node import processes, record, reports
from tests.obstructed import obstructed
from tests.test_node_agent import SUPPORTED, boot_agent, python_or_skip

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["boot_agent"]
NEVER = 4_000_000  # no kernel gives such a pid out


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ddp-orch"


@pytest.fixture
def living():
    """A process that lives, and one that is a zombie, as [pid, start]."""
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = subprocess.Popen(["true"])
    end = time.monotonic() + 60
    while not processes.find(dead.pid).dead and time.monotonic() < end:
        time.sleep(0.01)
    yield identity(alive.pid), identity(dead.pid)
    alive.communicate()
    dead.wait()


def identity(pid):
    return [pid, processes.find(pid).start]


def put(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def node(state, run="brave-otter", rank=0, **files) -> Path:
    """Make a folder as a run's node has it; `run_json` adds to its record, None leaves it out."""
    folder = state / "runs" / run / str(rank)
    for path in (state, state / "runs", folder.parent, folder):
        path.mkdir(mode=0o700, exist_ok=True)
    more = files.pop("run_json", {})
    if more is not None:
        known = dict.fromkeys(["supervisor", "guard", "root"])
        whole = {"version": 1, "run": run, "node": rank, "time": 1.0, **known, **record.here()}
        put(folder, "run.json", more if isinstance(more, str) else {**whole, **more})
    for name, value in files.items():
        put(folder, name.replace("_", "."), value)
    return folder


def listed(state="~/.ddp-orch"):
    return {told["folder"].partition("/runs/")[2]: told for told in reports.list(None, state)}


def test_every_nodes_folder_is_told_of(state, living):
    (alive, _) = living
    node(state, "ended", run_json={"owner": "al"}, exit_json={"code": 0}, stop_json={"grace": 1})
    node(state, "new", 0)
    node(state, "new", 11, run_json={"supervisor": alive, "guard": alive})
    told = listed()
    assert {name: one["state"] for name, one in told.items()} == {
        "ended/0": "ended",
        "new/0": "starting",
        "new/11": "running",
    }
    ended = told["ended/0"]
    assert ended["record"]["owner"] == "al"
    assert (ended["exit"], ended["stop"]) == ({"code": 0}, {"grace": 1})
    assert ended["problem"] is None
    assert all(one["here"] for one in told.values())
    assert set(ended) == {
        "folder", "state", "record", "exit", "stop", "ranks_alive", "root_alive", "last_log_age",
        "problem", "here",
    }  # fmt: skip
    assert reports.status(None, ended["folder"]) == ended


def plan(run, nodes):
    """Make a plan as large as that of a run on so many hosts is."""
    folders = [f"/home/u/.ddp-orch/runs/{run}/{rank}" for rank in range(nodes)]
    return {"event": "Planned", "run": run, "folders": folders}


def told_in_brief(state, names=None):
    return {
        told["folder"].partition("/runs/")[2]: told for told in reports.tell(None, state, names)
    }


def test_a_runs_plan_is_told_once_and_of_records_what_is_wanted(state):
    for run in ("brave-otter", "calm-owl"):
        for rank in range(16):
            more = {"plan": plan(run, 16), "owner": "al", "cookie": "not to be told"}
            node(state, run, rank, run_json=more)
    node(state, "calm-owl", 16, run_json={"plan": plan("another's", 1)})
    node(state, "calm-owl", 17)
    node(state, "calm-owl", 18, run_json=None)
    told = told_in_brief(state)
    for run in ("brave-otter", "calm-owl"):
        first = str(state / "runs" / run / "0")
        assert {told[f"{run}/{rank}"]["plan_of"] for rank in range(16)} == {first}
        known = told[f"{run}/0"]["record"]
        assert known == {"version": 1, "owner": "al", "time": 1.0, "plan": plan(run, 16)}
        assert told[f"{run}/7"]["record"] == {"version": 1, "owner": "al", "time": 1.0}
        assert json.dumps(told).count(json.dumps(plan(run, 16))) == 1
    assert told["calm-owl/16"]["record"]["plan"] == plan("another's", 1)
    assert told["calm-owl/17"]["record"] == {"version": 1, "time": 1.0}
    assert told["calm-owl/18"]["record"] is None


def test_only_of_runs_that_are_asked_about(state):
    for run in ("brave-otter", "brave-owl", "calm-owl"):
        node(state, run)
    assert list(told_in_brief(state, ["brave-otter", "calm"])) == ["brave-otter/0", "calm-owl/0"]
    assert list(told_in_brief(state, ["brave"])) == ["brave-otter/0", "brave-owl/0"]
    assert told_in_brief(state, []) == {}


def test_without_any_and_without_the_folder(state):
    assert listed() == {}
    state.mkdir(mode=0o700)
    assert listed() == {}
    assert reports.status(None, str(state / "runs/a/0"))["state"] == "absent"


def test_places_elsewhere(state):
    here = record.here()
    node(state, "rebooted", run_json={"place": "another boot"})
    node(state, "elsewhere", run_json={"place": "another boot", "machine": "gpu9 1234"})
    node(state, "over", run_json={"place": "x", "machine": "gpu9 1"}, exit_json={"code": 1})
    assert here["place"]
    states = {name: one["state"] for name, one in listed().items()}
    assert states == {"rebooted/0": "rebooted", "elsewhere/0": "elsewhere", "over/0": "ended"}


def test_ranks_that_live_are_counted_by_pid_and_start(state, living):
    alive, zombie = living
    (pid, start), gone = alive, NEVER
    before = [{"pid": pid}, {"pid": pid}, {"pid": pid}]
    rows = [
        {"pid": pid, "start": start},
        {"pid": pid},  # as an older supervisor writes it
        {"pid": pid, "start": start + 1},
        {"pid": zombie[0], "start": zombie[1]},
        {"pid": gone, "start": 1},
    ]
    journal = "".join(
        json.dumps({"event": "workers", "workers": table}) + "\n" for table in (before, rows)
    )
    who = {"supervisor": alive, "guard": None, "root": None}
    node(state, "running", run_json=who, journal_jsonl=journal)
    dead = {"supervisor": [gone, 1], "guard": zombie, "root": alive}
    node(state, "lost", run_json=dead, journal_jsonl=journal)
    node(state, "over", run_json=who, journal_jsonl=journal, exit_json={"code": 0})
    told = listed()
    alive_in = {name: (one["state"], one["ranks_alive"]) for name, one in told.items()}
    assert alive_in == {"running/0": ("running", 2), "lost/0": ("lost", 2), "over/0": ("ended", 0)}
    assert told["lost/0"]["root_alive"] is True


def test_the_last_line_is_the_newest_log(state):
    folder = node(state)
    assert listed()["brave-otter/0"]["last_log_age"] is None
    (folder / "torchrun.out").write_text("")  # made at the start, and nothing said since
    assert listed()["brave-otter/0"]["last_log_age"] is None
    logs = folder / "worker-logs" / "0"
    logs.mkdir(parents=True)
    for name, age in (("r0.out", 500.0), ("r1.err", 100.0)):
        (logs / name).write_text("x")
        os.utime(logs / name, times=(time.time() - age,) * 2)
    assert 100 <= listed()["brave-otter/0"]["last_log_age"] < 200
    os.utime(logs / "r0.out", times=(time.time() + 500,) * 2)  # a file server's clock is ahead
    assert listed()["brave-otter/0"]["last_log_age"] == 0.0


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"run_json": None}, "written by an older ddp-orch: its logs can be read; whether it"),
        ({"run_json": {"version": 2}}, "written by a newer ddp-orch (state version 2): use that"),
        ({"run_json": {"version": "x"}}, "its records make no sense"),
        ({"run_json": "{"}, "its records make no sense"),
        ({"run_json": "[1]"}, "its records make no sense: run.json is no record"),
        ({"run_json": {"place": None, "machine": 3, "supervisor": 5}}, None),
        ({"run_json": {"supervisor": 5}}, "its records make no sense"),
        ({"exit_json": "{"}, "its records make no sense"),
        ({"journal_jsonl": '{"event":"workers","workers":3}\n'}, None),
    ],
)
def test_what_cannot_be_read_hides_no_other(state, files, problem):
    node(state, "bad", **files)
    node(state, "good", exit_json={"code": 0})
    told = listed()
    assert told["good/0"]["state"] == "ended"
    bad = told["bad/0"]
    if problem:
        assert bad["state"] == "unreadable"
        assert bad["problem"].startswith(problem)


def test_links_and_other_names_are_not_followed(state, tmp_path):
    node(state, "good", exit_json={"code": 0})
    other = node(tmp_path / "other", "bad", exit_json={"code": 0})
    runs = state / "runs"
    (runs / "link").symlink_to(other.parent)
    (runs / "good" / "1").symlink_to(other)
    (runs / "UPPER").mkdir()
    (runs / "good" / "x1").mkdir()
    (runs / "good" / ".forgotten-0-aa").mkdir()
    told = listed()
    assert sorted(told) == ["good/0", "good/1", "link"]
    assert told["good/1"]["state"] == told["link"]["state"] == "unreadable"
    assert "is a link or a file, no folder" in told["good/1"]["problem"]
    run = node(state, "inside", run_json=None)
    (run / "run.json").symlink_to(other / "run.json")
    assert listed()["inside/0"]["state"] == "unreadable"


@pytest.mark.parametrize("place", ["", "runs"])
def test_a_base_that_others_can_change_is_refused(state, place):
    folder = node(state, exit_json={"code": 0})
    (state / place).chmod(0o777)
    with pytest.raises(PermissionError, match="may be written to by others: chmod go-w"):
        listed()
    with pytest.raises(PermissionError):
        reports.forget(None, str(folder))
    assert folder.exists()


@pytest.mark.parametrize("version", SUPPORTED)
def test_on_every_python(version, state, boot_agent, living):
    """Through an agent, as the controller asks."""
    (alive, _) = living
    journal = json.dumps({"event": "workers", "workers": [{"pid": alive[0]}]}) + "\n"
    running = node(state, "runs", run_json={"supervisor": alive}, journal_jsonl=journal)
    over = node(state, "over", exit_json={"code": 0})
    agent = boot_agent(python_or_skip(version))
    agent.load("reports")
    agent.ask(1, "reports.list", state_dir="~/.ddp-orch")
    told = agent.answer(1)["done"]
    assert [(one["folder"], one["state"], one["ranks_alive"]) for one in told] == [
        (str(over), "ended", 0),
        (str(running), "running", 1),
    ]
    agent.ask(2, "reports.forget", folder=str(running))
    assert "run runs is not over here (running), and is kept" in agent.answer(2)["failed"]
    agent.ask(3, "reports.forget", folder=str(over))
    assert agent.answer(3)["done"] is None
    agent.ask(5, "reports.tell", state_dir="~/.ddp-orch", names=["run"])
    (told,) = agent.answer(5)["done"]
    assert (told["folder"], told["state"]) == (str(running), "running")
    agent.ask(4, "reports.status", folder=str(over))
    assert agent.answer(4)["done"]["state"] == "absent"
    assert agent.close() is not None


# --- forgetting ---------------------------------------------------------------------------------


def test_what_is_over_is_forgotten(state, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("")
    first = node(state, rank=0, exit_json={"code": 0})
    second = node(state, rank=1, run_json={"place": "another boot"})
    (first / "link").symlink_to(tmp_path / "mine")
    reports.forget(None, str(first))
    assert not first.exists()
    assert second.exists()
    reports.forget(None, str(second))
    assert list((state / "runs").iterdir()) == []
    assert (tmp_path / "mine" / "thesis").exists()
    reports.forget(None, str(second))  # by another host with the same home


def test_what_cannot_be_removed_is_told_and_tried_again(state):
    """Or it would stay there for ever, hidden, and be called removed."""
    other = node(state, rank=1, exit_json={"code": 0})
    folder = node(state, exit_json={"code": 0})
    with obstructed(folder):
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"not all of it can be removed: .*stays"):
                reports.forget(None, str(folder))
            (going,) = folder.parent.glob(".forgotten-0-*")
            assert [path.name for path in going.iterdir()] == ["m"], "what can go has gone"
            told = reports.list(None, str(state))
            assert [(one["folder"], one["state"]) for one in told] == [
                (str(other), "ended"),
                (str(folder), "forgotten"),
            ]
            assert told[1]["problem"] == "not all of it is removed: ddp-orch prune brave-otter"
    reports.forget(None, str(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_what_a_prune_that_was_ended_has_left_goes_with_the_next(state):
    folder = node(state, exit_json={"code": 0})
    for name in (".forgotten-0-0123abcd", ".forgotten-0-4567abcd", ".forgotten-10-0123abcd"):
        (folder.parent / name / "worker-logs").mkdir(parents=True)
    reports.forget(None, str(folder))
    assert [path.name for path in folder.parent.iterdir()] == [".forgotten-10-0123abcd"]
    reports.forget(None, str(folder.parent / "10"))
    assert list((state / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"run_json": {"supervisor": "alive"}}, "is not over here"),
        ({"run_json": {"supervisor": [NEVER, 1], "guard": [NEVER, 1]}}, "is not over here .lost"),
        ({}, "is not over here .starting"),
        ({"run_json": {"place": "x", "machine": "y"}}, "is not over here .elsewhere"),
        ({"run_json": {"version": 7}}, "state version 7"),
        ({"run_json": None}, "is kept: written by an older"),
        ({"exit_json": {"survivors": ["alive"]}}, "of it still lives; it is kept"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_what_is_not_over_is_kept(state, files, why, old, living):
    (pid, start), _ = living
    text = json.dumps(files).replace('"supervisor": "alive"', f'"supervisor": [{pid}, {start}]')
    survivor = json.dumps({"pid": pid, "start": start, "name": "x", "state": "D"})
    folder = node(state, **json.loads(text.replace('["alive"]', f"[{survivor}]")))
    if old and files == {"run_json": None}:
        reports.forget(None, str(folder), old=True)
        assert not folder.exists()
        return
    with pytest.raises(RuntimeError, match=why):
        reports.forget(None, str(folder), old=old)
    assert folder.exists()


@pytest.mark.parametrize("where", ["runs/brave-otter/0/worker-logs", "runs/brave-otter", "", "x/0"])
def test_what_is_no_runs_folder_is_not_removed(state, where):
    node(state, exit_json={"code": 0})
    (state / "x" / "0").mkdir(parents=True)
    with pytest.raises(ValueError, match="is no run's folder"):
        reports.forget(None, str(state / where))
    assert (state / where).exists() or where.endswith("worker-logs")


@pytest.mark.parametrize("linked", ["brave-otter", "brave-otter/0"])
def test_a_link_in_its_place_is_not_removed(state, tmp_path, linked):
    folder = node(state, exit_json={"code": 0})
    moved = tmp_path / "moved"
    (state / "runs" / linked).rename(moved)
    (state / "runs" / linked).symlink_to(moved)
    with pytest.raises(PermissionError, match="is a link or a file"):
        reports.forget(None, str(folder))
    assert moved.exists()
