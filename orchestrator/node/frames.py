"""The link's wire format, for both ends: a JSON head and raw bytes, both length-prefixed."""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # typing itself is not imported here: it would slow every host's start
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
# Precedes the first frame, so that what a shell's startup file prints is recognised as noise.
MARKER = b"\n\x01ddp-orch-agent/%d\n" % PROTOCOL
LENGTHS = struct.Struct(">II")
# A frame is never larger: a length beyond it means that the two ends have lost each other.
LARGEST = 64 << 20

# How the boot on a host ends when it cannot become an agent; each has its own sentence on screen.
EXIT_NO_PYTHON = 97
EXIT_OLD_PYTHON = 98
# Its input ended though nobody hung up: what began the shell there gave it another one.
EXIT_NO_INPUT = 96


def pack(head: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode("ascii")
    if len(text) + len(body) > LARGEST:
        raise ValueError("a message of %d MiB is too large" % ((len(text) + len(body)) >> 20))
    return LENGTHS.pack(len(text), len(body)) + text + body


class Unpacker:
    """Bytes in, as they come; whole (head, body) pairs out."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        self._bytes += data
        frames = []
        at = 0
        while len(self._bytes) - at >= LENGTHS.size:
            head, body = LENGTHS.unpack_from(self._bytes, at)
            if head + body > LARGEST:
                raise ValueError(
                    "a frame of %d bytes: this is not the agent's protocol" % (head + body)
                )
            start = at + LENGTHS.size
            if len(self._bytes) - start < head + body:
                break
            text = bytes(self._bytes[start : start + head])
            frames.append(
                (json.loads(text), bytes(self._bytes[start + head : start + head + body]))
            )
            at = start + head + body
        del self._bytes[:at]
        return frames
