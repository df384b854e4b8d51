"""Hosts that differ: who, from whom, in what."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    T = TypeVar("T", bound=Hashable)

MOST_NAMES = 5


def alike(values: Mapping[str, T]) -> list[tuple[T, list[str]]]:
    """Return each value with the hosts that have it: what most have last, the rest in order."""
    groups: dict[T, list[str]] = {}
    for host, value in values.items():
        groups.setdefault(value, []).append(host)
    # Of equally many the first host's is the last.
    return sorted(groups.items(), key=lambda group: len(group[1]), reverse=True)[::-1]


def odd_one(groups: list[tuple[T, list[str]]]) -> str | None:
    """Return the one host that differs from most; None: there are several, or there is no most."""
    odd = [host for _, hosts in groups[:-1] for host in hosts]
    return odd[0] if len(odd) == 1 and most_agree(groups) else None


def most_agree(groups: list[tuple[T, list[str]]]) -> bool:
    return 2 * len(groups[-1][1]) > sum(len(hosts) for _, hosts in groups)


def differing(groups: list[tuple[T, list[str]]], show: Callable[[T], str]) -> str:
    """Say "2.9.0 on gpu3, 2.13.0 on the other 7"."""
    parts = [f"{show(value)} on {names(hosts)}" for value, hosts in groups]
    if most_agree(groups) and len(groups) > 1:
        value, hosts = groups[-1]
        parts[-1] = f"{show(value)} on the other {len(hosts)}"
    return ", ".join(parts)


def names(hosts: Iterable[str]) -> str:
    listed = list(hosts)
    if len(listed) > MOST_NAMES:
        listed[MOST_NAMES - 1 :] = [f"{len(listed) - MOST_NAMES + 1} more"]
    *before, last = listed
    return f"{', '.join(before)} and {last}" if before else last


def version(text: str, parts: int = 2) -> tuple[int, ...]:
    """Return the first numbers of a version: of 2.9.1+cu124 that are 2 and 9."""
    numbers = []
    for part in text.partition("+")[0].split(".")[:parts]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)
