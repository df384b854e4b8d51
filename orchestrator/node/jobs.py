"""Tell by what /proc shows what belongs to a distributed job, and whether anybody still keeps it.

A job is left over when nobody is above it any more who could want it: its ssh session, its
terminal, its tmux have gone, and it has become a child of process 1. Assumptions:
1. The kernel takes the terminal away from everyone in a session whose terminal is closed or whose
   leader has ended. Who has one has somebody who sits there.
2. Parents that are not shown (hidepid) or are outside of this container may be anybody's: what is
   below them is not left over.
3. A shell, or `nohup`, `timeout` and their like, under process 1 and without a terminal is what an
   ssh session left behind, unless it is a service's.
"""

from __future__ import annotations

import re

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Sequence

MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "torch.distributed.elastic",
    "accelerate.commands.launch",
    "deepspeed.launcher.launch",
)
SCRIPTS = ("/torch/distributed/run.py", "/torch/distributed/launch.py")
# Of Python's options those with a word of their own after them.
WITH_A_WORD = ("-X", "-W", "--check-hash-based-pycs")
ELASTIC = "TORCHELASTIC_RUN_ID"
BY_HAND = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
ENDPOINT = re.compile(r"--(?:rdzv|master)[-_](endpoint|addr|port)(?:=(.*))?\Z", re.DOTALL)
# They may be begun by a worker, and have its environment; what they are for is not the job.
NEVER = re.compile(r"tmux|screen|sshd|ssh-agent|gpg-agent|dbus|systemd|code-server|dockerd")
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "tcsh", "csh", "ash", "busybox")
# Who runs another program and is nobody's reason to run.
LOOSE = (
    *SHELLS,
    "env",
    "nohup",
    "timeout",
    "setsid",
    "stdbuf",
    "time",
    "nice",
    "ionice",
    "taskset",
)
INITS = ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")
# What is in these units is not what they are there for: logins, jobs by the clock, containers.
NOT_SERVICES = re.compile(r"(ssh|sshd|user@\d+|cron|crond|atd|docker|containerd)\.service|sshd?@")
LONGEST = 300
# Of the supervisors' program: what they are started with.
KEEPER = "sys.stdin.buffer"


def is_launcher(words: Sequence[str]) -> bool:
    """Whether this command is torchrun, by any of its names."""
    if not words:
        return False
    first, rest = base(words[0]), iter(words[1:])
    if first == "accelerate":
        return next(rest, "") == "launch"
    if not first.startswith("python"):
        return first == "torchrun"
    for word in rest:
        if word in WITH_A_WORD:
            next(rest, None)
        elif word.startswith("--"):
            continue
        elif not word.startswith("-"):
            if base(word) == "accelerate":
                return next(rest, "") == "launch"
            return base(word) == "torchrun" or word.endswith(SCRIPTS)
        else:
            # Several in one: -um torch.distributed.run. After -c and -m there are no more.
            found = re.match(r"-[^cm]*([cm])(.*)\Z", word, re.DOTALL)
            if found and found.group(1) == "c":
                return False
            if found:
                return (found.group(2) or next(rest, "")).startswith(MODULES)
    return False


def base(word: str) -> str:
    return word.rpartition("/")[2]


def endpoint(words: Sequence[str]) -> str:
    """Return where a torchrun was told to meet the others; "" where it was not."""
    found: dict[str, str] = {}
    for number, word in enumerate(words):
        option = ENDPOINT.match(word)
        if option and option.group(2) is not None:
            found[option.group(1)] = option.group(2)
        elif option:
            found[option.group(1)] = words[number + 1] if number + 1 < len(words) else ""
    return found.get("endpoint") or ":".join(
        found[part] for part in ("addr", "port") if part in found
    )


def is_worker(process: processes.Process, env: Mapping[str, str]) -> bool:
    """Whether it was started as a worker, or by one: what a worker starts has its environment."""
    if NEVER.match(process.name) or (process.terminal and process.name in SHELLS):
        return False
    if ELASTIC in env:
        return True
    # A shell in which somebody has set them to try something is no worker.
    return process.name not in SHELLS and all(name in env for name in BY_HAND)


def is_keeper(words: Sequence[str]) -> bool:
    """Whether it is a supervisor of ours, or a guard."""
    return len(words) > 4 and words[-3] == "ddp-orch" and KEEPER in words[-4]


def chain(pid: int, everyone: Mapping[int, processes.Process]) -> list[processes.Process]:
    """Return a process and those above it, as far as they are shown."""
    found: list[processes.Process] = []
    while pid in everyone and len(found) < 1000 and everyone[pid] not in found:
        found.append(everyone[pid])
        pid = everyone[pid].parent
    return found


def owner(pid: int, everyone: Mapping[int, processes.Process]) -> str | None:
    """Say who keeps the topmost process of a job, in words; None: it was left."""
    lineage = chain(pid, everyone)
    for below, process in zip([None, *lineage], lineage):
        if process.terminal:
            return "a terminal" if below is None else "%s on a terminal" % named(process)
        if below is not None and is_init(process):
            return owned_by_init(below, process)
        if below is not None and process.name not in LOOSE:
            return named(process)
    last = lineage[-1]
    if last.parent == 1:
        return service(last.pid)  # process 1 is hidden
    return "somebody outside of this container" if not last.parent else "a hidden process"


def owned_by_init(process: processes.Process, init: processes.Process) -> str | None:
    # Who is in its session was started by it, or its script: it is what a container is there for,
    # or a shell at which somebody sits. Logins have sessions of their own, as services have.
    if process.session == init.session:
        return named(init)
    return service(process.pid)


def is_init(process: processes.Process) -> bool:
    return process.pid == 1 or process.name in INITS


def named(process: processes.Process) -> str:
    return "%s (pid %d)" % (process.name, process.pid)


def service(pid: int) -> str | None:
    """Name the unit that systemd runs it as, if it does."""
    try:
        lines = processes.read("/proc/%d/cgroup" % pid).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        unit = base(line)
        if unit.endswith(".service") and not NOT_SERVICES.match(unit):
            return unit
    return None
