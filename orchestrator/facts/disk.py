"""What a host's file systems are like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from orchestrator.facts.shapes import text_or_none, whole


@dataclass(frozen=True, kw_only=True)
class StateFolder:
    """What trying to write where the runs' folders go has shown."""

    asked: str
    """As the inventory has it."""

    problem: str | None = None
    late: bool = False
    """The problem is that no answer came in time."""

    free: int = 0
    total: int = 0
    """Bytes; some file systems do not tell and say 0."""

    @classmethod
    def parse(cls, asked: str, got: dict[str, Any]) -> StateFolder:
        return cls(
            asked=asked,
            problem=text_or_none(got["problem"], "problem"),
            free=whole(got.get("free", 0), "free"),
            total=whole(got.get("total", 0), "total"),
        )


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The file system on which a folder lies."""

    path: str
    mount: str = ""
    type: str = ""
    source: str = ""
    answered: bool = True
    """Without an answer in time all that follows is unknown."""

    problem: str | None = None
    broken: bool = False
    """The problem is the file system's own, whatever is asked of it."""

    there: bool = True
    """The folder itself; else this is told of the next one above it."""

    device: int = 0
    free: int = 0
    total: int = 0
    """Bytes; some file systems do not tell and say 0."""

    inodes_free: int = 0
    inodes: int = 0
    """Some have no limit and say 0."""

    read_only: bool = False
    noexec: bool = False
    refused: str | None = None
    """The name of the error at writing."""

    slow: bool = False
    """It was written to, and that did not come to an end in time."""

    @property
    def dead(self) -> bool:
        return self.broken or not self.answered

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Disk:
        disk = cls(
            path=str(got["path"]),
            mount=str(got["mount"]),
            type=str(got["type"]),
            source=str(got["source"]),
        )
        problem = got.get("problem")
        if not got.get("answered"):
            return replace(disk, answered=False, problem=str(problem))
        if problem is not None:
            return replace(disk, problem=str(problem), broken=bool(got["broken"]))
        refused = got.get("refused")
        return replace(
            disk,
            there=bool(got["there"]),
            device=int(got["device"]),
            free=int(got["free"]),
            total=int(got["total"]),
            inodes_free=int(got["inodes_free"]),
            inodes=int(got["inodes"]),
            read_only=bool(got["read_only"]),
            noexec=bool(got["noexec"]),
            refused=None if refused is None else str(refused),
            slow=bool(got.get("slow")),
        )
