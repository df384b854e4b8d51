"""The public form of events: frozen here, a line per type; keys are only ever added."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import (
    Checked,
    Connected,
    Connecting,
    Detached,
    Ended,
    Event,
    Failure,
    GaveUp,
    HostFailed,
    Launched,
    LinkDown,
    LinkUp,
    Listening,
    Logged,
    Looked,
    NodeEnded,
    Planned,
    SetupBegan,
    SetupEnded,
    StopAsked,
    Stopping,
    Verdict,
    Warned,
    Worker,
    WorkerEnded,
    WorkersUp,
    encode,
    parse,
)

FAILURE = Failure(host="a", rank=0, code=3, signal=None, message="ValueError: x", tail=("l1", "l2"))
GOLDEN = [
    (Connecting(hosts=("a", "b")), '{"event":"Connecting","hosts":["a","b"]}'),
    (
        Connected(host="a", seconds=0.25, noise="hi"),
        '{"event":"Connected","host":"a","seconds":0.25,"noise":"hi"}',
    ),
    (
        HostFailed(host="a", check="ssh.auth", message="no", hint="do"),
        '{"event":"HostFailed","host":"a","check":"ssh.auth","message":"no","hint":"do"}',
    ),
    (
        Looked(host="a", part="facts.gather", came=True),
        '{"event":"Looked","host":"a","part":"facts.gather","came":true}',
    ),
    (
        Checked(
            verdicts=(
                Verdict(
                    id="net.rdzv",
                    status="fail",
                    scope="pair",
                    host="b",
                    peer="a",
                    message="no",
                    evidence={"error": "ETIMEDOUT"},
                    hint="do",
                    caused_by="net.port.rdzv",
                    duration_ms=2.5,
                ),
            ),
            hosts=("a", "b"),
            seconds=1.25,
        ),
        (
            '{"event":"Checked","verdicts":[{"id":"net.rdzv","status":"fail","scope":"pair",'
            '"host":"b","peer":"a","message":"no","evidence":{"error":"ETIMEDOUT"},"hint":"do",'
            '"caused_by":"net.port.rdzv","duration_ms":2.5,"tier":"instant"}],"hosts":["a","b"],"seconds":1.25}'
        ),
    ),
    (
        Planned(
            run="brave-otter",
            hosts=("a", "b"),
            workers=(2, 1),
            what="t.py",
            endpoint="10.0.0.1:41000",
            addresses=("10.0.0.1", "10.0.0.2"),
            max_restarts=1,
            time=100.5,
            folders=("/r/0", "/r/1"),
        ),
        (
            '{"event":"Planned","run":"brave-otter","hosts":["a","b"],"workers":[2,1],"what":"t.py",'
            '"endpoint":"10.0.0.1:41000","addresses":["10.0.0.1","10.0.0.2"],"max_restarts":1,'
            '"time":100.5,"folders":["/r/0","/r/1"]}'
        ),
    ),
    (
        SetupBegan(node=0, host="a", number=1, of=2, command="pip install x", time=1.5),
        (
            '{"event":"SetupBegan","node":0,"host":"a","number":1,"of":2,"command":"pip install x",'
            '"time":1.5}'
        ),
    ),
    (
        SetupEnded(
            node=0,
            host="a",
            number=1,
            of=2,
            command="pip install x",
            code=1,
            signal=None,
            reason="exited",
            survivors=("pid 7",),
            time=1.5,
        ),
        (
            '{"event":"SetupEnded","node":0,"host":"a","number":1,"of":2,"command":"pip install x",'
            '"code":1,"signal":null,"reason":"exited","survivors":["pid 7"],"time":1.5}'
        ),
    ),
    (
        Launched(node=0, host="a", time=1.5),
        '{"event":"Launched","node":0,"host":"a","time":1.5}',
    ),
    (
        WorkersUp(
            node=0,
            host="a",
            round=1,
            workers=(Worker(rank=0, local_rank=0, group_rank=0, world_size=3, pid=77, restart=1),),
            time=1.5,
        ),
        (
            '{"event":"WorkersUp","node":0,"host":"a","round":1,"workers":[{"rank":0,"local_rank":0,'
            '"group_rank":0,"world_size":3,"pid":77,"restart":1}],"time":1.5}'
        ),
    ),
    (
        WorkerEnded(
            node=0,
            host="a",
            rank=3,
            local_rank=1,
            pid=77,
            code=None,
            signal=9,
            restart=0,
            error="ValueError: é",
            traceback="Traceback\n",
            time=1.5,
        ),
        (
            '{"event":"WorkerEnded","node":0,"host":"a","rank":3,"local_rank":1,"pid":77,'
            '"code":null,"signal":9,"restart":0,"error":"ValueError: \\u00e9",'
            '"traceback":"Traceback\\n","time":1.5,"ours":false}'
        ),
    ),
    (
        Logged(node=0, host="a", rank=0, stream="out", round=0, offset=12, data=b"loss 1\n"),
        (
            '{"event":"Logged","node":0,"host":"a","rank":0,"stream":"out","round":0,"offset":12,'
            '"data":"loss 1\\n","setup":null}'
        ),
    ),
    (
        NodeEnded(
            node=0, host="a", code=0, signal=None, reason="exited", survivors=("pid 7",), time=1.5
        ),
        (
            '{"event":"NodeEnded","node":0,"host":"a","code":0,"signal":null,"reason":"exited",'
            '"survivors":["pid 7"],"time":1.5}'
        ),
    ),
    (
        Listening(node=0, host="a", address="10.0.0.1", port=41001, time=1.5),
        '{"event":"Listening","node":0,"host":"a","address":"10.0.0.1","port":41001,"time":1.5}',
    ),
    (
        LinkDown(host="a", node=0, message="gone", time=1.5),
        '{"event":"LinkDown","host":"a","node":0,"message":"gone","time":1.5}',
    ),
    (LinkUp(host="a", node=0, time=1.5), '{"event":"LinkUp","host":"a","node":0,"time":1.5}'),
    (
        GaveUp(host="a", node=0, message="gone", time=1.5),
        '{"event":"GaveUp","host":"a","node":0,"message":"gone","time":1.5}',
    ),
    (
        Stopping(node=0, host="a", why="taken down", exit_code=103, grace=10.0, time=1.5),
        (
            '{"event":"Stopping","node":0,"host":"a","why":"taken down","exit_code":103,'
            '"grace":10.0,"time":1.5}'
        ),
    ),
    (
        Detached(run="brave-otter", hosts=("a", "b"), time=1.5),
        '{"event":"Detached","run":"brave-otter","hosts":["a","b"],"time":1.5}',
    ),
    (
        StopAsked(why="interrupted", exit_code=130, grace=10.0, time=1.5),
        '{"event":"StopAsked","why":"interrupted","exit_code":130,"grace":10.0,"time":1.5}',
    ),
    (Warned(message="m", hint=None), '{"event":"Warned","message":"m","hint":null}'),
    (
        Ended(
            run="brave-otter",
            exit_code=100,
            seconds=9.5,
            hosts=("a", "b"),
            why="why",
            failure=FAILURE,
            survivors=("a: pid 7",),
            logs="/logs",
            unverified=("b",),
        ),
        (
            '{"event":"Ended","run":"brave-otter","exit_code":100,"seconds":9.5,"hosts":["a","b"],'
            '"why":"why","failure":{"host":"a","rank":0,"code":3,"signal":null,'
            '"message":"ValueError: x","tail":["l1","l2"],"setup":null,"hint":null},'
            '"survivors":["a: pid 7"],"logs":"/logs",'
            '"unverified":["b"]}'
        ),
    ),
]


def test_every_event_type_has_its_line():
    assert {type(event) for event, _ in GOLDEN} == set(typing.get_args(Event))


@pytest.mark.parametrize(("event", "line"), GOLDEN, ids=[type(e).__name__ for e, _ in GOLDEN])
def test_the_line_is_frozen_and_read_back(event, line):
    assert encode(event) == line
    assert parse(line) == event


@pytest.mark.parametrize(("event", "line"), GOLDEN, ids=[type(e).__name__ for e, _ in GOLDEN])
def test_keys_of_a_later_version_are_passed_over(event, line):
    def with_more(value: object) -> object:
        if isinstance(value, dict):
            return {k: v if k == "evidence" else with_more(v) for k, v in value.items()} | {
                "new": 1
            }
        return [with_more(v) for v in value] if isinstance(value, list) else value

    assert parse(json.dumps(with_more(json.loads(line)))) == event


@pytest.mark.parametrize("line", ['{"event":"Teleported","to":"mars"}', "{}", '{"event":"dict"}'])
def test_events_of_a_later_version_are_none(line):
    assert parse(line) is None


def test_a_run_without_failure_has_none():
    event = Ended(
        run="r", exit_code=0, seconds=1.0, hosts=(), why="", failure=None, survivors=(), logs=""
    )
    assert parse(encode(event)) == event


def test_bytes_that_are_no_text_are_shown_escaped():
    event = Logged(
        node=0, host="a", rank=None, stream="err", round=0, offset=0, data=b"\xff\x00\n\xe2"
    )
    assert json.loads(encode(event))["data"] == "\\xff\x00\n\\xe2"


# --- whatever the values ------------------------------------------------------------------------


def values_of(cls: type) -> st.SearchStrategy:
    return st.builds(cls, **{k: values(kind) for k, kind in typing.get_type_hints(cls).items()})


def values(kind: typing.Any) -> st.SearchStrategy:
    """Values by the annotation: texts as hosts send them, numbers as JSON has them."""
    if dataclasses.is_dataclass(kind):
        return values_of(kind)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if kind is bytes:  # what is no text does not come back: it is shown escaped
        return st.text(max_size=9).map(str.encode)
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if typing.get_origin(kind) is dict:
        return st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=3)
    if type(None) in args:
        return st.one_of(*(values(arg) if arg is not type(None) else st.none() for arg in args))
    return st.from_type(kind)


@given(st.one_of([values_of(cls) for cls in typing.get_args(Event)]))
def test_any_event_is_one_line_and_read_back(event):
    line = encode(event)
    assert "\n" not in line
    assert line.isascii()
    assert parse(line) == event


def test_a_plan_of_an_earlier_version_has_no_folders():
    event = next(event for event, _ in GOLDEN if isinstance(event, Planned))
    before = json.loads(encode(event))
    del before["folders"]
    assert parse(json.dumps(before)) == dataclasses.replace(event, folders=())
