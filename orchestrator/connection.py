"""One connection to a host: opened once, lost at most once. A host that is lost gets another."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.errors import DdpOrchError
    from orchestrator.host.protocol import Host, OnLost, Request
    from orchestrator.link import Call


@dataclass(frozen=True)
class Joined:
    """A host that is connected, with the answers to its first requests under way."""

    seconds: float
    noise: str
    calls: list[Call]


Outcome: TypeAlias = "Joined | HostError"


class Connection:
    """A host, what became of opening it, and whether what it says is still news."""

    def __init__(
        self,
        make: Callable[[OnLost], Host],
        on_lost: Callable[[Connection, DdpOrchError], None],
    ) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._tell: Callable[[], None] = lambda: None
        self._outcome: Outcome | None = None
        self._announced = False
        self._lost: DdpOrchError | None = None
        self.left = False
        """We hang up, or have hung up."""

        self.replaced = False
        """Another one has taken its place: nothing that comes from it is news any more."""

        self.host = make(self._was_lost)

    @property
    def alive(self) -> bool:
        return isinstance(self._outcome, Joined) and self._lost is None and not self.left

    def start(
        self,
        first: Callable[[str], Sequence[Request]],
        gate: threading.Semaphore,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Open it, and `tell` when that has come to an end.

        A daemon does: a name server that does not answer can only be left behind.
        """
        self._tell = tell
        threading.Thread(
            target=self._open, args=(first, gate), name=f"connect {self.host.name}", daemon=True
        ).start()

    def _open(self, first: Callable[[str], Sequence[Request]], gate: threading.Semaphore) -> None:
        with gate:
            began = time.monotonic()
            try:
                calls = self.host.open(first(self.host.name))
                self._settle(Joined(time.monotonic() - began, self.host.noise, calls))
            except HostError as error:
                self._settle(error)
            except Exception as error:  # noqa: BLE001  one host must not hide the others' state
                what = f"{type(error).__name__}: {error}"
                self._settle(HostError(what, check="ssh.reach", host=self.host.name))

    def _settle(self, outcome: Outcome) -> None:
        with self._lock:  # the first word stands: who was given up does not come back
            self._outcome = self._outcome or outcome
        self._settled.set()
        self._tell()

    def outcome(self, wait: float = 0.0) -> Outcome | None:
        """Return what became of opening it, None while it goes on. Who is overdue is given up."""
        due = self.host.overdue
        settled = self._settled.wait(wait) if wait else self._settled.is_set()
        if not settled and due is not None and time.monotonic() > due:
            self._settle(self.host.abort())  # over what its thread says as a consequence
        return self._outcome

    def announce(self) -> None:
        """Tell of its loss from now on, or at once, where it was lost before it was known of."""
        with self._lock:
            self._announced = True
            lost = self._lost
        if lost is not None:
            self._on_lost(self, lost)

    def _was_lost(self, _: str, error: DdpOrchError) -> None:
        with self._lock:
            known, self._lost = self._lost is not None, self._lost or error
            if known or not self._announced:
                return
        self._on_lost(self, error)
