"""Connect and log in: from a target to an SSH connection, to a host as to a gateway on the way."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import fabric
import paramiko

from orchestrator.errors import HostError
from orchestrator.host.gateways import Gateways
from orchestrator.host.keyring import Keyring
from orchestrator.host.login import LOGIN, Login
from orchestrator.host.proxy import ProxySocket
from orchestrator.host.questions import Questions
from orchestrator.host.route import dial
from orchestrator.host.transport import Transport
from orchestrator.host.trust import CheckedKey, KnownHosts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from orchestrator.host.protocol import Watch
    from orchestrator.host.target import Target

# What each stage may take, in seconds.
BANNER, CHANNEL = 10.0, 25.0
# sshd drops connections at random when too many log in at once (MaxStartups 10:30:100).
TRIES = 4
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Doors:
    """What all connections share: keys are loaded and files parsed once, gateways opened once."""

    known: KnownHosts
    keyring: Keyring
    questions: Questions
    gateways: Gateways = field(default_factory=Gateways)
    again: bool = False
    """For a host that was lost, or could not be reached, and is tried again."""

    def for_another_try(self) -> Doors:
        """The same, but that nobody is asked: nobody sits and waits for a question any more.

        A passphrase that was typed once stays known.
        """
        return replace(self, again=True, keyring=self.keyring.asking_nobody())


def all_doors(*, accept_new: bool, ask: Callable[[str], str] | None = None) -> Doors:
    """`ask` puts a question to the person at the terminal, where there is one."""
    questions = Questions(ask)
    return Doors(
        known=KnownHosts(accept_new=accept_new),
        keyring=Keyring(questions.ask),
        questions=questions,
    )


class DroppedEarly(Exception):
    """sshd hung up before it spoke: worth another try."""

    def __init__(self, error: HostError) -> None:
        super().__init__(str(error))
        self.error = error


def persistently(attempt: Callable[[], T], given_up: Callable[[], bool] = lambda: False) -> T:
    """Try again, at random times, where sshd hung up before it spoke."""
    for number in range(TRIES):
        try:
            return attempt()
        except DroppedEarly as error:
            if number == TRIES - 1 or given_up():
                raise error.error from None
            time.sleep(random.uniform(0.2, 1.0) * (number + 1))  # noqa: S311  spreads the load
    raise AssertionError("not reached")


def way_to(target: Target, doors: Doors, watch: Watch) -> socket.socket | paramiko.Channel:
    """Open the way to the target's sshd: what it is, bytes go through it."""
    if target.jumps:
        # A gateway is trusted and logged in to just as a host is.
        def connect_gateway(gateway: Target, its_watch: Watch) -> fabric.Connection:
            return persistently(lambda: connect(gateway, doors, its_watch))

        return doors.gateways.through(target, connect_gateway, watch, again=doors.again)
    if target.proxy_command is not None:
        watch.enter("starting its ProxyCommand", target.reach)
        return ProxySocket(target)
    watch.enter(f"connecting to {target.host} port {target.port}", 2 * target.reach)
    return dial(target)


def connect(target: Target, doors: Doors, watch: Watch) -> fabric.Connection:
    checked = CheckedKey(target, doors.known)
    algorithms = checked.algorithms()  # of keys that can be read: else nothing is opened
    sock = way_to(target, doors, watch)
    watch.hold(sock)
    watch.enter("waiting for its ssh server to speak", BANNER + LOGIN)
    entered = time.monotonic()
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
            "auth_strategy": Login(target, doors.keyring, watch),
            "transport_factory": partial(Transport, algorithms=algorithms),
        },
    )
    # Fabric itself would take any key without a word, a changed one too.
    connection.client.set_missing_host_key_policy(checked)
    watch.hold(connection)
    try:
        connection.open()
    except Exception as error:
        explained = _explained(error, target, time.monotonic() - entered)
        if isinstance(sock, ProxySocket) and isinstance(explained, DroppedEarly):
            explained = _without_proxy(sock, explained)
        sock.close()
        raise explained from error
    return connection


def _without_proxy(sock: ProxySocket, dropped: DroppedEarly) -> Exception:
    """Say how the ProxyCommand ended, where it did. It may have been dropped early itself."""
    if (failure := sock.failure()) is None:
        return dropped
    return failure if sock.cannot_be_run else DroppedEarly(failure)


def _explained(error: Exception, target: Target, waited: float) -> Exception:
    """Translate what paramiko raises: a sentence per cause, and the command to try by hand."""
    by_hand = f"try it by hand: {target.by_hand}"
    match error:
        case paramiko.SSHException() if "banner" in str(error) or "No existing" in str(error):
            # A frozen sshd is silent until our time is up; a busy one hangs up at once, and may
            # take us at another try.
            silent = waited > BANNER / 2
            said = f"says nothing for {BANNER:.0f} s" if silent else "does not speak SSH"
            late = HostError(
                f"{target.host} port {target.port} is open, but {said}",
                check="ssh.banner",
                hint=f"{by_hand}; its sshd may be stuck or overloaded",
            )
            return late if silent else DroppedEarly(late)
        case paramiko.SSHException() | EOFError() | OSError():
            text = str(error) or "the connection was closed while logging in"
            failed = HostError(f"ssh: {text}", check="ssh.banner", hint=by_hand)
            return DroppedEarly(failed) if isinstance(error, EOFError | ConnectionError) else failed
        case _:  # our own, from CheckedKey and Login; or a bug of ours, to be seen as it is
            return error
