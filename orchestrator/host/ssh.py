"""A host over SSH: one connection, one channel, one conversation."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import paramiko

from orchestrator.errors import AgentFailed, HostError, LinkLost
from orchestrator.host.connect import CHANNEL, connect, persistently
from orchestrator.host.target import resolve
from orchestrator.link import Call, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import fabric

    from inventory.model import Host as HostEntry
    from orchestrator.host.connect import Doors
    from orchestrator.host.protocol import Closable, OnLost, Request
    from orchestrator.host.target import Target

# What reading ssh's configuration, and starting the agent, may take, in seconds. ssh is asked for
# the host and for each gateway, and every host of many does so at once.
RESOLVE, AGENT = 30.0, 25.0
STARTING = "starting the agent"
# What is kept of stderr, and how often so much is read: what fits ssh's window, and no flood.
STDERR_KEPT, STDERR_READS = 1 << 16, 64
# paramiko logs to stderr when nobody else handles it; what went wrong is in its exceptions.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshHosts:
    """Makes hosts by name. The first of a name may ask the person; those after it ask nobody."""

    def __init__(self, entries: Mapping[str, HostEntry], doors: Doors) -> None:
        """`entries` by what they are called here: two of them may have one name of their own."""
        self._entries = dict(entries)
        self._doors = doors
        self._made: set[str] = set()

    def __call__(self, name: str, on_lost: OnLost) -> SshHost:
        doors = self._doors.for_another_try() if name in self._made else self._doors
        self._made.add(name)
        return SshHost(self._entries[name], doors, on_lost)


class SshHost:
    def __init__(self, entry: HostEntry, doors: Doors, on_lost: OnLost) -> None:
        self.name = entry.name
        self.overdue: float | None = None
        self.noise = ""
        self._entry = entry
        self._doors = doors
        self._stage = "waiting"
        self._target: Target | None = None
        self._resolving = threading.Lock()
        self._held: list[Closable] = []
        self._closing = threading.Lock()
        self._link = Link(entry.name, lambda error: on_lost(entry.name, error))
        self._given_up = False

    # ---- connecting ----

    def open(self, first: Sequence[Request]) -> list[Call]:
        """Connect, log in, start the agent with the first requests. Return these, under way."""
        try:
            return persistently(lambda: self._open(first), lambda: self._given_up)
        except HostError as error:
            error.host = error.host or self.name
            raise
        finally:
            self.overdue = None

    def _open(self, first: Sequence[Request]) -> list[Call]:
        self.enter("reading ssh's configuration", RESOLVE)
        target = self.target()
        connection = connect(target, self._doors, self)
        # The wait below has its own sentence for a shell that says nothing; it goes first.
        self.enter(STARTING, AGENT + 5)
        calls = [self._link.prepare(op) for op, _ in first]
        args = [arguments for _, arguments in first]
        channel = self._run(
            connection, self._link.command_line(list(zip(calls, args, strict=True)))
        )
        self._link.start(channel, lambda: _ending(channel), self._why_lost)
        self._link.wait_for_hello(AGENT)
        self.noise = self._link.noise.decode("utf-8", "replace")
        self._link.beat()
        return calls

    def target(self) -> Target:
        with self._resolving:  # who pings it asks at the same time; ssh is asked once
            if self._target is None:
                self._target = resolve(self._entry)
            return self._target

    @property
    def address(self) -> str | None:
        return self._target.host if self._target else None

    def ping_address(self) -> str:
        """Return where a ping from here goes. Raise HostError where none can."""
        target = self.target()
        if target.jumps or target.proxy_command:
            way = target.jumps[-1].name if target.jumps else "a ProxyCommand"
            raise HostError(f"reached through {way}; not pinged", check="net.ping")
        return target.host

    def _why_lost(self) -> LinkLost | None:
        why = self._doors.gateways.why_lost(self._target) if self._target else None
        return LinkLost(why, check="ssh.jump", host=self.name) if why else None

    def _run(self, connection: fabric.Connection, command: str) -> paramiko.Channel:
        try:
            channel: paramiko.Channel = connection.transport.open_session(timeout=CHANNEL)
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise AgentFailed(
                f"logged in, but sshd opens no session: {str(error) or type(error).__name__}",
                check="ssh.agent",
                host=self.name,
                hint="look at MaxSessions and ForceCommand in its sshd_config",
            ) from error
        return channel

    def enter(self, stage: str, seconds: float | None) -> None:
        if self._given_up:
            raise HostError("given up", check="ssh.reach")
        self._stage = stage
        self.overdue = time.monotonic() + seconds if seconds is not None else None

    def hold(self, closable: Closable) -> None:
        self._held.append(closable)
        if self._given_up:  # meanwhile; who gave it up may have closed all that was there
            closable.close()

    def abort(self) -> HostError:
        """Give up connecting: whatever it waits for ends with its socket."""
        self._given_up = True
        self._close_meanwhile()
        check = "ssh.agent" if self._stage == STARTING else "ssh.reach"
        return HostError(f"no answer while {self._stage}", check=check, host=self.name)

    # ---- talking ----

    def call(
        self,
        op: str,
        args: dict[str, Any],
        body: bytes = b"",
        on_event: Callable[[dict[str, Any], bytes], None] | None = None,
    ) -> Call:
        return self._link.call(op, args, body, on_event)

    def pulse(self, patience: float) -> None:
        """Beat, or give the connection up when nothing was heard for too long."""
        if self._link.silence() > patience:
            self._link.give_up(f"nothing was heard from it for {patience:.0f} s")
            self._close_meanwhile()
        else:
            self._link.beat()

    def silence(self) -> float:
        return self._link.silence()

    def our_time(self, theirs: float) -> float:
        return theirs - self._link.clock.offset

    def clock(self) -> tuple[float, float]:
        return self._link.clock.offset, self._link.clock.trip

    def close(self) -> None:
        self._given_up = True  # who still connects goes no further, and tries nothing again
        self._link.close()
        self._close_connection()

    def _close_meanwhile(self) -> None:
        """Close it for who has other hosts to look after: a ProxyCommand may take its time."""
        threading.Thread(
            target=self._close_connection, name=f"give up {self.name}", daemon=True
        ).start()

    def _close_connection(self) -> None:
        with self._closing:  # who comes second waits until all is closed
            for held in reversed(self._held):
                held.close()


def _ending(channel: paramiko.Channel) -> tuple[int | None, str]:
    """Return exit code, and the end of stderr, of a channel that has ended."""
    stderr = b""
    for _ in range(STDERR_READS):
        if not channel.recv_stderr_ready():
            break
        stderr = (stderr + channel.recv_stderr(STDERR_KEPT))[-STDERR_KEPT:]
    # The status may come a moment after the end of the output.
    if not channel.status_event.wait(5) or channel.exit_status < 0:
        return None, stderr.decode("utf-8", "replace")
    return channel.exit_status, stderr.decode("utf-8", "replace")
