"""GPUs that are lost, taken or cut up, as far as an nvidia-smi on PATH can make one believe it."""

from __future__ import annotations

import pytest

from tests.hosts.faults import Expected, Ground, assert_found, fault, try_out
from tests.hosts.processes import until
from tests.hosts.smi import Installed, bus, gpu, install, torch_for_gpus, two


def gpus(ground: Ground, n2: Installed | None = None, **more: str) -> None:
    """Give every host two GPUs, and n2 what is said."""
    for host in ground:
        there = n2 if n2 is not None and host.name == "n2" else two(host)
        install(ground, host, two(host, **more) if host.name == "n2" and more else there)


def driver_hangs(ground: Ground) -> None:
    gpus(ground, Installed(ends="hangs"))


def driver_and_library_differ(ground: Ground) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch"
    gpus(ground, Installed(ends=f"{said}\nNVML library version: 555.42"))


def a_gpu_is_lost(ground: Ground) -> None:
    said = "Unable to determine the device handle for GPU1: {}: GPU is lost.  Reboot the system"
    row = said.format(bus(1)) + " to recover this GPU"
    gpus(ground, Installed([gpu(ground["n2"], 0), row]))


def a_gpu_is_taken(ground: Ground) -> None:
    host = ground["n2"]
    holder = host.popen(["sleep", "3600"])
    ground.undo.callback(holder.wait, 10)
    ground.undo.callback(host.kill_all)
    until(lambda: "sleep 3600" in host.pids().values(), "it is there")
    (pid,) = [pid for pid, line in host.pids().items() if line == "sleep 3600"]
    there = two(host, memory__used="20480")
    app = {
        "gpu_uuid": there.gpus[0]["uuid"],
        "pid": str(pid),
        "used_memory": "20479",
        "process_name": "sleep",
    }
    gpus(ground, there.but(apps=[app]))


def more_gpus_are_asked_for(ground: Ground) -> None:
    gpus(ground)
    ground.entries["n2"] = {"gpus": [0, 1, 2, 3]}


def fewer_than_workers(ground: Ground) -> None:
    gpus(ground)
    ground.entries["n2"] = {"nproc_per_node": 3}


def fewer_than_the_others(ground: Ground) -> None:
    gpus(ground, Installed([gpu(ground["n2"], 0)], known=1))


def none_where_the_others_have_some(ground: Ground) -> None:
    for name in ("n1", "n3"):
        install(ground, ground[name], two(ground[name]))
    torch_for_gpus(ground, ground["n2"])


def driver_is_another(ground: Ground) -> None:
    gpus(ground, driver_version="535.161.07")


def driver_is_too_old(ground: Ground) -> None:
    n2 = two(ground["n2"], driver_version="515.65.01")
    gpus(ground, n2.but(driver="515.65.01"))


def model_is_another(ground: Ground) -> None:
    gpus(ground, name="NVIDIA A100-SXM4-40GB")


def use_is_prohibited(ground: Ground) -> None:
    gpus(ground, compute_mode="Prohibited")


def gpus_are_cut_up(ground: Ground) -> None:
    gpus(ground, **{"mig.mode.current": "Enabled"})


def memory_has_errors(ground: Ground) -> None:
    gpus(ground, **{"ecc.errors.uncorrected.volatile.total": "3"})


def at_n2(id_: str, hint: str = "", status: str = "fail", message: str = "") -> Expected:
    return Expected(id_, "n2", hint=hint, status=status, message=message)


FAULTS = [
    fault(driver_hangs, at_n2("gpu.smi", "dmesg", message="the GPU driver hangs")),
    fault(driver_and_library_differ, at_n2("gpu.smi", "reboot")),
    fault(a_gpu_is_lost, at_n2("gpu.lost"), warns={"gpu.count"}),
    fault(a_gpu_is_taken, at_n2("gpu.busy", "--strays"), quick=True),
    fault(more_gpus_are_asked_for, at_n2("gpu.count", "nvidia-smi -L")),
    fault(fewer_than_workers, at_n2("gpu.count", "nproc_per_node: 2")),
    fault(fewer_than_the_others, at_n2("gpu.count", "nproc_per_node", "warn")),
    fault(none_where_the_others_have_some, at_n2("gpu.count", "leave n2 out")),
    fault(driver_is_another, at_n2("gpu.driver_drift", "driver", "warn")),
    fault(
        driver_is_too_old,
        at_n2("env.cuda", "whl/cu118", "warn", message="needs a driver 525 or newer"),
        warns={"gpu.driver_drift"},
    ),
    fault(model_is_another, at_n2("gpu.model_mix", status="warn")),
    fault(use_is_prohibited, at_n2("gpu.exclusive", "nvidia-smi -c DEFAULT")),
    fault(gpus_are_cut_up, at_n2("gpu.mig", "nvidia-smi -mig 0")),
    fault(memory_has_errors, at_n2("gpu.ecc", status="warn")),
]


@pytest.mark.parametrize(("inject", "expected", "warns"), FAULTS)
def test_fault(ground: Ground, inject, expected, warns) -> None:
    try_out(ground, inject, expected, warns)


@pytest.mark.slow
def test_of_gpus_that_are_well_nothing_is_said(ground: Ground) -> None:
    gpus(ground)
    assert_found(ground.check(), [], 0)
