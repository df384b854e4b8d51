"""What `down --strays` says of hosts: as words, as JSON, as an exit code."""

from __future__ import annotations

import json

import pytest

from orchestrator.cleared import Cleared, exit_code, hint, read_end, sentence, summary
from orchestrator.screen import StrayJson, StrayLines
from orchestrator.survivors import Survivor

STUCK = Survivor(
    pid=7, name="python", state="D", uid=0, why="is in uninterruptible sleep (D)"
)  # fmt: skip
ROOTS = Survivor(pid=8, name="sudo", state="S", uid=0, why="belongs to root")


@pytest.mark.parametrize(
    ("host", "said", "code"),
    [
        (Cleared(host="a", outcome="nothing"), "a: nothing is left there", 0),
        (Cleared(host="a", outcome="gone", ended=1), "a: gone (1 process)", 0),
        (Cleared(host="a", outcome="gone", ended=3), "a: gone (3 processes)", 0),
        (
            Cleared(host="a", outcome="survivors", survivors=(STUCK,)),
            "a: NOT gone: 1 process could not be ended",
            100,
        ),
        (
            Cleared(host="a", outcome="unreachable", message="no route"),
            "a: not reached: no route",
            4,
        ),
        (Cleared(host="a", outcome="failed", message="what"), "a: NOT gone: what", 100),
    ],
)
def test_each_outcome(host, said, code):
    assert sentence(host) == said
    assert exit_code([host]) == code
    assert exit_code([host, Cleared(host="b", outcome="gone")]) == code
    assert (hint(host) is None) == (code == 0)
    assert (summary([host]) == "NOT known to be gone on a") == (code != 0)


def test_an_unreachable_host_is_4_whatever_else():
    survivors = Cleared(host="a", outcome="survivors", survivors=(STUCK,))
    assert exit_code([survivors, Cleared(host="b", outcome="unreachable")]) == 4


def test_in_all():
    nothing, gone = Cleared(host="a", outcome="nothing"), Cleared(host="b", outcome="gone", ended=3)
    assert summary([nothing]) == "nothing is left on these hosts"
    assert summary([nothing, gone]) == "strays: gone (3 processes)"


def test_survivors_are_named(capsys):
    shown = StrayLines()
    shown.show(Cleared(host="a", outcome="survivors", survivors=(STUCK, ROOTS)))
    assert capsys.readouterr().out.splitlines() == [
        "a: NOT gone: 2 processes could not be ended",
        "  pid 7 (python, state D, uid 0) is in uninterruptible sleep (D)",
        "  pid 8 (sudo, state S, uid 0) belongs to root",
        "  -> on a, as root: kill -9 7 8",
    ]


def test_a_host_cannot_write_a_line_of_ours(capsys):
    StrayLines().show(Cleared(host="a", outcome="failed", message="x\nb: gone\x1b[2J"))
    assert len(capsys.readouterr().out.splitlines()) == 2  # itself, and its hint


def test_as_programs_read_it(capsys):
    shown = StrayJson()
    hosts = [
        Cleared(host="a", outcome="gone", ended=2),
        Cleared(host="b", outcome="survivors", ended=1, survivors=(STUCK,)),
    ]
    for host in hosts:
        shown.show(host)
    shown.end(hosts)
    first, second, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "host": "a",
        "outcome": "gone",
        "processes": 2,
        "survivors": [],
        "message": "",
        "hint": None,
    }
    assert second["survivors"][0]["pid"] == 7
    assert last == {"summary": {"hosts": 2, "processes": 3, "survivors": 1, "exit_code": 100}}


def test_what_a_host_says_is_read_with_care():
    assert read_end({"ended": 2, "survivors": [], "kept": {}}) == (2, ())
    for nonsense in (None, {}, {"ended": "x", "survivors": []}, {"ended": 1, "survivors": [{}]}):
        with pytest.raises(ValueError, match="makes no sense"):
            read_end(nonsense)
