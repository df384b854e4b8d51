"""Keys, agents and questions without a network; tests/hosts/test_login.py has real sshds."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

import pytest

from orchestrator.errors import HostError
from orchestrator.host import login
from orchestrator.host.credentials import USUAL, credentials
from orchestrator.host.keyring import Identity
from orchestrator.host.keys import KeyFile, Unusable
from orchestrator.host.publickey import PublicKey, parse_public
from orchestrator.host.questions import Questions
from orchestrator.host.sshagent import SshAgent
from orchestrator.host.tokens import values_of
from tests.test_trust import target_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = 10.0


def packed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


ED = PublicKey("ssh-ed25519", packed(b"ssh-ed25519", bytes(32)))
LISTED = b"\x0c\0\0\0\x01" + packed(ED.blob, b"mine")

# --- an agent -----------------------------------------------------------------------------------


@contextmanager
def agent_that(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[SshAgent]:
    """Play an agent: each connection has a thread of its own, as sshd's many clients may have."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(sock,), daemon=True).start()

        def one(sock: socket.socket) -> None:
            with sock:
                answer(sock)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield SshAgent(str(path))
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def request(sock: socket.socket) -> bytes:
    (length,) = struct.unpack(">I", sock.recv(4, socket.MSG_WAITALL))
    return sock.recv(length, socket.MSG_WAITALL)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (packed(b"\x05"), "does not list its keys"),
        (packed(b"\x0c\xff\xff\xff\xff"), "does not list its keys"),
        (packed(b"\x0c\0\0\0\x01" + packed(b"junk", b"c")), "does not list its keys"),
        (b"\xff\xff\xff\xff", "answers as no agent does"),
        (b"\0\0", "hung up"),
    ],
)
def test_an_agent_that_talks_nonsense_is_an_agent_without_keys(tmp_path, said, problem):
    def answer(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(said)

    with agent_that(tmp_path / "agent", answer) as agent:
        assert agent.held() == ()
        assert agent.problem is not None
        assert problem in agent.problem
        with pytest.raises(Unusable, match="was not used"):
            agent.sign(ED, b"data", "ssh-ed25519")


def test_many_threads_sign_one_at_a_time_and_each_gets_its_own(tmp_path):
    at_once, most, lock = 0, 0, threading.Lock()

    def answer(sock: socket.socket) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        asked = request(sock)
        with lock:
            at_once -= 1  # before the answer: after it another one may come at once
        data = asked[-12:-4]  # behind it stand the flags
        sock.sendall(packed(LISTED if asked == b"\x0b" else b"\x0e" + packed(b"signed " + data)))

    with agent_that(tmp_path / "agent", answer) as agent, ThreadPoolExecutor(32) as pool:
        (held,) = agent.held()
        assert (held.public, held.comment) == (ED, "mine")
        texts = [b"data%04d" % i for i in range(200)]
        signed = list(pool.map(lambda text: agent.sign(held.public, text, "ssh-ed25519"), texts))
    assert signed == [b"signed " + text for text in texts]
    assert most == 1


def test_its_list_is_read_once(tmp_path):
    asked = []

    def answer(sock: socket.socket) -> None:
        asked.append(request(sock))
        sock.sendall(packed(LISTED))

    with agent_that(tmp_path / "agent", answer) as agent, ThreadPoolExecutor(16) as pool:
        lists = list(pool.map(lambda _: agent.held(), range(16)))
    assert all(keys == lists[0] and keys for keys in lists)
    assert asked == [b"\x0b"]


# --- key files ----------------------------------------------------------------------------------


def make_key(path: Path, *words: str, passphrase: str = "") -> KeyFile:
    argv = ["ssh-keygen", "-q", "-N", passphrase, "-f", str(path), *words]
    subprocess.run(argv, check=True)
    return KeyFile(str(path))


def test_a_passphrase_is_asked_for_once_by_all_threads(tmp_path):
    key = make_key(tmp_path / "key", "-t", "ed25519", passphrase="open sesame")
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "open sesame" if len(asked) == 2 else "wrong"

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: key.key(ask), range(8)))
    assert all(one is keys[0] for one in keys)
    assert [prompt.partition("Pass")[0] for prompt in asked] == ["", "Wrong. "]
    assert key.public == PublicKey("ssh-ed25519", keys[0].asbytes())
    assert "open sesame" not in repr(vars(key))


@pytest.mark.parametrize(("said", "why"), [("", "none was"), ("wrong", "none of 3 was right")])
def test_who_gives_no_passphrase_is_not_asked_again(tmp_path, said, why):
    key = make_key(tmp_path / "key", "-t", "ed25519", passphrase="open sesame")
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return said

    for _ in range(2):
        with pytest.raises(Unusable, match=why) as caught:
            key.key(ask)
        assert caught.value.hint == f"ssh-add {key.path}"
    assert len(asked) == (1 if not said else 3)


def test_who_names_the_public_half_is_told_of_the_private_one(tmp_path):
    make_key(tmp_path / "key", "-t", "ed25519")
    with pytest.raises(Unusable) as caught:
        KeyFile(str(tmp_path / "key.pub")).key(lambda _: None)
    assert caught.value.hint == f"name the private one, or: ssh-add {tmp_path}/key"


def test_a_public_half_of_another_key_is_noticed(tmp_path):
    make_key(tmp_path / "other", "-t", "ed25519")
    make_key(tmp_path / "key", "-t", "ed25519")
    (tmp_path / "other.pub").rename(tmp_path / "key.pub")
    with pytest.raises(Unusable, match=r"does not belong to .*key\.pub"):
        KeyFile(str(tmp_path / "key")).key(lambda _: None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "cannot"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", "cannot be read"),
        ("ssh-ed25519 AAAA", "is no private key"),
    ],
)
def test_what_is_no_key(tmp_path, text, why):
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(Unusable, match=why):
        KeyFile(str(file)).key(lambda _: None)


def test_a_hint_can_be_typed_whatever_the_key_is_called(tmp_path):
    """The name may come from somebody else's inventory."""
    key = make_key(tmp_path / "my key; touch owned", "-t", "ed25519", passphrase="open sesame")
    with pytest.raises(Unusable) as caught:
        key.key(lambda _: None)
    assert caught.value.hint == f"ssh-add '{key.path}'"


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to: reading it would never end
    for name, why in (("", "is no file"), ("pipe", "is no file"), ("absent", "is not there")):
        with pytest.raises(Unusable, match=why):
            KeyFile(str(tmp_path / name)).key(lambda _: None)


def test_public_keys_are_read_as_ssh_writes_them():
    line = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + b"A" * 43
    key = parse_public(b"# a comment\n\n" + line + b" me@here\n")
    assert key == ED
    assert parse_public(line.replace(b"ssh-ed25519", b"ssh-rsa")) is None, "it says two things"
    assert parse_public(b"\xff\xfe hello") is None


# --- questions ----------------------------------------------------------------------------------


def test_a_thread_asks_and_the_main_one_answers():
    where = []

    def person(prompt: str) -> str:
        where.append(threading.current_thread())
        if prompt == "leave":
            raise EOFError
        return prompt.upper()

    questions = Questions(person)
    with ThreadPoolExecutor(2) as pool:
        for prompt, said in (("a", "A"), ("leave", "")):
            asked = pool.submit(questions.ask, prompt)
            until = threading.Event()
            asked.add_done_callback(lambda _, done=until: done.set())
            while not until.wait(0.01):
                questions.answer()
            assert asked.result(SOON) == said
    assert where == [threading.main_thread()] * 2
    assert Questions(None).ask("a") is None, "nobody is there"


# --- a login --------------------------------------------------------------------------------------


def test_a_key_that_was_not_used_is_not_to_blame_for_a_hang_up(tmp_path, monkeypatch):
    """Its agent would not sign; sshd hung up later, at another key."""

    class Talk:
        methods: ClassVar = ["publickey"]
        banner = None

        def __init__(self, transport, user) -> None:
            self.asked = 0

        def would_take(self, key) -> str:
            self.asked += 1
            if self.asked == 2:
                raise EOFError
            return "would do"

        def sign_in(self, key, sign) -> str:
            return sign(b"data", "ssh-ed25519")

    def refuse(*_: object) -> bytes:
        raise Unusable("did not sign")

    agent = SimpleNamespace(sign=refuse, problem=None)
    two = [Identity(shown=shown, public=ED, agent=agent) for shown in ("one", "two")]
    keyring = SimpleNamespace(identities=lambda _: two, agent=lambda _: agent, ask=lambda _: None)
    watch = SimpleNamespace(enter=lambda stage, seconds: None)
    gone = SimpleNamespace(goodbye="", is_active=lambda: False)
    monkeypatch.setattr(login, "Conversation", Talk)
    with pytest.raises(ConnectionResetError):  # which is worth another try
        login.Login(target_of(tmp_path), keyring, watch).authenticate(gone)


@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_hang_up_while_somebody_is_asked_is_not_the_key_s_fault(tmp_path, monkeypatch, meanwhile):
    class Talk:
        methods: ClassVar = ["publickey"]
        banner = None

        def __init__(self, transport, user) -> None:
            pass

        def would_take(self, key) -> str:
            return "would do"

        def sign_in(self, key, sign) -> str:
            sign(b"data", "ssh-ed25519")
            there.clear()
            raise EOFError

    def sign(*_: object) -> bytes:
        if meanwhile:
            there.clear()
        return b"signed"

    there = ["it"]
    agent = SimpleNamespace(sign=sign, problem=None)
    keys = [Identity(shown="one", public=ED, agent=agent)]
    keyring = SimpleNamespace(identities=lambda _: keys, agent=lambda _: agent, ask=lambda _: None)
    watch = SimpleNamespace(enter=lambda stage, seconds: None)
    transport = SimpleNamespace(goodbye="", is_active=lambda: bool(there))
    monkeypatch.setattr(login, "Conversation", Talk)
    said = "hung up" if meanwhile else "hangs up when one is used"
    with pytest.raises(ConnectionResetError if meanwhile else HostError, match=said):
        login.Login(target_of(tmp_path), keyring, watch).authenticate(transport)


# --- ssh's configuration ------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", "/the/agent")
    monkeypatch.delenv("NO_SUCH", raising=False)
    return tmp_path


TOKENS = {"%": "%", "h": "gpu1", "r": "alice"}


@pytest.mark.parametrize(
    ("said", "agent"),
    [
        (None, "/the/agent"),
        ("SSH_AUTH_SOCK", "/the/agent"),
        ("$SSH_AUTH_SOCK", "/the/agent"),
        ("$NO_SUCH", None),
        ("none", None),
        ("~/agent", "{home}/agent"),
        ("${HOME}/%r.sock", "{home}/alice.sock"),
        ("${NO_SUCH}/agent", "${{NO_SUCH}}/agent"),
    ],
)
def test_where_the_agent_is(home, said, agent):
    got = credentials(None, {"identityagent": said} if said else {}, TOKENS)["agent"]
    assert got == (agent and agent.format(home=home))


def test_which_keys_are_offered(home):
    config = {
        "identityfile": "~/.ssh/%r@%h%%\n/a\n/a\nnone\n${HOME}/b\n%x",
        "identitiesonly": "yes",
    }
    got = credentials(None, config, TOKENS)
    assert got["identity_files"] == (f"{home}/.ssh/alice@gpu1%", "/a", f"{home}/b", "%x")
    assert got["identities_only"] is True
    # Those that ssh looks for anyway are no typing errors where they are not.
    assert credentials(None, {}, TOKENS)["identity_files"] == ()
    (home / ".ssh").mkdir()
    for name in ("id_ed25519", "id_rsa.pub"):
        (home / ".ssh" / name).write_text("")
    found = credentials(None, {"identityfile": "\n".join(USUAL)}, TOKENS)["identity_files"]
    assert found == (f"{home}/.ssh/id_rsa", f"{home}/.ssh/id_ed25519")
    got = credentials("~/.ssh/id_rsa", config | {"certificatefile": "~/c_%h"}, TOKENS)
    assert got["identity_files"] == (f"{home}/.ssh/id_rsa",)
    assert got["certificate_files"] == (f"{home}/c_gpu1",)
    assert got["ask"] is True
    assert credentials(None, {"batchmode": "yes"}, TOKENS)["ask"] is False


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pubkeyauthentication": "false"}, "PubkeyAuthentication no"),
        ({"preferredauthentications": "gssapi-with-mic,password"}, "gssapi-with-mic,password"),
    ],
)
def test_a_configuration_without_keys_is_refused(config, said):
    with pytest.raises(HostError, match=said) as caught:
        credentials(None, config, TOKENS)
    assert caught.value.check == "ssh.auth"
    assert caught.value.hint


def test_tokens():
    tokens = values_of(name="gpu1", host="192.0.2.7", port=2222, user="alice", alias=None)
    assert {k: tokens[k] for k in "hnprk%"} == {
        "h": "192.0.2.7", "n": "gpu1", "p": "2222", "r": "alice", "k": "gpu1", "%": "%",
    }  # fmt: skip
