"""Room for what has come and nobody has taken yet: who brings more waits until there is some."""

from __future__ import annotations

import threading


class Room:
    """So many bytes, for threads that take some and one that gives them back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._less = threading.Condition()

    @property
    def free(self) -> int:
        return self._size - self._used

    def take(self, size: int, timeout: float) -> bool:
        """Say whether there is room by then. What is larger than all of it may come alone."""
        with self._less:
            if not self._less.wait_for(lambda: size <= self.free or not self._used, timeout):
                return False
            self._used += size
            return True

    def give_back(self, size: int) -> None:
        with self._less:
            before, self._used = self._used, self._used - size
            # Not at each: all who wait would wake for the room that one of them needs.
            if before > self._size // 2 >= self._used or not self._used:
                self._less.notify_all()
