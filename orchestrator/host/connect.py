"""Connect and log in: from a target to an SSH connection, to a host as to a gateway on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import fabric
import paramiko

from orchestrator.errors import HostError
from orchestrator.host.route import REACH, dial
from orchestrator.host.trust import CheckedKey, known_name

if TYPE_CHECKING:
    import socket

    from orchestrator.host.target import Target
    from orchestrator.host.trust import KnownHosts

# What each stage may take, in seconds.
BANNER, LOGIN, CHANNEL = 10.0, 15.0, 25.0


@dataclass(frozen=True, kw_only=True)
class Doors:
    """What all connections share: keys are loaded and files parsed once, gateways opened once."""

    known: KnownHosts


class Watch(Protocol):
    """Who waits for a connection: told of each stage, handed what to close to make it end."""

    def enter(self, stage: str, seconds: float) -> None: ...
    def hold(self, closable: socket.socket | fabric.Connection) -> None: ...


class DroppedEarly(Exception):
    """sshd hung up before it spoke: worth another try."""

    def __init__(self, error: HostError) -> None:
        super().__init__(str(error))
        self.error = error


def connect(target: Target, doors: Doors, watch: Watch) -> fabric.Connection:
    watch.enter(f"connecting to {target.host} port {target.port}", 2 * REACH)
    sock = dial(target)
    watch.hold(sock)
    watch.enter("waiting for its ssh server to speak", BANNER + LOGIN)
    entered = time.monotonic()
    keys = doors.known.lookup(target.known_hosts, known_name(target))
    # A Config each, that reads no file: a shared one raced, and a fabric.yml is not ours.
    connection = fabric.Connection(
        host=target.host,
        user=target.user,
        port=target.port,
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
        forward_agent=False,
        connect_kwargs={
            "sock": sock,
            "banner_timeout": BANNER,
            "auth_timeout": LOGIN,
            "channel_timeout": CHANNEL,
            "key_filename": list(target.identity_files),
            "allow_agent": target.use_agent,
            "look_for_keys": False,
            "transport_factory": partial(_transport, kinds=[kind for kind, _ in keys.trusted]),
        },
    )
    # Fabric itself would take any key without a word, a changed one too.
    connection.client.set_missing_host_key_policy(CheckedKey(target, keys, doors.known))
    watch.hold(connection)
    try:
        connection.open()
    except Exception as error:
        sock.close()
        raise _explained(error, target, time.monotonic() - entered) from error
    return connection


def _transport(sock: socket.socket, kinds: list[str], **options: Any) -> paramiko.Transport:  # noqa: ANN401  paramiko's
    """Prefer the kinds of key that are known, as ssh does: the server may have one of each.

    AES-GCM first: half the processor time per byte. What the server lacks is negotiated away.
    """
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    security.ciphers = sorted(security.ciphers, key=lambda name: "gcm" not in name)
    if "ssh-rsa" in kinds:
        kinds = [*kinds, "rsa-sha2-512", "rsa-sha2-256"]  # the same key, signing better
    security.key_types = sorted(security.key_types, key=lambda name: name not in kinds)
    return transport


def _explained(error: Exception, target: Target, waited: float) -> Exception:
    """Translate what paramiko raises: a sentence per cause, and the command to try by hand."""
    by_hand = f"try it by hand: {target.by_hand}"
    match error:
        case paramiko.PasswordRequiredException():
            return HostError(
                f"the key {', '.join(target.identity_files)} has a passphrase",
                check="ssh.auth",
                hint=f"ssh-add {target.identity_files[0]}, and leave `identity_file:` out",
            )
        case paramiko.BadAuthenticationType():
            return HostError(
                f"refuses keys; it takes: {', '.join(error.allowed_types)}",
                check="ssh.auth",
                hint=f"put a key there: ssh-copy-id -p {target.port} {target.user}@{target.host}",
            )
        case paramiko.AuthenticationException():
            keys = [
                *target.identity_files,
                *(["those of ssh-agent"] if target.use_agent else []),
            ]
            return HostError(
                f"refuses to log in {target.user} (keys offered: {', '.join(keys) or 'none'})",
                check="ssh.auth",
                hint=by_hand,
            )
        case paramiko.SSHException() if "banner" in str(error) or "No existing" in str(error):
            late = HostError(
                f"{target.host} port {target.port} is open, but does not speak SSH",
                check="ssh.banner",
                hint=f"{by_hand}; its sshd may be stuck or overloaded",
            )
            # A frozen sshd is silent until our time is up; a busy one hangs up at once, and may
            # take us at another try.
            silent = waited > BANNER / 2
            return late if silent else DroppedEarly(late)
        case paramiko.SSHException() | EOFError() | OSError():
            text = str(error) or "the connection was closed while logging in"
            failed = HostError(f"ssh: {text}", check="ssh.banner", hint=by_hand)
            return DroppedEarly(failed) if isinstance(error, EOFError | ConnectionError) else failed
        case _:  # our own, from CheckedKey; or a bug of ours, to be seen as it is
            return error
