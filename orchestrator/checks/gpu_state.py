"""Is each GPU that a run would use in a state to be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from orchestrator.checks.check import Check, each
from orchestrator.checks.gpus import (
    chosen,
    number,
    numbers,
    unknown,
    unused,
    used,
    with_gpus,
)
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Smi
    from orchestrator.facts.smi import Gpu

XID = "sudo dmesg | grep -i xid"


def _lost(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in each(cluster, "gpu.lost", cluster.smi):
        if unused(cluster, host):
            continue
        if isinstance(smi, Verdict):
            yield unknown("gpu.lost", host, smi.message)
        elif smi.answers:
            lost = lost_of(smi)
            if lost:
                yield _gone(cluster, host, smi, lost)
            elif smi.gpus:
                count = len(smi.gpus)
                message = "it answers" if count == 1 else f"all {count} answer"
                yield Verdict(id="gpu.lost", status="pass", host=host, message=message)
        elif smi.count != 0:
            yield unknown("gpu.lost", host, "nvidia-smi did not tell")


def lost_of(smi: Smi) -> dict[str, str]:
    """Return by name what is wrong with each that is of no use, or is not in the list."""
    lost = {f"GPU at {bus}": why for bus, why in smi.unreachable}
    lost |= {number(gpu): gpu.problem for gpu in smi.gpus if gpu.problem}
    known = {gpu.bus for gpu in smi.gpus} | {bus for bus, _ in smi.unreachable}
    # Where nvidia-smi has no word for the place, nothing can be compared.
    if None not in known:
        lost |= {
            f"GPU at {gpu.bus}": "the driver knows it, but nvidia-smi does not"
            for gpu in smi.installed
            if gpu.usable and gpu.bus not in known
        }
    return lost


def _gone(cluster: ClusterFacts, host: str, smi: Smi, lost: dict[str, str]) -> Verdict:
    some = host in cluster.gpus or cluster.visible.get(host, smi.visible) is not None
    mine, absent = chosen(cluster, host, smi)
    spared = some and bool(mine) and absent is None and not any(gpu.problem for gpu in mine)
    said = "; ".join(f"{name}: {why}" for name, why in lost.items())
    return Verdict(
        id="gpu.lost",
        # It is none of ours; but the numbers of those after it may have moved.
        status="warn" if spared else "fail",
        host=host,
        message=said,
        evidence={"lost": lost},
        hint=f"there: {XID} says why; then reboot it, or use others: `gpus:` with the numbers of "
        "nvidia-smi -L",
    )


def _ecc(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in with_gpus(cluster, "gpu.ecc"):
        if isinstance(smi, Verdict):
            yield smi
            continue
        gpus = used(cluster, host, smi)
        said = []
        for gpu in gpus:
            name = number(gpu)
            if gpu.ecc:
                errors = f"{gpu.ecc} uncorrected memory error{'s' * (gpu.ecc != 1)}"
                said.append(f"{name} has had {errors} since its driver was loaded")
            if gpu.remap_failed:
                said.append(f"{name} has bad memory that could not be put out of use")
            elif gpu.pending:
                said.append(f"{name} has bad memory that a reset would put out of use")
            if gpu.recovery:
                said.append(f"{name} asks for: {gpu.recovery}")
        corrupted = [gpu for gpu in gpus if gpu.bus in smi.corrupted or None in smi.corrupted]
        if corrupted:
            names = numbers(corrupted) if None not in smi.corrupted else "a GPU"
            said.append(f"the infoROM of {names}, which keeps count of bad memory, is corrupted")
        if said:
            ill = [g for g in gpus if g.ecc or g.remap_failed or g.pending or g.recovery]
            yield Verdict(
                id="gpu.ecc",
                status="warn",
                host=host,
                message="; ".join(said),
                evidence={
                    "gpus": [gpu.index for gpu in ill],
                    "infoROM": [gpu.index for gpu in corrupted],
                },
                hint="; ".join(_what_helps(ill, corrupted)),
            )
        elif any(gpu.ecc is not None for gpu in gpus):
            yield _pass("gpu.ecc", host, "no memory errors")
        else:
            yield _pass("gpu.ecc", host, "nothing to tell: its memory has no ECC, or it is off")


def _what_helps(ill: list[Gpu], corrupted: list[Gpu]) -> Iterator[str]:
    if ill:
        yield f"with nothing on it: sudo nvidia-smi --gpu-reset -i {_indices(ill)}"
    if any(gpu.remap_failed for gpu in ill):
        yield "memory that cannot be put out of use: have it replaced"
    if corrupted:
        shown = f"nvidia-smi -q -i {_indices(corrupted)} | grep -i -A5 inforom"
        yield f"there: {shown}; only its vendor can restore an infoROM"


def _exclusive(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in with_gpus(cluster, "gpu.exclusive"):
        if isinstance(smi, Verdict):
            yield smi
            continue
        gpus = used(cluster, host, smi)
        prohibited = [gpu for gpu in gpus if gpu.compute_mode == "Prohibited"]
        exclusive = [gpu for gpu in gpus if (gpu.compute_mode or "").startswith("Exclusive")]
        # As NVIDIA recommends it: the one process is a server's, and that has many clients.
        shared = {holder.uuid for holder in smi.holders or () if holder.serves}
        alone = [gpu for gpu in exclusive if gpu.uuid not in shared]
        workers = cluster.workers.get(host)
        evidence: dict[str, Any] = {"workers": workers, "gpus": len(gpus)}
        if prohibited:
            yield Verdict(
                id="gpu.exclusive",
                status="fail",
                host=host,
                message=f"{numbers(prohibited)}: compute mode Prohibited, no worker may use it",
                evidence=evidence,
                hint=f"there: sudo nvidia-smi -c DEFAULT -i {_indices(prohibited)}",
            )
        elif alone:
            held = {holder.uuid for holder in smi.holders or ()}
            many = workers is not None and workers > len(gpus)
            taken = [gpu for gpu in alone if gpu.uuid in held]
            status: Literal["fail", "info"] = "fail" if many or taken else "info"
            why = (
                f"{numbers(taken)} {'is' if len(taken) == 1 else 'are'} held already" if taken
                else f"{workers} workers are to share {len(gpus)}" if many
                else "one process on each"
            )  # fmt: skip
            yield Verdict(
                id="gpu.exclusive",
                status=status,
                host=host,
                message=f"compute mode {alone[0].compute_mode} on {numbers(alone)}: {why}",
                evidence=evidence,
                hint=f"there: sudo nvidia-smi -c DEFAULT -i {_indices(alone)}; or one worker for "
                "each: `nproc_per_node: gpu`"
                if status == "fail"
                else None,
            )
        else:
            yield _pass("gpu.exclusive", host, "shared, by MPS" if exclusive else "shared")


def _indices(gpus: list[Gpu]) -> str:
    return ",".join(str(gpu.index) for gpu in gpus)


def _fabric(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in with_gpus(cluster, "gpu.fabric"):
        if isinstance(smi, Verdict):
            yield smi
            continue
        gpus = used(cluster, host, smi)
        told = [gpu for gpu in gpus if gpu.fabric_state is not None]
        wrong = [
            gpu
            for gpu in told
            if gpu.fabric_state != "Completed" or gpu.fabric_status not in (None, "Success")
        ]
        if wrong:
            first = wrong[0]
            status = f", status {first.fabric_status}" if first.fabric_status else ""
            yield _no_fabric(
                host, smi, f"{numbers(wrong)}: NVLink fabric {first.fabric_state}{status}"
            )
        elif not told and smi.switches and smi.manager is False:
            yield _no_fabric(host, smi, "it has NVSwitches, but no fabric manager runs")
        elif told or (smi.switches and smi.manager):
            yield _pass("gpu.fabric", host, "up")
        elif smi.switches:
            yield Verdict(
                id="gpu.fabric",
                status="unknown",
                host=host,
                message="it has NVSwitches; whether a fabric manager runs is not to be seen",
            )


def _no_fabric(host: str, smi: Smi, message: str) -> Verdict:
    return Verdict(
        id="gpu.fabric",
        status="fail",
        host=host,
        message=message,
        evidence={
            "switches": smi.switches,
            "manager": smi.manager,
            "states": {str(gpu.index): [gpu.fabric_state, gpu.fabric_status] for gpu in smi.gpus},
        },
        hint="there: sudo systemctl restart nvidia-fabricmanager; its version must be the driver's"
        + (f", {smi.driver}" if smi.driver else ""),
    )


def _mig(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in with_gpus(cluster, "gpu.mig"):
        if isinstance(smi, Verdict):
            yield smi
            continue
        sliced = [gpu for gpu in used(cluster, host, smi) if gpu.mig]
        workers = cluster.workers.get(host)
        if not sliced:
            yield _pass("gpu.mig", host, "whole")
            continue
        several = workers is not None and workers > 1
        yield Verdict(
            id="gpu.mig",
            status="fail" if several else "warn",
            host=host,
            message=f"{numbers(sliced)} {'is' if len(sliced) == 1 else 'are'} cut into slices "
            "(MIG): a process sees one slice, and NCCL does not join them"
            + (f"; {workers} workers are planned" if several else ""),
            evidence={"gpus": [gpu.index for gpu in sliced], "workers": workers},
            hint="with nothing on it: sudo nvidia-smi -mig 0 -i "
            + _indices(sliced)
            + ("; or `nproc_per_node: 1`" if several else ""),
        )


def _pass(check: str, host: str, message: str) -> Verdict:
    return Verdict(id=check, status="pass", host=host, message=message)


CHECKS = (
    Check(
        id="gpu.lost",
        about="every GPU that the driver knows answers",
        without="`GPU is lost`, `CUDA error: unknown error`, or fewer workers than GPUs",
        how="nvidia-smi's rows against /proc/driver/nvidia/gpus",
        judge=_lost,
        tier="gpu",
    ),
    Check(
        id="gpu.ecc",
        about="no uncorrected memory errors, and no bad memory that waits for a reset",
        without="`uncorrectable ECC error encountered`, hours into the run",
        how="nvidia-smi's counters since the driver was loaded, and what it warns of",
        judge=_ecc,
        worst="warn",
        tier="gpu",
    ),
    Check(
        id="gpu.exclusive",
        about="the compute mode lets all workers use their GPUs",
        without="`all CUDA-capable devices are busy or unavailable`",
        how="the compute mode, against workers and processes on each",
        judge=_exclusive,
        tier="gpu",
    ),
    Check(
        id="gpu.fabric",
        about="GPUs behind NVSwitches have joined their fabric",
        without="`Error 802: system not yet initialized`",
        how="nvidia-smi's fabric state; else whether a fabric manager runs",
        judge=_fabric,
        tier="gpu",
    ),
    Check(
        id="gpu.mig",
        about="the GPUs are whole, not cut into slices",
        without="`invalid device ordinal`, `Duplicate GPU detected`, or a fraction of the memory",
        how="nvidia-smi's MIG mode",
        judge=_mig,
        tier="gpu",
    ),
)
