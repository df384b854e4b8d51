"""What nvidia-smi says of a host's GPUs, and what the driver says of them itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

# nvidia-smi has a table for people in which these stand; a field that says so has no value. What
# is in brackets is why: "[Requested functionality has been deprecated]", "[Function Not Found]".
NO_VALUE = re.compile(r"\[.*\]|N/A|Not Supported|Not Available|Insufficient Permissions|Not Found")
BROKEN = re.compile(r"is lost|requires reset|fallen off", re.IGNORECASE)
NOT_READ = re.compile(r"\[?(Unknown Error|ERR!|Error)\]?", re.IGNORECASE)
# "GPU 0000:3B:00.0: GPU is lost.", "GPU0000:3B:00.0: Unknown Error" and, since about 550,
# "GPU1: 0000:0A:00.0: GPU is lost."
UNREACHABLE = re.compile(
    r"Unable to (?:determine|detect) the device handle for gpu ?(?:\d{1,3}: ?)?"
    r"(?P<bus>[0-9a-f]+:[0-9a-f]+:[0-9a-f]+\.[0-9a-f])\s*:\s*(?P<why>.*)",
    re.IGNORECASE,
)
CORRUPTED = re.compile(r"infoROM is corrupted(?: at gpu (\S+))?", re.IGNORECASE)
# A row begins with a number, or with whose GPU it is; or with why neither can be had.
ROW = re.compile(r"\d+\Z|\[|GPU-|MIG-")
PERSISTENCE = {"Enabled": True, "Disabled": False}
MPS_SERVER = "nvidia-cuda-mps-server"
NO_DEVICES = "No devices were found"

Ended = Literal["answered", "late", "stuck", "absent", "failed"]
HUNG = ("late", "stuck")
RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One row of nvidia-smi; None is what it, or its driver, has no word for."""

    index: int | None
    uuid: str | None
    bus: str | None
    name: str | None
    driver: str | None = None
    memory_total: int | None = None
    """MiB, as is memory_used."""

    memory_used: int | None = None
    compute_mode: str | None = None
    persistence: bool | None = None
    """The driver keeps it awake while nobody uses it."""

    capability: tuple[int, int] | None = None
    """What NVIDIA calls compute capability: 9.0 is Hopper, from 10.0 on it is Blackwell."""

    display: bool = False
    """Something is drawn with it: memory may be held that no compute process has."""

    mig: bool = False
    ecc: int | None = None
    """Uncorrected errors since the driver was loaded."""

    pending: bool = False
    """Memory that went bad is put out of use at the next reset."""

    remap_failed: bool = False
    fabric_state: str | None = None
    fabric_status: str | None = None
    recovery: str | None = None
    """What the driver wants to be done to it."""

    problem: str | None = None
    """It is in the list but cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A compute process on a GPU."""

    pid: int
    uuid: str
    name: str | None
    """As nvidia-smi has it."""

    memory: int | None = None
    """MiB."""

    seen: bool = False
    """It is among the processes here; another container's is not, and then nothing below is set."""

    user: str | None = None
    ours: bool = False
    command: str | None = None
    seconds: float | None = None
    run: str | None = None
    """The run of ours that it says it belongs to."""

    @property
    def serves(self) -> bool:
        """Whether it is there for others, who use the GPU through it (MPS)."""
        program = (self.name or self.command or "").partition(" ")[0]
        return program.rpartition("/")[2] == MPS_SERVER


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A GPU that the driver knows."""

    bus: str
    model: str | None = None
    usable: bool = True
    """Neither excluded by the administrator nor kept from us by a container or a batch system."""


@dataclass(frozen=True, kw_only=True)
class Smi:
    ended: Ended
    code: int | None = None
    seconds: float | None = None
    """It took so long to answer, or was waited for."""

    slow: bool = False
    """It did not answer, but was at work until it was ended."""

    problem: str | None = None
    """Why there are no rows, in its own words."""

    warnings: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    unreachable: tuple[tuple[str, str], ...] = ()
    """Where on the bus, and why, for each that it could not speak to."""

    holders: tuple[Holder, ...] | None = ()
    """None: it did not tell."""

    driver: str | None = None
    """The version of the kernel's module."""

    installed: tuple[Installed, ...] = ()
    on_bus: int = 0
    """How many NVIDIA GPUs are on the PCI bus, with whatever driver."""

    amd: int | None = None
    """How many GPUs of AMD's there are; None: nobody knows."""

    devices: str = "ok"
    """Whether this user may use /dev/nvidiactl: ok, absent or denied."""

    switches: int = 0
    manager: bool | None = None
    """Whether a fabric manager runs; None: that cannot be seen from here."""

    visible: str | None = None
    """CUDA_VISIBLE_DEVICES there."""

    @property
    def count(self) -> int | None:
        """How many GPUs there are to use; None: nobody knows."""
        if self.ended == "absent":
            return sum(gpu.usable for gpu in self.installed)
        if self.ended == "answered" and self.problem is None:
            return len(self.gpus) if self.gpus or not self.unreachable else None
        # It fails where there is nothing, too; but nothing cannot hang.
        there = self.driver or self.installed or self.on_bus
        return 0 if self.problem and self.ended not in HUNG and not there else None

    @property
    def corrupted(self) -> tuple[str | None, ...]:
        """Where on the bus those are that it warns of, as their infoROM is; None: it says not."""
        found = (CORRUPTED.search(words) for words in self.warnings)
        return tuple(bus_of(words[1]) for words in found if words)

    @property
    def branch(self) -> int | None:
        """Of the driver, as NVIDIA counts them: 570 of 570.124.06."""
        versions = (self.driver, *(gpu.driver for gpu in self.gpus))
        found = (re.match(r"\d+", version) for version in versions if version)
        return next((int(number[0]) for number in found if number), None)

    @property
    def answers(self) -> bool:
        return self.ended == "answered" and self.problem is None

    @classmethod
    def parse(cls, got: dict[str, Any]) -> Smi:
        asked, driver = told(got, "gpus"), told(got, "driver")
        rows, unreachable, said = rows_of(asked)
        if asked["ended"] not in get_args(Ended):
            raise ValueError(f"nvidia-smi ended: {asked['ended']!r}")
        ended: Ended = asked["ended"]
        problem = None
        if ended not in ("absent", "answered"):
            problem = said[0] if said else asked.get("err") or None
        elif ended == "answered" and not rows and not unreachable and not nothing(said):
            problem = next(iter(said), "it printed nothing")
        gpus = tuple(gpu_of(row) for row in rows)
        return cls(
            ended=ended,
            code=number(asked.get("code")),
            seconds=float(asked["seconds"]) if "seconds" in asked else None,
            slow=ended == "late" and asked.get("asleep") is False,
            problem=problem,
            warnings=() if problem else tuple(said),
            gpus=gpus,
            unreachable=tuple(unreachable),
            holders=holders_of(told(got, "apps"), got["processes"]) if rows else (),
            driver=driver.get("version"),
            installed=tuple(installed_of(each) for each in driver.get("gpus", ())),
            on_bus=len(driver.get("pci", ())),
            amd=number(driver.get("amd")),
            devices=str(driver.get("control", "ok")),
            switches=int(told(got, "fabric").get("switches", 0)),
            manager=told(got, "fabric").get("manager"),
            visible=got["visible"],
        )


def told(got: dict[str, Any], part: str) -> dict[str, Any]:
    """Return a part of the answer; one that did not come has only its problem to tell."""
    found: dict[str, Any] = dict(got[part])
    if part in ("gpus", "apps") and "ended" not in found:
        found = {"ended": "late", "err": str(found.get("problem", ""))}
    return found


def rows_of(
    asked: dict[str, Any],
) -> tuple[list[dict[str, str]], list[tuple[str, str]], list[str]]:
    """Return rows by field, GPUs that cannot be spoken to, and whatever else was said."""
    rows, unreachable, said = [], [], []
    fields = asked.get("fields", [])
    for line in f"{asked.get('out', '')}\n{asked.get('err', '')}".splitlines():
        words = line.strip()
        # As often as there are fields: the last one, a name, may hold commas itself.
        parts = [part.strip() for part in words.split(",", len(fields) - 1)] if fields else []
        found = UNREACHABLE.search(words)
        if found:
            bus, why = bus_of(found["bus"]), " ".join(found["why"].split())
            unreachable.append((bus or "", why.rstrip(".")))
        elif len(parts) == len(fields) > 1 and ROW.match(parts[0]):
            rows.append(dict(zip(fields, parts, strict=True)))
        elif words:
            said.append(" ".join(words.split()))
    return rows, unreachable, said


def nothing(said: list[str]) -> bool:
    return any(NO_DEVICES.lower() in words.lower() for words in said)


def gpu_of(row: dict[str, str]) -> Gpu:
    fabric_state = value(row, "fabric.state")
    recovery = value(row, "gpu_recovery_action")
    return Gpu(
        index=number(row["index"]),
        uuid=value(row, "uuid"),
        bus=bus_of(value(row, "pci.bus_id")),
        name=value(row, "name"),
        driver=value(row, "driver_version"),
        memory_total=number(row.get("memory.total")),
        memory_used=number(row.get("memory.used")),
        compute_mode=value(row, "compute_mode"),
        persistence=PERSISTENCE.get(value(row, "persistence_mode") or ""),
        capability=capability_of(value(row, "compute_cap")),
        display=value(row, "display_active") == "Enabled",
        mig=value(row, "mig.mode.current") == "Enabled",
        ecc=number(row.get("ecc.errors.uncorrected.volatile.total")),
        pending=yes(row, "retired_pages.pending") or yes(row, "remapped_rows.pending"),
        remap_failed=yes(row, "remapped_rows.failure"),
        fabric_state=fabric_state,
        fabric_status=value(row, "fabric.status"),
        recovery=None if recovery in (None, "None") else recovery,
        problem=problem_of(row),
    )


def problem_of(row: dict[str, str]) -> str | None:
    """Say why a GPU that has a row is of no use. Fans and the like may fail to be read."""
    for said in row.values():
        if BROKEN.search(said):
            return said.strip("[]")
    for field in ("index", "uuid", "name", "memory.total"):
        if NOT_READ.fullmatch(row.get(field, "")):
            return f"{field}: {row[field].strip('[]')}"
    return None


def holders_of(
    asked: dict[str, Any], processes: dict[str, dict[str, Any] | None]
) -> tuple[Holder, ...] | None:
    rows, _, said = rows_of(asked)
    if asked["ended"] != "answered" or (not rows and asked.get("code") and not nothing(said)):
        return None
    found = []
    for row in rows:
        pid = number(row["pid"])
        if pid is None:
            continue
        name = value(row, "process_name")
        memory = number(row.get("used_memory"))
        who = processes.get(str(pid)) or {}
        # The number may be that of a process outside of this container, and another's in here.
        same = "user" in who and (name is None or alike(name, who["program"]))
        holder = Holder(pid=pid, uuid=row["gpu_uuid"], name=name, memory=memory)
        if same:
            holder = Holder(
                pid=pid, uuid=row["gpu_uuid"], name=name, memory=memory, seen=True,
                user=str(who["user"]), ours=who["ours"] is True, command=str(who["command"]),
                seconds=float(who["seconds"]),
                run=str(who["run"]) if RUN.fullmatch(str(who["run"])) else None,
            )  # fmt: skip
        found.append(holder)
    return tuple(found)


def installed_of(told: dict[str, Any]) -> Installed:
    usable = told["device"] == "ok" and not told["excluded"]
    return Installed(bus=bus_of(told["bus"]) or "", model=told.get("model"), usable=usable)


def alike(name: str, program: str) -> bool:
    """Whether two words for a program may mean the same one: either may be cut, or have a path."""
    one, other = (word.rstrip("/").rpartition("/")[2] for word in (name, program))
    return one.startswith(other) or other.startswith(one)


def value(row: dict[str, str], field: str) -> str | None:
    said = row.get(field, "")
    if not said or NO_VALUE.fullmatch(said) or NOT_READ.fullmatch(said) or BROKEN.search(said):
        return None
    return said


def capability_of(said: str | None) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)", said or "")
    return (int(found[1]), int(found[2])) if found else None


def yes(row: dict[str, str], field: str) -> bool:
    return (value(row, field) or "").lower() in ("yes", "1", "true")


def number(said: object) -> int | None:
    """Read a number, with or without its unit."""
    found = re.fullmatch(r"(-?\d+)(?:\.\d+)?(?: ?[A-Za-z%]+)?", str(said).strip())
    return int(found[1]) if found else None


def bus_of(said: str | None) -> str | None:
    """Write a place on the bus in one way: nvidia-smi's domain has eight digits, the driver's four.

    Where a domain needs more than four (virtual machines in a cloud), the driver leaves them out.
    """
    found = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)\.([0-9a-f])", (said or "").lower())
    return f"{int(found[1], 16) & 0xFFFF:04x}:{found[2]}:{found[3]}.{found[4]}" if found else None
