"""`down` as people type it: what is meant, what is asked, what is refused. No host is reached."""

from __future__ import annotations

import json
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
from orchestrator import down_there, survey
from orchestrator.down import Listener
from orchestrator.down import down as take_down
from orchestrator.down_there import _remains
from orchestrator.ends import note
from orchestrator.errors import HostError
from orchestrator.events import Ended, encode
from orchestrator.fleet import Fleet
from orchestrator.listing import from_record
from orchestrator.local_runs import LOCK, find, lock
from orchestrator.run import Options
from orchestrator.state import RunState
from orchestrator.store import RunStore
from orchestrator.taken_down import NodeDown, summary
from tests.test_fleet import Making
from tests.test_local_runs import ENDED, PLANNED
from tests.test_reports import EXIT, RECORD, STOP, raw

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
        return process.wait(30), said
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
    node = NodeDown(run="older", node=0, host="gpu1", outcome="down")
    note(find("older"), [node], Options(), lambda what, hint: warned.append(what))
    (said,) = warned
    assert "no record of the run can be kept in" in said


# ---- runs that had ended while nobody watched; their hosts fit on a page ----

GPUS = ("gpu1", "gpu2")
PROVEN = EXIT | {"proven": True}
RUNS = {"state": "running", "exit": None, "ranks_alive": 1}
STOPPED = {"state": "ended", "exit": PROVEN | {"code": None, "reason": "stopped"}, "stop": STOP}
STOP_ANSWER = {
    "state": "ended", "before": "ended", "survivors": [], "verified": True, "processes": 0,
    "failed": False, "problem": "",
}  # fmt: skip


class Hosts:
    """Two hosts that tell of their nodes, and end them when they are told to."""

    def __init__(self):
        self.nodes = {}
        """By run, what each host's report says but for the folder; None: it has nothing of it."""

        self.away = set()
        self.stopped = []

    def make(self, entries, doors, **more):
        names = entries if isinstance(entries, dict) else {host.name: host for host in entries}
        making = Making()
        making.then = self._prepare
        return Fleet(lambda key, lost: making(names[key].name, lost), names, **more)

    def _prepare(self, host):
        def opening():
            if host.name in self.away:
                raise HostError("no answer", check="ssh.reach", host=host.name)

        def answer(call, args, body):
            at = GPUS.index(host.name)
            if call.op == "reports.tell":
                there = [n for n in self.nodes if n.startswith(tuple(args["names"]))]
                told = [self._told(n, at) for n in there if self.nodes[n][at] is not None]
                call.future.set_result(told)
            else:
                assert call.op == "stopping.stop"
                call.future.set_result(self._stop(args["folder"].split("/")[-2], at, args["bury"]))

        host.opening, host.answer = opening, answer

    def _told(self, name, at):
        plan = json.loads(encode(find(name).plan))
        return raw(run=name, rank=at, record=RECORD | {"plan": plan}, **self.nodes[name][at])

    def _stop(self, name, at, bury):
        said = self.nodes[name][at]
        if said is None:
            # As stopping.py buries: a tombstone, and of that one hears from now on.
            self.nodes[name][at] = {"state": "ended", "exit": None, "stop": STOP} if bury else None
            return STOP_ANSWER | {"before": "absent"}
        if said.get("state", "ended") == "ended":
            return STOP_ANSWER
        self.stopped.append((name, GPUS[at]))
        self.nodes[name][at] = STOPPED
        return STOP_ANSWER | {"before": "running", "processes": 1}


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    made = Hosts()
    monkeypatch.setattr(survey, "fleet_of", made.make)
    monkeypatch.setattr(down_there, "fleet_of", made.make)
    return made


def record(name, at, *events):
    store = RunStore(name, load_text("hosts: [gpu1, gpu2]", "inventory.yaml").model_dump_json())
    folders = tuple(f"/h/.ddp-orch/runs/{name}/{n}" for n in range(2))
    for event in (replace(PLANNED, run=name, time=at, folders=folders), *events):
        store(event, RunState())
    store.close()


def taken_down(name=None, *, yes=True):
    """Return the exit code and, in order, what was told, asked and begun, and the last word."""
    said = []

    def confirm(lines):
        said.extend(f"{line}?" for line in lines)
        return yes

    listener = Listener(
        confirm=confirm, begin=lambda run, *_: said.append(f"taking down {run}"),
        show=lambda _: None, warn=lambda what, _: said.append(what), tell=said.append,
        end=lambda nodes, where: said.extend(summary(nodes, where)),
    )  # fmt: skip
    return take_down(name, 1.0, Options(), listener), said


def test_a_bare_down_passes_over_what_has_ended_and_takes_what_runs(hosts):
    record("oldest", 900.0)
    record("runs", 1000.0)
    record("over", 2000.0)
    record("failed", 3000.0)
    failed = {"state": "ended", "exit": PROVEN | {"code": 1}}
    hosts.nodes = {
        "oldest": [RUNS, RUNS],
        "runs": [RUNS, RUNS],
        "over": [{"exit": PROVEN}, {"exit": PROVEN}],
        "failed": [failed, {"state": "rebooted", "exit": None}],
    }
    code, said = taken_down()
    assert (code, said) == (0, [
        "failed had ended (exit 100) already",
        "over had ended (exit 0) already",
        "runs of alice@laptop: running on gpu1, gpu2, 2 of 2 workers alive?",
        "taking down runs",
        "run runs: down",
    ])  # fmt: skip
    assert hosts.stopped == [("runs", "gpu1"), ("runs", "gpu2")]
    ends = {name: find(name).ended for name in hosts.nodes}
    assert {name: end and end.exit_code for name, end in ends.items()} == {
        "oldest": None, "runs": 103, "over": 0, "failed": 100,
    }  # fmt: skip
    assert ends["over"].seconds == EXIT["time"] - 2000.0 or ends["over"].seconds == 0.0
    assert taken_down()[0] == 0
    assert taken_down() == (0, ["nothing runs that is known here"])


def test_who_says_no_has_nothing_ended_and_what_was_over_is_noted(hosts):
    record("runs", 1000.0)
    record("over", 2000.0)
    hosts.nodes = {"runs": [RUNS, RUNS], "over": [{"exit": PROVEN}, {"exit": PROVEN}]}
    code, said = taken_down(yes=False)
    assert (code, said[0]) == (130, "over had ended (exit 0) already")
    assert (hosts.stopped, find("runs").ended, find("over").ended.exit_code) == ([], None, 0)


@pytest.mark.parametrize("doubt", [{"exit": EXIT}, None, {"state": "lost", "exit": None}])
def test_what_is_not_proven_to_be_over_is_asked_for(hosts, doubt):
    """The host may have lost the folder of what runs on; or its supervisor was killed."""
    record("runs", 1000.0)
    record("doubt", 2000.0)
    hosts.nodes = {"runs": [RUNS, RUNS], "doubt": [{"exit": PROVEN}, doubt]}
    _, said = taken_down()
    assert said[0].startswith("doubt of alice@laptop: ")
    assert said[1] == "taking down doubt"
    assert find("doubt").ended.exit_code == (103 if doubt and doubt.get("state") else 0)
    went_on = "taking down runs" in said
    assert went_on is (not doubt or "state" not in doubt), "nothing had to be ended there"


def test_what_no_host_has_anything_of_is_done_with(hosts):
    record("runs", 1000.0)
    record("gone", 2000.0)
    hosts.nodes = {"runs": [RUNS, RUNS], "gone": [None, None]}
    code, said = taken_down()
    assert (code, said[:2]) == (0, ["gone on gpu1, gpu2?", "taking down gone"])
    assert said[-2:] == ["run gone: down already", "run runs: down"]
    assert find("gone").ended.exit_code == 103


def test_a_host_that_cannot_be_asked_keeps_a_run_from_being_passed_over(hosts):
    record("runs", 1000.0)
    record("away", 2000.0)
    hosts.nodes = {"runs": [RUNS, RUNS], "away": [{"exit": PROVEN}, {"exit": PROVEN}]}
    hosts.away = {"gpu2"}
    code, said = taken_down()
    assert (code, said[-1]) == (4, "run away: NOT known to be down on gpu2")
    assert (find("away").ended, hosts.stopped) == (None, [])
    hosts.away = set()
    assert taken_down()[1][0] == "away had ended (exit 0) already"


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ({"exit": PROVEN}, {"exit": PROVEN}, 0),
        ({"exit": PROVEN}, {"exit": EXIT | {"code": 1}}, 100),
        (STOPPED, STOPPED, 103),
        # Its tombstone says that it was stopped; that is no word on how the rest had ended.
        ({"exit": PROVEN}, None, 0),
    ],
)
def test_of_a_run_that_was_down_already_the_true_end_is_noted(hosts, one, other, code):
    record("over", 1000.0)
    hosts.nodes = {"over": [{"state": "ended"} | one, other and {"state": "ended"} | other]}
    assert taken_down("over") == (0, ["taking down over", "run over: down already"])
    ended = find("over").ended
    assert (ended.exit_code, ended.why) == (code, "it ended while nobody watched")
    assert not find("over").logs_are_here, "they are on the hosts, for `attach` and `logs`"


LOST = Ended(
    run="lost", exit_code=130, seconds=9.0, hosts=GPUS, why="interrupted by alice@laptop",
    failure=None, survivors=("gpu2: pid 7 (x, state D)",), logs="/here", unverified=("gpu2",),
)  # fmt: skip


@pytest.mark.parametrize("there", [STOPPED, RUNS, None])
def test_what_is_proven_later_clears_the_doubt_and_keeps_the_exit_code(hosts, there):
    record("lost", 1000.0, LOST)
    hosts.nodes = {"lost": [STOPPED, there]}
    hosts.away = {"gpu2"}
    assert taken_down("lost")[0] == 4
    assert find("lost").ended == LOST, "nothing new is known"
    hosts.away = set()
    assert taken_down("lost")[0] == 0
    assert find("lost").ended == replace(LOST, unverified=(), survivors=(), logs="")
    assert from_record(find("lost")).problems == ()


def test_a_bare_down_comes_to_those_with_a_doubt_last(hosts):
    record("runs", 1000.0)
    record("lost", 2000.0, LOST)
    hosts.nodes = {"runs": [RUNS, RUNS], "lost": [STOPPED, STOPPED]}
    assert taken_down()[1][-1] == "run runs: down"
    assert taken_down() == (
        0,
        ["lost had ended (exit 130) already", "nothing runs that is known here"],
    )
    assert find("lost").ended == replace(LOST, unverified=(), survivors=(), logs="")
