"""N SSH hosts on loopback, inside this process, from paramiko's server side.

A host lets one throwaway key in and runs commands (`exec`) as sshd does: `/bin/sh -c` in a session
of its own, over three pipes, in a clean environment, with a home of its own. It has no pty, no
shell, no sftp and no forwarding. A command that signal N killed reports 128 + N. It rests on:

1. A channel that closes (the client's doing, or a lost connection) closes the pipes: the command
   reads EOF, its writes fail. As with OpenSSH without a pty no signal is sent; it may live on.
2. `Lab.close` kills what lives on: by process group, then by a variable in the environment that all
   processes started here inherit. Only one that left its group *and* wiped its environment escapes.
3. paramiko reads the next message once it has dealt with the last and sent the reply; `_Packets`
   tells us of that moment: an exec's output must not overtake its reply, and closed channels show.
4. A bound socket that does not listen holds each port: a host that is down refuses, and finds its
   port free when it comes back.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import paramiko
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko import common
from paramiko.packet import Packetizer

from orchestrator.errors import DdpOrchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from paramiko.message import Message

ADDRESS = "127.0.0.1"
USER = "lab"
COOKIE = "DDP_ORCH_LAB"
# paramiko's receive window: read all there is, its buffer is slow to read in parts.
WINDOW = 2 << 20
CHUNK = 32_000  # one read, one packet: paramiko's limit is 32 kB less its header
DEATH = 10.0  # seconds that SIGKILL may take until we name the survivors
LINK_LOST = (OSError, EOFError, paramiko.SSHException)  # what paramiko raises, by where it noticed

_LOG = logging.getLogger("orchestrator.lab")
_LOG.addHandler(logging.NullHandler())
# A client that goes away is an "error" to paramiko's server, not to our user.
_LOG.propagate = False


class LabError(DdpOrchError):
    """The lab cannot be had here, or could not be taken down."""


class _Session(threading.Thread):
    """One command: its process, and two threads that carry bytes between pipes and channel."""

    def __init__(
        self, channel: paramiko.Channel, command: bytes, home: Path, env: dict[str, str]
    ) -> None:
        super().__init__(name=f"lab-session-{channel.get_id()}", daemon=True)
        self.channel = channel
        self.process = subprocess.Popen(
            [b"/bin/sh", b"-c", command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env=env,
            start_new_session=True,
        )
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self._stdin, self._stdout, self._stderr = (cast("IO[bytes]", pipe) for pipe in pipes)
        # Closing the one end makes the other readable, for both threads and for good.
        self._hung_up, self._line = socket.socketpair()

    @property
    def over(self) -> bool:
        return self.process.returncode is not None and not self.is_alive()

    def hang_up(self) -> None:
        """Have both threads let go of the pipes; harmless when repeated."""
        self._line.close()

    def run(self) -> None:
        feeder = threading.Thread(target=self._feed, name=f"{self.name}-stdin", daemon=True)
        feeder.start()
        with suppress(*LINK_LOST):
            self._drain()
            self.channel.shutdown_write()
        self._stdout.close()
        self._stderr.close()
        self._report(self.process.wait())
        self.hang_up()
        feeder.join()
        self._hung_up.close()

    def _drain(self) -> None:
        """Send what the command writes, until it has closed both pipes or nobody listens."""
        send = {
            self._stdout.fileno(): self.channel.sendall,
            self._stderr.fileno(): self.channel.sendall_stderr,
        }
        poll = select.poll()
        for fd in (*send, self._hung_up.fileno()):
            poll.register(fd, select.POLLIN)
        while send:
            for fd, _ in poll.poll():
                if fd not in send:
                    return
                if data := os.read(fd, CHUNK):
                    send[fd](data)
                else:
                    poll.unregister(fd)
                    del send[fd]

    def _report(self, code: int) -> None:
        with suppress(*LINK_LOST):
            if not self.channel.closed:
                self.channel.send_exit_status(code if code >= 0 else 128 - code)
            self.channel.close()

    def _feed(self) -> None:
        with suppress(*LINK_LOST), self._stdin:
            taken = True
            while data := self.channel.recv(WINDOW):
                # Once the command has closed its stdin we read on all the same: a client that
                # writes must not be stuck in front of a window that never opens again.
                taken = taken and self._write(data)

    def _write(self, data: bytes) -> bool:
        """Hand all of it to the command; False when it, or the channel, takes no more."""
        fd, left = self._stdin.fileno(), memoryview(data)
        os.set_blocking(fd, False)  # of our end alone: the command's is another open file
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.register(self._hung_up.fileno(), select.POLLIN)
        while left:
            if fd not in dict(poll.poll()):
                return False
            try:
                left = left[os.write(fd, left) :]
            except BrokenPipeError:
                return False
        return True


class _Packets(Packetizer):
    """Calls `settled` whenever the last message has been dealt with and its reply sent."""

    settled: Callable[[], None]

    def read_message(self) -> tuple[int, Message]:
        self.settled()
        return super().read_message()


class _Connection(paramiko.Transport):
    """A client's connection, and the sessions that run over it."""

    def __init__(self, host: LabHost, sock: socket.socket, peer: tuple[str, int]) -> None:
        super().__init__(sock, packetizer_class=_Packets)
        cast("_Packets", self.packetizer).settled = self._settle
        self.set_log_channel(_LOG.name)
        self.add_server_key(host.key)
        self.host = host
        self._route = f"{peer[0]} {peer[1]} {ADDRESS} {host.port}"
        self._new: list[_Session] = []
        self._open: list[_Session] = []

    def run(self) -> None:
        super().run()
        self._settle()
        self.packetizer.complete_handshake()  # else its timer, a thread, may outlive us by 15 s

    def cut(self) -> None:
        """End it at once; close() alone would wait for a poll of paramiko's to end."""
        with suppress(OSError):  # it has ended by itself
            self.sock.shutdown(socket.SHUT_RDWR)
        self.join()

    def execute(self, channel: paramiko.Channel, command: bytes) -> bool:
        with self.lock:
            if channel not in self.server_accepts:
                return False  # a channel runs one command
            # There it waits for an accept() that nobody calls; from here on the session holds it.
            self.server_accepts.remove(channel)
        try:
            session = self.host._spawn(channel, command, self._route)
        except (OSError, ValueError):
            return False  # longer than the kernel allows, or with a NUL inside
        self._new.append(session)
        return True

    def _settle(self) -> None:
        while self._new:
            self._open.append(self._new.pop())
            self._open[-1].start()
        closed = [session for session in self._open if session.channel.closed]
        for session in closed:
            session.hang_up()
            self._open.remove(session)


class _Rules(paramiko.ServerInterface):
    """Who may come in, and what for. paramiko's defaults refuse all else."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == USER and key == self.connection.host.user_key
        return common.AUTH_SUCCESSFUL if known else common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return common.OPEN_SUCCEEDED
        return common.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self.connection.execute(channel, command)


class LabHost:
    """One host: up from the start, and with switches for what goes wrong with hosts."""

    def __init__(self, name: str, home: Path, user_key: paramiko.PKey, cookie: str) -> None:
        self.name, self.home, self.user_key = name, home, user_key
        self.key = _key(_private_key())
        self._cookie = cookie
        self._lock = threading.Lock()
        self._sessions: list[_Session] = []
        self._connections: list[_Connection] = []
        self._listener: socket.socket | None = None
        self._door: threading.Thread | None = None
        self._leave, self._leaving = socket.socketpair()
        home.mkdir(exist_ok=True)
        self._place = _bound(0)
        self.port: int = self._place.getsockname()[1]

    def start(self) -> None:
        """Be up, at the same port; clients that `freeze` kept waiting are served."""
        if self._door is None:
            listener = self._listen()
            self._door = threading.Thread(
                target=self._accept, args=(listener,), name=f"{self.name}-accept", daemon=True
            )
            self._door.start()

    def freeze(self) -> None:
        """Be a frozen sshd: the kernel accepts, nobody says a word. Older connections live on."""
        self._listen()
        self._shut_door()

    def stop(self) -> None:
        """Be down: connections are dropped and refused. Commands live on without their pipes."""
        self._shut_door()
        if self._listener:
            self._listener.close()
            self._listener = None
        self.drop_connections()

    def drop_connections(self) -> None:
        """Cut every established connection; what runs loses its pipes and lives on."""
        for connection in list(self._connections):
            connection.cut()

    def new_host_key(self) -> None:
        """Be another machine to the next client; known_hosts keeps the old key."""
        self.key = _key(_private_key())

    def close(self) -> list[_Session]:
        """Stop for good; return the sessions to end."""
        self.stop()
        for sock in (self._place, self._leave, self._leaving):
            sock.close()
        return self._sessions

    def _listen(self) -> socket.socket:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.setblocking(False)
            self._listener.listen(128)
        return self._listener

    def _shut_door(self) -> None:
        if self._door:
            self._leave.send(b"x")
            self._door.join()
            self._leaving.recv(1)
            self._door = None

    def _accept(self, listener: socket.socket) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._leaving, select.POLLIN)
        while self._leaving.fileno() not in dict(poll.poll()):
            with suppress(BlockingIOError, ConnectionError):  # a client that did not wait
                sock, peer = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(self, sock, peer)
                connection.start_server(event=threading.Event(), server=_Rules(connection))
                self._connections = [c for c in self._connections if c.is_alive()] + [connection]

    def _spawn(self, channel: paramiko.Channel, command: bytes, route: str) -> _Session:
        # python3 must be found, also where it lives only in a virtual environment.
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        env = {
            "HOME": str(self.home),
            "USER": USER,
            "LOGNAME": USER,
            "SHELL": "/bin/sh",
            "PATH": path,
            "LANG": "C.UTF-8",
            "SSH_CONNECTION": route,
            COOKIE: self._cookie,
        }
        session = _Session(channel, command, self.home, env)
        with self._lock:  # connections do this each in its own thread
            self._sessions = [s for s in self._sessions if not s.over] + [session]
        return session


class Lab:
    """Hosts lab1, lab2, ... in `folder`, which is the caller's; nothing outside is touched."""

    def __init__(self, hosts: int, folder: Path, python: str = sys.executable) -> None:
        _need_linux()
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.inventory_path = folder / "inventory.yaml"
        self.identity_file = folder / "id_ed25519"
        self.known_hosts = folder / "known_hosts"
        self.hosts: tuple[LabHost, ...] = ()
        self._cookie = secrets.token_hex(16)
        try:
            user_key = self._write_identity()
            for name in (f"lab{number}" for number in range(1, hosts + 1)):
                self.hosts += (LabHost(name, folder / name, user_key, self._cookie),)
            self._write_known_hosts()
            self._write_inventory(python)
            for host in self.hosts:
                host.start()
        except BaseException:  # Ctrl-C too: what has been started is taken down before it goes on
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all servers, and every process started through them; harmless when repeated."""
        sessions = [session for host in self.hosts for session in host.close()]
        survivors = _kill(sessions, f"{COOKIE}={self._cookie}".encode())
        for session in sessions:
            session.join(DEATH)
        if survivors:
            raise LabError(f"still alive after SIGKILL: {', '.join(map(str, sorted(survivors)))}")

    def _write_identity(self) -> paramiko.PKey:
        text = _private_key()
        self.identity_file.unlink(missing_ok=True)
        self.identity_file.touch(mode=0o600)
        self.identity_file.write_text(text)
        return _key(text)

    def _write_known_hosts(self) -> None:
        lines = (
            f"[{ADDRESS}]:{h.port} {h.key.get_name()} {h.key.get_base64()}\n" for h in self.hosts
        )
        self.known_hosts.write_text("".join(lines))

    def _write_inventory(self, python: str) -> None:
        inventory = {
            "hosts": [{"name": h.name, "ssh": f"{USER}@{ADDRESS}:{h.port}"} for h in self.hosts],
            "defaults": {
                "identity_file": str(self.identity_file),
                "known_hosts": str(self.known_hosts),
                "ssh_config": "none",
                "python": python,
            },
            "same_machine": True,
        }
        self.inventory_path.write_text(yaml.safe_dump(inventory, sort_keys=False))


def _need_linux() -> None:
    if sys.platform != "linux":
        raise LabError("the lab needs Linux: it finds the processes it started in /proc")


def _private_key() -> str:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return pem.decode()


def _key(private: str) -> paramiko.PKey:
    return paramiko.Ed25519Key(file_obj=io.StringIO(private))


def _bound(port: int) -> socket.socket:
    """Bind a socket; with SO_REUSEADDR a second one may have the same port while none listens."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((ADDRESS, port))
    return sock


def _kill(sessions: Collection[_Session], mark: bytes) -> set[int]:
    """Kill the sessions' process groups, then whoever carries the mark; return who is left."""
    for session in sessions:
        # Not reaped, so its number is still its own. Its group holds what wiped its environment.
        if session.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(session.process.pid, signal.SIGKILL)
    # Twice clean: a process in the middle of an exec shows no environment for a moment.
    deadline, clean = time.monotonic() + DEATH, 0
    while True:
        alive = _marked(mark)
        clean = 0 if alive else clean + 1
        if clean == 2 or time.monotonic() > deadline:
            return alive
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _marked(mark: bytes) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended, or is another user's
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found
