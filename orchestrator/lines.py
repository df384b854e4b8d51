"""Bytes from a host in, lines that are safe to show out. Pure: time is passed in."""

from __future__ import annotations

import codecs
import re

# Colours (SGR) may reach the terminal; any other control sequence could move the cursor, set the
# title or answer back, and is taken out. So is every control character but the tab.
_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC: up to their end
    r"|\x1b[ -/]*[0-~]?"  # any other escape
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    # Invisible characters that reorder or hide what stands there.
    r"|[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)
RESET = "\x1b[0m"
LONGEST = 1 << 16


def safe(text: str, *, colours: bool) -> str:
    """Keep what may be shown; a colour that is left on is ended."""
    parts = []
    at = 0
    coloured = False
    for sequence in _SEQUENCE.finditer(text):
        parts.append(text[at : sequence.start()])
        if colours and _SGR.fullmatch(sequence[0]):
            parts.append(sequence[0])
            coloured = True
        at = sequence.end()
    parts.append(text[at:])
    return "".join(parts) + (RESET if coloured else "")


class LineCutter:
    """Cuts one stream into lines.

    A progress bar rewrites its line with carriage returns: of these at most one a second is shown,
    and always the last one before a newline.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._rewrite_shown = float("-inf")
        self._drawn = b""

    def feed(self, data: bytes, now: float) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        drawn = [self._last_drawn(line) for line in whole]
        if drawn and self._drawn:
            # The line was shown while it was drawn: a newline alone says nothing new.
            if drawn[0] == self._drawn:
                del drawn[0]
            self._drawn = b""
        shown = [_decode(line) for line in drawn]
        if b"\r" in self._rest:
            self._draw(shown, now)
        if len(self._rest) > LONGEST:
            # Shown in parts; nothing is held back for a newline that may never come.
            text, self._rest = _decode_whole(self._last_drawn(self._rest))
            shown.append(text)
        return shown

    def _last_drawn(self, line: bytes) -> bytes:
        """What a terminal would show of the line in the end: its last drawing that is not empty."""
        drawings = [part for part in line.split(b"\r") if part.strip()]
        return drawings[-1] if drawings else b""

    def _draw(self, shown: list[str], now: float) -> None:
        done, _, begun = self._rest.rpartition(b"\r")
        # Drawn like "\r 10 %\r 20 %": the last part may be incomplete, the one before is whole.
        before = self._last_drawn(done)
        drawing = before or self._last_drawn(begun)
        if drawing and drawing != self._drawn and now - self._rewrite_shown >= 1.0:
            shown.append(_decode(drawing) if before else _decode_whole(drawing)[0])
            self._drawn = drawing
            self._rewrite_shown = now
        # Kept until the next one is whole: what was begun may turn out to be blank.
        self._rest = (before + b"\r" if before else b"") + begun

    def close(self) -> list[str]:
        """Return what is left without a newline."""
        rest, self._rest = self._last_drawn(self._rest), b""
        return [_decode(rest)] if rest and rest != self._drawn else []


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _decode_whole(cut: bytes) -> tuple[str, bytes]:
    """Decode what is there of a line; the bytes of a character that is not all there are left."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(cut)
    return text, decoder.getstate()[0]
