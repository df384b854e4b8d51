"""Tell hosts to end their parts of runs, and hear what became of them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inventory.names import folded
from orchestrator import errors
from orchestrator.errors import DdpOrchError, HostError
from orchestrator.folders import who_we_are
from orchestrator.reports import place_of
from orchestrator.run import doors_for, fleet_of
from orchestrator.taken_down import NodeDown, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inventory.model import Host
    from orchestrator.link import Call
    from orchestrator.run import Options

# After the grace a host has this long: for a supervisor that does not end, its guard, the agent.
LAST_WORD = 90.0
# To look over all processes there.
ANSWER = 30.0
PULSE = 0.02


@dataclass(frozen=True, kw_only=True)
class Target:
    """A node that is to end."""

    run: str
    node: int
    host: str
    folder: str
    bury: bool = False
    """Where there is nothing of it yet: nothing of it shall start."""

    def lost(self, error: DdpOrchError) -> NodeDown:
        unreachable = isinstance(error, HostError)
        return NodeDown(
            run=self.run,
            node=self.node,
            host=self.host,
            outcome="unreachable" if unreachable else "failed",
            message=error.message,
            hint=error.hint,
        )


def unrecorded(
    hosts: Sequence[Host], options: Options
) -> tuple[list[Target], dict[str, DdpOrchError]]:
    """Ask hosts for what lives there of runs whose folders are gone; and who cannot tell."""
    fleet = fleet_of(hosts, doors_for(options))
    with contextlib.closing(fleet):
        joined = fleet.connect(lambda _: [])
        failed: dict[str, DdpOrchError] = {
            name: got for name, got in joined.items() if isinstance(got, HostError)
        }
        there: dict[str, dict[str, Any]] = {name: {} for name in joined if name not in failed}
        told = fleet.ask("remains.find", there, ANSWER)
    failed.update({name: got for name, got in told.items() if isinstance(got, DdpOrchError)})
    found = [target for name in told if name not in failed for target in _remains(name, told[name])]
    return found, failed


def _remains(host: str, answer: object) -> Iterator[Target]:
    for entry in answer if isinstance(answer, list) else ():
        folder = entry.get("folder") if isinstance(entry, dict) else None
        if where := place_of(folder):
            yield Target(run=where[0], node=where[1], host=host, folder=str(folder))


class Ending:
    """Tells each host as soon as it is there, whoever else is waited for."""

    def __init__(
        self,
        hosts: Sequence[Host],
        targets: Sequence[Target],
        grace: float,
        options: Options,
        show: Callable[[NodeDown], None],
        warn: Callable[[str, str | None], None],
    ) -> None:
        self.done: list[NodeDown] = []
        self._grace = grace
        self._show = show
        self._warn = warn
        self._by = who_we_are()
        self._untold = list(targets)
        self._calls: dict[Target, Call] = {}
        self._doors = doors_for(options)
        self._fleet = fleet_of(hosts, self._doors, meanwhile=self._meanwhile)

    def see_through(self) -> None:
        """Return when every host has said what became of it, or cannot, or has had its time."""
        try:
            joined = self._fleet.connect(lambda _: [])
            for notice in self._doors.known.notices():
                self._warn(notice, None)
            self._tell_those_there()
            for target in self._untold:
                got = joined[target.host]
                self._take(target.lost(got if isinstance(got, HostError) else _gone(target)))
            self._untold.clear()
            deadline = time.monotonic() + self._grace + LAST_WORD
            while self._calls and time.monotonic() < deadline:
                self._hear()
                time.sleep(PULSE)
        except KeyboardInterrupt:
            self._interrupted()
            raise
        for target in self._calls:
            late = DdpOrchError(f"no answer {LAST_WORD:.0f} s after its grace")
            self._take(target.lost(late))

    def close(self) -> None:
        self._fleet.close()

    def _meanwhile(self) -> None:
        self._tell_those_there()
        self._hear()

    def _tell_those_there(self) -> None:
        there = self._fleet.joined if self._untold else set()
        for target in [target for target in self._untold if target.host in there]:
            self._untold.remove(target)
            wish = {
                "folder": target.folder,
                "grace": self._grace,
                "why": f"taken down by {self._by}",
                "exit_code": errors.CANCELLED,
                "by": self._by,
                "bury": target.bury,
            }
            try:
                self._calls[target] = self._fleet.hosts[target.host].call("stopping.stop", wish)
            except HostError as error:
                self._take(target.lost(error))

    def _hear(self) -> None:
        for target, call in list(self._calls.items()):
            if not call.future.done():
                continue
            del self._calls[target]
            try:
                answer = call.result(0)
            except DdpOrchError as error:
                self._take(target.lost(error))
            else:
                self._take(read_answer(target.run, target.node, target.host, answer))

    def _take(self, node: NodeDown) -> None:
        self.done.append(node)
        self._show(node)

    def _interrupted(self) -> None:
        told = folded(dict.fromkeys(target.host for target in self._calls))
        untold = folded(dict.fromkeys(target.host for target in self._untold))
        if told:
            self._warn(
                f"interrupted; told to end it, and on their own now: {told}",
                "the same command again tells how that went",
            )
        if untold:
            self._warn(
                f"interrupted; not reached yet, and told nothing: {untold}",
                "the run goes on there; the same command again ends it",
            )


def _gone(target: Target) -> HostError:
    return HostError("it was lost at once", check="ssh.reach", host=target.host)
