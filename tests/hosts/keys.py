"""Keys, certificates and agents for tests of logging in, made by OpenSSH's own programs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hosts.processes import command, until
from tests.workers import heed_ctrl_c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts.cluster import Cluster


def make_key(path: Path, *words: str, passphrase: str = "", comment: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kind = words if "-t" in words else ("-t", "ed25519", *words)
    command("ssh-keygen", "-q", *kind, "-N", passphrase, "-C", comment or path.name, "-f", path)
    return path


def certify(ca: Path, key: Path, *words: str, principal: str = "root") -> Path:
    public = Path(f"{key}.pub")
    command("ssh-keygen", "-q", "-s", ca, "-I", "test", "-n", principal, *words, public)
    return Path(f"{key}-cert.pub")


class Agent:
    """A real ssh-agent with a socket of its own."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.socket = folder / "agent"
        self.process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
        until(self.socket.exists, "the agent listens")
        self.env = {"SSH_AUTH_SOCK": str(self.socket)}
        self._askpass = folder / "askpass"

    def add(self, *words: str | Path, passphrase: str = "") -> None:
        self._askpass.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
        self._askpass.chmod(0o700)
        asks = {"SSH_ASKPASS": str(self._askpass), "SSH_ASKPASS_REQUIRE": "force"}
        command("ssh-add", "-q", *words, env={**os.environ, **self.env, **asks})

    def end(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextmanager
def at_a_terminal(cluster: Cluster, argv: list[str]) -> Iterator[Terminal]:
    """Run a command on the controller with a terminal of its own."""
    ours, theirs = pty.openpty()
    process = cluster.popen(
        argv,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=own_the_terminal,
        env={"NO_COLOR": "1"},
    )
    try:
        yield Terminal(ours, theirs, process)
    finally:
        process.kill()
        process.wait(30)
        os.close(ours)
        os.close(theirs)


def own_the_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    heed_ctrl_c()


class Terminal:
    def __init__(self, ours: int, theirs: int, process: subprocess.Popen[str]) -> None:
        self._ours, self._theirs, self.process = ours, theirs, process
        self.seen = ""

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._theirs)[3] & termios.ECHO)

    def read_until(self, pattern: str, times: int = 1, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while len(re.findall(pattern, self.seen)) < times:
            assert time.monotonic() < end, f"no {pattern!r} x {times} in:\n{self.seen}"
            self._read(0.5)

    def _read(self, seconds: float) -> None:
        while select.select([self._ours], [], [], seconds)[0]:
            self.seen += os.read(self._ours, 1 << 16).decode()
            seconds = 0

    def type(self, text: str) -> None:
        # What is typed before the echo is off would be seen, and thrown away.
        until(lambda: not self.echoes, "the terminal is ready for a secret", seconds=30)
        os.write(self._ours, text.encode())

    def end(self) -> int:
        until(self._ended, "it has ended", seconds=60)
        self._read(0.1)
        return int(self.process.returncode)

    def _ended(self) -> bool:
        self._read(0)
        return self.process.poll() is not None
