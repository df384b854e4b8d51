"""The same for programs: JSON, a line per object."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from orchestrator.events import (
    Checked,
    Event,
    Logged,
    Looked,
    encode,
)
from orchestrator.loglines import as_object
from orchestrator.screen.verdicts import SEVERITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.state import RunState


class JsonLines:
    """A sink for programs: one event per line on stdout."""

    def __call__(self, event: Event, state: RunState) -> None:
        if isinstance(event, Checked | Looked):
            return  # the checks have their own verb, and how far they are is for who watches
        sys.stdout.write(encode(event) + "\n")
        sys.stdout.flush()


class JsonLog:
    """Shows logs to programs: one line of a log as an object per line."""

    def begin(self, run: str, hosts: Sequence[str]) -> None:
        self._run = run

    def logged(self, events: Sequence[Logged]) -> None:
        objects = [as_object(self._run, event) for event in events]
        sys.stdout.write("".join(json.dumps(o, separators=(",", ":")) + "\n" for o in objects))
        sys.stdout.flush()

    def ended(self) -> None:
        """Nothing is held back here: what comes are lines."""


class JsonVerdicts:
    """A sink for programs: one verdict per line, then a summary."""

    def __call__(self, event: Event, state: RunState) -> None:
        if not isinstance(event, Checked):
            return
        for verdict in event.verdicts:
            sys.stdout.write(json.dumps(asdict(verdict), separators=(",", ":")) + "\n")
        counts = Counter(verdict.status for verdict in event.verdicts)
        sys.stdout.write(json.dumps({"summary": {s: counts[s] for s in SEVERITY}}) + "\n")
        sys.stdout.flush()
