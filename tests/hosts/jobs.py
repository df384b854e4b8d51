"""A run of workers/lines.py, as its hosts and its controllers see it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hosts.processes import until
from tests.workers import heed_ctrl_c, worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

DDP_ORCH = [sys.executable, "-m", "orchestrator"]
SECONDS = 90.0
# sshd's process of a connection that has logged in.
SESSION = re.compile(r"sshd.*@notty")


@dataclass
class Job:
    """One worker per host, which writes lines until it is told that it is enough."""

    cluster: Cluster
    name: str
    hosts: Sequence[NsHost]
    user: str = "root"
    fields: dict[str, Any] = field(default_factory=dict)
    """More of the inventory."""

    inventory: Path = field(init=False)

    def __post_init__(self) -> None:
        self.inventory = self.cluster.inventory(self.hosts, **self.fields)
        text = self.inventory.read_text()
        self.inventory.write_text(text.replace("root@", f"{self.user}@"))

    @property
    def ranks(self) -> range:
        return range(len(self.hosts))

    # ---- on the hosts ----

    def folder(self, rank: int) -> Path:
        host = self.hosts[rank]
        home = host.home if self.user == "root" else Path("/run/home", self.user)
        return home / f".ddp-orch/runs/{self.name}/{rank}"

    def read(self, rank: int, name: str) -> str:
        return self.hosts[rank].run(["cat", self.folder(rank) / name]).stdout

    def steps(self, rank: int) -> list[float]:
        """When the worker made its steps, by the clock that all of this machine share."""
        *lines, _ = self.read(rank, "progress").split("\n")
        return [float(line) for line in lines]

    def goes_on(self, ranks: Sequence[int] | None = None) -> None:
        """Wait until the workers have made steps from now on."""
        now = time.monotonic()
        for rank in self.ranks if ranks is None else ranks:
            until(lambda: len([at for at in self.steps(rank)[-40:] if at > now]) > 5,  # noqa: B023
                  f"node {rank} goes on", SECONDS)  # fmt: skip

    def finish(self, code: int = 0, ranks: Sequence[int] | None = None) -> None:
        for rank in self.ranks if ranks is None else ranks:
            self.hosts[rank].write(self.folder(rank) / "enough", str(code))

    def ended(self) -> None:
        """Wait until every node's end is written down."""
        for rank in self.ranks:
            until(lambda: self.read(rank, "exit.json"), f"node {rank} has ended", SECONDS)  # noqa: B023

    def everything_is_in(self, logs: Path, ranks: Sequence[int] | None = None) -> None:
        """Compare what has arrived, by its SHA-256, with what the workers say that they wrote."""
        for rank in self.ranks if ranks is None else ranks:
            written = json.loads(self.read(rank, "written.json"))
            for stream in ("out", "err"):
                arrived = (logs / f"rank{rank}.{stream}").read_bytes()
                ours = {"size": len(arrived), "sha256": hashlib.sha256(arrived).hexdigest()}
                assert ours == written[stream], (rank, stream)

    def kill_keepers(self, rank: int) -> None:
        """Kill the node's guard and supervisor."""
        record = json.loads(self.read(rank, "run.json"))
        for who in ("guard", "supervisor"):
            self.hosts[rank].kill(record[who][0], signal.SIGKILL)

    def ask(self, op: str, folders: Sequence[str], **args: Any) -> list[Any]:
        """Ask each host for what no verb asks for by itself; return the answers."""
        script = str(Path(__file__).with_name("asking.py"))
        words = [sys.executable, script, str(self.inventory), op, json.dumps(folders)]
        done = self.cluster.run([*words, json.dumps(args)], timeout=SECONDS, env=ENV)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def taken_down(self) -> None:
        """End it from outside; see that it is said to be so, and that it is."""
        words = [*DDP_ORCH, "down", "--grace", "5", self.name]
        done = self.cluster.run(words, timeout=SECONDS, env=ENV)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"run {self.name}: down" in done.stdout
        self.nothing_runs()

    def nothing_runs(self) -> None:
        for host in self.hosts:
            until(lambda: not host.pids(), f"nothing runs on {host.name}", SECONDS)  # noqa: B023

    # ---- controllers ----

    @property
    def logs(self) -> Path:
        return self.logs_in(self.cluster.home / ".local/state/ddp-orch")

    def logs_in(self, state_dir: Path) -> Path:
        return state_dir / f"runs/{self.name}/logs"

    def up_words(self, rate: int, at_least: int = 0, *options: str) -> list[str]:
        script = ["--", worker("lines"), str(rate), str(at_least)]
        return [*DDP_ORCH, "up", *options, "-n", self.name, str(self.inventory), *script]

    def attach_words(self, state_dir: Path | None = None) -> list[str]:
        """Attach from here, by what is known here; or from a machine that has only `state_dir`."""
        if state_dir is None:
            return [*DDP_ORCH, "attach", self.name]
        there = ["env", f"DDP_ORCH_STATE_DIR={state_dir}"]
        return [*there, *DDP_ORCH, "attach", "-i", str(self.inventory), self.name]

    def detached(self, rate: int = 200_000, at_least: int = 0) -> None:
        done = self.cluster.run(self.up_words(rate, at_least, "-d", "-q"), timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def controller(
        self, words: Sequence[str], *, on_terminal: bool = False, unread: bool = False
    ) -> Iterator[Controller]:
        """One that is under way. What the body does not wait for is killed.

        An unread one stands still once it has said more than a pipe holds.
        """
        seen = self.cluster.folder / f"controller-{os.urandom(4).hex()}.txt"
        with ExitStack() as undo:
            file = undo.enter_context(seen.open("w"))
            terminal = Terminal(file.fileno()) if on_terminal else None
            if terminal:
                undo.callback(terminal.close)
                options = terminal.popen_options()
            else:
                options = {"stdin": subprocess.DEVNULL, "stdout": file, "preexec_fn": heed_ctrl_c}
                options["stderr"] = subprocess.STDOUT
            if unread:
                reader, options["stdout"] = os.pipe()
                for end in (reader, options["stdout"]):
                    undo.callback(os.close, end)
            process = self.cluster.popen(words, env=ENV, **options)
            undo.callback(process.wait)
            undo.callback(process.kill)
            yield Controller(process, seen, terminal)


ENV = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}


@dataclass
class Controller:
    process: subprocess.Popen[str]
    seen: Path
    terminal: Terminal | None = None

    @property
    def output(self) -> str:
        return self.seen.read_text(errors="replace")

    def says(self, text: str, times: int = 1) -> None:
        def said() -> bool:
            over = self.process.poll() is not None  # asked first: all it said is there by then
            is_said = self.output.count(text) >= times
            assert is_said or not over, self.plain()
            return is_said

        until(said, f"the controller says {text!r}", SECONDS)

    def leave(self, how: signal.Signals) -> None:
        if self.terminal:
            self.terminal.close()
        else:
            self.process.send_signal(how)

    def plain(self) -> str:
        """What it said of its own; and of what it fell over."""
        lines = [line for line in self.output.splitlines() if "]| " not in line[:40]]
        found = re.search(r"please report it with (\S+)", lines[-1]) if lines else None
        return "\n".join([*lines, Path(found[1]).read_text() if found else ""])

    def wait(self, code: int) -> None:
        try:
            got = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the controller goes on:\n{self.plain()}") from None
        assert got == code, self.plain()


class Terminal:
    """A terminal that somebody closes; what it shows goes to a file."""

    def __init__(self, shows: int) -> None:
        self._shows = shows
        self._ours, self._theirs = os.openpty()
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            if select.select([self._ours], [], [], 0.05)[0]:
                os.write(self._shows, os.read(self._ours, 1 << 16))

    def popen_options(self) -> dict[str, Any]:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        return {**streams, "start_new_session": True, "preexec_fn": self._be_controlled}

    @staticmethod
    def _be_controlled() -> None:
        """In the child: it is this terminal's end that the kernel tells us of."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join()
            os.close(self._theirs)
            os.close(self._ours)


def cut(host: NsHost) -> int:
    """Kill sshd's side of every connection to a host; return how many there were."""
    victims = [pid for pid, line in host.pids().items() if SESSION.match(line)]
    for pid in victims:
        host.kill(pid, signal.SIGKILL)
    return len(victims)
