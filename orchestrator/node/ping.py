"""ICMP, for who may not open raw sockets."""

from __future__ import annotations

import select
import shutil
import socket
import struct
import subprocess
import time


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
