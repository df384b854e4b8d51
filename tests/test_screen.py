"""What is shown of a made-up run: to people, off a terminal, and to programs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import sys

import pytest

from inventory.model import Host, Inventory
from orchestrator import screen
from orchestrator.errors import HostError, UsageError
from orchestrator.events import (
    Checked,
    Connected,
    Detached,
    Ended,
    Failure,
    GaveUp,
    Launched,
    LinkDown,
    LinkUp,
    Logged,
    NodeEnded,
    Planned,
    SetupBegan,
    SetupEnded,
    StopAsked,
    Stopping,
    Verdict,
    Warned,
    Worker,
    WorkersUp,
)
from orchestrator.masking import Mask, Secret
from orchestrator.plan import Program, make_plan
from orchestrator.screen import JsonLines, JsonVerdicts, Screen
from orchestrator.state import RunState, fold


def verdict(check: str, host: str, message: str, status: str = "pass", **more) -> Verdict:
    return Verdict(id=check, host=host, message=message, status=status, **more)


def checked(*more: Verdict) -> Checked:
    healthy = [
        verdict(check, host, message, duration_ms=200.0)
        for host in ("gpu1", "gpu2")
        for check, message in (
            ("ssh.reach", "connected in 0.2 s"),
            ("net.ping", "1.0 ms"),
            ("env.python", "3.11.7"),
            ("env.torch", "2.6.0"),
        )
    ]
    return Checked(verdicts=(*healthy, *more), hosts=("gpu1", "gpu2"), seconds=1.26)


def logged(rank: int | None, data: bytes, *, stream: str = "out", turn: int = 0) -> Logged:
    node = rank or 0
    host = f"gpu{node + 1}"
    return Logged(
        node=node, host=host, rank=rank, stream=stream, round=turn, offset=0, data=data
    )  # fmt: skip


def up(node: int, *, world: int = 2, group: int | None = None, turn: int = 0) -> WorkersUp:
    worker = Worker(
        rank=node,
        local_rank=0,
        group_rank=node if group is None else group,
        world_size=world,
        pid=500 + node,
        restart=turn,
    )
    return WorkersUp(node=node, host=f"gpu{node + 1}", round=turn, workers=(worker,), time=105.0)


PLANNED = Planned(
    run="brave-otter",
    hosts=("gpu1", "gpu2"),
    workers=(1, 1),
    what="train.py",
    endpoint="10.0.0.1:41000",
    addresses=("10.0.0.1", "10.0.0.2"),
    max_restarts=1,
    time=100.0,
)
START = (
    PLANNED,
    Launched(node=0, host="gpu1", time=101.0),
    Launched(node=1, host="gpu2", time=101.0),
    up(0),
    up(1),
)


def ended_node(node: int, code: int = 0) -> NodeEnded:
    return NodeEnded(
        node=node,
        host=f"gpu{node + 1}",
        code=code,
        signal=None,
        reason="exited",
        survivors=(),
        time=120.0,
    )


def ended(exit_code: int = 0, failure: Failure | None = None, **more) -> Ended:
    fields = {"why": "all workers ended well", "survivors": (), "logs": "/logs"} | more
    return Ended(
        run="brave-otter",
        exit_code=exit_code,
        seconds=20.04,
        hosts=("gpu1", "gpu2"),
        failure=failure,
        **fields,
    )


class Out:
    """What went to a stdout that is no terminal, since it was last asked."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def take(self) -> str:
        return self._capsys.readouterr().out


@pytest.fixture
def out(monkeypatch, capsys) -> Out:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return Out(capsys)


def play(sink, *events) -> None:
    state = RunState()
    for event in events:
        state = fold(state, event)
        sink(event, state)


def shown(out: Out, *events, **options) -> str:
    play(Screen(**options), *events)
    return "".join(f"{line.rstrip()}\n" for line in out.take().splitlines())


# --- a whole run --------------------------------------------------------------------------------

WHOLE = """\
host  ssh    python  torch  network
gpu1  0.2 s  3.11.7  2.6.0  ok
gpu2  0.2 s  3.11.7  2.6.0  ok
checks: 10 pass in 1.3 s
run brave-otter: train.py on 2 hosts, 2 workers, rendezvous at 10.0.0.1:41000
all workers run:
rank  host  address   node  local rank  pid  world
0     gpu1  10.0.0.1  0     0           500  2
1     gpu2  10.0.0.2  1     0           501  2
gpu1[r0]| epoch 1
gpu2[r1]| half a line
warning: it is late
  be patient
all workers run again (restart 1):
rank  host  address   node  local rank  pid  world
0     gpu1  10.0.0.1  0     0           500  2
1     gpu2  10.0.0.2  1     0           501  2
gpu1[r0]| without a newline
run brave-otter: done in 20.0 s on gpu1, gpu2
logs: /logs
"""


def test_a_whole_run(out):
    text = shown(
        out,
        Connected(host="gpu1", seconds=0.2),
        checked(
            verdict("net.port.rdzv", "gpu1", "41000 is free"),
            verdict("net.rdzv", "gpu2", "10.0.0.1 in 1.0 ms", scope="pair", peer="gpu1"),
        ),
        *START,
        logged(0, b"epoch 1\n"),
        logged(None, b"W0101 torchrun's own words\n"),
        logged(1, b"half "),
        logged(1, b"a line\n"),
        Warned(message="it is late", hint="be patient"),
        up(0, turn=1),
        up(1, turn=1),
        logged(0, b"without a newline", turn=1),
        ended_node(0),
        ended_node(1),
        ended(),
    )
    assert text == WHOLE


FAILED = """\
stopping everywhere: rank 1 on gpu2 exited with code 3
gpu2: the network is gone
run brave-otter: rank 1 on gpu2 exited with code 3 (after 20.0 s on gpu1, gpu2; exit 100)
first failure: rank 1 on gpu2, exit code 3: ValueError: x
    Traceback
    ValueError: x
still there, could not be ended: gpu1: pid 7
logs: /logs
"""


def test_a_run_that_fails(out):
    why = "rank 1 on gpu2 exited with code 3"
    failure = Failure(
        host="gpu2",
        rank=1,
        code=3,
        signal=None,
        message="ValueError: x",
        tail=("Traceback", "ValueError: x"),
    )
    text = shown(
        out,
        StopAsked(why=why, exit_code=100, grace=10.0, time=1.0),
        GaveUp(host="gpu2", node=1, message="the network is gone", time=1.0),
        ended(100, failure, why=why, survivors=("gpu1: pid 7",)),
    )
    assert text == FAILED


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ({"rank": None, "code": 2}, "torchrun on a, exit code 2: m"),
        ({"rank": 0, "signal": 9}, "rank 0 on a, killed by SIGKILL: m"),
        ({"rank": 0, "signal": 9, "message": ""}, "rank 0 on a, killed by SIGKILL"),
        ({"rank": 0, "code": 7, "hint": "do x"}, "rank 0 on a, exit code 7: m\n   -> do x"),
        ({"rank": None}, "torchrun on a, not started: m"),
    ],
)
def test_first_failures(out, failure, line):
    fields = {"host": "a", "code": None, "signal": None, "message": "m", "tail": ()} | failure
    assert f"first failure: {line}\n" in shown(out, ended(100, Failure(**fields)))


def test_an_interrupted_run_says_how_to_hurry(out):
    asked = StopAsked(why="interrupted", exit_code=130, grace=10.0, time=1.0)
    assert shown(out, asked) == (
        "stopping everywhere: interrupted (10 s to end; Ctrl-C again kills at once)\n"
    )
    killed = dataclasses.replace(asked, grace=0.0, time=2.0)
    text = shown(out, *START, asked, ended_node(0), killed)
    assert text.splitlines()[-1] == "killing what is left on gpu2"


def test_one_that_is_lost_while_the_run_ends_is_not_said_to_go_on(out):
    asked = StopAsked(why="interrupted", exit_code=130, grace=10.0, time=1.0)
    down = LinkDown(host="gpu2", node=1, message="gone", time=2.0)
    text = shown(out, *START, asked, down)
    assert text.splitlines()[-1] == "no contact with gpu2: gone; it is tried again"


FINDINGS = """\
host  ssh    python  torch  network
gpu1  0.2 s  3.11.7  2.6.0  ok
gpu2  FAIL   3.11.7  ?      ok
FAIL ssh.auth  gpu2: refuses
   -> ssh-copy-id
?    env.torch  gpu2: no interpreter to ask
warn ssh.noise  gpu2: prints
checks: 1 fail, 1 unknown, 1 warn, 8 pass in 1.3 s
"""


def test_findings(out):
    text = shown(
        out,
        checked(
            verdict("ssh.auth", "gpu2", "refuses", "fail", hint="ssh-copy-id"),
            verdict("ssh.noise", "gpu2", "gpu2: prints", "warn"),
            verdict("env.torch", "gpu2", "no interpreter to ask", "unknown"),
        ),
    )
    assert text == FINDINGS


def test_the_same_of_many_hosts_is_said_once(out):
    text = shown(
        out,
        checked(
            *(verdict("ssh.auth", h, "takes no keys", "fail", hint="ask") for h in ("a", "b", "c")),
            verdict("ssh.auth", "d", "takes no keys", "fail", hint="another"),
        ),
    )
    said = text.splitlines()
    assert said[-5:-1] == [
        "FAIL ssh.auth  a, b, c: takes no keys",
        "   -> ask",
        "FAIL ssh.auth  d: takes no keys",
        "   -> another",
    ]
    assert said[-1] == "checks: 4 fail, 8 pass in 1.3 s"


def test_nobody_is_asked_where_nobody_is(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a secret\n"))
    assert screen.asker() is None


def test_quiet_while_all_is_well(out):
    assert shown(out, checked(), quiet=True) == "checks: 8 pass in 1.3 s\n"


def test_quiet_or_not_a_failure_is_shown(out):
    text = shown(out, checked(verdict("env.torch", "gpu2", "none", "fail")), quiet=True)
    assert "FAIL env.torch  gpu2: none" in text


# --- what hosts say -----------------------------------------------------------------------------

NASTY = "[bold]b[/bold] [/] [link=x]l \\[red] :smile: end\\"


def test_markup_is_shown_as_it_is(out):
    failure = Failure(host="gpu1", rank=0, code=1, signal=None, message=NASTY, tail=(NASTY, "x"))
    text = shown(
        out,
        checked(verdict("env.torch", "gpu2", NASTY, "fail", hint=NASTY)),
        Checked(
            verdicts=(verdict("env.python", "gpu1", "[b]x[/b] [/] :smile: \\"),), hosts=("gpu1",)
        ),
        Warned(message=NASTY),
        *START,
        logged(0, f"{NASTY}\n".encode()),
        ended(100, failure, why=NASTY),
    )
    assert text.count(NASTY) == 7
    assert "gpu1  [b]x[/b] [/] :smile: \\\n" in text


def test_no_control_reaches_the_terminal(out):
    evil = "x\x1b]0;evil\x07\x1b[2Jy\x9b"
    failure = Failure(host="gpu1", rank=0, code=1, signal=None, message=evil, tail=(evil,))
    planned = Planned(
        **{k: getattr(PLANNED, k) for k in ("run", "hosts", "workers", "what", "endpoint")},
        addresses=(evil, evil),
        max_restarts=0,
        time=1.0,
    )
    text = shown(
        out,
        checked(verdict("env.torch", "gpu2", evil, "fail", hint=evil)),
        checked(verdict("net.rdzv", "gpu2", evil)),
        planned,
        *START[1:],
        logged(0, evil.encode() + b"\n"),
        LinkDown(host="gpu2", node=1, message=evil, time=1.0),
        GaveUp(host="gpu2", node=1, message=evil, time=1.0),
        Warned(message=evil, hint=evil),
        ended(100, failure, why=evil, survivors=(evil,)),
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert text.count("xy") >= 12


def test_a_host_that_goes_and_comes_back_is_told_of(out):
    text = shown(
        out,
        LinkDown(host="gpu2", node=1, message="the network is gone", time=1.0),
        LinkUp(host="gpu2", node=1, time=2.0),
    )
    assert text == (
        "no contact with gpu2: the network is gone; its part of the run goes on, "
        "and it is tried again\ngpu2 is back\n"
    )


def test_many_hosts_are_few_words(out):
    many = tuple(f"gpu{number}" for number in range(1, 201))
    left = shown(out, Detached(run="brave-otter", hosts=many, time=1.0))
    assert left.startswith("run brave-otter goes on without us on gpu[1-200]\n")
    over = dataclasses.replace(ended(130), hosts=many, why="interrupted", unverified=many[:3])
    assert shown(out, over).splitlines()[:2] == [
        "run brave-otter: interrupted (after 20.0 s on gpu[1-200]; exit 130)",
        "not verified on gpu[1-3]: ddp-orch down brave-otter, once it can be reached",
    ]


def test_who_leaves_says_how_to_come_back(out):
    text = shown(out, Detached(run="brave-otter", hosts=("gpu1", "gpu2"), time=1.0))
    assert text == (
        "run brave-otter goes on without us on gpu1, gpu2\n"
        "  ddp-orch attach brave-otter    or: logs, ps, down\n"
    )


def stopping(node: int, time: float) -> Stopping:
    why = "taken down by bob@desk"
    host = f"gpu{node + 1}"
    return Stopping(node=node, host=host, why=why, exit_code=103, grace=5.0, time=time)


def test_another_controllers_stop_is_said_once(out):
    text = shown(out, PLANNED, *START[1:], stopping(0, 3.0), stopping(1, 3.5))
    assert text.count("stopping everywhere: taken down by bob@desk\n") == 1


def test_our_own_stop_is_not_said_again_when_the_hosts_tell_of_it(out):
    asked = StopAsked(why="interrupted", exit_code=130, grace=10.0, time=3.0)
    text = shown(out, PLANNED, *START[1:], asked, stopping(0, 3.1), stopping(1, 3.2))
    assert text.count("stopping everywhere") == 1


def test_a_world_larger_than_the_planned_one_is_shown(out):
    text = shown(out, PLANNED, up(0, world=3, group=2), up(1, world=3, group=-1))
    assert re.search(r"^0 +gpu1 +\? +2 +0 +500 +3$", text, re.MULTILINE)
    assert re.search(r"^1 +gpu2 +\? +-1 +0 +501 +3$", text, re.MULTILINE)


def test_the_ranks_are_shown_when_all_are_there_and_once(out):
    text = shown(out, PLANNED, up(0), ended_node(1))
    assert "all workers run" not in text
    text = shown(out, *START, up(1))
    assert text.count("all workers run") == 1


def test_who_comes_when_all_are_to_end_is_not_shown_as_if_they_ran(out):
    asked = StopAsked(why="interrupted", exit_code=130, grace=10.0, time=1.0)
    assert "all workers run" not in shown(out, PLANNED, up(0), asked, up(1))


def test_torchruns_words_when_asked_for(out):
    text = shown(out, *START, logged(None, b"its words\n", stream="err"), verbose=True)
    assert "gpu1[torchrun]| its words\n" in text


def test_streams_do_not_mix_inside_a_line(out):
    text = shown(
        out,
        logged(0, b"to out, "),
        logged(0, b"to err\n", stream="err"),
        logged(0, b"and its end\n"),
    )
    assert text == "gpu1[r0]| to err\ngpu1[r0]| to out, and its end\n"


def test_off_a_terminal_no_line_is_wrapped(out):
    long = "word " * 60 + "end"
    text = shown(out, checked(verdict("env.torch", "gpu2", long, "fail")), Warned(message=long))
    assert text.count(long) == 2
    wide = Checked(
        verdicts=tuple(verdict("env.python", f"{'h' * 90}{i}", "v" * 25) for i in range(2)),
        hosts=tuple(f"{'h' * 90}{i}" for i in range(2)),
    )
    assert shown(out, wide).count("v" * 25) == 2


def test_a_cell_is_short_whatever_was_found(out):
    said = Checked(verdicts=(verdict("env.python", "gpu1", "v " * 90),), hosts=("gpu1",))
    assert max(map(len, shown(out, said).splitlines())) < 40


# --- colours ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "env", "expected"),
    [
        (io.StringIO, {}, False),
        (Terminal, {}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"NO_COLOR": ""}, True),
        (io.StringIO, {"FORCE_COLOR": "1"}, True),
        (io.StringIO, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours(monkeypatch, stream, env, expected):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | env).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream())
    play(
        Screen(),
        checked(verdict("env.torch", "gpu2", "none", "fail")),
        *START,
        logged(0, b"\x1b[31mred\n"),
        ended(),
    )
    text = sys.stdout.getvalue()
    assert ("\x1b[" in text) is expected
    assert ("\x1b[31mred\x1b[0m" in text) is expected


# --- for programs -------------------------------------------------------------------------------


def test_events_as_lines_of_json(out):
    play(JsonLines(), checked(), *START, logged(0, b"x\ny\n"), ended())
    lines = [json.loads(line) for line in out.take().splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds == ["Planned", "Launched", "Launched", "WorkersUp", "WorkersUp", "Logged", "Ended"]


def test_verdicts_as_lines_of_json(out):
    play(JsonVerdicts(), START[0], checked(verdict("env.torch", "gpu2", "none", "fail", hint="do")))
    text = out.take()
    *verdicts, summary = [json.loads(line) for line in text.splitlines()]
    assert [v["id"] for v in verdicts[:2]] == ["ssh.reach", "net.ping"]
    assert verdicts[-1] == {
        "id": "env.torch",
        "status": "fail",
        "scope": "host",
        "host": "gpu2",
        "peer": None,
        "message": "none",
        "evidence": {},
        "hint": "do",
        "caused_by": None,
        "duration_ms": None,
        "tier": "instant",
    }
    assert summary == {
        "summary": {"fail": 1, "unknown": 0, "warn": 0, "pass": 8, "info": 0, "skip": 0}
    }
    assert text.splitlines()[-2] == (
        '{"id":"env.torch","status":"fail","scope":"host","host":"gpu2","peer":null,'
        '"message":"none","evidence":{},"hint":"do","caused_by":null,"duration_ms":null,'
        '"tier":"instant"}'
    )


def test_a_consequence_keeps_its_cause_in_json(out):
    caused = verdict(
        "net.rdzv", "gpu2", "not tried", "unknown",
        scope="pair", peer="gpu1", caused_by="net.port.rdzv", evidence={"port": 29500},
    )  # fmt: skip
    play(JsonVerdicts(), Checked(verdicts=(caused,), hosts=("gpu1", "gpu2"), seconds=2.0))
    assert out.take().splitlines()[0] == (
        '{"id":"net.rdzv","status":"unknown","scope":"pair","host":"gpu2","peer":"gpu1",'
        '"message":"not tried","evidence":{"port":29500},"hint":null,'
        '"caused_by":"net.port.rdzv","duration_ms":null,"tier":"instant"}'
    )


# --- the rest -----------------------------------------------------------------------------------


def test_exec_output(out):
    one = Screen()
    one.output("gpu1", "out", b"a\nb")
    one.output("gpu2", "out", b"[red]\n")
    one.output("gpu1", "out", b"c\n\xff")
    one.output_ended()
    assert out.take() == "gpu1| a\ngpu2| [red]\ngpu1| bc\ngpu1| \ufffd\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UsageError("what\x1b[2J"), "ddp-orch: what\n"),
        (UsageError("what", hint="do"), "ddp-orch: what\n  -> do\n"),
        (HostError("no", check="ssh.auth", host="gpu1"), "ddp-orch: gpu1: no\n"),
    ],
)
def test_errors(error, text):
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        screen.show_error(error, Mask())
    assert stderr.getvalue() == text


SETUP = """\
gpu1: setup 1 of 2: `pip install x`
gpu1| Collecting x
gpu1| done without a newline
gpu1: setup 2 of 2: `a b`
run brave-otter: setup failed (after 20.0 s on gpu1, gpu2; exit 100)
first failure: setup on gpu1, `a b`, exit code 2: no such thing
    first line
    no such thing
"""


def test_a_setup_is_shown_as_it_goes(out):
    """Its words are shown without -v: they are what one waits for."""

    def began(number: int, command: str) -> SetupBegan:
        return SetupBegan(
            node=0, host="gpu1", number=number, of=2, command=command, time=1.0
        )  # fmt: skip

    def said(data: bytes) -> Logged:
        return Logged(
            node=0, host="gpu1", rank=None, stream="out", round=0, offset=0, data=data, setup=1
        )  # fmt: skip

    setup_ended = SetupEnded(
        node=0, host="gpu1", number=1, of=2, command="", code=0, signal=None, reason="exited",
        survivors=(), time=1.0,
    )  # fmt: skip
    failure = Failure(
        host="gpu1", rank=None, code=2, signal=None, message="no such thing",
        tail=("first line", "no such thing"), setup="a\nb",
    )  # fmt: skip
    text = shown(
        out,
        PLANNED,
        began(1, "pip install x"),
        said(b"Collecting x\ndone "),
        said(b"without a newline"),
        setup_ended,
        began(2, "a\nb"),
        ended(100, failure, why="setup failed", logs=""),
    )
    assert text.partition("\n")[2] == SETUP


def test_setup_in_a_plan(out):
    inventory = Inventory(hosts=(Host(name="gpu1", setup=("pip install x", "a\nb hf_secret")),))
    plan = make_plan(
        inventory,
        Program(target="/t.py"),
        name="r",
        token="t",
        max_restarts=0,
        env={},
    )
    screen.show_plan(plan, Mask([Secret("hf_secret")]))
    lines = out.take().splitlines()
    at = lines.index("# gpu1")
    assert lines[at + 1 : at + 4] == [
        "# setup 1 of 2: pip install x",
        "# setup 2 of 2: a",
        "#   b ********",
    ]
    assert lines[at + 4].startswith("cd ")


def test_errors_are_masked():
    stderr = io.StringIO()
    mask = Mask([Secret("hf_secret")])
    with contextlib.redirect_stderr(stderr):
        screen.show_error(UsageError("what hf_secret", hint="do hf_secret"), mask)
        screen.show_lines(["hf_secret"], mask)
    assert stderr.getvalue() == "ddp-orch: what ********\n  -> do ********\n********\n"


def test_a_plan_is_one_line_per_host_to_copy(out):
    inventory = Inventory(hosts=(Host(name="gpu1", addr="10.0.0.1"), Host(name="gpu2")))
    args = (NASTY, "x" * 300)
    plan = make_plan(
        inventory,
        Program(target="/t.py", args=args),
        name="r",
        token="t",
        max_restarts=0,
        env={},
    )
    screen.show_plan(plan, Mask())
    lines = out.take().splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["node", "host", "workers", "address"],
        ["0", "gpu1", *"one per GPU, else 1 10.0.0.1".split()],
        ["1", "gpu2", *"one per GPU, else 1 found out by preflight".split()],
    ]
    assert [line for line in lines if line.startswith("#")] == ["# gpu1", "# gpu2"]
    commands = [line for line in lines if line.startswith("cd ")]
    assert [line.endswith(f"/t.py -- '{NASTY}' {'x' * 300}") for line in commands] == [True, True]


def test_all_hosts_behind_a_gateway_that_failed_are_one_line(out):
    lost = "its gateway gate: no answer"
    jump = [verdict("ssh.jump", f"gpu{n}", lost, "fail", hint="look") for n in (1, 2, 3)]
    own = [verdict("ssh.reach", f"gpu{n}", "no answer", "fail") for n in (4, 5)]
    other = verdict("ssh.jump", "gpu6", "its gateway other: no answer", "fail")
    names = tuple(f"gpu{n}" for n in range(1, 7))
    text = shown(out, Checked(verdicts=(*jump, *own, other), hosts=names))
    assert f"ssh.jump  gpu[1-3]: {lost}\n" in text
    assert text.count("-> look") == 1
    assert "ssh.reach  gpu4, gpu5: no answer\n" in text
    assert "ssh.jump  gpu6: its gateway other" in text
    assert "6 fail" in text
