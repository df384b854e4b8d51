"""Which GPUs of a host a run would use, for the checks that look at those alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import each
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.facts import ClusterFacts, Smi
    from orchestrator.facts.smi import Gpu

SMI = "gpu.smi"


def with_gpus(cluster: ClusterFacts, check: str) -> Iterator[tuple[str, Smi | Verdict]]:
    """Yield every host where GPUs would be used, with what nvidia-smi told, or as unknown."""
    for host, smi in each(cluster, check, cluster.smi):
        if unused(cluster, host):
            continue
        if isinstance(smi, Verdict):
            yield host, unknown(check, host, smi.message)
        elif smi.answers:
            if used(cluster, host, smi):
                yield host, smi
        elif smi.count != 0:
            yield host, unknown(check, host, "nvidia-smi did not tell")


def unknown(check: str, host: str, why: str) -> Verdict:
    return Verdict(
        id=check,
        status="unknown",
        host=host,
        message=why,
        caused_by=None if check == SMI else SMI,
    )


def smi_of(cluster: ClusterFacts, host: str) -> Smi | None:
    """Return what nvidia-smi said there, as far as it is known."""
    smi = cluster.smi.get(host)
    return None if smi is None or isinstance(smi, str) else smi


def unwanted(cluster: ClusterFacts, host: str) -> bool:
    """Whether the inventory lets no worker see any GPU there."""
    return host not in cluster.gpus and cluster.visible.get(host) in ("", "-1")


def on_cores(cluster: ClusterFacts, host: str) -> bool:
    """Whether torch there is a CPU build: its workers see no GPU, whatever state one is in."""
    facts = cluster.facts.get(host)
    return facts is not None and not isinstance(facts, str) and facts.interpreter.cpu_build


def for_amd(cluster: ClusterFacts, host: str) -> bool:
    """Whether torch there is built for AMD's GPUs, of which nvidia-smi knows nothing."""
    facts = cluster.facts.get(host)
    return facts is not None and not isinstance(facts, str) and facts.interpreter.for_amd


def count(cluster: ClusterFacts, host: str, smi: Smi) -> int | None:
    """How many GPUs there are that torch could use; None: nobody knows."""
    return smi.amd if for_amd(cluster, host) else smi.count


def unused(cluster: ClusterFacts, host: str) -> bool:
    return unwanted(cluster, host) or on_cores(cluster, host)


def used(cluster: ClusterFacts, host: str, smi: Smi) -> tuple[Gpu, ...]:
    return chosen(cluster, host, smi)[0]


def chosen(cluster: ClusterFacts, host: str, smi: Smi) -> tuple[tuple[Gpu, ...], str | None]:
    """Return the GPUs that workers will see, and the first that is asked for but is not there."""
    asked = cluster.gpus.get(host)
    if asked is not None:
        visible: str | None = ",".join(map(str, asked))
    else:
        visible = cluster.visible.get(host, smi.visible)
    if visible is None:
        return smi.gpus, None
    found: list[Gpu] = []
    for word in (word.strip() for word in visible.split(",")):
        if word in ("", "-1"):
            break
        fit = [gpu for gpu in smi.gpus if fits(gpu, word)]
        if not fit:
            # CUDA looks no further either.
            return tuple(found), word
        found += [gpu for gpu in fit if gpu not in found]
    return tuple(found), None


def fits(gpu: Gpu, word: str) -> bool:
    """Whether a word of CUDA_VISIBLE_DEVICES means this GPU, or may mean a part of it."""
    if word.isdecimal():
        return gpu.index == int(word)
    if word.startswith("MIG-"):
        return gpu.mig
    return bool(gpu.uuid) and word.startswith("GPU-") and str(gpu.uuid).startswith(word)


def number(gpu: Gpu) -> str:
    """What to call it: its number there, else its place."""
    return f"GPU {gpu.index}" if gpu.index is not None else f"GPU {gpu.uuid or gpu.bus or '?'}"


def numbers(gpus: Sequence[Gpu]) -> str:
    """Name several: GPU 3; GPUs 0, 1 and 5."""
    names = [str(gpu.index) if gpu.index is not None else str(gpu.uuid or gpu.bus) for gpu in gpus]
    return f"GPU {names[0]}" if len(names) == 1 else f"GPUs {', '.join(names[:-1])} and {names[-1]}"
