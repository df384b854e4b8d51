"""A supervisor among those of the other nodes: tells them of the first bad end here, hears theirs.

What it hears becomes a stop of its own, just as when somebody asks for one. See peers.py.
"""

from __future__ import annotations

import os
import time

from . import peers, ray, record, star

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

# So long the head may be out of reach before that is told; and the others have to hear our end.
UNREACHED, SETTLE = 5.0, 3.0


class Company:
    """Nobody where the run has one node, or none to tell."""

    def __init__(self, spec: dict[str, Any], note: Callable[..., None]) -> None:
        self._spec: dict[str, Any] = spec.get("peers") or {}
        self._folder: str = spec["folder"]
        self._note = note
        self._peer: star.Star | ray.Ray | None = None
        self._since: float | None = None  # since when the head could have been reached
        self._was_told: bool | None = None  # whether we are connected, as it is noted

    @property
    def node(self) -> int:
        node: int = self._spec.get("node", 0)
        return node

    def begin(self, port: int = 0) -> None:
        """Listen, or look for who does; `port`: where our dead supervisor did."""
        if not self._spec:
            return
        key, names, now = self._spec["key"], self._spec["names"], time.monotonic()
        after = self._spec["lost_after"]
        if self.node == peers.HEAD:
            torchruns = self._spec.get("rendezvous_port") or 0
            head = star.Star(self._spec["address"], key, names, now, port, after, torchruns)
            self._peer = head
            self._note("listening", address=self._spec["address"], port=head.port)
            self._tell_problem(head.problem)
        else:
            self._peer = ray.Ray(self._folder, key, self.node, names, now, after)

    def _tell_problem(self, problem: str | None) -> None:
        if problem and self._was_told is not False:
            self._was_told = False
            self._note("alone", problem=problem)

    def wait(self, readable: list[int], timeout: float) -> set[int]:
        """Sleep until one of these can be read; serve the others meanwhile."""
        if self._peer is None:
            return peers.await_any(readable, [], timeout)[0]
        to_read, to_write = self._peer.fds()
        timeout = min(timeout, self._peer.timeout(time.monotonic()))
        can_read, can_write = peers.await_any([*readable, *to_read], to_write, timeout)
        now = time.monotonic()
        self._peer.ready(can_read, can_write, now)
        self._peer.tick(now)
        self._look_whether_alone(now)
        return can_read.intersection(readable)

    def _look_whether_alone(self, now: float) -> None:
        if self._peer is None or self.node == peers.HEAD or self._was_told is not None:
            return
        if self._peer.connected:
            self._was_told = True
        elif self._since is None:
            if os.path.exists(os.path.join(self._folder, record.PEERS)):
                self._since = now
        elif now > self._since + UNREACHED:
            self._tell_problem(self._peer.problem or "no answer from the head")

    def heard(self) -> dict[str, Any] | None:
        """Return the first bad end elsewhere, in the words of stop.json."""
        news = self._peer.heard() if self._peer else []
        return (
            {"why": news[0]["why"], "exit_code": news[0]["exit_code"], "by": ""} if news else None
        )

    def tell(self, why: str, exit_code: int) -> None:
        if self._peer:
            words = why.replace(self._spec["names"][self.node], peers.HOST)
            self._peer.tell({"why": words, "exit_code": exit_code, "time": time.time()})

    def leave(self, *, well: bool) -> None:
        """Stay until the others know; the run's end is written down already."""
        if self._peer is None:
            return
        if well:
            self._peer.goodbye()
        peers.settle(self._peer, SETTLE)
        self._peer.close()
