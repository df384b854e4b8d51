"""Processes that could not be ended, as hosts name them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Survivor:
    """A process that could not be ended, and why."""

    pid: int
    name: str
    state: str
    uid: int | None
    why: str

    def __str__(self) -> str:
        user = "" if self.uid is None else f", uid {self.uid}"
        return f"pid {self.pid} ({self.name}, state {self.state}{user}) {self.why}".rstrip()


def survivor(row: dict[str, Any]) -> Survivor:
    """Read what a host says; raise KeyError, TypeError or ValueError where it makes no sense."""
    uid = row.get("uid")
    return Survivor(
        pid=int(row["pid"]),
        name=str(row["name"]),
        state=str(row["state"]),
        uid=None if uid is None else int(uid),
        why=str(row.get("why") or "")[:300],
    )
