"""What is asked of nvidia-smi and the driver on a host: real programs and processes, told lies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.asked import NEXT
from orchestrator.facts import Smi
from orchestrator.node import files, processes, smi
from tests.smi_cases import UUIDS, asked
from tests.test_node_agent import SUPPORTED, boot_agent, cookie, python_or_skip
from tests.test_node_facts import until

__all__ = ["boot_agent", "cookie"]

# Says what the file beside it says; --query-gpu=... stands in $1.
SAYS = """
here=${0%/*}
echo "$@" >> "$here/calls"
case $1 in
  --query-gpu=*) cat "$here/rows"; exit $(cat "$here/code") ;;
  *) cat "$here/apps" ;;
esac
"""
# As old drivers do; the first that it does not know, and nothing else.
REFUSES = """
here=${0%/*}
echo "$@" >> "$here/calls"
case $1 in
  *fabric.s*) echo 'Field "fabric.state" is not a valid field to query.'; echo; exit 2 ;;
  *remapped_rows.*) echo 'Field "remapped_rows.pending" is not a valid field to query.'; exit 2 ;;
  *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; echo; exit 2 ;;
  *gpu_recovery*) echo 'Field "gpu_recovery_action" is not a valid field to query.' >&2; exit 2 ;;
esac
""" + SAYS.replace('echo "$@" >> "$here/calls"\n', "")


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put a nvidia-smi first on PATH that does what a shell script says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(script: str, case: str = "h100-590.csv", apps: str = "") -> Path:
        told = asked(case)
        for name, text in (("rows", told["out"]), ("code", str(told["code"])), ("apps", apps)):
            (folder / name).write_text(text)
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)
        return folder

    yield make
    # Those that hang write down who they are; a test that fails may have left them.
    pids = tmp_path / "pids"
    for pid in map(int, pids.read_text().split() if pids.exists() else ()):
        if not gone(pid) and processes.find(pid).name in ("nvidia-smi", "sh", "sleep"):
            os.kill(pid, signal.SIGKILL)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def gone(pid: int) -> bool:
    return (now := processes.find(pid)) is None or now.dead


def test_one_question_for_gpus_and_one_for_processes(put):
    folder = put(SAYS)
    got = smi.ask(None, root="/nowhere")
    assert (got["gpus"]["ended"], got["gpus"]["code"]) == ("answered", 0)
    assert got["gpus"]["out"] == asked("h100-590.csv")["out"]
    assert got["gpus"]["fields"] == asked("h100-590.csv")["fields"]
    options = "--format=csv,noheader,nounits"
    assert sorted(calls(folder)) == [
        f"--query-compute-apps=gpu_uuid,pid,used_memory,process_name {options}",
        f"--query-gpu={','.join(smi.GPU_FIELDS)} {options}",
    ]
    assert Smi.parse(got).count == 8


def test_fields_that_a_driver_does_not_know_are_left_out(put):
    folder = put(REFUSES, "v100-470.csv")
    got = smi.ask(None)["gpus"]
    assert got["fields"] == asked("v100-470.csv")["fields"]
    assert sum("--query-gpu" in call for call in calls(folder)) == 5
    assert [gpu.ecc for gpu in Smi.parse(smi.ask(None)).gpus] == [2, 0]


@pytest.mark.parametrize(
    ("version", "case", "questions"),
    [
        ("470.199.02", "v100-470.csv", 1),
        # What is not known of a branch the program itself says: field by field.
        ("525.85.12", "geforce-525.csv", 2),
        ("550.54.14", "v100-470.csv", 4),
        ("590.48.01", "v100-470.csv", 5),
    ],
)
def test_what_a_driver_is_known_to_refuse_is_not_asked(put, tmp_path, version, case, questions):
    told = tmp_path / "root/proc/driver/nvidia/version"
    told.parent.mkdir(parents=True)
    told.write_text(VERSION.replace("550.54.14", version))
    folder = put(REFUSES, case)
    got = smi.ask(None, root=str(tmp_path / "root"))
    assert got["gpus"]["fields"] == asked(case)["fields"]
    assert sum("--query-gpu" in call for call in calls(folder)) == questions
    assert Smi.parse(got).driver == version


def test_each_start_has_the_whole_deadline_and_the_question_has_an_end(put, monkeypatch):
    folder = put(REFUSES, "v100-470.csv")
    given, run = [], smi.run

    def noted(started, argv, deadline):
        given.append(deadline)
        return run(started, argv, deadline)

    monkeypatch.setattr(smi, "run", noted)
    smi.query(smi.Started(), f"{folder}/nvidia-smi", "gpu", smi.GPU_FIELDS, 300.0)
    assert given == [300.0] * 5
    # Who asks waits for all that: the program, its end, and who is on the GPUs.
    (patience,) = [question.seconds for question in NEXT if question.op == "smi.ask"]
    assert patience > smi.AGAIN * smi.DEADLINE + smi.LAST + 2 + 2


@pytest.mark.parametrize("field", ["uuid", "no.such.thing", "name"])
def test_a_driver_that_refuses_what_is_needed_is_not_asked_for_ever(put, field):
    script = (
        f"""echo x >> "${{0%/*}}/calls"; echo 'Field "{field}" is not a valid field to query.'"""
    )
    folder = put(script)
    got = smi.ask(None)["gpus"]
    assert "is not a valid field" in got["out"]
    assert len(calls(folder)) == 2, "one of each"


def test_another_language_is_not_asked_for(put, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    put('echo "$LC_ALL"')
    assert smi.ask(None)["gpus"]["out"] == "C\n"


@pytest.mark.parametrize(
    ("case", "code"), [("not-running.txt", 9), ("mismatch-550.txt", 18), ("no-devices.txt", 6)]
)
def test_a_failure_is_passed_on_as_it_is(put, case, code):
    put(SAYS, case)
    got = smi.ask(None)["gpus"]
    assert (got["ended"], got["code"]) == ("answered", code)
    assert got["out"] == asked(case)["out"]


def test_what_it_says_on_stderr_comes_too_and_not_without_end(put):
    put("echo wrong >&2; head -c 300000 /dev/zero | tr '\\0' x; exit 3")
    got = smi.ask(None)["gpus"]
    assert (got["code"], got["err"], len(got["out"])) == (3, "wrong\n", smi.MOST_SAID)


def test_one_that_hangs_is_ended_with_all_that_it_started(put, tmp_path):
    pids = tmp_path / "pids"
    put(f'sleep 600 & echo $$ $! >> "{pids}"; echo begun; wait')
    # Long enough for it to have written both down.
    got = smi.ask(None, 3.0)
    assert (got["gpus"]["ended"], got["apps"]["ended"]) == ("late", "late")
    assert got["gpus"]["out"] == "begun\n"
    written = [int(pid) for pid in pids.read_text().split()]
    assert len(written) == 4
    for pid in written:
        until(lambda pid=pid: gone(pid))
    assert Smi.parse(got).count is None
    # It was not stuck in the kernel: that it hangs is more than is known.
    assert Smi.parse(got).slow
    assert Smi.parse(got).seconds >= 3.0


# Who starts a program sleeps as who waits for a driver, until that has begun: here it never does,
# as what it is to read from is a pipe that nobody writes to.
SLEEPS_IN_THE_KERNEL = """
import os, sys
reads = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[reads])
"""


def test_one_that_sleeps_in_the_kernel_hangs(put, tmp_path):
    pipe, script = tmp_path / "pipe", tmp_path / "sleeps.py"
    os.mkfifo(pipe)
    script.write_text(SLEEPS_IN_THE_KERNEL)
    put(f"exec {sys.executable} -ISs {script} {pipe}")
    got = smi.ask(None, 3.0)
    assert (got["gpus"]["ended"], got["gpus"]["asleep"]) == ("late", True)
    assert not Smi.parse(got).slow


def test_one_that_takes_its_time_is_waited_for(put):
    put('sleep 0.6; echo "$$"')
    got = smi.ask(None)["gpus"]
    assert (got["ended"], got["out"].strip().isdigit()) == ("answered", True)
    assert got["seconds"] >= 0.6


def test_one_that_will_not_die_is_not_waited_for(put, monkeypatch, tmp_path):
    """What hangs in the kernel heeds no signal; one that is never sent is the nearest to it."""
    monkeypatch.setattr(smi, "end_group", lambda process: None)
    pids = tmp_path / "pids"
    put(f'echo $$ >> "{pids}"; exec sleep 600')
    # Were it waited for, this would take ten minutes: the test's own limit is half of that.
    assert smi.ask(None, 2.0)["gpus"]["ended"] == "stuck"


def test_an_agent_that_ends_leaves_no_nvidia_smi_behind(put, tmp_path, boot_agent):
    pids = tmp_path / "pids"
    put(f'echo $$ >> "{pids}"; exec sleep 600')
    agent = boot_agent(modules=["smi"])
    agent.next()
    agent.ask(1, "smi.ask")
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    agent.close()
    for pid in map(int, pids.read_text().split()):
        until(lambda pid=pid: gone(pid))


@pytest.mark.parametrize("version", SUPPORTED)
def test_it_is_asked_on_every_python(version, put, boot_agent):
    put(REFUSES, "v100-470.csv", f"{UUIDS[0]}, {os.getpid()}, 700, python\n")
    agent = boot_agent(python_or_skip(version))
    agent.next()
    agent.load("smi")
    agent.ask(1, "smi.ask")
    got = agent.answer(1)
    assert "done" in got, got
    told = Smi.parse(got["done"])
    assert (told.count, len(told.holders)) == (2, 1)
    assert told.holders[0].user == files.user_name(os.geteuid())


@pytest.mark.parametrize("text", ["", "no script at all", "#!/no/such/interpreter\n"])
def test_a_file_that_is_no_program(put, text):
    folder = put("true")
    (folder / "nvidia-smi").write_text(text)
    got = smi.ask(None)["gpus"]
    assert got["ended"] == "failed"
    assert got["err"]
    assert Smi.parse(smi.ask(None)).problem == got["err"]


def test_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(smi, "ELSEWHERE", ())
    got = smi.ask(None, root=str(tmp_path))
    assert (got["gpus"], got["apps"]) == ({"ended": "absent"}, {"ended": "absent"})
    assert Smi.parse(got).count == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/nvidia-smi").touch(0o755)
    monkeypatch.setattr(smi, "ELSEWHERE", (str(tmp_path / "elsewhere"),))
    assert smi.find() == str(tmp_path / "elsewhere/nvidia-smi")


# --- who is on a GPU ----------------------------------------------------------------------------


@pytest.fixture
def sleeper():
    env = dict(os.environ, DDP_ORCH_RUN="calm-ray")
    with subprocess.Popen(["sleep", "600"], env=env) as process:
        try:
            until(lambda: smi.who(process.pid)["program"] == "sleep")
            yield process
        finally:
            process.kill()


def test_a_process_is_known_by_its_user_command_age_and_run(put, sleeper):
    put(SAYS, apps=f"{UUIDS[1]}, {sleeper.pid}, 700, sleep\n{UUIDS[1]}, {1 << 22}, 5, [Not Found]")
    (holder, unseen) = Smi.parse(smi.ask(None)).holders
    assert (holder.pid, holder.uuid, holder.memory) == (sleeper.pid, UUIDS[1], 700)
    assert (holder.seen, holder.ours, holder.run) == (True, True, "calm-ray")
    assert (holder.user, holder.command) == (files.user_name(os.geteuid()), "sleep 600")
    since = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 0 <= holder.seconds <= since
    assert not unseen.seen


def test_a_process_gets_older(sleeper):
    first = smi.who(sleeper.pid)["seconds"]
    until(lambda: smi.who(sleeper.pid)["seconds"] > first)
    # As old as the system says: in ticks, and from when the machine began.
    ticks = processes.find(sleeper.pid).start / os.sysconf("SC_CLK_TCK")
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert smi.who(sleeper.pid)["seconds"] == pytest.approx(now - ticks, abs=60)


def test_a_long_command_is_cut_and_a_nameless_one_has_its_name():
    with subprocess.Popen([sys.executable, "-c", "input()", "x" * 500], stdin=-1) as process:
        try:
            until(lambda: len(smi.who(process.pid)["command"]) == smi.LONGEST_COMMAND)
        finally:
            process.kill()
            until(lambda: processes.find(process.pid).dead)
        dead = smi.who(process.pid)
    assert re.match(r"python", dead["program"])
    assert dead["run"] is None
    assert smi.who(process.pid) is None, "it was reaped"


# --- what the driver says -----------------------------------------------------------------------

INFORMATION = """Model: \t\t {model}
IRQ:   \t\t 408
GPU UUID: \t GPU-5a1c0d00
Video BIOS: \t 96.00.99.00.01
Bus Type: \t PCIe
Bus Location: \t {bus}
Device Minor: \t {minor}
GPU Firmware: \t 550.54.14
GPU Excluded:\t {excluded}
"""
VERSION = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (x)
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""


@pytest.fixture
def root(tmp_path):
    def write(path: str, text: str = "") -> None:
        target = tmp_path / "root" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    gpus = [("0000:18:00.0", "0", "No"), ("0000:2a:00.0", "1", "Yes"), ("0000:3a:00.0", "2", "No")]
    for bus, minor, excluded in gpus:
        told = INFORMATION.format(model="NVIDIA H100", bus=bus, minor=minor, excluded=excluded)
        write(f"proc/driver/nvidia/gpus/{bus}/information", told)
    write("proc/driver/nvidia/version", VERSION)
    for device in ("nvidia0", "nvidia1", "nvidiactl"):
        write(f"dev/{device}")
    classes = {"0000:18:00.0": "0x030200", "0000:05:00.0": "0x068000", "0000:00:1f.0": "0x060100"}
    for bus, kind in classes.items():
        write(f"sys/bus/pci/devices/{bus}/vendor", "0x10de\n")
        write(f"sys/bus/pci/devices/{bus}/class", f"{kind}\n")
    write("sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n")
    write("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n")
    return str(tmp_path / "root"), write


def test_what_the_driver_knows(root):
    got = smi.driver(root[0])
    assert got["version"] == "550.54.14"
    assert [(gpu["bus"], gpu["device"], gpu["excluded"]) for gpu in got["gpus"]] == [
        ("0000:18:00.0", "ok", False),
        ("0000:2a:00.0", "ok", True),
        ("0000:3a:00.0", "absent", False),
    ]
    assert {gpu["model"] for gpu in got["gpus"]} == {"NVIDIA H100"}
    assert got["pci"] == ["0000:18:00.0"]
    assert (got["control"], got["memory"]) == ("ok", "absent")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_device_of_another_group_is_denied():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        device = Path(folder, "nvidia0")
        device.touch(0o660)
        assert smi.opens(str(device)) == "ok"
        child = os.fork()
        if child == 0:
            os.setresuid(65534, 65534, 65534)
            os._exit(["ok", "denied", "absent"].index(smi.opens(str(device))))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize(
    ("comms", "manager"),
    [
        ({"2": "kthreadd", "99": "nv-fabricmanage"}, True),
        ({"2": "kthreadd", "99": "bash"}, False),
        # In a container, or with hidepid, nobody else's processes are to be seen.
        ({"1": "sh", "2": "bash"}, None),
    ],
)
def test_a_fabric_manager_runs_or_not_or_cannot_be_seen(root, comms, manager):
    for pid, comm in comms.items():
        root[1](f"proc/{pid}/comm", f"{comm}\n")
    assert smi.fabric(root[0]) == {"switches": 1, "manager": manager}
    root[1]("dev/nvidia-nvswitch0")
    root[1]("dev/nvidia-nvswitchctl")
    assert smi.fabric(root[0])["switches"] == 2


def test_the_gpus_of_amd_are_counted_by_their_driver(root):
    assert smi.driver(root[0])["amd"] == 0
    # Two processors, two GPUs, and one that is another container's.
    for node, simds in (("0", "0"), ("1", "0"), ("2", "1216"), ("3", "304")):
        told = f"cpu_cores_count 96\nsimd_count {simds}\nmem_banks_count 1\nmax_waves_per_simd 8\n"
        root[1](f"sys/class/kfd/kfd/topology/nodes/{node}/properties", told)
    root[1]("sys/class/kfd/kfd/topology/nodes/4/properties", "")
    assert smi.driver(root[0])["amd"] == 2


def test_without_a_driver_there_is_nothing(tmp_path):
    empty = {"version": None, "gpus": [], "pci": [], "control": "absent", "memory": "absent"}
    empty["amd"] = 0
    assert smi.driver(str(tmp_path)) == empty
    assert smi.fabric(str(tmp_path)) == {"switches": 0, "manager": None}
