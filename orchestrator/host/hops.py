"""The way that ssh's configuration names: gateways to jump over, or a command to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from inventory.kinds import ADDRESS, DESTINATION, USER
from inventory.model import Host
from orchestrator.errors import HostError
from orchestrator.host.tokens import fill_in

if TYPE_CHECKING:
    from collections.abc import Mapping


# Of ssh's tokens those that it fills in here (beside %%).
TOKENS = "hknpr"


def way(
    config: Mapping[str, str], via: str | None, tokens: Mapping[str, str]
) -> tuple[list[str], str | None]:
    """Return the gateways to jump over, the first one first; or else the command to run.

    `via` (ssh's -J) wins over both. They exclude each other: the first in the file stands.
    """
    jump = via or config.get("proxyjump", "none")
    tokens = {letter: tokens[letter] for letter in TOKENS}
    if jump.lower() != "none":
        return _filled(jump, tokens, "ProxyJump").split(","), None
    command = config.get("proxycommand", "none")
    if via or command.lower() == "none":
        return [], None
    return [], _filled(command, tokens, "ProxyCommand")


def _filled(text: str, tokens: Mapping[str, str], what: str) -> str:
    """Fill in tokens, none of which a shell would take for more than a word.

    Names from the inventory were held to this allow-list already; those of the configuration
    itself (HostName, User, HostKeyAlias) were not.
    """
    for letter, value in tokens.items():
        good = (USER if letter == "r" else ADDRESS).match(value)
        if f"%{letter}" in text and (not good or value.endswith("\\")):
            raise HostError(
                f"{value!r} is not filled in for %{letter} in {what} {text}: "
                "a shell might run part of it",
                check="ssh.config",
                hint="use letters, digits and . _ - : in HostName, User and HostKeyAlias",
            )
    return fill_in(text, tokens, what)


def hop_entry(hop: str, host: Host) -> Host:
    """Return a gateway, [user@]host[:port] or a URI, as an inventory would have it.

    Of the host behind it, it has the ssh configuration alone: as ssh's own -i is not for gateways.
    """
    written = hop.removeprefix("ssh://")
    try:
        entry = Host(name="gateway", ssh=written, ssh_config=host.ssh_config)
    except ValidationError:
        raise HostError(
            f"your ssh configuration: the gateway {hop!r} in ProxyJump is not [user@]host[:port]",
            check="ssh.config",
        ) from None
    found = DESTINATION.match(written)
    if found and ":" in (found["host"] or ""):
        raise HostError(
            f"your ssh configuration: in ProxyJump an IPv6 address stands in brackets: [{hop}]",
            check="ssh.config",
        )
    return entry
