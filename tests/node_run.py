"""A run's node as the agent starts it, guard and supervisor, with a stand-in for torchrun."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.node import processes, record, runs, stopping
from orchestrator.setups import supervisor as program
from tests.test_node_processes import bearers, cookie, until

__all__ = ["GO", "NOTHING", "TORCHRUN", "Run", "bearers", "cookie", "run", "sleeps", "until"]

# Like torchrun: a session per worker, its variables, TERM passed on, exit code 1 for any failure.
# Unlike it, a dead worker is not reaped before the supervisor has told of it: no test may hang on
# who looks first.
TORCHRUN = r"""
import json, os, signal, subprocess, sys, time
folder, commands = sys.argv[1], sys.argv[2:]
workers = []
signal.signal(signal.SIGTERM, lambda *_: [os.kill(w.pid, signal.SIGTERM) for w in workers])
for local, command in enumerate(commands):
    env = dict(os.environ, RANK=str(local + 4), LOCAL_RANK=str(local), GROUP_RANK="2",
               WORLD_SIZE="8", LOCAL_WORLD_SIZE=str(len(commands)), TORCHELASTIC_RESTART_COUNT="0",
               TORCHELASTIC_ERROR_FILE=os.path.join(folder, "error%d.json" % local))
    workers.append(subprocess.Popen(["/bin/sh", "-c", command], env=env, start_new_session=True))

def told():
    try:
        return open(os.path.join(folder, "journal.jsonl")).read().count('"worker"')
    except OSError:
        return 0

for worker in workers:
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
while not os.path.exists("untold") and told() < len(workers):
    time.sleep(0.01)
sys.exit(1 if any([worker.wait() for worker in workers]) else 0)
"""
GO = "while [ ! -e go ]; do sleep 0.01; done; "
NOTHING = {"defaults": {}, "fixed": {}, "prepended": {}}
# Put behind the supervisor's program: it, not the guard, kills itself at a moment of the test's.
DYING = r"""
import os as _os, sys as _sys
_guard = _os.getpid()
def _die(module, path, nth, where):
    owner = _sys.modules["ddp_orch_node." + module]
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, seen = getattr(owner, name), []
    def dying(*args, **more):
        if _os.getpid() != _guard and (where is None or where in args):
            seen.append(1)
            if len(seen) == nth:
                _os.kill(_os.getpid(), 9)
        return original(*args, **more)
    setattr(owner, name, dying)
"""


class Run:
    def __init__(self, folder: Path, cookie: str) -> None:
        self.folder = folder
        self.cookie = cookie
        self.body = program()
        self.commands: tuple[str, ...] = ()

    def start(self, *workers, argv=None, env=NOTHING, grace=20.0, folder=None, **more):
        """Start it; who keeps it is known when this returns, unless it ended at once."""
        folder, self.commands = folder or self.folder, workers
        argv = argv or [sys.executable, "-c", TORCHRUN, str(self.folder), *workers]
        call = SimpleNamespace(body=self.body)
        where = str(self.folder)
        if runs.start(call, str(folder), argv, env, where, self.cookie, grace, **more):
            until(lambda: self.pid("supervisor", folder) or (folder / "exit.json").exists())
        return self

    def dies_at(self, module, path, nth=1, where=None):
        """Have the supervisor kill itself at that call, before anything of it is done."""
        hook = f"{DYING}\n_die({module!r}, {path!r}, {nth!r}, {where!r})\n"
        self.body = self.body + (hook.encode() if DYING.encode() not in self.body else b"")
        return self

    def pid(self, who, folder=None):
        known = record.read(str(folder or self.folder), record.RUN) or {}
        return (known.get(who) or [0])[0]

    def kill(self, *who, number=signal.SIGKILL):
        for pid in [self.pid(name) for name in who]:
            os.kill(pid, number)

    def state(self):
        return record.state_of(str(self.folder))

    def stop(self, grace=20.0, **more):
        """Stop it; return what became of it. The rest of the answer is kept."""
        self.told = stopping.stop(None, str(self.folder), grace, **more)
        return {name: self.told[name] for name in ("state", "survivors", "verified")}

    def go(self):
        (self.folder / "go").touch()

    def journal(self, folder=None):
        try:
            text = ((folder or self.folder) / "journal.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(x) for x in text.splitlines(keepends=True) if x.endswith("\n")]

    def events(self, name):
        return [entry for entry in self.journal() if entry["event"] == name]

    def wait_for(self, name):
        """Return the first such event; workers have by then come as far as their commands say."""
        event = until(lambda: self.events(name))[0]
        if name == "workers":
            for row, command in zip(event["workers"], self.commands, strict=False):
                until(lambda pid=row["pid"], command=command: settled(pid, command))
        return event

    def record(self, folder=None):
        return json.loads(((folder or self.folder) / "exit.json").read_text())

    def ended(self, folder=None):
        """Return the last word, once it is there: nobody is left and the record says the same."""
        folder = folder or self.folder
        word = until(lambda: [e for e in self.journal(folder) if e["event"] == "ended"])[0]
        exit_record = self.record(folder)
        assert exit_record.pop("version") == record.VERSION
        same = {key: exit_record[key] for key in exit_record if key not in ("time", "proven")}
        assert same.items() <= word.items()
        assert self.journal(folder)[-1] == word
        assert bearers(self.cookie) == []
        known = record.read(str(folder), record.RUN)
        until(lambda: not any(record.is_alive(known[who]) for who in ("supervisor", "guard")))
        assert record.state_of(str(folder)) == "ended"
        return word


def settled(pid, command):
    """Whether a shell has set its traps and become what it execs at once, or is gone."""
    process = processes.find(pid)
    if not process or process.dead:
        return True
    if command.startswith("trap ") and not heeds_term(pid):
        return False
    if "exec sleep" not in command or command.startswith(GO):
        return True
    return sleeps(pid)


def sleeps(pid):
    """Whether it has become a sleep: in the middle of an exec the environment is empty."""
    process = processes.find(pid)
    return process and process.name == "sleep" and processes.environment(pid)


def heeds_term(pid):
    """Whether it catches SIGTERM, or ignores it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigIgn"))]
    return any(mask & 1 << (signal.SIGTERM - 1) for mask in masks)


@pytest.fixture
def run(tmp_path, monkeypatch, cookie):
    monkeypatch.setenv("HOME", str(tmp_path))
    told = {"host": "gpu1", "owner": "alice@laptop", "plan": {}}
    folder = runs.prepare(None, "brave-otter", 0, "~/.ddp-orch", told)
    yield Run(Path(folder), cookie)
    for pid in within(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def within(folder):
    """Who is at work in this folder: guard, supervisor, and all that the run started."""
    for process in processes.everyone().values():
        with contextlib.suppress(OSError):
            place = os.readlink(f"/proc/{process.pid}/cwd")  # noqa: PTH115  it may be "... (deleted)"
            if place.startswith(str(folder)) and process.pid != os.getpid():
                yield process.pid
