"""MPI's and DeepSpeed's list of hosts -> Inventory: a host a line, with the workers it has. Pure.

    gpu1 slots=8              # Open MPI, DeepSpeed
    alice@gpu2 slots=4 max_slots=8
    gpu3:8                    # MPICH: workers, not a port
    gpu[4-7]                  # without a number: one worker per GPU, else one

How a file is told from YAML: by its name when that ends in .yaml, .yml or .json; otherwise by its
first line that holds more than a comment. YAML's begins with a sign of YAML's ("- ", "{", "---")
or is a key with a colon at its end or before a space; one with slots= is a hostfile's all the same.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import ValidationError

from inventory.kinds import MOST_HOSTS, MOST_WORKERS
from inventory.model import Host, Inventory
from inventory.names import entries
from inventory.problems import Mark, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inventory.problems import Ledger

YAML_NAMES = (".yaml", ".yml", ".json")
YAML_LINE = re.compile(r"""[-?](\s|$)|---|[%{}"'&*!|>@`]|[^#\s]+\s*:(\s|$)""")
FIRST = re.compile(r"\s*(?P<host>\S+?)(?::(?P<slots>[0-9]+))?(?=\s|\Z)")
OPTION = re.compile(r"(?P<key>[^\s=]+)\s*=\s*(?P<value>[^\s=]*)(?=\s|\Z)|\S+")
SLOTS = re.compile(r"\bslots\s*=|:[0-9]+\s*$", re.MULTILINE)
EITHER = "an inventory begins with hosts: and a hostfile has lines such as gpu1 slots=8"
KEYS = ("slots", "max_slots", "max-slots")


class _Mistake(ValueError):
    def __init__(self, message: str, column: int, hint: str = "") -> None:
        super().__init__(message)
        self.column = column + 1
        self.hint = hint


def is_hostfile(text: str, source: str) -> bool:
    first = next((line for _, line in _lines(text)), None)
    if first is None or source.lower().endswith(YAML_NAMES):
        return False
    return bool(SLOTS.search(first)) or not YAML_LINE.match(first.strip())


def read_hostfile(text: str, ledger: Ledger) -> Inventory:
    """Read what is_hostfile took for one; raise all that is wrong with it."""
    hosts: list[Host] = []
    lines: dict[str, int] = {}
    for number, line in _lines(text):
        try:
            found = _hosts(line)
        except _Mistake as error:
            mark = Mark(line=number, column=error.column)
            if not hosts and not ledger.problems and not SLOTS.search(text):
                # It may be anything: one line about it is enough.
                ledger.note(mark, (), f"is neither YAML nor a hostfile: {error}", EITHER)
                break
            ledger.note(mark, (), str(error), error.hint)
            continue
        if len(hosts) + len(found) > MOST_HOSTS:
            ledger.note(Mark(line=number, column=1), (), f"{MOST_HOSTS:,} hosts are the most")
            break
        twice = [host.name for host in found if lines.setdefault(host.name, number) != number]
        twice += [name for name, count in Counter(h.name for h in found).items() if count > 1]
        if twice:
            # Open MPI would add the slots up, DeepSpeed refuses: it is a slip more often than not.
            message = f"{twice[0]} stands on line {lines[twice[0]]} already"
            ledger.note(Mark(line=number, column=1), (), message, "one line has all its slots")
        hosts += found
    if ledger.problems:
        raise ledger.error()
    return Inventory(hosts=tuple(hosts))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        content = line.partition("#")[0].rstrip()
        if content:
            yield number, content


def _hosts(line: str) -> list[Host]:
    first = FIRST.match(line)
    assert first is not None  # the line is not blank
    word, at = first["host"], first.start("host")
    try:
        hosts = [Host.model_validate(entry) for entry in entries(word)]
    except ValidationError as error:
        raise _Mistake(str(error.errors()[0]["ctx"]["error"]), at, _is_this_yaml(line)) from None
    except ValueError as error:
        raise _Mistake(str(error), at, _is_this_yaml(line)) from None
    slots = _slots(line, first)
    return [host.model_copy(update={"nproc_per_node": slots}) for host in hosts]


def _is_this_yaml(line: str) -> str:
    return "is this YAML? then it begins with hosts:" if YAML_LINE.match(line.strip()) else ""


def _slots(line: str, first: re.Match[str]) -> int | None:
    """Return how many workers a line gives its host; None where it does not say."""
    hint = "host:N is a number of workers here; a port is written in an inventory"
    told = {"slots": _number(first["slots"], first.start(), hint)} if first["slots"] else {}
    for option in OPTION.finditer(line, first.end()):
        key, at = option["key"], option.start()
        if key not in KEYS:
            message = f"{shown(option[0])} is not known; what may follow a host is slots=N"
            raise _Mistake(message, at)
        key = key.replace("-", "_")
        if key in told:
            raise _Mistake(f"{key} is given twice", at)
        told[key] = _number(option["value"], at)
    slots, most = told.get("slots"), told.get("max_slots")
    if slots and most and most < slots:
        raise _Mistake(f"max_slots={most} is less than slots={slots}", line.index("max"))
    return slots


def _number(text: str, column: int, hint: str = "") -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text) or int(text) > MOST_WORKERS:
        raise _Mistake(f"{shown(text)} is not a number from 1 to {MOST_WORKERS}", column, hint)
    return int(text)
