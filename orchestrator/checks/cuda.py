"""Is each host's torch built for the GPUs that are there, and for their driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, each
from orchestrator.checks.gpus import numbers, on_cores, smi_of, unknown, unused, unwanted, used
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.facts import ClusterFacts, HostFacts, Interpreter, Smi
    from orchestrator.facts.smi import Gpu

ID = "env.cuda"
# By CUDA's major version, the oldest branch of drivers that runs it.
DRIVERS = {11: 450, 12: 525, 13: 580}
# Of each the index of wheels that has torch for the most kinds of GPUs: the newest first.
INDEXES = {580: "cu130", 525: "cu126", 450: "cu118"}
# From which capability on GPUs are Blackwell's, the first CUDA that knows them, and the first
# branch of drivers.
BLACKWELL, BLACKWELL_CUDA, BLACKWELL_DRIVER = (10, 0), (12, 8), 570


def _cuda(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in each(cluster, ID, cluster.smi):
        facts = cluster.facts.get(host)
        if unused(cluster, host) or facts is None:
            continue
        if isinstance(smi, Verdict):
            yield unknown(ID, host, smi.message)
        elif smi.count != 0 and (used(cluster, host, smi) or not smi.answers):
            if isinstance(facts, str):
                yield Verdict(id=ID, status="unknown", host=host, message=facts)
            elif not facts.interpreter.for_others:
                yield _fits(host, facts.interpreter, smi, used(cluster, host, smi))


def _fits(host: str, python: Interpreter, smi: Smi, gpus: Sequence[Gpu]) -> Verdict:
    """Say whether the driver runs this torch, and whether this torch knows these GPUs."""
    if python.torch is None:
        return Verdict(
            id=ID, status="unknown", host=host, message="no torch to look at",
            caused_by="env.torch",
        )  # fmt: skip
    cuda, branch = python.cuda_version, smi.branch
    if cuda is None:
        said = f"what torch {python.torch} was built for is not known"
        return Verdict(id=ID, status="unknown", host=host, message=said)
    if branch is None:
        return unknown(ID, host, "the version of its driver is not known")
    oldest = DRIVERS.get(cuda[0])
    if oldest is None:
        said = f"which drivers run CUDA {_dotted(cuda)} is not known"
        return Verdict(id=ID, status="unknown", host=host, message=said)
    new = _new(branch, gpus)
    evidence = {"cuda": _dotted(cuda), "driver": smi.driver, "branch": branch, "needs": oldest}
    hint = f"there: {install(python.executable, wheels(branch, gpus))}"
    if branch < oldest:
        return Verdict(
            id=ID,
            status="warn",
            host=host,
            message=f"torch {python.torch} is for CUDA {_dotted(cuda)}, which needs a driver "
            f"{oldest} or newer: there is {branch}",
            evidence=evidence,
            hint=f"{hint}; or update its driver, or have NVIDIA's cuda-compat package there",
        )
    if cuda < BLACKWELL_CUDA and (new or (branch >= BLACKWELL_DRIVER and not gpus)):
        if not gpus or any(gpu.capability is None for gpu in new):
            return unknown(ID, host, "which kind its GPUs are is not known")
        return Verdict(
            id=ID,
            status="warn",
            host=host,
            message=f"torch {python.torch} is for CUDA {_dotted(cuda)}, and {numbers(new)} "
            f"({new[0].name}) need{'s' * (len(new) == 1)} {_dotted(BLACKWELL_CUDA)} or newer",
            evidence={**evidence, "capability": _dotted(new[0].capability or BLACKWELL)},
            hint=hint,
        )
    said = f"CUDA {_dotted(cuda)} with driver {branch}"
    return Verdict(id=ID, status="pass", host=host, message=said, evidence=evidence)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def cpu_build(cluster: ClusterFacts, host: str, facts: HostFacts) -> Verdict | None:
    """Say that there are GPUs, or are to be, of which this torch sees none."""
    asked = host in cluster.per_gpu or host in cluster.gpus
    smi = smi_of(cluster, host)
    there = facts.gpus or (len(smi.installed) if smi else 0)
    if not on_cores(cluster, host) or unwanted(cluster, host) or not (asked or there):
        return None
    count = "there is 1 GPU" if there == 1 else f"there are {there} GPUs"
    wanted = ", which the inventory asks for" if asked else ""
    python, gpus = facts.interpreter, used(cluster, host, smi) if smi else ()
    return Verdict(
        id="env.torch",
        status="fail" if asked else "warn",
        host=host,
        message=f"torch {python.torch} is a CPU build, "
        + (f"and {count}{wanted}" if there else "but the inventory asks for GPUs"),
        evidence={"version": python.torch, "build": python.build, "gpus": facts.gpus},
        hint=f"there: {install(python.executable, wheels(smi.branch if smi else None, gpus))}"
        + ("" if asked else "; if it is to compute on its cores: `checks: {env.torch: info}`"),
    )


def _new(branch: int, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return those that are, or may be, Blackwell's; no older driver has any."""
    if branch < BLACKWELL_DRIVER:
        return []
    return [gpu for gpu in gpus if (gpu.capability or BLACKWELL) >= BLACKWELL]


def wheels(branch: int | None, gpus: Sequence[Gpu]) -> str:
    """Return the index of wheels for a driver and its GPUs; of one not known, for most.

    Where a driver is older than all of them it is the oldest: it is the nearest.
    """
    fitting = (index for oldest, index in INDEXES.items() if (branch or 525) >= oldest)
    index = next(fitting, "cu118")
    return "cu128" if index == "cu126" and _new(branch or 0, gpus) else index


def install(python: str | None, index: str) -> str:
    # Another build of the same version would do for pip as it is.
    return (
        f"{python} -m pip install --force-reinstall torch "
        f"--index-url https://download.pytorch.org/whl/{index}"
    )


CHECKS = (
    Check(
        id=ID,
        about="torch's CUDA is one that the driver runs and that knows the GPUs",
        without="`The NVIDIA driver on your system is too old`, or `no kernel image is available "
        "for execution on the device`",
        how="what torch was built for, against the driver's version and the GPUs' kind",
        judge=_cuda,
        worst="warn",
        tier="gpu",
    ),
)
