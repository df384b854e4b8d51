"""Links that break, controllers that die, sleep or leave: no job notices, and no byte is lost."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts.jobs import SECONDS, Job, cut
from tests.hosts.launched import empty, launch
from tests.hosts.processes import until
from tests.hosts.test_up import block, ddp_orch

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.slow
# Of each stream of a worker, in bytes: 10 MB with two of each.
EVERYTHING = 2_500_000


@pytest.fixture
def user(cluster: Cluster) -> str:
    """Who has the runs on the hosts; other modules have others."""
    return "root"


def test_a_connection_that_is_killed_twenty_times_loses_no_byte(
    cluster: Cluster, user: str
) -> None:
    # Three, as one that comes and goes is waited for longer each time.
    job = Job(cluster, "cut", cluster.hosts, user)
    chance = random.Random()  # noqa: S311  as links break
    with job.controller(job.up_words(150_000, EVERYTHING)) as up:
        up.says("all workers run")
        kills = 0
        while kills < 20:
            time.sleep(chance.uniform(0, 0.8))  # in mid-stream, or while it connects anew
            kills += cut(chance.choice(job.hosts))
        job.finish()
        up.wait(0)
    assert "no contact with" in up.output
    assert "is back" in up.output
    job.everything_is_in(job.logs)


def test_a_minute_without_a_link_or_asleep_loses_no_byte(cluster: Cluster, user: str) -> None:
    """Two runs, to wait but once: the one's cable is pulled, the other's controller sleeps."""
    unplugged = Job(cluster, "unplugged", cluster.hosts[:1], user)
    asleep = Job(cluster, "asleep", cluster.hosts[1:2], user)
    with (
        unplugged.controller(unplugged.up_words(100_000)) as up,
        asleep.controller(asleep.up_words(100_000)) as sleeper,
    ):
        up.says("all workers run")
        sleeper.says("all workers run")
        cluster.hosts[0].link_down()
        sleeper.process.send_signal(signal.SIGSTOP)
        time.sleep(60)
        unplugged.goes_on()
        asleep.goes_on()
        cluster.hosts[0].link_up()
        sleeper.process.send_signal(signal.SIGCONT)
        up.says("n1 is back")
        for job, controller in ((unplugged, up), (asleep, sleeper)):
            job.finish()
            controller.wait(0)
            job.everything_is_in(job.logs)


def test_a_controller_that_is_stopped_does_not_slow_the_job(cluster: Cluster, user: str) -> None:
    job = Job(cluster, "stopped", cluster.hosts[:1], user)
    with job.controller(job.up_words(1_000_000)) as up:  # more than all buffers between us hold
        up.says("all workers run")
        began = time.monotonic()
        time.sleep(4)
        up.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(10)
        up.process.send_signal(signal.SIGCONT)
        woken = time.monotonic()
        job.finish()
        up.wait(0)
    assert "no contact" not in up.plain()
    steps = job.steps(0)
    before = sum(began < step < stopped for step in steps) / (stopped - began)
    meanwhile = sum(stopped < step < woken for step in steps) / (woken - stopped)
    assert meanwhile > before / 2, (before, meanwhile)
    job.everything_is_in(job.logs)


@pytest.mark.parametrize(
    ("how", "left_with", "code"),
    [(signal.SIGKILL, -9, 7), (signal.SIGTERM, 101, 0), (signal.SIGHUP, 101, 7)],
    ids=["killed", "terminated", "terminal closed"],
)
def test_a_run_ends_while_nobody_is_there_and_attach_tells_all(
    cluster: Cluster, user: str, how: signal.Signals, left_with: int, code: int
) -> None:
    # With one that fails there is one: torchrun would wait for the other's end.
    job = Job(cluster, "left", cluster.hosts[: 1 if code else 2], user)
    with job.controller(job.up_words(200_000), on_terminal=how == signal.SIGHUP) as up:
        up.says("all workers run")
        for rank in job.ranks:
            until((job.logs / f"rank{rank}.out").exists, "lines arrive", SECONDS)
        up.leave(how)
        up.wait(left_with)
    job.goes_on()
    job.finish(code)
    job.ended()
    with job.controller(job.attach_words()) as attached:
        attached.wait(100 if code else 0)
    if code:
        assert "first failure: rank 0 on n1, exit code 7" in attached.output
    assert "| out 000000001 " not in attached.output, "what is here is not asked for again"
    job.everything_is_in(job.logs)


def test_a_run_ends_while_the_link_is_down(cluster: Cluster, user: str) -> None:
    job = Job(cluster, "unseen", cluster.hosts[:2], user)
    with job.controller(job.up_words(200_000)) as up:
        up.says("all workers run")
        cluster["n2"].nft(block("tcp dport 22 ct state new reject"))
        cut(cluster["n2"])
        up.says("no contact with n2")
        job.finish(7, [1])
        until(lambda: job.read(1, "exit.json"), "it has ended", SECONDS)
        cluster["n2"].nft_flush()
        up.wait(100)
    assert "n2 is back" in up.output
    assert "first failure: rank 1 on n2, exit code 7" in up.output
    job.everything_is_in(job.logs, [1])  # the other was stopped


def test_a_host_that_the_others_do_not_hear_ends_the_run_as_soon_as_is_asked_for(
    cluster: Cluster, user: str
) -> None:
    n1, n2 = cluster.hosts[:2]
    run = launch(cluster, "away", [n1, n2], "sleep", 3600, job={"lost_after": "10s"})
    port = json.loads(run.read(n2, "peers.json"))["port"]

    def received() -> int:
        words = ["ss", "-tinH", "state", "established", f"( sport = :{port} )"]
        found = re.search(r"bytes_received:(\d+)", n1.run(words).stdout)
        return int(found[1]) if found else 0

    until(received, "the supervisors talk to each other", SECONDS)
    before = received()
    until(lambda: received() > before, "and go on", SECONDS)
    n2.link_down()
    until(lambda: '"event": "ended"' in run.read(n1, "journal.jsonl"), "it is over", SECONDS)
    assert "n2 was not heard from for 10 s" in run.read(n1, "journal.jsonl")
    n2.link_up()
    assert run.down("--grace", 1).returncode == 0
    empty(n1, n2)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_soon_finds_out_and_says_whose_cable_was_pulled(
    cluster: Cluster, user: str, presses: int
) -> None:
    """Whose link is cut like that counts as there for half a minute, and then is tried again."""
    job = Job(cluster, "pulled", cluster.hosts[:2], user)
    with job.controller(job.up_words(1000)) as up:
        up.says("all workers run")
        cluster["n2"].link_down()
        up.process.send_signal(signal.SIGINT)
        up.says("stopping everywhere: interrupted (10 s to end; Ctrl-C again kills at once)")
        if presses == 2:
            up.process.send_signal(signal.SIGINT)
            up.says("killing what is left on ")
        up.wait(130)
    if presses == 1:
        assert "warning: waiting for n2, not to be reached now: " in up.output
        assert "n2: no contact since " in up.output
    else:
        assert "n2: no contact: nothing was heard from it for 5 s" in up.output
    assert "not verified on n2: ddp-orch down pulled, once it can be reached" in up.output
    empty(cluster["n1"])
    assert "pulled: not verified on n2\n" in ddp_orch(cluster, "ps").stderr
    cluster["n2"].link_up()
    job.taken_down()
    told = ddp_orch(cluster, "ps", "pulled")
    assert (told.returncode, "not verified" in told.stderr) == (130, False), "that is proven now"


def test_two_controllers_get_everything(cluster: Cluster, user: str) -> None:
    job = Job(cluster, "seen", cluster.hosts[:2], user)
    elsewhere = [cluster.home / f"another-machine-{n}" for n in (1, 2)]
    with job.controller(job.up_words(200_000)) as up:
        up.says("all workers run")
        with (
            job.controller(job.attach_words(elsewhere[0])) as other,
            job.controller(job.attach_words(elsewhere[1])) as third,
        ):
            other.says("[r1]|")
            third.says("[r1]|")
            third.process.send_signal(signal.SIGINT)
            third.wait(101)
            assert f"run {job.name} goes on without us on n1, n2" in third.output
            job.goes_on()
            job.finish()
            up.wait(0)
            other.wait(0)
    job.everything_is_in(job.logs)
    job.everything_is_in(job.logs_in(elsewhere[0]))


@pytest.mark.parametrize("state", ["starting", "setting-up"])
def test_what_a_controller_leaves_that_dies_before_the_launch_is_seen_and_ended(
    cluster: Cluster, user: str, state: str
) -> None:
    # That it begins is told before it is begun; and of that much to tell, unread, comes no end.
    command = "sleep 3600" if state == "setting-up" else f"sleep 3600 # {'long ' * 20_000}"
    job = Job(cluster, "half", cluster.hosts[:2], user, {"defaults": {"setup": [command]}})
    with job.controller(job.up_words(1000, 0, "-o", "json"), unread=state == "starting") as up:
        if state == "setting-up":
            for host in job.hosts:
                until(lambda: "sleep 3600" in host.pids().values(), "it sleeps", SECONDS)  # noqa: B023
        else:
            folders = [job.folder(rank) for rank in job.ranks]
            until(lambda: all(map(Path.exists, folders)), "they are there", SECONDS)
        up.process.kill()
        up.wait(-9)
    listed = ddp_orch(cluster, "ps", "-i", job.inventory).stdout
    assert re.search(rf"^half +{state} +", listed, re.MULTILINE), listed
    with job.controller(job.attach_words()) as attached:
        for name in ("n1", "n2"):
            attached.says(f"{name}: nothing of the run is started yet")
        attached.process.send_signal(signal.SIGINT)
        attached.wait(101)
    job.taken_down()
    with job.controller(job.attach_words()) as attached:
        attached.wait(103)
