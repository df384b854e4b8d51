"""Another node's end of what peers.py tells of: finds out where the head listens, and dials."""

from __future__ import annotations

import errno
import json
import os
import socket

from . import peers, record, sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

LOOK = 2.0
FIRST_REDIAL, LAST_REDIAL = 0.5, 60.0


class Ray(peers.Peer):
    def __init__(
        self,
        folder: str,
        key: str,
        node: int,
        names: list[str],
        now: float,
        lost_after: float = peers.LOST_AFTER,
    ) -> None:
        """`key` is this node's own: sealed.key_for(the run's, node)."""
        super().__init__(node, names, lost_after, now)
        self._place = os.path.join(folder, record.PEERS)
        self._key = key
        self._line: peers.Line | None = None
        self._heard_at: float | None = None  # None until the head was heard once
        self._told = False  # the head has our last words
        self._over = False  # there is nobody to hear any more, and nothing to say
        self._dial_at = 0.0
        self._delay = FIRST_REDIAL

    @property
    def connected(self) -> int:
        return int(self._line is not None and self._line.talk.authentic)

    @property
    def settled(self) -> bool:
        # What is new is said to somebody, or there was nobody to dial.
        nobody = self._heard_at is None and self._line is None and not self._hurry
        return self.last_words is None or self._told or self._over or nobody

    def fds(self) -> tuple[list[int], list[int]]:
        if not self._line:
            return [], []
        fd = self._line.socket.fileno()
        return [fd], [fd] if self._line.unsent else []

    def timeout(self, now: float) -> float:
        times = []
        if not self._line and not self._over:
            times.append(self._dial_at)
        if self._line and not self._line.talk.authentic:
            times.append(self._line.since + peers.AUTHENTIC_WITHIN)
        if self._waiting and self._heard_at is not None:
            times.append(self._heard_at + self.lost_after)
            if self.connected:
                times.append(self._heard_at + 2 * self.beat)
        return self._until(times, now)

    def ready(self, readable: Iterable[int], writable: Iterable[int], now: float) -> None:
        now = self._advance(now)
        line = self._line
        if not line:
            return
        fd, met = line.socket.fileno(), line.talk.met
        if fd in writable:
            line.flush()
        if fd in readable:
            for message in line.read():
                self._heard_at, self._delay, self.problem = now, FIRST_REDIAL, None
                self._take(line, message)
            if line.talk.met and not met:
                line.say({"kind": "here"})
        self._clear(now)

    def tick(self, now: float) -> None:
        now = self._advance(now)
        heard, line = self._heard_at, self._line
        if self._waiting and heard is not None and now >= heard + self.lost_after:
            self._over = True
            self._hear(self._lost(peers.HEAD))
        if line and line.talk.authentic and heard is not None:
            line.over = line.over or now >= heard + 2 * self.beat
        elif line:
            line.over = line.over or now >= line.since + peers.AUTHENTIC_WITHIN
        if self._hurry:
            self._hurry = False
            self._dial_at = now
        self._clear(now)
        if not self._line and not self._over and now >= self._dial_at:
            self._dial(now)
        if self._line and self._line.talk.met and self.last_words is not None:
            self._line.say_last(self.last_words)

    def close(self) -> None:
        self._over = True
        if self._line:
            self._line.socket.close()
            self._line = None

    @property
    def _waiting(self) -> bool:
        """Whether the head's silence would be a fault."""
        return self.last_words is None and not self._over

    def _dial(self, now: float) -> None:
        self._dial_at = now + LOOK
        sock = None
        try:
            with open(self._place, encoding="utf-8") as file:
                there = json.load(file)
            family, place = peers.numeric(there["address"], there["port"])
            sock = socket.socket(family, socket.SOCK_STREAM)
            talk = sealed.Conversation({self.node: self._key}.get, self.node)
            line = peers.Line(sock, talk, now)
            # What comes of it reading and writing will say, if it is not known at once.
            line.over = line.hung_up = sock.connect_ex(place) == errno.ECONNREFUSED
        except FileNotFoundError:
            return
        except (OSError, OverflowError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.problem = "%s: %s" % (record.PEERS, error)
            if sock:
                sock.close()
            return
        if self._heard_at is None:
            self.problem = "no answer from %s, port %d" % place[:2]
        self._line = line
        line.send(talk.hello())
        self._clear(now)

    def _take(self, line: peers.Line, message: dict[str, Any]) -> None:
        kind, news = message.get("kind"), message.get("news")
        if kind == "beat":
            line.say({"kind": "here"})
        elif kind == "got":
            self._told = True
        elif kind == "bye":
            line.say({"kind": "got"})
            self._over = True
        elif kind == "news" and isinstance(news, dict):
            line.say({"kind": "got"})
            node = news.get("node")
            if not isinstance(node, int) or not 0 <= node < len(self.names):
                node = peers.HEAD
            if not self._over:
                self._over = True
                self._hear(peers.clean(news, node))

    def _clear(self, now: float) -> None:
        if not self._line or not self._line.over:
            return
        if self._line.hung_up and self._heard_at is not None:
            self._heard_at = now  # the head's host is there, and may be silent from now on
        self._line.socket.close()
        self._line = None
        self._over = self._over or self._told
        self._dial_at = now + self._delay
        # One that was here is expected back; one that never was may be behind a firewall.
        last = self.lost_after / 8 if self._heard_at is not None else LAST_REDIAL
        self._delay = min(2 * self._delay, last)
