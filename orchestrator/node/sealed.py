"""A conversation that nobody on the network can join, change or replay: bytes in, messages out.

Each pair of ends has a key of its own. Both begin with a nonce, in the clear; from the key, the
rank and both nonces comes a key for each direction, and every message after carries its HMAC-SHA256
under that, with a running number. So the first message that opens is the answer to our challenge,
and it opens only as what it is: from that end, in that direction, in this conversation, in turn.
It is not secret, and need not be: what is said is whether a node lives, and why one does not.
"""

from __future__ import annotations

import json
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

VERSION = 1
# Of what follows the length. Nothing that is longer is waited for, let alone kept.
LARGEST = 4096
LENGTH = struct.Struct(">H")
NUMBER = struct.Struct(">Q")
NONCE = 16
MAC = 32
TO_RAY, TO_HEAD = b"to ray", b"to head"


def keyed(key: bytes, *parts: bytes) -> bytes:
    # Imported where it is needed: it brings 4 MB of OpenSSL, and most supervisors have no peers.
    import hmac

    return hmac.digest(key, b"".join(parts), "sha256")


def key_for(key: str, node: int) -> str:
    """Make the key of one node from the run's, which only the head has: none speaks as another."""
    return keyed(bytes.fromhex(key), b"ddp-orch peers: node", NUMBER.pack(node)).hex()


def pack(*parts: bytes) -> bytes:
    size = sum(map(len, parts))
    assert size <= LARGEST
    return LENGTH.pack(size) + b"".join(parts)


class Conversation:
    """One end of it. Whatever is wrong with what is fed is a ValueError, and the end of it."""

    def __init__(self, key_of: Callable[[int], str | None], node: int | None = None) -> None:
        """Begin; `node`, the rank of the ray, is unknown to the head until it is told."""
        self.node = node
        self.authentic = False  # a message has been opened: the other end has the key
        self._key_of = key_of
        self._is_head = node is None
        self._nonce = os.urandom(NONCE)
        self._keys: tuple[bytes, bytes] | None = None  # to seal with, to open with
        self._sealed = self._opened = 0
        self._bytes = bytearray()

    def hello(self) -> bytes:
        said = {"version": VERSION, "node": self.node, "nonce": self._nonce.hex()}
        return pack(json.dumps(said).encode("ascii"))

    @property
    def met(self) -> bool:
        """Whether the other's hello is there, so that there is something to seal with."""
        return self._keys is not None

    def seal(self, message: dict[str, Any]) -> bytes:
        assert self._keys
        text = json.dumps(message).encode("ascii")
        sealed = keyed(self._keys[0], NUMBER.pack(self._sealed), text)
        self._sealed += 1
        return pack(sealed, text)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        self._bytes += data
        messages = []
        while len(self._bytes) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._bytes)
            if size > LARGEST:
                raise ValueError("a message of %d bytes" % size)
            end = LENGTH.size + size
            if len(self._bytes) < end:
                break
            frame = bytes(self._bytes[LENGTH.size : end])
            del self._bytes[:end]
            if self._keys is None:
                self._meet(parsed(frame))
            else:
                messages.append(self._open(self._keys[1], frame))
        return messages

    def _meet(self, hello: dict[str, Any]) -> None:
        node, nonce = hello.get("node"), hello.get("nonce")
        if hello.get("version") != VERSION or type(node) is not int or type(nonce) is not str:
            raise ValueError("no hello of ours")
        theirs = bytes.fromhex(nonce)
        if len(theirs) != NONCE or node != (node if self._is_head else self.node):
            raise ValueError("no hello for us")
        text = self._key_of(node)
        if text is None:
            raise ValueError("no node %d in this run" % node)
        self.node = node
        ours, key = self._nonce, bytes.fromhex(text)
        nonces = theirs + ours if self._is_head else ours + theirs
        bound = (NUMBER.pack(node), nonces)
        to_ray, to_head = (keyed(key, b"ddp-orch peers: ", d, *bound) for d in (TO_RAY, TO_HEAD))
        self._keys = (to_ray, to_head) if self._is_head else (to_head, to_ray)

    def _open(self, key: bytes, frame: bytes) -> dict[str, Any]:
        import hmac

        text = frame[MAC:]
        expected = keyed(key, NUMBER.pack(self._opened), text)
        if not hmac.compare_digest(expected, frame[:MAC]):
            raise ValueError("a message that is not from our peer")
        self._opened += 1
        self.authentic = True
        return parsed(text)


def parsed(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text.decode("ascii"))
    except RecursionError:
        raise ValueError("a message too deep") from None
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")  # noqa: TRY004  all nonsense is one error
    return message
