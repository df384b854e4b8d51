"""Public keys and certificates, as files, agents and hosts have them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from orchestrator import certificate, known_hosts


@dataclass(frozen=True)
class PublicKey:
    """What a host is shown: a public key, or a certificate that has one in it."""

    kind: str
    blob: bytes

    @property
    def certified(self) -> bool:
        return self.kind.endswith(certificate.SUFFIX)

    @property
    def plain(self) -> PublicKey | None:
        """Return the key itself; None for a certificate that cannot be read."""
        if not self.certified:
            return self
        try:
            return public_key(certificate.parse(self.blob).key)
        except ValueError:
            return None

    @property
    def fingerprint(self) -> str:
        return known_hosts.fingerprint((self.plain or self).blob)

    def limits(self, now: float) -> str:
        """Say for whom and until when a certificate is good."""
        try:
            read = certificate.parse(self.blob)
        except ValueError:
            return "a certificate that cannot be read"
        said = f"a certificate for {certificate.shown(read.principals) or 'nobody'}"
        if read.type != certificate.USER_TYPE:
            said += ", which is a host's and not a user's"
        if now < read.valid_after:
            said += f", not valid before {certificate.when(read.valid_after)}"
        if now >= read.valid_before:
            said += f", expired at {certificate.when(read.valid_before)}"
        return said


def public_key(blob: bytes) -> PublicKey:
    """Raise a ValueError for what is none."""
    return PublicKey(certificate.Reader(blob).string().decode("ascii"), blob)


def parse_public(data: bytes) -> PublicKey | None:
    """Read the first public key of a .pub file; None where there is none."""
    for line in data.splitlines():
        kind, _, rest = line.strip().partition(b" ")
        try:
            key = public_key(base64.b64decode(rest.split(b" ", 1)[0], validate=True))
            if key.kind.encode() == kind:
                return key
        except ValueError:
            continue
    return None
