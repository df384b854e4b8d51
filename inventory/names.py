"""Hosts as people write them in one word: [user@]host[:port], with ranges as Slurm has them. Pure.

gpu[2-4,7] is gpu2, gpu3, gpu4, gpu7; node[08-10] keeps its zeros; several brackets are multiplied,
the last one counting fastest. Brackets around an address, [::1]:22, are no range.
"""

from __future__ import annotations

import itertools
import re

from inventory.kinds import ADDRESS, DESTINATION, MOST_HOSTS, NAME
from inventory.problems import shown

BRACKETS = re.compile(r"\[([^\[\]]*)\]")
SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?\Z")
LISTED = re.compile(r"[0-9,-]+\Z")


def entries(text: str) -> list[dict[str, str]]:
    """Read a host as the mappings that it is short for; what cannot be one is a ValueError."""
    return [_entry(each) for each in written_out(text)]


def _entry(text: str) -> dict[str, str]:
    parts = DESTINATION.match(text)
    if not parts:
        raise ValueError(f"{shown(text)} is not of the form [user@]host[:port]")
    name = parts["bracketed"] or parts["host"]
    if text == f"[{name}]" and NAME.match(name):
        # As Ansible writes groups.
        raise ValueError(f"{text} is no host; brackets stand around an address with colons")
    if ADDRESS.match(name) and not NAME.match(name):
        # Which a name that is an address with colons is: it must be told from host:port.
        written = f"write {{name: ..., ssh: {text!a}}}"
        raise ValueError(f"{name} cannot be the name of a host ({written})")
    return {"name": name} if name == text else {"name": name, "ssh": text}


def is_range(text: str) -> bool:
    """Tell gpu[1-4] from [::1]:22, where the brackets hold an address."""
    whole = DESTINATION.match(text)
    if whole:
        return bool(whole["bracketed"] and LISTED.match(whole["bracketed"]))
    return "[" in text


def written_out(text: str) -> list[str]:
    """Return all that a range stands for, in its order; what is no range stands for itself."""
    if not is_range(text):
        return [text]
    parts = BRACKETS.split(text)
    if any(half in part for part in parts[::2] for half in "[]"):
        raise ValueError(f"{shown(text)} has a bracket without its other half")
    choices = [[_numbers(each, text) for each in part.split(",")] for part in parts[1::2]]
    count = 1
    for spans in choices:
        count *= sum(len(numbers) for numbers, _ in spans)
        if count > MOST_HOSTS:
            raise ValueError(f"{shown(text)} names more than {MOST_HOSTS:,} hosts")
    texts: list[list[str]] = [[part] for part in parts]
    for index, spans in enumerate(choices):
        texts[2 * index + 1] = [f"{n:0{width}}" for numbers, width in spans for n in numbers]
    return ["".join(pieces) for pieces in itertools.product(*texts)]


def _numbers(span: str, text: str) -> tuple[range, int]:
    """Read 7 or 08-10: its numbers, and the width that they are padded to."""
    found = SPAN.match(span)
    if not found:
        raise ValueError(f"{shown(text)}: {shown(span)} is not a number, such as 7, or 2-4")
    low, high = found[1], found[2] or found[1]
    if int(high) < int(low):
        raise ValueError(f"{shown(text)}: {span} counts down; write {high}-{low}")
    if high.startswith("0") and len(high) != len(low):
        raise ValueError(f"{shown(text)}: {span} does not say how many digits to write")
    return range(int(low), int(high) + 1), len(low) if low.startswith("0") else 1


def between_commas(text: str) -> list[str]:
    """Split at the commas that are not within brackets."""
    words, start, inside = [], 0, False
    for sign in re.finditer(r"[\[\],]", text):
        if sign[0] != ",":
            inside = sign[0] == "["
        elif not inside:
            words.append(text[start : sign.start()].strip())
            start = sign.end()
    return [*words, text[start:].strip()]
