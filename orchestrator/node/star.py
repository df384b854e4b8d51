"""The head's end of what peers.py tells of: listens, and spreads what it hears."""

from __future__ import annotations

import socket

from . import peers, sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

# Strangers at once; the oldest goes. Arrivals in a second: a flood must not take the job's CPU.
STRANGERS, ARRIVALS = 16, 64
LISTEN_AGAIN = 2.0


class Star(peers.Peer):
    def __init__(
        self,
        address: str,
        key: str,
        names: list[str],
        now: float,
        port: int = 0,
        lost_after: float = peers.LOST_AFTER,
        avoided: int = 0,
    ) -> None:
        """Listen at once, on a free port if none is given; where that fails `problem` says why.

        A given port is tried for again and again: those who were connected know no other. One is
        `avoided`: it seems free, but torchrun will want it.
        """
        super().__init__(peers.HEAD, names, lost_after, now)
        self.address = address
        self.port = port
        self._avoided = avoided
        self.others = [node for node in range(len(names)) if node != peers.HEAD]
        self._keys = {node: sealed.key_for(key, node) for node in self.others}
        self._listener: socket.socket | None = None
        self._listen_at = self._beat_at = 0.0
        self._arrivals, self._second = 0, 0.0  # counted from then on; when it is to come: a pause
        self._strangers: list[peers.Line] = []  # the oldest first
        self._lines: dict[int, peers.Line] = {}  # by rank
        # When they were last heard: those that were here, and have not ended since.
        self._heard_at: dict[int, float] = {}
        self._told: set[int] = set()  # who need not be told of the end any more
        self._listen(0.0)

    @property
    def connected(self) -> int:
        return len(self._lines)

    @property
    def settled(self) -> bool:
        return self.last_words is None or self._told.issuperset(self._heard_at)

    def fds(self) -> tuple[list[int], list[int]]:
        lines = [*self._strangers, *self._lines.values()]
        to_read = [line.socket.fileno() for line in lines]
        if self._listener and self._second <= self._awake:
            to_read.append(self._listener.fileno())
        return to_read, [line.socket.fileno() for line in lines if line.unsent]

    def timeout(self, now: float) -> float:
        times = [self._beat_at] if self._lines else []
        times += [line.since + peers.AUTHENTIC_WITHIN for line in self._strangers[:1]]
        if self.last_words is None:
            times += [heard + self.lost_after for heard in self._heard_at.values()]
        if self._listener and self._second > self._awake:
            times.append(self._second)
        if not self._listener and self.port:
            times.append(self._listen_at)
        return self._until(times, now)

    def ready(self, readable: Iterable[int], writable: Iterable[int], now: float) -> None:
        now = self._advance(now)
        for line in [*self._strangers, *self._lines.values()]:
            if line.socket.fileno() in writable:
                line.flush()
            if line.socket.fileno() in readable:
                self._read(line, now)
        if self._listener and self._listener.fileno() in readable:
            self._accept(self._listener, now)
        self._clear()

    def tick(self, now: float) -> None:
        now = self._advance(now)
        if not self._listener and self.port and now >= self._listen_at:
            self._listen(now)
        for line in self._strangers:
            line.over = line.over or now >= line.since + peers.AUTHENTIC_WITHIN
        for node, heard in list(self._heard_at.items()):
            if self.last_words is None and now >= heard + self.lost_after:
                del self._heard_at[node]
                self._spread(self._lost(node))
        if now >= self._beat_at:
            self._beat_at = now + self.beat
            for line in self._lines.values():
                line.say({"kind": "beat"})
        if self.last_words is not None:
            self._hurry = False
            for node, line in self._lines.items():
                if node not in self._told:
                    line.say_last(self.last_words)
        self._clear()

    def close(self) -> None:
        for line in [*self._strangers, *self._lines.values()]:
            line.over = True
        self._clear()
        if self._listener:
            self._listener.close()
            self._listener = None

    def _listen(self, now: float) -> None:
        self._listen_at = now + LISTEN_AGAIN
        try:
            family, place = peers.numeric(self.address, self.port)
            listener = listening(family, place)
            if not self.port and listener.getsockname()[1] == self._avoided:
                with listener:  # as long as it listens, the kernel gives another port
                    listener = listening(family, place)
        except (OSError, ValueError) as error:
            self.problem = "cannot listen on %s: %s" % (self.address, error)
            return
        self.problem = None
        self._listener = listener
        self.port = listener.getsockname()[1]

    def _accept(self, listener: socket.socket, now: float) -> None:
        if now >= self._second + 1.0:
            self._second, self._arrivals = now, 0
        try:
            for _ in range(STRANGERS):
                sock, _ = listener.accept()
                talk = sealed.Conversation(self._keys.get)
                self._strangers.append(peers.Line(sock, talk, now))
                self._arrivals += 1
        except BlockingIOError:
            pass  # these were all
        except OSError:  # no descriptors, say: they will not be there at once
            self._arrivals = ARRIVALS
        for line in self._strangers[:-STRANGERS]:
            line.over = True
        if self._arrivals >= ARRIVALS:
            self._second, self._arrivals = now + 1.0, 0

    def _read(self, line: peers.Line, now: float) -> None:
        met = line.talk.met
        for message in line.read():
            node = line.talk.node
            assert node is not None
            if line in self._strangers:
                self._welcome(line, node, now)
            if node in self._heard_at:
                self._heard_at[node] = now
            self._take(line, node, message)
        if line.talk.met and not met:
            line.send(line.talk.hello())

    def _welcome(self, line: peers.Line, node: int, now: float) -> None:
        """Let one of us in. If he was here already, the old connection is a dead one."""
        self._strangers.remove(line)
        if node in self._lines:
            self._lines[node].socket.close()
        self._lines[node] = line
        self._heard_at[node] = now
        line.say({"kind": "beat"})

    def _take(self, line: peers.Line, node: int, message: dict[str, Any]) -> None:
        kind, news = message.get("kind"), message.get("news")
        if kind == "news" and isinstance(news, dict):
            line.say({"kind": "got"})
            if node not in self._told:  # it may be said twice, when our answer was lost
                self._told.add(node)
                self._spread(peers.clean(news, node))
        elif kind == "bye":
            line.say({"kind": "got"})
            self._heard_at.pop(node, None)
        elif kind == "got":
            self._told.add(node)

    def _spread(self, news: peers.News) -> None:
        self._hear(news)
        self._say_last({"kind": "news", "news": news})

    def _clear(self) -> None:
        for line in [*self._strangers, *self._lines.values()]:
            if line.over:
                line.socket.close()
        for node, line in self._lines.items():
            if line.hung_up:
                self._heard_at.pop(node, None)  # until it is back, its silence says nothing
        self._strangers = [line for line in self._strangers if not line.over]
        self._lines = {node: line for node, line in self._lines.items() if not line.over}


def listening(family: int, place: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # What is left of a dead supervisor's connections must not keep its guard from the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(place)
        listener.listen(128)
    except (OSError, ValueError):
        listener.close()
        raise
    return listener
