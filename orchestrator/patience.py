"""How long hosts are waited for once a run is told to end, and who can still be talked to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.fleet import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.fleet import Fleet

# After its grace a node has this long to say that nothing is left, before it is given up. What it
# may need: the supervisor's own patience with what does not die, then its guard's.
LAST_WORD = 45.0
# Who only has to find the time to answer has found it by then.
HEARD = 5.0
# Between beats while somebody sits there and waits: else they are further apart than HEARD.
BEAT = 1.0


class Patience:
    """Nobody is given up before stop(); after in_person() those out of contact are sooner."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._end = float("inf")
        self._end_for_away = float("inf")
        self._asked = float("inf")
        self._beaten = 0.0

    def stop(self, grace: float) -> None:
        self._end = min(self._end, time.monotonic() + grace + LAST_WORD)

    def in_person(self, grace: float | None) -> None:
        """Somebody at the terminal waits for the end. Without grace: for who can answer alone."""
        now = time.monotonic()
        self._asked = min(self._asked, now)
        end = now if grace is None else now + grace + HEARD
        self._end_for_away = min(self._end_for_away, end)

    def left(self, *, away: bool = False) -> float:
        """How long a node is still waited for, in seconds."""
        end = min(self._end, self._end_for_away) if away else self._end
        return end - time.monotonic()

    @property
    def is_personal(self) -> bool:
        return self._asked < float("inf")

    def listen(self, hosts: Iterable[str]) -> None:
        """Find out soon who cannot be talked to any more: a cable that is pulled says nothing."""
        now = time.monotonic()
        if not self.is_personal or now < self._beaten + BEAT:
            return
        self._beaten = now
        # Only who was asked, and had the time to answer, has been silent.
        patience = HEARD if now > self._asked + HEARD else PATIENCE
        for host in self._fleet.joined.intersection(hosts):
            self._fleet.hosts[host].pulse(patience)
