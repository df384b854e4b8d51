"""What is known of a host's clock, whatever happens to ours, or to its, meanwhile."""

from __future__ import annotations

import pytest

from orchestrator.hostclock import OLD, HostClock, Now


class Clocks:
    """Ours, the one that nobody sets, and the host's."""

    def __init__(self) -> None:
        self.wall, self.steady, self.theirs = 1_000_000.0, 50.0, 1_000_007.0
        self.clock = HostClock()
        self.beats = 0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds
        self.theirs += seconds

    def now(self) -> Now:
        return Now(self.wall, self.steady)

    def beat(self, there: float = 0.01, back: float = 0.01, *, step: float = 0.0) -> None:
        """Ask and be answered; `step` is by how much ours is set before the answer is here."""
        self.beats += 1
        self.clock.asked(self.beats, self.now())
        self.pass_(there)
        told = self.theirs
        self.wall += step
        self.pass_(back)
        self.clock.told(self.beats, told, self.now())

    @property
    def error(self) -> float:
        return self.clock.offset - (self.theirs - self.wall)


def test_the_shortest_round_trip_says_most():
    clocks = Clocks()
    assert clocks.clock.trip == float("inf")
    clocks.beat(0.3, 0.1)
    assert clocks.error == pytest.approx(0.1, abs=1e-6), "half of what the ways differ by"
    clocks.pass_(5)
    clocks.beat(0.01, 0.01)
    assert clocks.error == pytest.approx(0.0, abs=1e-6)
    clocks.pass_(5)
    clocks.beat(0.3, 0.1)
    assert clocks.error == pytest.approx(0.0, abs=1e-6)
    assert clocks.clock.trip == pytest.approx(0.02)


@pytest.mark.parametrize("step", [-3600.0, -0.2, 0.2, 3600.0])
@pytest.mark.parametrize("known", [False, True])
def test_ours_is_set_while_an_answer_is_waited_for(step, known):
    """One such answer would stand for as long as the connection: no later one beats it."""
    clocks = Clocks()
    if known:
        clocks.beat()
        clocks.pass_(5)
    clocks.beat(0.001, 0.001, step=step)
    assert (clocks.clock.trip == float("inf")) is not known
    for _ in range(2):
        clocks.pass_(5)
        clocks.beat(0.05, 0.05)
        assert clocks.error == pytest.approx(0.0, abs=1e-6)


def test_a_machine_that_sleeps_while_an_answer_is_waited_for():
    """The clock that nobody sets stands still meanwhile, on Linux."""
    clocks = Clocks()
    clocks.clock.asked(1, clocks.now())
    told = clocks.theirs
    clocks.wall += 3600
    clocks.theirs += 3600
    clocks.pass_(0.001)
    clocks.clock.told(1, told, clocks.now())
    assert clocks.clock.trip == float("inf")


def test_theirs_is_set():
    clocks = Clocks()
    clocks.beat()
    clocks.theirs += 100
    clocks.pass_(OLD - 1)
    clocks.beat(0.2, 0.2)
    assert clocks.error == pytest.approx(-100, abs=1e-6)
    clocks.pass_(2)
    clocks.beat(0.2, 0.2)
    assert clocks.error == pytest.approx(0.0, abs=1e-6), "what is old gives way to any"


def test_answers_to_what_nobody_asked_say_nothing():
    clock = HostClock()
    clock.told(1, 5.0, Now(100.0, 100.0))
    clock.asked(2, Now(100.0, 100.0))
    clock.told(2, 101.0, Now(101.0, 101.0))
    clock.told(2, 500.0, Now(101.0, 101.0))
    assert (clock.offset, clock.trip) == (0.5, 1.0)
