"""Which pairs of hosts fail for one reason: fifteen that share a host are one finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

Pair: TypeAlias = "tuple[str, str]"
Kind = Literal["all", "alone", "in", "out", "some"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Pairs that fail together: all of them; all that begin or end at one host; or some."""

    kind: Kind
    pairs: tuple[Pair, ...]
    host: str | None = None
    """Of alone, in and out: the one that they share."""

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(source for source, _ in self.pairs))

    @property
    def peers(self) -> list[str]:
        return list(dict.fromkeys(peer for _, peer in self.pairs))

    @property
    def mutual(self) -> bool:
        return {(peer, source) for source, peer in self.pairs} == set(self.pairs)


def blocks(hosts: Sequence[str], tried: Collection[Pair], failed: Collection[Pair]) -> list[Block]:
    """Cover the failed pairs with as few blocks as it takes, the largest first."""
    left = set(failed)
    order = {pair: number for number, pair in enumerate((a, b) for a in hosts for b in hosts)}

    def block(kind: Kind, pairs: Collection[Pair], host: str | None = None) -> Block:
        left.difference_update(pairs)
        return Block(kind=kind, pairs=tuple(sorted(pairs, key=order.__getitem__)), host=host)

    if len(left) > 2 and left == set(tried):
        return [block("all", set(left))]
    found = []
    groups = [group for host in hosts for group in _groups(host, tried, left)]
    while groups:
        # Of equals who is not let in to: firewalls that close what comes in are the usual ones.
        kind, host, pairs = max(groups, key=lambda g: (len(g[2] & left), g[0] == "in"))
        if len(pairs & left) < 2:
            break
        found.append(block(kind, pairs, host))
    for pairs in _rectangles(left):
        found.append(block("some", pairs))
    return found


def _groups(
    host: str, tried: Collection[Pair], failed: set[Pair]
) -> Iterator[tuple[Kind, str, set[Pair]]]:
    """Yield the ways in which a host fails as a whole; what two tell is no pair's own trouble."""
    into = {pair for pair in tried if pair[1] == host}
    out = {pair for pair in tried if pair[0] == host}
    nobody_reaches_it = len(into) > 1 and into <= failed
    it_reaches_nobody = len(out) > 1 and out <= failed
    if nobody_reaches_it and it_reaches_nobody:
        yield "alone", host, into | out
    if nobody_reaches_it:
        yield "in", host, into
    if it_reaches_nobody:
        yield "out", host, out


def _rectangles(left: set[Pair]) -> list[set[Pair]]:
    """Put together who fails to reach the same ones, and then what is so both ways."""
    peers: dict[str, set[str]] = {}
    for source, peer in left:
        peers.setdefault(source, set()).add(peer)
    alike: dict[frozenset[str], set[str]] = {}
    for source, missed in peers.items():
        alike.setdefault(frozenset(missed), set()).add(source)
    found: list[set[Pair]] = []
    done: set[frozenset[str]] = set()
    for those, sources in sorted(alike.items(), key=lambda item: sorted(item[1])):
        if frozenset(sources) in done:
            continue
        pairs = {(source, peer) for source in sources for peer in those}
        if alike.get(frozenset(sources)) == set(those):
            pairs |= {(peer, source) for source, peer in pairs}
            done.add(those)
        found.append(pairs)
    return found
