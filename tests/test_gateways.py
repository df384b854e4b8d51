"""One gateway for all behind it: what becomes of it is told to each who waits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.errors import HostError
from orchestrator.host import gateways
from orchestrator.host.gateways import Gateways
from orchestrator.host.target import Target

GATE = Target(name="gate", host="192.0.2.1", port=22, user="a", identity_files=(), known_hosts=())
INNER = replace(GATE, name="inner", host="192.0.2.2", jumps=(GATE,))


class Waiting:
    """A Watch of a host. Once it is given up, it may enter no further stage."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.given_up = False

    def enter(self, stage: str, seconds: float) -> None:
        if self.given_up:
            raise HostError("given up", check="ssh.reach")
        assert seconds > 1, "a host's own deadline is put off while its gateway has time"
        self.stages.append(stage)

    def hold(self, closable) -> None: ...


def connection(opened: list[object], answers=lambda seconds: True):
    """Make what a gateway's connection is, as far as hosts behind it use it."""

    def open_channel(kind, there, here, timeout):
        opened.append(there)
        return f"channel to {there[0]}"

    return SimpleNamespace(
        transport=SimpleNamespace(open_channel=open_channel, answers=answers),
        is_connected=True,
        close=lambda: None,
    )


def test_all_who_ask_at_once_share_one_connection():
    every, dialled, opened = Gateways(), [], []

    def connect(gateway, watch):
        dialled.append(gateway)
        time.sleep(0.3)
        return connection(opened)

    with ThreadPoolExecutor(32) as pool:
        got = list(pool.map(lambda _: every.through(INNER, connect, Waiting()), range(32)))
    assert got == ["channel to 192.0.2.2"] * 32
    assert dialled == [GATE]
    assert opened == [("192.0.2.2", 22)] * 32


def test_a_failure_is_each_one_s_own_and_is_remembered_for_a_while(monkeypatch):
    every, dialled = Gateways(), []

    def connect(gateway, watch):
        dialled.append(gateway)
        time.sleep(0.2)
        raise HostError("no luck", check="ssh.auth", hint="try")

    def failure(_: int) -> HostError:
        with pytest.raises(HostError) as caught:
            every.through(INNER, connect, Waiting())
        return caught.value

    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(failure, range(8)))
    errors.append(failure(9))
    assert {(e.message, e.check, e.hint) for e in errors} == {
        ("its gateway gate: no luck", "ssh.jump", "try")
    }
    assert len({id(e) for e in errors}) == 9, "each is given its host's name"
    assert len(dialled) == 1
    monkeypatch.setattr(gateways, "REMEMBERED", 0.0)
    failure(10)
    assert len(dialled) == 2


def test_who_reconnects_is_told_of_an_old_failure_for_a_moment_only(monkeypatch):
    every, dialled = Gateways(), []

    def connect(gateway, watch):
        dialled.append(gateway)
        raise HostError("no network", check="ssh.reach")

    def fails(*, again: bool) -> None:
        with pytest.raises(HostError, match="no network"):
            every.through(INNER, connect, Waiting(), again=again)

    fails(again=False)
    fails(again=True)
    assert len(dialled) == 1, "all that reconnect at this moment share it"
    monkeypatch.setattr(gateways, "RECALLED", 0.0)
    fails(again=False)
    assert len(dialled) == 1
    fails(again=True)
    assert len(dialled) == 2


@pytest.mark.parametrize("answers", [True, False])
def test_of_many_that_reconnect_one_asks_whether_the_gateway_is_there(answers):
    """Where it is silent it is dialled anew, once for all, and the old connection is closed."""
    every, dialled, asked, opened = Gateways(), [], [], []
    closed = {1: threading.Event(), 2: threading.Event()}

    def old_answers(seconds: float) -> bool:
        asked.append(seconds)
        time.sleep(0.2)
        return answers

    def connect(gateway, watch):
        dialled.append(gateway)
        watch.hold(SimpleNamespace(close=closed[len(dialled)].set))
        return connection(opened, old_answers if len(dialled) == 1 else lambda _: True)

    every.through(INNER, connect, Waiting())
    with ThreadPoolExecutor(16) as pool:
        again = lambda _: every.through(INNER, connect, Waiting(), again=True)  # noqa: E731
        assert list(pool.map(again, range(16))) == ["channel to 192.0.2.2"] * 16
    assert len(asked) == 1
    assert len(dialled) == (1 if answers else 2)
    assert closed[1].wait(0.1 if answers else 10) is not answers
    every.close()
    assert closed[len(dialled)].is_set()


def test_who_asked_first_may_be_given_up_and_the_others_go_on():
    every, go_on = Gateways(), threading.Event()
    first, second = Waiting(), Waiting()

    def connect(gateway, watch):
        assert go_on.wait(30)
        return connection([])

    with ThreadPoolExecutor(2) as pool:
        given_up = pool.submit(every.through, INNER, connect, first)
        while not first.stages:
            time.sleep(0.01)
        stays = pool.submit(every.through, INNER, connect, second)
        first.given_up = True
        assert isinstance(given_up.exception(10), HostError)
        go_on.set()
        assert stays.result(10) == "channel to 192.0.2.2"


def test_a_gateway_that_says_nothing_has_its_own_deadline():
    every, ended = Gateways(), threading.Event()

    def connect(gateway, watch):
        watch.enter("dreaming", 0.1)
        watch.hold(SimpleNamespace(close=ended.set))
        assert ended.wait(30)
        raise OSError("closed under it")

    with pytest.raises(HostError, match="its gateway gate: no answer while dreaming"):
        every.through(INNER, connect, Waiting())
    assert ended.is_set(), "what it held was closed"


def test_whatever_goes_wrong_is_told():
    def connect(gateway, watch):
        raise ZeroDivisionError("a bug")

    with pytest.raises(HostError, match="its gateway gate: ZeroDivisionError: a bug"):
        Gateways().through(INNER, connect, Waiting())


def test_closing_them_ends_who_still_waits():
    every, ended = Gateways(), threading.Event()

    def connect(gateway, watch):
        watch.hold(SimpleNamespace(close=ended.set))
        assert ended.wait(30)
        raise OSError("closed under it")

    waiting = Waiting()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(every.through, INNER, connect, waiting)
        while not waiting.stages:
            time.sleep(0.01)
        every.close()
        assert "closed" in str(asked.exception(10))


def test_once_closed_none_is_dialled():
    every, dialled = Gateways(), []
    every.close()
    with pytest.raises(HostError, match="given up"):
        every.through(INNER, lambda gateway, _: dialled.append(gateway), Waiting())
    assert dialled == []
