"""Sits above the supervisor, a subreaper like it, and becomes the supervisor should it be killed.

What the dead one had started is the guard's child from then on: its exit code is not lost, and
nothing of it escapes. A killed guard changes nothing. When both are killed at once the run goes on
alone; `down` still finds all of it.
"""

from __future__ import annotations

import os
import signal
import sys

from . import kept, processes, supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(spec: dict[str, Any]) -> None:
    """Be the guard; return when the run has ended."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    processes.become_subreaper()
    kept.hold(spec["folder"])  # with the child that is forked below
    me = os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            processes.become_subreaper()
            keeper = supervisor.Supervisor(spec, me)
            keeper.run()
            code = 0
        except BaseException as error:
            sys.stderr.write("supervisor: %r\n" % error)
        finally:
            os._exit(code)
    # For it alone: whatever else becomes our child with its death is for the one who takes over.
    _, status = os.waitpid(child, 0)
    if status:
        supervisor.Supervisor(spec, me).take_over()
