"""Which checks are judged, how grave their findings are taken, and what their words may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import orchestrator
from inventory.load import load, load_text
from orchestrator.checks import (
    CATALOGUE,
    IDS,
    WORDS,
    Rules,
    catalogue_table,
    judge,
    named,
    no_connection,
    refused,
)
from orchestrator.checks.ssh import STAGES
from orchestrator.events import Verdict
from orchestrator.facts import ClusterFacts, SshState

ROOT = Path(__file__).parent.parent


def rules(*, only: tuple[str, ...] = (), skip: tuple[str, ...] = (), **levels: str) -> Rules:
    by_id = {name.replace("_", "."): level for name, level in levels.items()}
    return Rules(only=frozenset(only), skip=frozenset(skip), levels=by_id)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (rules(), True),
        (rules(skip=("net.ping",)), False),
        (rules(skip=("net",)), False),
        (rules(skip=("net.pin", "ne", "env")), True),
        (rules(only=("net.ping",)), True),
        (rules(only=("net",)), True),
        (rules(only=("env", "net.rdzv")), False),
        (rules(only=("net",), skip=("net.ping",)), False),
        (rules(net_ping="off"), False),
        (rules(net="off"), False),
        (rules(net="off", net_ping="info"), True),
        (rules(net_ping="warn"), True),
        (rules(only=("net.ping",), net_ping="off"), True),
        (rules(skip=("net.ping",), net_ping="fail"), False),
    ],
)
def test_which_are_wanted(given, wanted):
    assert given.wants("net.ping") is wanted


@pytest.mark.parametrize("stage", STAGES)
def test_a_connection_is_always_judged_and_never_lowered(stage):
    for given in (rules(skip=("ssh", stage)), rules(only=("net",)), rules(ssh="off")):
        assert given.wants(stage)
    failed = Verdict(id=stage, status="fail", host="a", message="no")
    for level in ("off", "info", "warn", "fail"):
        assert Rules(levels={stage: level, "ssh": level}).applied(failed) is failed


@pytest.mark.parametrize(
    ("level", "made"),
    [
        (None, "fail warn info pass skip unknown"),
        ("info", "info info info pass skip unknown"),
        ("warn", "warn warn info pass skip unknown"),
        ("fail", "fail fail info pass skip unknown"),
    ],
)
def test_how_grave_a_finding_is(level, made):
    given = Rules(levels={"env": level} if level else {})
    statuses = ("fail", "warn", "info", "pass", "skip", "unknown")
    found = [Verdict(id="env.x", status=s, host="a", message="m", hint="h") for s in statuses]
    assert [given.applied(verdict).status for verdict in found] == made.split()
    assert {given.applied(verdict).hint for verdict in found} == {"h"}


def test_a_checks_own_level_goes_before_its_groups():
    found = Verdict(id="env.x", status="fail", host="a", message="m")
    given = Rules(levels={"env": "info", "env.x": "warn"})
    assert given.applied(found).status == "warn"


def test_rules_are_kept_to_when_judging():
    cluster = ClusterFacts(hosts=("a",), ssh={"a": SshState(noise="hello")})
    told = {v.id: v.status for v in judge(cluster, rules(only=("ssh.noise",), ssh_noise="fail"))}
    assert told == {"ssh.reach": "pass", "ssh.noise": "fail"}
    assert "ssh.noise" not in {v.id for v in judge(cluster, rules(skip=("ssh.noise",)))}


@pytest.mark.parametrize(
    ("word", "level", "hint"),
    [
        ("net.ping", "off", None),
        ("net", "off", None),
        ("ssh.noise", "off", None),
        ("ssh.reach", "fail", None),
        ("ssh", "fail", None),
        ("ssh.reach", "warn", "of ssh.* only ssh.noise can be less"),
        ("ssh", "info", "of ssh.* only ssh.noise can be less"),
        ("net.pnig", "off", "did you mean net.ping?"),
        ("envs", "fail", "did you mean env?"),
        ("all", "fail", "ddp-orch check --explain all lists them"),
        ("x" * 9999, "fail", "ddp-orch check --explain all lists them"),
    ],
)
def test_words_for_checks(word, level, hint):
    wrong = refused(word, level)
    assert (wrong[1] if wrong else None) == hint


def test_every_word_names_something():
    assert all(named(word) for word in WORDS)
    assert named("all") == CATALOGUE
    assert [check.id for check in named("ssh.reach")] == ["ssh.reach"]
    assert named("ss") == ()


def test_no_group_is_a_checks_id():
    assert len(set(WORDS)) == len(WORDS)
    assert all("." in id_ for id_ in IDS)


# --- ssh ----------------------------------------------------------------------------------------


def test_every_stage_that_a_connection_may_fail_at_is_in_the_catalogue():
    """Else `--explain` would not know what a person has just read on the screen."""
    used = set()
    for path in Path(orchestrator.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "check":
                words = [each for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
                used |= {word.value for word in words if str(word.value).startswith("ssh.")}
    assert used == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_judged_by_its_own_check(stage):
    (check,) = named(stage)
    cluster = ClusterFacts(
        hosts=("a", "b"),
        ssh={"a": SshState(check=stage, message="no", hint="do"), "b": SshState(seconds=1.0)},
    )
    failed = [v for v in check.judge(cluster) if v.status == "fail"]
    assert [(v.id, v.host, v.message, v.hint) for v in failed] == [(stage, "a", "no", "do")]
    assert no_connection(failed[0])
    everything = [(v.id, v.host, v.status) for v in judge(cluster) if v.id.startswith("ssh.")]
    assert sorted(everything) == sorted([(stage, "a", "fail"), ("ssh.reach", "b", "pass")])


def test_a_stage_that_nobody_knows_is_a_failure_all_the_same():
    cluster = ClusterFacts(hosts=("a",), ssh={"a": SshState(check="ssh.new", message="no")})
    (verdict,) = [v for v in judge(cluster) if v.id.startswith("ssh.")]
    assert (verdict.id, verdict.status, verdict.message) == ("ssh.reach", "fail", "no")


def test_noise_is_no_lack_of_a_connection():
    raised = Verdict(id="ssh.noise", status="fail", host="a", message="m")
    assert not no_connection(raised)


# --- what is said of them -----------------------------------------------------------------------


@pytest.mark.parametrize("check", CATALOGUE, ids=IDS)
def test_each_is_explained_in_lines(check):
    for text in (check.about, check.without, check.how):
        assert text
        assert "\n" not in text
        assert text.count("`") % 2 == 0
        assert not text.endswith(".")


def test_the_table_has_a_row_for_each():
    rows = catalogue_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(IDS)


def test_checks_in_our_own_inventories_exist():
    for path in sorted((ROOT / "inventory" / "examples").glob("*.yaml")):
        load(path, refused)
    assert load_text("hosts: [a]\nchecks: {net.ping: off}\n", "x.yaml", refused=refused).checks
