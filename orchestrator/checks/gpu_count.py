"""Does each host have as many GPUs as the inventory counts on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, each
from orchestrator.checks.drift import alike, differing, names, odd_one
from orchestrator.checks.gpus import chosen, count, for_amd, on_cores, unknown, unused, used
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from orchestrator.facts import ClusterFacts, Smi


def _count(cluster: ClusterFacts) -> Iterator[Verdict]:
    """Those that are asked for are there; and without a number of workers all have as many."""
    own: dict[str, Verdict] = {}
    counts: dict[str, int] = {}
    for host, smi in each(cluster, "gpu.count", cluster.smi):
        if cluster.workers.get(host) == 0:
            own[host] = _no_worker(host)
            continue
        if unused(cluster, host):
            if host in cluster.counted and on_cores(cluster, host):
                counts[host] = 0
            continue
        if isinstance(smi, Verdict):
            if host in cluster.gpus or host in cluster.counted:
                own[host] = unknown("gpu.count", host, smi.message)
        elif (there := count(cluster, host, smi)) is None:
            own[host] = _not_counted(cluster, host)
        else:
            verdict = _asked(cluster, host, smi, there)
            if verdict:
                own[host] = verdict
            if host in cluster.counted and not (verdict and verdict.status == "fail"):
                counts[host] = len(used(cluster, host, smi)) if smi.gpus else there
    if len(set(counts.values())) > 1:
        verdict = _uneven(counts, {h for h in counts if on_cores(cluster, h)})
        if verdict.host:
            own[verdict.host] = verdict
        else:
            yield verdict
    yield from own.values()


def _not_counted(cluster: ClusterFacts, host: str) -> Verdict:
    if not for_amd(cluster, host):
        return unknown("gpu.count", host, "nvidia-smi did not tell")
    return Verdict(
        id="gpu.count",
        status="unknown",
        host=host,
        message="torch there is for AMD's GPUs, and how many there are is not known",
        hint="say `nproc_per_node:` there, with a number",
    )


def _no_worker(host: str) -> Verdict:
    return Verdict(
        id="gpu.count",
        status="fail",
        host=host,
        message="has no GPU that workers may see, and `nproc_per_node: gpu` asks for one on each",
        hint=f"say `nproc_per_node: 1` there, or leave it out: --exclude {host}",
    )


def _asked(cluster: ClusterFacts, host: str, smi: Smi, there: int) -> Verdict | None:
    asked = cluster.gpus.get(host)
    have = (
        "no GPU" if there == 0 else "1 GPU, number 0" if there == 1
        else f"{there} GPUs, 0 to {there - 1}"
    )  # fmt: skip
    if asked is not None:
        known = [gpu.index for gpu in smi.gpus] or list(range(there))
        absent = [str(index) for index in asked if index not in known]
        evidence = {"installed": there, "asked": list(asked)}
        if absent:
            return Verdict(
                id="gpu.count",
                status="fail",
                host=host,
                message=f"has {have}, but is asked for GPU {', '.join(absent)}",
                evidence=evidence,
                hint=f"{'rocm-smi' if for_amd(cluster, host) else 'nvidia-smi -L'}, there, lists "
                "what can stand in `gpus:` and --include",
            )
        return _too_few(cluster, host, smi, there) or Verdict(
            id="gpu.count", status="pass", host=host, message=have, evidence=evidence
        )
    if not smi.gpus:
        return _too_few(cluster, host, smi, there)
    absent_word = chosen(cluster, host, smi)[1]
    if absent_word is not None:
        visible = cluster.visible.get(host, smi.visible)
        return Verdict(
            id="gpu.count",
            status="fail",
            host=host,
            message=f"has {have}, but CUDA_VISIBLE_DEVICES={visible} asks for {absent_word}",
            evidence={"installed": there, "visible": visible},
            hint=f"say `gpus: {list(range(there))}` for it; the variable is set in "
            + ("the inventory, or by --env" if host in cluster.visible else "its startup files"),
        )
    return _too_few(cluster, host, smi, there) or Verdict(
        id="gpu.count", status="pass", host=host, message=have, evidence={"installed": there}
    )


def _too_few(cluster: ClusterFacts, host: str, smi: Smi, there: int) -> Verdict | None:
    """Say that more workers are to run, by their number, than there are GPUs for them."""
    gpus = used(cluster, host, smi)
    usable = len(gpus) if smi.gpus else there
    workers = cluster.workers.get(host)
    said = host not in cluster.counted and workers is not None
    # Those in slices are another check's.
    if not said or not workers or not workers > usable > 0 or any(gpu.mig for gpu in gpus):
        return None
    return Verdict(
        id="gpu.count",
        status="fail",
        host=host,
        message=f"{workers} workers are to run, but there "
        + ("is 1 GPU" if usable == 1 else f"are {usable} GPUs")
        + " for them",
        evidence={"installed": there, "usable": usable, "workers": workers},
        hint=f"say `nproc_per_node: {usable}` there; where they share GPUs on purpose: "
        "`checks: {gpu.count: warn}`",
    )


def _uneven(counts: dict[str, int], on_cores: Collection[str]) -> Verdict:
    words = {n: f"{n or 'no'} GPU{'s' * (n > 1)}" for n in counts.values()}
    own = dict.fromkeys(on_cores, "a CPU build of torch")
    groups = alike({host: own.get(host, words[count]) for host, count in counts.items()})
    without = [host for host, count in counts.items() if not count]
    return Verdict(
        id="gpu.count",
        # One that computes on its cores meets the others in no collective of NCCL's.
        status="fail" if without else "warn",
        scope="cluster",
        host=odd_one(groups),
        message=f"{differing(groups, str)}, and there is to be one worker for each",
        evidence={"gpus": counts},
        hint=f"leave {names(without)} out, or have the torch of the others there"
        if on_cores
        else f"leave {names(without)} out, or say `nproc_per_node:` there"
        if without
        else "nvidia-smi -L, there, lists them; if it is meant so, say `nproc_per_node:` on each",
    )


CHECKS = (
    Check(
        id="gpu.count",
        about="each host has the GPUs that `gpus:` asks for, one for each worker, and all have as "
        "many",
        without="`CUDA error: invalid device ordinal`, once all are there",
        how="what nvidia-smi lists, against the inventory and among the hosts",
        judge=_count,
        tier="gpu",
    ),
)
