"""Whole runs on real OpenSSH hosts: each has an address, a name, a home, processes of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import boot
from tests.hosts.launched import empty
from tests.hosts.processes import until
from tests.reading import read_rest, read_until
from tests.workers import heed_ctrl_c, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

DDP_ORCH = [sys.executable, "-m", "orchestrator"]


def ddp_orch(cluster: Cluster, *words: object) -> subprocess.CompletedProcess[str]:
    return cluster.run([*DDP_ORCH, *map(str, words)], timeout=150)


def said(output: str, host: str, rank: int) -> list[str]:
    """Return the lines of one worker."""
    return re.findall(rf"^{host}\[r{rank}\]\| (.*)$", output, re.MULTILINE)


def table(output: str) -> list[list[str]]:
    """Return the rows of the last table of ranks."""
    _, _, after = output.rpartition("rank  host")
    rows = [line.split() for line in after.splitlines()[1:]]
    end = next((i for i, row in enumerate(rows) if not row or not row[0].isdigit()), len(rows))
    return rows[:end]


def block(rule: str) -> str:
    return f"table inet f {{\n chain c {{\n type filter hook input priority 0\n {rule}\n }}\n}}\n"


def nothing_was_started(cluster: Cluster) -> None:
    assert not [h.name for h in cluster.hosts if (h.home / ".ddp-orch").exists()]


@pytest.mark.parametrize(
    "order",
    [
        (2, 1, 0),
        pytest.param((0, 1, 2), marks=pytest.mark.slow),
        pytest.param((1, 2, 0), marks=pytest.mark.slow),
    ],
)
def test_ranks_follow_the_inventory_and_not_the_text_of_the_addresses(
    cluster: Cluster, order: tuple[int, ...]
) -> None:
    hosts = [cluster.hosts[i] for i in order]
    # One that is gone within milliseconds is perhaps not seen: these meet first.
    done = ddp_orch(cluster, "up", cluster.inventory(hosts), "--", worker("ranks"), "meet")
    assert done.returncode == 0, done.stdout + done.stderr
    for rank, host in enumerate(hosts):
        lines = said(done.stdout, host.name, rank)
        (me,) = [json.loads(line) for line in lines if line.startswith("{")]
        assert "sum 3" in lines
        assert (me["RANK"], me["GROUP_RANK"], me["WORLD_SIZE"]) == (str(rank), str(rank), "3")
        assert me["DDP_ORCH_NODE_RANK"] == str(rank)
        assert me["DDP_ORCH_HOSTS"] == ",".join(h.name for h in hosts)
    shown = [(row[0], row[1], row[2], row[3]) for row in table(done.stdout)]
    assert shown == [(str(r), h.name, h.address, str(r)) for r, h in enumerate(hosts)]


@pytest.mark.slow
def test_ranks_are_the_same_after_a_restart_of_all_workers(cluster: Cluster) -> None:
    hosts = cluster.hosts[::-1]  # 10.77.0.100 is the head, the lowest as a text is the last
    script = [worker("ranks"), "fail-first"]
    done = ddp_orch(cluster, "up", "--max-restarts", 1, cluster.inventory(hosts), "--", *script)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank, host in enumerate(hosts):
        lines = said(done.stdout, host.name, rank)
        rounds = [json.loads(line) for line in lines if line.startswith("{")]
        assert len(rounds) == 2, lines
        assert [r["GROUP_RANK"] for r in rounds] == [str(rank)] * 2
        assert lines.count("sum 3") == 2
    assert done.stdout.count("all workers run") == 2


def test_an_exception_on_one_rank_ends_the_run_and_is_named(cluster: Cluster) -> None:
    """The others sleep, outside any collective: torchrun itself would never tell them."""
    inventory = cluster.inventory()
    done = ddp_orch(cluster, "up", "-q", inventory, "--", worker("raises"), 1)
    assert done.returncode == 100, done.stdout + done.stderr
    assert "first failure: rank 1 on n2, exit code 1: ValueError: the data is broken" in done.stdout
    lines = said(done.stdout, "n2", 1)
    assert [line for line in lines if line.startswith("last words")] == [
        f"last words {i}" for i in range(200)
    ], "every line of the failing worker is there"
    assert "stopping everywhere: rank 1 on n2 exited with code 1" in done.stdout


def test_what_a_worker_left_in_the_background_has_its_grace_and_is_told_of(
    cluster: Cluster,
) -> None:
    """An upload that nobody waited for: on n1 it saves what it has, on n2 there is none."""
    hosts = cluster.hosts[:2]
    upload = "trap 'sleep 1; touch saved; exit' TERM; touch begun; while :; do sleep 600; done"
    script = (
        f'test "$RANK" = 1 || (sh -c "{upload}" & while [ ! -e begun ]; do sleep 0.01; done); '
        "sleep 1"
    )
    inventory = cluster.inventory(hosts)
    words = ["up", "-q", "-n", "late", "--no-python", inventory, "--", "sh", "-c", script]
    done = ddp_orch(cluster, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = re.findall(r"(\w+): 2 processes that workers left in the background were ended",
                         done.stdout + done.stderr)  # fmt: skip
    assert told == "n1"
    assert (hosts[0].home / ".ddp-orch/runs/late/0/saved").exists()
    empty(*hosts)


@pytest.mark.slow
def test_a_torchrun_that_is_killed_ends_the_run_everywhere(cluster: Cluster) -> None:
    """Its workers are orphans then, and no other node ever hears of it."""
    with running(cluster, "up", "-q", cluster.inventory(), "--", worker("stubborn")) as run:
        read_until(run, "ready", times=3)
        victim = cluster.hosts[2]
        (torchrun,) = [
            pid for pid, line in victim.pids().items() if "torch.distributed.run" in line
            and "supervisor" not in line
        ]  # fmt: skip
        victim.kill(torchrun, signal.SIGKILL)
        out = read_rest(run, 90)
    assert run.returncode == 100, out
    assert "torchrun on n3" in out
    assert "SIGKILL" in out


@contextmanager
def running(cluster: Cluster, *words: object) -> Iterator[subprocess.Popen[str]]:
    """An `up` under way. What the body does not wait for is killed: a test must not hang on it."""
    run = cluster.popen(
        [*DDP_ORCH, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=heed_ctrl_c,
    )
    try:
        yield run
    finally:
        run.kill()
        run.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_leaves_nothing_of_workers_that_refuse_to_go(cluster: Cluster, presses: int) -> None:
    """The fixture then looks at every process of every host."""
    with running(cluster, "up", "-q", cluster.inventory(), "--", worker("stubborn")) as run:
        read_until(run, "ready", times=3)
        before = [set(host.pids()) for host in cluster.hosts]
        assert all(len(pids) > 8 for pids in before), "the zoo is there"
        run.send_signal(signal.SIGINT)
        seen = read_until(run, "stopping everywhere: interrupted", times=1)
        if presses == 2:
            run.send_signal(signal.SIGINT)
        out = read_rest(run, 90)
    assert run.returncode == 130, seen + out
    left = {host.name: pids for host in cluster.hosts if (pids := host.pids())}
    assert not {
        n: p for n, p in left.items() if any("sleep" in c or "stubborn" in c for c in p.values())
    }


@pytest.mark.slow
def test_a_controller_that_is_killed_leaves_the_job_as_it_is(cluster: Cluster) -> None:
    words = ("up", "-q", "-n", "alone", cluster.inventory(), "--", worker("stubborn"))
    with running(cluster, *words) as run:
        read_until(run, "ready", times=3)
        run.kill()
        run.communicate(timeout=30)
    for host in cluster.hosts:
        until(lambda host=host: not agents(host), "the agent has gone", seconds=60)
        there = "\n".join(host.pids().values())
        assert all(what in there for what in ("distributed.run", "stubborn", "sleep"))
    for rank, host in enumerate(cluster.hosts):  # which the others are told of
        assert stop(host, f"{host.home}/.ddp-orch/runs/alone/{rank}")["verified"]
    until(lambda: not any(host.pids() for host in cluster.hosts), "the hosts are empty")


def agents(host: NsHost) -> list[int]:
    """Return who talks to a controller; what is started for a run says so in its last words."""
    python = [(pid, line) for pid, line in host.pids().items() if "-I -S -c" in line]
    return [pid for pid, line in python if " ddp-orch " not in line]


def stop(host: NsHost, folder: str) -> dict[str, Any]:
    """End a run there as the agent does."""
    entry = f"import json;print(json.dumps(m.stop(None, {folder!r}, 0.0)))"
    text = boot.program(boot.in_order(["stopping"]), entry)
    got: dict[str, Any] = json.loads(host.run([sys.executable, "-"], input=text).stdout)
    return got


def test_a_changed_host_key_is_refused_and_nothing_is_started(cluster: Cluster) -> None:
    before = cluster["n2"].known_hosts_line()
    cluster["n2"].new_host_key()
    done = ddp_orch(
        cluster, "up", "--accept-new-host-keys", cluster.inventory(), "--", worker("ranks")
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ssh.hostkey  n2: its key has CHANGED" in done.stdout
    fingerprints = set(re.findall(r"SHA256:\S+?(?=[,; ])", done.stdout))
    assert fingerprints == {fingerprint(before), fingerprint(cluster["n2"].known_hosts_line())}
    assert f"ssh-keygen -R 10.77.0.10 -f {cluster.known_hosts}" in done.stdout
    nothing_was_started(cluster)


def fingerprint(line: str) -> str:
    run = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=line, capture_output=True, text=True, check=True
    )
    return run.stdout.split()[1]


def test_every_known_key_of_a_host_will_do_but_not_a_revoked_one(cluster: Cluster) -> None:
    now = cluster["n1"].known_hosts_line().strip()
    other = cluster["n2"].known_hosts_line().split()[1:]
    inventory = cluster.inventory(cluster.hosts[:1])
    # An old key and the new one, as while keys are rotated.
    cluster.known_hosts.write_text(f"{now}\n{' '.join(['10.77.0.9', *other])}\n")
    assert ddp_orch(cluster, "check", inventory).returncode == 0
    cluster.known_hosts.write_text(f"{now}\n@revoked {now}\n")
    done = ddp_orch(cluster, "check", "--accept-new-host-keys", inventory)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"is revoked in {cluster.known_hosts}:2" in done.stdout


def test_an_unknown_host_key_is_refused_until_it_is_accepted(cluster: Cluster) -> None:
    cluster.known_hosts.write_text(cluster["n1"].known_hosts_line() + "\n")
    inventory = cluster.inventory(cluster.hosts[:2])
    done = ddp_orch(cluster, "check", inventory)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ssh.hostkey  n2: its key is not known" in done.stdout
    assert fingerprint(cluster["n2"].known_hosts_line()) in done.stdout
    assert "--accept-new-host-keys" in done.stdout
    done = ddp_orch(cluster, "check", "--accept-new-host-keys", inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    key = fingerprint(cluster["n2"].known_hosts_line())
    told = f"accepted, and added to {cluster.known_hosts}: 10.77.0.10 (ssh-ed25519 {key})\n"
    assert done.stdout.count(told) == 1
    done = ddp_orch(cluster, "check", inventory)
    assert done.returncode == 0, "it was written to known_hosts"
    assert "accepted" not in done.stdout


def test_exec_tells_once_what_keeps_it_from_many_hosts(cluster: Cluster) -> None:
    inventory = cluster.inventory(defaults={"identity_file": "/no/such/key"})
    done = ddp_orch(cluster, "exec", inventory, "--", "true")
    assert done.returncode == 4
    assert done.stderr.splitlines()[0] == "ddp-orch: n1, n2, n3: no such key: /no/such/key"
    assert done.stderr.count("no such key") == 1


@pytest.mark.parametrize("verb", [["check"], ["exec"]])
def test_a_key_that_cannot_be_kept_is_told_in_one_line(cluster: Cluster, verb: list[str]) -> None:
    nowhere = "/proc/known_hosts"
    inventory = cluster.inventory(defaults={"known_hosts": nowhere})
    words = ["--", "true"] if verb == ["exec"] else []
    done = ddp_orch(cluster, *verb, "--accept-new-host-keys", inventory, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    told = f"new keys were accepted, but not added to {nowhere}: "
    assert (done.stdout + done.stderr).count(told) == 1


def alone(host: NsHost) -> str:
    return f"127.0.0.1 localhost\n127.0.1.1 {host.hostname}\n"


def docker(host: NsHost) -> str:
    host.run(["ip", "link", "add", "docker0", "type", "bridge"])
    host.run(["ip", "address", "add", "172.17.0.1/16", "dev", "docker0"])
    host.run(["ip", "link", "set", "docker0", "up"])
    return f"127.0.0.1 localhost\n172.17.0.1 {host.hostname}\n"


@pytest.mark.slow
@pytest.mark.parametrize("names", [alone, docker])
def test_a_host_whose_own_name_is_wrong_works_without_an_edit(cluster: Cluster, names) -> None:
    """Debian writes 127.0.1.1; docker0 is the same everywhere; by default they do not resolve."""
    try:
        for host in cluster.hosts:
            host.set_hosts(names(host))
        inventory = cluster.inventory(cluster.hosts[::-1])
        done = ddp_orch(cluster, "up", inventory, "--", worker("ranks"), "meet")
        assert done.returncode == 0, done.stdout + done.stderr
        assert [row[2] for row in table(done.stdout)] == [h.address for h in cluster.hosts[::-1]]
        assert done.stdout.count("sum 3") == 3
    finally:
        for host in cluster.hosts:
            host.run(["ip", "link", "delete", "docker0"], check=False)


def test_a_block_between_two_hosts_is_found_before_anything_starts(cluster: Cluster) -> None:
    """Only ssh is let in, as on many a cluster; from n3 alone, so the pair is named."""
    cluster["n1"].nft(block("ip saddr 10.77.0.100 tcp dport != 22 drop"))
    inventory = cluster.inventory()
    done = ddp_orch(cluster, "up", inventory, "--", worker("ranks"))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "FAIL net.pair  n1 and n3 cannot open TCP to each other" in done.stdout
    assert "causes: net.rdzv n3 -> n1\n" in done.stdout
    assert done.stdout.count("FAIL net.") == 1
    nothing_was_started(cluster)


def test_a_script_that_is_on_the_hosts_alone_runs_in_place(cluster: Cluster) -> None:
    script = "/tmp/job/only-there.py"
    inventory = cluster.inventory(cluster.hosts[:2], defaults={"workdir": "/tmp/job"})
    try:
        for host in cluster.hosts[:2]:
            host.write(script, "import os\nprint(os.uname().nodename, __file__, os.getcwd())\n")
        done = ddp_orch(cluster, "up", inventory, "--", script)
    finally:
        for host in cluster.hosts[:2]:
            host.run(["rm", "-r", "/tmp/job"])
    assert done.returncode == 0, done.stdout + done.stderr
    for rank, host in enumerate(cluster.hosts[:2]):
        assert said(done.stdout, host.name, rank) == [f"{host.hostname} {script} /tmp/job"]


def test_exec_runs_everywhere_and_ends_with_the_worst_code(cluster: Cluster) -> None:
    inventory = cluster.inventory()
    done = ddp_orch(cluster, "exec", inventory, "--", "hostname; test $(hostname) != n2.invalid")
    assert done.returncode == 1, done.stdout + done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{h.name}| {h.hostname}" for h in cluster.hosts]
    assert done.stderr == "ddp-orch: n2: exit code 1\n"
    done = ddp_orch(cluster, "exec", inventory, "--", "printf", "%s\\n", "a  b", "$(id)", "--")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("n1| a  b\nn1| $(id)\nn1| --\n") == 1


def test_the_hosts_keep_a_private_record_and_the_controller_every_byte(cluster: Cluster) -> None:
    inventory = cluster.inventory(cluster.hosts[:2])
    done = ddp_orch(cluster, "up", "-n", "kept", inventory, "--", worker("ranks"))
    assert done.returncode == 0, done.stdout + done.stderr
    record = cluster.home / ".local/state/ddp-orch/runs/kept"
    for rank, host in enumerate(cluster.hosts[:2]):
        there = host.home / f".ddp-orch/runs/kept/{rank}"
        assert there.stat().st_mode & 0o777 == 0o700
        assert json.loads((there / "exit.json").read_text())["code"] == 0
        brought = (record / f"logs/rank{rank}.out").read_bytes()
        assert brought == (there / f"worker-logs/0/r{rank}.out").read_bytes()
        assert brought.endswith(b"}\n")
    assert record.stat().st_mode & 0o777 == 0o700
    events = [json.loads(line) for line in (record / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "Ended"
    assert events[-1]["exit_code"] == 0
