"""The way to real OpenSSH hosts: gateways, commands, addresses, as the user's own ssh goes it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.hosts.cluster import Cluster
from tests.hosts.processes import processes, until
from tests.hosts.test_up import block, ddp_orch, running, said
from tests.reading import read_rest, read_until
from tests.workers import worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts.host import NsHost
    from tests.hosts.processes import Process

# A ProxyCommand without nc or ssh: bytes from stdin to a socket, and back.
RELAY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def there():
    while data := os.read(0, 1 << 16): sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=there, daemon=True).start()
while data := sock.recv(1 << 16): os.write(1, data)
"""


def inventory(cluster: Cluster, names: list[str], config: str, **fields: object) -> Path:
    """Write an inventory that leaves the way to ssh's own configuration, and the latter."""
    file = cluster.home / "ssh_config"
    file.write_text(
        f"{config}\nHost *\n  User root\n  IdentityFile {cluster.identity}\n"
        f"  UserKnownHostsFile {cluster.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
    )
    document = {
        "hosts": [{"name": name} for name in names],
        "defaults": {"ssh_config": str(file), "python": sys.executable},
        **fields,
    }
    path = cluster.home / "inventory.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def only_from(host: NsHost, *gateways: NsHost) -> None:
    """Let the host's sshd be reached by these alone: not by the controller."""
    allowed = ", ".join(gateway.address for gateway in gateways)
    host.nft(block(f"tcp dport 22 ip saddr != {{ {allowed} }} drop"))


def hosts(cluster: Cluster, **extra: str) -> str:
    """Return ssh_config entries for n1, n2, ... with their addresses and what is given for one."""
    return "".join(
        f"Host {h.name}\n  HostName {h.address}\n" + extra.get(h.name, "") for h in cluster.hosts
    )


def two_hops(cluster: Cluster) -> str:
    """Let n3 be reached from n2 alone, n2 from n1 alone. Return a configuration for that."""
    only_from(cluster["n2"], cluster["n1"])
    only_from(cluster["n3"], cluster["n2"])
    return hosts(cluster, n3="  ProxyJump n1,n2\n")


# ---- gateways ----


@pytest.mark.slow
def test_a_run_over_two_gateways(cluster: Cluster) -> None:
    config = two_hops(cluster)
    file = inventory(cluster, ["n3"], config)
    done = ddp_orch(cluster, "up", file, "--", worker("ranks"))
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = said(done.stdout, "n3", 0)
    assert json.loads(line)["WORLD_SIZE"] == "1"
    done = ddp_orch(cluster, "check", "-v", file)
    assert "net.ping  n3: reached through n2; not pinged" in done.stdout
    # As ssh itself goes it.
    ssh = cluster.run(["ssh", "-F", cluster.home / "ssh_config", "n3", "hostname"])
    assert ssh.stdout.strip() == cluster["n3"].hostname, ssh.stderr


@pytest.mark.parametrize(
    ("jump", "more"),
    [
        ("root@10.77.0.9", ""),
        ("ssh://root@10.77.0.9:22", ""),
        ("[10.77.0.9]:22", ""),
        ("gate-%h", "Host gate-10.77.0.100\n  HostName 10.77.0.9\n"),
        ("n2", "Host n2\n  HostName 10.77.0.10\n  ProxyJump n1\n"),  # the gateway's own ProxyJump
        ("n1", "Match host 10.77.0.100 user root\n  HostName 192.0.2.1\n"),  # too late: it is set
    ],
)
def test_ways_to_name_a_gateway(cluster: Cluster, jump: str, more: str) -> None:
    only_from(cluster["n3"], cluster["n1"], cluster["n2"])
    config = more + hosts(cluster, n3=f"  ProxyJump {jump}\n")
    done = ddp_orch(cluster, "exec", inventory(cluster, ["n3"], config), "--", "hostname")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"n3| {cluster['n3'].hostname}\n"


def down(cluster: Cluster) -> None:
    cluster["n1"].nft(block("drop"))


def refuses(cluster: Cluster) -> None:
    cluster["n1"].stop_sshd()


def frozen(cluster: Cluster) -> None:
    cluster["n1"].freeze_sshd()


def no_forwarding(cluster: Cluster) -> None:
    cluster["n1"].restart_sshd({"AllowTcpForwarding": "no"})


def other_key(cluster: Cluster) -> None:
    cluster["n1"].new_host_key()


def no_login(cluster: Cluster) -> None:
    cluster["n1"].restart_sshd({"AuthorizedKeysFile": "/dev/null"})


def second_down(cluster: Cluster) -> None:
    cluster["n2"].nft(block("drop"))


def second_refuses(cluster: Cluster) -> None:
    cluster["n2"].stop_sshd()


def second_login(cluster: Cluster) -> None:
    cluster["n2"].restart_sshd({"AuthorizedKeysFile": "/dev/null"})


def last_refuses(cluster: Cluster) -> None:
    cluster["n3"].nft(block("tcp dport 22 reject with tcp reset"))


def last_down(cluster: Cluster) -> None:
    cluster["n3"].nft(block("tcp dport 22 drop"))


FIRST = "n3: its gateway n2: its gateway n1: "
VIA_FIRST = "n3: its gateway n2: its gateway n1 "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (down, FIRST + "no answer from 10.77.0.9 port 22 in 2 s"),
        (refuses, FIRST + "10.77.0.9 refuses connections on port 22"),
        (frozen, FIRST + "10.77.0.9 port 22 is open, but says nothing for 10 s"),
        (no_forwarding, VIA_FIRST + "forbids connections to 10.77.0.10 port 22"),
        (other_key, FIRST + "its key has CHANGED: 10.77.0.9 shows"),
        (no_login, FIRST + "refuses to log in root"),
        (second_down, VIA_FIRST + "got no answer from 10.77.0.10 port 22 in 2 s"),
        (
            second_refuses,
            VIA_FIRST + "cannot reach 10.77.0.10 port 22: Connection refused",
        ),
        (second_login, "n3: its gateway n2: refuses to log in root"),
        (last_refuses, "n3: its gateway n2 cannot reach 10.77.0.100 port 22: Connection refused"),
        (last_down, "n3: its gateway n2 got no answer from 10.77.0.100 port 22 in 2 s"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_gateway_that_fails_is_named(cluster: Cluster, fault, sentence: str) -> None:
    fault(cluster)
    config = two_hops(cluster) + "Host *\n  ConnectTimeout 2\n"
    done = ddp_orch(cluster, "check", inventory(cluster, ["n3"], config))
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"ssh.jump  {sentence}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(rf"{re.escape(sentence)}.*\n +-> ", done.stdout), "a hint"
    if fault in (down, refuses):
        look = "-> look at ProxyJump in your ssh configuration; try it by hand: ssh -F "
        assert look in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", ["its sshd is killed", "its cable is pulled"])
def test_a_gateway_that_is_lost_later_takes_its_hosts_with_it(cluster: Cluster, how: str) -> None:
    only_from(cluster["n3"], cluster["n1"])
    config = hosts(cluster, n3="  ProxyJump n1\n")
    words = ["exec", inventory(cluster, ["n2", "n3"], config), "--", "echo ready; sleep 3600"]
    with running(cluster, *map(str, words)) as run:
        read_until(run, "ready", times=2)
        until(lambda: "sleep 3600" in cluster["n2"].pids().values(), "it is there to be killed")
        if how == "its sshd is killed":
            for pid, line in cluster["n1"].pids().items():
                if line.startswith("sshd: root"):
                    cluster["n1"].kill(pid)
            sentence = "n3: its gateway n1 was lost, and all behind it"
        else:
            cluster["n1"].link_down()
            sentence = "n3: nothing was heard from it for 30 s"
        seen = read_until(run, "n3:", times=1)
        assert sentence in seen, "and n2, which is not behind it, goes on"
        assert "n2:" not in seen
        for pid, line in cluster["n2"].pids().items():
            if line == "sleep 3600":
                cluster["n2"].kill(pid)
        out = read_rest(run, 60)
    assert run.returncode == 137, out
    assert "n2: exit code 137" in out
    for name in ("n1", "n3"):  # where a cable was pulled, sshd does not know that it was left
        cluster[name].kill_all()


def test_a_failed_gateway_is_dialled_once_for_all(cluster: Cluster) -> None:
    """Its sshd says how often: once more would be once for each host."""
    names = [f"h{i}" for i in range(12)]
    config = "".join(f"Host {name}\n  ProxyJump n1\n" for name in names) + hosts(cluster)
    cluster["n1"].restart_sshd({"AuthorizedKeysFile": "/dev/null", "LogLevel": "VERBOSE"})
    before = cluster["n1"].log.read_text().count("Connection from")
    done = ddp_orch(cluster, "check", inventory(cluster, names, config))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ssh.jump  h[0-11]: its gateway n1: refuses to log in root" in done.stdout
    assert done.stdout.count("its gateway") == 1
    assert cluster["n1"].log.read_text().count("Connection from") == before + 1


def test_a_gateway_that_drops_early_is_tried_again(cluster: Cluster) -> None:
    """Two who have not logged in fill it up (MaxStartups); they leave after a while."""
    cluster["n1"].restart_sshd({"MaxStartups": "2"})
    full = [cluster.connect("10.77.0.9") for _ in range(2)]
    for sock in full:
        assert sock.recv(4) == b"SSH-"
    config = hosts(cluster, n3="  ProxyJump n1\n")
    words = ["exec", inventory(cluster, ["n3"], config), "--", "hostname"]
    with running(cluster, *map(str, words)) as run:
        until(lambda: "drop connection" in cluster["n1"].log.read_text(), "it drops one")
        for sock in full:
            sock.close()
        out = read_rest(run, 60)
    assert run.returncode == 0, out


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two gateways, and 32 hosts that are reached from the second one alone."""
    addresses = [f"10.78.0.{i}" for i in range(10, 44)]
    with Cluster(tmp_path_factory.mktemp("many"), addresses) as cluster:
        first, second, *others = cluster.hosts
        only_from(second, first)
        for host in others:
            only_from(host, second)
        yield cluster
        until(lambda: not cluster.leftovers(), "nothing left on the hosts")


@pytest.mark.slow
def test_32_hosts_behind_two_gateways_whose_sshds_are_as_they_come(many: Cluster) -> None:
    first, second, *others = many.hosts
    for gateway in (first, second):
        assert "MaxStartups" not in many.sshd_options
        assert gateway.log.read_text() == "" or "drop" not in gateway.log.read_text()
    jump = "  ProxyJump n1,n2\n"
    file = inventory(many, [h.name for h in others], hosts(many, **{h.name: jump for h in others}))
    # Each brings a megabyte at once over the one connection.
    command = "hostname; head -c 1000000 /dev/zero | tr '\\0' x; echo"
    done = ddp_orch(many, "exec", file, "--", command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for host in others:
        assert f"{host.name}| {host.hostname}" in lines
        assert sum(len(x) for x in lines if re.match(rf"{host.name}\| x", x)) >= 1_000_000
    for gateway in (first, second):
        assert gateway.log.read_text().count("Accepted publickey") == 1


# ---- commands ----


def relayed(cluster: Cluster, command: str) -> str:
    (cluster.folder / "relay.py").write_text(RELAY)
    return hosts(cluster, n3=f"  ProxyCommand {command}\n")


def controllers(cluster: Cluster) -> list[Process]:
    netns = f"net:[{Path('/run/netns', cluster.netns).stat().st_ino}]"
    return [p for p in processes() if p.net_ns == netns]


def commands_left(cluster: Cluster) -> list[str]:
    return [p.command for p in controllers(cluster)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["python", "ssh -W"])
def test_a_run_over_a_proxy_command(cluster: Cluster, kind: str) -> None:
    if kind == "python":
        command = f"{sys.executable} {cluster.folder}/relay.py %h %p"
    else:
        only_from(cluster["n3"], cluster["n1"])
        command = f"ssh -F {cluster.home}/ssh_config -W %h:%p %r@n1"
    file = inventory(cluster, ["n3"], relayed(cluster, command))
    done = ddp_orch(cluster, "up", file, "--", worker("ranks"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done.stdout, "n3", 0)
    until(lambda: not commands_left(cluster), "no command is left")


@pytest.mark.slow
def test_the_last_words_of_a_proxy_command_are_told(cluster: Cluster) -> None:
    command = "sh -c 'echo a lot >&2; echo no such gateway: %n >&2; exit 3'"
    done = ddp_orch(cluster, "check", inventory(cluster, ["n3"], relayed(cluster, command)))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ssh.jump  n3: its ProxyCommand ended with code 3: no such gateway: n3" in done.stdout
    assert f"try it by hand: ssh -F {cluster.home}/ssh_config n3" in done.stdout
    done = ddp_orch(cluster, "check", inventory(cluster, ["n3"], relayed(cluster, "no-such-thing")))
    assert re.search(r"n3: its ProxyCommand ended with code 127: .*not found", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["silent", "ctrl-c", "lost"])
def test_a_proxy_command_does_not_outlive_us(cluster: Cluster, ending: str) -> None:
    relay = f"{sys.executable} {cluster.folder}/relay.py %h %p"
    # It neither ends with its stdin nor when it is told to, and leaves another one behind.
    stubborn = "trap '' TERM; (trap '' TERM; sleep 3600) </dev/null >/dev/null 2>&1 & "
    if ending == "silent":
        config = relayed(cluster, f'sh -c "{stubborn} sleep 3600"')
        done = ddp_orch(cluster, "check", inventory(cluster, ["n3"], config))
        assert done.returncode == 4, done.stdout + done.stderr
        assert "ssh.banner  n3: " in done.stdout
        until(lambda: not commands_left(cluster), "no command is left")
        return
    config = relayed(cluster, f'sh -c "{stubborn} {relay}"')
    words = ["exec", inventory(cluster, ["n3"], config), "--", "echo ready; sleep 3600"]
    with running(cluster, *map(str, words)) as run:
        read_until(run, "ready", times=1)
        relays = [p for p in controllers(cluster) if "relay.py" in p.command]
        assert relays
        # A Ctrl-C at the terminal is for a process group, and must not end it under us.
        assert os.getpgid(run.pid) not in {os.getpgid(p.outer) for p in relays}
        if ending == "ctrl-c":
            run.send_signal(signal.SIGINT)
        else:
            for pid, line in cluster["n3"].pids().items():
                if line.startswith("sshd: root"):
                    cluster["n3"].kill(pid)
        out = read_rest(run, 60)
    assert run.returncode == (130 if ending == "ctrl-c" else 4), out
    until(lambda: not commands_left(cluster), "no command is left")


# ---- addresses ----


@pytest.mark.parametrize(
    ("entry", "config"),
    [
        ({"ssh": "2001:db8:77::3"}, ""),
        ({"ssh": "root@[2001:db8:77::3]:22"}, ""),
        ({"ssh": "[fe80::77:3%br0]:22"}, ""),
        ({}, "Host n3\n  HostName 2001:db8:77::3\n"),
        ({}, "Host n3\n  HostName 2001:db8:77::3\n  ProxyJump [2001:db8:77::1]\n"),
    ],
    ids=str,
)
def test_ipv6(cluster: Cluster, entry: dict[str, str], config: str) -> None:
    """Addresses of the documentation's range, and a link-local one with its interface."""
    near = "addr add 2001:db8:77::2/64 dev br0 nodad"
    subprocess.run(["ip", "-n", cluster.netns, *near.split()], check=False)
    for number in (1, 3):
        host = cluster[f"n{number}"]
        for address in (f"2001:db8:77::{number}/64", f"fe80::77:{number}/64"):
            host.run(["ip", "-6", "addr", "replace", address, "dev", "eth0", "nodad"], check=True)
    keys = ""
    for number in (1, 3):
        _, key = cluster[f"n{number}"].known_hosts_line().split(" ", 1)
        keys += f"2001:db8:77::{number},fe80::77:{number}%br0 {key}"
    cluster.known_hosts.write_text(keys)
    document = yaml.safe_load(inventory(cluster, ["n3"], config).read_text())
    document["hosts"] = [{"name": "n3"} | entry]
    (cluster.home / "v6.yaml").write_text(yaml.safe_dump(document))
    done = ddp_orch(cluster, "exec", cluster.home / "v6.yaml", "--", "hostname")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"n3| {cluster['n3'].hostname}\n"


def test_an_include_a_match_and_what_is_for_a_session_alone(cluster: Cluster) -> None:
    """What runs in a session is ours to say, as it is scp's."""
    (cluster.home / "more").write_text(
        'Match originalhost gpu user root exec "test %h-%n-%r-%p = gpu.lan-gpu-root-22"\n'
        f"  HostKeyAlias 10.77.0.100\n  ProxyCommand {sys.executable} {cluster.folder}/relay.py "
        "10.77.0.100 %p\n"
    )
    config = (
        f"Host gpu\n  HostName %h.lan\nInclude {cluster.home}/mo*\n"
        "Host *\n  RemoteCommand exec tmux\n  RequestTTY force\n  SessionType none\n"
    )
    relayed(cluster, "none")
    document = yaml.safe_load(inventory(cluster, ["gpu"], config).read_text())
    document["defaults"]["user"] = "root"
    (cluster.home / "match.yaml").write_text(yaml.safe_dump(document))
    done = ddp_orch(cluster, "exec", cluster.home / "match.yaml", "--", "hostname")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"gpu| {cluster['n3'].hostname}\n"
