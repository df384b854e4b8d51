"""What a host is like, looked at on this machine: real file systems, limits and control groups."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.facts import Conditions
from orchestrator.node import conditions, disks, limits, logind

ROOT = Path(__file__).parent.parent
root_only = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux: mounts"
)


def in_own_mounts(script, *words):
    """Run a Python script that may mount what it likes; what it prints is JSON."""
    before = "import json, sys\nfrom orchestrator.node import conditions, disks, limits\n"
    ended = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", before + script, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


# --- disks --------------------------------------------------------------------------------------


def test_an_ordinary_folder(tmp_path):
    got = disks.look(str(tmp_path))
    there = os.statvfs(tmp_path)
    assert got["answered"]
    assert got["there"]
    assert got["total"] == there.f_blocks * there.f_frsize
    assert got["inodes"] == there.f_files
    assert 0 < got["free"] <= got["total"]
    assert (got["read_only"], got["noexec"]) == (False, False)
    assert disks.refusal(str(tmp_path)) is None
    said = subprocess.run(
        ["findmnt", "-nro", "TARGET,FSTYPE", "-T", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [got["mount"], got["type"]] == said.stdout.split()
    assert list(tmp_path.iterdir()) == [], "a trial leaves nothing"


def test_a_folder_that_is_not_there_yet(tmp_path):
    got = disks.look(str(tmp_path / "a/b/"))
    assert not got["there"]
    assert got["device"] == tmp_path.stat().st_dev
    (tmp_path / "file").touch()
    assert not disks.look(str(tmp_path / "file/a"))["there"]


def test_a_way_that_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    got = disks.look(str(tmp_path / "loop"))
    assert (got["problem"], got["broken"]) == (os.strerror(errno.ELOOP), False)


MOUNTED = """
import subprocess
folder, options = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "trial", folder], check=True)
print(json.dumps(dict(disks.look(folder), refused=disks.refusal(folder))))
"""


@root_only
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=1m", {"total": 1 << 20, "refused": None}),
        ("size=1m,ro", {"read_only": True, "refused": "EROFS"}),
        ("size=1m,noexec", {"noexec": True, "refused": None}),
        # The folder itself takes one.
        ("nr_inodes=1", {"inodes": 1, "inodes_free": 0, "refused": "ENOSPC"}),
        ("nr_inodes=5", {"inodes": 5, "inodes_free": 4, "refused": None}),
    ],
)
def test_what_is_mounted(tmp_path, options, expected):
    got = in_own_mounts(MOUNTED, tmp_path, options)
    assert got["mount"] == str(tmp_path)
    assert (got["type"], got["source"]) == ("tmpfs", "trial")
    assert {name: got[name] for name in expected} == expected


FILLED = """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "trial", sys.argv[1]], check=True)
try:
    with open(sys.argv[1] + "/big", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
except OSError:
    print(json.dumps(dict(disks.look(sys.argv[1]), refused=disks.refusal(sys.argv[1]))))
"""


@root_only
def test_a_full_disk(tmp_path):
    got = in_own_mounts(FILLED, tmp_path)
    assert (got["free"], got["refused"]) == (0, "ENOSPC")


def test_a_disk_that_takes_its_time_to_write_has_answered_all_the_same(tmp_path, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(disks.os, "fsync", lambda _: done.wait())
    try:
        got = conditions.gather(None, str(tmp_path / "s"), str(tmp_path), patience=0.5)
    finally:
        done.set()
    told = Conditions.parse(got)
    assert (told.disks["workdir"].answered, told.disks["workdir"].slow) == (True, True)
    assert told.disks["workdir"].refused is None
    assert told.disks["workdir"].total
    assert not told.disks["state"].slow, "it has a trial of its own"


def test_the_folder_for_temporary_files_is_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/")
    assert conditions.gather(None, "/s")["disks"]["tmp"]["path"] == "/"
    got = conditions.gather(None, "/s", tmpdir=str(tmp_path))
    assert got["disks"]["tmp"]["path"] == str(tmp_path)
    assert (got["disks"]["tmp"]["refused"], got["disks"]["tmp"]["slow"]) == (None, False)


# A file server that has gone: of FUSE, with nobody there to answer. Whoever asks it, waits.
HUNG = """
import ctypes, os
folder = sys.argv[1]
device = os.open("/dev/fuse", os.O_RDWR)
options = "fd=%d,rootmode=40000,user_id=0,group_id=0" % device
if ctypes.CDLL(None).mount(b"filer:/home", folder.encode(), b"fuse", 0, options.encode()):
    sys.exit("fuse cannot be mounted here")
got = conditions.gather(None, folder + "/u/.ddp-orch", folder + "/work", patience=1.0)
sys.stdout.write(json.dumps(got))
sys.stdout.flush()
os._exit(0)
"""


@root_only
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs /dev/fuse")
def test_a_file_system_that_hangs_costs_its_deadline_and_nothing_else(tmp_path):
    got = in_own_mounts(HUNG, tmp_path)
    told = Conditions.parse(got)
    for role, path in {"state": "u/.ddp-orch", "workdir": "work"}.items():
        disk = told.disks[role]
        assert (disk.answered, disk.problem) == (False, "no answer in 1 s")
        assert disk.path == f"{tmp_path}/{path}"
        # The table of mounts knows what it is, though it says nothing itself.
        assert (disk.mount, disk.type, disk.source) == (str(tmp_path), "fuse", "filer:/home")
    assert told.disks["tmp"].answered
    assert told.disks["shm"].answered
    assert isinstance(told.threads, int)


TABLE = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw,hidepid=invisible
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:30 / /a rw shared:1 - tmpfs first rw
29 27 0:31 / /a\040b rw - nfs4 filer:/a\040b rw
30 27 0:32 / /a rw - xfs second rw
""".lstrip()


@pytest.mark.parametrize(
    ("path", "mounted"),
    [
        ("/", ("/", "ext4", "/dev/vda")),
        ("/a", ("/a", "xfs", "second")),  # it lies above the first one
        ("/a/x", ("/a", "xfs", "second")),
        ("/ab", ("/", "ext4", "/dev/vda")),
        ("/a b/c", ("/a b", "nfs4", "filer:/a b")),
    ],
)
def test_the_table_of_mounts(tmp_path, path, mounted):
    (tmp_path / "table").write_text(TABLE)
    got = disks.mount_of(path, str(tmp_path / "table"))
    assert (got["mount"], got["type"], got["source"]) == mounted


IMAGE = """
import subprocess
from pathlib import Path
top = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "image", top], check=True)
for each in ("usr", "proc", "lib", "lib64", "bin", "root"):
    if Path("/", each).exists():
        Path(top, each).mkdir()
        subprocess.run(["mount", "--rbind", "/" + each, top + "/" + each], check=True)
import os
os.chroot(top)
print(json.dumps([conditions.in_container(), disks.mount_of("/")["type"]]))
"""


@root_only
def test_a_root_that_is_made_from_an_image(tmp_path):
    """As stateless nodes boot it: all of one image have its machine-id, and are no clones."""
    assert in_own_mounts(IMAGE, tmp_path) == [True, "tmpfs"]


@pytest.mark.parametrize(
    ("options", "hides"),
    [
        ("rw", None),
        ("rw,hidepid=0", None),
        ("rw,hidepid=off", None),
        ("rw,gid=4,hidepid=2", "hidepid=2"),
        ("rw,hidepid=invisible", "hidepid=invisible"),
        ("rw,hidepid=ptraceable,subset=pid", "hidepid=ptraceable"),
    ],
)
def test_whose_processes_are_shown(tmp_path, options, hides):
    (tmp_path / "table").write_text(f"22 27 0:21 / /proc rw,relatime - proc proc {options}\n")
    assert disks.hides_processes(str(tmp_path / "table")) == hides


@root_only
def test_a_proc_that_hides_for_real():
    script = (
        "import subprocess\n"
        "subprocess.run(['mount', '-t', 'proc', '-o', 'hidepid=2', 'proc', '/proc'], check=True)\n"
        "print(json.dumps(disks.hides_processes()))"
    )
    assert in_own_mounts(script) in ("hidepid=invisible", "hidepid=2")


# --- limits -------------------------------------------------------------------------------------


LIMITED = """
import json, os, resource, sys
from orchestrator.node import limits
for name, soft, hard in json.loads(sys.argv[1]):
    resource.setrlimit(getattr(resource, name), (soft, hard))
if sys.argv[2] != "0":
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
print(json.dumps([limits.own(), limits.threads()]))
"""


def limited(*pairs, uid=0, before=()):
    ended = subprocess.run(
        [*before, sys.executable, "-c", LIMITED, json.dumps(pairs), str(uid)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(ended.stdout)


def test_the_limit_on_open_files():
    (got, _) = limited(("RLIMIT_NOFILE", 200, 256))
    assert got["nofile"] == [200, 256]


@root_only
def test_limits_hold_for_users_and_not_for_root():
    pairs = [("RLIMIT_NPROC", 1000, 2000), ("RLIMIT_MEMLOCK", 65536, 1 << 20)]
    got, _ = limited(*pairs)
    assert (got["nproc"], got["memlock"]) == ([None, None], [None, None])
    got, threads = limited(*pairs, uid=54321)
    assert (got["nproc"], got["memlock"]) == ([1000, 2000], [65536, 1 << 20])
    assert threads == 1, "nobody else has that uid"


@root_only
def test_root_in_a_container_may_fork_and_not_lock():
    pairs = [("RLIMIT_NPROC", 1000, 2000), ("RLIMIT_MEMLOCK", 65536, 1 << 20)]
    got, _ = limited(*pairs, before=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    assert (got["nproc"], got["memlock"]) == ([None, None], [65536, 1 << 20])


@pytest.mark.parametrize(
    ("controller", "files", "own", "found"),
    [
        # Version 2: a container sees its own limit at the top.
        ("pids", {"pids.max": "100", "pids.current": "7"}, "0::/", [[100, 7]]),
        ("pids", {"pids.max": "max", "pids.current": "7"}, "0::/", []),
        (
            "pids",
            {f"u/{n}": v for n, v in {"pids.max": "50", "pids.current": "1"}.items()},
            "0::/u/session-1.scope",
            [[50, 1]],
        ),
        (
            "memory",
            {
                "j/memory.max": "4096",
                "j/memory.current": "4000",
                # The rest of what counts as files is shared memory, and cannot be dropped.
                "j/memory.stat": "anon 1\nfile 3500\ninactive_file 2000\nactive_file 1000",
            },
            "0::/j",
            [[4096, 1000]],
        ),
        # Version 1, with others beside it.
        ("pids", {"pids/a/pids.max": "9", "pids/a/pids.current": "2"}, "8:pids:/a\n0::/", [[9, 2]]),
        (
            "memory",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "5",
                "memory/memory.stat": "total_inactive_file 1",
                "memory/d/memory.limit_in_bytes": "4096",
                "memory/d/memory.usage_in_bytes": "3000",
                "memory/d/memory.stat": "inactive_file 7\ntotal_inactive_file 1000\ncache 9",
            },
            "9:name=systemd:/d\n4:memory:/d\n3:pids:/d\n0::/",
            [[4096, 2000]],
        ),
        # In a container of version 1 its path is that outside.
        (
            "memory",
            {
                "memory/memory.limit_in_bytes": "4096",
                "memory/memory.usage_in_bytes": "5",
                "memory/memory.stat": "",
            },
            "4:memory:/docker/0123",
            [[4096, 5]],
        ),
        ("memory", {}, "0::/gone", []),
    ],
)
def test_control_groups(tmp_path, controller, files, own, found):
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert limits.groups(controller, str(tmp_path / "fs"), str(tmp_path / "own")) == found


def test_memory_is_that_of_the_machine():
    got = limits.memory()
    assert got["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < got["available"] <= got["total"]


def test_infiniband_counts_where_a_port_is_up(tmp_path):
    for port, state in {"mlx5_0/ports/1": "4: ACTIVE", "mlx5_1/ports/1": "1: DOWN"}.items():
        (tmp_path / port).mkdir(parents=True)
        (tmp_path / port / "state").write_text(state + "\n")
    assert limits.infiniband(str(tmp_path)) == ["mlx5_0"]
    assert limits.infiniband(str(tmp_path / "none")) == []


# --- logind, by programs that say what the real ones do -----------------------------------------


@pytest.fixture
def programs(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name, script):
        (folder / name).write_text("#!/bin/sh\n" + script)
        (folder / name).chmod(0o755)

    return put


BUSCTL = """
manager="org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager"
[ "$*" = "get-property $manager KillUserProcesses KillExcludeUsers KillOnlyUsers RemoveIPC" ] ||
  exit 1
printf 'b %s\\nas 2 "root" "a b"\\nas 0\\nb true\\n' """


def scope(tmp_path, line):
    (tmp_path / "cgroup").write_text(line + "\n")
    return str(tmp_path / "cgroup")


def test_what_logind_says(programs, tmp_path):
    programs("busctl", BUSCTL + "true")
    user = os.getuid()
    programs("loginctl", f'[ "$*" = "show-user {user} --property=Linger" ] && echo Linger=yes')
    session = scope(tmp_path, "0::/user.slice/user-1000.slice/session-12.scope")
    assert logind.ask(session) == {
        "kills": True,
        "spared": ["root", "a b"],
        "only": [],
        "removes_ipc": True,
        "lingers": True,
        "in_session": True,
    }
    programs("busctl", BUSCTL + "false")
    programs("loginctl", "echo Linger=no")
    got = logind.ask(scope(tmp_path, "0::/system.slice/ssh.service"))
    assert (got["kills"], got["lingers"], got["in_session"]) == (False, False, False)
    programs("loginctl", "echo 'User ID 0 is not logged in or lingering' >&2; exit 1")
    assert logind.ask(session)["lingers"] is False


@pytest.mark.parametrize(
    ("line", "within"),
    [
        ("1:name=systemd:/user.slice/user-1000.slice/session-c3.scope\n0::/", True),
        ("0::/user.slice/user-1000.slice/session-3.scope/job", True),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope", False),
        ("0::/", False),
    ],
)
def test_whether_we_are_in_a_sessions_scope(programs, tmp_path, line, within):
    programs("busctl", BUSCTL + "true")
    programs("loginctl", "exit 1")
    assert logind.ask(scope(tmp_path, line))["in_session"] is within


def test_no_logind(programs, monkeypatch, tmp_path):
    programs("busctl", "echo 'Failed to get property: no such name' >&2; exit 1")
    programs("loginctl", "exit 1")
    assert logind.ask() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert logind.ask() is None


def test_a_logind_that_hangs_or_says_strange_things_is_unknown(programs, monkeypatch):
    programs("loginctl", "exit 1")
    programs("busctl", "exec sleep 60")
    monkeypatch.setattr(logind, "SECONDS", 0.2)
    with pytest.raises(TimeoutError, match=r"busctl did not answer in 0\.2 s"):
        logind.ask()
    programs("busctl", "echo 's what'")
    with pytest.raises(ValueError, match="busctl said"):
        logind.ask()


# --- the rest -----------------------------------------------------------------------------------

ASKED = "from orchestrator.node import conditions; print(conditions.missing_locale())"


@pytest.mark.parametrize(
    ("env", "missing"),
    [
        ({}, None),
        ({"LANG": "C.UTF-8"}, None),
        ({"LANG": "xx_YY.UTF-8"}, "LANG=xx_YY.UTF-8"),
        ({"LANG": "C", "LC_ALL": "xx_YY"}, "LC_ALL=xx_YY"),
        ({"LANG": "C", "LC_TIME": "xx_YY"}, "LC_TIME=xx_YY"),
        ({"LANG": "xx_YY", "LC_ALL": "C"}, None),
    ],
)
def test_a_locale_that_is_not_there(env, missing):
    kept = {n: v for n, v in os.environ.items() if n != "LANG" and not n.startswith("LC_")}
    ended = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", ASKED],
        cwd=ROOT,
        env=kept | env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.strip() == str(missing)


def test_the_whole_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    told = Conditions.parse(conditions.gather(None, "~/.ddp-orch", "code"))
    assert {role: disk.path for role, disk in told.disks.items()} == {
        "state": f"{tmp_path}/.ddp-orch",
        "workdir": f"{tmp_path}/code",
        "tmp": "/tmp",
        "shm": "/dev/shm",
    }
    assert not told.disks["workdir"].there
    assert told.threads >= 1
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    told = Conditions.parse(conditions.gather(None, "/x/y"))
    assert "workdir" not in told.disks
    assert told.disks["tmp"].path == str(tmp_path)


def test_without_a_home_the_rest_is_still_told(monkeypatch):
    monkeypatch.setenv("HOME", "relative")
    told = Conditions.parse(conditions.gather(None, "~/.ddp-orch", "code"))
    assert set(told.disks) == {"tmp", "shm"}
