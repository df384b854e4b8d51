"""One conversation: our end against the real agent, in a real shell, over real pipes."""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import link as link_module
from orchestrator.boot import failure
from orchestrator.errors import AgentFailed, DdpOrchError, LinkLost, RequestFailed
from orchestrator.link import Link
from orchestrator.node import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOON = 10.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="agents run on Linux")


class Pipes:
    """A process's stdin and stdout as a Pipe, and what became of it."""

    def __init__(self, command: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )

    def recv(self, nbytes: int) -> bytes:
        assert self.process.stdout
        return os.read(self.process.stdout.fileno(), nbytes)

    def sendall(self, s: bytes) -> None:
        assert self.process.stdin
        if self.process.stdin.closed:
            raise OSError("Socket is closed")  # as paramiko's channel does
        self.process.stdin.write(s)
        self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def ending(self) -> tuple[int | None, str]:
        assert self.process.stderr
        stderr = self.process.stderr.read().decode()
        return self.process.wait(SOON), stderr


class Talk:
    """A link with its agent, and who was told of its loss."""

    def __init__(
        self,
        wrapped: str = "%s",
        first: Sequence[tuple[str, dict[str, Any]]] = (),
        env: dict[str, str] | None = None,
        edit: Callable[[str], str] = str,
    ) -> None:
        self.lost: queue.Queue[DdpOrchError] = queue.Queue()
        self.link = Link("gpu1", self.lost.put)
        self.calls = [self.link.prepare(op) for op, _ in first]
        pairs = [(call, args) for call, (_, args) in zip(self.calls, first, strict=True)]
        command = wrapped.replace("%s", edit(self.link.command_line(pairs)))
        self.pipes = Pipes(command, {"PATH": os.environ["PATH"]} | (env or {}))
        self.process = self.pipes.process
        self.link.start(self.pipes, self.pipes.ending)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(SOON)
        for file in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert file
            with contextlib.suppress(OSError):
                file.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    made.link.wait_for_hello(SOON)
    yield made
    made.link.close()
    made.end()


@pytest.fixture
def talks() -> Iterator[Any]:
    made: list[Talk] = []

    def start(*args: Any, **more: Any) -> Talk:
        made.append(Talk(*args, **more))
        return made[-1]

    yield start
    for one in made:
        one.link.close(0.1)
        one.end()


def run(argv: list[str]) -> dict[str, Any]:
    return {"argv": argv, "env": {}, "cwd": "/"}


# --- with an agent ------------------------------------------------------------------------------


@linux
def test_a_call_is_answered(talk):
    assert talk.link.call("command.run", run(["/bin/sh", "-c", "exit 7"])).result(SOON) == {
        "code": 7,
        "signal": None,
    }
    assert talk.link.noise == b""


@linux
def test_the_first_request_goes_with_the_command_line(talks):
    talk = talks(first=[("command.run", run(["true"])), ("command.run", run(["false"]))])
    assert [call.result(SOON)["code"] for call in talk.calls] == [0, 1]


@linux
def test_events_come_before_the_answer(talk):
    got: list[tuple[str, bytes]] = []
    words = ["/bin/sh", "-c", "printf 'a\\377b'; printf c >&2"]
    call = talk.link.call(
        "command.run", run(words), on_event=lambda event, body: got.append((event["stream"], body))
    )
    call.result(SOON)
    assert sorted(got) == [("err", b"c"), ("out", b"a\xffb")]


@linux
def test_a_request_that_fails_says_why_and_the_link_goes_on(talk):
    with pytest.raises(RequestFailed, match="No such file") as caught:
        talk.link.call("command.run", run(["/no/such/program"])).result(SOON)
    assert caught.value.host == "gpu1"
    with pytest.raises(RequestFailed):
        talk.link.call("command.no_such_function", {}).result(SOON)
    assert talk.link.call("command.run", run(["true"])).result(SOON)["code"] == 0
    assert talk.lost.empty()


@linux
def test_many_requests_at_once(talk):
    calls = [talk.link.call("command.run", run(["sh", "-c", f"exit {n}"])) for n in range(12)]
    assert [call.result(SOON)["code"] for call in calls] == list(range(12))


@linux
def test_a_body_arrives_whole(talk, tmp_path):
    body = os.urandom(3_000_000)
    call = talk.link.call("files.put", {"folder": str(tmp_path), "path": "x/y"}, body)
    assert call.result(SOON) is None
    assert (tmp_path / "x" / "y").read_bytes() == body


@linux
def test_a_call_is_cancelled(talk):
    call = talk.link.call("command.run", run(["sleep", "100"]))
    call.cancel()
    assert call.result(SOON) == {"code": None, "signal": signal.SIGKILL}


@linux
def test_a_late_answer_is_a_failure_of_the_request_alone(talk):
    call = talk.link.call("command.run", run(["sleep", "100"]))
    with pytest.raises(RequestFailed, match=r"no answer to command.run in 0 s"):
        call.result(0.01)
    assert talk.link.call("command.run", run(["true"])).result(SOON)["code"] == 0


@linux
def test_the_clock_is_measured(talk):
    talk.link.beat()
    talk.link.call("command.run", run(["true"])).result(SOON)  # answered after the beat
    assert abs(talk.link.clock.offset) < SOON
    assert talk.link.clock.trip < SOON


@linux
@pytest.mark.parametrize("noise", ["Welcome!\n", "no newline", "\x01ddp-orch-agent/", "x" * 9000])
def test_what_the_shell_prints_before_is_noise(talks, noise, tmp_path):
    (tmp_path / "noise").write_text(noise)
    talk = talks(f"cat {tmp_path}/noise; %s")
    talk.link.wait_for_hello(SOON)
    assert talk.link.noise == noise[:4096].encode()
    assert talk.link.call("command.run", run(["true"])).result(SOON)["code"] == 0


@linux
def test_closing_ends_the_agent_and_is_no_loss(talk):
    pending = talk.link.call("command.run", run(["sleep", "100"]))
    talk.link.close(SOON)
    assert talk.process.wait(SOON) == 0
    with pytest.raises(LinkLost):
        pending.result(SOON)
    assert talk.lost.empty()
    talk.link.close()


@linux
def test_a_killed_agent_is_told_to_all_who_wait(talk):
    pending = [talk.link.call("command.run", run(["sleep", "100"])) for _ in range(3)]
    talk.process.kill()
    for call in pending:
        with pytest.raises(LinkLost, match="the connection was closed"):
            call.result(SOON)
    lost = talk.lost.get(timeout=SOON)
    assert (lost.host, lost.check) == ("gpu1", "ssh.reach")
    assert talk.lost.empty()


@linux
def test_a_call_after_the_loss_fails_at_once(talk):
    talk.process.kill()
    talk.lost.get(timeout=SOON)
    with pytest.raises(LinkLost, match="the connection was closed"):
        talk.link.call("command.run", run(["true"])).result(SOON)


def test_a_call_before_the_start_is_refused():
    with pytest.raises(LinkLost, match="not connected"):
        Link("gpu1", lambda _: None).call("command.run", {})


# --- without an agent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"exit {frames.EXIT_NO_PYTHON}", "there is no python3"),
        (f"exit {frames.EXIT_OLD_PYTHON}", "its python3 is older than 3.8"),
        ("echo ignored >&2; echo no entry >&2; exit 3", "ended with code 3 .*: no entry"),
        ("echo go away; exit 0", "ended with code 0 .*: go away"),
        ("exit 1", "ended with code 1 .*, without a word"),
    ],
)
def test_each_way_of_not_starting_has_its_sentence(talks, command, said):
    talk = talks(command, first=[("command.run", {})])
    with pytest.raises(AgentFailed, match=said) as caught:
        talk.link.wait_for_hello(SOON)
    assert caught.value.check == "ssh.agent"
    assert caught.value.host == "gpu1"
    assert caught.value.hint
    assert "\n" not in caught.value.message
    with pytest.raises(AgentFailed, match=said):
        talk.calls[0].result(SOON)


@linux
def test_a_host_without_python(talks):
    """The real command line, looking for interpreters that are not there."""
    talk = talks(edit=lambda command: command.replace("python3", "no-python-here"))
    with pytest.raises(AgentFailed, match="there is no python3"):
        talk.link.wait_for_hello(SOON)


@linux
def test_a_python_that_is_too_old(talks, tmp_path):
    """The real command line, run by an interpreter that says it is 3.7."""
    old = tmp_path / "python3"
    program = "import sys; sys.version_info = (3, 7, 1); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\nwhile [ $1 != -c ]; do shift; done\n"
                   f"exec {sys.executable} -c '{program}' \"$2\"\n")  # fmt: skip
    old.chmod(0o755)
    talk = talks(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    with pytest.raises(AgentFailed, match=r"older than 3\.8"):
        talk.link.wait_for_hello(SOON)


def test_a_connection_that_closes_without_a_code():
    error = failure("gpu1", None, "", b"")
    assert error.message == "the connection was closed before the agent started"


@pytest.mark.parametrize(
    ("stderr", "noise", "said", "hint"),
    [
        ("rbash: line 1: exec: restricted", b"", "rbash", "a restricted one; there: sudo chsh"),
        ("", b"This account is currently not available.\n", "This account", "lets nobody in"),
        ("open terminal failed: not a terminal", b"", "open terminal", "look for tmux or screen"),
        ("OSError: [Errno 9] Bad file descriptor", b"", "OSError", "that closes stdout"),
        ("no", b"", "no", "or a forced command that says so"),
        ("", b"", "", "a shell such as /bin/false"),
        # What everybody's startup files say on stderr is not why it ended.
        ("stty: 'standard input': Inappropriate ioctl for device\n", b"bye", "bye", "says so"),
        ("full\nbash: warning: setlocale: LC_ALL: cannot change\n", b"", "full", "says so"),
        ("not allowed: exec /bin/sh -c 'for p in python3 x", b"", "not allowed: exec", "says so"),
    ],
)
def test_what_a_shell_says_at_its_end_has_a_hint_to_it(stderr, noise, said, hint):
    error = failure("gpu1", 1, stderr, noise)
    words = f": {said}" if said else ", without a word"
    assert f"ended with code 1 before the agent started{words}" in error.message
    assert "python3" not in error.message
    assert error.hint
    assert hint in error.hint


@linux
@pytest.mark.parametrize("stdin", ["</dev/null", "<&-"])
def test_an_agent_without_input_is_no_lost_connection(talks, stdin):
    talk = talks(f"exec {stdin}; %s")
    talk.link.wait_for_hello(SOON)
    lost = talk.lost.get(timeout=SOON)
    assert isinstance(lost, AgentFailed)
    assert lost.message == "the agent's input ended, though nobody hung up"


@linux
@pytest.mark.parametrize("shell", ["bash", "dash", "fish", "tcsh", "zsh"])
def test_every_login_shell_takes_the_longest_command_line(talks, shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    junk = {"JUNK": os.urandom(5000).hex()}
    first = [("command.run", {**run(["sh", "-c", "printf %s $JUNK"]), "env": junk})]
    lengths: list[int] = []

    def quoted(command: str) -> str:
        lengths.append(len(command))
        return shlex.quote(command)

    talk = talks(f"exec {shell} -c %s", first, {"HOME": str(tmp_path)}, quoted)
    assert talk.calls[0].result(SOON)["code"] == 0
    assert lengths[0] > 13_000


def test_a_long_last_word_is_cut():
    assert len(failure("gpu1", 1, "x" * 9999, b"").message) < 300


# --- against a far end that is no agent ---------------------------------------------------------


class Socket:
    """A socket as a Pipe, and the far end in the test's hands."""

    def __init__(self) -> None:
        self._near, self.far = socket.socketpair()

    def recv(self, nbytes: int) -> bytes:
        return self._near.recv(nbytes)

    def sendall(self, s: bytes) -> None:
        self._near.sendall(s)

    def close(self) -> None:
        self._near.close()


@pytest.fixture
def odd() -> Iterator[tuple[Link, socket.socket, queue.Queue[DdpOrchError]]]:
    lost: queue.Queue[DdpOrchError] = queue.Queue()
    link, pipe = Link("gpu1", lost.put), Socket()
    link.start(pipe, lambda: (None, ""))
    yield link, pipe.far, lost
    pipe.far.close()
    link.close()


def test_a_shell_that_never_answers(odd):
    link, far, _ = odd
    far.sendall(b"Password for nobody:\n")
    while not link.noise:  # it is read by another thread
        time.sleep(0.001)
    with pytest.raises(AgentFailed, match=r"did not start .* it printed: Password for nobody:"):
        link.wait_for_hello(0.01)


def test_hello_cut_anywhere(odd):
    link, far, _ = odd
    whole = b"noise\n" + frames.MARKER + frames.pack({"hello": 1})
    call = link.prepare("x.y")
    whole += frames.pack({"id": call.number, "done": "é"}, b"")
    for at in range(len(whole)):
        far.sendall(whole[at : at + 1])
    assert call.result(SOON) == "é"
    assert link.noise == b"noise\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 8,  # a frame of 8 GB
        frames.LENGTHS.pack(1, 0) + b"{",
        frames.LENGTHS.pack(2, 0) + b"\xff\xff",
        frames.pack([]),
        frames.pack(None),
        frames.pack({"id": []}),
        frames.pack({"id": 1}),  # neither an answer nor an event
        frames.pack({"beat": {}}),
        frames.pack({"beat": 1, "now": "soon"}),
        frames.LENGTHS.pack(100_000, 0) + b"[" * 100_000,
    ],
    ids=range(10),
)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_nonsense_ends_the_link_and_nobody_waits(odd, sent):
    link, far, lost = odd
    call = link.prepare("x.y")
    assert call.number == 1
    far.sendall(frames.MARKER + sent)
    with pytest.raises(LinkLost):
        call.result(SOON)
    assert isinstance(lost.get(timeout=SOON), LinkLost)


def test_a_clock_of_ours_that_is_set_is_no_round_trip(odd, monkeypatch):
    link, far, _ = odd
    real = time.time
    link.beat()
    monkeypatch.setattr(link_module.time, "time", lambda: real() - 3600)
    call = link.prepare("x.y")
    beat = frames.pack({"beat": 1, "now": real()})
    far.sendall(frames.MARKER + beat + frames.pack({"id": call.number, "done": None}))
    call.result(SOON)
    assert (link.clock.offset, link.clock.trip) == (0.0, float("inf"))


def test_what_is_too_large_to_be_sent_fails_alone(odd):
    link, far, lost = odd
    far.sendall(frames.MARKER)
    call = link.call("files.put", {"path": "code/x"}, b"x" * frames.LARGEST)
    with pytest.raises(RequestFailed, match="a message of 64 MiB is too large"):
        call.result(SOON)
    other = link.prepare("x.y")
    far.sendall(frames.pack({"id": other.number, "done": "mine"}))
    assert other.result(SOON) == "mine"
    assert lost.empty()


def test_answers_to_nobody_are_passed_over(odd):
    link, far, lost = odd
    call = link.prepare("x.y")
    for head in ({"id": 99, "done": 1}, {"id": 99, "event": {}}, {"id": 1, "event": {}}):
        far.sendall((frames.MARKER if head["id"] == 99 and "done" in head else b"")
                    + frames.pack(head, b"x"))  # fmt: skip
    far.sendall(frames.pack({"id": 1, "done": "mine"}))
    assert call.result(SOON) == "mine"
    assert lost.empty()


def test_calls_made_while_the_link_ends_all_end(odd):
    link, far, lost = odd
    far.sendall(frames.MARKER)
    link.wait_for_hello(SOON)
    calls = []
    start = threading.Event()

    def call() -> None:
        start.set()
        for _ in range(300):
            calls.append(link.prepare("x.y"))

    caller = threading.Thread(target=call)
    caller.start()
    start.wait(SOON)
    far.close()
    lost.get(timeout=SOON)
    caller.join(SOON)
    assert len(calls) == 300
    for one in calls:
        with pytest.raises(LinkLost):
            one.result(SOON)


def test_a_host_that_takes_no_more_bytes_holds_up_nobody():
    """Its agent is frozen, its window full: whoever asks, or beats for all hosts, goes on."""
    taken = threading.Event()

    class Full:
        def recv(self, nbytes: int) -> bytes:
            taken.wait()
            return b""

        def sendall(self, s: bytes) -> None:
            taken.wait()
            raise OSError("closed")

        def close(self) -> None:
            taken.set()

    lost: list[object] = []
    link = Link("a", lost.append)
    link.start(Full(), lambda: (None, ""))
    for _ in range(50):
        link.beat()
        call = link.call("probe.release", {"token": "t"}, b"x" * 10_000)
    assert not call.future.done()
    link.close(timeout=0.1)
    with pytest.raises(DdpOrchError):
        call.result(5.0)


def test_while_we_were_stopped_we_heard_nothing_and_that_is_no_silence(odd, monkeypatch):
    """After SIGCONT, or a sleep of the machine, what was said waits to be read."""
    link, _, _ = odd
    now = [time.monotonic()]
    monkeypatch.setattr(link_module.time, "monotonic", lambda: now[0])
    link.silence()
    now[0] += 60.0
    assert link.silence() == 0.0
    silent = []
    for _ in range(7):
        now[0] += 5.0
        silent.append(link.silence())
    assert silent == pytest.approx([5, 10, 15, 20, 25, 30, 35]), "from then on it counts"


def test_who_hangs_up_when_it_hears_of_the_loss_is_told_of_it_all_the_same(odd):
    link, far, lost = odd
    far.sendall(frames.MARKER)
    link.wait_for_hello(SOON)
    call = link.prepare("x.y")
    call.future.add_done_callback(lambda _: link.close(0.1))
    far.close()
    assert isinstance(lost.get(timeout=SOON), LinkLost)
    assert call.future.done(), "first the requests end, then the loss is told"
