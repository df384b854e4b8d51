"""Hosts that are lost and come back: a fleet on the controller, told by the test what to do."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.processes import until
from tests.hosts.test_route import hosts as ssh_config
from tests.hosts.test_route import inventory, only_from

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

# A lost link may take so long to be noticed where TCP says nothing: the patience, and a beat.
BOUND = 35.0
# Reads commands as lines, and prints what comes out of the fleet as lines. Its arguments after the
# inventory are what the user types when asked; once they are used up, a question is an error.
DRIVER = """
import json, sys, threading, time
from pathlib import Path
from inventory.load import load
from orchestrator.errors import DdpOrchError
from orchestrator.run import Options, doors_for, fleet_of

typed = iter(sys.argv[2:])
options = Options(ask=(lambda prompt: next(typed)) if len(sys.argv) > 2 else None)
chosen = load(Path(sys.argv[1]))
fleet = fleet_of(chosen.hosts, doors_for(options))
say = lambda kind, **more: print(json.dumps({"kind": kind, **more}), flush=True)
for host, got in fleet.connect(lambda _: []).items():
    say(type(got).__name__, host=host)
commands, over = [], threading.Event()
def read():
    for line in sys.stdin:
        commands.append(json.loads(line))
    over.set()
threading.Thread(target=read, daemon=True).start()
while not over.is_set() or commands:
    while commands:
        what, *hosts = commands.pop(0)
        for host in hosts:
            if what == "reconnect":
                fleet.reconnect(host)
            else:
                spec = {"argv": ["sh", "-c", what], "env": {}, "cwd": None}
                fleet.stream(host, "command.run", spec)
    item = fleet.next(0.05)
    if item is not None:
        kind = type(item).__name__
        error, body = getattr(item, "error", None), getattr(item, "body", b"")
        say(kind, host=item.host, error=error and error.message, body=body.decode())
fleet.close()
say("closed")
end = time.monotonic() + 20
while (left := {t.name for t in threading.enumerate()} - {"MainThread", "pulse"}):
    if time.monotonic() > end:
        break
    time.sleep(0.05)
say("threads", left=sorted(left))
"""


class Driver:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._early = b""

    def tell(self, *words: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def heard(self, seconds: float = 60.0) -> dict[str, Any]:
        """Return what it says next."""
        assert self.process.stdout
        end = time.monotonic() + seconds
        while b"\n" not in self._early:
            ready = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready[0], f"nothing said in {seconds:.0f} s; {self._early!r}"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, "it has ended"
            self._early += data
        line, _, self._early = self._early.partition(b"\n")
        return json.loads(line)

    def all(self, kind: str, count: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Return what is said next, which is so many of a kind, by host."""
        said = [self.heard(seconds) for _ in range(count)]
        assert {each["kind"] for each in said} == {kind}, said
        return sorted(said, key=lambda each: each["host"])

    def run(self, host: str, command: str) -> str:
        self.tell(command, host)
        said = ""
        while (each := self.heard())["kind"] == "Arrived":
            said += each["body"]
        assert (each["kind"], each["error"], each["host"]) == ("Finished", None, host), each
        return said.strip()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.heard(20) == {"kind": "closed"}
        assert self.heard() == {"kind": "threads", "left": []}
        assert self.process.wait(20) == 0


@contextmanager
def driven(cluster: Cluster, file: Path, *typed: str) -> Iterator[Driver]:
    argv = [sys.executable, "-c", DRIVER, file, *typed]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with cluster.popen(argv, **pipes) as process:
        try:
            yield Driver(process)
        finally:
            process.kill()


def kill_sessions(host: NsHost) -> None:
    for pid, line in host.pids().items():
        if line.startswith("sshd"):
            host.kill(pid)


def logins(host: NsHost) -> int:
    return host.log.read_text().count("Accepted publickey")


@pytest.mark.slow
def test_a_connection_that_is_killed_is_lost_and_made_anew(cluster: Cluster) -> None:
    with driven(cluster, cluster.inventory(["n1", "n2"])) as driver:
        driver.all("Joined", 2)
        driver.tell("echo begun; sleep 3600", "n1")
        assert driver.heard()["body"] == "begun\n"
        for _ in range(3):
            kill_sessions(cluster["n1"])
            said = [driver.heard() for _ in range(2 if _ == 0 else 1)]
            assert [(each["kind"], each["host"]) for each in said][-1] == ("Lost", "n1")
            assert said[0]["error"] == "the connection was closed"
            assert _ or said[0]["kind"] == "Finished", "what was asked of it has ended first"
            driver.tell("reconnect", "n1", "n1")
            driver.all("Rejoined", 1)
            assert driver.run("n1", "hostname") == cluster["n1"].hostname
        assert driver.run("n2", "hostname") == cluster["n2"].hostname
        cluster["n1"].stop_sshd()
        kill_sessions(cluster["n1"])
        driver.all("Lost", 1)
        driver.tell("reconnect", "n1")
        (away,) = driver.all("StillAway", 1)
        assert away["error"] == "10.77.0.9 refuses connections on port 22"
        cluster["n1"].start_sshd()
        driver.tell("reconnect", "n1")
        driver.all("Rejoined", 1)
        # Of all those connections one is left, of ours and of sshd's.
        until(lambda: sockets(driver) == 2, "one socket for each host")
        agents = lambda: [line for line in cluster["n1"].pids().values() if "python" in line]  # noqa: E731
        until(lambda: len(agents()) == 1, "one agent")
        driver.close()


def sockets(driver: Driver) -> int:
    folder = f"/proc/{driver.process.pid}/fd"
    found = 0
    for entry in os.listdir(folder):  # noqa: PTH208  of another process
        try:
            found += os.readlink(f"{folder}/{entry}").startswith("socket:")  # noqa: PTH115
        except FileNotFoundError:
            continue
    return found


@pytest.mark.slow
def test_a_cable_that_is_pulled_and_a_connection_over_it(cluster: Cluster) -> None:
    """TCP says nothing, and nothing is sent but the beats: the loss is noticed all the same."""
    with driven(cluster, cluster.inventory(["n1", "n2"])) as driver:
        driver.all("Joined", 2)
        cluster["n1"].link_down()
        (lost,) = driver.all("Lost", 1, seconds=BOUND + 5)
        assert lost["host"] == "n1"
        driver.tell("reconnect", "n1")
        (away,) = driver.all("StillAway", 1)
        assert away["host"] == "n1"
        cluster["n1"].link_up()
        driver.tell("reconnect", "n1")
        driver.all("Rejoined", 1)
        assert driver.run("n1", "hostname") == cluster["n1"].hostname
        driver.close()
    # The old one ends by itself, where its beats stay away.
    cluster["n1"].kill_all()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_gateway_is_logged_into_once_more_for_all_behind_it(cluster: Cluster, how: str) -> None:
    names = ["a", "b", "c"]
    aliases = "".join(f"Host {n}\n  HostName 10.77.0.100\n  ProxyJump n1\n" for n in names)
    gate, far = cluster["n1"], cluster["n3"]
    only_from(far, gate)
    config = f"Host *\n  ConnectTimeout 3\n{aliases}{ssh_config(cluster)}"
    file = inventory(cluster, names, config)
    before = logins(gate)
    with driven(cluster, file) as driver:
        driver.all("Joined", 3)
        assert logins(gate) == before + 1
        if how == "killed":
            kill_sessions(gate)
            until(lambda: "root" not in " ".join(gate.pids().values()), "no session is left")
        else:  # its sessions live, but say nothing, and TCP is content
            freeze_sessions(gate)
        lost = driver.all("Lost", 3, seconds=BOUND + 5)
        if how == "killed":
            assert {each["error"] for each in lost} == {
                "its gateway n1 was lost, and all behind it"
            }
        driver.tell("reconnect", *names)
        driver.all("Rejoined", 3)
        assert logins(gate) == before + 2
        assert driver.run("b", "hostname") == far.hostname
        until(lambda: sockets(driver) == 1, "the gateway's old connection is closed")
        # While it is down all fail alike; as soon as it is up, they are back.
        gate.stop_sshd()
        gate.kill_all()
        driver.all("Lost", 3)
        driver.tell("reconnect", *names)
        away = driver.all("StillAway", 3)
        refused = "its gateway n1: 10.77.0.9 refuses connections on port 22"
        assert {each["error"] for each in away} == {refused}
        gate.start_sshd()
        back: set[str] = set()
        end = time.monotonic() + 15  # half of what a failure is remembered for at the beginning
        while len(back) < 3:
            assert time.monotonic() < end
            driver.tell("reconnect", *(set(names) - back))
            said = [driver.heard() for _ in range(3 - len(back))]
            back |= {each["host"] for each in said if each["kind"] == "Rejoined"}
        assert logins(gate) == before + 3
        driver.close()
    gate.kill_all()
    far.kill_all()


def freeze_sessions(host: NsHost) -> None:
    for pid, line in host.pids().items():
        if line.startswith("sshd"):
            host.kill(pid, signal.SIGSTOP)


@pytest.mark.slow
def test_a_controller_that_is_stopped_for_a_while_has_lost_nobody(cluster: Cluster) -> None:
    with driven(cluster, cluster.inventory(["n1", "n2"])) as driver:
        driver.all("Joined", 2)
        driver.process.send_signal(signal.SIGSTOP)
        time.sleep(10)  # is what is tested
        driver.process.send_signal(signal.SIGCONT)
        for host in ("n1", "n2"):
            assert driver.run(host, "hostname") == cluster[host].hostname
        driver.close()


@pytest.mark.slow
def test_a_passphrase_that_was_typed_is_not_asked_for_again(cluster: Cluster) -> None:
    key = cluster.home / "locked"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", str(key)]
    subprocess.run(words, check=True)
    public = key.with_suffix(".pub").read_text()
    for name in ("n1", "n2"):
        cluster[name].write(".ssh/authorized_keys", public)
    defaults = {"identity_file": str(key)}
    with driven(cluster, cluster.inventory(["n1"], defaults=defaults), "sesame") as driver:
        driver.all("Joined", 1)
        kill_sessions(cluster["n1"])
        driver.all("Lost", 1)
        driver.tell("reconnect", "n1")
        driver.all("Rejoined", 1)
        driver.close()


@pytest.mark.slow
def test_nobody_is_asked_for_a_passphrase_in_the_middle_of_a_run(cluster: Cluster) -> None:
    """The host takes another key than at first: it stays away, and nothing waits for a person."""
    key = cluster.home / "locked"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", str(key)]
    subprocess.run(words, check=True)
    config = f"Host *\n  IdentityFile {cluster.identity}\n  IdentityFile {key}\n"
    file = inventory(cluster, ["n1"], config + ssh_config(cluster))
    with driven(cluster, file, "sesame") as driver:
        driver.all("Joined", 1)
        cluster["n1"].write(".ssh/authorized_keys", key.with_suffix(".pub").read_text())
        cluster["n1"].restart_sshd({"AuthorizedKeysFile": ".ssh/authorized_keys"})
        kill_sessions(cluster["n1"])
        driver.all("Lost", 1)
        driver.tell("reconnect", "n1")
        (away,) = driver.all("StillAway", 1)
        assert "has a passphrase" in away["error"]
        driver.close()


@pytest.mark.slow
def test_closing_while_hosts_reconnect_is_bounded_and_leaves_nothing(cluster: Cluster) -> None:
    with driven(cluster, cluster.inventory(["n1", "n2"])) as driver:
        driver.all("Joined", 2)
        kill_sessions(cluster["n1"])
        driver.all("Lost", 1)
        cluster["n1"].freeze_sshd()
        driver.tell("reconnect", "n1")
        # Port 22, established: by the kernel, in whose queue it waits.
        table = lambda: cluster["n1"].run(["cat", "/proc/net/tcp"]).stdout  # noqa: E731
        until(lambda: re.search(r":0016 \w+:\w+ 01 ", table()), "sshd says nothing to it")
        driver.close()
        cluster["n1"].thaw_sshd()
