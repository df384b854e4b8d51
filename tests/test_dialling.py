"""Who dials whom: at first, and again where that was not enough."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.dialling import FULL_MESH, Target, elsewhere, gaps, partners, targets
from orchestrator.facts import ClusterFacts, Dialled, Network

# --- at first ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, FULL_MESH])
def test_up_to_so_many_hosts_every_ordered_pair_is_tried(count):
    hosts = [f"h{i}" for i in range(count)]
    tried = {(host, peer) for host, peers in partners(hosts).items() for peer in peers}
    assert tried == {(a, b) for a in hosts for b in hosts if a != b}


@pytest.mark.parametrize("count", [FULL_MESH + 1, 200, 1000])
def test_above_it_is_a_star_a_ring_and_some_more(count):
    hosts = [f"h{i}" for i in range(count)]
    chosen = partners(hosts)
    assert chosen == partners(hosts), "the same hosts try the same pairs again"
    assert set(chosen["h0"]) == set(hosts[1:])
    for i, host in enumerate(hosts):
        assert host not in chosen[host]
        assert len(set(chosen[host])) == len(chosen[host])
        assert i == 0 or "h0" in chosen[host]
        assert i in (0, count - 1) or {hosts[i - 1], hosts[i + 1]} <= set(chosen[host])
    others = [len(peers) for host, peers in chosen.items() if host != "h0"]
    assert max(others) <= 3 + count.bit_length()
    assert sum(others) / len(others) > count.bit_length() / 2, "log2 n permutations"
    into = {host: sum(host in peers for peers in chosen.values()) for host in hosts}
    assert min(into.values()) >= 3, "each is tried by several: its fault is not one pair's"


@pytest.mark.parametrize(("hosts", "each"), [(2, 8), (8, 8), (9, 2), (32, 2), (33, 1), (64, 1)])
def test_many_hosts_are_tried_at_fewer_addresses(hosts, each):
    names = [f"h{i}" for i in range(hosts)]
    known = {name: tuple(f"10.0.{i}.1" for i in range(9)) for name in names}
    found = targets(names, known, dict.fromkeys(names, 5), 6)
    last = [t for t in found["h0"] if t.host == names[-1]]
    assert [t.address for t in last] == [f"10.0.{i}.1" for i in range(each)]
    # On the head's address all depends.
    at_head = [t for t in found[names[-1]] if t.host == "h0"]
    assert [t.rendezvous for t in at_head] == [False] * 8 + [True] * 8
    assert {t.port for t in at_head if t.rendezvous} == {6}


def test_who_has_no_port_open_is_neither_dialled_nor_dials():
    known = {"a": ("10.0.0.1",), "b": ("10.0.0.2",), "c": ("10.0.0.3",)}
    found = targets("abc", known, {"a": 1, "c": 3}, None)
    assert found == {
        "a": (Target(host="c", address="10.0.0.3", port=3),),
        "c": (Target(host="a", address="10.0.0.1", port=1),),
    }


# --- and again ----------------------------------------------------------------------------------

HOSTS = ("h1", "h2", "h3")
PORTS = {"h1": 5, "h2": 6, "h3": 7}
NETS = ("10.1.0", "10.2.0", "10.3.0", "10.4.0")


def at(net: int, host: str) -> str:
    return f"{NETS[net - 1]}.{host[1:]}"


def told(host: str, *nets: int) -> Network:
    own = [at(net, host) for net in nets]
    return Network(
        addresses=tuple((f"eth{net}", address) for net, address in zip(nets, own, strict=True)),
        prefixes=dict.fromkeys(own, 24),
        ssh_address=own[0],
        machine=host,
    )


def after(
    dials: dict[tuple[str, str], str], rendezvous=(), **nets: tuple[int, ...]
) -> ClusterFacts:
    """By host and peer the networks that were tried: "1! 2" is one without an answer, and another.

    All hosts are in all networks, but for those of which it is said in which.
    """
    own = {host: nets.get(host, (1, 2, 3, 4)) for host in HOSTS}

    def of(peer: str, words: str) -> tuple[Dialled, ...]:
        return tuple(
            Dialled(address=at(int(word[0]), peer), error="ETIMEDOUT" if "!" in word else None)
            for word in words.split()
        )

    return ClusterFacts(
        hosts=HOSTS,
        ssh={},
        networks={host: told(host, *own[host]) for host in HOSTS},
        candidates={host: tuple(at(net, host) for net in own[host]) for host in HOSTS},
        dialled={pair: of(pair[1], words) for pair, words in dials.items()},
        rendezvous={host: of("h1", words) for host, words in dict(rendezvous).items()},
    )


def every(words: str, **more: str) -> dict[tuple[str, str], str]:
    """All pairs in one way, but for h1_h2 and the like."""
    pairs = {(a, b): words for a in HOSTS for b in HOSTS if a != b}
    return pairs | {(pair[:2], pair[3:]): other for pair, other in more.items()}


def where(found: dict[str, tuple[Target, ...]]) -> dict[str, list[str]]:
    return {host: [target.address for target in listed] for host, listed in found.items()}


def test_where_all_is_well_nobody_is_dialled_again():
    good = after(every("1"), {"h2": "1", "h3": "1"})
    assert elsewhere(good, PORTS) == gaps(good, PORTS, 9) == {}
    tried = after(every("1! 2"), {"h2": "1! 2", "h3": "1! 2"})
    assert elsewhere(tried, PORTS) == gaps(tried, PORTS, 9) == {}


def test_who_was_not_reached_by_all_is_dialled_by_all_at_more_addresses():
    got = after(every("1", h1_h2="1!"))
    more = tuple(Target(host="h2", address=at(net, "h2"), port=6) for net in (2, 3))
    assert elsewhere(got, PORTS) == {"h1": more, "h3": more}
    assert elsewhere(after(every("1 2 3 4", h1_h2="1! 2! 3! 4!")), PORTS) == {}


def test_the_heads_network_goes_first_and_then_the_one_that_most_share():
    nobody = every("1!", h2_h1="1! 4", h3_h1="1! 4")
    assert where(elsewhere(after(nobody), PORTS))["h1"][:2] == [at(4, "h2"), at(2, "h2")]
    # Where the head is nowhere reached: h3 has no eth2.
    few = after(every("1!"), h3=(1, 3, 4))
    assert where(elsewhere(few, PORTS))["h1"][:2] == [at(3, "h2"), at(4, "h2")]


def test_who_told_nothing_is_not_asked_again_and_who_has_no_port_open_not_dialled():
    dials = every("1!")
    for pair in (("h2", "h1"), ("h2", "h3"), ("h1", "h3"), ("h3", "h1")):
        del dials[pair]
    assert where(elsewhere(after(dials), {"h2": 6})) == {
        host: [at(2, "h2"), at(3, "h2")] for host in ("h1", "h3")
    }
    assert elsewhere(after({}), PORTS) == gaps(after({}), PORTS, 9) == {}


def test_what_the_cluster_is_to_use_is_tried_by_everyone():
    """h1 was answered at another address of h2 in time, and the others nowhere else."""
    got = after(every("1", h1_h2="2", h3_h2="1 2!"), {"h2": "1", "h3": "1"})
    assert gaps(got, PORTS, 9) == {"h1": (Target(host="h2", address=at(1, "h2"), port=6),)}
    behind = after(every("1"), {"h2": "1", "h3": "2"})
    assert gaps(behind, PORTS, 9) == {
        "h3": (Target(host="h1", address=at(1, "h1"), port=9, rendezvous=True),)
    }
    assert gaps(behind, PORTS, None) == {}


def test_networks_that_make_no_sense_are_no_network():
    strange = after(every("1!"))
    wrong = Network(addresses=(), prefixes={"x": 24, at(2, "h2"): 77}, ssh_address="")
    strange = dataclasses.replace(strange, networks={"h1": "no answer", "h2": wrong})
    assert where(elsewhere(strange, PORTS))["h1"] == [
        *(at(2, "h2"), at(3, "h2")),
        *(at(2, "h3"), at(3, "h3")),
    ]
