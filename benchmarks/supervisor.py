"""What it costs a host to keep a run alive, and how fast it is ended.

It starts real guards and supervisors on this machine, as an agent does, without any connection. A
small program stands where torchrun does: it starts four workers, each with a session of its own.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from orchestrator.node import record, runs, stopping
from orchestrator.setups import supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORKERS = 4
# Workers as torchrun starts them: who is one, the supervisor reads from the environment.
TORCHRUN = """
import os, subprocess, sys
world = sys.argv[1]
same = dict(os.environ, GROUP_RANK="0", WORLD_SIZE=world, LOCAL_WORLD_SIZE=world,
            TORCHELASTIC_RESTART_COUNT="0")
for rank in range(int(world)):
    env = dict(same, RANK=str(rank), LOCAL_RANK=str(rank))
    subprocess.Popen([sys.executable, "-c", sys.argv[2]], env=env, start_new_session=True)
for _ in range(int(world)):
    os.wait()
"""
SLEEPS = "import time; time.sleep(3600)"
STAYS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
# Writes so many lines, one call of the kernel each, and tells how long that took.
WRITES = """
import os, sys, time
count, told = int(sys.argv[1]), sys.argv[2]
began = time.perf_counter()
for number in range(count):
    os.write(1, b"step %09d loss 0.123456 lr 0.000100 tokens/s 123456\\n" % number)
with open(told, "w") as file:
    file.write(str(time.perf_counter() - began))
"""
ENV: dict[str, dict[str, str]] = {"defaults": {}, "fixed": {}, "prepended": {}}


def started(folder: Path, *argv: str) -> str:
    """Start a run's node in a folder; return its cookie."""
    folder.mkdir(mode=0o700)
    cookie = secrets.token_hex(16)
    call: Any = SimpleNamespace(body=supervisor())
    runs.start(call, str(folder), [sys.executable, *argv], ENV, str(folder), cookie, 5.0)
    return cookie


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def events(folder: Path) -> list[str]:
    return [entry["event"] for entry in record.entries(str(folder))]


def end(folder: Path) -> dict[str, Any]:
    call: Any = None
    return stopping.stop(call, str(folder), 0.0)


# ---- what is measured ----


def memory(pid: int) -> tuple[float, float]:
    """Return what a process holds, and its part of what it shares, in MB."""
    files = (Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/smaps_rollup"))
    lines = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
    kib = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "Pss:")}
    return kib["VmRSS:"] * 1024 / 1e6, kib["Pss:"] * 1024 / 1e6


def cpu(pid: int) -> float:
    """Return the time that a process was on a processor, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def at_rest(base: Path, seconds: float) -> None:
    folder = base / "rest"
    started(folder, "-c", TORCHRUN, str(WORKERS), SLEEPS)
    until(lambda: "workers" in events(folder))
    time.sleep(5)
    known = record.read(str(folder), record.RUN) or {}
    pids = {who: known[who][0] for who in ("supervisor", "guard")}
    before = {who: cpu(pid) for who, pid in pids.items()}
    time.sleep(seconds)
    print(f"with {WORKERS} workers that sleep        RSS MB   PSS MB   CPU over {seconds:.0f} s")
    for who, pid in pids.items():
        rss, pss = memory(pid)
        spent = (cpu(pid) - before[who]) / seconds
        print(f"{who:31} {rss:8.1f} {pss:8.1f}   {spent:.4%}")
    end(folder)


def ending(base: Path, times: int) -> None:
    took = []
    for number in range(times):
        folder = base / f"end{number}"
        started(folder, "-c", TORCHRUN, str(WORKERS), STAYS)
        until(lambda: "workers" in events(folder))  # noqa: B023
        time.sleep(0.5)  # for their signal handlers
        began = time.perf_counter()
        answer = end(folder)
        took.append(time.perf_counter() - began)
        assert answer["verified"], answer
    print(f"\nend at grace 0, {WORKERS} workers that ignore TERM, from the request to the proof")
    print(f"{'seconds':31} {spread(took)}")


def throughput(base: Path, pairs: int, lines: int) -> None:
    ratios, ours, bare = [], [], []
    for number in range(pairs):
        order = (kept, redirected) if number % 2 else (redirected, kept)
        took = {how: how(base / f"write{number}-{how.__name__}", lines) for how in order}
        ours.append(lines / took[kept] / 1e3)
        bare.append(lines / took[redirected] / 1e3)
        ratios.append(took[redirected] / took[kept])
    print(f"\n{lines} lines of 61 bytes, a write each, {pairs} pairs in turns")
    print(f"{'under a supervisor, lines/ms':31} {spread(ours)}")
    print(f"{'bare > file, lines/ms':31} {spread(bare)}")
    print(f"{'ratio, pair by pair':31} {spread(ratios)}")


def kept(folder: Path, lines: int) -> float:
    told = folder.with_suffix(".told")
    started(folder, "-c", WRITES, str(lines), str(told))
    until(lambda: "ended" in events(folder))
    return float(told.read_text())


def redirected(folder: Path, lines: int) -> float:
    folder.mkdir()
    told = folder.with_suffix(".told")
    with (folder / "out").open("wb") as out:
        words = [sys.executable, "-c", WRITES, str(lines), str(told)]
        subprocess.run(words, stdout=out, check=True)
    return float(told.read_text())


def spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"median {middle:.3f}   from {ordered[0]:.3f} to {ordered[-1]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of rest")
    parser.add_argument("--times", type=int, default=10, help="ends")
    parser.add_argument("--pairs", type=int, default=10, help="of runs that write")
    parser.add_argument("--lines", type=int, default=500_000)
    given = parser.parse_args()
    version, load = sys.version.split()[0], os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f}, Python {version}")
    with tempfile.TemporaryDirectory(prefix="ddp-orch-") as folder:
        at_rest(Path(folder), given.seconds)
        ending(Path(folder), given.times)
        throughput(Path(folder), given.pairs, given.lines)


if __name__ == "__main__":
    main()
