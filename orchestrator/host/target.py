"""Where a host is and how one gets in: the inventory's word over that of the user's own ssh."""

from __future__ import annotations

import getpass
import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import HostError
from orchestrator.host.credentials import credentials
from orchestrator.host.hops import hop_entry, way
from orchestrator.host.rules import host_key_rules
from orchestrator.host.sshconfig import LOOP_HINT, configuration
from orchestrator.host.tokens import expanded, values_of

if TYPE_CHECKING:
    from inventory.model import Host
    from orchestrator.host.rules import Strict

# What reaching the sshd may take, in seconds, where the configuration has no ConnectTimeout.
REACH = 8.0
MOST_GATEWAYS = 16
ONLY = ("-o", "IdentitiesOnly=yes")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Everything that connecting needs."""

    name: str = field(compare=False)  # who shares a gateway may call it differently
    host: str
    port: int
    user: str
    identity_files: tuple[str, ...]
    """Keys to offer, in order. Some may not be there; a .pub may name a key of the agent."""

    known_hosts: tuple[str, ...]
    """The files of keys to trust."""

    host_key_name: str | None = None
    """The name that known_hosts has it under, where that is not the host's own (HostKeyAlias)."""

    certificate_files: tuple[str, ...] = ()
    """Certificates for the keys (CertificateFile), beside those that lie next to a key."""

    identities_only: bool = False
    """Offer of the agent's keys only those that identity_files name."""

    agent: str | None = None
    """The agent's socket (IdentityAgent, else $SSH_AUTH_SOCK). None: there is no agent."""

    ask: bool = True
    """Whether the person at the terminal may be asked for a passphrase (BatchMode)."""

    strict: Strict = "yes"
    """What is done with a host that is not known (StrictHostKeyChecking)."""

    new_keys: str | None = None
    """Where a new key is written; None: nowhere (UserKnownHostsFile none)."""

    hash_names: bool = False
    """Whether names are written hashed (HashKnownHosts)."""

    revoked_keys: tuple[str, ...] = ()
    """Files of keys that no host may show (RevokedHostKeys)."""

    key_algorithms: tuple[str, ...] | None = None
    """How a host may prove itself, best first (HostKeyAlgorithms); None: in any way there is."""

    jumps: tuple[Target, ...] = ()
    """The gateways on the way, the first one reached from here (ProxyJump)."""

    proxy_command: str | None = None
    """A command whose stdin and stdout are the way there (ProxyCommand), tokens filled in."""

    family: str = "any"
    """Which addresses are taken (AddressFamily): any, inet or inet6."""

    bind_address: str | None = None
    """The address of this machine to connect from (BindAddress)."""

    reach: float = REACH
    """What reaching its sshd may take, in seconds (ConnectTimeout)."""

    by_hand_words: tuple[str, ...] = field(default=(), compare=False)

    @property
    def by_hand(self) -> str:
        """Return the command that does the same by hand."""
        return shlex.join(["ssh", *self.by_hand_words])

    @property
    def copying_a_key(self) -> str:
        """Return the command that puts a key there: it goes the same way."""
        return shlex.join(["ssh-copy-id", *self.by_hand_words])


def resolve(host: Host, via: str | None = None, behind: tuple[Target, ...] = ()) -> Target:
    """Say where a host is and how one gets in and there.

    `via` are the gateways that stand before it in the ProxyJump of who is reached through it: as
    ssh's -J they win over its own. `behind` are those who are reached through it.
    """
    user, name, port = host.destination
    chosen = expanded(host.ssh_config) if host.ssh_config else None
    config = configuration(name, user, port, chosen)
    refuse_unheeded(name, config)
    address = config.get("hostname", name)
    port = port or int(config.get("port", 22))
    user = user or config.get("user") or getpass.getuser()
    alias = config.get("hostkeyalias")
    tokens = values_of(name=name, host=address, port=port, user=user, alias=alias)
    timeout = config.get("connecttimeout", "none")
    target = Target(
        name=name if behind else host.name,
        host=address,
        port=port,
        user=user,
        family=config.get("addressfamily", "any"),
        bind_address=config.get("bindaddress"),
        reach=float(timeout) if timeout.isdecimal() and int(timeout) else REACH,
        by_hand_words=by_hand(host, chosen, via),
        **host_key_rules(host.known_hosts, config),
        **credentials(host.identity_file, config, tokens),
    )
    refuse_loop(target, behind)
    hops, command = way(config, via, tokens)
    return replace(target, jumps=gateways(hops, host, (*behind, target)), proxy_command=command)


def gateways(hops: list[str], host: Host, behind: tuple[Target, ...]) -> tuple[Target, ...]:
    """Resolve the gateways on the way to the last of `behind`, as ssh does.

    That is from the last hop, for which those before it are its -J, to the first one, whose own
    ProxyJump counts.
    """
    if not hops:
        return ()
    *before, last = hops
    entry = hop_entry(last, host)
    gateway = resolve(entry, ",".join(before) or None, behind)
    return (*gateway.jumps, gateway)


def refuse_loop(target: Target, behind: tuple[Target, ...]) -> None:
    trail = [(other.host, other.port, other.user) for other in behind]
    if (target.host, target.port, target.user) in trail or len(trail) > MOST_GATEWAYS:
        names = " -> ".join(other.by_hand_words[-1] for other in (*behind, target))
        raise HostError(
            f"your ssh configuration reaches {target.name} through itself: {names}",
            check="ssh.jump",
            hint=LOOP_HINT.format(name=target.name),
        )


def by_hand(host: Host, config_file: str | None, via: str | None) -> tuple[str, ...]:
    """Return what to tell ssh by hand: the inventory's words; its configuration knows the rest.

    ssh-copy-id takes the same ones, but has no -J.
    """
    user, name, port = host.destination
    words = ["-F", config_file] if config_file else []
    words += ["-o", f"ProxyJump={via}"] if via else []
    words += ["-p", str(port)] if port else []
    words += ["-i", expanded(host.identity_file), *ONLY] if host.identity_file else []
    if host.known_hosts:
        words += ["-o", f"UserKnownHostsFile={expanded(host.known_hosts)}"]
    return (*words, f"{user}@{name}" if user else name)


def refuse_unheeded(name: str, config: dict[str, str]) -> None:
    """Refuse what would make us connect in another way than ssh does.

    What concerns a session alone (RemoteCommand, RequestTTY, SessionType, forwardings) is passed
    over: we run a command of our own without a terminal, as scp does.
    """
    for option, unheeded in (
        ("proxyusefdpass", config.get("proxyusefdpass", "no") == "yes"),
        ("bindinterface", "bindinterface" in config),
    ):
        if unheeded:
            raise HostError(
                f"your ssh configuration reaches {name} with {option} {config[option]}, "
                "which is not supported",
                check="ssh.config",
                hint="BindAddress is, and ProxyCommand without it",
            )
