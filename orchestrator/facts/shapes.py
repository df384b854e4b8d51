"""What a host says is taken for what it is said to be only after a look: TypeError where not.

JSON has few kinds of values; `name` is what to call one when it is another.
"""

from __future__ import annotations

from typing import Any


def text(value: Any, name: str) -> str:  # noqa: ANN401  JSON
    if not isinstance(value, str):
        raise _wrong(value, name, "text")
    return value


def text_or_none(value: Any, name: str) -> str | None:  # noqa: ANN401  JSON
    return None if value is None else text(value, name)


def texts(value: Any, name: str) -> tuple[str, ...]:  # noqa: ANN401  JSON
    if not isinstance(value, list):
        raise _wrong(value, name, "list of texts")
    return tuple(text(item, name) for item in value)


def whole(value: Any, name: str, least: int = 0) -> int:  # noqa: ANN401  JSON
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(value, name, f"number from {least}")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:  # noqa: ANN401  JSON
    if not isinstance(value, dict):
        raise _wrong(value, name, "object")
    return value


def _wrong(value: object, name: str, wanted: str) -> TypeError:
    return TypeError(f"{name} is no {wanted}: {str(value)[:60]}")
