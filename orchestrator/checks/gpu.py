"""Does each host have the GPUs that the workers need, and may they use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks import gpu_busy, gpu_count, gpu_smi, gpu_state
from orchestrator.checks.check import Check
from orchestrator.checks.drift import alike, differing, odd_one
from orchestrator.checks.gpus import on_cores, smi_of, used
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Smi


def _models(cluster: ClusterFacts) -> Iterator[Verdict]:
    models: dict[str, str] = {}
    for host, smi in _answers(cluster):
        found = sorted({gpu.name for gpu in used(cluster, host, smi) if gpu.name})
        if found:
            models[host] = " and ".join(found)
    if not models:
        return
    if len(set(models.values())) == 1 and " and " not in next(iter(models.values())):
        yield Verdict(
            id="gpu.model_mix", status="pass", scope="cluster", message=next(iter(models.values()))
        )
        return
    groups = alike(models)
    yield Verdict(
        id="gpu.model_mix",
        status="warn",
        scope="cluster",
        host=odd_one(groups),
        message=f"not all GPUs are alike: {differing(groups, str)}",
        evidence={"models": models},
        hint="all wait for the slowest, and batches must fit the smallest; `gpus:` or --exclude "
        "leaves some out",
    )


def _drivers(cluster: ClusterFacts) -> Iterator[Verdict]:
    versions = {}
    for host, smi in _answers(cluster):
        found = next((gpu.driver for gpu in used(cluster, host, smi) if gpu.driver), None)
        if found:
            versions[host] = found
    if not versions:
        return
    if len({version.partition(".")[0] for version in versions.values()}) == 1:
        message = ", ".join(sorted(set(versions.values())))
        yield Verdict(id="gpu.driver_drift", status="pass", scope="cluster", message=message)
        return
    groups = alike(versions)
    yield Verdict(
        id="gpu.driver_drift",
        status="warn",
        scope="cluster",
        host=odd_one(groups),
        message=f"drivers of different branches: {differing(groups, str)}",
        evidence={"drivers": versions},
        hint="install the same driver on all; an old one may lack what torch's CUDA needs",
    )


def _answers(cluster: ClusterFacts) -> Iterator[tuple[str, Smi]]:
    for host in cluster.hosts:
        smi = smi_of(cluster, host)
        if smi is not None and smi.answers and not on_cores(cluster, host):
            yield host, smi


CHECKS = (
    *gpu_smi.CHECKS,
    *gpu_count.CHECKS,
    *gpu_state.CHECKS,
    *gpu_busy.CHECKS,
    Check(
        id="gpu.model_mix",
        about="all GPUs of the run are of one model",
        without="all wait for the slowest; out of memory on the smallest",
        how="the names that nvidia-smi has",
        judge=_models,
        worst="warn",
        tier="gpu",
    ),
    Check(
        id="gpu.driver_drift",
        about="all hosts have drivers of one branch",
        without="a hang, or `CUDA driver version is insufficient` on one host",
        how="the versions that nvidia-smi has",
        judge=_drivers,
        worst="warn",
        tier="gpu",
    ),
)
