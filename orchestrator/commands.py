"""NodePlan in, words and environment out. The only place that quotes, for people to read."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Any

from orchestrator.masking import revealed
from orchestrator.plan import at_home

if TYPE_CHECKING:
    from orchestrator.masking import Secret
    from orchestrator.plan import NodePlan, RunPlan

# The name that node/ranks.py registers with torchrun, and the folder it is shipped in.
PLUGIN = "ddp_orch"
PLUGIN_FOLDER = "lib"
# In the run's folder, where workers start: a name that no script makes or removes as its own.
WORKER_LOGS = "worker-logs"
PLUGIN_MODULE = "ddp_orch_ranks"
ENTRY_POINTS = f"""\
[torchrun.handlers]
{PLUGIN} = {PLUGIN_MODULE}:entry_point
[torchrun.logs_specs]
{PLUGIN} = {PLUGIN_MODULE}:RoundLogs
"""
METADATA = f"Metadata-Version: 2.1\nName: {PLUGIN_MODULE}\nVersion: 1.0\n"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the node's environment is made of."""

    defaults: dict[str, str]
    """Ours, where the host's own environment does not say otherwise."""

    fixed: dict[str, str]
    """Set whatever the host says: the user's, and what the run needs."""

    prepended: dict[str, str]
    """Put before what is there, with a colon."""

    removed: tuple[str, ...]
    """The host's own that would do harm."""

    secrets: dict[str, Secret]
    """Fixed as well, and shown to nobody."""

    def for_the_host(self) -> dict[str, Any]:
        """Return all of it in clear: through the link, which is encrypted, and nowhere else."""
        return {
            "defaults": self.defaults,
            "fixed": self.fixed,
            "prepended": self.prepended,
            "removed": self.removed,
            "secrets": revealed(self.secrets),
        }


def torchrun(plan: RunPlan, node: NodePlan) -> list[str]:
    """Return the whole command of a node, as words."""
    head = node is plan.head
    conf = {
        "is_host": int(head),
        "order": node.rank,
        "join_timeout": plan.join_timeout,
        # torch gives up after 60 s when the head takes longer to import torch than the others do.
        "read_timeout": max(60, plan.join_timeout),
    }
    options = {
        "--nnodes": len(plan.nodes),
        "--nproc-per-node": node.workers or f"<workers of {node.host}>",
        "--max-restarts": plan.max_restarts,
        "--rdzv-backend": PLUGIN,
        "--rdzv-endpoint": plan.endpoint,
        "--rdzv-id": plan.rendezvous_id,
        "--rdzv-conf": ",".join(f"{key}={value}" for key, value in conf.items()),
        "--local-addr": node.address or f"<address of {node.host}>",
        "--log-dir": f"{node.folder}/{WORKER_LOGS}",
        "--redirects": 3,
        "--logs-specs": PLUGIN,
    }
    words = [node.python, "-m", "torch.distributed.run"]
    # The user's first: should one be short for one of ours, or lack its value, ours stand.
    words += plan.torchrun_args
    words += [word for option, value in options.items() for word in (option, str(value))]
    return words + worker_words(plan, node)


def worker_words(plan: RunPlan, node: NodePlan) -> list[str]:
    """Return what to run, so that the arguments come through torchrun's parser unchanged."""
    program = plan.program
    target = at_home(program.target, node.home)
    if program.ships:
        target = f"{node.folder}/code/{program.target}"
    how = [] if program.python else ["--no-python"]
    if program.module:
        how = ["-m"]
    elif program.python:
        target = untouched_by_macros(target)  # an argument of Python's, to torchrun
    args = [untouched_by_macros(arg) for arg in program.args]
    # Without it argparse looks at them too: it takes their first "--" for its own, and stops at one
    # that could be short for several of torchrun's options (--log: --log-dir or --logs-specs).
    escape = ["--"] if args else []
    return [*how, target, *escape, *args]


def untouched_by_macros(arg: str) -> str:
    """Torchrun fills in ${local_rank} by string.Template, which also makes one $ of two."""
    changed = Template(arg).safe_substitute(local_rank="\0") != arg
    return arg.replace("$", "$$") if changed else arg


def environment(plan: RunPlan, node: NodePlan) -> Environment:
    defaults = {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(node.threads or "<cores / workers>"),
        # torchrun would set 1, which spoils the flight recorder's dumps.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "TORCH_FR_DUMP_TEMP_FILE": f"{node.folder}/nccl_trace_rank_",
        # A name server that does not answer costs a second, not half a minute.
        "RES_OPTIONS": "timeout:1 attempts:1",
        # With the stock handler restarted workers read the keys of the round before.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    interface = node.interface or (None if node.address else f"<interface of {node.host}>")
    if interface:
        # Else gloo looks up the host's own name, and NCCL takes the first interface it likes.
        defaults["GLOO_SOCKET_IFNAME"] = interface
        defaults["NCCL_SOCKET_IFNAME"] = f"={interface}"  # "=": this one, not all that begin so
    needed = {
        "DDP_ORCH_RUN": plan.name,
        "DDP_ORCH_NODE_RANK": str(node.rank),
        "DDP_ORCH_RUN_DIR": node.folder,
        "DDP_ORCH_HOSTS": ",".join(n.host for n in plan.nodes),
        "TORCHELASTIC_ERROR_FILE": f"{node.folder}/torchrun.error.json",
    }
    fixed = needed | visible_gpus(node) | node.activated
    fixed |= {k: v for k, v in node.env.items() if k != "PYTHONPATH"}
    path = [f"{node.folder}/{PLUGIN_FOLDER}"]
    if node.env.get("PYTHONPATH"):
        path.append(node.env["PYTHONPATH"])
    prepended = {"PYTHONPATH": ":".join(path)}
    if node.activated:
        # As activation does: before the user's own PATH, which takes the place of the host's.
        prefix = node.activated.get("VIRTUAL_ENV") or node.activated["CONDA_PREFIX"]
        programs = f"{prefix}/bin"
        if node.env.get("PATH"):
            fixed["PATH"] = f"{programs}:{node.env['PATH']}"
        else:
            prepended["PATH"] = programs
    home = ("PYTHONHOME",) if node.activated and "PYTHONHOME" not in node.env else ()
    return Environment(
        defaults={k: v for k, v in defaults.items() if k not in node.env},
        fixed=fixed,
        prepended=prepended,
        removed=home,
        secrets=plan.secrets,
    )


def visible_gpus(node: NodePlan) -> dict[str, str]:
    if node.gpus is None:
        return {}
    # CUDA itself would number them by speed; nvidia-smi does by their place on the bus.
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, node.gpus)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def in_a_shell(command: str) -> list[str]:
    """Return how a host runs a command of `setup:`."""
    return ["/bin/sh", "-c", command]


def as_typed(plan: RunPlan, node: NodePlan) -> str:
    """Return one line that a person could type on the host."""
    env = environment(plan, node)
    # What is the user's reaches the worker as it is, a leading ~ too.
    assignments = [
        f"{k}={shlex.quote(v) if k in node.env else quoted(v)}"
        for k, v in (env.defaults | env.fixed).items()
    ]
    assignments += [f'{k}={quoted(v)}"${{{k}:+:${k}}}"' for k, v in env.prepended.items()]
    assignments += [f"{name}={secret}" for name, secret in env.secrets.items()]
    without = [f"unset {name} &&" for name in env.removed]
    words = torchrun(plan, node)
    ours = len(words) - len(plan.program.args)
    command = [*map(quoted, words[:ours]), *map(shlex.quote, words[ours:])]
    line = " ".join([*without, *assignments, *command])
    return f"cd {quoted(node.workdir or node.folder)} && {line}"


def quoted(word: str) -> str:
    """Quote for a shell, but leave a leading ~ to it."""
    if word.startswith("~/"):
        return "~/" + shlex.quote(word[2:]) if word != "~/" else word
    return shlex.quote(word)
