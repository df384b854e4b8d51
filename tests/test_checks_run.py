"""`run.leftover`: facts in, verdicts out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.checks import judge
from orchestrator.facts import ClusterFacts, SshState, Strays
from orchestrator.facts.strays import KnownRun, Stray
from orchestrator.preflight import understood

TORCHRUN = Stray(
    pid=4711,
    start=99,
    parent=1,
    command="python -m torch.distributed.run train.py",
    age=7300.0,
    kind="torchrun",
    root=4711,
    id="",
    run="",
    endpoint="a:29400",
    orphan=True,
    owner="",
    ports=(29400,),
)
WORKER = replace(
    TORCHRUN, pid=4700, parent=4711, kind="worker", command="python train.py", ports=()
)
OWNED = replace(TORCHRUN, pid=88, root=88, orphan=False, owner="bash (pid 70) on a terminal")
OTTER = KnownRun(
    run="brave-otter", node=0, state="running", owner="ann@desk", age=7300.0, alive=3
)  # fmt: skip
LOST = replace(OTTER, state="lost")
STRAYS = "ddp-orch down --strays INVENTORY"


def verdicts(same_machine: bool = False, **strays: Strays | str):
    cluster = ClusterFacts(
        hosts=tuple(strays),
        ssh=dict.fromkeys(strays, SshState()),
        strays=strays,
        same_machine=same_machine,
    )
    return [v for v in judge(cluster) if v.id == "run.leftover"]


def verdict(**found):
    (only,) = verdicts(gpu1=Strays(**found))
    assert only.host == "gpu1"
    return only


NAMED = "pid 4711 python -m torch.distributed.run train.py (2 h)"
LIVES_ON = (
    "run brave-otter of ann@desk was started 2 h ago and nobody keeps it any more: its supervisor "
    "and guard were killed, and 3 processes of it live on"
)


@pytest.mark.parametrize(
    ("found", "status", "message", "hint"),
    [
        ({}, "pass", "nothing", None),
        (
            {"strays": (WORKER, TORCHRUN)},
            "fail",
            f"{NAMED} is left of an earlier job, and 1 more",
            STRAYS,
        ),
        (
            {"strays": (WORKER,), "more": 5, "runs": (LOST, OTTER)},
            "fail",
            "pid 4700 python train.py (2 h) is left of an earlier job, and 6 more",
            STRAYS,
        ),
        (
            {"runs": (LOST,), "strays": (OWNED,)},
            "fail",
            LIVES_ON,
            "ddp-orch down brave-otter -i INVENTORY",
        ),
        (
            {"runs": (OTTER,)},
            "warn",
            "run brave-otter of ann@desk runs here since 2 h ago",
            "ddp-orch down brave-otter -i INVENTORY",
        ),
        (
            {"runs": (replace(OTTER, owner="", age=None, state="starting"),), "strays": (OWNED,)},
            "warn",
            "run brave-otter runs here (starting), and 1 more",
            "ddp-orch down brave-otter -i INVENTORY",
        ),
        (
            {"strays": (replace(OWNED, pid=90, kind="worker"), OWNED)},
            "warn",
            f"{OWNED} runs here under bash (pid 70) on a terminal, and 1 more",
            "end it where it was started, or there: kill 88",
        ),
        # `nohup torchrun --standalone`, and a logout: a job of its own.
        (
            {"strays": (replace(WORKER, root=4711), replace(TORCHRUN, endpoint=""))},
            "warn",
            f"{NAMED} runs here alone, with nobody above it, and 1 more",
            "let it be, or end it there: kill 4711",
        ),
        (
            {"strays": (replace(TORCHRUN, endpoint="[::1]:0"), OWNED)},
            "warn",
            f"{OWNED} runs here under bash (pid 70) on a terminal, and 1 more",
            "end it where it was started, or there: kill 88",
        ),
        # Its torchrun was killed: whatever that had been told, nobody waits for this one.
        (
            {"strays": (replace(WORKER, root=4700), replace(TORCHRUN, endpoint="localhost:0"))},
            "fail",
            "pid 4700 python train.py (2 h) is left of an earlier job, and 1 more",
            STRAYS,
        ),
        ({"others": 2}, "info", "2 torchrun of other users, or in containers", None),
        ({"others": 2, "problem": "no answer"}, "unknown", "no answer", None),
        ({"strays": (replace(TORCHRUN, kind="port"),)}, "pass", "nothing", None),
    ],
)
def test_the_worst_of_it_is_said(found, status, message, hint):
    got = verdict(**found)
    assert (got.status, got.message, got.hint) == (status, message, hint)


def test_the_evidence_has_all_of_it():
    evidence = verdict(strays=(WORKER, TORCHRUN), runs=(OTTER,), others=1).evidence
    assert [row["pid"] for row in evidence["strays"]] == [4700, 4711]
    assert evidence["strays"][1]["ports"] == [29400]
    assert [row["run"] for row in evidence["runs"]] == ["brave-otter"]
    assert evidence["others"] == 1


def test_each_host_says_its_own_and_what_is_not_known_does_not_pass():
    got = verdicts(a=Strays(strays=(TORCHRUN,)), b=Strays(), c="no answer in 15 s")
    assert [(v.host, v.status) for v in got] == [("a", "fail"), ("b", "pass"), ("c", "unknown")]
    assert got[2].message == "no answer in 15 s"


def test_hosts_that_are_one_machine_say_it_once_and_mildly():
    both = {"a": Strays(strays=(TORCHRUN,)), "b": Strays(strays=(TORCHRUN,))}
    assert [v.status for v in verdicts(**both)] == ["fail", "fail"]
    assert [v.status for v in verdicts(same_machine=True, **both)] == ["warn", "pass"]


# ---- what hosts say is not trusted ----

ROW = {
    "pid": 4711,
    "start": 99,
    "parent": 1,
    "command": "python -m torch.distributed.run train.py",
    "age": 7300.0,
    "kind": "torchrun",
    "root": 4711,
    "id": "",
    "run": "",
    "endpoint": "a:29400",
    "orphan": True,
    "owner": "",
    "ports": [29400],
}
RUN = {
    "run": "brave-otter",
    "node": 0,
    "state": "running",
    "owner": "ann@desk",
    "age": 7300.0,
    "alive": 3,
}
TOLD = {"runs": [RUN], "strays": [ROW], "more": 0, "others": 1, "problem": ""}


def test_it_is_read():
    assert Strays.parse(TOLD) == Strays(runs=(OTTER,), strays=(TORCHRUN,), others=1)


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        TOLD | {"strays": None},
        TOLD | {"strays": [ROW | {"pid": "x"}]},
        TOLD | {"strays": [ROW | {"orphan": "no"}]},
        TOLD | {"strays": [ROW | {"ports": 5}]},
        TOLD | {"runs": [{}]},
        TOLD | {"runs": [RUN | {"alive": None}]},
        TOLD | {"more": "many"},
    ],
)
def test_nonsense_is_unknown(told):
    got = understood(Strays.parse, told)
    assert isinstance(got, str)
    assert "makes no sense" in got
