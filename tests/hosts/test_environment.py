"""What workers run in, on real hosts: environment, secrets, `python:`, `setup:` and workdir."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.hosts.processes import until
from tests.hosts.smi import PROGRAM, gpu, torch_built_for
from tests.hosts.test_up import DDP_ORCH, ddp_orch, running, said
from tests.lab.test_up import NASTY
from tests.reading import read_rest, read_until
from tests.workers import worker

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

NASTY_ENV = {
    "SPACES": "  two  words ",
    "QUOTES": "it's \"quoted\" `id` ''",
    "DOLLARS": "$HOME ${HOME} $$ $(touch /tmp/pwned) $local_rank ${local_rank}",
    "BACKSLASHES": "\\ \\\\ \\n \\x41 \\",
    "LINES": "a\nb\n\n",
    "TABS": "\ta\r\x0b\x1b[31m\x7f",
    "UNICODE": "käse 🧀 \u202e日本",
    "EMPTY": "",
    "ASSIGNED": "=x=y==",
    "OPTION": "--nnodes=7",
    "GLOB": "* ? [a] {b,c} ~ ! # ; | & < >",
    "FORMAT": "%s %d {0} {node_rank}",
}
NO_TEXT = b"caf\xe9 \xff\xfe\n\xc3"


def inventory(cluster: Cluster, *hosts: dict[str, Any], **fields: Any) -> Path:
    """Write an inventory of as many hosts as there are dicts, each with fields of its own."""
    path = cluster.inventory(cluster.hosts[: len(hosts)], **fields)
    document = yaml.safe_load(path.read_text())
    for entry, more in zip(document["hosts"], hosts, strict=True):
        entry.update(more)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False))
    return path


def venv(folder: Path) -> Path:
    """Make a virtual environment that finds torch where the tests' own does."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [path for path in sys.path if path.endswith("-packages")]
    found.append(sysconfig.get_path("purelib"))
    (folder / f"lib/{version}/site-packages/ours.pth").write_text("\n".join(found) + "\n")
    return folder


def conda(prefix: Path) -> Path:
    """Make what tells a conda environment: conda itself is not on the machines that test this."""
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta/history").touch()
    (prefix / "bin").mkdir()
    (prefix / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (prefix / "bin/python").chmod(0o755)
    return prefix


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# --- environment, interpreters, setup and workdir, in one run -------------------------------------


def test_workers_and_setup_run_in_what_is_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.hosts[:2]
    mine = venv(first.home / "venvs/train")
    theirs = conda(second.home / "miniforge3/envs/train")
    for host in (first, second):
        (host.home / "work").mkdir()
        # What a startup file may say: the last of it would keep any other Python from starting.
        host.write(".bashrc", "export OMP_NUM_THREADS=3 FROM_HOST=host BOTH=host PYTHONHOME=/no\n")
    (tmp_path / "env").write_bytes(b"# mine\nexport FILED= $HOME 'x' \nORDER=file\nBOTH=file\n")
    setup = ['env -0 > "setup $FROM_JOB"', "echo at $PWD; echo on stderr >&2; command -v python"]
    path = inventory(
        cluster,
        {"python": "~/venvs/train", "workdir": "work", "env": {"ORDER": "host"}},
        {"python": "train", "workdir": "~/work", "env": {"PATH": "/mine:/usr/bin:/bin"}},
        defaults={"setup": setup},
        job={"env": {**NASTY_ENV, "ORDER": "job", "FROM_JOB": "of job"}},
    )
    flags = ["--env-file", tmp_path / "env", "--env", "MINE", "--env", "FLAG=x=y\n"]
    words = ["up", "-n", "what", *flags, path, "--", worker("args"), *NASTY, os.fsdecode(NO_TEXT)]
    done = cluster.run(
        [*DDP_ORCH, *map(str, words)],
        timeout=150,
        env={"MINE": os.fsdecode(NO_TEXT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [
        json.loads(said(done.stdout, host.name, r)[0]) for r, host in enumerate((first, second))
    ]
    made = [(host.home / "work/setup of job").read_bytes() for host in (first, second)]
    for rank, (host, me, there) in enumerate(zip((first, second), told, made, strict=True)):
        env = me["env"]
        assert me["argv"] == [*NASTY, os.fsdecode(NO_TEXT)]
        assert {name: env[name] for name in NASTY_ENV} == NASTY_ENV
        assert bytes_of(env["MINE"]) == NO_TEXT
        assert (env["FILED"], env["FLAG"]) == (" $HOME 'x' ", "x=y\n")
        assert (env["ORDER"], env["BOTH"], env["FROM_HOST"]) == ("file", "file", "host")
        assert env["OMP_NUM_THREADS"] == "3"
        assert me["cwd"] == f"{host.home}/work"
        assert "PYTHONHOME" not in env
        # The setup commands had the same, but for what torchrun adds to its workers'.
        before = dict(pair.split(b"=", 1) for pair in there.split(b"\0")[:-1])
        differ = {"PWD", "OLDPWD", "SHLVL", "_", "DDP_ORCH_COOKIE", "TORCHELASTIC_ERROR_FILE"}
        given = {k.decode(): v for k, v in before.items() if k.decode() not in differ}
        assert {name: bytes_of(env[name]) for name in given} == given
        record = cluster.home / ".local/state/ddp-orch/runs/what/logs"
        assert (record / f"node{rank}.setup2.err").read_text() == "on stderr\n"
        assert f"{host.name}| at {host.home}/work\n{host.name}| " in done.stdout
        assert f"{host.name}: setup 2 of 2: `echo at $PWD;" in done.stdout
    assert told[0]["env"]["VIRTUAL_ENV"] == str(mine)
    assert told[0]["env"]["PATH"].startswith(f"{mine}/bin:/")
    assert f"n1| {mine}/bin/python\n" in done.stdout
    environment = {"CONDA_PREFIX": str(theirs), "CONDA_DEFAULT_ENV": "train", "CONDA_SHLVL": "1"}
    assert told[1]["env"].items() >= environment.items()
    assert told[1]["env"]["PATH"] == f"{theirs}/bin:/mine:/usr/bin:/bin"
    assert "VIRTUAL_ENV" not in told[1]["env"]


def test_a_program_that_is_no_script_gets_its_arguments(cluster: Cluster) -> None:
    """By way of torchrun's parser, with one of its own options as well."""
    script = cluster["n1"].write("args.py", Path(worker("args")).read_text())
    job = {
        "command": [sys.executable, str(script), "a"],
        "args": NASTY,
        "torchrun_args": ["--monitor-interval", "0.5"],
    }
    done = ddp_orch(cluster, "up", inventory(cluster, {}, job=job))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(said(done.stdout, "n1", 0)[0])["argv"] == ["a", *NASTY]


@pytest.mark.slow
def test_gpus_are_counted_there_and_named_to_the_workers(cluster: Cluster) -> None:
    host = cluster["n1"]
    path = torch_built_for(host, "cu128", f"{host.home}/cuda")
    host.write(".bashrc", f"export PATH=$HOME/bin:$PATH CUDA_VISIBLE_DEVICES=7 {path}\n")

    def up_on(gpus: int) -> subprocess.CompletedProcess[str]:
        data = json.dumps([[gpu(host, index) for index in range(gpus)], [], ""])
        program = PROGRAM.format(python=sys.executable, data=data)
        host.write("bin/nvidia-smi", program, 0o755)
        path = inventory(cluster, {"gpus": [0, 1, 2], "nproc_per_node": 3})
        return ddp_orch(cluster, "up", path, "--include", "n1:0,2", "--", worker("args"))

    done = up_on(2)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "FAIL gpu.count  n1: has 2 GPUs, 0 to 1, but is asked for GPU 2\n" in done.stdout
    done = up_on(3)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):  # one worker on each of the two
        env = json.loads(said(done.stdout, "n1", rank)[0])["env"]
        assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("0,2", "PCI_BUS_ID")


# --- secrets --------------------------------------------------------------------------------------

TOKEN = "hf_Q7'\"\\x$kZ0"  # noqa: S105  made up, with what programs write in other ways
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END KEY-----"
PARTS = ("hf_Q7", "x$kZ0", "MIIEvQIB", "BEGIN KEY")


def tells(data: bytes) -> bool:
    return any(part.encode() in data for part in PARTS)


class Watch:
    """Looks at every command line of the machine, all hosts' and the controller's, all the time."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.workers: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        line = (entry / "cmdline").read_bytes()
                        if tells(line):
                            self.seen.add(line)
                        if b"/code/secret.py" in line:
                            self.workers.add(entry.name)


def files_that_tell(cluster: Cluster) -> list[str]:
    """Return what stands in a file anywhere that the run could write to, here and on the hosts."""
    found = []
    for path in cluster.folder.rglob("*"):
        with contextlib.suppress(OSError):  # it comes and goes
            if path.is_file() and not path.is_symlink() and tells(path.read_bytes()):
                found.append(str(path))
    for host in cluster.hosts:
        words = ["grep", "-rlaE", "|".join(p.replace("$", "\\$") for p in PARTS)]
        listed = host.run([*words, "/tmp", "/run", "/dev/shm", "/var/tmp"]).stdout.splitlines()
        # A host's /tmp shows the cluster's folder as well, where that is below the machine's.
        found += [line for line in listed if not line.startswith(str(cluster.folder))]
    return found


def logs_of(cluster: Cluster, name: str) -> Path:
    return cluster.home / ".local/state/ddp-orch/runs" / name / "logs"


def secretive(cluster: Cluster, name: str, failing: str, *flags: str) -> tuple[str, str]:
    """Run a job that says its secrets, watched; return what the controller printed."""
    setup = ["echo setting up with $TOKEN >&2"]
    path = inventory(cluster, {}, {}, defaults={"setup": setup}, job={"secrets": ["TOKEN"]})
    words = ["up", "-v", "-n", name, "--secret", "KEY", *flags, path, "--"]
    words += [worker("secret"), logs_of(cluster, name), failing]
    temporary = cluster.home / "tmp"
    temporary.mkdir()
    env = {"TOKEN": TOKEN, "KEY": KEY, "TMPDIR": str(temporary)}
    with Watch() as watch:
        done = cluster.run([*DDP_ORCH, *map(str, words)], timeout=150, env=env)
    assert len(watch.workers) >= 2, "torchrun or its worker, of each host, were looked at"
    assert watch.seen == set()
    assert done.returncode == (100 if failing != "none" else 0), done.stdout + done.stderr
    return done.stdout, done.stderr


RAW = {
    "logs/rank0.out", "logs/rank0.err", "logs/rank1.out", "logs/rank1.err",
    "logs/node0.setup1.err", "logs/node1.setup1.err",
}  # fmt: skip


def check_files(cluster: Cluster, name: str, more: set[str]) -> None:
    """What the worker printed is in its raw logs, byte for byte, and in no other file."""
    told = set(files_that_tell(cluster))
    record = cluster.home / ".local/state/ddp-orch/runs" / name
    expected = {str(record / path) for path in RAW}
    for node, host in enumerate(cluster.hosts[:2]):
        there = host.home / f".ddp-orch/runs/{name}/{node}"
        expected |= {str(there / f"worker-logs/0/r{node}.{end}") for end in ("out", "err")}
        expected.add(str(there / "setup/1/setup.err"))
        brought = (record / f"logs/rank{node}.out").read_bytes()
        assert brought == (there / f"worker-logs/0/r{node}.out").read_bytes()
        assert f"token {TOKEN} and {TOKEN!r}\nkey {KEY}\n".encode() in brought
        assert f"half {TOKEN} whole\n".encode() in brought
    second = cluster["n2"].home / f".ddp-orch/runs/{name}/1"
    expected |= {str(second / m) for m in more}
    # torchrun says the exception as well, where it comes to that before it is stopped.
    possible = {str(record / "logs/node1.torchrun.err")} if more else set()
    possible |= {str(second / f"torchrun.{end}") for end in ("err", "error.json") if more}
    assert expected <= told <= expected | possible, told ^ expected
    for path in map(Path, told):  # torch makes its files as the umask says, in a folder of ours
        private = path if path.is_relative_to(record) else path.parents[2]
        assert private.stat().st_mode & 0o077 == 0, path


@pytest.mark.slow
def test_a_secret_is_in_no_command_line_in_no_record_and_never_shown(cluster: Cluster) -> None:
    out, err = secretive(cluster, "quiet", "none")
    assert not tells((out + err).encode()), out
    for rank, host in enumerate(("n1", "n2")):
        lines = said(out, host, rank)
        assert "half ******** whole" in lines
        assert "token ******** and '********'" in lines
        assert '{"token": "********", "key": "********"}' in lines
        assert lines.count("********") == 2, "the lines of the key but its first"
        assert "on stderr ********" in lines
        assert f"{host}| setting up with ********" in out.splitlines()
    check_files(cluster, "quiet", set())


@pytest.mark.slow
def test_a_secret_in_an_exception_is_masked_in_json_and_in_every_record(cluster: Cluster) -> None:
    out, err = secretive(cluster, "loud", "1", "-o", "json")
    assert not tells((out + err).encode()), out
    events = [json.loads(line) for line in out.splitlines()]
    (failed,) = [e for e in events if e["event"] == "WorkerEnded" and e["rank"] == 1]
    assert failed["error"] == "ValueError: refused: ********"
    assert "ValueError: refused: ********" in failed["traceback"]
    assert events[-1]["failure"]["message"] == "ValueError: refused: ********"
    assert "half ******** whole\n" in "".join(
        e["data"]
        for e in events
        if e["event"] == "Logged" and (e["rank"], e["stream"]) == (0, "out")
    )
    # What torch's own @record writes is the worker's word as well; our journal has it masked.
    there = cluster["n2"].home / ".ddp-orch/runs/loud/1"
    check_files(cluster, "loud", {"worker-logs/0/r1.error.json"})
    assert "refused: ********" in (there / "journal.jsonl").read_text()


def test_exec_has_secrets_as_well(cluster: Cluster) -> None:
    script = 'printf %s "${TOKEN%kZ0}"; sleep 0.3; echo kZ0; echo $KEY >&2'
    with Watch() as watch:
        done = cluster.run(
            [*DDP_ORCH, "exec", "--secret", "TOKEN", "--secret", "KEY",
             str(inventory(cluster, {})), "--", script],
            env={"TOKEN": TOKEN, "KEY": KEY},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert watch.seen == set()
    assert not tells((done.stdout + done.stderr).encode())
    assert sorted(done.stdout.splitlines()) == ["n1| ********", "n1| ******** ******** ********"]


# --- setup ----------------------------------------------------------------------------------------


def alive(host: NsHost, name: str) -> list[str]:
    return [line for line in host.pids().values() if name in line]


def test_a_setup_that_fails_stops_the_start_everywhere(cluster: Cluster) -> None:
    """And ends what the others are at, with what they left in the background."""
    busy = cluster.folder / "busy"
    daemon = "setsid sleep 3600 > /dev/null 2>&1 & echo $! > daemon"
    going = f"setsid sleep 3600 & echo x > {busy}; sleep 3600"
    failing = (
        'test ! -e /proc/"$(cat daemon)" || exit 9; '
        f"while [ ! -s {busy} ]; do sleep 0.01; done; echo no such thing >&2; exit 7"
    )
    path = inventory(cluster, {"setup": [daemon, going]}, {"setup": [daemon, failing]}, {})
    done = ddp_orch(cluster, "up", "-n", "unset", path, "--", worker("ranks"))
    busy.unlink()
    assert done.returncode == 100, done.stdout + done.stderr
    assert "stopping everywhere: setup failed on n2: `test ! -e" in done.stdout
    assert "first failure: setup on n2" in done.stdout
    assert "exit code 7: no such thing" in done.stdout
    assert not [host.name for host in cluster.hosts if alive(host, "sleep")]
    for node, host in enumerate(cluster.hosts):
        assert not (host.home / f".ddp-orch/runs/unset/{node}/torchrun.out").exists()
    assert "all workers run" not in done.stdout


@pytest.mark.slow
def test_ctrl_c_ends_a_setup_and_what_it_left_behind(cluster: Cluster) -> None:
    stubborn = "setsid sleep 3600 & trap '' TERM; echo busy; sleep 3600"
    path = inventory(cluster, {}, {}, defaults={"setup": ["true", stubborn]})
    with running(cluster, "up", path, "--", worker("ranks")) as run:
        read_until(run, r"\| busy", times=2)
        run.send_signal(signal.SIGINT)
        out = read_rest(run, 60)
        assert run.returncode == 130, out
        assert "all workers run" not in out
        assert not [host.name for host in cluster.hosts if alive(host, "sleep")]
    until(lambda: not any(host.pids() for host in cluster.hosts), "the hosts are empty", seconds=60)
