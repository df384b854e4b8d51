"""Runs as `ps` lists them: from the records here and the hosts' own, as cells and as JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from inventory.names import ranges
from orchestrator import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.errors import HostError
    from orchestrator.events import Planned
    from orchestrator.local_runs import LocalRun
    from orchestrator.reports import FoundRun

HEADINGS = ("run", "state", "age", "owner", "hosts", "ranks", "last log")
# Of a run's hosts, so many words are in the table: a name, or a range of names.
NAMED = 4
MONTH = 30 * 86400.0
Failure: TypeAlias = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    name: str
    state: str
    exit_code: int | None
    started: float | None
    ended_at: float | None
    owner: str
    hosts: tuple[str, ...]
    ranks: int | None
    ranks_alive: int | None
    """None: nobody was asked, or could say."""

    last_log_age: float | None
    what: str
    here: bool
    """There is a record of it on this machine."""

    attached: bool = False
    """A controller on this machine watches it at this moment."""

    why: str = ""
    nodes: tuple[dict[str, Any], ...] = ()
    unreachable: tuple[Failure, ...] = ()
    """Hosts of it that could not be asked, each with the reason."""

    problems: tuple[str, ...] = ()

    @property
    def own_exit_code(self) -> int:
        """What `ps RUN` exits with: the run's own code where it is known."""
        if self.state == "gone":
            return errors.NO_SUCH_RUN
        if self.exit_code is not None:
            return self.exit_code
        return errors.HOST


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What `ps` has found."""

    runs: tuple[ListedRun, ...]
    unreachable: tuple[HostError, ...] = ()
    problems: tuple[str, ...] = ()
    long_ended: int = 0
    """So many have ended longer than a month ago, and could be pruned."""

    exit_code: int = errors.OK


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What `prune` has done."""

    removed: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    """Runs that are not, or not wholly, gone, each with the reason."""

    unfinished: bool = False
    """Something that was over could not be removed."""

    here: bool = False
    """Only this machine's records were meant."""

    unreachable: tuple[HostError, ...] = ()

    @property
    def exit_code(self) -> int:
        if self.unreachable or self.unfinished:
            return errors.HOST
        return errors.STILL_RUNNING if self.kept else errors.OK


def from_record(run: LocalRun) -> ListedRun:
    """List what this machine knows by itself."""
    ended = run.ended
    plan = run.plan
    # Who could not be reached at the end may still have something of the run.
    unverified = [f"not verified on {host}" for host in ended.unverified] if ended else []
    problems = ([run.problem] if run.problem else []) + unverified
    return ListedRun(
        name=run.name,
        state="ended" if ended else "unknown",
        exit_code=ended.exit_code if ended else None,
        started=run.started,
        ended_at=run.ended_at,
        owner=run.owner,
        hosts=_hosts(plan, run),
        ranks=plan.world_size if plan else None,
        ranks_alive=0 if ended else None,
        last_log_age=None,
        what=plan.what if plan else "",
        here=True,
        attached=run.recording,
        why=ended.why if ended else "",
        problems=tuple(problems),
    )


def _hosts(plan: Planned | None, run: LocalRun) -> tuple[str, ...]:
    if plan:
        return plan.hosts
    return tuple(host.name for host in run.inventory.hosts) if run.inventory else ()


def from_hosts(found: FoundRun, unreachable: Sequence[Failure] = ()) -> ListedRun:
    """List what the hosts tell of a run."""
    plan = found.plan
    answered = any(node.state not in ("unreadable", "elsewhere") for node in found.nodes.values())
    return ListedRun(
        name=found.name,
        state=found.state,
        exit_code=found.exit_code,
        started=found.started,
        ended_at=found.ended_at,
        owner=found.owner,
        hosts=found.hosts,
        ranks=found.ranks,
        ranks_alive=found.ranks_alive if answered else None,
        last_log_age=found.last_log_age,
        what=plan.what if plan else "",
        here=False,
        nodes=tuple(
            {
                "node": rank,
                "host": plan.hosts[rank] if plan else node.host,
                "state": node.state,
                "ranks_alive": node.ranks_alive,
                "problem": node.problem,
            }
            for rank, node in found.nodes.items()
        ),
        unreachable=tuple(unreachable),
        problems=(*found.problems, *_survivors(found)),
    )


def _survivors(found: FoundRun) -> list[str]:
    return [
        f"{node.host}: could not be ended: {who}"
        for node in found.nodes.values()
        for who in node.survivors
    ]


def together(run: LocalRun, found: FoundRun | None, unreachable: Sequence[Failure]) -> ListedRun:
    """List a run that is known here with what its hosts said when they were asked."""
    here = from_record(run)
    if found is None:
        state = here.state if run.ended else "unknown" if unreachable else "gone"
        return replace(here, state=state, unreachable=tuple(unreachable))
    there = from_hosts(found, unreachable)
    if run.ended:  # its end is known; the hosts add what only they can see
        return replace(
            here,
            last_log_age=there.last_log_age,
            nodes=there.nodes,
            unreachable=there.unreachable,
            problems=tuple(dict.fromkeys((*here.problems, *there.problems))),
        )
    return replace(
        there,
        started=here.started,
        owner=there.owner or here.owner,
        hosts=here.hosts or there.hosts,
        ranks=here.ranks if there.ranks is None else there.ranks,
        what=here.what or there.what,
        here=True,
        attached=here.attached,
        problems=tuple(dict.fromkeys((*here.problems, *there.problems))),
    )


def newest_first(runs: Iterable[ListedRun]) -> list[ListedRun]:
    return sorted(runs, key=lambda run: run.started or 0.0, reverse=True)


def long_ended(runs: Iterable[ListedRun], now: float, age: float = MONTH) -> list[ListedRun]:
    """Return those that ended longer ago; what has no known end is none of them."""
    return [run for run in runs if run.ended_at is not None and now - run.ended_at > age]


# ---- as people read it ----


def cells(run: ListedRun, now: float) -> tuple[str, ...]:
    return (
        run.name,
        state_cell(run),
        ago(None if run.started is None else now - run.started),
        run.owner or "-",
        _some(run.hosts),
        ranks_cell(run),
        "-" if run.last_log_age is None else f"{ago(run.last_log_age)} ago",
    )


def ranks_cell(run: ListedRun) -> str:
    # Of what is over none is awaited: 0/4 would look like four that died.
    if run.ranks_alive is None or (_is_over(run) and not run.ranks_alive):
        return "-"
    # Of a host that cannot be asked nobody knows; its workers are not to look like dead ones.
    unknown = "?" if run.unreachable else ""
    return f"{run.ranks_alive}{unknown}/{_or(run.ranks, '?')}"


def state_cell(run: ListedRun) -> str:
    code = f" (exit {run.exit_code})" if _is_over(run) else ""
    return f"{run.state}{code}{', attached' if run.attached else ''}"


def _is_over(run: ListedRun) -> bool:
    return run.exit_code is not None and run.exit_code != errors.STILL_RUNNING


def _some(hosts: Sequence[str]) -> str:
    words = ranges(hosts)
    rest = f" and others, {len(hosts)} in all" if len(words) > NAMED else ""
    return (", ".join(words[:NAMED]) + rest) or "-"


def _or(value: int | None, instead: str) -> str:
    return instead if value is None else str(value)


def ago(seconds: float | None) -> str:
    """Say how long, in one unit: more exact nobody reads it."""
    if seconds is None:
        return "-"
    # A clock that was set back makes a future of the past.
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


# ---- as programs read it ----


def as_json(run: ListedRun, now: float) -> dict[str, Any]:
    """One object per run; keys are only ever added."""
    return {
        "run": run.name,
        "state": run.state,
        "exit_code": run.exit_code,
        "started": run.started,
        "ended": run.ended_at,
        "age": None if run.started is None else max(0.0, round(now - run.started, 3)),
        "owner": run.owner,
        "hosts": list(run.hosts),
        "ranks": run.ranks,
        "ranks_alive": run.ranks_alive,
        "last_log_age": None if run.last_log_age is None else round(run.last_log_age, 3),
        "what": run.what,
        "here": run.here,
        "attached": run.attached,
        "why": run.why,
        "nodes": list(run.nodes),
        "unreachable": [{"host": host, "message": message} for host, message in run.unreachable],
        "problems": list(run.problems),
    }
