"""Hints, as they can be typed here: with the words that name the hosts, and what lies here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator import reasons
from orchestrator.events import Detached, Ended
from orchestrator.program import lies_beside

if TYPE_CHECKING:
    from orchestrator.events import Verdict
    from orchestrator.plan import Program


def typed(verdict: Verdict, named: str | None) -> Verdict:
    """Put what was typed into a hint that names an inventory: so it can be typed as it stands."""
    if verdict.hint is None:
        return verdict
    return replace(verdict, hint=named_in(verdict.hint, named))


def explained(last: Ended | Detached, program: Program) -> Ended | Detached:
    """Add to a first failure what only this machine can tell of it: what lies beside the script."""
    if not isinstance(last, Ended) or last.failure is None or last.failure.hint:
        return last
    module = reasons.missing_module(last.failure.message)
    if module is None or not lies_beside(program, module):
        return last
    hint = reasons.left_behind(program.target, module, program.args)
    return replace(last, failure=replace(last.failure, hint=hint))


def typed_end(last: Ended | Detached, named: str | None) -> Ended | Detached:
    """Do the same for the hint to a run's first failure."""
    if not isinstance(last, Ended) or last.failure is None or last.failure.hint is None:
        return last
    failure = replace(last.failure, hint=named_in(last.failure.hint, named))
    return replace(last, failure=failure)


def named_in(hint: str, named: str | None) -> str:
    if named is None:
        return hint
    beside = named if named.startswith("-H ") else f"-i {named}"
    return hint.replace("-i INVENTORY", beside).replace("INVENTORY", named)
