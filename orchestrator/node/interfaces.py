"""What a host's interfaces are like, and what its own environment says of them."""

from __future__ import annotations

import glob
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

NET = "/sys/class/net"
INFINIBAND, VERBS = "/sys/class/infiniband", "/dev/infiniband"
NAMED = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def tell(call: Call) -> dict[str, Any]:
    ephemeral = (read("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    return {
        "interfaces": interfaces(),
        "ephemeral": [int(port) for port in ephemeral],
        "infiniband": infiniband(),
        "verbs": verbs(),
        "env": {name: os.environ[name] for name in NAMED if name in os.environ},
    }


def interfaces(top: str = NET) -> list[dict[str, Any]]:
    """List what is a folder there: `bonding_masters` is a file."""
    folders = [os.path.join(top, name) for name in sorted(os.listdir(top))]
    return [interface(folder) for folder in folders if os.path.isdir(folder)]


def interface(folder: str) -> dict[str, Any]:
    mtu = read(folder + "/mtu")
    return {
        "name": os.path.basename(folder),
        "mtu": int(mtu) if mtu else None,
    }


def infiniband(top: str = INFINIBAND) -> list[dict[str, Any]]:
    """List every port of every adapter; its state is such as "4: ACTIVE"."""
    return [
        {
            "device": port.split("/")[-3],
            "port": port.split("/")[-1],
            "state": (read(port + "/state") or "").rpartition(":")[2].strip(),
            "layer": read(port + "/link_layer") or "",
        }
        for port in sorted(glob.glob(top + "/*/ports/*"))
    ]


def verbs(top: str = VERBS) -> list[str]:
    """List the devices that a worker will be let open: a container may have the ports alone."""
    devices = sorted(glob.glob(top + "/uverbs*"))
    return [os.path.basename(path) for path in devices if os.access(path, os.R_OK | os.W_OK)]


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:  # gone meanwhile, or not to be had of this kind of interface
        return None
