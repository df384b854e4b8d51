"""`down`, whatever became of a run: nothing is left, or who is left is named. On real hosts.

Ups are slow: so each run is one where every host has met with something else.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts.launched import (
    USER,
    Run,
    became,
    ddp_orch,
    empty,
    inventory_for,
    launch,
    on,
)
from tests.hosts.processes import until
from tests.hosts.test_up import block, running
from tests.reading import read_rest, read_until
from tests.test_node_processes import STATUSES_ARE_KEPT
from tests.workers import worker

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

ANIMAL = [sys.executable, worker("zoo/term_ignorer")]
SAVER = [sys.executable, worker("zoo/checkpointer")]

pytestmark = pytest.mark.slow


def ends(run: Run, *words: object) -> subprocess.CompletedProcess[str]:
    """Take it down, and hold it to it: all hosts are empty, and it says so."""
    began = time.monotonic()
    done = run.down(*words)
    assert time.monotonic() - began < 120, "bounded"
    empty(*run.hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"run {run.name}: down\n")
    return done


# ---- what became of those who keep it ----


def killed(run: Run, host: NsHost) -> None:
    supervisor, guard = run.keepers(host)
    host.kill(supervisor)
    until(lambda: run.keepers(host) == (guard, guard), "the guard has taken over", seconds=60)


def guard_killed(run: Run, host: NsHost) -> None:
    host.kill(run.keepers(host)[1])


def both_killed(run: Run, host: NsHost) -> None:
    for pid in run.keepers(host)[::-1]:  # the guard first: it would take over
        host.kill(pid)


def frozen(run: Run, host: NsHost) -> None:
    host.kill(run.keepers(host)[0], signal.SIGSTOP)


def both_frozen(run: Run, host: NsHost) -> None:
    for pid in run.keepers(host):
        host.kill(pid, signal.SIGSTOP)


def killed_and_frozen(run: Run, host: NsHost) -> None:
    supervisor, guard = run.keepers(host)
    host.kill(guard, signal.SIGSTOP)
    host.kill(supervisor)


@pytest.mark.parametrize(
    "fates",
    [(killed, both_killed, both_frozen), (frozen, guard_killed, killed_and_frozen)],
    ids=["killed, both killed, both frozen", "frozen, guard killed, killed and frozen"],
)
def test_whatever_became_of_those_who_keep_it(
    cluster: Cluster, fates: tuple[Callable[[Run, NsHost], None], ...]
) -> None:
    hosts = cluster.hosts
    # A frozen supervisor is not to be given up by the others meanwhile.
    run = launch(cluster, "kept", hosts, *ANIMAL, job={"lost_after": "10m"}).ready()
    for host, fate in zip(hosts, fates, strict=True):
        fate(run, host)
        assert len(run.workers(host)) == 1, "the job runs on"
    if both_killed in fates:
        done = ddp_orch(cluster, "ps", "kept", "-o", "json")
        (told,) = map(json.loads, done.stdout.splitlines())
        assert done.returncode == 101, done.stdout + done.stderr
        assert (told["state"], told["ranks_alive"]) == ("lost", 3)
        assert [node["state"] for node in told["nodes"]] == ["running", "lost", "running"]
    done = ends(run, "--grace", "1s")
    for host in hosts:
        assert became(done, host) == "down"
    again = run.down()
    assert again.returncode == 0
    assert again.stdout.endswith("run kept: down already\n")
    done = ddp_orch(cluster, "ps", "kept", "-o", "json")
    assert done.returncode == 103, done.stdout + done.stderr


def test_the_true_exit_code_is_known_where_the_supervisor_was_killed(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    script = "echo ready; while ! test -e go; do sleep 0.1; done; exit 5"
    run = launch(cluster, "true", [host], "sh", "-c", script).ready()
    killed(run, host)
    host.write(f"{run.folder(host)}/go", "")
    until(lambda: not host.pids(), "it has ended", seconds=60)
    end = run.record(host, "exit.json")
    # torchrun's own; it is told to end as soon as its worker is dead, and may have done so by then
    assert end["code"] == 1
    assert end["reason"] in ("exited", "stopped")
    ended = [e for e in journal(run, host) if e["event"] == "worker"]
    # Torchrun may have reaped it before the guard looked, and tells of it then.
    codes = [e["code"] for e in ended]
    assert codes == [5] or (not STATUSES_ARE_KEPT and codes == [None, 5])
    done = run.down()
    assert done.returncode == 0
    assert became(done, host) == "down already"
    assert ddp_orch(cluster, "ps", "true").returncode == 100, "and stays what it was"


def journal(run: Run, host: NsHost) -> list[dict]:
    return [json.loads(line) for line in run.read(host, "journal.jsonl").splitlines()]


def test_kill_9_of_those_who_keep_it_in_the_middle_of_down(cluster: Cluster) -> None:
    hosts = cluster.hosts
    run = launch(cluster, "middle", hosts, *ANIMAL).ready()
    keepers = {host.name: run.keepers(host) for host in hosts}
    with running(cluster, "down", "middle", "--grace", "4s") as down:
        for host in hosts:
            stopping = f"{host.name} is stopping"
            until(lambda h=host: '"stopping"' in run.read(h, "journal.jsonl"), stopping, seconds=60)
        hosts[0].kill(keepers["n1"][0])
        hosts[1].kill(keepers["n2"][1])
        for pid in keepers["n3"][::-1]:
            hosts[2].kill(pid)
        out = read_rest(down, 120)
    empty(*hosts)
    assert down.returncode == 0, out
    assert out.endswith("run middle: down\n")


# ---- whom nobody can end ----


@pytest.fixture
def freezer(cluster: Cluster) -> Iterator[Path]:
    """A group of the freezer of cgroup version 1: what is frozen there does not even die."""
    root = Path("/sys/fs/cgroup/freezer")
    if not (root / "cgroup.procs").exists():
        pytest.skip("this machine has no freezer of cgroup version 1")
    group = root / cluster.prefix
    group.mkdir()
    yield group
    (group / "freezer.state").write_text("THAWED")
    for host in cluster.hosts:
        host.kill_all()
    until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
    group.rmdir()


def test_who_cannot_be_ended_is_named_and_gone_after_the_thaw(
    cluster: Cluster, freezer: Path
) -> None:
    """And so is a supervisor: it and its guard are frozen on the second host."""
    first, second = cluster.hosts[:2]
    run = launch(cluster, "ice", [first, second], *ANIMAL).ready()
    (worker_pid,) = run.workers(first)
    keepers = run.keepers(second)
    for host, pids in ((first, [worker_pid]), (second, keepers)):
        for process in host._processes():
            if process.pid in pids:
                (freezer / "cgroup.procs").write_text(str(process.outer))
    (freezer / "freezer.state").write_text("FROZEN")
    until(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n", "all are frozen")
    began = time.monotonic()
    done = run.down("--force")
    assert time.monotonic() - began < 120, "bounded"
    assert done.returncode == 100, done.stdout + done.stderr
    assert became(done, first) == "NOT down: 1 process could not be ended"
    assert re.search(rf"^  pid {worker_pid} \(\S+, state \S, uid 0\) is ", done.stdout, re.M)
    assert became(done, second).startswith("NOT down: ")
    assert f"  pid {keepers[0]} (python3, " in done.stdout
    assert list(first.pids()) == [worker_pid] or len(first.pids()) <= 3
    assert "run ice: NOT known to be down on n1, n2\n" in done.stdout
    (freezer / "freezer.state").write_text("THAWED")
    done = run.down()
    assert done.returncode == 0, done.stdout + done.stderr
    empty(first, second)
    assert ddp_orch(cluster, "ps", "ice").returncode != 101


def test_an_ordinary_user_hears_who_is_roots_and_what_cannot_be_seen(cluster: Cluster) -> None:
    """n1 has a child that is root's; n2 hides others' processes, and its supervisors are dead."""
    first, second, third = cluster.hosts
    for host in cluster.hosts:
        host.add_user(USER)
    # As sudo does: who has only the bit may still be signalled by who started him.
    first.run(["sh", "-c", "cp $(command -v setpriv) /tmp/up; chmod 4755 /tmp/up"], check=True)
    script = "test -e /tmp/up && /tmp/up --reuid 0 sleep 601 & echo ready; exec sleep 600"
    run = launch(cluster, "hidden", cluster.hosts, "sh", "-c", script, user=USER).ready()
    until(lambda: roots(first), "the child of root runs")
    second.run(["mount", "-o", "remount,hidepid=2", "/proc"], check=True)
    both_killed(run, second)
    try:
        done = run.down("--grace", "1s")
        assert done.returncode == 100, done.stdout + done.stderr
        assert became(done, first) == "NOT down: 1 process could not be ended"
        (pid,) = roots(first)
        assert re.search(rf"^  pid {pid} \(sleep, .* belongs to root$", done.stdout, re.M)
        assert f"-> on n1, as root: kill -9 {pid}; then: ddp-orch down hidden\n" in done.stdout
        told = became(done, second)
        assert told.startswith("unverified: its supervisor was killed, and /proc is mounted with")
        (look,) = re.findall(r"grep -l \d+ /proc/\[0-9\]\*/limits", told)
        assert second.run(["sh", "-c", look]).stdout == "", "as root one sees that it is empty"
        # The supervisor of n1 has told its own, which may have ended it by then.
        assert became(done, third) in ("down", "down already")
        empty(second, third)
        first.kill(pid)
        again = run.down("--grace", "1s")
        assert became(again, first) == "down already"
        assert became(again, second).startswith("unverified: ")
    finally:
        second.run(["mount", "-o", "remount,hidepid=0", "/proc"], check=True)
    done = run.down()
    assert done.returncode == 0, done.stdout + done.stderr
    empty(*cluster.hosts)


def roots(host: NsHost) -> list[int]:
    return [pid for pid, line in host.pids().items() if line == "sleep 601"]


# ---- records that are not, or not any more, about what runs there ----


def test_strangers_restarts_and_other_machines(cluster: Cluster) -> None:
    """A stranger has the pids on n1; n2 was restarted; what n3 has is another machine's."""
    first, second, third = cluster.hosts
    run = launch(cluster, "old", cluster.hosts, *ANIMAL).ready()
    for host in (first, second):
        host.kill_all()
    before = run.record(first)
    with first.popen(["sleep", "600"]) as handle:
        until(lambda: first.pids(), "the stranger is there")
        (stranger,) = first.pids()
        # His pid, their start time: as when the number has gone round.
        run.change(first, supervisor=[stranger, before["supervisor"][1]], guard=None, root=None)
        run.change(second, place="11111111-2222-3333-4444-555555555555 pid:[4026531836]")
        run.change(third, place="another", machine="another.invalid 1234")
        lives = third.pids()
        done = run.down("--grace", "1s")
        assert done.returncode == 100, done.stdout + done.stderr
        assert became(done, first) == "down"
        assert became(done, second) == "was restarted since: nothing of the run is left there"
        assert became(done, third).startswith("NOT down: its record there was written by another")
        until(lambda: list(first.pids()) == [stranger], "he alone is there, untouched")
        assert third.pids().items() >= lives.items(), "nothing is signalled"
        first.kill(stranger)
        handle.wait(30)
    assert run.record(second, "exit.json")["reason"] == "the host was restarted"
    third.kill_all()


def test_a_run_whose_folder_somebody_has_removed_is_no_run_that_is_down(cluster: Cluster) -> None:
    """On n1 and n2 the folder is gone; on n2 the keepers were killed before."""
    first, second, third = cluster.hosts
    run = launch(cluster, "gone", [first, second], *ANIMAL).ready()
    both_killed(run, second)
    for host in (first, second):
        host.run(["rm", "-rf", f"{host.home}/.ddp-orch"], check=True)
    path = inventory_for(cluster, cluster.hosts, "root")
    done = ddp_orch(cluster, "down", "other", "-i", path)
    assert done.returncode == 102, done.stdout + done.stderr
    empty(third)
    assert set(on(*cluster.hosts)) == {"n1", "n2"}
    done = ddp_orch(cluster, "down", "-i", path, "--grace", "1s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("taking down gone on n1, n2 (grace 1 s)\n")
    assert (became(done, first), became(done, second)) == ("down", "down")
    assert done.stdout.endswith("run gone: down\n")
    empty(first, second, third)
    done = ddp_orch(cluster, "down", "-i", path)
    assert (done.returncode, done.stdout) == (0, "nothing runs on these hosts\n"), done.stderr
    done = run.down()
    assert done.stdout.endswith("run gone: down already\n"), done.stdout + done.stderr


def test_where_one_host_has_lost_the_folder_it_is_ended_there_too(cluster: Cluster) -> None:
    first, second = cluster.hosts[:2]
    run = launch(cluster, "half", [first, second], *ANIMAL).ready()
    first.run(["rm", "-rf", f"{first.home}/.ddp-orch"], check=True)
    done = ends(run, "--grace", "1s")
    assert (became(done, first), became(done, second)) == ("down", "down")
    assert ddp_orch(cluster, "ps", "half").returncode == 103

    run = launch(cluster, "half-2", [first, second], *ANIMAL).ready()
    first.run(["rm", "-rf", f"{first.home}/.ddp-orch"], check=True)
    mine = {"DDP_ORCH_STATE_DIR": str(cluster.home / "mine")}
    done = ddp_orch(cluster, "down", "-i", run.inventory, "--grace", "1s", env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (became(done, first), became(done, second)) == ("down", "down")
    empty(first, second)


# ---- others who want something at the same time ----


def moment_of_the_plan(cluster: Cluster, host: NsHost) -> bool:
    return (cluster.home / ".local/state/ddp-orch/runs/race/events.jsonl").exists()


def moment_of_the_folder(cluster: Cluster, host: NsHost) -> bool:
    return (host.home / ".ddp-orch/runs/race/0").exists()


def moment_of_the_supervisor(cluster: Cluster, host: NsHost) -> bool:
    return (host.home / ".ddp-orch/runs/race/0/claim").exists()


def moment_of_the_worker(cluster: Cluster, host: NsHost) -> bool:
    return any(host.home.glob(".ddp-orch/runs/race/0/worker-logs/0/*"))


@pytest.mark.parametrize(
    "moment",
    [moment_of_the_plan, moment_of_the_folder, moment_of_the_supervisor, moment_of_the_worker],
    ids=lambda moment: moment.__name__[10:],
)
def test_down_at_the_same_time_as_up(
    cluster: Cluster, moment: Callable[[Cluster, NsHost], bool]
) -> None:
    hosts = cluster.hosts[:2]
    inventory = cluster.inventory(hosts)
    with running(cluster, "up", "-q", "-n", "race", "--no-python", inventory, "--", *ANIMAL) as up:
        until(lambda: moment(cluster, hosts[0]), moment.__name__, seconds=90)
        done = ddp_orch(cluster, "down", "race", "--grace", "1s")
        out = read_rest(up, 120)
    empty(*hosts)
    assert done.returncode == 0, done.stdout + done.stderr + out
    assert up.returncode == 103, out + done.stdout
    if moment is moment_of_the_worker:
        assert "taken down by root@" in out
    else:  # it may come too early for a host to be told by whom
        assert re.search(r"taken down by (root@|somebody else before n[12] had started)", out)
    assert ddp_orch(cluster, "ps", "race").returncode == 103


def test_a_setup_command_that_does_not_want_to_end(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    setup = ["trap '' TERM INT; (setsid sleep 600 &); echo begun; sleep 600; sleep 600"]
    inventory = cluster.inventory([host], defaults={"setup": setup})
    with running(cluster, "up", "-q", "-n", "early", "--no-python", inventory, "--", *ANIMAL) as up:
        seen = read_until(up, r"\| begun", times=1)
        done = ddp_orch(cluster, "down", "early", "--grace", "1s")
        out = read_rest(up, 120)
    empty(host)
    assert done.returncode == 0, done.stdout + done.stderr
    assert became(done, host) == "down"
    assert up.returncode == 103, seen + out
    assert "taken down by root@" in out


def test_another_controller_s_run_saves_its_work_within_the_grace(cluster: Cluster) -> None:
    """Whoever started it sees it end: with all its lines, its code, and who took it down."""
    hosts = cluster.hosts[:2]
    inventory = cluster.inventory(hosts)
    words = ["up", "-q", "-n", "theirs", "--no-python", inventory, "--", *SAVER]
    with running(cluster, *words) as up:
        seen = read_until(up, "ready", times=2)
        mine = {"DDP_ORCH_STATE_DIR": str(cluster.home / "mine")}
        assert ddp_orch(cluster, "down", "theirs", env=mine).returncode == 102
        done = ddp_orch(cluster, "down", "-i", inventory, "theirs", "--grace", "30s", env=mine)
        out = read_rest(up, 120)
    empty(*hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert up.returncode == 103, out
    assert "run theirs: taken down by root@" in out
    for rank, host in enumerate(hosts):
        lines = re.findall(rf"^{host.name}\[r{rank}\]\| (.*)$", seen + out, re.M)
        count = len(lines) - 2
        assert count > 20
        assert lines == ["ready", *(f"saving {i}" for i in range(count)), "saved"]
    kept = cluster.home / ".local/state/ddp-orch/runs/theirs/events.jsonl"
    events = [json.loads(line) for line in kept.read_text().splitlines()]
    codes = [e["code"] for e in events if e["event"] == "WorkerEnded"]
    # Torchrun may reap one before its supervisor has looked; that it saved is shown above.
    assert codes == [7, 7] or (not STATUSES_ARE_KEPT and set(codes) <= {7, None})
    assert [e["exit_code"] for e in events if e["event"] == "Ended"] == [103]
    assert not (cluster.home / "mine/runs/theirs").exists()


def test_several_runs_of_other_controllers_are_listed_first(cluster: Cluster) -> None:
    first, second = cluster.hosts[:2]
    runs = [launch(cluster, f"run-{h.name}", [h], *ANIMAL).ready() for h in (first, second)]
    inventory = inventory_for(cluster, [first, second], "root")
    mine = {"DDP_ORCH_STATE_DIR": str(cluster.home / "mine")}
    done = ddp_orch(cluster, "down", inventory, env=mine)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("ddp-orch: 2 runs are on these hosts:")
    for run in runs:
        assert f"  {run.name} of root@" in done.stderr
    assert len(on(first, second)) == 2, "nothing was ended"
    done = ddp_orch(cluster, "down", "run-n3", "-i", inventory, env=mine)
    assert done.returncode == 102, done.stdout + done.stderr
    done = ddp_orch(cluster, "down", "run-n1", "-i", inventory, "--force", env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    empty(first)
    assert second.pids()
    done = ddp_orch(cluster, "down", "-i", inventory, "--all", "--force", "-o", "json", env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    *nodes, last = map(json.loads, done.stdout.splitlines())
    assert [(n["run"], n["host"], n["outcome"]) for n in nodes] == [("run-n2", "n2", "down")]
    assert last["summary"]["down"] == ["run-n2"]
    empty(second)
    done = ddp_orch(cluster, "down", inventory, env=mine)
    assert (done.returncode, done.stdout) == (0, "nothing runs on these hosts\n"), done.stderr


# ---- out of reach, and out of patience ----


def test_a_host_that_cannot_be_reached_is_named_and_ended_later(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    run = launch(cluster, "away", cluster.hosts, *ANIMAL).ready()
    second.nft(block("tcp dport 22 drop"))
    done = run.down("--force")
    assert done.returncode == 4, done.stdout + done.stderr
    assert became(done, second).startswith("not reached: no answer from 10.77.0.10 port 22")
    assert "repeat it when it can be reached: ddp-orch down away\n" in done.stdout
    assert done.stdout.endswith("run away: NOT known to be down on n2\n")
    empty(first, third)
    assert ddp_orch(cluster, "down", "away", "-i", run.inventory).returncode == 4
    second.nft_flush()
    done = run.down("--force")
    assert done.returncode == 0, done.stdout + done.stderr
    empty(*cluster.hosts)
    assert became(done, first) == "down already"
    # The others' supervisors may have told its own meanwhile.
    assert became(done, second).startswith("down")


def test_a_bare_down_ends_what_runs_and_notes_what_has_ended_by_itself(cluster: Cluster) -> None:
    launch(cluster, "runs", cluster.hosts[:1], *ANIMAL).ready()
    fails = ["sh", "-c", "echo ready; while ! test -e go; do sleep 0.1; done; exit 5"]
    over = launch(cluster, "over", cluster.hosts[1:], *fails).ready()
    for host in over.hosts:
        host.write(f"{over.folder(host)}/go", "")
    for host in over.hosts:
        exits = ["test", "-e", f"{over.folder(host)}/exit.json"]
        until(lambda h=host, e=exits: h.run(e).returncode == 0, "it has ended", seconds=60)
    done = ddp_orch(cluster, "down", "--yes", "--grace", "1s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "over had ended (exit 100) already\n" in done.stderr
    assert done.stdout.endswith("run runs: down\n")
    empty(*cluster.hosts)
    # Both are on record now: no host is asked for them.
    codes = {name: ddp_orch(cluster, "ps", name).returncode for name in ("runs", "over")}
    assert codes == {"runs": 103, "over": 100}
    done = ddp_orch(cluster, "down", "--yes")
    assert (done.returncode, done.stdout) == (0, "nothing runs that is known here\n"), done.stderr


def test_ctrl_c_leaves_the_rest_to_the_hosts(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    run = launch(cluster, "left", [host], *ANIMAL).ready()
    with running(cluster, "down", "left", "--grace", "4s") as down:
        until(lambda: '"stopping"' in run.read(host, "journal.jsonl"), "it stops", seconds=60)
        down.send_signal(signal.SIGINT)
        out = read_rest(down, 60)
    assert down.returncode == 130, out
    assert "interrupted; told to end it, and on their own now: n1\n" in out
    until(lambda: not host.pids(), "the host has ended it", seconds=60)
    done = run.down()
    assert done.stdout.endswith("run left: down already\n"), done.stdout + done.stderr
    assert ddp_orch(cluster, "ps", "left").returncode == 103
