"""Does each host have what the workers need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, hosts_with_facts
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Interpreter

OLDEST_TORCH = (2, 6)


def _python(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, facts in hosts_with_facts(cluster, "env.python"):
        if isinstance(facts, Verdict):
            yield facts
            continue
        found = facts.interpreter
        if found.executable is None:
            yield Verdict(
                id="env.python",
                status="fail",
                host=host,
                message=f"{found.asked}: {found.problem or 'did not answer'}",
                hint=_which(found),
            )
        else:
            yield Verdict(
                id="env.python",
                status="pass",
                host=host,
                message=found.version or "",
                evidence={
                    "executable": found.executable,
                    "version": found.version,
                    "environment": found.environment,
                },
            )


def _torch(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, facts in hosts_with_facts(cluster, "env.torch"):
        if isinstance(facts, Verdict):
            yield facts
            continue
        found = facts.interpreter
        if found.executable is None:
            yield Verdict(
                id="env.torch", status="unknown", host=host, message="no interpreter to ask",
                caused_by="env.python",
            )  # fmt: skip
        elif found.torch is None:
            yield Verdict(
                id="env.torch",
                status="fail",
                host=host,
                message=f"{found.executable} has no torch",
                hint=_which(found),
            )
        elif _version(found.torch) < OLDEST_TORCH:
            yield Verdict(
                id="env.torch",
                status="fail",
                host=host,
                message=f"torch {found.torch} is older than 2.6, the oldest that is supported",
                hint=f"{found.executable} -m pip install --upgrade torch",
            )
        else:
            yield Verdict(
                id="env.torch",
                status="pass",
                host=host,
                message=found.torch,
                evidence={"version": found.torch},
            )


def _workdir(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, facts in hosts_with_facts(cluster, "env.workdir"):
        if host not in cluster.workdirs:
            continue
        if isinstance(facts, Verdict):
            yield facts
        elif facts.workdir is None:
            yield Verdict(
                id="env.workdir",
                status="unknown",
                host=host,
                message=f"{cluster.workdirs[host]}: {facts.workdir_problem}",
            )
        elif facts.workdir_problem:
            yield Verdict(
                id="env.workdir",
                status="fail",
                host=host,
                message=f"workdir {facts.workdir} {facts.workdir_problem}",
                hint="make it there, or change `workdir:`; without one, workers start in the run's "
                "own folder",
            )
        else:
            yield Verdict(id="env.workdir", status="pass", host=host, message=facts.workdir)


def _gpus(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, facts in hosts_with_facts(cluster, "gpu.count"):
        wanted = cluster.gpus.get(host)
        if wanted is None:
            continue
        if isinstance(facts, Verdict):
            yield facts
            continue
        there = facts.gpus_installed
        if there is None:
            yield Verdict(
                id="gpu.count", status="unknown", host=host, message="nvidia-smi did not answer"
            )
            continue
        absent = [str(index) for index in wanted if index >= there]
        have = (
            "no GPU" if there == 0 else "1 GPU, number 0" if there == 1
            else f"{there} GPUs, 0 to {there - 1}"
        )  # fmt: skip
        yield Verdict(
            id="gpu.count",
            status="fail" if absent else "pass",
            host=host,
            message=f"has {have}, but is asked for GPU {', '.join(absent)}" if absent else have,
            evidence={"installed": there, "asked": list(wanted)},
            hint="nvidia-smi -L, there, lists what can stand in `gpus:` and --include"
            if absent
            else None,
        )


def _which(found: Interpreter) -> str:
    if found.seen:
        return f"torch was seen in {', '.join(found.seen)}: set `python:` to one of them"
    return (
        "set `python:` to what has torch there: an interpreter, the folder of a virtual or conda "
        "environment, or a conda environment's name"
    )


def _version(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("+")[0].split(".")[:2]:
        digits = "".join(c for c in part if c.isdigit())
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)


CHECKS = (
    Check(
        id="env.python", about="the inventory's interpreter answers on every host", judge=_python
    ),
    Check(
        id="env.torch",
        about="that interpreter has torch 2.6 or newer; it is not imported",
        judge=_torch,
    ),
    Check(
        id="env.workdir", about="the folder to start in is there, where one is set", judge=_workdir
    ),
    Check(id="gpu.count", about="each host has the GPUs that `gpus:` asks for", judge=_gpus),
)
