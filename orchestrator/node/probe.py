"""Ports and payloads: open one here, dial one there, and see who answers. Also ping."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

LISTENERS: dict[str, tuple[socket.socket, threading.Thread]] = {}  # by token


def listen(call: Call, port: int, token: str) -> dict[str, Any]:
    """Hold port (0: any) open until released, and say token to whoever connects.

    The token proves to the one who dials that it reached this host and this run: an address that
    exists on every machine (docker0's) or a port that somebody else holds answers, but not with it.
    """
    try:
        listener = everywhere(port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        return {"error": errno.errorcode[error.errno], "holder": holder(port)}
    greeter = threading.Thread(target=greet, args=(listener, token.encode()), daemon=True)
    LISTENERS[token] = (listener, greeter)
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


def greet(listener: socket.socket, token: bytes) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except ConnectionAbortedError:
            continue
        except OSError:
            return  # released
        # Each in its own thread: one that never answers must not keep the others waiting.
        threading.Thread(target=introduce, args=(peer, token), daemon=True).start()


def introduce(peer: socket.socket, token: bytes) -> None:
    with peer, contextlib.suppress(OSError):
        peer.settimeout(5)
        peer.sendall(token)
        # The one who dialled closes first, so that TIME_WAIT is not left on our port.
        peer.recv(1)


def release(call: Call, token: str) -> None:
    listener, greeter = LISTENERS.pop(token, (None, None))
    if listener and greeter:
        # close() alone leaves the thread in accept(), and with it the port.
        listener.shutdown(socket.SHUT_RDWR)
        greeter.join(1)
        listener.close()


def holder(port: int) -> dict[str, Any] | None:
    """Name the process that listens on port, when it is one of ours to see."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        # Column 1 is address:port in hexadecimal, column 3 the state (0A: listening), 9 the inode.
        inodes |= {
            row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
        }
    wanted = {"socket:[%s]" % inode for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = "/proc/%s/fd" % pid
        try:
            links = set()
            for fd in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile; the others count
                    links.add(os.readlink("%s/%s" % (folder, fd)))
            if links & wanted:
                with open("/proc/%s/cmdline" % pid, "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                return {"pid": int(pid), "command": command[:200]}
        except OSError:
            continue
    return None


def dial(
    call: Call, targets: list[tuple[str, int]], token: str, timeout: float = 3.0
) -> list[dict[str, Any]]:
    """Connect to every [address, port] at once; tell what became of each, and from where."""
    results: list[dict[str, Any] | None] = [None] * len(targets)

    def one(index: int, address: str, port: int) -> None:
        results[index] = attempt(address, port, token.encode(), timeout)

    threads = [
        threading.Thread(target=one, args=(index, address, port), daemon=True)
        for index, (address, port) in enumerate(targets)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2 * timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [got or {"error": "ETIMEDOUT", "ms": timeout * 1000} for got in results]


def attempt(address: str, port: int, token: bytes, timeout: float) -> dict[str, Any]:
    began = time.monotonic()

    def result(**more: str | None) -> dict[str, Any]:
        return dict(more, ms=round((time.monotonic() - began) * 1000, 1))

    try:
        with socket.create_connection((address, port), timeout=timeout) as peer:
            local = peer.getsockname()[0]
            said = peer.recv(len(token))
    except socket.timeout:
        return result(error="ETIMEDOUT")
    except socket.gaierror as error:
        return result(error="EAI", detail=error.strerror)
    except OSError as error:
        return result(error=errno.errorcode.get(error.errno or 0, str(error)))
    if said != token:
        return result(error="STRANGER", local=local)
    return result(local=local[7:] if local.startswith("::ffff:") else local)


def ping(address: str, timeout: float = 2.0) -> float | None:
    """Round trip in milliseconds; None: no answer. Needs no privilege, else the ping program.

    Raises OSError where neither can be had.
    """
    family, _, _, _, target = socket.getaddrinfo(address, None, type=socket.SOCK_DGRAM)[0]
    v6 = family == socket.AF_INET6
    try:
        icmp = socket.socket(family, socket.SOCK_DGRAM, 58 if v6 else 1)
    except PermissionError:
        return ping_program(str(target[0]), timeout)
    with icmp:
        icmp.setblocking(False)
        began = time.monotonic()
        request = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, 1)
        # The kernel fills in identifier and, for IPv6, checksum.
        checksum = ~sum(struct.unpack("!4H", request)) & 0xFFFF
        try:
            icmp.sendto(request[:2] + struct.pack("!H", checksum) + request[4:], target)
        except OSError:
            return None  # no route
        ready, _, _ = select.select([icmp], [], [], timeout)
        return (time.monotonic() - began) * 1000 if ready else None


def ping_program(address: str, timeout: float) -> float | None:
    program = shutil.which("ping")
    if program is None:
        raise OSError("no unprivileged ICMP socket and no ping program")
    began = time.monotonic()
    try:
        run = subprocess.run(
            [program, "-n", "-c", "1", "-W", str(max(1, round(timeout))), address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout + 5,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return (time.monotonic() - began) * 1000 if run.returncode == 0 else None
