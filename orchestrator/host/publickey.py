"""Public keys and certificates, as files, agents and hosts have them."""

from __future__ import annotations

import base64
import binascii
import struct
import time
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from orchestrator import known_hosts

CERTIFICATE = "-cert-v01@openssh.com"
FOR_EVER = 2**64 - 1


@dataclass(frozen=True)
class PublicKey:
    """What a host is shown: a public key, or a certificate that has one in it."""

    kind: str
    blob: bytes

    @property
    def certified(self) -> bool:
        return self.kind.endswith(CERTIFICATE)

    @property
    def plain(self) -> PublicKey | None:
        """Return the key itself; None for a certificate that cannot be read."""
        if not self.certified:
            return self
        read = _certificate(self)
        if read is None:
            return None
        text = read.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return parse_public(text)

    @property
    def fingerprint(self) -> str:
        return known_hosts.fingerprint((self.plain or self).blob)

    def limits(self, now: float) -> str:
        """Say for whom and until when a certificate is good."""
        read = _certificate(self)
        if read is None:
            return "a certificate that cannot be read"
        said = f"a certificate for {', '.join(map(_text, read.valid_principals)) or 'nobody'}"
        if read.type is not serialization.SSHCertificateType.USER:
            said += ", which is a host's and not a user's"
        if now < read.valid_after:
            said += f", not valid before {_when(read.valid_after)}"
        if now >= read.valid_before:
            said += f", expired at {_when(read.valid_before)}"
        return said


def _certificate(key: PublicKey) -> serialization.SSHCertificate | None:
    line = f"{key.kind} {base64.b64encode(key.blob).decode()}".encode()
    try:
        read = serialization.load_ssh_public_identity(line)
    except (ValueError, UnsupportedAlgorithm):
        return None  # a security key's, perhaps: its agent knows what to do with it
    return read if isinstance(read, serialization.SSHCertificate) else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _when(seconds: int) -> str:
    if seconds >= FOR_EVER:
        return "the end of time"
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


def public_key(blob: bytes) -> PublicKey:
    return PublicKey(Reader(blob).string().decode("ascii"), blob)


def parse_public(data: bytes) -> PublicKey | None:
    """Read the first public key of a .pub file; None where there is none."""
    for line in data.splitlines():
        kind, _, rest = line.strip().partition(b" ")
        try:
            key = public_key(base64.b64decode(rest.split(b" ", 1)[0], validate=True))
            if key.kind.encode() == kind:
                return key
        except (binascii.Error, struct.error, UnicodeDecodeError):
            continue
    return None


class Reader:
    """Reads what ssh packs: numbers, and strings with their length before them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        (value,) = struct.unpack_from(">I", self._data, self._at)
        self._at += 4
        return int(value)

    def string(self) -> bytes:
        length = self.number()
        if self._at + length > len(self._data):
            raise struct.error("it ends too early")
        self._at += length
        return self._data[self._at - length : self._at]
