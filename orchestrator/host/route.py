"""The way to a host's sshd: a socket, and what speaks SSH over it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from orchestrator.host.target import Target

# What reaching the sshd may take, in seconds.
REACH = 8.0


def dial(target: Target) -> socket.socket:
    """Open the TCP connection ourselves: its failures have names, and its options matter."""
    try:
        sock = socket.create_connection((target.host, target.port), timeout=REACH)
    except socket.gaierror as error:
        raise HostError(
            f"no address is known for {target.host} ({error.strerror})",
            check="ssh.name",
            hint="look for a typing error, or give the host `ssh: user@address`",
        ) from None
    except TimeoutError:
        raise HostError(
            f"no answer from {target.host} port {target.port} in {REACH:.0f} s",
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
        raise HostError(
            f"cannot reach {target.host} port {target.port}: {error.strerror or error}",
            check="ssh.reach",
            hint=f"try it by hand: {target.by_hand}",
        ) from None
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: a send to a vanished host fails in this time
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return sock
