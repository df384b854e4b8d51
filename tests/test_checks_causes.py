"""Which verdict explains which."""

from __future__ import annotations

import pytest

from orchestrator.checks.causes import RULES, linked
from orchestrator.events import Verdict


def verdict(id_: str, host: str | None = "a", status: str = "fail", **more) -> Verdict:
    if more.get("peer"):
        more = {"scope": "pair", **more}
    return Verdict(id=id_, status=status, host=host, message="", **more)


def pairs(*listed: str) -> dict:
    return {"pairs": [{"host": pair[0], "peer": pair[1]} for pair in listed]}


def cause_of(first: Verdict, *others: Verdict) -> str | None:
    """Whatever the order they come in."""
    forward = linked([first, *others])
    backward = linked([*others, first])
    assert forward[0].caused_by == backward[-1].caused_by
    assert forward[1:] == others, "the others are what they were"
    return forward[0].caused_by


@pytest.mark.parametrize("stage", ["ssh.reach", "ssh.auth", "ssh.hostkey", "ssh.jump", "ssh.agent"])
@pytest.mark.parametrize("check", ["net.pair", "env.python", "gpu.smi", "fs.write", "whatever"])
def test_what_was_not_asked_of_a_host_without_connection(stage, check):
    assert cause_of(verdict(check, status="unknown"), verdict(stage)) == stage
    assert cause_of(verdict(check, status="unknown"), verdict(stage, "b")) is None
    assert cause_of(verdict(check, "b", "unknown", peer="a"), verdict(stage)) == stage
    assert cause_of(verdict(check, status="fail"), verdict(stage)) is None, "it was measured"
    assert cause_of(verdict(check, status="unknown"), verdict(stage, status="pass")) is None


def test_a_noisy_shell_explains_nothing():
    assert cause_of(verdict("net.pair", status="unknown"), verdict("ssh.noise", status="warn")) is (
        None
    )


@pytest.mark.parametrize(
    ("blocked", "explains"),
    [
        (verdict("net.pair", "b", peer="a"), True),
        (verdict("net.pair", "a", peer="b"), False),
        (verdict("net.pair", "b", peer="c"), False),
        (verdict("net.pair", "a", peer="b", evidence=pairs("ab", "ba")), True),
        (verdict("net.pair", None, scope="cluster", evidence={"of": "all"}), True),
        # Of very many pairs the evidence has some alone.
        (verdict("net.pair", "a", evidence={"of": "in"} | pairs("ca")), True),
        (verdict("net.pair", "a", evidence={"of": "out"} | pairs("ac")), False),
        (verdict("net.pair", "b", evidence={"of": "out"} | pairs("bc")), True),
        (verdict("net.pair", "b", evidence={"of": "alone"} | pairs("bc", "cb")), True),
        (verdict("net.pair", "c", evidence={"of": "in"} | pairs("bc")), False),
    ],
)
def test_a_blocked_pair_explains_its_rendezvous(blocked, explains):
    got = cause_of(verdict("net.rdzv", "b", peer="a"), blocked)
    assert got == ("net.pair" if explains else None)


@pytest.mark.parametrize(
    ("evidence", "explains"),
    [
        ({"strays": [{"pid": 7}, {"pid": 77}]}, True),
        ({"strays": [{"pid": 7, "parent": 77, "ports": [77]}]}, False),
        ({"runs": [{"run": "x", "alive": 77}]}, False),
        ({}, False),
    ],
)
def test_a_port_that_one_of_our_own_holds(evidence, explains):
    taken = verdict("net.port.rdzv", evidence={"pid": 77})
    left = verdict("run.leftover", status="warn", evidence=evidence)
    assert cause_of(taken, left) == ("run.leftover" if explains else None)
    assert cause_of(verdict("net.port.rdzv", evidence={"pid": None}), left) is None
    other = verdict("run.leftover", "b", "warn", evidence=evidence)
    assert cause_of(taken, other) is None


@pytest.mark.parametrize(
    ("holders", "explains"),
    [
        ([(77, True, None)], True),
        ([(5, True, "brave-otter")], True),
        ([(77, True, None), (5, True, "brave-otter")], True),
        ([(77, True, None), (78, True, None)], False),  # ending the one leaves the other
        ([(5, False, "brave-otter")], False),  # another user's may say what it likes
        ([(5, True, None)], False),
        ([], False),
    ],
)
def test_gpus_that_a_leftover_is_on(holders, explains):
    on_it = [{"pid": pid, "ours": ours, "run": run} for pid, ours, run in holders]
    busy = verdict("gpu.busy", evidence={"holders": on_it})
    # That a port's number is a pid's as well says nothing.
    evidence = {"runs": [{"run": "brave-otter"}], "strays": [{"pid": 77, "ports": [78]}]}
    left = verdict("run.leftover", evidence=evidence)
    assert cause_of(busy, left) == ("run.leftover" if explains else None)
    assert cause_of(busy, verdict("run.leftover", "b", evidence=evidence)) is None


@pytest.mark.parametrize(
    ("mtus", "explains"),
    [
        ({"a": 9000, "b": 9000, "c": 1500}, True),
        ({"a": 1500, "b": 9000, "c": 1500}, True),
        ({"a": 1500, "b": 1500, "c": 9000}, False),
        ({}, False),
    ],
)
def test_large_packets_and_mtus(mtus, explains):
    warning = verdict("net.mtu_diff", None, "warn", scope="cluster", evidence={"mtus": mtus})
    stuck = verdict("net.payload", "a", peer="b", evidence=pairs("ab", "ba"))
    assert cause_of(stuck, warning) == ("net.mtu_diff" if explains else None)


@pytest.mark.parametrize(
    ("consequence", "cause"),
    [
        (verdict("env.torch", status="unknown"), verdict("env.python")),
        (verdict("env.torchrun"), verdict("env.python")),
        (verdict("gpu.count", status="unknown"), verdict("gpu.smi")),
        (verdict("gpu.busy", status="unknown"), verdict("gpu.smi")),
        (verdict("net.pair", "b", peer="a"), verdict("host.nat")),
        (verdict("net.pair", status="unknown"), verdict("net.nic")),
        (verdict("net.rdzv", "b", "unknown"), verdict("net.port.rdzv")),
        (verdict("net.nic"), verdict("host.dup")),
        (verdict("net.payload", status="unknown"), verdict("net.pair", "b", peer="a")),
    ],
)
def test_what_follows_from_what(consequence, cause):
    assert cause_of(consequence, cause) == cause.id
    elsewhere = Verdict(id=cause.id, status="fail", host="z", message="")
    if cause.id != "net.port.rdzv":  # of which there is but one
        assert cause_of(consequence, elsewhere) is None


def test_what_was_seen_of_gpus_does_not_follow_from_how_slowly():
    assert cause_of(verdict("gpu.busy"), verdict("gpu.smi", status="warn")) is None


def test_a_source_that_is_behind_nat_explains_nothing():
    assert cause_of(verdict("net.pair", "a", peer="b"), verdict("host.nat")) is None


def test_what_knows_its_cause_keeps_it():
    told = verdict("net.rdzv", status="unknown", caused_by="net.port.rdzv")
    port = verdict("net.port.rdzv")
    assert cause_of(told, verdict("ssh.auth"), port) == "net.port.rdzv"


@pytest.mark.parametrize("others", [[], [verdict("fs.hang", status="pass")]])
def test_a_cause_that_is_not_among_the_findings_explains_nothing(others):
    assert cause_of(verdict("fs.write", caused_by="fs.hang"), *others) is None
    assert cause_of(verdict("gpu.count", status="unknown", caused_by="fs.hang"), *others,
                    verdict("gpu.smi")) == "gpu.smi"  # fmt: skip


@pytest.mark.parametrize("status", ["pass", "info", "skip"])
def test_what_is_no_finding_has_no_cause(status):
    assert cause_of(verdict("env.torch", status=status), verdict("env.python")) is None
    assert cause_of(verdict("env.torch"), verdict("env.python", status=status)) is None


def test_nothing_is_its_own_cause():
    same = [verdict("gpu.smi"), verdict("gpu.smi", status="unknown")]
    assert [v.caused_by for v in linked(same)] == [None, None]
    assert all(rule.consequence != rule.cause for rule in RULES)
