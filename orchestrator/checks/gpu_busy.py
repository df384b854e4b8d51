"""Is anyone on the GPUs that a run would use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.checks.check import Check
from orchestrator.checks.gpus import number, numbers, used, with_gpus
from orchestrator.events import Verdict
from orchestrator.facts.strays import lasting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.facts import ClusterFacts
    from orchestrator.facts.smi import Gpu, Holder

# MiB. No CUDA context is as small as the first: compositors of a desktop are listed as well.
NOTHING, MUCH = 64, 1024
# Of all that a GPU has: a tenth is much, whatever it is.
SHARE = 10
# Their memory is the machine's too: what is in use there may be anybody's, the page cache's even.
COHERENT = ("GH200", "GB200", "GB300", "GB10")
SHOWN = 3


def _busy(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, smi in with_gpus(cluster, "gpu.busy"):
        if isinstance(smi, Verdict):
            yield smi
            continue
        gpus = used(cluster, host, smi)
        if smi.holders is None:
            yield Verdict(
                id="gpu.busy",
                status="unknown",
                host=host,
                message="nvidia-smi did not tell which processes are on the GPUs",
            )
            continue
        taken = [(gpu, on_it) for gpu in gpus if (on_it := _on(gpu, smi.holders))]
        on_any = [gpu for gpu, _ in taken]
        hidden = [
            gpu for gpu in gpus if gpu not in on_any and _unexplained(gpu, smi.holders) >= MUCH
        ]
        if taken:
            yield _taken(host, gpus, taken, hidden)
        elif hidden:
            yield _hidden(host, hidden)
        else:
            free = "free" if len(gpus) == 1 else f"all {len(gpus)} free"
            yield Verdict(id="gpu.busy", status="pass", host=host, message=free)


def _on(gpu: Gpu, holders: Sequence[Holder]) -> list[Holder]:
    return [
        holder
        for holder in holders
        if holder.uuid == gpu.uuid
        and not holder.serves
        and (holder.memory is None or holder.memory >= NOTHING)
    ]


def _taken(
    host: str,
    gpus: Sequence[Gpu],
    taken: Sequence[tuple[Gpu, list[Holder]]],
    hidden: Sequence[Gpu],
) -> Verdict:
    # A GPU in slices is shared on purpose; what is small, or of unknown size, may leave room.
    much = any(
        sum(holder.memory or 0 for holder in on_it) >= max(MUCH, (gpu.memory_total or 0) // SHARE)
        and not gpu.mig
        for gpu, on_it in taken
    )
    each = [(gpu, holder) for gpu, on_it in taken for holder in on_it]
    # Whoever has most of the memory says most.
    each.sort(key=lambda pair: -(pair[1].memory or 0))
    parts = [f"{number(gpu)} is held by {_who(holder)}" for gpu, holder in each[:SHOWN]]
    more = f"; and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
    more += f"; {_in_use(hidden)}" if hidden else ""
    busy = {gpu.index for gpu in (*hidden, *(gpu for gpu, _ in taken))}
    free = [gpu.index for gpu in gpus if gpu.index not in busy and gpu.index is not None]
    return Verdict(
        id="gpu.busy",
        status="fail" if much else "warn",
        host=host,
        message="; ".join(parts) + more,
        evidence={"holders": [_evidence(gpu, holder) for gpu, holder in each]},
        hint=_hint([holder for _, holder in each], free),
    )


def _who(holder: Holder) -> str:
    memory = f"{holder.memory} MiB" if holder.memory is not None else "memory not known"
    if not holder.seen:
        name = f" ({holder.name})" if holder.name else ""
        return f"pid {holder.pid}{name}, not to be seen from here: {memory}"
    since = f", for {lasting(holder.seconds)}" if holder.seconds is not None else ""
    run = f" of run {holder.run}" if holder.run and holder.ours else ""
    return f"pid {holder.pid}{run} ({holder.user}: {holder.command}){since}, {memory}"


def _hint(holders: Sequence[Holder], free: Sequence[int]) -> str:
    steps = []
    for run in sorted({h.run for h in holders if h.ours and h.run}):
        steps.append(f"ddp-orch down {run} -i INVENTORY")
    if any(h.ours and not h.run for h in holders):
        steps.append("ddp-orch down --strays INVENTORY")
    others = sorted({h.user for h in holders if h.user and not h.ours})
    if others:
        steps.append(f"ask {' and '.join(others)}")
    if any(not h.seen for h in holders):
        steps.append("another container or a batch system may have it: docker ps, squeue -w HOST")
    if free:
        steps.append(f"or use the others: `gpus: {list(free)}`")
    return "; ".join(steps)


def _evidence(gpu: Gpu, holder: Holder) -> dict[str, Any]:
    return {
        "gpu": gpu.index,
        "uuid": gpu.uuid,
        "pid": holder.pid,
        "user": holder.user,
        "command": holder.command or holder.name,
        "seconds": holder.seconds,
        "mib": holder.memory,
        "ours": holder.ours,
        "run": holder.run,
    }


def _unexplained(gpu: Gpu, holders: Sequence[Holder]) -> int:
    """Return how many MiB are in use that no process says it has."""
    on_it = [holder for holder in holders if holder.uuid == gpu.uuid]
    shared = gpu.display or gpu.mig or any(name in (gpu.name or "") for name in COHERENT)
    if gpu.memory_used is None or shared:
        return 0
    return gpu.memory_used - sum(holder.memory or 0 for holder in on_it)


def _in_use(gpus: Sequence[Gpu]) -> str:
    most = max(gpu.memory_used or 0 for gpu in gpus)
    has = "has" if len(gpus) == 1 else "have at most"
    return (
        f"{numbers(gpus)} {has} {most} MiB in use, and by no process that can be seen: another "
        "container's, or of one that died badly"
    )


def _hidden(host: str, gpus: Sequence[Gpu]) -> Verdict:
    return Verdict(
        id="gpu.busy",
        status="warn",
        host=host,
        message=_in_use(gpus),
        evidence={"mib": {str(gpu.index): gpu.memory_used for gpu in gpus}},
        hint="there: sudo fuser -v /dev/nvidia* shows who has them open",
    )


CHECKS = (
    Check(
        id="gpu.busy",
        about="nobody is on the GPUs that the run would use",
        without="`CUDA out of memory` at start, or `devices are busy or unavailable`",
        how="nvidia-smi's compute processes and memory in use; /proc tells who they are",
        judge=_busy,
        tier="gpu",
    ),
)
