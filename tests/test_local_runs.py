"""The runs this machine remembers: listed whatever state their records are in, and forgotten."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from inventory.load import load_text
from orchestrator import local_runs
from orchestrator.errors import NoSuchRun, UsageError
from orchestrator.events import Detached, Ended, Planned, Warned, encode
from orchestrator.folders import runs_folder
from orchestrator.local_runs import find, forget, known, sweep
from orchestrator.state import RunState
from orchestrator.store import RunStore
from tests.obstructed import obstructed

if TYPE_CHECKING:
    from pathlib import Path

INVENTORY = load_text(
    """
hosts: [{name: gpu1, ssh: "me@10.0.0.1:2222", env: {A: "1"}}, gpu2]
job: {script: train.py, sync: {from: .}, secrets: [TOKEN], nnodes: "2"}
""",
    "inventory.yaml",
)
PLANNED = Planned(
    run="r",
    hosts=("gpu1", "gpu2"),
    workers=(1, 1),
    what="train.py",
    endpoint="10.0.0.1:29400",
    addresses=("10.0.0.1", "10.0.0.2"),
    max_restarts=0,
    time=1000.0,
)
ENDED = Ended(
    run="r", exit_code=100, seconds=60.0, hosts=("gpu1",), why="w", failure=None, survivors=(),
    logs="",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def record(name, *events, time=1000.0) -> Path:
    store = RunStore(name, INVENTORY.model_dump_json())
    for event in (replace(PLANNED, run=name, time=time), *events):
        store(event, RunState())
    store.close()
    return store.folder


def test_the_newest_comes_first_with_all_that_is_known():
    record("old", Warned(message="x"), ENDED, time=500.0)
    record("new", Detached(run="new", hosts=("gpu1",), time=2.0), time=2000.0)
    new, old = known()
    assert (old.name, old.ended, old.ended_at, old.detached) == ("old", ENDED, 560.0, False)
    assert (new.name, new.ended, new.ended_at, new.detached) == ("new", None, None, True)
    assert (new.recording, new.problem) == (False, None)
    assert new.inventory == INVENTORY


def test_without_any():
    assert known() == []
    with pytest.raises(NoSuchRun, match="no run is known here") as caught:
        find(None)
    assert "ps -i" in caught.value.hint


def planned(**wrong) -> bytes:
    line = json.loads(encode(replace(PLANNED, run="broken"))) | wrong
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def test_an_end_that_makes_no_sense_is_none(folder):
    path = record("r", ENDED) / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seconds":60.0', b'"seconds":"long"'))
    assert find("r").ended is None


def test_records_that_may_not_be_read_are_named(folder, monkeypatch):
    record("r")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(UsageError, match="runs cannot be read: Permission denied"):
        known()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "no plan is in it"),
        (b"\xff\xff\n{}\n[]\n", "no plan is in it"),
        (b'{"event":"Planned","run":"r"}\n{"event":"Planned', "no plan is in it"),
        (None, "cannot be read: No such file"),
        (planned(time="now"), "no plan is in it"),
        (planned(time=None), "no plan is in it"),
        (planned(hosts=[1, 2]), "no plan is in it"),
        (planned(hosts=["gpu1"]), "no plan is in it"),
        (planned(folders=["/only/one"]), "no plan is in it"),
        (planned(run="../other"), "no plan is in it"),
    ],
)
def test_a_broken_record_hides_no_other(text, problem):
    broken = record("broken") / "events.jsonl"
    if text is None:
        broken.unlink()
    else:
        broken.write_bytes(text)
    (broken.parent / "inventory.json").write_text("{")
    record("whole", time=9e9)
    whole, half = known()
    assert (whole.name, whole.problem) == ("whole", None)
    assert half.name == "broken"
    assert half.plan is None
    assert half.inventory is None
    assert problem in half.problem


def test_what_is_no_record_is_none(folder):
    record("r")
    (folder / "runs" / "Not-a-name").mkdir()
    (folder / "runs" / "file").write_text("")
    (folder / "runs" / "link").symlink_to("/etc")
    assert [run.name for run in known()] == ["r"]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("brave", "brave"), ("brave-o", "brave-otter"), ("c", "calm"), (None, "calm")],
)
def test_a_run_is_found_by_how_its_name_begins(wanted, name):
    for number, each in enumerate(["brave", "brave-otter", "calm"]):
        record(each, time=float(number))
    assert find(wanted).name == name


def test_a_name_that_fits_several_is_told_with_them():
    record("brave-otter")
    record("brave-eagle")
    with pytest.raises(UsageError, match="brave fits more than one run: brave-eagle, brave-otter"):
        find("brave")
    with pytest.raises(NoSuchRun, match="no run called otter"):
        find("otter")
    with pytest.raises(NoSuchRun, match="no run is known here"):
        find("")


def test_a_run_is_forgotten_and_its_name_is_free():
    forgotten = record("brave")
    kept = record("calm")
    forget(find("brave"))
    assert not local_runs.taken("brave")
    assert [path.name for path in runs_folder().iterdir()] == [kept.name]
    assert not forgotten.exists()


def test_what_has_ended_and_is_not_being_written_may_go():
    record("over", ENDED)
    record("over-too")
    record("left", Detached(run="left", hosts=("gpu1",), time=1.0))
    still = RunStore("still", INVENTORY.model_dump_json())
    for event in replace(PLANNED, run="still"), replace(ENDED, run="still"):
        still(event, RunState())
    names = ("over", "over-too", "left", "still", "ove", "absent")
    assert [name for name in names if local_runs.has_ended(name)] == ["over"]
    still.close()
    assert local_runs.has_ended("still")


def test_what_cannot_be_removed_is_told_and_swept_later():
    folder = record("r")
    with obstructed(folder):
        with pytest.raises(UsageError, match=r"not all of .* can be removed: .*stays") as caught:
            forget(find("r"))
        assert "ddp-orch prune" in caught.value.hint
        assert known() == []
        (going,) = runs_folder().iterdir()
        assert [path.name for path in going.iterdir()] == ["m"], "what can go has gone"
        (error,) = sweep()
        assert error.message == caught.value.message
    assert sweep() == []
    assert list(runs_folder().iterdir()) == []


def test_what_a_link_in_a_record_leads_to_is_not_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("")
    (record("r") / "link").symlink_to(tmp_path / "mine")
    forget(find("r"))
    assert (tmp_path / "mine" / "thesis").exists()


def test_a_run_that_is_recorded_now_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(local_runs, "MOMENT", 0.05)
    record("r")
    store = RunStore.reopen("r")
    with pytest.raises(UsageError, match="is being recorded by another ddp-orch"):
        forget(find("r"))
    store.close()
    assert find("r").plan


@pytest.mark.parametrize("place", ["", "runs"])
@pytest.mark.parametrize("fault", ["link", "open", "foreign"])
def test_a_base_that_others_can_change_is_refused(folder, place, fault, tmp_path):
    record("r")
    where = folder / place
    if fault == "link":
        where.rename(tmp_path / "moved")
        where.symlink_to(tmp_path / "moved")
        said = "it is a link or a file"
    elif fault == "open":
        where.chmod(0o770)
        said = f"others may write to it: chmod go-w {where}"
    elif os.geteuid() == 0:
        os.chown(where, 12345, -1)
        said = "it belongs to another user"
    else:
        pytest.skip("only root gives a folder away")
    for use in (known, lambda: RunStore("x"), lambda: RunStore.reopen("r")):
        with pytest.raises(UsageError, match=said) as caught:
            use()
        assert "DDP_ORCH_STATE_DIR" in caught.value.hint


def test_the_base_is_made_private(folder):
    before = os.umask(0o002)
    try:
        record("r")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads((folder / "runs/r/inventory.json").read_text())["hosts"][1]["name"] == "gpu2"
