"""What can go wrong, as the user is told of it.

DdpOrchError                 1
├── UsageError               2    the command line, the inventory, a file named there
├── PreflightFailed          3    a check failed; nothing was started
├── HostError                4    a host cannot be reached or trusted; `check` says how
│   ├── AgentFailed               logged in, but the agent did not come up
│   └── LinkLost                  it was there and is not any more
├── NoSuchRun              102    neither here nor on the hosts that were asked
└── RequestFailed          100    the agent was asked for something and could not do it

An error is one line saying what and where, and a hint, one line saying what to do.
"""

from __future__ import annotations

from typing import ClassVar

OK = 0
INTERNAL = 1
USAGE = 2
PREFLIGHT = 3
HOST = 4
JOB_FAILED = 100
STILL_RUNNING = 101
NO_SUCH_RUN = 102
CANCELLED = 103
INTERRUPTED = 130


class DdpOrchError(Exception):
    exit_code: ClassVar[int] = INTERNAL

    def __init__(self, message: str, *, hint: str | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.host = host

    def __str__(self) -> str:
        return f"{self.host}: {self.message}" if self.host else self.message


class UsageError(DdpOrchError):
    exit_code = USAGE


class PreflightFailed(DdpOrchError):
    exit_code = PREFLIGHT


class HostError(DdpOrchError):
    exit_code = HOST

    def __init__(
        self, message: str, *, check: str, hint: str | None = None, host: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, host=host)
        self.check = check


class AgentFailed(HostError):
    pass


class LinkLost(HostError):
    pass


class NoSuchRun(DdpOrchError):
    exit_code = NO_SUCH_RUN


class RequestFailed(DdpOrchError):
    exit_code = JOB_FAILED
