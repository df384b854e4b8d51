"""Read ssh's configuration files where there is no ssh program to ask (a container, say).

Not with paramiko's reader: it passes over `Include`, takes a `Match` that it does not know for one
that fits every host, and runs a `Match exec`. Here, what cannot be answered as ssh would is
refused, with file and line; and only where it matters for the host that is asked for.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import HostError
from orchestrator.host.patterns import argv_split, fits_any, match_words
from orchestrator.host.tokens import expanded, fill_in, values_of

if TYPE_CHECKING:
    from typing import NoReturn

SYSTEM = "/etc/ssh/ssh_config"
MOST_DEPTH = 16  # of Include, as ssh has it
# Their value is the rest of the line, quotes and all.
RAW = "proxycommand proxyjump localcommand remotecommand knownhostscommand".split()
LISTS = "identityfile certificatefile".split()
# How `ssh -G` writes what has several spellings.
SPELLINGS = {
    "identitiesonly": {"true": "yes", "false": "no"},
    "proxyusefdpass": {"true": "yes", "false": "no"},
    "stricthostkeychecking": {"yes": "true", "no": "false", "off": "false"},
    "addressfamily": {},
}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Place:
    """Where in the files we are, for errors."""

    file: str
    line: int

    def refuse(self, why: str) -> NoReturn:
        raise HostError(
            f"{self.file}:{self.line}: {why}",
            check="ssh.config",
            hint="install the ssh program, which is then asked; or set `ssh_config:` to a file "
            "without that, or to none",
        )


@dataclass
class Answer:
    """What was found so far: the first value of each option stands."""

    asked: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def hostname(self) -> str:
        return fill_in(self.options.get("hostname", "%h"), {"h": self.asked}, "HostName")

    @property
    def user(self) -> str:
        return self.options.get("user") or getpass.getuser()

    def take(self, key: str, value: str) -> None:
        if key in LISTS and key in self.options:
            self.options[key] += f"\n{value}"
        elif key == "proxyjump" and "proxycommand" in self.options:
            pass  # the first of the two wins, be it a `none`
        elif key == "proxycommand" and self.options.get("proxyjump", "none") != "none":
            pass  # here a `none` does not
        else:
            self.options.setdefault(key, value)


def read_configuration(
    name: str, user: str | None, port: int | None, file: str | None
) -> dict[str, str]:
    answer = Answer(name)
    if user:
        answer.take("user", user)
    if port:
        answer.take("port", str(port))
    if file is not None:  # as with ssh -F, the one of the system is not read then
        _read(Path(file), answer, users=True, depth=0)
    else:
        own = Path("~/.ssh/config").expanduser()
        if own.exists():
            _refuse_unsafe(own)
            _read(own, answer, users=True, depth=0)
        if Path(SYSTEM).exists():
            _read(Path(SYSTEM), answer, users=False, depth=0)
    hostname = answer.hostname.lower()
    answer.options |= {"host": name, "hostname": hostname, "user": answer.user}
    answer.options.setdefault("port", "22")
    if files := answer.options.get("userknownhostsfile"):
        tokens = values_of(
            name=name,
            host=hostname,
            port=int(answer.options["port"]),
            user=answer.user,
            alias=answer.options.get("hostkeyalias"),
        )
        known = fill_in(files, tokens, "UserKnownHostsFile")
        answer.options["userknownhostsfile"] = known
    return answer.options


def _read(path: Path, answer: Answer, *, users: bool, depth: int, applies: bool = True) -> None:
    """Read a file. Where what includes it does not apply, nothing in it does."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise HostError(
            f"cannot read your ssh configuration {path}: {error.strerror}", check="ssh.config"
        ) from None
    active = applies
    for number, line in enumerate(text.split("\n"), 1):
        here = Place(str(path), number)
        found = re.match(r'\s*"?([^\s"=]+)"?\s*=?\s*(.*?)\s*\Z', line, re.DOTALL)
        if not found or found[1].startswith("#"):
            continue
        key, rest = found[1].lower(), found[2]
        words = [rest] if key in RAW else argv_split(rest)
        if words is None or (not words and key != "match") or words == [""]:
            here.refuse(f"{found[1]} has no value that can be read")
        elif key == "host":
            active = applies and fits_any(words, answer.asked)
        elif key == "match":
            active = applies and _match_fits(rest, answer, here)
        elif key == "include":
            if depth == MOST_DEPTH:
                here.refuse(f"Include is nested more than {MOST_DEPTH} deep")
            for included in _included(words, users, here):
                _read(included, answer, users=users, depth=depth + 1, applies=active)
        elif active:
            answer.take(key, _value(key, words, here))


def _value(key: str, words: list[str], here: Place) -> str:
    """Return an option's value as `ssh -G` writes it."""
    value = " ".join(words)
    if key in SPELLINGS:
        value = SPELLINGS[key].get(value.lower(), value.lower())
    elif key == "port":
        if not value.isdecimal() or not 1 <= int(value) <= 65535:
            here.refuse(f"Port {value} is no number of a port")
    elif key == "connecttimeout":
        value = _seconds(value, here)
    elif key == "canonicalizehostname" and value.lower() not in ("no", "false"):
        here.refuse("CanonicalizeHostname cannot be heeded without the ssh program")
    elif key in ("user", "hostname") and "${" in value:
        here.refuse(f"{value}: variables cannot be filled in without the ssh program")
    elif key == "user" and "%" in value:
        here.refuse(f"{value}: tokens cannot be filled in without the ssh program")
    return value


def _seconds(value: str, here: Place) -> str:
    if value.lower() == "none":
        return "none"
    parts = re.findall(r"(\d+)([smhdw]?)", value.lower())
    if "".join(number + unit for number, unit in parts) != value.lower():
        here.refuse(f"{value} is no time")
    return str(sum(int(number) * SECONDS[unit] for number, unit in parts))


def _match_fits(rest: str, answer: Answer, here: Place) -> bool:
    """Judge what can be judged first: what cannot be only matters where all else fits."""
    words = match_words(rest)
    asked, name, user = answer.asked.lower(), answer.hostname.lower(), answer.user
    known = {
        "host": lambda patterns: fits_any(patterns.lower().split(","), name),
        "originalhost": lambda patterns: fits_any(patterns.lower().split(","), asked),
        "user": lambda patterns: fits_any(patterns.split(","), user),
        "localuser": lambda patterns: fits_any(patterns.split(","), getpass.getuser()),
    }
    fits, unknown = True, None
    if words and [word.lower() for word in words] == ["all"]:
        return True
    while words:
        word = words.pop(0).lower()
        negated, criterion = word.startswith("!"), word.lstrip("!")
        if criterion in known and words:
            patterns = words.pop(0)
            fits = fits and known[criterion](patterns) != negated
        elif criterion in ("exec", "localnetwork", "tagged", "version", "sessiontype", "command"):
            unknown = unknown or criterion
            del words[:1]
        elif criterion in ("final", "canonical"):
            unknown = unknown or criterion
        else:
            here.refuse(f"Match {criterion} is not understood")
    if fits and unknown:
        here.refuse(f"Match {unknown} cannot be judged without the ssh program")
    return fits


def _included(words: list[str], users: bool, here: Place) -> list[Path]:
    """Expand what an Include names: relative to ~/.ssh, in the system's file to /etc/ssh."""
    found = []
    for word in words:
        if "${" in word or "%" in word:
            here.refuse(f"Include {word}: what stands for something else is not filled in here")
        base = Path("~/.ssh").expanduser() if users else Path(SYSTEM).parent
        pattern = str(base / (expanded(word) if users else word))
        for match in sorted(glob.glob(pattern)):  # noqa: PTH207  an absolute pattern
            if Path(match).exists():  # and is no link to nowhere
                _refuse_unsafe(Path(match))
                found.append(Path(match))
    return found


def _refuse_unsafe(path: Path) -> None:
    """Refuse what others could have written: a ProxyCommand in it would run as us."""
    state = path.stat()
    if state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022:
        raise HostError(
            f"bad owner or permissions on {path}: others can write to it",
            check="ssh.config",
            hint=f"chmod go-w {shlex.quote(str(path))}",
        )
