"""`down` as people type it: what is meant, what is asked, what is refused. No host is reached."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from inventory.load import load_text
from orchestrator.down import Listener, _write_down
from orchestrator.down_there import _remains
from orchestrator.events import Ended
from orchestrator.local_runs import LOCK, find, lock
from orchestrator.state import RunState
from orchestrator.store import RunStore
from orchestrator.taken_down import NodeDown
from tests.test_local_runs import ENDED, PLANNED

DDP_ORCH = [sys.executable, "-m", "orchestrator"]
# The terminal becomes its own, as a shell's job has it: Ctrl-C there is a signal.
AT_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def nobody():
    """A port of this machine on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def runs(tmp_path, monkeypatch, nobody):
    """Two runs on a host that is not there: the older one goes on, the newer one has ended."""
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("DDP_ORCH_YES", raising=False)
    text = f"hosts: [{{name: gpu1, ssh: me@127.0.0.1:{nobody}}}]\ndefaults: {{ssh_config: none}}\n"
    inventory = load_text(text, "inventory.yaml")
    # A version that knew no folders has left the oldest.
    for name, at, events in (("bare", 0.0, ()), ("older", 1e3, ()), ("newer", 2e3, (ENDED,))):
        hosts = {"hosts": ("gpu1",), "workers": (1,), "addresses": ("127.0.0.1",)}
        plan = replace(PLANNED, run=name, time=at, folders=(f"/x/runs/{name}/0",), **hosts)
        plan = replace(plan, folders=()) if name == "bare" else plan
        store = RunStore(name, inventory.model_dump_json())
        for event in (plan, *events):
            store(event, RunState())
        store.close()
    return tmp_path


def down(*words):
    return subprocess.run(
        [*DDP_ORCH, "down", *words], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def at_a_terminal(answer: str, *words: str) -> tuple[int, str]:
    """Type the answer to what is asked; return the exit code and all that was said."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, *DDP_ORCH, "down", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said, typed = "", False
    end = time.monotonic() + 60
    while (left := end - time.monotonic()) > 0:
        if not select.select([ours], [], [], left)[0]:
            break
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that nobody is at the other end any more
            break
        if not part:  # and macOS
            break
        said += part.decode()
        if "[y/N]" in said and not typed:
            typed = bool(os.write(ours, answer.encode()))
    os.close(ours)
    try:
        return process.wait(10), said
    finally:
        process.kill()


def test_the_newest_that_has_not_ended_is_meant_and_asked_for(runs):
    code, said = at_a_terminal("n\n")
    assert code == 130
    assert "older on gpu1\r\ntake it down? [y/N] " in said
    assert "taking down" not in said
    code, said = at_a_terminal("y\n")
    assert code == 4
    assert "taking down older on gpu1 (grace 10 s)" in said


def test_ctrl_c_at_the_question_ends_its_line_first(runs):
    code, said = at_a_terminal("\x03")
    assert code == 130
    assert said.endswith("take it down? [y/N] ^C\r\n")


@pytest.mark.parametrize("words", [["-y"], ["older"], ["old", "--force"]])
def test_who_says_so_or_names_it_is_not_asked(runs, words):
    code, said = at_a_terminal("n\n", *words)
    assert code == 4, said
    assert "[y/N]" not in said
    assert "taking down older on gpu1 (grace " in said
    assert "gpu1: not reached: " in said


def test_off_a_terminal_it_goes_ahead(runs):
    done = down("-o", "json")
    assert done.returncode == 4, done.stdout + done.stderr
    node, summary = done.stdout.splitlines()
    assert '"outcome":"unreachable"' in node
    assert '"exit_code":4' in summary
    assert find("older").ended is None, "what was not reached has not ended"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nix"], 102, "no run called nix is known here"),
        (["a.yaml", "-i", "b.yaml"], 2, "a.yaml and -i b.yaml: one inventory at a time"),
        (["a.yaml", "-H", "b"], 2, "an inventory and -H as well"),
        (["--exclude", "b"], 2, "choose hosts of -i INVENTORY, and there is none"),
        (["-H", "gpu1,"], 2, "-H"),
        (["--all"], 2, "--all is for all runs of an inventory's hosts"),
        (["older", "--all"], 2, "--all is for all runs of an inventory's hosts"),
        (["older", "--grace", "soon"], 2, "--grace: 'soon' is not a duration such as 30s"),
        (["nix.yaml"], 2, "nix.yaml"),
        (["x" * 5000], 102, "no run called xxx"),
        (["bare"], 2, "the record of bare here does not say where its hosts are"),
        (["older", "-o", "xml"], 2, "-o xml: there is table and json"),
    ],
)
def test_what_cannot_be_meant_is_said(runs, words, code, said):
    done = down(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""


def test_hosts_that_cannot_be_asked_are_no_hosts_on_which_nothing_runs(runs, tmp_path, nobody):
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(f"hosts: [{{name: gpu1, ssh: me@127.0.0.1:{nobody}}}]\n")
    done = down(str(inventory))
    assert done.returncode == 4
    assert done.stdout == ""
    assert "gpu1" in done.stderr


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([{"folder": "/x/runs/older/3", "processes": 2}], [("older", 3, "/x/runs/older/3")]),
        ([{"folder": "/etc"}, {"folder": 3}, {}, 7, None], []),
        ({"folder": "/x/runs/older/3"}, []),
        (None, []),
    ],
)
def test_of_what_runs_without_its_folder_only_sense_is_taken(answer, found):
    told = list(_remains("gpu1", answer))
    assert [(each.run, each.node, each.folder) for each in told] == found
    assert {each.host for each in told} <= {"gpu1"}


def test_an_end_is_noted_once_and_by_who_attends(runs):
    ended = Ended(
        run="older", exit_code=103, seconds=1.0, hosts=("gpu1",), why="taken down", failure=None,
        survivors=(), logs="",
    )  # fmt: skip
    held = lock(Path(find("older").folder) / LOCK)
    assert held is not None
    RunStore.note_end("older", ended)
    assert find("older").ended is None, "another controller records it, and will note its end"
    os.close(held)
    RunStore.note_end("older", ended)
    assert find("older").ended == ended


def test_a_record_that_cannot_be_written_to_takes_no_end_its_telling(runs, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    warned = []
    listener = Listener(
        confirm=lambda _: True, begin=lambda *_: None, show=lambda _: None,
        warn=lambda what, hint: warned.append(what), end=lambda _: None,
    )  # fmt: skip
    node = NodeDown(run="older", node=0, host="gpu1", outcome="down")
    _write_down(find("older"), [node], listener)
    (said,) = warned
    assert "no record of the run can be kept in" in said
