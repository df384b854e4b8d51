"""What a host says of itself, and of the Python that is to run the workers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.facts.shapes import mapping, text, text_or_none, texts, whole

if TYPE_CHECKING:
    from orchestrator.facts.network import Network


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The Python that is to run the workers."""

    asked: str = "python3"
    """As the inventory has it."""

    path: str | None = None
    """What that is on the host: the program to call."""

    environment: dict[str, str] = field(default_factory=dict)
    """What activating the virtual or conda environment around it would set; {}: there is none."""

    executable: str | None = None
    version: str | None = None
    torch: str | None = None
    build: str | None = None
    """What torch was built for, as its wheels name it: cu124, rocm6.2, cpu; None: not known."""

    cuda: str | None = None
    """The version of CUDA that its files name."""

    nccl: str | None = None
    """The version of NCCL's package there; None: none is, or NCCL is built into torch."""

    torchrun: bool = True
    """Torch has its launcher, torch.distributed.run."""

    problem: str | None = None
    seen: tuple[str, ...] = ()

    @property
    def cpu_build(self) -> bool:
        """Its torch sees no GPU, whatever there is."""
        return self.build == "cpu"

    @property
    def for_amd(self) -> bool:
        return (self.build or "").startswith("rocm")

    @property
    def for_others(self) -> bool:
        """Its torch is for GPUs that are not NVIDIA's."""
        return self.for_amd or (self.build or "").startswith("xpu")

    @property
    def cuda_version(self) -> tuple[int, int] | None:
        """Of the CUDA that torch was built with: 12 and 8 of cu128; None: none, or not known."""
        found = re.fullmatch(r"cu(\d+)(\d)", self.build or "")
        found = found or re.match(r"(\d+)\.(\d+)", self.cuda or "")
        return (int(found[1]), int(found[2])) if found else None

    @classmethod
    def parse(cls, asked: str, got: dict[str, Any]) -> Interpreter:
        around = mapping(got.get("environment") or {}, "environment")
        torch = text_or_none(got.get("torch"), "torch")
        build = _build(got) if torch else None
        packages = mapping(got.get("nccl") or {}, "nccl")
        return cls(
            asked=asked,
            path=text_or_none(got.get("path"), "path"),
            environment={name: text(value, "environment") for name, value in around.items()},
            executable=text_or_none(got.get("executable"), "executable"),
            version=text_or_none(got.get("version"), "version"),
            torch=torch,
            build=build,
            cuda=text_or_none(got.get("cuda"), "cuda"),
            nccl=_nccl({name: text(value, "nccl") for name, value in packages.items()}, build),
            torchrun=torch is None or got.get("torchrun") is True,
            problem=text_or_none(got.get("problem"), "problem"),
            seen=texts(got.get("seen", []), "seen"),
        )


def _build(got: dict[str, Any]) -> str | None:
    """The name of a build is part of its version, or of the one in its files, or CUDA's version."""
    built = text_or_none(got.get("built"), "built")
    for version in (got["torch"], built or ""):
        if "+" in version:
            return str(version.partition("+")[2])
    cuda, hip = (text_or_none(got.get(name), name) for name in ("cuda", "hip"))
    if cuda:
        return "cu" + cuda.replace(".", "")
    if hip:
        return "rocm" + ".".join(hip.split(".")[:2])
    return "cpu" if built else None


def _nccl(packages: dict[str, str], build: str | None) -> str | None:
    """Of several, torch's is the one for its CUDA: nvidia_nccl_cu12 for cu124."""
    fitting = {
        version
        for name, version in packages.items()
        if build is None
        or not build.startswith("cu")
        or build.startswith(name.rpartition("cu")[2], 2)
    }
    found = fitting or set(packages.values())
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    hostname: str
    boot_id: str
    network_id: int
    user: str
    home: str
    cores: int
    gpus: int | None
    """How many a worker will see; None: nobody knows."""

    addresses: tuple[tuple[str, str], ...]
    """Pairs of interface and address."""

    ssh_address: str
    """The address our connection arrived at, as the host sees it."""

    own_name: tuple[str, ...] | None
    """What its own host name resolves to; None: to nothing."""

    interpreter: Interpreter
    workdir: str | None = None
    """The inventory's workdir, as an absolute path."""

    workdir_problem: str | None = None

    @classmethod
    def parse(
        cls,
        got: dict[str, Any],
        network: Network,
        installed: int | None = None,
        amd: int | None = None,
    ) -> HostFacts:
        own = got["own_name"]
        workdir = mapping(got["workdir"] or {}, "workdir")
        visible = got["gpus_visible"]
        interpreter = Interpreter.parse(
            text(got["python"], "python"), mapping(got["interpreter"], "interpreter")
        )
        there = amd if interpreter.for_amd else installed
        return cls(
            hostname=text(got["hostname"], "hostname"),
            boot_id=text(got["boot_id"], "boot_id"),
            network_id=whole(got["network_id"], "network_id"),
            user=text(got["user"], "user"),
            home=text(got["home"], "home"),
            cores=whole(got["cores"], "cores", 1),
            gpus=there if visible is None else whole(visible, "gpus_visible"),
            workdir=text_or_none(workdir.get("path"), "workdir"),
            workdir_problem=text_or_none(workdir.get("problem"), "workdir"),
            addresses=network.addresses,
            ssh_address=network.ssh_address,
            own_name=None if isinstance(own, dict) else texts(own, "own_name"),
            interpreter=interpreter,
        )
