"""A tree of YAML -> the plain data that the model expects, each scalar read as its field means it.

YAML 1.1 reads 010 as 8, 22:22 as 1342 and no as false. Here the model decides: where it wants text
the text stays as it is written, where it wants a number only decimal digits are one.
"""

from __future__ import annotations

import difflib
import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from inventory.kinds import MOST_ENTRIES, MOST_HOSTS
from inventory.model import Host, Job, Rendezvous
from inventory.names import entries, written_out
from inventory.problems import MOST_SHOWN, shown
from inventory.yamlsource import Listing, Refused, Scalar, Table, reading_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydantic.fields import FieldInfo

    from inventory.problems import Ledger, Path
    from inventory.yamlsource import Node

REFUSED = object()
"""Stands in the data for a value that was complained about: it keeps the others in their places."""

DEFAULTS = tuple(field for field in Host.model_fields if field not in ("name", "ssh", "addr"))
"""The fields of a host that all hosts may share."""

SECTIONS: dict[str, Collection[str]] = {
    "job": Job.model_fields,
    "defaults": DEFAULTS,
    "rendezvous": Rendezvous.model_fields,
}

ONE_OR_MORE = ("setup",)
"""Lists that may be written as their one entry alone."""

DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,99})\Z")


class Shaper:
    """Walks tree and model side by side; what it cannot shape it notes, and puts REFUSED there."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.written: list[int] = []
        """For each host which entry of the list it is written in: a range is many hosts."""

    def model(self, node: Node, path: Path, model: type[BaseModel], fields: Collection[str]) -> Any:  # noqa: ANN401  plain data, for pydantic to judge
        """Shape the entries of a mapping that are among `fields`; the others are unknown."""
        if _is_empty(node) and path[-1:] != ("sync",):
            return {}
        if not isinstance(node, Table):
            # An empty `sync:` could mean the default, to send nothing, or to send this folder.
            hint = "write {from: .}" if path[-1:] == ("sync",) else ""
            return self._wrong(node, path, "a mapping", hint)
        data = {}
        known = written_fields(model)
        for key, entry in node.entries.items():
            if key in fields:
                data[key] = self._value(entry.value, (*path, key), known[key].annotation)
            else:
                # Comparing is slow; who has so many mistakes reads the first of them anyway.
                many = len(self._ledger.problems) > MOST_SHOWN
                hint = "" if many else _did_you_mean(key, path, fields)
                self._ledger.note(entry.key, (*path, key), "unknown field", hint)
        return data

    def _value(self, node: Node, path: Path, annotation: Any) -> Any:  # noqa: ANN401
        kinds = set(_kinds(annotation))
        for kind in kinds:
            if get_origin(kind) is tuple:
                return self._listing(node, path, get_args(kind)[0])
            if get_origin(kind) is dict:
                return self._words(node, path, get_args(kind)[1])
            if issubclass(kind, BaseModel):
                return self.model(node, path, kind, tuple(written_fields(kind)))
        if not isinstance(node, Scalar):
            return self._wrong(node, path, "a single value")
        return self._scalar(node, path, kinds)

    def _scalar(self, node: Scalar, path: Path, kinds: set[Any]) -> Any:  # noqa: ANN401
        if bool in kinds:
            if node.plain and node.text in ("true", "false"):
                return node.text == "true"
            return self._wrong(node, path, "true or false")
        if int in kinds and node.plain:
            if DECIMAL.match(node.text):
                return int(node.text)
            if reading_of(node.text)[0] == "int":
                return self._wrong(node, path, "a number in plain decimal digits")
        return self._text(node, path)

    def _text(self, node: Scalar, path: Path) -> Any:  # noqa: ANN401
        if node.plain and not node.text:
            return self._refuse(node, path, "has no value", "give one, or leave it out")
        if node.plain and reading_of(node.text)[0] == "null":
            message = f"{node.text} is YAML's word for no value"
            return self._refuse(node, path, message, f'leave it out, or quote it: "{node.text}"')
        return node.text

    def _listing(self, node: Node, path: Path, item: Any) -> Any:  # noqa: ANN401
        if _is_empty(node):
            return []
        if isinstance(node, Scalar) and path[-1] in ONE_OR_MORE:
            return [self._word(node, path)]
        if isinstance(node, Scalar) and path[-1] == "secrets":
            # It may be a value, and is not said.
            return self._refuse(node, path, "must be a list", "write [NAME]")
        if not isinstance(node, Listing):
            wanted = "text or a list" if path[-1] in ONE_OR_MORE else "a list"
            return self._wrong(node, path, wanted, _as_list(node, item))
        if item is Host:
            return self._hosts(node, path)
        kinds = set(_kinds(item))
        shape = self._word if kinds == {str} else partial(self._value, annotation=item)
        return [shape(each, (*path, i)) for i, each in enumerate(node.items)]

    def _hosts(self, node: Listing, path: Path) -> list[Any]:
        hosts: list[Any] = []
        for index, each in enumerate(node.items):
            found = self._host(each, (*path, index))
            if len(hosts) + len(found) > MOST_HOSTS:
                self._refuse(each, (*path, index), f"{MOST_HOSTS:,} hosts are the most")
                break
            hosts += found
            self.written += [index] * len(found)
        return hosts

    def _words(self, node: Node, path: Path, value: Any) -> Any:  # noqa: ANN401
        if _is_empty(node):
            return {}
        if not isinstance(node, Table):
            example = "net.ping: off" if path == ("checks",) else "NAME: value"
            return self._wrong(node, path, "a mapping", f"{example}, on a line each")
        if len(node.entries) > MOST_ENTRIES:
            return self._refuse(node, path, f"must have at most {MOST_ENTRIES} entries")
        shape = self._one_of if get_origin(value) is Literal else self._word
        return {key: shape(each.value, (*path, key)) for key, each in node.entries.items()}

    def _one_of(self, node: Node, path: Path) -> Any:  # noqa: ANN401
        """Shape one of a few words as it is written; to YAML a bare `off` is a truth value."""
        if not isinstance(node, Scalar):
            hint = f"write {path[-1]}.NAME: off" if isinstance(node, Table) else ""
            return self._wrong(node, path, "a single word", hint)
        return self._text(node, path)

    def _word(self, node: Node, path: Path) -> Any:  # noqa: ANN401
        """Shape an argument or an environment value: text that a program reads in its own way."""
        if not isinstance(node, Scalar):
            # `- echo a: b`, more often than not.
            hint = "a colon before a blank wants quotes around the text"
            return self._wrong(node, path, "text", hint if isinstance(node, Table) else "")
        if node.plain and reading_of(node.text)[0] == "bool":
            # The program may want 1, true, True or yes; what a YAML reader passes on differs.
            message = f"{node.text} is a truth value to YAML, not text"
            return self._refuse(node, path, message, f'put it in quotes: "{node.text}"')
        return self._text(node, path)

    def _host(self, node: Node, path: Path) -> list[Any]:
        """Return the hosts of an entry: one, or as many as its range names."""
        if isinstance(node, Scalar):
            text = self._text(node, path)
            if text is REFUSED:
                return [REFUSED]
            try:
                return list(entries(text))
            except ValueError as error:
                return [self._refuse(node, path, str(error))]
        if not isinstance(node, Table):
            return [self._wrong(node, path, "a name or a mapping")]
        data = self.model(node, path, Host, Host.model_fields)
        return self._written_out(node, path, data)

    def _written_out(self, node: Table, path: Path, data: dict[str, Any]) -> list[Any]:
        """Write a mapping's ranges out: `name` says how many hosts, `ssh` and `addr` go along."""
        told = {
            field: self._range(node, path, field, data[field])
            for field in ("name", "ssh", "addr")
            if isinstance(data.get(field), str)
        }
        names = told.get("name")
        count = len(names or [""])
        for field, texts in told.items():
            if len(texts) == count:
                continue
            data[field] = REFUSED
            if texts and names:
                message = f"is {_count(len(texts), 'place')} for {_count(count, 'host')}"
                hint = "a range in name and one here pair up when they are as long"
                self._refuse(node.entries[field].value, (*path, field), message, hint)
        paired = {field: texts for field, texts in told.items() if len(texts) == count}
        return [{**data, **{f: texts[i] for f, texts in paired.items()}} for i in range(count)]

    def _range(self, node: Table, path: Path, field: str, text: str) -> list[str]:
        try:
            return written_out(text)
        except ValueError as error:
            self._refuse(node.entries[field].value, (*path, field), str(error))
            return []

    def _wrong(self, node: Node, path: Path, wanted: str, hint: str = "") -> object:
        if isinstance(node, Refused):
            return REFUSED
        return self._refuse(node, path, f"must be {wanted}, found {describe(node)}", hint)

    def _refuse(self, node: Node, path: Path, message: str, hint: str = "") -> object:
        self._ledger.note(node.mark, path, message, hint)
        return REFUSED


def written_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a model's fields by the keys that they have in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def describe(node: Node) -> str:
    """Say what stands in the file, and what YAML 1.1 makes of it where that would surprise."""
    if not isinstance(node, Scalar):
        return "a mapping" if isinstance(node, Table) else "a list"
    if not node.plain:
        return f"the text {node.text[:60]!a}"
    if not node.text:
        return "nothing"
    kind, value = reading_of(node.text)
    surprise = kind in ("int", "bool") and value != node.text
    return shown(node.text) + (f", which YAML 1.1 reads as {value}" if surprise else "")


def _kinds(annotation: Any) -> Iterator[Any]:  # noqa: ANN401  what typing makes of annotations
    """Take an annotation apart: Annotated[int, ...] | Literal["auto"] | None is int or str."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from (type(value) for value in get_args(annotation))
    elif origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (None, tuple, dict):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _kinds(part)


def _as_list(node: Node, item: Any) -> str:  # noqa: ANN401  what typing makes of annotations
    if not isinstance(node, Scalar):
        return "- name: gpu1, and so on for each host" if item is Host else ""
    words = re.split(r", *" if "," in node.text else r"\s+", node.text)
    if set(_kinds(item)) == {int} and not all(map(DECIMAL.match, words)):
        return "numbers, such as [0, 1]"
    plain = all(re.fullmatch(r"[A-Za-z0-9_./=+-]{1,60}", word) for word in words)
    if not plain or len(words) > 16:
        return "- and an entry on each line"
    return f"write [{', '.join(words)}]"


def _count(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"{number} {what}s"


def _is_empty(node: Node) -> bool:
    """Tell a section whose entries are not written yet, or are all commented out."""
    return isinstance(node, Scalar) and node.plain and not node.text


def _did_you_mean(key: str, path: Path, fields: Collection[str]) -> str:
    close = difflib.get_close_matches(key[:60], fields, n=1)
    if close:
        return f"did you mean {close[0]}?"
    for section, within in SECTIONS.items():
        if key in within and path[:1] != (section,):
            return f"did you mean {section}.{key}?"
    if path == ("defaults",) and key in Host.model_fields:
        return "it differs from host to host: give it there"
    return f"known here: {', '.join(fields)}"
