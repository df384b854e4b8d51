"""Every field of an inventory as Markdown tables: what it takes, its default, what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from inventory.schema import schema

if TYPE_CHECKING:
    from inventory.schema import Schema

DEFAULT = re.compile(r"\s*Default: (.*?)\.(?= [A-Z]|\Z)")
# Markdown has a meaning of its own for ~ and $.
SIGNED = re.compile(r"(?<![`\w])[~$][\w./-]*\w|(?<![`\w])~")


def field_tables() -> str:
    whole = schema()
    job = whole["properties"]["job"]
    titles = {
        "An inventory:": whole,
        "A host that is a mapping, and `defaults` but for `name`, `ssh` and `addr`:": whole[
            "properties"
        ]["hosts"]["items"]["anyOf"][1],
        "`rendezvous`:": whole["properties"]["rendezvous"],
        "`job`:": job,
        "`job.sync`:": job["properties"]["sync"],
    }
    return "\n\n".join(f"{title}\n\n{_table(section)}" for title, section in titles.items())


def _table(section: Schema) -> str:
    lines = ["| field | takes | default | |", "|---|---|---|---|"]
    for name, field in section["properties"].items():
        said = SIGNED.sub(r"`\g<0>`", field["description"])
        found = DEFAULT.search(said)
        default = "required" if name in section.get("required", ()) else _default(field)
        cells = (
            f"`{name}`",
            _takes(field),
            found[1] if found else default,
            DEFAULT.sub("", said).strip(),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _takes(field: Schema) -> str:
    if "title" in field and "properties" not in field:
        return str(field["title"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_takes(each) for each in field["anyOf"]))
    if "enum" in field or "const" in field:
        words = field.get("enum") or [field["const"]]
        return ", ".join(f"`{word}`" for word in words)
    kind = field["type"] if isinstance(field["type"], str) else field["type"][0]
    if kind == "integer":
        return f"a number from {field['minimum']} to {field['maximum']}"
    if kind == "object":
        values = field.get("additionalProperties")
        if isinstance(values, dict) and "enum" in values:
            return f"ids or groups of checks, each with {_takes(values)}"
        return "a section" if "properties" in field else "names and values"
    return {"array": "a list", "boolean": "`true`, `false`"}.get(kind, "text")


def _default(field: Schema) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
