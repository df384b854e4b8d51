"""What the user's own ssh would do: ssh is asked; where there is none, we read what it would."""

from __future__ import annotations

import shutil
import subprocess

from orchestrator.errors import HostError
from orchestrator.host.configfile import read_configuration

SSH_G_SECONDS = 10
LOOP_HINT = (
    "where ProxyJump stands under `Host *`: put `Host {name}` with `ProxyJump none` above it"
)


def configuration(
    name: str, user: str | None, port: int | None, file: str | None
) -> dict[str, str]:
    """Return ssh's options for a host, by name in lower case, in the words of `ssh -G`.

    A key that stands there more than once (identityfile) keeps all its values, a line each.
    `file` is what `ssh -F` takes. User and port, where given, win over it, as on ssh's command
    line.
    """
    if file == "none":
        return {}
    program = shutil.which("ssh")
    if program is None:
        return read_configuration(name, user, port, file)
    return ask_ssh(program, name, user, port, file)


def ask_ssh(
    program: str, name: str, user: str | None, port: int | None, file: str | None
) -> dict[str, str]:
    """Let ssh itself read its configuration: Include, Match and tokens are its own business."""
    words = [program, "-G"]
    words += ["-F", file] if file else []
    # On the command line, so that `Match user`, and %r and %p in a Match exec, see them as well.
    words += ["-l", user] if user else []
    words += ["-p", str(port)] if port else []
    try:
        # The name was held to an allow-list: it cannot begin with "-" nor hold shell characters.
        run = subprocess.run(
            [*words, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
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
        complaint = _complaint(run.stderr)
        if complaint.startswith("jumphost loop"):
            raise HostError(
                f"your ssh configuration reaches {name} through itself: {complaint}",
                check="ssh.jump",
                hint=LOOP_HINT.format(name=name),
            )
        raise HostError(f"ssh's own configuration: {complaint}", check="ssh.config")
    found: dict[str, str] = {}
    for line in run.stdout.splitlines():
        key, _, value = line.partition(" ")
        key = key.lower()
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def _complaint(stderr: str) -> str:
    """Return the line that says what is wrong: a last one only counts, "terminating, 1 bad ..."."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "terminating" not in line and "Pseudo-term" not in line]
    return (telling or lines or ["ssh -G failed"])[-1]
