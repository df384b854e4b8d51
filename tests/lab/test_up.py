"""Whole runs over loopback SSH, as a user starts them: real SSH, real torchrun, real workers."""

from __future__ import annotations

import json
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from orchestrator.node import record, stopping
from tests.lab.conftest import running
from tests.reading import read_rest, read_until
from tests.workers import worker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Rooms

NASTY = [
    "two words",
    "it's",
    'say "hi"',
    "$(touch /tmp/pwned) `id` ${HOME} $$ $local_rank ${local_rank}",
    "a\nb\n",
    "--",
    "",
    "-x=1",
    "--nnodes",
    "\\ \\\\ \t !! # ; | & < > * ? ~ [a] {b}",
    "käse 🧀 \u202e",
    "@file %d {node_rank}",
]


def said(output: str, rank: int) -> list[str]:
    return re.findall(rf"^\w+\[r{rank}\]\| (.*)$", output, re.MULTILINE)


@pytest.mark.parametrize("args", [NASTY, ["--", *NASTY], ["--", "--"]], ids=["12", "--", "-- --"])
def test_arguments_and_environment_arrive_unchanged(rooms: Rooms, args: list[str]) -> None:
    env = {"SPACES": " a  b ", "QUOTES": "'\"`$(id)$$", "LINES": "a\nb", "UNICODE": "käse"}
    inventory = rooms.inventory(1, job={"env": env})
    done = rooms.ddp_orch("up", inventory, "--env", "EXTRA=x=y", "--", worker("args"), *args)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = said(done.stdout, 0)
    me = json.loads(line)
    assert me["argv"] == args
    assert {name: me["env"][name] for name in env} == env
    assert me["env"]["EXTRA"] == "x=y"
    assert me["cwd"] == me["env"]["DDP_ORCH_RUN_DIR"]


def test_a_users_own_settings_win_over_ours(rooms: Rooms) -> None:
    own = {"OMP_NUM_THREADS": "7", "GLOO_SOCKET_IFNAME": "lo0", "PYTHONPATH": "/mine"}
    inventory = rooms.inventory(1, hosts={0: {"env": own}})
    # There is no such interface, which would keep the run from being started.
    done = rooms.ddp_orch("up", "--skip-check", "net.if_env", inventory, "--", worker("args"))
    assert done.returncode == 0, done.stdout + done.stderr
    env = json.loads(said(done.stdout, 0)[0])["env"]
    assert env["OMP_NUM_THREADS"] == "7"
    assert env["GLOO_SOCKET_IFNAME"] == "lo0"
    assert env["PYTHONPATH"].split(":")[1:] == ["/mine"]
    assert env["NCCL_SOCKET_IFNAME"] == "=lo"


def test_several_workers_per_host_share_its_cores(rooms: Rooms) -> None:
    inventory = rooms.inventory(2, defaults={"nproc_per_node": 2})
    done = rooms.ddp_orch("up", inventory, "--", worker("ranks"))
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = [json.loads(said(done.stdout, rank)[0]) for rank in range(4)]
    assert [(r["GROUP_RANK"], r["LOCAL_RANK"]) for r in ranks] == [
        ("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"),
    ]  # fmt: skip
    assert {r["WORLD_SIZE"] for r in ranks} == {"4"}


def test_a_module_runs_in_the_workdir(rooms: Rooms, tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "train.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv[1:])\n")
    inventory = rooms.inventory(1, defaults={"workdir": str(tmp_path)})
    done = rooms.ddp_orch("up", inventory, "-m", "mine.train", "--", "--lr", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done.stdout, 0) == [f"{tmp_path} ['--lr', '1']"]


@pytest.mark.slow
def test_without_a_script_the_bundled_trainer_learns_on_all_hosts(rooms: Rooms) -> None:
    inventory = rooms.inventory(3)
    done = rooms.ddp_orch("up", "-n", "trained", inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    (accuracy,) = re.findall(r"^lab1\[r0\]\| accuracy: ([\d.]+)$", done.stdout, re.MULTILINE)
    assert float(accuracy) >= 0.97
    assert "rank 2 of 3" in "".join(said(done.stdout, 2))
    metrics = rooms.hosts[0].home / ".ddp-orch/runs/trained/0/metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 301))
    assert steps[-1]["loss"] < steps[0]["loss"] / 10


@pytest.mark.slow
def test_the_demo_plays_it_all_and_leaves_nothing(rooms: Rooms, tmp_path: Path) -> None:
    done = rooms.ddp_orch("demo", "--hosts", "2", HOME=str(tmp_path), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"accuracy: 0\.9[7-9]", done.stdout)
    assert done.stdout.endswith("nothing is left on this machine\n")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".ssh", "ddp-orch", ".local"))]


def test_bytes_are_kept_as_they_are_and_shown_without_harm(rooms: Rooms, tmp_path: Path) -> None:
    script = tmp_path / "odd.py"
    payload = b"caf\xe9 \x1b]0;title\x07\x1b[31mred\x1b[0m\x1b[2J\x00\x9b1A end\n"
    script.write_text(
        "import sys, time\n"
        f"sys.stdout.buffer.write({payload!r}); sys.stdout.flush()\n"
        "for i in range(100): sys.stderr.write(f'\\r{i} %'); sys.stderr.flush()\n"
        "sys.stderr.write('\\n')\n"
    )
    done = rooms.ddp_orch("up", "-n", "odd", rooms.inventory(1), "--", script)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = said(done.stdout, 0)
    assert "caf\ufffd red\ufffd1A end" in lines
    assert "99 %" in lines
    assert len([line for line in lines if line.endswith("%")]) < 20, "a bar is not a flood"
    assert (rooms.state / "runs/odd/logs/rank0.out").read_bytes() == payload
    assert (rooms.state / "runs/odd/logs/rank0.err").read_bytes().count(b"\r") == 100


# A worker may come and go before its ranks are read: then it is told of in other words.
KNOWN = """
import os, time
journal = os.environ['DDP_ORCH_RUN_DIR'] + '/journal.jsonl'
while '"workers"' not in open(journal).read(): time.sleep(0.01)
"""


def test_a_worker_that_is_killed_is_named_with_its_signal(rooms: Rooms, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        f"{KNOWN}import signal\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "signal.pause()\n"
    )
    done = rooms.ddp_orch("up", rooms.inventory(2), "--", script)
    assert done.returncode == 100, done.stdout + done.stderr
    assert "stopping everywhere: rank 1 on lab2 was killed by SIGSEGV" in done.stdout
    assert "first failure: rank 1 on lab2, killed by SIGSEGV" in done.stdout


def test_a_script_without_what_lies_beside_it_and_with_it_as_the_hint_says(
    rooms: Rooms, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text("NAME = 'a model'\n")
    (tmp_path / "sub.py").write_text("import sys, model\nprint(model.NAME, sys.argv[1])\n")
    inventory = rooms.inventory(1)
    done = rooms.ddp_orch("up", inventory, "--", "sub.py", "a b", cwd=tmp_path)
    assert done.returncode == 100, done.stdout + done.stderr
    assert "   -> only sub.py was sent, and not model beside it; " in done.stdout
    words = shlex.split(done.stdout.partition("ddp-orch up ")[2].splitlines()[0])
    assert words == [str(inventory), "-m", "sub", "--", "a b"]
    inventory.write_text(rooms.inventory(1, defaults={"workdir": str(tmp_path)}).read_text())
    done = rooms.ddp_orch("up", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a model a b" in said(done.stdout, 0)


WAITER = """
import os, sys, time
print("rank", os.environ["RANK"], "begins", flush=True)
number = 0
while not os.path.exists(sys.argv[1]):
    number += 1
    print("line", number, flush=True)
    time.sleep(0.001)
print("the last of", number, flush=True)
"""


@pytest.fixture
def waiter(tmp_path: Path) -> tuple[Path, Path]:
    """Return a script, and the file that it waits for while it writes and writes."""
    script = tmp_path / "waiter.py"
    script.write_text(WAITER)
    return script, tmp_path / "go"


@pytest.mark.slow
def test_a_lost_connection_is_sought_and_no_byte_is_lost(
    rooms: Rooms, waiter: tuple[Path, Path]
) -> None:
    script, go = waiter
    run = rooms.start("up", "-n", "sought", rooms.inventory(2), "--", script, go)
    try:
        seen = read_until(run, "begins", 2)
        for _ in range(3):
            rooms.hosts[1].drop_connections()
            seen += read_until(run, "lab2 is back")
        go.touch()
        out = read_rest(run, 60)
    finally:
        go.touch()
        run.kill()
        run.communicate()
    assert run.returncode == 0, seen + out
    assert seen.count("no contact with lab2") == 3
    for rank in (0, 1):
        there = rooms.hosts[rank].home / f".ddp-orch/runs/sought/{rank}/worker-logs/0/r{rank}.out"
        lines = (rooms.state / f"runs/sought/logs/rank{rank}.out").read_text()
        assert lines == there.read_text()
        count = lines.count("line ")
        numbered = "".join(f"line {number}\n" for number in range(1, count + 1))
        assert lines == f"rank {rank} begins\n{numbered}the last of {count}\n"


def end(rooms: Rooms, name: str, count: int) -> None:
    """End a run that was left, as `down` would."""
    for rank, host in enumerate(rooms.hosts[:count]):
        folder = f"{host.home}/.ddp-orch/runs/{name}/{rank}"
        assert stopping.stop(None, folder, 0.0)["verified"]  # type: ignore[arg-type]  no call


@pytest.mark.slow
def test_detached_it_returns_when_all_workers_run(rooms: Rooms, waiter: tuple[Path, Path]) -> None:
    script, go = waiter
    try:
        done = rooms.ddp_orch("up", "-d", "-n", "left", rooms.inventory(2), "--", script, go)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all workers run:\n" in done.stdout
        assert done.stdout.endswith(
            "run left goes on without us on lab1, lab2\n"
            "  ddp-orch attach left    or: logs, ps, down\n"
        )
        assert sorted(running().values()).count("left") >= 4
        known = [
            record.read(f"{host.home}/.ddp-orch/runs/left/{rank}", record.RUN) or {}
            for rank, host in enumerate(rooms.hosts[:2])
        ]
        assert [(each["host"], each["node"]) for each in known] == [("lab1", 0), ("lab2", 1)]
        assert {each["plan"]["run"] for each in known} == {"left"}
        assert all("@" in each["owner"] for each in known)
    finally:
        end(rooms, "left", 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_controller_that_goes_leaves_the_run_as_it_is(
    rooms: Rooms, waiter: tuple[Path, Path], number: signal.Signals
) -> None:
    script, go = waiter
    name = f"goes-{number}"
    run = rooms.start("up", "-n", name, rooms.inventory(1), "--", script, go)
    try:
        seen = read_until(run, "begins")
        run.send_signal(number)
        out = read_rest(run, 60)
        left = number is not signal.SIGKILL
        assert run.returncode == (101 if left else -signal.SIGKILL), seen + out
        assert (f"run {name} goes on without us on lab1" in out) is left
        logs = rooms.hosts[0].home / f".ddp-orch/runs/{name}/0/worker-logs/0/r0.out"
        before = logs.stat().st_size
        deadline = time.monotonic() + 20
        while logs.stat().st_size == before:
            assert time.monotonic() < deadline, "the job stands still"
            time.sleep(0.01)
    finally:
        run.kill()
        run.communicate()
        end(rooms, name, 1)


def test_a_host_that_cannot_start_ends_the_run_of_the_others(rooms: Rooms) -> None:
    inventory = rooms.inventory(2, hosts={1: {"workdir": "~/not-there"}})
    words = ["--skip-check", "env.workdir", "--", worker("raises"), "99"]
    done = rooms.ddp_orch("up", inventory, *words)
    assert done.returncode == 100, done.stdout + done.stderr
    assert re.search(r"lab2.*could not be started: workdir \S*/not-there is no folder", done.stdout)


def test_a_missing_workdir_is_found_before_anything_starts(rooms: Rooms) -> None:
    (rooms.hosts[0].home / "file").touch()
    places = {0: {"workdir": "file"}, 1: {"workdir": "~/not-there"}, 2: {"workdir": "/"}}
    done = rooms.ddp_orch("up", "-n", "nowhere", rooms.inventory(3, hosts=places))
    (rooms.hosts[0].home / "file").unlink()
    assert done.returncode == 3, done.stdout + done.stderr
    for host, what in zip(
        rooms.hosts, ("file is no folder", "not-there is not there"), strict=False
    ):
        assert f"FAIL env.workdir  {host.name}: workdir {host.home}/{what}" in done.stdout
    assert "env.workdir  lab3" not in done.stdout
    assert not any((host.home / ".ddp-orch/runs/nowhere").exists() for host in rooms.hosts)


def test_a_missing_interpreter_or_torch_is_found_before_anything_starts(
    rooms: Rooms, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", plain], check=True)
    inventory = rooms.inventory(
        3, hosts={1: {"python": "~/nowhere/bin/python"}, 2: {"python": f"{plain}/bin/python"}}
    )
    done = rooms.ddp_orch("up", "-n", "never", inventory, "--", worker("ranks"))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "FAIL env.python  lab2: ~/nowhere/bin/python: not found" in done.stdout
    assert f"FAIL env.torch  lab3: {plain}/bin/python has no torch" in done.stdout
    assert "lab1" in done.stdout
    assert not any((host.home / ".ddp-orch/runs/never").exists() for host in rooms.hosts)


def test_json_is_one_event_per_line_and_nothing_else(rooms: Rooms, tmp_path: Path) -> None:
    script = tmp_path / "known.py"
    script.write_text(f"print('begins')\n{KNOWN}")
    done = rooms.ddp_orch("up", "-o", "json", rooms.inventory(1), "--", script)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[-1] == "Ended"
    assert {"Connected", "Planned", "Launched", "WorkersUp", "Logged", "NodeEnded"} <= set(kinds)
    done = rooms.ddp_orch("check", "-o", "json", rooms.inventory(2))
    *verdicts, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"id", "status", "host", "peer", "message", "hint", "caused_by"} <= set(verdicts[0])
    assert summary["summary"]["fail"] == 0


def test_a_reader_that_goes_away_takes_no_run_with_it(rooms: Rooms) -> None:
    run = rooms.start("up", "-n", "unread", rooms.inventory(1), "--", worker("ranks"))
    try:
        assert run.stdout is not None
        run.stdout.close()
        assert run.wait(60) == 0
    finally:
        run.kill()
        run.wait()
    assert b"WORLD_SIZE" in (rooms.state / "runs/unread/logs/rank0.out").read_bytes()


def test_a_scripts_own_folders_do_not_hide_its_logs(rooms: Rooms, tmp_path: Path) -> None:
    """Workers start in the run's folder: what they make or remove there is theirs."""
    script = tmp_path / "own.py"
    script.write_text(
        "import os, shutil\nos.makedirs('logs/5')\nopen('logs/.gitignore', 'w').close()\n"
        "open('worker-logs/.gitignore', 'w').close()\nshutil.rmtree('logs')\nprint('seen')\n"
    )
    done = rooms.ddp_orch("up", rooms.inventory(1), "--", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done.stdout, 0) == ["seen"]


def test_a_run_whose_folder_is_removed_ends_all_the_same(rooms: Rooms, tmp_path: Path) -> None:
    script = tmp_path / "remover.py"
    # It waits until its line has been brought here: then its files are known to the follower.
    script.write_text(
        "import os, shutil, sys, time\nprint('going', flush=True)\nhere = sys.argv[1]\n"
        "while not (os.path.exists(here) and os.path.getsize(here)): time.sleep(0.01)\n"
        "shutil.rmtree(os.environ['DDP_ORCH_RUN_DIR'])\n"
    )
    brought = rooms.state / "runs/removed/logs/rank0.out"
    done = rooms.ddp_orch("up", "-n", "removed", rooms.inventory(1), "--", script, brought)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done.stdout, 0) == ["going"]


def test_plan_touches_no_host(rooms: Rooms) -> None:
    inventory = rooms.inventory(2)
    for host in rooms.hosts[:2]:
        host.stop()
    try:
        done = rooms.ddp_orch("plan", inventory, "--", worker("ranks"), "a b")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("-m torch.distributed.run") == 2
        assert done.stdout.count("'a b'") == 2
        assert rooms.ddp_orch("up", inventory, "--", worker("ranks")).returncode == 4
    finally:
        for host in rooms.hosts[:2]:
            host.start()


def test_a_name_is_not_used_twice(rooms: Rooms) -> None:
    assert (
        rooms.ddp_orch("up", "-n", "once", rooms.inventory(1), "--", worker("ranks")).returncode
        == 0
    )
    again = rooms.ddp_orch("up", "-n", "once", rooms.inventory(1), "--", worker("ranks"))
    assert again.returncode == 2
    assert again.stderr == (
        "ddp-orch: there is a run called once already\n"
        "  -> to forget it, logs and all: ddp-orch prune once; or choose another --name\n"
    )
    assert rooms.ddp_orch("prune", "once").returncode == 0
    once_more = rooms.ddp_orch("up", "-n", "once", rooms.inventory(1), "--", worker("ranks"))
    assert once_more.returncode == 0, once_more.stderr


def test_a_name_that_the_hosts_have_of_elsewhere_is_refused_before_anything_starts(
    rooms: Rooms, tmp_path: Path
) -> None:
    one, two = rooms.inventory(1), rooms.inventory(2)
    there = str(tmp_path / "of another machine")
    argv = ("--", worker("ranks"))
    assert rooms.ddp_orch("up", "-n", "zz", one, *argv, DDP_ORCH_STATE_DIR=there).returncode == 0
    refused = rooms.ddp_orch("up", "-n", "zz", two, *argv)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    said_of_it, hint = refused.stderr.splitlines()
    assert re.fullmatch(
        r"ddp-orch: a run zz of \S+ is there already, on lab1 \(ended\); nothing was started",
        said_of_it,
    )
    assert hint == (
        f"  -> choose another --name; or, to forget that one: ddp-orch prune zz -i {two}"
    )
    assert "run zz: " not in refused.stdout
    folders = {path.name for path in rooms.lab.inventory_path.parent.rglob("runs/zz/[01]")}
    assert folders == {"0"}, "the second host was left alone"
    forgotten = rooms.ddp_orch("prune", "zz", "-i", two, "--yes")
    assert forgotten.returncode == 0, forgotten.stdout + forgotten.stderr
    again = rooms.ddp_orch("up", "-n", "zz", two, *argv)
    assert again.returncode == 0, again.stdout + again.stderr


def test_ctrl_c_while_connecting_ends_at_once(rooms: Rooms) -> None:
    """A frozen sshd would be waited for; the user does not have to."""
    inventory = rooms.inventory(2)
    rooms.hosts[1].freeze()
    try:
        run = rooms.start("up", inventory, "--", worker("ranks"))
        try:
            ready, _, _ = select.select([rooms.hosts[1]._listener], [], [], 60)
            assert ready, "it connects"
            run.send_signal(signal.SIGINT)
            out, _ = run.communicate(timeout=30)
        finally:
            run.kill()
            run.communicate()
    finally:
        rooms.hosts[1].start()
    assert run.returncode == 130, out
    assert "Traceback" not in out
