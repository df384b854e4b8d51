"""The real supervisor, started as the agent starts it, with a stand-in for torchrun beneath it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import boot
from orchestrator.node import processes, runs, supervisor
from tests.test_node_processes import bearers, cookie, until

__all__ = ["cookie"]

# Like torchrun: a session per worker, its variables, TERM passed on, exit code 1 for any failure.
# Unlike it, a dead worker is not reaped before the supervisor has told of it: no test may hang on
# who looks first.
TORCHRUN = r"""
import json, os, signal, subprocess, sys, time
folder, commands = sys.argv[1], sys.argv[2:]
workers = []
for local, command in enumerate(commands):
    env = dict(os.environ, RANK=str(local + 4), LOCAL_RANK=str(local), GROUP_RANK="2",
               WORLD_SIZE="8", LOCAL_WORLD_SIZE=str(len(commands)), TORCHELASTIC_RESTART_COUNT="0",
               TORCHELASTIC_ERROR_FILE=os.path.join(folder, "error%d.json" % local))
    workers.append(subprocess.Popen(["/bin/sh", "-c", command], env=env, start_new_session=True))
signal.signal(signal.SIGTERM, lambda *_: [os.kill(w.pid, signal.SIGTERM) for w in workers])

def told():
    try:
        return open(os.path.join(folder, "journal.jsonl")).read().count('"worker"')
    except OSError:
        return 0

for worker in workers:
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
while not os.path.exists("untold") and told() < len(workers):
    time.sleep(0.01)
sys.exit(1 if any([worker.wait() for worker in workers]) else 0)
"""
GO = "while [ ! -e go ]; do sleep 0.01; done; "
NOTHING = {"defaults": {}, "fixed": {}, "prepended": {}}


class Run:
    def __init__(self, folder, cookie):
        self.folder = folder
        self.cookie = cookie
        self.pid = None

    def start(self, *workers, argv=None, env=NOTHING, grace=20.0):
        program = boot.program(boot.in_order(["supervisor"]), "").encode()
        argv = argv or [sys.executable, "-c", TORCHRUN, str(self.folder), *workers]
        call = SimpleNamespace(body=program)
        got = runs.start(call, str(self.folder), argv, env, str(self.folder), self.cookie, grace)
        self.pid = got["supervisor"]
        return self

    def stop(self, grace):
        return runs.stop(None, str(self.folder), grace)

    def close_leash(self):
        runs.SUPERVISORS[str(self.folder)].stdin.close()

    def go(self):
        (self.folder / "go").touch()

    def journal(self):
        try:
            lines = (self.folder / "journal.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def events(self, name):
        return [entry for entry in self.journal() if entry["event"] == name]

    def wait_for(self, name):
        return until(lambda: self.events(name))[0]

    def record(self):
        return json.loads((self.folder / "exit.json").read_text())

    def ended(self):
        """Return the last word, once it is there: nobody is left and the record says the same."""
        word = self.wait_for("ended")
        record = self.record()
        assert {key: record[key] for key in record if key != "time"}.items() <= word.items()
        assert self.journal()[-1] == word
        assert bearers(self.cookie) == []
        until(lambda: (now := processes.find(self.pid)) is None or now.dead)
        return word


@pytest.fixture
def run(tmp_path, monkeypatch, cookie):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run(tmp_path, cookie)
    yield run
    process = runs.SUPERVISORS.pop(str(tmp_path), None)
    if process:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):  # a stop that came too late is still in it
            process.stdin.close()


def test_a_run_is_written_down_from_start_to_end(run):
    run.start(GO + "exit 3", GO + "kill -KILL $$")
    started = run.wait_for("started")
    (table,) = [run.wait_for("workers")]
    assert table["round"] == 0
    assert [row.pop("pid") for row in table["workers"]] == sorted(
        processes.children(started["pid"])
    )
    shared = {"group_rank": 2, "world_size": 8, "restart": 0}
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


def test_a_setup_command_has_its_own_output_and_no_workers(run):
    """What looks like a worker of torchrun's is none there."""
    env = {**NOTHING, "fixed": dict.fromkeys(
        ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1"
    )}  # fmt: skip
    folder = run.folder / "setup/1"
    call = SimpleNamespace(body=boot.program(boot.in_order(["supervisor"]), "").encode())
    argv = ["/bin/sh", "-c", "setsid sleep 60 & echo $PWD; sleep 0.2"]
    words = (str(folder), argv, env, str(run.folder), run.cookie, 1.0)
    try:
        runs.start(call, *words, output="setup")
        run.folder = folder
        run.pid = runs.SUPERVISORS[str(folder)].pid
        word = run.ended()
    finally:
        with runs.SUPERVISORS.pop(str(folder)) as process:
            process.kill()
            process.stdin.close()
    assert (word["code"], word["leftovers"]) == (0, 1)
    assert (folder / "setup.out").read_text() == f"{folder.parent.parent}\n"
    assert [entry["event"] for entry in run.journal()] == ["started", "ended"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_run_ends_with_its_agent(run):
    run.start("exec sleep 60", "exec sleep 60").wait_for("workers")
    run.close_leash()
    word = run.ended()
    assert word["reason"] == "stopped"
    ends = [(entry["signal"], entry["ours"]) for entry in run.events("worker")]
    assert ends == [(signal.SIGTERM, False)] * 2


def test_a_stop_gives_workers_time_to_end_as_they_like(run):
    run.start("trap 'exit 7' TERM; while :; do sleep 0.01; done").wait_for("workers")
    assert run.stop(20.0)
    assert run.ended()["reason"] == "stopped"
    assert [entry["code"] for entry in run.events("worker")] == [7]
    assert run.events("stopping")[0]["grace"] == 20.0
    assert not run.stop(1.0), "one that has ended cannot be stopped"


def test_workers_that_ignore_term_are_killed_after_the_grace(run):
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    assert run.stop(0.2)
    word = run.ended()
    assert word["reason"] == "stopped"
    assert word["signal"] == signal.SIGKILL, "torchrun's own end is known: it was our child"
    (worker,) = run.events("worker")
    assert (worker["signal"], worker["ours"]) == (signal.SIGKILL, True)


def test_a_second_stop_shortens_the_grace(run):
    run.start("trap '' TERM; exec sleep 60").wait_for("workers")
    run.stop(3600.0)
    run.wait_for("stopping")
    run.stop(0)
    assert run.ended()["reason"] == "stopped"


def test_a_terminated_supervisor_takes_its_run_down(run):
    run.start("exec sleep 60").wait_for("workers")
    os.kill(run.pid, signal.SIGTERM)
    assert run.ended()["reason"] == "stopped"


def test_a_program_that_is_not_there_is_the_reason(run):
    run.start(argv=["/no/such/torchrun"])
    word = run.ended()
    assert word["reason"] == "/no/such/torchrun: No such file or directory"
    assert (word["code"], word["signal"]) == (None, None)


def test_a_folder_that_is_not_there_is_refused_at_once(run):
    with pytest.raises(FileNotFoundError, match="no folder on this host"):
        runs.start(None, str(run.folder), ["true"], NOTHING, "/no/such", run.cookie, 1.0)


def test_workers_do_not_outlive_a_torchrun_that_was_killed(run):
    run.start("exec sleep 60", "exec sleep 60")
    run.wait_for("workers")
    os.kill(run.wait_for("started")["pid"], signal.SIGKILL)
    word = run.ended()
    assert (word["signal"], word["reason"], word["leftovers"]) == (9, "exited", 2)
    assert len(run.events("worker")) == 2


def test_a_killed_supervisor_is_taken_over(run):
    run.start("exec sleep 60", "setsid sleep 60 & trap '' TERM; exec sleep 60").wait_for("workers")
    os.kill(run.pid, signal.SIGKILL)
    word = run.ended()
    assert word["reason"] == "the supervisor died"
    assert word["survivors"] == []


def test_a_supervisor_that_died_before_its_last_line_has_it_written_for_it(run):
    """Else whoever follows waits for ever."""
    record = {"code": 5, "signal": None, "reason": "exited", "leftovers": 0, "survivors": []}
    (run.folder / "exit.json").write_text(json.dumps(dict(record, time=1.0)))
    with subprocess.Popen(["true"]) as process:
        runs.survive(process, str(run.folder), run.cookie)
    assert run.journal() == [{"event": "ended", **record, "time": 1.0}]


def test_a_last_word_is_not_said_twice(run):
    run.start(GO).wait_for("workers")
    run.go()
    run.ended()
    with subprocess.Popen(["true"]) as process:
        runs.survive(process, str(run.folder), run.cookie)
    assert len(run.events("ended")) == 1


def test_a_full_disk_does_not_end_the_job(run):
    (run.folder / "journal.jsonl").symlink_to("/dev/full")
    (run.folder / "untold").touch()
    run.start(GO + "echo done > done")
    run.go()
    until((run.folder / "exit.json").exists)
    assert run.record()["code"] == 0
    assert (run.folder / "done").exists()


def test_what_a_full_disk_refused_is_written_later(run, tmp_path):
    keeper = supervisor.Supervisor({"folder": str(tmp_path), "cookie": run.cookie}, None)
    journal, keeper._journal = keeper._journal, os.open("/dev/full", os.O_WRONLY)
    keeper.note("first")
    assert run.journal() == []
    os.close(keeper._journal)
    keeper._journal = journal
    keeper.note("second")
    os.close(journal)
    assert [entry["event"] for entry in run.journal()] == ["first", "second"]


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
    assert supervisor.error_in(str(tmp_path / "error.json")) == {
        "message": message,
        "traceback": "",
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "{}"])
def test_error_files_that_are_none(tmp_path, text):
    (tmp_path / "error.json").write_text(text)
    assert supervisor.error_in(str(tmp_path / "error.json")) is None


def test_nobody_in_a_run_holds_a_descriptor_of_its_agents(run):
    """An inherited pipe would keep another run's leash, or a reader, from ever seeing its end."""
    ours, theirs = os.pipe()
    try:
        run.start("exec sleep 60").wait_for("workers")
        torchrun = run.wait_for("started")["pid"]
        worker = run.wait_for("workers")["workers"][0]["pid"]
        pipe = Path(f"/proc/self/fd/{theirs}").readlink()
        leash = Path(f"/proc/{run.pid}/fd/0").readlink()
        assert pipe not in held(run.pid) | held(torchrun) | held(worker)
        assert leash not in held(torchrun) | held(worker)
    finally:
        os.close(ours)
        os.close(theirs)


def held(pid):
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(descriptor.readlink())
    return links
