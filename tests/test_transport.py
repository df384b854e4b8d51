"""What a server says for a reason: it may be anything, of any length."""

from __future__ import annotations

import socket

import paramiko
import pytest

from orchestrator.host.transport import Refused, Transport


@pytest.fixture
def transport():
    here, there = socket.socketpair()
    made = Transport(here, ("ssh-ed25519",))
    yield made
    here.close()
    there.close()


def message(*parts: int | bytes) -> paramiko.Message:
    made = paramiko.Message()
    for part in parts:
        made.add_int(part) if isinstance(part, int) else made.add_string(part)
    made.rewind()
    return made


def test_a_goodbye(transport):
    transport._parse_disconnect(message(2, b"too \xff many" + 1_000 * b"x", b""))
    assert transport.goodbye.startswith("too \ufffd many")
    assert len(transport.goodbye) == 200


def test_why_no_channel_is_opened(transport):
    number = transport._next_channel()
    transport._parse_channel_open_failure(message(number, 2, b"no" + 1_000 * b"o", b""))
    error = transport.get_exception()
    assert isinstance(error, Refused)
    assert (error.code, len(error.text)) == (2, 200)
