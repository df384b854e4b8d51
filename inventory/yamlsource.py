"""YAML text -> a tree that knows its lines, with all that an inventory has no use for refused.

The tree is built from PyYAML's events, not from its nodes: composed nodes no longer show anchors
and aliases, and composing recurses as deep as the text does before anyone can look.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    StreamEndEvent,
)

from inventory.problems import InventoryError, Ledger, Mark, Path, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_DEPTH = 32
MAX_VALUES = 50_000
"""Keys count too. It takes seconds to read so many, and a thousand hosts need fewer."""


@dataclass(frozen=True, kw_only=True)
class Scalar:
    text: str
    plain: bool = True
    """Written without quotes, so that YAML would have an opinion on what it means."""

    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    items: tuple[Node, ...]
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    key: Mark | None
    value: Node


@dataclass(frozen=True, kw_only=True)
class Table:
    entries: Mapping[str, Entry]
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Stands where something was refused already; nothing more is said about it."""

    mark: Mark | None = None


Node = Scalar | Listing | Table | Refused


def read_tree(text: str, ledger: Ledger) -> Node:
    """Read one document. Broken YAML raises; what is merely refused is noted in the ledger."""
    return _Reader(_events(text, ledger), ledger).document()


_RESOLVER = yaml.SafeLoader("")


@lru_cache(maxsize=1024)
def reading_of(text: str) -> tuple[str, str]:
    """Return what YAML 1.1 makes of a plain scalar: its kind (int, bool, null...) and value."""
    if len(text) > 100:
        return "str", text  # no number that anyone means; Python's int() has limits of its own
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    kind = tag.rpartition(":")[2]
    if kind not in ("int", "bool"):
        return kind, text
    try:
        value = yaml.SafeLoader("").construct_object(yaml.ScalarNode(tag, text))
    except ValueError:  # "0b_" looks like a number to YAML 1.1, and is none
        return kind, "a number"
    return kind, str(value).lower()


def _events(text: str, ledger: Ledger) -> Iterator[yaml.Event]:
    last = Mark(line=1, column=1)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            last = _mark(event.end_mark)
            yield event
    except yaml.MarkedYAMLError as error:
        message = ", ".join(part for part in (error.problem, error.context) if part)
        raise _broken(ledger, _mark(error.problem_mark), message) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
        message = f"the character {text[error.position]!a} is not allowed in YAML"
        raise _broken(ledger, mark, message) from error
    except (ValueError, OverflowError) as error:
        # PyYAML hands "\UFFFFFFFF" and the digits of "%YAML 1.999..." to chr and int as they are.
        raise _broken(ledger, last, "an escape or a number after this cannot be read") from error


def _broken(ledger: Ledger, mark: Mark, message: str) -> InventoryError:
    """Say what YAML cannot read, alone: what was noted before it may be the same mistake."""
    hint = ""
    if "'\\t'" in message:
        hint = "indent with spaces, not tabs"
    elif any(sign in message for sign in ("cannot start any token", "an alias", "but got '['")):
        hint = "put the text in quotes"
    elif "expected <block end>" in message:
        hint = "entries of one list or mapping begin in the same column"
    elif "but got '<stream end>'" in message:
        hint = "a [ or { is not closed"
    alone = Ledger(source=ledger.source)
    alone.note(mark, (), " ".join(message.split()), hint)
    return alone.error()


def _mark(mark: object) -> Mark:
    line, column = getattr(mark, "line", 0), getattr(mark, "column", 0)
    return Mark(line=line + 1, column=column + 1)


class _Reader:
    """Turns the events of one document into a tree, noting what is refused on the way."""

    def __init__(self, events: Iterator[yaml.Event], ledger: Ledger) -> None:
        self._events = events
        self._ledger = ledger
        self._values = 0

    def document(self) -> Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), StreamEndEvent):
            self._ledger.note(None, (), "is empty", "an inventory names at least its hosts")
            return Refused()
        tree = self._node(next(self._events), ())
        next(self._events)  # the document's end
        after = next(self._events)
        if isinstance(after, DocumentStartEvent):
            mark = _mark(after.start_mark)
            self._ledger.note(mark, (), "a second document begins here", "a file is one inventory")
        return tree

    def _node(self, event: yaml.Event, path: Path, depth: int = 1) -> Node:
        mark = _mark(event.start_mark)
        if depth > MAX_DEPTH:
            raise _broken(self._ledger, mark, f"nested more than {MAX_DEPTH} deep")
        self._values += 1
        if self._values > MAX_VALUES:
            raise _broken(self._ledger, mark, f"holds more than {MAX_VALUES:,} values")
        if isinstance(event, AliasEvent):
            self._ledger.note(
                mark, path, f"the alias *{shown(event.anchor or '')} is refused", "write it out"
            )
            return Refused(mark=mark)
        self._refuse_anchor(event, mark, path)
        node = self._content(event, mark, path, depth)
        tag = getattr(event, "tag", None)
        if tag is not None:
            written = shown(tag.replace("tag:yaml.org,2002:", "!!"))
            self._ledger.note(mark, path, f"the tag {written} is refused", "leave it out")
            return Refused(mark=mark)
        return node

    def _content(self, event: yaml.Event, mark: Mark, path: Path, depth: int) -> Node:
        if isinstance(event, MappingStartEvent):
            return self._table(mark, path, depth)
        if isinstance(event, CollectionStartEvent):
            return Listing(items=tuple(self._items(path, depth)), mark=mark)
        assert isinstance(event, ScalarEvent)  # the parser knows no other kind
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self._ledger.note(mark, path, "half of a surrogate pair is no character")
            return Refused(mark=mark)
        return Scalar(text=event.value, plain=event.style is None, mark=mark)

    def _refuse_anchor(self, event: yaml.Event, mark: Mark, path: Path) -> None:
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self._ledger.note(
                mark, path, f"the anchor &{shown(event.anchor)} is refused", "leave it out"
            )

    def _items(self, path: Path, depth: int) -> Iterator[Node]:
        for index, event in enumerate(self._until_end()):
            yield self._node(event, (*path, index), depth + 1)

    def _table(self, mark: Mark, path: Path, depth: int) -> Table:
        entries: dict[str, Entry] = {}
        for event in self._until_end():
            key = self._key(event, path, depth)
            if key is None:
                self._skip(depth)
                continue
            entry = Entry(
                key=_mark(event.start_mark),
                value=self._node(next(self._events), (*path, key), depth + 1),
            )
            first = entries.setdefault(key, entry)
            if first is not entry and first.key:
                message = f"stands here a second time; the first is on line {first.key.line}"
                self._ledger.note(entry.key, (*path, key), message)
        return Table(entries=entries, mark=mark)

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        mark = _mark(event.start_mark)
        node = self._node(event, path, depth + 1)
        if isinstance(node, Scalar) and node.plain and node.text == "<<":
            self._ledger.note(mark, path, "the merge key << is refused", "write the entries out")
            return None
        if isinstance(node, Scalar):
            return node.text
        if not isinstance(node, Refused):
            self._ledger.note(mark, path, "a key must be a word", "a { may want quotes")
        return None

    def _skip(self, depth: int) -> None:
        """Pass over the value of a refused key: what is wrong with it does not matter now."""
        noted = len(self._ledger.problems)
        self._node(next(self._events), (), depth + 1)
        del self._ledger.problems[noted:]

    def _until_end(self) -> Iterator[yaml.Event]:
        for event in self._events:
            if isinstance(event, CollectionEndEvent):
                return
            yield event
