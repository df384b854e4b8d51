"""The user's ssh-agent: which keys it holds, and what it signs."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass

from orchestrator.certificate import SUFFIX, Reader, packed
from orchestrator.host.keys import Unusable
from orchestrator.host.publickey import PublicKey, public_key

# Its list comes at once or not at all; before it signs it may ask a person, or want a touch.
LIST_SECONDS, SIGN_SECONDS = 5.0, 60.0
LIST, LISTED, SIGN, SIGNED = 11, 12, 13, 14
# What OpenSSH's own client takes from an agent.
MOST_BYTES, MOST_KEYS = 256 << 10, 2048
FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}


class _Silent(Exception):
    """It does not answer; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A key that an agent holds."""

    public: PublicKey
    comment: str
    agent: SshAgent


class SshAgent:
    """One for all hosts. Each request is a connection of its own, one at a time.

    paramiko's shares a connection between threads without a lock. Who confirms each signature, or
    touches a security key, is asked for one after the other too.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem: str | None = None
        """Why nothing is to be had from it; said once, then nobody waits for it any more."""

        self._lock = threading.Lock()
        self._held: tuple[Held, ...] | None = None

    def held(self) -> tuple[Held, ...]:
        """Return its keys, in its order; none where it is not there or does not answer."""
        held = self._held
        if held is None:  # looked at first without the lock: it may be busy signing
            with self._lock:
                held = self._held = self._listed() if self._held is None else self._held
        return held

    def look_again(self) -> None:
        """Forget what it held, and what was wrong with it: the user may have put it right."""
        self._held, self.problem = None, None

    def sign(self, key: PublicKey, data: bytes, algorithm: str) -> bytes:
        flags = FLAGS.get(algorithm.removesuffix(SUFFIX), 0)
        request = bytes([SIGN]) + packed(key.blob) + packed(data) + struct.pack(">I", flags)
        try:
            with self._lock:
                kind, body = self._ask(request, SIGN_SECONDS)
            if kind == SIGNED:
                return Reader(body).string()
        except (_Silent, ValueError) as error:
            raise Unusable(f"was not used: {error}") from error
        why = "is it locked, or was its question answered with no?"
        raise Unusable(f"is with ssh-agent, which did not sign: {why}", "ssh-add -l")

    def _listed(self) -> tuple[Held, ...]:
        try:
            kind, body = self._ask(bytes([LIST]), LIST_SECONDS)
            if kind == LISTED:
                return self._parsed(body)
        except _Silent:
            return ()
        except ValueError:
            pass
        self.problem = f"ssh-agent at {self.path} does not list its keys in a way that can be read"
        return ()

    def _parsed(self, body: bytes) -> tuple[Held, ...]:
        reader = Reader(body)
        found = []
        for _ in range(min(reader.number(), MOST_KEYS)):
            public = public_key(reader.string())
            comment = reader.string().decode("utf-8", "replace")
            found.append(Held(public=public, comment=comment, agent=self))
        return tuple(found)

    def _ask(self, request: bytes, seconds: float) -> tuple[int, bytes]:
        """Return the kind of answer and its body. Who was silent once is not asked again."""
        problem = self.problem
        if problem is None:
            try:
                return self._answer(request, seconds)
            except TimeoutError:
                problem = f"ssh-agent at {self.path} did not answer in {seconds:.0f} s"
            except FileNotFoundError:
                problem = f"no ssh-agent is at {self.path}"
            except ConnectionRefusedError:
                problem = f"no ssh-agent listens at {self.path} any more"
            except OSError as error:
                problem = f"ssh-agent at {self.path}: {error.strerror or error}"
            self.problem = problem
        raise _Silent(problem)

    def _answer(self, request: bytes, seconds: float) -> tuple[int, bytes]:
        until = time.monotonic() + seconds
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds)
            sock.connect(self.path)
            sock.sendall(packed(request))
            (length,) = struct.unpack(">I", _received(sock, 4, until))
            if not 0 < length <= MOST_BYTES:
                raise OSError("it answers as no agent does")
            answer = _received(sock, length, until)
            return answer[0], answer[1:]


def _received(sock: socket.socket, count: int, until: float) -> bytes:
    data = b""
    while len(data) < count:
        sock.settimeout(max(0.001, until - time.monotonic()))
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionResetError("it hung up")
        data += more
    return data
