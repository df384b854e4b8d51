"""Paths on this machine as people write them, ~ and $VAR included -> absolute ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

from inventory.problems import shown

VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}|)")


def located(text: str, folder: Path) -> str:
    """Fill in ~ and variables; what is relative starts at `folder`. A ValueError says why not."""
    path = Path(VARIABLE.sub(_value, text))
    # As in a shell, a ~ that a variable brings along is none.
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:  # how pathlib says that there is no such user
            user = shown(str(path).split("/")[0])
            raise ValueError(f"{user} has no home folder on this machine") from None
    return str(folder / path)


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    if name is None:
        raise ValueError(f"{shown(found.string)} has a $ that is neither $NAME nor ${{NAME}}")
    value = os.environ.get(name)
    if not value:
        state = "not set" if value is None else "empty"
        raise ValueError(f"${name} is {state} in this machine's environment")
    return value
