"""One host: namespaces with a real sshd in them, and the faults that a test can inject there."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hosts.processes import Process, command, processes, signal_all, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.hosts.cluster import Cluster

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
HOST_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
PLAIN_HOSTS = "127.0.0.1 localhost\n"
# Of the machine, every host and user sees the interpreter of the test run, and its workers.
SEEN = (Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[1] / "workers")
# What sshd calls the processes of a connection that has not logged in.
GREETING = re.compile(r"sshd.*\[(accepted|preauth|net)\]")

# Runs as process 1 of a host. $1 hostname, $2 the host's folder, $3 the cluster's folder, $@ what
# must stay visible of the machine's /tmp, which the host's own /tmp hides.
# It ends as a `cat` that reads a pipe held by the test run: however the test run dies, the pipe
# closes, process 1 ends, and the kernel kills the whole host. Ignoring SIGCHLD it reaps orphans.
# /etc/resolv.conf may be a link into the machine's /run, which the host's own /run hides.
BOOT = """
hostname "$1"; own=$2; folder=$3; shift 3
mount --bind "$folder" "$folder"
mount -o remount,bind,ro /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
for file in "$own"/etc/*; do
  target=$(readlink -m "/etc/${file##*/}")
  case $target in /run/*) mkdir -p "${target%/*}"; : > "$target" ;; esac
  mount --bind "$file" "$target"
done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs "$own/tmp"
for kept; do mkdir -p "$own$kept"; mount --bind "$kept" "$own$kept"; done
mount --rbind "$own/tmp" /tmp
echo booted
exec env --ignore-signal=CHLD cat
"""
RESTORE = """
hostname "$1"; nft flush ruleset
while umount "$2" 2>&-; do :; done; rm -rf /run/home
ip link set eth0 mtu 1500; tc qdisc del dev eth0 root 2>&- || :
"""


# $1 a folder that only root may enter, $@ what must be reached below it by others too. The rest of
# it is hidden.
OPEN = """
closed=$1; shift; n=0
for kept; do
  n=$((n + 1)); mkdir -p /run/kept$n; mount --bind "$kept" /run/kept$n
done
mount -t tmpfs -o mode=755 tmpfs "$closed"; n=0
for kept; do
  n=$((n + 1)); mkdir -p "$kept"; mount --move /run/kept$n "$kept"; rmdir /run/kept$n
done
mount -o remount,ro "$closed"
"""
UID = 1234  # of the ordinary user


def new_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path)


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def closed_to_others(path: Path) -> Path | None:
    """Return the first folder on the way there that only its owner may enter."""
    way = [*reversed(path.parents), path]
    return next((folder for folder in way if not folder.stat().st_mode & 0o001), None)


def root_entry(file: str, entry: str) -> str:
    """Return the machine's /etc/passwd or /etc/shadow with another entry for root."""
    others = [line for line in Path(file).read_text().splitlines() if not line.startswith("root:")]
    return "\n".join([entry, *others, ""])


class NsHost:
    def __init__(self, cluster: Cluster, name: str, address: str) -> None:
        self.cluster, self.name, self.address = cluster, name, address
        self.hostname = f"{name}.invalid"  # a name that resolves nowhere (RFC 2606)
        self.netns = f"{cluster.prefix}-{name}"
        self.folder = cluster.folder / name
        self.home = cluster.folder / "home" if cluster.shared_home else self.folder / "home"
        self.log = self.folder / "sshd.log"
        self.key = self.folder / "host_key"
        self._boot: subprocess.Popen[str] | None = None
        self._init: Process | None = None
        self._sshd: subprocess.Popen[str] | None = None
        self._sshd_is_default = True
        self._opened = False
        self._pulled = False

    # Being there -----------------------------------------------------------------------------

    def prepare(self) -> None:
        for path in (self.home, self.folder / "tmp", self.folder / "etc"):
            path.mkdir(parents=True, exist_ok=True)
        self._write_etc()
        new_key(self.key)
        self._first_key = self.key.read_bytes(), self._public_key.read_bytes()

    def boot(self) -> None:
        """Start process 1; `booted` waits for it."""
        kept = {self.cluster.folder, *SEEN}
        own = [str(path) for path in sorted(kept) if path.is_relative_to("/tmp")]
        unshare = ("unshare", "-u", "-i", "-m", "-p", "-f", "--mount-proc")
        script = ("sh", "-euc", BOOT, "boot", self.hostname, self.folder, self.cluster.folder)
        with (self.folder / "boot.log").open("w") as log:
            self._boot = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, *unshare, *script, *own],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=HOST_ENV,
                start_new_session=True,  # Ctrl-C at the terminal must not reach the hosts
            )

    def booted(self) -> None:
        assert self._boot
        assert self._boot.stdout
        ready, _, _ = select.select([self._boot.stdout], [], [], 60)
        if not ready or self._boot.stdout.readline() != "booted\n":
            raise RuntimeError(f"{self.name}: {(self.folder / 'boot.log').read_text()}")
        self._init = next(p for p in processes() if p.parent == self._boot.pid)

    def shutdown(self) -> None:
        if self._boot is None:
            return
        if self._init:
            signal_all([self._init])
            self._reap_sshd()
            until(lambda: not self._wake(), f"{self.name} has no command left")
        for pipe in (self._boot.stdin, self._boot.stdout):
            assert pipe
            pipe.close()
        self._boot.wait(30)

    def power_off(self) -> None:
        """Die as a host does: packets to it vanish, nothing runs there. No peer gets a FIN."""
        self.link_down()
        signal_all(p for p in self._processes() if p.pid != 1)
        self._reap_sshd()

    def power_on(self) -> None:
        self.link_up()
        self.start_sshd()

    def reboot(self) -> None:
        """Be a host that has started anew: its files are there, and none of its processes."""
        self.shutdown()
        self._opened = False
        self.boot()
        self.booted()
        self.start_sshd()

    def restore(self) -> None:
        """Undo the faults that a test put in, and empty the home; `await_sshd` comes after it."""
        self.link_up()
        command(
            *self._enter, "sh", "-euc", RESTORE, "restore", self.hostname, self.home, env=HOST_ENV
        )
        self._write_etc()
        emptied(self.home)
        changed = self.key.read_bytes() != self._first_key[0]
        if changed:
            self.key.write_bytes(self._first_key[0])
            self._public_key.write_bytes(self._first_key[1])
        if changed or not self._sshd_is_default or self._listener() is None:
            self.stop_sshd()
            self.spawn_sshd()
        else:
            self.thaw_sshd()

    # Processes -------------------------------------------------------------------------------

    @property
    def _enter(self) -> list[str]:
        assert self._init, f"{self.name} is not up"
        return ["nsenter", "-t", str(self._init.outer), "-n", "-u", "-i", "-m", "-p", "--"]

    def _processes(self) -> Iterator[Process]:
        assert self._init, f"{self.name} is not up"
        return (p for p in processes() if p.pid_ns == self._init.pid_ns)

    def _left(self) -> Iterator[Process]:
        listener = self._sshd.pid if self._sshd else None
        return (p for p in self._processes() if p.pid != 1 and p.parent != listener)

    def pids(self) -> dict[int, str]:
        """Return pid, as the host sees it, and command of all that runs beside init and sshd."""
        return {p.pid: p.command for p in self._left()}

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> None:
        """Send a signal to a process by the pid that the host knows it by."""
        signal_all((p for p in self._processes() if p.pid == pid), sig)

    def kill_all(self) -> None:
        def none_left() -> bool:
            signal_all(self._left())
            return not self.pids() and not self._wake()

        until(none_left, f"{self.name} without processes")

    def _wake(self) -> list[Process]:
        """Wake the nsenters around our commands, and return them; that of sshd is not among them.

        Each stops itself when its child is stopped. It would then not see that the child is dead,
        and its pid namespace could not end. It may do so once more after it was woken: ask again.
        """
        assert self._init
        us, sshd = self._init, self._sshd.pid if self._sshd else None
        around = (p for p in processes() if p.net_ns == us.net_ns and p.pid_ns != us.pid_ns)
        found = [p for p in around if p.command.startswith("nsenter ") and p.outer != sshd]
        signal_all(found, signal.SIGCONT)
        return found

    def run(self, argv: Sequence[str | Path], **kw: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside the host, in /, with a login's PATH and HOME."""
        given = {"capture_output": True, "text": True, "timeout": 60, "check": False, **kw}
        given["env"] = {**HOST_ENV, "HOME": str(self.home), **(kw.get("env") or {})}
        return subprocess.run([*self._enter, *argv], **given)

    def popen(self, argv: Sequence[str | Path], **kw: Any) -> subprocess.Popen[str]:
        """Start a command inside the host. The handle is nsenter's: use `kill` for the command."""
        env = {**HOST_ENV, "HOME": str(self.home), **(kw.pop("env", None) or {})}
        return subprocess.Popen([*self._enter, *argv], env=env, **{"text": True, **kw})

    def write(self, path: str | Path, text: str, mode: int = 0o644) -> Path:
        """Write a file inside the host, in place; a relative path is below the home."""
        script = 'mkdir -p "${1%/*}"; cat > "$1"; chmod "$2" "$1"'
        words = ("sh", "-euc", script, "write", self.home / path, f"{mode:o}")
        command(*self._enter, *words, input=text, env=HOST_ENV)
        return self.home / path

    # Names and network -----------------------------------------------------------------------

    def _write_etc(self) -> None:
        etc = self.folder / "etc"
        self.set_hosts(PLAIN_HOSTS)
        self.set_shell(self.cluster.login_shell)
        # Where root is locked with "!", sshd would refuse even a right key.
        (etc / "shadow").write_text(root_entry("/etc/shadow", "root:*:19000:0:99999:7:::"))
        (etc / "shadow").chmod(0o600)
        (etc / "resolv.conf").write_text("")
        databases = ("passwd", "group", "shadow", "hosts", "services", "protocols")
        (etc / "nsswitch.conf").write_text("".join(f"{name}: files\n" for name in databases))

    def set_hosts(self, text: str) -> None:
        # In place: another inode would not be the one that is mounted over /etc/hosts.
        (self.folder / "etc/hosts").write_text(text)

    def set_shell(self, shell: str) -> None:
        # A home by /etc/passwd and not by a mount: interpreters may live below root's home.
        entry = f"root:x:0:0:root:{self.home}:{shell}"
        (self.folder / "etc/passwd").write_text(root_entry("/etc/passwd", entry))

    def add_user(self, name: str) -> str:
        """Let an ordinary user log in, until restored. Return his home."""
        home = f"/run/home/{name}"
        self.write(
            f"{home}/.ssh/authorized_keys", self.cluster.identity.with_suffix(".pub").read_text()
        )
        self.run(["chown", "-R", f"{UID}:{UID}", home], check=True)
        entries = {
            "passwd": f"{name}:x:{UID}:{UID}::{home}:{self.cluster.login_shell}\n",
            "shadow": f"{name}:*:19000:0:99999:7:::\n",
        }
        for file, entry in entries.items():
            with (self.folder / "etc" / file).open("a") as whole:
                whole.write(entry)
        self._open_interpreters()
        return home

    def _open_interpreters(self) -> None:
        """Let everybody reach the interpreter of the test run: it may live below root's home."""
        kept = set(SEEN)
        for closed in {} if self._opened else {closed_to_others(path) for path in kept} - {None}:
            below = [path for path in kept if path.is_relative_to(closed)]
            self.run(["sh", "-euc", OPEN, "open", closed, *below], check=True)
        self._opened = True

    def nft(self, ruleset: str) -> None:
        command("ip", "netns", "exec", self.netns, "nft", "-f", "-", input=ruleset)

    def nft_flush(self) -> None:
        self.nft("flush ruleset")

    def link_down(self) -> None:
        """Pull the cable: the host lives on, and packets to and from it vanish."""
        self._pulled = True
        command("ip", "-n", self.cluster.netns, "link", "set", self.name, "down")

    def link_up(self) -> None:
        """Plug it in, and nobody's kernel still gives up on the other end for a second.

        Whoever asked in vain for its hardware address in the last three seconds would answer "No
        route to host" once more to the first who connects now.
        """
        if not self._pulled:
            return
        command("ip", "-n", self.cluster.netns, "link", "set", self.name, "up")
        for netns in self.cluster.namespaces:
            command("ip", "-n", netns, "neigh", "flush", "all")
        self._pulled = False

    # sshd ------------------------------------------------------------------------------------

    @property
    def _public_key(self) -> Path:
        return self.key.with_suffix(".pub")

    def _listener(self) -> Process | None:
        nsenter = self._sshd.pid if self._sshd else None
        return next((p for p in self._processes() if p.parent == nsenter), None)

    def spawn_sshd(
        self, options: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> None:
        """Start sshd without waiting for it. The wrapper is words before it, such as `prlimit`."""
        settings = {**self.cluster.sshd_options, **(options or {})}
        words = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        assert SSHD
        sshd = [*wrapper, SSHD, "-D", "-e", "-f", "/dev/null", "-h", str(self.key), *words]
        with self.log.open("a") as log:
            self._sshd = subprocess.Popen(
                [*self._enter, *sshd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                env=HOST_ENV,
                start_new_session=True,
            )
        self._sshd_is_default = not options and not wrapper

    def await_sshd(self) -> None:
        """Wait until sshd greets the controller, and until the asking has left no trace."""

        def greets() -> bool:
            if self._sshd is None or self._sshd.poll() is not None:
                raise RuntimeError(f"{self.name}: sshd has ended: {self.log.read_text()}")
            return self.cluster.greeted(self.address, timeout=1)

        until(greets, f"{self.name}'s sshd answers")
        until(lambda: not any(map(GREETING.match, self.pids().values())), f"{self.name} is quiet")

    def start_sshd(
        self, options: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> None:
        self.spawn_sshd(options, wrapper)
        self.await_sshd()

    def stop_sshd(self) -> None:
        """End the listener; connections that stand live on."""
        listener = self._listener()
        signal_all([listener] if listener else [])
        self._reap_sshd()

    def _reap_sshd(self) -> None:
        if self._sshd is None:
            return
        nsenter, self._sshd = self._sshd, None

        def ended() -> bool:
            nsenter.send_signal(signal.SIGCONT)  # for the reason that _wake gives
            return nsenter.poll() is not None

        until(ended, f"{self.name}'s sshd has ended")

    def restart_sshd(
        self, options: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> None:
        self.stop_sshd()
        self.start_sshd(options, wrapper)

    def freeze_sshd(self) -> None:
        """Let TCP connect and nothing come after it."""
        listener = self._listener()
        assert listener, f"{self.name} has no sshd"
        signal_all([listener], signal.SIGSTOP)

    def thaw_sshd(self) -> None:
        listener = self._listener()
        assert listener, f"{self.name} has no sshd"
        assert self._sshd
        signal_all([listener], signal.SIGCONT)
        self._sshd.send_signal(signal.SIGCONT)  # for the reason that _wake gives

    def new_host_key(self) -> None:
        """Be another machine, as far as ssh can tell; known_hosts keeps the old key."""
        new_key(self.key)
        self.restart_sshd()

    def known_hosts_line(self) -> str:
        return f"{self.address} {self._public_key.read_text().strip()}\n"
