"""What `ddp-orch check` takes, against the least that ssh itself takes to all the same hosts.

It needs what tests/hosts needs: Linux, root, OpenSSH. Hosts are network namespaces of this machine,
each with a real sshd; they share its processors with the controller.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import run
from orchestrator.events import Checked, Connected, Connecting, HostFailed, Looked
from orchestrator.fleet import Fleet
from tests.hosts.cluster import Cluster
from tests.hosts.conftest import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.events import Event
    from orchestrator.state import RunState

REPOSITORY = Path(__file__).parents[1]
# Words for the one ssh configuration that both sides read, so that they do the same to connect.
OPTIONS = """
Host *
    User root
    IdentityFile {identity}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 20
"""
# What the program loads before the first packet of a check leaves.
LOADED = "orchestrator.cli inventory.load orchestrator.run orchestrator.screen"
IMPORT = re.compile(r"import time:\s+\d+ \|\s+(\d+) \| ( *)(\S+)")


class Bench:
    """Hosts, and what is done to all of them at once; each returns what it took, in seconds."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._config = cluster.folder / "ssh_config"
        self._config.write_text(
            "".join(f"Host {host.name}\n    HostName {host.address}\n" for host in cluster.hosts)
            + OPTIONS.format(identity=cluster.identity, known_hosts=cluster.known_hosts)
        )
        # known_hosts has addresses: HostName is what is looked up in it.
        self._inventory = cluster.folder / "benchmark.yaml"
        defaults = {"ssh_config": str(self._config), "python": sys.executable}
        names = [host.name for host in cluster.hosts]
        self._inventory.write_text(json.dumps({"hosts": names, "defaults": defaults}))
        self._names = cluster.folder / "names"
        self._names.write_text("\n".join(names))

    def check(self, *words: str) -> float:
        return self._timed(sys.executable, "-m", "orchestrator", "check", self._inventory, *words)

    def ssh(self, command: str = "true") -> float:
        """Do what people do in a shell, and wait for the last."""
        ssh = ["ssh", "-F", self._config, "{}", command]
        return self._timed("xargs", "-a", self._names, "-P", "256", "-I", "{}", *ssh)

    def inside(self) -> dict[str, float]:
        """Check in a process that looks at the clock on its way."""
        self._timed(sys.executable, "-m", __spec__.name, "--inside", self._inventory)
        return dict(json.loads(self._said.splitlines()[-1]))  # after what people are told

    def _timed(self, *argv: str | Path) -> float:
        began = time.monotonic()
        done = self._cluster.run(argv, cwd=REPOSITORY, timeout=300)
        took = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        self._said = done.stdout
        return took


def pairs(title: str, ours: Callable[[], float], theirs: Callable[[], float], count: int) -> None:
    """Take turns, each going first in every second pair: what else runs here meets both."""
    took: dict[Any, list[float]] = {ours: [], theirs: []}
    for number in range(count):
        for one in (ours, theirs) if number % 2 else (theirs, ours):
            took[one].append(one())
    ratios = [a / b for a, b in zip(took[ours], took[theirs], strict=True)]
    print(f"{title:44} {spread(ratios)}")
    print(f"{'':6}{'seconds, the first':38} {spread(took[ours])}")
    print(f"{'':6}{'seconds, the second':38} {spread(took[theirs])}")


def refuse_too_many(count: int) -> None:
    """All namespaces share the kernel's one table of neighbours; a full one loses packets."""
    name = "net.ipv4.neigh.default.gc_thresh3"
    room = int(Path("/proc/sys", name.replace(".", "/")).read_text())
    if count * count > room:
        needed = 2 * count * count
        raise SystemExit(f"{count} hosts on one kernel: sudo sysctl -w {name}={needed}")


def of_hosts(count: int, times: int) -> None:
    addresses = [f"10.77.0.{number}" for number in range(10, 10 + count)]
    with (
        tempfile.TemporaryDirectory(prefix="ddp-orch-") as folder,
        Cluster(Path(folder), addresses) as cluster,
    ):
        bench = Bench(cluster)
        bench.check(), bench.ssh()  # for the caches of the disk, and compiled Python
        print(f"\n{count} hosts, {times} pairs in turns")
        pairs("check / ssh true, pair by pair", bench.check, bench.ssh, times)
        python = partial(bench.ssh, "python3 -X utf8 -I -S -c pass")
        pairs("check / ssh python3 -c pass", bench.check, python, times)
        phases = [bench.inside() for _ in range(times)]
        print("within a check that is loaded, seconds")
        for phase in phases[0]:
            print(f"{'':6}{phase:38} {spread(told[phase] for told in phases)}")


def start_up(times: int) -> None:
    """How long the program takes to be there, and what of it that is."""
    commands = {
        "Python itself": [sys.executable, "-c", "pass"],
        "ddp-orch, loaded for a check": [sys.executable, "-c", f"import {words(LOADED)}"],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times + 1):
        for name, command in commands.items():
            began = time.monotonic()
            subprocess.run(command, cwd=REPOSITORY, check=True)
            took[name].append(time.monotonic() - began)
    print("\nstart-up, seconds")
    for name, seconds in took.items():
        print(f"{'':6}{name:38} {spread(seconds[1:])}")
    command = [sys.executable, "-X", "importtime", "-c", f"import {words(LOADED)}"]
    said = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    found = [(int(us), name) for us, _, name in IMPORT.findall(said.stderr)]
    print("of that, with what each loads in its turn, milliseconds (-X importtime, one run)")
    for us, name in sorted(found, reverse=True)[:12]:
        print(f"{'':6}{name:38} {us / 1e3:8.1f}")


def words(names: str) -> str:
    return ", ".join(names.split())


def spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"median {middle:.3f}   from {ordered[0]:.3f} to {ordered[-1]:.3f}"


# ---- within the process that checks ----


class Clocks:
    """Hears what a check tells, and notes when."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.between_hosts = 0.0

    def __call__(self, event: Event, _: RunState) -> None:
        name = {
            Connecting: "begun",
            Connected: "gathered",
            HostFailed: "gathered",
            Checked: "judged",
        }.get(type(event))
        if isinstance(event, Looked) and event.part == "ssh":
            self.at["connected"] = time.monotonic()
        elif name and name not in self.at:
            self.at[name] = time.monotonic()

    def watch(self) -> None:
        """Round two is what is asked after the questions that each host got for itself."""
        asks = Fleet.ask

        def timed(*args: Any, **options: Any) -> dict[str, Any]:
            began = time.monotonic()
            try:
                return asks(*args, **options)
            finally:
                self.between_hosts += time.monotonic() - began

        Fleet.ask = timed  # type: ignore[method-assign]


def inside(inventory: str) -> None:
    from inventory.load import load
    from orchestrator import screen

    clocks = Clocks()
    clocks.watch()
    people = screen.Screen(verbose=False, quiet=True)
    code = run.check(load(inventory), run.Options(), [clocks, people])
    at, end = clocks.at, time.monotonic()
    print(
        json.dumps(
            {
                "all connected": at["connected"] - at["begun"],
                "the rest of what was asked": at["gathered"] - at["connected"],
                "  of that: between hosts (the mesh)": clocks.between_hosts,
                "judged": at["judged"] - at["gathered"],
                "agents ended, connections closed": end - at["judged"],
            }
        )
    )
    raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        return inside(given.inside)
    if why := missing():
        raise SystemExit(why)
    refuse_too_many(max(given.hosts))
    version, load = sys.version.split()[0], os.getloadavg()[0]
    openssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    print(f"{os.cpu_count()} processors, load {load:.1f}, Python {version}, {openssh.strip()}")
    start_up(given.pairs)
    for count in given.hosts:
        of_hosts(count, given.pairs)
    return None


if __name__ == "__main__":
    main()
