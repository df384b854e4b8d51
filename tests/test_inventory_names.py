"""Ranges in host names, against an oracle of the test's own; and what no range is."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.hostfile import is_hostfile
from inventory.kinds import ADDRESS, NAME
from inventory.names import between_commas, entries, written_out


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("gpu1", ["gpu1"]),
        ("gpu[2-4,7]", ["gpu2", "gpu3", "gpu4", "gpu7"]),
        ("gpu[7,2-3]", ["gpu7", "gpu2", "gpu3"]),
        ("gpu[5]", ["gpu5"]),
        ("node[01-03].dc", ["node01.dc", "node02.dc", "node03.dc"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("n[08-101]", [f"n{i:02}" for i in range(8, 102)]),
        ("n[0-1]", ["n0", "n1"]),
        ("n[00,1]", ["n00", "n1"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("[1-2]", ["1", "2"]),
        ("10.0.0.[7-8]", ["10.0.0.7", "10.0.0.8"]),
        ("fe80::[1-2]", ["fe80::1", "fe80::2"]),
        ("[::1]:22", ["[::1]:22"]),
        ("me@[fe80::1%eth0]", ["me@[fe80::1%eth0]"]),
        ("[gpu1]:22", ["[gpu1]:22"]),
    ],
)
def test_written_out(written, expected):
    assert written_out(written) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a[3-1]", "a[3-1]: 3-1 counts down; write 1-3"),
        ("a[1-1025]", "a[1-1025] names more than 1,024 hosts"),
        ("a[1-100][1-100]", "a[1-100][1-100] names more than 1,024 hosts"),
        ("a[1-999999999]b[1-999999999]", "a[1-999999999]b[1-999999999] names more than"),
        ("a[1-1000000000]", "1-1000000000 is not a number, such as 7, or 2-4"),
        ("a[]", "a[]: '' is not a number, such as 7, or 2-4"),
        ("a[1,,2]", "a[1,,2]: '' is not a number"),
        ("a[-1]", "a[-1]: -1 is not a number"),
        ("a[1-2-3]", "a[1-2-3]: 1-2-3 is not a number"),
        ("a[x-z]", "a[x-z]: x-z is not a number"),
        ("a[1, 2]", "'a[1, 2]': ' 2' is not a number"),
        ("a[٣]", "is not a number"),
        ("a[1-010]", "a[1-010]: 1-010 does not say how many digits to write"),
        ("a[01-010]", "a[01-010]: 01-010 does not say how many digits to write"),
        ("a[1", "a[1 has a bracket without its other half"),
        ("a[[1]]", "a[[1]] has a bracket without its other half"),
        ("a[1]]", "a[1]] has a bracket without its other half"),
    ],
)
def test_what_is_no_range(written, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        written_out(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("gpu1", [{"name": "gpu1"}]),
        ("me@g[1-2]:22", [{"name": f"g{i}", "ssh": f"me@g{i}:22"} for i in (1, 2)]),
        ("g[1-2]", [{"name": "g1"}, {"name": "g2"}]),
    ],
)
def test_entries(written, expected):
    assert entries(written) == expected


def oracle(parts: list[tuple[str, list[tuple[int, int, int]]]]) -> tuple[str, list[str]]:
    """Write a range and what it stands for, counting by hand."""
    written, names = "", [""]
    for text, spans in parts:
        words, numbers = [], []
        for low, more, width in spans:
            words.append(f"{low:0{width}}" + (f"-{low + more:0{width}}" if more else ""))
            numbers += [str(n).rjust(width, "0") for n in range(low, low + more + 1)]
        written += text + ("[" + ",".join(words) + "]" if spans else "")
        names = [name + text + number for name in names for number in numbers or [""]]
    return written, names


SPANS = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), st.integers(1, 4)), max_size=3)


@given(st.lists(st.tuples(st.text("abc-.", min_size=1, max_size=3), SPANS), min_size=1, max_size=3))
def test_a_range_is_what_counting_says(parts):
    written, names = oracle(parts)
    if len(names) > 1024:
        with pytest.raises(ValueError, match="names more than"):
            written_out(written)
    else:
        assert written_out(written) == names


@given(st.text(alphabet="ab01-,[]@: .", max_size=20) | st.text(max_size=12))
def test_whatever_is_written_is_some_hosts_or_a_sentence(text):
    found, refusal = [], ""
    try:
        found = entries(text)
    except ValueError as error:
        refusal = str(error)
    if not found:
        assert len(refusal.splitlines()) == 1
        return
    assert 1 <= len(found) <= 1024
    for entry in found:
        # What looks neither like a name nor like an address is left to the model to refuse.
        assert NAME.match(entry["name"]) or not ADDRESS.match(entry["name"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b", ["a", "b"]),
        ("a[1,2],b", ["a[1,2]", "b"]),
        ("a, ,b", ["a", "", "b"]),
        ("", [""]),
        ("a[1,b", ["a[1,b"]),
        ("a],b", ["a]", "b"]),
    ],
)
def test_between_commas(text, words):
    assert between_commas(text) == words


@pytest.mark.timeout(60)  # what is quadratic in a line takes many minutes
@pytest.mark.parametrize("part", ["a,", "@[", "@a", "[", "[1],", "a:", "a[1-9]", ":1\n"])
def test_long_lines_cost_no_more_than_their_length(part):
    text = part * 150_000
    between_commas(text)
    is_hostfile(text, "hosts")
    with contextlib.suppress(ValueError):
        entries(text)
