"""Lines found from a file's end and by what matches, whatever their shape."""

from __future__ import annotations

import os
import re

import pytest

from orchestrator.node import lines

SHAPES = {
    "empty": b"",
    "one": b"a\n",
    "no newline at its end": b"a\nb\nc",
    "newlines alone": b"\n\n\n",
    "CRLF": b"a\r\nb\r\nc\r\n",
    "UTF-8 across blocks": "käse🧀".encode() * 7 + b"\n" + "ü".encode() * 9 + b"\nlast",
    "a line longer than blocks": b"x\n" + b"y" * 100 + b"\nz\n",
    "no line at all": b"y" * 100,
    "a block's end is a line's": b"1234567\n1234567\n1234567\n",
}


@pytest.fixture(params=[8, 7, 1 << 18])
def block(request, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", request.param)


@pytest.fixture
def opened(tmp_path):
    descriptors = []

    def write(data):
        path = tmp_path / "log"
        path.write_bytes(data)
        descriptors.append(os.open(path, os.O_RDONLY))
        return descriptors[-1]

    yield write
    for each in descriptors:
        os.close(each)


def cut(data):
    """What lines are, said simply."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def reads(file, begin, end):
    return os.pread(file, end - begin, begin)


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_the_last_lines(block, opened, data, count):
    file = opened(data)
    start, found = lines.tail(file, 0, len(data), count)
    wanted = cut(data)[-count:] if count else []
    assert reads(file, start, len(data)) == b"".join(wanted)
    assert found == len(wanted)


def test_the_last_lines_begin_no_earlier_than_asked(block, opened):
    data = b"one\ntwo\nthree\n"
    file = opened(data)
    assert lines.tail(file, 4, len(data), 5) == (4, 2)


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_where_a_line_begins(block, opened, data):
    file = opened(data)
    for at in range(len(data) + 1):
        assert lines.begin_of(file, at) == data.rfind(b"\n", 0, at) + 1


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_all_lines_and_their_offsets(block, opened, data):
    file = opened(data)
    found = [line for block in lines.matching(file, 0, len(data), all_of) for line in block]
    assert [line for _, line in found] == cut(data)
    assert all(reads(file, at, at + len(line)) == line for at, line in found)


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_the_last_lines_that_match(block, opened, data, count):
    file = opened(data)

    def every_other(part):
        return [b"b" in line or b"y" in line or b"3" in line for line in part]

    wanted = [line for line in cut(data) if b"b" in line or b"y" in line or b"3" in line]
    found = lines.last_matching(file, 0, len(data), count, every_other)
    assert [reads(file, at, at + n) for at, n in found] == (wanted[-count:] if count else [])


def test_a_line_that_is_too_long_is_looked_at_in_parts(opened, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 10)
    monkeypatch.setattr(lines, "LONGEST", 20)
    data = b"x" * 75 + b"\nend\n"
    file = opened(data)
    found = [line for block in lines.matching(file, 0, len(data), all_of) for line in block]
    assert b"".join(line for _, line in found) == data
    assert all(reads(file, at, at + len(line)) == line for at, line in found)
    assert max(len(line) for _, line in found) <= 30


def test_a_tail_reads_no_more_than_it_needs(opened, tmp_path, monkeypatch):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 36)  # sparse: nobody reads all of that in time
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        assert lines.tail(descriptor, 0, size, 2) == (size - len(b"last but one\nlast\n"), 2)
    finally:
        os.close(descriptor)


def all_of(part):
    return [True] * len(part)
