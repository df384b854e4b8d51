"""Hosts as people write them in one word: [user@]host[:port], with ranges as Slurm has them. Pure.

gpu[2-4,7] is gpu2, gpu3, gpu4, gpu7; node[08-10] keeps its zeros; several brackets are multiplied,
the last one counting fastest. Brackets around an address, [::1]:22, are no range.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from inventory.kinds import ADDRESS, DESTINATION, MOST_HOSTS, NAME
from inventory.problems import shown

BRACKETS = re.compile(r"\[([^\[\]]*)\]")
SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?\Z")
NUMBERS = re.compile(r"([0-9]+)")
LISTED = re.compile(r"[0-9,-]+\Z")

if TYPE_CHECKING:
    from collections.abc import Iterable

Likeness: TypeAlias = tuple[str, str]
"""What names have before and after the number in which they differ."""


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


def folded(names: Iterable[str]) -> str:
    """Write many names as few words: gpu[1-4,7], login. Two are written as they are."""
    return ", ".join(ranges(names))


def ranges(names: Iterable[str]) -> list[str]:
    """Return words that `written_out` makes these names of again, in the order of their first."""
    parts = {name: NUMBERS.split(name) for name in names}
    sizes: Counter[Likeness] = Counter()
    for name, pieces in parts.items():
        sizes.update(_likenesses(name, pieces))
    groups: dict[Likeness | str, list[str]] = {}
    for name, pieces in parts.items():
        # Of a name's numbers that one becomes a range in which it differs from the most others.
        best = max(_likenesses(name, pieces), key=lambda each: sizes[each], default=None)
        groups.setdefault(best if best and sizes[best] > 2 else name, []).append(name)
    return [word for likeness, alike in groups.items() for word in _range(likeness, alike)]


def _likenesses(name: str, pieces: list[str]) -> list[Likeness]:
    """Return what is left of the name without one of its numbers, the last number first."""
    return [
        ("".join(pieces[:at]), "".join(pieces[at + 1 :]))
        for at in range(len(pieces) - 2, 0, -2)
        if len(pieces[at]) <= 9
    ]


def _range(likeness: Likeness | str, names: list[str]) -> list[str]:
    if isinstance(likeness, str) or len(names) < 3:
        return names
    before, after = likeness
    numbers = [name[len(before) : len(name) - len(after)] for name in names]
    # 08 and 10 are padded to two digits, 8 and 10 are not.
    padded = {len(number) for number in numbers if number.startswith("0") and len(number) > 1}
    spans: list[list[str]] = []
    for number in sorted(numbers, key=lambda n: (len(n) if len(n) in padded else 0, int(n))):
        last = spans[-1][-1] if spans else None
        if last and int(number) == int(last) + 1 and _goes_on(last, number, padded):
            spans[-1].append(number)
        else:
            spans.append([number])
    listed = ",".join(s[0] if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in spans)
    return [f"{before}[{listed}]{after}"]


def _goes_on(last: str, number: str, padded: set[int]) -> bool:
    """Say whether a range that has the one goes on to the other: 09 to 10, and 9 to 10."""
    if len(last) in padded or len(number) in padded:
        return len(last) == len(number)
    return True
