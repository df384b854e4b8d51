"""Gateways (ProxyJump): each is connected once, and carries the connections to all behind it.

A gateway is dialled by a thread of its own: whoever asked first may be given up, and the others
still want it. What became of it, good or bad, is told to all who wait.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

import paramiko

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    import fabric

    from orchestrator.host.protocol import Closable, Watch
    from orchestrator.host.target import Target
    from orchestrator.host.transport import Transport

# How long a failure is told to who comes later, before the gateway is tried again, in seconds.
REMEMBERED = 30.0
# The same for hosts that reconnect: long enough for those that do so at the same moment.
RECALLED = 2.0
# How long a gateway may take to answer when such a host asks whether it is still there.
ANSWER = 10.0
# A host's own deadline while it waits for a gateway: put off for as long as the gateway has time.
WAITING = 10.0


class Gateways:
    """All gateways of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gateways: dict[Target, Gateway] = {}
        self._closing: list[threading.Thread] = []
        self._closed = False

    def through(
        self,
        target: Target,
        connect: Callable[[Target, Watch], fabric.Connection],
        watch: Watch,
        *,
        again: bool = False,
    ) -> paramiko.Channel:
        """Return what is a socket to the target's sshd, by way of its last gateway.

        `again`: it was there and was lost, and its gateway with it maybe, though nothing says so.
        """
        key = target.jumps[-1]
        known = self._gateways.get(key)
        if again and known is not None:
            watch.enter(f"asking its gateway {known.name} for a sign of life", ANSWER + WAITING)
            known.look()
        with self._lock:
            if self._closed:
                raise HostError("given up", check="ssh.jump")
            gateway = self._gateways.get(key)
            if gateway is None or gateway.is_stale(RECALLED if again else REMEMBERED):
                if gateway is not None:
                    self._leave(gateway)
                gateway = self._gateways[key] = Gateway(key)
                gateway.start(connect)
        connection = gateway.wait(watch)
        watch.enter(f"{gateway.name}, its gateway, connects to it", target.reach + WAITING)
        return _channel(connection.transport, gateway.name, target)

    def why_lost(self, target: Target) -> str | None:
        """Tell whether it was a gateway that was lost, when a host behind it was."""
        for jump in target.jumps:  # the first one takes the others with it
            gateway = self._gateways.get(jump)
            if gateway is not None and gateway.has_ended():
                return f"its gateway {gateway.name} was lost, and all behind it"
        return None

    def close(self) -> None:
        with self._lock:
            # Those furthest away first: a gateway may be behind another one.
            every = sorted(self._gateways.values(), key=lambda g: len(g.target.jumps), reverse=True)
            self._gateways, self._closed = {}, True
        for gateway in every:
            gateway.close()
        for thread in self._closing:
            thread.join(ANSWER)

    def _leave(self, gateway: Gateway) -> None:
        """Close it in the background: a ProxyCommand may take its time."""
        thread = threading.Thread(target=gateway.close, name=f"leave {gateway.name}", daemon=True)
        self._closing = [*(t for t in self._closing if t.is_alive()), thread]
        thread.start()


class Gateway:
    """One gateway, and what became of it. It is the Watch of its own connection."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.name = target.name
        self._lock = threading.Lock()
        self._result: Future[fabric.Connection] = Future()
        self._held: list[Closable] = []
        self._closed = False
        self._stage, self._overdue = "waiting", time.monotonic() + WAITING
        self._failed_at = 0.0
        self._asking = threading.Lock()
        self._answered_at = 0.0
        self._silent = False

    def start(self, connect: Callable[[Target, Watch], fabric.Connection]) -> None:
        def run() -> None:
            try:
                connection = connect(self.target, self)
            except HostError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
                self._fail(HostError(f"{type(error).__name__}: {error}", check="ssh.jump"))
            else:
                with self._lock:
                    if not self._result.done():
                        self._result.set_result(connection)

        threading.Thread(target=run, name=f"gateway {self.name}", daemon=True).start()

    def wait(self, watch: Watch) -> fabric.Connection:
        """Return the connection once it is there; each who waits gets the failure as his own."""
        while True:
            watch.enter(f"its gateway {self.name} was {self._stage}", WAITING)
            try:
                return self._result.result(0.2)
            except FutureTimeout:
                if time.monotonic() > self._overdue:
                    late = HostError(f"no answer while {self._stage}", check="ssh.jump")
                    self._give_up(late)
            except HostError as error:
                # Where a gateway is, ssh's configuration says, and not the inventory.
                elsewhere = error.check in ("ssh.name", "ssh.reach")
                hint = f"look at ProxyJump in your ssh configuration; {self._by_hand}"
                raise HostError(
                    f"its gateway {self.name}: {error.message}",
                    check="ssh.jump",
                    hint=hint if elsewhere else error.hint,
                ) from None

    @property
    def _by_hand(self) -> str:
        return f"try it by hand: {self.target.by_hand}"

    def look(self) -> None:
        """Find out whether it still answers; of those who want to know at once, one asks."""
        with self._asking:
            if not self._result.done() or self.is_stale(REMEMBERED) or self._failed_at:
                return
            if time.monotonic() - self._answered_at > RECALLED:
                transport: Transport = self._result.result().transport
                self._silent = not transport.answers(ANSWER)
                self._answered_at = time.monotonic()

    def is_stale(self, remembered: float) -> bool:
        if not self._result.done():
            return False
        if self._failed_at:
            return time.monotonic() - self._failed_at > remembered
        return self._silent or not self._result.result().is_connected

    def has_ended(self) -> bool:
        """Whether it was connected and is not any more. Its threads may take a moment to say so."""
        if not self._result.done() or self._failed_at:
            return False
        transport: paramiko.Transport = self._result.result().transport
        transport.join(0.3)
        return not transport.is_active()

    def close(self) -> None:
        self._give_up(HostError("closed", check="ssh.jump"))

    def _fail(self, error: HostError) -> None:
        with self._lock:
            if not self._result.done():  # the first word stands
                self._failed_at = time.monotonic()
                self._result.set_exception(error)

    def _give_up(self, error: HostError) -> None:
        self._closed = True
        self._fail(error)
        for held in reversed(self._held):
            held.close()

    # ---- as a Watch ----

    def enter(self, stage: str, seconds: float | None) -> None:
        if self._result.done():
            raise HostError("given up", check="ssh.jump")
        self._stage = stage
        self._overdue = float("inf") if seconds is None else time.monotonic() + seconds

    def hold(self, closable: Closable) -> None:
        self._held.append(closable)
        if self._closed:
            closable.close()


def _channel(transport: paramiko.Transport, name: str, target: Target) -> paramiko.Channel:
    where = f"{target.host} port {target.port}"
    try:
        return transport.open_channel(
            "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=target.reach
        )
    except paramiko.ChannelException as error:
        if error.code == 1:  # administratively prohibited
            raise HostError(
                f"its gateway {name} forbids connections to {where}",
                check="ssh.jump",
                hint=f"look at AllowTcpForwarding and PermitOpen in the sshd_config of {name}",
            ) from None
        raise HostError(
            f"its gateway {name} cannot reach {where}: {error.text or 'it does not say why'}",
            check="ssh.jump",
            hint=f"is its sshd running there? The name or address is looked up on {name}",
        ) from None
    except (paramiko.SSHException, EOFError, OSError):
        if not transport.is_active():
            raise HostError(f"its gateway {name} was lost", check="ssh.jump") from None
        raise HostError(
            f"its gateway {name} got no answer from {where} in {target.reach:.0f} s",
            check="ssh.jump",
            hint=f"is it up, is the address right as {name} sees it, is there a firewall?",
        ) from None
