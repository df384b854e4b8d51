"""What is said of a run that hosts have already, of the name that a new one is to have."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
from orchestrator.reports import NodeReport, NodeStateName
from orchestrator.taken_names import refuse_a_taken_name


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
    refuse_a_taken_name([], "x.yaml")
    with pytest.raises(UsageError) as refused:
        refuse_a_taken_name(there, "x.yaml")
    assert refused.value.exit_code == 2
    said = f"a run zz of bob@desk is there already, {what}; nothing was started"
    assert refused.value.message == said
    assert refused.value.hint.endswith(f": {typed}")
