"""Another machine's clock against ours, by how long it takes to tell its time. Pure: see `Now`.

Rules:
1. Of two answers the one that came sooner says more (Cristian's algorithm), for as long as clocks
   stay together: after a while, or once ours was set, any answer is better than what was known.
2. How long it took is told by a clock that nobody sets. Where ours says otherwise it was set in
   between, or the machine slept, and the answer says nothing.
"""

from __future__ import annotations

from typing import NamedTuple

# Clocks drift apart by a second in a few hours at most, and people and daemons set them.
OLD = 600.0
# Two readings of one moment are never so far apart, nor does a clock that is only slowed or sped up
# come so far from the other while an answer is waited for.
STEP = 0.1


class Now(NamedTuple):
    wall: float
    steady: float
    """By a clock that is never set; when it began nobody cares."""

    @property
    def apart(self) -> float:
        return self.wall - self.steady


class HostClock:
    def __init__(self) -> None:
        self.offset = 0.0
        """By how much it is ahead of ours."""

        self.trip = float("inf")
        """The round trip that says so; inf: nothing was measured yet."""

        self._asked: dict[int, Now] = {}
        self._measured = Now(0.0, 0.0)

    def asked(self, number: int, now: Now) -> None:
        self._asked[number] = now

    def told(self, number: int, theirs: float, now: Now) -> None:
        middle = theirs - now.wall
        asked = self._asked.pop(number, None)
        if asked is None or abs(now.apart - asked.apart) > STEP:
            return
        trip = now.steady - asked.steady
        old = now.steady - self._measured.steady > OLD
        was_set = abs(now.apart - self._measured.apart) > STEP
        if trip <= self.trip or old or was_set:
            self.trip, self._measured = trip, now
            self.offset = middle + trip / 2
