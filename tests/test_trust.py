"""Files of known keys, written by many at once, and the order in which keys are asked for."""

from __future__ import annotations

import base64
import os
import socket
import threading
from pathlib import Path

import paramiko
import pytest

from orchestrator.errors import HostError
from orchestrator.host.offer import offered
from orchestrator.host.target import Target
from orchestrator.host.transport import Transport
from orchestrator.host.trust import KnownHosts
from orchestrator.known_hosts import Entry, KnownFile

ED, RSA = "ssh-ed25519", ("rsa-sha2-512", "rsa-sha2-256")
ECDSA = tuple(f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521))
CERT = "-cert-v01@openssh.com"


def target_of(file: Path, **fields) -> Target:
    """Return the host gpu1, whose key stands in this file."""
    given = {"known_hosts": (str(file),), "new_keys": str(file), **fields}
    return Target(
        name="gpu1",
        host="gpu1",
        port=22,
        user="alice",
        identity_files=(),
        **given,
    )


# --- writing ------------------------------------------------------------------------------------


class Key:
    """What is asked of paramiko's keys here."""

    def __init__(self, text: str) -> None:
        self.blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + text.encode().ljust(32)

    def get_name(self) -> str:
        return ED

    def asbytes(self) -> bytes:
        return self.blob


def test_the_file_and_its_folder_are_made_for_the_user_alone(tmp_path):
    file = tmp_path / "a" / "b" / "known_hosts"
    previous = os.umask(0)
    try:
        KnownHosts(accept_new=True).add(str(file), "gpu1", Key("one"), hash_name=False)
    finally:
        os.umask(previous)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert len(KnownFile(file.read_text()).lookup("gpu1")) == 1


def test_many_writers_tear_no_line(tmp_path):
    """Each has its own lock, as several programs have."""
    file = tmp_path / "known_hosts"
    file.write_text("gpu0 no end")

    def write(writer: int) -> None:
        known = KnownHosts(accept_new=True)
        for number in range(50):
            name = f"gpu{writer}-{number}.{'x' * 200}"
            known.add(str(file), name, Key(name[:20]), hash_name=number % 2 == 0)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line for line in file.read_text().splitlines() if line]
    assert lines[0] == "gpu0 no end"
    assert len(lines) == 401
    assert all(len(line.split(" ")) == 3 for line in lines)
    known = KnownFile(file.read_text())
    assert all(known.lookup(f"gpu{w}-{n}.{'x' * 200}") for w in range(8) for n in range(50))


def test_a_file_that_cannot_be_written_is_a_warning_and_the_key_is_trusted(tmp_path):
    folder = tmp_path / "no-folder"
    folder.write_text("in the way")
    file = str(folder / "known_hosts")
    known = KnownHosts(accept_new=True)
    for name in ("gpu1", "gpu2"):
        known.add(file, name, Key("one"), hash_name=False)
    assert known.warnings == [f"new keys were accepted, but not added to {file}: File exists"]
    assert [entry.key for entry in known.lookup([file], "gpu1").entries] == [Key("one").blob]


def test_a_file_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "known_hosts"
    file.write_text(f"gpu* ssh-ed25519 {base64.b64encode(Key('one').blob).decode()}\n")
    known = KnownHosts(accept_new=False)
    read = []
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read.append(path) or path.open("rb").read()
    )
    for number in range(20):
        assert known.lookup([str(file)], f"gpu{number}").entries
    assert read == [file]


# --- asking -------------------------------------------------------------------------------------


def line(kind: str, marker="") -> Entry:
    return Entry(names="gpu1", marker=marker, kind=kind, key=b"", file="", line=1)


def test_without_a_known_key_all_are_asked_for_and_certificates_last():
    plain = (ED, *ECDSA, *RSA)
    assert offered([], None) == (*plain, *(f"{name}{CERT}" for name in plain))


@pytest.mark.parametrize(
    ("kinds", "first"),
    [
        (["ssh-rsa"], RSA),
        (["ecdsa-sha2-nistp384"], ("ecdsa-sha2-nistp384",)),
        (["ssh-rsa", "ssh-ed25519"], (ED, *RSA)),
        (["ssh-dss"], (ED,)),
    ],
)
def test_known_kinds_go_first(kinds, first):
    got = offered([line(kind) for kind in kinds], None)
    assert got[: len(first)] == first
    assert sorted(got) == sorted(offered([], None))


def test_an_authority_puts_certificates_first():
    got = offered([line("ssh-ed25519", "@cert-authority"), line("ssh-rsa")], None)
    assert all(name.endswith(CERT) for name in got[:6])
    assert got[6:8] == RSA


def test_a_revoked_key_is_not_asked_for():
    assert offered([line("ssh-rsa", "@revoked")], None)[0] == ED


def test_the_users_algorithms_limit_and_order():
    allowed = ["rsa-sha2-256", "ssh-ed25519", "sk-ssh-ed25519@openssh.com"]
    assert offered([], allowed) == ("rsa-sha2-256", "ssh-ed25519")
    assert offered([line("ssh-ed25519")], allowed) == ("ssh-ed25519", "rsa-sha2-256")
    with pytest.raises(HostError, match="none is supported") as caught:
        offered([], ["ssh-dss"])
    assert caught.value.check == "ssh.hostkey"


def test_paramiko_asks_in_our_order():
    """It fails when paramiko looks for the order elsewhere than where our Transport has it."""
    asked = (f"{ED}{CERT}", "ecdsa-sha2-nistp256", ED, f"ecdsa-sha2-nistp256{CERT}")
    here, there = socket.socketpair()
    there.settimeout(30)
    client = Transport(here, asked)
    try:
        client.start_client(event=threading.Event())
        there.sendall(b"SSH-2.0-test\r\n")
        heard = b""
        while b"none" not in heard:  # of the compressions, which come after the keys
            heard += there.recv(4096)
    finally:
        client.close()
        there.close()
    assert b"," + ",".join(asked).encode() not in heard
    assert ",".join(asked).encode() + b"\0" in heard


def test_paramiko_takes_the_first_that_the_host_has():
    here, there = socket.socketpair()
    server = paramiko.Transport(there)
    client = Transport(here, (f"{ED}{CERT}", "ecdsa-sha2-nistp384", *RSA, "ecdsa-sha2-nistp256"))
    try:
        server.add_server_key(paramiko.ECDSAKey.generate())
        server.add_server_key(paramiko.RSAKey.generate(2048))
        server.start_server(event=threading.Event(), server=paramiko.ServerInterface())
        client.start_client(timeout=30)
        assert client.host_key_type == "rsa-sha2-512"
        assert client.get_remote_server_key().get_name() == "ssh-rsa"
    finally:
        client.close()
        server.close()
