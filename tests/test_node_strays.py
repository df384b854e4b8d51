"""What earlier jobs left on a host: found, and ended, by real processes; nobody else is touched."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from orchestrator.node import family, jobs, looking, processes, record, runs, strays
from tests.node_run import GO, Run, bearers, cookie, run, until
from tests.test_node_processes import spawn

__all__ = ["bearers", "cookie", "run", "spawn"]

# A stand-in for torchrun, run as `python -m torch.distributed.run`: one worker, in a session of
# its own, that writes down who it is. What it does at SIGTERM is what the test wants.
TORCHRUN = r"""
import os, signal, subprocess, sys, time
script = sys.argv[-1]
env = dict(os.environ, TORCHELASTIC_RUN_ID="old", RANK="0", LOCAL_RANK="0", WORLD_SIZE="2",
           MASTER_ADDR="10.0.0.1")
worker = subprocess.Popen(["/bin/sh", "-c", script], env=env, start_new_session=True)
def told(*_):
    worker.terminate()
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if os.path.exists("deaf") else told)
open("torchrun.pid.new", "w").write(str(os.getpid()))
os.rename("torchrun.pid.new", "torchrun.pid")
while True:
    time.sleep(60)
"""
WORDS = [sys.executable, "-m", "torch.distributed.run", "--rdzv-endpoint=10.0.0.1:29400"]
SLEEPS = "echo $$ > worker.new; mv worker.new worker; exec sleep 600"
IGNORES = f"trap '' TERM; {SLEEPS}"
SECONDS = 60.0


class Job:
    """A folder with a torchrun of ours in it; who works in that folder ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "torch" / "distributed"
        package.mkdir(parents=True)
        for each in (package.parent, package):
            (each / "__init__.py").touch()
        (package / "run.py").write_text(TORCHRUN)

    def orphan(self, script: str = SLEEPS) -> Job:
        """Start it as an ssh session does that is lost then: nobody is above it any more."""
        words = " ".join(f"'{word}'" for word in WORDS)
        starter = subprocess.Popen(
            ["/bin/sh", "-c", f'{words} "$0" & exit', script],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        starter.wait()
        return self.ready()

    def on_a_terminal(self) -> tuple[Job, int]:
        """Start it from a shell at which somebody sits; return it, and what closes that."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            words = " ".join(f"'{word}'" for word in WORDS)
            line = f"{words} '{SLEEPS}'; true"
            os.execv("/bin/sh", ["/bin/sh", "-c", line])  # noqa: S606  it is the shell that counts
        self.shell = pid
        return self.ready(), terminal

    def ready(self) -> Job:
        until(lambda: (self.folder / "worker").exists() and (self.folder / "torchrun.pid").exists(),
              SECONDS)  # fmt: skip
        return self

    @property
    def torchrun(self) -> int:
        return int((self.folder / "torchrun.pid").read_text())

    @property
    def worker(self) -> int:
        return int((self.folder / "worker").read_text())

    def all(self) -> list[int]:
        return list(within(self.folder))


def within(folder: Path):
    for process in processes.everyone().values():
        with contextlib.suppress(OSError):
            place = os.readlink(f"/proc/{process.pid}/cwd")  # noqa: PTH115  it may be "... (deleted)"
            if place.startswith(str(folder)) and process.pid != os.getpid() and not process.dead:
                yield process.pid


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    job = Job(folder)
    yield job

    def none_left() -> bool:
        """There is one that begins new ones all the time."""
        for pid in within(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not job.all()

    until(none_left, SECONDS)


def found(tmp_path: Path, *pids: int, **more) -> dict[int, dict]:
    """Return what is told of those pids; this machine may have strays of its own."""
    told = strays.find(None, str(tmp_path / "state"), **more)
    return {row["pid"]: row for row in told["strays"] if row["pid"] in pids}


def identity(pid: int) -> list[int]:
    process = processes.find(pid)
    assert process
    return [process.pid, process.start]


def ended(*pids: int, grace: float = 10.0, state_dir: str = "/nowhere") -> dict:
    return strays.end(None, [identity(pid) for pid in pids], grace, state_dir)


def ended_all(rows: dict[int, dict], grace: float = 10.0) -> dict:
    return strays.end(
        None, [[row["pid"], row["start"]] for row in rows.values()], grace, "/nowhere"
    )


# ---- finding ----


def test_a_torchrun_that_was_left_and_its_worker(tmp_path, job):
    job.orphan()
    rows = found(tmp_path, job.torchrun, job.worker)
    torchrun, worker = rows[job.torchrun], rows[job.worker]
    assert (torchrun["kind"], torchrun["orphan"], torchrun["owner"]) == ("torchrun", True, "")
    assert torchrun["endpoint"] == "10.0.0.1:29400"
    assert "-m torch.distributed.run" in torchrun["command"]
    assert [torchrun["pid"], torchrun["start"]] == identity(job.torchrun)
    assert 0 <= torchrun["age"] < 600
    assert (worker["kind"], worker["orphan"], worker["id"]) == ("worker", True, "old")
    assert (worker["parent"], worker["root"]) == (job.torchrun, job.torchrun)


def test_workers_whose_torchrun_was_killed(tmp_path, job):
    job.orphan(f"sleep 600 & {SLEEPS}")
    os.kill(job.torchrun, signal.SIGKILL)
    until(lambda: processes.find(job.worker).parent != job.torchrun)
    helper = next(pid for pid in job.all() if pid not in (job.worker, job.torchrun))
    rows = found(tmp_path, job.worker, helper)
    assert {pid: (row["kind"], row["orphan"]) for pid, row in rows.items()} == {
        job.worker: ("worker", True),
        helper: ("helper", True),
    }


def test_under_a_terminal_it_is_somebodys_until_that_is_closed(tmp_path, job):
    _, terminal = job.on_a_terminal()
    try:
        row = found(tmp_path, job.torchrun)[job.torchrun]
        assert (row["orphan"], row["owner"]) == (False, "a terminal")
    finally:
        os.close(terminal)  # the shell ends by it, and a worker has a session of its own
        os.waitpid(job.shell, 0)
    until(lambda: found(tmp_path, job.worker).get(job.worker, {}).get("orphan"), SECONDS)


def test_under_a_living_parent_that_is_no_shell_it_is_somebodys(tmp_path, job):
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    words = [sys.executable, "-c", parent, *WORDS, SLEEPS]
    # A session of its own, as every login has: that of process 1 may be the tests' as well.
    above = subprocess.Popen(words, cwd=job.folder, start_new_session=True)
    try:
        job.ready()
        row = found(tmp_path, job.torchrun)[job.torchrun]
        assert not row["orphan"]
        assert row["owner"] == f"{processes.find(above.pid).name} (pid {above.pid})"
    finally:
        above.kill()
        above.wait()
    until(lambda: found(tmp_path, job.torchrun)[job.torchrun]["orphan"], SECONDS)


def test_a_shell_that_nobody_sits_at_keeps_nothing(tmp_path, job):
    """`ssh host 'cd x; torchrun ...'`, when the connection is lost."""
    words = " ".join(f"'{word}'" for word in WORDS)
    script = f"(setsid sh -c \"{words} '{SLEEPS}'; true\" &) ; exit"
    subprocess.run(["/bin/sh", "-c", script], cwd=job.folder, check=True)
    job.ready()
    assert processes.find(processes.find(job.torchrun).parent).name in jobs.SHELLS
    assert found(tmp_path, job.torchrun)[job.torchrun]["orphan"]


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root: a pid namespace"
)
def test_what_is_in_a_container_is_the_containers(tmp_path, job):
    before = strays.find(None, str(tmp_path / "state"))["others"]
    words = ["unshare", "--pid", "--fork", "--kill-child", *WORDS, SLEEPS]
    container = subprocess.Popen(words, cwd=job.folder)
    try:
        until((job.folder / "worker").exists, SECONDS)
        told = strays.find(None, str(tmp_path / "state"))
        assert told["others"] > before
        assert not {*job.all()} & {row["pid"] for row in told["strays"]}
    finally:
        container.kill()
        container.wait()


# A container's first process, which is no shell: it starts torchrun, and somebody looks inside.
FIRST = r"""
import json, os, subprocess, sys, time
from orchestrator.node import processes, strays
state, folder, *words = sys.argv[1:]
torchrun = subprocess.Popen(words, cwd=folder)
while not os.path.exists(folder + "/worker"):
    time.sleep(0.01)
rows = [row for row in strays.find(None, state)["strays"] if row["pid"] == torchrun.pid]
print(json.dumps([os.getpid(), processes.find(1).name, rows]))
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root: a pid namespace"
)
def test_what_a_containers_own_program_has_started_is_its(tmp_path, job):
    root = str(Path(strays.__file__).parents[2])
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c"]
    words += [FIRST, str(tmp_path / "state"), str(job.folder), *WORDS, SLEEPS]
    env = {**os.environ, "PYTHONPATH": root}
    told = subprocess.run(words, env=env, stdout=subprocess.PIPE, check=True, timeout=120)
    pid, name, (row,) = json.loads(told.stdout)
    assert pid == 1
    assert (row["orphan"], row["owner"]) == (False, f"{name} (pid 1)")


def test_who_holds_the_port_is_told_of_when_it_is_asked_for(tmp_path, job):
    holds = (
        "import os, socket, sys, time; s = socket.create_server(('127.0.0.1', 0)); "
        "open('port.new', 'w').write(str(s.getsockname()[1])); os.rename('port.new', 'port'); "
        "time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", holds], cwd=job.folder)
    try:
        until((job.folder / "port").exists, SECONDS)
        port = int((job.folder / "port").read_text())
        assert found(tmp_path, holder.pid) == {}
        row = found(tmp_path, holder.pid, port=port)[holder.pid]
        assert (row["kind"], row["ports"]) == ("port", [port])
    finally:
        holder.kill()
        holder.wait()


def test_who_is_on_a_gpu_is_told_of_when_named_and_nobody_who_is_not(tmp_path):
    with subprocess.Popen(["sleep", "600"]) as holder, subprocess.Popen(["sleep", "600"]) as other:
        try:
            both = (holder.pid, other.pid)
            assert found(tmp_path, *both) == {}
            row = found(tmp_path, *both, holders=[holder.pid, 1, os.getpid()])
            assert {pid: each["kind"] for pid, each in row.items()} == {holder.pid: "gpu"}
        finally:
            holder.kill()
            other.kill()


def test_never_we_ourselves_nor_those_we_come_from(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        assert found(tmp_path, *processes.lineage(), port=port) == {}


def test_a_process_that_cannot_be_read_holds_nobody_up(tmp_path, job, monkeypatch):
    job.orphan()
    forever, read = Event(), processes.read

    def hangs(path: str) -> bytes:
        if path == f"/proc/{job.worker}/environ":
            forever.wait()
        return read(path)

    monkeypatch.setattr(processes, "read", hangs)
    monkeypatch.setattr(looking, "STUCK", 0.2)
    try:
        told = strays.find(None, str(tmp_path / "state"))
    finally:
        forever.set()
    assert job.torchrun in [row["pid"] for row in told["strays"]]
    assert told["problem"] == f"1 processes could not be looked at in time: pid {job.worker}"


# ---- what runs of ours keep ----


def test_a_live_run_is_told_of_and_its_processes_are_nobodys_strays(run: Run, tmp_path):
    run.start("exec sleep 600")
    run.wait_for("workers")
    state_dir = str(tmp_path / ".ddp-orch")
    told = strays.find(None, state_dir)
    (known,) = [known for known in told["runs"] if known["run"] == "brave-otter"]
    assert (known["state"], known["owner"], known["node"]) == ("running", "alice@laptop", 0)
    ours = {*bearers(run.cookie), run.pid("supervisor"), run.pid("guard")}
    assert len(ours) == 4
    assert not ours & {row["pid"] for row in told["strays"]}
    # Whatever is asked: whoever asks is told whose they are.
    told = ended(*ours, grace=0, state_dir=state_dir)
    assert told == {
        "ended": 0,
        "survivors": [],
        "kept": {str(pid): "brave-otter" for pid in ours},
    }
    assert run.state() == "running"
    assert {*bearers(run.cookie)} < ours
    assert run.stop(grace=0)["state"] == "ended"


def test_a_run_whose_keepers_were_killed_is_lost_and_not_stray(run: Run, tmp_path):
    run.start("exec sleep 600")
    run.wait_for("workers")
    run.kill("guard", "supervisor")
    until(lambda: run.state() == "lost")
    told = strays.find(None, str(tmp_path / ".ddp-orch"))
    (known,) = [known for known in told["runs"] if known["run"] == "brave-otter"]
    assert (known["state"], known["alive"]) == ("lost", len(bearers(run.cookie)))
    assert not {*bearers(run.cookie)} & {row["pid"] for row in told["strays"]}
    assert run.stop(grace=0)["state"] == "ended"
    told = strays.find(None, str(tmp_path / ".ddp-orch"))
    assert [known for known in told["runs"] if known["run"] == "brave-otter"] == []


def test_what_has_nothing_but_the_cookie_of_a_run_is_the_runs(run: Run, tmp_path, spawn):
    """Where the system refuses the mark."""
    run.start("exec sleep 600")
    env = {processes.COOKIE: run.cookie, jobs.ELASTIC: "x"}
    bare = spawn("sleep", "600", env=dict(os.environ, **env))
    until(lambda: processes.find(bare.pid).name == "sleep")
    assert bare.pid in found(tmp_path, bare.pid), "of a run that is not known here it is a stray"
    told = strays.find(None, str(tmp_path / ".ddp-orch"))
    assert bare.pid not in [row["pid"] for row in told["strays"]]
    assert run.stop(grace=0)["state"] == "ended"


def test_a_lost_run_with_another_state_dir_is_told_of_by_its_processes(run: Run, tmp_path):
    named = {"DDP_ORCH_RUN_DIR": str(run.folder), "DDP_ORCH_RUN": "brave-otter"}
    run.start("exec sleep 600", env={"defaults": {}, "fixed": named, "prepended": {}})
    run.wait_for("workers")
    run.kill("guard", "supervisor")
    until(lambda: run.state() == "lost")
    below = bearers(run.cookie)
    told = strays.find(None, str(tmp_path / "another"))
    (known,) = [known for known in told["runs"] if known["run"] == "brave-otter"]
    assert (known["state"], known["alive"]) == ("lost", len(below))
    assert not {*below} & {row["pid"] for row in told["strays"]}
    assert run.stop(grace=0)["state"] == "ended"


def test_what_has_nothing_but_the_mark_of_a_lost_run_is_the_runs(run: Run, tmp_path):
    by_hand = " ".join(f"{name}=1" for name in jobs.BY_HAND)
    run.start(f"echo $$ > bare; {GO}exec env -i {by_hand} sleep 600")
    run.wait_for("workers")
    run.go()
    pid = int((run.folder / "bare").read_text())
    until(lambda: processes.find(pid).name == "sleep")
    run.kill("guard", "supervisor", "root")
    until(lambda: processes.find(pid).parent != run.pid("root"))
    assert pid in found(tmp_path, pid), "of a run that is not known here it is a stray"
    told = strays.find(None, str(tmp_path / ".ddp-orch"))
    assert pid not in [row["pid"] for row in told["strays"]]
    told = ended(pid, grace=0, state_dir=str(tmp_path / ".ddp-orch"))
    assert told == {"ended": 0, "survivors": [], "kept": {str(pid): "brave-otter"}}
    assert run.stop(grace=0)["state"] == "ended"
    assert not alive(pid)


@pytest.mark.parametrize("buried", [False, True])
def test_a_run_whose_folder_was_removed_by_hand(run: Run, tmp_path, buried):
    # As it is in a real run: the run's folder stands in its processes' environment.
    named = {"DDP_ORCH_RUN_DIR": str(run.folder), "DDP_ORCH_RUN": "brave-otter"}
    env = {"defaults": {}, "fixed": named, "prepended": {}}
    run.start("exec sleep 600", env=env)
    run.wait_for("workers")
    keepers = {run.pid("supervisor"), run.pid("guard")}
    below = set(bearers(run.cookie))
    assert not below & set(found(tmp_path, *below)), "another state_dir: it is kept all the same"
    shutil.rmtree(tmp_path / ".ddp-orch")
    if buried:  # a tombstone is no run's record
        assert runs.make("brave-otter", 0, str(tmp_path / ".ddp-orch"), record.STOP, {})
    rows = found(tmp_path, *keepers, *below)
    assert {*rows} >= keepers
    assert {rows[pid]["kind"] for pid in keepers} == {"keeper"}
    assert {row["run"] for pid, row in rows.items() if pid not in keepers} == {"brave-otter"}
    told = ended_all(rows, grace=1)
    assert told["survivors"] == []
    assert bearers(run.cookie) == []
    assert not any(map(alive, keepers))


def alive(pid: int) -> bool:
    process = processes.find(pid)
    return process is not None and not process.dead


# ---- ending ----


def test_all_of_it_ends_and_a_stranger_lives(tmp_path, job):
    stranger = subprocess.Popen(["sleep", "600"], cwd=tmp_path)
    try:
        job.orphan(f"(setsid sleep 600 &); sleep 600 & {SLEEPS}")
        assert len(job.all()) >= 4
        rows = found(tmp_path, *job.all())
        told = ended_all(rows, grace=1)  # only who is above the others is told
        assert (told["survivors"], told["kept"]) == ([], {})
        assert job.all() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_who_ignores_it_is_killed_after_the_grace_and_who_is_stopped_too(tmp_path, job):
    (job.folder / "deaf").touch()
    job.orphan(IGNORES)
    os.kill(job.worker, signal.SIGSTOP)
    began = time.monotonic()
    told = ended(job.torchrun, grace=0.5)
    assert told == {"ended": 2, "survivors": [], "kept": {}}
    assert time.monotonic() - began >= 0.5
    assert job.all() == []


def test_it_is_asked_politely_first(tmp_path, job):
    job.orphan("trap 'echo saved > saved; exit' TERM; echo $$ > worker.new; mv worker.new worker; "
               "while :; do sleep 0.1; done")  # fmt: skip
    os.kill(job.torchrun, signal.SIGSTOP)  # nor does one that is stopped miss it
    assert ended(job.torchrun, grace=20)["survivors"] == []
    assert (job.folder / "saved").exists()


def test_who_begins_new_ones_all_the_time(tmp_path, job):
    """Each is a child for a moment, and then in a session of its own under nobody."""
    (job.folder / "next").write_text("trap '' TERM\nsleep 0.05\nsetsid sh ./next &\n")
    job.orphan(f"setsid sh ./next & {SLEEPS}")

    def gone() -> bool:
        ended_all(found(tmp_path, *job.all()), grace=0)
        return not job.all()

    until(gone, SECONDS)


def test_who_is_only_in_the_session_of_a_worker_ends_with_it(job):
    job.orphan(f"(env -i sleep 600 &); {SLEEPS}")
    assert len(job.all()) == 3
    assert ended(job.torchrun) == {"ended": 3, "survivors": [], "kept": {}}
    assert job.all() == []


def test_who_is_never_to_be_touched_is_not_taken_for_a_child(job):
    job.orphan()
    theirs = family.Family({job.worker})
    theirs.take(*identity(job.torchrun))
    theirs.grow()
    assert [pid for pid, _ in theirs.known] == [job.torchrun]


def test_another_with_that_pid_is_left_alone(tmp_path, job):
    job.orphan()
    pid, start = identity(job.torchrun)
    told = strays.end(None, [[pid, start - 1]], 0, "/nowhere")
    assert told == {"ended": 0, "survivors": [], "kept": {}}
    assert alive(pid)


def test_a_session_whose_number_is_anothers_by_now_is_left_alone(tmp_path, job):
    job.orphan()
    other = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True, cwd=tmp_path)
    try:
        until(lambda: processes.children(other.pid))
        theirs = family.Family(())
        gone = processes.find(job.worker)
        # The worker led a session; then its number is given to a stranger, who leads one himself.
        gone.pid = gone.session = other.pid
        gone.start -= 1  # in another tick of the clock, however fast this was
        theirs.known[other.pid, gone.start] = gone
        theirs.grow()
        assert [p.pid for p in theirs.known.values()] == [other.pid]
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()


# ---- words ----


@pytest.mark.parametrize(
    "words",
    [
        ["torchrun", "train.py"],
        ["/v/bin/python3.11", "/v/bin/torchrun", "train.py"],
        ["python", "-u", "-X", "utf8", "-m", "torch.distributed.run", "x"],
        ["python3", "-um", "torch.distributed.launch", "x"],
        ["python3", "-mtorch.distributed.run"],
        ["python", "/v/lib/site-packages/torch/distributed/run.py"],
        ["/v/bin/accelerate", "launch", "x.py"],
        ["/v/bin/python", "/v/bin/accelerate", "launch", "x.py"],
    ],
)
def test_a_torchrun_by_any_name(words):
    assert jobs.is_launcher(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        [""],
        ["vim", "torchrun"],
        ["bash", "-c", "torchrun train.py"],
        ["ssh", "gpu1", "torchrun", "train.py"],
        ["python", "train.py", "-m", "torch.distributed.run"],
        ["python", "-c", "import torch.distributed.run", "torchrun"],
        ["python", "-m", "pytest", "torchrun"],
        ["accelerate", "config"],
    ],
)
def test_what_only_names_it(words):
    assert not jobs.is_launcher(words)


def test_where_it_meets_the_others():
    assert jobs.endpoint(["torchrun", "--rdzv-endpoint", "a:1", "x"]) == "a:1"
    assert jobs.endpoint(["torchrun", "--rdzv_endpoint=a:1"]) == "a:1"
    assert jobs.endpoint(["torchrun", "--master_addr", "a", "--master-port=2"]) == "a:2"
    assert jobs.endpoint(["torchrun", "x", "--rdzv-endpoint"]) == ""
    assert jobs.endpoint(["torchrun", "x"]) == ""


def test_what_a_shell_or_tmux_has_by_hand_makes_it_no_worker(monkeypatch):
    process = processes.find(os.getpid())
    process.terminal = 0
    by_hand = dict.fromkeys(jobs.BY_HAND, "1")
    for name, env, expected in (
        ("python3", by_hand, True),
        ("python3", {"RANK": "1", "WORLD_SIZE": "2"}, False),
        ("bash", by_hand, False),
        ("bash", {jobs.ELASTIC: "x"}, True),
        ("tmux: server", {jobs.ELASTIC: "x"}, False),
    ):
        process.name = name
        assert jobs.is_worker(process, env) is expected, (name, env)
    process.name, process.terminal = "bash", 1
    assert not jobs.is_worker(process, {jobs.ELASTIC: "x"})
