"""In which ways a host may prove itself: those first that lead to a key that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.certificate import SIGNATURES, SUFFIX
from orchestrator.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.known_hosts import Entry


def offered(entries: Sequence[Entry], allowed: Sequence[str] | None) -> tuple[str, ...]:
    """Put first what leads to a known key, as ssh does: a host may have a key of each kind.

    Where an authority is known certificates come first of all; else they come last, for hosts that
    show nothing else. `allowed` is HostKeyAlgorithms: it limits, and orders what is equally good.
    """
    every = (*SIGNATURES, *(f"{name}{SUFFIX}" for name in SIGNATURES))
    usable = [name for name in allowed if name in every] if allowed else list(every)
    if not usable:
        raise HostError(
            f"your ssh configuration allows only HostKeyAlgorithms {','.join(allowed or ())}, "
            "of which none is supported",
            check="ssh.hostkey",
            hint=f"supported are: {','.join(SIGNATURES)}",
        )
    kinds = {entry.kind for entry in entries if not entry.marker}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}  # the same key, signing better
    certified = any(entry.marker == "@cert-authority" for entry in entries)

    def rank(name: str) -> int:
        if name.endswith(SUFFIX):
            return 0 if certified else 3
        return 1 if name in kinds else 2

    return tuple(sorted(usable, key=rank))
