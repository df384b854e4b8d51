"""Reads what a program writes while it runs, to a pattern and then to its end.

`communicate` with a time-out reads the pipe itself: what readline had taken along from it is lost.
"""

from __future__ import annotations

import contextlib
import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

SECONDS = 120.0


def read_until(run: subprocess.Popen[str], pattern: str, times: int = 1) -> str:
    """Return all up to the line with which the pattern has come so often."""
    assert run.stdout is not None
    seen, searched = "", 0
    with _killed_when_late(run, SECONDS):
        while times:
            line = run.stdout.readline()
            assert line, f"ended before {pattern!r} came:\n{seen}"
            seen += line
            while times and (found := re.compile(pattern).search(seen, searched)):
                searched, times = found.end(), times - 1
            if not pattern.startswith("(?s)"):
                searched = len(seen)  # what a line has not, it will not get
    return seen


def read_rest(run: subprocess.Popen[str], seconds: float = SECONDS) -> str:
    """Return what it has yet to write, and have waited for its end."""
    assert run.stdout is not None
    with _killed_when_late(run, seconds):
        rest = run.stdout.read()
        run.wait()
    return rest


@contextlib.contextmanager
def _killed_when_late(run: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """A test is not to hang on it."""
    late = threading.Timer(seconds, run.kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()
