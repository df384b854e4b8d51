"""May the workers have what they will ask the system for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, each, user_of
from orchestrator.events import Verdict
from orchestrator.facts import HostFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Conditions

# A worker alone has some hundred files open: libraries, sockets, and two per DataLoader's worker.
FEW_FILES, TOO_FEW_FILES = 4096, 1024
# torchrun and its helpers; below that nothing starts.
TOO_FEW_PROCESSES = 100
# A worker that has imported torch takes half a GiB, without GPU and data.
LITTLE_MEMORY, TOO_LITTLE_LEFT = 2 << 30, 512 << 20


def _nofile(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "lim.nofile", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        # The agent has raised the soft limit as far as it may; the workers inherit that.
        most = found.nofile.soft
        if most is not None and most < FEW_FILES:
            yield Verdict(
                id="lim.nofile",
                status="fail" if most < TOO_FEW_FILES else "warn",
                host=host,
                message=f"hard limit {most} open files",
                evidence={"soft": most, "hard": found.nofile.hard},
                hint=f"{_conf(cluster, host)} hard nofile 65536; a container: docker run --ulimit "
                "nofile=65536",
            )
        else:
            yield Verdict(
                id="lim.nofile",
                status="pass",
                host=host,
                message="no limit" if most is None else f"{most} open files",
            )


def _memlock(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "lim.memlock", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        most, adapters = found.memlock.soft, found.infiniband
        if most is None:
            yield Verdict(id="lim.memlock", status="pass", host=host, message="no limit")
        elif isinstance(adapters, str):
            yield Verdict(id="lim.memlock", status="unknown", host=host, message=adapters)
        elif not adapters:
            yield Verdict(
                id="lim.memlock",
                status="pass",
                host=host,
                message=f"{_size(most)}, and no InfiniBand that would need more",
            )
        else:
            facts = cluster.facts.get(host)
            # gloo does not use it, and without a GPU there is no NCCL.
            unused = isinstance(facts, HostFacts) and facts.gpus == 0
            yield Verdict(
                id="lim.memlock",
                status="info" if unused else "warn",
                host=host,
                message=f"only {_size(most)} of memory may be locked, and InfiniBand "
                f"({', '.join(adapters)}) locks all that it sends",
                hint=f"{_conf(cluster, host)} - memlock unlimited; "
                "a container: docker run --ulimit memlock=-1",
            )


def _nproc(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "lim.nproc", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        facts = cluster.facts.get(host)
        cores, workers = (
            (facts.cores, max(1, facts.gpus or 0)) if isinstance(facts, HostFacts) else (1, 1)
        )
        # numpy's OpenBLAS alone starts a thread per core, in every worker.
        wanted = TOO_FEW_PROCESSES + cores * workers
        left, what, hint = _processes_left(found, _conf(cluster, host))
        if left is None:
            unknown = bool(what)
            yield Verdict(
                id="lim.nproc",
                status="unknown" if unknown else "pass",
                host=host,
                message=what or "no limit",
            )
        elif left < wanted:
            yield Verdict(
                id="lim.nproc",
                status="fail" if left < TOO_FEW_PROCESSES else "warn",
                host=host,
                message=f"{what} leaves room for {left} more processes and threads; "
                f"{wanted} may be needed",
                evidence={"left": left, "wanted": wanted},
                hint=hint,
            )
        else:
            yield Verdict(id="lim.nproc", status="pass", host=host, message=f"{left} more")


def _processes_left(found: Conditions, conf: str) -> tuple[int | None, str, str]:
    """Return how many more there may be, what says so, and what to do; None: no limit, or why."""
    choices: list[tuple[int, str, str]] = []
    most = found.nproc.soft
    if most is not None:
        if isinstance(found.threads, str):
            return None, found.threads, ""
        hint = f"{conf} - nproc 65536"
        choices.append((max(0, most - found.threads), f"the limit of {most} processes", hint))
    if isinstance(found.pid_groups, str):
        return None, found.pid_groups, ""
    slice_ = f"sudo systemctl set-property user-{found.uid}.slice TasksMax=infinity"
    for group in found.pid_groups:
        hint = f"{slice_}; a container: docker run --pids-limit=-1"
        choices.append((group.left, f"a control group's limit of {group.limit} processes", hint))
    return min(choices) if choices else (None, "", "")


def _cgroup_mem(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "lim.cgroup_mem", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        if isinstance(found.memory, str) or isinstance(found.memory_groups, str):
            why = found.memory if isinstance(found.memory, str) else str(found.memory_groups)
            yield Verdict(id="lim.cgroup_mem", status="unknown", host=host, message=why)
            continue
        real = [group for group in found.memory_groups if group.limit < found.memory.total]
        least = min((group.limit for group in real), default=None)
        left = min([found.memory.available, *(group.left for group in real)])
        if least is not None and least < LITTLE_MEMORY:
            message = f"a control group limits all that runs here to {_size(least)} of memory"
        elif left < TOO_LITTLE_LEFT:
            limit = "" if least is None else f" of the {_size(least)} that a control group allows"
            message = f"{_size(left)} of memory left{limit}"
        else:
            yield Verdict(
                id="lim.cgroup_mem", status="pass", host=host, message=f"{_size(left)} left"
            )
            continue
        yield Verdict(
            id="lim.cgroup_mem",
            status="warn",
            host=host,
            message=f"{message}: what needs more is killed (rc 137)",
            evidence={"left": left, "limit": least},
            hint=f"sudo systemctl set-property user-{found.uid}.slice MemoryMax=infinity; "
            "a container: docker run --memory; a batch job: --mem=0"
            if least is not None
            else "see who has it: ps -eo rss,pid,user,args --sort=-rss | head",
        )


def _conf(cluster: ClusterFacts, host: str) -> str:
    """Begin a line of limits.conf with whom it is about: `*` is everyone but root."""
    return f"in /etc/security/limits.conf there: {user_of(cluster, host) or '*'}"


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


CHECKS = (
    Check(
        id="lim.nofile",
        about="a process may have enough files open",
        without="`OSError: [Errno 24] Too many open files`, hours later",
        how="getrlimit, after the agent has raised what it may",
        judge=_nofile,
    ),
    Check(
        id="lim.memlock",
        about="InfiniBand may lock the memory it sends from",
        without="`ibv_reg_mr_iova2 failed with error Cannot allocate memory`",
        how="getrlimit, where an adapter has a port that is up",
        judge=_memlock,
        worst="warn",
    ),
    Check(
        id="lim.nproc",
        about="there is room for the workers' processes and threads",
        without="`can't start new thread`, `pthread_create failed`",
        how="getrlimit and pids.max, against what this user runs",
        judge=_nproc,
    ),
    Check(
        id="lim.cgroup_mem",
        about="there is memory to start in",
        without="rc 137, and no word why",
        how="the control groups around us, version 1 and 2, and MemAvailable",
        judge=_cgroup_mem,
        worst="warn",
    ),
)
