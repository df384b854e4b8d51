"""Dial the other hosts, and see who answers and what gets through. Also: who holds a port here."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time

from . import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

    from .agent import Call

# Seconds. A lost SYN is sent again after 1 s, and after 3.
CONNECT, IDLE, WHOLE = 3.2, 4.0, 11.0
RESOLVE = 2.0
# What the other addresses of a host get once one of them has answered: a firewall that drops what
# comes to them, or a bridge that only that host has, would be all that is waited for.
MOMENT = 0.3
# How often it is looked whether anything is still to be waited for.
LOOK = 0.02
THREADS = 128
# What `listening` sends back. No two parts are alike, so that none can stand for another.
PAYLOAD = b"".join(number.to_bytes(4, "big") for number in range(1 << 14))
MTU = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}


def dial(
    call: Call,
    targets: Sequence[tuple[str, str, int]],
    token: str,
    name: str | None = None,
    connect: float = CONNECT,
    idle: float = IDLE,
    moment: float = MOMENT,
) -> dict[str, Any]:
    """Try every [host, address, port] at once: one answer for each, in their order.

    Where a port answers at one of its host's addresses, the others there get a moment more, and
    count as not tried. Meanwhile `name` is looked up: the addresses that it has here, or what is
    wrong with it.
    """
    results: list[dict[str, Any]] = [{"error": "UNTRIED"} for _ in targets]
    found: list[dict[str, Any]] = []
    turns = iter(range(len(targets)))
    left = set(range(len(targets)))
    answered: dict[tuple[str, int], float] = {}  # by host and port: when the first address did
    end = time.monotonic() + WHOLE

    def work() -> None:
        # Of an iterator over a range each number is had once, whichever thread asks.
        for index in turns:
            host, address, port = targets[index]
            results[index] = {"error": "ETIMEDOUT", "phase": "connect", "after_ms": WHOLE * 1000}
            results[index] = attempt(host, address, port, token, connect, idle)
            if results[index].get("phase") == "greeting" and is_silence(results[index]):
                # Where packets get lost now and then, some greeting is late. Not twice in a row.
                results[index] = attempt(host, address, port, token, connect, idle)
            if "error" not in results[index]:
                answered.setdefault((host, port), time.monotonic())
            left.discard(index)

    def is_late(index: int) -> bool:
        host, _, port = targets[index]
        return time.monotonic() > min(end, answered.get((host, port), end) + moment)

    def look_up() -> None:
        found.append(lookup(name or ""))

    threads = [start(work) for _ in range(min(THREADS, len(targets)))]
    looking = start(look_up) if name else None
    for thread in threads:
        while thread.is_alive() and not all(map(is_late, tuple(left))):
            thread.join(LOOK)
    late = tuple(left)  # before the answers are taken: what comes in between is late as well
    dials = list(results)
    for index in late:
        host, _, port = targets[index]
        if (host, port) in answered:
            dials[index] = {"error": "UNTRIED"}
    if looking:
        looking.join(max(0.0, end - WHOLE + RESOLVE - time.monotonic()))
    named = found[0] if found else {"problem": "no answer in %g s" % RESOLVE}
    return {"dials": dials, "name": named if name else None}


def is_silence(got: dict[str, Any]) -> bool:
    return bool(got.get("error") == "ETIMEDOUT")


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def lookup(name: str) -> dict[str, Any]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return {"problem": error.strerror or str(error)}
    return {"addresses": sorted({str(entry[4][0]) for entry in found})}


def attempt(
    host: str,
    address: str,
    port: int,
    token: str,
    connect: float = CONNECT,
    idle: float = IDLE,
    payload: bytes = PAYLOAD,
) -> dict[str, Any]:
    """Connect, hear who answers, and have the payload sent back; tell how far that got."""
    began = time.monotonic()
    got: dict[str, Any] = {"phase": "connect"}

    def elapsed() -> float:
        return round((time.monotonic() - began) * 1000, 1)

    try:
        with socket.create_connection((address, port), timeout=connect) as peer:
            got.update(ms=elapsed(), local=plain(peer.getsockname()[0]), phase="greeting")
            got["peer"] = plain(peer.getpeername()[0])
            peer.settimeout(idle)
            got.update(introduced(peer, host, token))
            got["mtu"] = mtu_of(peer)
            if payload and "error" not in got:
                got["phase"] = "payload"
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                got.update(sent_back(peer, payload, got))
    except socket.timeout:
        got["error"] = "ETIMEDOUT"
    except socket.gaierror as error:
        got.update(error="EAI", detail=error.strerror)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        got["error"] = errno.errorcode.get(number or 0, str(error))
    if "error" in got:
        got.update(ms=got.get("ms", elapsed()), after_ms=elapsed())
        got.setdefault("local", way_out(address) if got["error"] != "EAI" else None)
    else:
        del got["phase"]
    return got


def introduced(peer: socket.socket, host: str, token: str) -> dict[str, Any]:
    """Hear who answers: someone of this run says its token, its name, and where we arrived."""
    said = b""
    while not said.endswith(b"\n") and len(said) < 1024:
        part = peer.recv(1024)
        if not part:
            break
        said += part
    try:
        their_token, name, arrived = json.loads(said.decode())
    except (ValueError, TypeError):
        return {"error": "STRANGER"}
    if their_token != token:
        return {"error": "STRANGER"}
    if name != host:
        return {"error": "OTHER", "who": name}
    return {"arrived": plain(str(arrived))}


def sent_back(peer: socket.socket, payload: bytes, got: dict[str, Any]) -> dict[str, Any]:
    got["way"] = "there"
    unsent = memoryview(payload)
    while unsent:
        unsent = unsent[peer.send(unsent) :]
    if peer.recv(1) != b".":
        return {"error": "EOF"}
    got["way"] = "back"
    back = b""
    while len(back) < len(payload):
        part = peer.recv(1 << 16)
        if not part:
            return {"error": "EOF"}
        back += part
    if back != payload:
        return {"error": "CHANGED"}
    del got["way"]
    return {}


def plain(address: str) -> str:
    return address[7:] if address.startswith("::ffff:") else address


def mtu_of(peer: socket.socket) -> int | None:
    """Ask for the path's MTU, as far as the kernel knows it."""
    try:
        return peer.getsockopt(*MTU[peer.family])
    except (OSError, KeyError):
        return None


def way_out(address: str) -> str | None:
    """Find the address that we would come from: the kernel's choice, and no packet is sent."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((address, 9))
            return plain(str(asking.getsockname()[0]))
    except OSError:
        return None


def who_holds(call: Call, port: int) -> dict[str, Any] | None:
    return holder(port)


def holder(port: int) -> dict[str, Any] | None:
    """Name the process that listens on port, when it is one of ours to see."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        # Column 1 is address:port in hexadecimal, column 3 the state (0A: listening), 9 the inode.
        inodes |= {
            row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
        }
    wanted = {"socket:[%s]" % inode for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = "/proc/%s/fd" % pid
        try:
            links = set()
            for fd in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile; the others count
                    links.add(os.readlink("%s/%s" % (folder, fd)))
            if links & wanted:
                with open("/proc/%s/cmdline" % pid, "rb") as file:
                    argv = file.read().decode("utf-8", "replace").split("\0")
                return {"pid": int(pid), "command": words.shown(argv, 200), "age": age(pid)}
        except OSError:
            continue
    return None


def age(pid: str) -> float:
    """Tell for how many seconds a process has been there."""
    with open("/proc/%s/stat" % pid, "rb") as stat, open("/proc/uptime") as uptime:
        # What is in parentheses is its name, and may hold anything.
        began = int(stat.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return round(float(uptime.read().split()[0]) - began, 1)
