"""How an answer is read: no host is trusted to make sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import DdpOrchError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def understood(parse: Callable[[dict[str, Any]], T], got: Any) -> T | str:  # noqa: ANN401  JSON, or an error
    """Read an answer; a text says why there is none."""
    if isinstance(got, DdpOrchError):
        return got.message
    try:
        return parse(got)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        return f"what it told makes no sense ({type(error).__name__}: {error})"
