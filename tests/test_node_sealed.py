"""What comes over the wire, whatever it is: it opens as it was sealed, or not at all."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.node import peers, sealed
from tests.test_node_frames import json_values

KEY = "5a" * 32
messages = st.dictionaries(st.text(max_size=5), json_values, max_size=3).filter(
    lambda message: len(json.dumps(message)) < sealed.LARGEST - sealed.MAC
)


def ends(node=3):
    """Return the head's end and the ray's, which have met."""
    key = sealed.key_for(KEY, node)
    head, ray = sealed.Conversation({node: key}.get), sealed.Conversation({node: key}.get, node)
    assert head.feed(ray.hello()) == ray.feed(head.hello()) == []
    return head, ray


@given(
    sent=st.lists(messages, max_size=5),
    sizes=st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=10),
    to_head=st.booleans(),
)
def test_messages_come_out_whole_wherever_they_were_cut(sent, sizes, to_head):
    head, ray = ends()
    one, other = (ray, head) if to_head else (head, ray)
    stream = b"".join(one.seal(message) for message in sent)
    got = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += other.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == sent
    assert other.authentic == bool(sent)
    assert other.node == 3


def fed(end, data):
    """Return what comes of it, if it is not refused."""
    try:
        return end.feed(data)
    except ValueError:
        return None


@given(data=st.binary(max_size=3000) | messages.map(lambda m: sealed.pack(json.dumps(m).encode())))
def test_nothing_a_stranger_says_opens(data):
    for end in (sealed.Conversation({}.get), sealed.Conversation({3: KEY}.get, 3), *ends()):
        assert not fed(end, data)
        assert not end.authentic
        assert len(end._bytes) <= len(data)


hello_parts = {
    "version": st.just(sealed.VERSION) | json_values,
    "node": st.sampled_from([0, 3, 4, -3, 3.0, True]) | json_values,
    "nonce": st.binary(max_size=20).map(bytes.hex) | json_values,
}


@given(hello=st.fixed_dictionaries({}, optional=hello_parts))
def test_a_greeting_is_ours_or_refused(hello):
    head = sealed.Conversation({3: KEY}.get)
    good = hello.get("version") == sealed.VERSION and type(hello.get("node")) is int
    good = good and hello["node"] == 3 and type(hello.get("nonce")) is str
    refused = fed(head, sealed.pack(json.dumps(hello).encode())) is None
    assert head.met != refused
    assert good or refused


@given(message=messages, at=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_single_changed_bit_is_noticed(message, at, bit):
    head, ray = ends()
    data = bytearray(ray.seal(message))
    data[at % len(data)] ^= 1 << bit
    assert not fed(head, bytes(data))  # a longer length waits for the rest
    assert not head.authentic


def test_each_conversation_direction_node_and_turn_has_its_own_seal():
    head, ray = ends()
    other_head, other_ray = ends(node=4)
    (again, _) = ends()
    message = {"kind": "beat"}
    seals = [end.seal(message) for end in (head, ray, other_head, other_ray, again, head)]
    assert len(set(seals)) == 6


def test_the_seal_is_hmac_sha256_under_keys_bound_to_all_that_was_agreed():
    """Frozen: a guard, and a supervisor of another Python, must come to the same."""
    key = hmac.new(bytes.fromhex(KEY), b"ddp-orch peers: node" + bytes(7) + b"\x03", hashlib.sha256)
    assert sealed.key_for(KEY, 3) == key.hexdigest()
    head, ray = ends()
    bound = b"ddp-orch peers: to head" + bytes(7) + b"\x03" + ray._nonce + head._nonce
    session = hmac.new(key.digest(), bound, hashlib.sha256).digest()
    for number in range(2):
        mac = hmac.new(session, bytes(7) + bytes([number]) + b'{"a": 1}', hashlib.sha256).digest()
        assert ray.seal({"a": 1}) == b"\0\x28" + mac + b'{"a": 1}'


def test_the_largest_news_fits():
    words = "\U0001f600" * 5000
    news = peers.clean({"why": words, "exit_code": 100, "time": 1e10 + 1 / 3}, 999)
    head, ray = ends()
    assert head.feed(ray.seal({"kind": "news", "news": news}))


@given(news=st.dictionaries(st.sampled_from(["why", "exit_code", "time", "node"]), json_values))
def test_whatever_a_news_says_it_can_be_shown_and_passed_on(news):
    got = peers.clean(news, 2)
    assert got["why"].isprintable()
    assert 0 < len(got["why"]) <= peers.MOST_WORDS
    assert 1 <= got["exit_code"] <= 255
    assert got["node"] == 2
    assert peers.clean(json.loads(json.dumps(got, allow_nan=False)), 2) == got


@pytest.mark.parametrize("end", [0, 1])
def test_the_length_is_checked_before_the_bytes_come(end):
    with pytest.raises(ValueError, match="4097 bytes"):
        ends()[end].feed(sealed.LENGTH.pack(sealed.LARGEST + 1))
