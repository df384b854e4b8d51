"""Can each host keep a run's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks import room
from orchestrator.checks.check import Check, each, user_of
from orchestrator.checks.room import FULL, TOO_FEW_INODES, at_hand, lacks_inodes, lacks_space
from orchestrator.events import Verdict
from orchestrator.facts import Conditions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Disk

NO_SPACE = "No space left on device"
# Who keeps it busy.
BUSY = "sudo iotop -oPab -n 3 shows who writes"
MODE = ("EACCES", "EPERM")


def _write(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, state in cluster.state.items():
        if isinstance(state, str):
            yield Verdict(id="fs.write", status="unknown", host=host, message=state)
            continue
        user = user_of(cluster, host) or "you"
        elsewhere = f"a folder elsewhere on that host, such as /tmp/{user}-ddp-orch"
        disk = _disk(cluster, host)
        if state.late and disk and not disk.dead:
            yield Verdict(
                id="fs.write",
                status="warn",
                host=host,
                message=f"{state.asked}, where the runs' folders go, is on a disk that takes "
                "what is written too slowly",
                hint=f"there: {BUSY}; or set `state_dir:` to {elsewhere}",
            )
            continue
        if state.problem:
            yield Verdict(
                id="fs.write",
                status="fail",
                host=host,
                message=f"{state.asked}, where the runs' folders go, cannot be used: "
                f"{state.problem}",
                hint=f"mend that, or set `state_dir:` to {elsewhere}",
                caused_by=_cause(disk, state.problem),
            )
            continue
        little = lacks_space(state)
        left = f"{state.free >> 20} MiB left" if state.total else "room of unknown size"
        yield Verdict(
            id="fs.write",
            status="warn" if little else "pass",
            host=host,
            message=f"{state.asked}, where the runs' folders go, has {left}",
            evidence={"folder": state.asked, "free": state.free},
            hint=f"what finds no room in the logs is lost; `state_dir:` may be {elsewhere}"
            if little
            else None,
        )


def _disk(cluster: ClusterFacts, host: str) -> Disk | None:
    found = cluster.conditions.get(host)
    return found.disks.get("state") if isinstance(found, Conditions) else None


def _cause(disk: Disk | None, problem: str) -> str | None:
    if disk is None:
        return None
    if disk.dead:
        return "fs.hang"
    full = problem == NO_SPACE and lacks_inodes(disk, TOO_FEW_INODES)
    return "fs.inodes" if full else None


def _hang(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "fs.hang", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        dead = [disk for disk in found.disks.values() if disk.dead]
        if dead:
            mount = dead[0].mount
            alone = mount not in ("", "/")
            todo = f"sudo umount -fl {mount}, and mount it anew" if alone else "sudo dmesg | tail"
            yield Verdict(
                id="fs.hang",
                status="fail",
                host=host,
                message="; ".join(_dead(disk) for disk in dead),
                evidence={disk.path: disk.problem for disk in dead},
                hint=f"there: {todo}; or `state_dir:`, `workdir:` elsewhere",
            )
        elif slow := [disk for disk in found.disks.values() if disk.slow]:
            yield Verdict(
                id="fs.hang",
                status="warn",
                host=host,
                message="; ".join(
                    f"{_named(disk)} takes what is written too slowly" for disk in slow
                ),
                evidence={disk.path: disk.type for disk in slow},
                hint=f"there: {BUSY}; or `workdir:`, `env: {{TMPDIR: ...}}` elsewhere",
            )
        else:
            yield Verdict(
                id="fs.hang",
                status="pass",
                host=host,
                message="each folder's file system answers",
                evidence={disk.path: disk.type for disk in found.disks.values()},
            )


def _dead(disk: Disk) -> str:
    what = "does not answer" if not disk.answered else f"is broken ({disk.problem})"
    return f"{_named(disk)} {what}"


def _named(disk: Disk) -> str:
    return f"{disk.path}: {disk.type} of {disk.source}"


def _read_only(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, disks in at_hand(cluster, "fs.ro", ("workdir", "tmp")):
        if isinstance(disks, Verdict):
            yield disks
            continue
        found = cluster.conditions[host]
        work = None if isinstance(found, str) else found.disks.get("workdir")
        # A workdir of somebody else's may well hold nothing but code.
        closed = [disk for disk in disks if disk.there and _may_not(disk)]
        strange = [disk for disk in closed if disk != work or disk.refused not in MODE]
        if closed:
            yield Verdict(
                id="fs.ro",
                status="warn" if strange else "info",
                host=host,
                message="; ".join(f"{disk.path} {_may_not(disk)}" for disk in closed),
                hint="`workdir:` or `env: {TMPDIR: ...}` elsewhere"
                + _opened(closed[0], temporary=closed[0] != work),
            )
        elif disks:
            yield Verdict(id="fs.ro", status="pass", host=host, message="may be written to")


def _may_not(disk: Disk) -> str:
    if disk.read_only or disk.refused == "EROFS":
        return "is on a file system that is mounted read-only"
    if disk.refused in MODE:
        return "may not be written to by this user"
    refused = disk.refused and disk.refused not in FULL
    return f"cannot be written to ({disk.refused})" if refused else ""


def _opened(disk: Disk, *, temporary: bool) -> str:
    """Say what would let the user write there, where a command would."""
    if disk.read_only or disk.refused == "EROFS":
        return f"; or there: sudo mount -o remount,rw {disk.mount}"
    everyones = temporary and disk.refused in MODE
    return f"; or there: sudo chmod 1777 {disk.path}" if everyones else ""


def _noexec(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, disks in at_hand(cluster, "fs.noexec", ("state", "tmp")):
        if isinstance(disks, Verdict):
            yield disks
            continue
        closed = [disk for disk in disks if disk.noexec]
        if closed:
            yield Verdict(
                id="fs.noexec",
                status="info",
                host=host,
                message="nothing may be executed, nor loaded, from "
                + " and ".join(disk.path for disk in closed)
                + ": torch.compile and extensions would fail there",
                hint="`env: {TORCHINDUCTOR_CACHE_DIR: ..., TRITON_CACHE_DIR: ..., "
                "TORCH_EXTENSIONS_DIR: ...}` on another disk",
            )
        elif disks:
            yield Verdict(
                id="fs.noexec", status="pass", host=host, message="what is compiled can be loaded"
            )


CHECKS = (
    Check(
        id="fs.write",
        about="the runs' folders can be made and written to",
        without="ENOSPC, EROFS, or a job without logs",
        how="a trial folder is made, written to and removed",
        judge=_write,
    ),
    Check(
        id="fs.hang",
        about="the file systems answer",
        without="processes that cannot even be killed (state D)",
        how="stat, statvfs and 4 KiB to every folder that a run needs, each under its own deadline",
        judge=_hang,
    ),
    Check(
        id="fs.ro",
        about="workers may write to their workdir and to the folder for temporary files",
        without="`Read-only file system` at the first checkpoint",
        how="a nameless file is written there, where the file system has such",
        judge=_read_only,
        worst="warn",
    ),
    Check(
        id="fs.noexec",
        about="what torch compiles can be loaded",
        without="`failed to map segment from shared object`",
        how="the mount's options, as statvfs has them",
        judge=_noexec,
        worst="info",
    ),
    *room.CHECKS,
)
