"""What is to be run, where it is not sent along but lies on the hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.facts.shapes import mapping, text, text_or_none, whole


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What every host is to have."""

    kind: Literal["script", "module", "command"]
    target: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    top: str
    """The repository's folder there."""

    commit: str | None
    """None: there is no commit yet, or git keeps it in a way that we cannot read."""

    @classmethod
    def parse(cls, got: Any, name: str) -> Commit | str | None:  # noqa: ANN401  JSON
        if got is None or "problem" in mapping(got, name):
            return None if got is None else text(got["problem"], name)
        return cls(top=text(got["top"], name), commit=text_or_none(got["commit"], name))


@dataclass(frozen=True, kw_only=True)
class Content:
    size: int
    sha256: str
    """Of its first 10 MiB."""

    @classmethod
    def parse(cls, got: Any) -> Content | str | None:  # noqa: ANN401  JSON
        if got is None or "problem" in mapping(got, "content"):
            return None if got is None else text(got["problem"], "content")
        return cls(size=whole(got["size"], "size"), sha256=text(got["sha256"], "sha256"))


@dataclass(frozen=True, kw_only=True)
class Code:
    """Of each part a text where it could not be found out: why."""

    path: str | None = None
    """Where it was found, or looked for."""

    missing: str | None = None
    problem: str | None = None
    """Why it is not known whether it is missing."""

    content: Content | str | None = None
    """The script's, if there is one."""

    script_commit: Commit | str | None = None
    """Checked out around the script; None: it is in no repository."""

    workdir_commit: Commit | str | None = None

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Code:
        there = mapping(got["there"], "there")
        if "missing" not in there and "problem" not in there:
            raise KeyError("missing")
        return cls(
            path=text_or_none(there.get("path"), "path"),
            missing=text_or_none(there.get("missing"), "missing"),
            problem=text_or_none(there.get("problem"), "problem"),
            content=Content.parse(got["content"]),
            script_commit=Commit.parse(got["script_commit"], "script_commit"),
            workdir_commit=Commit.parse(got["workdir_commit"], "workdir_commit"),
        )
