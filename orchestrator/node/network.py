"""What a host sees of its network; at once, whatever else hangs there."""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    from .agent import Call


def tell(call: Call) -> dict[str, Any]:
    with open("/proc/sys/kernel/random/boot_id") as boot_id:
        machine = "%s %d" % (boot_id.read().strip(), os.stat("/proc/self/ns/net").st_ino)
    arrived = (os.environ.get("SSH_CONNECTION", "").split() + [""] * 3)[2]
    return {
        "addresses": addresses(arrived),
        **links(),
        "hostname": socket.gethostname(),
        # Containers of one machine have its boot id, and networks of their own.
        "machine": machine,
        "ssh_address": arrived,
    }


# ---- interfaces and addresses, asked of the kernel over netlink: no program, no ctypes ----

AF_NETLINK, RTM_GETLINK, RTM_GETADDR, NLM_F_REQUEST_DUMP = 16, 18, 22, 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFA_ADDRESS, IFA_LOCAL = 1, 2
# Of IPv6: for IPv4 the first one says that it is not the interface's first address.
IFA_F_TEMPORARY, IFA_F_DEPRECATED = 0x01, 0x20
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 10, 18, 1
IFF_POINTOPOINT, IFF_LOWER_UP = 0x10, 0x10000
# What kind of hardware they claim to be: none (WireGuard, tun), IP in IP of four kinds, GRE of two.
TUNNELS = (0xFFFE, 768, 769, 776, 777, 778, 823)


def addresses(arrived: str = "") -> list[list[Any]]:
    """List [interface, address, prefix length] of every interface, link-local ones left out.

    And those of IPv6 that are to go: temporary ones, by which a host calls others and is not to be
    called, and deprecated ones; but for the one at which our ssh arrived.
    """
    names = dict(socket.if_nameindex())
    found: list[list[Any]] = []
    for told in dump(RTM_GETADDR):
        family, prefix, flags, scope, index = struct.unpack_from("=BBBBI", told)
        address = address_in(told[8:], family)
        passing = family == socket.AF_INET6 and flags & (IFA_F_TEMPORARY | IFA_F_DEPRECATED)
        link_local = family == socket.AF_INET6 and scope == 253
        if address and not link_local and (not passing or address == arrived):
            found.append([names.get(index, str(index)), address, prefix])
    return found


def address_in(told: bytes, family: int) -> str | None:
    """Pick the interface's own address; on a point-to-point link IFA_ADDRESS is the peer's."""
    got = attributes(told)
    packed = got.get(IFA_LOCAL) or got.get(IFA_ADDRESS)
    return socket.inet_ntop(family, packed) if packed else None


def links() -> dict[str, list[str]]:
    """Name the interfaces that are a poor way to this host, or none.

    Tunnels; and bridges that nothing is plugged into, or nothing that is on. Whether there is a
    carrier does not tell: a bridge that never had a port has one.
    """
    bridges: dict[int, str] = {}
    busy: set[int] = set()
    tunnels: list[str] = []
    for told in dump(RTM_GETLINK):
        hardware, index, flags = struct.unpack_from("=2xHiI", told)
        got = attributes(told[16:])
        name = text(got.get(IFLA_IFNAME, b""))
        kind = text(attributes(got.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b""))
        if kind == "bridge":
            bridges[index] = name
        if IFLA_MASTER in got and flags & IFF_LOWER_UP:
            busy.add(int(struct.unpack("=i", got[IFLA_MASTER])[0]))
        # A tap has the looks of an Ethernet card, but for its kind.
        if flags & IFF_POINTOPOINT or hardware in TUNNELS or kind == "tun":
            tunnels.append(name)
    idle = [name for index, name in bridges.items() if index not in busy]
    return {"idle": sorted(idle), "tunnels": sorted(tunnels)}


def text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def dump(kind: int) -> Iterator[bytes]:
    """Yield all that the kernel has of a kind, each without netlink's own header."""
    with socket.socket(AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.sendall(struct.pack("=IHHIIB3x", 20, kind, NLM_F_REQUEST_DUMP, 1, 0, 0))
        while True:
            reply = netlink.recv(1 << 16)
            while reply:
                length, kind = struct.unpack_from("=IH", reply)
                if kind in (NLMSG_DONE, NLMSG_ERROR) or length < 16:
                    return
                yield reply[16:length]
                reply = reply[(length + 3) & ~3 :]


def attributes(told: bytes) -> dict[int, bytes]:
    got: dict[int, bytes] = {}
    while len(told) >= 4:
        length, kind = struct.unpack_from("=HH", told)
        if length < 4:
            break
        got[kind] = told[4:length]
        told = told[(length + 3) & ~3 :]
    return got
