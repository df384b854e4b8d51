"""Ports on loopback: who answers, who does not, and who holds what we want."""

from __future__ import annotations

import os
import secrets
import socket
import threading

import pytest

from orchestrator.node import probe


@pytest.fixture
def token():
    token = secrets.token_hex(8)
    yield token
    probe.release(None, token)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def dial(port, token, timeout=20.0):
    (got,) = probe.dial(None, [("127.0.0.1", port)], token, timeout)
    return got


def test_the_token_comes_back_from_the_host_that_listens(token):
    port = probe.listen(None, 0, token)["port"]
    got = dial(port, token)
    assert got.pop("ms") >= 0
    assert got == {"local": "127.0.0.1"}


def test_another_run_is_a_stranger(token):
    port = probe.listen(None, 0, token)["port"]
    assert dial(port, "x" * len(token))["error"] == "STRANGER"


def test_whoever_else_answers_is_a_stranger(listener):
    def answer():
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    threading.Thread(target=answer, daemon=True).start()
    assert dial(listener.getsockname()[1], "0123456789abcdef")["error"] == "STRANGER"


def test_one_who_hangs_up_at_once_is_a_stranger(listener):
    threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
    assert dial(listener.getsockname()[1], "token")["error"] == "STRANGER"


def test_one_who_says_nothing_runs_into_the_timeout(listener):
    assert dial(listener.getsockname()[1], "token", timeout=0.2)["error"] == "ETIMEDOUT"


def test_nobody_there_is_refused():
    with (
        socket.socket() as bound
    ):  # held, so that nobody else takes it meanwhile, but not listening
        bound.bind(("127.0.0.1", 0))
        assert dial(bound.getsockname()[1], "token")["error"] == "ECONNREFUSED"


def test_every_target_has_its_own_answer_in_its_own_place(token):
    port = probe.listen(None, 0, token)["port"]
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        targets = [("127.0.0.1", bound.getsockname()[1]), ("127.0.0.1", port)] * 5
        got = probe.dial(None, targets, token, 20.0)
    assert ["error" in answer for answer in got] == [True, False] * 5


def test_visitors_who_stay_silent_keep_nobody_waiting(token):
    port = probe.listen(None, 0, token)["port"]
    visitors = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    try:
        assert "error" not in dial(port, token, timeout=4.0)
    finally:
        for visitor in visitors:
            visitor.close()


def test_a_port_in_use_names_who_holds_it(listener, token):
    got = probe.listen(None, listener.getsockname()[1], token)
    assert got["error"] == "EADDRINUSE"
    assert got["holder"]["pid"] == os.getpid()
    assert "python" in got["holder"]["command"]


def test_a_free_port_has_no_holder():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert probe.holder(bound.getsockname()[1]) is None


def test_a_released_port_can_be_bound_at_once():
    for _ in range(20):
        token = secrets.token_hex(8)
        port = probe.listen(None, 0, token)["port"]
        assert "error" not in dial(port, token)
        probe.release(None, token)
        again = probe.listen(None, port, token)
        assert again == {"port": port}
        probe.release(None, token)
        with socket.socket() as other:
            # As torch's store does: what is left of connections may linger, no listener may.
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()


def test_release_may_come_twice(token):
    probe.listen(None, 0, token)
    probe.release(None, token)
    probe.release(None, token)
