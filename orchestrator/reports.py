"""What hosts report of runs, made one run of. Pure: a host's words are checked, `now` is passed in.

Rules:
1. Of two reports of the same node, as of hosts with a shared home, the one that knows wins: where
   the node's processes would be, nobody says "elsewhere". Of an end all know; then it is the
   host's where the node was.
2. A run is over when all of its nodes are. What cannot be asked may still run.
3. Its exit code is what state.py would have said: what ended badly by itself is a failure, and so
   is what was rebooted or could not be ended; else a stop brings its own code.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orchestrator import errors
from orchestrator.events import Planned, parse
from orchestrator.survivors import survivor

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

NodeStateName: TypeAlias = Literal[
    "starting",
    "setting-up",
    "running",
    "lost",
    "ended",
    "rebooted",
    "elsewhere",
    "unreadable",
    "forgotten",
    "absent",
    "unknown",
]
RunStateName: TypeAlias = Literal[
    "starting", "setting-up", "running", "partly", "lost", "ended", "rebooted", "gone", "unknown"
]
# As an agent may report it, the one that knows most first.
NODE_STATES: tuple[NodeStateName, ...] = (
    "running",
    "setting-up",
    "starting",
    "ended",
    "lost",
    "rebooted",
    "unreadable",
    "elsewhere",
    "forgotten",
    "absent",
)
# "forgotten" is said of what could not all be removed.
OVER = ("ended", "rebooted", "forgotten")
# The reasons for an end that somebody wanted, when it was not the supervisor's own work as well.
STOPPED = (
    "stopped",
    "stopped before it started",
    "its supervisor was killed, and how it ended is not known",
    "",
)
NONSENSE = "its report makes no sense"
LONGEST = 300
_FOLDER = re.compile(r".*/runs/(?P<run>[a-z0-9][a-z0-9-]{0,63})/(?P<node>[0-9]{1,5})\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What one host says of one node's folder."""

    run: str
    node: int
    host: str
    """By which name it was asked."""

    folder: str
    state: NodeStateName
    owner: str = ""
    started: float | None = None
    plan: Planned | None = None
    code: int | None = None
    signal: int | None = None
    reason: str = ""
    survivors: tuple[str, ...] = ()
    proven: bool = False
    """Nobody of it was left at its end, as who started it could tell."""

    ended_at: float | None = None
    stop_code: int | None = None
    """The run's exit code as who stopped it wants it; None where nobody did."""

    ranks_alive: int = 0
    root_alive: bool = False
    here: bool = False
    """It was written by that host, and since its last start; others may share its home."""

    last_log_age: float | None = None
    problem: str | None = None
    old: bool = False
    """Written by the version that kept no records."""

    @property
    def went_well(self) -> bool:
        return self.code == 0 and self.reason == "exited" and not self.survivors

    @property
    def was_stopped(self) -> bool:
        """It ended as it was told to, or never began."""
        return self.stop_code is not None and self.reason in STOPPED


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run as its hosts tell of it."""

    name: str
    state: RunStateName
    exit_code: int | None
    """None: it is not known whether it has ended."""

    owner: str
    plan: Planned | None
    started: float | None
    ended_at: float | None
    last_log_age: float | None
    ranks_alive: int
    nodes: dict[int, NodeReport] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    """The run's hosts that did not answer, or were not asked."""

    @property
    def ranks(self) -> int | None:
        return self.plan.world_size if self.plan else None

    @property
    def hosts(self) -> tuple[str, ...]:
        if self.plan:
            return self.plan.hosts
        return tuple(dict.fromkeys(node.host for _, node in sorted(self.nodes.items())))

    def host_of(self, node: int, names: Container[str]) -> str:
        """Say which host is to be asked about a node; `names` are those of the inventory.

        Of hosts with one home all tell of an end; who or what may be left is on the node's own.
        """
        own = self.plan.hosts[node] if self.plan else ""
        told = self.nodes.get(node)
        sure = told and (told.here or told.state not in OVER)
        return told.host if told and (sure or own not in names) else own

    @property
    def problems(self) -> tuple[str, ...]:
        said = [f"{n.host}: {n.problem}" for _, n in sorted(self.nodes.items()) if n.problem]
        return tuple(dict.fromkeys(said))


# ---- what one host says ----


def read_reports(
    host: str, answer: object, our_time: Callable[[float], float]
) -> tuple[list[NodeReport], list[str]]:
    """Read a host's answer; the second list is what makes no sense in it, or is wrong there."""
    if not isinstance(answer, list):
        return [], [NONSENSE]
    found, problems = [], []
    plans = _plans(answer)
    for entry in answer:
        if not isinstance(entry, dict):
            problems.append(NONSENSE)
            continue
        where = place_of(entry.get("folder"))
        if where is None:
            problems.append(_text(entry.get("problem")) or NONSENSE)
            continue
        found.append(_report(host, *where, entry, plans, our_time))
    return found, list(dict.fromkeys(problems))


def place_of(folder: object) -> tuple[str, int] | None:
    """Return whose folder that is on a host: a run's, and of which node; None if it is none."""
    where = _FOLDER.match(folder) if isinstance(folder, str) else None
    return (where["run"], int(where["node"])) if where else None


def _report(
    host: str,
    run: str,
    node: int,
    entry: dict[str, Any],
    plans: Mapping[str, Planned],
    our_time: Callable[[float], float],
) -> NodeReport:
    known: Any = {"run": run, "node": node, "host": host, "folder": entry["folder"]}
    try:
        state = NODE_STATES[NODE_STATES.index(entry["state"])]
        record, end, stop = (_record(entry[name]) for name in ("record", "exit", "stop"))
        plan = plans.get(entry.get("plan_of", entry["folder"]))
        fits = plan is not None and plan.run == run and node < len(plan.hosts)
        # A run that is not over has no end yet; one may have been written at this moment.
        end = end if state == "ended" else {}
        return NodeReport(
            **known,
            state=state,
            owner=_text(record.get("owner")),
            started=_time(record.get("time"), our_time),
            plan=plan if fits else None,
            code=_whole(end.get("code")),
            signal=_whole(end.get("signal")),
            reason=_text(end.get("reason")),
            survivors=tuple(str(survivor(row)) for row in _rows(end.get("survivors"))),
            proven=end.get("proven") is True and not end.get("survivors"),
            ended_at=_time(end.get("time"), our_time),
            stop_code=_exit_code(stop.get("exit_code")) if stop else None,
            ranks_alive=max(0, _whole(entry["ranks_alive"]) or 0),
            root_alive=bool(entry.get("root_alive")),
            here=entry.get("here") is True,
            last_log_age=_age(entry["last_log_age"]),
            problem=_text(entry.get("problem")) or None,
            old=state == "unreadable" and not record,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return NodeReport(**known, state="unreadable", problem=NONSENSE)


def _plans(answer: Iterable[object]) -> dict[str, Planned]:
    """Return the runs' plans by the folders they are told with; other nodes' reports name these."""
    found = {}
    for entry in answer:
        match entry:
            case {"folder": str(folder), "record": {"plan": value}} if plan := _plan(value):
                found[folder] = plan
    return found


def _plan(value: object) -> Planned | None:
    """Read the plan that was left with the host for whoever attaches; None where it is none."""
    try:
        plan = parse(json.dumps(value))
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return None
    if not isinstance(plan, Planned) or not plan.is_sound or not all(map(_is_folder, plan.folders)):
        return None
    return plan


def _is_folder(path: str) -> bool:
    return _FOLDER.match(path) is not None


def _record(value: object) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise TypeError
    return value or {}


def _rows(value: object) -> list[dict[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise TypeError
    return value or []


def _text(value: object) -> str:
    return value[:LONGEST] if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError
    return value


def _exit_code(value: object) -> int:
    code = _whole(value)
    return code if code is not None and 0 < code < 256 else errors.CANCELLED


def _age(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError
    return max(0.0, float(value))  # type: ignore[arg-type]


def _time(value: object, our_time: Callable[[float], float]) -> float | None:
    age = _age(value)
    return None if age is None else our_time(age)


# ---- what they say together ----


def merge(reports: Iterable[NodeReport], answered: Iterable[str] = ()) -> list[FoundRun]:
    """Make runs of reports. `answered` are the hosts that told all they have."""
    runs: dict[tuple[str, float | None], dict[int, NodeReport]] = {}
    # Names are found by chance, here and on other machines: the plan's time tells runs apart.
    known = sorted(reports, key=lambda report: report.plan is None)
    for report in known:
        key = _key(report, runs)
        nodes = runs.setdefault(key, {})
        before = nodes.get(report.node)
        if before is None or _knows_more(report, before):
            nodes[report.node] = report
    hosts = set(answered)
    return [_found(name, nodes, hosts) for (name, _), nodes in runs.items()]


def _key(report: NodeReport, runs: Iterable[tuple[str, float | None]]) -> tuple[str, float | None]:
    """Say whose report it is; one without a plan is taken for the run of its name."""
    if report.plan:
        return report.run, report.plan.time
    return next((key for key in runs if key[0] == report.run), (report.run, None))


def the_one(found: Iterable[FoundRun], name: str, started: float | None) -> FoundRun | None:
    """Find the run of that name, and not another one that was given the same."""
    for run in found:
        if run.name == name and (run.plan is None or started in (None, run.plan.time)):
            return run
    return None


def refuse_doubles(run: str, hosts: Sequence[str]) -> None:
    """Refuse two nodes of one host: two of its own are one to us, and share a home."""
    if len(set(hosts)) < len(hosts):
        raise errors.UsageError(
            f"run {run}: which of these hosts is which of its own cannot be told",
            hint="use the inventory that it was started with, or wait until all can be reached",
        )


def _knows_more(report: NodeReport, before: NodeReport) -> bool:
    return _distance(report) < _distance(before)


def _distance(report: NodeReport) -> tuple[int, bool, bool]:
    named = report.plan is not None and report.plan.hosts[report.node] == report.host
    return NODE_STATES.index(report.state), not report.here, not named


def _found(name: str, nodes: Mapping[int, NodeReport], answered: set[str]) -> FoundRun:
    ordered = dict(sorted(nodes.items()))
    plan = next((node.plan for node in ordered.values() if node.plan), None)
    # A node without a report: its host has none of it, or may have some and cannot be asked.
    missing = [] if plan is None else [h for n, h in enumerate(plan.hosts) if n not in nodes]
    silent = tuple(host for host in missing if host not in answered)
    absent = len(missing) - len(silent)
    states: list[NodeStateName] = [node.state for node in ordered.values()]
    states += ["unknown" for _ in silent]
    states += ["absent" for _ in range(absent)]
    state = state_of(states)
    ages = [node.last_log_age for node in ordered.values() if node.last_log_age is not None]
    starts = [node.started for node in ordered.values() if node.started is not None]
    return FoundRun(
        name=name,
        state=state,
        exit_code=exit_code_of(state, [n for n in ordered.values() if n.state != "forgotten"]),
        owner=next((node.owner for node in ordered.values() if node.owner), ""),
        plan=plan,
        started=min(starts, default=plan.time if plan else None),
        ended_at=max((n.ended_at for n in ordered.values() if n.ended_at), default=None),
        last_log_age=min(ages, default=None),
        ranks_alive=sum(node.ranks_alive for node in ordered.values()),
        nodes=ordered,
        silent=silent,
    )


def state_of(nodes: Sequence[NodeStateName]) -> RunStateName:
    """Tell a run's state from those of its nodes."""
    there = {"absent" if node == "forgotten" else node for node in nodes}
    if not there - {"absent"}:
        return "gone"
    if "lost" in there:
        return "lost"
    if "running" in there:
        return "partly" if there & {*OVER, "absent"} else "running"
    if "setting-up" in there:
        return "setting-up"
    if "starting" in there:
        return "starting"
    if there & {"unknown", "elsewhere", "unreadable"}:
        return "unknown"
    return "rebooted" if "rebooted" in there else "ended"


def _may_run(node: NodeReport) -> bool:
    if node.state == "lost":
        return bool(node.ranks_alive or node.root_alive)
    return node.state not in (*OVER, "absent")


def exit_code_of(state: RunStateName, nodes: Sequence[NodeReport]) -> int | None:
    """Tell a run's exit code; None where it is not known whether it runs."""
    if state in ("unknown", "gone"):
        return None
    if state == "rebooted":
        return errors.JOB_FAILED
    if state == "lost" and not any(map(_may_run, nodes)):
        return errors.JOB_FAILED
    if state != "ended":
        return errors.STILL_RUNNING
    if any(node.survivors for node in nodes):
        return errors.JOB_FAILED
    if any(not node.went_well and not node.was_stopped for node in nodes):
        return errors.JOB_FAILED
    # Whoever stopped it first had the reason; the failure that made us stop is one.
    codes = [n.stop_code for n in nodes if n.was_stopped and n.stop_code is not None]
    return errors.JOB_FAILED if errors.JOB_FAILED in codes else codes[0] if codes else errors.OK
