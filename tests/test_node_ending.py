"""Ending a run: nothing of it is left, whatever it is; nobody else's ends; what stays is named.

Each animal lives in a pid namespace of its own, a cage: who is left in it is known from outside,
without the code that is tested, and nothing gets out when that fails.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import boot
from orchestrator.node import ending, processes
from tests.hosts.processes import processes as everywhere
from tests.test_node_agent import python_or_skip
from tests.test_node_processes import bearers, cookie, spawn, until, with_cookie

__all__ = ["cookie", "spawn"]

ZOO = Path(__file__).parent / "workers/zoo"
OTHERS = secrets.token_hex(16)  # another run's cookie

caged = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a pid namespace needs Linux and root"
)

# What runs in the cage, on any Python: the node's own code, then a keeper who starts an animal.
KEEPER = r"""
import json, os, signal, subprocess, sys, time
ending, processes = (sys.modules["ddp_orch_node." + n] for n in ("ending", "processes"))
task = json.loads(sys.argv[1])
cookie = task["cookie"]

def start(cookie, argv, **more):
    env = dict(os.environ, **{processes.COOKIE: cookie})

    def before():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if task["marked"]:
            processes.brand(cookie)

    return subprocess.Popen(argv, env=env, preexec_fn=before, start_new_session=True, **more)

def keep():
    processes.become_subreaper()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what ends is reaped at once
    animal = start(cookie, task["argv"], stdout=subprocess.PIPE)
    assert animal.stdout.readline() == b"ready\n"
    animal.returncode = 0

def leave_root():
    if task["uid"]:
        os.setgroups([])
        os.setgid(task["uid"])
        os.setuid(task["uid"])

def reap():
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return False
        except ChildProcessError:
            return True

if os.fork() == 0:
    for _ in range(task["crowd"]):
        subprocess.Popen(["sleep", "603"], stdout=subprocess.DEVNULL)
    print(start(task["others"], ["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
    os._exit(0)
os.wait()
since = processes.find(os.getpid()).start
if task["supervised"]:
    keep()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    leave_root()
    survivors = ending.end_all(cookie, os.getpid(), reap, task["timeout"], since)
else:
    told, tell = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        keep()
        os.write(tell, b"x")
        time.sleep(600)
    os.read(told, 1)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    leave_root()
    survivors = ending.end_all(cookie, timeout=task["timeout"], since=since)
print(json.dumps(survivors), flush=True)
"""


class Cage:
    """A pid namespace and who is in it. Its process 1 outlives the keeper, until it is opened."""

    def __init__(self, python, proc="hidepid=0", **task):
        task = {"timeout": 30, "marked": True, "supervised": True, "uid": 0, "crowd": 0} | task
        text = json.dumps(task | {"others": OTHERS})
        program = boot.program(boot.in_order(["ending"]), KEEPER)
        first = 'mount -o "remount,$0" /proc; "$@" </dev/null; echo over $?; read open'
        shell = ["sh", "-c", first, proc, python, "-X", "utf8", "-I", "-S", "-c", program, text]
        cage = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self.process = subprocess.Popen(
            [*cage, *shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()

    def outcome(self):
        """What end_all() returned, and who was left as soon as the keeper had ended."""
        said = [self.process.stdout.readline().strip()]
        while not said[-1].startswith("over"):
            said.append(self.process.stdout.readline().strip())
        assert said.pop() == "over 0", "the keeper failed"
        stranger, survivors = map(json.loads, said)
        left = {p.pid: p.command for p in self.inmates() if p.command != "sleep 603"}
        assert left.pop(stranger) == "sleep 600", "another run's is untouched"
        return survivors, left

    def inmates(self):
        space = Path(f"/proc/{self.process.pid}/ns/pid_for_children").readlink()
        return [p for p in everywhere() if p.pid_ns == str(space) and p.pid != 1]


def animal(python, name, *args):
    return [python, "-S", str(ZOO / f"{name}.py"), *map(str, args)]


ANIMALS = {
    "term_ignorer": (),
    "daemon": (),
    "renamed": (),
    "bomb": (),
    "hopper": (),
    "respawner": (),
    "stopped": (),
    "port_holder": (0,),
    "orphan": (),
    "pipeline": (),
    "native": (),
    "checkpointer": (),
    "vforked": (),
    "leaderless": (),
}


def test_every_animal_is_tried():
    assert {path.stem for path in ZOO.glob("*.py")} == set(ANIMALS)


@caged
@pytest.mark.parametrize("supervised", [True, False], ids=["supervised", "by scan"])
@pytest.mark.parametrize("name", ANIMALS)
def test_nothing_of_it_is_left(name, supervised, cookie):
    argv = animal(sys.executable, name, *ANIMALS[name])
    with Cage(sys.executable, argv=argv, cookie=cookie, supervised=supervised) as cage:
        survivors, left = cage.outcome()
    assert (survivors, left) == ([], {})


@caged
@pytest.mark.parametrize("supervised", [True, False], ids=["supervised", "by scan"])
@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13", "3.14"])
def test_every_python_ends_them(version, supervised, cookie):
    python = python_or_skip(version)
    argv = animal(sys.executable, "hopper")
    with Cage(python, argv=argv, cookie=cookie, supervised=supervised) as cage:
        survivors, left = cage.outcome()
    assert (survivors, left) == ([], {})


@caged
@pytest.mark.parametrize("supervised", [True, False], ids=["supervised", "by scan"])
def test_who_hops_from_session_to_session_is_caught_in_a_crowd(supervised, cookie):
    """Until all of a crowd have been looked at, it is elsewhere, and in no group that is known."""
    argv = animal(sys.executable, "hopper", "sessions")
    with Cage(sys.executable, argv=argv, cookie=cookie, supervised=supervised, crowd=300) as cage:
        survivors, left = cage.outcome()
    assert (survivors, left) == ([], {})


@caged
@pytest.mark.parametrize(
    ("name", "supervised"), [("renamed", True), ("leaderless", True), ("daemon", False)]
)
def test_who_could_not_be_marked_is_known_by_descent_or_cookie(name, supervised, cookie):
    argv = animal(sys.executable, name)
    with Cage(
        sys.executable, argv=argv, cookie=cookie, supervised=supervised, marked=False
    ) as cage:
        survivors, left = cage.outcome()
    assert (survivors, left) == ([], {})


@caged
@pytest.mark.parametrize("supervised", [True, False], ids=["supervised", "by scan"])
def test_who_belongs_to_another_user_is_named_and_the_rest_ends(supervised, cookie):
    text = "setpriv --reuid=1234 --clear-groups sleep 601 & echo ready; exec sleep 602"
    task = {"argv": ["sh", "-c", text], "supervised": supervised, "uid": 1234, "timeout": 1}
    with Cage(sys.executable, cookie=cookie, **task) as cage:
        survivors, left = cage.outcome()
    (survivor,) = survivors
    assert left == {survivor["pid"]: "sleep 602"}
    assert survivor["start"] > 0
    assert (survivor["name"], survivor["state"], survivor["uid"]) == ("sleep", "S", 0)
    assert survivor["why"] == "belongs to root"


@caged
def test_a_child_that_proc_does_not_show_is_no_proof_of_an_end(cookie):
    task = {"argv": ["sh", "-c", "echo ready; exec sleep 602"], "uid": 1234, "timeout": 1}
    with Cage(sys.executable, "hidepid=2", cookie=cookie, **task) as cage:
        survivors, left = cage.outcome()
    assert [survivor["why"] for survivor in survivors] == ["is not shown in /proc"]
    assert left == {survivors[0]["pid"]: "sleep 602"}


@pytest.fixture
def freezer():
    """A group of the freezer of cgroup version 1, if this machine still has it."""
    found = [m[1] for m in ending.mounts() if m[2] == "cgroup" and "freezer" in m[3].split(",")]
    folder = Path(found[0] if found else "/nowhere", f"ddp-test-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer of cgroup version 1 to be had: {error}")
    yield folder
    (folder / "freezer.state").write_text("THAWED")
    until(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def test_who_is_frozen_is_named_and_ends_when_it_is_thawed(freezer, cookie, spawn):
    frozen = spawn("sleep", "60", **with_cookie(cookie))
    other = spawn("sleep", "60", **with_cookie(cookie))
    (freezer / "cgroup.procs").write_text(str(frozen.pid))
    (freezer / "freezer.state").write_text("FROZEN")
    until(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n")
    (survivor,) = ending.end_all(cookie, timeout=1)
    assert (survivor["pid"], survivor["state"]) == (frozen.pid, "D")
    assert survivor["why"] == "is frozen by a cgroup"
    assert other.wait(60) == -signal.SIGKILL
    (freezer / "freezer.state").write_text("THAWED")
    assert ending.end_all(cookie) == []
    assert frozen.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("state", "refused", "why"),
    [
        ("D", 0, "is in uninterruptible sleep (D)"),
        ("R", 0, "did not end in 2.5 s"),
        ("S", errno.EPERM, f"belongs to {'root' if os.getuid() == 0 else f'uid {os.getuid()}'}"),
        ("S", errno.EINVAL, "cannot be signalled: Invalid argument"),
    ],
)
def test_why_one_lives_on_is_said(state, refused, why):
    process = processes.find(os.getpid())
    process.state = state
    assert ending.named(process, refused, 2.5)["why"] == why


def test_it_is_bounded_and_kills_however_slow_a_look_is(cookie, spawn, monkeypatch):
    class Slow(processes.Census):
        def __init__(self, *args):
            super().__init__(*args)
            # Somebody new at every look: there is always something left to stop.
            spawn("sleep", "60", **with_cookie(cookie))
            time.sleep(0.1)

    monkeypatch.setattr(processes, "Census", Slow)
    first = spawn("sleep", "60", **with_cookie(cookie))
    survivors = ending.end_all(cookie, timeout=1)
    assert {survivor["why"] for survivor in survivors} == {"did not end in 1 s"}
    assert first.wait(60) == -signal.SIGKILL


HIDING = [
    ("hidepid=0", 1235, True),
    ("hidepid=1", 1235, False),
    ("hidepid=2", 1235, False),
    ("hidepid=4", 1235, False),
    ("hidepid=2", 0, True),
    ("hidepid=2,gid=1235", 1235, True),
    ("hidepid=4,gid=1235", 1235, False),
    ("hidepid=2,gid=4321", 1235, False),
]


@caged
@pytest.mark.parametrize("uid", [0, 1234])
@pytest.mark.parametrize(("options", "gid", "sees"), HIDING)
def test_a_scan_is_believed_only_where_proc_shows_everyone(options, gid, sees, uid):
    look = (
        f"import os, sys\nos.setgid({gid}); os.setgroups([]); os.setuid({uid})\n"
        "ending = sys.modules['ddp_orch_node.ending']\n"
        "print(not ending.hidden_by(), os.path.exists('/proc/1/stat'))"
    )
    program = boot.program(boot.in_order(["ending"]), look)
    cage = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c"]
    mount = 'mount -t proc -o "$0" proc /proc && "$@"'
    said = subprocess.check_output(
        [*cage, mount, options, sys.executable, "-I", "-S", "-c", program], text=True
    )
    assert said.split()[0] == str(sees or uid == 0)
    if options.startswith("hidepid=2") or uid == 0:
        assert said.split()[1] == said.split()[0], "the kernel itself says otherwise"


def test_a_group_with_a_stranger_in_it_is_not_signalled_as_one(cookie, spawn):
    """Such as a user's shell, who gave one of its commands the cookie by hand."""
    text = f"{processes.COOKIE}={cookie} sleep 60 & sleep 60 & wait"
    shell = spawn("sh", "-c", text, start_new_session=True)
    until(lambda: len(processes.children(shell.pid)) == 2 and bearers(cookie))
    alone = spawn("sleep", "60", start_new_session=True, **with_cookie(cookie))
    census = processes.Census(cookie)
    assert census.groups == {alone.pid}
    assert ending.end_all(cookie) == []
    (stranger,) = until(lambda: living(processes.children(shell.pid)))
    assert shell.poll() is None
    os.kill(stranger, signal.SIGKILL)


def test_who_is_born_into_a_group_since_the_look_is_signalled_with_it(cookie, spawn):
    text = "read now; sleep 60 & wait"
    own = {"start_new_session": True, "stdin": subprocess.PIPE}
    shell = spawn("sh", "-c", text, **own, **with_cookie(cookie))
    until(lambda: bearers(cookie))
    census = processes.Census(cookie)
    assert [process.pid for process in census.members] == [shell.pid]
    shell.stdin.write(b"\n")
    shell.stdin.close()
    (born,) = until(lambda: processes.children(shell.pid))
    census.signal_groups(signal.SIGKILL)
    until(lambda: not living([born, shell.pid]))


# 20 processes in sessions of their own, who wait for another's death, and would then act.
WATCHERS = r"""
import os, sys, time
seen, alive = os.pipe()
for _ in range(20):
    if os.fork() == 0:
        os.close(alive)
        os.setsid()
        os.read(seen, 1)
        os.close(os.open(os.path.join(sys.argv[1], "%d-acted" % os.getpid()), os.O_CREAT))
        os._exit(0)
if os.fork() == 0:
    print("ready", flush=True)
    time.sleep(60)
os.close(alive)
time.sleep(60)
"""


def test_nobody_lives_to_see_another_die(cookie, spawn, tmp_path):
    argv = [sys.executable, "-S", "-c", WATCHERS, str(tmp_path)]
    parent = spawn(*argv, stdout=subprocess.PIPE, start_new_session=True, **with_cookie(cookie))
    assert parent.stdout.readline() == b"ready\n"
    assert ending.end_all(cookie) == []
    assert list(tmp_path.iterdir()) == []


def living(pids):
    found = filter(None, map(processes.find, pids))
    return [process.pid for process in found if not process.dead]
