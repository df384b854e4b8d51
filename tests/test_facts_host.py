"""What hosts say of themselves is checked: another shape than it should have is no fact."""

from __future__ import annotations

import copy
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.facts import Code, Content, HostFacts, Interpreter, Network
from orchestrator.node import code, facts
from orchestrator.preflight import understood

NETWORK = Network(addresses=(("eth0", "10.0.0.1"),), ssh_address="10.0.0.1")
TOLD = {
    "hostname": "h",
    "boot_id": "b",
    "network_id": 7,
    "system": "Linux",
    "machine": "x86_64",
    "user": "u",
    "home": "/home/u",
    "cores": 8,
    "gpus_visible": None,
    "now": 1.5,
    "interpreter": {
        "executable": "/v/bin/python",
        "version": "3.11.7",
        "prefix": "/v",
        "torch": "2.9.0",
        "built": "2.9.0+cu128",
        "cuda": "12.8",
        "nccl": {"nvidia_nccl_cu12": "2.27.5"},
        "torchrun": True,
        "problem": None,
        "seen": [],
        "path": "/v/bin/python",
        "environment": {"VIRTUAL_ENV": "/v"},
    },
    "workdir": {"path": "/w"},
    "own_name": ["10.0.0.1"],
    "python": "/v",
}
CODE = {
    "there": {"path": "/x/train.py", "missing": None},
    "content": {"size": 3, "sha256": "ab"},
    "script_commit": {"top": "/x", "commit": "1" * 40},
    "workdir_commit": None,
}


def parsed(told):
    return understood(lambda got: HostFacts.parse(got, NETWORK), told)


def test_what_a_host_really_says_is_understood(tmp_path):
    real = json.loads(json.dumps(facts.gather(None, sys.executable, str(tmp_path))))
    assert isinstance(parsed(real), HostFacts)
    found = json.loads(json.dumps(code.look(None, "script", str(tmp_path), sys.executable)))
    assert isinstance(understood(Code.parse, found), Code)
    assert parsed(TOLD).interpreter == Interpreter(
        asked="/v",
        path="/v/bin/python",
        environment={"VIRTUAL_ENV": "/v"},
        executable="/v/bin/python",
        version="3.11.7",
        torch="2.9.0",
        build="cu128",
        cuda="12.8",
        nccl="2.27.5",
    )


@pytest.mark.parametrize(
    ("built", "visible", "gpus"),
    [
        ("2.9.0+cu128", None, 2),
        ("2.9.0+rocm6.4", None, 8),
        # What its environment leaves a worker, whosever they are.
        ("2.9.0+rocm6.4", 3, 3),
        (None, None, 2),
    ],
)
def test_the_gpus_that_count_are_those_that_torch_is_for(built, visible, gpus):
    python = {**TOLD["interpreter"], "built": built, "cuda": None}
    told = {**TOLD, "interpreter": python, "gpus_visible": visible}
    assert HostFacts.parse(told, NETWORK, 2, 8).gpus == gpus


def test_a_part_that_was_not_told_in_time_is_no_wrong_shape():
    late = {"problem": "no answer in 12 s"}
    told = parsed({**TOLD, **dict.fromkeys(("interpreter", "workdir"), late)})
    assert told.interpreter == Interpreter(asked="/v", problem="no answer in 12 s")
    assert told.workdir is None
    assert told.workdir_problem == "no answer in 12 s"
    assert parsed({**TOLD, "own_name": late}).own_name is None
    found = understood(Code.parse, {**CODE, "content": late, "there": late, "script_commit": late})
    assert found.problem == found.content == found.script_commit == "no answer in 12 s"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("hostname", 3, "hostname is no text: 3"),
        ("network_id", "7", "network_id is no number from 0: 7"),
        ("cores", 0, "cores is no number from 1: 0"),
        ("cores", True, "cores is no number from 1: True"),
        ("cores", 2.5, "cores is no number from 1: 2.5"),
        ("gpus_visible", -1, "gpus_visible is no number from 0: -1"),
        ("own_name", "10.0.0.1", "own_name is no list of texts: 10.0.0.1"),
        ("own_name", [1], "own_name is no text: 1"),
        ("workdir", "/w", "workdir is no object: /w"),
        ("workdir", {"path": 1}, "workdir is no text: 1"),
        ("interpreter", "python", "interpreter is no object: python"),
        ("interpreter", {"version": 3}, "version is no text: 3"),
        ("interpreter", {"environment": {"A": 1}}, "environment is no text: 1"),
        ("interpreter", {"torch": "2.9", "nccl": ["2.7"]}, "nccl is no object: ['2.7']"),
        ("interpreter", {"torch": "2.9", "cuda": 12.8}, "cuda is no text: 12.8"),
        ("interpreter", {"seen": "all"}, "seen is no list of texts: all"),
    ],
)
def test_a_wrong_shape_is_named(key, value, reason):
    told = parsed({**TOLD, key: value})
    assert told == f"what it told makes no sense (TypeError: {reason})"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def paths(value, way=()):
    yield way
    for key in value if isinstance(value, dict) else ():
        yield from paths(value[key], (*way, key))


def put(whole, way, value):
    if not way:
        return value
    changed = copy.deepcopy(whole)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return changed


@settings(max_examples=300, deadline=None)
@given(way=st.sampled_from(list(paths(TOLD))), value=ANYTHING)
def test_whatever_a_host_says_there_are_facts_or_a_sentence(way, value):
    told = parsed(put(TOLD, way, value))
    if isinstance(told, str):
        assert told.startswith("what it told makes no sense (")
        return
    python = told.interpreter
    texts = [told.hostname, told.boot_id, told.user, told.home, python.asked]
    assert all(isinstance(text, str) for text in texts)
    maybe = [told.workdir, told.workdir_problem, python.path, python.executable, python.version]
    maybe += [python.torch, python.build, python.nccl, python.problem]
    assert all(text is None or isinstance(text, str) for text in maybe)
    assert all(type(n) is int for n in (told.network_id, told.cores))
    assert all(n is None or type(n) is int for n in (told.gpus,))
    assert isinstance(python.torchrun, bool)


@settings(max_examples=200, deadline=None)
@given(way=st.sampled_from(list(paths(CODE))), value=ANYTHING)
def test_whatever_a_host_says_of_its_code(way, value):
    told = understood(Code.parse, put(CODE, way, value))
    if isinstance(told, str):
        assert told.startswith("what it told makes no sense (")
        return
    assert all(
        text is None or isinstance(text, str) for text in (told.path, told.missing, told.problem)
    )
    assert told.content is None or isinstance(told.content, str | Content)


# --- torch's build, and its NCCL ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "build"),
    [
        ({"torch": "2.9.0+cu124", "built": "2.9.0+cu124", "cuda": "12.4"}, "cu124"),
        ({"torch": "2.9.0", "built": "2.9.0+cu128", "cuda": "12.8"}, "cu128"),
        # conda's have no name for it.
        ({"torch": "2.9.0", "built": "2.9.0", "cuda": "12.4"}, "cu124"),
        ({"torch": "2.9.0", "built": "2.9.0", "hip": "6.2.41133-dd7f95766"}, "rocm6.2"),
        ({"torch": "2.9.0", "built": "2.9.0"}, "cpu"),
        ({"torch": "2.9.0", "built": None}, None),
        ({"cuda": "12.4"}, None),
    ],
)
def test_what_torch_was_built_for(told, build):
    assert Interpreter.parse("p", told).build == build


@pytest.mark.parametrize(
    ("told", "version", "others"),
    [
        ({"torch": "2.9.0+cu124", "built": "2.9.0+cu124", "cuda": "12.4"}, (12, 4), False),
        ({"torch": "2.6.0+cu118", "built": None}, (11, 8), False),
        ({"torch": "2.9.0", "built": "2.9.0", "cuda": "13.0"}, (13, 0), False),
        # Of a build with a name of its own its files tell.
        ({"torch": "2.6.0a0+ecf3bae40a.nv25.01", "built": None, "cuda": "12.8"}, (12, 8), False),
        ({"torch": "2.9.0", "built": "2.9.0"}, None, False),
        ({"torch": "2.9.0", "built": None}, None, False),
        ({"torch": "2.9.0+rocm6.4", "built": None, "hip": "6.4"}, None, True),
        ({"torch": "2.9.0+xpu", "built": None}, None, True),
    ],
)
def test_which_cuda_torch_was_built_with(told, version, others):
    python = Interpreter.parse("p", told)
    assert (python.cuda_version, python.for_others) == (version, others)


@pytest.mark.parametrize(
    ("build", "packages", "nccl"),
    [
        ("cu128", {"nvidia_nccl_cu12": "2.27.5"}, "2.27.5"),
        # One that another package brought.
        ("cu130", {"nvidia_nccl_cu12": "2.21.5", "nvidia_nccl_cu13": "2.27.7"}, "2.27.7"),
        ("cu124", {"nvidia_nccl_cu12": "2.21.5", "nvidia_nccl_cu13": "2.27.7"}, "2.21.5"),
        (None, {"nvidia_nccl_cu12": "2.21.5", "nvidia_nccl_cu13": "2.27.7"}, None),
        ("cu124", {}, None),
    ],
)
def test_which_nccl_is_torchs(build, packages, nccl):
    built = f"2.9.0+{build}" if build else None
    told = {"torch": "2.9.0", "built": built, "nccl": packages}
    assert Interpreter.parse("p", told).nccl == nccl
