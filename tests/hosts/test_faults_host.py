"""Hosts that something is wrong with: clock, disks, limits, or that are not two hosts at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hosts.clock import set_back
from tests.hosts.faults import Expected, Ground, fault, try_out
from tests.hosts.processes import until

# What a file server does that has gone: the kernel asks, and nobody ever answers.
GONE = """
import ctypes, os, sys, time
server = os.open("/dev/fuse", os.O_RDWR)
options = "fd=%d,rootmode=40000,user_id=0,group_id=0" % server
words = b"gone", sys.argv[1].encode(), b"fuse.gone", 0, options.encode()
if ctypes.CDLL(None, use_errno=True).mount(*words):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(3600)
"""
CGROUPS = Path("/sys/fs/cgroup/memory")


def clock_is_20_s_behind(ground: Ground) -> None:
    set_back(ground.cluster, ground["n3"], 20)


def clock_is_20_s_ahead(ground: Ground) -> None:
    set_back(ground.cluster, ground["n3"], -20)


def clock_is_4_s_behind(ground: Ground) -> None:
    set_back(ground.cluster, ground["n3"], 4)


# ---- the same host twice ----


def one_address_twice(ground: Ground) -> None:
    ground.hosts = ["n1", "n2", "gpu2"]
    ground.entries["gpu2"] = {"ssh": "root@10.77.0.10"}


def two_addresses_of_one_host(ground: Ground) -> None:
    second = "10.77.0.210/24"
    ground.on(
        ground["n2"],
        *("ip", "address", "add", second, "dev", "eth0"),
        then=["ip", "address", "del", second, "dev", "eth0"],
    )
    ground.hosts = ["n1", "n2", "gpu2"]
    ground.entries["gpu2"] = {"ssh": "root@10.77.0.210"}
    known = ground["n2"].known_hosts_line().replace("10.77.0.10 ", "10.77.0.210 ")
    with ground.cluster.known_hosts.open("a") as file:
        file.write(known)


# ---- disks ----


def shared_memory_is_tiny(ground: Ground) -> None:
    ground.mount(ground["n2"], "size=4m,mode=1777", "/dev/shm")


def shared_memory_is_dockers(ground: Ground) -> None:
    ground.mount(ground["n2"], "size=64m,mode=1777", "/dev/shm")


def state(ground: Ground) -> Path:
    return ground["n2"].home / ".ddp-orch"


def state_dir_is_read_only(ground: Ground) -> None:
    ground.mount(ground["n2"], "ro,mode=700", state(ground))
    assert ground["n2"].run(["touch", state(ground) / "file"]).returncode


def state_dir_is_full(ground: Ground) -> None:
    ground.mount(ground["n2"], "size=1m,mode=700", state(ground))
    done = ground["n2"].run(["dd", "if=/dev/zero", f"of={state(ground)}/all"])
    assert "No space left" in done.stderr


def state_dir_has_little_room(ground: Ground) -> None:
    ground.mount(ground["n2"], "size=50m,mode=700", state(ground))


def state_dir_takes_no_more_files(ground: Ground) -> None:
    ground.mount(ground["n2"], "size=300m,nr_inodes=1,mode=700", state(ground))
    assert "No space left" in ground["n2"].run(["touch", state(ground) / "file"]).stderr


def gone(ground: Ground, where: Path | str) -> None:
    """Mount what hangs whoever looks at it."""
    host = ground["n2"]
    host.run(["mkdir", "-p", where])
    server = host.popen([sys.executable, "-ISc", GONE, str(where)], stdout=-1, stderr=-1)
    ground.undo.callback(host.run, ["umount", "-l", where])
    # Without a server all that hangs there gets an error, and ends.
    ground.undo.callback(server.communicate)
    ground.undo.callback(host.kill_all)
    assert server.stdout
    assert server.stdout.readline() == "mounted\n", server.communicate()


def state_dir_hangs(ground: Ground) -> None:
    gone(ground, state(ground))


def workdir_hangs(ground: Ground) -> None:
    gone(ground, "/tmp/data")
    for name in ("n1", "n3"):
        ground.on(ground[name], "mkdir", "/tmp/data", then=["rmdir", "/tmp/data"])
    ground.fields["defaults"] = {"workdir": "/tmp/data"}


def home_may_not_be_written_to(ground: Ground) -> None:
    ground.as_user()
    home = "/run/home/trainee"
    ground.on(ground["n2"], "chown", "root:root", home)
    ground.on(ground["n2"], "chmod", "755", home)


def tmp_is_noexec(ground: Ground) -> None:
    again = "mount -o remount,bind,exec /tmp"
    ground.on(
        ground["n2"],
        *("sh", "-c", "mount --rbind /tmp /tmp && mount -o remount,bind,noexec /tmp"),
        then=["sh", "-c", f"{again}; umount -l /tmp"],
    )


# ---- limits ----


def few_files_may_be_open(ground: Ground) -> None:
    ground["n2"].restart_sshd(wrapper=["prlimit", "--nofile=256:256"])
    assert ground.cluster.ssh(ground["n2"], "ulimit -Hn").stdout == "256\n"


def few_files_may_be_open_at_first(ground: Ground) -> None:
    """What may be raised is raised by ourselves."""
    ground["n2"].restart_sshd(wrapper=["prlimit", "--nofile=256:"])
    assert ground.cluster.ssh(ground["n2"], "ulimit -Sn").stdout == "256\n"


def few_processes_may_run(ground: Ground) -> None:
    ground.as_user()
    ground["n2"].restart_sshd(wrapper=["prlimit", "--nproc=90:90"])


JOIN = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
SHOW = """
mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory
mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory
"""


def memory_is_limited(ground: Ground) -> None:
    """As a batch system does, or a container."""
    if not (CGROUPS / "memory.limit_in_bytes").exists():
        pytest.skip("needs control groups of version 1")
    host = ground["n2"]
    group = CGROUPS / ground.cluster.prefix
    group.mkdir()
    ground.undo.callback(lambda: until(lambda: removed(group), "the group is gone"))
    ground.undo.callback(host.restart_sshd)
    ground.undo.callback(host.kill_all)
    (group / "memory.limit_in_bytes").write_text(str(1 << 30))
    undo = "umount -l /sys/fs/cgroup/memory; umount -l /sys/fs/cgroup"
    # A host has a /sys of its own, and of the groups it sees nothing.
    ground.on(host, "sh", "-euc", SHOW, then=["sh", "-c", undo])
    host.restart_sshd(wrapper=["sh", "-euc", JOIN, "join", str(group)])
    assert group.name in ground.cluster.ssh(host, "cat /proc/self/cgroup").stdout


def removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:  # a process that has ended is still being taken down
        return False
    return True


def at_n2(id_: str, hint: str = "", status: str = "fail", message: str = "") -> Expected:
    return Expected(id_, "n2", hint=hint, status=status, message=message)


FAULTS = [
    fault(clock_is_20_s_behind, Expected("host.clock", "n3", hint="chronyc"), quick=True),
    fault(clock_is_20_s_ahead, Expected("host.clock", "n3", hint="chronyc")),
    fault(clock_is_4_s_behind, Expected("host.clock", "n3", hint="chronyc", status="warn")),
    fault(one_address_twice, Expected("host.dup", "gpu2", "n2", hint="same_machine: true")),
    fault(two_addresses_of_one_host, Expected("host.dup", "gpu2", "n2", hint="nproc_per_node")),
    fault(shared_memory_is_tiny, at_n2("fs.shm", "/dev/shm")),
    fault(shared_memory_is_dockers, at_n2("fs.shm", "--shm-size", "warn")),
    fault(state_dir_is_read_only, at_n2("fs.write", "state_dir:", message="ead-only")),
    fault(state_dir_is_full, at_n2("fs.write", "state_dir:", message="o space"), quick=True),
    fault(state_dir_has_little_room, at_n2("fs.write", "state_dir", "warn")),
    fault(state_dir_takes_no_more_files, at_n2("fs.inodes", "--inodes")),
    fault(state_dir_hangs, at_n2("fs.hang", "umount")),
    fault(workdir_hangs, at_n2("fs.hang", "umount")),
    fault(home_may_not_be_written_to, at_n2("fs.write", "state_dir:", message="ermission")),
    fault(tmp_is_noexec, at_n2("fs.noexec", status="info")),
    fault(few_files_may_be_open, at_n2("lim.nofile", "hard nofile")),
    fault(few_files_may_be_open_at_first),
    fault(few_processes_may_run, at_n2("lim.nproc", "nproc")),
    fault(memory_is_limited, at_n2("lim.cgroup_mem", "--memory", "warn")),
]


@pytest.mark.parametrize(("inject", "expected", "warns"), FAULTS)
def test_fault(ground: Ground, inject, expected, warns) -> None:
    try_out(ground, inject, expected, warns)
