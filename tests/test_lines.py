"""Bytes in, lines that are safe to show out."""

from __future__ import annotations

import itertools
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lines import LONGEST, RESET, LineCutter, safe

# --- safe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext é 日本 👩‍🚀", "plain\ttext é 日本 👩‍🚀"),
        ("a\x1b[2Jb", "ab"),
        ("a\x1b[1;31mb", "ab"),
        ("a\x1b[?25lb", "ab"),
        ("a\x1b[38:2:1:2:3mb", "ab"),
        ("a\x1b[ qb", "ab"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x1b]52;c;ZXZpbA==", "a"),  # never ended: it is a terminal's to the end of the line
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1b_apc\x1b\\b", "ab"),
        ("a\x1bcb", "ab"),
        ("a\x1b(0b", "ab"),
        ("a\x1b", "a"),
        ("a\x1b[", "a"),
        ("a\x9b2Jb", "a2Jb"),
        ("a\x9d0;x\x9cb", "a0;xb"),
        ("a\rb", "ab"),
        ("a\b\bb", "ab"),
        ("a\x00\x07\x0b\x0c\x0e\x7fb", "ab"),
        ("a\u202eb\u2066c\u2069d\u200fe\u061cf", "abcdef"),
        ("a\u2028b\u2029c\u200bd\ufeffe", "abcde"),
        # Nothing new may come of what is left when something is taken out.
        ("\x1b\x00[31mx", "[31mx"),
        ("\x1b[3\x1b[2J1mx", "31mx"),
        ("\x1b\x1b[[2Jx", "2Jx"),
    ],
)
def test_what_could_drive_the_terminal_is_taken_out(text, shown):
    assert safe(text, colours=False) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\x1b[31mb", f"a\x1b[31mb{RESET}"),
        ("a\x1b[1;38;5;9mb\x1b[0m", f"a\x1b[1;38;5;9mb\x1b[0m{RESET}"),
        ("a\x1b[38:2::1:2:3mb", f"a\x1b[38:2::1:2:3mb{RESET}"),
        ("a\x1b[31Kb", "ab"),
        ("a\x1b[>4;2mb", "ab"),  # ends in m, but sets keyboard modes
        ("a\x1b[?4mb", "ab"),
        ("a\x1b[31 mb", "ab"),
    ],
)
def test_colours_may_stay_and_are_ended(text, shown):
    assert safe(text, colours=True) == shown


ODD = st.text(
    st.one_of(
        st.sampled_from("\x1b[]()0123;:?>mKJhPX^_\\\x07\x9b\x9c\x9d\r\b\t\u202e\u2066 "),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=40,
)


def harmless(text: str) -> bool:
    return all(c in "\t\n" or unicodedata.category(c) not in ("Cc", "Zl", "Zp") for c in text) and (
        not any(unicodedata.bidirectional(c) in BIDI for c in text)
    )


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(ODD)
def test_nothing_that_controls_survives(text):
    assert harmless(safe(text, colours=False))


@given(ODD)
def test_nothing_but_colours_survives(text):
    shown = safe(text, colours=True)
    assert harmless(re.sub(r"\x1b\[[0-9;:]*m", "", shown))
    assert ("\x1b" in shown) == shown.endswith(RESET)


@given(st.text(st.characters(categories=("L", "N", "P", "Zs"))))
def test_text_comes_through(text):
    assert safe(text, colours=True) == text


# --- lines --------------------------------------------------------------------------------------


def cut(*chunks: bytes, now: float = 0.0, close: bool = True) -> list[str]:
    cutter = LineCutter()
    shown = [line for chunk in chunks for line in cutter.feed(chunk, now)]
    return shown + (cutter.close() if close else [])


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\r\n", ["a"]),
        (b"\xff\xfe\n", ["\ufffd\ufffd"]),
        (b"\xe2\x82\n", ["\ufffd"]),
        (b"a\x0bb\x0cc\xc2\x85d\n", ["a\x0bb\x0cc\x85d"]),  # a line ends at a newline alone
        (b" 10%\r 50%\r100%\n", ["100%"]),
        (b"\r 10%\r100%\r   \rdone\n", ["done"]),
        (b"100%\r    \r\n", ["100%"]),  # wiped in the end: what was there last is more telling
        (b"", []),
    ],
)
def test_lines(data, lines):
    assert cut(data) == lines


@pytest.mark.parametrize(
    "data",
    [
        "first\nsécond ✓ 日本\n\nlast without a newline ✓".encode(),
        b"a\r\nb\r\nc\r\n",
        b"a\r\nb",
    ],
)
def test_however_it_is_cut(data):
    whole = cut(data)
    for size in range(1, 9):
        assert cut(*(data[i : i + size] for i in range(0, len(data), size))) == whole
    for one, two in itertools.combinations(range(len(data)), 2):
        assert cut(data[:one], data[one:two], data[two:]) == whole


@given(st.lists(st.binary(max_size=12), max_size=12))
def test_without_a_carriage_return_no_byte_is_lost(chunks):
    data = b"".join(chunks).replace(b"\r", b"")
    chunks = [chunk.replace(b"\r", b"") for chunk in chunks]
    expected = data.decode("utf-8", "replace").split("\n")
    got = cut(*chunks)

    def without_blanks(lines):  # white space as bytes know it; of a line of it only that is kept
        return [line if line.strip(" \t\x0b\x0c") else "" for line in lines]

    # What follows the last newline is a line only if something stands there.
    while expected and not expected[-1].strip(" \t\x0b\x0c"):
        expected.pop()
    while got and not got[-1].strip(" \t\x0b\x0c"):
        got.pop()
    assert without_blanks(got) == without_blanks(expected)


def test_a_progress_bar_is_shown_once_a_second_and_its_end_always():
    cutter = LineCutter()
    shown = []
    for step in range(100):
        shown += [(step, line) for line in cutter.feed(b"\r%3d%%" % step, step / 10)]
    assert [step for step, _ in shown] == list(range(0, 100, 10))
    assert [line for _, line in shown][:3] == ["  0%", "  9%", " 19%"]  # the last that was whole
    assert cutter.feed(b"\r100%\n", 10.0) == ["100%"]


def test_a_drawing_that_stands_still_is_not_repeated():
    cutter = LineCutter()
    assert cutter.feed(b" 10%\r", 0.0) == [" 10%"]
    assert [cutter.feed(b" 10%\r", float(i)) for i in range(1, 5)] == [[]] * 4


def test_what_was_shown_while_it_was_drawn_is_not_shown_again():
    assert cut(b"abc\r", b"\n", b"next\n") == ["abc", "next"]
    assert cut(b"abc\r", b"\nabc\n") == ["abc", "abc"]
    assert cut(b"100%\r") == ["100%"]


def test_a_bar_that_is_wiped_in_pieces_shows_its_end():
    cutter = LineCutter()
    assert cutter.feed(b"\r 10%\r", 0.0) == [" 10%"]
    assert cutter.feed(b"\r 99%", 0.1) == []
    assert cutter.feed(b"\r    ", 0.2) == []
    assert cutter.feed(b"\r\n", 0.3) == [" 99%"]


def test_a_bar_cut_inside_a_character_shows_no_torn_one():
    bar = "\r 50% ███".encode()
    for at in range(1, len(bar)):
        shown = "".join(cut(bar[:at], close=False))
        assert "\ufffd" not in shown


def test_a_line_without_end_is_shown_in_parts_and_loses_nothing():
    text = "€" * 30_000  # three bytes each: no part ends at a character's end by chance
    data = text.encode()
    for size in (len(data), 7000, 65_536):
        parts = cut(*(data[i : i + size] for i in range(0, len(data), size)))
        assert "".join(parts) == text
    assert len(cut(*(data[i : i + 7000] for i in range(0, len(data), 7000)))) > 1


def test_little_is_kept_of_a_line_without_end():
    cutter = LineCutter()
    for _ in range(50):
        cutter.feed(b"x" * 5000, 0.0)
        cutter.feed(b"\r y" * 1000, 0.0)
    assert len(b"".join(v for v in vars(cutter).values() if isinstance(v, bytes))) < 2 * LONGEST
