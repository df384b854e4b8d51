"""A host that is given up or left while it connects: nothing goes on behind our backs."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from inventory.model import Host
from orchestrator.errors import HostError
from orchestrator.host import connect as connecting
from orchestrator.host import proxy
from orchestrator.host.connect import all_doors, connect
from orchestrator.host.proxy import ProxySocket
from orchestrator.host.ssh import SshHost, _ending
from tests.test_trust import target_of

SOON = 10.0


@pytest.fixture
def host():
    made = SshHost(Host(name="gpu1"), all_doors(accept_new=False), lambda name, error: None)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["close", "abort"])
def test_what_is_opened_afterwards_is_closed_and_nothing_is_tried_again(host, way):
    getattr(host, way)()
    closed = threading.Event()
    host.hold(SimpleNamespace(close=closed.set))
    assert closed.is_set()
    with pytest.raises(HostError, match="given up"):
        host.enter("connecting", 5)


@pytest.mark.parametrize("give_up", [SshHost.abort, lambda host: host.pulse(-1.0)])
def test_giving_up_does_not_wait_for_what_takes_its_time_to_end(host, give_up):
    """A ProxyCommand may; whoever gives up has other hosts to look after."""
    go_on, closed = threading.Event(), threading.Event()

    def close() -> None:
        assert go_on.wait(SOON)
        closed.set()

    host.hold(SimpleNamespace(close=close))
    give_up(host)
    assert not closed.is_set()
    go_on.set()
    host.close()
    assert closed.is_set(), "but at the end it is waited for"


@pytest.mark.parametrize(
    ("stage", "check"),
    [("starting its ProxyCommand", "ssh.reach"), ("starting the agent", "ssh.agent")],
)
def test_what_it_failed_at(host, stage, check):
    host.enter(stage, 5)
    error = host.abort()
    assert (error.check, error.message) == (check, f"no answer while {stage}")


def test_without_known_keys_to_read_nothing_is_opened(host, tmp_path, monkeypatch):
    """What was opened before would stay: neither the host nor its gateways log in any more."""
    opened = []
    monkeypatch.setattr(connecting, "way_to", lambda *words: opened.append(words))
    folder = tmp_path / "known_hosts"
    folder.mkdir()
    with pytest.raises(HostError, match="cannot read the known keys"):
        connect(target_of(folder), all_doors(accept_new=False), host)
    assert opened == []


def test_a_command_that_may_not_be_killed_holds_nobody_up(tmp_path, monkeypatch):
    """One by sudo, say, that does not heed the end of its input."""

    def forbidden(*_: object) -> None:
        raise PermissionError

    sock = ProxySocket(replace(target_of(tmp_path), proxy_command="sleep 3600"))
    monkeypatch.setattr(proxy.os, "killpg", forbidden)
    closing = threading.Thread(target=sock.close)
    try:
        closing.start()
        closing.join(SOON)
        assert not closing.is_alive()
    finally:
        sock._process.kill()
        closing.join(SOON)
        sock._process.wait(SOON)


def test_a_host_that_never_stops_complaining():
    """What it says on stderr is read while there is any; it is not kept, nor read for ever."""
    status = threading.Event()
    status.set()
    endless = SimpleNamespace(
        recv_stderr_ready=lambda: True,
        recv_stderr=lambda count: b"x" * count,
        status_event=status,
        exit_status=1,
    )
    said = []
    reading = threading.Thread(target=lambda: said.append(_ending(endless)), daemon=True)
    reading.start()
    reading.join(SOON)
    ((code, text),) = said
    assert code == 1
    assert 0 < len(text) < 100_000
