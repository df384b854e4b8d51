"""What a secret is shown as: stars, wherever it stands and however it comes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import (
    Checked,
    Connected,
    Ended,
    Failure,
    HostFailed,
    LinkDown,
    Logged,
    NodeEnded,
    Planned,
    SetupEnded,
    StopAsked,
    Verdict,
    Warned,
    WorkerEnded,
    encode,
)
from orchestrator.masking import STARS, Mask, Secret, revealed

TOKEN = "hf_Xy7'\"$\\q9"  # noqa: S105  with what repr and JSON write otherwise
KEY = "-----BEGIN KEY-----\nMIIabc+/=\nend\n-----END KEY-----\n"


def mask(*values: str) -> Mask:
    return Mask(map(Secret, values))


# --- the type -----------------------------------------------------------------------------------


def test_a_secret_shows_itself_nowhere():
    secret = Secret(TOKEN)

    @dataclasses.dataclass
    class Holder:
        env: dict[str, Secret]

    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>3}", f"{secret!r}"]
    shown += [str([secret]), str(Holder({"K": secret})), str(dataclasses.asdict(Holder({}))), ""]
    assert not [text for text in shown if "hf_" in text]
    assert shown[0] == STARS
    assert str(Holder({"K": secret})).count(STARS) == 1
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps({"K": secret})
    with pytest.raises(TypeError, match="not to be stored"):
        pickle.dumps(secret)
    assert not hasattr(secret, "__dict__")
    assert revealed({"K": secret}) == {"K": TOKEN}


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [TOKEN, repr(TOKEN)[1:-1], json.dumps(TOKEN)[1:-1], json.dumps({"token": TOKEN})],
)
def test_the_forms_that_programs_print(form):
    got = mask(TOKEN).text(f"KeyError: {form} at line 3")
    assert "Xy7" not in got
    assert STARS in got
    assert got.endswith(" at line 3")


def test_lines_of_a_secret_are_masked_each():
    got = mask(KEY).text(f"<{KEY}>")
    assert got == f"<{STARS}\n{STARS}\nend\n{STARS}\n>", "three characters are no secret"
    assert mask(KEY).text(repr(KEY)) == f"'{STARS}'"
    assert mask(KEY).text(json.dumps({"key": KEY})) == f'{{"key": "{STARS}"}}'


def test_a_text_that_was_cut_off_inside_a_secret():
    assert mask("hf_secret").text("the token is hf_se") == f"the token is {STARS}"
    assert mask("hf_secret").text("it ends in hf_") == "it ends in hf_", (
        "a few letters tell nothing"
    )


def test_the_longest_secret_is_masked_whole():
    both = mask("hf_abc", "hf_abcdef")
    assert both.text("hf_abcdef hf_abc.") == f"{STARS} {STARS}."


def test_bytes_that_are_no_text():
    odd = b"tok\xffen-\xc3".decode("utf-8", "surrogateescape")
    for how in ("surrogateescape", "replace", "backslashreplace"):
        shown = b"is tok\xffen-\xc3!".decode("utf-8", how)
        assert mask(odd).text(shown) == f"is {STARS}!"
    assert mask(odd).stream().feed(b"is tok\xffen-\xc3!") == (0, f"is {STARS}!".encode())


def test_without_secrets_nothing_changes():
    none = Mask()
    assert not none
    assert none.text("x") == "x"
    event = Warned(message="x")
    assert none.event(event) is event


# --- events -------------------------------------------------------------------------------------

S = "s3cr3t-value"
EVENTS = [
    Connected(host="a", seconds=1.0, noise=f"hi {S}"),
    HostFailed(host="a", check="ssh.auth", message=S, hint=S),
    Checked(
        verdicts=(Verdict(id="env.python", status="fail", message=S, evidence={S: [S]}, hint=S),),
        hosts=("a",),
    ),
    Planned(
        run="r", hosts=("a",), workers=(1,), what=S, endpoint="a:1", addresses=("a",),
        max_restarts=0, time=1.0,
    ),
    SetupEnded(
        node=0, host="a", number=1, of=1, command=f"echo {S}", code=1, signal=None, reason=S,
        survivors=(S,), time=1.0,
    ),
    WorkerEnded(
        node=0, host="a", rank=0, local_rank=0, pid=1, code=1, signal=None, restart=0, error=S,
        traceback=f"a\n{S}\n", time=1.0,
    ),
    NodeEnded(
        node=0, host="a", code=1, signal=None, reason=S, survivors=(f"pid 7 ({S})",), time=1.0
    ),
    LinkDown(host="a", node=0, message=S, time=1.0),
    StopAsked(why=S, exit_code=100, grace=1.0, time=1.0),
    Warned(message=S, hint=S),
    Ended(
        run="r", exit_code=100, seconds=1.0, hosts=("a",), why=S, survivors=(S,), logs="/x",
        failure=Failure(
            host="a", rank=0, code=1, signal=None, message=S, tail=("x", S), setup=S
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_text_of_an_event_is_masked(event):
    got = mask(S).event(event)
    assert type(got) is type(event)
    assert S not in encode(got)
    assert S not in repr(got)
    assert STARS in encode(got)


def test_what_events_are_told_apart_by_stays():
    """Else a secret called "pass" would make a verdict that no screen can show."""
    verdict = Verdict(id="net.rdzv", status="pass", host="pass", message="it will pass")
    got = mask("pass", "net.rdzv").event(Checked(verdicts=(verdict,), hosts=("pass",)))
    assert got.verdicts[0] == dataclasses.replace(verdict, message=f"it will {STARS}")
    assert got.hosts == ("pass",)


# --- streams ------------------------------------------------------------------------------------


def through(masked: Mask, parts: list[bytes]) -> bytes:
    stream = masked.stream()
    return b"".join([*(stream.feed(part)[1] for part in parts), stream.close()[1]])


@pytest.mark.parametrize("at", range(1, len(S)))
def test_a_secret_in_two_parts(at):
    data = f"a {S} b\n".encode()
    whole = f"a {STARS} b\n".encode()
    assert through(mask(S), [data[: 2 + at], data[2 + at :]]) == whole


@given(
    st.lists(st.sampled_from(["hf_abc", "hf_abcdef", "hf_", "a", "\n", "f_abc", "abab", "ab"])),
    st.lists(st.integers(0, 30)),
)
def test_however_the_parts_are_cut_the_same_is_shown(words, cuts):
    data = "".join(words).encode()
    masked = mask("hf_abc", "hf_abcdef", "abab")
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    parts = [data[a:b] for a, b in itertools.pairwise(places)]
    shown = through(masked, parts)
    assert b"hf_abc" not in shown
    assert b"abab" not in shown
    assert shown == through(masked, [data[i : i + 1] for i in range(len(data))])


def test_the_offset_is_that_of_the_raw_bytes():
    stream = mask("secret").stream()
    assert stream.feed(b"one sec", 100) == (100, b"one ")
    assert stream.feed(b"ret two\n", 107) == (104, f"{STARS} two\n".encode())
    assert stream.feed(b"sec", 115) == (115, b"")
    assert stream.close() == (115, b"sec")


def test_half_a_secret_at_the_very_end_is_one():
    stream = mask("secret").stream()
    assert stream.feed(b"my secre") == (0, b"my ")
    assert stream.close() == (3, STARS.encode())


def test_a_line_that_ends_is_not_held_back():
    """A progress bar must not lag; no form has a line's end in it."""
    stream = mask(KEY, "secret\n").stream()
    assert stream.feed(b"se\n") == (0, b"se\n")


def test_a_large_secret_costs_no_second_per_part():
    big = mask("x" * 100_000 + "y")
    assert big.stream().feed(b"x" * 1000 + b"\n")[1] == b"x" * 1000 + b"\n"


def test_logs_of_an_event_are_left_to_the_streams():
    event = Logged(node=0, host="a", rank=0, stream="out", round=0, offset=0, data=S.encode())
    assert mask(S).event(event) == event
