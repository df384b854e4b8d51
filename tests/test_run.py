"""What lies between a look at the hosts and a run."""

from __future__ import annotations

import pytest

from inventory.model import Host, Inventory, Rendezvous
from orchestrator.errors import PreflightFailed, UsageError
from orchestrator.events import Detached, Ended, Failure, Verdict
from orchestrator.facts import ClusterFacts
from orchestrator.plan import Program, RunPlan, make_plan
from orchestrator.reports import NodeReport, NodeStateName
from orchestrator.run import _explained, _refuse_a_taken_name, _refuse_gaps, _typed, _typed_end
from orchestrator.verbs.asked import named_by
from tests.test_plan import facts

ONE_GPU = Host(name="a", addr="10.0.0.1", gpus=(0,))
BY_ENV = Host(name="a", addr="10.0.0.1", env={"CUDA_VISIBLE_DEVICES": "0,1"})


def planned(host: Host, found: object) -> RunPlan:
    return make_plan(
        Inventory(hosts=(host,), rendezvous=Rendezvous(port=29400)),
        Program(target="t.py"),
        name="r",
        token="t",
        max_restarts=0,
        env={},
        cluster=ClusterFacts(hosts=("a",), ssh={}, facts={"a": found}),
    )


def test_a_host_that_told_nothing_starts_nothing_though_the_inventory_says_the_rest():
    host = Host(name="a", addr="10.0.0.1", nproc_per_node=2)
    _refuse_gaps(planned(host, facts("10.0.0.1")))
    with pytest.raises(PreflightFailed, match="a: it did not tell its facts in time"):
        _refuse_gaps(planned(host, "no answer in 30 s"))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (Host(name="a"), "a: no address is known"),
        (Host(name="a", addr="10.0.0.1", nproc_per_node="gpu"), "a: has no GPU"),
    ],
)
def test_gaps_that_the_inventory_can_fill(host, message):
    with pytest.raises(PreflightFailed, match=message):
        _refuse_gaps(planned(host, facts("10.0.0.1")))


@pytest.mark.parametrize("wanted", [None, "gpu", "auto"])
def test_a_number_of_workers_that_nobody_knows_is_not_taken_for_one(wanted):
    unknown = facts("10.0.0.1", gpus=None)
    with pytest.raises(PreflightFailed, match="a: how many GPUs it has is not known") as refused:
        _refuse_gaps(planned(Host(name="a", addr="10.0.0.1", nproc_per_node=wanted), unknown))
    assert "`nproc_per_node: 8`" in refused.value.hint
    for known in (Host(name="a", addr="10.0.0.1", nproc_per_node=4), ONE_GPU, BY_ENV):
        _refuse_gaps(planned(known, unknown))


@pytest.mark.parametrize(
    ("named", "strays", "run"),
    [
        (None, "down --strays INVENTORY", "down otter -i INVENTORY ends it"),
        (
            "'my hosts.yaml'",
            "down --strays 'my hosts.yaml'",
            "down otter -i 'my hosts.yaml' ends it",
        ),
        ("-H a,b", "down --strays -H a,b", "down otter -H a,b ends it"),
    ],
)
def test_a_hint_names_the_hosts_as_they_were_named(named, strays, run):
    def hint(text):
        found = Verdict(
            id="run.leftover", status="fail", scope="host", host="a", message="", hint=text
        )
        return _typed(found, named).hint

    assert hint("down --strays INVENTORY") == strays
    assert hint("down otter -i INVENTORY ends it") == run
    assert hint(None) is None


def failed(message: str = "", hint: str | None = None) -> Ended:
    failure = Failure(
        host="a", rank=0, code=1, signal=None, message=message, tail=(), hint=hint
    )  # fmt: skip
    return Ended(
        run="r", exit_code=100, seconds=1.0, hosts=("a",), why="", failure=failure, survivors=(),
        logs="",
    )  # fmt: skip


LEFT = Detached(run="r", hosts=("a",), time=1.0)


def test_the_hint_to_a_failure_names_them_too():
    end = failed(hint="exec INVENTORY -- x")
    assert _typed_end(end, "-H a,b") == failed(hint="exec -H a,b -- x")
    assert (_typed_end(end, None), _typed_end(LEFT, "x.yaml")) == (end, LEFT)


@pytest.mark.parametrize("missing", ["model", "pkg", "pkg.deep"])
def test_a_script_that_was_sent_without_what_it_imports(tmp_path, monkeypatch, missing):
    for name in ("sub.py", "model.py"):
        (tmp_path / name).touch()
    (tmp_path / "pkg").mkdir()
    monkeypatch.chdir(tmp_path)
    message = f"ModuleNotFoundError: No module named '{missing}'"
    top = missing.partition(".")[0]
    for path in ("sub.py", str(tmp_path / "sub.py")):
        sent = Program(target="sub.py", args=("--lr", "a b"), ships=(path,))
        assert _explained(failed(message), sent) == failed(
            message,
            f"only sub.py was sent, and not {top} beside it; put their folder on every host, name "
            "it there as `workdir:`, and: ddp-orch up INVENTORY -m sub -- --lr 'a b'",
        )


def test_what_does_not_lie_beside_the_script_was_not_left_behind(tmp_path):
    (tmp_path / "sub.py").touch()
    sent = Program(target="sub.py", ships=(str(tmp_path / "sub.py"),))
    there = Program(target="/there/sub.py")
    numpy = failed("ModuleNotFoundError: No module named 'numpy'")
    for end, program in (
        (numpy, sent),
        (numpy, there),
        (failed("ValueError: x"), sent),
        (LEFT, sent),
    ):
        assert _explained(end, program) == end


def of_a_run(host: str, node: int, state: NodeStateName, owner: str = "bob@desk") -> NodeReport:
    folder = f"/h/.ddp-orch/runs/zz/{node}"
    return NodeReport(run="zz", node=node, host=host, folder=folder, state=state, owner=owner)


@pytest.mark.parametrize(
    ("there", "what", "typed"),
    [
        ([of_a_run("a", 0, "ended")], "on a (ended)", "ddp-orch prune zz -i x.yaml"),
        ([of_a_run("a", 3, "rebooted")], "on a (rebooted)", "ddp-orch prune zz -i x.yaml"),
        (
            [of_a_run("n1", 0, "running"), of_a_run("n2", 1, "running")],
            "on n1, n2 (running)",
            "ddp-orch down zz -i x.yaml",
        ),
        # Of hosts with one home it is told by all; where it runs, it is known how it does.
        (
            [of_a_run("n1", 0, "elsewhere"), of_a_run("n2", 0, "running")],
            "on n1, n2 (running)",
            "ddp-orch down zz -i x.yaml",
        ),
        ([of_a_run("a", 0, "lost")], "on a (lost)", "ddp-orch down zz -i x.yaml"),
        ([of_a_run("a", 0, "unreadable")], "on a (unknown)", "ddp-orch ps -i x.yaml"),
    ],
)
def test_a_name_that_hosts_know_already_is_refused_with_what_is_there(there, what, typed):
    _refuse_a_taken_name([], "x.yaml")
    with pytest.raises(UsageError) as refused:
        _refuse_a_taken_name(there, "x.yaml")
    assert refused.value.exit_code == 2
    said = f"a run zz of bob@desk is there already, {what}; nothing was started"
    assert refused.value.message == said
    assert refused.value.hint.endswith(f": {typed}")


def test_what_names_the_same_hosts_on_another_command_line(monkeypatch):
    monkeypatch.setenv("DDP_ORCH_INVENTORY", "of env.yaml")
    assert named_by("x.yaml", None) == "x.yaml"
    assert named_by(None, None) == "'of env.yaml'"
    assert named_by(None, ["gpu[1-2]", "me@b"]) == "-H 'gpu[1-2],me@b'"
