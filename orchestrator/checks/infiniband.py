"""Can NCCL use the InfiniBand, or RoCE, ports of a host: as many as on the others."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from orchestrator.events import Verdict
from orchestrator.facts import Interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.facts import ClusterFacts, InfinibandPort


def infiniband(cluster: ClusterFacts) -> Iterator[Verdict]:
    """A port that is down everywhere may never have had a cable: hosts are compared."""
    told = {h: got for h, got in cluster.interfaces.items() if isinstance(got, Interfaces)}
    active = {host: sum(map(_is_active, got.infiniband)) for host, got in told.items()}
    for host, got in told.items():
        fewer = _fewer(active[host], active)
        if got.infiniband or fewer:
            yield _links(host, got, fewer)


def _fewer(own: int, active: Mapping[str, int]) -> str | None:
    """Say what more hosts have than one; None: it has no less."""
    counted = Counter(active.values())
    # Of equals the larger number; but then those without any port may be of another kind.
    number, hosts = max(counted.items(), key=lambda item: (item[1], item[0]))
    if own >= number or (own == 0 and hosts == counted[0]):
        return None
    return f"{hosts} of {len(active)} hosts {'has' if hosts == 1 else 'have'} {number}"


def _links(host: str, told: Interfaces, fewer: str | None) -> Verdict:
    ports = told.infiniband
    down = [p for p in ports if not _is_active(p)]
    listed = ", ".join(f"{p.device} port {p.port} is {p.state or 'silent'}" for p in down)
    up = len(ports) - len(down)
    count = {0: "no port is active", 1: "1 port is active"}.get(up, f"{up} ports are active")
    fabric = [p for p in down if p.layer != "Ethernet"]
    waiting = [p for p in fabric if p.state not in ("DOWN", "")]
    look = "look for the subnet manager (sminfo)" if waiting else "look for the cable"
    hint = f"there: ibstat {down[0].device}; {look}" if down else None
    if up and told.verbs == ():
        message = f"{count}, and NCCL cannot use them: no /dev/infiniband/uverbs* may be opened"
        hint = (
            "there: ls -l /dev/infiniband; rdma-core lets everybody open them; a container needs "
            "--device=/dev/infiniband"
        )
    elif fabric and (waiting or not up):
        message = f"{listed}: NCCL falls back to sockets, which are slow"
    elif fewer:
        message = f"{count}, where {fewer}: {listed or 'it has no more'}"
        hint = hint or "there: ls /sys/class/infiniband; lspci | grep -i -e mellanox -e infiniband"
    else:
        return Verdict(
            id="ib.link",
            status="info" if down else "pass",
            host=host,
            message=f"{up} active; {listed}" if down else count,
            evidence=_evidence(ports) if down else {},
        )
    return Verdict(
        id="ib.link", status="warn", host=host, message=message,
        evidence=_evidence(ports), hint=hint,
    )  # fmt: skip


def _evidence(ports: Sequence[InfinibandPort]) -> dict[str, object]:
    return {"ports": [[p.device, p.port, p.state, p.layer] for p in ports]}


def _is_active(port: InfinibandPort) -> bool:
    return port.state == "ACTIVE"
