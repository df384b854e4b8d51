"""Run one command and stream what it prints: `exec`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time

from . import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

PULSE = 0.02


def run(call: Call, argv: list[str], env: dict[str, str], cwd: str | None) -> dict[str, Any]:
    """Emit {"stream"} with bytes; return its exit code or signal. It ends with the agent."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, **env),
        cwd=os.path.join(files.home_or_root(), os.path.expanduser(cwd or "")),
        start_new_session=True,
    )
    call.at_end(lambda: end_group(process))
    assert process.stdout
    assert process.stderr
    streams = {process.stdout.fileno(): "out", process.stderr.fileno(): "err"}
    while streams:
        if call.cancelled.is_set():
            end_group(process)
        ended = process.poll() is not None  # asked first: what it wrote is there by then
        ready, _, _ = select.select(list(streams), [], [], 0.1)
        for descriptor in ready:
            data = os.read(descriptor, 1 << 18)
            if data:
                call.emit({"stream": streams[descriptor]}, data)
            else:
                del streams[descriptor]
        if not ready and ended:
            # It has ended but left somebody holding its output: do not wait for that one.
            break
        time.sleep(PULSE)
    process.stdout.close()
    process.stderr.close()
    status = process.wait()
    return {"code": status if status >= 0 else None, "signal": -status if status < 0 else None}


def end_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
