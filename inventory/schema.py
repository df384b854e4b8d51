"""A JSON Schema of what people write, for their editors; generated from the models.

Draft 7: the language server behind VS Code's YAML extension, and most others', reads that and what
is older. The schema speaks of the file, not of the loaded values: a host may be one word, a name a
range, a section empty, and text may look like a number (editors read YAML 1.2 before they look).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from inventory.model import Host, Inventory, Job, Rendezvous, Sync
from inventory.shape import DEFAULTS, ONE_OR_MORE

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import core_schema

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
SECTIONS: dict[str, type[BaseModel]] = {"rendezvous": Rendezvous, "job": Job, "sync": Sync}

# As they are written: the models know the hosts that a range stands for.
NAMES = {
    "name": (r"^[A-Za-z0-9_\[][A-Za-z0-9_.,\[\]-]*$", "a name, or a range: `gpu[1-4]`"),
    "ssh": (r"^[^\s-]\S*$", "`[user@]host[:port]`"),
    "addr": (r"^[A-Za-z0-9_:\[][A-Za-z0-9_.:%,\[\]-]*$", "a host name or address"),
}


def schema() -> Schema:
    host = _model(Host)
    whole = _model(Inventory)
    for field, (pattern, title) in NAMES.items():
        host["properties"][field] |= {"pattern": pattern, "title": title}
    word = {key: host["properties"]["ssh"][key] for key in ("type", "pattern", "title")}
    whole["properties"]["hosts"]["items"] = {"anyOf": [word, host]}
    whole["properties"]["defaults"] = {
        "type": ["object", "null"],
        "description": "Any field of a host but name, ssh and addr, for the hosts that do not say.",
        "properties": {field: host["properties"][field] for field in DEFAULTS},
        "additionalProperties": False,
    }
    return {"$schema": DRAFT, **whole, "title": "An inventory of ddp-orch"}


def schema_text() -> str:
    return json.dumps(schema(), indent=2)


def _model(model: type[BaseModel]) -> Schema:
    """Return a model's own schema, with its sections in it rather than referred to.

    In draft 7 nothing beside a $ref counts, so that a section would lose its description.
    """
    found = model.model_json_schema(schema_generator=_AsWritten)
    found.pop("$defs", None)
    found.pop("description", None)
    for name, field in found["properties"].items():
        said = {"description": " ".join(field["description"].split())}
        if name in SECTIONS:
            # An empty `sync:` could mean two things, and is refused.
            kind = "object" if name == "sync" else ["object", "null"]
            field = {**_model(SECTIONS[name]), "type": kind}
        elif name in ONE_OR_MORE:
            field = {"anyOf": [field["items"], field]}
        found["properties"][name] = {**field, **said}
    return found


class _AsWritten(GenerateJsonSchema):
    """Writes types as they stand in a file."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        """Leave null out: a field without a value is left out, or has no value to the loader."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        found = super().default_schema(schema)
        if found.get("default", ()) in (None, [], {}):
            del found["default"]
        return found

    def str_schema(self, schema: core_schema.StringSchema) -> Schema:
        return {**super().str_schema(schema), "type": ["string", "number"]}

    def tuple_schema(self, schema: core_schema.TupleSchema) -> Schema:
        found = super().tuple_schema(schema)
        return found if found.get("minItems") else {**found, "type": ["array", "null"]}

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        """Environments, all of them: pydantic would let any other name in beside its pattern."""
        return {
            "type": ["object", "null"],
            "propertyNames": {"pattern": self.generate_inner(schema["keys_schema"])["pattern"]},
            "additionalProperties": self.generate_inner(schema["values_schema"]),
            "maxProperties": schema["max_length"],
        }
