"""The TCP connection to an sshd: why there is none."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from orchestrator.errors import HostError
from orchestrator.host.route import dial
from tests.test_trust import target_of


@pytest.mark.parametrize("name", ["gpu1..lab", f"{'a' * 64}.lab"])
def test_a_name_that_cannot_be_one(tmp_path, name):
    target = replace(target_of(tmp_path), host=name)
    with pytest.raises(HostError, match=f"no address is known for {name}") as caught:
        dial(target)
    assert caught.value.check == "ssh.name"


@pytest.mark.parametrize("here", ["192.0.2.1", "2001:db8::1"])
def test_a_bind_address_that_is_not_ours(tmp_path, here):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        target = replace(target_of(tmp_path), host="127.0.0.1", port=port, bind_address=here)
        with pytest.raises(HostError, match=f"port {port} from {here} .BindAddress.: ") as caught:
            dial(target)
    assert caught.value.check == "ssh.reach"
