"""An ordinary user can do all of it; and what is his on the hosts is his alone."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.hosts import test_links
from tests.hosts.host import UID
from tests.hosts.jobs import Job
from tests.hosts.test_homes import shell
from tests.hosts.test_up import ddp_orch
from tests.workers import worker

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.slow
HOME = "/run/home/trainee"


@pytest.fixture
def user(cluster: Cluster) -> str:
    for host in cluster.hosts:
        host.add_user("trainee")
        # What is made without a thought would be everyone's.
        shell(host, f"echo umask 0 > {HOME}/.bashrc")
    return "trainee"


test_a_run_ends_while_the_link_is_down = test_links.test_a_run_ends_while_the_link_is_down
test_two_controllers_get_everything = test_links.test_two_controllers_get_everything


def test_a_run_is_left_and_ended(cluster: Cluster, user: str) -> None:
    job = Job(cluster, "his", cluster.hosts[:2], user)
    job.detached()
    with job.controller(job.attach_words()) as attached:
        attached.says("[r1]|")
        attached.process.send_signal(signal.SIGINT)
        attached.wait(101)
    job.kill_keepers(1)
    job.taken_down()
    for rank, host in enumerate(job.hosts):
        assert not list(host.home.iterdir()), "nothing is root's"
        assert json.loads(job.read(rank, "exit.json"))["survivors"] == []


def test_the_files_are_nobody_elses_business(cluster: Cluster, user: str) -> None:
    setup = {"defaults": {"setup": ["true"]}}
    inventory = Job(cluster, "none", cluster.hosts[:1], user, setup).inventory
    done = ddp_orch(cluster, "up", "-n", "mine", inventory, "--", worker("ranks"))
    assert done.returncode == 0, done.stdout + done.stderr
    words = ("find", f"{HOME}/.ddp-orch", "-printf", "%m %y %U %P\n")
    listed = cluster.hosts[0].run(words, check=True).stdout
    found = {
        name: (mode, kind, owner) for mode, kind, owner, name in map(fields, listed.splitlines())
    }
    assert {
        f"runs/mine/0/{name}" for name in ("run.json", "setup/1/setup.out", "lib")
    } <= found.keys()
    for name, (mode, kind, owner) in found.items():
        assert owner == str(UID), name
        # What torchrun and Python make, below folders that nobody else may enter.
        if not re.search("/worker-logs/0/.|__pycache__", name):
            assert (mode, kind) in (("700", "d"), ("600", "f")), (mode, kind, name)


def fields(line: str) -> list[str]:
    return line.split(" ", 3)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (
            "mkdir /tmp/other; chown 1234 /tmp/other; ln -s /tmp/other $1/runs",
            "is a link or a file",
        ),
        ("mkdir $1/runs; chown 1234 $1/runs; chmod 770 $1/runs", "may be written to by others"),
        ("mkdir -m 777 $1/runs", "belongs to root"),
    ],
    ids=["link", "open", "foreign"],
)
def test_a_folder_that_is_not_his_alone_is_refused(
    cluster: Cluster, user: str, fault: str, problem: str
) -> None:
    host = cluster.hosts[0]
    make = 'mkdir -m 700 "$1"; chown 1234 "$1"; '
    shell(host, make + fault, f"{HOME}/.ddp-orch")
    inventory = Job(cluster, "none", cluster.hosts[:1], user).inventory
    done = ddp_orch(cluster, "up", inventory, "--", worker("ranks"))
    host.run(["rm", "-rf", "/tmp/other"])
    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL fs.write  n1: ")
    assert f"{HOME}/.ddp-orch/runs {problem}" in line
