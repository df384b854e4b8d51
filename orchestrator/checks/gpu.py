"""Does each host have the GPUs that the workers need, and may they use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks import gpu_busy, gpu_state
from orchestrator.checks.check import Check, each
from orchestrator.checks.drift import alike, differing, names, odd_one
from orchestrator.checks.gpus import (
    SMI,
    chosen,
    count,
    for_amd,
    on_cores,
    smi_of,
    unknown,
    unused,
    unwanted,
    used,
)
from orchestrator.events import Verdict
from orchestrator.facts.smi import HUNG

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from orchestrator.facts import ClusterFacts, Smi

# What nvidia-smi says when it fails, and what to do about it; the first that fits.
HINTS = {
    "version mismatch": "its driver was updated while the old one was in use: reboot it; or, with "
    "nothing on its GPUs: sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && "
    "sudo modprobe nvidia",
    "communicate with the nvidia driver": "there: sudo modprobe nvidia; if that fails, `dkms "
    "status` says whether the driver was built for its kernel",
    "driver not loaded": "there: sudo modprobe nvidia",
    "insufficient permissions": "there: ls -l /dev/nvidia* shows which group may use them, and "
    "sudo usermod -aG THAT_GROUP USER lets one in",
    "nvml: unknown error": "if it is a container: start it anew, it has lost its devices; else "
    "there: sudo dmesg | grep -i nvrm",
    "": "run nvidia-smi there; sudo dmesg | grep -i -e nvrm -e xid may say more",
}
# Seconds. A driver that has its GPUs awake answers in less than one.
SLOW = 5.0
PERSIST = (
    "there: sudo nvidia-smi -pm 1, or for good: sudo systemctl enable --now nvidia-persistenced"
)


def _smi(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in each(cluster, SMI, cluster.smi):
        if unwanted(cluster, host):
            continue
        if on_cores(cluster, host):
            if not isinstance(smi, Verdict) and smi.count != 0:
                yield _not_looked_at(host)
        elif isinstance(smi, Verdict):
            yield unknown(SMI, host, smi.message)
        elif smi.answers:
            if smi.gpus or smi.unreachable:
                yield _answered(host, smi)
        elif smi.count == 0:
            if smi.ended != "absent":
                said = f"nvidia-smi is there, but no NVIDIA GPU: {smi.problem}"
                yield Verdict(id=SMI, status="info", host=host, message=said)
        elif smi.ended == "absent":
            there = "1 GPU" if smi.count == 1 else f"{smi.count} GPUs"
            yield Verdict(
                id=SMI,
                status="info",
                host=host,
                message=f"the driver knows of {there}, but there is no nvidia-smi to ask more",
            )
        else:
            yield _failed(host, smi)


def _not_looked_at(host: str) -> Verdict:
    return Verdict(
        id=SMI,
        status="skip",
        host=host,
        message="its GPUs are not looked at: torch there is a CPU build, and uses none",
    )


def _answered(host: str, smi: Smi) -> Verdict:
    slow = smi.seconds is not None and smi.seconds >= SLOW
    asleep = any(gpu.persistence is False for gpu in smi.gpus)
    return Verdict(
        id=SMI,
        status="warn" if slow and asleep else "pass",
        host=host,
        message="nvidia-smi is slow to answer, as persistence mode is off: the driver wakes all "
        "GPUs anew for whoever comes first, workers as well"
        if slow and asleep
        else _summary(smi),
        evidence={
            "gpus": [[gpu.index, gpu.uuid, gpu.name] for gpu in smi.gpus],
            "driver": smi.driver,
            "seconds": smi.seconds,
            "warnings": list(smi.warnings),
        },
        hint=PERSIST if slow and asleep else None,
    )


def _failed(host: str, smi: Smi) -> Verdict:
    evidence = {
        "ended": smi.ended,
        "code": smi.code,
        "driver": smi.driver,
        "seconds": smi.seconds,
    }
    if smi.slow:
        return Verdict(
            id=SMI,
            status="fail",
            host=host,
            message=f"nvidia-smi is slow: it was at work for {smi.seconds or 0:.0f} s and had not "
            "answered; persistence mode may be off, and then the driver wakes all GPUs first",
            evidence=evidence,
            hint=f"{PERSIST}; if it is as slow then: sudo dmesg | grep -i xid",
        )
    if smi.ended in HUNG:
        stuck = ", and cannot be killed" if smi.ended == "stuck" else ""
        return Verdict(
            id=SMI,
            status="fail",
            host=host,
            message=f"nvidia-smi does not answer{stuck}: the GPU driver hangs",
            evidence=evidence,
            hint="there: sudo dmesg | grep -i xid; a driver that hangs takes a reboot",
        )
    said = (smi.problem or f"exit code {smi.code}").rstrip(".")
    hint = next(hint for words, hint in HINTS.items() if words in said.lower())
    return Verdict(
        id=SMI,
        status="fail",
        host=host,
        message=said if "nvidia-smi" in said.lower() else f"nvidia-smi fails: {said}",
        evidence=evidence,
        hint=hint,
    )


def _summary(smi: Smi) -> str:
    models = {gpu.name for gpu in smi.gpus if gpu.name}
    what = f" {models.pop()}" if len(models) == 1 else " GPUs" if len(smi.gpus) != 1 else " GPU"
    version = next((gpu.driver for gpu in smi.gpus if gpu.driver), smi.driver)
    return f"{len(smi.gpus)}{what}" + (f", driver {version}" if version else "")


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
    Check(
        id=SMI,
        about="nvidia-smi answers where there are GPUs",
        without="`CUDA driver initialization failed`, or a start that hangs for ever",
        how="nvidia-smi is asked, with a deadline of 40 s",
        judge=_smi,
        tier="gpu",
    ),
    Check(
        id="gpu.count",
        about="each host has the GPUs that `gpus:` asks for, one for each worker, and all have as "
        "many",
        without="`CUDA error: invalid device ordinal`, once all are there",
        how="what nvidia-smi lists, against the inventory and among the hosts",
        judge=_count,
        tier="gpu",
    ),
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
