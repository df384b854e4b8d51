"""How an ssh configuration is split into words, and what its patterns fit. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def like(pattern: str, name: str) -> bool:
    """Whether a pattern of ssh's fits: * and ? are special, brackets are not."""
    # Stars in a row are one: each more would multiply the time of a name that does not fit.
    parts = re.split(r"(\*+|\?)", pattern)
    regex = "".join(
        {"*": ".*", "?": "."}.get(part[:1], re.escape(part)) if part else "" for part in parts
    )
    return re.fullmatch(regex, name, re.DOTALL) is not None


def fits_any(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns fits. One that is negated and fits wins over all."""
    fits = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if like(pattern[1:], name):
                return False
        else:
            fits = fits or like(pattern, name)
    return fits


def argv_split(text: str) -> list[str] | None:
    """Split a value into words, as ssh's argv_split does; None where a quote is not closed."""
    words: list[str] = []
    i = 0
    while i < len(text):
        if text[i] in " \t":
            i += 1
            continue
        if text[i] == "#":
            break
        word, quote = "", ""
        while i < len(text):
            char, following = text[i], text[i + 1 : i + 2]
            if char == "\\" and following and (following in "'\"\\" or following + quote == " "):
                word += following
                i += 1
            elif not quote and char in " \t":
                break
            elif not quote and char in "'\"":
                quote = char
            elif quote and char == quote:
                quote = ""
            else:
                word += char
            i += 1
        if quote:
            return None
        words.append(word)
    return words


def match_words(text: str) -> list[str]:
    """Split what follows Match, where `host=a` is `host a`, and double quotes hold a word."""
    found = re.findall(r'"([^"]*)"|([^\s="]+)', text.partition(" #")[0])
    return [quoted or bare for quoted, bare in found]
