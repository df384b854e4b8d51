"""What nvidia-smi and the driver say of the GPUs, within a deadline; it judges nothing.

A driver that hangs keeps whoever asks it in the kernel, where not even SIGKILL ends it at once:
nobody here waits for such a process, nor reads the driver's files but in a thread of its own.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from functools import partial

from . import facts, files, processes, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .agent import Call

# Of one start of it. Without persistence mode the driver wakes every GPU for whoever asks: with
# eight of them that takes ten to thirty seconds, each time.
DEADLINE = 40.0
# How much longer a whole question may take, which may have to be asked again.
AGAIN = 2
# How often it is looked how one that does not answer sleeps; and what it gets to end, once killed:
# while a GPU wakes even SIGKILL waits.
LOOK, LAST = 0.25, 3.0
# Where clouds and WSL have it, off a shell's PATH.
ELSEWHERE = ("/usr/bin", "/usr/local/nvidia/bin", "/usr/lib/wsl/lib")
# What may hold a comma comes last, so that a row falls apart in one way only.
GPU_FIELDS = (
    "index uuid pci.bus_id driver_version memory.total memory.used compute_mode persistence_mode "
    "display_active mig.mode.current ecc.errors.uncorrected.volatile.total retired_pages.pending "
    "remapped_rows.pending remapped_rows.failure fabric.state fabric.status gpu_recovery_action "
    "compute_cap name"
).split()
APP_FIELDS = ["gpu_uuid", "pid", "used_memory", "process_name"]
NEEDED = {"index", "uuid", "name", *APP_FIELDS}
# Drivers that are too old for a field refuse the whole question. Of each kind of field the newest
# branch that is known to: of one between it and the next, the program itself says so.
TOO_OLD = {"compute_cap": 470, "fabric": 525, "remapped_rows": 525, "gpu_recovery_action": 550}
REFUSED = re.compile(r'[Ff]ield "([^"]+)" is not a valid field')
MOST_SAID = 1 << 16
LONGEST_COMMAND = 200
# As the kernel cuts it.
FABRIC_MANAGER = "nv-fabricmanager"[:15]


def ask(call: Call | None, deadline: float = DEADLINE, root: str = "/") -> dict[str, Any]:
    """Return what they said as it is, what of the driver is there, and who the processes are.

    Below `root` lie proc, sys and dev.
    """
    program, started = find(), Started()
    if call is not None:
        call.at_end(started.end)
    parts: dict[str, Callable[[], Any]] = {
        "gpus": lambda: query(started, program, "gpu", known_fields(root), deadline),
        "apps": lambda: query(started, program, "compute-apps", APP_FIELDS, deadline),
        "driver": lambda: driver(root),
        "fabric": lambda: fabric(root),
    }
    longest = {"gpus": AGAIN * deadline + LAST, "apps": AGAIN * deadline + LAST}
    waits = {
        name: facts.within(longest.get(name, deadline) + 2, part) for name, part in parts.items()
    }
    found = {name: wait() for name, wait in waits.items()}
    pids = re.findall(r"^[^,]*, *([0-9]+) *,", found["apps"].get("out", ""), re.MULTILINE)
    # Who hangs in the kernel may keep readers of its environment waiting.
    holders = {pid: facts.within(2.0, partial(who, int(pid))) for pid in sorted(set(pids))[:64]}
    found["processes"] = {pid: wait() for pid, wait in holders.items()}
    found["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found


def find() -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), *ELSEWHERE])
    return shutil.which("nvidia-smi", path=path)


def known_fields(root: str) -> list[str]:
    """Leave out what this driver is known to refuse: asked again, it would take as long again."""
    found = facts.within(2.0, partial(version, root))()
    branch = int(found.partition(".")[0]) if isinstance(found, str) else None
    return [
        field
        for field in GPU_FIELDS
        if branch is None or branch > TOO_OLD.get(field.partition(".")[0], 0)
    ]


def query(
    started: Started, program: str | None, of: str, fields: list[str], deadline: float
) -> dict[str, Any]:
    """Ask for the fields, and again without what this driver does not know."""
    if program is None:
        return {"ended": "absent"}
    asked, end = list(fields), time.monotonic() + AGAIN * deadline
    while True:
        argv = [program, "--query-%s=%s" % (of, ",".join(asked)), "--format=csv,noheader,nounits"]
        got = run(started, argv, min(deadline, end - time.monotonic()))
        got = dict(got, program=program, fields=asked)
        refused = REFUSED.search(got["out"] + got["err"])
        # With a field all of its kind goes: each round may take seconds.
        kind = refused and refused.group(1).partition(".")[0]
        left = [field for field in asked if field.partition(".")[0] != kind]
        if kind in NEEDED or len(left) == len(asked):
            return got
        asked = left


class Started:
    """What was started: it must not outlive the agent, which may end at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=dict(os.environ, LC_ALL="C"),
                start_new_session=True,
            )
            self._processes.append(process)
        return process

    def end(self) -> None:
        """End them all; what is just being started is waited for, and nothing starts after it."""
        self._lock.acquire(timeout=1.0)
        for process in self._processes:
            end_group(process)


def run(started: Started, argv: list[str], deadline: float) -> dict[str, Any]:
    """Run it in a session of its own, and end it with all that it started when it is late."""
    try:
        process = started.start(argv)
    except OSError as error:
        return {"ended": "failed", "code": None, "out": "", "err": error.strerror or str(error)}
    ended, states, out, err = "answered", "", b"", b""
    began = time.monotonic()
    end = began + max(0.1, deadline)
    while ended == "answered":
        try:
            out, err = process.communicate(timeout=min(LOOK, max(0.0, end - time.monotonic())))
            break
        except subprocess.TimeoutExpired as so_far:
            out, err = so_far.stdout or out, so_far.stderr or err
            now = processes.find(process.pid)
            states += now.state if now else "?"
            ended = "answered" if time.monotonic() < end else "late"
    seconds = time.monotonic() - began
    if ended == "late":
        end_group(process)
        try:
            process.wait(LAST)
        except subprocess.TimeoutExpired:
            ended = "stuck"
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
    return {
        "ended": ended,
        "code": process.returncode,
        "seconds": seconds,
        # One that waits for what will never come does nothing else; in its first half it may have.
        "asleep": set(states[len(states) // 2 :]) == {"D"},
        "out": out[:MOST_SAID].decode("utf-8", "replace"),
        "err": err[:MOST_SAID].decode("utf-8", "replace"),
    }


def end_group(process: subprocess.Popen[bytes]) -> None:
    # Reaped, its number may be another's.
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            return


def driver(root: str = "/") -> dict[str, Any]:
    """What the kernel says, whatever nvidia-smi does."""
    proc, dev = os.path.join(root, "proc/driver/nvidia"), os.path.join(root, "dev")
    listed = []
    for path in sorted(glob.glob(glob.escape(proc) + "/gpus/*/information")):
        told = [line.partition(":") for line in text(path).splitlines()]
        lines = {name.strip(): value.strip() for name, _, value in told}
        minor = lines.get("Device Minor", "")
        listed.append(
            {
                "bus": os.path.basename(os.path.dirname(path)),
                "model": lines.get("Model"),
                "excluded": lines.get("GPU Excluded", lines.get("GPU Blacklisted")) == "Yes",
                "device": opens(os.path.join(dev, "nvidia" + minor)) if minor.isdigit() else None,
            }
        )
    return {
        "version": version(root),
        "gpus": listed,
        "pci": nvidia_on_pci(root, "0x03"),
        "amd": amd(root),
        "control": opens(os.path.join(dev, "nvidiactl")),
        "memory": opens(os.path.join(dev, "nvidia-uvm")),
    }


def version(root: str) -> str | None:
    told = text(os.path.join(root, "proc/driver/nvidia/version"))
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", told)
    return found and found.group(1)


def nvidia_on_pci(root: str, kind: str) -> list[str]:
    """Return where on the bus NVIDIA has devices of a class: 0x03 are GPUs, 0x0680 NVSwitches."""
    found = []
    for vendor in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*/vendor"))):
        folder = os.path.dirname(vendor)
        if text(vendor) == "0x10de" and text(folder + "/class").startswith(kind):
            found.append(os.path.basename(folder))
    return found


def amd(root: str) -> int:
    """Count AMD's GPUs, as their driver has them; those of another container may not be read."""
    told = glob.glob(os.path.join(root, "sys/class/kfd/kfd/topology/nodes/*/properties"))
    # What else computes, the processors, is among them, and has none of these.
    return sum(bool(re.search(r"^simd_count [1-9]", text(path), re.MULTILINE)) for path in told)


def opens(path: str) -> str:
    """Whether this user may use a device: ok, absent, or denied. Control groups have their say.

    It is not opened: that alone can take seconds, or for ever.
    """
    if not os.path.exists(path):
        return "absent"
    return "ok" if os.access(path, os.R_OK | os.W_OK) else "denied"


def fabric(root: str = "/") -> dict[str, Any]:
    """Whether GPUs hang together by NVSwitches, and whether what manages those runs."""
    switches = glob.glob(os.path.join(root, "dev/nvidia-nvswitch[0-9]*"))
    switches += nvidia_on_pci(root, "0x0680")
    # Where the kernel's own threads are not to be seen (a container, hidepid), others are not.
    seen = text(os.path.join(root, "proc/2/comm")) == "kthreadd"
    names = {text(path) for path in glob.glob(os.path.join(root, "proc/[0-9]*/comm"))}
    manager = FABRIC_MANAGER in names or (False if seen else None)
    return {"switches": len(switches), "manager": manager}


def who(pid: int) -> dict[str, Any] | None:
    """Return who a process is; None: there is no such pid here, as seen from inside a container."""
    process = processes.find(pid)
    if process is None:
        return None
    try:
        uid = os.stat("/proc/%d" % pid).st_uid
        argv = processes.read("/proc/%d/cmdline" % pid).decode("utf-8", "replace").split("\0")
        uptime = float(facts.read("/proc/uptime").split()[0])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return None
        raise
    return {
        "user": files.user_name(uid),
        "ours": uid == os.geteuid(),
        "program": argv[0] or process.name,
        "command": words.shown(argv, LONGEST_COMMAND) or process.name,
        "seconds": max(0.0, uptime - process.start / os.sysconf("SC_CLK_TCK")),
        "run": processes.environment(pid).get("DDP_ORCH_RUN"),
    }


def text(path: str) -> str:
    try:
        return facts.read(path)
    except OSError:
        return ""
