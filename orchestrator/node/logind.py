"""What the system does with our processes, and what they share, when the connection is gone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

from . import facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

SECONDS = 2.0
MANAGER = (
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)
SETTINGS = ("KillUserProcesses", "KillExcludeUsers", "KillOnlyUsers", "RemoveIPC")
SESSION = re.compile(r"/session-[^/]*\.scope(/|$)", re.MULTILINE)


def ask(own: str = "/proc/self/cgroup") -> dict[str, Any] | None:
    """Return what logind is set to do at logout; None: there is no logind."""
    if not (shutil.which("busctl") and shutil.which("loginctl")):
        return None
    told = said(["busctl", "get-property", *MANAGER, *SETTINGS])
    if told is None:
        return None
    # One line each, in that order: `b true`, or `as 1 "root"`.
    values = [shlex.split(line) for line in told.splitlines()]
    if [value[:1] for value in values] != [["b"], ["as"], ["as"], ["b"]]:
        raise ValueError("busctl said %r" % told[:160])
    kills, spared, only, removes = values
    linger = said(["loginctl", "show-user", str(os.getuid()), "--property=Linger"])
    return {
        "kills": kills[1] == "true",
        "spared": spared[2:],
        "only": only[2:],
        "removes_ipc": removes[1] == "true",
        "lingers": linger is not None and linger.strip() == "Linger=yes",
        # Only what is in a session's scope goes with it; an sshd without PAM makes none.
        "in_session": bool(SESSION.search(facts.read(own))),
    }


def said(argv: Sequence[str]) -> str | None:
    """Return what a program printed; None: it had no answer."""
    try:
        ended = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError("%s did not answer in %g s" % (argv[0], SECONDS)) from error
    return ended.stdout.decode("utf-8", "replace") if ended.returncode == 0 else None
