"""What became of a run's nodes when they were told to end, as values and as words. Pure.

"down" is said of what is proven to be empty, and of nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from inventory.names import folded
from orchestrator import errors
from orchestrator.survivors import Survivor, survivor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Outcome: TypeAlias = Literal[
    "down",
    "already",
    "rebooted",
    "absent",
    "survivors",
    "unverified",
    "elsewhere",
    "unreadable",
    "unreachable",
    "failed",
]
EMPTY = ("down", "already", "rebooted", "absent")


@dataclass(frozen=True, kw_only=True)
class NodeDown:
    """What became of one node."""

    run: str
    node: int
    host: str
    outcome: Outcome
    processes: int = 0
    """So many of it ran there when it was told to end."""

    survivors: tuple[Survivor, ...] = ()
    message: str = ""
    hint: str | None = None
    failed: bool = False
    """It had ended badly by itself before."""

    @property
    def empty(self) -> bool:
        return self.outcome in EMPTY


def read_answer(run: str, node: int, host: str, answer: Any) -> NodeDown:  # noqa: ANN401  JSON
    """Read what a host says; nothing is taken for "down" unless it says just that."""
    try:
        survivors = tuple(map(survivor, answer["survivors"]))
        return NodeDown(
            run=run,
            node=node,
            host=host,
            outcome=_outcome(answer, survivors),
            processes=int(answer["processes"]),
            survivors=survivors,
            message=str(answer["problem"]),
            failed=answer["failed"] is True,
        )
    except (KeyError, TypeError, ValueError):
        what = "its answer makes no sense"
        return NodeDown(run=run, node=node, host=host, outcome="failed", message=what)


def _outcome(answer: dict[str, Any], survivors: Sequence[Survivor]) -> Outcome:
    if survivors:
        return "survivors"
    match answer["state"]:
        case "elsewhere":
            return "elsewhere"
        case "unreadable":
            return "unreadable"
        case _ if answer["verified"] is not True:
            return "unverified"
        case "rebooted":
            return "rebooted"
        case _ if answer["before"] == "absent":
            return "absent"
        case _:
            return "already" if answer["before"] == "ended" else "down"


# ---- in words ----


def sentence(node: NodeDown) -> str:
    """Say it in one line; the survivors have lines of their own."""
    match node.outcome:
        case "down":
            said = "down"
        case "already":
            said = "down already"
        case "rebooted":
            said = "was restarted since: nothing of the run is left there"
        case "absent":
            said = "nothing of the run is there"
        case "survivors":
            count = len(node.survivors)
            said = f"NOT down: {count} process{'es' * (count != 1)} could not be ended"
        case "unverified":
            said = f"unverified: {node.message or 'nothing proves that it is empty'}"
        case "elsewhere":
            said = "NOT down: its record there was written by another machine or container"
        case "unreadable":
            said = "NOT down: its record there cannot be read: of another version of ddp-orch?"
        case "unreachable":
            said = f"not reached: {node.message}"
        case "failed":
            said = f"NOT down: {node.message}"
    return f"{node.host}: {said}"


def hint(node: NodeDown) -> str | None:
    """Say what can be done."""
    again = f"ddp-orch down {node.run}"
    match node.outcome:
        case "survivors":
            if any(one.why.startswith("belongs to") for one in node.survivors):
                pids = " ".join(str(one.pid) for one in node.survivors)
                return f"on {node.host}, as root: kill -9 {pids}; then: {again}"
            return f"once what holds it is gone: {again}"
        case "unverified":
            return f"{again}, once everything there can be seen"
        case "elsewhere":
            return f"is {node.host} still the host of that name? else correct the inventory"
        case "unreadable":
            return (
                "use the version that started it; or end by hand what has DDP_ORCH_COOKIE set there"
            )
        case "unreachable":
            first = node.hint or ""
            if first and not first.endswith("?"):
                first += ";"
            return f"{first} repeat it when it can be reached: {again}".lstrip()
        case "failed":
            return node.hint or f"look there, then {again}"
        case _:
            return None


def exit_code(nodes: Iterable[NodeDown]) -> int:
    """An unreachable host is 4, whatever else there is; what is not down for sure is 100."""
    outcomes = {node.outcome for node in nodes}
    if "unreachable" in outcomes:
        return errors.HOST
    return errors.OK if outcomes <= set(EMPTY) else errors.JOB_FAILED


def summary(nodes: Sequence[NodeDown], where: str) -> list[str]:
    """Say of each run whether it is down; `where` runs were looked for, should there be none."""
    if not nodes:
        return [f"nothing runs {where}"]
    lines = []
    for run in dict.fromkeys(node.run for node in nodes):
        of_run = [node for node in nodes if node.run == run]
        open_ = [node.host for node in of_run if not node.empty]
        already = " already" * all(node.outcome != "down" for node in of_run)
        last = f"NOT known to be down on {folded(open_)}" if open_ else f"down{already}"
        lines.append(f"run {run}: {last}")
    return lines


# ---- as programs read it ----


def as_json(node: NodeDown) -> dict[str, Any]:
    """One object per node; keys are only ever added."""
    return {
        "run": node.run,
        "node": node.node,
        "host": node.host,
        "outcome": node.outcome,
        "empty": node.empty,
        "processes": node.processes,
        "survivors": [asdict(one) for one in node.survivors],
        "message": node.message,
        "hint": hint(node),
    }


def summary_json(nodes: Sequence[NodeDown]) -> dict[str, Any]:
    runs = sorted({node.run for node in nodes})
    left = sorted({node.run for node in nodes if not node.empty})
    return {
        "summary": {
            "runs": runs,
            "down": [run for run in runs if run not in left],
            "not_down": left,
            "hosts": len({node.host for node in nodes}),
            "processes": sum(node.processes for node in nodes),
            "survivors": sum(len(node.survivors) for node in nodes),
            "exit_code": exit_code(nodes),
        }
    }
