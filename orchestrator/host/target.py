"""Where a host is and how one gets in: the inventory's word over that of the user's own ssh."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from inventory.model import Host

SSH_G_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Target:
    """Everything that connecting needs."""

    name: str
    host: str
    port: int
    user: str
    identity_files: tuple[str, ...]
    """Keys to offer, in order; those that do not exist are left out."""

    use_agent: bool
    known_hosts: tuple[str, ...]
    """The first is where a new key would be written."""

    host_key_name: str | None = None
    """The name that known_hosts has it under, where that is not the host's own (HostKeyAlias)."""

    certificate_files: tuple[str, ...] = ()
    """Certificates for the keys (CertificateFile), beside those that lie next to a key."""

    identities_only: bool = False
    """Offer of the agent's keys only those that identity_files name."""

    agent: str | None = None
    """The agent's socket (IdentityAgent). None: $SSH_AUTH_SOCK, where use_agent is true."""

    strict: Literal["yes", "accept-new", "no"] = "yes"
    """What is done with a host that is not known (StrictHostKeyChecking)."""

    jumps: tuple[Target, ...] = ()
    """The gateways on the way, the first one reached from here (ProxyJump)."""

    proxy_command: str | None = None
    """A command whose stdin and stdout are the way there (ProxyCommand), tokens filled in."""

    @property
    def by_hand(self) -> str:
        """Return the command that does the same by hand."""
        port = f"-p {self.port} " if self.port != 22 else ""
        key = f"-i {self.identity_files[0]} " if self.identity_files and not self.use_agent else ""
        return f"ssh {port}{key}{self.user}@{self.host}"


def resolve(host: Host) -> Target:
    user, name, port = host.destination
    config = ask_ssh(name, host.ssh_config)
    refuse_unsupported(host.name, config)
    files = config.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    files += config.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts").split()
    return Target(
        name=host.name,
        host=config.get("hostname", name),
        port=port or int(config.get("port", 22)),
        user=user or config.get("user") or getpass.getuser(),
        identity_files=identities(host, config),
        # A key that is named is the key to use; ssh-agent may hold so many that sshd hangs up.
        use_agent=host.identity_file is None and config.get("identitiesonly") != "yes",
        known_hosts=(expanded(host.known_hosts),)
        if host.known_hosts
        else tuple(expanded(file) for file in files),
        host_key_name=config.get("hostkeyalias"),
    )


def ask_ssh(name: str, config_file: str | None) -> dict[str, str]:
    """Let ssh itself read its configuration: Include, Match and tokens are its own business.

    Without an ssh program the configuration is not read. A key that stands there more than once
    (identityfile) keeps all its values, a line each.
    """
    program = shutil.which("ssh")
    if config_file == "none" or program is None:
        return {}
    chosen = ["-F", expanded(config_file)] if config_file else []
    try:
        # The name was held to an allow-list: it cannot begin with "-" nor hold shell characters.
        run = subprocess.run(
            [program, "-G", *chosen, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SSH_G_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HostError(
            f"`ssh -G {name}` did not answer in {SSH_G_SECONDS} s",
            check="ssh.config",
            hint="look for a Match exec in your ssh configuration",
        ) from None
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["ssh -G failed"])[-1]
        raise HostError(f"ssh's own configuration: {last}", check="ssh.config")
    found: dict[str, str] = {}
    for line in run.stdout.splitlines():
        key, _, value = line.partition(" ")
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def refuse_unsupported(name: str, config: dict[str, str]) -> None:
    """Say what is not there yet, rather than connect to something else than ssh would."""
    for option in ("proxyjump", "proxycommand"):
        if config.get(option, "none") != "none":
            raise HostError(
                f"your ssh configuration reaches {name} by {option} {config[option]}, "
                "which is not supported yet",
                check="ssh.jump",
                hint="run ddp-orch on a machine that reaches the hosts directly",
            )


def identities(host: Host, config: dict[str, str]) -> tuple[str, ...]:
    if host.identity_file is not None:
        path = Path(expanded(host.identity_file))
        if not path.is_file():
            raise HostError(
                f"no such key: {path}",
                check="ssh.auth",
                hint="set `identity_file:` to a private key",
            )
        return (str(path),)
    usual = "~/.ssh/id_ed25519\n~/.ssh/id_ecdsa\n~/.ssh/id_rsa"
    named = [expanded(file) for file in config.get("identityfile", usual).splitlines()]
    return tuple(file for file in named if Path(file).is_file())


def expanded(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # ~someone who is not there: no such file, as for any other path
        return path
