"""A supervisor that is killed, whenever it is: its guard carries on, and tells nothing twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from orchestrator.node import processes, record, runs, workers
from tests.node_run import GO, bearers, cookie, run, until
from tests.test_node_agent import SUPPORTED, python_or_skip
from tests.test_node_processes import spawn
from tests.test_node_supervisor import FULL

__all__ = ["cookie", "run", "spawn"]

NAMES = ["started", "workers", "took-over", "worker", "worker", "ended"]


@pytest.fixture(params=[SUPPORTED[0], SUPPORTED[-2], None], ids=["oldest", "newest", "this"])
def python(request, monkeypatch):
    if request.param:
        path = python_or_skip(request.param)
        monkeypatch.setattr(runs, "sys", SimpleNamespace(executable=path))


def test_the_guard_takes_over_with_the_true_exit_code(python, run):
    run.start(GO + "exit 3", GO + "kill -KILL $$").wait_for("workers")
    before = run.pid("guard")
    run.kill("supervisor")
    run.wait_for("took-over")
    until(lambda: run.pid("supervisor") == before)
    run.go()
    word = run.ended()
    assert (word["code"], word["signal"], word["reason"]) == (1, None, "exited")
    assert [entry["event"] for entry in run.journal()] == NAMES
    ends = {entry["rank"]: (entry["code"], entry["signal"]) for entry in run.events("worker")}
    assert ends == {4: (3, None), 5: (None, signal.SIGKILL)}


def test_the_end_of_a_torchrun_that_is_killed_with_its_supervisor_is_known(run):
    """Both are the guard's to collect then, in whatever order."""
    run.start("exec sleep 60").wait_for("workers")
    supervisor, root = run.pid("supervisor"), run.pid("root")
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(root, signal.SIGKILL)
    until(lambda: processes.find(root).dead)
    os.kill(supervisor, signal.SIGKILL)
    word = run.ended()
    assert (word["code"], word["signal"], word["reason"]) == (None, signal.SIGKILL, "exited")


def test_a_worker_that_wrote_over_its_environment_is_known_again(spawn, monkeypatch):
    """As who sets a title for `ps` does."""
    living = processes.find(spawn("sleep", "60").pid)
    row = {"pid": living.pid, "start": living.start, "rank": 4, "local_rank": 0}
    row |= {"group_rank": 2, "world_size": 8, "restart": 1}
    monkeypatch.setattr(processes, "environment", lambda _: {})
    noted = []
    known = workers.Workers(lambda event, **more: noted.append((event, more)), [])
    known.go_on([{"event": "workers", "round": 0, "workers": [row]}])
    assert noted == []
    os.kill(living.pid, signal.SIGTERM)
    until(lambda: processes.find(living.pid).dead)
    known.look(None)
    ((event, told),) = noted
    assert (event, told["signal"], {k: told[k] for k in row}) == ("worker", signal.SIGTERM, row)


def test_an_end_that_nobody_saw_is_told_once_and_without_a_code(run):
    run.start("exec sleep 60", GO + "exit 3").wait_for("workers")
    supervisor, worker = run.pid("supervisor"), run.wait_for("workers")["workers"][1]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    run.go()
    until(lambda: processes.find(worker).dead)
    assert run.events("worker") == []
    os.kill(supervisor, signal.SIGKILL)
    seen = run.wait_for("worker")
    assert (seen["rank"], seen["pid"]) == (5, worker)
    assert run.stop(0.0)["verified"]
    assert [entry["rank"] for entry in run.events("worker")] == [5, 4]


def test_what_failed_before_is_not_reported_again_from_torchruns_words(run):
    said = "  rank      : 4 (local_rank: 0)\n  exitcode  : 3 (pid: 7)\n"
    (run.folder / "untold").touch()
    first = f"printf '{said}' >&2; while [ ! -e first ]; do sleep 0.01; done; exit 3"
    run.start(first, GO + "exit 0").wait_for("workers")
    (run.folder / "first").touch()
    run.wait_for("worker")
    run.kill("supervisor")
    run.wait_for("took-over")
    run.go()
    run.ended()
    assert [entry["rank"] for entry in run.events("worker")] == [4, 5]


@pytest.mark.parametrize(
    ("module", "path", "nth", "where", "reason"),
    [
        ("supervisor", "Supervisor.remember", 1, None, "its supervisor was killed as it started"),
        ("root", "start", 1, None, "its supervisor was killed as it started"),
        ("supervisor", "Supervisor.remember", 2, None, "its supervisor was killed as it started"),
        ("journal", "Journal.note", 1, "started", "exited"),
        ("journal", "Journal.note", 1, "workers", "exited"),
        ("journal", "Journal.note", 1, "worker", "exited"),
        ("record", "write", 1, "exit.json", "the exit code is not known"),
        ("journal", "Journal.note", 1, "ended", "exited"),
    ],
    ids=[
        "before it is known", "before the start", "before the start is known",
        "before the start is told", "before its workers are", "before an end is",
        "before the exit record", "before the last line",
    ],
)  # fmt: skip
def test_killed_at_every_moment(run, module, path, nth, where, reason):
    run.dies_at(module, path, nth, where)
    (run.folder / "untold").touch()
    known = "while ! grep -q -e workers -e took-over journal.jsonl; do sleep 0.01; done; "
    run.start(known + "exit 3", known + "exit 0")
    word = run.ended()
    assert reason in word["reason"]
    if reason == "exited":
        assert word["code"] == 1
    names = [entry["event"] for entry in run.journal()]
    for name in ("started", "workers", "ended"):
        assert names.count(name) <= 1
    ranks = [entry["rank"] for entry in run.events("worker")]
    assert len(ranks) == len(set(ranks))
    if names.count("workers"):
        assert sorted(ranks) == [4, 5]
    assert word["survivors"] == []
    assert ("took-over" in names) is (where != "ended")


def test_killed_while_it_waits_for_what_workers_left_in_the_background(run):
    run.start("trap '' TERM; sleep 60 & " + GO + "exit 0", grace=3600.0).wait_for("workers")
    run.go()
    run.wait_for("leftovers")
    run.kill("supervisor")
    word = run.ended()
    assert (word["code"], word["reason"], word["leftovers"]) == (0, "exited", 1)
    assert len(run.events("leftovers")) == 1


def test_killed_after_its_last_word_was_all_that_a_full_disk_took(run):
    run.body += FULL % "exit.json"
    run.dies_at("company", "Company.leave")
    run.start(GO + "exit 0").wait_for("workers")
    guard = run.pid("guard")
    run.go()
    assert run.wait_for("ended")["code"] == 0
    until(lambda: not processes.find(guard))
    assert [entry["event"] for entry in run.journal()][-1] == "ended"
    assert run.events("took-over") == []
    assert run.state() == "ended"


@pytest.mark.parametrize("where", ["stopping", "ended"])
def test_killed_while_it_stops(run, where):
    run.dies_at("journal", "Journal.note", 1, where)
    run.start("trap '' TERM; exec sleep 60", grace=20.0).wait_for("workers")
    got = run.stop(0.3)
    assert (got["state"], got["survivors"], got["verified"]) == ("ended", [], True)
    assert run.ended()["reason"] == "stopped"
    assert len(run.events("stopping")) == 1


def test_the_rest_of_the_grace_is_for_the_guard(run):
    """Not all of it again; and torchrun is not told twice: that would end its patience."""
    told = "echo x >> told"
    run.start(f"trap '{told}' TERM; while :; do sleep 0.01; done").wait_for("workers")
    (run.folder / "stop.json").write_text('{"grace": 3600.0, "why": "y", "exit_code": 103}')
    run.kill("supervisor", number=signal.SIGTERM)
    run.wait_for("stopping")
    until((run.folder / "told").exists)
    run.kill("supervisor")
    run.wait_for("took-over")
    until(lambda: run.pid("supervisor") == run.pid("guard"))
    # By now most of the grace is over, as the journal has it.
    assert run.stop(0.2)["verified"]
    assert run.ended()["reason"] == "stopped"
    assert (run.folder / "told").read_text() == "x\n"
    assert len(run.events("stopping")) == 1


def test_a_guard_that_is_killed_changes_nothing(run):
    run.start(GO + "exit 3").wait_for("workers")
    run.kill("guard")
    until(lambda: not record.is_alive(record.read(str(run.folder), record.RUN)["guard"]))
    assert run.state() == "running"
    run.go()
    assert run.ended()["code"] == 1
    assert [entry["event"] for entry in run.journal()] == ["started", "workers", "worker", "ended"]


# As it is seen in a container of the same name and home: what it is, and what a stop says.
SEEN = """
import sys
from orchestrator.node import record, stopping
print(record.state_of(sys.argv[1]), stopping.stop(None, sys.argv[1], 0.0)["state"])
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root: a pid namespace"
)
def test_another_container_of_this_name_and_home_takes_it_for_no_restart(run):
    def seen():
        words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", SEEN]
        done = subprocess.run(
            [*words, str(run.folder)], stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
        return done.stdout.split()

    run.start("exec sleep 60").wait_for("workers")
    before = bearers(run.cookie)
    assert seen() == ["elsewhere", "elsewhere"]
    run.kill("supervisor")
    until(lambda: run.pid("supervisor") == run.pid("guard"))
    assert seen() == ["elsewhere", "elsewhere"], "the guard holds it"
    assert not {"stop.json", "exit.json"} & {path.name for path in run.folder.iterdir()}
    run.kill("supervisor")
    until(lambda: run.state() == "lost")
    assert bearers(run.cookie) == before, "whatever they started has it not"
    assert seen() == ["rebooted", "rebooted"]


def test_a_supervisor_that_breaks_is_replaced_like_one_that_is_killed(run):
    """By a mistake of ours, say."""
    run.body += b"""
import os
_guard = os.getpid()
def broken(self):
    if os.getpid() != _guard and os.path.exists(os.path.join(self.folder, "go")):
        raise KeyError("a mistake")
    return _wait(self)
_wait = sys.modules["ddp_orch_node.supervisor"].Supervisor.wait
sys.modules["ddp_orch_node.supervisor"].Supervisor.wait = broken
"""
    run.start(GO + "exit 3").wait_for("workers")
    run.go()
    assert run.ended()["code"] == 1
    assert "supervisor: KeyError('a mistake')" in (run.folder / "supervisor.log").read_text()
    assert len(run.events("took-over")) == 1


def test_when_both_are_killed_the_job_goes_on_and_the_state_says_lost(run):
    run.start(GO + "touch done; exec sleep 60").wait_for("workers")
    run.kill("guard", "supervisor")
    until(lambda: run.state() == "lost")
    run.go()
    until((run.folder / "done").exists)
