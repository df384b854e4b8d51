"""What is said of GPUs: facts in, verdicts out."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.checks import failures, gpu, judge
from orchestrator.facts import ClusterFacts, HostFacts, Smi, SshState
from orchestrator.facts.smi import Gpu, Holder, Installed
from orchestrator.facts.strays import lasting
from tests.smi_cases import told
from tests.test_checks import GOOD
from tests.test_checks import facts as host_facts

IDS = [check.id for check in gpu.CHECKS]
PER_HOST = IDS[:8]


def board(count: int = 2, **changes) -> tuple[Gpu, ...]:
    return tuple(
        dataclasses.replace(
            Gpu(
                index=i,
                uuid=f"GPU-{i}",
                bus=f"0000:{i}8:00.0",
                name="NVIDIA H100",
                driver="550.54.14",
                memory_total=81559,
                memory_used=0,
                compute_mode="Default",
                ecc=0,
            ),
            **changes,
        )
        for i in range(count)
    )


def smi(gpus: tuple[Gpu, ...] | None = None, **changes) -> Smi:
    whole = Smi(ended="answered", gpus=board() if gpus is None else gpus, driver="550.54.14")
    return dataclasses.replace(whole, **changes)


def but(*gpus: Gpu, **changes) -> Smi:
    """Return an answer in which some of two GPUs are others."""
    by_index = {each.index: each for each in (*board(), *gpus)}
    return smi(tuple(by_index.values()), **changes)


def one(index: int = 0, **changes) -> Gpu:
    return dataclasses.replace(board(index + 1)[index], **changes)


def held(index: int = 0, mib: int | None = 30000, **changes) -> Holder:
    whole = Holder(
        pid=4711,
        uuid=f"GPU-{index}",
        name="python",
        memory=mib,
        seen=True,
        user="alice",
        command="python train.py",
        seconds=7300.0,
    )
    return dataclasses.replace(whole, **changes)


def cluster(*answers: Smi | str, **changes) -> ClusterFacts:
    hosts = tuple("abcdefgh"[: len(answers)])
    whole = ClusterFacts(
        hosts=hosts,
        ssh=dict.fromkeys(hosts, SshState()),
        smi=dict(zip(hosts, answers, strict=True)),
        workers=dict.fromkeys(hosts, 2),
        counted=frozenset(hosts),
    )
    return dataclasses.replace(whole, **changes)


def verdicts(facts: ClusterFacts, check: str = "gpu."):
    found = [v for v in judge(facts) if v.id.startswith(check)]
    places = [(v.id, v.host, v.peer) for v in found]
    assert len(set(places)) == len(places), "nothing is said twice"
    assert all(v.hint for v in found if v.status in ("fail", "warn"))
    assert all(v.tier == "gpu" for v in found)
    return found


def only(facts: ClusterFacts, check: str = "gpu."):
    """Return the one verdict that is not good."""
    (found,) = [v for v in verdicts(facts, check) if v.status != "pass"]
    return found


# --- clusters that are well ---------------------------------------------------------------------


def test_gpus_that_are_well_are_said_to_be():
    found = verdicts(cluster(smi(), smi()))
    assert {v.status for v in found} == {"pass"}
    no_fabric = [check for check in PER_HOST if check != "gpu.fabric"]
    assert [v.id for v in found if v.host == "a"] == no_fabric
    assert [v.id for v in found if v.host is None] == ["gpu.model_mix", "gpu.driver_drift"]
    assert found[0].message == "2 NVIDIA H100, driver 550.54.14"


@pytest.mark.parametrize(
    "nothing",
    [
        Smi(ended="absent"),
        # A batch job without GPUs, on a machine that has some.
        Smi(ended="answered", installed=(Installed(bus="x", usable=False),)),
    ],
)
def test_of_hosts_without_gpus_nothing_is_said(nothing):
    assert verdicts(cluster(nothing, nothing)) == []


def test_a_gpu_image_on_a_machine_that_has_none_is_no_mistake():
    failing = Smi(ended="answered", code=9, problem="it has failed")
    (said,) = verdicts(cluster(failing))
    assert (said.id, said.status) == ("gpu.smi", "info")


def test_a_desktop_is_no_finding():
    used = one(memory_used=2596, display=True)
    compositor = held(mib=25, command="/usr/bin/kwin_wayland")
    assert {v.status for v in verdicts(cluster(smi((used,), holders=(compositor,))))} == {"pass"}


def test_the_page_cache_in_the_memory_of_a_gpu_is_no_finding():
    assert only(cluster(smi((one(memory_used=5011),))), "gpu.busy").status == "warn"
    grace = one(memory_used=5011, name="NVIDIA GH200 480GB")
    assert [v.status for v in verdicts(cluster(smi((grace,))), "gpu.busy")] == ["pass"]


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_who_lets_no_worker_see_a_gpu_hears_nothing_of_them(hidden):
    ill = Smi(ended="late", driver="550.54.14")
    assert verdicts(cluster(ill, "no answer", visible={"a": hidden, "b": hidden})) == []


def test_gpus_that_are_asked_for_are_looked_at_whatever_a_variable_hides():
    """`gpus:` is what the workers are given, over all that the host has in its environment."""
    found = verdicts(cluster(smi(holders=(held(),)), visible={"a": ""}, gpus={"a": (0,)}))
    assert [(v.id, v.status) for v in found if v.status != "pass"] == [("gpu.busy", "fail")]


# --- nvidia-smi ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mismatch-550.txt", "reboot it"),
        ("not-running.txt", "sudo modprobe nvidia"),
        ("no-permission.txt", "usermod -aG"),
        ("nvml-unknown-error.txt", "container"),
    ],
)
def test_what_it_said_is_told_and_what_to_do(name, hint):
    driver = told()["driver"] | {"version": "550.54.14"}
    answer = Smi.parse(told(name, driver=driver))
    found = verdicts(cluster(answer, smi()))
    failed = failures(found)
    assert [(v.id, v.host) for v in failed] == [("gpu.smi", "a")]
    assert hint in failed[0].hint
    assert answer.problem.rstrip(".") in failed[0].message
    unknown = [v for v in found if v.status == "unknown"]
    assert {v.id for v in unknown} == set(PER_HOST) - {"gpu.smi"}
    assert {(v.host, v.caused_by) for v in unknown} == {("a", "gpu.smi")}


def test_an_error_that_nobody_has_heard_of():
    odd = Smi(ended="answered", code=77, problem="segmentation fault", driver="1.2")
    said = only(cluster(odd), "gpu.smi")
    assert said.message == "nvidia-smi fails: segmentation fault"
    assert "run nvidia-smi there" in said.hint


@pytest.mark.parametrize(("ended", "words"), [("late", "answer:"), ("stuck", "cannot be killed")])
def test_one_that_hangs(ended, words):
    said = only(cluster(Smi(ended=ended)), "gpu.smi")
    assert said.status == "fail"
    assert words in said.message
    assert "the GPU driver hangs" in said.message
    assert "xid" in said.hint


def test_one_that_is_late_but_at_work_is_slow():
    said = only(cluster(Smi(ended="late", slow=True, seconds=40.2)), "gpu.smi")
    assert said.status == "fail"
    assert said.message.startswith("nvidia-smi is slow: it was at work for 40 s")
    assert "persistence mode may be off" in said.message
    assert "hangs" not in said.message
    assert "sudo nvidia-smi -pm 1" in said.hint


@pytest.mark.parametrize(
    ("seconds", "persistence", "status"),
    [(12.0, False, "warn"), (12.0, True, "pass"), (12.0, None, "pass"), (0.9, False, "pass"),
     (None, False, "pass")],
)  # fmt: skip
def test_persistence_mode_matters_where_it_makes_one_wait(seconds, persistence, status):
    slow = smi(board(persistence=persistence), seconds=seconds)
    (said,) = verdicts(cluster(slow), "gpu.smi")
    assert (said.status, said.evidence["seconds"]) == (status, seconds)
    if status == "warn":
        assert "persistence mode is off" in said.message
        assert "sudo nvidia-smi -pm 1" in said.hint


def test_a_driver_that_is_slow_is_no_reason_for_who_is_on_its_gpus():
    slow = smi(board(persistence=False), seconds=12.0, holders=(held(),))
    found = {v.id: v for v in verdicts(cluster(slow)) if v.status != "pass"}
    assert found.keys() == {"gpu.smi", "gpu.busy"}
    assert found["gpu.busy"].caused_by is None


def test_a_driver_without_nvidia_smi_is_information_and_its_state_unknown():
    there = Smi(ended="absent", installed=(Installed(bus="0000:18:00.0"),))
    found = verdicts(cluster(there, gpus={"a": (0,)}))
    assert [(v.id, v.status) for v in found][:2] == [("gpu.smi", "info"), ("gpu.count", "pass")]
    assert {v.status for v in found[2:]} == {"unknown"}


def test_an_answer_that_did_not_come():
    found = verdicts(cluster("no answer to smi.ask in 15 s"))
    assert {v.id for v in found} == set(PER_HOST)
    assert {v.status for v in found} == {"unknown"}
    assert [v.caused_by for v in found] == [None, *["gpu.smi"] * 7]


# --- a torch that sees none -----------------------------------------------------------------------


def on_cores(*hosts: str, gpus: int = 2) -> dict[str, HostFacts]:
    """Return what hosts tell of which the torch is a CPU build."""
    python = dataclasses.replace(GOOD, torch="2.9.0", build="cpu")
    return {host: host_facts(python, machine=ord(host), gpus=gpus) for host in hosts}


@pytest.mark.parametrize(
    "answer",
    [
        smi(),
        smi(holders=(held(),)),
        smi(unreachable=(("0000:3b:00.0", "GPU is lost"),)),
        smi(board(compute_mode="Prohibited")),
        smi(board(mig=True)),
        Smi(ended="late", driver="550.54.14"),
        Smi(ended="answered", code=9, problem="it has failed", driver="550.54.14"),
    ],
)
def test_the_gpus_of_a_host_that_computes_on_its_cores_are_not_looked_at(answer):
    """Whatever is wrong with them; and also where others of the kind have none."""
    lab = cluster(answer, Smi(ended="absent"), workers={"a": 1, "b": 1}, facts=on_cores("a", "b"))
    (said,) = verdicts(lab)
    assert (said.id, said.host, said.status) == ("gpu.smi", "a", "skip")
    assert "torch there is a CPU build" in said.message
    asked = dataclasses.replace(lab, gpus={"a": (0, 7)}, counted=frozenset("b"))
    assert [v.status for v in verdicts(asked)] == ["skip"]


def test_an_answer_that_nobody_needs_is_not_missed():
    assert verdicts(cluster("no answer", facts=on_cores("a"))) == []


def test_who_computes_on_his_cores_meets_no_gpu():
    mixed = cluster(smi(), smi(), smi(), workers={"a": 2, "b": 1, "c": 2}, facts=on_cores("b"))
    (said,) = failures(verdicts(mixed))
    assert (said.id, said.host) == ("gpu.count", "b")
    assert said.message.startswith("a CPU build of torch on b, 2 GPUs on the other 2")
    assert said.hint == "leave b out, or have the torch of the others there"
    # Nor are its GPUs compared with theirs.
    assert {v.message for v in verdicts(mixed, "gpu.model_mix")} == {"NVIDIA H100"}


# --- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "asked", "status", "message"),
    [
        (4, (0, 3), "pass", "4 GPUs, 0 to 3"),
        (1, (0,), "pass", "1 GPU, number 0"),
        (2, (0, 2, 5), "fail", "has 2 GPUs, 0 to 1, but is asked for GPU 2, 5"),
        (0, (0,), "fail", "has no GPU, but is asked for GPU 0"),
    ],
)
def test_the_gpus_that_are_asked_for(there, asked, status, message):
    asking = {"gpus": {"a": asked}, "workers": {"a": len(asked)}}
    (said,) = verdicts(cluster(smi(board(there)), counted=frozenset(), **asking), "gpu.count")
    assert (said.host, said.status, said.message) == ("a", status, message)


def test_a_variable_that_asks_for_more_than_there_is():
    assert only(cluster(smi(visible="0,5"))).message == (
        "has 2 GPUs, 0 to 1, but CUDA_VISIBLE_DEVICES=0,5 asks for 5"
    )
    assert "startup files" in only(cluster(smi(visible="0,5"))).hint
    assert "inventory" in only(cluster(smi(), visible={"a": "7"})).hint
    assert verdicts(cluster(smi(visible="GPU-1,0")), "gpu.count")[0].status == "pass"


def test_one_host_with_fewer_than_the_others():
    said = only(cluster(smi(), smi(board(1)), smi()))
    assert (said.id, said.status, said.scope, said.host) == ("gpu.count", "warn", "cluster", "b")
    assert said.message.startswith("1 GPU on b, 2 GPUs on the other 2")


def test_one_host_without_any_would_compute_on_its_cores():
    said = only(cluster(smi(), Smi(ended="absent"), smi()), "gpu.count")
    assert (said.status, said.host) == ("fail", "b")
    assert said.message.startswith("no GPU on b, 2 GPUs on the other 2")
    assert "leave b out" in said.hint


def test_without_a_majority_nobody_is_the_odd_one():
    said = only(cluster(smi(), smi(board(1))), "gpu.count")
    assert (said.status, said.host) == ("warn", None)


DRIVER_ALONE = Smi(ended="absent", installed=tuple(Installed(bus=f"x{i}") for i in range(7)))


@pytest.mark.parametrize(
    ("answer", "workers", "changes", "status"),
    [
        (smi(board(7)), 8, {}, "fail"),
        (smi(board(7)), 7, {}, "pass"),
        (smi(board(8)), 8, {"visible": {"a": "0,1,2,3,4,5,6"}}, "fail"),
        (smi(board(8)), 8, {"gpus": {"a": (0, 1, 2, 3, 4, 5, 6)}}, "fail"),
        (DRIVER_ALONE, 8, {}, "fail"),
        (DRIVER_ALONE, 7, {}, None),
        # Without any GPU that they may use they compute on the cores.
        (Smi(ended="absent"), 8, {}, None),
        (smi(board(7)), 8, {"visible": {"a": ""}}, None),
        (smi(board(7), visible=""), 8, {}, "pass"),
        (smi(board(7)), 8, {"facts": on_cores("a")}, None),
        # Nobody has said how many.
        (smi(board(7)), 8, {"counted": frozenset("a")}, "pass"),
        (smi(board(7)), None, {}, "pass"),
        # gpu.mig says it.
        (smi(board(7, mig=True)), 8, {}, "pass"),
    ],
)
def test_more_workers_than_gpus(answer, workers, changes, status):
    asking = {"counted": frozenset(), "workers": {"a": workers}} | changes
    found = verdicts(cluster(answer, **asking), "gpu.count")
    assert [v.status for v in found] == ([status] if status else [])
    if status == "fail":
        assert found[0].message == "8 workers are to run, but there are 7 GPUs for them"
        assert found[0].hint.startswith("say `nproc_per_node: 7` there")
        assert found[0].hint.endswith("`checks: {gpu.count: warn}`")


def test_a_number_that_was_said_is_meant():
    workers = {"a": 2, "b": 1, "c": 2}
    uneven = cluster(
        smi(), smi(board(1)), Smi(ended="absent"), counted=frozenset(), workers=workers
    )
    assert {v.status for v in verdicts(uneven, "gpu.count")} == {"pass"}
    # And of one who sees fewer by `gpus:`, that is all there is to say.
    fewer = cluster(smi(), smi(), gpus={"b": (1,)}, counted=frozenset("a"), workers=workers)
    assert {v.status for v in verdicts(fewer, "gpu.count")} == {"pass"}


def test_who_lacks_what_is_asked_for_is_not_told_twice():
    found = verdicts(cluster(smi(), smi(visible="0,5"), smi()), "gpu.count")
    assert [(v.host, v.scope) for v in found if v.status != "pass"] == [("b", "host")]
    found = verdicts(cluster(smi(), smi(), smi(visible="0,5"), smi(board(1))), "gpu.count")
    assert [(v.host, v.status) for v in found if v.status != "pass"] == [
        ("c", "fail"),
        ("d", "warn"),
    ]


def test_a_number_that_nobody_needs_is_not_unknown():
    silent = cluster("no answer", workers={"a": 2}, counted=frozenset())
    assert verdicts(silent, "gpu.count") == []
    (said,) = verdicts(dataclasses.replace(silent, gpus={"a": (0,)}), "gpu.count")
    assert said.status == "unknown"


def amds(*hosts: str) -> dict[str, HostFacts]:
    python = dataclasses.replace(GOOD, torch="2.9.0", build="rocm6.4")
    return {host: host_facts(python, machine=ord(host)) for host in hosts}


def test_gpus_of_amd_are_counted_too():
    eight, none = Smi(ended="absent", amd=8), Smi(ended="absent", amd=0)
    well = cluster(eight, eight, workers={"a": 8, "b": 8}, facts=amds("a", "b"))
    assert verdicts(well) == []
    absent = only(dataclasses.replace(well, gpus={"a": (0, 8)}))
    assert absent.message == "has 8 GPUs, 0 to 7, but is asked for GPU 8"
    assert absent.hint.startswith("rocm-smi, there, ")
    more = dataclasses.replace(well, workers={"a": 16, "b": 8}, counted=frozenset("b"))
    assert only(more).message == "16 workers are to run, but there are 8 GPUs for them"
    # To one that is built for NVIDIA's they are nothing.
    assert failures(verdicts(cluster(eight, eight, gpus={"a": (0,)})))
    odd = only(cluster(eight, none, eight, facts=amds("a", "b", "c")))
    assert (odd.id, odd.host, odd.status) == ("gpu.count", "b", "fail")


def test_gpus_of_amd_that_nobody_could_count():
    (said,) = verdicts(cluster(Smi(ended="absent"), facts=amds("a")))
    assert (said.id, said.status) == ("gpu.count", "unknown")
    assert "`nproc_per_node:` there, with a number" in said.hint


# --- lost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (smi(unreachable=(("0000:3b:00.0", "GPU is lost"),)), "GPU at 0000:3b:00.0: GPU is lost"),
        (smi((), unreachable=(("0000:3b:00.0", "Unknown Error"),)), "Unknown Error"),
        (but(one(1, problem="GPU requires reset")), "GPU 1: GPU requires reset"),
        (
            smi(installed=(Installed(bus="0000:08:00.0"), Installed(bus="0000:3b:00.0"))),
            "GPU at 0000:3b:00.0: the driver knows it",
        ),
    ],
)
def test_a_gpu_that_is_gone(answer, words):
    said = only(cluster(answer), "gpu.lost")
    assert (said.status, said.host) == ("fail", "a")
    assert said.message.startswith(words) or words in said.message
    assert "xid" in said.hint


def test_a_gpu_that_is_kept_from_us_is_not_lost():
    hidden = smi(installed=(Installed(bus="0000:3b:00.0", usable=False),))
    assert [v.status for v in verdicts(cluster(hidden), "gpu.lost")] == ["pass"]
    nameless = but(one(1, bus=None), installed=(Installed(bus="0000:18:00.0"),))
    assert [v.status for v in verdicts(cluster(nameless), "gpu.lost")] == ["pass"]


def test_a_lost_one_that_is_not_asked_for_may_have_moved_the_numbers():
    gone = smi(unreachable=(("0000:3b:00.0", "GPU is lost"),))
    assert only(cluster(gone, gpus={"a": (0,)}), "gpu.lost").status == "warn"
    assert only(cluster(gone, gpus={"a": (0, 2)}), "gpu.lost").status == "fail"
    broken = but(one(1, problem="GPU is lost"))
    assert only(cluster(broken, gpus={"a": (1,)}), "gpu.lost").status == "fail"


# --- state --------------------------------------------------------------------------------------


def test_memory_that_goes_bad_is_a_warning():
    said = only(cluster(but(one(1, ecc=2), one(0, pending=True))))
    assert (said.id, said.status) == ("gpu.ecc", "warn")
    assert said.message == (
        "GPU 0 has bad memory that a reset would put out of use; "
        "GPU 1 has had 2 uncorrected memory errors since its driver was loaded"
    )
    assert said.hint.endswith("sudo nvidia-smi --gpu-reset -i 0,1")
    assert "replaced" in only(cluster(but(one(remap_failed=True)))).hint
    assert "Drain and Reset" in only(cluster(but(one(recovery="Drain and Reset")))).message


def test_an_inforom_that_is_corrupted():
    said = only(cluster(Smi.parse(told("inforom-warning-418.txt")), workers={"a": 1}), "gpu.ecc")
    assert (said.status, said.message) == (
        *("warn",),
        "the infoROM of GPU 0, which keeps count of bad memory, is corrupted",
    )
    assert said.hint.startswith("there: nvidia-smi -q -i 0 | grep -i -A5 inforom; ")
    second = smi(warnings=("WARNING: infoROM is corrupted at gpu 00000000:18:00.0",))
    both = dataclasses.replace(second, gpus=(one(ecc=1), one(1)))
    assert only(cluster(both)).message.endswith("; the infoROM of GPU 1, which keeps count of bad "
                                                "memory, is corrupted")  # fmt: skip
    assert "--gpu-reset -i 0; there: nvidia-smi -q -i 1 |" in only(cluster(both)).hint
    # Whose that is nobody uses; and where it is not said whose.
    assert [v.status for v in verdicts(cluster(second, gpus={"a": (0,)}), "gpu.ecc")] == ["pass"]
    somewhere = smi(warnings=("WARNING: infoROM is corrupted",))
    assert only(cluster(somewhere)).message.startswith("the infoROM of a GPU, which")
    # Not all that it says beside its rows is about that.
    assert {v.status for v in verdicts(cluster(smi(warnings=("WARNING: x",))))} == {"pass"}


def test_memory_without_ecc_is_not_said_to_be_good():
    (said,) = verdicts(cluster(smi(board(1, ecc=None))), "gpu.ecc")
    assert "nothing to tell" in said.message


@pytest.mark.parametrize(
    ("mode", "workers", "holders", "status"),
    [
        ("Exclusive_Process", 2, (), "info"),
        ("Exclusive_Thread", 2, (), "info"),
        ("Exclusive_Process", 3, (), "fail"),
        ("Exclusive_Process", None, (), "info"),
        ("Exclusive_Process", 2, (held(1, 10),), "fail"),
        ("Prohibited", 2, (), "fail"),
    ],
)
def test_compute_modes(mode, workers, holders, status):
    answer = smi(board(compute_mode=mode), holders=holders)
    said = only(cluster(answer, workers={"a": workers}), "gpu.exclusive")
    assert said.status == status
    assert mode in said.message
    if status == "fail":
        assert "sudo nvidia-smi -c DEFAULT -i 0,1" in said.hint


def mps(index: int = 0, **changes) -> Holder:
    """Return what lets others share a GPU."""
    server = held(index, 512, name="/usr/bin/nvidia-cuda-mps-server", user="root")
    return dataclasses.replace(server, **changes)


@pytest.mark.parametrize(
    ("workers", "holders", "status"),
    [
        (2, (mps(0), mps(1)), "pass"),
        # Only of what another container has nothing but this name is to be seen.
        (2, (mps(0, name=None, command="nvidia-cuda-mps-server"), mps(1, seen=False)), "pass"),
        # Many share them on purpose.
        (8, (mps(0), mps(1)), "pass"),
        (2, (mps(0),), "info"),
        (8, (mps(0),), "fail"),
        (2, (mps(0), held(1)), "fail"),
        (2, (held(0, name="mps-server"), mps(1)), "fail"),
    ],
)
def test_a_server_that_shares_a_gpu_is_not_who_has_it(workers, holders, status):
    answer = smi(board(compute_mode="Exclusive_Process"), holders=holders)
    (said,) = verdicts(cluster(answer, workers={"a": workers}), "gpu.exclusive")
    assert said.status == status
    if status == "pass":
        assert said.message == "shared, by MPS"
        assert [v.status for v in verdicts(cluster(answer), "gpu.busy")] == ["pass"]


def test_who_uses_a_gpu_through_a_server_is_on_it():
    client = held(0, name="python")
    said = only(cluster(smi(holders=(mps(0), client))), "gpu.busy")
    assert (said.status, len(said.evidence["holders"])) == ("fail", 1)


UP = {"fabric_state": "Completed", "fabric_status": "Success"}


@pytest.mark.parametrize(
    ("fields", "switches", "manager", "status"),
    [
        ({}, 0, False, None),
        ({}, 6, True, "pass"),
        ({}, 6, False, "fail"),
        ({}, 6, None, "unknown"),
        (UP, 4, False, "pass"),
        (UP, 0, None, "pass"),
        ({"fabric_state": "In Progress"}, 0, None, "fail"),
        ({"fabric_state": "Not Started"}, 4, True, "fail"),
        (UP | {"fabric_status": "Insufficient Resources"}, 4, True, "fail"),
    ],
)
def test_the_fabric_of_nvswitches(fields, switches, manager, status):
    answer = smi(board(**fields), switches=switches, manager=manager)
    found = verdicts(cluster(answer), "gpu.fabric")
    assert [v.status for v in found] == ([status] if status else [])
    if status == "fail":
        assert "nvidia-fabricmanager" in found[0].hint


@pytest.mark.parametrize(
    ("workers", "asked", "status"),
    [(1, None, "warn"), (2, None, "fail"), (None, None, "warn"), (2, (1,), "pass")],
)
def test_slices(workers, asked, status):
    facts = cluster(but(one(mig=True)), workers={"a": workers}, gpus={"a": asked} if asked else {})
    (said,) = verdicts(facts, "gpu.mig")
    assert said.status == status
    if status == "fail":
        assert said.message.startswith("GPU 0 is cut into slices")
        assert said.hint.endswith("sudo nvidia-smi -mig 0 -i 0; or `nproc_per_node: 1`")


# --- busy ---------------------------------------------------------------------------------------


def busy(*holders: Holder, **changes):
    return only(cluster(smi(holders=holders), **changes), "gpu.busy")


def test_another_users_process():
    said = busy(held(1))
    assert (said.status, said.host) == ("fail", "a")
    assert said.message == (
        "GPU 1 is held by pid 4711 (alice: python train.py), for 2 h, 30000 MiB"
    )
    assert said.hint == "ask alice; or use the others: `gpus: [0]`"
    assert said.evidence["holders"][0]["user"] == "alice"


def test_a_run_of_ours_and_a_stray_of_ours():
    said = busy(held(ours=True, run="calm-ray"), held(1, 500, ours=True))
    assert "pid 4711 of run calm-ray (alice: " in said.message
    assert said.hint.startswith(
        "ddp-orch down calm-ray -i INVENTORY; ddp-orch down --strays INVENTORY"
    )
    assert "gpus:" not in said.hint, "none is left"
    # What another user's process says it belongs to is no run of ours.
    assert busy(held(run="calm-ray")).hint.startswith("ask alice")


@pytest.mark.parametrize(
    ("mib", "total", "status"),
    [
        ((63,), 8192, "pass"),
        ((64,), 8192, "warn"),
        ((1023,), 8192, "warn"),
        ((512, 512), 8192, "fail"),
        ((None,), 8192, "warn"),
        ((1024,), 8192, "fail"),
        # What its memory is, is not always told.
        ((1024,), None, "fail"),
        # Somebody's notebook on a large one.
        ((1100,), 143771, "warn"),
        ((14376,), 143771, "warn"),
        ((14377,), 143771, "fail"),
    ],
)
def test_how_much_it_holds_says_how_bad_it_is(mib, total, status):
    holders = tuple(held(0, each, pid=i) for i, each in enumerate(mib))
    (said,) = verdicts(cluster(smi(board(memory_total=total), holders=holders)), "gpu.busy")
    assert said.status == status


def test_only_gpus_that_the_run_would_use_matter():
    on_it = smi(holders=(held(1),))
    for facts in (
        cluster(on_it, gpus={"a": (0,)}),
        cluster(on_it, visible={"a": "0"}),
        cluster(on_it, visible={"a": "GPU-0"}),
        cluster(dataclasses.replace(on_it, visible="0")),
    ):
        assert {v.status for v in verdicts(facts)} == {"pass"}, facts
    # What the inventory sets comes over what the host has.
    both = cluster(dataclasses.replace(on_it, visible="0"), visible={"a": "1"})
    assert only(both).id == "gpu.busy"


def test_who_cannot_be_seen_from_here():
    said = busy(Holder(pid=9, uuid="GPU-0", name="python", memory=20000))
    assert said.status == "fail"
    assert said.message == "GPU 0 is held by pid 9 (python), not to be seen from here: 20000 MiB"
    assert "squeue" in said.hint


def test_many_processes_are_counted_and_the_largest_named():
    said = busy(*(held(i % 2, 2000 + i, pid=i) for i in range(8)))
    assert said.message.startswith("GPU 1 is held by pid 7 ")
    assert said.message.endswith("; and 5 more")
    assert len(said.evidence["holders"]) == 8


def test_a_slice_that_is_asked_for_by_its_name():
    halves = but(one(1, mig=True), holders=(held(0),), visible="MIG-5a1c0d00-0000")
    facts = cluster(halves, workers={"a": 1})
    assert [v.status for v in verdicts(facts, "gpu.busy")] == ["pass"]
    assert only(facts, "gpu.mig").message.startswith("GPU 1 is cut")


def test_a_slice_is_shared_on_purpose():
    sliced = smi(board(1, mig=True, memory_used=30000), holders=(held(),))
    assert only(cluster(sliced, workers={"a": 1}), "gpu.busy").status == "warn"
    idle = smi(board(1, mig=True, memory_used=30000))
    assert [v.status for v in verdicts(cluster(idle), "gpu.busy")] == ["pass"]


def test_memory_that_nobody_says_he_has():
    said = only(cluster(smi(board(memory_used=20000))))
    assert (said.id, said.status) == ("gpu.busy", "warn")
    assert said.message.startswith("GPUs 0 and 1 have at most 20000 MiB in use, and by no process")
    # A driver keeps some for itself.
    small = smi(board(memory_used=600))
    assert [v.status for v in verdicts(cluster(small), "gpu.busy")] == ["pass"]


def test_memory_that_small_processes_have():
    small = cluster(smi((one(memory_used=20000),), holders=(held(mib=40),)))
    assert only(small).message.startswith("GPU 0 has 20000 MiB in use, and by no process")
    many = tuple(held(mib=63, pid=pid) for pid in range(20))
    explained = cluster(smi((one(memory_used=1300),), holders=many))
    assert [v.status for v in verdicts(explained, "gpu.busy")] == ["pass"]


def test_what_is_not_seen_is_told_beside_what_is():
    both = but(one(0, memory_used=20000), one(1, memory_used=30000), holders=(held(1),))
    said = only(cluster(both))
    assert "; GPU 0 has 20000 MiB in use, and by no process" in said.message
    assert said.hint == "ask alice", "none is left to use"


def test_one_worker_per_gpu_and_no_gpu():
    """On all hosts alike, so that nothing differs."""
    none = cluster(Smi(ended="absent"), Smi(ended="absent"), workers={"a": 0, "b": 0})
    said = verdicts(none, "gpu.count")
    assert [(v.host, v.status) for v in said] == [("a", "fail"), ("b", "fail")]
    assert said[1].hint.endswith("--exclude b")
    hidden = cluster(smi(), workers={"a": 0}, visible={"a": ""})
    assert only(hidden).id == "gpu.count"
    assert verdicts(cluster(Smi(ended="absent"), workers={"a": 1})) == []


def test_processes_that_were_not_told():
    said = only(cluster(smi(holders=None)))
    assert (said.id, said.status) == ("gpu.busy", "unknown")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5.4, "5 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (259200, "3 d")],
)
def test_how_long(seconds, words):
    assert lasting(seconds) == words


# --- among the hosts ----------------------------------------------------------------------------


def test_one_model_among_others():
    odd = smi(board(name="NVIDIA A100"))
    said = only(cluster(smi(), smi(), odd, smi()))
    assert (said.id, said.status, said.host) == ("gpu.model_mix", "warn", "c")
    assert said.message == ("not all GPUs are alike: NVIDIA A100 on c, NVIDIA H100 on the other 3")
    both = but(one(1, name="NVIDIA A100"))
    assert only(cluster(both)).id == "gpu.model_mix"
    said = only(cluster(both, both, both))
    assert said.message == "not all GPUs are alike: NVIDIA A100 and NVIDIA H100 on a, b and c"
    assert verdicts(cluster(both, gpus={"a": (0,)}), "gpu.model_mix")[0].status == "pass"


def test_drivers_of_two_branches():
    said = only(cluster(smi(), smi(board(driver="570.124.06"))))
    assert (said.id, said.status, said.host) == ("gpu.driver_drift", "warn", None)
    assert "550.54.14 on a" in said.message
    assert "570.124.06 on b" in said.message
    near = cluster(smi(), smi(board(driver="550.90.07")))
    assert verdicts(near, "gpu.driver_drift")[0].message == "550.54.14, 550.90.07"
