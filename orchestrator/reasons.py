"""Why a worker ended, from its last lines and how it ended; and what to try next. Pure."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGBUS, SIGKILL = 7, 9
# A shell in between gives its child's signal as a code.
BY_SHELL = 128
# torch puts a rank before a traceback's lines.
RANK = r"(?:\[rank\d+\]: )?"
# The last line of a traceback, whatever was above it.
NAMED = re.compile(RANK + r"[\w.]+(?:Error|Exception|Exit|Interrupt)(?::|$)")
# A frame of a traceback; those that faulthandler prints have no comma, and no last line.
FRAME = re.compile(RANK + r'\s+File ".*", line \d+(?:, in |$)')
INDENTED = re.compile(RANK + r"\s")
# What ends a process without a traceback: the C and C++ runtimes, glog, a shell.
BEGINS = re.compile(
    r"(?:\[rank\d+\]: ?)?(?:Fatal Python error|terminate called|libc\+\+abi: terminat|\s*what\(\):|"
    r"Segmentation fault|Bus error|Illegal instruction|Aborted|\*\*\* stack smashing|"
    r"double free or corruption|free\(\)|malloc\(\)|munmap_chunk\(\)|corrupted |"
    r"\[?[EF]\d{4} |thread '.*' panicked|E: |(?:fatal |internal )?error\b[: ])",
    re.IGNORECASE,
)
HAS = re.compile(
    r"\b(?:CUDA|NCCL|cuDNN|cuBLAS) error\b|core dumped|: (?:fatal )?error: |symbol lookup error|"
    r"error while loading shared libraries|Assertion .* failed|: can't open file|"
    r": No module named |: (?:command )?not found$|: Permission denied$|"
    r": No such file or directory$"
)
# As torch prints the C++ stack below an exception: 30 lines that would hide it.
CPP_FRAME = re.compile(RANK + r"(?:frame #\d+: |#\d+ .* from \S+:\d+$)")
WARNING = re.compile(r"Warning:", re.IGNORECASE)
BY_BUS = re.compile(r"killed by signal: Bus error|bus error encountered|shared memory\(shm\)")
MISSING = re.compile(r"ModuleNotFoundError: No module named '([^'.]+)")
BY_KILL = re.compile(r"killed by signal: Killed")


def reason(tail: tuple[str, ...], signal: int | None = None) -> str:
    """Find the line that says what went wrong; none where it is but the last that was written."""
    if signal == SIGKILL:
        return ""  # it had no time for last words: what it has written is of something else
    found, in_traceback = "", False
    for line in tail:
        ends_traceback = in_traceback and not INDENTED.match(line)
        in_traceback = bool(FRAME.match(line)) or (in_traceback and not ends_traceback)
        if ends_traceback or _names_an_error(line):
            found = line.strip()
    return found


def is_cpp_frame(line: str) -> bool:
    return bool(CPP_FRAME.match(line))


def _names_an_error(line: str) -> bool:
    if NAMED.match(line):
        return True
    return not WARNING.search(line) and bool(BEGINS.match(line) or HAS.search(line))


def hint(host: str, code: int | None, signal: int | None, message: str) -> str | None:
    """Say where to look for what the system has done to a worker; INVENTORY is to be typed."""
    number = signal or (code - BY_SHELL if code else None)
    # Neither needs more than a login: the kernel's own log is root's on most hosts.
    there = f"ddp-orch exec INVENTORY --include {shlex.quote(host)} --"
    if number == SIGBUS or BY_BUS.search(message):
        return f"perhaps shared memory is full: {there} df -h /dev/shm"
    if number == SIGKILL or BY_KILL.search(message):
        return (
            "perhaps out of memory; how often the kernel has killed for that since its start: "
            f"{there} grep oom_kill /proc/vmstat"
        )
    return None


def missing_module(message: str) -> str | None:
    """Return the topmost package that could not be imported."""
    found = MISSING.search(message)
    return found[1] if found else None


def left_behind(script: str, module: str, args: Sequence[str]) -> str:
    """Say how a script runs with what lies beside it.

    Of what was sent none does: Python looks beside the script, and in a workdir only for `-m`.
    """
    words = ["-m", script.removesuffix(".py"), *(["--", *args] if args else [])]
    return (
        f"only {script} was sent, and not {module} beside it; put their folder on every host, name "
        f"it there as `workdir:`, and: ddp-orch up INVENTORY {shlex.join(words)}"
    )
