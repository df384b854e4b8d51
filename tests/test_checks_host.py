"""What is said of a host's clock, system, disks and limits, by cases."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.checks import judge
from orchestrator.facts import (
    Clock,
    ClusterFacts,
    Conditions,
    Group,
    Limit,
    Memory,
    Session,
    SshState,
    StateFolder,
)
from tests.test_checks import HEALTHY, but, conditions, facts, only, said

MIB, GIB = 1 << 20, 1 << 30


def b_is(**changes) -> ClusterFacts:
    return but(conditions={"a": conditions(), "b": conditions(**changes)})


def disks(**roles) -> ClusterFacts:
    return b_is(disks=roles)


def bad(cluster: ClusterFacts) -> list[tuple]:
    return [(v.id, v.host, v.status) for v in judge(cluster) if v.status not in ("pass", "skip")]


OURS = ("host.", "fs.", "lim.", "env.locale")
OF_FACTS = ("host.dup", "fs.write", "host.clock")


def test_conditions_that_could_not_be_had_are_unknown_each():
    cluster = but(conditions={"a": conditions(), "b": "no answer in 12 s"})
    ours = {v.id for v in judge(HEALTHY) if v.id.startswith(OURS)} - set(OF_FACTS)
    assert len(ours) == 14
    assert set(bad(cluster)) == {(id_, "b", "unknown") for id_ in ours}


def test_every_fail_and_warning_can_be_acted_on():
    sick = b_is(
        nofile=Limit(soft=256, hard=256),
        memlock=Limit(soft=65536, hard=65536),
        infiniband=("mlx5_0",),
        nproc=Limit(soft=250, hard=250),
        memory_groups=(Group(limit=GIB, used=0),),
        session=dataclasses.replace(conditions().session, kills=True),
        disks={
            "state": {"free": 200 * MIB, "inodes_free": 3},
            "workdir": {"read_only": True},
            "tmp": {"noexec": True},
            "shm": {"there": False},
        },
        hides="hidepid=2",
        locale="LANG=xx_XX",
        machine_id="same",
    )
    sick = dataclasses.replace(
        sick, clocks={"a": Clock(offset=0, trip=0), "b": Clock(offset=-20, trip=0)}
    )
    verdicts = [v for v in judge(sick) if v.status not in ("pass", "skip")]
    assert len({v.id for v in verdicts}) == 13
    assert all(v.hint and "\n" not in v.hint and v.host == "b" for v in verdicts)
    assert len({(v.id, v.host) for v in verdicts}) == len(verdicts)


# --- clocks -------------------------------------------------------------------------------------


def clocks(*offsets, trip=0.01, **more) -> ClusterFacts:
    names = "abcdefgh"[: len(offsets)]
    given = {n: Clock(offset=o, trip=trip) for n, o in zip(names, offsets, strict=True)}
    ssh = dict.fromkeys(names, SshState())
    return ClusterFacts(hosts=tuple(names), ssh=ssh, clocks=given, **more)


@pytest.mark.parametrize(
    ("offsets", "trip", "said_of"),
    [
        ((0.0, 0.0, 0.0), 0.01, "ppp"),
        ((0.0, 0.0, -20.0), 0.01, "ppf"),
        ((0.0, 0.0, 1.9), 0.01, "ppp"),
        ((0.0, 0.0, 2.1), 0.01, "ppw"),
        ((0.0, 0.0, 9.9), 0.01, "ppw"),
        ((0.0, 0.0, 10.1), 0.01, "ppf"),
        # Half of a slow round trip may be all of the difference.
        ((0.0, 0.0, 3.0), 2.1, "ppp"),
        ((0.0, 0.0, 11.0), 2.1, "ppw"),
        # Of two hosts this machine tells which one is right.
        ((0.0, -20.0), 0.01, "pf"),
        ((-20.0, 0.0), 0.01, "fp"),
        # Each is within ten seconds of the truth, but not of the other.
        ((-8.0, 8.0), 0.01, "ff"),
        ((-3.0, 3.0), 0.01, "ww"),
        # Among three the one is wrong that the other two are not with, wherever this machine is.
        ((20.0, 20.0, 0.0), 0.01, "ppfi"),
        ((30.0, 33.0, 33.0), 0.01, "wppi"),
        # Of two against two this machine tells again.
        ((20.0, 20.0, 0.0, 0.0), 0.01, "ffpp"),
        ((30.0, 30.0, 33.0, 33.0), 0.01, "ppwwi"),
        ((20.0, 20.0, 20.0, 0.0), 0.01, "pppfi"),
        # A run on one host has nobody to disagree with.
        ((500.0,), 0.01, "pi"),
    ],
)
def test_a_clock_is_judged_by_all_others(offsets, trip, said_of):
    verdicts = [v for v in judge(clocks(*offsets, trip=trip)) if v.id == "host.clock"]
    assert "".join(v.status[0] for v in verdicts) == said_of


def test_a_wrong_clock_is_named_with_how_to_set_it():
    verdict = only(clocks(0.01, 0.0, -20.0), "host.clock")
    assert (verdict.host, verdict.message) == ("c", "c's clock is 20.0 s behind the others")
    assert "chronyc makestep" in verdict.hint
    verdict = only(clocks(0.0, 20.0, 0.0), "host.clock")
    assert verdict.message == "b's clock is 20.0 s ahead of the others"


def test_a_wrong_clock_of_this_machine_is_information():
    verdict = only(clocks(20.0, 20.1, 19.9), "host.clock")
    assert (verdict.host, verdict.status, verdict.scope) == (None, "info", "cluster")
    assert verdict.message == "this machine's clock is 20.0 s behind the hosts'"
    # With a host that is wrong as well, each is said of the right one.
    found = [v for v in judge(clocks(20.0, 20.0, 20.0, 60.0)) if v.id == "host.clock"]
    assert [(v.host, v.status) for v in found if v.status != "pass"] == [
        ("d", "fail"),
        (None, "info"),
    ]


def test_a_clock_that_was_not_measured():
    cluster = dataclasses.replace(HEALTHY, clocks={"a": Clock(offset=0.0, trip=0.1)})
    assert said(cluster, "host.clock") == [("a", "pass"), ("b", "unknown")]
    lost = dataclasses.replace(cluster, ssh=HEALTHY.ssh | {"b": SshState(check="ssh.auth")})
    assert said(lost, "host.clock") == [("a", "pass")], "that is ssh's to say"


def test_hosts_that_are_one_machine_have_one_clock():
    assert said(clocks(0.0, 9.0, same_machine=True), "host.clock")[:2] == [
        ("a", "pass"),
        ("b", "pass"),
    ]


# --- the system ---------------------------------------------------------------------------------


def machines(*ids_and_boots, container=False) -> ClusterFacts:
    names = "abcd"[: len(ids_and_boots)]
    return ClusterFacts(
        hosts=tuple(names),
        ssh={},
        facts={n: facts(boot_id=boot) for n, (_, boot) in zip(names, ids_and_boots, strict=True)},
        conditions={
            n: conditions(machine_id=id_, container=container)
            for n, (id_, _) in zip(names, ids_and_boots, strict=True)
        },
    )


def test_a_copied_disk_is_known_by_its_machine_id():
    verdict = only(machines(("x", "1"), ("y", "2"), ("x", "3")), "host.clone")
    assert (verdict.host, verdict.peer, verdict.status) == ("c", "a", "warn")
    # Where D-Bus keeps a copy, that one would be taken again.
    assert "rm -f /etc/machine-id /var/lib/dbus/machine-id; sudo systemd-mach" in verdict.hint
    verdict = only(machines(("x", "1"), ("x", "2"), ("x", "3")), "host.clone")
    assert (verdict.host, verdict.scope) == (None, "cluster")
    assert verdict.message.startswith("b, c have the machine-id of a: cloned")


@pytest.mark.parametrize(
    "ids_and_boots",
    [
        (("x", "1"), ("y", "2")),
        (("x", "1"), ("x", "1")),  # containers of one machine, or one machine twice
        (("", "1"), ("", "2")),  # none at all
    ],
)
def test_what_is_no_copy(ids_and_boots):
    assert {status for _, status in said(machines(*ids_and_boots), "host.clone")} == {"pass"}


def test_containers_of_one_image_are_alike():
    cluster = machines(("x", "1"), ("x", "2"), container=True)
    assert only(cluster, "host.clone").status == "info"


def test_a_copy_is_not_known_without_both_facts():
    cluster = dataclasses.replace(
        machines(("x", "1"), ("x", "2")), facts={"a": facts(), "b": "too late"}
    )
    assert said(cluster, "host.clone") == [("a", "pass"), ("b", "unknown")]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "pass"),
        ({"kills": True}, "fail"),
        # Lingering keeps the user's systemd, not the processes in a session's scope.
        ({"kills": True, "lingers": True}, "fail"),
        ({"kills": True, "spared": ("root", "u")}, "pass"),
        ({"kills": True, "only": ("guest",)}, "pass"),
        ({"kills": True, "only": ("guest", "u")}, "fail"),
        ({"kills": True, "in_session": False}, "pass"),
        ({"lingers": False}, "info"),
        ({"lingers": False, "removes_ipc": False}, "pass"),
    ],
)
def test_what_logind_does_at_logout(changes, status):
    session = dataclasses.replace(conditions().session, **changes)
    assert said(b_is(session=session), "host.logind") == [("a", "pass"), ("b", status)]


def test_system_users_keep_their_shared_memory_and_hosts_may_lack_logind():
    loses = dataclasses.replace(conditions().session, lingers=False)
    assert said(b_is(session=loses, uid=999), "host.logind")[1] == ("b", "pass")
    assert said(b_is(session=None), "host.logind")[1] == ("b", "pass")
    late = b_is(session="TimeoutError: busctl did not answer in 2 s")
    assert said(late, "host.logind")[1] == ("b", "unknown")


def test_what_is_worth_knowing_and_no_more():
    verdict = only(b_is(hides="hidepid=invisible"), "host.hidepid")
    assert (verdict.host, verdict.status) == ("b", "info")
    assert bad(b_is(hides="hidepid=2", uid=0, nproc=Limit())) == [], "root sees them all"
    verdict = only(b_is(locale="LC_ALL=xx_YY.UTF-8"), "env.locale")
    assert verdict.status == "info"
    assert verdict.message.startswith("LC_ALL=xx_YY.UTF-8 is not installed")


# --- disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"state": {"free": GIB - 1}}, [("fs.space", "b", "warn")]),
        ({"state": {"free": GIB}}, []),
        ({"workdir": {"free": 100 * MIB - 1}}, [("fs.space", "b", "warn")]),
        ({"workdir": {"free": 100 * MIB}}, []),
        ({"tmp": {"free": 0}}, [("fs.space", "b", "warn")]),
        ({"tmp": {"refused": "EDQUOT"}}, [("fs.space", "b", "warn")]),
        # Some do not tell how much there is; an image has no room and needs none.
        ({"tmp": {"free": 0, "total": 0, "inodes": 0, "inodes_free": 0}}, []),
        ({"workdir": {"free": 0, "read_only": True}}, [("fs.ro", "b", "warn")]),
        ({"workdir": {"inodes_free": 0, "read_only": True}}, [("fs.ro", "b", "warn")]),
        ({"workdir": {"refused": "EROFS"}}, [("fs.ro", "b", "warn")]),
        ({"workdir": {"refused": "EACCES"}}, [("fs.ro", "b", "info")]),
        ({"tmp": {"refused": "EACCES"}}, [("fs.ro", "b", "warn")]),
        ({"tmp": {"refused": "EIO"}}, [("fs.ro", "b", "warn")]),
        ({"workdir": {"there": False, "refused": None, "read_only": True}}, []),  # env.workdir's
        ({"state": {"inodes_free": 63}}, [("fs.inodes", "b", "fail")]),
        ({"state": {"inodes_free": 64}}, [("fs.inodes", "b", "warn")]),
        ({"state": {"inodes_free": 1000}}, []),
        ({"tmp": {"inodes_free": 0}}, [("fs.inodes", "b", "warn")]),
        ({"tmp": {"inodes_free": 0, "inodes": 0}}, []),  # btrfs has no such limit
        # XFS makes them of space: that is what is short.
        ({"tmp": {"inodes_free": 0, "free": 0}}, [("fs.space", "b", "warn")]),
        ({"tmp": {"noexec": True}}, [("fs.noexec", "b", "info")]),
        ({"state": {"noexec": True}}, [("fs.noexec", "b", "info")]),
        ({"shm": {"noexec": True}}, []),
        ({"shm": {"free": 64 * MIB, "total": 64 * MIB}}, [("fs.shm", "b", "warn")]),
        ({"shm": {"free": 64 * MIB, "total": 65 * MIB}}, []),
        ({"shm": {"free": 15 * MIB, "total": 64 * MIB}}, [("fs.shm", "b", "fail")]),
        ({"shm": {"free": 0, "total": 0}}, []),
        ({"shm": {"there": False}}, [("fs.shm", "b", "fail")]),
        ({"shm": {"refused": "EACCES"}}, [("fs.shm", "b", "fail")]),
        ({"shm": {"refused": "ENOSPC"}}, [("fs.shm", "b", "fail")]),
    ],
)
def test_disks(changes, found):
    assert bad(disks(**changes)) == found


@pytest.mark.parametrize(
    ("changes", "check", "hint"),
    [
        ({"tmp": {"read_only": True}}, "fs.ro", "; or there: sudo mount -o remount,rw /tmp"),
        ({"tmp": {"refused": "EACCES"}}, "fs.ro", "; or there: sudo chmod 1777 /tmp"),
        ({"workdir": {"refused": "EACCES"}}, "fs.ro", " elsewhere"),
        ({"tmp": {"refused": "EIO"}}, "fs.ro", " elsewhere"),
        ({"shm": {"read_only": True}}, "fs.shm", "sudo mount -o remount,rw /dev/shm"),
        ({"shm": {"refused": "EACCES"}}, "fs.shm", "sudo chmod 1777 /dev/shm"),
    ],
)
def test_what_opens_a_folder_depends_on_what_closes_it(changes, check, hint):
    assert only(disks(**changes), check).hint.endswith(hint)


def test_a_disk_is_spoken_of_once():
    """One that is full under all folders, of which fs.write says it already."""
    full = {"device": 7, "free": 50 * MIB, "read_only": False}
    cluster = disks(state=full, workdir=full, tmp=full)
    verdict = only(cluster, "fs.space")
    assert verdict.message == "/w has 50 MiB left", "three folders, one disk"
    state = HEALTHY.state | {"b": StateFolder(asked="~/.ddp-orch", free=50 * MIB, total=GIB)}
    assert bad(dataclasses.replace(cluster, state=state)) == [("fs.write", "b", "warn")]
    closed = {"device": 7, "read_only": True}
    cluster = disks(state=closed, workdir=closed)
    state["b"] = StateFolder(asked="~/.ddp-orch", problem="Read-only file system")
    assert bad(dataclasses.replace(cluster, state=state)) == [("fs.write", "b", "fail")]


def hung(**roles) -> ClusterFacts:
    late = {"answered": False, "problem": "no answer in 8 s", "type": "nfs4", "source": "filer:/x"}
    return disks(**{role: late | more for role, more in roles.items()})


def test_a_file_system_that_does_not_answer_is_the_cause():
    state = HEALTHY.state | {"b": StateFolder(asked="~/x", problem="its disk does not answer")}
    cluster = dataclasses.replace(hung(state={}), state=state)
    verdict = only(cluster, "fs.hang")
    assert (verdict.host, verdict.status) == ("b", "fail")
    assert verdict.message == "/home/u/.ddp-orch: nfs4 of filer:/x does not answer"
    assert "umount -fl /home/u/.ddp-orch" in verdict.hint
    assert only(cluster, "fs.write").caused_by == "fs.hang"
    fails = [(id_, host) for id_, host, status in bad(cluster) if status == "fail"]
    assert fails == [("fs.write", "b"), ("fs.hang", "b")]
    verdict = only(hung(state={"mount": "/"}), "fs.hang")
    assert "umount" not in verdict.hint, "not of all there is"


def test_a_disk_that_is_slow_to_write_is_not_dead():
    """A trial that is not over in time says nothing, where the file system itself has answered."""
    verdict = only(disks(workdir={"slow": True, "type": "ext4", "source": "/dev/sdb"}), "fs.hang")
    assert (verdict.host, verdict.status) == ("b", "warn")
    assert verdict.message == "/w: ext4 of /dev/sdb takes what is written too slowly"
    late = StateFolder(asked="~/x", problem="its disk does not answer", late=True)
    state = HEALTHY.state | {"b": late}
    assert bad(dataclasses.replace(disks(state={}), state=state)) == [("fs.write", "b", "warn")]
    # That one is dead.
    verdict = only(dataclasses.replace(hung(state={}), state=state), "fs.write")
    assert (verdict.status, verdict.caused_by) == ("fail", "fs.hang")


def test_what_nobody_could_look_at_is_unknown():
    cluster = hung(state={}, workdir={}, tmp={}, shm={})
    found = {v.id: (v.status, v.caused_by) for v in judge(cluster) if v.status != "pass"}
    assert found.pop("fs.hang") == ("fail", None)
    assert found.pop("fs.inodes") == ("unknown", "fs.hang")
    assert found == dict.fromkeys(
        ("fs.ro", "fs.noexec", "fs.space", "fs.shm"), ("unknown", "fs.hang")
    )

    # Of one that was not measured nothing passes, whatever the others are like.
    cluster = hung(state={})
    found = {v.id: v.status for v in judge(cluster) if v.host == "b" and v.id.startswith("fs.")}
    assert found == {
        "fs.write": "pass",
        "fs.hang": "fail",
        "fs.noexec": "unknown",
        "fs.space": "unknown",
        "fs.inodes": "unknown",
        "fs.ro": "pass",
        "fs.shm": "pass",
    }


def test_a_file_system_that_is_broken():
    stale = {"problem": "Stale file handle", "broken": True, "type": "nfs4", "source": "f:/x"}
    assert only(disks(workdir=stale), "fs.hang").message == (
        "/w: nfs4 of f:/x is broken (Stale file handle)"
    )
    assert bad(disks(workdir={"problem": "Permission denied"})) == [], "env.workdir says that"


def test_no_more_files_is_why_nothing_can_be_written():
    state = HEALTHY.state | {"b": StateFolder(asked="~/x", problem="No space left on device")}
    cluster = dataclasses.replace(disks(state={"inodes_free": 0}), state=state)
    assert only(cluster, "fs.write").caused_by == "fs.inodes"
    verdict = only(cluster, "fs.inodes")
    assert (verdict.status, verdict.caused_by) == ("fail", None)
    state["b"] = StateFolder(asked="~/x", problem="~/x belongs to root")
    assert only(dataclasses.replace(cluster, state=state), "fs.write").caused_by is None
    assert "room for 0 more files, whatever their size (40960 MiB are free)" in verdict.message


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "status"),
    [(256, "fail"), (1023, "fail"), (1024, "warn"), (4095, "warn"), (4096, "pass"), (None, "pass")],
)
def test_open_files(most, status):
    cluster = b_is(nofile=Limit(soft=most, hard=most))
    assert said(cluster, "lim.nofile") == [("a", "pass"), ("b", status)]
    if status != "pass":
        verdict = only(cluster, "lim.nofile")
        assert verdict.message == f"hard limit {most} open files"
        # A line for * is none for root.
        assert ": u hard nofile 65536" in verdict.hint


@pytest.mark.parametrize(
    ("soft", "adapters", "gpus", "status"),
    [
        (65536, (), 8, "pass"),
        (65536, ("mlx5_0",), 8, "warn"),
        (65536, ("mlx5_0",), None, "warn"),
        (65536, ("mlx5_0",), 0, "info"),
        (None, ("mlx5_0",), 8, "pass"),
        (65536, "no answer in 5 s", 8, "unknown"),
        (None, "no answer in 5 s", 8, "pass"),
    ],
)
def test_locked_memory_matters_to_infiniband(soft, adapters, gpus, status):
    cluster = dataclasses.replace(
        b_is(memlock=Limit(soft=soft, hard=soft), infiniband=adapters),
        facts={"a": facts(), "b": facts(machine=2, gpus=gpus)},
    )
    assert said(cluster, "lim.memlock") == [("a", "pass"), ("b", status)]


@pytest.mark.parametrize(
    ("changes", "gpus", "status"),
    [
        ({"nproc": Limit(soft=1000, hard=1000), "threads": 100}, 0, "pass"),
        ({"nproc": Limit(soft=299, hard=299), "threads": 200}, 0, "fail"),
        ({"nproc": Limit(soft=307, hard=307), "threads": 200}, 0, "warn"),  # 8 cores: 108
        ({"nproc": Limit(soft=308, hard=308), "threads": 200}, 0, "pass"),
        ({"nproc": Limit(soft=308, hard=308), "threads": 200}, 8, "warn"),
        ({"pid_groups": (Group(limit=1000, used=950),)}, 0, "fail"),
        ({"pid_groups": (Group(limit=1000, used=0), Group(limit=150, used=50))}, 0, "warn"),
        ({"nproc": Limit(), "pid_groups": ()}, 0, "pass"),
        ({"nproc": Limit(), "threads": "no answer in 5 s"}, 0, "pass"),
        ({"threads": "no answer in 5 s"}, 0, "unknown"),
        ({"pid_groups": "no answer in 5 s"}, 0, "unknown"),
    ],
)
def test_room_for_processes(changes, gpus, status):
    cluster = dataclasses.replace(
        b_is(**changes), facts={"a": facts(), "b": facts(machine=2, gpus=gpus)}
    )
    assert said(cluster, "lim.nproc") == [("a", "pass"), ("b", status)]


def test_the_tighter_limit_on_processes_is_named():
    tight = b_is(nproc=Limit(soft=250, hard=250), pid_groups=(Group(limit=150, used=110),))
    verdict = only(tight, "lim.nproc")
    assert verdict.message.startswith("a control group's limit of 150 processes leaves room for 40")
    assert "TasksMax" in verdict.hint
    verdict = only(
        dataclasses.replace(
            tight, conditions=tight.conditions | {"b": conditions(nproc=Limit(soft=250, hard=250))}
        ),
        "lim.nproc",
    )
    assert verdict.message.startswith("the limit of 250 processes leaves room for 50")
    assert "nproc 65536" in verdict.hint


@pytest.mark.parametrize(
    ("changes", "status", "part"),
    [
        ({"memory_groups": ()}, "pass", "60.0 GiB left"),
        ({"memory_groups": (Group(limit=4 * GIB, used=GIB),)}, "pass", "3.0 GiB left"),
        ({"memory_groups": (Group(limit=2 * GIB - 1, used=0),)}, "warn", "to 2.0 GiB of memory"),
        ({"memory_groups": (Group(limit=GIB, used=0),)}, "warn", "to 1.0 GiB of memory: what"),
        (
            {"memory_groups": (Group(limit=8 * GIB, used=8 * GIB - 511 * MIB),)},
            "warn",
            "511 MiB of memory left of the 8.0 GiB that a control group allows",
        ),
        # No limit, by a number that is larger than the machine.
        ({"memory_groups": (Group(limit=65 * GIB, used=65 * GIB),)}, "pass", "60.0 GiB left"),
        (
            {"memory": Memory(total=64 * GIB, available=200 * MIB), "memory_groups": ()},
            "warn",
            "200 MiB of memory left: what needs more is killed (rc 137)",
        ),
        ({"memory": "no answer in 5 s"}, "unknown", "no answer"),
        ({"memory_groups": "no answer in 5 s"}, "unknown", "no answer"),
    ],
)
def test_room_in_memory(changes, status, part):
    (verdict,) = [v for v in judge(b_is(**changes)) if v.id == "lim.cgroup_mem" and v.host == "b"]
    assert verdict.status == status
    assert part in verdict.message


def test_ordinary_hosts_have_nothing_bad_to_say():
    container = {
        "container": True,
        "uid": 0,
        "session": None,
        "memlock": Limit(),
        "nproc": Limit(),
        "pid_groups": (),
        "memory_groups": (Group(limit=4 * GIB, used=GIB),),
        "locale": "LANG=en_US.UTF-8",
        "machine_id": "x",
    }
    old = {"nofile": Limit(soft=4096, hard=4096), "nproc": Limit(soft=4096, hard=4096)}
    ubuntu = {"session": dataclasses.replace(conditions().session, lingers=False)}
    hardened = {"hides": "hidepid=2", "disks": {"tmp": {"noexec": True}, "shm": {"noexec": True}}}
    for changes in (container, old, ubuntu, hardened):
        assert not {"fail", "warn", "unknown"} & {status for _, _, status in bad(b_is(**changes))}


# --- answers that make no sense -----------------------------------------------------------------

TOLD = {
    "machine_id": "x",
    "container": False,
    "uid": 1000,
    "limits": {"nofile": [1, None], "memlock": [None, None], "nproc": [7, 8]},
    "threads": {"problem": "no answer in 5 s"},
    "session": None,
    "locale": None,
    "hides": {"problem": "no answer in 5 s"},
    "memory": {"total": 2, "available": 1},
    "memory_groups": [[4, 3]],
    "pid_groups": [],
    "infiniband": ["mlx5_0"],
    "disks": {
        "tmp": {
            "path": "/tmp",
            "mount": "/",
            "type": "nfs",
            "source": "f:/",
            "problem": "no answer",
        }
    },
}


def test_an_answer_is_understood():
    got = Conditions.parse(TOLD)
    assert got.nofile == Limit(soft=1, hard=None)
    assert (got.threads, got.hides, got.session) == ("no answer in 5 s", None, None)
    assert got.memory_groups == (Group(limit=4, used=3),)
    assert got.memory_groups[0].left == 1
    assert not got.disks["tmp"].answered
    assert got.disks["tmp"].problem == "no answer"
    told = {
        "kills": 1,
        "spared": ["root"],
        "only": [],
        "removes_ipc": 0,
        "lingers": 0,
        "in_session": 1,
    }
    assert Conditions.parse(TOLD | {"session": told}).session == Session(
        kills=True, spared=("root",), only=(), removes_ipc=False, lingers=False, in_session=True
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": "many"},
        {"limits": {}},
        {"limits": TOLD["limits"] | {"nproc": [1]}},
        {"threads": None},
        {"memory": {}},
        {"memory_groups": [[1, 2, 3]]},
        {"session": {}},
        {"disks": {"tmp": {}}},
        {"disks": {"tmp": TOLD["disks"]["tmp"] | {"answered": True, "problem": None}}},
    ],
)
def test_an_answer_without_sense_is_refused(changes):
    with pytest.raises((ValueError, TypeError, KeyError)):
        Conditions.parse(TOLD | changes)
