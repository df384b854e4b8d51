"""One run from the first file sent to its end, or until it is left to itself."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from orchestrator import boot, commands, errors
from orchestrator.errors import DdpOrchError, HostError
from orchestrator.events import Detached, GaveUp, encode
from orchestrator.node.sealed import key_for
from orchestrator.setups import Setup, launch_spec, supervisor
from orchestrator.watch import GRACE, Watch, Watched, node_ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.emit import Emitter
    from orchestrator.events import Ended, Planned
    from orchestrator.fleet import Fleet, Item
    from orchestrator.plan import NodePlan, RunPlan
    from orchestrator.state import RunState
    from orchestrator.watch import Interrupts

SHIP_SECONDS = 120.0


class Conductor:
    def __init__(
        self,
        fleet: Fleet,
        plan: RunPlan,
        code: dict[str, bytes],
        emit: Emitter,
        interrupts: Interrupts,
        by: str = "",
    ) -> None:
        self._fleet = fleet
        self._plan = plan
        self._code = code
        self._emit = emit
        self._interrupts = interrupts
        self._by = by
        self._obeyed = 0
        self._nodes = {node.host: node for node in plan.nodes}
        watched = tuple(Watched(node.host, node.rank, node.folder) for node in plan.nodes)
        self._watch = Watch(fleet, watched, emit, by)
        self._watch.resume = self._resume
        self._watch.before_telling = self._may_be_over
        self._setup = Setup(fleet, plan, emit, GRACE, self._watch.clock)
        self._prepared: set[str] = set()  # with a folder there that is ours
        self._started: set[str] = set()
        self._peers_key = secrets.token_hex(32)

    @property
    def state(self) -> RunState:
        return self._emit.state

    def conduct(self, logs: str, *, detach: bool = False) -> Ended | Detached:
        """Return at the run's end; or, where nobody wants to see that, once all workers run."""
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
            if self._may_leave(detach=detach):
                self._watch.settle()
                hosts = tuple(self._nodes)
                return Detached(run=self._plan.name, hosts=hosts, time=time.time())
            if not self._started and self.state.stop is None and self._setup.done:
                self._launch()
            item = self._watch.turn()
            if item is not None:
                self._take(item)
        return self._watch.summary(logs, setup_whole=self._setup.told_all)

    def _may_leave(self, *, detach: bool) -> bool:
        if self.state.stop:
            return False
        if self._interrupts.leave:
            # Else the others would wait for one that never begins. Told twice, we do not wait for
            # one that cannot be reached either.
            twice = self._interrupts.leave > 1
            nodes = self.state.nodes.values()
            return all(n.phase != "waiting" or (twice and n.away is not None) for n in nodes)
        # One that is away has perhaps not been told yet where the head's supervisor is.
        away = any(node.away for node in self.state.nodes.values())
        return detach and self.state.all_up and not away

    # ---- starting ----

    def _ship(self) -> None:
        """Make the run's folder on every host and put into it what the workers need."""
        nodes = self._plan.nodes
        name = self._plan.name
        planned = self.state.plan
        assert planned is not None
        prepare = {
            node.host: {
                "run": name,
                "node": node.rank,
                "state_dir": node.state_dir,
                "told": told(planned, node.host, self._by),
            }
            for node in nodes
        }
        self._ask("runs.prepare", prepare, done=self._prepared.add)
        plugin = f"{commands.PLUGIN_FOLDER}/{commands.PLUGIN_MODULE}"
        shipment = {f"code/{name}": body for name, body in self._code.items()} | {
            f"{plugin}.py": boot.source("ranks").encode(),
            f"{plugin}-1.0.dist-info/entry_points.txt": commands.ENTRY_POINTS.encode(),
            # Nothing is installed, but whoever lists what is, as pip does, wants it named.
            f"{plugin}-1.0.dist-info/METADATA": commands.METADATA.encode(),
        }
        for path, body in shipment.items():
            put = {node.host: {"folder": node.folder, "path": path} for node in nodes}
            self._ask("files.put", put, body)

    def _ask(
        self,
        op: str,
        args: dict[str, dict[str, Any]],
        body: bytes = b"",
        done: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Ask all; the first that fails, or Ctrl-C, ends it."""
        answers = self._fleet.ask(op, args, SHIP_SECONDS, body, self._interrupts.asked)
        failed = {h: got for h, got in answers.items() if isinstance(got, DdpOrchError)}
        for host in answers.keys() - failed.keys():
            done(host)
        for error in failed.values():
            raise error

    def _launch(self) -> None:
        """Start torchrun on all hosts in parallel, and follow what it and its workers write."""
        for host in self._nodes:
            self._started.add(host)
            self._launch_on(host)

    def _launch_on(self, host: str) -> None:
        node = self._nodes[host]
        spec = launch_spec(self._plan, node, commands.torchrun(self._plan, node), GRACE)
        spec["max_restarts"] = self._plan.max_restarts
        spec["peers"] = peers_of(self._plan, node, self._peers_key)
        spec["cursors"] = dict(self._watch.files[host].cursors)
        with contextlib.suppress(HostError):  # a lost host comes out of the fleet's queue
            self._fleet.stream(host, "follow.launch", spec, supervisor())

    def _resume(self, host: str) -> None:
        """Go on with a host that is back: whether it got the last request is not known."""
        if host not in self._started:
            self._setup.resume(host)
        elif self.state.nodes[self._nodes[host].rank].phase == "waiting" and not self.state.stop:
            self._launch_on(host)  # which starts nothing twice
        else:
            self._watch.follow(host)

    def _node_failed(self, host: str, error: DdpOrchError) -> None:
        node = self._nodes[host].rank
        if isinstance(error, HostError):
            # Nothing was started there, and without it the others need not start.
            gone = GaveUp(host=host, node=node, message=error.message, time=time.time())
            self._emit(gone)
            return
        self._emit(node_ended(node, host, f"could not be started: {error.message}"))

    # ---- watching ----

    def _take(self, item: Item) -> None:
        stopping = self.state.stop is not None
        if self._setup.take(item, stopping=stopping):
            over = self.state.nodes[self._nodes[item.host].rank].over
            if stopping and not over and not self._setup.running_on(item.host):
                self._never_started(item.host)
            return
        self._watch.take(item)

    def _may_be_over(self, host: str) -> bool:
        """A node on which nothing runs yet has nothing to say when it is told to end.

        And what is there where nothing was made by us is another's run of that name.
        """
        busy = host in self._started or self._setup.running_on(host)
        if not busy and not self.state.nodes[self._nodes[host].rank].over:
            self._never_started(host)
        return host in self._prepared

    def _never_started(self, host: str) -> None:
        survivors = self._setup.survivors(host)
        self._emit(node_ended(self._nodes[host].rank, host, "stopped", survivors))

    def _obey_interrupts(self) -> None:
        """Stop cleanly at a first Ctrl-C; at another, or when a stop is under way, kill now."""
        pressed = self._interrupts.count - self._obeyed
        self._obeyed += pressed
        if pressed and self.state.stop is None:
            self._watch.stop("interrupted", errors.INTERRUPTED, GRACE)
            pressed -= 1
        if pressed:
            self._watch.hurry()
        if self._interrupts.leave > 1 and not self._started and self.state.stop is None:
            self._watch.stop("told to end before it had started", errors.INTERRUPTED, GRACE)


def peers_of(plan: RunPlan, node: NodePlan, key: str) -> dict[str, Any] | None:
    """Return what a supervisor needs to know the others': see node/peers.py."""
    if len(plan.nodes) == 1:
        return None
    return {
        "node": node.rank,
        "names": [each.host for each in plan.nodes],
        "address": plan.head.address,
        "rendezvous_port": plan.port,
        "lost_after": plan.lost_after,
        "key": key if node is plan.head else key_for(key, node.rank),
    }


def told(planned: Planned, host: str, by: str) -> dict[str, Any]:
    """Return what a host keeps of the run, for whoever asks it."""
    return {"host": host, "owner": by, "plan": json.loads(encode(planned))}
