"""One run on hosts that fit on a page: who is asked what, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator import conductor, errors, patience, watch
from orchestrator.emit import Emitter
from orchestrator.errors import RequestFailed
from orchestrator.events import (
    Detached,
    Ended,
    GaveUp,
    Launched,
    LinkDown,
    LinkUp,
    NodeEnded,
    SetupBegan,
    SetupEnded,
    StopAsked,
    Warned,
    WorkersUp,
)
from tests.fake_run import ENDED, HOSTS, Run, run

if TYPE_CHECKING:
    from orchestrator.events import Event
    from orchestrator.link import Call

__all__ = ["run"]


def test_all_goes_well(run):
    run.once_all_launched(lambda: (run.everyone("up"), run.everyone("end", 0)))
    ended = run.conduct()
    assert (ended.exit_code, ended.failure, ended.survivors) == (0, None, ())
    for host in HOSTS:
        *shipping, launch = run.ops(host)
        assert shipping == ["runs.prepare", *["files.put"] * 4]
        assert launch == "follow.launch"
        spec = run.nodes[host].asked[-1][1]
        assert spec["peers"]["rendezvous_port"] == 29400, "which it does not take itself"
    put = [args["path"] for op, args in run.nodes["a"].asked if op == "files.put"]
    assert put[0] == "code/t.py"
    assert sorted(path.partition("/")[0] for path in put) == ["code", "lib", "lib", "lib"]
    assert not any(isinstance(event, Warned) for event in run.events)


def test_ranks_that_nobody_saw_are_owned_up_to(run):
    """Workers may come and go between two looks."""
    run.once_all_launched(lambda: run.everyone("end", 0))
    assert run.conduct().exit_code == 0
    (said,) = [event.message for event in run.events if isinstance(event, Warned)]
    assert said == "the workers of a, b came and went before their ranks were read"


def test_that_workers_failed_says_enough(run):
    run.once_all_launched(lambda: run.nodes["a"].end(1))
    assert run.conduct().exit_code == 100
    assert not any(isinstance(event, Warned) for event in run.events)


def test_a_host_that_cannot_take_the_files_lets_nothing_start(run):
    run.nodes["b"].instead["runs.prepare"] = lambda call: call.future.set_exception(
        RequestFailed("disk full", host="b")
    )
    ended = run.conduct()
    assert ended.exit_code == 100
    assert ended.failure is not None
    assert (ended.failure.host, ended.failure.message) == ("b", "could not be started: disk full")
    assert "follow.launch" not in run.ops("a") + run.ops("b")


def test_a_host_that_does_not_start_ends_the_others(run):
    run.nodes["b"].instead["follow.launch"] = lambda call: call.future.set_exception(
        RequestFailed("no such workdir", host="b")
    )
    ended = run.conduct()
    assert ended.exit_code == 100
    assert ended.why == "torchrun on b ended: could not be started: no such workdir"
    assert run.nodes["a"].grace() == [watch.GRACE]
    assert run.nodes["b"].grace() == []


def test_the_first_worker_that_fails_ends_all(run):
    run.once_all_launched(lambda: run.everyone("up"))
    run.then[WorkersUp] = lambda event: run.nodes["b"].fail(3) if event.host == "b" else None
    ended = run.conduct()
    assert (ended.exit_code, ended.why) == (100, "rank 1 on b exited with code 3")
    assert [run.nodes[host].grace() for host in HOSTS] == [[watch.GRACE]] * 2
    assert sum(isinstance(event, StopAsked) for event in run.events) == 1


def test_a_run_whose_last_word_could_not_be_written_ends(run):
    """The folder was removed, the disk is full: the agent says that it is over, and no more."""

    def over() -> None:
        run.nodes["a"].end(0)
        run.nodes["b"].hang_up("ended")

    run.once_all_launched(over)
    ended = run.conduct()
    assert (ended.exit_code, ended.unverified) == (100, ())
    assert "its last word could not be written" in ended.why


def answered(call: Call) -> None:
    call.future.set_result(ENDED)


def test_ctrl_c_stops_with_grace_and_a_second_one_without(run):
    def stop(call: Call) -> None:
        answered(call)
        if len(run.nodes["a"].grace()) == 2:
            run.everyone("end", None, 9, "stopped")

    for node in run.nodes.values():
        node.instead["stopping.stop"] = stop if node.name == "b" else answered
    run.once_all_launched(run.interrupts._note)
    run.then[StopAsked] = lambda _: run.interrupts._note()
    ended = run.conduct()
    assert ended.exit_code == 130
    assert run.nodes["a"].grace() == [watch.GRACE, 0.0]
    assert run.nodes["b"].grace() == [watch.GRACE, 0.0]
    told = run.nodes["a"].stops()[0]
    assert (told["folder"], told["exit_code"]) == ("/r/0", 103), "to who else watches"
    assert (told["why"], told["by"]) == ("interrupted by alice@laptop", "alice@laptop")


def test_ctrl_c_while_files_are_sent_does_not_wait_for_a_slow_host(run):
    run.nodes["b"].instead["runs.prepare"] = lambda _: run.interrupts._note()  # and no answer
    ended = run.conduct()
    assert (ended.exit_code, ended.why) == (130, "interrupted")
    assert "follow.launch" not in run.ops("a") + run.ops("b")


def test_a_node_that_never_says_its_last_word_is_given_up(run, monkeypatch):
    monkeypatch.setattr(conductor, "GRACE", 0.05)
    monkeypatch.setattr(patience, "LAST_WORD", 0.05)
    run.nodes["b"].instead["stopping.stop"] = answered
    run.once_all_launched(run.interrupts._note)
    ended = run.conduct()
    assert ended.exit_code == 130
    assert [(e.host, e.message) for e in run.of(GaveUp)] == [
        ("b", "no last word within 0 s after its grace")
    ]
    assert ended.unverified == ("b",)
    assert [e.host for e in run.events if isinstance(e, NodeEnded)] == ["a"]


def test_ranks_that_were_not_seen_are_owned_up_to(run):
    run.once_all_launched(lambda: run.everyone("end", 0))
    assert run.conduct().exit_code == 0
    (warning,) = [event for event in run.events if isinstance(event, Warned)]
    assert "a, b" in warning.message


def test_a_sink_that_breaks_is_dropped_and_the_run_goes_on(run):
    def full(event: Event, _: object) -> None:
        raise OSError(28, "No space left on device", "events.jsonl")

    run.emit = Emitter([full, run._sink])
    run.once_all_launched(lambda: (run.everyone("up"), run.everyone("end", 0)))
    assert run.conduct().exit_code == 0
    warnings = [event.message for event in run.events if isinstance(event, Warned)]
    assert warnings == ["events.jsonl: No space left on device; no more is written there"]


# --- setup --------------------------------------------------------------------------------------


def launches(run: Run, host: str) -> list[tuple[str, str]]:
    """Return what was started on a host, and in which folder."""
    asked = [args for op, args in run.nodes[host].asked if op == "follow.launch"]
    return [(args["argv"][-1], args["folder"]) for args in asked]


def test_setup_comes_before_the_start_on_any_host(run):
    began = []
    run.nodes["b"].on_setup = lambda c: (began.append(launches(run, "a")), run.nodes["b"].end(0))
    run.once_all_launched(lambda: (run.everyone("up"), run.everyone("end", 0)))
    assert run.conduct(a=("one",), b=("two", "three")).exit_code == 0
    assert began == [[("one", "/r/0/setup/1")]] * 2, "torchrun waits for the other host's setup"
    (_, folder), *rest = launches(run, "b")
    assert folder == "/r/1/setup/1"
    assert [where for _, where in rest] == ["/r/1/setup/2", "/r/1"]
    first = next(args for op, args in run.nodes["a"].asked if op == "follow.launch")
    assert first["argv"] == ["/bin/sh", "-c", "one"]
    assert first["cwd"] == "/r/0", "where the workers start"
    last = [args for op, args in run.nodes["a"].asked if op == "follow.launch"][-1]
    assert last["env"] == first["env"]
    assert last["cookie"] != first["cookie"]


def test_a_setup_that_fails_ends_the_others_and_nothing_starts(run):
    run.nodes["a"].on_setup = lambda _: None  # it goes on
    run.nodes["b"].on_setup = lambda _: run.nodes["b"].end(7)
    ended = run.conduct(a=("long", "never"), b=("bad", "never"))
    assert (ended.exit_code, ended.why) == (100, "setup failed on b: `bad` exited with code 7")
    assert [words for words, _ in launches(run, "a") + launches(run, "b")] == ["long", "bad"]
    stopped = [args["folder"] for op, args in run.nodes["a"].asked if op == "stopping.stop"]
    assert stopped == ["/r/0"]
    (tombstone,) = run.nodes["b"].stops()
    assert tombstone["folder"] == "/r/1", "what never started is told that it never will"
    assert not any(isinstance(event, Launched) for event in run.events)


def test_a_setup_that_could_not_be_started_fails_as_well(run):
    run.nodes["b"].instead["follow.launch"] = lambda call: call.future.set_exception(
        RequestFailed("no such workdir", host="b")
    )
    ended = run.conduct(b=("x",))
    assert ended.why == "setup failed on b: `x` ended: no such workdir"


def test_ctrl_c_while_a_setup_runs(run):
    run.nodes["b"].on_setup = lambda _: run.interrupts._note()
    ended = run.conduct(b=("long",))
    assert (ended.exit_code, ended.why) == (130, "interrupted")
    assert run.nodes["b"].grace() == [watch.GRACE]
    assert [type(e) for e in run.events if isinstance(e, NodeEnded)] == [NodeEnded] * 2
    assert not any(isinstance(event, Launched) for event in run.events)


def test_a_link_that_is_lost_while_a_setup_runs_is_no_matter(run):
    """The command goes on meanwhile; what it has done by then is not done again."""
    b = run.nodes["b"]
    b.on_setup = lambda _: b.lose() if not run.of(LinkDown) else b.end(0)
    run.then[LinkDown] = lambda _: b.end(0)
    run.once_all_launched(lambda: (run.everyone("up"), run.everyone("end", 0)))
    assert run.conduct(b=("one", "two")).exit_code == 0
    assert [words for words, _ in launches(run, "b")][:3] == ["one", "one", "two"]
    assert [event.number for event in run.of(SetupEnded)] == [1, 2]
    assert len(run.of(LinkUp)) == 1


def test_a_stop_that_finds_a_setups_host_away_is_told_when_it_is_back(run):
    b = run.nodes["b"]
    b.on_setup = lambda _: (b.lose(reachable=False), run.interrupts._note())
    run.then[StopAsked] = lambda _: setattr(b, "reachable", True)
    ended = run.conduct(b=("long",))
    assert (ended.exit_code, ended.unverified) == (130, ())
    assert [args["folder"] for args in b.stops()] == ["/r/1"]
    assert [event.host for event in run.of(NodeEnded)] == ["a", "b"]


def test_what_a_setup_left_and_could_not_be_ended_is_named(run):
    left = {"pid": 7, "name": "x", "state": "D"}

    def end(_: str) -> None:
        run.nodes["b"].tell("ended", code=0, signal=None, reason="exited", survivors=[left])

    run.nodes["b"].on_setup = end
    ended = run.conduct(b=("x",))
    assert ended.exit_code == 100
    assert ended.survivors == ("b: pid 7 (x, state D)",)


@pytest.mark.parametrize("heard", [True, False])
def test_one_taken_down_between_two_setup_commands_has_not_failed(run, heard):
    a = run.nodes["a"]
    said = "the run was stopped before it started"
    a.on_setup = lambda _: a.end(None, None, "stopped before it started")
    if not heard:
        refused = RequestFailed(said, host="a")
        a.instead["follow.launch"] = lambda call: call.future.set_exception(refused)
    ended = run.conduct(a=("x",))
    assert (ended.exit_code, ended.failure) == (errors.CANCELLED, None)
    assert ended.why == "taken down by somebody else before a had started"


def test_after_a_stop_no_next_command_begins(run):
    """Also where the one that was stopped ends well."""
    run.nodes["a"].on_setup = lambda _: None
    run.nodes["a"].instead["stopping.stop"] = lambda call: (
        answered(call),
        run.nodes["a"].end(0),
    )
    run.nodes["b"].on_setup = lambda _: run.nodes["b"].end(7)
    assert run.conduct(a=("long", "never"), b=("bad",)).exit_code == 100
    assert [words for words, _ in launches(run, "a")] == ["long"]


# --- other runs, lost links, and leaving ---------------------------------------------------------


def test_another_run_of_that_name_is_not_ended_by_ours(run):
    """Somebody else's, of this user: its folders are there on all hosts."""
    for node in run.nodes.values():
        node.instead["runs.prepare"] = lambda call: call.future.set_exception(
            RequestFailed("/r/0 is there already", host="a")
        )
    ended = run.conduct()
    assert (ended.exit_code, ended.failure.message) == (
        100, "could not be started: /r/0 is there already",
    )  # fmt: skip
    assert run.nodes["a"].stops() + run.nodes["b"].stops() == []


def test_a_link_that_is_lost_is_sought_and_the_run_ends_well(run):
    b = run.nodes["b"]
    run.once_all_launched(lambda: (run.everyone("up"), b.lose()))
    run.then[LinkUp] = lambda _: run.everyone("end", 0)
    ended = run.conduct()
    assert (ended.exit_code, ended.unverified) == (0, ())
    (down,) = run.of(LinkDown)
    assert (down.host, down.node, down.message) == ("b", 1, "gone")
    assert len(run.of(WorkersUp)) == 2, "what it had told before is not told again"
    launch, follow = [args for op, args in b.asked if op.startswith("follow.")]
    assert follow["folder"] == launch["folder"] == "/r/1"
    assert run.ops("b")[-1] == "follow.follow"
    assert follow["cursors"] == {"journal.jsonl": len(b.journals["/r/1"]) - len(last_line(b))}


def last_line(node) -> bytes:
    return node.journals[node.folder].splitlines(keepends=True)[-1]


def test_a_link_that_is_lost_as_torchrun_is_started_asks_for_the_start_again(run):
    """Whether the request got there is not known; a host starts nothing twice."""
    b = run.nodes["b"]
    b.instead["follow.launch"] = lambda _: (b.instead.clear(), b.lose())
    run.once_all_launched(lambda: (run.everyone("up"), run.everyone("end", 0)))
    assert run.conduct().exit_code == 0
    launches_of = [args for op, args in b.asked if op == "follow.launch"]
    assert [args["folder"] for args in launches_of] == ["/r/1"] * 2


def test_ctrl_c_while_a_host_is_away_names_it_and_waits_little_longer_than_the_grace(
    run, monkeypatch
):
    monkeypatch.setattr(conductor, "GRACE", 0.05)
    monkeypatch.setattr(patience, "HEARD", 0.05)
    monkeypatch.setattr(patience, "LAST_WORD", 3600.0)
    b = run.nodes["b"]
    run.once_all_launched(lambda: (run.everyone("up"), b.lose(reachable=False)))
    run.then[LinkDown] = lambda _: run.interrupts._note()
    ended = run.conduct()
    assert (ended.exit_code, ended.unverified) == (130, ("b",))
    (gave_up,) = run.of(GaveUp)
    assert gave_up.message.startswith("no contact since ")
    assert run.nodes["a"].grace() == [0.05]
    (told,) = run.of(Warned)
    assert told.message == "waiting for b, not to be reached now: 0 s at most"
    assert told.hint == "Ctrl-C again does not wait"


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_finds_out_soon_who_has_fallen_silent(run, monkeypatch, presses):
    """A cable that was pulled says nothing, and the link counts as whole for half a minute."""
    monkeypatch.setattr(conductor, "GRACE", 3.0 if presses == 1 else 0.3)
    monkeypatch.setattr(patience, "BEAT", 0.01)
    monkeypatch.setattr(patience, "HEARD", 0.1)
    monkeypatch.setattr(patience, "LAST_WORD", 3600.0)
    b = run.nodes["b"]
    b.instead["stopping.stop"] = lambda _: None

    def pull() -> None:
        b.reachable, run.fleet.hosts["b"].silent = False, 20.0
        run.interrupts._note()

    run.once_all_launched(pull)
    if presses == 2:
        run.then[StopAsked] = lambda _: run.interrupts._note()
    ended = run.conduct()
    assert (ended.exit_code, ended.unverified) == (130, ("b",))
    assert [event.host for event in run.of(NodeEnded)] == ["a"]
    (gave_up,) = run.of(GaveUp)
    said = "no contact since " if presses == 1 else "no contact: nothing was heard"
    assert gave_up.message.startswith(said)
    assert len(run.of(LinkDown)) == 2 - presses, "it is not said to be tried again"


def test_each_ctrl_c_is_answered(run):
    """At the first the run is stopped, at the second killed, and then who it waits for is named."""
    a, b = run.nodes["a"], run.nodes["b"]
    a.instead["stopping.stop"] = b.instead["stopping.stop"] = answered
    run.once_all_launched(run.interrupts._note)
    run.then[StopAsked] = lambda _: run.interrupts._note()
    run.then[Warned] = lambda _: run.everyone("end", None, 9, "stopped")
    assert run.conduct().exit_code == 130
    assert [(event.why, event.grace) for event in run.of(StopAsked)] == [
        ("interrupted", watch.GRACE), ("interrupted", 0.0),
    ]  # fmt: skip
    (told,) = run.of(Warned)
    assert told.message.startswith("waiting for a, b to say that nothing is left: ")
    assert a.grace() == [watch.GRACE, 0.0]


def test_a_further_ctrl_c_while_only_hosts_that_are_away_are_waited_for_ends_the_waiting(
    run, monkeypatch
):
    monkeypatch.setattr(patience, "LAST_WORD", 3600.0)
    b = run.nodes["b"]
    run.once_all_launched(lambda: (run.everyone("up"), b.lose(reachable=False)))
    run.then[LinkDown] = lambda _: run.interrupts._note()
    run.then[NodeEnded] = lambda _: run.interrupts._note()
    ended = run.conduct()
    assert (ended.exit_code, ended.unverified) == (130, ("b",))
    assert [event.host for event in run.of(NodeEnded)] == ["a"]


def test_a_second_ctrl_c_gives_nobody_up_who_can_still_answer(run, monkeypatch):
    monkeypatch.setattr(patience, "LAST_WORD", 3600.0)
    a, b = run.nodes["a"], run.nodes["b"]

    def killed(call: Call) -> None:
        answered(call)
        if len(a.stops()) == 2:
            a.end(None, 9, "stopped")

    a.instead["stopping.stop"] = killed
    run.once_all_launched(lambda: (run.everyone("up"), b.lose(reachable=False)))
    run.then[LinkDown] = lambda _: run.interrupts._note()
    run.then[StopAsked] = lambda _: run.interrupts._note()
    run.then[NodeEnded] = lambda _: run.interrupts._note()
    ended = run.conduct()
    assert a.grace() == [watch.GRACE, 0.0]
    assert [event.host for event in run.of(NodeEnded)] == ["a"]
    assert ended.unverified == ("b",)


@pytest.mark.parametrize("asked", ["sigterm", "detach"])
def test_leaving_leaves_the_run_as_it_is(run, asked):
    if asked == "sigterm":
        run.once_all_launched(run.interrupts._go)
    else:
        run.once_all_launched(lambda: run.everyone("up"))
    left = run.conduct(detach=asked == "detach")
    assert isinstance(left, Detached)
    assert (left.run, left.hosts) == ("r", HOSTS)
    assert len(run.of(WorkersUp)) == (0 if asked == "sigterm" else 2)
    assert run.nodes["a"].stops() + run.nodes["b"].stops() == []


def test_a_host_that_is_away_as_all_run_is_told_where_the_head_is_before_it_is_left(run):
    a, b = run.nodes["a"], run.nodes["b"]
    run.once_all_launched(
        lambda: (
            b.up(),
            b.lose(reachable=False),
            a.tell("listening", address="10.0.0.0", port=1),
            a.up(),
        )
    )
    run.then[LinkDown] = lambda _: setattr(b, "reachable", True)
    assert isinstance(run.conduct(detach=True), Detached)
    assert "runs.meet" in run.ops("b")


def test_who_is_told_to_leave_while_it_sets_up_launches_first(run):
    """Else what runs already would wait for the others until its time is up."""
    run.then[SetupBegan] = lambda _: run.interrupts._go()
    left = run.conduct(a=("x",))
    assert isinstance(left, Detached)
    assert len(run.of(Launched)) == 2


def test_told_twice_before_it_has_started_it_ends_instead(run):
    run.nodes["a"].on_setup = lambda _: (run.interrupts._go(), run.interrupts._go())
    ended = run.conduct(a=("long",))
    assert isinstance(ended, Ended)
    assert (ended.exit_code, ended.why) == (130, "told to end before it had started")


@pytest.mark.parametrize("times", [1, 2])
def test_leaving_waits_for_a_launch_that_nobody_heard_of_unless_told_twice(run, times):
    b = run.nodes["b"]
    b.instead["follow.launch"] = lambda _: (b.instead.clear(), b.lose(reachable=times == 1))
    run.then[LinkDown] = lambda _: [run.interrupts._go() for _ in range(times)]
    assert isinstance(run.conduct(), Detached)
    assert len(run.of(Launched)) == 3 - times


def test_a_run_that_is_stopped_is_not_left(run):
    run.once_all_launched(lambda: run.nodes["a"].fail(3))
    run.then[StopAsked] = lambda _: run.interrupts._go()
    ended = run.conduct(detach=True)
    assert isinstance(ended, Ended)
    assert ended.exit_code == 100
