"""What the answers of hosts are taken for."""

from __future__ import annotations

from orchestrator.errors import LinkLost, RequestFailed
from orchestrator.facts import StateFolder
from orchestrator.link import Link
from orchestrator.preflight import _state_folder


def test_a_disk_that_does_not_answer_is_a_finding_and_a_lost_host_is_none():
    call = Link("a", lambda _: None).prepare("files.try_out")
    late = _state_folder("~/x", call, RequestFailed("no answer to files.try_out in 10 s"))
    assert late == StateFolder(asked="~/x", problem="its disk, or file server, does not answer")
    assert _state_folder("~/x", call, LinkLost("gone", check="ssh.reach")) == "gone"
    call.future.set_result(None)
    assert _state_folder("~/x", call, {"problem": None, "free": 7}) == StateFolder(
        asked="~/x", free=7
    )
    broken = _state_folder("~/x", call, RequestFailed("no such request"))
    assert broken == StateFolder(asked="~/x", problem="no such request")
