"""Frames: whatever the cuts on the way, what goes in comes out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.node import frames

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
heads = st.dictionaries(st.text(), json_values, max_size=4)


@given(
    sent=st.lists(st.tuples(heads, st.binary(max_size=300)), max_size=6),
    sizes=st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=20),
)
def test_frames_come_out_whole_wherever_they_were_cut(sent, sizes):
    stream = b"".join(frames.pack(head, body) for head, body in sent)
    unpacker = frames.Unpacker()
    got = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += unpacker.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == sent


def test_a_frame_is_given_out_with_its_last_byte_and_not_before():
    data = frames.pack({"id": 1}, b"body")
    unpacker = frames.Unpacker()
    assert unpacker.feed(data[:-1]) == []
    assert unpacker.feed(data[-1:]) == [({"id": 1}, b"body")]


@pytest.mark.parametrize(
    "lengths", [(frames.LARGEST + 1, 0), (0, frames.LARGEST + 1), (frames.LARGEST, 1)]
)
def test_an_oversized_length_is_refused_before_the_bytes_come(lengths):
    with pytest.raises(ValueError, match="not the agent's protocol"):
        frames.Unpacker().feed(struct.pack(">II", *lengths))


@pytest.mark.parametrize(
    ("head", "body"), [({}, b"x" * frames.LARGEST), ({"x": "y" * frames.LARGEST}, b"")]
)
def test_what_the_other_end_would_refuse_is_not_packed(head, body):
    with pytest.raises(ValueError, match="a message of 64 MiB is too large"):
        frames.pack(head, body)


def test_a_head_survives_what_json_allows_and_the_wire_does_not():
    head = {"line": "a\nb", "mark": "\x01", "half a pair": "\udc80", "umlaut": "ä"}
    assert frames.Unpacker().feed(frames.pack(head)) == [(head, b"")]
    assert frames.MARKER.strip(b"\n") not in frames.pack({"x": frames.MARKER.decode()})
