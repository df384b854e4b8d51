"""The verbs, each a short list of steps fed with what the step before it found."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator import checks, errors, preflight
from orchestrator.emit import Emitter
from orchestrator.errors import HostError, RequestFailed
from orchestrator.events import (
    Checked,
    Connected,
    Connecting,
    Ended,
    HostFailed,
    Looked,
    Planned,
    Verdict,
    Warned,
)
from orchestrator.fleet import Arrived, Finished, Fleet, Lost
from orchestrator.folders import who_we_are
from orchestrator.hints import explained, typed, typed_end
from orchestrator.host.connect import all_doors
from orchestrator.host.ssh import SshHosts
from orchestrator.masking import Mask, revealed
from orchestrator.plan import make_plan
from orchestrator.program import files_to_ship
from orchestrator.taken_names import refuse_a_taken_name, there_already

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inventory.model import Host, Inventory
    from orchestrator.emit import Keeper, Sink
    from orchestrator.errors import DdpOrchError
    from orchestrator.facts import ClusterFacts
    from orchestrator.host.connect import Doors
    from orchestrator.masking import MaskedStream, Secret
    from orchestrator.plan import Program, RunPlan


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command line adds to the inventory."""

    only: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()
    accept_new_host_keys: bool = False
    max_restarts: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    name: str | None = None
    ask: Callable[[str], str] | None = None
    """Asks the person at the terminal for what must not be seen; None: there is nobody to ask."""

    named: str | None = None
    """The words of a command line that name these hosts: hints to type have them."""

    @property
    def mask(self) -> Mask:
        return Mask(self.secrets.values())


# ---- verbs ----


def plan(inventory: Inventory, program: Program, options: Options) -> RunPlan:
    """Lay the run out without a look at any host."""
    return _make_plan(inventory, program, options, options.name or "NAME", "TOKEN", None)


def check(
    inventory: Inventory,
    options: Options,
    sinks: Sequence[Sink],
    program: Program | None = None,
) -> int:
    """Check the hosts, and that they have the program, should one be named."""
    doors = doors_for(options)
    fleet = fleet_of(inventory.hosts, doors)
    try:
        verdicts, _ = _preflight(fleet, doors, inventory, options, Emitter(sinks), program)
        return _exit_code(verdicts)
    finally:
        fleet.close()


def up(
    inventory: Inventory,
    program: Program,
    options: Options,
    name: str,
    sinks: Sequence[Sink],
    keep: Keeper | None = None,
    logs: str = "",
    *,
    detach: bool = False,
) -> int:
    """Run the program on all hosts; return the run's exit code when nothing of it is left.

    With `detach` return 0 as soon as all workers run. `keep` gets what workers write, as it is;
    `logs` is where it keeps that, for the last line.
    """
    # A check loads neither: they are a tenth of its start.
    from orchestrator.conductor import Conductor
    from orchestrator.watch import Interrupts

    code = files_to_ship(program)
    emit = Emitter(sinks, options.mask, keep)
    doors = doors_for(options)
    fleet = fleet_of(inventory.hosts, doors)
    try:
        verdicts, cluster = _preflight(fleet, doors, inventory, options, emit, program)
        if failed := _exit_code(verdicts):
            return failed
        planned = _make_plan(inventory, program, options, name, secrets.token_hex(8), cluster)
        _refuse_gaps(planned)
        refuse_a_taken_name(there_already(fleet, inventory, name), options.named)
        emit(_planned_event(planned))
        # To the very end: a late Ctrl-C must not take the summary, nor a success its code.
        with Interrupts() as interrupts:
            conductor = Conductor(fleet, planned, code, emit, interrupts, who_we_are())
            last = conductor.conduct(logs, detach=detach)
            fleet.close()
            emit(typed_end(explained(last, program), options.named))
    except KeyboardInterrupt:
        emit(Warned(message="interrupted; nothing was started"))
        raise
    finally:
        fleet.close()
    if isinstance(last, Ended):
        return last.exit_code
    return errors.OK if detach and not interrupts.leave else errors.STILL_RUNNING


def exec_(
    inventory: Inventory,
    argv: list[str],
    options: Options,
    on_output: Callable[[str, str, bytes], None],
    on_failure: Callable[[DdpOrchError], None],
) -> int:
    """Run one command on all hosts at once; the exit code is the worst host's."""
    doors = doors_for(options)
    fleet = fleet_of(inventory.hosts, doors)
    shown = Shown(options.mask, on_output)
    # One word is a line for the shell there; several are the words of a command.
    words = argv if len(argv) > 1 else ["/bin/sh", "-c", argv[0]]
    try:
        joined = fleet.connect(lambda _: [])
        failed = {host: got for host, got in joined.items() if isinstance(got, HostError)}
        codes = dict.fromkeys(failed, errors.HOST)
        for alike in together(failed.items()):
            on_failure(alike)
        for notice in doors.known.notices():
            on_failure(errors.DdpOrchError(notice))
        more = options.env | revealed(options.secrets)
        env = {host.name: inventory.job.env | host.env | more for host in inventory.hosts}
        cwd = {host.name: host.workdir for host in inventory.hosts}
        for host in fleet.hosts:
            if host not in codes:
                fleet.stream(
                    host, "command.run", {"argv": words, "env": env[host], "cwd": cwd[host]}
                )
        while len(codes) < len(fleet.hosts):
            match fleet.next(0.2):
                case Arrived(host, event, body):
                    shown(host, event["stream"], body)
                case Finished(host, answer, None):
                    signal, code = answer["signal"], answer["code"]
                    codes[host] = 128 + signal if signal else code
                    if codes[host]:
                        how = f"killed by signal {signal}" if signal else f"exit code {code}"
                        on_failure(RequestFailed(how, host=host))
                case Finished(host, _, error) | Lost(host, error) if error and host not in codes:
                    on_failure(error)
                    codes[host] = errors.HOST if isinstance(error, HostError) else 127
        return max(codes.values())
    finally:
        fleet.close()
        shown.close()


def together(failed: Iterable[tuple[str, HostError]]) -> list[HostError]:
    """Make one error of those that say the same of many hosts."""
    hosts: dict[tuple[str, str, str | None], list[str]] = {}
    for host, error in failed:
        hosts.setdefault((error.message, error.check, error.hint), []).append(host)
    return [
        HostError(message, check=check, hint=hint, host=", ".join(dict.fromkeys(names)))
        for (message, check, hint), names in hosts.items()
    ]


class Shown:
    """Masks what commands say, by host and stream."""

    def __init__(self, mask: Mask, show: Callable[[str, str, bytes], None]) -> None:
        self._mask = mask
        self._show = show
        self._streams: dict[tuple[str, str], MaskedStream] = {}

    def __call__(self, host: str, stream: str, data: bytes) -> None:
        if self._mask:
            masked = self._streams.setdefault((host, stream), self._mask.stream())
            data = masked.feed(data)[1]
        self._show(host, stream, data)

    def close(self) -> None:
        for (host, stream), masked in self._streams.items():
            self._show(host, stream, masked.close()[1])


# ---- steps ----


def doors_for(options: Options) -> Doors:
    return all_doors(accept_new=options.accept_new_host_keys, ask=options.ask)


def fleet_of(
    hosts: Sequence[Host] | Mapping[str, Host],
    doors: Doors,
    meanwhile: Callable[[], None] = lambda: None,
) -> Fleet:
    """Make a fleet of hosts, by their names or what else they are to be called.

    `meanwhile` is called again and again while they are connected.
    """
    called = hosts if isinstance(hosts, Mapping) else {host.name: host for host in hosts}

    def answer_and() -> None:
        doors.questions.answer()
        meanwhile()

    return Fleet(
        SshHosts(called, doors),
        called,
        meanwhile=answer_and,
        close_last=doors.gateways.close,
    )


def _preflight(
    fleet: Fleet,
    doors: Doors,
    inventory: Inventory,
    options: Options,
    emit: Emitter,
    program: Program | None,
) -> tuple[tuple[Verdict, ...], ClusterFacts]:
    began = time.monotonic()
    rules = checks.Rules(only=options.only, skip=options.skip, levels=inventory.checks)
    emit(Connecting(hosts=tuple(host.name for host in inventory.hosts)))
    # Where `rules` want no check of net.*, `check` could do without the round between the hosts;
    # `up` takes the addresses and interfaces from it, whatever is judged.
    cluster = preflight.gather(
        fleet,
        inventory,
        secrets.token_hex(16),
        lambda host, part, came: emit(Looked(host=host, part=part, came=came)),
        program,
        options.env,
    )
    for notice in doors.known.notices():
        emit(Warned(message=notice))
    for host, ssh in cluster.ssh.items():
        if ssh.check:
            emit(HostFailed(host=host, check=ssh.check, message=ssh.message, hint=ssh.hint))
        else:
            emit(Connected(host=host, seconds=round(ssh.seconds, 3), noise=ssh.noise))
    verdicts = tuple(typed(v, options.named) for v in checks.judge(cluster, rules))
    seconds = round(time.monotonic() - began, 3)
    emit(Checked(verdicts=verdicts, hosts=cluster.hosts, seconds=seconds))
    return verdicts, cluster


def _exit_code(verdicts: tuple[Verdict, ...]) -> int:
    if any(map(checks.no_connection, verdicts)):
        return errors.HOST
    return errors.PREFLIGHT if checks.failures(verdicts) else errors.OK


def _make_plan(
    inventory: Inventory,
    program: Program,
    options: Options,
    name: str,
    token: str,
    cluster: ClusterFacts | None,
) -> RunPlan:
    restarts = options.max_restarts
    return make_plan(
        inventory,
        program,
        name=name,
        token=token,
        max_restarts=inventory.job.max_restarts if restarts is None else restarts,
        env=options.env,
        secrets=options.secrets,
        cluster=cluster,
    )


def _refuse_gaps(plan: RunPlan) -> None:
    """With checks skipped, or not answered, there may be things that nobody found out."""
    for node in plan.nodes:
        if node.home is None:
            # Its folder would be one that is called ~, and `python:` a program of that name.
            raise errors.PreflightFailed(
                "it did not tell its facts in time: where its home is, what `python:` means there "
                "and how many workers it can take are not known",
                host=node.host,
                hint="try again; a file server that hangs, or a host under load, answers late",
            )
        if node.address is None:
            raise errors.PreflightFailed(
                "no address is known at which the other hosts reach it",
                host=node.host,
                hint="give it an `addr:` in the inventory, or do not skip net.pair",
            )
        if node.workers is None:
            raise errors.PreflightFailed(
                "how many GPUs it has is not known, and so not how many workers it can take: "
                "nvidia-smi did not tell",
                host=node.host,
                hint="say it in the inventory: `nproc_per_node: 8`, or `gpus: [0, 1]`",
            )
        if node.workers == 0:
            raise errors.PreflightFailed(
                "has no GPU, but nproc_per_node: gpu asks for one worker on each",
                host=node.host,
                hint=f"say `nproc_per_node: 1` there, or leave it out: --exclude {node.host}",
            )
    if plan.port is None:
        raise errors.PreflightFailed(
            "no rendezvous port is known", hint="rendezvous: {port: 29400}", host=plan.head.host
        )


def _planned_event(plan: RunPlan) -> Planned:
    return Planned(
        run=plan.name,
        hosts=tuple(node.host for node in plan.nodes),
        workers=tuple(node.workers or 0 for node in plan.nodes),
        what=plan.program.label,
        endpoint=plan.endpoint,
        addresses=tuple(node.address or "" for node in plan.nodes),
        max_restarts=plan.max_restarts,
        time=time.time(),
        folders=tuple(node.folder for node in plan.nodes),
    )
