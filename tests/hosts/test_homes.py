"""Homes that are full, read-only or missing, folders elsewhere, and users that are not root."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.hosts.test_up import ddp_orch, running, said
from tests.reading import read_rest, read_until
from tests.workers import worker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

FULL = 'mount -t tmpfs -o size=1m tmpfs "$1"; head -c 2000000 /dev/zero > "$1/data" 2>&- || :'
READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"'
MISSING = 'sed "s,:$1:,:/no/such:," /etc/passwd > /run/passwd; cat /run/passwd > /etc/passwd'
THEIRS = 'mkdir -m 700 "$1/.ddp-orch"; chown 1234 "$1/.ddp-orch"'
OPEN = 'mkdir "$1/.ddp-orch"; chmod 777 "$1/.ddp-orch"'
LINK = 'ln -s /tmp "$1/.ddp-orch"'


def shell(host: NsHost, script: str, *words: object) -> None:
    host.run(["sh", "-euc", script, "sh", *map(str, words)], check=True)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (FULL, "No space left on device"),
        (READ_ONLY, "Read-only file system"),
        (MISSING, "there is no folder /no/such to make it in"),
        (THEIRS, "/.ddp-orch belongs to 1234"),
        (OPEN, "/.ddp-orch may be written to by others: chmod go-w"),
        (LINK, "/.ddp-orch is a link or a file, no folder"),
    ],
    ids=["full", "read-only", "missing", "theirs", "open", "link"],
)
def test_a_home_that_takes_no_run_is_found_before_anything_starts(
    cluster: Cluster, fault: str, problem: str
) -> None:
    shell(cluster["n2"], fault, cluster["n2"].home)
    inventory = cluster.inventory(cluster.hosts[:2])
    done = ddp_orch(cluster, "up", inventory, "--", worker("ranks"))
    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL fs.write  n2: ~/.ddp-orch, where the runs' folders go, cannot")
    assert line.endswith(problem)
    assert "set `state_dir:` to a folder elsewhere on that host, such as /tmp/root-" in done.stdout
    assert not list(cluster["n1"].home.iterdir()), "nothing was started, and nothing left"


@pytest.mark.parametrize("wrong", ["/nowhere", "here", ""])
def test_a_home_variable_that_is_wrong_is_named(cluster: Cluster, wrong: str) -> None:
    cluster.hosts[0].write(".bashrc", f"export HOME={wrong}\n")
    done = ddp_orch(cluster, "check", cluster.inventory(["n1"]))
    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL fs.write  n1: ~/.ddp-orch, where the runs' folders go, cannot")


@pytest.mark.slow
def test_a_run_where_no_home_can_be_used(cluster: Cluster) -> None:
    for host, fault in zip(cluster.hosts, (FULL, READ_ONLY, MISSING), strict=True):
        shell(host, fault, host.home)
    inventory = cluster.inventory(defaults={"state_dir": "/tmp/runs-of-mine/"})
    done = ddp_orch(cluster, "up", "-n", "away", inventory, "--", worker("ranks"), "meet")
    listed = [h.run(["find", "/tmp/runs-of-mine", "-maxdepth", "3", "-type", "d", "-printf",
                     "%m %p\\n"]).stdout for h in cluster.hosts]  # fmt: skip
    executed = ddp_orch(cluster, "exec", inventory, "--", "pwd")
    for host in cluster.hosts:
        host.run(["rm", "-r", "/tmp/runs-of-mine"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sum 3") == 3
    for rank, folders in enumerate(listed):
        below = ("", "/runs", "/runs/away", f"/runs/away/{rank}")
        assert folders.splitlines() == [f"700 /tmp/runs-of-mine{path}" for path in below]
    assert executed.returncode == 0, executed.stdout + executed.stderr
    assert "n3| /\n" in executed.stdout, "without a home a command starts in /"


@pytest.mark.slow
def test_hosts_share_a_state_folder_and_the_plan_shows_it(cluster: Cluster, tmp_path: Path) -> None:
    shared = cluster.folder / "shared"
    shared.mkdir(mode=0o700)
    inventory = cluster.inventory(cluster.hosts[:2], defaults={"state_dir": str(shared)})
    planned = ddp_orch(cluster, "plan", inventory, "--", worker("args"))
    assert f"cd {shared}/runs/NAME/1 && " in planned.stdout
    done = ddp_orch(cluster, "up", "-n", "both", inventory, "--", worker("args"))
    assert done.returncode == 0, done.stdout + done.stderr
    for rank, host in enumerate(cluster.hosts[:2]):
        folder = shared / f"runs/both/{rank}"
        assert json.loads(said(done.stdout, host.name, rank)[0])["cwd"] == str(folder)
        assert (folder / "exit.json").exists()
        assert not list(host.home.iterdir())


FILL = """
import sys
with open("data", "wb", 0) as file:
    try:
        while True:
            file.write(bytes(1 << 16))
    except OSError as error:
        assert "No space" in str(error)
sys.exit(7)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_in_mid_run_does_not_hide_how_it_ended(
    cluster: Cluster, tmp_path: Path
) -> None:
    host = cluster.hosts[0]
    shell(host, "mount -t tmpfs -o size=4m tmpfs $1", host.home)
    script = tmp_path / "fill.py"
    script.write_text(FILL)
    done = ddp_orch(cluster, "up", "-n", "fill", cluster.inventory(["n1"]), "--", script)
    record = host.run(["sh", "-c", "cat $HOME/.ddp-orch/runs/fill/0/exit.json"]).stdout
    assert done.returncode == 100, done.stdout + done.stderr
    assert "warn fs.write  n1: ~/.ddp-orch, where the runs' folders go, has 4 MiB" in done.stdout
    assert "first failure: rank 0 on n1, exit code 7" in done.stdout
    assert json.loads(record)["code"] == 1


def ordinary(cluster: Cluster) -> Path:
    for host in cluster.hosts:
        host.add_user("trainee")
    inventory = cluster.inventory()
    inventory.write_text(inventory.read_text().replace("root@", "trainee@"))
    return inventory


@pytest.mark.slow
def test_an_ordinary_user_runs_and_stops(cluster: Cluster) -> None:
    """The fixture then looks at every process of every host."""
    inventory = ordinary(cluster)
    done = ddp_orch(cluster, "up", inventory, "--", worker("ranks"), "meet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sum 3") == 3
    with running(cluster, "up", "-q", inventory, "--", worker("stubborn")) as run:
        read_until(run, "ready", times=3)
        run.send_signal(signal.SIGINT)
        out = read_rest(run, 90)
    assert run.returncode == 130, out
    for host in cluster.hosts:
        assert not [line for line in host.pids().values() if "sleep" in line or "stub" in line]
        kept = host.run(["stat", "-c", "%U %a", "/run/home/trainee/.ddp-orch"]).stdout
        assert kept == "trainee 700\n"
        assert not list(host.home.iterdir()), "nothing is root's"


def test_an_ordinary_user_whose_home_is_roots(cluster: Cluster) -> None:
    inventory = ordinary(cluster)
    shell(cluster["n2"], "chown root /run/home/trainee; chmod 755 /run/home/trainee")
    done = ddp_orch(cluster, "check", inventory)
    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL fs.write  n2: ~/.ddp-orch")
    assert line.endswith("cannot be used: Permission denied")
    assert "such as /tmp/trainee-ddp-orch" in done.stdout
