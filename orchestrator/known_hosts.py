"""Read known_hosts files and judge keys by them, as ssh does. Pure; parsed once for all hosts.

The reference is OpenSSH's hostfile.c (what a line means) and check_host_key in its sshconnect.c
(what follows from the lines).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.certificate import key_kind

if TYPE_CHECKING:
    from collections.abc import Callable

Marker = Literal["", "@cert-authority", "@revoked"]
MARKERS: dict[str, Marker] = {m: m for m in ("@cert-authority", "@revoked")}
_BLANKS = re.compile("[ \t]+")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: for which hosts it speaks, the key, and where it stands."""

    names: str
    marker: Marker
    kind: str
    key: bytes
    file: str
    line: int

    @property
    def shared(self) -> bool:
        """Whether it speaks for more than one name: then taking it out is no small thing."""
        return any(sign in self.names for sign in ",*?!") and not self.names.startswith("|")


class KnownFile:
    """The entries of one file, found by name: 200 hosts ask, and 2,000 lines may be hashed."""

    def __init__(self, text: str, file: str = "known_hosts") -> None:
        self._exact: dict[str, list[Entry]] = {}
        self._hashed: list[tuple[bytes, bytes, Entry]] = []
        self._patterns: list[tuple[Callable[[str], bool], Entry]] = []
        self._found: dict[str, list[Entry]] = {}
        # Lines end at a newline and nowhere else: other separators are part of a comment.
        for number, line in enumerate(text.split("\n"), 1):
            if entry := _entry(line, file, number):
                self._add(entry)

    def _add(self, entry: Entry) -> None:
        names = entry.names.lower()
        if names.startswith("|"):  # the one and only name of its line
            if hashed := _salt_and_digest(entry.names):
                self._hashed.append((*hashed, entry))
        elif any(sign in names for sign in "*?!"):
            self._patterns.append((_matcher(names), entry))
        else:
            for name in set(names.split(",")):
                self._exact.setdefault(name, []).append(entry)

    def lookup(self, name: str) -> list[Entry]:
        """Return the lines that speak for a name in lower case, in their order."""
        if name not in self._found:  # it is asked for twice: which keys to ask for, and is it one
            self._found[name] = self._look_for(name)
        return self._found[name]

    def _look_for(self, name: str) -> list[Entry]:
        found = list(self._exact.get(name, ()))
        found += [entry for matches, entry in self._patterns if matches(name)]
        asked = name.encode("utf-8", "surrogateescape")
        # SHA-1 is what ssh's format says; it hides names, it does not secure keys.
        found += [
            e for salt, digest, e in self._hashed if hmac.digest(salt, asked, "sha1") == digest
        ]
        return sorted(found, key=lambda entry: entry.line)


def _entry(line: str, file: str, number: int) -> Entry | None:
    """Read a line; one that is no entry is passed over."""
    line = line.partition("\0")[0].lstrip(" \t")
    marker: Marker = ""
    if line.startswith("@"):
        # To ssh a marker ends at the first space, and at a tab only where there is no space.
        word, _, line = line.partition(" " if " " in line else "\t")
        line = line.lstrip(" \t")
        if word not in MARKERS:
            return None
        marker = MARKERS[word]
    words = _BLANKS.split(line, 3)
    if len(words) < 3 or line.startswith("#"):
        return None
    names, kind, text = words[:3]
    key = decoded(kind, text)
    if key is None:
        return None
    # What the key itself says it is: ssh takes a line with `rsa-sha2-512` for the same ssh-rsa.
    found = key_kind(key) or kind
    return Entry(names=names, marker=marker, kind=found, key=key, file=file, line=number)


def decoded(kind: str, text: str) -> bytes | None:
    """Decode a public key as files have them: its kind, then base64. None: it is none."""
    try:
        key = base64.b64decode(text.rstrip("\r"), validate=True)
    except ValueError:  # binascii.Error is one; letters beyond ASCII are another
        return None
    found = key_kind(key)
    alike = found == kind or (found == "ssh-rsa" and kind in ("rsa-sha2-256", "rsa-sha2-512"))
    return key if alike else None


def _salt_and_digest(names: str) -> tuple[bytes, bytes] | None:
    """Read `|1|salt|digest`."""
    parts = names.split("|")
    if parts[1] != "1":
        return None
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[2:])
    except ValueError:
        return None
    return (salt, digest) if len(salt) == len(digest) == 20 else None


def _matcher(names: str) -> Callable[[str], bool]:
    """Any pattern may match, but one that is negated and matches refuses."""
    patterns = names.split(",")
    wanted = _any_of([p for p in patterns if not p.startswith("!")])
    unwanted = _any_of([p[1:] for p in patterns if p.startswith("!")])
    return lambda name: bool(wanted.fullmatch(name)) and not unwanted.fullmatch(name)


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    # ssh knows * and ? only; brackets mean themselves, as in [host]:port.
    signs = {"*": ".*", "?": "."}
    texts = [
        "".join(signs.get(c) or re.escape(c) for c in re.sub(r"\*+", "*", p)) for p in patterns
    ]
    return re.compile("|".join(texts) if texts else "(?!)", re.DOTALL)


# ---- judging ----


@dataclass(frozen=True, kw_only=True)
class Known:
    """The lines that speak for a host under one name."""

    name: str
    entries: tuple[Entry, ...]

    def marked(self, marker: Marker) -> list[Entry]:
        return [entry for entry in self.entries if entry.marker == marker]


@dataclass(frozen=True, kw_only=True)
class Signed:
    """The certificate that a key came with: who signed it, and why that does not count."""

    authority: bytes
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the lines say of a key, and which ones do."""

    word: Literal["known", "new", "changed", "revoked"]
    lines: tuple[Entry, ...] = ()


def judge(known: Known, plain: Known | None, key: bytes, signed: Signed | None) -> Judgement:
    """Judge a key, or first its certificate; what ssh answers for the same lines.

    `plain` is what is known under the name without its port: ssh takes a key that stands there
    when the name with the port has none. A certificate that does not count leaves its key to be
    judged.
    """
    for certificate in (signed, None) if signed else (None,):
        found = _found(known, key, certificate)
        if found.word == "revoked":
            return found
        if found.word == "known" and not (certificate and certificate.problem):
            return found
        if found.word == "new" and plain:
            under = judge(plain, None, key, certificate)
            # Revoked under the plain name is revoked: ssh takes it for a new key, and asks.
            if under.word in ("known", "revoked"):
                return under
    return found


def _found(known: Known, key: bytes, certificate: Signed | None) -> Judgement:
    shown = {key, certificate.authority} if certificate else {key}
    if revoked := tuple(e for e in known.marked("@revoked") if e.key in shown):
        return Judgement(word="revoked", lines=revoked)
    wanted = certificate.authority if certificate else key
    lines = known.marked("@cert-authority" if certificate else "")
    if matching := tuple(entry for entry in lines if entry.key == wanted):
        return Judgement(word="known", lines=matching)
    return Judgement(word="changed" if lines else "new", lines=tuple(lines))


# ---- writing ----


def new_line(name: str, kind: str, key: bytes, salt: bytes | None) -> str:
    """Return the line for a key that is to be trusted; with a salt the name is hashed."""
    if salt is not None:
        digest = hmac.digest(salt, name.encode(), "sha1")
        name = f"|1|{_text(salt)}|{_text(digest)}"
    return f"{name} {kind} {_text(key)}\n"


def writable(name: str) -> bool:
    """Whether a line may begin with this name; ssh will not write others either."""
    return bool(name) and not re.search(r"[@?*#|'\"\\,!\s\0]", name)


def name_for(host: str, port: int) -> str:
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def fingerprint(key: bytes) -> str:
    """Return the key's fingerprint as ssh prints it."""
    return "SHA256:" + _text(hashlib.sha256(key).digest()).rstrip("=")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
