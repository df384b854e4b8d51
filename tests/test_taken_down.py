"""What `down` says of hosts: as words, as JSON, as an exit code."""

from __future__ import annotations

import json

import pytest

from orchestrator.screen import DownJson, DownLines
from orchestrator.taken_down import NodeDown, exit_code, hint, read_answer, sentence, summary

SURVIVOR = {
    "pid": 7,
    "start": 5,
    "name": "sleep",
    "state": "D",
    "uid": 0,
    "why": "is in uninterruptible sleep (D)",
}
ANSWER = {
    "state": "ended",
    "before": "running",
    "survivors": [],
    "verified": True,
    "processes": 4,
    "failed": False,
    "problem": "",
}


def node(host="gpu1", **answer):
    return read_answer("brave-otter", 0, host, ANSWER | answer)


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        ({}, "down", "down"),
        ({"before": "ended", "processes": 0}, "already", "down already"),
        ({"before": "lost", "processes": 0}, "down", "down"),
        ({"state": "rebooted", "before": "rebooted"}, "rebooted", "was restarted since: "),
        ({"before": "absent"}, "absent", "nothing of the run is there"),
        (
            {"verified": False, "survivors": [SURVIVOR]},
            "survivors",
            "NOT down: 1 process could not be ended",
        ),
        ({"survivors": [SURVIVOR]}, "survivors", "NOT down: 1 process could not be ended"),
        ({"verified": False, "problem": "/proc hides"}, "unverified", "unverified: /proc hides"),
        ({"verified": 1}, "unverified", "unverified: nothing proves that it is empty"),
        ({"state": "starting", "verified": False}, "unverified", "unverified: "),
        ({"state": "elsewhere", "verified": False}, "elsewhere", "NOT down: its record there "),
        ({"state": "unreadable", "verified": False}, "unreadable", "NOT down: its record there "),
        ({"survivors": [{"pid": 3}]}, "failed", "NOT down: its answer makes no sense"),
        ({"processes": None}, "failed", "NOT down: its answer makes no sense"),
    ],
)
def test_what_a_host_says_is_down_only_where_that_is_proven(answer, outcome, said):
    got = node(**answer)
    assert got.outcome == outcome
    assert sentence(got).startswith(f"gpu1: {said}")
    assert got.empty == (outcome in ("down", "already", "rebooted", "absent"))


@pytest.mark.parametrize("answer", [None, [], {}, "down", {"state": "ended", "verified": True}])
def test_no_nonsense_is_taken_for_down(answer):
    assert read_answer("brave-otter", 0, "gpu1", answer).outcome == "failed"


def lost(host):
    return NodeDown(
        run="brave-otter", node=1, host=host, outcome="unreachable", message="no answer"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("is it up?", "is it up? repeat it"),
        ("ssh-add it", "ssh-add it; repeat it"),
        ("", "repeat it"),
    ],
)
def test_a_host_that_is_away_keeps_its_hint(given, said):
    away = NodeDown(run="r", node=1, host="gpu2", outcome="unreachable", hint=given)
    assert hint(away) == f"{said} when it can be reached: ddp-orch down r"


def test_the_exit_code_says_what_is_to_be_done_next():
    assert exit_code([]) == 0
    assert exit_code([node(), node(before="ended")]) == 0
    assert exit_code([node(), node(verified=False)]) == 100
    assert exit_code([node(), node(survivors=[SURVIVOR])]) == 100
    assert exit_code([node(), node(verified=False), lost("gpu2")]) == 4


def test_a_run_is_down_when_all_its_hosts_are():
    there = "on these hosts"
    assert summary([], there) == ["nothing runs on these hosts"]
    assert summary([node(), node("gpu2", before="ended")], there) == ["run brave-otter: down"]
    assert summary([node(before="ended")], there) == ["run brave-otter: down already"]
    away = ["run brave-otter: NOT known to be down on gpu2"]
    assert summary([node(), lost("gpu2")], there) == away


def test_people_read_who_is_left_and_what_to_do(capsys):
    lines = DownLines()
    lines.begin("brave-otter", ["gpu1", "gpu2"], 10.0)
    roots = SURVIVOR | {"state": "S", "why": "belongs to root"}
    nodes = [node(survivors=[roots]), node("gpu2", survivors=[SURVIVOR]), lost("gpu3")]
    for each in nodes:
        lines.show(each)
    lines.end(nodes, "on these hosts")
    assert (
        capsys.readouterr().out
        == """\
taking down brave-otter on gpu1, gpu2 (grace 10 s)
gpu1: NOT down: 1 process could not be ended
  pid 7 (sleep, state S, uid 0) belongs to root
  -> on gpu1, as root: kill -9 7; then: ddp-orch down brave-otter
gpu2: NOT down: 1 process could not be ended
  pid 7 (sleep, state D, uid 0) is in uninterruptible sleep (D)
  -> once what holds it is gone: ddp-orch down brave-otter
gpu3: not reached: no answer
  -> repeat it when it can be reached: ddp-orch down brave-otter
run brave-otter: NOT known to be down on gpu[1-3]
"""
    )


def test_what_a_host_says_stays_on_one_line(capsys):
    DownLines().show(node(verified=False, problem="bad\nrun brave-otter: down\x1b[2J"))
    said = capsys.readouterr().out
    assert "\nrun brave-otter: down" not in said
    assert "\x1b" not in said


def test_the_json_is_frozen(capsys):
    """Keys are only ever added."""
    shown = DownJson()
    shown.begin("brave-otter", ["gpu1", "gpu2"], 10.0)
    nodes = [node(), node("gpu2", survivors=[SURVIVOR], verified=False), lost("gpu3")]
    for each in nodes:
        shown.show(each)
    shown.end(nodes, "on these hosts")
    again = "ddp-orch down brave-otter"
    survivor = {name: value for name, value in SURVIVOR.items() if name != "start"}
    common = {"run": "brave-otter", "node": 0, "survivors": [], "message": "", "hint": None}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        common | {"host": "gpu1", "outcome": "down", "empty": True, "processes": 4},
        common
        | {
            "host": "gpu2",
            "outcome": "survivors",
            "empty": False,
            "processes": 4,
            "survivors": [survivor],
            "hint": f"once what holds it is gone: {again}",
        },
        common
        | {
            "node": 1,
            "host": "gpu3",
            "outcome": "unreachable",
            "empty": False,
            "processes": 0,
            "message": "no answer",
            "hint": f"repeat it when it can be reached: {again}",
        },
        {
            "summary": {
                "runs": ["brave-otter"],
                "down": [],
                "not_down": ["brave-otter"],
                "hosts": 3,
                "processes": 8,
                "survivors": 1,
                "exit_code": 4,
            }
        },
    ]
