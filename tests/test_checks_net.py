"""What the hosts found out between them in, verdicts out."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.checks import failures, judge
from orchestrator.checks.blocks import blocks
from orchestrator.checks.nics import nccl_takes
from orchestrator.facts import (
    Clock,
    ClusterFacts,
    Dialled,
    InfinibandPort,
    Interface,
    Interfaces,
    Listening,
    Named,
    Network,
    SshState,
)

DROPPED = {"error": "ETIMEDOUT", "phase": "connect", "after_ms": 3200.0}
STUCK = {"error": "ETIMEDOUT", "phase": "payload", "way": "there", "after_ms": 4000.0}


def address(host: str) -> str:
    return f"10.79.0.{host[1:]}"


def network(host: str, *more: tuple[str, str], ssh: str = "") -> Network:
    return Network(
        addresses=(("lo", "127.0.0.1"), ("eth0", address(host)), *more),
        prefixes={address(host): 24},
        ssh_address=ssh or address(host),
        hostname=f"{host}.lab",
        machine=host,
    )


def interfaces(mtu: int | None = 1500, **more) -> Interfaces:
    names = (("eth0", mtu), ("eth1", 1500), ("lo", 65536))
    return Interfaces(
        interfaces=tuple(Interface(name=name, mtu=each) for name, each in names),
        ephemeral=(32768, 60999),
        **more,
    )


def made(count: int = 4, broken=(), **changes) -> ClusterFacts:
    """All is well, but for the pairs in `broken`, which come with how they fail."""
    hosts = tuple(f"n{i}" for i in range(1, count + 1))
    pairs = [(a, b) for a in hosts for b in hosts if a != b]
    how = dict(broken)

    def dials(host: str, peer: str) -> tuple[Dialled, ...]:
        told = {"address": address(peer), "local": address(host), "ms": 1.0}
        return (Dialled(**(told | how.get((host, peer), {}))),)

    whole = ClusterFacts(
        hosts=hosts,
        ssh={host: SshState() for host in hosts},
        clocks={host: Clock(offset=0.0, trip=0.01) for host in hosts},
        networks={host: network(host) for host in hosts},
        interfaces={host: interfaces() for host in hosts},
        candidates={host: (address(host),) for host in hosts},
        listening=Listening(port=29400),
        port=29400,
        dialled={pair: dials(*pair) for pair in pairs},
        rendezvous={host: dials(host, "n1") for host in hosts[1:]},
        from_here="not tried",
    )
    return dataclasses.replace(whole, **changes)


def said(cluster: ClusterFacts, check: str, *statuses: str) -> list:
    return [v for v in judge(cluster) if v.id == check and (not statuses or v.status in statuses)]


def only(cluster: ClusterFacts, check: str, *statuses: str):
    (verdict,) = said(cluster, check, *(statuses or ("fail", "warn", "info", "unknown")))
    return verdict


def findings(cluster: ClusterFacts) -> list[tuple]:
    """What is to be read first: what is wrong, and no consequence of another one."""
    return [
        (v.id, v.status)
        for v in judge(cluster)
        if v.status in ("fail", "warn", "unknown") and v.caused_by is None
    ]


def every(count: int, *, into: str = "", out: str = "", how=DROPPED) -> dict:
    hosts = [f"n{i}" for i in range(1, count + 1)]
    pairs = [(a, b) for a in hosts for b in hosts if a != b]
    return {pair: how for pair in pairs if pair[1] == into or pair[0] == out}


def test_all_is_well():
    cluster = made()
    assert findings(cluster) == []
    told = [(v.host, v.status, v.message) for v in said(cluster, "net.pair")]
    assert told == [(f"n{i}", "pass", "reaches the other 3") for i in range(1, 5)]
    assert {v.message for v in said(cluster, "net.payload")} == {
        "64 KiB there and back with the other 3"
    }
    assert [v.host for v in said(cluster, "net.rdzv")] == ["n2", "n3", "n4"]


def test_one_host_has_no_pairs():
    cluster = made(1)
    assert not {v.id for v in judge(cluster)} & {"net.pair", "net.rdzv", "net.payload"}
    assert findings(cluster) == []


# --- net.pair -----------------------------------------------------------------------------------


def test_one_way_of_a_pair():
    cluster = made(broken={("n3", "n2"): DROPPED})
    verdict = only(cluster, "net.pair")
    assert verdict.message.startswith(
        "n3 cannot open TCP to n2 on ephemeral ports (n2 to n3 works): no answer"
    )
    assert (verdict.status, verdict.scope, verdict.host, verdict.peer) == (
        *("fail", "pair"),
        *("n3", "n2"),
    )
    assert verdict.hint == "on n2 allow TCP 32768-60999 from 10.79.0.3"
    assert verdict.evidence == {
        "err": "ETIMEDOUT", "phase": "connect", "address": "10.79.0.2", "local": "10.79.0.3",
        "after_ms": 3200.0,
    }  # fmt: skip
    assert [v.host for v in said(cluster, "net.pair", "pass")] == ["n1", "n2", "n4"]
    assert findings(cluster) == [("net.pair", "fail")]


def test_both_ways_of_a_pair_are_one_finding():
    verdict = only(made(broken=dict.fromkeys([("n3", "n2"), ("n2", "n3")], DROPPED)), "net.pair")
    assert verdict.message.startswith("n2 and n3 cannot open TCP to each other on ephemeral ports:")
    assert verdict.evidence["count"] == 2


@pytest.mark.parametrize(
    ("count", "broken", "scope", "host", "message"),
    [
        (
            4,
            every(4, into="n3"),
            "host",
            "n3",
            "n3 cannot be reached over TCP by any other host (3 of 3): ",
        ),
        (4, every(4, out="n3"), "host", "n3", "n3 can open TCP to no other host (3 of 3): "),
        (
            4,
            every(4, into="n3", out="n3"),
            *("host", "n3", "n3 and the other hosts cannot open TCP to each other (6 pairs): "),
        ),
        (
            3,
            every(3, into="n1") | every(3, into="n2") | every(3, into="n3"),
            *("cluster", None, "no host can open TCP to another on ephemeral ports (6 of 6 "),
        ),
        # Two racks with nothing between them.
        (
            4,
            {
                (a, b): DROPPED
                for a, b in [("n1", "n3"), ("n1", "n4"), ("n2", "n3"), ("n2", "n4")]
                for a, b in ((a, b), (b, a))
            },
            *("pair", "n1", "n1, n2 and n3, n4 cannot open TCP to each other on ephemeral ports: "),
        ),
        (
            5,
            {(a, b): DROPPED for a in ("n1", "n2") for b in ("n4", "n5")},
            *("pair", "n1", "n1, n2 cannot open TCP to n4, n5 on ephemeral ports: "),
        ),
    ],
)
def test_what_has_one_cause_is_one_finding(count, broken, scope, host, message):
    cluster = made(count, broken)
    verdict = only(cluster, "net.pair")
    assert verdict.message.startswith(message)
    assert (verdict.scope, verdict.host) == (scope, host)
    assert verdict.hint
    assert host not in [v.host for v in said(cluster, "net.pair", "pass")], "it is one or other"
    assert verdict.evidence["count"] == len(broken)
    told = {(pair["host"], pair["peer"]) for pair in verdict.evidence["pairs"]}
    assert told == set(broken)
    assert [v.id for v in judge(cluster) if v.status == "fail" and not v.caused_by] == ["net.pair"]


def test_a_host_and_a_pair_are_two_findings():
    broken = every(5, into="n4") | {("n1", "n2"): DROPPED}
    told = [(v.host, v.peer) for v in said(made(5, broken), "net.pair", "fail")]
    assert told == [("n4", None), ("n1", "n2")]


def test_of_many_hosts_that_reach_nobody_there_is_one_finding():
    """Of so many the evidence has the first hundred pairs, in which the last host is not."""
    hosts = [f"n{i}" for i in range(1, 103)]
    cluster = made(102, {(a, b): DROPPED for a in hosts for b in hosts if a != b})
    assert findings(cluster) == [("net.pair", "fail")]
    unknown = said(cluster, "net.payload", "unknown")
    assert [(v.host, v.caused_by) for v in unknown] == [(host, "net.pair") for host in hosts]


def test_of_sixty_four_hosts_that_reach_nobody_each_is_not_told_apart():
    hosts = [f"n{i}" for i in range(1, 65)]
    pairs = {(a, b) for a in hosts for b in hosts if a != b}
    (all_,) = blocks(hosts, pairs, pairs)
    assert all_.kind == "all"
    half = {(a, b) for a, b in pairs if (int(a[1:]) > 32) != (int(b[1:]) > 32)}
    (rack,) = blocks(hosts, pairs, half)
    assert (rack.kind, rack.mutual, len(rack.pairs)) == ("some", True, 2048)


@pytest.mark.parametrize(
    ("how", "words", "hint"),
    [
        (DROPPED, "no answer (a firewall drops it", "on n2 allow TCP 32768-60999 from 10.79.0.3"),
        (
            {"error": "ECONNREFUSED", "phase": "connect"},
            "refused (a firewall rejects it",
            (
                "on n2 allow TCP 32768-60999 from 10.79.0.3; or, if 10.79.0.2 is the wrong "
                "network, set `addr:` of n2"
            ),
        ),
        ({"error": "EHOSTUNREACH", "phase": "connect"}, "no route to host", "on n2 allow TCP "),
        (
            {"error": "ENETUNREACH", "phase": "connect"},
            "network unreachable",
            (
                "give n2 an `addr:` in the inventory: an IP address in a network that they share; "
                "by hand: ip route get 10.79.0.2"
            ),
        ),
        ({"error": "EPERM", "phase": "connect"}, "its own firewall", "on n3 allow outgoing TCP to"),
        ({"error": "STRANGER", "phase": "greeting"}, "something else answers", "give n2 an `addr"),
        ({"error": "OTHER", "phase": "greeting", "who": "n4"}, "n4 answers there", "give n2 an `a"),
        ({"error": "EAI", "phase": "connect"}, "the name does not resolve", "give n2 an `addr:`"),
        ({"error": "ETIMEDOUT", "phase": "greeting"}, "connected, then silence", "on n2 allow TCP"),
        ({"error": "EWHATEVER", "phase": "connect"}, "EWHATEVER", "on n2 allow TCP"),
    ],
)
def test_each_way_to_fail_has_its_words(how, words, hint):
    verdict = only(made(broken={("n3", "n2"): how}), "net.pair")
    assert f"(n2 to n3 works): {words}" in verdict.message
    assert verdict.hint.startswith(hint)


def test_where_the_range_of_ports_is_not_known():
    cluster = made(broken={("n3", "n2"): DROPPED}, interfaces={"n2": "no answer"})
    assert only(cluster, "net.pair", "fail").hint == "on n2 allow TCP 1024-65535 from 10.79.0.3"


def test_a_host_without_connection_is_one_unknown_with_its_stage_for_a_cause():
    ssh = {f"n{i}": SshState() for i in range(1, 5)} | {"n3": SshState(check="ssh.auth", hint="do")}
    cluster = made(ssh=ssh)
    for check in ("net.pair", "net.payload", "net.rdzv"):
        verdict = only(cluster, check)
        assert (verdict.host, verdict.status, verdict.caused_by) == ("n3", "unknown", "ssh.auth")
    told = [(v.host, v.message) for v in said(cluster, "net.pair", "pass")]
    assert told == [(host, "reaches 2 of the other 3") for host in ("n1", "n2", "n4")]
    assert findings(cluster) == [("ssh.auth", "fail")]


def test_a_head_without_connection_is_one_finding():
    ssh = {f"n{i}": SshState() for i in range(2, 5)} | {"n1": SshState(check="ssh.jump", hint="do")}
    cluster = made(ssh=ssh, listening=None, rendezvous={})
    for check in ("net.port.rdzv", "net.rdzv", "net.pair"):
        assert only(cluster, check).caused_by == "ssh.jump"
    assert findings(cluster) == [("ssh.jump", "fail")]


def test_a_host_that_took_no_part_says_why():
    cluster = made(unheard={"n3": "no answer to probe.dial in 15 s"})
    cluster = dataclasses.replace(
        cluster, dialled={pair: d for pair, d in cluster.dialled.items() if "n3" not in pair}
    )
    verdict = only(cluster, "net.pair")
    assert (verdict.host, verdict.status) == ("n3", "unknown")
    assert verdict.message == "not tried: no answer to probe.dial in 15 s"


def test_a_pair_is_judged_at_the_address_that_the_cluster_uses():
    """The others use 10.1.0.2; that n1 reaches n2 elsewhere does not help them."""
    cluster = made(3)
    elsewhere = Dialled(address="10.1.0.2", **DROPPED), Dialled(address=address("n2"))
    good = Dialled(address="10.1.0.2"), Dialled(address=address("n2"), **DROPPED)
    cluster = dataclasses.replace(
        cluster,
        candidates=cluster.candidates | {"n2": ("10.1.0.2",)},
        given_addresses=("n2",),
        dialled=cluster.dialled | {("n1", "n2"): elsewhere, ("n3", "n2"): good},
    )
    verdict = only(cluster, "net.pair")
    assert (verdict.host, verdict.peer, verdict.evidence["address"]) == ("n1", "n2", "10.1.0.2")


def test_what_was_not_tried_at_that_address_is_neither_a_pass_nor_a_failure():
    """n1 was answered at 10.1.0.2 first; the others know n2 by its other address."""
    cluster = made(4, candidates={f"n{i}": (address(f"n{i}"), f"10.1.0.{i}") for i in range(1, 5)})
    elsewhere = (Dialled(address="10.1.0.2"),)
    cluster = dataclasses.replace(cluster, dialled=cluster.dialled | {("n1", "n2"): elsewhere})
    told = {v.host: v.message for v in said(cluster, "net.pair", "pass")}
    assert told["n1"] == "reaches 2 of the other 3"
    assert told["n3"] == "reaches the other 3"
    assert findings(cluster) == []
    at_head = {"n3": (Dialled(address="10.1.0.1"),)}
    cluster = dataclasses.replace(cluster, rendezvous=cluster.rendezvous | at_head)
    verdict = only(cluster, "net.rdzv")
    assert (verdict.host, verdict.status, verdict.message) == ("n3", "unknown", "not tried")


def in_more_networks(count: int, broken, **changes) -> ClusterFacts:
    """Of three addresses that each has, the one in `made` was dialled."""
    whole = made(count, broken)
    return dataclasses.replace(
        whole,
        networks={
            h: network(h, ("eth1", f"10.1.0.{h[1:]}"), ("bond0", f"10.2.0.{h[1:]}"))
            for h in whole.hosts
        },
        candidates={
            h: (address(h), f"10.1.0.{h[1:]}", f"10.2.0.{h[1:]}") for h in whole.hosts
        },
        **changes,
    )  # fmt: skip


def test_the_hint_says_what_was_not_tried():
    nobody = {(f"n{a}", f"n{b}"): DROPPED for a in range(1, 10) for b in range(1, 10) if a != b}
    assert only(in_more_networks(9, nobody), "net.pair", "fail").hint == (
        "on every host allow TCP 32768-60999 from the other hosts; or set `addr:` of them in "
        "another network (not tried: eth1, bond0)"
    )
    into = in_more_networks(9, every(9, into="n3"))
    assert only(into, "net.pair", "fail").hint.endswith(
        "; or set `addr:` of n3 in another network (not tried: eth1, bond0)"
    )
    given = dataclasses.replace(into, candidates=into.candidates | {"n3": (address("n3"),)})
    assert "`addr:`" not in only(given, "net.pair", "fail").hint


def test_from_another_subnet_it_may_be_the_wrong_address():
    cluster = made(broken={("n3", "n2"): DROPPED | {"local": "10.80.0.3"}})
    assert only(cluster, "net.pair", "fail").hint == (
        "on n2 allow TCP 32768-60999 from 10.80.0.3; or, if 10.79.0.2 is the wrong network, set "
        "`addr:` of n2"
    )


# --- net.rdzv -----------------------------------------------------------------------------------


def without_rendezvous(*hosts: str, count: int = 4, **how) -> ClusterFacts:
    whole = made(count)
    failed = (Dialled(address=address("n1"), **(how or DROPPED)),)
    return dataclasses.replace(whole, rendezvous=whole.rendezvous | dict.fromkeys(hosts, failed))


def test_a_host_that_does_not_reach_the_heads_port():
    verdict = only(without_rendezvous("n3"), "net.rdzv")
    assert (verdict.status, verdict.scope, verdict.host, verdict.peer) == (
        *("fail", "pair"),
        *("n3", "n1"),
    )
    assert verdict.message.startswith("n3 cannot reach n1 at 10.79.0.1 port 29400: no answer")
    assert verdict.hint.startswith("on n1 allow TCP 29400 from 10.79.0.3; or, if 10.79.0.1 is the")
    assert verdict.caused_by is None


def test_several_and_all_are_one_finding():
    verdict = only(without_rendezvous("n2", "n3"), "net.rdzv")
    assert verdict.message.startswith("n2, n3 cannot reach n1 at 10.79.0.1 port 29400: ")
    verdict = only(without_rendezvous("n2", "n3", "n4"), "net.rdzv")
    assert (verdict.scope, verdict.host) == ("host", "n1")
    assert verdict.message.startswith("no other host can reach n1 at 10.79.0.1 port 29400 (3 of 3)")


def test_an_unheard_of_error_is_shown_as_it_is():
    assert only(without_rendezvous("n2", error="EWHATEVER"), "net.rdzv").message.endswith(
        ": EWHATEVER"
    )


def test_hosts_are_judged_by_the_address_that_most_reach():
    whole = made(4, candidates={"n1": ("x", "y")})
    cluster = dataclasses.replace(
        whole,
        rendezvous={
            "n2": (Dialled(address="x"), Dialled(address="y", error="ECONNREFUSED")),
            "n3": (Dialled(address="x", error="ECONNREFUSED"), Dialled(address="y")),
            "n4": (Dialled(address="x", error="ECONNREFUSED"), Dialled(address="y")),
        },
    )
    told = {v.host: v.status for v in said(cluster, "net.rdzv")}
    assert told == {"n2": "fail", "n3": "pass", "n4": "pass"}


def test_a_dial_that_was_not_made_is_unknown():
    whole = made(2)
    verdict = only(dataclasses.replace(whole, rendezvous={}), "net.rdzv")
    assert (verdict.host, verdict.status, verdict.caused_by) == ("n2", "unknown", None)


def test_a_taken_port_is_one_finding():
    listening = Listening(error="EADDRINUSE", holder="77 (python x.py)", pid=77, age=7300.0)
    cluster = made(listening=listening, rendezvous={})
    verdict = only(cluster, "net.port.rdzv")
    assert verdict.message == "port 29400 is taken by pid 77 (python x.py), for 2 h"
    pair = only(cluster, "net.rdzv")
    assert (pair.status, pair.caused_by) == ("unknown", "net.port.rdzv")
    assert findings(cluster) == [("net.port.rdzv", "fail")]


def test_a_blocked_pair_explains_the_rendezvous():
    both = dict.fromkeys([("n3", "n1"), ("n1", "n3")], DROPPED)
    cluster = made(broken=both)
    assert only(cluster, "net.rdzv").caused_by == "net.pair"
    assert findings(cluster) == [("net.pair", "fail")]
    other = dataclasses.replace(
        without_rendezvous("n2"), dialled=made(broken={("n3", "n1"): DROPPED}).dialled
    )
    assert only(other, "net.rdzv").caused_by is None, "that is another pair"


# --- net.payload and MTUs -----------------------------------------------------------------------


def test_large_ones_do_not_get_through():
    broken = dict.fromkeys([("n1", "n2"), ("n2", "n1")], STUCK)
    mtus = dict.fromkeys(("n1", "n2"), interfaces(9000)) | dict.fromkeys(("n3", "n4"), interfaces())
    cluster = made(broken=broken, interfaces=mtus)
    verdict = only(cluster, "net.payload")
    assert verdict.message == (
        "a short message passes between n1 and n2, 64 KiB do not: they never come "
        "(MTU 9000 on n1, 9000 on n2)"
    )
    assert verdict.hint.startswith("on n1, n2: sudo ip link set dev eth0 mtu 1500; or let the ICMP")
    assert verdict.caused_by == "net.mtu_diff"
    warning = only(cluster, "net.mtu_diff")
    assert (warning.status, warning.scope, warning.host) == ("warn", "cluster", None)
    assert "9000 on n1, n2, 1500 on n3, n4" in warning.message
    assert findings(cluster) == [("net.mtu_diff", "warn")]
    assert said(cluster, "net.pair", "fail") == [], "connections can be opened"
    assert said(cluster, "net.rdzv", "fail") == []


def test_large_ones_do_not_get_through_between_alike():
    alike = {f"n{i}": interfaces(9000) for i in range(1, 5)}
    cluster = made(broken=every(4, into="n3", out="n3", how=STUCK), interfaces=alike)
    verdict = only(cluster, "net.payload")
    assert (verdict.host, verdict.caused_by) == ("n3", None)
    assert "between n3 and the other hosts, 64 KiB do not" in verdict.message
    assert verdict.hint.startswith("on n3: sudo ip link set dev eth0 mtu 1500")
    ordinary = made(broken={("n1", "n2"): STUCK})
    hint = only(ordinary, "net.payload").hint
    assert hint.startswith("on n1, n2: sudo ip link set dev eth0 mtu 1400")
    assert "from n1 to n2" in only(ordinary, "net.payload").message


def test_one_that_differs_is_named():
    odd = {f"n{i}": interfaces() for i in range(1, 5)} | {"n2": interfaces(1450)}
    verdict = only(made(interfaces=odd), "net.mtu_diff")
    assert (verdict.status, verdict.host) == ("warn", "n2")
    assert verdict.hint.startswith("on n1, n3, n4: sudo ip link set dev eth0 mtu 1450")


def test_mtus_that_are_not_known_are_no_difference():
    cluster = made(interfaces={f"n{i}": interfaces(None) for i in range(1, 5)})
    assert said(cluster, "net.mtu_diff") == []


# --- interfaces ---------------------------------------------------------------------------------


def test_the_interface_that_carries_the_cluster():
    told = [(v.host, v.status, v.message) for v in said(made(2), "net.nic")]
    assert told == [("n1", "pass", "eth0, 10.79.0.1"), ("n2", "pass", "eth0, 10.79.0.2")]


def test_a_head_that_nobody_reaches_has_no_interface_that_carries_the_cluster():
    cluster = made(broken=every(4, into="n1"))
    verdict = only(cluster, "net.nic")
    assert (verdict.host, verdict.status, verdict.caused_by) == ("n1", "unknown", "net.pair")
    assert verdict.message == "no other host has reached it"
    assert findings(cluster) == [("net.pair", "fail")]
    assert {v.status for v in said(made(1), "net.nic")} == {"pass"}, "there is nobody to reach it"
    (head, *_) = said(made(broken=every(4, into="n1", how=STUCK)), "net.nic")
    assert head.status == "pass"


def test_an_address_of_several_hosts_is_information():
    docker = ("docker0", "172.17.0.1")
    cluster = made(2, networks={host: network(host, docker) for host in ("n1", "n2")})
    verdict = only(cluster, "net.nic")
    assert (verdict.status, verdict.scope) == ("info", "cluster")
    assert "172.17.0.1 (docker0) on n1, n2" in verdict.message
    assert findings(cluster) == []


@pytest.mark.parametrize("addresses", [(), (("lo", "127.0.0.1"),)])
def test_a_host_without_an_address(addresses):
    networks = {"n1": network("n1"), "n2": Network(addresses=addresses, ssh_address="")}
    whole = made(2)
    cluster = dataclasses.replace(
        whole, networks=networks, candidates={"n1": (address("n1"),), "n2": ()}, dialled={}
    )
    verdict = only(cluster, "net.nic", "fail")
    assert (verdict.host, verdict.hint) == ("n2", "give n2 an `addr:` in the inventory")
    assert [v.host for v in said(cluster, "net.pair", "unknown") if v.caused_by == "net.nic"] == [
        "n2"
    ]


def test_a_host_whose_only_address_others_have_too():
    docker = Network(
        addresses=(("eth0", "172.17.0.2"),), ssh_address="172.17.0.2", machine="another"
    )
    cluster = made(2, networks={"n1": docker, "n2": dataclasses.replace(docker, machine="b")})
    cluster = dataclasses.replace(cluster, candidates={"n1": (), "n2": ()})
    told = [v.message for v in said(cluster, "net.nic", "fail")]
    assert told[0].endswith("it has 172.17.0.2 (eth0); 172.17.0.2 is also on n2")


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("eth", "eth0 eth1"),
        ("eth0", "eth0"),
        ("=eth", ""),
        ("=eth0,lo", "eth0 lo"),
        ("eth1,lo", "eth1 lo"),
        ("^eth", "lo"),
        ("^docker,lo", "eth0 eth1"),
        ("^=eth0", "eth1 lo"),
        ("ib", ""),
        ("eth0:2", "eth0"),
    ],
)
def test_names_as_nccl_takes_them(value, taken):
    assert [name for name in ("eth0", "eth1", "lo") if nccl_takes(value, name)] == taken.split()


@pytest.mark.parametrize(
    ("name", "value", "status", "words"),
    [
        ("NCCL_SOCKET_IFNAME", "eth0", "pass", ""),
        ("NCCL_SOCKET_IFNAME", "=eth0", "pass", ""),
        ("NCCL_SOCKET_IFNAME", "eth", "pass", ""),
        ("NCCL_SOCKET_IFNAME", "^docker0,lo", "pass", ""),
        ("NCCL_SOCKET_IFNAME", "ib0", "fail", "leaves no interface that is there"),
        ("NCCL_SOCKET_IFNAME", "=eth", "fail", "leaves no interface that is there"),
        ("NCCL_SOCKET_IFNAME", "eth1", "warn", "takes eth1; eth0 was found to carry the cluster"),
        ("NCCL_SOCKET_IFNAME", "^eth0", "warn", "takes eth1, lo; eth0 was found"),
        ("GLOO_SOCKET_IFNAME", "eth0", "pass", ""),
        ("GLOO_SOCKET_IFNAME", "eth1,eth0", "pass", ""),
        ("GLOO_SOCKET_IFNAME", "eth", "fail", "gloo takes the whole name: eth0"),
        ("GLOO_SOCKET_IFNAME", "^docker0", "fail", "is NCCL's way to write it"),
        ("GLOO_SOCKET_IFNAME", "=eth0", "fail", "is NCCL's way to write it"),
        ("GLOO_SOCKET_IFNAME", "eth7", "fail", "names an interface that is not there"),
        ("GLOO_SOCKET_IFNAME", "eth1", "warn", "takes eth1; eth0 was found"),
    ],
)
def test_what_the_user_sets(name, value, status, words):
    given = made(2, socket_names={"n2": {name: value}})
    there = made(2, interfaces={"n1": interfaces(), "n2": interfaces(env={name: value})})
    for cluster, where in ((given, "inventory or --env"), (there, "host's own environment")):
        (verdict,) = said(cluster, "net.if_env")
        assert (verdict.host, verdict.status) == ("n2", status)
        assert words in verdict.message
        if status != "pass":
            assert f"{name}={value} ({where})" in verdict.message
            wanted = f"{name}: {'=' if 'NCCL' in name else ''}eth0"
            assert verdict.hint.endswith(wanted)


def with_ipoib(*dials: Dialled) -> ClusterFacts:
    """n2 has an ib0 besides; so was it dialled there."""
    whole = made(3)
    told = interfaces()
    there = dataclasses.replace(told, interfaces=(*told.interfaces, Interface(name="ib0")))
    into = zip(("n1", "n3"), dials, strict=False)
    return dataclasses.replace(
        whole,
        networks=whole.networks | {"n2": network("n2", ("ib0", "10.80.0.2"))},
        interfaces=whole.interfaces | {"n2": there},
        candidates=whole.candidates | {"n2": (address("n2"), "10.80.0.2")},
        dialled=whole.dialled
        | {(host, "n2"): (*whole.dialled[host, "n2"], dial) for host, dial in into},
    )


GOOD = Dialled(address="10.80.0.2", ms=0.1)


@pytest.mark.parametrize(
    ("dials", "status"),
    [
        ((GOOD, GOOD), "pass"),
        ((GOOD,), "pass"),
        ((GOOD, Dialled(address="10.80.0.2", **DROPPED)), "warn"),
        ((GOOD, Dialled(address="10.80.0.2", **STUCK)), "warn"),
        ((), "unknown"),
    ],
)
@pytest.mark.parametrize("name", ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"])
def test_another_interface_than_ours_is_good_where_all_reach_it(name, dials, status):
    cluster = dataclasses.replace(with_ipoib(*dials), socket_names={"n2": {name: "ib0"}})
    (verdict,) = said(cluster, "net.if_env")
    assert (verdict.host, verdict.status) == ("n2", status)
    assert bool(verdict.hint) == (status == "warn")
    both = dataclasses.replace(cluster, socket_names={"n2": {name: "lo,ib0"}})
    assert only(both, "net.if_env").status == "warn", "nobody reaches it at lo"


def test_a_host_that_is_alone_may_use_any_interface_that_is_there():
    alone = made(1, candidates={"n1": (address("n1"), "127.0.0.1")})
    for name, status in (("lo", "pass"), ("ib0", "fail")):
        cluster = dataclasses.replace(alone, socket_names={"n1": {"NCCL_SOCKET_IFNAME": name}})
        assert [v.status for v in said(cluster, "net.if_env")] == [status]


def test_the_inventory_wins_over_the_hosts_own_environment():
    there = interfaces(env={"GLOO_SOCKET_IFNAME": "^docker0", "NCCL_SOCKET_IFNAME": "ib"})
    cluster = made(
        2,
        interfaces={"n1": interfaces(), "n2": there},
        socket_names={"n2": {"GLOO_SOCKET_IFNAME": "eth0"}},
    )
    verdict = only(cluster, "net.if_env")
    assert "GLOO" not in verdict.message
    assert "NCCL_SOCKET_IFNAME=ib" in verdict.message


# --- addresses and names ------------------------------------------------------------------------


def behind_nat(**more) -> ClusterFacts:
    told = {host: network(host) for host in ("n1", "n2", "n3")}
    return made(3, networks=told | {"n3": network("n3", ssh="203.0.113.7")}, **more)


def test_an_address_that_is_none_of_its_own_is_information_where_another_one_works():
    verdict = only(behind_nat(), "host.nat")
    assert (verdict.host, verdict.status, verdict.hint) == ("n3", "info", None)
    assert "203.0.113.7" in verdict.message
    assert verdict.message.endswith("the others reach it at 10.79.0.3")


def elsewhere(own: str, **how) -> ClusterFacts:
    """n3 is at another site; the others dial the address that it has there."""
    whole = behind_nat()
    there = dataclasses.replace(
        network("n3", ssh="203.0.113.7"), addresses=(("eth0", own),), prefixes={own: 24}
    )
    lost = {"address": own, **(how or DROPPED)}
    dials = {(host, "n3"): (Dialled(local=address(host), **lost),) for host in ("n1", "n2")}
    return dataclasses.replace(
        whole,
        networks=whole.networks | {"n3": there},
        candidates=whole.candidates | {"n3": (own,)},
        dialled=whole.dialled | dials,
    )


def test_nat_explains_why_nobody_reaches_it():
    cluster = elsewhere("192.168.7.3")
    verdict = only(cluster, "host.nat")
    assert (verdict.status, verdict.hint) == (
        "fail",
        "give n3 an `addr:` in the inventory, such as 203.0.113.7",
    )
    assert only(cluster, "net.pair").caused_by == "host.nat"
    assert findings(cluster) == [("host.nat", "fail")]
    given = dataclasses.replace(cluster, given_addresses=("n3",))
    assert only(given, "host.nat").status == "info"


@pytest.mark.parametrize("count", [2, 3])
def test_a_closed_port_is_no_nat_where_the_hosts_are_in_one_network(count):
    """As in a cloud: ssh goes to public addresses, and a security group closes what is between."""
    hosts = [f"n{i}" for i in range(1, count + 1)]
    public = {host: f"54.1.2.{host[1:]}" for host in hosts}
    closed = {(a, b): DROPPED for a in hosts for b in hosts if a != b}
    cluster = made(count, closed, ssh_to=public)
    assert {v.status for v in said(cluster, "host.nat")} == {"info"}
    where = "every host" if count > 2 else "n2, n1"
    hint = only(cluster, "net.pair", "fail").hint
    assert hint.startswith(f"on {where} allow TCP 32768-60999 from ")
    assert findings(cluster) == [("net.pair", "fail")]


@pytest.mark.parametrize(
    ("own", "how", "status"),
    [
        ("192.168.7.3", {"error": "ENETUNREACH", "phase": "connect"}, "fail"),
        ("192.168.7.3", {"error": "EHOSTUNREACH", "phase": "connect"}, "fail"),
        ("192.168.7.3", {"error": "STRANGER", "phase": "greeting"}, "fail"),
        # Somebody there refuses, or says nothing more: it leads somewhere.
        ("192.168.7.3", {"error": "ECONNREFUSED", "phase": "connect"}, "info"),
        ("192.168.7.3", {"error": "ETIMEDOUT", "phase": "greeting"}, "info"),
        ("192.168.7.3", {"error": "EPERM", "phase": "connect"}, "info"),
        # Of one site, as far as addresses tell: its routers may know the way.
        ("10.79.0.3", DROPPED, "info"),
        ("10.200.7.3", DROPPED, "info"),
    ],
)
def test_nat_is_a_fault_where_packets_get_lost_on_the_way_to_another_site(own, how, status):
    cluster = elsewhere(own, **how)
    verdict = only(cluster, "host.nat")
    assert (verdict.host, verdict.status) == ("n3", status)
    assert bool(verdict.hint) == (status == "fail")
    root = "host.nat" if status == "fail" else "net.pair"
    assert findings(cluster) == [(root, "fail")]
    if status == "info":
        assert verdict.message.endswith(f"the others dial {own}")


@pytest.mark.parametrize(
    ("went", "found"), [("203.0.113.9", 1), ("10.79.0.2", 0), ("gpu2", 0), ("", 0)]
)
def test_where_our_ssh_went(went, found):
    assert len(said(made(2, ssh_to={"n2": went}), "host.nat")) == found


def test_only_ipv6_is_information():
    only_v6 = Network(addresses=(("lo", "127.0.0.1"), ("eth0", "fd00::2")), ssh_address="fd00::2")
    cluster = made(2, networks={"n1": network("n1"), "n2": only_v6})
    verdict = only(cluster, "net.ipv6_only")
    assert (verdict.host, verdict.status) == ("n2", "info")


@pytest.mark.parametrize(
    ("named", "status", "part"),
    [
        (Named(addresses=("10.79.0.1",)), "pass", "10.79.0.1"),
        (Named(addresses=("127.0.1.1",)), "info", "127.0.1.1; that does not matter"),
        (Named(problem="Name or service not known"), "info", "Name or service not known; that "),
    ],
)
def test_the_heads_name(named, status, part):
    (verdict,) = said(made(2, head_named={"n2": named}), "net.name.peer")
    assert (verdict.host, verdict.status) == ("n2", status)
    assert verdict.message.startswith("the head's name n1.lab is looked up there: ")
    assert part in verdict.message


@pytest.mark.parametrize(
    ("ports", "status"),
    [
        ([("mlx5_0", "ACTIVE", "InfiniBand")], "pass"),
        ([("mlx5_0", "DOWN", "InfiniBand")], "warn"),
        ([("mlx5_0", "INIT", "InfiniBand"), ("mlx5_1", "ACTIVE", "InfiniBand")], "warn"),
        # One without a cable, beside one that is used; and an Ethernet card that can RDMA.
        ([("mlx5_0", "DOWN", "InfiniBand"), ("mlx5_1", "ACTIVE", "InfiniBand")], "info"),
        ([("mlx5_0", "DOWN", "Ethernet")], "info"),
        ([], None),
    ],
)
def test_infiniband(ports, status):
    found = tuple(InfinibandPort(device=d, port="1", state=s, layer=y) for d, s, y in ports)
    told = {"n1": interfaces(infiniband=found), "n2": "no answer"}
    got = [(v.host, v.status) for v in said(made(2, interfaces=told), "ib.link")]
    assert got == ([("n1", status)] if status else [])


def rails(*hosts: int, ports: int = 8, layer: str = "InfiniBand", **more) -> ClusterFacts:
    """As many ports as are said are active on each host; the others are down, or -1: absent."""
    told = {}
    for number, active in enumerate(hosts, 1):
        states = ["ACTIVE"] * active + ["DOWN"] * (ports - active)
        own = (
            InfinibandPort(device=f"mlx5_{i}", port="1", state=state, layer=layer)
            for i, state in enumerate(states if active >= 0 else ())
        )
        told[f"n{number}"] = interfaces(infiniband=tuple(own), **more)
    return made(len(hosts), interfaces=told)


@pytest.mark.parametrize("layer", ["InfiniBand", "Ethernet"])
def test_a_host_with_fewer_active_ports_than_most(layer):
    verdict = only(rails(8, 7, 8, 8, layer=layer), "ib.link")
    assert (verdict.host, verdict.status) == ("n2", "warn")
    assert verdict.message == (
        "7 ports are active, where 3 of 4 hosts have 8: mlx5_7 port 1 is DOWN"
    )
    assert verdict.hint.startswith("there: ibstat mlx5_7; ")


@pytest.mark.parametrize(
    ("hosts", "layer", "told"),
    [
        # All of one host's are down, or it has none at all.
        ((8, 8, 0), "Ethernet", "ppw"),
        ((8, 8, -1), "InfiniBand", "ppw"),
        # Most have none: the one that has is no worse.
        ((0, 0, 8), "Ethernet", "iip"),
        ((-1, -1, 8), "InfiniBand", "p"),
        # The same one is down everywhere.
        ((7, 7, 7), "InfiniBand", "iii"),
        # Of two hosts the one with fewer; none is perhaps another kind of host.
        ((8, 7), "InfiniBand", "pw"),
        ((8, -1), "InfiniBand", "p"),
        ((8, -1, 8, -1), "InfiniBand", "pp"),
        ((8, 8, 7, 7), "InfiniBand", "ppww"),
        ((8, 7, -1, 8), "InfiniBand", "pwwp"),
    ],
)
def test_hosts_are_compared_by_their_active_ports(hosts, layer, told):
    found = said(rails(*hosts, layer=layer), "ib.link")
    assert "".join(v.status[0] for v in found) == told
    assert all(v.hint for v in found if v.status == "warn")


def test_ports_that_nobody_may_open():
    verdict = only(rails(8, verbs=()), "ib.link")
    assert (verdict.status, verdict.host) == ("warn", "n1")
    assert "no /dev/infiniband/uverbs* may be opened" in verdict.message
    assert verdict.hint.startswith("there: ls -l /dev/infiniband; ")
    for well in (rails(8, verbs=("uverbs0",)), rails(8), rails(-1, verbs=())):
        assert said(well, "ib.link", "warn") == []


# --- sec.rdzv_open ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "status", "part"),
    [
        ("not tried: it is reached through another host", "skip", "through another host"),
        (None, "skip", "not tried"),
        (Dialled(address="10.79.0.1"), "info", "can be opened from this machine, at 10.79.0.1"),
        (Dialled(address="10.79.0.1", **DROPPED), "pass", "cannot be opened from this machine"),
        (Dialled(address="gpu1", peer="8.8.8.8"), "warn", "at a public address, 8.8.8.8"),
        (Dialled(address="8.8.8.8", **DROPPED), "pass", "cannot be opened"),
        (Dialled(address="127.0.0.1"), "pass", "is on loopback here"),
    ],
)
def test_who_can_open_the_rendezvous_port(here, status, part):
    (verdict,) = said(made(2, from_here=here), "sec.rdzv_open")
    assert (verdict.host, verdict.status) == ("n1", status)
    assert part in verdict.message
    assert bool(verdict.hint) == (status == "warn")


@pytest.mark.parametrize(
    ("here", "status", "part"),
    [
        # As on a campus: a firewall stands between it and the world.
        (Dialled(address="8.8.8.8", **DROPPED), "info", "cannot open it at 8.8.8.8"),
        (Dialled(address="8.8.8.8", error="ECONNREFUSED"), "info", "cannot open it at 8.8.8.8"),
        (Dialled(address="8.8.8.8"), "warn", "can be opened from this machine, at a public addr"),
        # By a VPN of ours: who else gets to the public one is not known.
        (Dialled(address="10.79.0.1"), "warn", "is on a public address, 8.8.8.8"),
    ],
)
def test_a_cluster_on_public_addresses(here, status, part):
    whole = made(2)
    cluster = dataclasses.replace(
        whole, candidates=whole.candidates | {"n1": ("8.8.8.8",)}, from_here=here
    )
    (verdict,) = said(cluster, "sec.rdzv_open")
    assert verdict.status == status
    assert part in verdict.message
    assert bool(verdict.hint) == (status == "warn")


# --- of all of them -----------------------------------------------------------------------------

SICK = [
    made(broken=every(4, into="n3", out="n3")),
    made(3, every(3, into="n1") | every(3, into="n2") | every(3, into="n3")),
    made(broken=every(4, into="n3", how=STUCK) | {("n1", "n2"): DROPPED}),
    made(ssh={"n1": SshState()}),
    made(networks={}, interfaces={}, candidates={}, dialled={}, rendezvous={}),
    made(networks=dict.fromkeys(("n1", "n2"), "no"), interfaces={"n1": "no"}),
]


@pytest.mark.parametrize("cluster", SICK, ids=range(len(SICK)))
def test_every_fail_says_what_to_do_and_nothing_is_said_twice(cluster):
    verdicts = judge(cluster)
    assert all(v.hint and "\n" not in v.hint for v in failures(verdicts))
    places = [(v.id, v.host, v.peer) for v in verdicts]
    assert len(set(places)) == len(places)
    ids = {v.id for v in verdicts if v.status in ("fail", "warn")}
    assert {v.caused_by for v in verdicts} <= {*ids, "ssh.reach", None}
