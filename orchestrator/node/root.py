"""Start what a supervisor keeps: torchrun, or a setup command."""

from __future__ import annotations

import errno
import os
import subprocess

from . import processes, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def start(spec: dict[str, Any]) -> int:
    """Return its pid; nobody but the caller reaps it."""
    path = os.path.join(spec["folder"], spec["output"])
    env = merged(dict(os.environ), spec["env"])
    cookie = spec["cookie"]
    env[processes.COOKIE] = cookie
    with open(path + ".out", "ab", opener=record.private) as out, open(
        path + ".err", "ab", opener=record.private
    ) as err:
        child = subprocess.Popen(
            spec["argv"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=env,
            cwd=spec["cwd"],
            start_new_session=True,
            preexec_fn=lambda: processes.brand(cookie),
        )
    child.returncode = 0  # reaped by us; Popen need not try
    return child.pid


def merged(here: dict[str, str], env: dict[str, Any]) -> dict[str, str]:
    """Lay the run's environment over this host's: see commands.Environment for the kinds."""
    kept = {name: value for name, value in here.items() if name not in env.get("removed", ())}
    whole = dict(env["defaults"], **kept)
    whole.update(env["fixed"])
    whole.update(env.get("secrets", {}))
    for name, value in env["prepended"].items():
        parts = [value, whole.get(name)]
        whole[name] = ":".join(part for part in parts if part)
    return whole


def why_not(error: Exception, program: str) -> str:
    if not isinstance(error, OSError):
        return "%s: %s" % (program, error)
    if error.errno == errno.E2BIG:
        return "the environment and the arguments together are more than this host's kernel takes"
    named = error.filename or program
    return "%s: %s" % (named, error.strerror)
