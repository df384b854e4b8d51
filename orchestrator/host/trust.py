"""Whom to trust: judges the key that a host shows by the known_hosts files."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from orchestrator import known_hosts
from orchestrator.errors import HostError

if TYPE_CHECKING:
    from orchestrator.host.target import Target


class KnownHosts:
    """The known_hosts files, each read and parsed once for all hosts."""

    def __init__(self, *, accept_new: bool) -> None:
        self.accept_new = accept_new
        self._entries: dict[str, tuple[known_hosts.Entry, ...]] = {}
        self._lock = threading.Lock()

    def lookup(self, files: tuple[str, ...], name: str) -> known_hosts.KnownKeys:
        entries = tuple(entry for file in files for entry in self._read(file))
        return known_hosts.lookup(entries, name)

    def _read(self, file: str) -> tuple[known_hosts.Entry, ...]:
        with self._lock:
            if file not in self._entries:
                text = ""
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    text = Path(file).read_text(encoding="utf-8", errors="replace")
                self._entries[file] = known_hosts.parse(text)
            return self._entries[file]

    def add(self, file: str, name: str, key: paramiko.PKey) -> None:
        path = Path(file)
        with self._lock:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            newline = "" if not old or old.endswith("\n") else "\n"
            path.touch(mode=0o600)
            with path.open("a", encoding="utf-8") as lines:
                lines.write(f"{newline}{name} {key.get_name()} {key.get_base64()}\n")


class CheckedKey(paramiko.MissingHostKeyPolicy):
    """Judges every host's key. paramiko, which is told of no known keys, asks before it logs in."""

    def __init__(self, target: Target, keys: known_hosts.KnownKeys, known: KnownHosts) -> None:
        self._target = target
        self._keys = keys
        self._known = known

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        name, files = known_name(self._target), self._target.known_hosts
        shown = f"{key.get_name()} {known_hosts.fingerprint(key.asbytes())}"
        if key.asbytes() in self._keys.revoked:
            raise HostError(f"its key {shown} is revoked in known_hosts", check="ssh.hostkey")
        if key.asbytes() in [trusted for _, trusted in self._keys.trusted]:
            return
        if self._keys.trusted:
            had = ", ".join(f"{k} {known_hosts.fingerprint(d)}" for k, d in self._keys.trusted)
            raise HostError(
                f"its key has CHANGED: {name} shows {shown}, but known_hosts has {had}; "
                "somebody may be in between",
                check="ssh.hostkey",
                hint=f"only if you know why it changed: ssh-keygen -R '{name}' -f {files[0]}, "
                "then run this again with --accept-new-host-keys",
            )
        if self._known.accept_new:
            self._known.add(files[0], name, key)
            return
        raise HostError(
            f"its key is not known: {name} shows {shown}; {files[0]} has none for it",
            check="ssh.hostkey",
            hint="compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` prints there; "
            "if it is the same, run this again with --accept-new-host-keys",
        )


def known_name(target: Target) -> str:
    return target.host_key_name or known_hosts.name_for(target.host, target.port)
