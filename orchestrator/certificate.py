"""Read ssh's keys and certificates (PROTOCOL.certkeys of OpenSSH). Pure; it trusts nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = "-cert-v01@openssh.com"
_CURVES = ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
# How many strings make up the key, after its kind.
_KEY_STRINGS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ssh-dss": 4,
    **dict.fromkeys(_CURVES, 2),
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
# What may sign a certificate here: SHA-1 is broken, and paramiko cannot check a security key's.
SIGNATURES = ("ssh-ed25519", *_CURVES, "rsa-sha2-512", "rsa-sha2-256")
USER_TYPE, HOST_TYPE = 1, 2


class Malformed(ValueError):
    """It is no certificate, or no key, in the form that ssh has for them."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    kind: str
    key: bytes
    """The public key that it is about."""

    type: int
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: tuple[str, ...]
    """Options that who does not know them must heed by refusing."""

    authority: bytes
    """The public key of who signed it."""

    body: bytes
    """What the signature is of."""

    signature: bytes
    algorithm: str
    """How it was signed."""


class Reader:
    """Reads what ssh packs: numbers, and strings with their length before them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if len(self._data) - self.at < count:
            raise Malformed("it ends too early")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def strings(self) -> list[bytes]:
        """Return all that is left, a string after the other."""
        found = []
        while self.at < len(self._data):
            found.append(self.string())
        return found


def packed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def key_kind(key: bytes) -> str | None:
    """Return what a public key says it is, if it is whole. Certificates are none."""
    try:
        kind, *strings = Reader(key).strings()
        name = kind.decode()
    except ValueError:
        return None
    return name if len(strings) == _KEY_STRINGS.get(name) else None


def parse(blob: bytes) -> Certificate:
    reader = Reader(blob)
    kind = _text(reader.string())
    base = kind.removesuffix(SUFFIX)
    # Those of security keys are sk-...-cert-v01@openssh.com, their keys sk-...@openssh.com.
    of = base if base in _KEY_STRINGS else f"{base}@openssh.com"
    if of not in _KEY_STRINGS or base == kind:
        raise Malformed(f"unknown kind {kind!r}")
    reader.string()  # a nonce
    strings = [reader.string() for _ in range(_KEY_STRINGS[of])]
    reader.number(8)  # the serial number
    type_ = reader.number()
    reader.string()  # the signer's name for it
    principals = tuple(_text(p) for p in Reader(reader.string()).strings())
    valid_after, valid_before = reader.number(8), reader.number(8)
    critical = _options(reader.string())
    _options(reader.string())  # extensions, which may be passed over
    reader.string()  # reserved
    authority = reader.string()
    body = blob[: reader.at]
    signature = reader.string()
    if reader.at != len(blob):
        raise Malformed("something follows its end")
    algorithm = _text(Reader(signature).string())
    # Those of security keys have more to them; of the others paramiko would take a wrong length.
    if algorithm in SIGNATURES and not _is_whole(algorithm, signature):
        raise Malformed("its signature is none")
    return Certificate(
        kind=kind,
        key=b"".join(map(packed, (of.encode(), *strings))),
        type=type_,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        critical=critical,
        authority=authority,
        body=body,
        signature=signature,
        algorithm=algorithm,
    )


def _is_whole(algorithm: str, signature: bytes) -> bool:
    """Whether all lengths in a signature are right: paramiko takes what is there for a string."""
    strings = Reader(signature).strings()
    if len(strings) != 2:
        return False
    return algorithm not in _CURVES or len(Reader(strings[1]).strings()) == 2


def problem(certificate: Certificate, name: str, now: float) -> str | None:
    """Say why it does not speak for the host of this name, whoever signed it."""
    if certificate.type != HOST_TYPE:
        return "is not a host's but a user's"
    if now < certificate.valid_after:
        return f"is not valid before {when(certificate.valid_after)}"
    if now >= certificate.valid_before:
        return f"expired at {when(certificate.valid_before)}"
    # OpenSSH before 10.3 took one without principals for any host; it is safe for none.
    if name not in certificate.principals:
        return f"is for {shown(certificate.principals) or 'nobody'}, not for {name}"
    if certificate.critical:
        return f"has options that must be known and are not: {shown(certificate.critical)}"
    if certificate.algorithm not in SIGNATURES:
        return f"is signed with {shown([certificate.algorithm])}, which is not accepted"
    return None


def _options(data: bytes) -> tuple[str, ...]:
    strings = Reader(data).strings()
    if len(strings) % 2:
        raise Malformed("an option lacks its value")
    return tuple(_text(name) for name in strings[::2])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def shown(texts: Sequence[str]) -> str:
    """Make what a stranger wrote fit for a screen: no control characters, and not too much."""
    text = ", ".join(texts)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 100 else f"{text[:100]}..."


def when(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"
