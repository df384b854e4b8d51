"""The real supervisor, started as the agent starts it, with a stand-in for torchrun beneath it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from orchestrator.node import journal, peers, processes, record, reports, runs, stopping, workers
from tests.node_run import GO, NOTHING, TORCHRUN, cookie, run, sleeps, until
from tests.test_node_processes import STATUSES_ARE_KEPT, spawn

__all__ = ["cookie", "run", "spawn"]


def test_a_run_is_written_down_from_start_to_end(run):
    run.start(GO + "exit 3", GO + "kill -KILL $$")
    started = run.wait_for("started")
    (table,) = [run.wait_for("workers")]
    assert table["round"] == 0
    pids = [row.pop("pid") for row in table["workers"]]
    assert sorted(pids) == sorted(processes.children(started["pid"]))
    shared = {"group_rank": 2, "world_size": 8, "restart": 0}
    _, start = record.read(str(run.folder), record.RUN)["root"]
    assert all(row.pop("start") >= start for row in table["workers"])
    assert table["workers"] == [
        {"rank": 4, "local_rank": 0, **shared},
        {"rank": 5, "local_rank": 1, **shared},
    ]
    run.go()
    word = run.ended()
    ends = {entry["rank"]: (entry["code"], entry["signal"]) for entry in run.events("worker")}
    assert ends == {4: (3, None), 5: (None, signal.SIGKILL)}
    assert (word["code"], word["signal"], word["reason"]) == (1, None, "exited")
    assert word["leftovers"] == 0
    assert [entry["event"] for entry in run.journal()] == [
        "started", "workers", "worker", "worker", "ended",
    ]  # fmt: skip


def test_success_is_code_0(run):
    run.start(GO + "exit 0").wait_for("workers")
    run.go()
    assert run.ended()["code"] == 0


def test_the_exception_that_a_worker_left_is_told(run):
    error = {"message": {"message": "ValueError: x", "extraInfo": {"py_callstack": "Traceback"}}}
    run.start(GO + f"echo '{json.dumps(error)}' > error0.json; exit 1").wait_for("workers")
    run.go()
    assert run.wait_for("worker")["error"] == {
        "message": "ValueError: x",
        "traceback": "Traceback",
    }
    run.ended()


def test_the_workers_have_the_environment_they_are_given(run, monkeypatch):
    monkeypatch.setenv("FROM_HOST", "host")
    monkeypatch.setenv("PREPENDED", "old")
    monkeypatch.setenv("FIXED", "host's")
    monkeypatch.setenv("REMOVED", "host's")
    monkeypatch.setenv("SECRET", "host's")
    env = {
        "defaults": {"FROM_HOST": "default", "DEFAULT": "default"},
        "fixed": {"FIXED": "ours"},
        "prepended": {"PREPENDED": "new", "ALONE": "new"},
        "removed": ["REMOVED"],
        "secrets": {"SECRET": "s3cret"},
    }
    run.start(GO + "env > printed", env=env).wait_for("workers")
    run.go()
    run.ended()
    printed = dict(
        line.split("=", 1)
        for line in (run.folder / "printed").read_text().splitlines()
        if "=" in line
    )
    names = ["FROM_HOST", "DEFAULT", "FIXED", "PREPENDED", "ALONE", "SECRET", processes.COOKIE]
    assert [printed[name] for name in names] == [
        "host", "default", "ours", "new:old", "new", "s3cret", run.cookie,
    ]  # fmt: skip
    assert "REMOVED" not in printed


def test_bytes_arrive_as_they_were_whatever_the_locale_here_is(run):
    text = b"caf\xe9 \xff\n \xe2\x9c\x93".decode("utf-8", "surrogateescape")
    program = "import os, sys; os.write(1, os.environb[b'K'] + b'|' + os.fsencode(sys.argv[1]))"
    argv = [sys.executable, "-c", program, text]
    env = {**NOTHING, "fixed": {"K": text, "PYTHONUTF8": "0", "LC_ALL": "en_US.ISO-8859-1"}}
    run.start(argv=argv, env=env).ended()
    exact = text.encode("utf-8", "surrogateescape")
    assert (run.folder / "torchrun.out").read_bytes() == exact + b"|" + exact


def test_more_than_the_kernel_takes_is_one_sentence(run):
    env = {**NOTHING, "fixed": {f"V{i}": "x" * 130_000 for i in range(60)}}
    run.start(argv=["/bin/true"], env=env)
    assert run.ended()["reason"] == (
        "the environment and the arguments together are more than this host's kernel takes"
    )


def test_an_exception_is_written_down_without_its_secrets(run):
    """In an error file it is the worker's own word; our record is not."""
    secret, lines = "s3cr3t'", "one line\nanother"
    said = f"{secret}, {secret!r}, {lines} and {lines!r}; " + "x" * 1980 + secret
    error = {"message": {"message": said, "extraInfo": {"py_callstack": said}}}
    (run.folder / "error.json").write_text(json.dumps(error))
    env = {**NOTHING, "secrets": {"A": secret, "B": lines}}
    run.start(GO + "cp error.json error0.json; exit 1", env=env).wait_for("workers")
    run.go()
    run.ended()
    text = (run.folder / "journal.jsonl").read_text()
    assert "s3cr" not in text
    assert "another" not in text
    assert run.events("worker")[0]["error"]["message"].startswith("********, ")


def test_a_run_of_one_node_is_stopped_by_its_worker_in_words_that_name_the_host(run):
    run.start(GO + "exit 3", GO + "exec sleep 60", max_restarts=0).wait_for("workers")
    run.go()
    stopping = run.wait_for("stopping")
    assert (stopping["why"], stopping["exit_code"]) == ("rank 4 on gpu1 exited with code 3", 100)
    run.ended()


def test_who_came_and_went_unseen_is_named_to_the_others_too(tmp_path):
    """Torchrun names the root cause last; its own exit code alone would say nothing."""
    block = "  rank      : %d (local_rank: %d)\n  exitcode  : %d (pid: %d)\n"
    (tmp_path / "torchrun.err").write_text(block % (5, 1, -15, 8) + block % (4, 0, 3, 7))
    noted = []
    seen = workers.Workers(lambda event, **more: noted.append(more), [], 0)
    seen.note_unseen_failures(str(tmp_path / "torchrun.err"))
    assert [(n["rank"], n["code"], n["signal"]) for n in noted] == [(5, None, 15), (4, 3, None)]
    assert seen.lost == "rank 4 on %s exited with code 3"


def test_what_a_worker_starts_is_no_worker_though_it_was_looked_at_before_it_was_one(monkeypatch):
    """Between fork and exec it has torchrun's environment; what it starts then has a rank."""
    names = dict.fromkeys(workers.TOLD, "0") | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    worker = subprocess.Popen(["sh", "-c", "sleep 60 & exec sleep 60"], env=os.environ | names)
    try:
        until(lambda: all(map(sleeps, (worker.pid, *(processes.children(worker.pid) or [0])))))
        read, early = processes.environment, [worker.pid]
        monkeypatch.setattr(
            processes,
            "environment",
            lambda pid: {} if early == [pid] and early.pop() else read(pid),
        )
        noted = []
        seen = workers.Workers(lambda event, **more: noted.append((event, more)), [])
        seen.look(os.getpid())
        assert noted == []
        seen.look(os.getpid())
        ((event, told),) = noted
        assert (event, [row["pid"] for row in told["workers"]]) == ("workers", [worker.pid])
    finally:
        for pid in (*processes.children(worker.pid), worker.pid):
            os.kill(pid, signal.SIGKILL)
        worker.wait()


class Round:
    """Workers of a torchrun that is this process, each of which ends as it is told to."""

    def __init__(self, spawn, count=2):
        self.noted = []
        self.seen = workers.Workers(lambda event, **more: self.noted.append(event), [])
        self._spawn, self._count = spawn, count
        self.begin()

    def begin(self):
        """Have all of them run, and seen."""
        ranks = {"RANK": "0", "GROUP_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        self.workers = [
            self._spawn(
                *("sh", "-c", "read code; exit $code"),
                env=os.environ | ranks | {"RANK": str(rank), "LOCAL_WORLD_SIZE": str(self._count)},
                stdin=subprocess.PIPE,
            )
            for rank in range(self._count)
        ]
        known = self.noted.count("workers")
        until(lambda: self.look() or self.noted.count("workers") > known)

    def look(self):
        self.seen.look(os.getpid())

    def end(self, code, pidfd=True):
        """End the next one, and wait until that is known as it is in a supervisor."""
        worker, known = self.workers.pop(0), self.noted.count("worker")
        fds = self.seen.fds()
        worker.stdin.write(b"%d\n" % code)
        worker.stdin.close()
        if pidfd:
            assert peers.await_any(fds, [], 20.0)[0], "a pidfd tells of it, without any look"
        until(lambda: self.look() or self.noted.count("worker") > known)

    @property
    def pause(self):
        return self.seen.look_again_in(1000.0)


pidfds = pytest.mark.skipif(processes.pidfd_open(os.getpid()) < 0, reason="needs Linux 5.3")


@pidfds
def test_while_others_live_the_good_end_of_one_is_no_reason_to_look_for_new_ones(spawn):
    of = Round(spawn, 3)
    assert of.pause == 1000.0
    of.end(0)
    assert of.pause == workers.LOOK_SELDOM
    of.end(0)
    assert of.pause == workers.LOOK_SELDOM
    of.end(0)
    assert of.pause == workers.LOOK_CLOSELY, "now a new round may begin at any moment"
    of.begin()
    assert of.pause == 1000.0
    of.end(0)
    assert of.pause == workers.LOOK_SELDOM


@pytest.mark.skipif(not STATUSES_ARE_KEPT, reason="needs Linux 6.15")
@pytest.mark.parametrize(
    ("ends", "code", "number"),
    [("exit 0", 0, None), ("exit 7", 7, None), ("kill -KILL $$", None, signal.SIGKILL)],
)
def test_how_a_worker_ended_is_known_though_torchrun_was_first_to_wait_for_it(
    spawn, ends, code, number
):
    names = dict.fromkeys(workers.TOLD, "0") | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    worker = spawn("sh", "-c", f"read go; {ends}", env=os.environ | names, stdin=subprocess.PIPE)
    noted = []
    seen = workers.Workers(lambda event, **more: noted.append((event, more)), [])
    until(lambda: seen.look(os.getpid()) or noted)
    worker.communicate(b"go\n")
    assert not processes.find(worker.pid), "reaped by somebody else"
    seen.look(os.getpid())
    (_, (event, told)) = noted
    assert (event, told["code"], told["signal"]) == ("worker", code, number)


@pidfds
def test_after_a_bad_end_a_new_round_is_looked_for_at_once(spawn):
    of = Round(spawn, 3)
    of.end(0)
    of.end(3)
    assert of.pause == workers.LOOK_CLOSELY
    of.end(0)
    assert of.pause == workers.LOOK_CLOSELY


def test_without_pidfds_ends_are_looked_for_as_ever(spawn, monkeypatch):
    monkeypatch.setattr(processes, "pidfd_open", lambda _: -1)
    of = Round(spawn)
    assert of.pause == workers.LOOK_CLOSELY
    of.end(0, pidfd=False)
    assert of.pause == workers.LOOK_CLOSELY


@pidfds
def test_who_carries_on_knows_how_the_round_has_gone_so_far(spawn):
    of = Round(spawn)
    rows = [
        {"pid": each.pid, "start": processes.find(each.pid).start, "rank": rank}
        for rank, each in enumerate(of.workers)
    ]
    for code, pause in ((0, workers.LOOK_SELDOM), (1, workers.LOOK_CLOSELY)):
        ended = {"event": "worker", "pid": rows[0]["pid"], "code": code, "signal": None}
        later = workers.Workers(lambda event, **more: None, [])
        later.go_on([{"event": "workers", "round": 0, "workers": rows}, ended])
        assert later.look_again_in(1000.0) == pause


def test_a_head_whose_address_is_a_name_listens_where_that_is(run):
    peers = {"node": 0, "names": ["gpu1", "gpu2"], "address": "localhost"}
    peers |= {"key": "ab" * 32, "lost_after": 30.0}
    run.start(GO, peers=peers).wait_for("workers")
    said = run.wait_for("listening")
    assert said["port"] > 0
    assert ipaddress.ip_address(said["address"]).is_loopback
    run.go()
    run.ended()


@pytest.mark.parametrize(
    ("found", "taken"),
    [(["127.0.1.1", "10.0.0.5"], "10.0.0.5"), (["::1"], "::1"), (None, "gpu1")],
)
def test_of_a_names_addresses_the_loopbacks_is_the_last_choice(monkeypatch, found, taken):
    def lookup(*_):
        if found is None:
            raise socket.gaierror(socket.EAI_AGAIN, "no server")
        return [(socket.AF_INET, 1, 6, "", (each, 0)) for each in found]

    monkeypatch.setattr(runs.socket, "getaddrinfo", lookup)
    assert runs.looked_up("gpu1") == taken


@pytest.mark.parametrize(("node", "asked"), [(0, ["gpu1"]), (1, [])])
def test_only_the_head_looks_its_name_up_and_before_it_counts_as_started(
    tmp_path, monkeypatch, node, asked
):
    """A name server that takes its time is not to look like a supervisor that died."""
    names = []

    def look_up(name):
        assert not record.is_claimed(str(tmp_path))
        names.append(name)
        return "10.0.0.1"

    monkeypatch.setattr(runs, "looked_up", look_up)
    monkeypatch.setattr(runs, "boot", lambda folder, text: None)
    call = types.SimpleNamespace(body=b"")
    peers = {"node": node, "address": "gpu1", "names": ["gpu1", "gpu2"], "key": ""}
    peers["lost_after"] = 30.0
    assert runs.start(call, str(tmp_path), ["true"], {}, None, "0" * 32, 1.0, peers=peers)
    assert names == asked


def test_of_half_a_program_nothing_is_said(run, monkeypatch):
    """An agent may die as it sends it; and the secrets are in it."""
    popen = subprocess.Popen

    class Cut:
        def __init__(self, pipe):
            self.write = lambda data: pipe.write(data[:-200])
            self.close = pipe.close

    def cut(*args, **more):
        process = popen(*args, **more)
        process.stdin, process.whole = Cut(process.stdin), process.stdin
        started.append(process)
        return process

    started = []
    monkeypatch.setattr(runs.subprocess, "Popen", cut)
    runs.boot(str(run.folder), b"f({'TOKEN': 's3cr3t',\n" + b" " * 300 + b"})\n")
    started[0].wait(30)
    assert (run.folder / "supervisor.log").read_text() == ""


def test_a_setup_command_has_its_own_output_and_no_workers(run):
    """What looks like a worker of torchrun's is none there."""
    env = {**NOTHING, "fixed": dict.fromkeys(
        ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1"
    )}  # fmt: skip
    folder = run.folder / "setup/1"
    argv = ["/bin/sh", "-c", "setsid sleep 60 & echo $PWD; sleep 0.2"]
    word = run.start(argv=argv, env=env, folder=folder, output="setup").ended(folder)
    assert (word["code"], word["leftovers"]) == (0, 1)
    assert (folder / "setup.out").read_text() == f"{run.folder}\n"
    assert [e["event"] for e in run.journal(folder)] == ["started", "leftovers", "ended"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_goes_on_without_those_who_started_it(run):
    """Their session may end, and its terminal with it: the run has one of its own."""
    run.start(GO + "exit 0").wait_for("workers")
    for who in ("guard", "supervisor"):
        assert os.getsid(run.pid(who)) == run.pid("guard")
        os.kill(run.pid(who), signal.SIGHUP)
    run.go()
    assert run.ended()["code"] == 0


def test_what_it_starts_heeds_a_hangup_as_ever(run):
    argv = ["/bin/sh", "-c", "kill -HUP $$; exit 7"]
    assert run.start(argv=argv).ended()["signal"] == signal.SIGHUP


def test_a_terminated_supervisor_takes_its_run_down(run):
    """The host is shut down, or somebody tidies up: nobody wrote a stop.json."""
    run.start("exec sleep 60").wait_for("workers")
    run.kill("supervisor", number=signal.SIGTERM)
    assert run.ended()["reason"] == "stopped"
    (word,) = run.events("stopping")
    assert (word["grace"], word["exit_code"]) == (20.0, 103)
    assert word["why"] == "its supervisor was told to end"


def test_a_program_that_is_not_there_is_the_reason(run):
    run.start(argv=["/no/such/torchrun"])
    word = run.ended()
    assert word["reason"] == "/no/such/torchrun: No such file or directory"
    assert (word["code"], word["signal"]) == (None, None)


def test_a_folder_that_is_not_there_is_refused_at_once(run):
    with pytest.raises(FileNotFoundError, match="no folder on this host"):
        runs.start(None, str(run.folder), ["true"], NOTHING, "/no/such", run.cookie, 1.0)
    assert run.state() == "starting"


UPLOAD = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: open("asked", "w"))
open("begun", "w")
while not os.path.exists("may-end"):
    time.sleep(0.01)
open("uploaded", "w")
"""


def left_behind(run, code, **more):
    """Have a worker end that leaves an upload in the background, and what nothing becomes of."""
    (run.folder / "upload.py").write_text(UPLOAD)
    upload = f"'{sys.executable}' upload.py & sleep 60 & while [ ! -e begun ]; do sleep 0.01; done"
    run.start(f"{upload}; {GO}exit {code}", **more).wait_for("workers")
    run.go()


def test_what_workers_left_in_the_background_has_the_grace_to_end(run):
    left_behind(run, 0, grace=3600.0)
    told = run.wait_for("leftovers")
    assert (told["count"], told["status"]) == (2, 0)
    until((run.folder / "asked").exists)
    assert run.state() == "running"
    (run.folder / "may-end").touch()
    word = run.ended()
    assert (word["code"], word["reason"], word["leftovers"]) == (0, "exited", 2)
    assert (run.folder / "uploaded").exists()


def test_what_takes_longer_than_the_grace_is_ended(run):
    left_behind(run, 0, grace=2.0)
    word = run.ended()
    assert (word["code"], word["reason"], word["survivors"]) == (0, "exited", [])
    assert (run.folder / "asked").exists()
    assert not (run.folder / "uploaded").exists()
    assert [each["count"] for each in run.events("leftovers")] == [2]


def test_who_ends_with_his_worker_is_not_told_of(run):
    run.body += b"""
_keeper = sys.modules["ddp_orch_node.supervisor"]
_keeper.FAREWELL, _bid = 60.0, _keeper.Supervisor.bid_farewell
def looking(self):
    whole = self.left
    def left():
        found = whole()
        open(self.folder + "/looked", "w").close()
        return found
    self.left = left
    _bid(self)
_keeper.Supervisor.bid_farewell = looking
"""
    helper = "(while [ ! -e looked ]; do sleep 0.01; done) & "
    run.start(helper + GO + "exit 0", grace=3600.0).wait_for("workers")
    run.go()
    word = run.ended()
    assert word["code"] == 0
    assert word["leftovers"] >= 1
    assert run.events("leftovers") == []


def test_after_a_bad_end_nothing_is_waited_for(run):
    left_behind(run, 3, grace=3600.0)
    word = run.ended()
    assert (word["code"], word["leftovers"]) == (1, 2)
    assert run.events("leftovers") == []
    assert not (run.folder / "asked").exists()


@pytest.mark.parametrize("grace", [0.0, 0.5])
def test_whoever_stops_it_then_shortens_the_grace_and_the_end_stays_good(run, grace):
    left_behind(run, 0, grace=3600.0)
    run.wait_for("leftovers")
    assert run.stop(grace)["verified"]
    word = run.ended()
    assert (word["code"], word["reason"]) == (0, "exited")
    assert run.events("stopping") == []


def test_whoever_stops_it_before_they_are_told_shortens_the_grace_too(run, monkeypatch):
    monkeypatch.setattr(stopping, "ASK_AGAIN", 3600.0)
    run.body += b'\nsys.modules["ddp_orch_node.supervisor"].FAREWELL = 3600.0\n'
    left_behind(run, 0, grace=3600.0)
    run.wait_for("worker")
    until(lambda: not processes.find(run.pid("root")))
    assert run.stop(0.0)["verified"]
    word = run.ended()
    assert (word["code"], word["reason"]) == (0, "exited")
    assert run.events("took-over") == [], "nobody had to be killed for it"


def test_workers_do_not_outlive_a_torchrun_that_was_killed(run):
    run.start("exec sleep 60", "exec sleep 60")
    run.wait_for("workers")
    os.kill(run.wait_for("started")["pid"], signal.SIGKILL)
    word = run.ended()
    assert (word["signal"], word["reason"], word["leftovers"]) == (9, "exited", 2)
    assert len(run.events("worker")) == 2


def test_a_full_disk_does_not_end_the_job(run):
    run.body += b"""
import os
j = sys.modules["ddp_orch_node.journal"]
j.record.journal_of = lambda folder: "/dev/full"
"""
    (run.folder / "untold").touch()
    run.start(GO + "echo done > done")
    run.go()
    until((run.folder / "exit.json").exists)
    assert run.record()["code"] == 0
    assert (run.folder / "done").exists()


FULL = b"""
import errno, os
_write = sys.modules["ddp_orch_node.record"].write
def write(folder, name, value):
    if name == %r and (name != "run.json" or value.get("root")) and not os.path.exists(
            os.path.join(folder, "room")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    _write(folder, name, value)
sys.modules["ddp_orch_node.record"].write = write
"""


@pytest.mark.parametrize(("exits", "code"), [(3, 1), (0, 0)])
def test_a_disk_that_is_full_for_the_exit_record_has_the_last_word_in_the_journal(run, exits, code):
    run.body += FULL % "exit.json"
    run.start(GO + f"exit {exits}").wait_for("workers")
    keepers = [run.pid("guard"), run.pid("supervisor")]
    run.go()
    word = run.wait_for("ended")
    assert (word["code"], word["reason"]) == (code, "exited")
    assert not (run.folder / "exit.json").exists()
    assert "no exit record: " in (run.folder / "supervisor.log").read_text()
    until(lambda: not any(map(processes.find, keepers)))
    told = reports.status(None, str(run.folder))
    assert (told["state"], told["exit"]["code"], told["problem"]) == ("ended", code, None)
    got = run.stop(0.0)
    assert (got["state"], got["verified"]) == ("ended", True)
    assert (run.told["before"], run.told["failed"]) == ("ended", code != 0)
    assert run.events("stopping") == []
    assert run.events("ended") == [word], "nobody writes another end over it"
    reports.forget(None, str(run.folder))
    assert not run.folder.exists()


def test_a_full_disk_when_torchrun_has_just_started_is_no_end(run):
    """Who keeps it is known; what it keeps is written down as soon as there is room."""
    run.body += FULL % "run.json"
    run.start(GO + "exit 0").wait_for("workers")
    assert run.pid("root") == 0
    (run.folder / "room").touch()
    until(lambda: run.pid("root"))
    run.go()
    assert run.ended()["code"] == 0


def test_what_a_full_disk_refused_is_written_later(tmp_path):
    told = journal.Journal(str(tmp_path))
    file, told._file = told._file, os.open("/dev/full", os.O_WRONLY)
    told.note("first")
    assert (tmp_path / "journal.jsonl").read_bytes() == b""
    os.close(told._file)
    told._file = file
    told.note("second")
    told.close()
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["first", "second"]


def test_half_a_line_of_one_who_was_killed_stays_alone(tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(b'{"event": "wor')
    told = journal.Journal(str(tmp_path))
    told.note("took-over")
    told.close()
    assert [entry["event"] for entry in record.entries(str(tmp_path))] == ["took-over"]


def test_half_of_torchruns_variables_make_no_worker_and_no_crash(run):
    (run.folder / "torchrun.py").write_text(TORCHRUN)
    (run.folder / "wrapper").write_text(f"'{sys.executable}' torchrun.py . '{GO}'; exit $?")
    run.start(argv=["/bin/sh", "-c", "RANK=x LOCAL_WORLD_SIZE=1 sh ./wrapper; exit $?"])
    assert run.wait_for("workers")["workers"][0]["rank"] == 4
    run.go()
    assert run.ended()["code"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"message": "plain"}', "plain"),
        ('{"message": {"message": "m", "extraInfo": null}}', "m"),
        ('{"message": {}}', ""),
    ],
)
def test_error_files_of_other_shapes(tmp_path, text, message):
    (tmp_path / "error.json").write_text(text)
    assert workers.error_in(str(tmp_path / "error.json")) == {
        "message": message,
        "traceback": "",
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "{}"])
def test_error_files_that_are_none(tmp_path, text):
    (tmp_path / "error.json").write_text(text)
    assert workers.error_in(str(tmp_path / "error.json")) is None


def test_nobody_in_a_run_holds_a_descriptor_of_its_agents(run):
    """An inherited pipe would keep a reader from ever seeing its end."""
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    try:
        run.start("exec sleep 60").wait_for("workers")
        root, worker = run.pid("root"), run.wait_for("workers")["workers"][0]["pid"]
        pipe = Path(f"/proc/self/fd/{theirs}").readlink()
        program = Path(f"/proc/{run.pid('guard')}/fd/0").readlink()
        wake = held(run.pid("supervisor")) - held(run.pid("guard"))
        for pid in (run.pid("guard"), run.pid("supervisor"), root, worker):
            assert pipe not in held(pid)
        for pid in (root, worker):
            assert program not in held(pid)
            assert not {link for link in wake if "pipe:" in str(link)} & held(pid)
    finally:
        os.close(ours)
        os.close(theirs)


def held(pid):
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(descriptor.readlink())
    return links
