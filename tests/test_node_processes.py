"""Ending a run: whatever its processes did to get away; and nobody else's."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.node import ending, processes, record

ROOT = Path(__file__).resolve().parents[1]
# Whether a pidfd tells how one ended whom somebody else has waited for.
STATUSES_ARE_KEPT = sys.platform == "linux" and tuple(
    map(int, re.findall(r"\d+", platform.release())[:2])
) >= (6, 15)

# A supervisor as the real one is, with children that would rather live. Each writes down its pid.
ZOO = r"""
import json, os, subprocess, sys, time
from orchestrator.node import ending, processes

cookie = sys.argv[1]
os.environ.pop(processes.COOKIE, None)
processes.become_subreaper()
env = dict(os.environ, **{processes.COOKIE: cookie})
ANIMALS = {
    "ignorer": "trap '' TERM HUP INT; echo $$ > ignorer; exec sleep 60",
    "daemon": "setsid sh -c 'echo $$ > daemon; exec sleep 60' & exit",
    "stopped": "echo $$ > stopped; kill -STOP $$; exec sleep 60",
    "wiped": "exec env -i /bin/sh -c 'echo $$ > wiped; exec sleep 60'",
    "orphan": "(env -i setsid sh -c 'echo $$ > orphan; exec sleep 60' &) & exit",
    "chain": "echo 'echo $$ > chain; sleep 0.02; sh ./chain.sh &' > chain.sh; sh ./chain.sh & exit",
}
for text in ANIMALS.values():
    subprocess.Popen(["/bin/sh", "-c", text], env=env, stdin=subprocess.DEVNULL)

def pid_of(name):
    try:
        return int(open(name).read())
    except (OSError, ValueError):
        return 0

end = time.monotonic() + 60
while not (all(map(pid_of, ANIMALS)) and processes.find(pid_of("stopped")).state == "T"):
    assert time.monotonic() < end
    time.sleep(0.01)

def reap():
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return False
        except ChildProcessError:
            return True

known = {process.pid for process in processes.members(cookie, os.getpid())}
animals = {name: pid_of(name) for name in ANIMALS if name != "chain"}
missed = [name for name, pid in animals.items() if pid not in known]
survivors = ending.end_all(cookie, os.getpid(), reap)
left = [p.pid for p in processes.everyone().values() if p.parent == os.getpid()]
alive = [name for name, pid in animals.items() if processes.find(pid)]
print(json.dumps([missed, survivors, left, alive, reap()]))
"""


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not (got := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return got


def bearers(cookie):
    """Who has the cookie, found without the code that is tested."""
    wanted = f"{processes.COOKIE}={cookie}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def cookie():
    cookie = secrets.token_hex(16)
    yield cookie
    for pid in bearers(cookie):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def spawn():
    started = []

    def run(*argv, **more):
        started.append(subprocess.Popen(argv, **more))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def with_cookie(cookie):
    return {"env": dict(os.environ, **{processes.COOKIE: cookie})}


def test_nothing_of_a_zoo_is_left_and_a_stranger_lives(tmp_path, cookie, spawn):
    stranger = spawn("sleep", "60", **with_cookie("another run's"))
    supervisor = spawn(
        sys.executable,
        "-c",
        ZOO,
        cookie,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = supervisor.communicate(timeout=60)
        assert supervisor.returncode == 0, err.decode()
        missed, survivors, left, alive, nobody = json.loads(out)
    finally:
        # Those that wiped their environment are known by the pid they wrote down alone.
        for name in ("wiped", "orphan"):
            if supervisor.returncode != 0 and (tmp_path / name).exists():
                os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)
    assert missed == []
    assert survivors == []
    assert left == []
    assert alive == []
    assert nobody is True
    assert bearers(cookie) == []
    assert stranger.poll() is None


def test_without_a_supervisor_the_cookie_finds_them_and_their_children(cookie, spawn, tmp_path):
    parent = spawn(
        "sh",
        "-c",
        "env -i sh -c 'echo $$ > wiped; exec sleep 60' & wait",
        cwd=tmp_path,
        **with_cookie(cookie),
    )
    wiped = int(until(lambda: (tmp_path / "wiped").exists() and (tmp_path / "wiped").read_text()))
    assert {p.pid for p in processes.members(cookie)} >= {parent.pid, wiped}
    assert ending.end_all(cookie) == []
    assert parent.wait(60) == -signal.SIGKILL
    until(lambda: (now := processes.find(wiped)) is None or now.dead)


def test_the_caller_and_a_stranger_are_no_members(cookie, spawn, monkeypatch):
    spawn("sleep", "60", **with_cookie(cookie + "x"))
    assert processes.members(cookie) == []


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_a_pid_that_is_another_process_by_now_is_not_signalled(spawn, monkeypatch, with_pidfd):
    if not with_pidfd:
        monkeypatch.setattr(processes, "pidfd_open", lambda pid: -1)
    sleeper = spawn("sleep", "60")
    process = processes.find(sleeper.pid)
    process.start -= 1
    assert processes.send(process, signal.SIGKILL) == 0
    process.start += 1
    assert processes.send(process, signal.SIGTERM) == 0
    # Had the first one gone out, it would have been the one to tell of.
    assert sleeper.wait(60) == -signal.SIGTERM
    assert processes.send(process, signal.SIGKILL) == 0, "one that is gone is no failure"


def test_signalling_leaves_no_descriptor_behind(spawn):
    process = processes.find(spawn("sleep", "60").pid)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        processes.send(process, signal.SIGCONT)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_process_is_read_whatever_it_calls_itself(spawn, tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    sleeper = spawn(str(program), "60")
    process = until(
        lambda: (now := processes.find(sleeper.pid)) and now.name == program.name and now
    )
    assert process.parent == os.getpid()
    assert process.state in "SDR"
    assert not process.dead


def test_a_zombie_tells_how_it_ended(spawn):
    process = spawn("sh", "-c", "exit 3")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    zombie = processes.find(process.pid)
    assert zombie.dead
    assert os.WEXITSTATUS(zombie.status) == 3
    assert process.wait() == 3
    assert processes.find(process.pid) is None
    assert processes.environment(process.pid) == {}
    assert processes.children(process.pid) == []


def test_children_are_found(spawn):
    parent = spawn("sh", "-c", "sleep 60 & sleep 60 & wait")
    try:
        pids = until(lambda: (pids := processes.children(parent.pid))[1:] and pids)
        assert {processes.find(pid).parent for pid in pids} == {parent.pid}
    finally:
        for pid in processes.children(parent.pid):
            os.kill(pid, signal.SIGKILL)


def branded(cookie):
    return {"preexec_fn": lambda: processes.brand(cookie)}


def test_the_mark_is_kept_by_who_loses_all_else(cookie, spawn):
    text = "exec env -i /bin/setsid -f /bin/sleep 60"
    if os.geteuid() == 0:
        text = "exec env -i setpriv --reuid=1234 --clear-groups /bin/setsid -f /bin/sleep 60"
    assert spawn("sh", "-c", text, **branded(cookie)).wait(60) == 0
    (lost,) = until(lambda: processes.members(cookie))
    assert processes.environment(lost.pid) == {}
    other = cookie[:11] + ("1" if cookie[11] == "0" else "0")
    assert processes.members(other) == []
    assert processes.members(cookie, never=[lost.pid]) == []
    assert processes.members(cookie, since=lost.start)
    assert processes.members(cookie, since=lost.start + 1) == []
    assert processes.send(lost, signal.SIGKILL) == 0


def test_a_lower_limit_that_is_there_already_stays(cookie, spawn):
    text = (
        "import os, resource, sys\nfrom orchestrator.node import processes\n"
        "resource.setrlimit(15, (1000, 1000)); os.geteuid() or os.setuid(1234)\n"
        "processes.brand(sys.argv[1]); print(resource.getrlimit(15))"
    )
    argv = [sys.executable, "-c", text, cookie]
    said = subprocess.check_output(argv, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert said == b"(1000, 1000)\n"


def test_whoever_else_has_the_pid_is_not_it(spawn):
    sleeper = spawn("sleep", "60")
    start = processes.find(sleeper.pid).start
    assert record.is_alive([sleeper.pid, start])
    assert not record.is_alive([sleeper.pid, start - 1])
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not record.is_alive([sleeper.pid, start]), "a zombie"
    sleeper.wait()
    assert not record.is_alive([sleeper.pid, start])


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_refused_signal_says_why(spawn):
    victim = processes.find(spawn("sleep", "60").pid)
    pid = os.fork()
    if pid == 0:
        os.setuid(1234)
        os._exit(processes.send(victim, signal.SIGKILL))
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == errno.EPERM
    assert record.is_alive([victim.pid, victim.start])
