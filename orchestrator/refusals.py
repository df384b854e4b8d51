"""What is refused before anything else: what is not there yet, and what cannot be meant. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import UsageError
from orchestrator.plan import around_python

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from inventory.model import Host, Inventory
    from orchestrator.masking import Secret
    from orchestrator.plan import Program

# Linux: MAX_ARG_STRLEN, of one word or one K=V with the zero at its end; and the most that the two
# lists together can be given (three quarters of the largest stack that execve considers).
ONE, ALL = 128 << 10, 6 << 20


def not_there_yet(inventory: Inventory) -> None:
    """Refuse, all at once, what an inventory may say but `up` cannot do yet."""
    job, hosts = inventory.job, len(inventory.hosts)
    lines = []
    if job.launcher != "torchrun":
        lines.append(f"job.launcher: {job.launcher} is not there yet; torchrun is")
    if job.nnodes is not None and set(job.nnodes.split(":")) != {str(hosts)}:
        lines.append(
            f"job.nnodes: {job.nnodes} of {hosts} hosts is not there yet; a run takes all of them"
        )
    if job.sync is not None:
        lines.append("job.sync: not there yet; a script is sent along, a folder is not")
    if lines:
        raise UsageError("\n".join(lines))


def contradictions(
    inventory: Inventory, program: Program, env: dict[str, str], secrets: Mapping[str, Secret]
) -> None:
    """Refuse what says two things at once, shows a secret, or is more than a host can take."""
    for host in inventory.hosts:
        whole = inventory.job.env | host.env | env
        if host.gpus is not None and "CUDA_VISIBLE_DEVICES" in whole:
            raise UsageError(
                "gpus: or --include says which GPUs to use, and CUDA_VISIBLE_DEVICES in its "
                "environment does as well",
                host=host.name,
                hint="leave one of the two out",
            )
        twice = sorted(whole.keys() & secrets.keys())
        if twice:
            raise UsageError(
                f"{twice[0]} is a secret, and has a value in the environment given as well",
                host=host.name,
                hint="leave one of the two out",
            )
        _sizes(host, program, whole, secrets)
    shown_secrets(_command_lines(inventory, program, env), secrets)


def shown_secrets(
    command_lines: Iterable[tuple[str, Sequence[str]]], secrets: Mapping[str, Secret]
) -> None:
    for where, words in command_lines:
        for name, secret in secrets.items():
            if any(secret.reveal() in word for word in words):
                raise UsageError(
                    f"the value of the secret {name} stands in {where}, where every user of a host "
                    "could read it",
                    hint=f"let the program take {name} from its environment",
                )


def _command_lines(
    inventory: Inventory, program: Program, env: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "the program's arguments", (program.target, *program.args)
    yield "job.torchrun_args", inventory.job.torchrun_args
    for host in inventory.hosts:
        yield f"setup: of {host.name}", host.setup
        # They are asked about in the agent's own command line; state_dir is in torchrun's as well.
        places = (host.python, host.workdir or "", host.state_dir or "")
        yield f"python:, workdir: or state_dir: of {host.name}", places
        around = around_python({**inventory.job.env, **host.env, **env})
        yield f"{' or '.join(around)} of {host.name}", tuple(around.values())


def _sizes(
    host: Host, program: Program, env: Mapping[str, str], secrets: Mapping[str, Secret]
) -> None:
    given = dict(env) | {name: secret.reveal() for name, secret in secrets.items()}
    words = {f"the variable {name}": f"{name}={value}" for name, value in given.items()}
    words |= {f"argument {n}": arg for n, arg in enumerate(program.args, 1)}
    words |= {f"setup command {n}": each for n, each in enumerate(host.setup, 1)}
    sizes = {what: len(word.encode("utf-8", "surrogateescape")) + 1 for what, word in words.items()}
    for what, size in sizes.items():
        if size > ONE:
            raise UsageError(
                f"{what} has {size >> 10} KiB, and Linux takes no more than {ONE >> 10} for one",
                host=host.name,
                hint="put it into a file on the hosts, and give its path",
            )
    if sum(sizes.values()) > ALL:
        raise UsageError(
            f"environment and arguments have {sum(sizes.values()) >> 20} MiB, and Linux takes no "
            f"more than {ALL >> 20} for all",
            host=host.name,
            hint="put what is large into a file on the hosts",
        )
