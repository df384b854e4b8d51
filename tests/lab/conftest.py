"""Hosts on loopback, shared by the tests of this folder; each test has to leave nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestrator.lab import Lab
from orchestrator.node.processes import COOKIE, environment, everyone
from tests.workers import heed_ctrl_c

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DDP_ORCH = [sys.executable, "-m", "orchestrator"]


class Rooms:
    """A lab, and the program run against it as a user runs it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.hosts = lab.hosts
        self.state = folder / "state"
        self._folder = folder
        self._written = 0

    def inventory(self, count: int = 2, **fields: Any) -> Path:
        """Write an inventory of the first hosts; `defaults` and `hosts` go into the lab's."""
        whole = yaml.safe_load(self.lab.inventory_path.read_text())
        whole["hosts"] = whole["hosts"][:count]
        for host, more in fields.pop("hosts", {}).items():
            whole["hosts"][host].update(more)
        whole["defaults"].update(fields.pop("defaults", {}))
        self._written += 1
        path = self._folder / f"inventory-{self._written}.yaml"
        path.write_text(yaml.safe_dump(whole | fields, sort_keys=False))
        return path

    def environment(self, **more: str) -> dict[str, str]:
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("DDP_ORCH", "FORCE", "NO_"))
        }
        return env | {"DDP_ORCH_STATE_DIR": str(self.state), "COLUMNS": "200"} | more

    def ddp_orch(
        self, *words: object, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DDP_ORCH, *map(str, words)],
            env=self.environment(**env),
            cwd=cwd or self._folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=280,
            check=False,
        )

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*DDP_ORCH, *map(str, words)],
            env=self.environment(),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_ctrl_c,
        )


def running() -> dict[int, str]:
    """Return every process that carries a run's cookie and our lab's mark."""
    found = {}
    for process in everyone():
        env = environment(process)
        if COOKIE in env and "DDP_ORCH_LAB" in env:
            found[process] = env.get("DDP_ORCH_RUN", "?")
    return found


@pytest.fixture(scope="session")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    folder = tmp_path_factory.mktemp("lab")
    with Lab(hosts=3, folder=folder / "rooms") as lab:
        yield Rooms(lab, folder)


@pytest.fixture
def rooms(_lab: Rooms) -> Iterator[Rooms]:
    yield _lab
    end = time.monotonic() + 20
    while (left := running()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, f"the test left processes: {left}"
