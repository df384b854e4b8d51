"""The hosts are what they claim to be: otherwise no test that runs on them proves anything."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.hosts.cluster import Cluster
from tests.hosts.conftest import INSTALL, missing
from tests.hosts.processes import command, processes, until

LISTEN = """
import socket
with socket.create_server(("", 5000)) as server:
    print("listening", flush=True)
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
"""
DIAL = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), 1) as connection:
    print(connection.recv(99).decode(), end="")
"""
DROP = (
    "table inet faults { chain input { type filter hook input priority 0; tcp dport 22 drop; }; }"
)


def namespaces(cluster: Cluster) -> set[str]:
    return {path.name for path in Path("/run/netns").glob(f"{cluster.prefix}*")}


def test_a_machine_that_cannot_have_hosts_says_what_is_missing(monkeypatch):
    assert missing() is None
    monkeypatch.setattr("shutil.which", lambda name: None if name == "nft" else name)
    assert missing() == f"needs nft: `{INSTALL}`"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "run as root" in missing()
    monkeypatch.setattr("sys.platform", "darwin")
    assert "Linux" in missing()


def test_ssh_from_the_controller_reaches_each_host(cluster):
    for host in cluster.hosts:
        answer = cluster.ssh(host, "hostname; pwd; echo $HOME; echo $0; echo $SSH_CONNECTION")
        assert answer.returncode == 0, answer.stderr
        where = f"{cluster.address} "
        name, pwd, home, shell, connection = answer.stdout.splitlines()
        assert (name, pwd, home) == (host.hostname, str(host.home), str(host.home))
        assert shell.endswith("bash")
        assert connection.startswith(where)
        assert connection.endswith(f" {host.address} 22")


def test_the_controller_has_a_home_of_its_own_and_its_command_its_own_pid(cluster):
    process = cluster.popen(["sh", "-c", "echo $$ $HOME $FLAG"], stdout=-1, env={"FLAG": "up"})
    out, _ = process.communicate()
    assert out.split() == [str(process.pid), str(cluster.home), "up"]
    assert cluster.run(["cat"], input="said").stdout == "said"
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run(["sleep", "60"], timeout=0.1)


def test_no_host_resolves_its_own_name_until_told(cluster):
    host = cluster.hosts[0]
    assert host.run(["getent", "hosts", host.hostname]).returncode == 2
    assert "127.0.0.1" in host.run(["getent", "ahostsv4", "localhost"]).stdout
    host.set_hosts(f"127.0.1.1 {host.hostname}\n")
    assert "127.0.1.1" in host.run(["getent", "hosts", host.hostname]).stdout
    assert cluster.hosts[1].run(["getent", "hosts", host.hostname]).returncode == 2


def test_hosts_reach_each_other_by_address(cluster):
    for here in cluster.hosts:
        for there in cluster.hosts:
            server = there.popen([sys.executable, "-ISc", LISTEN], stdout=subprocess.PIPE)
            with server:
                assert server.stdout.readline() == "listening\n"
                said = here.run([sys.executable, "-ISc", DIAL, there.address])
                # To itself a host goes by its own address, too.
                assert said.stdout == here.address, said.stderr


def test_the_machine_itself_has_no_way_to_the_hosts(cluster):
    route = subprocess.run(["ip", "-j", "route"], capture_output=True, text=True, check=True)
    assert str(cluster.network) not in route.stdout
    links = subprocess.run(["ip", "-j", "address"], capture_output=True, text=True, check=True)
    assert f'"{cluster.address}"' not in links.stdout


def test_interface_and_files_are_the_hosts_own(cluster):
    one, other = cluster.hosts[:2]
    assert one.run(["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]
    for place in ("/tmp/seen", "/dev/shm/seen", "/run/seen", "in/home"):
        path = str(one.write(place, place))
        assert one.run(["cat", path]).stdout == place
        assert other.run(["cat", path.replace("/n1/", "/n2/")]).returncode == 1
    assert not Path("/tmp/seen").exists()
    assert not Path("/dev/shm/seen").exists()
    assert "Read-only" in one.run(["touch", "/etc/seen", "/root/seen"]).stderr


def test_a_host_sees_its_own_processes_only(cluster):
    one, other = cluster.hosts[:2]
    assert cluster.leftovers() == {}
    sleeper = other.popen(["sleep", "61"])
    until(lambda: list(other.pids().values()) == ["sleep 61"], "the sleeper runs")
    assert one.pids() == {}
    seen = one.run(["ps", "-eo", "args="]).stdout
    assert "sleep 61" not in seen
    assert len(seen.splitlines()) == 3  # init, sshd and ps
    other.kill(next(iter(other.pids())))
    assert sleeper.wait(30) == -signal.SIGKILL


def test_orphans_are_reaped(cluster):
    host = cluster.hosts[0]
    host.run(["sh", "-c", "(sleep 0.1 &)"])
    until(lambda: not host.pids(), "the orphan has ended")
    assert "<defunct>" not in host.run(["ps", "-eo", "stat=,args="]).stdout


def test_leftovers_name_what_a_run_left_behind(cluster):
    host = cluster.hosts[1]
    cluster.ssh(host, "setsid sleep 62 >&- 2>&- <&- &")
    until(lambda: list(cluster.leftovers().get("n2", {}).values()) == ["sleep 62"], "one left")
    host.kill_all()
    assert cluster.leftovers() == {}


def test_nft_drops_and_is_flushed(cluster):
    host = cluster.hosts[0]
    host.nft(DROP)
    assert not cluster.greeted(host.address)
    cluster.hosts[1].await_sshd()
    host.nft_flush()
    host.await_sshd()


def test_restore_undoes_every_fault(cluster):
    host = cluster.hosts[0]
    host.new_host_key()
    host.nft(DROP)
    host.set_hosts("")
    host.set_shell("/bin/false")
    host.run(["hostname", "other"])
    host.run(["ip", "link", "set", "eth0", "mtu", "9000"])
    host.write(".bashrc", "exit 3\n")
    (cluster.home / "record").mkdir()
    host.write("/tmp/orphan", "#!/bin/sh\nsleep 63\n", mode=0o755)
    host.run(["sh", "-c", "/tmp/orphan >/dev/null 2>&1 &"])
    host.freeze_sshd()
    host.link_down()
    cluster.known_hosts.write_text("")
    cluster.restore()
    assert cluster.leftovers() == {}
    assert not [*host.home.iterdir(), *cluster.home.iterdir()]
    answer = cluster.ssh(host, "hostname; cat /etc/hosts /sys/class/net/eth0/mtu")
    assert answer.stdout == f"{host.hostname}\n127.0.0.1 localhost\n1500\n", answer.stderr


def test_a_stopped_sshd_refuses_and_a_frozen_one_says_nothing(cluster):
    host = cluster.hosts[0]
    host.freeze_sshd()
    with cluster.connect(host.address, timeout=0.5) as silent, pytest.raises(TimeoutError):
        silent.recv(1)
    host.thaw_sshd()
    host.await_sshd()
    host.freeze_sshd()
    host.stop_sshd()
    with pytest.raises(ConnectionRefusedError):
        cluster.connect(host.address, timeout=30)
    host.start_sshd({"MaxSessions": "0"}, wrapper=["prlimit", "--nofile=256:256"])
    assert cluster.ssh(host, "true").returncode == 255  # until restored, no session is let in


def test_standing_connections_survive_the_end_of_the_listener(cluster):
    host = cluster.hosts[0]
    argv = cluster.ssh_argv(host, "read line; echo got $line")
    with cluster.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        until(lambda: any("notty" in c for c in host.pids().values()), "the session stands")
        host.stop_sshd()
        assert session.communicate("on\n", timeout=30)[0] == "got on\n"


def test_a_dead_host_lets_connects_time_out(cluster):
    host = cluster.hosts[2]
    host.run(["sh", "-c", "sleep 64 >/dev/null 2>&1 &"])
    host.power_off()
    until(lambda: host.pids() == {}, "the signal has reached them all")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        cluster.connect(host.address, timeout=0.5)
    assert time.monotonic() - began > 0.4
    cluster.hosts[0].await_sshd()
    host.power_on()
    host.await_sshd()


def test_a_pulled_cable_leaves_the_host_alive(cluster):
    host = cluster.hosts[2]
    sleeper = host.popen(["sleep", "65"])
    host.link_down()
    with pytest.raises(TimeoutError):
        cluster.connect(host.address, timeout=0.5)
    until(lambda: "sleep 65" in host.pids().values(), "the sleeper runs")
    host.link_up()
    host.await_sshd()
    host.kill_all()
    sleeper.wait(30)


def test_a_cable_that_is_back_carries_at_once_whoever_asked_in_vain(cluster):
    away, asking = cluster.hosts[2], cluster.hosts[0]
    address = (away.address, 9)
    script = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', {address})"

    def in_vain(netns: str) -> bool:
        seen = command("ip", "-n", netns, "neigh", "show", "to", away.address)
        return re.search("INCOMPLETE|FAILED", seen) is not None

    away.link_down()
    command("ip", "-n", cluster.netns, "neigh", "flush", "all")  # it would try what it knows first
    cluster.run([sys.executable, "-c", script])
    asking.run([sys.executable, "-c", script])
    for netns in (cluster.netns, asking.netns):
        until(lambda netns=netns: in_vain(netns), "it asks in vain")
    away.link_up()
    assert not in_vain(cluster.netns)
    assert not in_vain(asking.netns)
    away.await_sshd()


def test_a_changed_host_key_is_refused(cluster):
    host = cluster.hosts[1]
    old = host.known_hosts_line()
    host.new_host_key()
    assert host.known_hosts_line() != old
    answer = cluster.ssh(host, "true")
    assert answer.returncode == 255
    assert "IDENTIFICATION HAS CHANGED" in answer.stderr
    cluster.known_hosts.write_text(host.known_hosts_line())
    assert cluster.ssh(host, "true").returncode == 0


def test_only_our_key_is_let_in(cluster):
    host = cluster.hosts[0]
    other = cluster.folder / "n1/host_key"
    answer = cluster.ssh(host, "true")
    assert answer.returncode == 0
    argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", other]
    argv += ["-o", f"UserKnownHostsFile={cluster.known_hosts}", f"root@{host.address}", "true"]
    assert "Permission denied (publickey)" in cluster.run(argv).stderr


def test_the_interpreter_of_the_test_run_works_on_a_host(cluster):
    ask = "import importlib.metadata as m; print(m.version('pytest'), m.version('torch'))"
    try:
        versions = f"{importlib.metadata.version('pytest')} {importlib.metadata.version('torch')}"
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torch is not installed here, and so not on the hosts")
    for host in cluster.hosts:
        assert cluster.ssh(host, f'{sys.executable} -c "{ask}"').stdout == versions + "\n"
    # sshd's own PATH: a program of the developer's environment is not found by name.
    path = cluster.ssh(cluster.hosts[0], "echo $PATH").stdout
    assert str(Path(sys.executable).parent) not in path.strip().split(":")


def test_the_inventory_lists_the_chosen_hosts_in_order(cluster):
    same = {"A": "1"}
    path = cluster.inventory(["n3", cluster.hosts[0]], job={"env": same, "args": [same]})
    document = yaml.safe_load(path.read_text())
    assert document["hosts"] == [
        {"name": "n3", "ssh": "root@10.77.0.100"},
        {"name": "n1", "ssh": "root@10.77.0.9"},
    ]
    assert document["defaults"]["python"] == sys.executable
    assert document["job"] == {"env": same, "args": [same]}
    assert "&" not in path.read_text()
    assert cluster.inventory() != path


def test_nothing_is_left_of_a_cluster_that_stands_beside_another(tmp_path, cluster):
    began = time.monotonic()
    # The same addresses as the shared cluster's, and homes that the hosts share.
    with Cluster(tmp_path / "c", shared_home=True, login_shell="/bin/sh") as second:
        assert time.monotonic() - began < 30  # about half a second on a free machine
        assert len(namespaces(second)) == 4
        controller = second.popen(["sleep", "66"])
        second.ssh(second.hosts[0], "echo shared > file; setsid sleep 67 >&- 2>&- <&- &")
        assert second.ssh(second.hosts[1], "cat file; echo $0").stdout == "shared\nsh\n"
        second.hosts[2].freeze_sshd()
        second.hosts[2].popen(["sh", "-c", "kill -STOP $$"])
        inside = {host._init.pid_ns for host in second.hosts}
        networks = {p.net_ns for p in processes() if p.pid_ns in inside}
        networks |= {p.net_ns for p in processes() if p.outer == controller.pid}
        assert len(networks) == 4
    assert controller.wait(30) == -signal.SIGKILL
    assert namespaces(second) == set()
    assert [p for p in processes() if p.pid_ns in inside or p.net_ns in networks] == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    shutil.rmtree(tmp_path / "c")
    assert cluster.ssh(cluster.hosts[0], "hostname").stdout == "n1.invalid\n"


def test_nothing_is_left_of_a_cluster_that_did_not_come_up(tmp_path):
    faults = {
        "NoSuchOption": {"sshd_options": {"NoSuchOption": "1"}},
        "not-an-address": {"addresses": ("10.77.0.9", "not-an-address")},
    }
    for said, fault in faults.items():
        failed = Cluster(tmp_path / said, **fault)
        with pytest.raises(RuntimeError, match=said), failed:
            pass
        assert namespaces(failed) == set()
        assert [p for p in processes() if str(tmp_path) in p.command] == []


def test_a_killed_test_run_takes_the_processes_of_its_hosts_along(tmp_path):
    script = "import sys; from pathlib import Path; from tests.hosts.cluster import Cluster\n"
    script += (
        "with Cluster(Path(sys.argv[1]), ['10.77.0.9']) as c: print(c.prefix, flush=True); input()"
    )
    argv = [sys.executable, "-c", script, tmp_path]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True, cwd=root) as run:
        prefix = run.stdout.readline().strip()
        assert any(str(tmp_path) in p.command and p.outer != run.pid for p in processes())
        run.kill()
    until(lambda: not any(str(tmp_path) in p.command for p in processes()), "all have ended")
    for path in Path("/run/netns").glob(
        f"{prefix}*"
    ):  # names alone; nobody was left to remove them
        subprocess.run(["ip", "netns", "del", path.name], check=True)
