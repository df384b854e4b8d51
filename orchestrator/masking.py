"""Secrets: a type that does not show its value, and the mask that all output goes through. Pure.

1. A value is a Secret from the moment it is read; only what is sent to a host reveals it.
2. Whatever is shown or recorded goes through one Mask, as hosts and workers may say a secret back.
3. What has several lines is masked line by line: output is cut into lines, and comes in parts.
4. Forms that programs print are masked too: as repr() and JSON write a value, and with the
   characters that are no text replaced.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STARS = "********"
# What is shorter stands in half of all words by chance: to mask it would blank the output, and to
# show where the blanks are would tell the value.
SHORTEST = 4
# Names that the user or the program gave, by which events are told apart: no worker's words.
STRUCTURE = frozenset(
    "id status scope host peer hosts addresses endpoint check caused_by tier run stream".split()
)

T = TypeVar("T")


class Secret:
    """A text that shows as stars wherever it is put by mistake."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value; for what goes to a host, and for the mask."""
        return self._value

    def __repr__(self) -> str:
        return STARS

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return STARS

    def __reduce__(self) -> str:
        raise TypeError("a secret is not to be stored")


class Mask:
    """Puts stars in place of secrets. Without secrets everything passes through as it is."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        forms = {form for secret in secrets for form in forms_of(secret.reveal())}
        # The longest first: one secret may begin with another.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        as_text = {form.decode("utf-8", how) for form in forms for how in DECODINGS}
        self._texts = sorted(as_text, key=lambda text: (-len(text), text))
        self._in_bytes = re.compile(b"|".join(map(re.escape, self._forms)))
        self._in_text = re.compile("|".join(map(re.escape, self._texts)))

    def __bool__(self) -> bool:
        return bool(self._forms)

    def text(self, text: str) -> str:
        """Mask a text that is whole, or was cut off somewhere: half a secret at its end as well."""
        if not self:
            return text
        masked = self._in_text.sub(STARS, text)
        half = _begun(masked.rpartition("\n")[2], self._texts)
        return masked[:-half] + STARS if half >= SHORTEST else masked

    def event(self, event: T) -> T:
        """Mask every text in an event, however deep."""
        return typing.cast("T", self._masked(event)) if self else event

    def _masked(self, value: Any) -> Any:  # noqa: ANN401  whatever an event is made of
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._masked, value))
        if isinstance(value, dict):
            return {self._masked(key): self._masked(each) for key, each in value.items()}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            changed = {
                name: self._masked(each) for name, each in fields.items() if name not in STRUCTURE
            }
            return dataclasses.replace(value, **changed)
        return value

    def stream(self) -> MaskedStream:
        return MaskedStream(self)

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """Return masked what is known to be whole, and what may be the beginning of a secret."""
        # No form has a line's end in it: most output has come to one, and need not be looked at.
        open_at = len(data) - _begun(data.rpartition(b"\n")[2], self._forms)
        done: list[bytes] = []
        at = 0
        for found in self._in_bytes.finditer(data):
            if found.start() >= open_at:
                break  # a longer one may begin in the same place
            done += [data[at : found.start()], STARS.encode()]
            at = found.end()
        open_at = max(at, open_at)
        return b"".join([*done, data[at:open_at]]), data[open_at:]


class MaskedStream:
    """Masks bytes as they come: what may be the first half of a secret waits for what follows."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._rest = b""
        self._end = 0

    def feed(self, data: bytes, offset: int = 0) -> tuple[int, bytes]:
        """Return what may be shown by now, and the offset of its beginning in the raw stream."""
        begins = offset - len(self._rest)
        self._end = offset + len(data)
        shown, self._rest = self._mask.cut(self._rest + data)
        return begins, shown

    def close(self) -> tuple[int, bytes]:
        """Return what waited in vain; half a secret at the very end is one all the same."""
        rest, self._rest = self._rest, b""
        return self._end - len(rest), STARS.encode() if len(rest) >= SHORTEST else rest


DECODINGS = ("surrogateescape", "replace", "backslashreplace")


def forms_of(value: str) -> set[bytes]:
    """List how a value may look where it is printed; never with a line's end inside."""
    written = {
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    }
    forms = {value, *value.splitlines(), *written, *(line.strip() for line in value.splitlines())}
    found = {form.encode("utf-8", "surrogateescape") for form in forms if "\n" not in form}
    return {form for form in found if len(form.strip()) >= SHORTEST}


def _begun(text: Any, forms: Iterable[Any]) -> int:  # noqa: ANN401  two texts, or two byte strings
    """How much of the text's end is the beginning of one of the forms, and not all of it."""
    most = 0
    for form in forms:
        tail = text[max(0, len(text) - len(form) + 1) :]
        at = tail.find(form[:1])
        while 0 <= at < len(tail) - most:
            if form.startswith(tail[at:]):
                most = len(tail) - at
                break
            at = tail.find(form[:1], at + 1)
    return most


def revealed(secrets: Mapping[str, Secret]) -> dict[str, str]:
    """Return the values: for what is sent to a host, through the link alone."""
    return {name: secret.reveal() for name, secret in secrets.items()}
