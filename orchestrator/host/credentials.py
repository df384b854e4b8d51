"""Which keys ssh's own configuration has us log in with; the inventory's key stands alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from orchestrator.errors import HostError
from orchestrator.host.tokens import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

# In ssh's own order; DSA keys, which it still looks for, no sshd of today takes.
USUAL = tuple(f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk"))
LOOKED_FOR = (*USUAL, "~/.ssh/id_xmss", "~/.ssh/id_dsa")


class Credentials(TypedDict):
    """The fields of a Target that are about proving who we are."""

    identity_files: tuple[str, ...]
    certificate_files: tuple[str, ...]
    identities_only: bool
    agent: str | None
    ask: bool


def credentials(
    identity_file: str | None, config: Mapping[str, str], tokens: Mapping[str, str]
) -> Credentials:
    """Read what `ssh -G` printed; it leaves %-tokens and ~ in the names of keys as they are.

    An agent is never forwarded, whatever ForwardAgent says: no host needs it for what we do there.
    """
    _refuse_without_keys(config)
    if identity_file is not None:
        files = [_named(identity_file)]
    else:
        files = [
            expanded(file, tokens)
            for file in config.get("identityfile", "\n".join(USUAL)).splitlines()
            if file != "none" and (file not in LOOKED_FOR or _there(expanded(file)))
        ]
    certificates = config.get("certificatefile", "none").splitlines()
    return Credentials(
        identity_files=tuple(dict.fromkeys(files)),
        certificate_files=tuple(expanded(c, tokens) for c in certificates if c != "none"),
        # A key that is named is the key to use; ssh-agent may hold so many that sshd hangs up.
        identities_only=identity_file is not None or config.get("identitiesonly") == "yes",
        agent=_agent(config.get("identityagent", "SSH_AUTH_SOCK"), tokens),
        ask=config.get("batchmode") != "yes",
    )


def _refuse_without_keys(config: Mapping[str, str]) -> None:
    methods = config.get("preferredauthentications", "publickey").split(",")
    refused = (
        "PubkeyAuthentication no"
        if config.get("pubkeyauthentication") in ("no", "false")
        else f"PreferredAuthentications {','.join(methods)}"
        if "publickey" not in methods
        else None
    )
    if refused:
        raise HostError(
            f"your ssh configuration has {refused}, and logging in with a key is all there is here",
            check="ssh.auth",
            hint="allow publickey for this host there, or set `ssh_config: none` in the inventory",
        )


def _named(identity_file: str) -> str:
    path = expanded(identity_file)
    if not _there(path):
        raise HostError(
            f"no such key: {path}", check="ssh.auth", hint="set `identity_file:` to a private key"
        )
    return path


def _there(path: str) -> bool:
    """Say whether there is such a key, or its public half, which may name a key of the agent."""
    return Path(path).is_file() or Path(f"{path}.pub").is_file()


def _agent(wanted: str, tokens: Mapping[str, str]) -> str | None:
    if wanted == "none":
        return None
    if wanted == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    if wanted.startswith("$") and not wanted.startswith("${"):
        return os.environ.get(wanted[1:]) or None
    return expanded(wanted, tokens)
