"""What a host can say of itself, gathered once, each part under its own deadline."""

from __future__ import annotations

import glob
import json
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from . import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .agent import Call

# Runs inside the user's interpreter, whatever that is: nothing is imported that costs anything,
# torch least of all (its version comes from its metadata; importing it takes seconds).
INTERPRETER = r"""
import sys
# A json.py or a torch folder in the current directory is not what the workers would import.
sys.path = [folder for folder in sys.path if folder]
import json
found = {"executable": sys.executable, "version": sys.version.split()[0], "prefix": sys.prefix}
try:
    from importlib import util, metadata
    spec = util.find_spec("torch")
    # An empty folder called torch is found as well, but has no origin.
    if spec is not None and spec.origin:
        found["torch"] = metadata.version("torch")
except Exception as error:
    found["problem"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""


def gather(call: Call, python: str, deadline: float = 20.0) -> dict[str, Any]:
    """Return everything; what takes time runs side by side."""
    parts: dict[str, tuple[Callable[[], Any], float]] = {
        "interpreter": (lambda: interpreter(python, deadline), deadline + 2),
        "gpus": (gpus, 12.0),
        "own_name": (own_addresses, 2.0),
    }
    got = {name: within(seconds, part) for name, (part, seconds) in parts.items()}
    home = os.path.expanduser("~")
    return {
        "hostname": socket.gethostname(),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "network_id": os.stat("/proc/self/ns/net").st_ino,
        "system": platform.system(),
        "machine": platform.machine(),
        "user": files.user_name(os.geteuid()),
        "home": home,
        "cores": cores(),
        "addresses": addresses(),
        "ssh_address": (os.environ.get("SSH_CONNECTION", "").split() + [""] * 3)[2],
        "now": time.time(),
        **{name: wait() for name, wait in got.items()},
        "python": python,
    }


def within(seconds: float, part: Callable[[], Any]) -> Callable[[], Any]:
    """Start part in a thread; what is returned waits for it, at most that long."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(part())
        except Exception as error:
            box.append({"problem": "%s: %s" % (type(error).__name__, error)})

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + seconds

    def wait() -> Any:  # noqa: ANN401  whatever the part returns
        thread.join(max(0.0, end - time.monotonic()))
        return box[0] if box else {"problem": "no answer in %g s" % seconds}

    return wait


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()


def cores() -> int:
    """Count the cores that are ours to use: a batch system may have set others apart."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:  # noqa: RET505  or mypy calls it unreachable
        return os.cpu_count() or 1


def interpreter(python: str, deadline: float) -> dict[str, Any]:
    """Ask the interpreter that is to run the workers what it is."""
    wanted = os.path.expanduser(python)
    path = wanted if "/" in wanted else shutil.which(wanted)
    if path is None or not os.path.exists(path):
        return {"problem": "not found", "seen": interpreters_seen()}
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        return {"problem": "not an executable file", "seen": interpreters_seen()}
    try:
        process = subprocess.Popen(
            [path, "-c", INTERPRETER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=files.home_or_root(),
            start_new_session=True,
        )
    except OSError as error:
        return {"problem": error.strerror}
    with process:
        try:
            printed, said = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            # With all that it started: it may be a wrapper.
            os.killpg(process.pid, signal.SIGKILL)
            return {"problem": "did not answer in %g s" % deadline}
    found: dict[str, Any]
    try:
        found = dict(json.loads(printed.decode("utf-8", "replace").strip().splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        if os.environ.get("PYTHONHOME"):
            return {"problem": "does not start with PYTHONHOME=%s" % os.environ["PYTHONHOME"]}
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        return {"problem": "is no Python: " + (last[0] if last else "it printed nothing of use")}
    if "torch" not in found:
        found["seen"] = interpreters_seen()
    return found


def interpreters_seen() -> list[str]:
    """Virtual and conda environments in the usual places that have torch: a hint for `python:`."""
    home = os.path.expanduser("~")
    places = ("*", ".*", "venvs/*", ".venvs/*", ".virtualenvs/*", "*/envs/*", "*/.venv")
    folders = [folder for place in places for folder in glob.glob(os.path.join(home, place))]
    pythons: list[str] = []
    for folder in folders[:2000]:
        if glob.glob(
            os.path.join(glob.escape(folder), "lib/python3*/site-packages/torch/version.py")
        ):
            pythons.append(os.path.join(folder, "bin/python"))
    return sorted(set(pythons))[:5]


def gpus() -> int:
    """Count the GPUs that a worker would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )
        return sum(line.startswith(b"GPU ") for line in listed.stdout.splitlines())
    return len(glob.glob("/proc/driver/nvidia/gpus/*"))


def own_addresses() -> list[str] | dict[str, Any]:
    """Resolve the host's own name: torch and gloo would, were they not told otherwise."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return {"problem": error.strerror}
    return sorted({str(entry[4][0]) for entry in found})


# ---- interface addresses, asked of the kernel over netlink: no program, no ctypes ----

AF_NETLINK, RTM_GETADDR, NLM_F_REQUEST_DUMP = 16, 22, 0x301
NLMSG_ERROR, NLMSG_DONE, IFA_ADDRESS, IFA_LOCAL = 2, 3, 1, 2


def addresses() -> list[list[str]]:
    """List [interface, address] of every interface that has one, link-local ones left out."""
    names = dict(socket.if_nameindex())
    found: list[list[str]] = []
    with socket.socket(AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.sendall(struct.pack("=IHHIIB3x", 20, RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0, 0))
        while True:
            reply = netlink.recv(1 << 16)
            while reply:
                length, kind = struct.unpack_from("=IH", reply)
                if kind in (NLMSG_DONE, NLMSG_ERROR) or length < 16:
                    return found
                family, _prefix, _flags, scope, index = struct.unpack_from("=BBBBI", reply, 16)
                address = address_in(reply[24:length], family)
                if address and not (family == socket.AF_INET6 and scope == 253):
                    found.append([names.get(index, str(index)), address])
                reply = reply[(length + 3) & ~3 :]


def address_in(attributes: bytes, family: int) -> str | None:
    """Pick the interface's own address; on a point-to-point link IFA_ADDRESS is the peer's."""
    got: dict[int, bytes] = {}
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if length < 4:
            break
        got[kind] = attributes[4:length]
        attributes = attributes[(length + 3) & ~3 :]
    packed = got.get(IFA_LOCAL) or got.get(IFA_ADDRESS)
    return socket.inet_ntop(family, packed) if packed else None
