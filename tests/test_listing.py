"""Runs as `ps` lists them. The JSON is public: frozen here, keys are only ever added."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.events import Ended, Planned
from orchestrator.listing import (
    ago,
    as_json,
    cells,
    from_hosts,
    from_record,
    long_ended,
    newest_first,
    together,
)
from orchestrator.local_runs import LocalRun
from orchestrator.reports import NodeReport, merge

PLANNED = Planned(
    run="brave-otter",
    hosts=("gpu1", "gpu2"),
    workers=(2, 2),
    what="train.py",
    endpoint="10.0.0.1:29400",
    addresses=("10.0.0.1", "10.0.0.2"),
    max_restarts=0,
    time=1000.0,
)
ENDED = Ended(
    run="brave-otter", exit_code=100, seconds=60.0, hosts=("gpu1",), why="rank 1 was killed",
    failure=None, survivors=(), logs="", unverified=("gpu2",),
)  # fmt: skip
LOCAL = LocalRun(
    name="brave-otter", folder=Path("x"), owner="alice@laptop", mtime=1.0, plan=PLANNED
)  # fmt: skip
NODE = NodeReport(
    run="brave-otter", node=0, host="lab1", folder="/x", state="running", owner="bob@desk",
    started=1001.0, plan=PLANNED, ranks_alive=2, last_log_age=3.21987,
)  # fmt: skip
NOW = 1000.0 + 7200.0


def found(*nodes, answered=("gpu1", "gpu2")):
    (run,) = merge(nodes or (NODE, replace(NODE, node=1, host="lab2")), answered)
    return run


def test_the_json_of_a_run_that_runs():
    run = together(LOCAL, found(NODE, answered=("gpu1",)), [("gpu2", "no answer")])
    assert json.dumps(as_json(run, NOW), separators=(",", ":")) == (
        '{"run":"brave-otter","state":"running","exit_code":101,"started":1000.0,"ended":null,'
        '"age":7200.0,"owner":"bob@desk","hosts":["gpu1","gpu2"],"ranks":4,"ranks_alive":2,'
        '"last_log_age":3.22,"what":"train.py","here":true,"attached":false,"why":"",'
        '"nodes":[{"node":0,"host":"gpu1","state":"running","ranks_alive":2,"problem":null}],'
        '"unreachable":[{"host":"gpu2","message":"no answer"}],"problems":[]}'
    )


def test_the_json_of_one_that_has_ended():
    run = from_record(replace(LOCAL, ended=ENDED))
    assert json.dumps(as_json(run, NOW), separators=(",", ":")) == (
        '{"run":"brave-otter","state":"ended","exit_code":100,"started":1000.0,"ended":1060.0,'
        '"age":7200.0,"owner":"alice@laptop","hosts":["gpu1","gpu2"],"ranks":4,"ranks_alive":0,'
        '"last_log_age":null,"what":"train.py","here":true,"attached":false,'
        '"why":"rank 1 was killed","nodes":[],"unreachable":[],'
        '"problems":["not verified on gpu2"]}'
    )


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        (
            together(LOCAL, found(), []),
            ("brave-otter", "running", "2 h", "bob@desk", "gpu1, gpu2", "4/4", "3 s ago"),
        ),
        (
            from_record(replace(LOCAL, ended=ENDED)),
            ("brave-otter", "ended (exit 100)", "2 h", "alice@laptop", "gpu1, gpu2", "-", "-"),
        ),
        (
            together(replace(LOCAL, recording=True), None, [("gpu1", "no answer")]),
            ("brave-otter", "unknown, attached", "2 h", "alice@laptop", "gpu1, gpu2", "-", "-"),
        ),
        (
            together(LOCAL, None, []),
            ("brave-otter", "gone", "2 h", "alice@laptop", "gpu1, gpu2", "-", "-"),
        ),
        (
            from_hosts(found(replace(NODE, state="elsewhere", plan=None, owner="", ranks_alive=0))),
            ("brave-otter", "unknown", "119 min", "-", "lab1", "-", "3 s ago"),
        ),
        (
            from_record(replace(LOCAL, plan=None, mtime=NOW - 5)),
            ("brave-otter", "unknown", "5 s", "alice@laptop", "-", "-", "-"),
        ),
    ],
)
def test_the_cells(run, shown):
    assert cells(run, NOW) == shown


@pytest.mark.parametrize(
    ("hosts", "shown"),
    [
        ([f"gpu{n}" for n in range(64)], "gpu[0-63]"),
        (["head", *(f"gpu{n}" for n in (1, 2, 3, 7)), "tail"], "head, gpu[1-3,7], tail"),
        (["ada", "bob", "gpu1", "gpu2"], "ada, bob, gpu1, gpu2"),
        (
            ["ada", "bob", "gpu1", "gpu2", "gpu3", "eve", "kim"],
            "ada, bob, gpu[1-3], eve and others, 7 in all",
        ),
        (["a[", "[::1]", "\x1b"], "a[, [::1], \x1b"),  # as a host's own record may have them
    ],
)
def test_many_hosts_are_few_words(hosts, shown):
    plan = replace(PLANNED, hosts=tuple(hosts), workers=(1,) * len(hosts))
    assert cells(from_record(replace(LOCAL, plan=plan)), NOW)[4] == shown


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        (from_hosts(found(replace(NODE, state="ended", ranks_alive=0))), "-"),
        (from_hosts(found(replace(NODE, state="rebooted", ranks_alive=0))), "-"),
        # One that could not be ended is no end.
        (from_hosts(found(replace(NODE, state="ended", ranks_alive=1))), "1/4"),
        (from_hosts(found(replace(NODE, ranks_alive=0))), "0/4"),
        (replace(together(LOCAL, found(), [("gpu2", "no answer")]), ranks_alive=0), "0?/4"),
    ],
)
def test_the_ranks_of_what_is_over_are_not_counted(run, shown):
    assert cells(run, NOW)[5] == shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"), (-5, "0 s"), (0.9, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"),
        (7200, "2 h"), (172799, "47 h"), (172800, "2 d"), (1e7, "115 d"),
    ],
)  # fmt: skip
def test_how_long_ago(seconds, said):
    assert ago(seconds) == said


def test_what_the_hosts_see_of_a_run_that_ended_here():
    """Its end is known; what is left where nobody could look then is added."""
    left = replace(NODE, state="ended", code=1, reason="exited", survivors=("pid 7 (x, state D)",))
    run = together(replace(LOCAL, ended=ENDED), found(left), [])
    assert (run.state, run.exit_code, run.own_exit_code) == ("ended", 100, 100)
    assert run.problems == (
        "not verified on gpu2",
        "lab1: could not be ended: pid 7 (x, state D)",
    )


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (together(LOCAL, None, []), 102),
        (together(LOCAL, None, [("gpu1", "no answer")]), 4),
        (from_hosts(found(replace(NODE, state="unreadable"))), 4),
        (together(LOCAL, found(), []), 101),
        (from_record(replace(LOCAL, ended=replace(ENDED, exit_code=0))), 0),
    ],
)
def test_the_exit_code_of_ps_for_one_run(run, code):
    assert run.own_exit_code == code


def test_the_newest_comes_first_and_the_oldest_may_go():
    old = from_record(replace(LOCAL, ended=ENDED))
    new = replace(old, name="new", started=9e5, ended_at=9e5)
    broken = replace(old, name="broken", started=None, ended_at=None)
    assert newest_first([broken, old, new]) == [new, old, broken]
    assert long_ended([broken, old, new], now=1060.0 + 31 * 86400) == [old]
