"""What the checks of the environment make of what hosts told: versions, and what is to be run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from orchestrator.checks import judge
from orchestrator.checks.drift import alike, differing, names, odd_one, version
from orchestrator.facts import ClusterFacts, Code, Commit, Content, Interpreter, Smi, Wanted
from orchestrator.facts.smi import Installed
from tests.test_checks import facts, said
from tests.test_checks_gpu import board
from tests.test_checks_gpu import smi as gpus_of

if TYPE_CHECKING:
    from orchestrator.events import Verdict


def python(torch: str | None = "2.9.0", **changes) -> Interpreter:
    whole = Interpreter(executable="/v/bin/python", version="3.11.7", torch=torch, build="cu128")
    return dataclasses.replace(whole, **changes)


def cluster(*interpreters: Interpreter | str, gpus: int | None = 0, **changes) -> ClusterFacts:
    """Hosts a, b, c and so on; a text is why nothing is known of one."""
    told = {
        host: one if isinstance(one, str) else facts(one, machine=number, gpus=gpus)
        for number, (host, one) in enumerate(zip("abcdefgh", interpreters, strict=False), 1)
    }
    return ClusterFacts(hosts=tuple(told), ssh={}, facts=told, **changes)


def of(cluster: ClusterFacts, check: str) -> list[Verdict]:
    return [verdict for verdict in judge(cluster) if verdict.id == check]


def the(cluster: ClusterFacts, check: str) -> Verdict:
    (verdict,) = of(cluster, check)
    return verdict


# --- who differs ----------------------------------------------------------------------------------


def test_who_differs_is_told_from_most():
    three = alike({"a": "1", "b": "2", "c": "1"})
    assert (odd_one(three), differing(three, str)) == ("b", "2 on b, 1 on the other 2")
    two = alike({"a": "1", "b": "2"})
    assert (odd_one(two), differing(two, str)) == (None, "2 on b, 1 on a")
    even = alike({"a": "1", "b": "2", "c": "2", "d": "1"})
    assert (odd_one(even), differing(even, str)) == (None, "2 on b and c, 1 on a and d")
    several = alike({"a": "1", "b": "2", "c": "3", "d": "1", "e": "1"})
    assert (odd_one(several), differing(several, str)) == (
        None,
        "3 on c, 2 on b, 1 on the other 3",
    )


def test_many_names_are_cut():
    assert names("a") == "a"
    assert names("abcde") == "a, b, c, d and e"
    assert names("abcdefg") == "a, b, c, d and 3 more"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2.9.1+cu124", (2, 9)),
        ("2.10.0a0+gitabc", (2, 10)),
        ("2.6rc1", (2, 6)),
        ("3", (3,)),
        ("strange", (0,)),
        ("", (0,)),
    ],
)
def test_the_first_numbers_of_a_version(text, numbers):
    assert version(text) == numbers


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "status", "host", "message"),
    [
        ([{}, {}], "pass", None, "torch 2.9.0+cu128 on a, b and c"),
        # The wheel of another index says in its version what this one says in a file.
        ([{"torch": "2.9.0+cu128"}], "pass", None, "torch 2.9.0+cu128 on a and b"),
        (
            [{"torch": "2.10.1"}, {}],
            "fail",
            "b",
            "torch 2.10.1+cu128 on b, 2.9.0+cu128 on the other 2",
        ),
        ([{"torch": "2.10.1"}], "fail", None, "torch 2.10.1+cu128 on b, 2.9.0+cu128 on a"),
        (
            [{}, {"torch": "2.9.1"}],
            "warn",
            "c",
            "torch 2.9.1+cu128 on c, 2.9.0+cu128 on the other 2",
        ),
        (
            [{"build": "cpu"}, {}],
            "warn",
            "b",
            "torch 2.9.0+cpu on b, 2.9.0+cu128 on the other 2",
        ),
        # A build that is not known may be the same.
        ([{"build": None}], "pass", None, "torch 2.9.0 on a and b"),
        # What is worst names the host; all is told.
        (
            [{"torch": "2.9.1"}, {"torch": "2.8.0"}, {}, {}],
            "fail",
            "c",
            "torch 2.8.0+cu128 on c, 2.9.1+cu128 on b, 2.9.0+cu128 on the other 3",
        ),
    ],
)
def test_torch_drift(others, status, host, message):
    verdict = the(cluster(python(), *(python(**more) for more in others)), "env.torch_drift")
    assert (verdict.status, verdict.host, verdict.message) == (status, host, message)
    assert verdict.scope == "cluster"
    assert len(verdict.evidence["versions"]) == len(others) + 1


def test_how_to_get_the_same_torch():
    drift = cluster(python(), python(), python("2.8.0", executable="/w/python"))
    assert the(drift, "env.torch_drift").hint == (
        "on c: /w/python -m pip install torch==2.9.0 "
        "--index-url https://download.pytorch.org/whl/cu128"
    )
    own = python("2.9.0a0", build="gitabc")
    assert the(cluster(own, own, python("2.8.0")), "env.torch_drift").hint == (
        "have the same torch in /v/bin/python on c as on the others"
    )


def test_torch_that_cannot_be_compared():
    some = cluster(python(), python(None), "no answer", python())
    first, second, verdict = of(some, "env.torch_drift")
    assert [(v.host, v.status, v.caused_by) for v in (first, second)] == [
        ("b", "unknown", "env.torch"),
        ("c", "unknown", "env.torch"),
    ]
    assert (verdict.status, verdict.message) == ("pass", "torch 2.9.0+cu128 on a and d")
    assert of(cluster(python()), "env.torch_drift") == []
    assert [v.status for v in of(cluster(python(), "no"), "env.torch_drift")] == ["unknown"]


# --- torch and the GPUs ---------------------------------------------------------------------------

CPU = python("2.9.0", build="cpu")


@pytest.mark.parametrize(
    ("gpus", "changes", "status"),
    [
        (8, {}, "warn"),
        (8, {"per_gpu": frozenset("a")}, "fail"),
        (8, {"gpus": {"a": (0, 2)}}, "fail"),
        (0, {"per_gpu": frozenset("a")}, "fail"),
        (0, {}, "pass"),
        # Who computes on the cores on purpose has said so.
        (8, {"visible": {"a": ""}}, "pass"),
        # Nobody could count them; the driver knows of one.
        (None, {"smi": {"a": Smi(ended="late", installed=(Installed(bus="x"),))}}, "warn"),
        (None, {"smi": {"a": Smi(ended="late")}}, "pass"),
        (None, {"smi": {"a": "no answer"}}, "pass"),
    ],
)
def test_a_torch_that_sees_no_gpu_where_there_are_some(gpus, changes, status):
    there = dataclasses.replace(cluster(CPU, gpus=gpus), **changes)
    assert the(there, "env.torch").status == status
    # One that sees them is good.
    there = dataclasses.replace(cluster(python(), gpus=gpus), **changes)
    assert the(there, "env.torch").status == "pass"


def test_how_to_get_a_torch_that_sees_the_gpus():
    said = the(cluster(CPU, gpus=8), "env.torch")
    assert said.message == "torch 2.9.0 is a CPU build, and there are 8 GPUs"
    assert said.hint == (
        "there: /v/bin/python -m pip install --force-reinstall torch "
        "--index-url https://download.pytorch.org/whl/cu126; "
        "if it is to compute on its cores: `checks: {env.torch: info}`"
    )
    asked = the(cluster(CPU, gpus=1, per_gpu=frozenset("a")), "env.torch")
    assert asked.message == (
        "torch 2.9.0 is a CPU build, and there is 1 GPU, which the inventory asks for"
    )
    assert asked.hint.endswith("whl/cu126")
    none = the(cluster(CPU, per_gpu=frozenset("a")), "env.torch")
    assert none.message == "torch 2.9.0 is a CPU build, but the inventory asks for GPUs"


@pytest.mark.parametrize(
    ("driver", "index"),
    [
        ("590.48.01", "cu130"),
        ("580.65.06", "cu130"),
        ("550.54.14", "cu126"),
        ("470.199.02", "cu118"),
        ("418.87.01", "cu118"),
        (None, "cu126"),
    ],
)
def test_the_wheels_are_those_that_the_driver_runs(driver, index):
    there = cluster(CPU, gpus=8, smi={"a": Smi(ended="answered", driver=driver)})
    assert f"/whl/{index};" in the(there, "env.torch").hint


def test_the_wheels_are_those_that_know_the_gpus():
    assert "/whl/cu128;" in the(with_gpus("cpu", driven("575.57.08", (10, 0))), "env.torch").hint
    assert "/whl/cu126;" in the(with_gpus("cpu", driven("575.57.08", (9, 0))), "env.torch").hint


def with_gpus(build: str | None, smi: Smi | str, **changes) -> ClusterFacts:
    """Return one host with a torch of that build."""
    there = cluster(python("2.9.0", build=build), gpus=2)
    return dataclasses.replace(there, smi={"a": smi}, **changes)


def driven(driver: str | None, capability: tuple[int, int] | None = (9, 0), **changes) -> Smi:
    gpus = board(driver=driver, capability=capability, name="NVIDIA B200")
    return gpus_of(gpus, driver=driver, **changes)


@pytest.mark.parametrize(
    ("build", "driver", "status"),
    [
        ("cu130", "580.65.06", "pass"),
        ("cu130", "575.57.08", "warn"),
        ("cu128", "525.60.13", "pass"),
        ("cu121", "515.65.01", "warn"),
        ("cu118", "450.80.02", "pass"),
        ("cu118", "440.33.01", "warn"),
        # Nobody has heard of that one.
        ("cu141", "700.10", "unknown"),
        ("cu130", None, "unknown"),
        ("cu130", "strange", "unknown"),
        (None, "550.54.14", "unknown"),
        ("rocm6.4", "550.54.14", None),
        ("cpu", "550.54.14", None),
    ],
)
def test_a_driver_that_does_not_run_torchs_cuda(build, driver, status):
    found = of(with_gpus(build, driven(driver)), "env.cuda")
    assert [(v.host, v.status) for v in found] == ([("a", status)] if status else [])


@pytest.mark.parametrize(
    ("build", "driver", "capability", "status"),
    [
        ("cu128", "570.124.06", (10, 0), "pass"),
        ("cu130", "580.65.06", (12, 1), "pass"),
        ("cu126", "570.124.06", (9, 0), "pass"),
        ("cu126", "570.124.06", (10, 0), "warn"),
        ("cu124", "580.65.06", (12, 0), "warn"),
        ("cu118", "580.65.06", (10, 3), "warn"),
        ("cu126", "570.124.06", None, "unknown"),
        # For them it is too old, whatever it says or does not.
        ("cu126", "565.57.01", None, "pass"),
    ],
)
def test_gpus_that_torchs_cuda_does_not_know(build, driver, capability, status):
    assert the(with_gpus(build, driven(driver, capability)), "env.cuda").status == status


def test_which_torch_would_do():
    old = the(with_gpus("cu130", driven("550.54.14")), "env.cuda")
    assert old.message == (
        "torch 2.9.0 is for CUDA 13.0, which needs a driver 580 or newer: there is 550"
    )
    assert old.hint.startswith(
        "there: /v/bin/python -m pip install --force-reinstall torch "
        "--index-url https://download.pytorch.org/whl/cu126; "
    )
    assert "cuda-compat" in old.hint
    new = the(with_gpus("cu126", driven("575.57.08", (10, 0))), "env.cuda")
    assert new.message == (
        "torch 2.9.0 is for CUDA 12.6, and GPUs 0 and 1 (NVIDIA B200) need 12.8 or newer"
    )
    assert new.hint.endswith("whl/cu128")
    newer = the(with_gpus("cu126", driven("580.65.06", (10, 0))), "env.cuda")
    assert newer.hint.endswith("whl/cu130")
    # Both at once: what the driver runs is to know the GPUs.
    both = the(with_gpus("cu130", driven("575.57.08", (10, 0))), "env.cuda")
    assert "/whl/cu128;" in both.hint


def test_only_gpus_that_are_used_need_a_torch():
    hopper, blackwell = board(1, capability=(9, 0)), board(2, capability=(10, 0))[1:]
    mixed = gpus_of((*hopper, *blackwell), driver="570.124.06")
    assert the(with_gpus("cu126", mixed), "env.cuda").status == "warn"
    assert the(with_gpus("cu126", mixed, gpus={"a": (0,)}), "env.cuda").status == "pass"
    assert of(with_gpus("cu126", mixed, visible={"a": ""}), "env.cuda") == []
    assert of(with_gpus("cu126", Smi(ended="absent")), "env.cuda") == []


def test_a_driver_is_known_also_where_nvidia_smi_does_not_answer():
    late = Smi(ended="late", driver="550.54.14")
    assert the(with_gpus("cu130", late), "env.cuda").status == "warn"
    assert the(with_gpus("cu126", late), "env.cuda").status == "pass"
    # It may have GPUs of any kind.
    newer = Smi(ended="late", driver="580.65.06")
    assert the(with_gpus("cu126", newer), "env.cuda").status == "unknown"
    nothing = the(with_gpus("cu130", Smi(ended="late")), "env.cuda")
    assert (nothing.status, nothing.caused_by) == ("unknown", "gpu.smi")
    assert the(with_gpus("cu130", "no answer"), "env.cuda").status == "unknown"


def test_a_torch_that_is_not_there_fits_no_driver():
    none = dataclasses.replace(cluster(python(None, build=None)), smi={"a": driven("550.54.14")})
    said = the(none, "env.cuda")
    assert (said.status, said.caused_by) == ("unknown", "env.torch")
    silent = dataclasses.replace(cluster("no answer in 30 s"), smi={"a": driven("550.54.14")})
    assert (the(silent, "env.cuda").status, the(silent, "env.cuda").message) == (
        *("unknown", "no answer in 30 s"),
    )


# --- NCCL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "gpus", "told"),
    [
        (["2.27.5", "2.27.5"], 8, [(None, "pass")]),
        # It compares all three numbers, and refuses.
        (["2.27.5", "2.27.3", "2.27.5"], 8, [("b", "fail")]),
        (["2.27.5", "2.21.5"], 8, [(None, "fail")]),
        (["2.27.5", "2.27.5.post1"], 8, [(None, "pass")]),
        (["2.27.5", "2.21.5"], 0, [(None, "info")]),
        # Built into torch: that it is the same, torch's version says.
        ([None, None], 8, []),
        (["2.27.5", None], 8, [("b", "unknown")]),
        (["2.27.5", "2.27.5", None], 8, [("c", "unknown")]),
        (["2.27.5", "2.21.5", None], 8, [(None, "fail")]),
        (["2.27.5", None], 0, []),
        (["2.27.5"], 8, []),
    ],
)
def test_nccl_drift(versions, gpus, told):
    found = cluster(*(python(nccl=version) for version in versions), gpus=gpus)
    assert said(found, "env.nccl_drift") == told


def test_nccl_of_hosts_without_gpus_is_not_asked_for():
    mixed = cluster(python(nccl="2.27.5"), python(nccl="2.27.5"), python(nccl="2.21.5"), gpus=2)
    no_gpu = dataclasses.replace(mixed.facts["c"], gpus=0)
    mixed = dataclasses.replace(mixed, facts=mixed.facts | {"c": no_gpu})
    assert said(mixed, "env.nccl_drift") == [(None, "pass")]
    # The inventory knows better.
    assert said(dataclasses.replace(mixed, gpus={"c": (0,)}), "env.nccl_drift") == [("c", "fail")]


def test_how_to_get_the_same_nccl():
    drift = the(
        cluster(python(nccl="2.27.5"), python("2.8.0", nccl="2.21.5"), gpus=1), "env.nccl_drift"
    )
    assert drift.message == "NCCL 2.21.5 on b, 2.27.5 on a"
    assert "on b: /v/bin/python -m pip install --force-reinstall torch==2.9.0 " in drift.hint
    built = python("2.9.0a0", nccl="2.27.5"), python("2.8.0", nccl="2.21.5")
    assert the(cluster(*built, gpus=1), "env.nccl_drift").hint.endswith("b as on the others")
    without = the(cluster(python(nccl="2.27.5"), python(nccl="2.21.5")), "env.nccl_drift")
    assert without.message == "NCCL 2.21.5 on b, 2.27.5 on a; no GPU is there to use it"


# --- Python and torchrun --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "status", "host", "message"),
    [
        (["3.11.7", "3.11.2"], "pass", None, "Python 3.11 on a and b"),
        (["3.11.7", "3.9.2", "3.11.0"], "warn", "b", "Python 3.9 on b, 3.11 on the other 2"),
        (["3.11.7", "3.9.2"], "warn", None, "Python 3.9 on b, 3.11 on a"),
    ],
)
def test_python_drift(versions, status, host, message):
    verdict = the(cluster(*(python(version=v) for v in versions)), "env.python_drift")
    assert (verdict.status, verdict.host, verdict.message) == (status, host, message)
    assert status == "pass" or verdict.hint == "set `python:` of b to a Python 3.11"


def test_python_that_cannot_be_compared():
    some = cluster(python(), Interpreter(problem="not found"), python())
    assert [(v.host, v.status, v.caused_by) for v in of(some, "env.python_drift")] == [
        ("b", "unknown", "env.python"),
        (None, "pass", None),
    ]


def test_torchrun():
    some = cluster(python(), python(torchrun=False), python(None), "no answer")
    assert said(some, "env.torchrun") == [
        ("a", "pass"),
        ("b", "fail"),
        ("c", "unknown"),
        ("d", "unknown"),
    ]
    _, fail, unknown, _ = of(some, "env.torchrun")
    assert fail.message == "torch 2.9.0 of /v/bin/python has no torch.distributed.run"
    assert unknown.caused_by == "env.torch"


# --- what is to be run ----------------------------------------------------------------------------

SCRIPT = Wanted(kind="script", target="/x/my train.py")
SAME = Content(size=9, sha256="ab" * 32)
OTHER = Content(size=9, sha256="cd" * 32)
HERE = Code(path="/x/my train.py", content=SAME)


def ran(wanted: Wanted | None, *codes: Code | str, **changes) -> ClusterFacts:
    told = dict(zip("abcdefgh", codes, strict=False))
    return cluster(*(python() for _ in codes), wanted=wanted, code=told, **changes)


def test_a_script_that_is_missing_on_one_host():
    some = ran(SCRIPT, HERE, Code(path="/x/my train.py", missing="is not there"), HERE)
    assert said(some, "env.script") == [("a", "pass"), ("b", "fail"), ("c", "pass")]
    fail = of(some, "env.script")[1]
    assert fail.message == "/x/my train.py is not there"
    assert fail.hint.startswith("scp -3 a:'/x/my train.py' b:'/x/my train.py'; or ")
    nobody = ran(SCRIPT, fail_at := Code(path="/x/my train.py", missing="is not there"), fail_at)
    assert {v.hint.partition(";")[0] for v in of(nobody, "env.script")} == {"put it there"}


def test_a_module_and_a_command_that_are_missing():
    gone = Code(missing="there is no module pkg")
    fail = of(ran(Wanted(kind="module", target="pkg.train"), gone, Code()), "env.script")[0]
    assert (fail.host, fail.status, fail.message) == (
        *("a", "fail"),
        "-m pkg.train: there is no module pkg",
    )
    assert fail.hint.startswith("set `workdir:`")
    gone = Code(missing="is not on PATH, /bin")
    fail = of(ran(Wanted(kind="command", target="tool"), gone), "env.script")[0]
    assert fail.message == "tool is not on PATH, /bin"
    assert "`env:`" in fail.hint


def test_what_is_run_is_not_known():
    odd = Code(problem="did not answer in 8 s")
    some = ran(SCRIPT, HERE, odd, "no answer to code.look in 15 s")
    assert said(some, "env.script") == [("a", "pass"), ("b", "unknown"), ("c", "unknown")]
    told = [v.message for v in of(some, "env.script")[1:]]
    assert told == ["/x/my train.py: did not answer in 8 s", "no answer to code.look in 15 s"]
    no_python = facts(Interpreter(problem="not found"))
    some = dataclasses.replace(some, facts=some.facts | {"b": no_python})
    assert of(some, "env.script")[1].caused_by == "env.python"
    no_workdir = facts(python(), workdir="/w", workdir_problem="is not there")
    some = dataclasses.replace(some, facts=some.facts | {"b": no_workdir}, workdirs={"b": "/w"})
    assert of(some, "env.script")[1].caused_by == "env.workdir"


def test_of_what_is_sent_along_nothing_is_said():
    for check in ("env.script", "env.code_drift"):
        assert of(ran(None, HERE, dataclasses.replace(HERE, content=OTHER)), check) == []


# --- the same code --------------------------------------------------------------------------------


def at(commit: str | None, top: str = "/r", **changes) -> Code:
    return dataclasses.replace(HERE, script_commit=Commit(top=top, commit=commit), **changes)


def test_a_script_that_differs():
    other = dataclasses.replace(HERE, content=OTHER)
    drift = the(ran(SCRIPT, HERE, other, HERE), "env.code_drift")
    assert (drift.status, drift.host, drift.scope) == ("fail", "b", "cluster")
    assert drift.message == (
        "/x/my train.py differs: cdcdcdcdcdcd (9 bytes) on b, abababababab (9 bytes) on the other 2"
    )
    assert drift.hint.startswith("scp -3 a:'/x/my train.py' b:'/x/my train.py'; or ")
    assert drift.evidence["script"]["b"] == {"sha256": OTHER.sha256, "size": 9}
    longer = dataclasses.replace(HERE, content=dataclasses.replace(SAME, size=1 << 30))
    assert said(ran(SCRIPT, HERE, longer), "env.code_drift") == [(None, "fail")]


def test_a_script_that_is_the_same():
    drift = the(ran(SCRIPT, HERE, HERE), "env.code_drift")
    assert (drift.status, drift.host) == ("pass", None)
    assert drift.message == "/x/my train.py is abababababab (9 bytes) on a and b"
    assert of(ran(SCRIPT, HERE), "env.code_drift") == []
    gone = Code(path=HERE.path, missing="is not there")
    assert of(ran(SCRIPT, HERE, gone), "env.code_drift") == [], "nothing to compare it with"


def test_another_commit_is_a_warning():
    drift = the(ran(SCRIPT, at("1" * 40), at("1" * 40), at("2" * 40, "/r s")), "env.code_drift")
    assert (drift.status, drift.host) == ("warn", "c")
    assert drift.message == (
        "the commit in /r s differs: 222222222222 on c, 111111111111 on the other 2"
    )
    assert drift.hint == "on c: git -C '/r s' pull, or git -C '/r s' checkout 111111111111"


def test_another_script_and_commit_are_one_verdict():
    drift = the(ran(SCRIPT, at("1" * 40), at("2" * 40, content=OTHER)), "env.code_drift")
    assert drift.status == "fail"
    assert "my train.py differs: " in drift.message
    assert "the commit in /r differs: " in drift.message


def test_the_same_commit_is_told_of_hosts_that_all_have_one():
    drift = the(ran(SCRIPT, at("1" * 40), at("1" * 40)), "env.code_drift")
    assert drift.status == "pass"
    assert drift.message.endswith("; /r is at commit 111111111111 on a and b")
    drift = the(ran(SCRIPT, at("1" * 40), at("1" * 40), HERE, at(None)), "env.code_drift")
    assert "commit" not in drift.message


def test_the_workdir_is_another_repository_than_the_scripts():
    work = [Commit(top="/w", commit=digit * 40) for digit in "34"]
    codes = [at("1" * 40, workdir_commit=commit) for commit in work]
    drift = the(ran(SCRIPT, *codes), "env.code_drift")
    assert (drift.status, drift.host) == ("warn", None)
    assert drift.message == "the commit in /w differs: 444444444444 on b, 333333333333 on a"
    module = Wanted(kind="module", target="m")
    codes = [Code(workdir_commit=commit) for commit in work]
    assert the(ran(module, *codes), "env.code_drift").message == drift.message
    # The same one is told once.
    same = [at(d * 40, workdir_commit=Commit(top="/r", commit=d * 40)) for d in "12"]
    assert the(ran(SCRIPT, *same), "env.code_drift").message.count("differs") == 1


def test_code_that_cannot_be_read():
    silent = dataclasses.replace(
        HERE, content="no answer in 10 s", script_commit="no answer in 10 s"
    )
    some = ran(SCRIPT, HERE, silent, "lost", HERE)
    assert [(v.host, v.status, v.message) for v in of(some, "env.code_drift")[:2]] == [
        ("b", "unknown", "no answer in 10 s"),
        ("c", "unknown", "lost"),
    ]
    (drift,) = of(some, "env.code_drift")[2:]
    assert (drift.status, drift.message) == (
        "pass",
        "/x/my train.py is abababababab (9 bytes) on a and d",
    )
