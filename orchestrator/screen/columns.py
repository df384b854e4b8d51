"""The columns of the table of checks, while they are made and afterwards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Column:
    heading: str
    checks: tuple[str, ...]
    """How the ids begin whose worst verdict stands there; the first column that fits has it."""

    says: tuple[str, ...] = ()
    """Of these the value that was found stands there, when all is well; else only that it is."""

    parts: tuple[str, ...] = ()
    """What it waits for of each host: how the names of those questions begin."""


COLUMNS = (
    Column(heading="ssh", checks=("ssh.",), says=("ssh.reach",), parts=("ssh",)),
    Column(heading="host", checks=("host.", "lim.", "sec."), parts=("conditions.",)),
    Column(heading="disk", checks=("fs.",), parts=("files.",)),
    Column(heading="python", checks=("env.python",), says=("env.python",), parts=("facts.",)),
    Column(
        heading="torch",
        checks=("env.torch", "env.nccl", "env.cuda"),
        says=("env.torch",),
        parts=("facts.",),
    ),
    Column(heading="code", checks=("env.",), parts=("facts.",)),
    Column(heading="GPUs", checks=("gpu.",), says=("gpu.smi", "gpu.count"), parts=("smi.",)),
    Column(heading="runs", checks=("run.",), parts=("strays.",)),
    Column(heading="network", checks=("net.", "ib."), parts=("probe.",)),
)
BETWEEN = COLUMNS[-1]
"""What is found out between the hosts, once each of them has told of itself."""


def column_of(check: str) -> Column | None:
    return next((column for column in COLUMNS if check.startswith(column.checks)), None)
