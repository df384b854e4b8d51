"""Key files: what stands in them, and a key that signs when one is needed."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shlex
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from orchestrator.certificate import Reader
from orchestrator.host.publickey import PublicKey, parse_public, public_key

if TYPE_CHECKING:
    from collections.abc import Callable

OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
MAGIC = b"openssh-key-v1\0"
TRIES = 3
# What of a file is read: an RSA key of 16,384 bits has 13 kB.
MOST_BYTES = 1 << 20


class Unusable(Exception):
    """A key that cannot sign: why, in words that follow its name, and what to do."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


def read_public(path: str) -> PublicKey | None:
    data = _contents(path)
    return parse_public(data) if isinstance(data, bytes) else None


class KeyFile:
    """An identity file, as ssh understands one: a private key, or a .pub that an agent's key has.

    It is opened once, by the first host that needs it; a passphrase is asked for once for all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.shown = shortened(path)
        self._typed = shlex.quote(path)
        self._lock = threading.Lock()
        self._key: paramiko.PKey | None = None
        data = _contents(path)
        self._data = data if isinstance(data, bytes) else b""
        self.public = parse_public(self._data) or read_public(f"{path}.pub")
        self.certificate = read_public(f"{path}-cert.pub")
        header = _header(self._data)
        if header:
            cipher, held = header
            self.locked = cipher != b"none"
            self.public = self.public or held
        else:
            self.locked = b"ENCRYPTED" in self._data
        self.problem = self._problem(data if isinstance(data, str) else "")
        if self.public and self.public.kind == "ssh-dss":
            self.public = None  # nor does ssh offer it

    @property
    def ready(self) -> bool:
        """Whether it signs without anybody being asked."""
        return not self.locked and not self.problem

    def _problem(self, unread: str) -> Unusable | None:
        """Say why it cannot sign here, as far as that shows without a passphrase."""
        kind = self.public.kind if self.public else ""
        if unread:
            return Unusable(unread, f"look for a typing error: {self.path}")
        if parse_public(self._data):
            private = shlex.quote(self.path.removesuffix(".pub"))
            return Unusable(
                "is a public key, and ssh-agent has no private one for it",
                f"name the private one, or: ssh-add {private}",
            )
        if b"PRIVATE KEY-----" not in self._data:
            return Unusable("is no private key", f"look at it: head -1 {self._typed}")
        if kind.startswith("sk-"):
            return Unusable(
                "is on a security key, which is used by way of ssh-agent alone",
                f"ssh-add {self._typed}",
            )
        if kind == "ssh-dss" or b"BEGIN DSA" in self._data:
            return Unusable(
                "is a DSA key, which is not supported, nor by today's ssh",
                "make a new one: ssh-keygen -t ed25519",
            )
        found = Path(self.path).stat()
        # As ssh does it: what another user owns is that one's business.
        if found.st_uid == os.getuid() and found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            return Unusable(
                f"is left out: others can read it (mode {mode:04o})", f"chmod 600 {self._typed}"
            )
        return None

    def key(self, ask: Callable[[str], str | None]) -> paramiko.PKey:
        """Return the key that signs; who comes while it is being opened waits for the outcome."""
        with self._lock:
            if self.problem:
                raise Unusable(self.problem.why, self.problem.hint)
            if self._key is None:
                key = self._unlocked(ask) if self.locked else self._opened()
                self._compare(key)
                self._key, self.locked, self._data = key, False, b""
            return self._key

    def _unlocked(self, ask: Callable[[str], str | None]) -> paramiko.PKey:
        hint = f"ssh-add {self._typed}"
        for attempt in range(TRIES):
            said = ask(f"{'Wrong. ' if attempt else ''}Passphrase for the key {self.shown}: ")
            if said is None:
                raise Unusable("has a passphrase, and there is no terminal to ask for it", hint)
            if not said:
                raise self._given_up("has a passphrase, and none was given", hint)
            with contextlib.suppress(ValueError):
                return self._load(said.encode("utf-8", "surrogateescape"))
        raise self._given_up(f"has a passphrase, and none of {TRIES} was right", hint)

    def _opened(self) -> paramiko.PKey:
        with contextlib.suppress(ValueError):
            return self._load(None)
        raise self._given_up(
            "is a private key that cannot be read", f"ssh-keygen -yf {self._typed}"
        )

    def _given_up(self, why: str, hint: str) -> Unusable:
        """Note it for the other hosts: nobody is asked for this key again."""
        self.problem = Unusable(why, hint)
        return self.problem

    def _load(self, passphrase: bytes | None) -> paramiko.PKey:
        """Raise a ValueError for a passphrase that is wrong, or a file that is broken."""
        openssh = OPENSSH in self._data
        load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
        try:
            loaded = load(self._data, passphrase)
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from error
        made: type[paramiko.PKey]
        if isinstance(loaded, ed25519.Ed25519PrivateKey):
            made = paramiko.Ed25519Key
        elif isinstance(loaded, ec.EllipticCurvePrivateKey):
            made = paramiko.ECDSAKey
        elif isinstance(loaded, rsa.RSAPrivateKey):
            made = paramiko.RSAKey
        else:
            raise self._given_up("is of a kind that ssh has no use for", "ssh-keygen -t ed25519")
        # By way of OpenSSH's own format: of the others paramiko reads but some.
        text = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        return made.from_private_key(io.StringIO(text.decode()))

    def _compare(self, key: paramiko.PKey) -> None:
        found = PublicKey(key.get_name(), key.asbytes())
        if self.public and self.public != found:
            raise self._given_up(
                f"does not belong to {self.shown}.pub beside it",
                f"ssh-keygen -yf {self._typed} > {self._typed}.pub",
            )
        self.public = found


def shortened(path: str) -> str:
    home = str(Path("~").expanduser())
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") else path


def _contents(path: str) -> bytes | str:
    """Return what stands in a file, or as a text why that cannot be had."""
    try:
        if not Path(path).is_file():  # neither a folder nor a pipe that nobody writes to
            return "is not there" if not Path(path).exists() else "is no file"
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _header(data: bytes) -> tuple[bytes, PublicKey] | None:
    """Return how an OpenSSH private key is encrypted, and the public half, which is not."""
    _, found, rest = data.partition(OPENSSH)
    try:
        body = base64.b64decode(rest.partition(b"-----END")[0])
        if not found or not body.startswith(MAGIC):
            return None
        reader = Reader(body[len(MAGIC) :])
        cipher = reader.string()
        reader.string(), reader.string()  # the key derivation function and its options
        reader.number()  # of keys, which is one
        return cipher, public_key(reader.string())
    except ValueError:
        return None
