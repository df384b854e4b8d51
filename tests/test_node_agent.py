"""The agent on real Pythons, booted as sshd would: from a command line, through a shell."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from functools import cache
from pathlib import Path

import pytest

from orchestrator import boot
from orchestrator.link import Link
from orchestrator.node import frames, processes, record, stopping
from orchestrator.setups import supervisor
from tests.test_node_processes import bearers, cookie, until

__all__ = ["cookie"]

SUPPORTED = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
TOO_OLD = ["3.6", "3.7"]
FIRST_WINDOW = 14_000
PYENV = Path.home() / ".pyenv/versions"  # of this home, before a test has another one


@cache
def find_python(version):
    """Look on PATH and where pyenv keeps them; a shim that has no such version does not count."""
    name = f"python{version}"
    kept = PYENV.glob(f"{version}.*/bin/{name}")
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for path in [*kept, shutil.which(name)]:
        if path:
            said = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False)
            if said.stdout.strip() == version:
                return path
    return None


def python_or_skip(version):
    return find_python(version) or pytest.skip(f"no Python {version} here")


class Agent:
    """The near end, as plain as can be."""

    def __init__(self, home, python, first=(), around="{}", modules=()):
        bin_folder = home / "bin"
        bin_folder.mkdir(exist_ok=True)
        (bin_folder / "python3").symlink_to(python)
        env = {"HOME": str(home), "PATH": f"{bin_folder}:/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.errors = home / "stderr"
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", around.format(boot.command_line(first, modules))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                cwd=home,
            )
        self.noise = b""
        self._unpacker = frames.Unpacker()
        self._frames = []
        self._early = b""
        self._marked = False

    def send(self, head, body=b""):
        self.process.stdin.write(frames.pack(head, body))
        self.process.stdin.flush()

    def load(self, *modules):
        for module in boot.in_order(modules):
            self.send({"op": "load", "name": module}, boot.source(module).encode())

    def ask(self, number, op, body=b"", **args):
        self.send({"id": number, "op": op, "args": args}, body)

    def next(self):
        end = time.monotonic() + 30
        while not self._frames:
            wait = end - time.monotonic()
            assert wait > 0, "no frame came"
            if select.select([self.process.stdout], [], [], wait)[0]:
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                assert data, f"it ended: {self.errors.read_text()}"
                self._take(data)
        return self._frames.pop(0)

    def _take(self, data):
        if not self._marked:
            self.noise, marker, data = (self._early + data).partition(frames.MARKER)
            if not marker:
                self._early = self.noise
                return
            self._marked = True
        self._frames += self._unpacker.feed(data)

    def answer(self, number):
        """Return the answer to a request; other frames that come before it are dropped."""
        while True:
            head, _ = self.next()
            if head.get("id") == number and "event" not in head:
                return head

    def close(self):
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture
def boot_agent(tmp_path):
    agents = []

    def start(python=sys.executable, **more):
        agents.append(Agent(tmp_path, python, **more))
        return agents[-1]

    yield start
    # A run outlives its agent; also that of a test that failed while it was being started.
    for told in tmp_path.glob("**/runs/*/*/run.json"):
        stopping.stop(None, str(told.parent), 0.0)
    for agent in agents:
        agent.process.kill()
        agent.process.wait()
        agent.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            agent.process.stdin.close()


def gather(number=1):
    return {"id": number, "op": "facts.gather", "args": {"python": "python3"}}


def gone(pid):
    return (now := processes.find(pid)) is None or now.dead


def test_the_boot_fits_the_first_tcp_window():
    link = Link("gpu1", lambda error: None)
    first = {
        "facts.gather": {"python": "~/venvs/train/bin/python"},
        "files.try_out": {"state_dir": "/scratch/somebody/ddp-orch"},
        "network.tell": {},
        "listening.hold": {
            "token": "0123456789abcdef" * 2,
            "name": "gpu-node-17",
            "ports": {"mesh": 0, "rendezvous": 29400},
        },
    }
    calls = [(link.prepare(op), args) for op, args in first.items()]
    assert len(link.command_line(calls)) < FIRST_WINDOW


@pytest.mark.parametrize("version", SUPPORTED)
def test_boot_answer_run_and_leave(version, boot_agent, cookie):
    """All modules run on every Python: what works here may be too new for there."""
    agent = boot_agent(python_or_skip(version), first=[gather()], modules=["facts"])
    hello, _ = agent.next()
    assert hello["hello"] == frames.PROTOCOL
    assert hello["python"].startswith(version + ".")
    assert agent.noise == b""
    facts = agent.answer(1)["done"]
    assert facts["interpreter"]["version"].startswith(version + ".")

    later = ["network", "interfaces", "conditions", "smi", "strays", "follow", "stopping"]
    later += ["listening", "probe", "ping", "command"]
    agent.load(*boot.in_order(later))
    agent.ask(12, "network.tell")
    assert ["lo", "127.0.0.1", 8] in agent.answer(12)["done"]["addresses"]
    agent.ask(13, "conditions.gather", state_dir="~/.ddp-orch", workdir="~")
    conditions = agent.answer(13)["done"]
    assert conditions["disks"]["workdir"]["there"]
    assert [part for part in conditions.values() if "problem" in str(part)] == []
    agent.ask(14, "interfaces.tell")
    assert "lo" in [each["name"] for each in agent.answer(14)["done"]["interfaces"]]
    where = {"run": "brave-otter", "node": 0, "state_dir": "~/.ddp-orch"}
    agent.ask(2, "runs.prepare", told={}, **where)
    folder = agent.answer(2)["done"]
    agent.ask(3, "listening.hold", token=cookie, name="gpu1", ports={"mesh": 0})
    port = agent.answer(3)["done"]["mesh"]["port"]
    targets = [["gpu1", "127.0.0.1", port]]
    agent.ask(4, "probe.dial", targets=targets, token=cookie, connect=20.0, idle=20.0)
    assert "error" not in agent.answer(4)["done"]["dials"][0]

    names = ["RANK", "LOCAL_RANK", "GROUP_RANK"]
    ranks = " ".join(f"{name}=0" for name in names) + " WORLD_SIZE=1 LOCAL_WORLD_SIZE=1"
    worker = f"{ranks} sh -c 'while [ ! -e go ]; do sleep 0.01; done; echo worked' & wait"
    agent.ask(
        5,
        "runs.start",
        body=supervisor(),
        folder=folder,
        argv=["/bin/sh", "-c", worker],
        env={"defaults": {}, "fixed": {}, "prepended": {}},
        cwd=None,
        cookie=cookie,
        grace=20.0,
    )
    assert agent.answer(5)["done"] is True
    agent.ask(6, "follow.follow", folder=folder, cursors={})
    files = {}
    while True:
        head, body = agent.next()
        if "event" not in head:
            break
        if "file" not in head["event"]:
            continue
        name = head["event"]["file"]
        files[name] = files.get(name, b"") + body
        if b'"workers"' in body:
            Path(folder, "go").touch()
    assert head["id"] == 6
    journal = [json.loads(line) for line in files["journal.jsonl"].splitlines()]
    events = [entry["event"] for entry in journal]
    assert events[:2] == ["started", "workers"]
    assert events[-1] == "ended"
    assert (journal[-1]["code"], journal[-1]["reason"]) == (0, "exited")
    assert files["torchrun.out"] == b"worked\n"
    assert head["done"]["state"] == "ended"
    agent.ask(7, "stopping.stop", folder=folder, grace=0.0)
    told = agent.answer(7)["done"]
    assert (told["state"], told["survivors"], told["verified"]) == ("ended", [], True)
    assert agent.close() == frames.EXIT_NO_INPUT
    assert agent.errors.read_text() == ""


@pytest.mark.parametrize("version", TOO_OLD)
@pytest.mark.parametrize(
    ("beside", "newest"), [([], None), (["3.7"], None), (["3.8"], "3.8"), (["3.9", "3.12"], "3.12")]
)
def test_where_python3_is_too_old_the_newest_beside_it_is_taken(version, beside, newest, tmp_path):
    """RHEL 8 and SLES 15 keep 3.6 as python3, whatever is installed."""
    (tmp_path / "python3").symlink_to(python_or_skip(version))
    for other in beside:
        (tmp_path / f"python{other}").symlink_to(python_or_skip(other))
    process = subprocess.Popen(
        ["/bin/sh", "-c", boot.command_line([], [])],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        said = process.stdout.read(len(frames.MARKER))
        if newest:
            assert said == frames.MARKER
            running = Path(f"/proc/{process.pid}/exe").resolve()
            assert running == Path(python_or_skip(newest)).resolve()
        else:
            assert said == b""
        process.stdin.close()
        ends = frames.EXIT_NO_INPUT if newest else frames.EXIT_OLD_PYTHON
        assert process.wait(60) == ends


def test_one_that_is_too_old_by_every_name_is_not_taken_again_and_again(tmp_path):
    for name in ("python3", *boot.NUMBERED):
        (tmp_path / name).symlink_to(python_or_skip("3.7"))
    ended = subprocess.run(
        ["/bin/sh", "-c", boot.command_line([], [])],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (ended.returncode, ended.stdout) == (frames.EXIT_OLD_PYTHON, b"")


def test_no_python_has_its_own_exit_code():
    command = boot.command_line([], [])
    assert command.count(boot.PLACES) == 1
    command = command.replace(boot.PLACES, "no-such-python3 /no/such/python3")
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, timeout=30)
    assert ended.returncode == frames.EXIT_NO_PYTHON
    assert ended.stdout == b""


def test_noise_before_the_marker_is_told_apart(boot_agent):
    agent = boot_agent(around="echo Welcome; printf '\\1\\n'; {}")
    assert agent.next()[0]["hello"] == frames.PROTOCOL
    assert agent.noise == b"Welcome\n\x01\n"


def test_what_does_not_work_is_answered_and_the_agent_lives(boot_agent):
    agent = boot_agent(modules=["runs"])
    agent.ask(1, "nothing.here")
    assert agent.answer(1)["kind"] == "KeyError"
    agent.ask(2, "files.no_such_function")
    assert agent.answer(2)["kind"] == "AttributeError"
    agent.ask(3, "files.put", wrong="argument")
    assert agent.answer(3)["kind"] == "TypeError"
    agent.ask(4, "files.put", folder="/no/such/folder", path="../x")
    failed = agent.answer(4)
    assert "leads out of the run's folder" in failed["failed"]
    assert failed["where"].startswith("<ddp_orch_node.files>:")
    agent.ask(6, "runs.prepare", run="r", node=0, state_dir="/no/such/folder", told={})
    assert agent.answer(6)["failed"] == "/no/such/folder: No such file or directory"
    agent.send({"op": "load", "name": "large"}, b"def tell(call, what): return what * (65 << 20)")
    agent.ask(8, "large.tell", what="x")
    assert agent.answer(8)["failed"] == "a message of 65 MiB is too large"
    agent.send({"op": "load", "name": "odd"}, b"def tell(call): return object()")
    agent.ask(9, "odd.tell")
    assert "not JSON serializable" in agent.answer(9)["failed"]
    agent.send({"op": "load", "name": "broken"}, b"this is no Python")
    agent.ask(5, "broken.run")
    assert "failed" in agent.answer(5)
    agent.send({"op": "beat", "beat": 7})
    head, _ = agent.next()
    assert head["beat"] == 7
    assert agent.close() == frames.EXIT_NO_INPUT


def test_a_stray_print_goes_to_stderr_and_breaks_no_frame(boot_agent):
    agent = boot_agent()
    source = (
        b"import os\n"
        b"def talk(call):\n print('stray', flush=True)\n os.system('echo child')\n return 5\n"
    )
    agent.send({"op": "load", "name": "chatty"}, source)
    agent.ask(1, "chatty.talk")
    assert agent.answer(1)["done"] == 5
    assert agent.errors.read_text() == "stray\nchild\n"


def exec_something(agent):
    """Start a command by `exec`; return the pids of its group."""
    agent.ask(1, "command.run", argv=["sh", "-c", "echo $$; sleep 60"], env={}, cwd=None)
    head, body = agent.next()
    while "event" not in head:
        head, body = agent.next()
    return [int(body), *until(lambda: processes.children(int(body)))]


def test_the_end_of_the_channel_ends_the_agent_and_what_it_executes(boot_agent):
    agent = boot_agent(modules=["command"])
    pids = exec_something(agent)
    assert agent.close() == frames.EXIT_NO_INPUT
    for pid in pids:
        until(lambda pid=pid: gone(pid))


def test_bytes_that_are_no_frames_end_it_in_order(boot_agent):
    agent = boot_agent(modules=["command"])
    pids = exec_something(agent)
    agent.process.stdin.write(struct.pack(">II", 0xFFFFFFFF, 0))
    agent.process.stdin.flush()
    assert agent.process.wait(60) == 1
    assert "not the agent's protocol" in agent.errors.read_text()
    for pid in pids:
        until(lambda pid=pid: gone(pid))


def test_bye_and_sigterm_end_it(boot_agent):
    agent = boot_agent(modules=["command"])
    pids = exec_something(agent)
    agent.process.terminate()
    assert agent.process.wait(60) == 0
    for pid in pids:
        until(lambda pid=pid: gone(pid))


def test_a_command_can_be_cancelled_and_tells_its_signal(boot_agent):
    agent = boot_agent(modules=["command"])
    pids = exec_something(agent)
    agent.send({"op": "cancel", "id": 1})
    assert agent.answer(1)["done"] == {"code": None, "signal": 9}
    for pid in pids:
        until(lambda pid=pid: gone(pid))
    agent.send({"op": "bye"})
    assert agent.process.wait(60) == 0


def test_a_reader_that_is_held_up_does_not_deafen_the_agent(boot_agent):
    """Else it takes its controller for gone, and ends the run, because somebody pressed Ctrl-S."""
    agent = boot_agent()
    agent.next()
    source = b"def flood(call):\n while 1: call.emit({}, bytes(1 << 16))"
    agent.send({"op": "load", "name": "talker"}, source)
    agent.ask(1, "talker.flood")
    agent.send({"op": "beat", "beat": 1})

    def waiting():
        number = fcntl.ioctl(agent.process.stdout, termios.FIONREAD, struct.pack("i", 0))
        return struct.unpack("i", number)[0]

    full = fcntl.fcntl(agent.process.stdout, 1032)  # F_GETPIPE_SZ
    until(lambda: waiting() >= full - 4096)
    # More than fits into the pipe: it passes only if the agent still reads.
    writer = threading.Thread(
        target=agent.send, args=({"op": "load", "name": "long"}, b"#" * (1 << 20)), daemon=True
    )
    writer.start()
    writer.join(60)
    assert not writer.is_alive()


def test_the_run_outlives_the_agent_even_when_that_is_killed(boot_agent, cookie):
    agent = boot_agent(modules=["runs"])
    where = {"run": "brave-otter", "node": 0, "state_dir": "~/.ddp-orch"}
    agent.ask(1, "runs.prepare", told={}, **where)
    folder = agent.answer(1)["done"]
    agent.ask(
        2,
        "runs.start",
        body=supervisor(),
        folder=folder,
        argv=["sleep", "60"],
        env={"defaults": {}, "fixed": {}, "prepended": {}},
        cwd=None,
        cookie=cookie,
        grace=20.0,
    )
    assert agent.answer(2)["done"] is True
    agent.process.kill()
    agent.process.wait()
    (job,) = until(lambda: bearers(cookie))
    assert record.state_of(folder) == "running"
    assert not gone(job)
    assert stopping.stop(None, folder, 0.0)["verified"]
    assert gone(job)
