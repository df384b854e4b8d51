"""`attach`, to hosts that fit on a page: how it ends, and what is on record afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inventory.load import load_text
from orchestrator import attach as attach_module
from orchestrator.attach import attach, begun, record_of
from orchestrator.events import Ended
from orchestrator.fleet import Fleet
from orchestrator.local_runs import find
from orchestrator.run import Options
from orchestrator.state import RunState
from orchestrator.store import RunStore
from tests.fake_run import HOSTS, PLANNED, Machine

INVENTORY = load_text("hosts: [a, b]", "inventory.yaml")
ENDED = Ended(
    run="r", exit_code=103, seconds=9.0, hosts=HOSTS, why="taken down by carol@desk", failure=None,
    survivors=(), logs="",
)  # fmt: skip
FOLDERS = tuple(f"/h/.ddp-orch/runs/r/{rank}" for rank in (0, 1))


@pytest.fixture
def machines(monkeypatch, tmp_path) -> dict[str, Machine]:
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    made = {name: Machine(name) for name in HOSTS}
    monkeypatch.setattr(
        attach_module,
        "fleet_of",
        lambda hosts, doors: Fleet(lambda name, lost: made[name].connect(lost), HOSTS),
    )
    return made


def attached() -> int:
    known = begun("r", None, Options(), lambda _: None)
    record = record_of(known)
    assert record is not None
    try:
        return attach(known, Options(), [record], record)
    finally:
        record.close()


def recorded() -> None:
    store = RunStore("r", INVENTORY.model_dump_json())
    for event in (replace(PLANNED, folders=FOLDERS), ENDED):
        store(event, RunState())
    store.close()


@pytest.mark.parametrize("there", [(), ("b",)])
def test_what_the_hosts_have_nothing_of_any_more_has_the_end_that_is_known(machines, there):
    """They were pruned from another machine; only where one still tells of it there is news."""
    recorded()
    for name, machine in machines.items():
        machine.folder = FOLDERS[HOSTS.index(name)]
        if name in there:
            machine.tell("started", pid=1)
            machine.fail(3)
            machine.end(1)
        else:
            machine.instead["follow.follow"] = lambda call: call.future.set_result(
                {"offsets": {}, "state": "absent"}
            )
    code = attached()
    assert code == (100 if there else 103)
    ended = find("r").ended
    assert ended is not None
    assert ended.exit_code == code
    assert (ended == ENDED) is (not there)
