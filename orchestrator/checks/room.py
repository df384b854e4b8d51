"""Is there room on a host's disks, and in its shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from orchestrator.checks.check import Check, each
from orchestrator.events import Verdict
from orchestrator.facts import StateFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts, Conditions, Disk

# Below it a talkative job's logs may not find room; the job itself would go on.
LITTLE = 100 << 20
# Days of logs of a run that lasts so long.
LITTLE_FOR_RUNS = 1 << 30
FULL = ("ENOSPC", "EDQUOT")
# A run makes some dozen files, and its logs more as it goes on.
TOO_FEW_INODES, FEW_INODES = 64, 1000
SHM = "/dev/shm"  # noqa: S108  a place to speak of
# What docker gives where nobody asks for more.
DOCKERS_SHM, TOO_LITTLE_SHM = 64 << 20, 16 << 20


def at_hand(
    cluster: ClusterFacts, check: str, roles: tuple[str, ...], *, covered: bool = False
) -> Iterator[tuple[str, list[Disk] | Verdict]]:
    """Yield every host with its folders; unless `covered`, without what fs.write has judged."""
    for host, found in each(cluster, check, cluster.conditions):
        if isinstance(found, Verdict):
            yield host, found
            continue
        asked = [found.disks[role] for role in roles if role in found.disks]
        dead = [disk for disk in asked if disk.dead]
        if dead:
            yield (
                host,
                Verdict(
                    id=check,
                    status="unknown",
                    host=host,
                    message=f"{dead[0].path}: {dead[0].problem}",
                    caused_by="fs.hang",
                ),
            )
            continue
        # Where the way to a folder is closed, fs.write and env.workdir say so.
        told = [disk for disk in asked if disk.problem is None]
        known = None if covered else _judged(cluster, host, found)
        yield host, [disk for disk in told if disk.device != known]


def _judged(cluster: ClusterFacts, host: str, found: Conditions) -> int | None:
    """Return the file system on which fs.write found no room, or may not write."""
    state = cluster.state.get(host)
    disk = found.disks.get("state")
    if not isinstance(state, StateFolder) or disk is None or disk.problem:
        return None
    return disk.device if state.problem or lacks_space(state) else None


def _home(cluster: ClusterFacts, host: str) -> Disk | None:
    found = cluster.conditions[host]
    return None if isinstance(found, str) else found.disks.get("state")


def lacks_space(state: StateFolder) -> bool:
    """Say whether there is little of it where the runs' folders go; some do not tell how much."""
    return state.total > 0 and state.free < LITTLE


def lacks_inodes(disk: Disk, least: int) -> bool:
    """Say whether files run out, and not just space, of which some file systems make them."""
    limited = disk.problem is None and disk.inodes > 0 and not disk.read_only
    return limited and disk.inodes_free < least and disk.free >= LITTLE


def _space(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, disks in at_hand(cluster, "fs.space", ("workdir", "tmp", "state")):
        if isinstance(disks, Verdict):
            yield disks
            continue
        home = _home(cluster, host)
        full: dict[int, Disk] = {}
        for disk in disks:
            least = LITTLE_FOR_RUNS if disk == home else LITTLE
            # Some do not tell; what cannot be written to has no room, and needs none.
            tells = disk.total and not disk.read_only
            if disk.refused in FULL or (tells and disk.free < least):
                full.setdefault(disk.device, disk)
        if full:
            first = next(iter(full.values()))
            yield Verdict(
                id="fs.space",
                status="warn",
                host=host,
                message="; ".join(
                    f"{disk.path} has {disk.free >> 20} MiB left"
                    + (" and takes nothing more (quota)" if disk.refused == "EDQUOT" else "")
                    for disk in full.values()
                ),
                evidence={disk.path: disk.free for disk in full.values()},
                hint=f"there: du -xh {first.mount} --threshold=1G | sort -h | tail; "
                "or `state_dir:`, `workdir:`, `env: {TMPDIR: ...}` elsewhere",
            )
        elif disks:
            roomy = min(disks, key=lambda disk: disk.free)
            yield Verdict(
                id="fs.space",
                status="pass",
                host=host,
                message=f"{roomy.free / (1 << 30):.1f} GiB or more",
            )


def _inodes(cluster: ClusterFacts) -> Iterator[Verdict]:
    # Also of what fs.write could not use: this may be why.
    roles = ("state", "workdir", "tmp")
    for host, disks in at_hand(cluster, "fs.inodes", roles, covered=True):
        if isinstance(disks, Verdict):
            yield disks
            continue
        few: dict[int, Disk] = {}
        for disk in disks:
            if lacks_inodes(disk, FEW_INODES):
                few.setdefault(disk.device, disk)
        if few:
            home = _home(cluster, host)
            worst = home is not None and lacks_inodes(home, TOO_FEW_INODES)
            first = next(iter(few.values()))
            yield Verdict(
                id="fs.inodes",
                status="fail" if worst else "warn",
                host=host,
                message="; ".join(
                    f"{disk.path} has room for {disk.inodes_free} more files, "
                    f"whatever their size ({disk.free >> 20} MiB are free)"
                    for disk in few.values()
                ),
                evidence={disk.path: disk.inodes_free for disk in few.values()},
                hint=f"there: du --inodes -x {first.mount} | sort -n | tail",
            )
        elif disks:
            yield Verdict(
                id="fs.inodes", status="pass", host=host, message="room for more files than needed"
            )


def _shm(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "fs.shm", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        disk = found.disks.get("shm")
        if disk is None or disk.dead:
            why, cause = (str(disk.problem), "fs.hang") if disk else ("was not looked at", None)
            yield Verdict(id="fs.shm", status="unknown", host=host, message=why, caused_by=cause)
            continue
        status, message, hint = _shm_of(disk)
        yield Verdict(
            id="fs.shm",
            status=status,
            host=host,
            message=message,
            evidence={"free": disk.free, "total": disk.total},
            hint=hint,
        )


def _shm_of(disk: Disk) -> tuple[Literal["pass", "warn", "fail"], str, str | None]:
    more = "a container: docker run --ipc=host, or --shm-size=8g; else: sudo mount"
    left, size = disk.free >> 20, disk.total >> 20
    if disk.problem or not disk.there:
        said = f"{SHM} is not there: no DataLoader worker can start, nor NCCL between two GPUs here"
        return "fail", said, f"{more} -t tmpfs -o mode=1777 tmpfs {SHM}"
    if disk.read_only or (disk.refused and disk.refused not in FULL):
        closed = disk.read_only or disk.refused == "EROFS"
        hint = f"sudo mount -o remount,rw {SHM}" if closed else f"sudo chmod 1777 {SHM}"
        why = "EROFS" if closed else disk.refused
        return "fail", f"{SHM} may not be written to ({why})", hint
    if disk.refused in FULL or (disk.total and disk.free < TOO_LITTLE_SHM):
        hint = f"see what fills it: ls -lS {SHM}; fuser -v {SHM}/* names those in use"
        return "fail", f"{SHM} is full: {left} of {size} MiB left", hint
    if disk.total and disk.total <= DOCKERS_SHM:
        said = f"{SHM} has only {size} MiB: little for DataLoader workers and NCCL"
        return "warn", said, f"{more} -o remount,size=8g {SHM}"
    return "pass", f"{SHM} has {left} MiB left" if disk.total else f"{SHM} has no limit", None


CHECKS = (
    Check(
        id="fs.space",
        about="there is room for logs, checkpoints and temporary files",
        without="`No space left on device`, hours later",
        how="statvfs of the state dir, the workdir and the folder for temporary files",
        judge=_space,
        worst="warn",
    ),
    Check(
        id="fs.inodes",
        about="there is room for more files",
        without="`No space left on device` on a disk with space left",
        how="statvfs of the same folders",
        judge=_inodes,
    ),
    Check(
        id="fs.shm",
        about="shared memory is there, and there is enough",
        without="`unable to allocate shared memory(shm)`, or Bus error",
        how="statvfs of /dev/shm, and a nameless file written there",
        judge=_shm,
    ),
)
