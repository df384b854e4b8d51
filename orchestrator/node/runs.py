"""The agent's side of a run: start its supervisor, stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

from . import files, processes, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

SUPERVISORS: dict[str, subprocess.Popen[bytes]] = {}  # by run folder
STOPPED: set[str] = set()  # run folders; what is stopped before it starts never does
OVER: set[str] = set()
LEASHES = threading.Lock()


def start(
    call: Call,
    folder: str,
    argv: list[str],
    env: dict[str, dict[str, str]],
    cwd: str | None,
    cookie: str,
    grace: float,
    output: str = supervisor.TORCHRUN,
) -> dict[str, Any]:
    """Start torchrun, or a setup command, under a supervisor, whose program is the body."""
    cwd = os.path.join(files.home_or_root(), os.path.expanduser(cwd)) if cwd else folder
    if not os.path.isdir(cwd):
        raise FileNotFoundError("workdir %s is no folder on this host" % cwd)
    os.makedirs(folder, mode=0o700, exist_ok=True)  # a setup command has one of its own
    spec = {
        "folder": folder,
        "argv": argv,
        "env": env,
        "cwd": cwd,
        "cookie": cookie,
        "grace": grace,
        "output": output,
    }
    # Through its stdin, as what is in env must not show in a command line.
    text = call.body + ("\nm.main(%a, 0)\n" % spec).encode("ascii")
    with LEASHES:
        if folder in STOPPED:
            raise InterruptedError("the run was stopped before it started")
        boot(folder, cookie, text)
    return {"supervisor": SUPERVISORS[folder].pid}


def boot(folder: str, cookie: str, text: bytes) -> None:
    with open(os.path.join(folder, "supervisor.log"), "ab", opener=supervisor.private) as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-I", "-S", "-c", reading(len(text))],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=files.home_or_root(),
            start_new_session=True,
        )
    assert process.stdin
    process.stdin.write(text)
    process.stdin.flush()
    SUPERVISORS[folder] = process
    threading.Thread(target=survive, args=(process, folder, cookie), daemon=True).start()


def over(folder: str) -> bool:
    """Whether a run that was started here has ended, whatever could be written about it."""
    return folder in OVER


def reading(length: int) -> str:
    """Return a program that reads exactly its own text, and leaves the rest of stdin: the leash."""
    return (
        "import os\nb=b''\n"
        "while len(b)<%d:\n d=os.read(0,%d-len(b))\n d or os._exit(1)\n b+=d\n"
        "exec(compile(b,'<supervisor>','exec'))" % (length, length)
    )


def stop(call: Call, folder: str, grace: float) -> bool:
    """Ask for the end; that it came is in the journal. A second call may shorten the grace."""
    with LEASHES:
        STOPPED.add(folder)
        process = SUPERVISORS.get(folder)
        if process is None or process.stdin is None or process.poll() is not None:
            return False
        try:
            process.stdin.write(json.dumps({"stop": grace}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return False
    return True


def survive(process: subprocess.Popen[bytes], folder: str, cookie: str) -> None:
    """Take over from a supervisor that died without its last word: end the run, and say so."""
    process.wait()
    try:
        if supervisor.last_event(folder) != "ended":
            take_over(folder, cookie)
    finally:
        OVER.add(folder)


def take_over(folder: str, cookie: str) -> None:
    survivors = processes.end_all(cookie)
    keeper = supervisor.Supervisor({"folder": folder, "cookie": cookie}, None)
    try:
        with open(os.path.join(folder, supervisor.EXIT_RECORD), encoding="utf-8") as file:
            record = json.load(file)
    except FileNotFoundError:
        keeper.finish("the supervisor died", survivors)
    else:
        keeper.note("ended", **record)  # it died between the record and the journal's line
