"""A run that others began, or that goes on without us for a while: what is asked, and decided."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from orchestrator import backoff, errors, patience, state, watch
from orchestrator.emit import Emitter
from orchestrator.events import (
    Ended,
    GaveUp,
    LinkDown,
    LinkUp,
    Logged,
    NodeEnded,
    StopAsked,
    Stopping,
    Warned,
    WorkerEnded,
    WorkersUp,
)
from orchestrator.fleet import Lost
from orchestrator.watch import Interrupts, Watch
from tests.fake_run import PLANNED, Run, run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

TOLD = {"grace": 3.0, "why": "taken down by carol@desk", "exit_code": 103, "by": "carol@desk"}


def begun(run: Run) -> None:
    """Let both have a past, as a run has that was left to itself."""
    for rank, node in enumerate(run.nodes.values()):
        node.folder = f"/r/{rank}"
        node.tell("started", pid=1)
        node.up()


def see(watched: Watch, until: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end, "it never came"
        if (item := watched.turn()) is not None:
            watched.take(item)


def settle(watched: Watch) -> None:
    """Take all that has come, and decide once more."""
    while (item := watched.turn()) is not None:
        watched.take(item)


def attach(run: Run) -> Watch:
    watched = run.watch()
    for host in run.nodes:
        watched.catch_up(host)
    return watched


def test_the_past_is_learnt_and_the_end_is_seen(run):
    begun(run)
    watched = attach(run)
    run.then[WorkersUp] = lambda _: run.everyone("end", 0) if watched.state.all_up else None
    see(watched, lambda: watched.state.over)
    ended = watched.summary("/logs")
    assert (ended.exit_code, ended.logs) == (0, "/logs")
    assert len(run.of(WorkersUp)) == 2
    assert run.nodes["a"].stops() == []


def test_logs_that_could_not_all_be_kept_are_not_said_to_be_here(run):
    """Else nobody would ask the hosts for them any more, and `prune` would remove the only ones."""

    def full(_: Logged) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "rank0.out")

    run.emit = Emitter([run._sink], None, full)
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    run.nodes["a"].write("torchrun.out", 0, b"words")
    run.everyone("end", 0)
    see(watched, lambda: watched.state.over)
    ended = watched.summary("/logs")
    assert (ended.exit_code, ended.logs) == (0, "")
    told = run.of(Warned)[-1]
    assert told.message == "not all that was written is in /logs: the hosts have it"
    assert "ddp-orch attach r" in told.hint


@pytest.mark.parametrize("offset", [0, 3])
def test_logs_with_a_gap_are_not_said_to_be_here(run, offset):
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    run.nodes["a"].write("torchrun.out", offset, b"words")
    run.everyone("end", 0)
    see(watched, lambda: watched.state.over)
    assert watched.summary("/logs").logs == ("" if offset else "/logs")


def test_an_end_that_was_long_ago_has_its_own_exit_code(run):
    begun(run)
    run.nodes["b"].fail(3)
    run.nodes["b"].end(1)
    run.nodes["a"].tell("stopping", **TOLD)
    run.nodes["a"].end(None, 15, "stopped")
    watched = attach(run)
    see(watched, lambda: watched.state.over)
    ended = watched.summary("")
    assert (ended.exit_code, ended.why) == (103, "taken down by carol@desk")


def test_nothing_is_decided_while_the_past_of_one_is_not_known(run):
    """Else a failure would be ours to act upon that somebody has acted upon already."""
    begun(run)
    a, b = run.nodes.values()
    b.fail(3)
    a.instead["follow.follow"] = lambda call: held.append(call)
    held: list = []
    watched = attach(run)
    see(watched, lambda: run.of(WorkerEnded))
    settle(watched)
    assert run.of(StopAsked) == []
    held[0].on_event({"caught_up": True}, b"")
    see(watched, lambda: run.of(StopAsked))
    assert run.of(StopAsked)[0].why == "rank 1 on b exited with code 3"


def test_one_that_is_lost_while_it_is_behind_holds_up_no_decision(run):
    begun(run)
    a, b = run.nodes.values()
    b.fail(3)
    a.instead["follow.follow"] = lambda _: a.lose(reachable=False)
    watched = attach(run)
    see(watched, lambda: run.of(StopAsked))
    assert [event.host for event in run.of(LinkDown)] == ["a"]


def test_a_host_that_cannot_be_reached_at_first_is_sought(run):
    begun(run)
    watched = run.watch()
    lost = errors.LinkLost("no route", check="ssh.reach", host="b")
    watched.take(Lost("b", lost))
    watched.catch_up("a")
    run.everyone("end", 0)
    see(watched, lambda: watched.state.over)
    assert [type(e) for e in run.events if isinstance(e, LinkDown | LinkUp)] == [LinkDown, LinkUp]


def test_one_that_is_back_has_not_told_yet_what_it_restarted(run, monkeypatch):
    """Its workers may run again, and the others have ended well since."""
    monkeypatch.setattr(state, "RESTART_PATIENCE", 0.0)
    begun(run)
    a, b = run.nodes.values()
    watched = run.watch()
    run.emit(replace(PLANNED, max_restarts=1))
    for host in run.nodes:
        watched.catch_up(host)
    a.fail(1)
    see(watched, lambda: watched.state.failed)
    a.instead["follow.follow"] = lambda call: held.append(call)
    held: list = []
    a.lose()
    b.fail(0)
    see(watched, lambda: watched.state.nodes[1].done and held)
    settle(watched)
    assert run.of(StopAsked) == []
    held[0].on_event({"caught_up": True}, b"")  # and nothing of the kind has happened
    see(watched, lambda: run.of(StopAsked))
    assert "cannot be restarted: b finished already" in run.of(StopAsked)[0].why


def test_a_host_that_falls_silent_is_named_before_it_counts_as_lost(run):
    begun(run)
    watched = attach(run)
    see(watched, lambda: len(run.of(WorkersUp)) == 2)
    host = watched._fleet.hosts["b"]
    for _ in range(2):  # and again, when it has been heard in between
        host.silent = watch.QUIET + 1
        known = len(run.of(Warned))
        see(watched, lambda known=known: len(run.of(Warned)) > known)
        watched._listened = 0.0
        settle(watched)
        assert [e.message for e in run.of(Warned)[known:]] == ["nothing was heard from b for 10 s"]
        host.silent = 0.0
        watched._listened = 0.0
        settle(watched)


def test_another_controllers_stop_is_spread_to_all_nodes_once(run):
    """It may have reached one of them only, before its own link went."""
    begun(run)
    a, b = run.nodes.values()
    a.instead["stopping.stop"] = b.instead["stopping.stop"] = lambda call: None
    watched = attach(run)
    run.then[WorkersUp] = lambda _: a.tell("stopping", **TOLD) if watched.state.all_up else None
    see(watched, b.stops)
    settle(watched)
    for node in (a, b):
        (wish,) = node.stops()
        assert (wish["grace"], wish["why"]) == (3.0, "taken down by carol@desk")
        assert (wish["exit_code"], wish["by"]) == (103, "bob@desk")
    assert run.of(StopAsked) == []
    b.tell("stopping", **{**TOLD, "why": "later"})
    run.everyone("end", None, 15, "stopped")
    see(watched, lambda: watched.state.over)
    assert len(run.of(Stopping)) == 2
    assert (watched.state.stop.why, watched.state.stop.exit_code) == (TOLD["why"], 103)


def test_one_that_is_away_is_told_to_end_when_it_is_back(run):
    begun(run)
    b = run.nodes["b"]
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    b.lose(reachable=False)
    see(watched, lambda: run.of(LinkDown))
    watched.stop("enough", errors.JOB_FAILED, 5.0)
    assert b.stops() == []
    b.reachable = True
    see(watched, lambda: watched.state.over)
    (wish,) = b.stops()
    assert (wish["grace"], wish["why"], wish["exit_code"]) == (5.0, "enough", 100)
    assert watched.summary("").unverified == ()


def test_one_that_was_given_up_is_told_all_the_same_should_it_come_back(run, monkeypatch):
    monkeypatch.setattr(patience, "LAST_WORD", 0.0)
    begun(run)
    a, b = run.nodes.values()
    a.instead["stopping.stop"] = lambda call: None
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    b.lose(reachable=False)
    see(watched, lambda: run.of(LinkDown))
    watched.stop("enough", errors.JOB_FAILED, 0.0)
    see(watched, lambda: run.of(GaveUp))
    assert watched.state.over
    b.reachable = True
    see(watched, b.stops)


def test_what_was_told_before_the_link_was_lost_is_not_asked_for_again(run):
    begun(run)
    b = run.nodes["b"]
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    before = len(b.journals["/r/1"])
    b.lose(reachable=False)
    b.fail(3)  # while nobody listens
    see(watched, lambda: b.tries > 3)
    b.reachable = True
    see(watched, lambda: run.of(WorkerEnded))
    follow = [args for op, args in b.asked if op == "follow.follow"]
    assert [args["cursors"] for args in follow] == [{}, {"journal.jsonl": before}]
    assert (len(run.of(LinkDown)), len(run.of(LinkUp)), len(run.of(WorkersUp))) == (1, 1, 2)


def test_cursors_that_are_asked_for_do_not_change_with_what_arrives(run):
    """They are sent by another thread, and later."""
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    (follow,) = [args for op, args in run.nodes["a"].asked if op == "follow.follow"]
    assert follow["cursors"] == {}
    assert watched.files["a"].cursors["journal.jsonl"] > 0


def test_tries_are_further_and_further_apart_also_for_one_that_comes_and_goes(run, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(backoff, "BACKOFF", (1.0, 2.0, 4.0))
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    watched = run.watch()
    lost = Lost("b", errors.LinkLost("gone", check="ssh.reach", host="b"))
    waits = []
    for outcome in ("away", "back", "back", "away", "away"):
        watched.take(lost)
        watched.take(lost)  # told by the link, and by each request
        waits.append(watched._away.at["b"] - clock[0])
        clock[0] += waits[-1]
        watched._away.turn()
        assert watched._away.at["b"] == float("inf"), "until its outcome is known"
        if outcome == "back":
            watched.take(watch.Rejoined("b"))
        else:
            watched.take(watch.StillAway("b", lost.error))
            waits.append(watched._away.at["b"] - clock[0])
            watched.take(watch.Rejoined("b"))
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    clock[0] += 60.0  # it stayed for long: all is forgiven
    watched.take(lost)
    assert watched._away.at["b"] - clock[0] == 1.0


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("lost", "its supervisor was killed, and how it ended is not known"),
        ("rebooted", "the host was restarted"),
        ("absent", "its folder is not there any more"),
    ],
)
def test_a_run_that_cannot_tell_its_end_ends_with_the_reason(run, state, why):
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    run.nodes["b"].hang_up(state)
    see(watched, lambda: watched.state.over)
    ended = watched.summary("")
    assert (ended.exit_code, ended.why) == (100, f"torchrun on b ended: {why}")
    assert run.nodes["a"].grace() == [watch.GRACE]


def test_a_supervisor_that_is_dead_is_told_of_and_the_job_goes_on(run):
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    run.nodes["b"].emit({"unattended": True})
    run.nodes["b"].emit({"news": "of a later agent"})
    see(watched, lambda: run.of(Warned))
    (warned,) = run.of(Warned)
    assert warned.message == "b: its supervisor was killed; the job runs on, on its own"
    assert run.of(StopAsked) == []
    assert not watched.state.over


def test_a_node_without_contact_is_given_up_only_after_a_stop(run, monkeypatch):
    monkeypatch.setattr(patience, "LAST_WORD", 0.0)
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    run.nodes["b"].lose(reachable=False)
    see(watched, lambda: run.nodes["b"].tries > 5)
    assert run.of(GaveUp) == []
    watched.stop("enough", errors.CANCELLED, 0.0)
    see(watched, lambda: run.of(GaveUp))


# --- signals ------------------------------------------------------------------------------------


@pytest.fixture
def _in_the_foreground():
    """Where the tests run in the background, Ctrl-C is ignored, and would stay so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_in_the_foreground")
def test_ctrl_c_is_a_wish_about_the_run_the_others_are_about_us():
    with Interrupts() as interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert (interrupts.count, interrupts.leave) == (1, 2)
    assert interrupts.asked()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.leave == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_last_word_of_a_node_comes_from_its_journal(run):
    """And not from the answer to the request to stop, which may be another's."""
    begun(run)
    watched = attach(run)
    see(watched, lambda: watched.state.all_up)
    watched.stop("enough", errors.CANCELLED, 1.0)
    see(watched, lambda: watched.state.over)
    assert [event.reason for event in run.of(NodeEnded)] == ["stopped"] * 2
    assert isinstance(watched.summary(""), Ended)
