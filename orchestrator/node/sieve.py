"""Which lines of a log match an expression, found out in a process of its own.

An expression may take for ever over a single line, and no other thread of its process runs
meanwhile: not the one that would end it. Here the kernel does.
"""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

# What it may take over a block of lines, in seconds of CPU.
SECONDS = 5
SIZE = struct.Struct(">Q")
PYTHON = [sys.executable, "-X", "utf8", "-I", "-S", "-c"]
BOOT = "import sys;b=sys.stdin.buffer;exec(b.read(int(b.readline())))"


class TooHardError(Exception):
    pass


class Sieve:
    """The agent's side. `program` is this module as a program that calls main."""

    def __init__(self, expression: str, program: bytes) -> None:
        re.compile(expression)  # this Python may be older than the controller's, and refuse it
        self._process = subprocess.Popen(
            [*PYTHON, BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin
        self._process.stdin.write(b"%d\n%s" % (len(program), program))
        give(self._process.stdin, expression.encode("utf-8", "surrogateescape"))

    def pick(self, lines: list[bytes]) -> list[bool]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            give(self._process.stdin, b"".join(SIZE.pack(len(line)) + line for line in lines))
            return [bool(each) for each in take(self._process.stdout)]
        except (OSError, EOFError):
            why = "more than %d s over a few lines: write a simpler expression" % SECONDS
            raise TooHardError("--grep takes " + why) from None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Answer each block of lines with a byte per line, until there are no more."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    source, out = sys.stdin.buffer, sys.stdout.buffer
    try:
        expression = re.compile(take(source).decode("utf-8", "surrogateescape"))
        while True:
            block = take(source)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            answer = bytes(matches(expression, line) for line in apart(block))
            signal.setitimer(signal.ITIMER_PROF, 0)
            give(out, answer)
    except (OSError, EOFError):
        return


def matches(expression: re.Pattern[str], line: bytes) -> bool:
    """Say whether it is found in a line, its end left out; what is no text stands there escaped."""
    text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return expression.search(text) is not None


def apart(block: bytes) -> list[bytes]:
    found = []
    at = 0
    while at < len(block):
        (size,) = SIZE.unpack_from(block, at)
        at += SIZE.size + size
        found.append(block[at - size : at])
    return found


def give(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(SIZE.pack(len(data)) + data)
    pipe.flush()


def take(pipe: IO[bytes]) -> bytes:
    size = pipe.read(SIZE.size)
    if len(size) < SIZE.size:
        raise EOFError
    data = pipe.read(SIZE.unpack(size)[0])
    if len(data) < SIZE.unpack(size)[0]:
        raise EOFError
    return data
