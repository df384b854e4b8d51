"""Ports held open for the other hosts to try, until everybody has reported."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

HELD: dict[str, list[tuple[socket.socket, threading.Thread]]] = {}  # by token
RELEASED: set[str] = set()
TURN = threading.Lock()
# More than fits a packet of any MTU, and many of them: see `probe`, which sends as much.
PAYLOAD = 1 << 16
PATIENCE = 10.0


def hold(call: Call, token: str, name: str, ports: dict[str, int]) -> dict[str, Any]:
    """Hold ports (0: any) open until released, and tell whoever connects who this is.

    Token and name prove to the one who dials that it reached this run and this host: an address
    that exists on every machine (docker0's) or a port that somebody else holds answers, but not
    with them.
    """
    return {key: held(port, token, name) for key, port in ports.items()}


def held(port: int, token: str, name: str) -> dict[str, Any]:
    try:
        listener = everywhere(port)
    except OSError as error:
        return {"error": errno.errorcode.get(error.errno or 0, str(error))}
    greeter = threading.Thread(target=greet, args=(listener, token, name), daemon=True)
    with TURN:
        if token in RELEASED:  # a slow host, asked to let go before it got here
            listener.close()
            return {"error": "ECANCELED"}
        HELD.setdefault(token, []).append((listener, greeter))
        greeter.start()
    return {"port": listener.getsockname()[1]}


def everywhere(port: int) -> socket.socket:
    """Listen on all addresses of both families, as torch's store will."""
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        every = "::"
    except OSError:  # a kernel without IPv6
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        every = "0.0.0.0"  # noqa: S104  all interfaces is the point
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((every, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener


def greet(listener: socket.socket, token: str, name: str) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except ConnectionAbortedError:
            continue
        except OSError:
            return  # released
        # Each in its own thread: one that never answers must not keep the others waiting.
        threading.Thread(target=introduce, args=(peer, token, name), daemon=True).start()


def introduce(peer: socket.socket, token: str, name: str) -> None:
    """Say who this is and where one arrived, then send back as much as was sent."""
    with peer, contextlib.suppress(OSError):
        peer.settimeout(PATIENCE)
        peer.sendall(json.dumps([token, name, peer.getsockname()[0]]).encode() + b"\n")
        got = b""
        while len(got) < PAYLOAD:
            part = peer.recv(PAYLOAD)
            if not part:
                return
            got += part
        # First that it came, in a packet that is small: then it is known which way was at fault.
        peer.sendall(b".")
        peer.sendall(got)
        # The one who dialled closes first, so that TIME_WAIT is not left on our port.
        peer.recv(1)


def release(call: Call, token: str) -> None:
    with TURN:
        RELEASED.add(token)
        held = HELD.pop(token, [])
    for listener, greeter in held:
        # close() alone leaves the thread in accept(), and with it the port.
        listener.shutdown(socket.SHUT_RDWR)
        greeter.join(1)
        listener.close()
