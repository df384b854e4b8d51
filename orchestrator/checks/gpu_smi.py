"""Does nvidia-smi answer, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, each
from orchestrator.checks.gpus import SMI, on_cores, unknown, unwanted
from orchestrator.events import Verdict
from orchestrator.facts.smi import HUNG

if TYPE_CHECKING:
    from collections.abc import Iterator

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


CHECKS = (
    Check(
        id=SMI,
        about="nvidia-smi answers where there are GPUs",
        without="`CUDA driver initialization failed`, or a start that hangs for ever",
        how="nvidia-smi is asked, with a deadline of 40 s",
        judge=_smi,
        tier="gpu",
    ),
)
