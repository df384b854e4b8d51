"""What can be wrong with an inventory, as values: where it stands, what was found, what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

MOST_SHOWN = 50

PLAIN = re.compile(r"[!-~]{1,60}\Z")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,59}\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    source: str
    line: int | None = None
    """Counted from 1, as editors do; None where the source has no lines (a missing file, `-H`)."""

    column: int | None = None
    field: str = ""
    message: str
    hint: str = ""
    """What to do about it, where that is not plain from the message."""

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"
        where = f"{place}: {self.field}" if self.field else place
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class InventoryError(ValueError):
    """An inventory that cannot be used; all that is wrong with it, in the order of its lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        lines = [str(problem) for problem in problems[:MOST_SHOWN]]
        if len(problems) > MOST_SHOWN:
            lines.append(f"... and {len(problems) - MOST_SHOWN:,} more")
        super().__init__("\n".join(lines))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The problems of one source, noted as they are met."""

    source: str
    problems: list[Problem] = field(default_factory=list)

    def note(self, mark: Mark | None, path: Path, message: str, hint: str = "") -> None:
        self.problems.append(
            Problem(
                source=self.source,
                line=mark.line if mark else None,
                column=mark.column if mark else None,
                field=field_name(path),
                message=message,
                hint=hint,
            )
        )

    def error(self) -> InventoryError:
        # What a range's hosts have in common was noted once for each of them.
        once = dict.fromkeys(self.problems)
        return InventoryError(tuple(sorted(once, key=lambda p: (p.line or 0, p.column or 0))))


def field_name(path: Path) -> str:
    """Write a path as people do: hosts[0].env.NCCL_DEBUG."""
    name = ""
    for part in path:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += ("." if name else "") + (part if KEY.match(part) else shown(part))
    return name


def shown(text: str) -> str:
    """Show text inside a message, which stays one short line whatever the text holds."""
    if PLAIN.match(text):
        return text
    return ascii(text if len(text) <= 60 else text[:57] + "...")
