"""The way to a host that is a command: its stdin and stdout are the connection (ProxyCommand)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from orchestrator.host.target import Target

# How long a command that was told to end may take for it, at each step, in seconds.
GRACE = 1.0
KEPT = 4096


class ProxySocket(socket.socket):
    """A real socket, with timeouts and all, to a command; closing it ends the command.

    paramiko's own ProxyCommand polls a pipe, kills a shell but not what it started, and reaps
    nothing.
    """

    def __init__(self, target: Target) -> None:
        assert target.proxy_command is not None
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._target = target
        self._said = b""
        self._ending, self._ended = threading.Lock(), False
        shell = os.environ.get("SHELL") or "/bin/sh"
        with theirs:
            try:
                # As ssh does. The command is the user's own, and what was filled into it held to an
                # allow-list. A session of its own: a Ctrl-C at the terminal is ours to handle.
                self._process = subprocess.Popen(
                    [shell, "-c", f"exec {target.proxy_command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    # A bash that is in no other shell takes a socket for rshd's: it reads .bashrc.
                    env={"SHLVL": "1", **os.environ},
                    start_new_session=True,
                )
            except OSError as error:
                super().close()
                raise HostError(
                    f"its ProxyCommand cannot be started: {shell}: {error.strerror}",
                    check="ssh.jump",
                ) from None
        self._listener = threading.Thread(
            target=self._listen, name=f"proxy {target.name}", daemon=True
        )
        self._listener.start()

    def _listen(self) -> None:
        """Keep the end of what it says, so that it never has to wait to say more."""
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, ValueError), self._process.stderr as stderr:
            while more := os.read(stderr.fileno(), KEPT):
                self._said = (self._said + more)[-KEPT:]

    def failure(self) -> HostError | None:
        """Return how the command ended, if it ended by itself."""
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return None
        self._listener.join(GRACE)
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return HostError(
            f"its ProxyCommand {how}" + (f": {lines[-1].strip()[:300]}" if lines else ""),
            check="ssh.jump",
            hint=f"try it by hand: {self._target.by_hand}",
        )

    @property
    def cannot_be_run(self) -> bool:
        """Whether its shell did not find it, or may not run it: it never will."""
        return self._process.poll() in (126, 127)

    def close(self) -> None:
        """End the command and all that it started, and wait a moment until it is gone."""
        super().close()  # it reads an end of file, and most end then
        with self._ending:
            if self._ended:
                return
            self._ended = True
            for grace, sig in ((GRACE / 4, signal.SIGTERM), (GRACE, signal.SIGKILL)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(grace)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, sig)  # what the command itself left behind, too
            # One that may not be killed, having become another user, ends when it likes.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
