"""What a host sees of its network; at once, whatever else hangs there."""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call


def tell(call: Call) -> dict[str, Any]:
    with open("/proc/sys/kernel/random/boot_id") as boot_id:
        machine = "%s %d" % (boot_id.read().strip(), os.stat("/proc/self/ns/net").st_ino)
    return {
        "addresses": addresses(),
        "hostname": socket.gethostname(),
        # Containers of one machine have its boot id, and networks of their own.
        "machine": machine,
        "ssh_address": (os.environ.get("SSH_CONNECTION", "").split() + [""] * 3)[2],
    }


# ---- interface addresses, asked of the kernel over netlink: no program, no ctypes ----

AF_NETLINK, RTM_GETADDR, NLM_F_REQUEST_DUMP = 16, 22, 0x301
NLMSG_ERROR, NLMSG_DONE, IFA_ADDRESS, IFA_LOCAL = 2, 3, 1, 2


def addresses() -> list[list[Any]]:
    """List [interface, address, prefix length] of every interface, link-local ones left out."""
    names = dict(socket.if_nameindex())
    found: list[list[Any]] = []
    with socket.socket(AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.sendall(struct.pack("=IHHIIB3x", 20, RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0, 0))
        while True:
            reply = netlink.recv(1 << 16)
            while reply:
                length, kind = struct.unpack_from("=IH", reply)
                if kind in (NLMSG_DONE, NLMSG_ERROR) or length < 16:
                    return found
                family, prefix, _flags, scope, index = struct.unpack_from("=BBBBI", reply, 16)
                address = address_in(reply[24:length], family)
                if address and not (family == socket.AF_INET6 and scope == 253):
                    found.append([names.get(index, str(index)), address, prefix])
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
