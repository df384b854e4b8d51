"""One run on a fleet: ship, set up, launch, watch, take down."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

from orchestrator import boot, commands, errors
from orchestrator.errors import DdpOrchError, HostError
from orchestrator.events import Ended, Event, LinkDown, NodeEnded, StopAsked, Warned
from orchestrator.fleet import Arrived, Finished, Lost
from orchestrator.journal import NodeFiles
from orchestrator.setups import Setup, launch_spec, supervisor
from orchestrator.state import Keep, RunState, Stop, Warn, decide, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.emit import Emitter
    from orchestrator.fleet import Fleet, Item
    from orchestrator.plan import RunPlan

GRACE = 10.0
SHIP_SECONDS = 120.0
# After its grace a node has this long to say that nothing is left, before it is given up.
LAST_WORD = 30.0


class Interrupts:
    """Counts Ctrl-C, in place of an exception wherever the program happens to be.

    There is no detaching yet: a closed terminal or SIGTERM stops the run as well, cleanly.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Interrupts:
        # What is ignored stays so: under nohup a closed terminal is to stop nothing.
        heeded = [n for n in self.SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.count += 1

    def asked(self) -> bool:
        return self.count > 0


class Conductor:
    """One run from the first file sent to the last process gone."""

    def __init__(
        self,
        fleet: Fleet,
        plan: RunPlan,
        code: dict[str, bytes],
        emit: Emitter,
        interrupts: Interrupts,
    ) -> None:
        self._fleet = fleet
        self._plan = plan
        self._code = code
        self._emit = emit
        self._interrupts = interrupts
        self._obeyed = 0
        self._nodes = {node.host: node for node in plan.nodes}
        self._files = {
            node.host: NodeFiles(node.rank, node.host, fleet.hosts[node.host].our_time)
            for node in plan.nodes
        }
        self._setup = Setup(fleet, plan, emit, GRACE)
        self._started: set[int] = set()
        self._give_up = float("inf")

    @property
    def state(self) -> RunState:
        return self._emit.state

    def conduct(self, logs: str) -> Ended:
        try:
            self._ship()
            if not self._interrupts.count:
                self._setup.begin()
        except DdpOrchError as error:
            # What a host could not do ends its part; the others' follows by the rules of state.py.
            if not self._interrupts.count:
                self._node_failed(error.host or self._plan.head.host, error)
        while not self.state.over:
            self._obey_interrupts()
            self._decide()
            if not self._started and self.state.stop is None and self._setup.done:
                self._launch()
            item = self._fleet.next(0.1)
            if item is not None:
                self._take(item)
            self._give_up_silent()
        self._own_up()
        return summary(self.state, time.time(), logs)

    def _own_up(self) -> None:
        """Say where the promise about the ranks was not checked."""
        unseen = [
            node.host
            for node in self.state.nodes.values()
            if node.round < 0 and node.ended and node.ended.code == 0
        ]
        if unseen:
            what = f"the workers of {', '.join(unseen)} came and went before their ranks were read"
            self._emit(Warned(message=what))

    # ---- starting ----

    def _ship(self) -> None:
        """Make the run's folder on every host and put into it what the workers need."""
        nodes = self._plan.nodes
        name = self._plan.name
        prepare = {n.host: {"run": name, "node": n.rank, "state_dir": n.state_dir} for n in nodes}
        self._ask("files.prepare", prepare)
        plugin = f"{commands.PLUGIN_FOLDER}/{commands.PLUGIN_MODULE}"
        shipment = {f"code/{name}": body for name, body in self._code.items()} | {
            f"{plugin}.py": boot.source("ranks").encode(),
            f"{plugin}-1.0.dist-info/entry_points.txt": commands.ENTRY_POINTS.encode(),
        }
        for path, body in shipment.items():
            put = {node.host: {"folder": node.folder, "path": path} for node in nodes}
            self._ask("files.put", put, body)

    def _ask(self, op: str, args: dict[str, dict[str, Any]], body: bytes = b"") -> None:
        """Ask all; the first that fails, or Ctrl-C, ends it."""
        stop = self._interrupts.asked
        for got in self._fleet.ask(op, args, SHIP_SECONDS, body, stop).values():
            if isinstance(got, DdpOrchError):
                raise got

    def _launch(self) -> None:
        """Start torchrun on all hosts in parallel, and follow what it and its workers write."""
        program = supervisor()
        for node in self._plan.nodes:
            self._started.add(node.rank)
            spec = launch_spec(self._plan, node, commands.torchrun(self._plan, node), GRACE)
            with contextlib.suppress(HostError):  # a lost host comes out of the fleet's queue
                self._fleet.stream(node.host, "follow.launch", spec, program)

    def _node_failed(self, host: str, error: DdpOrchError) -> None:
        node = self._nodes[host].rank
        if isinstance(error, HostError):
            self._emit(LinkDown(host=host, node=node, message=error.message, time=time.time()))
            return
        self._emit(_node_ended(node, host, f"could not be started: {error.message}"))

    # ---- watching ----

    def _take(self, item: Item) -> None:
        stopping = self.state.stop is not None
        if self._setup.take(item, stopping=stopping):
            over = self.state.nodes[self._nodes[item.host].rank].over
            if stopping and not over and not self._setup.running_on(item.host):
                self._never_started(item.host)
            return
        for event in self._events(item):
            self._emit(event)

    def _events(self, item: Item) -> Iterator[Event]:
        node = self._nodes[item.host].rank
        match item:
            case Arrived(host, event, body):
                yield from self._files[host].feed(event["file"], event["offset"], body)
            case Finished() | Lost() if self.state.nodes[node].over:
                pass  # as it should be: it has said its last word, or is known to be lost
            case Finished(host, _, None):
                yield _node_ended(node, host, "its last word could not be written")
            case Finished(host, _, error) if error and not isinstance(error, HostError):
                yield _node_ended(node, host, f"could not be started: {error.message}")
            case Finished(host, _, error) | Lost(host, error):
                message = error.message if error else ""
                yield LinkDown(host=host, node=node, message=message, time=time.time())

    def _decide(self) -> None:
        match decide(self.state, time.time()):
            case Stop(why, exit_code):
                self._stop(why, exit_code, GRACE)
            case Warn(message, hint):
                self._emit(Warned(message=message, hint=hint))
            case Keep():
                pass

    def _obey_interrupts(self) -> None:
        """Stop cleanly at a first Ctrl-C; at another, or when a stop is under way, kill now."""
        pressed = self._interrupts.count - self._obeyed
        self._obeyed += pressed
        if pressed and self.state.stop is None:
            self._stop("interrupted", errors.INTERRUPTED, GRACE)
            pressed -= 1
        if pressed:
            self._tell_nodes(0.0)

    def _stop(self, why: str, exit_code: int, grace: float) -> None:
        self._emit(StopAsked(why=why, exit_code=exit_code, grace=grace, time=time.time()))
        self._tell_nodes(grace)

    def _tell_nodes(self, grace: float) -> None:
        self._give_up = min(self._give_up, time.monotonic() + grace + LAST_WORD)
        for rank, node in self.state.nodes.items():
            if node.ended:
                continue  # one that counts as lost is told all the same: its link may live
            folder = self._setup.running_on(node.host)
            if rank not in self._started and folder is None:
                if not node.over:
                    self._never_started(node.host)
                continue
            # Its answer is not waited for: the journal tells of the end.
            with contextlib.suppress(DdpOrchError):
                folder = folder or self._nodes[node.host].folder
                self._fleet.hosts[node.host].call("runs.stop", {"folder": folder, "grace": grace})

    def _never_started(self, host: str) -> None:
        self._emit(
            _node_ended(self._nodes[host].rank, host, "stopped", self._setup.survivors(host))
        )

    def _give_up_silent(self) -> None:
        """Name a node that does not say its last word, rather than wait for ever."""
        if time.monotonic() < self._give_up:
            return
        for rank, node in self.state.nodes.items():
            if not node.over:
                late = f"no last word within {LAST_WORD:.0f} s after its grace"
                self._emit(LinkDown(host=node.host, node=rank, message=late, time=time.time()))


def _node_ended(node: int, host: str, reason: str, survivors: tuple[str, ...] = ()) -> NodeEnded:
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
