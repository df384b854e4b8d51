"""The way to an sshd that this machine reaches itself: a TCP connection."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.host.target import Target

Address: TypeAlias = tuple[socket.AddressFamily, Any, Any, Any, Any]

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


def dial(target: Target) -> socket.socket:
    """Open the TCP connection ourselves: its failures have names, and its options matter."""
    family = FAMILIES.get(target.family, socket.AF_UNSPEC)
    try:
        found = socket.getaddrinfo(target.host, target.port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:  # the latter for gpu1..lab
        why = error.strerror if isinstance(error, OSError) else "no name looks like this"
        raise HostError(
            f"no address is known for {target.host} ({why})",
            check="ssh.name",
            hint="look for a typing error, or give the host `ssh: user@address`",
        ) from None
    try:
        sock = _first_that_answers(target, found)
    except TimeoutError:
        raise HostError(
            f"no answer from {target.host} port {target.port} in {target.reach:.0f} s",
            check="ssh.reach",
            hint="is it up, is the address right, does a firewall drop the connection?",
        ) from None
    except ConnectionRefusedError:
        raise HostError(
            f"{target.host} refuses connections on port {target.port}",
            check="ssh.reach",
            hint="is sshd running there, and on this port? (ssh: user@host:port)",
        ) from None
    except OSError as error:
        here = f" from {target.bind_address} (BindAddress)" if target.bind_address else ""
        raise HostError(
            f"cannot reach {target.host} port {target.port}{here}: {error.strerror or error}",
            check="ssh.reach",
            hint=f"try it by hand: {target.by_hand}",
        ) from None
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: a send to a vanished host fails in this time
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return sock


def _first_that_answers(target: Target, found: Sequence[Address]) -> socket.socket:
    """Try the addresses in turn; all of them together have the time that one would have."""
    end = time.monotonic() + target.reach
    failed: OSError = OSError("it has no address")
    for left, (kind, _, _, _, address) in zip(range(len(found), 0, -1), found, strict=True):
        sock = socket.socket(kind, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.5, (end - time.monotonic()) / left))
            if target.bind_address:
                sock.bind((target.bind_address, 0))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed
