"""The lab, against real SSH clients: what every other test over SSH relies on."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import fabric
import paramiko
import pytest
import yaml

from inventory.model import Host, Inventory
from orchestrator import lab as lab_room
from orchestrator.lab import Lab, LabError, LabHost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lab needs Linux")
DEADLINE = 20.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(hosts=3, folder=tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def client(lab):
    with connected(lab, lab.hosts[0]) as client:
        yield client


@contextmanager
def connected(lab: Lab, host: LabHost, **given):
    client = paramiko.SSHClient()
    client.load_host_keys(str(lab.known_hosts))
    defaults = {
        "username": "lab",
        "key_filename": str(lab.identity_file),
        "timeout": DEADLINE,
        "look_for_keys": False,
        "allow_agent": False,
    }
    try:
        client.connect("127.0.0.1", host.port, **(defaults | given))
        client.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client
    finally:
        client.close()


def session(client: paramiko.SSHClient) -> paramiko.Channel:
    channel = client.get_transport().open_session(timeout=DEADLINE)
    channel.settimeout(DEADLINE)
    return channel


def execute(client: paramiko.SSHClient, command: str, stdin: bytes = b""):
    """Run a command to its end: code, stdout, stderr."""
    channel = session(client)
    channel.exec_command(command)
    channel.sendall(stdin)
    channel.shutdown_write()
    out, err = channel.makefile().read(), channel.makefile_stderr().read()
    return channel.recv_exit_status(), out, err


def line(channel: paramiko.Channel) -> str:
    return channel.makefile().readline().strip()


def eventually(holds) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "did not come to hold"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def lab_threads() -> set[threading.Thread]:
    # paramiko's clients live in this process too: what is ours goes by name or by class.
    mine = {t for t in threading.enumerate() if type(t).__module__ == lab_room.__name__}
    return mine | {t for t in threading.enumerate() if t.name.startswith("lab")}


def open_files() -> set[tuple[str, str]]:
    # The folder's own descriptor is gone by the time we ask what it is.
    return {(f.name, str(f.readlink())) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()}


# What it writes


def test_the_inventory_is_one_and_says_how_to_get_in(lab):
    written = yaml.safe_load(lab.inventory_path.read_text())
    defaults = written.pop("defaults")
    inventory = Inventory(
        hosts=[Host(**(defaults | host)) for host in written["hosts"]],
        same_machine=written["same_machine"],
    )
    assert [host.name for host in inventory.hosts] == ["lab1", "lab2", "lab3"]
    assert [host.destination for host in inventory.hosts] == [
        ("lab", "127.0.0.1", host.port) for host in lab.hosts
    ]
    assert inventory.same_machine
    assert defaults == {
        "identity_file": str(lab.identity_file),
        "known_hosts": str(lab.known_hosts),
        "ssh_config": "none",
        "python": sys.executable,
    }


def test_the_user_key_is_private_and_each_host_has_its_own(lab):
    assert stat.S_IMODE(lab.identity_file.stat().st_mode) == 0o600
    assert len({line.split()[2] for line in lab.known_hosts.read_text().splitlines()}) == 3


def test_all_it_writes_lies_in_the_folder(tmp_path):
    folder = tmp_path / "inside" / "lab"
    with Lab(hosts=1, folder=folder, python="python3.99") as lab:
        made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        assert yaml.safe_load(lab.inventory_path.read_text())["defaults"]["python"] == "python3.99"
    names = ("inventory.yaml", "id_ed25519", "known_hosts", "lab1")
    assert made == {"inside", "inside/lab", *(f"inside/lab/{name}" for name in names)}


def test_elsewhere_than_on_linux_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lab_room.sys, "platform", "darwin")
    with pytest.raises(LabError, match=r"^the lab needs Linux: .+$"):
        Lab(hosts=1, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# Commands


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes(client, code):
    assert execute(client, f"exit {code}") == (code, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_command_reports_128_and_the_signal(client, number):
    assert execute(client, f"echo on; kill -{number} $$") == (128 + number, b"on\n", b"")


def test_stdin_stdout_and_stderr_are_apart(client):
    assert execute(client, "cat; echo bad >&2; exit 3", b"good\n") == (3, b"good\n", b"bad\n")


def test_stdout_and_stderr_can_be_opened_again_by_name(client):
    command = "echo out > /dev/stdout; echo err > /dev/stderr"
    assert execute(client, command) == (0, b"out\n", b"err\n")


def test_output_reaches_us_while_the_command_runs(client):
    channel = session(client)
    channel.exec_command("echo ready; read word; echo got $word; exit 5")
    assert line(channel) == "ready"
    channel.sendall(b"it\n")
    assert line(channel) == "got it"
    assert channel.recv_exit_status() == 5


def test_output_is_complete_before_the_status_even_when_a_child_still_writes(client):
    channel = session(client)
    channel.exec_command("exec 3<&0; (read word <&3; echo late) & echo $$; exit 4")
    pid = int(line(channel))
    eventually(lambda: not alive(pid))
    assert not channel.exit_status_ready()
    channel.sendall(b"go\n")
    assert channel.makefile().read() == b"late\n"
    assert channel.recv_exit_status() == 4


def test_eof_comes_when_the_command_closes_its_output_not_when_it_ends(client):
    channel = session(client)
    channel.exec_command("exec >&- 2>&-; read word; exit 6")
    assert channel.recv(1) == b""
    assert not channel.exit_status_ready()
    channel.sendall(b"go\n")
    assert channel.recv_exit_status() == 6


def test_a_command_that_ignores_its_stdin_does_not_hold_up_the_writer(client):
    channel = session(client)
    channel.exec_command("mkfifo gate; exec <&-; echo closed; read word < gate; rm gate; exit 8")
    assert line(channel) == "closed"
    channel.sendall(b"x" * (8 << 20))  # four windows: stuck unless somebody reads them
    assert execute(client, "echo > gate")[0] == 0
    assert channel.recv_exit_status() == 8


def test_20_mb_each_way_arrive_unchanged(client):
    block = os.urandom(1 << 20)
    channel = session(client)
    channel.exec_command("cat")
    sent, got = hashlib.sha256(), hashlib.sha256()

    def write():
        for _ in range(20):
            channel.sendall(block)
            sent.update(block)
        channel.shutdown_write()

    writer = threading.Thread(target=write)
    writer.start()
    while data := channel.recv(1 << 20):
        got.update(data)
    writer.join()
    assert got.digest() == sent.digest()
    assert channel.recv_exit_status() == 0


def test_many_channels_at_once_on_one_connection(client):
    channels = [session(client) for _ in range(40)]
    for number, channel in enumerate(channels):
        channel.exec_command(f"read word; echo $word; exit {number}")
    for number, channel in reversed(list(enumerate(channels))):
        channel.sendall(b"%d\n" % number)
    assert [(line(c), c.recv_exit_status()) for c in channels] == [(str(n), n) for n in range(40)]


def test_a_quick_command_never_overtakes_the_reply_to_its_request(client, monkeypatch):
    prompt = lab_room._Connection.execute

    def slow(connection, channel, command):
        # Hold the reply back: a session that does not wait for it ends, and closes, before it.
        accepted = prompt(connection, channel, command)
        channel.status_event.wait(0.2)
        return accepted

    monkeypatch.setattr(lab_room._Connection, "execute", slow)
    assert execute(client, "echo quick; exit 3") == (3, b"quick\n", b"")


def test_the_environment_is_the_one_that_sshd_gives(lab, client, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    code, out, _ = execute(client, "env; pwd; ps -o sid= -p $$ 2>/dev/null || :")
    lines = out.decode().splitlines()
    env = dict(text.split("=", 1) for text in lines if "=" in text)
    home = str(lab.hosts[0].home)
    _, client_port = client.get_transport().sock.getsockname()
    assert code == 0
    assert home in lines
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == (home, "lab", "lab")
    assert (env["SHELL"], env["LANG"]) == ("/bin/sh", "C.UTF-8")
    assert env["SSH_CONNECTION"] == f"127.0.0.1 {client_port} 127.0.0.1 {lab.hosts[0].port}"
    assert env["PATH"].endswith(":/usr/local/bin:/usr/bin:/bin")
    assert "SECRET_OF_THE_CALLER" not in env


def test_every_host_has_a_home_and_python3(lab):
    for host in lab.hosts:
        with connected(lab, host) as client:
            command = "cd && pwd && python3 -c 'import os; print(os.getsid(0) == os.getppid())'"
            assert execute(client, command)[:2] == (0, f"{host.home}\nTrue\n".encode())


@pytest.mark.parametrize("command", ["a\0b", "x" * (1 << 20)], ids=["nul", "too long"])
def test_a_command_that_cannot_be_started_is_refused_and_the_connection_lives(client, command):
    with pytest.raises(paramiko.SSHException):
        session(client).exec_command(command)
    assert execute(client, "echo on")[1] == b"on\n"


def test_no_pty_shell_sftp_forwarding_or_second_command(client):
    for refused in ("get_pty", "invoke_shell"):
        with pytest.raises(paramiko.SSHException):
            getattr(session(client), refused)()
    with pytest.raises(paramiko.SSHException):
        client.open_sftp()
    transport = client.get_transport()
    with pytest.raises(paramiko.ChannelException):
        transport.open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 1))
    with pytest.raises(paramiko.SSHException):
        transport.request_port_forward("127.0.0.1", 0)
    channel = session(client)
    channel.exec_command("cat")
    with pytest.raises(paramiko.SSHException):
        channel.exec_command("echo second")


# Other clients


def test_fabric(lab):
    host = lab.hosts[1]
    config = fabric.Config(overrides={"load_ssh_configs": False})
    with fabric.Connection(
        "127.0.0.1",
        user="lab",
        port=host.port,
        config=config,
        connect_kwargs={"key_filename": str(lab.identity_file), "allow_agent": False},
    ) as connection:
        command = "echo out; echo err >&2; exit 9"
        result = connection.run(command, hide=True, warn=True, in_stream=False)
    assert (result.exited, result.stdout, result.stderr) == (9, "out\n", "err\n")


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh program")
def test_openssh(lab):
    host = lab.hosts[2]
    options = {
        "UserKnownHostsFile": lab.known_hosts,
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
    }
    words = ["ssh", "-F", "none", "-i", str(lab.identity_file), "-p", str(host.port)]
    words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    sent = os.urandom(4 << 20)
    done = subprocess.run(
        [*words, "lab@127.0.0.1", "cat; echo err >&2; kill -9 $$"],
        input=sent,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (137, b"err\n")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()


# Who is let in


def test_another_key_another_user_and_passwords_are_refused(lab, tmp_path):
    host = lab.hosts[0]
    with Lab(hosts=0, folder=tmp_path) as other:
        stranger = str(other.identity_file)
    for given in (
        {"key_filename": stranger},
        {"username": "root"},
        {"key_filename": None, "password": "lab"},
    ):
        with pytest.raises(paramiko.AuthenticationException), connected(lab, host, **given):
            pass


def test_a_key_that_is_only_offered_opens_nothing(lab):
    with socket.create_connection(("127.0.0.1", lab.hosts[0].port), DEADLINE) as sock:
        transport = paramiko.Transport(sock)
        transport.start_client(timeout=DEADLINE)
        with pytest.raises(paramiko.SSHException):
            transport.open_session(timeout=DEADLINE)
        transport.close()


# When the client goes


def started(client: paramiko.SSHClient, command: str) -> tuple[paramiko.Channel, int]:
    """Run a command that first prints a process id."""
    channel = session(client)
    channel.exec_command(command)
    return channel, int(line(channel))


# It writes nothing and reads nothing: it sees its pipes go, and what is left in stdin ends in EOF.
WATCH = """
import os, select, signal
signal.signal(signal.SIGHUP, lambda *_: open("hup", "w"))
print(os.getpid(), flush=True)
poll, left = select.poll(), {0, 1, 2}
for fd in left:
    poll.register(fd, 0)
while left:
    for fd, _ in poll.poll():
        poll.unregister(fd)
        left.discard(fd)
while os.read(0, 1 << 16):
    pass
open("alone", "w")
"""


@pytest.mark.parametrize("stdin", [b"", b"x" * (1 << 20)], ids=["idle", "stdin full"])
@pytest.mark.parametrize("end", ["channel", "client", "drop"])
def test_when_the_link_ends_the_command_loses_its_pipes_and_gets_no_signal(lab, client, end, stdin):
    home = lab.hosts[0].home
    (home / "watch.py").write_text(WATCH)
    (home / "alone").unlink(missing_ok=True)
    channel, pid = started(client, "exec python3 watch.py")
    channel.sendall(stdin)
    assert alive(pid)
    {"channel": channel.close, "client": client.close, "drop": lab.hosts[0].drop_connections}[end]()
    eventually((home / "alone").exists)
    eventually(lambda: not alive(pid))
    assert not (home / "hup").exists()


def test_a_silent_command_outlives_its_connection_with_eof_on_stdin(lab, client):
    _, pid = started(client, "echo $$; cat; touch eof; exec sleep 1000")
    client.close()
    eventually((lab.hosts[0].home / "eof").exists)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


# Switches


def refused(host: LabHost) -> bool:
    try:
        socket.create_connection(("127.0.0.1", host.port), DEADLINE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_stopped_host_drops_and_refuses_and_comes_back_the_same(lab):
    host = lab.hosts[1]
    for _ in range(2):
        with connected(lab, host) as client:
            host.stop()
            host.stop()
            eventually(lambda client=client: not client.get_transport().is_active())
            assert refused(host)
            host.start()
            host.start()
        with connected(lab, host) as client:
            assert execute(client, "echo back")[1] == b"back\n"


def test_a_new_host_key_is_noticed(lab):
    host = lab.hosts[1]
    old = host.key
    host.new_host_key()
    try:
        with pytest.raises(paramiko.BadHostKeyException), connected(lab, host):
            pass
    finally:
        host.key = old


def test_a_frozen_host_accepts_and_says_nothing_until_it_thaws(lab):
    host = lab.hosts[1]
    with connected(lab, host) as before:
        host.freeze()
        with socket.create_connection(("127.0.0.1", host.port), DEADLINE) as sock:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            assert execute(before, "echo on")[1] == b"on\n"
            host.start()
            sock.settimeout(DEADLINE)
            assert sock.recv(4) == b"SSH-"


def test_a_stopped_host_can_freeze(lab):
    host = lab.hosts[1]
    host.stop()
    host.freeze()
    try:
        assert not refused(host)
    finally:
        host.start()


def test_dropped_connections_end_and_the_next_is_welcome(lab):
    host, neighbour = lab.hosts[1:]
    with (
        connected(lab, host) as one,
        connected(lab, host) as two,
        connected(lab, neighbour) as other,
    ):
        channel, pid = started(one, "echo $$; exec sleep 1000")
        host.drop_connections()
        for client in (one, two):
            eventually(lambda client=client: not client.get_transport().is_active())
        assert channel.recv(1) == b""
        assert alive(pid)
        assert execute(other, "echo on")[1] == b"on\n"
    with connected(lab, host) as client:
        assert execute(client, f"kill {pid}")[0] == 0


# The end


def test_close_leaves_no_process_thread_or_file(tmp_path):
    threads, files = lab_threads(), open_files()
    daemon = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(999)"
    commands = [
        "echo $$; exec sleep 1000",
        "trap '' HUP TERM; echo $$; while :; do sleep 1000; done",
        "sleep 1000 & echo $!; wait",
        "env -i sleep 1000 & echo $!; wait",
        f'python3 -c "{daemon}" & wait',
        f'(python3 -c "{daemon}" <&- 2>&- &); exit',
    ]
    with (
        Lab(hosts=2, folder=tmp_path) as lab,
        connected(lab, lab.hosts[0]) as one,
        connected(lab, lab.hosts[1]) as two,
    ):
        runs = [started(one, command) for command in commands]
        full = session(two)
        full.exec_command("exec sleep 1000")
        full.sendall(b"x" * (1 << 20))
        assert len(lab_threads() - threads) > len(commands)
        assert all(alive(pid) for _, pid in runs)
        lab.hosts[1].freeze()
        waiting = socket.create_connection(("127.0.0.1", lab.hosts[1].port), DEADLINE)
        lab.close()
        eventually(lambda: not any(alive(pid) for _, pid in runs))
        assert not lab_threads() - threads
        assert all(refused(host) for host in lab.hosts)
        waiting.close()
    eventually(lambda: open_files() <= files)  # the clients' own go with their threads


def test_close_kills_only_what_the_lab_started(tmp_path):
    bystander = subprocess.Popen(["sleep", "1000"])
    other = Lab(hosts=1, folder=tmp_path / "other")
    with other, connected(other, other.hosts[0]) as client:
        _, pid = started(client, "echo $$; exec sleep 1000")
        with Lab(hosts=1, folder=tmp_path / "lab"):
            pass
        assert alive(pid)
        assert alive(bystander.pid)
    assert not alive(pid)
    bystander.kill()
    bystander.wait()


def test_a_lab_that_cannot_start_leaves_nothing(tmp_path):
    threads, files = lab_threads(), open_files()
    (tmp_path / "lab2").write_text("in the way")
    with pytest.raises(FileExistsError):
        Lab(hosts=2, folder=tmp_path)
    assert not lab_threads() - threads
    assert open_files() <= files


NOISE = """
import socket, sys, threading
from pathlib import Path
from orchestrator.lab import Lab

hello = b"SSH-2.0-x\\r\\n"
knocks = (b"", b"GET / HTTP/1.1\\r\\n\\r\\n", hello, hello + b"x" * 99)
with Lab(hosts=1, folder=Path(sys.argv[1])) as lab:
    for text in knocks:
        with socket.create_connection(("127.0.0.1", lab.hosts[0].port)) as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
left = [t for t in threading.enumerate() if t is not threading.main_thread()]
for thread in left:
    thread.join(30)
print([t.name for t in left if t.is_alive()])
"""


def test_strangers_who_knock_make_no_noise_and_leave_no_thread(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NOISE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
