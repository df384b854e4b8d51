"""What a run's state is, how events change it, and what follows from it. Pure: `now` is passed in.

Rules:
1. The first bad end decides: a worker with no restart left, or a torchrun, stops the run
   everywhere. What ends badly afterwards is a consequence and changes nothing but the summary.
   A host that is out of contact is no bad end: its part of the run goes on.
2. What the workers say of their ranks is the truth; a world other than the planned one is an error.
3. A run is over when every node has said its last word, or cannot any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from inventory.names import folded
from orchestrator import errors, reasons
from orchestrator.events import (
    Ended,
    Event,
    Failure,
    GaveUp,
    Launched,
    LinkDown,
    LinkUp,
    Logged,
    NodeEnded,
    Planned,
    SetupBegan,
    SetupEnded,
    StopAsked,
    Stopping,
    Warned,
    Worker,
    WorkerEnded,
    WorkersUp,
    brief,
)

TAIL_BYTES = 8192
TAIL_LINES = 15
# Stands for a rank where the words are those of a setup command.
SETUP = -1
# What a host says of what another controller has taken down before it could start.
BURIED = "stopped before it started"
START_PATIENCE = 60.0
# torchrun leaves workers that it ends for a restart 30 s, first on the node that failed and then
# on the others.
RESTART_PATIENCE = 60.0
SIGNALS = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 24, 25, 31),
        (
            "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGSEGV SIGPIPE "
            "SIGALRM SIGTERM SIGXCPU SIGXFSZ SIGSYS"
        ).split(),
        strict=True,
    )
)
# What a worker says whose peer went away: it failed, but not first.
CONSEQUENCE = re.compile(
    r"connection (?:reset|closed) by peer|connection was likely closed|broken pipe|ncclRemoteError|"
    r"remote process exited|DistBackendError|DistNetworkError|Gloo connectFullMesh failed|"
    r"timed out waiting|recvValue failed",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class NodeState:
    host: str
    phase: Literal["waiting", "launched", "up", "ended", "lost"] = "waiting"
    since: float = 0.0
    round: int = -1
    workers: tuple[Worker, ...] = ()
    done: frozenset[int] = frozenset()
    """The pids of those that ended well."""

    done_at: float = float("-inf")
    """When the last of them did."""

    ended: NodeEnded | None = None
    away: LinkDown | None = None
    """Since when, and why, there is no contact with it."""

    told: float = float("inf")
    """When it was told to end, by the clock that its workers' ends are timed by."""

    @property
    def over(self) -> bool:
        return self.phase in ("ended", "lost")


@dataclass(frozen=True, kw_only=True)
class RunState:
    plan: Planned | None = None
    nodes: dict[int, NodeState] = field(default_factory=dict)
    setup_failed: SetupEnded | None = None
    failed: tuple[WorkerEnded, ...] = ()
    lost: tuple[GaveUp, ...] = ()
    stop: StopAsked | None = None
    warned: frozenset[str] = frozenset()
    tails: dict[tuple[int, int | None, str], bytes] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return bool(self.nodes) and all(node.over for node in self.nodes.values())

    @property
    def all_up(self) -> bool:
        return all(node.round >= 0 for node in self.nodes.values())


@dataclass(frozen=True)
class Keep:
    pass


@dataclass(frozen=True)
class Warn:
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Stop:
    why: str
    exit_code: int


Decision: TypeAlias = Keep | Warn | Stop


def fold(state: RunState, event: Event) -> RunState:
    match event:
        case Planned():
            nodes = {rank: NodeState(host=host) for rank, host in enumerate(event.hosts)}
            return replace(state, plan=event, nodes=nodes)
        case SetupBegan():
            # What it says is all there is to tell, should it fail: not what those before it said.
            tails = {key: v for key, v in state.tails.items() if key[:2] != (event.node, SETUP)}
            return replace(state, tails=tails)
        case SetupEnded():
            first = state.setup_failed or (None if event.went_well or state.stop else event)
            return replace(state, setup_failed=first)
        case Launched():
            return _node(state, event.node, phase="launched", since=event.time)
        case WorkersUp():
            up = {"round": event.round, "workers": event.workers, "done": frozenset()}
            return _node(state, event.node, phase="up", since=event.time, **up)
        case WorkerEnded() if event.failed:
            return replace(state, failed=(*state.failed, event))
        case WorkerEnded() if event.node in state.nodes and not event.ours:
            before = state.nodes[event.node]
            latest = max(before.done_at, event.time)
            return _node(state, event.node, done=before.done | {event.pid}, done_at=latest)
        case NodeEnded():
            return _node(state, event.node, phase="ended", since=event.time, ended=event)
        case LinkDown():
            return _node(state, event.node, away=event)
        case LinkUp():
            return _node(state, event.node, away=None)
        case GaveUp():
            lost = _node(state, event.node, phase="lost", since=event.time)
            # After a node's last word its link may go as it likes.
            return state if lost is state else replace(lost, lost=(*state.lost, event))
        case Stopping():
            told = _node(state, event.node, told=event.time)
            asked = StopAsked(
                why=event.why, exit_code=event.exit_code, grace=event.grace, time=event.time
            )
            return replace(told, stop=state.stop or asked)
        case StopAsked():
            return state if state.stop else replace(state, stop=event)
        case Warned():
            return replace(state, warned=state.warned | {event.message})
        case Logged():
            rank = event.rank if event.setup is None else SETUP
            key = (event.node, rank, event.stream)
            tail = (state.tails.get(key, b"") + event.data)[-TAIL_BYTES:]
            return replace(state, tails=state.tails | {key: tail})
        case _:
            return state


def _node(state: RunState, rank: int, **changes: object) -> RunState:
    before = state.nodes.get(rank)
    # A node that has ended stays so: the link may go down right after its last word.
    if before is None or before.over:
        return state
    after = replace(before, **changes)  # type: ignore[arg-type]  # the fields of NodeState, checked by it
    return replace(state, nodes=state.nodes | {rank: after})


def decide(state: RunState, now: float, unheard: frozenset[int] = frozenset()) -> Decision:
    """What to do next; asked after every event and every so often.

    `unheard` are nodes that were out of contact, and have not told yet all that happened meanwhile.
    """
    if state.stop or state.plan is None:
        return Keep()
    if state.lost:
        lost = state.lost[0]
        return Stop(f"lost the connection to {lost.host}: {lost.message}", errors.HOST)
    if failed := state.setup_failed:
        if BURIED in failed.reason:
            return _taken_down_before(failed.host)
        what = f"setup failed on {failed.host}: {brief(failed.command)} {_end(failed)}"
        return Stop(what, errors.JOB_FAILED)
    for worker in state.failed:
        if _no_restart_left(worker, state.plan.max_restarts):
            return Stop(f"{_who(worker)} {_end(worker)}", errors.JOB_FAILED)
    for node in state.nodes.values():
        if node.ended and node.ended.survivors:
            return Stop(f"not everything could be ended on {node.host}", errors.JOB_FAILED)
        if node.ended and BURIED in node.ended.reason:
            return _taken_down_before(node.host)
        if node.ended and not _went_well(node.ended):
            return Stop(f"torchrun on {node.host} {_end(node.ended)}", errors.JOB_FAILED)
    return _world(state) or _stranded(state, now, unheard) or _late(state, now)


def _taken_down_before(host: str) -> Stop:
    return Stop(f"taken down by somebody else before {host} had started", errors.CANCELLED)


def _went_well(ended: NodeEnded) -> bool:
    return ended.code == 0 and ended.reason == "exited" and not ended.survivors


def _no_restart_left(worker: WorkerEnded, max_restarts: int) -> bool:
    # torchrun ends healthy workers by these two when another node restarts, which costs no restart.
    ended_by_torchrun = max_restarts > 0 and worker.signal in (15, 9)
    return worker.restart >= max_restarts and not ended_by_torchrun


def _world(state: RunState) -> Stop | None:
    assert state.plan is not None
    planned = state.plan.world_size  # a sum over all nodes: not for each worker anew
    for rank, node in state.nodes.items():
        for worker in node.workers:
            if worker.world_size != planned:
                return Stop(
                    f"the workers of {node.host} are in a world of {worker.world_size}, "
                    f"not of the planned {planned}",
                    errors.JOB_FAILED,
                )
            if worker.group_rank != rank:
                return Stop(
                    f"{node.host} became node {worker.group_rank}, not the planned {rank}",
                    errors.JOB_FAILED,
                )
    return None


def _stranded(state: RunState, now: float, unheard: frozenset[int]) -> Stop | None:
    """Find a restart that cannot be: nodes that have finished do not come back, and all are needed.

    torchrun would wait for them until the rendezvous times out.
    """
    # Of one that is not heard of nobody knows what it has restarted, or finished, meanwhile.
    heard = {
        rank: node
        for rank, node in state.nodes.items()
        if node.away is None and rank not in unheard
    }
    finished = [
        node
        for node in heard.values()
        if node.workers and node.done.issuperset(worker.pid for worker in node.workers)
    ]
    if not finished:
        return None
    last = max(node.done_at for node in finished)
    for worker in state.failed:
        # Who handles SIGTERM may end well and come back: a while is left for that.
        late = now - max(worker.time, last) > RESTART_PATIENCE
        if late and worker.node in heard and heard[worker.node].since < worker.time:
            return Stop(
                f"{_who(worker)} {_end(worker)}, and cannot be restarted: "
                f"{folded(node.host for node in finished)} finished already",
                errors.JOB_FAILED,
            )
    return None


def _late(state: RunState, now: float) -> Keep | Warn:
    """Warn, once, of nodes whose workers are not there while one could expect them."""
    waiting = [n for n in state.nodes.values() if n.phase == "launched"]
    # Of nodes launched a moment apart the last one counts: they are named in one warning.
    if not waiting or now - max(n.since for n in waiting) <= START_PATIENCE:
        return Keep()
    late = f"no workers after {START_PATIENCE:.0f} s on "
    if any(message.startswith(late) for message in state.warned):
        return Keep()
    hosts = folded(node.host for node in waiting)
    return Warn(f"{late}{hosts}: torch is slow, or not all meet")


def summary(state: RunState, now: float, logs: str) -> Ended:
    """Tell how it went, with the first failure and its last words."""
    assert state.plan is not None
    # The last words may all come at once, before anybody decided upon them.
    decided = decide(state, now)
    stop = state.stop or (decided if isinstance(decided, Stop) else None)
    survivors = tuple(
        f"{node.host}: {who}"
        for node in state.nodes.values()
        if node.ended
        for who in node.ended.survivors
    )
    exit_code = stop.exit_code if stop else errors.OK
    # What torchrun's restarts have made good is no failure of the run.
    failure = first_failure(state) if exit_code == errors.JOB_FAILED else None
    # Whoever comes later is told how long it ran, not how late he is.
    ends = [node.ended.time for node in state.nodes.values() if node.ended]
    until = max(ends) if len(ends) == len(state.nodes) else now
    return Ended(
        run=state.plan.run,
        exit_code=exit_code,
        seconds=max(0.0, until - state.plan.time),
        hosts=state.plan.hosts,
        why=stop.why if stop else "all workers ended well",
        failure=failure,
        survivors=survivors,
        logs=logs,
        unverified=tuple(n.host for n in state.nodes.values() if n.phase == "lost"),
    )


def first_failure(state: RunState) -> Failure | None:
    """Return the failure that came first by corrected clock; what looks like a consequence last.

    A worker whose peer dies fails as well, and may be gone sooner than the peer.
    """

    def order(worker: WorkerEnded) -> tuple[bool, bool, float]:
        # A node may be told by another one, before we hear of it and by clocks that do not agree to
        # the millisecond: its own order of things is the true one.
        told = state.nodes[worker.node].told if worker.node in state.nodes else float("inf")
        since = min(state.stop.time if state.stop else float("inf"), told)
        ours = worker.time >= since and worker.signal in (15, 9)
        tail = "\n".join((*_tail(state, worker.node, worker.rank), worker.error or ""))
        return ours, bool(CONSEQUENCE.search(tail)), worker.time

    if setup := state.setup_failed:
        tail = _tail(state, setup.node, SETUP)
        return Failure(
            host=setup.host,
            rank=None,
            code=setup.code,
            signal=setup.signal,
            # A shell's commands fail in words of their own: the last of them are the best guess.
            message=reasons.reason(tail) or ("" if setup.signal or not tail else tail[-1].strip()),
            tail=tail,
            setup=setup.command,
        )
    # What a restart made good is not what the run failed of.
    most = state.plan.max_restarts if state.plan else 0
    failed = [w for w in state.failed if _no_restart_left(w, most)] or state.failed
    bad = [n.ended for n in state.nodes.values() if n.ended and not _went_well(n.ended)]
    own = [ended for ended in bad if ended.reason != "stopped"]
    # What we ended ourselves is no cause where there is another.
    failed = [w for w in failed if not order(w)[0]] or ([] if own else failed)
    if failed:
        worker = min(failed, key=order)
        tail = _tail(state, worker.node, worker.rank)
        on_stderr = state.tails.get((worker.node, worker.rank, "err"))
        # What stands on stdout alone may explain, but it is no error's name.
        said = reasons.reason(tail, worker.signal) if on_stderr else ""
        message = worker.error or said
        ours = order(worker)[0]
        return Failure(
            host=worker.host,
            rank=worker.rank,
            code=worker.code,
            signal=worker.signal,
            message=message,
            tail=tail,
            hint=None if ours else reasons.hint(worker.host, worker.code, worker.signal, message),
        )
    if not bad:
        return None
    ended = min(own or bad, key=lambda e: e.time)
    tail = _tail(state, ended.node, None)
    untold = ended.code is None and ended.signal is None
    message = ended.reason if untold else reasons.reason(tail, ended.signal)
    return Failure(
        host=ended.host, rank=None, code=ended.code, signal=ended.signal, message=message, tail=tail
    )


def _tail(state: RunState, node: int, rank: int | None) -> tuple[str, ...]:
    data = state.tails.get((node, rank, "err")) or state.tails.get((node, rank, "out")) or b""
    lines = data.decode("utf-8", "replace").splitlines()
    if len(data) == TAIL_BYTES:
        lines = lines[1:]  # cut somewhere inside
    told = (line for line in lines if line.strip() and not reasons.is_cpp_frame(line))
    return tuple(told)[-TAIL_LINES:]


def _who(worker: WorkerEnded) -> str:
    return f"rank {worker.rank} on {worker.host}"


def _end(ended: WorkerEnded | NodeEnded | SetupEnded) -> str:
    if isinstance(ended, SetupEnded) and ended.survivors:
        return f"left what could not be ended: {', '.join(ended.survivors)}"
    if ended.signal:
        return f"was killed by {signal_name(ended.signal)}"
    if ended.code is not None:
        return f"exited with code {ended.code}"
    return "ended" if isinstance(ended, WorkerEnded) else f"ended: {ended.reason}"


def signal_name(number: int) -> str:
    # Linux's numbers, as the hosts have them; this machine's may differ.
    return SIGNALS.get(number, f"signal {number}")
