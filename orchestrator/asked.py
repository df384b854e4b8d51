"""The first round of preflight: what every host is asked for itself, and what it answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.connection import Joined
from orchestrator.errors import HostError
from orchestrator.facts import understood
from orchestrator.fleet import wait_for
from orchestrator.plan import state_dir_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inventory.model import Host, Inventory
    from orchestrator.fleet import Fleet
    from orchestrator.host.protocol import Request
    from orchestrator.link import Call

T = TypeVar("T")
# How often at most it is looked, while hosts join, what has come of those that have, in seconds.
LOOK = 0.1


@dataclass(frozen=True)
class Question:
    """What every host is asked for itself."""

    op: str
    seconds: float
    """So long is waited for the answer, from when all are connected."""

    args: Callable[[Host], dict[str, Any]] = lambda _: {}
    """What only this run knows, such as its token, `gather` adds."""


# Inside the command line that starts the agent: there with the first round trip.
AT_ONCE = (
    Question("network.tell", 5.0),
    Question("listening.hold", 5.0),
    Question("facts.gather", 30.0, lambda host: {"python": host.python, "workdir": host.workdir}),
    # A home on a file server that has gone answers to nobody, ever.
    Question("files.try_out", 10.0, lambda host: {"state_dir": state_dir_of(host)}),
)
# As soon as the agent is there; their modules go ahead of them.
NEXT = (
    Question("interfaces.tell", 8.0),
    Question(
        "conditions.gather",
        12.0,
        lambda host: {"state_dir": state_dir_of(host), "workdir": host.workdir},
    ),
    # One that hangs costs it half of this; all of it where nvidia-smi is slow, and asked twice.
    Question("smi.ask", 90.0),
    Question("strays.find", 15.0, lambda host: {"state_dir": state_dir_of(host)}),
)


class Asked:
    """The questions to each host for itself, under way, and the answers as they come."""

    def __init__(
        self,
        fleet: Fleet,
        inventory: Inventory,
        looked: Callable[[str, str, bool], None],
        then: tuple[Question, ...],
        more: Mapping[str, Mapping[str, dict[str, Any]]],
    ) -> None:
        """`more`: by question and host, arguments that come over its own."""
        self._then = then
        self.calls: dict[str, dict[str, Call]] = {q.op: {} for q in (*AT_ONCE, *then)}
        self._fleet = fleet
        self._entries = {host.name: host for host in inventory.hosts}
        self._looked = looked
        self._more = more
        self._began: float | None = None
        self._untold: dict[tuple[str, str], Call] = {}
        self._last_look = 0.0
        self._got: dict[str, dict[str, Any]] = {}

    def first(self, name: str) -> list[Request]:
        return [(question.op, self._args(question, name)) for question in AT_ONCE]

    def _args(self, question: Question, name: str) -> dict[str, Any]:
        return question.args(self._entries[name]) | self._more.get(question.op, {}).get(name, {})

    def then(self, name: str, got: Joined | HostError) -> None:
        self._looked(name, "ssh", isinstance(got, Joined))
        if isinstance(got, HostError):
            return
        for question, call in zip(AT_ONCE, got.calls, strict=True):
            self._under_way(question.op, name, call)
        for question in self._then:
            try:
                call = self._fleet.hosts[name].call(question.op, self._args(question, name))
                self._under_way(question.op, name, call)
            except HostError:
                pass  # lost already: its other answers say so

    def look(self) -> None:
        """Tell of what has come of those that have joined, while others are waited for."""
        if time.monotonic() - self._last_look > LOOK:  # at each turn would be too much
            self._look()

    def raw(self, op: str) -> dict[str, Any]:
        """Return the answers by host, a DdpOrchError where there is none."""
        if op not in self._got:
            self._began = self._began or time.monotonic()
            seconds = next(q.seconds for q in (*AT_ONCE, *self._then) if q.op == op)
            left = self._began + seconds - time.monotonic()
            self._got[op] = wait_for(self.calls[op], max(0.0, left), self._look)
        return self._got[op]

    def answers(self, op: str, parse: Callable[[dict[str, Any]], T]) -> dict[str, T | str]:
        return {name: understood(parse, got) for name, got in self.raw(op).items()}

    def lost(self, name: str) -> HostError | None:
        """Return how the host was lost, if it was, while it was asked."""
        answers = (self.raw(op).get(name) for op in self.calls)
        return next((got for got in answers if isinstance(got, HostError)), None)

    def _under_way(self, op: str, name: str, call: Call) -> None:
        self.calls[op][name] = self._untold[op, name] = call

    def _look(self) -> bool:
        """Tell of what has come since; never ask to stop."""
        self._last_look = time.monotonic()
        for (op, name), call in tuple(self._untold.items()):
            if call.future.done():
                del self._untold[op, name]
                self._looked(name, op, call.future.exception() is None)
        return False
