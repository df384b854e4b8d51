"""The preflight catalogue: a check is an id, what it does, and a pure judge(facts) -> verdicts."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.checks import env, fs, gpu, host, lim, net, run, ssh
from orchestrator.checks.causes import linked
from orchestrator.checks.rules import Rules, group_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.checks.check import Check
    from orchestrator.events import Verdict
    from orchestrator.facts import ClusterFacts

__all__ = [
    "CATALOGUE",
    "IDS",
    "SKIPPABLE",
    "WORDS",
    "Rules",
    "catalogue_table",
    "failures",
    "judge",
    "named",
    "no_connection",
    "refused",
]

CATALOGUE: tuple[Check, ...] = (
    *ssh.CHECKS,
    *host.CHECKS,
    *fs.CHECKS,
    *lim.CHECKS,
    *env.CHECKS,
    *gpu.CHECKS,
    *run.CHECKS,
    *net.CHECKS,
)
IDS = tuple(check.id for check in CATALOGUE)
SKIPPABLE = tuple(id_ for id_ in IDS if id_ not in ssh.STAGES)
WORDS = (*dict.fromkeys(group_of(id_) for id_ in IDS), *IDS)
"""What may stand for checks: their groups, and themselves."""

RULES = Rules()


def judge(cluster: ClusterFacts, rules: Rules = RULES) -> tuple[Verdict, ...]:
    """Judge by all checks that are wanted; a cause stays one, whatever it is lowered to."""
    found = linked(
        [
            replace(verdict, tier=check.tier)
            for check in CATALOGUE
            if rules.wants(check.id)
            for verdict in check.judge(cluster)
        ]
    )
    return tuple(map(rules.applied, found))


def failures(verdicts: Iterable[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.status == "fail"]


def no_connection(verdict: Verdict) -> bool:
    """Say whether it tells of a host that cannot be used at all."""
    return verdict.status == "fail" and verdict.id in ssh.STAGES


def named(word: str) -> tuple[Check, ...]:
    """Return the checks that an id, a group or `all` stands for."""
    return tuple(c for c in CATALOGUE if word in ("all", c.id, group_of(c.id)))


def refused(word: str, level: str = "fail") -> tuple[str, str] | None:
    """Return what is wrong with a word for checks that are to be at that level, and a hint."""
    if word not in WORDS:
        close = difflib.get_close_matches(word[:60], WORDS, n=1)
        listed = "ddp-orch check --explain all lists them"
        return "there is no such check", f"did you mean {close[0]}?" if close else listed
    if level != "fail" and (word in ssh.STAGES or word == "ssh"):
        return "without a connection nothing can be started", "of ssh.* only ssh.noise can be less"
    return None


def catalogue_table() -> str:
    """Return all checks as a Markdown table."""
    lines = ["| check | what holds when it passes | what one meets without it | worst |"]
    lines.append("|---|---|---|---|")
    for check in CATALOGUE:
        cells = (f"`{check.id}`", check.about, check.without, check.worst)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
