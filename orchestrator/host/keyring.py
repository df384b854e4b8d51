"""All keys there are: opened once for all hosts, and put into the order that ssh offers them in."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.host.keys import KeyFile, read_public, shortened
from orchestrator.host.sshagent import SshAgent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.host.publickey import PublicKey
    from orchestrator.host.sshagent import Held
    from orchestrator.host.target import Target


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Something to offer: a key or a certificate, and where the private half is."""

    shown: str
    public: PublicKey | None
    """None for a key that does not tell before its passphrase is known."""

    agent: SshAgent | None = None
    file: KeyFile | None = None
    signs_as: PublicKey | None = None
    """What the agent knows the key by, where that is not what is offered."""


class Keyring:
    """All keys and agents, each opened once for all hosts. Threads share it."""

    def __init__(self, ask: Callable[[str], str | None]) -> None:
        self.ask = ask
        self._files: dict[str, KeyFile] = {}
        self._certificates: dict[str, PublicKey | None] = {}
        self._agents: dict[str, SshAgent] = {}

    def asking_nobody(self) -> Keyring:
        """The same keys, as far as they are open; an agent may have others meanwhile."""
        same = copy.copy(self)
        same.ask = lambda _: None
        for agent in tuple(self._agents.values()):
            agent.look_again()
        return same

    def identities(self, target: Target) -> list[Identity]:
        files = [self._file(path) for path in target.identity_files]
        certificates = [(path, self._certificate(path)) for path in target.certificate_files]
        agent = self.agent(target)
        held = agent.held() if agent else ()
        return arranged(files, certificates, held, only=target.identities_only)

    def agent(self, target: Target) -> SshAgent | None:
        # setdefault: of two threads that come at once, one's agent is everybody's.
        return (
            self._agents.setdefault(target.agent, SshAgent(target.agent)) if target.agent else None
        )

    def _file(self, path: str) -> KeyFile:
        return self._files.get(path) or self._files.setdefault(path, KeyFile(path))

    def _certificate(self, path: str) -> PublicKey | None:
        if path not in self._certificates:
            self._certificates[path] = read_public(path)
        return self._certificates[path]


def arranged(
    files: Sequence[KeyFile],
    certificates: Sequence[tuple[str, PublicKey | None]],
    held: Sequence[Held],
    *,
    only: bool,
) -> list[Identity]:
    """Put what there is into the order of OpenSSH (pubkey_prepare in its sshconnect2.c).

    Certificates that the configuration names; the agent's keys that a file names; where those are
    not all that is wanted, its other keys; and what is in files alone.
    """
    in_files: list[Identity] = []
    for file in files:
        in_files.append(Identity(shown=file.shown, public=file.public, file=file))
        # As ssh does: one that lies beside the key counts where none is named.
        if not certificates and file.certificate:
            beside = f"{file.shown}-cert.pub"
            in_files.append(Identity(shown=beside, public=file.certificate, file=file))
    named = [Identity(shown=shortened(path), public=public) for path, public in certificates]
    others: list[Identity] = []
    for key in held:
        match = next((i for i in in_files if i.public == key.public), None)
        if match:
            in_files.remove(match)
            named.append(replace(match, agent=key.agent))
        elif not only:
            name = f"{key.comment[:60] or key.public.fingerprint} in ssh-agent"
            others.append(Identity(shown=name, public=key.public, agent=key.agent))
    everything = [*named, *others, *in_files]
    return [_with_private_half(identity, everything) for identity in everything]


def _with_private_half(identity: Identity, among: Sequence[Identity]) -> Identity:
    """Find what signs for a certificate: the key that it is about, wherever that one is."""
    if identity.public is None or not identity.public.certified:
        return identity
    plain = identity.public.plain
    for other in among:
        if plain and other.public == plain:
            return replace(identity, agent=other.agent, file=other.file, signs_as=plain)
    return identity
