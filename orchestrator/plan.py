"""Inventory, job and findings in; a plan out that can be printed, tested and carried out. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.mesh import cluster_address, interface_of
from orchestrator.node.facts import devices_in
from orchestrator.node.interpreter import PYTHON

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from inventory.model import Host, Inventory
    from orchestrator.facts import ClusterFacts, HostFacts
    from orchestrator.masking import Secret

STATE_DIR = "~/.ddp-orch"
AROUND_PYTHON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
ADJECTIVES = (
    "amber bold brave brisk calm clear clever cosy crisp eager early fair fleet fresh gentle glad "
    "golden grand happy honest humble jolly keen kind lively lucky mellow merry mild neat noble "
    "plucky polite proud quick quiet rapid ready rosy royal sharp silent silver sleek smart snowy "
    "solid spry steady still sunny swift tidy true vivid warm wise witty young zesty"
).split()
ANIMALS = (
    "badger beaver bison bobcat camel cobra condor crane dingo dolphin eagle egret falcon ferret "
    "finch fox gecko gibbon heron hornet ibex ibis jackal jaguar kestrel koala lemur leopard lynx "
    "magpie marten mole moose newt ocelot orca osprey otter owl panda panther pelican penguin "
    "puffin puma quail rabbit raven robin salmon seal shrew sparrow stork swan tapir tiger toucan "
    "turtle viper walrus weasel wombat wren zebra"
).split()


@dataclass(frozen=True, kw_only=True)
class Program:
    """What every worker runs."""

    target: str
    """A path or a module; of a shipped script its name in the run's folder."""

    args: tuple[str, ...] = ()
    module: bool = False
    python: bool = True
    """Run by the node's Python; else it is a program of its own."""

    ships: tuple[str, ...] = ()
    """Files here that are sent to code/ in the run's folder."""

    @property
    def label(self) -> str:
        return f"-m {self.target}" if self.module else self.target


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """One host in the run."""

    host: str
    rank: int
    python: str
    folder: str
    workdir: str | None
    env: dict[str, str] = field(default_factory=dict)
    state_dir: str = STATE_DIR
    """Holds the runs' folders; `folder` is below it."""

    activated: dict[str, str] = field(default_factory=dict)
    """What activating the environment that `python` is in would set, but PATH."""

    setup: tuple[str, ...] = ()
    gpus: tuple[int, ...] | None = None
    home: str | None = None
    # None where only a look at the hosts can tell; a plan that is carried out has no None.
    workers: int | None = None
    workers_wanted: str | None = None
    threads: int | None = None
    address: str | None = None
    interface: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    name: str
    rendezvous_id: str
    nodes: tuple[NodePlan, ...]
    program: Program
    port: int | None
    join_timeout: int
    max_restarts: int
    lost_after: float = 30.0
    """How long, in seconds, a node may be out of the others' reach."""

    torchrun_args: tuple[str, ...] = ()
    secrets: dict[str, Secret] = field(default_factory=dict)
    """Environment of every worker that nobody is shown."""

    @property
    def head(self) -> NodePlan:
        return self.nodes[0]

    @property
    def world_size(self) -> int | None:
        counts = [node.workers for node in self.nodes]
        return None if None in counts else sum(n for n in counts if n)

    @property
    def endpoint(self) -> str:
        address = self.head.address or f"<address of {self.head.host}>"
        return f"{bracketed(address)}:{self.port or '<a free port there>'}"


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def run_name(random: Random) -> str:
    return f"{random.choice(ADJECTIVES)}-{random.choice(ANIMALS)}"


def make_plan(
    inventory: Inventory,
    program: Program,
    *,
    name: str,
    token: str,
    max_restarts: int,
    env: dict[str, str],
    secrets: dict[str, Secret] | None = None,
    cluster: ClusterFacts | None = None,
) -> RunPlan:
    """Lay out the run. Without `cluster` what only the hosts can tell is left open."""
    known = {h: f for h, f in cluster.facts.items() if not isinstance(f, str)} if cluster else {}
    homes = {h: f.home for h, f in known.items()}
    envs = {host.name: inventory.job.env | host.env | env for host in inventory.hosts}
    counts = [worker_count(h, known.get(h.name), envs[h.name]) for h in inventory.hosts]
    everyone = sum(n or 1 for n in counts) if inventory.same_machine else None
    nodes = []
    for rank, (host, count) in enumerate(zip(inventory.hosts, counts, strict=True)):
        facts = known.get(host.name)
        state_dir = at_home(state_dir_of(host), homes.get(host.name)).rstrip("/")
        address = host.addr or (cluster_address(cluster, host.name) if cluster else None)
        nodes.append(
            NodePlan(
                host=host.name,
                rank=rank,
                python=interpreter_of(host, facts, looked=cluster is not None),
                state_dir=state_dir,
                folder=f"{state_dir}/runs/{name}/{rank}",
                home=homes.get(host.name),
                workdir=(facts.workdir if facts else None) or host.workdir,
                activated=facts.interpreter.environment if facts else {},
                setup=host.setup,
                gpus=host.gpus,
                env=envs[host.name],
                workers=count,
                workers_wanted=None
                if isinstance(host.nproc_per_node, int)
                else host.nproc_per_node,
                threads=max(1, facts.cores // (everyone or count)) if facts and count else None,
                address=address,
                interface=interface_of(cluster, host.name) if cluster else None,
            )
        )
    port = inventory.rendezvous.port
    return RunPlan(
        name=name,
        rendezvous_id=f"{name}-{token}",
        nodes=tuple(nodes),
        program=program,
        port=cluster.listening.port
        if cluster and cluster.listening and cluster.listening.port
        else port
        if isinstance(port, int)
        else None,
        join_timeout=max(1, round(inventory.rendezvous.timeout)),
        max_restarts=max_restarts,
        lost_after=inventory.job.lost_after,
        torchrun_args=inventory.job.torchrun_args,
        secrets=secrets or {},
    )


def state_dir_of(host: Host) -> str:
    """Return the folder there that holds the runs' folders."""
    return host.state_dir or STATE_DIR


def around_python(given: Mapping[str, str]) -> dict[str, str]:
    """Return what decides whether an interpreter starts, and where it finds modules and commands.

    Hosts are asked about these in the agent's own command line: no more of it is told there.
    """
    return {name: given[name] for name in AROUND_PYTHON if given.get(name)}


def interpreter_of(host: Host, facts: HostFacts | None, *, looked: bool) -> str:
    """Return what was found for `python:`; what is no interpreter by its name the host knows."""
    if facts and facts.interpreter.path:
        return facts.interpreter.path
    if looked or PYTHON.match(host.python.rpartition("/")[2]):
        return at_home(host.python, facts.home if facts else None)
    return f"<python of {host.python}>"


def at_home(path: str, home: str | None) -> str:
    return f"{home}{path[1:]}" if home and (path == "~" or path.startswith("~/")) else path


def worker_count(host: Host, facts: HostFacts | None, env: Mapping[str, str]) -> int | None:
    """How many workers: what is asked for, else one per GPU that they will see, else one."""
    wanted = host.nproc_per_node
    if isinstance(wanted, int):
        return wanted
    if host.gpus is not None and wanted != "cpu":
        return len(host.gpus)
    if facts is None:
        return None
    # What the workers are given comes over what the host's own environment says.
    visible = env.get("CUDA_VISIBLE_DEVICES")
    gpus = facts.gpus if visible is None else devices_in(visible)
    if wanted == "cpu":
        return facts.cores
    if facts.interpreter.cpu_build and wanted != "gpu":
        gpus = 0  # that they would see
    if gpus is None:
        return None  # not one, silently: it may have eight
    if wanted == "gpu":
        return gpus  # none is a finding of preflight's
    return gpus or (facts.cores if wanted == "auto" else 1)
