"""Does each host have what the workers need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks import code, cuda, versions
from orchestrator.checks.check import Check, hosts_with_facts
from orchestrator.checks.drift import version
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
        elif version(found.torch) < OLDEST_TORCH:
            yield Verdict(
                id="env.torch",
                status="fail",
                host=host,
                message=f"torch {found.torch} is older than 2.6, the oldest that is supported",
                hint=f"{found.executable} -m pip install --upgrade torch",
            )
        else:
            yield cuda.cpu_build(cluster, host, facts) or Verdict(
                id="env.torch",
                status="pass",
                host=host,
                message=found.torch,
                evidence={"version": found.torch},
            )


def _torchrun(cluster: ClusterFacts) -> Iterator[Verdict]:
    id_ = "env.torchrun"
    for host, facts in hosts_with_facts(cluster, id_):
        if isinstance(facts, Verdict):
            yield facts
            continue
        found = facts.interpreter
        if found.torch is None:
            yield Verdict(
                id=id_, status="unknown", host=host, message="no torch to look at",
                caused_by="env.torch",
            )  # fmt: skip
        elif found.torchrun:
            yield Verdict(id=id_, status="pass", host=host, message="torch.distributed.run")
        else:
            yield Verdict(
                id=id_,
                status="fail",
                host=host,
                message=f"torch {found.torch} of {found.executable} has no torch.distributed.run",
                hint=f"{found.executable} -m pip install --force-reinstall torch",
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


def _which(found: Interpreter) -> str:
    if "shared librar" in (found.problem or ""):
        return "what a `module load` would set there it needs here: env: {LD_LIBRARY_PATH: ...}"
    if found.seen:
        return f"torch was seen in {', '.join(found.seen)}: set `python:` to one of them"
    return (
        "set `python:` to what has torch there: an interpreter, the folder of a virtual or conda "
        "environment, or a conda environment's name"
    )


CHECKS = (
    Check(
        id="env.python",
        about="the inventory's interpreter answers on every host",
        without="`torchrun: command not found`: a shell without a terminal sets no PATH",
        how="the interpreter is started and asked, within a deadline",
        judge=_python,
    ),
    Check(
        id="env.torch",
        about="that interpreter has torch 2.6 or newer, and no CPU build where there are GPUs; it "
        "is not imported",
        without="`No module named torch`, after all others have started; or the GPUs stay idle",
        how="its package metadata and its version.py; nothing is imported",
        judge=_torch,
    ),
    Check(
        id="env.torchrun",
        about="that torch has its launcher, torch.distributed.run",
        without="`No module named torch.distributed.run`, on one host, and the others wait",
        how="a look for its file",
        judge=_torchrun,
    ),
    *cuda.CHECKS,
    *versions.CHECKS,
    Check(
        id="env.workdir",
        about="the folder to start in is there, where one is set",
        without="`No such file or directory` on one host, and the others wait",
        how="stat, there",
        judge=_workdir,
    ),
    *code.CHECKS,
)
