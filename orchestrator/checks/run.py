"""Is nothing in the way of a run that an earlier one left."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.checks.check import Check, each
from orchestrator.events import Verdict
from orchestrator.facts.strays import lasting
from orchestrator.mesh import is_local

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.facts import ClusterFacts, Strays
    from orchestrator.facts.strays import KnownRun, Stray

# Found only where they were asked for by name.
ASKED_FOR = ("port", "gpu")


def _leftover(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Say of every host what is the worst of it; the evidence has it all."""
    seen: set[tuple[int, int]] = set()
    for host, found in each(cluster, "run.leftover", cluster.strays):
        if isinstance(found, Verdict):
            yield found
            continue
        left = [s for s in found.strays if (s.pid, s.start) not in seen]
        strays = [s for s in left if s.kind not in ASKED_FOR]
        if cluster.same_machine:
            # All its hosts see the same processes: they are told of once.
            seen.update((s.pid, s.start) for s in strays)
        status, message, hint = _judged(found, strays)
        if status == "fail" and cluster.same_machine:
            status = "warn"  # several runs share one machine there as a matter of course
        yield Verdict(
            id="run.leftover",
            status=status,
            host=host,
            message=message,
            evidence=_evidence(found, strays),
            hint=hint,
        )


def _judged(found: Strays, strays: Sequence[Stray]) -> tuple[Any, str, str | None]:
    alone = {s.pid for s in strays if s.kind == "torchrun" and _is_local(s.endpoint)}
    left = [s for s in strays if s.orphan and s.root not in alone]
    lost = [run for run in found.runs if run.state == "lost"]
    live = [run for run in found.runs if run.state != "lost"]
    owned = [s for s in strays if not s.orphan]
    begun = [s for s in strays if s.orphan and s.root in alone]
    if left:
        more = _more([*left[1:], *lost, *begun], found.more)
        what = f"{_first(left)} is left of an earlier job{more}"
        return "fail", what, "ddp-orch down --strays INVENTORY"
    if lost:
        what = (
            f"{lost[0].named} was started {_ago(lost[0])}and nobody keeps it any more: its "
            f"supervisor and guard were killed, and {_processes(lost[0].alive)} of it live on"
            f"{_more(lost[1:])}"
        )
        return "fail", what, f"ddp-orch down {lost[0].run} -i INVENTORY"
    if live:
        what = f"{live[0].named} runs here{_since(live[0])}{_more([*live[1:], *owned, *begun])}"
        return "warn", what, f"ddp-orch down {live[0].run} -i INVENTORY"
    if owned:
        first = next((s for s in owned if s.pid == s.root), owned[0])
        others = _more([*(s for s in owned if s is not first), *begun])
        what = f"{first} runs here under {first.owner}{others}"
        return "warn", what, f"end it where it was started, or there: kill {first.pid}"
    if begun:
        first = next((s for s in begun if s.pid == s.root), begun[0])
        # Somebody's `nohup torchrun --standalone` does no other job any harm, but for its GPUs,
        # which gpu.busy looks at.
        what = f"{first} runs here alone, with nobody above it{_more(begun[1:])}"
        return "warn", what, f"let it be, or end it there: kill {first.pid}"
    if found.problem:
        return "unknown", found.problem, None
    if found.others:
        return "info", f"{found.others} torchrun of other users, or in containers", None
    return "pass", "nothing", None


def _is_local(endpoint: str) -> bool:
    """Whether a torchrun with this endpoint meets no other host; it may have been told none."""
    host = endpoint.rpartition(":")[0].strip("[]") or endpoint
    return host in ("", "localhost") or is_local(host)


def _first(left: Sequence[Stray]) -> str:
    """Name who is to be named: the topmost of a job rather than its workers."""
    return str(next((s for s in left if s.pid == s.root), left[0]))


def _more(others: Sequence[object], uncounted: int = 0) -> str:
    count = len(others) + uncounted
    return f", and {count} more" if count else ""


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"


def _ago(run: KnownRun) -> str:
    return "" if run.age is None else f"{lasting(run.age)} ago "


def _since(run: KnownRun) -> str:
    state = "" if run.state == "running" else f" ({run.state})"
    return state if run.age is None else f"{state} since {lasting(run.age)} ago"


def _evidence(found: Strays, strays: Sequence[Stray]) -> dict[str, Any]:
    if not (strays or found.runs or found.others or found.problem):
        return {}
    return {
        "runs": [asdict(run) for run in found.runs],
        "strays": [asdict(stray) | {"ports": list(stray.ports)} for stray in strays],
        "more": found.more,
        "others": found.others,
        "problem": found.problem,
    }


CHECKS = (
    Check(
        id="run.leftover",
        about="no process of an earlier job is left, and no other run is there",
        without="an old torchrun takes a rank in the new job; ports and GPUs that nobody frees",
        how="the records of runs there, and /proc of this user's own processes",
        judge=_leftover,
    ),
)
