"""GPUs that a host does not have: an nvidia-smi, and what the driver would show in /proc."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hosts.faults import Ground
    from tests.hosts.host import NsHost

# Answers queries as the program does: in the fields' order, and with a word for what it lacks.
PROGRAM = """\
#!{python} -ISu
import json, os, sys
gpus, apps, ends = json.loads({data!r})
if ends == "hangs":
    # In the kernel, as with a driver that does: until what it starts has a writer to read from.
    pipe = "/run/gpu/pipe-%d" % os.getpid()
    os.mkfifo(pipe)
    reads = (os.POSIX_SPAWN_OPEN, 0, pipe, os.O_RDONLY, 0)
    os.posix_spawn("/bin/true", ["true"], {{}}, file_actions=[reads])
if ends:
    print(ends)
    sys.exit(18 if "NVML" in ends else 0)
asked = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
rows, fields = [], []
for name, known in (("query-gpu", gpus), ("query-compute-apps", apps)):
    if name in asked:
        rows, fields = known, asked[name].split(",")
for row in rows:
    print(row if isinstance(row, str) else ", ".join(row.get(name, "[N/A]") for name in fields))
if "-L" in sys.argv:
    for gpu in gpus:
        print("GPU %(index)s: %(name)s (UUID: %(uuid)s)" % gpu)
"""


def gpu(host: NsHost, index: int, **more: str) -> dict[str, str]:
    return {
        "index": str(index),
        "uuid": f"GPU-0000000{index}-0000-0000-0000-{host.name:0>12}",
        "pci.bus_id": bus(index),
        "driver_version": "550.54.15",
        "memory.total": "81559",
        "memory.used": "1",
        "compute_mode": "Default",
        "persistence_mode": "Enabled",
        "display_active": "Disabled",
        "mig.mode.current": "Disabled",
        "ecc.errors.uncorrected.volatile.total": "0",
        "remapped_rows.pending": "No",
        "remapped_rows.failure": "No",
        "name": "NVIDIA A100-SXM4-80GB",
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def bus(index: int) -> str:
    return f"00000000:{0x3B + index:02X}:00.0"


@dataclass(frozen=True)
class Installed:
    """What nvidia-smi and the driver say on one host."""

    gpus: list[Any] = field(default_factory=list)
    apps: list[Any] = field(default_factory=list)
    ends: str = ""
    """What it says in place of an answer; or that it hangs."""

    known: int = 2
    """How many the driver knows."""

    driver: str = "550.54.15"
    """The version of its module."""

    but = replace


def two(host: NsHost, **more: str) -> Installed:
    return Installed([gpu(host, index, **more) for index in range(2)])


def torch_built_for(host: NsHost, build: str, folder: str) -> str:
    """Let torch pass there for a build of its version, by its metadata; return what finds that.

    What the hosts have is a CPU build, which sees no GPU. It is the one that is run all the same.
    """
    release = f"{version('torch').partition('+')[0]}+{build}"
    text = f"Metadata-Version: 2.1\nName: torch\nVersion: {release}\n"
    host.write(f"{folder}/torch-{release}.dist-info/METADATA", text)
    return f"PYTHONPATH={folder}"


def torch_for_gpus(ground: Ground, host: NsHost, path: str = "") -> None:
    """Have a torch there that would see GPUs."""
    ground.undo.callback(host.run, ["rm", "-r", "/run/gpu"])
    finds = torch_built_for(host, "cu128", "/run/gpu")
    host.restart_sshd({"SetEnv": f"{path} {finds}".strip()})


def install(ground: Ground, host: NsHost, there: Installed) -> None:
    data = json.dumps([there.gpus, there.apps, there.ends])
    host.write("/run/gpu/nvidia-smi", PROGRAM.format(python=sys.executable, data=data), 0o755)
    torch_for_gpus(ground, host, "PATH=/run/gpu:/usr/sbin:/usr/bin:/sbin:/bin")
    ground.mount(host, "mode=755", "/proc/driver")
    module = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {there.driver}  Tue Mar  5 22:23:56"
    host.write("/proc/driver/nvidia/version", f"{module} UTC 2024\n")
    for index in range(there.known):
        folder = f"/proc/driver/nvidia/gpus/{bus(index)[4:].lower()}"
        text = "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ:   \t\t 24\nGPU Excluded:\t No\n"
        host.write(f"{folder}/information", text)
