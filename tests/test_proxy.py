"""A command that is the way to a host; tests/hosts/test_route.py has real ones."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from orchestrator.host.proxy import ProxySocket
from tests.test_trust import target_of


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_reads_no_startup_file(tmp_path, monkeypatch):
    """Outside of any shell (cron, CI) it takes a socket for rshd's, and reads .bashrc."""
    (tmp_path / ".bashrc").write_text("echo noise\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", str(shutil.which("bash")))
    monkeypatch.delenv("SHLVL", raising=False)
    sock = ProxySocket(replace(target_of(tmp_path), proxy_command="echo SSH-2.0"))
    try:
        sock.settimeout(30)
        heard = b""
        while more := sock.recv(100):
            heard += more
    finally:
        sock.close()
    assert heard == b"SSH-2.0\n"
