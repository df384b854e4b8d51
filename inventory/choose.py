"""--include and --exclude: a part of an inventory's hosts, and of their GPUs. Pure.

gpu1, gpu[2-4], gpu1:0,2 and gpu1:0-3; more than one with commas or, as DeepSpeed has it, with @
between them. A number that follows a host's GPUs is one more of them: gpu1:0,2,gpu3 is gpu1 with
GPUs 0 and 2, and gpu3.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from inventory.model import Inventory
from inventory.names import between_commas, written_out
from inventory.problems import InventoryError, Ledger, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inventory.model import Host

NUMBERS = re.compile(r"\[?[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*\]?\Z")

Slots = frozenset[int]
ALL: Slots = frozenset(range(1024))
"""What a host without numbers stands for: as many GPUs as a host may have."""


def choose(inventory: Inventory, include: Sequence[str], exclude: Sequence[str]) -> Inventory:
    """Keep what is included (everything, when nothing is) and not excluded, in its order."""
    if not include and not exclude:
        return inventory
    wanted, told = Ledger(source="--include"), Ledger(source="--exclude")
    included = _slots(include, inventory, wanted) if include else {}
    excluded = _slots(exclude, inventory, told)
    kept = []
    for host in inventory.hosts:
        take = included.get(host.name, Slots()) if include else ALL
        leave = excluded.get(host.name, Slots())
        if take == Slots() or leave == ALL:
            continue
        found = _with_slots(host, take, leave, wanted, told)
        if found:
            kept.append(found)
    ledger = told if exclude else wanted
    if not kept and not wanted.problems and not told.problems:
        ledger.note(None, (), "no host is left")
    try:
        if not wanted.problems and not told.problems:
            return Inventory.model_validate({**dict(inventory), "hosts": kept})
    except ValidationError as error:  # fewer hosts than job.nnodes asks for
        ledger.note(None, (), f"job.nnodes {error.errors()[0]['ctx']['error']}")
    raise InventoryError((*wanted.error().problems, *told.error().problems))


def _slots(values: Sequence[str], inventory: Inventory, ledger: Ledger) -> Mapping[str, Slots]:
    """Read an option's values: which hosts they name, and which GPUs of them."""
    known = [host.name for host in inventory.hosts]
    found: dict[str, Slots] = {}
    for value in values:
        for names, slots in _terms(value, ledger):
            for name in names:
                if name in known:
                    found[name] = found.get(name, Slots()) | slots
                    continue
                close = difflib.get_close_matches(name[:60], known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are: {_listed(known)}"
                ledger.note(None, (), f"no host is called {shown(name)}", hint)
    return found


def _terms(value: str, ledger: Ledger) -> Iterator[tuple[list[str], Slots]]:
    for section in value.split("@"):
        numbered: list[str] = []
        """The hosts whose GPUs were just told: the next number is one more."""
        for word in between_commas(section):
            more = numbered and NUMBERS.match(word)
            names, colon, slots = ("", ":", word) if more else word.partition(":")
            if not more and (not names or (colon and not NUMBERS.match(slots))):
                ledger.note(None, (), f"{shown(word)} is not of the form host or host:0,2")
                continue
            try:
                hosts = numbered if more else written_out(names)
                yield hosts, _numbers(slots) if colon else ALL
            except ValueError as error:
                ledger.note(None, (), str(error))
                continue
            numbered = hosts if colon else []


def _numbers(text: str) -> Slots:
    numbers = frozenset(int(number) for number in written_out(f"[{text.strip('[]')}]"))
    if absent := sorted(numbers - ALL):
        raise ValueError(f"{absent[0]} is not the number of a GPU")
    return numbers


def _with_slots(host: Host, take: Slots, leave: Slots, wanted: Ledger, told: Ledger) -> Host | None:
    """Return the host with the GPUs that are left to it, None when there are none."""
    if take == ALL and not leave:
        return host
    workers = host.nproc_per_node if isinstance(host.nproc_per_node, int) else None
    own = host.gpus or (tuple(sorted(take)) if take != ALL else tuple(range(workers or 0)))
    if not own:
        hint = "give it gpus: there, or --include those to use"
        told.note(None, (), f"the inventory does not say which GPUs {host.name} has", hint)
        return None
    for ledger, asked in ((wanted, take if take != ALL else Slots()), (told, leave)):
        if absent := sorted(asked.difference(own)):
            hint = f"it has {_listed([str(gpu) for gpu in own])}"
            ledger.note(None, (), f"{host.name} has no GPU {absent[0]}", hint)
    left = tuple(gpu for gpu in own if gpu in take and gpu not in leave)
    if not left:
        return None
    # A number of workers was chosen for all of its GPUs.
    return host.model_copy(
        update={"gpus": left, "nproc_per_node": len(left) if workers else host.nproc_per_node}
    )


def _listed(words: Sequence[str]) -> str:
    shown_first = ", ".join(words[:8])
    return f"{shown_first}, ..." if len(words) > 8 else shown_first
