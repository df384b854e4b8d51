"""Which host keys ssh's own configuration has us trust, and how strictly; the inventory wins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from orchestrator.errors import HostError
from orchestrator.host.tokens import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

Strict = Literal["yes", "accept-new", "no"]
USER_FILES = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
GLOBAL_FILES = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
# `ask` is yes: nobody is asked, there is --accept-new-host-keys. `ssh -G` says true and false.
STRICT: dict[str, Strict] = {"accept-new": "accept-new", "no": "no", "off": "no", "false": "no"}


class HostKeyRules(TypedDict):
    """The fields of a Target that are about host keys."""

    known_hosts: tuple[str, ...]
    new_keys: str | None
    host_key_name: str | None
    strict: Strict
    hash_names: bool
    revoked_keys: tuple[str, ...]
    key_algorithms: tuple[str, ...] | None


def host_key_rules(known_hosts: str | None, config: Mapping[str, str]) -> HostKeyRules:
    """Read what `ssh -G` printed; `known_hosts` is the inventory's, which is then the only file.

    Passed over are UpdateHostKeys, VerifyHostKeyDNS and NoHostAuthenticationForLocalhost, without
    which we trust less and not more; and CheckHostIP, off by itself since OpenSSH 8.5: the name
    alone says which keys are right.
    """
    if known_hosts is not None:
        users, others = [expanded(known_hosts)], []
    else:
        _refuse_command(config.get("knownhostscommand", "none"))
        users = files(config.get("userknownhostsfile", USER_FILES))
        others = files(config.get("globalknownhostsfile", GLOBAL_FILES))
    algorithms = config.get("hostkeyalgorithms")
    return HostKeyRules(
        known_hosts=(*users, *others),
        new_keys=users[0] if users else None,
        host_key_name=config.get("hostkeyalias"),
        strict=STRICT.get(config.get("stricthostkeychecking", "ask"), "yes"),
        hash_names=config.get("hashknownhosts") == "yes",
        revoked_keys=tuple(files(config.get("revokedhostkeys", "none"))),
        key_algorithms=tuple(algorithms.split(",")) if algorithms else None,
    )


def _refuse_command(command: str) -> None:
    if command != "none":
        raise HostError(
            f"your ssh configuration has a KnownHostsCommand ({command}), which is not supported",
            check="ssh.config",
            hint="put the keys into a file, and name it with `known_hosts:` in the inventory",
        )


def files(value: str) -> list[str]:
    """Tell apart the files of a list that ssh printed without its quotes.

    A blank parts two files, or stands in a path: a file that exists says which. Where none does, a
    word that begins like a whole path begins one.
    """
    if value.lower() == "none":
        return []
    words = value.split(" ")
    found: list[str] = []
    while words:
        lengths = range(len(words), 0, -1)
        joined = (n for n in lengths if Path(expanded(" ".join(words[:n]))).is_file())
        count = next(joined, None) or _up_to_the_next_path(words)
        found.append(expanded(" ".join(words[:count])))
        words = words[count:]
    return found


def _up_to_the_next_path(words: list[str]) -> int:
    starts = (n for n in range(1, len(words)) if words[n].startswith(("/", "~")))
    return next(starts, len(words))
