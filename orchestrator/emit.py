"""Hands each event on: to the state, and to everyone who shows or records, masked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.events import (
    Detached,
    Ended,
    Event,
    GaveUp,
    Logged,
    NodeEnded,
    SetupEnded,
    Warned,
)
from orchestrator.masking import Mask
from orchestrator.state import RunState, fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.masking import MaskedStream

    Sink = Callable[[Event, RunState], None]
    Keeper = Callable[[Logged], None]


class Emitter:
    """Masks each event, folds it into the state and hands both to the sinks.

    What a worker wrote goes as it came to `keep` alone, which has a private file for it.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        mask: Mask | None = None,
        keep: Keeper | None = None,
        state: RunState | None = None,
    ) -> None:
        self.state = state or RunState()
        self._sinks = list(sinks)
        self._mask = MaskedLogs(mask or Mask())
        self._keep = keep
        self.unread = False
        """Whether the reader of the output has gone, as `head` and a pager do."""

        self.all_kept = True
        """Whether `keep` has taken all that it was given."""

    def __call__(self, event: Event) -> None:
        if self._keep and isinstance(event, Logged):
            try:
                self._keep(event)
            except OSError as error:
                self._keep, self.all_kept = None, False
                self._told_no_more(error)
        for shown in self._mask(event):
            self._emit(shown)

    def _emit(self, event: Event) -> None:
        self.state = fold(self.state, event)
        for sink in list(self._sinks):
            try:
                sink(event, self.state)
            except OSError as error:
                # A full disk or a closed pager ends the telling, not the run.
                self._sinks.remove(sink)
                self.unread = self.unread or isinstance(error, BrokenPipeError)
                self._told_no_more(error)

    def _told_no_more(self, error: OSError) -> None:
        what = f"{error.filename or 'output'}: {error.strerror or error}"
        self(Warned(message=f"{what}; no more is written there"))


class MaskedLogs:
    """Masks events one by one, and logs as the streams that they are parts of."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._streams: dict[Logged, MaskedStream] = {}

    def __call__(self, event: Event) -> Iterator[Event]:
        if not self._mask:
            yield event
            return
        if isinstance(event, Logged):
            # What it is a part of: the event without what differs from part to part.
            whole = replace(event, data=b"", offset=0)
            stream = self._streams.setdefault(whole, self._mask.stream())
            yield from _shown(whole, *stream.feed(event.data, event.offset))
            return
        if isinstance(event, NodeEnded | GaveUp | SetupEnded | Ended | Detached):
            yield from self.closed(None if isinstance(event, Ended | Detached) else event.node)
        yield self._mask.event(event)

    def closed(self, node: int | None) -> Iterator[Event]:
        """What was held back for the rest of a secret: there is no rest."""
        for whole in [w for w in self._streams if node in (None, w.node)]:
            yield from _shown(whole, *self._streams.pop(whole).close())


def _shown(whole: Logged, offset: int, data: bytes) -> Iterator[Event]:
    if data:
        yield replace(whole, offset=offset, data=data)
