"""Ports on loopback: who answers, who does not, what gets through, and who holds what we want."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from contextlib import contextmanager

import pytest

from orchestrator.node import interfaces, listening, network, probe

HERE = "127.0.0.1"
# Longer than anything takes here, and not waited for where all is well.
LONG = {"connect": 20.0, "idle": 20.0, "moment": 20.0}


@pytest.fixture
def token():
    token = secrets.token_hex(8)
    yield token
    listening.release(None, token)


@pytest.fixture
def listener():
    with socket.create_server((HERE, 0)) as listener:
        yield listener


def hold(token, name="gpu1", port=0):
    return listening.hold(None, token, name, {"mesh": port})["mesh"]


def dial(port, token, name="gpu1", **seconds):
    got = probe.dial(None, [(name, HERE, port)], token, **{**LONG, **seconds})
    (dialled,) = got["dials"]
    return dialled


@contextmanager
def answering(listener, answer):
    """Answer one connection in a thread; what it raises fails the test."""
    raised = []

    def serve():
        peer, _ = listener.accept()
        with peer:
            try:
                answer(peer)
            except OSError as error:
                raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(60)
    assert not thread.is_alive()
    assert not raised


def introduce(peer, token, name="gpu1"):
    peer.sendall(json.dumps([token, name, HERE]).encode() + b"\n")


# --- who answers --------------------------------------------------------------------------------


def test_the_host_says_who_it_is_and_all_that_is_sent_comes_back(token):
    got = dial(hold(token)["port"], token)
    assert got.pop("ms") >= 0
    assert got.pop("mtu") > 1000
    assert got == {"local": HERE, "peer": HERE, "arrived": HERE}


def test_several_ports_of_one_host(token):
    got = listening.hold(None, token, "gpu1", {"mesh": 0, "rendezvous": 0})
    ports = [got["mesh"]["port"], got["rendezvous"]["port"]]
    assert len(set(ports)) == 2
    assert ["error" in dial(port, token) for port in ports] == [False, False]
    listening.release(None, token)
    assert [dial(port, token)["error"] for port in ports] == ["ECONNREFUSED"] * 2


def test_another_run_is_a_stranger(token):
    got = dial(hold(token)["port"], "x" * len(token))
    assert (got["error"], got["phase"]) == ("STRANGER", "greeting")


def test_another_host_of_the_same_run_is_named(token):
    """As docker0's address leads to whoever dials it."""
    got = dial(hold(token, name="gpu2")["port"], token, name="gpu1")
    assert (got["error"], got["who"], got["phase"]) == ("OTHER", "gpu2", "greeting")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"[]\n",
        b"7\n",
        b"[1, 2, 3]\n",
        b'["a", "b", "c", "d"]\n',
        b"\xff\xfe\n",
        b"x" * 5000,
        b"",
    ],
)
def test_whoever_else_answers_is_a_stranger(listener, said):
    with answering(listener, lambda peer: peer.sendall(said)) as port:
        got = dial(port, "0123456789abcdef")
    assert (got["error"], got["phase"]) == ("STRANGER", "greeting")


def test_one_who_says_nothing_runs_into_the_timeout(listener):
    got = dial(listener.getsockname()[1], "token", idle=0.2)
    assert (got["error"], got["phase"], got["local"]) == ("ETIMEDOUT", "greeting", HERE)
    assert got["after_ms"] >= 200


def test_nobody_there_is_refused():
    # Held, so that nobody else takes it meanwhile, but not listening.
    with socket.socket() as bound:
        bound.bind((HERE, 0))
        got = dial(bound.getsockname()[1], "token")
    assert (got["error"], got["phase"]) == ("ECONNREFUSED", "connect")
    assert got["local"] == HERE, "the address that it would have come from"


def test_a_name_that_does_not_resolve():
    (got,) = probe.dial(None, [("gpu1", "gpu1.invalid.", 9)], "token")["dials"]
    assert (got["error"], got["phase"], got["local"]) == ("EAI", "connect", None)


# --- what gets through --------------------------------------------------------------------------


def whole(peer):
    got = b""
    while len(got) < len(probe.PAYLOAD):
        part = peer.recv(1 << 16)
        assert part
        got += part
    return got


@pytest.mark.parametrize(
    ("way", "error"),
    [("there", "ETIMEDOUT"), ("back", "ETIMEDOUT"), ("back", "EOF"), ("back", "CHANGED")],
)
def test_what_is_large_may_be_lost_on_either_way(listener, token, way, error):
    def answer(peer):
        introduce(peer, token)
        if way == "back":
            got = whole(peer)
            end = {"EOF": got[:-1], "ETIMEDOUT": got[:-1], "CHANGED": got[:-1] + b"?"}
            peer.sendall(b"." + end[error])
        if error == "ETIMEDOUT":
            assert hung_up.wait(60)

    hung_up = threading.Event()
    idle = 0.3 if error == "ETIMEDOUT" else 20.0
    with answering(listener, answer) as port:
        got = dial(port, token, idle=idle)
        hung_up.set()
    assert (got["error"], got["phase"], got["way"]) == (error, "payload", way)
    assert got["arrived"] == HERE


def test_one_that_closes_in_the_payload(listener, token):
    def answer(peer):
        introduce(peer, token)
        peer.recv(1)

    with answering(listener, answer) as port:
        got = dial(port, token)
    # What was not read makes it a reset.
    assert got["error"] in ("EOF", "ECONNRESET", "EPIPE")
    assert (got["phase"], got["way"]) == ("payload", "there")


def test_a_slow_network_is_no_broken_one(listener, token):
    """As long as something moves it is waited for."""

    def answer(peer):
        introduce(peer, token)
        got = whole(peer)
        peer.sendall(b".")
        for i in range(0, len(got), 1 << 13):
            assert not paused.wait(0.4)
            peer.sendall(got[i : i + (1 << 13)])

    paused = threading.Event()
    with answering(listener, answer) as port:
        got = dial(port, token, idle=3.0)
    assert "error" not in got


def test_nothing_is_sent_where_only_the_greeting_is_wanted(token):
    got = probe.attempt("gpu1", HERE, hold(token)["port"], token, 20.0, 20.0, payload=b"")
    assert "error" not in got


def test_every_target_has_its_own_answer_in_its_own_place(token):
    port = hold(token)["port"]
    with socket.socket() as bound:
        bound.bind((HERE, 0))
        targets = [("gpu1", HERE, bound.getsockname()[1]), ("gpu1", HERE, port)] * 100
        got = probe.dial(None, targets, token, **LONG)["dials"]
    assert ["error" in answer for answer in got] == [True, False] * 100


def test_what_there_was_no_time_for_is_not_called_unreachable(listener, token, monkeypatch):
    monkeypatch.setattr(probe, "THREADS", 1)
    monkeypatch.setattr(probe, "WHOLE", 0.3)
    silent = listener.getsockname()[1]
    targets = [("gpu1", HERE, silent), ("gpu1", HERE, silent)]
    first, second = probe.dial(None, targets, token, idle=2.0)["dials"]
    assert first["error"] == "ETIMEDOUT"
    assert second == {"error": "UNTRIED"}


@pytest.fixture
def elsewhere(listener):
    """The same port at another address, where nobody says a word."""
    with socket.create_server(("127.0.0.2", listener.getsockname()[1])) as silent:
        yield "127.0.0.2", silent.getsockname()[1]


def test_where_a_host_answers_its_other_addresses_are_not_waited_for(listener, elsewhere, token):
    """Such as a bridge that it has for itself: what is sent there gets lost."""

    def answer(peer):
        introduce(peer, token)
        got = whole(peer)
        peer.sendall(b"." + got)
        peer.recv(1)

    with answering(listener, answer) as port:
        targets = [("gpu1", *elsewhere), ("gpu1", HERE, port)]
        silent, good = probe.dial(None, targets, token, **{**LONG, "moment": 0.05})["dials"]
    assert "error" not in good
    assert silent == {"error": "UNTRIED"}, "it is not said that nobody answers there"


def test_where_no_address_is_any_good_each_has_its_time(listener, elsewhere, token):
    def answer(peer):
        introduce(peer, token)
        assert hung_up.wait(60)

    hung_up = threading.Event()
    with answering(listener, answer) as port:
        targets = [("gpu1", *elsewhere), ("gpu1", HERE, port)]
        got = probe.dial(None, targets, token, idle=0.3, moment=0.0)["dials"]
        hung_up.set()
    assert [(each["error"], each["phase"]) for each in got] == [
        ("ETIMEDOUT", "greeting"),
        ("ETIMEDOUT", "payload"),
    ]


def test_what_another_port_or_another_host_answers_says_nothing_of_this_one(elsewhere, token):
    good = hold(token)["port"]
    targets = [("gpu1", HERE, good), ("gpu1", *elsewhere), ("gpu2", *elsewhere)]
    got = probe.dial(None, targets, token, idle=0.3, moment=0.0)["dials"]
    assert [each.get("error") for each in got] == [None, "ETIMEDOUT", "ETIMEDOUT"]


def test_a_greeting_that_is_lost_once_is_no_silence(token):
    """One that packets get lost to is asked again; one that stays silent is not asked for ever."""
    asked = []

    def answer(listener):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            asked.append(peer)
            if len(asked) == 2:
                peer.sendall(json.dumps([token, "gpu1", HERE]).encode() + b"\n")

    with socket.create_server((HERE, 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        targets = [("gpu1", HERE, listener.getsockname()[1])]
        ((first,), (second,)) = (
            probe.dial(None, targets, token, idle=0.3)["dials"] for _ in range(2)
        )
        listener.shutdown(socket.SHUT_RDWR)
    for peer in asked:
        peer.close()
    assert first["phase"] == "payload", "it was greeted, and nothing was sent back"
    assert (second["error"], second["phase"], len(asked)) == ("ETIMEDOUT", "greeting", 4)


def test_visitors_who_stay_silent_keep_nobody_waiting(token):
    port = hold(token)["port"]
    visitors = [socket.create_connection((HERE, port)) for _ in range(3)]
    try:
        assert "error" not in dial(port, token)
    finally:
        for visitor in visitors:
            visitor.close()


def test_a_name_is_looked_up_meanwhile():
    assert HERE in probe.dial(None, [], "token", name="localhost")["name"]["addresses"]
    assert probe.dial(None, [], "token", name="gpu1.invalid.")["name"]["problem"]
    assert probe.dial(None, [], "token")["name"] is None


# --- who holds what -----------------------------------------------------------------------------


def test_a_port_in_use_names_who_holds_it(listener, token):
    port = listener.getsockname()[1]
    assert hold(token, port=port) == {"error": "EADDRINUSE"}
    got = probe.who_holds(None, port)
    assert got["pid"] == os.getpid()
    assert "python" in got["command"]
    with open("/proc/uptime") as uptime:  # noqa: PTH123
        assert 0 < got["age"] <= float(uptime.read().split()[0])


def test_a_free_port_has_no_holder():
    with socket.socket() as bound:
        bound.bind((HERE, 0))
        assert probe.who_holds(None, bound.getsockname()[1]) is None


def test_who_is_slow_to_hold_what_was_released_meanwhile_holds_nothing():
    """Else torch's store would find its port taken, by us, as long as the agent lives."""
    token = secrets.token_hex(8)
    listening.release(None, token)
    assert hold(token) == {"error": "ECANCELED"}
    assert listening.HELD == {}


def test_a_released_port_can_be_bound_at_once():
    for _ in range(20):
        token = secrets.token_hex(8)
        port = hold(token)["port"]
        assert "error" not in dial(port, token)
        listening.release(None, token)
        another = secrets.token_hex(8)
        assert hold(another, port=port) == {"port": port}
        listening.release(None, another)
        with socket.socket() as other:
            # As torch's store does: what is left of connections may linger, no listener may.
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind((HERE, port))
            other.listen()


def test_release_may_come_twice(token):
    hold(token)
    listening.release(None, token)
    listening.release(None, token)


# --- interfaces ---------------------------------------------------------------------------------


def test_what_a_host_says_of_its_network():
    told = network.tell(None)
    assert ["lo", HERE, 8] in told["addresses"]
    assert told["hostname"] == socket.gethostname()
    assert told["machine"] == network.tell(None)["machine"]


def test_what_a_host_says_of_its_interfaces(monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "^docker0")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    told = interfaces.tell(None)
    (lo,) = [each for each in told["interfaces"] if each["name"] == "lo"]
    assert lo["mtu"] > 1000
    first, last = told["ephemeral"]
    assert 0 < first < last < 65536
    assert told["env"] == {"NCCL_SOCKET_IFNAME": "^docker0"}


def test_what_is_no_folder_is_no_interface(tmp_path):
    (tmp_path / "eth0").mkdir()
    (tmp_path / "bonding_masters").write_text("bond0\n")
    assert [each["name"] for each in interfaces.interfaces(str(tmp_path))] == ["eth0"]


def test_infiniband_ports_as_the_kernel_lists_them(tmp_path):
    port = tmp_path / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    (port / "link_layer").write_text("InfiniBand\n")
    silent = tmp_path / "mlx5_1" / "ports" / "1"
    silent.mkdir(parents=True)
    assert interfaces.infiniband(str(tmp_path)) == [
        {"device": "mlx5_0", "port": "1", "state": "ACTIVE", "layer": "InfiniBand"},
        {"device": "mlx5_1", "port": "1", "state": "", "layer": ""},
    ]
    assert interfaces.infiniband(str(tmp_path / "none")) == []


def test_what_a_worker_may_open_of_infiniband(tmp_path):
    (tmp_path / "uverbs0").touch()
    (tmp_path / "uverbs1").symlink_to("gone")  # nobody, root neither, may open it
    (tmp_path / "rdma_cm").touch()
    assert interfaces.verbs(str(tmp_path)) == ["uverbs0"]
    assert interfaces.verbs(str(tmp_path / "none")) == []
    assert isinstance(interfaces.tell(None)["verbs"], list)
