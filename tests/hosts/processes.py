"""The processes of the hosts, as the machine sees them, and how to run, wait for and end them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True, kw_only=True)
class Process:
    outer: int  # its pid on the machine
    pid: int  # its pid in its own pid namespace
    parent: int  # its parent's pid on the machine
    pid_ns: str
    net_ns: str
    command: str


def processes() -> Iterator[Process]:
    """Yield every live process that is in another pid or network namespace than we are.

    A zombie is not alive.
    """
    ours = [Path("/proc/self/ns", kind).readlink() for kind in ("pid", "net")]
    for entry in Path("/proc").glob("[0-9]*"):
        # A process may end while we read about it. Some machines hide their own process 1 even
        # from root; no process of a host is hidden from the one who started the host.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            pid_ns, net_ns = (entry / "ns/pid").readlink(), (entry / "ns/net").readlink()
            if [pid_ns, net_ns] == ours:
                continue
            lines = (entry / "status").read_text(errors="replace").splitlines()
            status = dict(line.split(":", 1) for line in lines)
            if status["State"].split()[0] in "ZX":
                continue
            words = (entry / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
            yield Process(
                outer=int(entry.name),
                pid=int(status["NSpid"].split()[-1]),
                parent=int(status["PPid"]),
                pid_ns=str(pid_ns),
                net_ns=str(net_ns),
                command=words.decode(errors="replace") or status["Name"].strip(),
            )


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition; TimeoutError says what did not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.01)


def command(*argv: str | Path, **kw: Any) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **kw)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {done.stderr or done.stdout}")
    return done.stdout


def signal_all(victims: Iterable[Process], sig: int = signal.SIGKILL) -> None:
    for process in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.outer, sig)
