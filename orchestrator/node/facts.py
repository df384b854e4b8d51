"""What a host can say of itself, gathered once, each part under its own deadline."""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
import time

from . import files, interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .agent import Call


# To look for environments that have torch is for a hint alone, and a home has many folders.
SEEING = 2.0


def gather(
    call: Call,
    python: str,
    workdir: str | None = None,
    env: dict[str, str] | None = None,
    deadline: float = 20.0,
) -> dict[str, Any]:
    """Return everything; what takes time runs side by side.

    `env` is what the inventory has of the environment that the interpreter runs in.
    """
    parts: dict[str, tuple[Callable[[], Any], float]] = {
        "interpreter": (lambda: interpreter.ask(python, deadline, env), deadline + 2),
        "workdir": (lambda: folder_to_start_in(workdir), 5.0),
        "own_name": (own_addresses, 2.0),
    }
    got = {name: within(seconds, part) for name, (part, seconds) in parts.items()}
    told = {name: wait() for name, wait in got.items()}
    if "torch" not in told["interpreter"]:
        seen = within(SEEING, interpreter.seen)()
        told["interpreter"]["seen"] = seen if isinstance(seen, list) else []
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
        "gpus_visible": gpus_visible(),
        "now": time.time(),
        **told,
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
    """Count the cores that are ours to use: a batch system or a container may have set limits."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(int(quota) for quota in cpu_quotas())]))


def cpu_quotas(top: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> list[float]:
    """List how many cores' time each control group around us has; those without a limit are not."""
    try:
        lines = read(own).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has no controllers in its line, and stands at the top.
        base = top + ("/cpu" if controllers else "")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            folder = "/".join([base, *parts[:depth]])
            try:
                if controllers:
                    quota = read(folder + "/cpu.cfs_quota_us")
                    period = read(folder + "/cpu.cfs_period_us")
                else:
                    quota, period = read(folder + "/cpu.max").split()
                if float(quota) > 0:
                    found.append(float(quota) / float(period))
            except (OSError, ValueError):
                continue  # no such file at the top or in a container; "max" is no number
    return found


def gpus_visible() -> int | None:
    """Count the GPUs that the environment leaves a worker to see; None: it does not say."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if visible is None else devices_in(visible)


def devices_in(visible: str) -> int:
    """Count the GPUs that CUDA_VISIBLE_DEVICES names: numbers or UUIDs; "" and -1 are none."""
    return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])


def folder_to_start_in(workdir: str | None) -> dict[str, str] | None:
    """Find the workdir; a relative one begins at the home, where a login would be."""
    if workdir is None:
        return None
    path = os.path.join(os.path.expanduser("~"), os.path.expanduser(workdir))
    found = {"path": path}
    if not os.path.isdir(path):
        found["problem"] = "is no folder" if os.path.exists(path) else "is not there"
    elif not os.access(path, os.X_OK):
        found["problem"] = "may not be entered by this user"
    return found


def own_addresses() -> list[str] | dict[str, Any]:
    """Resolve the host's own name: torch and gloo would, were they not told otherwise."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return {"problem": error.strerror}
    return sorted({str(entry[4][0]) for entry in found})
