"""Which checks are wanted, and how grave a finding of theirs may be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.checks.ssh import STAGES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator.events import Verdict

Level: TypeAlias = Literal["off", "info", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Ids of checks, or of their groups; the command line's word counts over the inventory's."""

    only: frozenset[str] = frozenset()
    """Of the command line: all others are left out."""

    skip: frozenset[str] = frozenset()
    """Of the command line: these are left out, also where `only` has them."""

    levels: Mapping[str, Level] = field(default_factory=dict)
    """Of the inventory; a check's own goes before its group's."""

    def wants(self, check: str) -> bool:
        """Say whether it is to be judged. Without a connection there is nothing to start with."""
        if check in STAGES:
            return True
        if _named(check, self.skip):
            return False
        if self.only:
            return _named(check, self.only)
        return self._level(check) != "off"

    def applied(self, verdict: Verdict) -> Verdict:
        """Return it as grave as it is to be taken. What could not be measured stays unknown."""
        level = self._level(verdict.id)
        if level == "fail" and verdict.status == "warn":
            return replace(verdict, status="fail")
        if verdict.id in STAGES or verdict.status not in ("fail", "warn"):
            return verdict
        return replace(verdict, status=level) if level in ("warn", "info") else verdict

    def _level(self, check: str) -> Level | None:
        return self.levels.get(check) or self.levels.get(group_of(check))


def group_of(check: str) -> str:
    return check.partition(".")[0]


def _named(check: str, words: Collection[str]) -> bool:
    return check in words or group_of(check) in words
