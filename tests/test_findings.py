"""Findings by cause: what is said of many hosts and pairs, and that it stays short."""

from __future__ import annotations

import shlex

import pytest

from inventory.choose import choose
from inventory.model import Host, Inventory
from orchestrator.checks import judge
from orchestrator.events import Checked, Verdict
from orchestrator.facts import ClusterFacts, Dialled, SshState
from orchestrator.screen import Screen
from orchestrator.screen.findings import findings, lines, places
from orchestrator.state import RunState

SHOWN = ("fail", "unknown", "warn")


def verdict(check: str, host: str | None, message: str = "broken", status: str = "fail", **more):
    return Verdict(id=check, host=host, message=message, status=status, **more)


def pair(
    host: str, peer: str, message: str = "{} cannot reach {}", check: str = "net.pair", **more
):
    said = message.format(host, peer)
    return verdict(check, host, said, scope="pair", peer=peer, **more)


def told(*verdicts: Verdict, verbose: bool = False) -> list[str]:
    statuses = (*SHOWN, "info", "skip") if verbose else SHOWN
    return [text for text, _ in lines(findings(verdicts, statuses), verbose=verbose)]


HOSTS = [f"n{number}" for number in range(1, 201)]


def test_a_cause_has_its_consequences_beneath_it():
    assert told(
        verdict("env.torch", "n2", "no interpreter to ask", "unknown", caused_by="env.python"),
        verdict("env.python", "n2", "python3: not found", hint="set `python:`"),
        verdict("env.torch", "n3", "has no torch"),
    ) == [
        "FAIL env.python  n2: python3: not found",
        "   -> set `python:`",
        "   not checked: env.torch",
        "FAIL env.torch  n3: has no torch",
    ]


@pytest.mark.parametrize(
    ("hosts", "typed"),
    [
        (["a"], "a"),
        (["a", "b"], "a,b"),
        (["n1", "n2", "n3", "x"], "'n[1-3],x'"),
        # All of them: of a list that is cut nothing could be typed.
        ([*"abcdefghijklmnop"], ",".join("abcdefghijklmnop")),
    ],
)
def test_names_of_many_hosts_can_be_typed_where_a_command_has_them(hosts, typed):
    said = told(*(verdict("gpu.count", h, hint=f"leave {h} out: --exclude {h}") for h in hosts))
    assert said[1].endswith(f" out: --exclude {typed}")
    inventory = Inventory(hosts=tuple(Host(name=name) for name in (*hosts, "other")))
    left = choose(inventory, [], [shlex.split(said[1])[-1]]).hosts
    assert [host.name for host in left] == ["other"]


def test_a_cause_on_the_other_end_of_a_pair():
    assert told(
        verdict("net.port.rdzv", "n1", "port 29500 is taken", hint="another"),
        *(pair(h, "n1", "could not be tried", "net.rdzv", status="unknown",
               caused_by="net.port.rdzv") for h in HOSTS[1:]),
    ) == [
        "FAIL net.port.rdzv  n1: port 29500 is taken",
        "   -> another",
        "   not checked: net.rdzv n[2-200] -> n1",
    ]  # fmt: skip


def test_causes_of_causes_are_told_at_the_first():
    assert told(
        pair("n3", "n1"),
        pair("n3", "n1", "too late", "net.rdzv", caused_by="net.pair"),
        verdict("env.x", "n3", "not tried", "unknown", caused_by="net.rdzv"),
    ) == ["FAIL net.pair  n3 cannot reach n1", "   causes: net.rdzv", "   not checked: env.x n3"]


def test_a_cause_of_the_whole_cluster():
    assert told(
        verdict("net.nic", None, "no interface is common to all", scope="cluster"),
        pair("n3", "n1", caused_by="net.nic"),
    ) == ["FAIL net.nic  no interface is common to all", "   causes: net.pair n3 -> n1"]


@pytest.mark.parametrize(
    "cause",
    [
        [],
        [verdict("env.python", "n9")],  # elsewhere
        [verdict("env.python", "n2", "3.11", "pass")],
        [verdict("env.python", "n2", "old", "info")],  # not shown without -v
    ],
)
def test_without_its_cause_a_finding_stands_for_itself(cause):
    said = told(verdict("env.torch", "n2", "none", caused_by="env.python"), *cause)
    assert said[0] == "FAIL env.torch  n2: none"


def test_causes_in_a_circle_are_all_told():
    a, b = verdict("a.x", "n1", caused_by="b.x"), verdict("b.x", "n1", caused_by="a.x")
    c = verdict("c.x", "n1", caused_by="a.x")
    assert told(a, b, c) == [f"FAIL {id_}  n1: broken" for id_ in ("a.x", "b.x", "c.x")]


def test_fails_then_what_is_unknown_then_warnings_then_the_rest():
    every = [
        verdict("a.x", "n1", status="skip"),
        verdict("b.x", "n1", status="info"),
        verdict("c.x", "n1", status="warn"),
        verdict("d.x", "n1", status="unknown"),
        verdict("e.x", "n1", status="fail"),
        verdict("f.x", "n1", status="pass"),
    ]
    marks = ["FAIL e.x", "?    d.x", "warn c.x"]
    assert told(*every) == [f"{mark}  n1: broken" for mark in marks]
    marks += ["-    b.x", "-    a.x"]
    assert told(*every, verbose=True) == [f"{mark}  n1: broken" for mark in marks]


def test_a_warning_that_causes_a_failure_stands_with_the_failures():
    said = told(
        verdict("a.x", "n1", status="warn"),
        verdict("b.x", "n1", caused_by="a.x"),
        verdict("c.x", "n1", status="unknown"),
    )
    assert said == ["warn a.x  n1: broken", "   causes: FAIL b.x", "?    c.x  n1: broken"]


def test_a_failure_is_named_among_many_consequences_of_a_warning():
    said = told(
        verdict("a.x", "n1", status="warn"),
        *(verdict(f"b.{n}", "n1", status="warn", caused_by="a.x") for n in range(20)),
        verdict("c.x", "n1", caused_by="a.x"),
    )
    assert said[1].startswith("   causes: FAIL c.x; b.0; ")
    assert said[1].endswith(" and 15 more")


# --- many hosts ---------------------------------------------------------------------------------


def test_what_is_the_same_but_for_the_host_is_said_once():
    assert told(*(verdict("host.x", h, f"{h} is behind", hint=f"ssh {h} fix") for h in HOSTS)) == [
        "FAIL host.x  n[1-200] is behind",
        "   -> ssh n[1-200] fix",
    ]


def test_hosts_that_nobody_reaches_are_told_in_words_that_hold_of_several():
    """Only the head can be reached: what is said of the others names none of them twice."""
    hosts = [f"n{i}" for i in range(1, 13)]
    dials = {
        (a, b): (Dialled(address=b, error=None if b == "n1" else "ETIMEDOUT", phase="connect"),)
        for a in hosts for b in hosts if a != b
    }  # fmt: skip
    cluster = ClusterFacts(
        hosts=tuple(hosts),
        ssh=dict.fromkeys(hosts, SshState()),
        candidates={host: (host,) for host in hosts},
        dialled=dials,
    )
    said = told(*(v for v in judge(cluster) if v.id == "net.pair"))
    assert said[0].startswith(
        "FAIL net.pair  n[2-12] cannot be reached over TCP by any other host (11 of 11): no answer"
    )
    assert len(said) == 2


def test_connections_that_failed_alike_are_one_finding_wherever_they_went():
    def silent(host: str, address: str) -> Verdict:
        said = f"no answer from {address} port 22 in 8 s"
        hint = f"try it by hand: ssh root@{address}"
        return verdict("ssh.reach", host, said, hint=hint, evidence={"tried": address})

    alike = [silent(f"gpu{i}", f"10.0.0.{i}") for i in range(1, 11)]
    refused = verdict("ssh.reach", "gpu11", "10.0.0.11 refuses", evidence={"tried": "10.0.0.11"})
    assert told(*alike, refused) == [
        "FAIL ssh.reach  gpu[1-10]: no answer from 10.0.0.[1-10] port 22 in 8 s",
        "   -> try it by hand: ssh root@10.0.0.1",
        "FAIL ssh.reach  gpu11: 10.0.0.11 refuses",
    ]
    assert told(alike[3]) == [
        "FAIL ssh.reach  gpu4: no answer from 10.0.0.4 port 22 in 8 s",
        "   -> try it by hand: ssh root@10.0.0.4",
    ]


def test_a_command_to_type_is_written_for_one_of_many():
    def missing(host: str) -> Verdict:
        return verdict("env.script", host, "no t.py", hint=f"scp -3 n9:/t.py {host}:/t.py")

    assert told(missing("n1"), missing("n2"), missing("n3")) == [
        "FAIL env.script  n[1-3]: no t.py",
        "   -> scp -3 n9:/t.py n1:/t.py; likewise for the others",
    ]
    assert told(missing("n2"))[1] == "   -> scp -3 n9:/t.py n2:/t.py"


def test_a_name_is_not_taken_for_a_part_of_another():
    assert told(verdict("a.x", "n1", "n10 and n1.lab and xn1"), verdict("a.x", "n2", "other")) == [
        "FAIL a.x  n1: n10 and n1.lab and xn1",
        "FAIL a.x  n2: other",
    ]


def test_pairs_each_to_each_are_one_line():
    to_one = [pair(h, "n1", hint=f"open TCP from {h} to n1") for h in HOSTS[1:]]
    assert told(*to_one) == [
        "FAIL net.pair  n[2-200] cannot reach n1",
        "   -> open TCP from n[2-200] to n1",
    ]
    mesh = [pair(a, b) for a in HOSTS[:30] for b in HOSTS[:30] if a != b]
    assert told(*mesh) == ["FAIL net.pair  n[1-30] cannot reach n[1-30]"]


def test_pairs_without_a_pattern_are_one_example_and_a_list():
    some = [pair("n1", "n2"), pair("n3", "n4"), pair("n5", "n4"), pair("n6", "n4")]
    assert told(*some) == [
        "FAIL net.pair  n1 cannot reach n2",
        "   in all: n1 -> n2; n[3,5-6] -> n4",
    ]


def test_findings_that_differ_are_cut_short_and_all_are_counted():
    some = [verdict("fs.x", h, f"has {i} MiB left", hint="make room") for i, h in enumerate(HOSTS)]
    assert told(*some) == [
        "FAIL fs.x  n1: has 0 MiB left",
        "   -> make room",
        "FAIL fs.x  n2: has 1 MiB left",
        "FAIL fs.x  n3: has 2 MiB left",
        "     and 197 more of fs.x: n[4-200]  (-v tells each)",
    ]
    assert len(told(*some, verbose=True)) == 201


def test_what_could_not_be_had_for_one_reason_is_one_finding():
    ids = ("env.python", "env.torch", "host.dup")
    late = [verdict(i, h, "no answer in 30 s", "unknown") for i in ids for h in HOSTS[:3]]
    other = verdict("fs.x", "n1", "no answer in 30 s", "unknown")
    assert told(*late, other) == [
        "?    env.python, env.torch, host.dup  n[1-3]: no answer in 30 s",
        "?    fs.x  n1: no answer in 30 s",
    ]


def test_two_hundred_hosts_with_all_that_one_of_them_causes():
    """Nothing grows with the number of pairs."""
    dead = verdict("ssh.reach", "n7", "no answer in 8 s", hint="is it up?")
    of_it = [
        pair(a, b, status="unknown", caused_by="ssh.reach")
        for h in HOSTS if h != "n7" for a, b in ((h, "n7"), ("n7", h))
    ]  # fmt: skip
    blocked = [pair(h, "n9", check="net.rdzv") for h in HOSTS if h != "n9"]
    said = told(dead, *of_it, *blocked)
    assert said == [
        "FAIL ssh.reach  n7: no answer in 8 s",
        "   -> is it up?",
        "   not checked: net.pair n[1-6,8-200] -> n7; n7 -> n[1-6,8-200]",
        "FAIL net.rdzv  n[1-8,10-200] cannot reach n9",
    ]


def test_names_without_a_pattern_are_cut_short():
    words = ["apple", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kite"]
    assert places([verdict("a.x", word) for word in words]) == f"{', '.join(words[:8])} and 3 more"
    assert places([verdict("a.x", word) for word in words[:9]]) == ", ".join(words[:9])


# --- the table ----------------------------------------------------------------------------------


def table(capsys, *verdicts: Verdict, hosts: list[str], **options) -> list[str]:
    Screen(**options)(Checked(verdicts=verdicts, hosts=tuple(hosts)), RunState())
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_many_hosts_that_are_alike_share_a_line(capsys):
    well = [
        verdict(check, h, message, "pass", duration_ms=100.0 * i)
        for i, h in enumerate(HOSTS)
        for check, message in (("ssh.reach", "connected"), ("env.torch", "2.9.0"))
        if h != "n9"
    ]
    dead = verdict("ssh.auth", "n9", "no key is taken")
    assert table(capsys, *well, dead, hosts=HOSTS) == [
        "host           ssh   torch",
        "n[1-8,10-200]  ok    2.9.0",
        "n9             FAIL  -",
        "FAIL ssh.auth  n9: no key is taken",
        "checks: 1 fail, 398 pass",
    ]


def test_cells_hold_what_was_found_or_the_worst(capsys):
    said = [
        verdict("gpu.smi", "n1", "8x H100", "pass"),
        verdict("gpu.count", "n1", "8 GPUs, 0 to 7", "pass"),
        verdict("gpu.ecc", "n2", "3 errors", "warn"),
        verdict("gpu.smi", "n2", "8x H100", "pass"),
        verdict("env.torch_drift", None, "n2 differs", "warn", scope="cluster"),
        verdict("env.torch", "n1", "2.9.0", "pass"),
        verdict("env.script", "n2", "could not be looked at", "unknown"),
        verdict("net.ping", "n1", "not permitted", "skip"),
        verdict("net.ping", "n2", "no answer", "info"),
    ]
    assert table(capsys, *said, hosts=["n1", "n2"])[:3] == [
        "host  torch  code  GPUs     network",
        "n1    2.9.0  -     8x H100  -",
        "n2    -      ?     warn     ok",
    ]
