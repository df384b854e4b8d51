"""Hosts that ssh reaches well, and that do not reach each other; and what only looks like it."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from orchestrator import boot
from tests.hosts.faults import Checked, Expected, Ground, assert_found, fault, try_out
from tests.hosts.processes import command, until

if TYPE_CHECKING:
    from tests.hosts.host import NsHost

EPHEMERAL = "32768-60999"
ANY = 40000  # one of them, on which nobody listens: who reaches the host is refused
PORT = 29400
N1, N2, N3 = "10.77.0.9", "10.77.0.10", "10.77.0.100"


def names(ground: Ground, own: str = "{0.address}") -> None:
    """Let every name resolve everywhere, and each host's own as it is told."""
    for host in ground:
        others = "".join(f"{h.address} {h.hostname}\n" for h in ground if h is not host)
        host.set_hosts(f"127.0.0.1 localhost\n{own.format(host)} {host.hostname}\n{others}")


# ---- names ----


def own_name_is_127_0_1_1(ground: Ground) -> None:
    names(ground, "127.0.1.1")
    host = ground["n2"]
    assert "127.0.1.1" in ground.on(host, "getent", "ahostsv4", host.hostname)


def no_name_resolves(ground: Ground) -> None:
    for host in ground:
        assert ground["n2"].run(["getent", "hosts", host.hostname]).returncode == 2


def only_n2_does_not_know_the_head(ground: Ground) -> None:
    names(ground)
    ground["n2"].set_hosts(f"127.0.0.1 localhost\n{N2} {ground['n2'].hostname}\n")


# ---- firewalls ----


def n3_cannot_dial_n2(ground: Ground) -> None:
    rule = f"ip saddr {N3} tcp dport {EPHEMERAL} ct state new drop"
    ground.firewall(ground["n2"], rule)
    assert ground.knock(ground["n3"], N2, ANY) == "ETIMEDOUT"
    assert ground.knock(ground["n2"], N3, ANY) == "ECONNREFUSED"
    assert ground.knock(ground["n1"], N2, ANY) == "ECONNREFUSED"


def n2_cannot_dial_n3(ground: Ground) -> None:
    """The other way round gloo might not notice: it is always one of the two that dials."""
    ground.firewall(ground["n3"], f"ip saddr {N2} tcp dport {EPHEMERAL} ct state new drop")
    assert ground.knock(ground["n2"], N3, ANY) == "ETIMEDOUT"
    assert ground.knock(ground["n3"], N2, ANY) == "ECONNREFUSED"


def n2_and_n3_cannot_dial_each_other(ground: Ground) -> None:
    ground.firewall(ground["n2"], f"ip saddr {N3} tcp dport {EPHEMERAL} ct state new drop")
    ground.firewall(ground["n3"], f"ip saddr {N2} tcp dport {EPHEMERAL} ct state new drop")


def n2_rejects_n3(ground: Ground) -> None:
    ground.firewall(
        ground["n2"], f"ip saddr {N3} tcp dport {EPHEMERAL} ct state new reject with tcp reset"
    )
    assert ground.knock(ground["n3"], N2, 22) == "accepted"


def n2_lets_in_ssh_alone(ground: Ground) -> None:
    ground.firewall(ground["n2"], "tcp dport != 22 ct state new drop")
    assert ground.knock(ground["n1"], N2, ANY) == "ETIMEDOUT"


def everyone_lets_in_ssh_alone(ground: Ground) -> None:
    for host in ground:
        ground.firewall(host, "iif eth0 tcp dport != 22 ct state new drop")


def head_lets_in_ssh_alone(ground: Ground) -> None:
    ground.firewall(ground["n1"], "iif eth0 tcp dport != 22 ct state new drop")


def head_lets_in_ssh_and_the_rendezvous_alone(ground: Ground) -> None:
    ground.fields["rendezvous"] = {"port": PORT}
    ground.firewall(ground["n1"], f"iif eth0 tcp dport != {{ 22, {PORT} }} ct state new drop")
    assert ground.knock(ground["n2"], N1, PORT) == "ECONNREFUSED"
    assert ground.knock(ground["n2"], N1, ANY) == "ETIMEDOUT"


def rendezvous_port_is_firewalled(ground: Ground) -> None:
    ground.fields["rendezvous"] = {"port": PORT}
    ground.firewall(ground["n1"], f"iif eth0 tcp dport {PORT} drop")
    assert ground.knock(ground["n2"], N1, ANY) == "ECONNREFUSED"


def icmp_is_blocked(ground: Ground) -> None:
    for host in ground:
        ground.firewall(host, "meta l4proto icmp counter drop")

    def was_blocked(got: Checked) -> None:
        assert_dropped(ground)
        said = {v["status"] for v in got.verdicts if v["id"] == "net.ping"}
        assert said <= {"info", "skip"}, got.raw

    ground.afterwards.append(was_blocked)


def packets_are_lost_now_and_then(ground: Ground) -> None:
    for host in ground:
        # Counted, not by chance: each loses some, and none of them the same thing over and over.
        ground.firewall(host, "iif eth0 numgen inc mod 33 == 20 counter drop")
    ground.afterwards.append(lambda _: assert_dropped(ground))


def assert_dropped(ground: Ground) -> None:
    for host in ground:
        counted = re.search(r"counter packets (\d+)", ground.on(host, "nft", "list", "ruleset"))
        assert counted
        assert int(counted[1]) > 0, "some were lost, and it did not matter"


# ---- interfaces and addresses ----


def docker0_is_everywhere(ground: Ground) -> None:
    for host in ground:
        ground.on(
            host,
            *"ip link add docker0 type bridge".split(),
            then="ip link delete docker0".split(),
        )
        ground.on(host, *"ip address add 172.17.0.1/16 dev docker0".split())
        ground.on(host, *"ip link set docker0 up".split())
    names(ground, "172.17.0.1")


def hosts_have_a_second_network_that_is_cut(ground: Ground) -> None:
    """As a storage network, or a management one, that is not wired for this."""
    for i, host in enumerate(ground, 1):
        ground.on(
            host,
            *"ip link add eth1 type veth peer name cable".split(),
            then="ip link delete eth1".split(),
        )
        ground.on(host, *f"ip address add 10.66.0.{i}/24 dev eth1".split())
        for end in ("cable", "eth1"):
            ground.on(host, *f"ip link set {end} up".split())
    assert ground.knock(ground["n2"], "10.66.0.1", ANY) in ("ETIMEDOUT", "EHOSTUNREACH")


# Prints what a host says of its network.
# The agent's own code, as it is sent: on a host there is nothing else of ours.
NETWORK = boot.program(
    boot.in_order(["network"]),
    "import json\nprint(json.dumps(sys.modules['ddp_orch_node.network'].tell(None)))",
)


def n2_has_bridges_of_its_own(ground: Ground) -> None:
    """As for containers and virtual machines: nobody else has them, or is let in there."""
    host = ground["n2"]
    for i, name in enumerate(("docker0", "br-lab"), 1):
        ground.on(
            host,
            *f"ip link add {name} type bridge".split(),
            then=f"ip link delete {name}".split(),
        )
        ground.on(host, *f"ip address add 172.18.{i}.1/24 dev {name}".split())
        ground.on(host, *f"ip link set {name} up".split())
    ground.on(
        host,
        *"ip link add plug type veth peer name container".split(),
        then="ip link delete plug".split(),
    )
    for words in ("plug master br-lab up", "container up"):
        ground.on(host, *f"ip link set {words}".split())
    ground.firewall(host, "ip daddr 172.18.0.0/16 drop")
    for other in (ground["n1"], ground["n3"]):
        way = "172.18.0.0/16", "via", N2
        ground.on(other, "ip", "route", "add", *way, then=("ip", "route", "delete", *way))
    assert ground.knock(ground["n1"], "172.18.2.1", ANY) == "ETIMEDOUT"
    ground.on(
        host, *"ip tuntap add vpn0 mode tun".split(), then="ip tuntap del vpn0 mode tun".split()
    )
    told = json.loads(ground.on(host, sys.executable, "-ISc", NETWORK))
    assert (told["idle"], told["tunnels"]) == (["docker0"], ["vpn0"])


def nobody_has_the_heads_addr(ground: Ground) -> None:
    ground.entries["n1"] = {"addr": "10.77.0.250"}


def the_heads_addr_is_another_hosts(ground: Ground) -> None:
    ground.entries["n1"] = {"addr": N3}


def the_heads_addr_does_not_resolve(ground: Ground) -> None:
    ground.entries["n1"] = {"addr": "gpu1.invalid"}


def n2s_addr_is_nobodys(ground: Ground) -> None:
    ground.entries["n2"] = {"addr": "10.77.0.250"}


def jumbo(ground: Ground, *hosts: str, switch: int) -> None:
    """Give hosts an MTU of 9000, on a switch with one of its own.

    A bridge passes on what the network card was to cut in pieces; these have to do that themselves.
    """
    for name in hosts:
        ground.on(
            ground[name],
            *"ip link set eth0 mtu 9000 gso_max_segs 1".split(),
            then="ip link set eth0 mtu 1500 gso_max_segs 65535".split(),
        )
        link = ("ip", "-n", ground.cluster.netns, "link", "set", name, "mtu")
        command(*link, str(switch))
        ground.undo.callback(command, *link, "1500")


def large_packets_vanish(ground: Ground) -> None:
    jumbo(ground, "n2", "n3", switch=1500)


def mtu_of_n2_differs(ground: Ground) -> None:
    jumbo(ground, "n2", switch=9000)


def interface_in_the_syntax_of_nccl(ground: Ground) -> None:
    ground.fields["job"] = {"env": {"GLOO_SOCKET_IFNAME": "^docker0"}}


def interface_is_absent(ground: Ground) -> None:
    ground.fields["job"] = {"env": {"NCCL_SOCKET_IFNAME": "ib0"}}


# ---- the rendezvous port ----


def serve(ground: Ground, host: NsHost, port: int) -> None:
    script = f"import socket, time\ns = socket.create_server(('', {port}))\ntime.sleep(3600)"
    holder = host.popen([sys.executable, "-ISc", script])
    ground.undo.callback(holder.wait, 10)
    ground.undo.callback(host.kill_all)
    until(lambda: is_open(ground, host, port), "it listens")


def is_open(ground: Ground, host: NsHost, port: int) -> bool:
    return ground.knock(ground["n2"], host.address, port) == "accepted"


def port_is_held_by_a_stranger(ground: Ground) -> None:
    ground.fields["rendezvous"] = {"port": PORT}
    serve(ground, ground["n1"], PORT)


def port_is_for_root_alone(ground: Ground) -> None:
    ground.as_user()
    ground.fields["rendezvous"] = {"port": 600}


def info(id_: str, host: str | None = "n2", message: str = "") -> Expected:
    return Expected(id_, host, message=message, status="info")


# The interface that was chosen.
ETH0 = Expected("net.nic", "n2", status="pass", message=f"eth0, {N2}")


def at_n1(id_: str, hint: str, message: str = "") -> Expected:
    return Expected(id_, "n1", hint=hint, message=message)


def everywhere(id_: str, hint: str) -> tuple[Expected, ...]:
    return tuple(Expected(id_, name, hint=hint) for name in ("n1", "n2", "n3"))


FAULTS = [
    fault(own_name_is_127_0_1_1, info("net.name.self", message="127.0.1.1"), quick=True),
    fault(no_name_resolves, info("net.name.self", message="nothing")),
    fault(
        only_n2_does_not_know_the_head,
        info("net.name.peer"),
        Expected("net.name.peer", "n3", status="pass"),
    ),
    fault(
        n3_cannot_dial_n2,
        Expected("net.pair", "n3", "n2", hint=f"on n2 allow TCP {EPHEMERAL} from {N3}"),
        quick=True,
    ),
    fault(
        n2_cannot_dial_n3,
        Expected("net.pair", "n2", "n3", hint=f"on n3 allow TCP {EPHEMERAL} from {N2}"),
    ),
    fault(n2_and_n3_cannot_dial_each_other, Expected("net.pair", "n2", "n3", hint="on n3, n2")),
    fault(n2_rejects_n3, Expected("net.pair", "n3", "n2", hint="on n2", message="refused")),
    fault(n2_lets_in_ssh_alone, Expected("net.pair", "n2", hint="on n2 allow TCP")),
    fault(everyone_lets_in_ssh_alone, Expected("net.pair", None, hint="on every host")),
    fault(head_lets_in_ssh_alone, at_n1("net.pair", "on n1 allow TCP")),
    fault(head_lets_in_ssh_and_the_rendezvous_alone, at_n1("net.pair", "on n1 allow TCP")),
    fault(rendezvous_port_is_firewalled, at_n1("net.rdzv", f"on n1 allow TCP {PORT}")),
    fault(icmp_is_blocked),
    fault(packets_are_lost_now_and_then),
    fault(docker0_is_everywhere, ETH0, info("net.nic", None, "172.17.0.1 (docker0)")),
    fault(hosts_have_a_second_network_that_is_cut, ETH0),
    fault(n2_has_bridges_of_its_own, ETH0),
    fault(nobody_has_the_heads_addr, at_n1("net.pair", "`addr:` of n1")),
    fault(the_heads_addr_is_another_hosts, at_n1("net.pair", "`addr:` of n1")),
    fault(the_heads_addr_does_not_resolve, at_n1("net.pair", "`addr:`", "does not resolve")),
    fault(n2s_addr_is_nobodys, Expected("net.pair", "n2", hint="`addr:` of n2")),
    fault(
        large_packets_vanish,
        Expected("net.payload", "n2", "n3", hint="mtu 1500"),
        Expected("net.mtu_diff", "n1", status="warn", hint="on n2, n3: sudo ip link"),
    ),
    fault(mtu_of_n2_differs, Expected("net.mtu_diff", "n2", status="warn", hint="mtu")),
    fault(interface_in_the_syntax_of_nccl, *everywhere("net.if_env", "eth0")),
    fault(interface_is_absent, *everywhere("net.if_env", "eth0")),
    fault(
        port_is_held_by_a_stranger,
        Expected("net.port.rdzv", "n1", hint="port: auto", message=f"port {PORT} is taken by pid"),
    ),
    fault(port_is_for_root_alone, Expected("net.port.rdzv", "n1", hint="port: auto")),
]


@pytest.mark.parametrize(("inject", "expected", "warns"), FAULTS)
def test_fault(ground: Ground, inject, expected, warns) -> None:
    try_out(ground, inject, expected, warns)


# ---- and nothing at all ----


def names_are_as_they_should_be(ground: Ground) -> None:
    names(ground)


def he_is_an_ordinary_user(ground: Ground) -> None:
    ground.as_user()


def there_is_one_host(ground: Ground) -> None:
    ground.hosts = ["n2"]


def they_have_ipv6_too(ground: Ground) -> None:
    """And are called by it."""
    ours = ("ip", "-n", ground.cluster.netns, "address")
    command(*ours, "add", "2001:db8:78::1/64", "dev", "br0", "nodad")
    ground.undo.callback(command, *ours, "del", "2001:db8:78::1/64", "dev", "br0")
    with ground.cluster.known_hosts.open("a") as file:
        for i, host in enumerate(ground, 1):
            address = f"2001:db8:78::{i}0"
            on_it = ("ip", "address")
            ground.on(
                host,
                *(*on_it, "add", f"{address}/64", "dev", "eth0", "nodad"),
                then=[*on_it, "del", f"{address}/64", "dev", "eth0"],
            )
            ground.entries[host.name] = {"ssh": f"root@[{address}]"}
            file.write(f"{address} {host.known_hosts_line().split(' ', 1)[1]}")


def they_have_both(ground: Ground) -> None:
    """With more than one address on every host."""
    they_have_ipv6_too(ground)
    ground.entries.clear()


def they_have_ipv6_addresses_that_are_to_go(ground: Ground) -> None:
    """Deprecated ones, and temporary ones by which they call others."""
    they_have_both(ground)
    for i, host in enumerate(ground, 1):
        kept = f"2001:db8:78::{i}0"
        ground.on(
            host,
            *f"ip address add 2001:db8:78::{i}1/64 dev eth0 nodad preferred_lft 0".split(),
            then=f"ip address del 2001:db8:78::{i}1/64 dev eth0".split(),
        )
        with_temporary(ground, host, f"2001:db8:78::{i}2/64")
        told = json.loads(ground.on(host, sys.executable, "-ISc", NETWORK))
        ipv6 = [
            address for name, address, _ in told["addresses"] if name == "eth0" and ":" in address
        ]
        assert sorted(ipv6) == [kept, f"2001:db8:78::{i}2"]


def with_temporary(ground: Ground, host: NsHost, address: str) -> None:
    """Have the kernel make one itself: no program can add any."""
    setting = "net.ipv6.conf.eth0.use_tempaddr"
    ground.on(host, "sysctl", "-qw", f"{setting}=2", then=["sysctl", "-qw", f"{setting}=0"])
    ground.on(
        host,
        *f"ip address add {address} dev eth0 nodad mngtmpaddr".split(),
        then=f"ip address del {address} dev eth0".split(),
    )
    until(lambda: "temporary" in ground.on(host, *"ip address show eth0".split()), "it is there")


CLEAN = [
    pytest.param(names_are_as_they_should_be, id="names"),
    pytest.param(he_is_an_ordinary_user, id="user", marks=pytest.mark.slow),
    pytest.param(there_is_one_host, id="one host", marks=pytest.mark.slow),
    pytest.param(they_have_ipv6_too, id="IPv6", marks=pytest.mark.slow),
    pytest.param(they_have_both, id="both", marks=pytest.mark.slow),
    pytest.param(they_have_ipv6_addresses_that_are_to_go, id="to go", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("arrange", CLEAN)
def test_of_a_clean_cluster_nothing_is_said(ground: Ground, arrange) -> None:
    arrange(ground)
    got = ground.check()
    assert_found(got, [], 0)
    assert not got.of("unknown"), got.raw
