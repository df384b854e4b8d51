"""A host, and the one way to it that is real: Fabric for the connection, our own channel to talk.

`Host` is the one protocol of the program: SshHost is one, and tests have another.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import fabric
import paramiko

from orchestrator import known_hosts
from orchestrator.errors import AgentFailed, DdpOrchError, HostError
from orchestrator.link import Call, Link
from orchestrator.target import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.model import Host as HostEntry
    from orchestrator.target import Target

# What each stage of connecting may take, in seconds.
RESOLVE, REACH, BANNER, LOGIN, AGENT = 8.0, 8.0, 10.0, 15.0, 25.0
# sshd drops connections at random when too many log in at once (MaxStartups 10:30:100).
TRIES = 4
# paramiko logs to stderr when nobody else handles it; what went wrong is in its exceptions.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

Request = tuple[str, dict[str, Any]]


class Host(Protocol):
    name: str
    overdue: float | None
    """When the stage of connecting that is under way has had its time, by the monotonic clock."""

    noise: str

    def open(self, first: Sequence[Request]) -> list[Call]: ...
    def abort(self) -> HostError: ...
    def call(
        self,
        op: str,
        args: dict[str, Any],
        body: bytes = b"",
        on_event: Callable[[dict[str, Any], bytes], None] | None = None,
    ) -> Call: ...
    def pulse(self, patience: float) -> None: ...
    def our_time(self, theirs: float) -> float: ...
    def close(self) -> None: ...


class KnownHosts:
    """The known_hosts files, each read and parsed once for all hosts."""

    def __init__(self, *, accept_new: bool) -> None:
        self.accept_new = accept_new
        self._entries: dict[str, tuple[known_hosts.Entry, ...]] = {}
        self._lock = threading.Lock()

    def lookup(self, files: tuple[str, ...], name: str) -> known_hosts.KnownKeys:
        entries = tuple(entry for file in files for entry in self._read(file))
        return known_hosts.lookup(entries, name)

    def _read(self, file: str) -> tuple[known_hosts.Entry, ...]:
        with self._lock:
            if file not in self._entries:
                text = ""
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    text = Path(file).read_text(encoding="utf-8", errors="replace")
                self._entries[file] = known_hosts.parse(text)
            return self._entries[file]

    def add(self, file: str, name: str, key: paramiko.PKey) -> None:
        path = Path(file)
        with self._lock:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            newline = "" if not old or old.endswith("\n") else "\n"
            path.touch(mode=0o600)
            with path.open("a", encoding="utf-8") as lines:
                lines.write(f"{newline}{name} {key.get_name()} {key.get_base64()}\n")


class CheckedKey(paramiko.MissingHostKeyPolicy):
    """Judges every host's key. paramiko, which is told of no known keys, asks before it logs in."""

    def __init__(self, target: Target, keys: known_hosts.KnownKeys, known: KnownHosts) -> None:
        self._target = target
        self._keys = keys
        self._known = known

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        name, files = known_name(self._target), self._target.known_hosts
        shown = f"{key.get_name()} {known_hosts.fingerprint(key.asbytes())}"
        if key.asbytes() in self._keys.revoked:
            raise HostError(f"its key {shown} is revoked in known_hosts", check="ssh.hostkey")
        if key.asbytes() in [trusted for _, trusted in self._keys.trusted]:
            return
        if self._keys.trusted:
            had = ", ".join(f"{k} {known_hosts.fingerprint(d)}" for k, d in self._keys.trusted)
            raise HostError(
                f"its key has CHANGED: {name} shows {shown}, but known_hosts has {had}; "
                "somebody may be in between",
                check="ssh.hostkey",
                hint=f"only if you know why it changed: ssh-keygen -R '{name}' -f {files[0]}, "
                "then run this again with --accept-new-host-keys",
            )
        if self._known.accept_new:
            self._known.add(files[0], name, key)
            return
        raise HostError(
            f"its key is not known: {name} shows {shown}; {files[0]} has none for it",
            check="ssh.hostkey",
            hint="compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` prints there; "
            "if it is the same, run this again with --accept-new-host-keys",
        )


class SshHost:
    """A host over SSH: one connection, one channel, one conversation."""

    def __init__(
        self, entry: HostEntry, known: KnownHosts, on_lost: Callable[[str, DdpOrchError], None]
    ) -> None:
        self.name = entry.name
        self.overdue: float | None = None
        self.noise = ""
        self._entry = entry
        self._known = known
        self._stage = "waiting"
        self._entered = 0.0
        self._socket: socket.socket | None = None
        self._connection: fabric.Connection | None = None
        self._link = Link(entry.name, lambda error: on_lost(entry.name, error))
        self._aborted = False

    # ---- connecting ----

    def open(self, first: Sequence[Request]) -> list[Call]:
        """Connect, log in, start the agent with the first requests. Return these, under way."""
        try:
            for attempt in range(TRIES):
                try:
                    return self._open(first)
                except _DroppedEarly as error:
                    if attempt == TRIES - 1 or self._aborted:
                        raise error.error from None
                    time.sleep(random.uniform(0.2, 1.0) * (attempt + 1))  # noqa: S311  spreads the load
            raise AssertionError("not reached")
        except HostError as error:
            error.host = error.host or self.name
            raise
        finally:
            self.overdue = None

    def _open(self, first: Sequence[Request]) -> list[Call]:
        self._enter("reading ssh's configuration", RESOLVE + 4)
        target = resolve(self._entry)
        connection = self._connect(target)
        # The wait below has its own sentence for a shell that says nothing; it goes first.
        self._enter("starting the agent", AGENT + 5)
        calls = [self._link.prepare(op) for op, _ in first]
        args = [arguments for _, arguments in first]
        channel = self._run(
            connection, self._link.command_line(list(zip(calls, args, strict=True)))
        )
        self._link.start(channel, lambda: _ending(channel))
        self._link.wait_for_hello(AGENT)
        self.noise = self._link.noise.decode("utf-8", "replace")
        self._link.beat()
        return calls

    def _connect(self, target: Target) -> fabric.Connection:
        self._enter(f"connecting to {target.host} port {target.port}", RESOLVE + REACH)
        sock = self._socket = dial(target)
        self._enter("waiting for its ssh server to speak", BANNER + LOGIN)
        keys = self._known.lookup(target.known_hosts, known_name(target))
        # A Config each, that reads no file: a shared one raced, and a fabric.yml is not ours.
        connection = self._connection = fabric.Connection(
            host=target.host,
            user=target.user,
            port=target.port,
            config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
            forward_agent=False,
            connect_kwargs={
                "sock": sock,
                "banner_timeout": BANNER,
                "auth_timeout": LOGIN,
                "channel_timeout": AGENT,
                "key_filename": list(target.identity_files),
                "allow_agent": target.use_agent,
                "look_for_keys": False,
                "transport_factory": partial(_transport, kinds=[kind for kind, _ in keys.trusted]),
            },
        )
        # Fabric itself would take any key without a word, a changed one too.
        policy = CheckedKey(target, keys, self._known)
        connection.client.set_missing_host_key_policy(policy)
        try:
            connection.open()
        except Exception as error:
            sock.close()
            raise self._explained(error, target) from error
        return connection

    def _run(self, connection: fabric.Connection, command: str) -> paramiko.Channel:
        try:
            channel: paramiko.Channel = connection.transport.open_session(timeout=AGENT)
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise AgentFailed(
                f"logged in, but sshd opens no session: {str(error) or type(error).__name__}",
                check="ssh.agent",
                host=self.name,
                hint="look at MaxSessions and ForceCommand in its sshd_config",
            ) from error
        return channel

    def _enter(self, stage: str, seconds: float) -> None:
        if self._aborted:
            raise HostError("given up", check="ssh.reach")
        self._stage = stage
        self._entered = time.monotonic()
        self.overdue = time.monotonic() + seconds

    def abort(self) -> HostError:
        """Give up connecting: whatever it waits for ends with its socket."""
        self._aborted = True
        self._close_connection()
        check = "ssh.agent" if self._stage.startswith("starting") else "ssh.reach"
        return HostError(f"no answer while {self._stage}", check=check, host=self.name)

    def _explained(self, error: Exception, target: Target) -> Exception:
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
                    hint="put a key there: "
                    f"ssh-copy-id -p {target.port} {target.user}@{target.host}",
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
                silent = time.monotonic() - self._entered > BANNER / 2
                return late if silent else _DroppedEarly(late)
            case paramiko.SSHException() | EOFError() | OSError():
                text = str(error) or "the connection was closed while logging in"
                failed = HostError(f"ssh: {text}", check="ssh.banner", hint=by_hand)
                return (
                    _DroppedEarly(failed)
                    if isinstance(error, EOFError | ConnectionError)
                    else failed
                )
            case _:  # our own, from CheckedKey; or a bug of ours, to be seen as it is
                return error

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
            self._close_connection()
        else:
            self._link.beat()

    def our_time(self, theirs: float) -> float:
        return theirs - self._link.clock_offset

    def close(self) -> None:
        self._link.close()
        self._close_connection()

    def _close_connection(self) -> None:
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.close()
        if self._socket is not None:
            self._socket.close()


class _DroppedEarly(Exception):
    """sshd hung up before it spoke: worth another try."""

    def __init__(self, error: HostError) -> None:
        super().__init__(str(error))
        self.error = error


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


def known_name(target: Target) -> str:
    return target.host_key_name or known_hosts.name_for(target.host, target.port)


def _ending(channel: paramiko.Channel) -> tuple[int | None, str]:
    """Return exit code and stderr of a channel that has ended."""
    stderr = b""
    while channel.recv_stderr_ready():
        stderr += channel.recv_stderr(1 << 16)
    # The status may come a moment after the end of the output.
    if not channel.status_event.wait(5) or channel.exit_status < 0:
        return None, stderr.decode("utf-8", "replace")
    return channel.exit_status, stderr.decode("utf-8", "replace")
