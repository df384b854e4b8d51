"""What stands for something else in an ssh configuration: %-tokens, ~ and ${VARIABLES}."""

from __future__ import annotations

import getpass
import os
import re
import socket
from typing import TYPE_CHECKING

from orchestrator.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping


def fill_in(text: str, values: Mapping[str, str], what: str) -> str:
    """Fill in tokens, as ssh does: once, and none that it does not know. `what` is for errors."""

    def value(found: re.Match[str]) -> str:
        letter = found[1]
        if letter == "%":
            return "%"
        if letter not in values:
            raise HostError(
                f"your ssh configuration: {what} {text}: there is no token %{letter} here",
                check="ssh.config",
                hint="a % that is meant as such is written %%",
            )
        return values[letter]

    return re.sub(r"%(.?)", value, text)


def expanded(path: str, tokens: Mapping[str, str] | None = None) -> str:
    """Fill in ~, and with `tokens` these and variables; what is not known will be found missing."""
    if tokens is not None:
        path = re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), path)
        path = re.sub(r"\$\{(\w+)\}", lambda f: os.environ.get(f[1], f[0]), path)
    return os.path.expanduser(path)  # noqa: PTH111  which raises nothing


def values_of(*, name: str, host: str, port: int, user: str, alias: str | None) -> dict[str, str]:
    """Return what the %-tokens of ssh_config(5) stand for; %C and %j are nobody's keys' names."""
    here = socket.gethostname()
    return {
        "%": "%",
        "d": expanded("~"),
        "h": host,
        "i": str(os.getuid()),
        "k": alias or name,
        "L": here.partition(".")[0],
        "l": here,
        "n": name,
        "p": str(port),
        "r": user,
        "u": getpass.getuser(),
    }
