"""Read known_hosts files: which keys a host may show. Pure; parsed once for all hosts."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: for which hosts it speaks, and the key."""

    patterns: tuple[str, ...]
    kind: str
    key: bytes
    revoked: bool = False


@dataclass(frozen=True, kw_only=True)
class KnownKeys:
    """What is known of one host."""

    trusted: tuple[tuple[str, bytes], ...]
    revoked: tuple[bytes, ...]


def parse(text: str) -> tuple[Entry, ...]:
    """Lines that are no entries are passed over, as ssh does."""
    return tuple(entry for line in text.split("\n") if (entry := _entry(line)))


def _entry(line: str) -> Entry | None:
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    marker = words.pop(0) if words[0].startswith("@") else None
    # A certificate authority signs host certificates, which paramiko does not take.
    if marker not in (None, "@revoked") or len(words) < 3:
        return None
    try:
        key = base64.b64decode(words[2], validate=True)
    except ValueError:  # binascii.Error is one; letters beyond ASCII are another
        return None
    return Entry(
        patterns=tuple(words[0].split(",")),
        kind=words[1],
        key=key,
        revoked=marker == "@revoked",
    )


def lookup(entries: tuple[Entry, ...], name: str) -> KnownKeys:
    """Find what is known of `name`: a host, or [host]:port where the port is not 22."""
    found = [entry for entry in entries if matches(entry.patterns, name)]
    revoked = {entry.key for entry in found if entry.revoked}
    return KnownKeys(
        # A key that is revoked in one file is not saved by another.
        trusted=tuple((e.kind, e.key) for e in found if not e.revoked and e.key not in revoked),
        revoked=tuple(e.key for e in found if e.revoked),
    )


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Any pattern may match, but one that is negated and matches refuses."""
    matched = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            matched = matched or _hashed_matches(pattern, name)
        elif pattern.startswith("!"):
            if _wildcard(pattern[1:], name):
                return False
        else:
            matched = matched or _wildcard(pattern, name)
    return matched


def _wildcard(pattern: str, name: str) -> bool:
    # ssh knows * and ? only; brackets mean themselves, as in [host]:port.
    escaped = pattern.lower().replace("[", "[[]")
    return fnmatch.fnmatchcase(name.lower(), escaped)


def _hashed_matches(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern.split("|")[2:4])
    except ValueError:
        return False
    # SHA-1 is what ssh's format says; it hides names, it does not secure keys.
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def name_for(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def fingerprint(key: bytes) -> str:
    """Return the key's fingerprint as ssh prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
