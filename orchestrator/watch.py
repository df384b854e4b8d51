"""A run that is under way, as one who watches it: follow, lose and find hosts again, stop it."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inventory.names import folded
from orchestrator import errors, patience
from orchestrator.backoff import Backoff
from orchestrator.errors import DdpOrchError, HostError
from orchestrator.events import (
    Ended,
    Event,
    GaveUp,
    LinkDown,
    LinkUp,
    Listening,
    NodeEnded,
    StopAsked,
    Warned,
)
from orchestrator.fleet import Arrived, Finished, Lost, Rejoined, StillAway, wait_for
from orchestrator.journal import NodeFiles, why_untold
from orchestrator.patience import Patience
from orchestrator.state import Keep, RunState, Stop, Warn, decide, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.emit import Emitter
    from orchestrator.fleet import Fleet, Item
    from orchestrator.link import Call

GRACE = 10.0
# Beats come every five seconds.
QUIET = 10.0


class Interrupts:
    """Counts signals, in place of an exception wherever the program happens to be.

    Ctrl-C is a wish about the run; a closed terminal and SIGTERM are about us alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self.leave = 0

    def __enter__(self) -> Interrupts:
        wanted = {signal.SIGINT: self._note, signal.SIGTERM: self._go, signal.SIGHUP: self._go}
        # What is ignored stays so: under nohup a closed terminal is to be no matter.
        heeded = [n for n in wanted if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, wanted[number]) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.count += 1

    def _go(self, *_: object) -> None:
        self.leave += 1

    def asked(self) -> bool:
        return self.count > 0


@dataclass(frozen=True)
class Watched:
    """A node of the run: its rank, and where its host keeps it."""

    host: str
    rank: int
    folder: str


class Watch:
    """Takes what comes from the hosts, and decides what is to be done about it."""

    def __init__(
        self,
        fleet: Fleet,
        nodes: tuple[Watched, ...],
        emit: Emitter,
        by: str,
        cursors: Callable[[int], Mapping[str, int]] | None = None,
    ) -> None:
        """`cursors` tells how much of a node's files is known already; `by` is who we are."""
        self._fleet = fleet
        self._emit = emit
        self._by = by
        self.nodes = {node.host: node for node in nodes}
        self.files = {
            node.host: NodeFiles(
                node.rank, node.host, self.clock(node.host), None, cursors and cursors(node.rank)
            )
            for node in nodes
        }
        # What a host is asked for when it is back; a node that is still being set up wants another.
        self.resume: Callable[[str], None] = self.follow
        # Called with a node's host that is to be told to end; says whether it may be.
        self.before_telling: Callable[[str], bool] = lambda _: True
        self._stops: dict[str, Call] = {}
        self._head: Listening | None = None
        self._introductions: dict[str, Call] = {}
        self._away = Backoff(fleet)
        self._patience = Patience(fleet)
        # Those out of contact that the person who waits knows of.
        self._named: set[str] = set()
        self._behind: set[str] = set()
        # Back from being away, with more to tell than has come yet.
        self._unheard: set[str] = set()
        self._quiet: set[str] = set()
        self._listened = 0.0
        self._told = False
        self._grace = GRACE
        self._hurried = False

    @property
    def state(self) -> RunState:
        return self._emit.state

    def clock(self, host: str) -> Callable[[float], float]:
        return lambda theirs: self._fleet.hosts[host].our_time(theirs)

    # ---- following ----

    def follow(self, host: str) -> None:
        """Ask for all that is not known yet. The journal is read from its beginning: see store."""
        folder, cursors = self.nodes[host].folder, dict(self.files[host].cursors)
        with contextlib.suppress(HostError):  # a lost host comes out of the fleet's queue
            self._fleet.stream(host, "follow.follow", {"folder": folder, "cursors": cursors})

    def catch_up(self, host: str) -> None:
        """Follow a run that others began: nothing is decided before its past is known."""
        self._behind.add(host)
        self.follow(host)

    def turn(self) -> Item | None:
        """Do what is due, and return what comes next; the caller hands it to whom it concerns."""
        self._decide()
        item = self._fleet.next(0.1)
        self._away.turn()
        self._tell_of_silence()
        self._patience.listen(self._awaited())
        self._name_away()
        self._give_up_silent()
        return item

    def take(self, item: Item) -> None:
        for event in self._events(item):
            self._emit(event)
            if isinstance(event, Listening):
                self._head = event
                for host in self.nodes:
                    self._introduce(host)

    def _introduce(self, host: str) -> None:
        """Tell a host's supervisor where the head's is, so that they know of each other's end."""
        node = self.nodes[host]
        if self._head and node.rank != self._head.node and host not in self._away:
            where = {"address": self._head.address, "port": self._head.port}
            with contextlib.suppress(DdpOrchError):
                call = self._fleet.hosts[host].call("runs.meet", {"folder": node.folder, **where})
                self._introductions[host] = call

    def settle(self) -> None:
        """Before leaving: what was said to the hosts is to be heard there."""
        wait_for(self._introductions, patience.HEARD)

    def _events(self, item: Item) -> Iterator[Event]:
        host = item.host
        node = self.nodes[host].rank
        over = self.state.nodes[node].over
        match item:
            case Arrived(_, {"caught_up": _}, _):
                self._caught_up(host)
            case Arrived(_, {"unstarted": _}, _) if host in self._behind:
                what = f"{host}: nothing of the run is started yet, and only who began it can do so"
                yield Warned(message=what, hint="`ddp-orch down` ends it, should that one be gone")
            case Arrived(_, {"unattended": _}, _):
                what = f"{host}: its supervisor was killed; the job runs on, on its own"
                yield Warned(message=what, hint="`ddp-orch down` ends it all the same")
            case Arrived(_, {"file": name, "offset": offset}, body):
                yield from self.files[host].feed(name, offset, body)
            case Arrived():
                pass  # of a later agent
            case Rejoined():
                yield from self._is_back(host)
            case StillAway():
                self._away.later(host)
            case Lost() | Finished() if over:
                pass  # as it should be: it has said its last word, or is known to be lost
            case Finished(_, answer, None):
                self._caught_up(host)
                yield node_ended(node, host, why_untold(answer))
            case Finished(_, _, error) if error and not isinstance(error, HostError):
                self._caught_up(host)
                waited = self.state.nodes[node].phase == "waiting"
                begin = "could not be started: " if waited else ""
                yield node_ended(node, host, begin + error.message)
            case Finished(_, _, error) | Lost(_, error):
                yield from self._is_away(host, error)

    def _caught_up(self, host: str) -> None:
        self._behind.discard(host)
        self._unheard.discard(host)

    # ---- losing a host, and finding it again ----

    def _is_away(self, host: str, error: DdpOrchError | None) -> Iterator[Event]:
        if not self._away.lost(host):
            return
        self._caught_up(host)  # the others do not wait for it
        message = error.message if error else ""
        node = self.nodes[host].rank
        if self._patience.left(away=True) <= 0:
            # That it is tried again would be said of one that is not waited for.
            what = f"no contact: {message}"
            yield GaveUp(host=host, node=node, message=what, time=time.time())
            return
        yield LinkDown(host=host, node=node, message=message, time=time.time())

    def _tell_of_silence(self) -> None:
        """Say that a host is quiet, well before it counts as lost: somebody looks at the screen."""
        if time.monotonic() < self._listened + 1.0:
            return
        self._listened = time.monotonic()
        for host, node in self.nodes.items():
            there = host not in self._away and not self.state.nodes[node.rank].over
            if not there or self._fleet.hosts[host].silence() < QUIET:
                self._quiet.discard(host)
            elif host not in self._quiet:
                self._quiet.add(host)
                self._emit(Warned(message=f"nothing was heard from {host} for {QUIET:.0f} s"))

    def _is_back(self, host: str) -> Iterator[Event]:
        self._away.back(host)
        self._unheard.add(host)
        node = self.nodes[host].rank
        yield LinkUp(host=host, node=node, time=time.time())
        ended = self.state.nodes[node].ended
        if self._told and not ended and self.before_telling(host):
            self._tell(host, self._grace)
        if not self.state.nodes[node].over:
            self.resume(host)
            self._introduce(host)

    # ---- stopping ----

    def _decide(self) -> None:
        if self._behind:
            return
        if self.state.stop and not self._told:
            self.tell_all(self.state.stop.grace)  # another controller began it; may it be for all
        unheard = frozenset(self.nodes[host].rank for host in self._unheard)
        match decide(self.state, time.time(), unheard):
            case Stop(why, exit_code):
                self.stop(why, exit_code, GRACE)
            case Warn(message, hint):
                self._emit(Warned(message=message, hint=hint))
            case Keep():
                pass

    def stop(self, why: str, exit_code: int, grace: float) -> None:
        self._emit(StopAsked(why=why, exit_code=exit_code, grace=grace, time=time.time()))
        if exit_code == errors.INTERRUPTED:
            self._patience.in_person(grace)
        self.tell_all(grace)

    def hurry(self) -> None:
        """Have all that is left killed at once, and wait for nobody who cannot be talked to."""
        assert self.state.stop is not None
        if self._hurried:
            left = f"{max(0.0, self._patience.left()):.0f} s at most"
            what = f"waiting for {folded(self._awaited())} to say that nothing is left: {left}"
            self._emit(Warned(message=what))
            return
        self._hurried = True
        self._emit(replace(self.state.stop, grace=0.0, time=time.time()))
        self._patience.in_person(None)
        self.tell_all(0.0)

    def tell_all(self, grace: float) -> None:
        """Have every node end; those out of contact are told when they are back."""
        self._told, self._grace = True, grace
        self._patience.stop(grace)
        for host, node in self.nodes.items():
            if self.state.nodes[node.rank].ended:
                continue  # one that counts as lost is told all the same: its link may live
            if self.before_telling(host) and host not in self._away:
                self._tell(host, grace)

    def _tell(self, host: str, grace: float) -> None:
        """Its answer is not waited for: the journal tells of the end."""
        stop = self.state.stop
        why = stop.why if stop else "stopped"
        code = stop.exit_code if stop else errors.CANCELLED
        if code == errors.INTERRUPTED:
            why, code = f"interrupted by {self._by}", errors.CANCELLED
        wish = {"grace": grace, "why": why, "exit_code": code, "by": self._by}
        with contextlib.suppress(DdpOrchError):
            folder = self.nodes[host].folder
            call = self._fleet.hosts[host].call("stopping.stop", {"folder": folder, **wish})
            self._stops[host] = call

    def _awaited(self) -> list[str]:
        """Return the hosts that have not said their last word."""
        return [node.host for node in self.state.nodes.values() if not node.over]

    def _name_away(self) -> None:
        """Say for whom the person who has interrupted the run waits, and how not to."""
        if not self._patience.is_personal or self._hurried:
            return
        away = [node.host for node in self.state.nodes.values() if node.away and not node.over]
        if new := [host for host in away if host not in self._named]:
            left = max(0.0, self._patience.left(away=True))
            what = f"waiting for {folded(new)}, not to be reached now: {left:.0f} s at most"
            self._emit(Warned(message=what, hint="Ctrl-C again does not wait"))
        self._named = set(away)

    def _give_up_silent(self) -> None:
        """Name a node that does not say its last word, rather than wait for ever."""
        for rank, node in self.state.nodes.items():
            if node.over or self._patience.left(away=node.away is not None) > 0:
                continue
            away = f"no contact since {_clock(node.away.time)}" if node.away else None
            late = away or f"no last word within {patience.LAST_WORD:.0f} s after its grace"
            self._emit(GaveUp(host=node.host, node=rank, message=late, time=time.time()))

    # ---- the end ----

    def summary(self, logs: str, *, setup_whole: bool = True) -> Ended:
        # What never started is told all the same, that it never will.
        heard = {host: call for host, call in self._stops.items() if not self._is_lost(host)}
        wait_for(heard, patience.HEARD)
        self._own_up()
        told_all = setup_whole and all(files.whole for files in self.files.values())
        if logs and not (told_all and self._emit.all_kept):
            logs = self._not_whole(logs)
        return summary(self.state, time.time(), logs)

    def _is_lost(self, host: str) -> bool:
        return self.state.nodes[self.nodes[host].rank].phase == "lost"

    def _not_whole(self, logs: str) -> str:
        """Have the end say what it says where nobody watched: that the logs are on the hosts."""
        run = self.state.plan.run if self.state.plan else ""
        what = f"not all that was written is in {logs}: the hosts have it"
        hint = f"ddp-orch logs {run}; or, to have it here too: ddp-orch attach {run}"
        self._emit(Warned(message=what, hint=hint))
        return ""

    def _own_up(self) -> None:
        """Say where the promise about the ranks was not checked."""
        unseen = [
            node.host
            for node in self.state.nodes.values()
            if node.round < 0 and node.ended and node.ended.code == 0
        ]
        if unseen:
            what = f"the workers of {folded(unseen)} came and went before their ranks were read"
            self._emit(Warned(message=what))


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


def node_ended(node: int, host: str, reason: str, survivors: tuple[str, ...] = ()) -> NodeEnded:
    """Make up the last word of a node that cannot say it."""
    return NodeEnded(
        node=node,
        host=host,
        code=None,
        signal=None,
        reason=reason,
        survivors=survivors,
        time=time.time(),
    )
