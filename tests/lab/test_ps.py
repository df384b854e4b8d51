"""Runs as they are found again: listed while they run and afterwards, here and from elsewhere."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.workers import worker

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.lab.conftest import Rooms

pytestmark = pytest.mark.slow


def listed(rooms: Rooms, *words: object, **env: str) -> list[dict[str, Any]]:
    done = rooms.ddp_orch("ps", "-o", "json", *words, **env)
    return [json.loads(line) for line in done.stdout.splitlines()]


def until_it_has_ended(rooms: Rooms, run: str) -> subprocess.CompletedProcess[str]:
    end = time.monotonic() + 60
    while (done := rooms.ddp_orch("ps", run)).returncode == 101 and time.monotonic() < end:
        time.sleep(0.2)
    return done


def folders(rooms: Rooms, run: str) -> list[str]:
    return [host.name for host in rooms.hosts if (host.home / ".ddp-orch" / "runs" / run).exists()]


def test_a_run_is_listed_pruned_and_known_from_elsewhere(rooms: Rooms, tmp_path: Path) -> None:
    inventory, run, go_on = rooms.inventory(2), "listed-run", tmp_path / "go-on"
    elsewhere = {"DDP_ORCH_STATE_DIR": str(tmp_path / "elsewhere")}
    up = rooms.ddp_orch("up", "-d", "-n", run, inventory, "--", worker("waits"), go_on)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        (here,) = listed(rooms, run)
        assert (here["state"], here["exit_code"], here["here"]) == ("running", 101, True)
        assert (here["ranks_alive"], here["ranks"], here["hosts"]) == (2, 2, ["lab1", "lab2"])
        assert here["last_log_age"] is not None
        assert rooms.ddp_orch("ps", run).returncode == 101

        # Another machine, which has an inventory alone.
        assert listed(rooms, **elsewhere) == []
        found = next(r for r in listed(rooms, "-i", inventory, **elsewhere) if r["run"] == run)
        assert (found["state"], found["here"], found["ranks_alive"]) == ("running", False, 2)
        assert found["owner"] == here["owner"] != ""
        refused = rooms.ddp_orch("prune", run, "-i", inventory, **elsewhere)
        assert refused.returncode == 101
        assert f"{run} is kept: it is not over on lab1 (running)" in refused.stderr

        # A host that is away: what the others tell stands, and it is named.
        rooms.hosts[1].stop()
        try:
            away = rooms.ddp_orch("ps", run)
            assert away.returncode == 101
            assert "ddp-orch: lab2: 127.0.0.1 refuses connections" in away.stderr
        finally:
            rooms.hosts[1].start()
    finally:
        go_on.touch()

    assert until_it_has_ended(rooms, run).returncode == 0
    (over,) = listed(rooms, run)
    assert (over["state"], over["exit_code"], over["ranks_alive"]) == ("ended", 0, 0)
    assert over["ended"] >= over["started"]
    (found,) = listed(rooms, run, "-i", inventory, **elsewhere)
    assert (found["state"], found["exit_code"]) == ("ended", 0)

    # Its end was seen by nobody: as long as one host cannot tell, it may run there.
    rooms.hosts[1].stop()
    try:
        unknown = rooms.ddp_orch("prune", run)
        assert (unknown.returncode, folders(rooms, run)) == (4, ["lab1", "lab2"])
        assert f"{run} is kept: whether it has ended is not known: lab2: " in unknown.stderr
        assert rooms.ddp_orch("ps", run).returncode == 4
    finally:
        rooms.hosts[1].start()
    whole = rooms.ddp_orch("prune", run)
    assert (whole.returncode, folders(rooms, run)) == (0, []), whole.stdout + whole.stderr
    assert rooms.ddp_orch("ps", run).returncode == 102


def test_a_run_that_failed_is_pruned_in_parts_and_from_elsewhere(
    rooms: Rooms, tmp_path: Path
) -> None:
    inventory, run = rooms.inventory(2), "failed-run"
    elsewhere = {"DDP_ORCH_STATE_DIR": str(tmp_path / "elsewhere")}
    assert rooms.ddp_orch("up", "-n", run, inventory, "--", worker("raises")).returncode == 100
    (found,) = listed(rooms, run, "-i", inventory, **elsewhere)
    (here,) = listed(rooms, run)
    assert found["exit_code"] == here["exit_code"] == 100
    rooms.hosts[1].stop()
    try:
        half = rooms.ddp_orch("prune", run)
        assert (half.returncode, folders(rooms, run)) == (4, ["lab2"]), half.stderr
        assert f"{run} is kept: what is left on its other hosts stays: lab2: " in half.stderr
    finally:
        rooms.hosts[1].start()
    done = rooms.ddp_orch("prune", run, "-i", inventory, **elsewhere)
    assert (done.returncode, folders(rooms, run)) == (0, []), done.stdout + done.stderr
    assert rooms.ddp_orch("ps", run).returncode == 100, "its end is in the record here"
    assert rooms.ddp_orch("prune", run).returncode == 0
