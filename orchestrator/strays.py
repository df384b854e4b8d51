"""`down --strays`: end what earlier jobs left on hosts, whoever started them; runs are left alone.

Left is what nobody keeps any more. What a terminal, a session or a service still keeps is ended
only when that is asked for (--all): many share an account.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import errors
from orchestrator.cleared import Cleared, exit_code, read_end
from orchestrator.errors import DdpOrchError, HostError
from orchestrator.facts import understood
from orchestrator.facts.smi import Smi
from orchestrator.facts.strays import Strays
from orchestrator.fleet import wait_for
from orchestrator.plan import state_dir_of
from orchestrator.run import doors_for, fleet_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from inventory.model import Inventory
    from orchestrator.cleared import Outcome
    from orchestrator.facts.strays import Stray
    from orchestrator.fleet import Fleet
    from orchestrator.run import Options

ANSWER = 30.0
# After the grace a host has this long.
LAST_WORD = 60.0
# What is ended may have begun something that gets away; it is looked for again so many times.
ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told of what happens, and asked."""

    confirm: Callable[[Sequence[str]], bool]
    """Asked, with a line for each process, before any is ended."""

    show: Callable[[Cleared], None]
    warn: Callable[[str, str | None], None]
    end: Callable[[Sequence[Cleared]], None]


def down_strays(
    inventory: Inventory, grace: float, options: Options, listener: Listener, *, every: bool
) -> int:
    """End them; return the exit code. `every`: also those that somebody still keeps."""
    doors = doors_for(options)
    fleet = fleet_of(inventory.hosts, doors)
    with contextlib.closing(fleet):
        joined = fleet.connect(lambda _: [])
        for notice in doors.known.notices():
            listener.warn(notice, None)
        clearing = _Clearing(fleet, inventory, grace, listener, every=every)
        for name, got in joined.items():
            if isinstance(got, HostError):
                clearing.lost(name, got)
        found = clearing.look(
            [name for name, got in joined.items() if not isinstance(got, HostError)]
        )
        clearing.tell_of_kept(found)
        if any(found.values()):
            lines = [f"{name}: {stray}" for name, strays in found.items() for stray in strays]
            if not listener.confirm(lines):
                return errors.INTERRUPTED
        clearing.clear(found)
    listener.end(clearing.done)
    return exit_code(clearing.done)


class _Clearing:
    def __init__(
        self, fleet: Fleet, inventory: Inventory, grace: float, listener: Listener, *, every: bool
    ) -> None:
        self.done: list[Cleared] = []
        self._fleet = fleet
        self._hosts = {host.name: host for host in inventory.hosts}
        self._inventory = inventory
        self._grace = grace
        self._listener = listener
        self._every = every
        self._seen: dict[str, Strays] = {}

    def lost(self, name: str, error: DdpOrchError) -> None:
        outcome: Outcome = "unreachable" if isinstance(error, HostError) else "failed"
        self._take(Cleared(host=name, outcome=outcome, message=error.message, hint=error.hint))

    def look(self, names: Iterable[str]) -> dict[str, list[Stray]]:
        """Return what is to be ended on each host; who cannot tell is done with."""
        names = list(names)
        holders = self._holders(names)
        asked = {name: self._asked(name) | {"holders": holders[name]} for name in names}
        answers = self._fleet.ask("strays.find", asked, ANSWER)
        found = {}
        for name, got in answers.items():
            strays = understood(Strays.parse, got)
            if isinstance(strays, str):
                problem = got if isinstance(got, DdpOrchError) else DdpOrchError(strays)
                self.lost(name, problem)
                continue
            self._seen[name] = strays
            found[name] = list(strays.strays if self._every else strays.left)
        return found

    def _holders(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Return who is on the GPUs of each host, as its driver tells; whose that is it knows."""
        answers = self._fleet.ask("smi.ask", {name: {} for name in names}, ANSWER)
        told = {name: understood(Smi.parse, got) for name, got in answers.items()}
        return {
            name: [each.pid for each in (smi.holders or ()) if each.ours and not each.serves]
            if isinstance(smi, Smi)
            else []  # without an answer nobody is known there
            for name, smi in told.items()
        }

    def _asked(self, name: str) -> dict[str, object]:
        """Return what is asked of a host: on the head, who holds the rendezvous port as well."""
        port = self._inventory.rendezvous.port
        head = name == self._inventory.hosts[0].name
        return {
            "state_dir": state_dir_of(self._hosts[name]),
            "port": port if head and isinstance(port, int) else 0,
        }

    def tell_of_kept(self, found: Mapping[str, Sequence[Stray]]) -> None:
        """Name what is left alone, and how it is ended."""
        for name, strays in self._seen.items():
            for run in strays.runs:
                what = f"{name}: {run.named} is {run.state} there and is left alone"
                self._listener.warn(what, f"ddp-orch down {run.run} ends it")
            for stray in strays.owned:
                if stray not in found[name] and stray.pid == stray.root:
                    what = f"{name}: {stray} is left alone: it runs under {stray.owner}"
                    self._listener.warn(what, "--all takes it as well")
            if strays.problem:
                self._listener.warn(f"{name}: {strays.problem}", None)

    def clear(self, found: dict[str, list[Stray]]) -> None:
        ended = dict.fromkeys(found, 0)
        for name in [name for name, strays in found.items() if not strays]:
            del found[name]
            self._take(self._finding(name))
        for _ in range(ROUNDS):
            again = self._end(found, ended)
            # What could not be ended is named; of the others it is looked what has come of them.
            found = self.look(again) if again else {}
            for name in [name for name, strays in found.items() if not strays]:
                del found[name]
                self._take(Cleared(host=name, outcome="gone", ended=ended[name]))
            if not found:
                return
        for name, strays in found.items():
            what = f"something begins new ones: {strays[0]}"
            self._take(Cleared(host=name, outcome="failed", ended=ended[name], message=what))

    def _finding(self, name: str) -> Cleared:
        """Say that nothing was found, where all could be looked at."""
        if self._seen[name].problem:
            return Cleared(host=name, outcome="failed", message=self._seen[name].problem)
        return Cleared(host=name, outcome="nothing")

    def _end(self, found: Mapping[str, Sequence[Stray]], ended: dict[str, int]) -> list[str]:
        """Have each host end its own, each with its own time; return those that are empty now."""
        calls = {}
        for name, strays in found.items():
            targets = [[stray.pid, stray.start] for stray in strays]
            state_dir = state_dir_of(self._hosts[name])
            wish = {"targets": targets, "grace": self._grace, "state_dir": state_dir}
            try:
                calls[name] = self._fleet.hosts[name].call("strays.end", wish)
            except HostError as error:
                self.lost(name, error)
        empty = []
        for name, answer in wait_for(calls, self._grace + LAST_WORD).items():
            if isinstance(answer, DdpOrchError):
                self.lost(name, answer)
                continue
            try:
                count, survivors = read_end(answer)
            except ValueError as error:
                self.lost(name, DdpOrchError(str(error)))
                continue
            ended[name] += count
            if survivors:
                self._take(
                    Cleared(host=name, outcome="survivors", ended=ended[name], survivors=survivors)
                )
            else:
                empty.append(name)
        return empty

    def _take(self, host: Cleared) -> None:
        self.done.append(host)
        self._listener.show(host)
