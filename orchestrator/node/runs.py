"""The agent's side of a run: make its folder, start its supervisor."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

from . import files, record, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call


# Nothing is made of half a program: should we end while it is sent, Python would complain of the
# line that is cut off, and that is the one with the secrets.
HEAD = 0  # the rank of the one that listens
FLAGS = ("-X", "utf8", "-I", "-S")
BOOT = "import sys;b=sys.stdin.buffer;n=int(b.readline());t=b.read(n);exec(t if len(t)==n else '')"


def prepare(call: Call, run: str, node: int, state_dir: str, told: dict[str, Any]) -> str:
    """Make the folder, private; refuse one that is there already. Return its path.

    `told` is what the controller says of the run: for the record.
    """
    entry = dict(told, run=run, node=node, version=record.VERSION, **record.here())
    entry.update(time=time.time(), supervisor=None, guard=None, root=None)
    folder = files.run_folder(run, node, state_dir)
    if not make(run, node, state_dir, record.RUN, entry):
        raise refusal(folder)
    return folder


def make(run: str, node: int, state_dir: str, name: str, first: dict[str, Any]) -> bool:
    """Make a node's folder, with its first record in it; return False where there is one.

    Who looks, and who buries it, finds all or nothing.
    """
    folder = files.run_folder(run, node, state_dir)
    base = files.base_of(state_dir)
    for place in (base, os.path.join(base, "runs"), os.path.dirname(folder)):
        # Not what is above it: a home that is not mounted must not begin to exist.
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
        files.private(place)
    made = os.path.join(os.path.dirname(folder), ".%d.%s" % (node, os.urandom(6).hex()))
    os.mkdir(made, 0o700)
    try:
        os.mkdir(os.path.join(made, "worker-logs"), 0o700)
        record.write(made, name, first)
        os.rename(made, folder)  # over an empty folder at most
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError) and os.path.lexists(folder):
            return False
        raise
    return True


def refusal(folder: str) -> OSError:
    if record.state_of(folder) == "ended" and record.read(folder, record.RUN) is None:
        return InterruptedError("the run was stopped before it started")
    # Another machine's run, of which this controller's own record does not know.
    message = "%s is there already, from another run of that name; choose another --name"
    return FileExistsError(message % folder)


def start(
    call: Call,
    folder: str,
    argv: list[str],
    env: dict[str, dict[str, str]],
    cwd: str | None,
    cookie: str,
    grace: float,
    output: str = supervisor.TORCHRUN,
    max_restarts: int | None = None,
    peers: dict[str, Any] | None = None,
) -> bool:
    """Start torchrun, or a setup command, under a supervisor, whose program is the body.

    Whoever asks again, after a lost connection, starts nothing twice.
    """
    if record.is_claimed(folder):
        return False
    # A setup command is a part of its node's run.
    node = folder if output == supervisor.TORCHRUN else os.path.dirname(os.path.dirname(folder))
    if record.read(node, record.STOP) is not None:
        raise InterruptedError("the run was stopped before it started")
    cwd = os.path.join(files.home_or_root(), os.path.expanduser(cwd)) if cwd else folder
    if not os.path.isdir(cwd):
        raise FileNotFoundError("workdir %s is no folder on this host" % cwd)
    if node != folder:
        files.make_way(node, os.path.relpath(folder, node))
    if peers and peers["node"] == HEAD:
        # Before the claim: a name server that takes its time is no supervisor that died.
        peers = dict(peers, address=looked_up(peers["address"]))
    if not record.claim(folder):
        return False
    spec = {
        "folder": folder,
        "node": node,
        "argv": argv,
        "env": env,
        "cwd": cwd,
        "cookie": cookie,
        "grace": grace,
        "output": output,
        "max_restarts": max_restarts,
        "peers": peers,
    }
    try:
        known = record.read(folder, record.RUN) or dict(record.here(), version=record.VERSION)
        known.update(cookie=cookie, began=time.monotonic())
        record.write(folder, record.RUN, dict(known, supervisor=None, guard=None, root=None))
        # Through its stdin, as what is in env must not show in a command line.
        boot(folder, call.body + ("\nm.main(%a)\n" % spec).encode("ascii"))
    except BaseException:
        os.unlink(os.path.join(folder, record.CLAIM))  # nothing was started, and that is known
        raise
    return True


def looked_up(address: str) -> str:
    """Return what a name stands for: a supervisor has no time to wait for its server."""
    if ":" in address:
        return address  # of IPv6, which may have an interface in it
    try:
        found = [str(each[4][0]) for each in socket.getaddrinfo(address, None)]
    except (OSError, ValueError):
        return address  # the supervisor says that it cannot listen there
    # A host's own name is often its loopback's as well.
    return min(found, key=lambda each: each.startswith("127.") or each == "::1")


def meet(call: Call, folder: str, address: str, port: int) -> None:
    """Tell a node's supervisor where the head's listens."""
    record.write(folder, record.PEERS, {"address": address, "port": port})


def boot(folder: str, text: bytes) -> None:
    with open(os.path.join(folder, "supervisor.log"), "ab", opener=record.private) as log:
        process = subprocess.Popen(
            # The last words are for whoever wonders, on the host, what this is.
            [sys.executable, *FLAGS, "-c", BOOT, "ddp-orch", *folder.split("/")[-2:]],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=files.home_or_root(),
            start_new_session=True,
        )
    assert process.stdin
    process.stdin.write(b"%d\n%s" % (len(text), text))
    process.stdin.close()
    # It outlives us, as a rule; should it not, no zombie may pass for a living one.
    threading.Thread(target=process.wait, daemon=True).start()
