"""When to try again to reach hosts that were lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.fleet import Fleet

# Between tries to reach a host again; the last one for as long as anybody waits.
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class Backoff:
    """The hosts that are away, each with its next try."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tries: dict[str, int] = {}
        self.at: dict[str, float] = {}
        self._back_at: dict[str, float] = {}

    def __contains__(self, host: str) -> bool:
        return host in self.at

    def lost(self, host: str) -> bool:
        """Note that a host is away; return whether that is news: each request tells it."""
        if host in self.at:
            return False
        # One that comes and goes is not asked again and again.
        if time.monotonic() - self._back_at.get(host, float("-inf")) > BACKOFF[-1]:
            self._tries.pop(host, None)
        self.later(host)
        return True

    def later(self, host: str) -> None:
        """Try again in a while, a longer one each time."""
        tries = self._tries.get(host, 0)
        self._tries[host] = tries + 1
        self.at[host] = time.monotonic() + BACKOFF[min(tries, len(BACKOFF) - 1)]

    def turn(self) -> None:
        """Try those again whose time has come; the outcome comes out of the fleet's queue."""
        for host, at in self.at.items():
            if time.monotonic() >= at:
                self.at[host] = float("inf")  # until its outcome is known
                self._fleet.reconnect(host)

    def back(self, host: str) -> None:
        self.at.pop(host, None)
        self._back_at[host] = time.monotonic()
