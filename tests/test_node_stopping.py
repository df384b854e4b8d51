"""The end of a node from outside: bounded, proven, idempotent, whatever became of its keepers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from orchestrator.node import looking, processes, record, remains, runs, stopping
from tests.node_run import GO, NOTHING, Run, bearers, cookie, heeds_term, run, until
from tests.test_node_processes import spawn

__all__ = ["cookie", "run", "spawn"]

EMPTY = {"state": "ended", "survivors": [], "verified": True}


def test_a_stop_gives_workers_time_to_end_as_they_like(run):
    run.start("trap 'exit 7' TERM; while :; do sleep 0.01; done").wait_for("workers")
    assert run.stop(20.0, why="tired", exit_code=130, by="bob@desk") == EMPTY
    assert run.ended()["reason"] == "stopped"
    assert [entry["code"] for entry in run.events("worker")] == [7]
    (told,) = run.events("stopping")
    told.pop("time")
    assert told == {
        "event": "stopping", "grace": 20.0, "why": "tired", "exit_code": 130, "by": "bob@desk",
    }  # fmt: skip


def test_workers_that_ignore_term_are_killed_after_the_grace(run):
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    assert run.stop(0.2) == EMPTY
    word = run.ended()
    assert word["reason"] == "stopped"
    assert word["signal"] == signal.SIGKILL, "torchrun's own end is known: it was our child"
    (worker,) = run.events("worker")
    assert (worker["signal"], worker["ours"]) == (signal.SIGKILL, True)


def test_a_second_stop_shortens_the_grace(run):
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    first = threading.Thread(target=run.stop, args=(3600.0,))
    first.start()
    run.wait_for("stopping")
    assert run.stop(0.0) == EMPTY
    first.join(60)
    assert not first.is_alive()
    assert len(run.events("stopping")) == 1
    run.ended()


def test_what_has_ended_is_stopped_again_and_nothing_changes(run):
    run.start(GO + "exit 3").wait_for("workers")
    run.go()
    word = run.ended()
    for _ in range(2):
        assert run.stop(0.0) == EMPTY
    assert run.ended() == word
    assert not (run.folder / "stop.json").exists(), "nobody stopped it"


def test_both_keepers_killed_and_what_they_left_is_ended(run):
    run.start("exec sleep 60", "trap '' TERM; setsid sleep 60 & exec sleep 60").wait_for("workers")
    run.kill("guard", "supervisor")
    until(lambda: run.state() == "lost")
    until(lambda: len(bearers(run.cookie)) >= 4)
    assert run.stop(20.0) == EMPTY
    word = run.ended()
    assert (word["code"], word["reason"]) == (None, stopping.KILLED)
    assert run.stop(20.0) == EMPTY


@pytest.mark.parametrize("frozen", [["supervisor"], ["guard"], ["supervisor", "guard"]])
def test_frozen_keepers_are_woken(run, frozen):
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    run.kill(*frozen, number=signal.SIGSTOP)
    assert run.stop(0.2) == EMPTY
    assert run.ended()["reason"] == "stopped"


@pytest.mark.parametrize("victims", [["supervisor"], ["supervisor", "guard"]])
def test_keepers_that_do_not_wake_are_killed(run, monkeypatch, victims):
    monkeypatch.setattr(stopping, "WAKING", 0.2)
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    pids = [run.pid(who) for who in victims]
    run.kill(*victims, number=signal.SIGSTOP)
    send = processes.send

    def stay_frozen(process, number):
        return (process.pid in pids and number == signal.SIGCONT) or send(process, number)

    monkeypatch.setattr(processes, "send", stay_frozen)
    assert run.stop(0.2, why="enough") == EMPTY
    assert [entry["why"] for entry in run.events("stopping")] == ["enough"]
    word = run.ended()
    assert word["reason"] == ("stopped" if victims == ["supervisor"] else stopping.KILLED)


def test_a_supervisor_that_hears_nothing_is_killed_after_the_grace_and_its_guard_ends_it(
    run, monkeypatch
):
    monkeypatch.setattr(stopping, "PATIENCE", 0.5)
    send = processes.send

    def patient_with_the_guard(process, number):
        if number == signal.SIGKILL:
            monkeypatch.setattr(stopping, "PATIENCE", 60.0)
        return send(process, number)

    monkeypatch.setattr(processes, "send", patient_with_the_guard)
    run.body += b"""
import os
_guard = os.getpid()
_wait = sys.modules["ddp_orch_node.supervisor"].Supervisor.wait
def deaf(self):
    while os.getpid() != _guard and self.workers._living:
        sys.modules["ddp_orch_node.supervisor"].time.sleep(1)
    _wait(self)
sys.modules["ddp_orch_node.supervisor"].Supervisor.wait = deaf
"""
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    assert run.stop(0.1) == EMPTY
    assert run.ended()["reason"] == "stopped"
    assert len(run.events("took-over")) == 1


def test_a_keeper_that_cannot_be_killed_is_named_and_no_end_is_claimed(run, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.1)
    run.start("exec sleep 60").wait_for("workers")
    keepers = {run.pid("guard"), run.pid("supervisor")}
    run.kill("guard", "supervisor", number=signal.SIGSTOP)
    send = processes.send
    monkeypatch.setattr(processes, "send", lambda p, n: p.pid in keepers or send(p, n))
    got = run.stop(0.1)
    assert (got["state"], got["verified"]) == ("running", False)
    assert {row["pid"] for row in got["survivors"]} == keepers
    assert not (run.folder / "exit.json").exists()
    monkeypatch.undo()
    assert run.stop(0.1) == EMPTY


def test_stopped_before_it_starts_it_never_does(run):
    assert run.stop(1.0, why="changed my mind") == EMPTY
    with pytest.raises(InterruptedError, match="stopped before it started"):
        run.start("touch begun; exec sleep 60")
    assert run.state() == "ended"
    assert run.record()["reason"] == "stopped before it started"
    assert not (run.folder / "begun").exists()


def test_buried_it_cannot_even_be_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = f"{tmp_path}/.ddp-orch/runs/brave-otter/1"
    assert stopping.stop(None, folder, 1.0)["state"] == "absent"
    assert not Path(folder).exists()
    for _ in range(2):
        assert EMPTY.items() <= stopping.stop(None, folder, 1.0, bury=True).items()
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    with pytest.raises(InterruptedError, match="stopped before it started"):
        runs.prepare(None, "brave-otter", 1, "~/.ddp-orch", {})


@pytest.mark.parametrize("moment", ["before", "after"])
def test_burying_what_is_prepared_at_this_moment(tmp_path, monkeypatch, moment):
    """However the two meet, it does not start."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = f"{tmp_path}/.ddp-orch/runs/brave-otter/1"
    rename, got = os.rename, []

    def meeting(source, target):
        if target != folder:
            rename(source, target)
            return
        monkeypatch.setattr(os, "rename", rename)
        if moment == "before":
            got.append(stopping.stop(None, folder, 1.0, bury=True))
        rename(source, target)
        if moment != "before":
            got.append(stopping.stop(None, folder, 1.0, bury=True))

    monkeypatch.setattr(os, "rename", meeting)
    if moment == "before":
        with pytest.raises(InterruptedError, match="stopped before it started"):
            runs.prepare(None, "brave-otter", 1, "~/.ddp-orch", {})
    else:
        assert runs.prepare(None, "brave-otter", 1, "~/.ddp-orch", {}) == folder
    assert [EMPTY.items() <= each.items() for each in got] == [True]
    assert record.state_of(folder) == "ended"
    assert [path.name for path in Path(folder).parent.iterdir()] == ["1"]
    with pytest.raises(InterruptedError, match="stopped before it started"):
        runs.start(None, folder, ["true"], {}, None, "x", 1.0)


def test_a_run_is_started_once_however_often_it_is_asked_for(run):
    run.start(GO + "exit 0").wait_for("workers")
    keeper = run.pid("supervisor")
    run.start(GO + "touch twice")
    run.go()
    assert run.ended()["code"] == 0
    run.start(GO + "touch twice")
    assert run.pid("supervisor") == keeper
    assert not (run.folder / "twice").exists()


def test_of_two_who_start_at_once_one_does(run):
    both = threading.Barrier(2)

    def start():
        both.wait(30)
        run.start(GO + "exit 0")

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    run.wait_for("workers")
    run.go()
    run.ended()
    assert len(run.events("started")) == 1


def test_a_start_that_fails_may_be_tried_again(run, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(runs.subprocess, "Popen", no_room)
        with pytest.raises(BlockingIOError):
            run.start(GO)
    assert run.state() == "starting"
    run.start(GO + "exit 0").wait_for("workers")
    run.go()
    run.ended()


def no_room(*_, **__):
    raise BlockingIOError(11, "Resource temporarily unavailable")


WAITS = b"""
import os as _os, time as _time
while not _os.path.exists(%r):
    _time.sleep(0.01)
"""


@pytest.mark.parametrize("after", ["is_claimed", "claim", "boot"])
def test_a_stop_that_races_the_start_leaves_nothing(run, monkeypatch, after):
    """It comes in at every step of the start; what was begun sees it, the rest never begins."""
    owner = runs if after == "boot" else record
    original, got = getattr(owner, after), []

    def stepped(*args):
        answer = original(*args)
        monkeypatch.undo()
        monkeypatch.setenv("HOME", str(run.folder.parents[3]))
        got.append(threading.Thread(target=run.stop, args=(0.5,)))
        got[0].start()
        until((run.folder / "stop.json").exists)
        return answer

    monkeypatch.setattr(owner, after, stepped)
    if after == "boot":  # else it might look for a stop before there is one
        run.body = WAITS % str(run.folder / "stop.json").encode() + run.body
    try:
        run.start("touch begun; exec sleep 60")
    except InterruptedError:
        assert after == "is_claimed"
    got[0].join(60)
    assert not got[0].is_alive()
    until(lambda: run.state() == "ended")
    assert not (run.folder / "begun").exists()
    assert bearers(run.cookie) == []


def setup(run: Run, command: str, number: int = 1) -> Path:
    folder = run.folder / f"setup/{number}"
    run.start(argv=["/bin/sh", "-c", command], folder=folder, output="setup")
    return folder


def test_a_node_whose_setup_command_runs_is_stopped_with_it(run):
    folder = setup(run, "trap 'echo told; exit 7' TERM; while :; do sleep 0.01; done")
    until(lambda: run.state() == "setting-up")
    until(lambda: run.pid("root", folder) and heeds_term(run.pid("root", folder)))
    assert run.stop(20.0) == EMPTY
    assert run.ended(folder)["code"] == 7
    (told,) = [e for e in run.journal(folder) if e["event"] == "stopping"]
    assert told["grace"] == 20.0, "as the node's stop.json says"
    assert run.record()["reason"] == "stopped before it started"
    with pytest.raises(InterruptedError):
        setup(run, "touch begun", 2)


def test_a_setup_command_that_is_claimed_while_the_node_is_stopped_does_not_begin(run, monkeypatch):
    claim = record.claim

    def stopped_meanwhile(folder):
        assert run.stop(0.5) == EMPTY
        return claim(folder)

    monkeypatch.setattr(record, "claim", stopped_meanwhile)
    folder = setup(run, "touch begun")
    assert run.ended(folder)["reason"] == "stopped before it started"
    assert not (run.folder / "begun").exists()


def test_two_agents_may_stop_at_once(run):
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    got = []
    threads = [threading.Thread(target=lambda: got.append(run.stop(0.3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [EMPTY] * 4
    assert len(run.events("ended")) == 1


# --- what is not ours to end --------------------------------------------------------------------


def changed(run, **fields):
    known = record.read(str(run.folder), record.RUN)
    (run.folder / "run.json").write_text(json.dumps({**known, **fields}))


def test_after_a_restart_of_the_host_nothing_is_signalled(run):
    run.start("exec sleep 60").wait_for("workers")
    before = bearers(run.cookie)
    changed(run, place="an earlier boot")
    assert run.stop(0.0) == {**EMPTY, "state": "rebooted"}
    assert bearers(run.cookie) == before
    assert run.record()["reason"] == "the host was restarted"
    assert run.events("stopping") == []


def test_what_is_another_hosts_is_left_alone(run):
    """One home, several hosts."""
    run.start("exec sleep 60").wait_for("workers")
    before = bearers(run.cookie)
    changed(run, place="elsewhere", machine="another")
    assert run.stop(0.0) == {"state": "elsewhere", "survivors": [], "verified": False}
    assert bearers(run.cookie) == before
    assert not (run.folder / "stop.json").exists()


@pytest.mark.parametrize(
    ("machine", "survivors", "proven", "state"),
    [
        (None, [], True, "ended"),
        (None, [{"pid": 1, "start": 1}], False, "ended"),  # with the kernel they went
        ("another", [], True, "ended"),
        ("another", [], False, "elsewhere"),
        ("another", [{"pid": 1, "start": 1}], True, "elsewhere"),
    ],
)
def test_whether_anybody_is_left_of_what_ended_elsewhere_is_not_known_here(
    run, machine, survivors, proven, state
):
    """Nobody is looked for, whose pid would be a stranger's here."""
    run.start(GO).wait_for("workers")
    run.go()
    run.ended()
    changed(run, place="elsewhere", **({"machine": machine} if machine else {}))
    path = run.folder / "exit.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"survivors": survivors, "proven": proven})
    )
    assert run.stop(0.0) == {"state": state, "survivors": [], "verified": state == "ended"}


@pytest.mark.parametrize(("hidden", "verified"), [("", True), ("/proc is hidden", False)])
def test_without_its_keepers_what_cannot_be_seen_is_not_verified(
    run, monkeypatch, hidden, verified
):
    run.start("exec sleep 60").wait_for("workers")
    run.kill("guard", "supervisor")
    until(lambda: run.state() == "lost")
    monkeypatch.setattr(stopping.ending, "hidden_by", lambda: hidden)
    assert run.stop(0.0)["verified"] is verified
    assert (run.told["before"], run.told["processes"]) == ("lost", 2)
    assert ("its supervisor was killed, and /proc is hidden" in run.told["problem"]) != verified
    assert len(run.events("stopping")) == 1, "who watches is told why"
    assert run.stop(0.0)["verified"] is verified, "neither by asking again"


def test_who_could_not_be_ended_is_forgotten_once_he_is_gone(run, spawn):
    run.start(GO).wait_for("workers")
    run.go()
    run.ended()
    other = spawn("sleep", "60").pid
    path = run.folder / "exit.json"
    row = {"pid": other, "start": processes.find(other).start, "name": "sleep", "state": "D"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"survivors": [row]}))
    assert run.stop(0.0) == {"state": "ended", "survivors": [row], "verified": False}
    assert processes.find(other), "he is no process of the run, and was only named"
    row["start"] -= 1  # another process by now
    path.write_text(json.dumps(json.loads(path.read_text()) | {"survivors": [row]}))
    assert run.stop(0.0) == EMPTY
    assert json.loads(path.read_text())["survivors"] == []


NAMED = {"DDP_ORCH_RUN": "brave-otter"}


def begun(run, *workers, **more):
    """Start it as it is in a real run: its folder's name is in its processes' environment."""
    fixed = {**NAMED, "DDP_ORCH_RUN_DIR": str(run.folder)}
    run.start(*workers, env={**NOTHING, "fixed": fixed}, **more).wait_for("workers")
    run.keepers = [run.pid("supervisor"), run.pid("guard")]
    return run


def lives(pid):
    process = processes.find(pid)
    return process is not None and not process.dead


def remove(run):
    shutil.rmtree(run.folder.parents[2])


def unmount(run):
    """Its home is not there any more, not even the folder that it would be in."""
    shutil.rmtree(run.folder.parents[3])


def bury(run):
    remove(run)
    where = ("brave-otter", 0, str(run.folder.parents[2]))
    assert runs.make(*where, record.STOP, {"grace": 0.5, "why": "before"})


@pytest.mark.parametrize("fate", [remove, unmount, bury])
@pytest.mark.parametrize(
    ("victims", "number"),
    [([], 0), (["guard", "supervisor"], signal.SIGKILL), (["guard"], signal.SIGKILL),
     (["supervisor"], signal.SIGSTOP)],
    ids=["kept", "lost", "guard killed", "frozen"],
)  # fmt: skip
def test_a_run_whose_folder_is_gone_is_ended_all_the_same(
    run, tmp_path, monkeypatch, fate, victims, number
):
    monkeypatch.setattr(stopping, "WAKING", 0.2)
    begun(run, "trap '' TERM; exec sleep 60", "exec sleep 60", grace=0.5)
    run.kill(*victims, number=number)
    fate(run)
    assert len(bearers(run.cookie)) >= 3
    assert remains_of(run) == [{"folder": str(run.folder), "processes": living(run)}]
    assert run.stop(0.5, bury=True) == EMPTY
    assert run.told["before"] == ("lost" if number == signal.SIGKILL and victims[1:] else "running")
    assert run.told["processes"] >= 3
    assert bearers(run.cookie) == []
    assert not any(map(lives, run.keepers))
    assert remains_of(run) == []
    assert run.folder.exists() == (fate is not unmount)
    tmp_path.mkdir(exist_ok=True)
    assert run.stop(0.5, bury=True) == EMPTY, "nothing of it will ever start"
    assert run.told["before"] in ("absent", "ended")
    with pytest.raises(InterruptedError):
        runs.prepare(None, "brave-otter", 0, "~/.ddp-orch", {})


def remains_of(run):
    """Other tests may be at work on this machine, and other people."""
    home = str(run.folder.parents[3])
    return [each for each in remains.find(None) if each["folder"].startswith(home)]


def living(run):
    return len(bearers(run.cookie)) + sum(map(lives, run.keepers))


def test_who_has_lost_his_folder_has_his_grace(run, tmp_path):
    saved = tmp_path.parent / f"{tmp_path.name}-saved"
    begun(run, f"trap 'sleep 0.3; touch {saved}; exit' TERM; while :; do sleep 0.01; done")
    remove(run)
    assert run.stop(20.0) == EMPTY
    assert saved.exists()
    assert not run.folder.exists(), "nobody asked for a tombstone"


def test_a_setup_command_that_has_lost_its_folder_is_ended_by_what_keeps_it(run):
    """Nothing below it need have the folder's name."""
    folder = setup(run, "trap '' TERM; sleep 60")
    until(lambda: run.pid("root", folder))
    run.keepers = [run.pid(who, folder) for who in ("supervisor", "guard")]
    remove(run)
    assert [each["folder"] for each in remains_of(run)] == [str(run.folder)]
    assert run.stop(0.0) == EMPTY
    assert (bearers(run.cookie), [*map(lives, run.keepers)]) == ([], [False, False])


@pytest.mark.parametrize(
    ("place", "it_is"),
    [
        ("/home/alice/.ddp-orch/runs/x/0", True),
        ("/alice/.ddp-orch/runs/x/0", True),  # /home is not mounted any more
        ("/runs/x/0", True),
        ("/home/bob/.ddp-orch/runs/x/0", False),
        ("/alice/.ddp-orch/runs/x/1", False),
        ("/alice/.ddp-orch/runs/xx/0", False),
    ],
)
def test_of_what_is_not_mounted_any_more_the_kernel_knows_the_end(place, it_is):
    assert remains.is_at(place, "/home/alice/.ddp-orch/runs/x/0") is it_is


def test_of_a_link_to_a_home_the_kernel_knows_where_it_leads(tmp_path):
    (tmp_path / "home").symlink_to(tmp_path / "data")
    there = f"{(tmp_path / 'data').resolve()}/runs/x/0"
    assert remains.is_at(there, f"{tmp_path}/home/runs/x/0")


def test_another_run_s_keepers_are_nobody_s_remains(run, tmp_path):
    begun(run, "exec sleep 60")
    for other in ("brave-otter/1", "brave-otter-2/0"):
        got = stopping.stop(None, str(tmp_path / ".ddp-orch/runs" / other), 0.0)
        assert (got["state"], got["processes"]) == ("absent", 0)
    assert remains_of(run) == [], "it has its record"
    assert run.state() == "running"


def test_where_not_everyone_could_be_looked_at_absent_is_no_proof(run, monkeypatch):
    monkeypatch.setattr(looking.Look, "problem", "1 processes could not be looked at in time")
    remove(run)
    for bury in (True, False):
        assert not run.stop(0.0, bury=bury)["verified"]
        assert run.told["problem"] == "1 processes could not be looked at in time"


def test_a_record_that_makes_no_sense_is_no_proof_of_anything(run):
    run.start("exec sleep 60").wait_for("workers")
    changed(run, version=99)
    assert run.stop(0.0) == {"state": "unreadable", "survivors": [], "verified": False}
    assert len(bearers(run.cookie)) >= 2


def test_a_stranger_with_a_recorded_pid_is_untouched(run, spawn):
    run.start("exec sleep 60").wait_for("workers")
    run.kill("guard", "supervisor")
    until(lambda: run.state() == "lost")
    pid = spawn("sleep", "60").pid
    start = processes.find(pid).start
    changed(run, supervisor=[pid, start - 1], guard=[pid, start - 1], root=[pid, start - 1])
    assert run.state() == "lost"
    assert run.stop(0.0) == EMPTY
    assert processes.find(pid).state in "SDR"


def test_a_full_disk_keeps_no_stop_away(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run.start("trap '' TERM; exec sleep 60", grace=0.3).wait_for("workers")
    monkeypatch.setattr(record, "write", full)
    assert run.stop(0.2) == EMPTY
    assert run.wait_for("stopping")["grace"] == 0.3


def test_a_stop_json_that_makes_no_sense_is_a_wish_all_the_same(run):
    run.start("trap '' TERM; exec sleep 60", grace=0.2).wait_for("workers")
    (run.folder / "stop.json").write_text("{")
    run.kill("supervisor", number=signal.SIGTERM)
    assert run.ended()["reason"] == "stopped"
    assert run.events("stopping")[0]["grace"] == 0.2


def test_what_its_supervisor_ended_for_a_failure_has_failed(run):
    run.start(GO + "exit 3", "exec sleep 60", max_restarts=0).wait_for("workers")
    run.go()
    assert run.ended()["reason"] == "stopped"
    assert run.stop(0.0) == EMPTY
    assert run.told["failed"]


def test_records_that_make_no_sense_keep_nobody_from_ending_it(run):
    run.start("exec sleep 60").wait_for("workers")
    (run.folder / "stop.json").write_text("{")
    assert run.stop(0.0, why="enough") == EMPTY
    assert run.events("stopping")[0]["why"] == "enough"
    (run.folder / "exit.json").write_text("{")
    assert run.stop(0.0) == EMPTY
    assert not run.told["failed"]


def test_nothing_that_began_is_nothing_to_wait_for(run):
    assert run.stop(3600.0) == EMPTY
