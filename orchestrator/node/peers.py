"""The supervisors of a run know of each other's bad ends, also while nobody watches.

torchrun does not tell its peers when it, or a worker of it, is gone: they would hang. So every
supervisor (a Ray) keeps one small conversation with the head's (the Star), which tells all what it
hears from one. Here is what both have in common. That a connection cannot be had is no fault: a
firewall may be in between, and the run goes on. A node that was here and then is silent for
`lost_after` is one, unless it said goodbye. One whose host closes the connection, or refuses it,
is not silent: its supervisor and guard were killed, and its part of the run goes on. Assumptions:
1. Silence is counted only while we were awake to hear: a supervisor that was stopped, or suspended,
   first reads what has come meanwhile.
2. A connection that ends says nothing about its node: a guard takes over, and listens anew on the
   same port, or dials again. What counts is when the node was last heard.
3. After a gap TCP waits longer and longer between its tries. So a silent connection is given up
   for a new one long before its node is.
Whoever drives a Star or a Ray awaits its fds(), for no longer than its timeout(), then calls
ready() and tick(). None of them blocks, or raises for what others do.
"""

from __future__ import annotations

import math
import select
import socket
import time

from . import sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

    from .ray import Ray
    from .star import Star

    News = dict[str, Any]  # why, exit_code, node, time; and host, once it is heard

HEAD = 0
# In the words of a news: its host's name, which every reader puts there from a table of his own.
HOST = "{host}"
MOST_WORDS = 300
# errors.HOST and errors.JOB_FAILED: the run's exit code for a lost host, and for any other failure.
LOST, FAILED = 4, 100
LOST_AFTER = 30.0
BEATS = 4  # within lost_after
AUTHENTIC_WITHIN = 5.0
READ = 1 << 14
# Kept for one who takes nothing, beyond what the kernel keeps.
MOST_UNSENT = 4 * sealed.LARGEST


class Line:
    """One TCP connection. Whatever goes wrong with it, it is over; its owner clears it away."""

    def __init__(self, sock: socket.socket, talk: sealed.Conversation, now: float) -> None:
        sock.setblocking(False)
        # Each message at once: else the second waits until the first is known to be there.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.talk = talk
        self.since = now
        self.over = False
        self.unsent = bytearray()
        self.hung_up = False  # its host said so: that lives, whatever became of the supervisor
        self._said_last = False

    def read(self) -> list[dict[str, Any]]:
        try:
            data = self.socket.recv(READ)
            messages = self.talk.feed(data)
        except BlockingIOError:
            return []
        except (ConnectionResetError, ConnectionRefusedError):
            data, messages, self.hung_up = b"", [], True
        except (OSError, ValueError):
            self.over = True
            return []
        self.hung_up = self.hung_up or not data
        self.over = self.over or self.hung_up
        return messages

    def say(self, message: dict[str, Any]) -> None:
        self.send(self.talk.seal(message))

    def say_last(self, words: dict[str, Any]) -> None:
        if not self._said_last:
            self._said_last = True
            self.say(words)

    def send(self, data: bytes) -> None:
        if self.over:
            return
        self.unsent += data
        self.flush()
        if len(self.unsent) > MOST_UNSENT:
            self.over = True

    def flush(self) -> None:
        try:
            del self.unsent[: self.socket.send(self.unsent)]
        except BlockingIOError:  # also while it is still being connected
            return
        except OSError as error:
            self.hung_up = isinstance(error, (ConnectionResetError, ConnectionRefusedError))
            self.over = True


class Peer:
    """What is said and heard, and for how long we have been awake."""

    def __init__(self, node: int, names: list[str], lost_after: float, now: float) -> None:
        self.node = node
        self.names = names  # of the hosts, by rank
        self.lost_after = lost_after
        self.beat = lost_after / BEATS
        self.problem: str | None = None  # why there is no connection, as far as it is known
        self.last_words: dict[str, Any] | None = None  # ours, or those we pass on
        self._hurry = False  # they are new
        self._heard: list[News] = []
        self._awake = 0.0
        self._seen = now

    def tell(self, news: News) -> None:
        """Tell all of our bad end: {"why", "exit_code", "time"}. The first last words count."""
        self._say_last({"kind": "news", "news": clean(news, self.node)})

    def goodbye(self) -> None:
        """Say that we have ended well: from here on our silence is no fault."""
        self._say_last({"kind": "bye"})

    def heard(self) -> list[News]:
        """Return the bad ends elsewhere that we have heard of since the last call."""
        heard, self._heard = self._heard, []
        return heard

    def _say_last(self, words: dict[str, Any]) -> None:
        if self.last_words is None:
            self.last_words = words
            self._hurry = True

    def _hear(self, news: News) -> None:
        name = self.names[news["node"]]
        self._heard.append(dict(news, why=news["why"].replace(HOST, name), host=name))

    def _lost(self, node: int) -> News:
        why = "%s was not heard from for %g s" % (HOST, self.lost_after)
        return clean({"why": why, "exit_code": LOST}, node)

    def _advance(self, now: float) -> float:
        # Nobody sleeps longer than a beat, see _until(): for the rest of the time we were away.
        self._awake += min(max(0.0, now - self._seen), self.beat + 1.0)
        self._seen = now
        return self._awake

    def _until(self, times: list[float], now: float) -> float:
        awake = self._advance(now)
        return 0.0 if self._hurry else max(0.0, min([self.beat, *(t - awake for t in times)]))


def settle(peer: Star | Ray, seconds: float) -> None:
    """Stay until the others have our last words, so long at most."""
    now = time.monotonic()
    end = now + seconds
    while not peer.settled and now < end:
        to_read, to_write = peer.fds()
        wait = min(peer.timeout(now), end - now)
        readable, writable = await_any(to_read, to_write, wait)
        now = time.monotonic()
        peer.ready(readable, writable, now)
        peer.tick(now)


def await_any(
    to_read: Iterable[int], to_write: Iterable[int], seconds: float
) -> tuple[set[int], set[int]]:
    """Do what select() does, which knows no descriptor beyond 1023."""
    wanted = dict.fromkeys(to_read, select.POLLIN)
    for fd in to_write:
        wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
    poll = select.poll()
    for fd, events in wanted.items():
        poll.register(fd, events)
    found = [(fd, events, wanted[fd]) for fd, events in poll.poll(math.ceil(1000 * seconds))]
    over = select.POLLERR | select.POLLHUP
    return (
        {fd for fd, events, of in found if of & select.POLLIN and events & (select.POLLIN | over)},
        {fd for fd, events, of in found if of & events & select.POLLOUT},
    )


def numeric(address: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return what bind and connect take. A name is refused: its server may be long in answering."""
    if not 0 <= port < 1 << 16:
        raise ValueError("no port: %d" % port)
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    # As bytes: for text Python loads its tables of international names.
    host = address.encode("ascii")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return found[0][0], found[0][4]


def clean(news: News, node: int) -> News:
    """Take what people are shown, in a shape that can be; whose news it is, we know better."""
    why, code, when = news.get("why"), news.get("exit_code"), news.get("time")
    words = why[:MOST_WORDS] if isinstance(why, str) else ""
    sensible = isinstance(when, (int, float)) and 0 <= when < 1e11
    return {
        "why": "".join(c if c.isprintable() else " " for c in words) or HOST + " failed",
        "exit_code": code if type(code) is int and 1 <= code <= 255 else FAILED,
        "node": node,
        "time": when if sensible else time.time(),
    }
