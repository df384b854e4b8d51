"""Whom to trust: judges the key that a host shows by the known_hosts files."""

from __future__ import annotations

import os
import secrets
import shlex
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from orchestrator import certificate, known_hosts
from orchestrator.errors import HostError
from orchestrator.host.offer import offered
from orchestrator.known_hosts import Entry, Known, KnownFile, Signed, fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.host.target import Target
    from orchestrator.known_hosts import Judgement


class KnownHosts:
    """The known_hosts files, each read and parsed once for all hosts."""

    def __init__(self, *, accept_new: bool) -> None:
        self.accept_new = accept_new
        self.warnings: list[str] = []
        """What the user should hear of, though the connections go on."""

        # Who judges a key and who adds one take turns: a host may be there under two names.
        self.lock = threading.RLock()
        self._files: dict[str, KnownFile] = {}
        self._revoked: dict[str, frozenset[bytes]] = {}
        self._added: dict[tuple[str, str], Entry] = {}
        self._written: dict[str, list[str]] = {}

    def notices(self) -> list[str]:
        """Return what was accepted, and the warnings, a line each."""
        with self.lock:
            accepted = [
                f"accepted, and added to {file}: {', '.join(keys)}"
                for file, keys in self._written.items()
                if file != os.devnull
            ]
            return [*accepted, *self.warnings]

    def lookup(self, files: Sequence[str], name: str) -> Known:
        with self.lock:
            entries = [entry for file in files for entry in self._read(file).lookup(name)]
            entries += [self._added[file, name] for file in files if (file, name) in self._added]
            return Known(name=name, entries=tuple(entries))

    def _read(self, file: str) -> KnownFile:
        if file not in self._files:
            try:
                text = Path(file).read_bytes().decode("utf-8", "surrogateescape")
            except (FileNotFoundError, NotADirectoryError):
                text = ""
            except OSError as error:
                # ssh goes on as if there were no such file; a key that changed would look new.
                raise HostError(
                    f"cannot read the known keys in {file}: {error.strerror}",
                    check="ssh.hostkey",
                    hint="make it readable, or name another: `known_hosts:` in the inventory",
                ) from None
            self._files[file] = KnownFile(text, file)
        return self._files[file]

    def revoked(self, file: str) -> frozenset[bytes]:
        with self.lock:
            if file not in self._revoked:
                self._revoked[file] = _read_revoked(file)
            return self._revoked[file]

    def add(self, file: str, name: str, key: paramiko.PKey, *, hash_name: bool) -> None:
        """Trust a key from now on; as with ssh, a file that cannot be written stops nobody."""
        salt = secrets.token_bytes(20) if hash_name else None
        kind, blob = key.get_name(), key.asbytes()
        try:
            _append(Path(file), known_hosts.new_line(name, kind, blob, salt))
        except OSError as error:
            warning = f"new keys were accepted, but not added to {file}: {error.strerror}"
            if warning not in self.warnings:  # once, not for each of many hosts
                self.warnings.append(warning)
        else:
            told = f"{name} ({kind} {fingerprint(blob)})"
            self._written.setdefault(file, []).append(told)
        if file != os.devnull:  # the usual way to say: trust it now, and forget it at once
            self._added[file, name] = Entry(
                names=name, marker="", kind=kind, key=blob, file=file, line=0
            )


def _append(file: Path, line: str) -> None:
    """Add a line in one write: other hosts' threads and other programs may add theirs."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        unended = size and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if unended else b"") + line.encode())
    finally:
        os.close(descriptor)


def _read_revoked(file: str) -> frozenset[bytes]:
    """Read the public keys that no host may show. What cannot be read could name any key."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise HostError(
            f"cannot read RevokedHostKeys {file}: {error.strerror}",
            check="ssh.hostkey",
            hint="until it can be read any key may be revoked, to ssh as well",
        ) from None
    if data.startswith(b"SSHKRL\n\0"):
        raise HostError(
            f"RevokedHostKeys {file} is a KRL, which is not supported",
            check="ssh.hostkey",
            hint="name a file of public keys there, one in a line",
        )
    keys = set()
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            key = known_hosts.decoded(*words[:2]) if len(words) > 1 else None
            if key is None:
                raise HostError(
                    f"RevokedHostKeys {file}:{number} is no public key",
                    check="ssh.hostkey",
                    hint="mend that line: until then any key may be revoked, to ssh as well",
                )
            keys.add(key)
    return frozenset(keys)


class CheckedKey(paramiko.MissingHostKeyPolicy):
    """Judges every host's key. paramiko, which is told of no known keys, asks before it logs in."""

    def __init__(self, target: Target, known: KnownHosts) -> None:
        self._target = target
        self._known = known
        # The names that ssh looks up: an alias alone, as it is; else the host's with its port.
        self._name = target.host_key_name or known_hosts.name_for(target.host, target.port)
        self._plain = target.host_key_name or known_hosts.name_for(target.host, 22)

    def algorithms(self) -> tuple[str, ...]:
        """Return how the host is to prove itself, best first."""
        entries = [entry for known in self._lookup() if known for entry in known.entries]
        return offered(entries, self._target.key_algorithms)

    def _lookup(self) -> tuple[Known, Known | None]:
        files = self._target.known_hosts
        known = self._known.lookup(files, self._name)
        plain = None if self._plain == self._name else self._known.lookup(files, self._plain)
        return known, plain

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        signed = self._certificate(key)
        self._refuse_revoked(key, signed)
        with self._known.lock:
            judgement = known_hosts.judge(*self._lookup(), key.asbytes(), signed)
            match judgement.word:
                case "known":
                    return
                case "new":
                    self._accept(key, signed)
                case "changed":
                    raise self._changed(key, signed, judgement)
                case "revoked":
                    raise self._revoked(key, signed, _places(judgement.lines))

    def _certificate(self, key: paramiko.PKey) -> Signed | None:
        """Read the certificate that the key came with; whose authority is trusted is judged later.

        paramiko has taken the key out of it, and checked that the host holds that key.
        """
        if key.public_blob is None:
            return None
        try:
            found = certificate.parse(key.public_blob.key_blob)
            problem = certificate.problem(found, self._plain, time.time())
            # A signature of a kind that is not accepted is such a problem, and is not looked at.
            if found.algorithm in certificate.SIGNATURES and not _signature_holds(found):
                raise certificate.Malformed("its signature is wrong")
        except (ValueError, paramiko.SSHException) as error:
            raise HostError(
                f"it shows a broken certificate: {str(error) or type(error).__name__}",
                check="ssh.hostkey",
                hint="look at HostCertificate in its sshd_config; somebody may be in between",
            ) from None
        return Signed(authority=found.authority, problem=problem)

    def _refuse_revoked(self, key: paramiko.PKey, signed: Signed | None) -> None:
        shown = {key.asbytes(), *([signed.authority] if signed else [])}
        for file in self._target.revoked_keys:
            if shown & self._known.revoked(file):
                raise self._revoked(key, signed, file)

    def _accept(self, key: paramiko.PKey, signed: Signed | None) -> None:
        """Trust a key that nobody knows, where the user wants that; else say what to do."""
        target = self._target
        file = target.new_keys
        welcome = self._known.accept_new or target.strict != "yes"
        if welcome and file and known_hosts.writable(self._plain):
            self._known.add(file, self._name, key, hash_name=target.hash_names)
            return
        hint = (
            "compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` prints there; "
            "if it is the same, run this again with --accept-new-host-keys"
        )
        if file is None:
            hint = "give it a file that it can be added to: `known_hosts:` in the inventory"
        elif not known_hosts.writable(self._plain):
            hint = "give it a plain HostName or HostKeyAlias: no line can begin with this one"
        if signed:
            hint = f"have a certificate made for it that counts; or else {hint}"
        raise HostError(
            f"its key is not known: {self._name} shows {_shown(key)}; "
            f"{file or 'UserKnownHostsFile none'} has none for it{self._why_not_by(signed)}",
            check="ssh.hostkey",
            hint=hint,
        )

    def _changed(
        self, key: paramiko.PKey, signed: Signed | None, judgement: Judgement
    ) -> HostError:
        had = ", ".join(f"{e.kind} {fingerprint(e.key)} ({_place(e)})" for e in judgement.lines)
        lenient = "; StrictHostKeyChecking no does not change that" * (self._target.strict == "no")
        return HostError(
            f"its key has CHANGED: {self._name} shows {_shown(key)}, but known is {had}; "
            f"somebody may be in between{lenient}{self._why_not_by(signed)}",
            check="ssh.hostkey",
            hint=f"only if you know why it changed: {_removal(self._name, judgement.lines)}, "
            "then run this again with --accept-new-host-keys",
        )

    def _revoked(self, key: paramiko.PKey, signed: Signed | None, where: str) -> HostError:
        by = f", signed by {fingerprint(signed.authority)}," if signed else ""
        return HostError(
            f"its key {_shown(key)}{by} is revoked in {where}",
            check="ssh.hostkey",
            hint="it needs a new host key (ssh-keygen -A, there); until then nobody should log in",
        )

    def _why_not_by(self, signed: Signed | None) -> str:
        """Say why a certificate did not count, where it might have."""
        if signed is None:
            return ""
        authorities = [
            entry.key
            for known in self._lookup()
            if known
            for entry in known.marked("@cert-authority")
        ]
        if signed.authority in authorities:
            return f"; its certificate {signed.problem}"
        by = fingerprint(signed.authority)
        return f"; its certificate is signed by {by}, which is no @cert-authority for it"


def _signature_holds(found: certificate.Certificate) -> bool:
    kind = certificate.key_kind(found.authority)
    if kind not in (*certificate.SIGNATURES, "ssh-rsa"):
        return False
    try:
        authority = paramiko.PKey.from_type_string(kind, found.authority)
        return authority.verify_ssh_sig(found.body, paramiko.Message(found.signature))
    except (ValueError, OverflowError, paramiko.SSHException):
        return False  # numbers that make no key: a stranger wrote them


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {fingerprint(key.asbytes())}"


def _place(entry: Entry) -> str:
    return f"{entry.file}:{entry.line}" if entry.line else entry.file


def _places(entries: Sequence[Entry]) -> str:
    return ", ".join(map(_place, entries))


def _removal(name: str, entries: Sequence[Entry]) -> str:
    """Return the command that takes the lines out; one that others share is for an editor."""
    shared = [entry for entry in entries if entry.shared]
    if shared:
        return f"mend {_places(shared)}, which is not for {name} alone"
    files = dict.fromkeys(entry.file for entry in entries)
    return " && ".join(
        f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(file)}" for file in files
    )
