"""Questions to the person at the terminal, asked by hosts' threads, answered by the main one."""

from __future__ import annotations

import contextlib
import queue
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Questions:
    """Only the main thread asks: there Ctrl-C arrives, and finds the terminal put right again."""

    def __init__(self, ask: Callable[[str], str] | None = None) -> None:
        self._ask = ask
        self._waiting: queue.SimpleQueue[tuple[str, Future[str]]] = queue.SimpleQueue()

    def ask(self, prompt: str) -> str | None:
        """Wait for the answer; None where nobody can be asked."""
        if self._ask is None:
            return None
        answer: Future[str] = Future()
        self._waiting.put((prompt, answer))
        return answer.result()

    def answer(self) -> None:
        """Put what has come up to the person; called by the main thread while it waits."""
        while self._ask is not None and not self._waiting.empty():
            prompt, answer = self._waiting.get()
            said = ""  # Ctrl-D is no answer
            with contextlib.suppress(EOFError):
                said = self._ask(prompt)
            with contextlib.suppress(InvalidStateError):
                answer.set_result(said)
