"""The table that is drawn while the checks are under way, on a real terminal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.asked import AT_ONCE, NEXT
from orchestrator.checks import IDS
from orchestrator.events import Checked, Connecting, Event, Looked, Verdict, Warned
from orchestrator.masking import Mask
from orchestrator.screen import Screen, make_way, show_lines
from orchestrator.screen.columns import COLUMNS, column_of
from orchestrator.state import RunState
from tests.hosts.keys import own_the_terminal
from tests.terminal import Pty, Seen

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parent.parent
PARTS = (
    "ssh", "network.tell", "facts.gather", "files.try_out", "conditions.gather", "smi.ask",
    "strays.find",
)  # fmt: skip


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes the process's stdout a terminal of that size."""
    opened = []
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def made(columns: int = 100, height: int = 24) -> Pty:
        pty = Pty(columns, height)
        out = os.fdopen(os.dup(pty.theirs), "w")
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        opened.extend([out, pty])
        return pty

    yield made
    make_way()
    monkeypatch.undo()
    for each in opened:
        each.close()


def play(shown: Screen, *events: Event) -> None:
    for event in events:
        shown(event, RunState())


def looked(host: str, *parts: str, came: bool = True) -> list[Looked]:
    return [Looked(host=host, part=part, came=came) for part in parts]


def hosts(count: int) -> tuple[str, ...]:
    return tuple(f"n{number}" for number in range(1, count + 1))


DONE = Checked(
    verdicts=(Verdict(id="env.python", status="pass", host="n1", message="3.11"),), hosts=("n1",)
)


def test_cells_are_filled_in_as_the_parts_come(terminal):
    pty, shown = terminal(), Screen()
    play(shown, Connecting(hosts=hosts(3)))
    assert pty.look() == [
        "checking 3 hosts ...",
        "host  ssh  host  disk  python  torch  code  GPUs  runs  network",
        "n1    ...  ...   ...   ...     ...    ...   ...   ...   ...",
        "n2    ...  ...   ...   ...     ...    ...   ...   ...   ...",
        "n3    ...  ...   ...   ...     ...    ...   ...   ...   ...",
        "waiting for 3 of 3 hosts",
    ]
    play(shown, *looked("n2", "ssh", came=False), *looked("n1", *PARTS))
    play(shown, *looked("n3", "ssh"), *looked("n3", "facts.gather", came=False))
    assert pty.look()[2:] == [
        "n1    ok   ok    ok    ok      ok     ok    ok    ok    ...",
        "n2    no   -     -     -       -      -     -     -     -",
        "n3    ok   ...   ...   ?       ?      ?     ...   ...   ...",
        "waiting for 1 of 3 hosts",
    ]
    play(shown, *looked("n3", *PARTS), *looked("n1", "probe.dial"))
    assert pty.look()[2:] == [
        "n1    ok   ok    ok    ok      ok     ok    ok    ok    ok",
        "n2    no   -     -     -       -      -     -     -     -",
        "n3    ok   ok    ok    ?       ?      ?     ok    ok    ...",
        "every host has told of itself; now between them",
    ]
    assert pty.seen.cursor


def test_it_is_taken_away_for_what_was_found(terminal):
    pty, shown = terminal(), Screen()
    play(shown, Connecting(hosts=("n1",)), *looked("n1", *PARTS), DONE)
    assert pty.look() == ["checking 1 host ...", "host  python", "n1    3.11", "checks: 1 pass"]
    play(shown, *looked("n1", "late"))
    assert len(pty.look()) == 4


def test_what_is_said_meanwhile_stands_above_it(terminal):
    pty, shown = terminal(), Screen()
    play(shown, Connecting(hosts=("n1",)), Warned(message="look here"))
    assert pty.look() == ["checking 1 host ...", "warning: look here"]
    play(shown, *looked("n1", "ssh"))
    assert pty.look()[2].startswith("host  ssh")
    show_lines(["and here"], Mask())
    sys.stderr.flush()
    assert pty.look() == ["checking 1 host ...", "warning: look here", "and here"]


def test_of_more_hosts_than_lines_those_that_are_awaited(terminal):
    pty, shown = terminal(height=10), Screen()
    play(shown, Connecting(hosts=hosts(40)))
    assert [line.split()[0] for line in pty.look()[1:]] == [
        *("host", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "waiting")
    ]
    assert pty.look()[-1] == "waiting for 40 of 40 hosts, 33 of them not shown"
    for host in hosts(38):
        play(shown, *looked(host, *PARTS))
        pty.look()  # a terminal that nobody reads holds up who writes to it
    assert [line.split()[0] for line in pty.look()[1:]] == ["host", "n39", "n40", "waiting"]
    assert pty.look()[-1] == "waiting for 2 of 40 hosts"
    play(shown, DONE)
    assert pty.look()[0] == "checking 40 hosts ..."
    assert len(pty.look()) == 4


@pytest.mark.parametrize("columns", [12, 30, 63, 64, 65])
def test_a_narrow_terminal_has_fewer_columns_and_no_line_that_wraps(terminal, columns):
    pty, shown = terminal(columns=columns), Screen()
    play(shown, Connecting(hosts=("n1", "a" * 60)), *looked("n1", *PARTS), *looked("n1", "probe."))
    pty.look()
    assert len(pty.seen.rows) == 1 + 4 + 1 + (columns < 20), "the first line may wrap, and no other"
    play(shown, DONE)
    assert "waiting" not in "".join(pty.look())


def test_a_window_that_becomes_narrower_or_wider(terminal):
    pty, shown = terminal(columns=100), Screen()
    play(shown, Connecting(hosts=hosts(3)))
    pty.look()
    # As terminals do: what does not fit goes on in the next line.
    before, pty.seen = pty.seen.lines, Seen(40, 24)
    pty.seen.feed("".join(f"{line}\r\n" for line in before))
    pty.resize(40, 24)
    play(shown, *looked("n1", "ssh"))
    lines = pty.look()
    assert (lines[0], len(lines)) == ("checking 3 hosts ...", 6)
    assert max(map(len, lines)) < 40


@pytest.mark.parametrize(
    ("env", "options"), [({"TERM": "dumb"}, {}), ({"TERM": ""}, {}), ({}, {"quiet": True})]
)
def test_nothing_is_drawn(terminal, monkeypatch, env, options):
    pty = terminal()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    shown = Screen(**options)
    play(shown, Connecting(hosts=("n1",)), *looked("n1", *PARTS), DONE)
    assert "waiting" not in pty.look()[0]
    assert "\x1b[A" not in pty.raw
    assert "waiting" not in pty.raw
    assert pty.look()[-1] == "checks: 1 pass"


def test_colours_or_none(terminal, monkeypatch):
    pty = terminal()
    play(Screen(), Connecting(hosts=("n1",)), *looked("n1", "ssh"), DONE)
    pty.look()
    assert pty.seen.colours
    monkeypatch.setenv("NO_COLOR", "1")
    pty = terminal()
    play(Screen(), Connecting(hosts=("n1",)), *looked("n1", "ssh"))
    assert pty.look()[2].startswith("n1    ok")
    assert not pty.seen.colours


def test_every_part_and_every_check_has_its_column():
    """A new group, or a new question, is to be seen in the table as well."""
    asked = [question.op for question in (*AT_ONCE, *NEXT)]
    parts = tuple(part for column in COLUMNS for part in column.parts)
    # Where a host is goes without a column: what comes of it is seen between the hosts.
    own = ["network.tell", "listening.hold", "interfaces.tell"]
    assert [op for op in asked if not op.startswith(parts)] == own
    assert [id_ for id_ in IDS if column_of(id_) is None] == []


# --- a process of its own -----------------------------------------------------------------------

QUESTION = """
from orchestrator import screen
from orchestrator.events import Connecting, Looked
from orchestrator.state import RunState
shown = screen.Screen()
shown(Connecting(hosts=("n1", "n2")), RunState())
print("got", len(screen.asker()("Passphrase: ")))
shown(Looked(host="n1", part="ssh", came=True), RunState())
screen.make_way()
"""


def started(pty: Pty, *argv: str, **env: str) -> subprocess.Popen[bytes]:
    base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    return subprocess.Popen(
        [sys.executable, *argv],
        stdin=pty.theirs,
        stdout=pty.theirs,
        stderr=pty.theirs,
        start_new_session=True,
        preexec_fn=own_the_terminal,
        env=base | {"TERM": "xterm", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | env,
    )


def test_a_question_stands_alone():
    pty = Pty()
    process = started(pty, "-c", QUESTION)
    try:
        assert pty.look_until("Passphrase:") == ["checking 2 hosts ...", "Passphrase:"]
        pty.type("secret\n")
        lines = pty.look_until("got 6")
        assert process.wait(60) == 0
        assert pty.look()[:3] == ["checking 2 hosts ...", "Passphrase:", "got 6"]
        assert "waiting for 2" in pty.raw.partition("got 6")[2], "drawn again, after the answer"
        assert "secret" not in "".join(lines)
    finally:
        process.kill()
        process.wait(30)
        pty.close()


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path):
    """The host takes connections and says nothing: the table stands there for seconds."""
    pty = Pty()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        inventory = tmp_path / "inv.yaml"
        inventory.write_text(
            f"hosts: [{{name: mute, ssh: '127.0.0.1:{port}'}}]\ndefaults: {{ssh_config: none}}\n"
        )
        words = ("-m", "orchestrator", "check", str(inventory))
        process = started(pty, *words, HOME=str(tmp_path), DDP_ORCH_STATE_DIR=str(tmp_path))
        try:
            pty.look_until("waiting for 1 of 1 host")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert pty.look() == ["checking 1 host ..."]
            assert pty.seen.cursor
            assert pty.echoes
        finally:
            process.kill()
            process.wait(30)
            pty.close()
