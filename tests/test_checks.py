"""Facts in, verdicts out."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.checks import CATALOGUE, IDS, SKIPPABLE, Rules, failures, judge
from orchestrator.facts import (
    Clock,
    ClusterFacts,
    Conditions,
    Dialled,
    Disk,
    Group,
    HostFacts,
    Interface,
    Interfaces,
    Interpreter,
    Limit,
    Listening,
    Memory,
    Network,
    Session,
    SshState,
    StateFolder,
    Strays,
)

GOOD = Interpreter(executable="/v/bin/python", version="3.11.7", torch="2.6.0+cu124")


STAGES = (
    *("ssh.config", "ssh.jump", "ssh.name", "ssh.banner", "ssh.hostkey", "ssh.auth", "ssh.agent"),
)


def facts(interpreter: Interpreter = GOOD, *, machine: int = 1, **changes) -> HostFacts:
    whole = HostFacts(
        hostname="h",
        boot_id="b",
        network_id=machine,
        user="u",
        home="/home/u",
        cores=8,
        gpus=0,
        addresses=(("lo", "127.0.0.1"), ("eth0", f"10.0.0.{machine}")),
        ssh_address=f"10.0.0.{machine}",
        own_name=(f"10.0.0.{machine}",),
        interpreter=interpreter,
    )
    return dataclasses.replace(whole, **changes)


def conditions(**changes) -> Conditions:
    """Return a host at its best; `disks` are changes to its folders, by role."""
    paths = {"state": "/home/u/.ddp-orch", "workdir": "/w", "tmp": "/tmp", "shm": "/dev/shm"}
    disks = {
        role: Disk(
            path=path,
            mount=path,
            type="ext4",
            source="/dev/sda1",
            device=number,
            free=40 << 30,
            total=80 << 30,
            inodes_free=1 << 20,
            inodes=1 << 21,
        )
        for number, (role, path) in enumerate(paths.items())
    }
    for role, more in changes.pop("disks", {}).items():
        disks[role] = dataclasses.replace(disks[role], **more)
    whole = Conditions(
        machine_id="",
        container=False,
        uid=1000,
        nofile=Limit(soft=65536, hard=1 << 20),
        memlock=Limit(soft=8 << 20, hard=8 << 20),
        nproc=Limit(soft=96365, hard=96365),
        threads=200,
        pid_groups=(Group(limit=10813, used=100),),
        memory=Memory(total=64 << 30, available=60 << 30),
        memory_groups=(Group(limit=32 << 30, used=1 << 30),),
        infiniband=(),
        session=Session(
            kills=False,
            spared=("root",),
            only=(),
            in_session=True,
            removes_ipc=True,
            lingers=True,
        ),
        hides=None,
        locale=None,
        disks=disks,
    )
    return dataclasses.replace(whole, **changes)


def network(machine: int = 1) -> Network:
    return Network(
        addresses=(("lo", "127.0.0.1"), ("eth0", f"10.0.0.{machine}")),
        prefixes={"127.0.0.1": 8, f"10.0.0.{machine}": 24},
        ssh_address=f"10.0.0.{machine}",
        hostname="h",
        machine=f"b {machine}",
    )


ORDINARY = Interfaces(
    interfaces=(Interface(name="eth0", mtu=1500), Interface(name="lo", mtu=65536)),
    ephemeral=(32768, 60999),
)
HEALTHY = ClusterFacts(
    hosts=("a", "b"),
    ssh={"a": SshState(seconds=0.25), "b": SshState(seconds=0.5)},
    facts={"a": facts(), "b": facts(machine=2)},
    state=dict.fromkeys("ab", StateFolder(asked="~/.ddp-orch", free=1 << 30, total=1 << 34)),
    conditions=dict.fromkeys("ab", conditions()),
    clocks=dict.fromkeys("ab", Clock(offset=0.0, trip=0.01)),
    strays=dict.fromkeys("ab", Strays()),
    ping={"a": 1.25, "b": 2.0},
    networks={"a": network(), "b": network(2)},
    interfaces=dict.fromkeys("ab", ORDINARY),
    listening=Listening(port=41000),
    candidates={"a": ("10.0.0.1",), "b": ("10.0.0.2",)},
    dialled={
        ("a", "b"): (Dialled(address="10.0.0.2", local="10.0.0.1", ms=3.0),),
        ("b", "a"): (Dialled(address="10.0.0.1", local="10.0.0.2", ms=3.0),),
    },
    rendezvous={"b": (Dialled(address="10.0.0.1", local="10.0.0.2", ms=3.0),)},
    from_here=Dialled(address="10.0.0.1", error="ETIMEDOUT", phase="connect"),
)


def but(**changes) -> ClusterFacts:
    return dataclasses.replace(HEALTHY, **changes)


def said(cluster: ClusterFacts, check: str) -> list[tuple]:
    return [(v.host, v.status) for v in judge(cluster) if v.id == check]


def only(cluster: ClusterFacts, check: str):
    (verdict,) = [v for v in judge(cluster) if v.id == check and v.status != "pass"]
    return verdict


GPU_IDS = tuple(
    "gpu.smi gpu.count gpu.lost gpu.ecc gpu.exclusive gpu.fabric gpu.mig gpu.busy gpu.model_mix "
    "gpu.driver_drift".split()
)


def test_ids_are_stable():
    ids = """
        ssh.config ssh.jump ssh.name ssh.reach ssh.banner ssh.hostkey ssh.auth ssh.agent
        ssh.noise
        host.dup host.clone host.clock host.logind host.hidepid
        env.locale
        fs.write fs.hang fs.ro fs.noexec fs.space fs.inodes fs.shm
        lim.nofile lim.memlock lim.nproc lim.cgroup_mem
        env.python env.torch env.torchrun env.cuda env.torch_drift env.nccl_drift env.python_drift
        env.workdir env.script env.code_drift
        gpu.smi gpu.count gpu.lost gpu.ecc gpu.exclusive gpu.fabric gpu.mig gpu.busy
        gpu.model_mix gpu.driver_drift
        run.leftover
        net.ping net.name.self net.name.peer net.nic net.if_env net.ipv6_only
        host.nat
        ib.link
        net.port.rdzv net.pair net.rdzv net.payload net.mtu_diff
        sec.rdzv_open
    """
    assert tuple(ids.split()) == IDS
    assert len(set(IDS)) == len(IDS)
    assert set(IDS) - set(SKIPPABLE) == {"ssh.reach", *STAGES}, "no start without a connection"
    assert all(check.about and check.without and check.how for check in CATALOGUE)


def both(*ids) -> list[tuple]:
    return [(id_, host, "pass") for id_ in ids for host in "ab"]


def test_a_healthy_cluster():
    verdicts = judge(HEALTHY)
    assert [(v.id, v.host, v.status) for v in verdicts] == [
        ("ssh.reach", "a", "pass"),
        ("ssh.reach", "b", "pass"),
        ("host.dup", "a", "pass"),
        ("host.dup", "b", "pass"),
        *both("host.clone", "host.clock", "host.logind", "host.hidepid", "env.locale"),
        *both("fs.write", "fs.hang", "fs.ro", "fs.noexec", "fs.space", "fs.inodes", "fs.shm"),
        *both("lim.nofile", "lim.memlock", "lim.nproc", "lim.cgroup_mem"),
        ("env.python", "a", "pass"),
        ("env.python", "b", "pass"),
        ("env.torch", "a", "pass"),
        ("env.torch", "b", "pass"),
        ("env.torchrun", "a", "pass"),
        ("env.torchrun", "b", "pass"),
        ("env.torch_drift", None, "pass"),
        ("env.python_drift", None, "pass"),
        ("run.leftover", "a", "pass"),
        ("run.leftover", "b", "pass"),
        ("net.ping", "a", "pass"),
        ("net.ping", "b", "pass"),
        ("net.name.self", "a", "pass"),
        ("net.name.self", "b", "pass"),
        ("net.nic", "a", "pass"),
        ("net.nic", "b", "pass"),
        ("net.port.rdzv", "a", "pass"),
        ("net.pair", "a", "pass"),
        ("net.pair", "b", "pass"),
        ("net.rdzv", "b", "pass"),
        ("net.payload", "a", "pass"),
        ("net.payload", "b", "pass"),
        ("net.mtu_diff", "a", "pass"),
        ("net.mtu_diff", "b", "pass"),
        ("sec.rdzv_open", "a", "pass"),
    ]
    assert failures(verdicts) == []


def test_of_what_was_not_measured_nothing_passes():
    verdicts = judge(ClusterFacts(hosts=("a", "b"), ssh={}))
    assert {v.status for v in verdicts} == {"unknown", "skip"}
    assert {v.id for v in verdicts} == {
        *("ssh.reach", "net.ping", "net.port.rdzv", "net.pair", "net.rdzv", "net.payload"),
        "sec.rdzv_open",
    }


def test_skipped_checks_are_not_judged():
    verdicts = judge(HEALTHY, Rules(skip=frozenset({"net.ping", "env.torch"})))
    # Of a connection that stands ssh.reach tells alone. The others have nothing to say of what is
    # not there, or where the inventory asks for nothing.
    silent = {"ssh.noise", *STAGES, "env.workdir", "net.name.peer", "net.if_env", *GPU_IDS}
    silent |= {"net.ipv6_only", "host.nat", "ib.link"}
    silent |= {"env.cuda", "env.nccl_drift", "env.script", "env.code_drift"}
    assert {v.id for v in verdicts} == set(IDS) - silent - {"net.ping", "env.torch"}


# --- each finding -------------------------------------------------------------------------------


@pytest.mark.parametrize("check", STAGES)
def test_the_stage_that_failed_names_the_verdict(check):
    state = SshState(check=check, message="no", hint="do", address="10.0.0.2")
    verdict = only(but(ssh=HEALTHY.ssh | {"b": state}), check)
    assert (verdict.host, verdict.status, verdict.message, verdict.hint) == (
        "b",
        "fail",
        "no",
        "do",
    )
    assert verdict.evidence == {"tried": "10.0.0.2"}


def test_a_noisy_shell_is_a_warning():
    noisy = SshState(noise="\nWelcome to gpu7\nmore\n")
    verdict = only(but(ssh=HEALTHY.ssh | {"b": noisy}), "ssh.noise")
    assert (verdict.host, verdict.status) == ("b", "warn")
    assert verdict.message.endswith("prints: Welcome to gpu7")
    assert verdict.hint


def test_a_shell_that_prints_empty_lines_alone():
    silent = but(ssh={"a": SshState(noise="\n \n"), "b": SshState()})
    assert said(silent, "ssh.noise") == []


@pytest.mark.parametrize(
    ("interpreter", "python", "torch"),
    [
        (Interpreter(problem="not found"), "fail", "unknown"),
        (Interpreter(), "fail", "unknown"),
        (Interpreter(executable="/p", version="3.11"), "pass", "fail"),
        (Interpreter(executable="/p", torch="2.5.1"), "pass", "fail"),
        (Interpreter(executable="/p", torch="1.13.1+cu117"), "pass", "fail"),
        (Interpreter(executable="/p", torch="2.6.0"), "pass", "pass"),
        (Interpreter(executable="/p", torch="2.10.0a0+gitabc"), "pass", "pass"),
        (Interpreter(executable="/p", torch="3.0"), "pass", "pass"),
        (Interpreter(executable="/p", torch="2.6rc1"), "pass", "pass"),
        (Interpreter(executable="/p", torch="strange"), "pass", "fail"),
    ],
)
def test_interpreters(interpreter, python, torch):
    cluster = but(facts={"a": facts(), "b": facts(interpreter)})
    assert said(cluster, "env.python") == [("a", "pass"), ("b", python)]
    assert said(cluster, "env.torch") == [("a", "pass"), ("b", torch)]


def test_without_an_interpreter_torch_is_the_consequence():
    broken = facts(Interpreter(problem="not found", seen=("/v/bin/python",)))
    cluster = but(facts={"a": facts(), "b": broken})
    assert only(cluster, "env.torch").caused_by == "env.python"
    verdict = only(cluster, "env.python")
    assert verdict.message == "python3: not found"
    assert "/v/bin/python" in verdict.hint


def test_an_interpreter_that_lacks_its_libraries_is_not_another_one_to_be_named():
    why = "is no Python: python3: error while loading shared libraries: libpython3.12.so.1.0: no"
    broken = facts(Interpreter(problem=why, seen=("/v/bin/python",)))
    verdict = only(but(facts={"a": facts(), "b": broken}), "env.python")
    assert verdict.hint
    assert "env: {LD_LIBRARY_PATH: ...}" in verdict.hint


def test_facts_that_could_not_be_had():
    cluster = but(facts={"a": facts(), "b": "no answer in 25 s"})
    for check in ("host.dup", "env.python", "env.torch", "net.name.self"):
        verdict = only(cluster, check)
        assert (verdict.host, verdict.status, verdict.message) == (
            *("b", "unknown"),
            "no answer in 25 s",
        )


def test_two_names_for_one_machine():
    cluster = but(facts={"a": facts(), "b": facts()})
    verdict = only(cluster, "host.dup")
    assert (verdict.status, verdict.host, verdict.peer) == ("fail", "b", "a")
    assert "same_machine" in verdict.hint
    assert said(dataclasses.replace(cluster, same_machine=True), "host.dup") == [
        ("a", "pass"),
        ("b", "pass"),
    ]
    # Containers of one machine have its boot id, but networks of their own.
    assert said(HEALTHY, "host.dup") == [("a", "pass"), ("b", "pass")]


@pytest.mark.parametrize(
    ("own", "status", "named"),
    [
        (("10.0.0.2",), "pass", "10.0.0.2"),
        (("127.0.1.1",), "info", "127.0.1.1"),
        (("127.0.0.1",), "info", "127.0.0.1"),
        (("10.0.0.2", "172.17.0.1"), "info", "172.17.0.1"),
        (None, "info", "nothing"),
    ],
)
def test_a_hosts_own_name_is_information_only(own, status, named):
    cluster = but(facts={"a": facts(), "b": facts(machine=2, own_name=own)})
    assert said(cluster, "net.name.self") == [("a", "pass"), ("b", status)]
    (verdict,) = [v for v in judge(cluster) if v.id == "net.name.self" and v.host == "b"]
    assert named in verdict.message


@pytest.mark.parametrize(
    ("ping", "status"),
    [({"b": None}, "info"), ({"b": "not permitted"}, "skip"), ({}, "skip"), ({"b": 0.0}, "pass")],
)
def test_a_ping_is_information_only(ping, status):
    assert said(but(ping={"a": 1.0} | ping), "net.ping") == [("a", "pass"), ("b", status)]


@pytest.mark.parametrize(
    ("error", "holder", "part"),
    [
        ("EADDRINUSE", "77 (python)", "port 29500 is taken by pid 77 (python)"),
        ("EADDRINUSE", None, "port 29500 is taken by another user's process"),
        ("EACCES", None, "port 29500 may not be opened by this user"),
    ],
)
def test_a_port_that_is_not_free(error, holder, part):
    cluster = but(port=29500, listening=Listening(error=error, holder=holder), rendezvous={})
    verdict = only(cluster, "net.port.rdzv")
    assert (verdict.status, verdict.host) == ("fail", "a")
    assert verdict.message.startswith(part)
    assert verdict.hint.startswith("rendezvous: {port: auto}")
    pair = only(cluster, "net.rdzv")
    assert (pair.status, pair.caused_by) == ("unknown", "net.port.rdzv")


def test_a_folder_that_cannot_be_written_to_is_named_and_a_way_out():
    state = StateFolder(asked="/scratch/u", problem="No space left on device")
    verdict = only(but(state=HEALTHY.state | {"b": state}), "fs.write")
    assert (verdict.host, verdict.status) == ("b", "fail")
    assert verdict.message == (
        "/scratch/u, where the runs' folders go, cannot be used: No space left on device"
    )
    assert (
        "`state_dir:` to a folder elsewhere on that host, such as /tmp/u-ddp-orch" in verdict.hint
    )


@pytest.mark.parametrize(
    ("free", "total", "status"),
    [
        ((100 << 20) - 1, 1 << 34, "warn"),
        (100 << 20, 1 << 34, "pass"),
        (0, 0, "pass"),  # as some of FUSE, which do not tell
    ],
)
def test_little_room_is_a_warning(free, total, status):
    state = HEALTHY.state | {"b": StateFolder(asked="~/.ddp-orch", free=free, total=total)}
    assert said(but(state=state), "fs.write") == [("a", "pass"), ("b", status)]


def test_a_folder_that_could_not_be_tried_is_unknown():
    state = HEALTHY.state | {"b": "the connection was closed"}
    verdict = only(but(state=state), "fs.write")
    assert (verdict.host, verdict.status) == ("b", "unknown")


# --- of all of them -----------------------------------------------------------------------------

SICK = [
    HEALTHY,
    ClusterFacts(hosts=("a", "b", "c"), ssh={}),
    but(ssh={"a": SshState(check="ssh.auth", message="no", hint="do"), "b": SshState()}),
    but(facts={"a": facts(Interpreter(problem="x")), "b": facts(Interpreter(executable="/p"))}),
    but(facts={"a": facts(Interpreter(executable="/p", torch="2.0")), "b": "gone"}),
    but(listening=Listening(error="EADDRINUSE")),
    but(listening=Listening(error="EACCES")),
    but(candidates={}, dialled={}, rendezvous={}),
    but(rendezvous={"b": (Dialled(address="10.0.0.1", error="EHOSTUNREACH"),)}),
]


@pytest.mark.parametrize("cluster", SICK, ids=range(len(SICK)))
def test_every_fail_says_what_to_do_and_nothing_is_said_twice(cluster):
    verdicts = judge(cluster)
    assert all(v.hint for v in failures(verdicts))
    places = [(v.id, v.host, v.peer) for v in verdicts]
    assert len(set(places)) == len(places)
    assert {v.id for v in verdicts} <= set(IDS)
    assert {v.host for v in verdicts if v.scope != "cluster"} <= set(cluster.hosts)


# --- what the inventory asks for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"workdir": "/w"}, "pass", "/w"),
        (
            {"workdir": "/w", "workdir_problem": "is not there"},
            "fail",
            "workdir /w is not there",
        ),
        ({"workdir_problem": "no answer in 5 s"}, "unknown", "~/w: no answer in 5 s"),
    ],
)
def test_the_folder_to_start_in(changes, status, message):
    told = but(workdirs={"b": "~/w"}, facts={"a": facts(), "b": facts(machine=2, **changes)})
    (verdict,) = [v for v in judge(told) if v.id == "env.workdir"]
    assert (verdict.host, verdict.status, verdict.message) == ("b", status, message)
    assert bool(verdict.hint) == (status == "fail")


def test_what_is_asked_for_of_a_host_that_did_not_tell():
    told = but(workdirs={"b": "~/w"}, facts={"a": facts(), "b": "too late"})
    assert said(told, "env.workdir") == [("b", "unknown")]
