"""Hosts in Linux network namespaces, each with a real sshd: what the orchestrator is tested on.

A host has its own network, hostname, processes, /tmp, /run, /dev/shm, home and name resolution. It
shares the machine's root file system, read-only, so that the interpreter of the test run exists on
every host and nothing that a test does there reaches the machine. The machine's own network
namespace gets no address and no route: the bridge lives in the controller's namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.hosts.host import NsHost, emptied, new_key
from tests.hosts.processes import Process, command, processes, signal_all, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

CLONE_NEWNET = 0x40000000


class Cluster:
    """A controller and its hosts n1, n2, ... on one bridge; leaving the context removes it all."""

    def __init__(
        self,
        folder: Path,
        addresses: Sequence[str] = ("10.77.0.9", "10.77.0.10", "10.77.0.100"),
        *,
        sshd_options: Mapping[str, str] | None = None,
        login_shell: str = "/bin/bash",
        shared_home: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        if any(self.folder.is_relative_to(own) for own in ("/run", "/dev/shm")):
            raise ValueError(f"{self.folder}: hosts have a /run and a /dev/shm of their own")
        self.login_shell, self.shared_home = login_shell, shared_home
        # The pid says whose it is; the rest lets one process have several.
        self.prefix = f"ddp-{os.getpid()}-{secrets.token_hex(2)}"
        self.netns = f"{self.prefix}-ctl"
        self.network = ipaddress.ip_network(f"{addresses[0]}/24", strict=False)
        self.address = str(self.network[1])
        self.identity = self.folder / "identity"
        self.known_hosts = self.folder / "known_hosts"
        self.home = self.folder / "controller"  # the controller's HOME: never the developer's own
        self.hosts = [NsHost(self, f"n{i}", a) for i, a in enumerate(addresses, 1)]
        self.sshd_options = {**self._sshd_defaults(), **(sshd_options or {})}
        self._inventories = 0

    def _sshd_defaults(self) -> dict[str, str]:
        options = {
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "UseDNS": "no",
            "AuthenticationMethods": "publickey",
            "AuthorizedKeysFile": f"{self.identity}.pub .ssh/authorized_keys",
            "Subsystem": "sftp internal-sftp",
        }
        version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
        found = re.search(r"OpenSSH_(\d+)\.(\d+)", version)
        if found and (int(found[1]), int(found[2])) >= (9, 8):
            # Newer sshds lock out an address that connected and left, as every probe here does.
            options["PerSourcePenalties"] = "no"
        return options

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove)
            self._prepare()
            self._wire()
            # Each step is started on all hosts before the first one is waited for.
            for step in (NsHost.boot, NsHost.booted, NsHost.spawn_sshd, NsHost.await_sshd):
                for host in self.hosts:
                    step(host)
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def __getitem__(self, name: str) -> NsHost:
        return next(host for host in self.hosts if host.name == name)

    def _prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        new_key(self.identity)
        for host in self.hosts:
            host.prepare()
        self.write_known_hosts()

    @property
    def namespaces(self) -> list[str]:
        return [self.netns, *(host.netns for host in self.hosts)]

    def _wire(self) -> None:
        for netns in self.namespaces:
            command("ip", "netns", "add", netns)
        prefix = self.network.prefixlen
        words = [
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {self.address}/{prefix} dev br0",
            "link set br0 up",
        ]
        for host in self.hosts:
            words.append(f"link add {host.name} type veth peer name eth0 netns {host.netns}")
            words.append(f"link set {host.name} master br0 up")
        command("ip", "-n", self.netns, "-batch", "-", input="\n".join(words))
        for host in self.hosts:
            address = f"addr add {host.address}/{prefix} dev eth0"
            words = ["link set lo up", address, "link set eth0 up"]
            command("ip", "-n", host.netns, "-batch", "-", input="\n".join(words))

    def _remove(self) -> None:
        """Remove whatever there is, in a way that also fits a setup that failed half-way."""
        with contextlib.ExitStack() as steps:  # every step is taken, whatever another one raises
            for host in self.hosts:
                if Path("/run/netns", host.netns).exists():
                    steps.callback(command, "ip", "netns", "del", host.netns)
                steps.callback(host.shutdown)
            if Path("/run/netns", self.netns).exists():
                steps.callback(command, "ip", "netns", "del", self.netns)
                steps.callback(self.kill_controllers)

    def restore(self) -> None:
        """Make it all as good as new: faults undone, nothing running, homes empty."""
        self.kill_controllers()
        emptied(self.home)
        for step in (NsHost.kill_all, NsHost.restore):  # homes may be shared: first end what writes
            for host in self.hosts:
                step(host)
        self.write_known_hosts()
        for host in self.hosts:
            host.await_sshd()

    # The controller --------------------------------------------------------------------------

    def popen(self, argv: Sequence[str | Path], **kw: Any) -> subprocess.Popen[str]:
        """Start a command on the controller, with env added to the environment of the tests."""
        personal = ("DDP_ORCH_", "SSH_", "XDG_")
        env = {name: v for name, v in os.environ.items() if not name.startswith(personal)}
        env |= {"HOME": str(self.home), **(kw.pop("env", None) or {})}
        argv = ["ip", "netns", "exec", self.netns, *argv]  # it execs: the pid is the command's
        return subprocess.Popen(argv, env=env, **{"text": True, **kw})

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        input: str | None = None,
        timeout: float = 60,
        **kw: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller and return what it said; a timeout kills it."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        if input is None:
            pipes["stdin"] = subprocess.DEVNULL
        with self.popen(argv, **{**pipes, **kw}) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ssh_argv(self, host: NsHost, *words: str) -> list[str]:
        """Return the call of the ssh program that a careful user would make."""
        options = {
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": 5,
        }
        argv = ["ssh", "-F", "none", "-i", str(self.identity)]
        argv += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return [*argv, f"root@{host.address}", *words]

    def ssh(self, host: NsHost, *words: str, **kw: Any) -> subprocess.CompletedProcess[str]:
        return self.run(self.ssh_argv(host, *words), **kw)

    def connect(self, address: str, port: int = 22, timeout: float = 5.0) -> socket.socket:
        """Open a TCP connection from the controller, for use in this process."""

        def dial() -> socket.socket:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path("/run/netns", self.netns).open() as netns:
                if libc.setns(netns.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_connection((address, port), timeout)

        # In a thread of its own, which ends there: no other one is ever in the wrong namespace.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(dial).result()

    def greeted(self, address: str, timeout: float = 0.5) -> bool:
        """Say whether an sshd there greets the controller in time."""
        try:
            with self.connect(address, timeout=timeout) as sock:
                return sock.recv(4) == b"SSH-"
        except OSError:
            return False

    def _controllers(self) -> Iterator[Process]:
        # Named by inode, as /proc/PID/ns/net does.
        netns = f"net:[{Path('/run/netns', self.netns).stat().st_ino}]"
        return (p for p in processes() if p.net_ns == netns)

    def kill_controllers(self) -> None:
        def none_left() -> bool:
            signal_all(self._controllers())
            return not any(self._controllers())

        until(none_left, "a controller without processes")

    def leftovers(self) -> dict[str, dict[int, str]]:
        """Return what still runs where, by name; empty when nothing does."""
        found = {"controller": {p.pid: p.command for p in self._controllers()}}
        found |= {host.name: host.pids() for host in self.hosts}
        return {name: pids for name, pids in found.items() if pids}

    # Files -----------------------------------------------------------------------------------

    def write_known_hosts(self) -> None:
        self.known_hosts.write_text("".join(host.known_hosts_line() for host in self.hosts))

    def inventory(self, hosts: Sequence[NsHost | str] | None = None, **fields: Any) -> Path:
        """Write an inventory of these hosts, in this order; `defaults` is added to ours."""
        chosen = self.hosts if hosts is None else hosts
        named = [self[host] if isinstance(host, str) else host for host in chosen]
        defaults = {
            "identity_file": str(self.identity),
            "known_hosts": str(self.known_hosts),
            "ssh_config": "none",
            "python": sys.executable,
        }
        document = {
            "hosts": [{"name": host.name, "ssh": f"root@{host.address}"} for host in named],
            "defaults": defaults | fields.pop("defaults", {}),
            **fields,
        }
        self._inventories += 1
        path = self.folder / f"inventory-{self._inventories}.yaml"
        # By way of JSON: a value that stands twice would become an alias, which inventories refuse.
        path.write_text(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False))
        return path
