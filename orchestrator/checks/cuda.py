"""Is each host's torch built for the GPUs that are there, and for their driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.gpus import on_cores, smi_of, unwanted
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from orchestrator.facts import ClusterFacts, HostFacts

# For each index of wheels the oldest branch of drivers that runs them: the newest first.
INDEXES = {"cu130": 580, "cu126": 525, "cu118": 450}


def cpu_build(cluster: ClusterFacts, host: str, facts: HostFacts) -> Verdict | None:
    """Say that there are GPUs, or are to be, of which this torch sees none."""
    asked = host in cluster.per_gpu or host in cluster.gpus
    smi = smi_of(cluster, host)
    there = facts.gpus or (len(smi.installed) if smi else 0)
    if not on_cores(cluster, host) or unwanted(cluster, host) or not (asked or there):
        return None
    gpus = "there is 1 GPU" if there == 1 else f"there are {there} GPUs"
    wanted = ", which the inventory asks for" if asked else ""
    python = facts.interpreter
    return Verdict(
        id="env.torch",
        status="fail" if asked else "warn",
        host=host,
        message=f"torch {python.torch} is a CPU build, "
        + (f"and {gpus}{wanted}" if there else "but the inventory asks for GPUs"),
        evidence={"version": python.torch, "build": python.build, "gpus": facts.gpus},
        hint=f"there: {install(python.executable, wheels(smi.branch if smi else None))}"
        + ("" if asked else "; if it is to compute on its cores: `checks: {env.torch: info}`"),
    )


def wheels(branch: int | None) -> str:
    """Return the newest index of wheels that a driver runs; of one not known, what most run."""
    return next((index for index, oldest in INDEXES.items() if (branch or 525) >= oldest), "cu118")


def install(python: str | None, index: str) -> str:
    # Another build of the same version would do for pip as it is.
    return (
        f"{python} -m pip install --force-reinstall torch "
        f"--index-url https://download.pytorch.org/whl/{index}"
    )
