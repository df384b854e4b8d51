"""A run's record on this machine: whose it is, and that no byte of it is lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.events import Connected, Logged, Planned, Warned, parse
from orchestrator.state import RunState
from orchestrator.store import RunStore, log_name, state_dir, taken

PLANNED = Planned(
    run="r",
    hosts=("a",),
    workers=(1,),
    what="train.py",
    endpoint="10.0.0.1:29400",
    addresses=("10.0.0.1",),
    max_restarts=0,
    time=1.0,
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def logged(
    data: bytes,
    *,
    rank: int | None = 0,
    stream: str = "out",
    turn: int = 0,
    host="a",
    setup: int | None = None,
):
    return Logged(
        node=1, host=host, rank=rank, stream=stream, round=turn, offset=0, data=data, setup=setup
    )  # fmt: skip


def modes(top: Path) -> dict[str, int]:
    return {str(p.relative_to(top)): stat.S_IMODE(p.stat().st_mode) for p in top.rglob("*")}


def test_a_record(folder):
    before = os.umask(0)  # the widest: what is private is so by our own doing
    try:
        record = RunStore("brave-otter")
        record(Connected(host="a", seconds=0.5), RunState())
        record(PLANNED, RunState())
        record.keep(logged(b"\xff one \r\x1b[1m\n"))
        record.keep(logged(b"two"))
        record(Warned(message="é"), RunState())
        record.close()
    finally:
        os.umask(before)
    run = folder / "runs" / "brave-otter"
    lines = (run / "events.jsonl").read_text().splitlines()
    # Logs are in files of their own, as they came.
    assert [parse(line) for line in lines] == [
        Connected(host="a", seconds=0.5),
        PLANNED,
        Warned(message="é"),
    ]
    assert (run / "logs" / "rank0.out").read_bytes() == b"\xff one \r\x1b[1m\ntwo"
    assert modes(folder) == {
        "runs": 0o700,
        "runs/brave-otter": 0o700,
        "runs/brave-otter/logs": 0o700,
        "runs/brave-otter/events.jsonl": 0o600,
        "runs/brave-otter/logs/rank0.out": 0o600,
    }


def test_as_a_sink_it_leaves_the_logs_to_keep(folder):
    """Sinks are given what is masked; the bytes as they came go another way."""
    record = RunStore("r")
    record(PLANNED, RunState())
    record(logged(b"******** masked"), RunState())
    record.close()
    assert list(record.logs.iterdir()) == []
    assert len((record.folder / "events.jsonl").read_text().splitlines()) == 1


def test_what_was_written_is_there_at_once(folder):
    record = RunStore("r")
    record(PLANNED, RunState())
    record.keep(logged(b"x"))
    assert (record.logs / "rank0.out").read_bytes() == b"x"
    record.close()


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (logged(b""), "rank0.out"),
        (logged(b"", rank=12, stream="err"), "rank12.err"),
        (logged(b"", turn=2), "rank0.round2.out"),
        (logged(b"", rank=None, stream="err"), "node1.torchrun.err"),
        (logged(b"", rank=None, setup=2), "node1.setup2.out"),
    ],
)
def test_each_stream_has_its_file(event, name):
    assert log_name(event) == name


def test_the_hosts_name_is_in_no_files_name(folder):
    record = RunStore("r")
    record(PLANNED, RunState())
    record.keep(logged(b"x", host="../../../etc/passwd"))
    record.keep(logged(b"x", rank=None, host="/tmp/x"))
    record.close()
    written = sorted(p.name for p in record.logs.iterdir())
    assert written == ["node1.torchrun.out", "rank0.out"]


def test_taken(folder):
    record = RunStore("r")
    record(Connected(host="a", seconds=0.5), RunState())
    assert not taken("r"), "a run that its preflight stops keeps no name"
    record(PLANNED, RunState())
    record.close()
    assert taken("r")


def test_a_record_that_cannot_be_kept_is_one_line(folder):
    folder.write_text("a file in its place")
    with pytest.raises(UsageError, match="no record of the run can be kept in") as caught:
        RunStore("r")
    assert "DDP_ORCH_STATE_DIR" in caught.value.hint


def test_where_it_is_kept(monkeypatch):
    monkeypatch.delenv("DDP_ORCH_STATE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_dir() == Path("/home/u/.local/state/ddp-orch")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert state_dir() == Path("/x/ddp-orch")
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", "~/mine")
    assert state_dir() == Path("/home/u/mine")
