"""What hosts report, made one run of: a host's words are checked, and states and codes agree."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.events import Planned, encode
from orchestrator.node import reports as node_reports
from orchestrator.node import stopping
from orchestrator.reports import (
    NODE_STATES,
    NodeReport,
    merge,
    read_reports,
    refuse_doubles,
    state_of,
    the_one,
)

PLANNED = Planned(
    run="brave-otter",
    hosts=("gpu1", "gpu2"),
    workers=(2, 2),
    what="train.py",
    endpoint="10.0.0.1:29400",
    addresses=("10.0.0.1", "10.0.0.2"),
    max_restarts=0,
    time=1000.0,
    folders=("/h/.ddp-orch/runs/brave-otter/0", "/h/.ddp-orch/runs/brave-otter/1"),
)
PLAN = json.loads(encode(PLANNED))
RECORD = {"version": 1, "run": "brave-otter", "owner": "alice@laptop", "time": 1010.0, "plan": PLAN}
EXIT = {"code": 0, "signal": None, "reason": "exited", "survivors": [], "time": 1100.0}
STOP = {"grace": 10.0, "why": "down", "exit_code": 103, "by": "alice@laptop"}
SURVIVOR = {"pid": 7, "start": 1, "name": "python", "state": "D", "uid": 0, "why": "in the kernel"}


def raw(state="ended", rank=0, run="brave-otter", **more):
    told = node_reports.blank(f"/home/u/.ddp-orch/runs/{run}/{rank}") | {
        "state": state,
        "record": RECORD,
        "exit": EXIT if state == "ended" else None,
    }
    return told | more


def read(*answers, our_time=lambda theirs: theirs - 10):
    """Read one report of each of the hosts gpu1, gpu2, ..."""
    found = []
    for number, answer in enumerate(answers, 1):
        told, problems = read_reports(f"gpu{number}", [answer], our_time)
        assert problems == []
        found += told
    return found


def test_a_report_is_read_and_times_are_ours():
    (told,) = read(raw(exit=EXIT | {"survivors": [SURVIVOR]}, stop=STOP, last_log_age=3.5))
    assert told == NodeReport(
        run="brave-otter",
        node=0,
        host="gpu1",
        folder="/home/u/.ddp-orch/runs/brave-otter/0",
        state="ended",
        owner="alice@laptop",
        started=1000.0,
        plan=PLANNED,
        code=0,
        reason="exited",
        survivors=("pid 7 (python, state D, uid 0) in the kernel",),
        ended_at=1090.0,
        stop_code=103,
        last_log_age=3.5,
    )


def test_an_end_is_none_before_its_time():
    (told,) = read(raw("running", exit=EXIT, ranks_alive=2))
    assert (told.code, told.ended_at, told.ranks_alive) == (None, None, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "flying"},
        {"state": ["ended"]},
        {"record": [1]},
        {"record": RECORD | {"time": "now"}},
        {"record": RECORD | {"time": float("nan")}},
        {"exit": "x"},
        {"exit": EXIT | {"code": "0"}},
        {"exit": EXIT | {"code": True}},
        {"exit": EXIT | {"survivors": {"pid": 1}}},
        {"exit": EXIT | {"survivors": [{"pid": 1}]}},
        {"ranks_alive": "4"},
        {"last_log_age": "old"},
        {"stop": {"exit_code": "103"}},
    ],
)
def test_nonsense_is_a_problem_of_that_node(wrong):
    bad, good = read_reports("gpu1", [raw() | wrong, raw(rank=1)], float)[0]
    assert (bad.state, bad.problem, bad.node) == ("unreadable", "its report makes no sense", 0)
    assert good.state == "ended"


@pytest.mark.parametrize("folder", [None, 5, "/x/runs/../0", "/x/runs/a/b", "/x/runs/A/0", "runs"])
def test_a_report_of_no_run_is_a_problem_of_its_host(folder):
    found, problems = read_reports("gpu1", [raw(folder=folder), "x", raw()], float)
    assert len(found) == 1
    assert problems == ["its report makes no sense"]


def test_a_folder_that_cannot_be_looked_into_is_told():
    told = node_reports.blank("/home/u/.ddp-orch/runs/brave", "/home/u/...: is a link")
    assert read_reports("gpu1", [told], float) == ([], ["/home/u/...: is a link"])


@pytest.mark.parametrize(
    "plan",
    [
        None,
        "x",
        {},
        {"event": "Ended"},
        PLAN | {"run": "another"},
        PLAN | {"hosts": ["gpu1"]},
        PLAN | {"hosts": ["gpu1", 2]},
        PLAN | {"workers": [2, "2"]},
        PLAN | {"workers": [2, -1]},
        PLAN | {"time": "x"},
        PLAN | {"time": float("inf")},
        PLAN | {"hosts": 5},
        PLAN | {"folders": ["/etc", "/etc"]},
        PLAN | {"folders": PLAN["folders"][:1]},
    ],
)
def test_a_plan_that_is_none_is_passed_over(plan):
    (told,) = read(raw(record=RECORD | {"plan": plan}))
    assert (told.plan, told.state) == (None, "ended")


def test_a_plan_is_told_with_one_node_and_is_that_of_the_others():
    brief = {key: value for key, value in RECORD.items() if key != "plan"}
    first = raw()
    named = raw(rank=1, record=brief, plan_of=first["folder"])
    found, problems = read_reports("gpu1", [named, first], float)
    assert ([one.plan for one in found], problems) == ([PLANNED, PLANNED], [])
    other = raw(run="calm-owl", record=brief, plan_of=first["folder"])
    third = raw(rank=2, record=brief, plan_of=first["folder"])
    nowhere = raw(rank=1, record=brief, plan_of="/nowhere")
    for wrong in (other, third, nowhere):
        assert read_reports("gpu1", [wrong, first], float)[0][0].plan is None
    (nonsense, _), _ = read_reports("gpu1", [raw(record=brief, plan_of=[1]), first], float)
    assert nonsense.problem == "its report makes no sense"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
KEYS = ["folder", "state", "record", "exit", "stop", "ranks_alive", "last_log_age", "problem"]


@given(JSON)
def test_any_answer_is_read(answer):
    merge(read_reports("gpu1", answer, float)[0])


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.sampled_from(NODE_STATES))
def test_any_report_is_read(wrong, state):
    found, _ = read_reports("gpu1", [raw(state) | wrong], float)
    for run in merge(found, ["gpu1"]):
        assert run.name == "brave-otter"


@given(st.sampled_from(["record", "exit", "stop"]), st.data())
def test_any_record_is_read(name, data):
    whole = {"record": RECORD, "exit": EXIT | {"survivors": [SURVIVOR]}, "stop": STOP}[name]
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(whole)), JSON))
    found, _ = read_reports("gpu1", [raw(**{name: whole | wrong})], float)
    merge(found)


# --- a run of them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "state"),
    [
        (["ended", "ended"], "ended"),
        (["running", "running"], "running"),
        (["running", "ended"], "partly"),
        (["running", "rebooted"], "partly"),
        (["running", "absent"], "partly"),
        (["running", "unknown"], "running"),
        (["running", "lost"], "lost"),
        (["ended", "lost"], "lost"),
        (["starting", "setting-up"], "setting-up"),
        (["starting", "running"], "running"),
        (["starting", "unknown"], "starting"),
        (["ended", "unknown"], "unknown"),
        (["ended", "elsewhere"], "unknown"),
        (["ended", "unreadable"], "unknown"),
        (["ended", "rebooted"], "rebooted"),
        (["ended", "absent"], "ended"),
        (["absent", "absent"], "gone"),
    ],
)
def test_the_state_of_a_run(nodes, state):
    assert state_of(nodes) == state_of(nodes[::-1]) == state


def ended(code=0, signal=None, reason="exited", survivors=(), stop=None):
    left = EXIT | {"code": code, "signal": signal, "reason": reason, "survivors": list(survivors)}
    return {"exit": left, "stop": stop}


TOMBSTONE = {"exit": None, "stop": STOP}
WELL, BADLY = ended(), ended(1)
STOPPED = ended(None, 15, "stopped", stop=STOP)
INTERRUPTED = ended(1, None, "stopped", stop=STOP | {"exit_code": 130})
FAILED = ended(None, 15, "stopped", stop=STOP | {"exit_code": 100})


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (WELL, WELL, 0),
        (WELL, BADLY, 100),
        (STOPPED, STOPPED, 103),
        (STOPPED, WELL, 103),
        (INTERRUPTED, INTERRUPTED, 130),
        (BADLY, FAILED, 100),
        # A failure is not made good by a `down` of what it left.
        (BADLY, STOPPED, 100),
        (FAILED, STOPPED, 100),
        (STOPPED, ended(None, 9, "stopped", [SURVIVOR], STOP), 100),
        (TOMBSTONE, TOMBSTONE, 103),
        (TOMBSTONE, WELL, 103),
        (ended(None, None, "stopped before it started", stop=STOP), STOPPED, 103),
        # Stopped when it had ended already: its own word stands.
        (ended(stop=STOP), ended(stop=STOP), 0),
        # Taken down when its supervisor was dead: as whoever attached would be told.
        (ended(None, None, stopping.KILLED, stop=STOP), STOPPED, 103),
        (ended(None, None, stopping.KILLED), WELL, 100),
        (ended(None, None, stopping.RESTARTED, stop=STOP), STOPPED, 100),
    ],
)
def test_the_exit_code_of_a_run_that_has_ended(first, second, code):
    (run,) = merge(read(raw(**first), raw(rank=1, **second)))
    assert (run.state, run.exit_code) == ("ended", code)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (raw("running"), raw("ended"), 101),
        (raw("starting"), raw("starting"), 101),
        (raw("lost", ranks_alive=2), raw("ended"), 101),
        (raw("lost", root_alive=True), raw("ended"), 101),
        (raw("lost"), raw("running"), 101),
        (raw("lost"), raw("elsewhere"), 101),
        (raw("lost"), raw("ended"), 100),
        (raw("rebooted"), raw("ended"), 100),
        (raw("rebooted"), raw("running"), 101),
        (raw("ended"), raw("elsewhere"), None),
        (raw("ended"), raw("unreadable"), None),
    ],
)
def test_the_exit_code_of_one_that_has_not(first, second, code):
    (run,) = merge(read(first, second | {"folder": first["folder"][:-1] + "1"}))
    assert run.exit_code == code


def test_what_all_say_is_put_together():
    first = raw("running", ranks_alive=2, last_log_age=3.0)
    second = raw("running", rank=1, ranks_alive=1, last_log_age=30.0)
    (run,) = merge(read(first, second), ["gpu1", "gpu2"])
    assert (run.ranks_alive, run.ranks, run.last_log_age) == (3, 4, 3.0)
    assert (run.owner, run.started, run.hosts) == ("alice@laptop", 1000.0, ("gpu1", "gpu2"))
    assert run.silent == ()


@pytest.mark.parametrize("swap", [False, True])
def test_of_two_hosts_with_one_home_the_one_that_knows_is_believed(swap):
    of_gpu1 = [raw("running", ranks_alive=2), raw("elsewhere", rank=1)]
    of_gpu2 = [raw("elsewhere"), raw("running", rank=1, ranks_alive=2)]
    told = [("gpu1", of_gpu1), ("gpu2", of_gpu2)]
    reports = [
        report
        for host, answer in (told[::-1] if swap else told)
        for report in read_reports(host, answer, float)[0]
    ]
    (run,) = merge(reports, ["gpu1", "gpu2"])
    assert (run.state, run.ranks_alive) == ("running", 4)
    assert [(node.host, node.state) for node in run.nodes.values()] == [
        ("gpu1", "running"),
        ("gpu2", "running"),
    ]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("names", [("gpu1", "gpu2"), ("a", "b"), ("gpu2", "gpu1")])
def test_an_end_that_all_tell_of_is_asked_of_the_nodes_own_host(swap, names):
    """Of a home that is shared: else a run would have two nodes on one host, and none elsewhere."""
    told = [(h, [raw(rank=n, here=n == at) for n in (0, 1)]) for at, h in enumerate(names)]
    answers = [read_reports(host, rows, float)[0] for host, rows in (told[::-1] if swap else told)]
    (run,) = merge([report for answer in answers for report in answer], names)
    assert [run.host_of(node, names) for node in (0, 1)] == list(names)


def test_an_end_is_asked_of_its_own_host_also_when_only_another_tells_of_it():
    (told, _) = read_reports("gpu1", [raw(here=True), raw(rank=1)], float)
    (run,) = merge(told, ["gpu1"])
    assert [run.host_of(node, ("gpu1", "gpu2")) for node in (0, 1)] == ["gpu1", "gpu2"]
    others = [run.host_of(node, ("gpu1", "other")) for node in (0, 1)]
    assert others == ["gpu1", "gpu1"]
    with pytest.raises(UsageError, match="which of these hosts is which of its own"):
        refuse_doubles(run.name, others)


def test_a_node_that_nobody_reports():
    told = read(raw("ended"))
    (run,) = merge(told, ["gpu1"])
    assert (run.state, run.exit_code, run.silent) == ("unknown", None, ("gpu2",))
    (run,) = merge(told, ["gpu1", "gpu2"])
    assert (run.state, run.exit_code, run.silent) == ("ended", 0, ())
    (run,) = merge(read(raw("running")), ["gpu1"])
    assert (run.state, run.exit_code, run.silent) == ("running", 101, ("gpu2",))


def test_runs_of_one_name_are_told_apart():
    """Two machines have given the same name by chance, on hosts that do not share a home."""
    mine, theirs = read(raw("running"), raw("ended"))
    theirs = replace(theirs, plan=replace(PLANNED, time=5000.0))
    unplanned = replace(mine, node=1, plan=None, host="gpu3")
    found = merge([unplanned, mine, theirs])
    assert [(run.plan.time, sorted(run.nodes), run.state) for run in found] == [
        (1000.0, [0, 1], "running"),
        (5000.0, [0], "unknown"),  # of its other node nobody was asked
    ]
    assert the_one(found, "brave-otter", 1000.0).nodes[0] is mine
    assert the_one(found, "brave-otter", 5000.0).nodes[0] is theirs
    assert the_one(found, "brave-otter", 7.0) is None
    assert the_one(found, "brave-otter", None) is found[0]
    assert the_one(found, "otter", None) is None


def test_an_older_version_left_no_record():
    older = raw("unreadable", record=None, exit=None, problem=node_reports.OLDER)
    (run,) = merge(read(older), ["gpu1"])
    assert (run.state, run.exit_code, run.hosts) == ("unknown", None, ("gpu1",))
    assert run.nodes[0].old
    assert run.problems == (f"gpu1: {node_reports.OLDER}",)
