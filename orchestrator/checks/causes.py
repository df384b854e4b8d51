"""Which finding explains which: a host that is down is one finding, not one per check and pair."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.events import Verdict

Related: TypeAlias = "Callable[[Verdict, Verdict], bool]"


# ---- how the hosts of a consequence and of its cause relate ----


def same_host(verdict: Verdict, cause: Verdict) -> bool:
    return verdict.host is not None and verdict.host == cause.host


def one_of_its_hosts(verdict: Verdict, cause: Verdict) -> bool:
    return cause.host in hosts_of(verdict)


def not_connected(verdict: Verdict, cause: Verdict) -> bool:
    """Of one of its hosts there is no connection; one that is noisy (a warning) is there."""
    return cause.status == "fail" and one_of_its_hosts(verdict, cause)


def one_of_its_peers(verdict: Verdict, cause: Verdict) -> bool:
    """The cause is about the host that could not be reached, or was not tried."""
    pairs = pairs_of(verdict)
    return any(peer == cause.host for _, peer in pairs) if pairs else same_host(verdict, cause)


def same_pairs(verdict: Verdict, cause: Verdict) -> bool:
    """One of the pairs fails for the other reason already."""
    found = pairs_of(verdict)
    if cause.scope == "cluster":
        return bool(found)
    return bool(found & pairs_of(cause)) or any(
        cause.evidence.get("of") in ways and host == cause.host
        for source, peer in found
        for ways, host in ((("out", "alone"), source), (("in", "alone"), peer))
    )


def its_pairs(verdict: Verdict, cause: Verdict) -> bool:
    """The cause is about pairs of which the host is one; those of all are not all written down."""
    return cause.scope == "cluster" or verdict.host in hosts_of(cause)


def larger_mtu(verdict: Verdict, cause: Verdict) -> bool:
    """One of its hosts sends larger packets than another host of the cluster."""
    mtus: dict[str, int] = cause.evidence.get("mtus", {})
    least = min(mtus.values(), default=0)
    return any(mtus.get(host, least) > least for host in hosts_of(verdict))


def its_process(verdict: Verdict, cause: Verdict) -> bool:
    """The process that holds the port is among those that the cause names."""
    return same_host(verdict, cause) and verdict.evidence.get("pid") in _pids(cause)


def its_processes(verdict: Verdict, cause: Verdict) -> bool:
    """Whoever is on the GPUs is among the processes that the cause names, or of its runs."""
    holders = verdict.evidence.get("holders", ())
    pids = _pids(cause)
    runs = {run["run"] for run in cause.evidence.get("runs", ())}
    known = [h["pid"] in pids or (h["ours"] and h["run"] in runs) for h in holders]
    return same_host(verdict, cause) and bool(known) and all(known)


def _pids(cause: Verdict) -> set[int]:
    return {stray["pid"] for stray in cause.evidence.get("strays", ())}


def anywhere(verdict: Verdict, cause: Verdict) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    consequence: str
    """Ids may have a * in them."""

    cause: str
    related: Related
    statuses: tuple[str, ...] = ("fail", "warn", "unknown")
    """Of the consequence."""


# The first that fits says it; what is nearer to the root stands above.
RULES = (
    # Whoever is not connected was asked nothing.
    Rule("*", "ssh.*", not_connected, ("unknown",)),
    Rule("net.nic", "host.dup", same_host),
    Rule("net.pair", "net.nic", one_of_its_peers),
    Rule("net.pair", "host.nat", one_of_its_peers),
    Rule("net.rdzv", "net.port.rdzv", anywhere, ("unknown",)),
    Rule("net.rdzv", "net.nic", one_of_its_peers),
    Rule("net.rdzv", "net.pair", same_pairs),
    Rule("net.rdzv", "host.nat", one_of_its_peers),
    Rule("net.nic", "host.nat", same_host, ("unknown",)),
    Rule("net.nic", "net.pair", its_pairs, ("unknown",)),
    Rule("net.payload", "net.mtu_diff", larger_mtu, ("fail",)),
    Rule("net.payload", "net.pair", its_pairs, ("unknown",)),
    Rule("net.payload", "net.nic", same_host, ("unknown",)),
    Rule("net.port.rdzv", "run.leftover", its_process),
    Rule("env.torch", "env.python", same_host),
    Rule("env.torchrun", "env.python", same_host),
    Rule("env.*_drift", "env.python", one_of_its_hosts, ("unknown",)),
    # Too old is too old by itself, whatever the others have.
    Rule("env.torch_drift", "env.torch", one_of_its_hosts),
    Rule("env.workdir", "fs.hang", same_host),
    Rule("env.script", "fs.hang", same_host),
    # What was seen of GPUs stands for itself, also where nvidia-smi was slow to tell it.
    Rule("gpu.*", "gpu.smi", same_host, ("unknown",)),
    Rule("gpu.busy", "run.leftover", its_processes),
)


def linked(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Return the verdicts with `caused_by` filled in where another one is the cause.

    What a judge has named as the cause was perhaps not judged itself: then it explains nothing, and
    who looks at causes alone is not to miss what it would have caused.
    """
    causes = [v for v in verdicts if v.status in ("fail", "warn")]
    found = {v.id for v in verdicts if v.status in ("fail", "warn", "unknown")}
    kept = (v if v.caused_by in found else replace(v, caused_by=None) for v in verdicts)
    return tuple(_linked(verdict, causes) for verdict in kept)


def _linked(verdict: Verdict, causes: Sequence[Verdict]) -> Verdict:
    if verdict.caused_by or verdict.status not in ("fail", "warn", "unknown"):
        return verdict
    for rule in RULES:
        if verdict.status not in rule.statuses or not fnmatchcase(verdict.id, rule.consequence):
            continue
        for cause in causes:
            other = cause.id != verdict.id and fnmatchcase(cause.id, rule.cause)
            if other and rule.related(verdict, cause):
                return replace(verdict, caused_by=cause.id)
    return verdict


def hosts_of(verdict: Verdict) -> set[str]:
    found = {host for host in (verdict.host, verdict.peer) if host is not None}
    return found.union(*pairs_of(verdict))


def pairs_of(verdict: Verdict) -> set[tuple[str, str]]:
    """Return the ordered pairs that a verdict is about; where many, those in its evidence."""
    told = verdict.evidence.get("pairs", ())
    found = {(each["host"], each["peer"]) for each in told}
    if not found and verdict.host is not None and verdict.peer is not None:
        found.add((verdict.host, verdict.peer))
    return found
