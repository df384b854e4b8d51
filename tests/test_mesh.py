"""Networks in, the addresses to try out; then dials in, the addresses to use out."""

from __future__ import annotations

import dataclasses

import pytest

from inventory.model import Host, Inventory
from orchestrator.facts import ClusterFacts, Dialled, Network
from orchestrator.mesh import (
    all_candidates,
    ambiguous,
    candidates,
    cluster_address,
    cluster_addresses,
    head_address,
    interface_of,
)


def network(*addresses: str, ssh: str = "", machine: str = "", prefix: int = 24) -> Network:
    return Network(
        addresses=tuple((f"eth{i}", address) for i, address in enumerate(addresses)),
        prefixes=dict.fromkeys(addresses, prefix),
        ssh_address=ssh,
        machine=machine,
    )


def inventory(*hosts: str | Host, **more) -> Inventory:
    named = tuple(host if isinstance(host, Host) else Host(name=host) for host in hosts)
    return Inventory(hosts=named, **more)


# --- at which addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "alone", "expected"),
    [
        (network("127.0.0.1", "10.0.0.1", "10.1.0.1", ssh="10.1.0.1"), False, "10.1.0.1 10.0.0.1"),
        # Behind NAT: the address that ssh came to is nobody's here.
        (network("127.0.0.1", "10.0.0.1", ssh="203.0.113.7"), False, "10.0.0.1"),
        (network("127.0.0.1", "::1", "fd00::1"), False, "fd00::1"),
        (network("127.0.0.1", "::1", "127.8.0.1"), False, ""),
        (network("10.0.0.1", "127.0.0.1", ssh="127.0.0.1"), True, "127.0.0.1 10.0.0.1"),
        (network("127.0.0.1", "10.0.0.1", ssh="127.0.0.1"), False, "10.0.0.1"),
        # The same address on two interfaces is one candidate.
        (network("10.0.0.1", "10.0.0.1", ssh="10.0.0.1"), False, "10.0.0.1"),
        (network(), False, ""),
        (network(), True, ""),
    ],
)
def test_candidates(known, alone, expected):
    assert candidates(known, alone=alone) == expected.split()


def test_the_subnet_of_the_head_goes_first():
    known = network("192.0.2.1", "10.0.0.7", "fd00::7", ssh="192.0.2.1")
    assert candidates(known, alone=False, near="10.0.0.1/24")[0] == "10.0.0.7"
    assert candidates(known, alone=False, near="fd00::1/64")[0] == "fd00::7"
    assert candidates(known, alone=False, near="10.9.0.1/24")[0] == "192.0.2.1"
    told = {"a": network("10.0.0.1", ssh="10.0.0.1"), "b": known}
    assert all_candidates(inventory("a", "b"), told)["b"][0] == "10.0.0.7"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (network("10.0.0.1", "172.18.0.1", "192.168.122.1", ssh="10.0.0.1"), "10.0.0.1"),
        # Where it is all that there is, or our ssh came by it, it is dialled.
        (network("172.18.0.1", "172.18.0.2"), "172.18.0.1 172.18.0.2"),
        (network("10.0.0.1", "172.18.0.1", ssh="172.18.0.1"), "172.18.0.1 10.0.0.1"),
        # An address that is the whole subnet is routed to the host, whatever carries it there.
        (network("10.0.0.1", "172.18.0.1", prefix=32), "10.0.0.1 172.18.0.1"),
    ],
)
def test_a_bridge_that_nothing_is_plugged_into_leads_nowhere(known, expected):
    eth = "eth0" if known.addresses[0][1] == "10.0.0.1" else ""
    bridges = tuple(name for name, _ in known.addresses if name != eth)
    told = dataclasses.replace(known, idle=bridges)
    assert candidates(told, alone=False) == expected.split()
    assert len(candidates(known, alone=False)) == len(known.addresses)


def test_an_idle_bridges_address_is_nobodys_all_the_same():
    """It is of every host that has docker, whether a container runs there or not."""
    told = {
        "a": network("172.17.0.1", "10.0.0.1", ssh="10.0.0.1", machine="1"),
        "b": dataclasses.replace(
            network("172.17.0.1", "10.0.0.2", ssh="10.0.0.2", machine="2"), idle=("eth0",)
        ),
    }
    assert ambiguous(told) == {"172.17.0.1": ("a", "b")}
    assert all_candidates(inventory("a", "b"), told) == {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}


def test_the_inventorys_address_is_the_only_candidate():
    told = {"a": network("10.0.0.1", ssh="10.0.0.1"), "b": "no answer"}
    hosts = inventory(Host(name="a", addr="192.0.2.9"), Host(name="b", addr="b.lab"))
    assert all_candidates(hosts, told) == {"a": ("192.0.2.9",), "b": ("b.lab",)}


def test_an_address_of_several_machines_is_nobodys():
    told = {
        "a": network("172.17.0.1", "10.0.0.1", ssh="10.0.0.1", machine="1"),
        "b": network("172.17.0.1", "10.0.0.2", ssh="172.17.0.1", machine="2"),
    }
    assert ambiguous(told) == {"172.17.0.1": ("a", "b")}
    found = all_candidates(inventory("a", "b"), told | {"c": "no answer"})
    assert found == {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}


def test_two_names_of_one_machine_share_their_addresses():
    told = dict.fromkeys("ab", network("127.0.0.1", "10.0.0.1", ssh="127.0.0.1", machine="1"))
    assert ambiguous(told) == {}
    assert all_candidates(inventory("a", "b"), told)["b"] == ("10.0.0.1",)
    both = ("127.0.0.1", "10.0.0.1")
    assert all_candidates(inventory("a", "b", same_machine=True), told) == {"a": both, "b": both}


def test_loopback_is_no_candidate_between_machines_whatever_the_inventory_says():
    told = {
        "a": network("127.0.0.1", "10.0.0.1", ssh="127.0.0.1", machine="1"),
        "b": network("127.0.0.1", "10.0.0.2", ssh="127.0.0.1", machine="2"),
    }
    found = all_candidates(inventory("a", "b", same_machine=True), told)
    assert found == {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}


# --- what came of it ----------------------------------------------------------------------------


def cluster(*hosts: str, **more) -> ClusterFacts:
    return ClusterFacts(hosts=hosts, ssh={}, **more)


def reached(*addresses: str, failed: tuple[str, ...] = (), local: str | None = None):
    return tuple(
        Dialled(address=a, error="ETIMEDOUT" if a in failed else None, local=local)
        for a in addresses
    )


def test_the_head_is_where_most_hosts_reached_it():
    tried = ("docker", "slow", "good")
    got = cluster(
        *("head", "b", "c", "d"),
        candidates={"head": tried},
        rendezvous={
            "b": reached(*tried, failed=("docker",)),
            "c": reached(*tried, failed=("docker", "slow")),
            "d": reached(*tried, failed=("slow", "good")),
        },
    )
    assert head_address(got) == "good"


def test_where_the_rendezvous_port_could_not_be_opened_any_port_counts():
    got = cluster(
        *("head", "b"),
        candidates={"head": ("x", "y")},
        dialled={("b", "head"): reached("x", "y", failed=("x",), local="z")},
    )
    assert head_address(got) == "y"
    assert cluster_address(got, "b") == "z"


def test_of_equals_the_first_candidate():
    got = cluster("head", "b", candidates={"head": ("x", "y")}, rendezvous={"b": reached("x", "y")})
    assert head_address(got) == "x"


def test_where_large_ones_get_through_is_better_than_where_they_do_not():
    stuck = Dialled(address="x", error="ETIMEDOUT", phase="payload")
    got = cluster(
        *("head", "b"),
        candidates={"head": ("x", "y")},
        rendezvous={"b": (stuck, Dialled(address="y"))},
    )
    assert head_address(got) == "y"


def with_vpn(*, lan: float = 0.2, vpn: float = 9.0, tunnel: bool = True):
    """Each host has a LAN, where 0.2 ms are usual, and a VPN, by which our ssh came."""
    number = {"head": 1, "b": 2, "c": 3}
    at = {host: (f"100.64.0.{i}", f"192.168.1.{i}") for host, i in number.items()}
    told = {
        host: Network(
            addresses=(("tailscale0", own[0]), ("eth0", own[1])),
            prefixes={own[0]: 32, own[1]: 24},
            ssh_address=own[0],
            tunnels=("tailscale0",) if tunnel else (),
            machine=host,
        )
        for host, own in at.items()
    }

    def dials(source: str, peer: str) -> tuple[Dialled, ...]:
        return tuple(
            Dialled(
                address=address,
                local=at[source][i],
                ms=(vpn, lan)[i],
            )
            for i, address in enumerate(at[peer])
        )

    return cluster(
        *number,
        networks=told,
        candidates=at,
        dialled={(a, b): dials(a, b) for a in number for b in number if a != b},
        rendezvous={host: dials(host, "head") for host in ("b", "c")},
    )


@pytest.mark.parametrize(
    ("how", "interface"),
    [
        ({}, "eth0"),
        # Whatever it takes: what is quick today is encrypted all the same.
        ({"lan": 9.0, "vpn": 0.2}, "eth0"),
        # A tunnel that is not known for one shows by what it takes.
        ({"tunnel": False}, "eth0"),
        ({"tunnel": False, "lan": 9.0, "vpn": 0.2}, "tailscale0"),
        # By chance one takes longer: then it is where our ssh came.
        ({"tunnel": False, "lan": 0.2, "vpn": 1.9}, "tailscale0"),
        ({"tunnel": False, "lan": 20.0, "vpn": 60.0}, "tailscale0"),
    ],
)
def test_training_goes_by_the_lan_though_our_ssh_came_by_a_vpn(how, interface):
    got = with_vpn(**how)
    assert [interface_of(got, host) for host in got.hosts] == [interface] * 3
    net = {"eth0": "192.168.1", "tailscale0": "100.64.0"}[interface]
    assert [cluster_address(got, host) for host in got.hosts] == [f"{net}.{i}" for i in (1, 2, 3)]
    assert cluster_addresses(got) == {host: cluster_address(got, host) for host in got.hosts}


def test_a_tunnel_that_more_reach_is_better_than_a_lan():
    got = with_vpn()
    cut = {
        pair: (vpn, dataclasses.replace(lan, error="ETIMEDOUT"))
        for pair, (vpn, lan) in got.dialled.items()
    }
    far = {host: dials[:1] for host, dials in got.rendezvous.items()}
    got = dataclasses.replace(got, dialled=cut, rendezvous=far)
    assert [interface_of(got, host) for host in got.hosts] == ["tailscale0"] * 3


def test_the_way_that_the_hosts_own_packets_take_counts_where_the_time_does_not():
    """Two cards that are as good: of those that are not clearly slower."""
    got = with_vpn(tunnel=False, lan=0.2, vpn=0.3)
    there = tuple(dataclasses.replace(d, local="192.168.1.2") for d in got.rendezvous["b"])
    got = dataclasses.replace(got, rendezvous=got.rendezvous | {"b": there})
    assert cluster_address(got, "b") == "192.168.1.2"


def test_two_addresses_of_one_card_are_as_far():
    got = with_vpn(tunnel=False)
    one = {
        host: dataclasses.replace(told, addresses=tuple(("eth0", a) for _, a in told.addresses))
        for host, told in got.networks.items()
    }
    assert cluster_address(dataclasses.replace(got, networks=one), "b") == "100.64.0.2"


def test_a_tunnel_is_tried_after_what_is_none():
    told = with_vpn().networks
    assert all_candidates(inventory("head", "b"), told)["head"] == ("192.168.1.1", "100.64.0.1")
    # With the head on it, it is the network of the cluster.
    assert candidates(told["b"], alone=False, near="100.64.0.1/24")[0] == "100.64.0.2"


def test_no_candidate_no_address():
    assert head_address(cluster("head", "b")) is None


THREE = cluster(
    *("head", "b", "c"),
    networks={
        "head": network("10.0.0.1", "10.1.0.1"),
        "b": network("10.0.0.2", "10.1.0.2"),
        "c": network("10.0.0.3"),
    },
    candidates={
        "head": ("10.0.0.1", "10.1.0.1"),
        "b": ("10.1.0.2", "10.0.0.2"),
        "c": ("10.0.0.3",),
    },
    rendezvous={
        "b": reached("10.0.0.1", local="10.0.0.2"),
        "c": reached("10.0.0.1", local="10.0.0.3"),
    },
)


@pytest.mark.parametrize(
    ("dials", "address", "interface"),
    [
        # Nothing else is known: its end of the way to the head.
        ({}, "10.0.0.2", "eth0"),
        # Both are as good: the one that it comes from itself.
        (
            {("head", "b"): reached("10.1.0.2", "10.0.0.2"), ("c", "b"): reached("10.0.0.2")},
            "10.0.0.2",
            "eth0",
        ),
        (
            {("head", "b"): reached("10.1.0.2", "10.0.0.2"), ("c", "b"): reached("10.1.0.2")},
            "10.1.0.2",
            "eth1",
        ),
    ],
)
def test_a_host_is_where_the_others_reached_it(dials, address, interface):
    got = dataclasses.replace(THREE, dialled=dials)
    assert cluster_address(got, "b") == address
    assert interface_of(got, "b") == interface
    assert cluster_address(got, "head") == "10.0.0.1"
    assert cluster_address(got, "unheard-of") is None


def test_who_was_reached_by_nobody_and_reaches_nobody_has_no_address():
    got = dataclasses.replace(
        THREE,
        rendezvous={},
        dialled={("c", "b"): reached("10.0.0.2", failed=("10.0.0.2",))},
    )
    assert cluster_address(got, "b") is None
    assert interface_of(got, "b") is None


def test_the_interface_behind_a_name_is_where_connections_arrive():
    got = cluster(
        *("head", "b"),
        networks={"b": network("10.0.0.2", "10.1.0.2"), "head": "no answer"},
        candidates={"head": ("h",), "b": ("b.lab",)},
        dialled={("head", "b"): (Dialled(address="b.lab", arrived="10.1.0.2"),)},
    )
    assert (cluster_address(got, "b"), interface_of(got, "b")) == ("b.lab", "eth1")
    assert interface_of(got, "head") is None
