"""paramiko's transport, with what it would not tell or do: the one place that leans on its inside.

What is marked for the type checker is not in paramiko's public face; tests with real sshds fail
when it changes.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import paramiko

if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket


# How much of a server's words is kept.
LONGEST = 200


class Refused(paramiko.ChannelException):
    """No channel: sshd's code, and its words."""


class Transport(paramiko.Transport):
    goodbye = ""
    """The reason that a server gave when it hung up: paramiko logs it and forgets it."""

    def __init__(self, sock: socket, algorithms: Sequence[str], **options: Any) -> None:  # noqa: ANN401  paramiko's
        """`algorithms` are the ways in which the host may prove itself, the best first."""
        super().__init__(sock, **options)
        self._algorithms = tuple(algorithms)
        self._asking = threading.local()
        self._refused: dict[int, Refused] = {}
        # AES-GCM first: half the processor time per byte. What the server lacks is negotiated away.
        security = self.get_security_options()
        security.ciphers = sorted(security.ciphers, key=lambda name: "gcm" not in name)

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Return our own order.

        paramiko asks for certificates of a kind only after all plain keys, whatever the security
        options say.
        """
        return self._algorithms

    def _parse_disconnect(self, m: paramiko.Message) -> None:
        m.get_int()
        self.goodbye = m.get_string()[:LONGEST].decode("utf-8", "replace")

    def answers(self, seconds: float) -> bool:
        """Ask for a sign of life, as OpenSSH does (ServerAliveInterval): any answer is one."""
        heard = threading.Event()

        def ask() -> None:
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                self.global_request("keepalive@openssh.com")
                heard.set()

        threading.Thread(target=ask, name="sign of life", daemon=True).start()
        return heard.wait(seconds) and self.is_active()

    # ---- why sshd opened no channel ----
    # paramiko keeps one reason for all threads that ask at once, and none of sshd's own words.

    def _next_channel(self) -> int:
        number: int = super()._next_channel()  # type: ignore[misc]
        self._asking.number = number
        return number

    def _parse_channel_open_failure(self, message: paramiko.Message) -> None:
        number, code, words = message.get_int(), message.get_int(), message.get_text()
        self._refused[number] = Refused(code, words[:LONGEST])
        message.rewind()
        super()._parse_channel_open_failure(message)  # type: ignore[misc]

    def get_exception(self) -> Exception | None:
        number: int = getattr(self._asking, "number", -1)
        return self._refused.pop(number, None) or super().get_exception()
