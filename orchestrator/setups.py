"""The hosts' `setup:` commands: each host at its own pace, one after the other, under a supervisor.

So they end as a run does: with all that they left in the background, and known; and a connection
that is lost meanwhile is no matter.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import boot, commands
from orchestrator.errors import HostError
from orchestrator.events import Event, SetupBegan, SetupEnded
from orchestrator.fleet import Arrived, Finished
from orchestrator.journal import NodeFiles, why_untold

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.fleet import Fleet, Item
    from orchestrator.plan import NodePlan, RunPlan


@dataclass(frozen=True)
class Running:
    began: SetupBegan
    folder: str
    files: NodeFiles


class Setup:
    def __init__(
        self,
        fleet: Fleet,
        plan: RunPlan,
        emit: Callable[[Event], None],
        grace: float,
        clock: Callable[[str], Callable[[float], float]],
    ) -> None:
        self._fleet = fleet
        self._plan = plan
        self._emit = emit
        self._grace = grace
        self._clock = clock
        self._nodes = {node.host: node for node in plan.nodes}
        self._running: dict[str, Running] = {}
        self._ended: dict[str, SetupEnded] = {}
        self._begun = False
        self.told_all = True
        """Whether no byte is missing of what the commands have written."""

    @property
    def done(self) -> bool:
        """Whether all commands of all hosts have ended well."""
        return self._begun and not self._running and all(map(self._ready, self._nodes.values()))

    def _ready(self, node: NodePlan) -> bool:
        last = self._ended.get(node.host)
        return not node.setup or (
            last is not None and last.went_well and last.number == len(node.setup)
        )

    def running_on(self, host: str) -> str | None:
        """Return the folder of the command that runs there."""
        running = self._running.get(host)
        return running.folder if running and not self._has_ended(running.began) else None

    def _has_ended(self, began: SetupBegan) -> bool:
        last = self._ended.get(began.host)
        return last is not None and last.number == began.number

    def survivors(self, host: str) -> tuple[str, ...]:
        """Return what its last command left and could not be ended."""
        return self._ended[host].survivors if host in self._ended else ()

    def begin(self) -> None:
        self._begun = True
        for node in self._nodes.values():
            self._next(node, 1)

    def _next(self, node: NodePlan, number: int) -> None:
        if number > len(node.setup):
            return
        command = node.setup[number - 1]
        began = SetupBegan(
            node=node.rank,
            host=node.host,
            number=number,
            of=len(node.setup),
            command=command,
            time=time.time(),
        )
        files = NodeFiles(node.rank, node.host, self._clock(node.host), began)
        folder = f"{node.folder}/setup/{number}"
        self._running[node.host] = Running(began, folder, files)
        self._emit(began)
        self._launch(node)

    def resume(self, host: str) -> None:
        """Go on with a host that is back: the command has gone on meanwhile, or is not begun."""
        if host in self._running:
            self._launch(self._nodes[host])

    def _launch(self, node: NodePlan) -> None:
        running = self._running[node.host]
        words = commands.in_a_shell(running.began.command)
        spec = launch_spec(self._plan, node, words, self._grace)
        spec |= {
            "folder": running.folder,
            "cwd": node.workdir or node.folder,
            "output": "setup",
            "cursors": dict(running.files.cursors),
        }
        with contextlib.suppress(HostError):  # a lost host comes out of the fleet's queue
            self._fleet.stream(node.host, "follow.launch", spec, supervisor())

    def take(self, item: Item, *, stopping: bool) -> bool:
        """Take what a setup command says, or its end; return whether it was one's."""
        running = self._running.get(item.host)
        if running is None:
            return False
        match item:
            case Arrived(_, {"file": name, "offset": offset}, body):
                for told in running.files.feed(name, offset, body):
                    if isinstance(told, SetupEnded):
                        self._ended[item.host] = told
                    self._emit(told)
                self.told_all = self.told_all and running.files.whole
            case Finished(_, answer, error) if not isinstance(error, HostError):
                del self._running[item.host]
                self._finished(running.began, error.message if error else why_untold(answer))
                ended = self._ended[item.host]
                if ended.went_well and not stopping:
                    self._next(self._nodes[item.host], ended.number + 1)
            case Arrived():
                pass
            case _:  # of the connection; the command goes on without it
                return False
        return True

    def _finished(self, began: SetupBegan, reason: str) -> None:
        if self._has_ended(began):
            return
        ended = SetupEnded(
            node=began.node,
            host=began.host,
            number=began.number,
            of=began.of,
            command=began.command,
            code=None,
            signal=None,
            reason=reason,
            survivors=(),
            time=time.time(),
        )
        self._ended[began.host] = ended
        self._emit(ended)


def supervisor() -> bytes:
    """Return the program that keeps what is started alive."""
    return boot.program(boot.in_order(["guard"]), "").encode()


def launch_spec(plan: RunPlan, node: NodePlan, argv: list[str], grace: float) -> dict[str, Any]:
    """Return what a host is told to start; the only message that has the secrets in it."""
    return {
        "folder": node.folder,
        "argv": argv,
        "env": commands.environment(plan, node).for_the_host(),
        "cwd": node.workdir,
        "cookie": secrets.token_hex(16),
        "grace": grace,
    }
