"""Events in, state out; what follows from it; what the summary says."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import (
    Checked,
    Connected,
    Ended,
    Failure,
    GaveUp,
    HostFailed,
    Launched,
    LinkDown,
    LinkUp,
    Logged,
    NodeEnded,
    Planned,
    SetupBegan,
    SetupEnded,
    StopAsked,
    Stopping,
    Warned,
    Worker,
    WorkerEnded,
    WorkersUp,
)
from orchestrator.state import (
    RESTART_PATIENCE,
    TAIL_BYTES,
    TAIL_LINES,
    Keep,
    RunState,
    Stop,
    Warn,
    decide,
    first_failure,
    fold,
    signal_name,
    summary,
)

HOSTS = ("a", "b")


def plan(max_restarts: int = 0) -> Planned:
    return Planned(
        run="brave-otter",
        hosts=HOSTS,
        workers=(1, 1),
        what="t.py",
        endpoint="10.0.0.1:1",
        addresses=("10.0.0.1", "10.0.0.2"),
        max_restarts=max_restarts,
        time=100.0,
    )


def launched(node: int, time: float = 101.0) -> Launched:
    return Launched(node=node, host=HOSTS[node], time=time)


def up(node: int, *, world: int = 2, group: int | None = None, turn: int = 0) -> WorkersUp:
    worker = Worker(
        rank=node,
        local_rank=0,
        group_rank=node if group is None else group,
        world_size=world,
        pid=500 + node,
    )
    return WorkersUp(node=node, host=HOSTS[node], round=turn, workers=(worker,), time=105.0)


def died(
    node: int,
    *,
    code: int | None = 1,
    signal: int | None = None,
    time: float = 110.0,
    restart: int = 0,
    error: str | None = None,
) -> WorkerEnded:
    return WorkerEnded(
        node=node,
        host=HOSTS[node],
        rank=node,
        local_rank=0,
        pid=500 + node,
        code=code,
        signal=signal,
        restart=restart,
        error=error,
        traceback=None,
        time=time,
    )


def ended(
    node: int,
    code: int | None = 0,
    *,
    reason: str = "exited",
    signal: int | None = None,
    survivors: tuple[str, ...] = (),
    time: float = 120.0,
) -> NodeEnded:
    return NodeEnded(
        node=node,
        host=HOSTS[node],
        code=code,
        signal=signal,
        reason=reason,
        survivors=survivors,
        time=time,
    )


def down(node: int) -> LinkDown:
    return LinkDown(host=HOSTS[node], node=node, message="no sign of life", time=115.0)


def back(node: int) -> LinkUp:
    return LinkUp(host=HOSTS[node], node=node, time=117.0)


def gone(node: int) -> GaveUp:
    return GaveUp(host=HOSTS[node], node=node, message="no sign of life", time=118.0)


def told_to_end(node: int, time: float = 111.0, **more) -> Stopping:
    whole = {"why": "taken down by bob@desk", "exit_code": 103, "grace": 5.0} | more
    return Stopping(node=node, host=HOSTS[node], time=time, **whole)


def wrote(node: int, data: bytes, *, rank: int | None = -1, stream: str = "err") -> Logged:
    return Logged(
        node=node,
        host=HOSTS[node],
        rank=node if rank == -1 else rank,
        stream=stream,
        round=0,
        offset=0,
        data=data,
    )


def stopped(why: str = "why", exit_code: int = 100, time: float = 111.0) -> StopAsked:
    return StopAsked(why=why, exit_code=exit_code, grace=10.0, time=time)


def after(*events, max_restarts: int = 0) -> RunState:
    state = RunState()
    for event in (plan(max_restarts), *events):
        state = fold(state, event)
    return state


START = (launched(0), launched(1), up(0), up(1))


# --- what follows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), Keep()),
        (START, Keep()),
        ((*START, died(0, code=0)), Keep()),
        ((*START, ended(0)), Keep()),
        ((*START, ended(0), ended(1)), Keep()),
        ((*START, died(1, code=3)), Stop("rank 1 on b exited with code 3", 100)),
        ((*START, died(1, code=None, signal=9)), Stop("rank 1 on b was killed by SIGKILL", 100)),
        ((*START, died(1), died(0)), Stop("rank 1 on b exited with code 1", 100)),
        ((*START, ended(0, 1)), Stop("torchrun on a exited with code 1", 100)),
        ((*START, ended(0, None, signal=11)), Stop("torchrun on a was killed by SIGSEGV", 100)),
        (
            (ended(1, None, reason="could not be started: no"),),
            Stop("torchrun on b ended: could not be started: no", 100),
        ),
        (
            (ended(1, None, reason="could not be started: the run was stopped before it started"),),
            Stop("taken down by somebody else before b had started", 103),
        ),
        (
            (*START, ended(0, 0, survivors=("pid 7",))),
            Stop("not everything could be ended on a", 100),
        ),
        ((*START, down(1)), Keep()),
        ((*START, down(0), down(1)), Keep()),
        ((*START, gone(1)), Stop("lost the connection to b: no sign of life", 4)),
        # A lost host is worse than what a worker did.
        ((*START, died(0), gone(1)), Stop("lost the connection to b: no sign of life", 4)),
        ((*START, told_to_end(0), gone(1)), Keep()),
        (
            (*START, up(1, world=1)),
            Stop("the workers of b are in a world of 1, not of the planned 2", 100),
        ),
        ((*START, up(0, group=1)), Stop("a became node 1, not the planned 0", 100)),
    ],
)
def test_decide(events, expected):
    assert decide(after(*events), now=106.0) == expected


def test_a_look_at_many_nodes_adds_their_workers_up_once(monkeypatch):
    added = []
    whole = Planned.world_size.fget
    monkeypatch.setattr(Planned, "world_size", property(lambda p: added.append(p) or whole(p)))
    decide(after(up(0), up(1)), 110.0)
    assert len(added) == 1


def test_before_there_is_a_plan_nothing_follows():
    assert decide(fold(RunState(), down(0)), now=1e9) == Keep()


@pytest.mark.parametrize(
    ("worker", "stops"),
    [
        (died(0, restart=0), False),
        (died(0, restart=1), False),
        (died(0, restart=2), True),
        # torchrun ends healthy workers too when another node restarts; that costs no restart.
        (died(0, code=None, signal=15, restart=2), False),
        (died(0, code=None, signal=9, restart=2), False),
        (died(0, code=None, signal=11, restart=2), True),
    ],
)
def test_a_worker_may_die_while_a_restart_is_left(worker, stops):
    state = after(*START, worker, max_restarts=2)
    assert isinstance(decide(state, now=111.0), Stop) is stops


def test_the_first_reason_stands():
    state = after(*START, stopped("first"), stopped("second", exit_code=130), down(0), died(1))
    assert decide(state, now=112.0) == Keep()
    assert summary(state, 112.0, "").why == "first"
    assert summary(state, 112.0, "").exit_code == 100


# --- late ---------------------------------------------------------------------------------------


def test_late_workers_are_warned_of_once():
    state = after(launched(0, time=100.0), launched(1, time=100.5))
    # The first is late already, the second is not: both would be named one after the other.
    assert decide(state, now=160.2) == Keep()
    warning = decide(state, now=160.6)
    assert isinstance(warning, Warn)
    assert "60 s on a, b:" in warning.message
    state = fold(state, Warned(message=warning.message))
    assert decide(state, now=500.0) == Keep()
    assert decide(fold(state, up(0)), now=500.0) == Keep()


def test_a_node_that_runs_is_not_late():
    state = after(launched(0, time=100.0), launched(1, time=100.0), up(0))
    warning = decide(state, now=161.0)
    assert isinstance(warning, Warn)
    assert "60 s on b:" in warning.message


def test_other_warnings_do_not_hide_it():
    state = after(launched(0, time=100.0), Warned(message="something else"))
    assert isinstance(decide(state, now=161.0), Warn)


# --- when it is over ----------------------------------------------------------------------------


def test_over_when_every_node_said_its_last_word():
    assert not RunState().over
    assert not after(*START, ended(0)).over
    assert not after(*START, ended(0), down(1)).over
    assert after(*START, ended(0), gone(1)).over


def test_a_node_that_ended_stays_so():
    state = after(*START, ended(0), down(0), up(0, turn=1), launched(0))
    assert state.nodes[0].phase == "ended"
    assert state.nodes[0].ended == ended(0)


def test_a_host_is_away_until_it_is_back():
    state = after(*START, down(1))
    assert state.nodes[1].away == down(1)
    assert (state.nodes[1].phase, state.nodes[0].away) == ("up", None)
    assert fold(state, back(1)) == after(*START)


def test_what_is_told_of_one_who_was_away_counts():
    state = after(*START, down(1), back(1), died(1, code=3))
    assert decide(state, now=120.0) == Stop("rank 1 on b exited with code 3", 100)


def test_one_that_is_given_up_is_lost_for_good():
    state = after(*START, down(1), gone(1), back(1), up(1, turn=1))
    assert (state.nodes[1].phase, state.lost) == ("lost", (gone(1),))
    assert summary(state, 130.0, "").unverified == ("b",)


def test_another_controllers_stop_is_ours_with_its_exit_code():
    state = after(*START, told_to_end(1), told_to_end(0, why="later", time=112.0))
    assert state.stop == StopAsked(
        why="taken down by bob@desk", exit_code=103, grace=5.0, time=111.0
    )
    assert decide(state, now=112.0) == Keep()
    got = summary(fold(fold(state, ended(0, 1)), ended(1, 1)), 130.0, "")
    assert (got.exit_code, got.why, got.failure) == (103, "taken down by bob@desk", None)


def test_our_own_stop_is_not_renamed_by_what_the_hosts_tell_of_it():
    state = after(*START, stopped("interrupted", 130), told_to_end(0))
    assert state.stop == stopped("interrupted", 130)


def test_unheard_of_nodes_change_nothing():
    state = after(*START)
    assert fold(state, Launched(node=9, host="x", time=1.0)) == state


def test_all_up_when_every_node_had_its_workers():
    assert not after(launched(0), up(0)).all_up
    assert after(*START).all_up


# --- the summary --------------------------------------------------------------------------------


def test_success():
    # However long afterwards it is asked for.
    got = summary(after(*START, ended(0), ended(1)), 999.5, "/logs")
    assert got == Ended(
        run="brave-otter",
        exit_code=0,
        seconds=20.0,
        hosts=HOSTS,
        why="all workers ended well",
        failure=None,
        survivors=(),
        logs="/logs",
    )


def test_a_restart_that_cannot_be_is_told_by_what_is_heard():
    """a's restart is not known of while a is away; b did well in it, long after the failure."""
    state = after(
        *START, died(0, restart=0), down(0), up(1, turn=1), died(1, code=0, time=5000.0),
        max_restarts=1,
    )  # fmt: skip
    assert decide(state, 9000.0) == Keep()
    state = fold(state, back(0))
    assert decide(state, 9000.0, unheard=frozenset([0])) == Keep()
    assert isinstance(decide(state, 9000.0), Stop), "nothing of it has happened meanwhile"
    assert decide(fold(state, dataclasses.replace(up(0, turn=1), time=112.0)), 9000.0) == Keep()
    assert decide(state, 9000.0, unheard=frozenset([1])) == Keep()
    assert decide(fold(state, down(1)), 9000.0) == Keep()


def test_who_takes_all_of_torchruns_patience_to_end_may_come_back():
    """It is told to end when the other restarts, and has 30 s; that it ends well is no finish."""
    state = after(*START, died(0, time=110.0), died(1, code=0, time=139.0), max_restarts=1)
    assert decide(state, 139.0 + RESTART_PATIENCE) == Keep()
    assert isinstance(decide(state, 139.0 + RESTART_PATIENCE + 1), Stop)
    assert RESTART_PATIENCE > 30 + 10, "on the node that failed others are ended first"


def test_a_restart_that_cannot_be_ends_the_run():
    """What has finished does not come back; torchrun would wait for it until its time-out."""
    state = after(*START, died(0, code=0), died(1, restart=0), max_restarts=1)
    failed = state.failed[0].time
    assert decide(state, failed + RESTART_PATIENCE) == Keep(), "who handles SIGTERM may come back"
    why = "rank 1 on b exited with code 1, and cannot be restarted: a finished already"
    assert decide(state, failed + RESTART_PATIENCE + 1) == Stop(why, 100)
    later = [dataclasses.replace(up(node, turn=1), time=failed + 1) for node in (0, 1)]
    again = fold(fold(state, later[0]), later[1])
    assert decide(again, failed + RESTART_PATIENCE + 1) == Keep()


def test_a_link_that_goes_after_the_last_word_is_no_loss():
    for loss in (down(0), gone(0)):
        state = after(*START, ended(0), loss)
        assert decide(state, 120.0) == Keep()
        assert summary(fold(state, ended(1)), 130.0, "").exit_code == 0
        assert summary(fold(state, ended(1)), 130.0, "").unverified == ()


def test_success_after_a_restart_names_no_failure():
    state = after(*START, died(0), ended(0), ended(1), max_restarts=3)
    got = summary(state, 130.0, "")
    assert (got.exit_code, got.failure) == (0, None)


@pytest.mark.parametrize(
    ("events", "exit_code", "why"),
    [
        # Nobody decided: all the last words came in one piece.
        ((died(0, code=7), ended(0, 1), ended(1, 1)), 100, "rank 0 on a exited with code 7"),
        ((ended(0, 2), ended(1)), 100, "torchrun on a exited with code 2"),
        ((ended(0), gone(1)), 4, "lost the connection to b: no sign of life"),
        ((ended(0), ended(1, survivors=("x",))), 100, "not everything could be ended on b"),
        ((stopped("interrupted", 130), ended(0), ended(1)), 130, "interrupted"),
        ((stopped("interrupted", 130), ended(0), down(1), gone(1)), 130, "interrupted"),
        ((told_to_end(0), ended(0, 1), ended(1, 1)), 103, "taken down by bob@desk"),
    ],
)
def test_exit_codes(events, exit_code, why):
    got = summary(after(*START, *events), 130.0, "")
    assert (got.exit_code, got.why) == (exit_code, why)


def test_survivors_are_named_with_their_host():
    state = after(*START, ended(0, survivors=("pid 7 (x, state D)",)), ended(1))
    assert summary(state, 1.0, "").survivors == ("a: pid 7 (x, state D)",)


def test_an_interrupted_run_has_no_failure():
    state = after(*START, died(0), stopped("interrupted", 130), ended(0, 1), ended(1, 1))
    assert summary(state, 130.0, "").failure is None


# --- the first failure --------------------------------------------------------------------------


def failed_first(*events, **more) -> Failure:
    got = first_failure(after(*START, *events, **more))
    assert got is not None
    return got


def test_the_earliest_is_the_first():
    assert failed_first(died(0, time=111.0), died(1, time=110.0)).host == "b"


@pytest.mark.parametrize(
    "line",
    [
        b"RuntimeError: [/gloo/tcp/pair.cc] Connection closed by peer [10.0.0.2]:4711",
        b"Read error [10.0.0.2]: Connection reset by peer",
        b"torch.distributed.DistBackendError: NCCL error",
        b"RuntimeError: Broken pipe",
    ],
)
def test_a_consequence_is_not_the_first_however_early(line):
    got = failed_first(
        wrote(0, b"Traceback\n" + line + b"\n"),
        died(0, time=109.0),
        wrote(1, b"ValueError: loss is nan\n"),
        died(1, time=110.0, code=3),
    )
    assert (got.host, got.code, got.message) == ("b", 3, "ValueError: loss is nan")


def test_a_consequence_alone_is_the_failure():
    got = failed_first(wrote(0, b"RuntimeError: Connection closed by peer\n"), died(0))
    assert got.message == "RuntimeError: Connection closed by peer"


def test_the_recorded_error_tells_a_consequence_too():
    got = failed_first(died(0, time=109.0, error="Connection reset by peer"), died(1, time=110.0))
    assert got.host == "b"


def test_what_we_ended_ourselves_is_not_the_first():
    got = failed_first(
        stopped(time=100.0),
        died(0, code=None, signal=15, time=101.0),
        died(1, code=5, time=102.0),
    )
    assert got.host == "b"


def test_what_a_node_ended_because_another_told_it_to_is_not_the_first():
    """Its clock is a little ahead of the other's: its own order of things counts."""
    got = failed_first(
        died(1, code=5, time=100.0),
        stopped(time=100.1),
        told_to_end(0, time=99.5),
        died(0, code=None, signal=15, time=99.6),
    )
    assert got.host == "b"


def test_what_we_ended_ourselves_does_not_hide_a_node_that_ended_by_itself():
    got = failed_first(
        ended(1, None, reason="the host was restarted", time=99.0),
        stopped(time=100.0),
        died(0, code=None, signal=15, time=101.0),
        ended(0, 1, reason="stopped", time=102.0),
    )
    assert (got.host, got.message) == ("b", "the host was restarted")


def test_a_kill_before_our_stop_is_a_failure_of_its_own():
    got = failed_first(
        died(0, code=None, signal=9, time=99.0), stopped(time=100.0), died(1, code=5, time=102.0)
    )
    assert (got.host, got.signal) == ("a", 9)


def test_the_recorded_error_is_the_message():
    assert failed_first(wrote(0, b"noise\n"), died(0, error="ValueError: x")).message == (
        "ValueError: x"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Traceback\nValueError: a\nfrom atexit\n", "ValueError: a"),
        ("[rank3]: torch.OutOfMemoryError: CUDA\nx\n", "[rank3]: torch.OutOfMemoryError: CUDA"),
        ("KeyError: 1\nRuntimeError: 2\n", "RuntimeError: 2"),
        ("Segmentation fault\n", "Segmentation fault"),
        ("  not an Error: here\nlast\n", ""),
        ("", ""),
        # A traceback's last line need not sound like an error, and its beginning may be cut off.
        (
            '  File "t.py", line 3, in f\n    stop()\n__main__.Enough: of it\nbye\n',
            "__main__.Enough: of it",
        ),
        (
            '[rank1]:   File "t.py", line 3, in f\n[rank1]:     f()\n[rank1]: Enough\n',
            "[rank1]: Enough",
        ),
        (
            'Fatal Python error: Bus error\n\n  File "t.py", line 3 in f\n\nExtension modules: x\n',
            "Fatal Python error: Bus error",
        ),
        (
            "terminate called after throwing\n  what():  CUDA error: an illegal memory access\n",
            "what():  CUDA error: an illegal memory access",
        ),
        (
            "[rank1]:[E1201 10:00:00 x.cpp:616] Watchdog caught a timeout\nx\n",
            "[rank1]:[E1201 10:00:00 x.cpp:616] Watchdog caught a timeout",
        ),
        (
            "usage: t.py [-h]\nt.py: error: unrecognized arguments: -x\n",
            "t.py: error: unrecognized arguments: -x",
        ),
        (
            "t: error while loading shared libraries: libx.so.1\n",
            "t: error while loading shared libraries: libx.so.1",
        ),
        # Warnings, and what is of no interest.
        ("/t.py:3: UserWarning: CUDA error: who knows\n  warnings.warn(\n", ""),
        ("W1201 10:00:00 run.py:852] \nepoch 3, TestError 0.2, error 0.1\n", ""),
        ("  1%|   | 1/100 [00:01<01:39]\n", ""),
    ],
)
def test_the_line_that_names_the_exception(text, message):
    assert failed_first(wrote(0, text.encode()), died(0)).message == message


def test_who_is_killed_outright_has_no_last_words():
    noise = b"/t.py:3: UserWarning: old\n  warnings.warn(\nRuntimeError: was caught, long ago\n"
    killed = failed_first(wrote(0, noise), died(0, code=None, signal=9))
    assert (killed.message, len(killed.tail)) == ("", 3)
    assert failed_first(wrote(0, noise), died(0)).message == "RuntimeError: was caught, long ago"


OOM = "ddp-orch exec INVENTORY --include a -- grep oom_kill /proc/vmstat"
SHM = "ddp-orch exec INVENTORY --include a -- df -h /dev/shm"


@pytest.mark.parametrize(
    ("how", "said", "typed"),
    [
        ({"code": None, "signal": 9}, "", OOM),
        ({"code": 137}, "", OOM),
        ({}, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ", OOM),
        ({"code": None, "signal": 7}, "", SHM),
        ({"code": 135}, "", SHM),
        ({}, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. ", SHM),
        ({}, "RuntimeError: unable to allocate shared memory(shm) for file </torch_1>", SHM),
        ({"code": None, "signal": 11}, "", None),
        ({}, "ValueError: x", None),
    ],
)
def test_what_the_system_does_to_a_worker_has_a_hint(how, said, typed):
    got = failed_first(wrote(0, said.encode()), died(0, **how)).hint
    assert got == typed if typed is None else got.endswith(f": {typed}")


def test_who_was_killed_by_us_is_not_out_of_memory():
    kill = died(0, code=None, signal=9, time=112.0)
    assert failed_first(stopped(time=111.0), kill).hint is None
    assert failed_first(told_to_end(0, time=111.0), kill).hint is None


def test_stdout_is_looked_at_when_stderr_is_silent():
    assert failed_first(wrote(0, b"bye\n", stream="out"), died(0)).tail == ("bye",)


def test_the_tail_is_short_and_begins_with_a_whole_line():
    lines = [f"line {i} " + "x" * 1000 for i in range(30)]
    data = "\n".join(lines).encode()
    whole = failed_first(wrote(0, data), died(0)).tail
    pieces = failed_first(*(wrote(0, data[i : i + 777]) for i in range(0, len(data), 777)), died(0))
    assert whole == pieces.tail == tuple(lines[-(TAIL_BYTES // 1010) :])
    many = "\n".join(map(str, range(100))).encode()
    assert failed_first(wrote(0, many), died(0)).tail == tuple(map(str, range(85, 100)))
    assert TAIL_LINES == 15


@pytest.mark.parametrize("frame", ["#{} c10::f(char*) from ??:0", "frame #{}: f + 0x6 (x.so)"])
@pytest.mark.parametrize("rank", ["", "[rank1]: "])
def test_a_c_stack_hides_neither_the_exception_nor_what_led_to_it(rank, frame):
    said = ["Traceback (most recent call last):", "RuntimeError: sizes", "#1 of our steps"]
    stack = [frame.format(number) for number in range(40)]
    text = "".join(f"{rank}{line}\n" for line in [*said, *stack])
    failure = failed_first(wrote(0, text.encode()), died(0))
    assert failure.message == f"{rank}RuntimeError: sizes"
    assert failure.tail == tuple(f"{rank}{line}" for line in said)


def test_torchruns_own_failure_when_no_worker_failed():
    got = failed_first(
        ended(0, None, reason="stopped", time=100.0),
        wrote(1, b"error: unrecognized arguments: --x\n", rank=None),
        ended(1, 2, time=110.0),
    )
    assert (got.host, got.rank, got.code) == ("b", None, 2)
    assert got.message == "error: unrecognized arguments: --x"


def test_a_node_that_could_not_be_started_says_why():
    got = failed_first(ended(0, None, reason="could not be started: no such folder"))
    assert got.message == "could not be started: no such folder"


def test_no_failure():
    assert first_failure(after(*START, ended(0), ended(1))) is None


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (40, "signal 40")])
def test_signal_names(number, name):
    assert signal_name(number) == name


# --- any order ----------------------------------------------------------------------------------

nodes = st.integers(0, 1)
times = st.floats(0, 1000)
anything = st.one_of(
    st.builds(launched, nodes, times),
    st.builds(up, nodes, world=st.integers(0, 3), turn=st.integers(0, 2)),
    st.builds(
        died,
        nodes,
        code=st.none() | st.integers(0, 255),
        signal=st.none() | st.integers(1, 64),
        time=times,
        restart=st.integers(0, 2),
    ),
    st.builds(ended, nodes, st.none() | st.integers(0, 2), survivors=st.just(()) | st.just(("x",))),
    st.builds(down, nodes),
    st.builds(back, nodes),
    st.builds(gone, nodes),
    st.builds(told_to_end, nodes, times),
    st.builds(wrote, nodes, st.binary(max_size=9000), rank=st.none() | nodes),
    st.builds(stopped, st.text(max_size=3), st.sampled_from([4, 100, 130])),
    st.builds(Warned, message=st.text(max_size=3)),
    st.just(Connected(host="a", seconds=1.0)),
    st.just(HostFailed(host="a", check="ssh.reach", message="no")),
    st.just(Checked(verdicts=(), hosts=HOSTS)),
)


@given(st.lists(anything, max_size=25), st.integers(0, 2))
def test_no_order_of_events_upsets_it(events, max_restarts):
    state = fold(RunState(), plan(max_restarts))
    stop = None
    for event in events:
        before, state = state, fold(state, event)
        for rank, node in before.nodes.items():
            if node.over:
                assert state.nodes[rank] == node
        stop = stop or state.stop
        assert state.stop is stop
        decided = decide(state, now=2000.0)
        assert stop is None or decided == Keep()
        got = summary(state, 2000.0, "")
        assert got.exit_code in (0, 4, 100, 103, 130)
        if any(node.ended and node.ended.survivors for node in state.nodes.values()):
            assert got.exit_code != 0
        if got.exit_code == 0:
            assert got.failure is None


# --- setup --------------------------------------------------------------------------------------


def began(node: int, number: int = 1, command: str = "pip install x") -> SetupBegan:
    return SetupBegan(
        node=node, host=HOSTS[node], number=number, of=2, command=command, time=101.0
    )  # fmt: skip


def setup_ended(node: int, code: int | None = 0, **more) -> SetupEnded:
    whole = {
        "number": 1, "of": 2, "command": "pip install x", "signal": None, "reason": "exited",
        "survivors": (), "time": 102.0,
    }  # fmt: skip
    return SetupEnded(node=node, host=HOSTS[node], code=code, **(whole | more))


def setup_said(node: int, data: bytes, number: int = 1, stream: str = "err") -> Logged:
    return Logged(
        node=node, host=HOSTS[node], rank=None, stream=stream, round=0, offset=0, data=data,
        setup=number,
    )  # fmt: skip


def test_a_setup_that_went_well_is_no_news():
    assert decide(after(began(0), setup_ended(0), began(1), setup_ended(1)), 103.0) == Keep()


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (setup_ended(1, 7), "exited with code 7"),
        (setup_ended(1, None, signal=9), "was killed by SIGKILL"),
        (setup_ended(1, None, reason="workdir /w is no folder"), "ended: workdir /w is no folder"),
        (
            setup_ended(1, 0, survivors=("pid 7 (x, state D)",)),
            "left what could not be ended: pid 7 (x, state D)",
        ),
    ],
)
def test_the_first_setup_that_fails_stops_the_start(ended, how):
    state = after(began(0), began(1), ended, setup_ended(0, 3))
    stop = decide(state, 103.0)
    assert stop == Stop(f"setup failed on b: `pip install x` {how}", 100)


def test_the_summary_names_the_command_and_its_own_last_words():
    state = after(
        setup_said(1, b"of the first command\n"),
        setup_ended(1),
        began(1, 2),
        setup_said(1, b"torchrun? no\n", 2, "out"),
        setup_said(1, b"Collecting x\nERROR: No matching distribution\n", 2),
        setup_ended(1, 1, number=2),
    )
    failure = summary(state, 110.0, "/logs").failure
    assert failure == Failure(
        host="b",
        rank=None,
        code=1,
        signal=None,
        message="ERROR: No matching distribution",
        tail=("Collecting x", "ERROR: No matching distribution"),
        setup="pip install x",
    )


def test_a_setup_that_was_stopped_with_the_others_is_no_failure():
    stop = StopAsked(why="interrupted", exit_code=130, grace=10.0, time=102.0)
    state = after(began(0), stop, setup_ended(0, None, signal=15, reason="stopped"))
    assert state.setup_failed is None
    assert summary(state, 103.0, "").exit_code == 130


def test_a_long_command_is_one_short_line():
    state = after(setup_ended(0, 1, command="set -e\n" + "pip install x;\n" * 40))
    stop = decide(state, 103.0)
    assert isinstance(stop, Stop)
    assert stop.why.startswith("setup failed on a: `set -e pip install x; pip")
    assert stop.why.endswith(" ...` exited with code 1")
    assert len(stop.why) < 160
