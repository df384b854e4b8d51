"""What the answers of nvidia-smi are taken for."""

from __future__ import annotations

import pytest

from orchestrator.facts import Smi
from tests.smi_cases import NAMES, UUIDS, asked, known, process, told


def parsed(name: str | None, *rows: str, **parts) -> Smi:
    return Smi.parse(told(name, *rows, **parts))


NOT_RUNNING = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running."
)
# How many there are to use; the problem; what cannot be spoken to; problems of those in the list.
EXPECTED = {
    "a10-azure-domain-535.csv": (1, None, [], []),
    "a100-mig-no-permission-470.csv": (1, None, [], []),
    "gb10-580.csv": (1, None, [], []),
    "geforce-525.csv": (1, None, [], []),
    "geforce-desktop-595.csv": (1, None, [], []),
    "gh200-550.csv": (1, None, [], []),
    "h100-590.csv": (8, None, [], []),
    "h100-mig-590.csv": (2, None, [], []),
    "inforom-warning-418.txt": (1, None, [], []),
    "lost-alone-450.txt": (
        *(None, None),
        [("0000:3b:00.0", "GPU is lost. Reboot the system to recover this GPU")],
        [],
    ),
    "lost-between-rows-550.txt": (
        *(1, None),
        [("0000:0a:00.0", "GPU is lost. Reboot the system to recover this GPU")],
        [],
    ),
    "lost-in-fields-535.csv": (2, None, [], ["GPU is lost"]),
    "mismatch-550.txt": (
        *(None, "Failed to initialize NVML: Driver/library version mismatch"),
        *([], []),
    ),
    "no-devices.txt": (0, None, [], []),
    "no-permission.txt": (None, "Failed to initialize NVML: Insufficient Permissions", [], []),
    "not-running.txt": (
        None,
        NOT_RUNNING,
        *([], []),
    ),
    "not-started-fabric-535.csv": (2, None, [], []),
    "nvml-unknown-error.txt": (None, "Failed to initialize NVML: Unknown Error", [], []),
    "requires-reset-570.csv": (1, None, [], ["GPU requires reset"]),
    "unknown-error-535.txt": (None, None, [("0000:65:00.0", "Unknown Error")], []),
    "unreadable-name-535.csv": (1, None, [], ["uuid: Unknown Error"]),
    "v100-470.csv": (2, None, [], []),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_case(name):
    driver = told()["driver"] | {"version": "1.2", "pci": ["0000:3b:00.0"]}
    smi = parsed(name, driver=driver)
    problems = [gpu.problem for gpu in smi.gpus if gpu.problem]
    assert (smi.count, smi.problem, list(smi.unreachable), problems) == EXPECTED[name]
    assert smi.answers == (smi.problem is None)
    assert [gpu.index for gpu in smi.gpus] == list(range(len(smi.gpus)))


def test_a_row_of_a_large_board():
    last = parsed("h100-590.csv").gpus[7]
    assert (last.index, last.uuid, last.bus) == (7, UUIDS[7], "0000:88:00.0")
    assert (last.name, last.driver) == ("NVIDIA H100 80GB HBM3", "590.48.01")
    assert (last.memory_total, last.memory_used, last.ecc) == (81559, 0, 0)
    assert (last.compute_mode, last.mig, last.display) == ("Default", False, False)
    assert (last.fabric_state, last.fabric_status) == ("Completed", "Success")
    assert (last.pending, last.remap_failed, last.recovery) == (False, False, None)
    assert (last.persistence, last.capability) == (True, (9, 0))


def test_what_a_card_or_a_driver_has_no_word_for_is_none():
    for name in ("geforce-525.csv", "gb10-580.csv", "geforce-desktop-595.csv"):
        (gpu,) = parsed(name).gpus
        assert (gpu.ecc, gpu.mig, gpu.fabric_state, gpu.recovery) == (None, False, None, None)
        assert not gpu.pending
    (shared,) = parsed("gb10-580.csv").gpus
    assert (shared.memory_total, shared.memory_used) == (None, None)
    (sliced,) = parsed("a100-mig-no-permission-470.csv").gpus
    assert (sliced.memory_used, sliced.mig, sliced.problem) == (None, True, None)
    assert parsed("geforce-desktop-595.csv").gpus[0].display
    assert parsed("geforce-desktop-595.csv").gpus[0].persistence is False
    assert parsed("gb10-580.csv").gpus[0].capability == (12, 1)
    assert parsed("v100-470.csv").gpus[0].capability is None
    assert [gpu.capability for gpu in parsed("lost-in-fields-535.csv").gpus] == [None, (8, 0)]
    # What could not be read is not off.
    assert parsed("lost-in-fields-535.csv").gpus[0].persistence is None


@pytest.mark.parametrize(
    "said",
    [
        "[Requested functionality has been deprecated]",
        "[Function Not Found]",
        "[No data]",
        "[N/A]",
        "N/A",
        "Not Supported",
        "",
    ],
)
def test_what_says_why_there_is_no_value_is_none(said):
    fields = asked("h100-590.csv")["fields"]
    row = dict(zip(fields, asked("h100-590.csv")["out"].splitlines()[0].split(", "), strict=True))
    for field in ("fabric.state", "fabric.status", "gpu_recovery_action", "compute_mode"):
        row[field] = said
    told_so = asked("h100-590.csv") | {"out": ", ".join(row.values())}
    (gpu,) = Smi.parse(told("h100-590.csv", gpus=told_so)).gpus
    assert (gpu.fabric_state, gpu.fabric_status, gpu.recovery) == (None, None, None)
    assert (gpu.compute_mode, gpu.problem) == (None, None)


def test_a_name_with_a_comma_is_a_name():
    (gpu,) = parsed("a10-azure-domain-535.csv").gpus
    assert gpu.name == "NVIDIA A10-24Q, virtual"


def test_a_domain_is_written_in_one_way_whoever_writes_it():
    smi = parsed(
        "a10-azure-domain-535.csv", driver=told()["driver"] | {"gpus": [known("cfdd:00:00.0")]}
    )
    assert smi.gpus[0].bus == smi.installed[0].bus == "cfdd:00:00.0"


def test_memory_that_went_bad():
    first, second = parsed("v100-470.csv").gpus
    assert (first.ecc, first.pending) == (2, False)
    assert (second.ecc, second.pending, second.compute_mode) == (0, True, "Exclusive_Process")
    assert [gpu.remap_failed for gpu in parsed("not-started-fabric-535.csv").gpus] == [False, True]
    assert parsed("requires-reset-570.csv").gpus[0].recovery == "Reset"


def test_warnings_are_no_rows_and_no_problem():
    smi = parsed("inforom-warning-418.txt")
    assert smi.warnings == ("WARNING: infoROM is corrupted at gpu 0000:00:04.0",)
    assert smi.corrupted == ("0000:00:04.0",)
    assert smi.answers
    # Some versions write it to stderr, and before the rows.
    first = asked("h100-590.csv")
    first["err"] = "WARNING: infoROM is corrupted at gpu 0000:00:04.0\n"
    first["out"] = "WARNING: a, b, c\n" + first["out"]
    assert Smi.parse(told("h100-590.csv", gpus=first)).count == 8
    assert Smi.parse(told("h100-590.csv", gpus=first)).corrupted == ("0000:00:04.0",)


# --- how many there are, where nvidia-smi does not say ------------------------------------------

NONE = {"version": None, "gpus": [], "pci": [], "control": "absent", "memory": "absent"}
DRIVEN = NONE | {
    "version": "550.54.14",
    "gpus": [
        known("0000:18:00.0"),
        known("0000:2a:00.0", "absent"),
        known("0000:3a:00.0", "denied"),
        known("0000:4a:00.0", excluded=True),
    ],
}


@pytest.mark.parametrize(
    ("gpus", "driver", "count"),
    [
        ({"ended": "absent"}, NONE, 0),
        # Without nvidia-smi, and some of them another container's, or switched off.
        ({"ended": "absent"}, DRIVEN, 1),
        ({"ended": "late", "code": -9, "out": "", "err": "", "fields": []}, DRIVEN, None),
        ({"ended": "stuck", "code": None, "out": "", "err": "", "fields": []}, DRIVEN, None),
        # Whatever is to be seen: nothing cannot hang.
        ({"ended": "late", "code": -9, "out": "", "err": "", "fields": []}, NONE, None),
        ({"ended": "failed", "code": None, "out": "", "err": "Exec format error"}, DRIVEN, None),
        # A GPU image on a machine that has none.
        (asked("not-running.txt"), NONE, 0),
        (asked("not-running.txt"), NONE | {"pci": ["0000:01:00.0"]}, None),
        (asked("no-devices.txt"), DRIVEN, 0),
        (
            {"ended": "answered", "code": 0, "out": "", "err": "", "fields": ["a", "b"]},
            DRIVEN,
            None,
        ),
        ({"ended": "late", "code": -9, "out": "begun", "err": "", "fields": []}, NONE, None),
        # The thread that asked did not come back.
        ({"problem": "no answer in 12 s"}, DRIVEN, None),
    ],
)
def test_the_number_of_gpus_is_known_or_it_is_not(gpus, driver, count):
    smi = Smi.parse(told("no-devices.txt", gpus=gpus, driver=driver))
    assert smi.count == count
    assert not smi.gpus


@pytest.mark.parametrize(
    ("answer", "slow"),
    [
        ({"ended": "late", "asleep": False, "seconds": 40.0}, True),
        ({"ended": "late", "asleep": True, "seconds": 40.0}, False),
        # Whatever it looked like: it could not be killed.
        ({"ended": "stuck", "asleep": False, "seconds": 40.0}, False),
        # The thread that asked did not come back.
        ({"problem": "no answer in 85 s"}, False),
        ({"ended": "answered", "asleep": False, "seconds": 12.0}, False),
    ],
)
def test_slow_is_who_was_at_work(answer, slow):
    smi = parsed("h100-590.csv", gpus={"out": "", "err": "", "fields": [], **answer})
    assert (smi.slow, smi.seconds) == (slow, answer.get("seconds"))


def test_gpus_of_amd_are_counted_or_they_are_not():
    assert parsed(None, driver=NONE | {"amd": 8}).amd == 8
    assert parsed(None, driver={"problem": "no answer in 42 s"}).amd is None


def test_a_driver_that_hangs_leaves_its_part_out():
    smi = parsed("h100-590.csv", driver={"problem": "no answer in 12 s"}, fabric={"problem": "x"})
    assert (smi.count, smi.driver, smi.installed, smi.manager) == (8, None, (), None)


# --- processes ----------------------------------------------------------------------------------


def test_who_is_on_a_gpu():
    (holder,) = parsed(
        "h100-590.csv",
        f"{UUIDS[3]}, 4711, 15690, /opt/venv/bin/python",
        processes={"4711": process(run="brave-otter", ours=True)},
    ).holders
    assert (holder.pid, holder.uuid, holder.memory) == (4711, UUIDS[3], 15690)
    assert (holder.user, holder.ours, holder.run, holder.seconds) == (
        *("alice", True, "brave-otter"),
        7300.0,
    )
    assert holder.command == "/opt/venv/bin/python train.py"


@pytest.mark.parametrize(
    ("row", "there", "memory"),
    [
        ("4711, 15690, [Not Found]", None, 15690),
        ("4711, [N/A], [Insufficient Permissions]", None, None),
        # A number of the machine's, and another process has it in this container.
        ("4711, 15690, /opt/venv/bin/python", process("/usr/sbin/sshd"), 15690),
        ("4711, 15690, ./a, b", None, 15690),
        ("4711, 15690, python", {"problem": "no answer in 2 s"}, 15690),
    ],
)
def test_who_is_not_to_be_seen_from_here(row, there, memory):
    smi = parsed("h100-590.csv", f"{UUIDS[0]}, {row}", processes={"4711": there})
    (holder,) = smi.holders
    assert (holder.seen, holder.user, holder.memory) == (False, None, memory)


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("python", "/opt/venv/bin/python3.11"),
        ("ray::train", "ray::train_worker_of_a_long_name"),
        ("./gpu_burn", "./gpu_burn"),
        ("[Insufficient Permissions]", "/usr/bin/python3"),
    ],
)
def test_one_process_under_two_words(name, program):
    smi = parsed("h100-590.csv", f"{UUIDS[0]}, 7, 1, {name}", processes={"7": process(program)})
    assert smi.holders[0].seen


@pytest.mark.parametrize(
    "apps",
    [
        {"ended": "late", "code": None, "out": "", "err": "", "fields": []},
        {"ended": "answered", "code": 255, "out": "", "err": "Unknown Error", "fields": []},
        {"problem": "no answer in 12 s"},
    ],
)
def test_processes_that_are_not_told_are_not_none(apps):
    assert parsed("h100-590.csv", apps=apps).holders is None
    assert parsed("h100-590.csv").holders == ()


def test_a_run_is_one_by_its_name_only():
    row = f"{UUIDS[0]}, 7, 1, python"
    for run, known_as in (("calm-ray", "calm-ray"), ("x; rm -rf /", None), (None, None), (7, "7")):
        there = {"7": process("python", run=run)}
        assert parsed("h100-590.csv", row, processes=there).holders[0].run == known_as


def test_several_rows_and_one_that_makes_no_sense():
    smi = parsed(
        "h100-590.csv", f"{UUIDS[0]}, 1, 2, a", f"{UUIDS[0]}, x, 2, a", "hm", f"{UUIDS[1]}, 3, 4, b"
    )
    assert [(h.pid, h.memory) for h in smi.holders] == [(1, 2), (3, 4)]


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": None},
        {"gpus": {"ended": "answered", "fields": ["name", "b"], "out": "1, 2"}},
        {"apps": 7},
        {"gpus": {"ended": "well"}},
        {"driver": {"gpus": [{}]}},
        {"driver": {"gpus": 3}},
        {"processes": [], "apps": told("h100-590.csv", f"{UUIDS[0]}, 1, 2, a")["apps"]},
    ],
)
def test_an_answer_of_another_shape_is_refused(changes):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError, IndexError)):
        Smi.parse(told("h100-590.csv") | changes)
