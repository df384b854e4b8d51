"""What the checks found, by cause: each said once, with whom it concerns and what comes of it.

A cause concerns one host or two hundred, and its consequences are as many as there are pairs: what
is written here is about as long as there are things to do.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from inventory.names import ranges
from orchestrator.screen.verdicts import MARKS, STYLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.events import Verdict

ORDER = ("fail", "unknown", "warn", "info", "skip")
HOST, PEER, ADDRESS = "\0", "\1", "\2"
"""Stand in a text for the names of a verdict's own hosts, and for where the first was tried: so
texts can be compared."""

AS_A_WORD = re.compile(f"[{HOST}{PEER}]:")
"""A name in a command to type, as in `scp n2:/x`, where no list of names can stand."""

OPTION = re.compile(f"(--(?:ex|in)clude ){HOST}")

MOST_ALIKE = 3
"""So many findings of one check are written out that differ by more than the host."""
MOST_PLACES = 8
MOST_CAUSED = 6

Line: TypeAlias = tuple[str, str | None]
"""A text and its style."""
Likeness: TypeAlias = tuple[str, str, str, str]


@dataclass
class Finding:
    """Verdicts of the same words, and those that they explain."""

    verdicts: list[Verdict]
    caused: list[Verdict] = field(default_factory=list)

    @property
    def first(self) -> Verdict:
        return self.verdicts[0]

    @property
    def ids(self) -> str:
        return ", ".join(dict.fromkeys(verdict.id for verdict in self.verdicts))

    @property
    def rank(self) -> int:
        return _gravest((*self.verdicts, *self.caused))


def findings(verdicts: Iterable[Verdict], statuses: Sequence[str]) -> list[Finding]:
    """Return the gravest first, else in the checks' own order."""
    told = [verdict for verdict in verdicts if verdict.status in statuses]
    causes = _Causes(told)
    found: dict[Likeness, Finding] = {}
    of: dict[int, Finding] = {}
    roots = [(verdict, causes.root(verdict)) for verdict in told]
    for verdict, root in roots:
        if root is verdict:
            of[id(verdict)] = found.setdefault(_likeness(verdict), Finding([]))
            of[id(verdict)].verdicts.append(verdict)
    for verdict, root in roots:
        if root is not verdict:
            of[id(root)].caused.append(verdict)
    return sorted(_unmeasured_together(found.values()), key=lambda finding: finding.rank)


def lines(found: Sequence[Finding], *, verbose: bool = False) -> Iterator[Line]:
    count: dict[tuple[str, str], int] = {}
    rest: dict[tuple[str, str], Finding] = {}
    hints: set[tuple[str, str]] = set()
    last = {(finding.first.status, finding.ids): at for at, finding in enumerate(found)}
    for at, finding in enumerate(found):
        key = (finding.first.status, finding.ids)
        count[key] = count.get(key, 0) + 1
        if verbose or count[key] <= MOST_ALIKE:
            yield from _written(finding, hints, verbose=verbose)
        else:
            more = rest.setdefault(key, Finding([]))
            more.verdicts += finding.verdicts
            more.caused += finding.caused
        if key in rest and at == last[key]:
            more = rest.pop(key)
            said = f"{len(more.verdicts)} more of {finding.ids}: {places(more.verdicts)}"
            yield f"     and {said}  (-v tells each)", STYLES.get(finding.first.status)
            yield from _consequences(more, verbose=verbose)


def places(verdicts: Sequence[Verdict], most: int = MOST_PLACES) -> str:
    """Say whom it concerns: n[1-3], or n[1-3] -> n4 for ordered pairs; at most so many words."""
    alone = dict.fromkeys(v.host for v in verdicts if v.host and not v.peer)
    words = ranges(alone)
    sources: dict[str, dict[str, None]] = {}
    for v in verdicts:
        if v.host and v.peer:
            sources.setdefault(v.peer, {})[v.host] = None
    peers: dict[tuple[str, ...], list[str]] = {}
    for peer, hosts in sources.items():
        peers.setdefault(tuple(sorted(hosts)), []).append(peer)
    for names, reached in peers.items():
        words.append(f"{_few(ranges(names), most)} -> {_few(ranges(reached), most)}")
    return _few(words, most)


def _written(finding: Finding, hints: set[tuple[str, str]], *, verbose: bool) -> Iterator[Line]:
    first = finding.first
    most = len(finding.verdicts) if verbose else MOST_PLACES
    where = places(finding.verdicts, most)
    text = _template(first.message, first)
    names = _names(finding.verdicts, most)
    also = ""
    if names is None:
        # Pairs that are no "each of these to each of those": one is an example of the others.
        text, names = first.message, ("", "")
        also = where
    addresses = dict.fromkeys(filter(None, map(_address, finding.verdicts)))
    said = text.replace(HOST, names[0]).replace(PEER, names[1])
    said = said.replace(ADDRESS, _few(ranges(addresses), most))
    # A message that begins with its host says already where it is.
    prefix = "" if also or text.startswith(HOST) or not where else f"{where}: "
    style = STYLES.get(first.status)
    yield f"{MARKS[first.status]:4} {finding.ids}  {prefix}{said}", style
    if also:
        yield f"   in all: {also}", None
    hint = (first.hint or "") if also else _hint(finding, names)
    if hint and (finding.ids, hint) not in hints:
        hints.add((finding.ids, hint))
        yield f"   -> {hint}", None
    yield from _consequences(finding, verbose=verbose)


def _consequences(finding: Finding, *, verbose: bool) -> Iterator[Line]:
    """Say what comes of it; what is a failure, where the cause itself is none, by that word."""
    own = places(finding.verdicts)
    failed = finding.first.status == "fail"
    for title, statuses in (("causes", ("fail", "warn", "info")), ("not checked", ("unknown",))):
        by_id: dict[str, list[Verdict]] = {}
        for verdict in finding.caused:
            if verdict.status in statuses or (verdict.status == "skip" and title == "not checked"):
                by_id.setdefault(verdict.id, []).append(verdict)
        words, style = [], None
        # The gravest first, so that no failure is one of those that are only counted.
        for id_, verdicts in sorted(by_id.items(), key=lambda item: _gravest(item[1])):
            where = places(verdicts)
            word = id_ if where == own else f"{id_} {where}"
            if not failed and any(verdict.status == "fail" for verdict in verdicts):
                word, style = f"{MARKS['fail']} {word}", STYLES["fail"]
            words.append(word)
        if words:
            yield f"   {title}: {_few(words, len(words) if verbose else MOST_CAUSED)}", style


def _gravest(verdicts: Sequence[Verdict]) -> int:
    return min(ORDER.index(verdict.status) for verdict in verdicts)


def _few(words: Sequence[str], most: int) -> str:
    between = "; " if any(" " in word for word in words) else ", "
    if len(words) <= most + 1:
        return between.join(words)
    return f"{between.join(words[:most])} and {len(words) - most} more"


def _names(verdicts: Sequence[Verdict], most: int) -> tuple[str, str] | None:
    """Return what stands for the host and for the peer in the words of all; None: nothing can."""
    hosts = dict.fromkeys(v.host for v in verdicts if v.host)
    peers = dict.fromkeys(v.peer for v in verdicts if v.peer)
    pairs = {(v.host, v.peer) for v in verdicts}
    each_other = hosts.keys() == peers.keys() and len(pairs) == len(hosts) * (len(hosts) - 1)
    if peers and len(pairs) != len(hosts) * len(peers) and not each_other:
        return None
    return _few(ranges(hosts), most), _few(ranges(peers), most)


def _hint(finding: Finding, names: tuple[str, str]) -> str:
    """Say what to do for all; a command that takes one host at a time is written for the first."""
    first = finding.first
    hint = OPTION.sub(
        lambda found: found[1] + _listed(finding.verdicts), _template(first.hint or "", first)
    )
    if len(finding.verdicts) > 1 and AS_A_WORD.search(hint):
        return f"{first.hint}; likewise for the others"
    hint = hint.replace(HOST, names[0]).replace(PEER, names[1])
    # What is to be tried by hand is tried at one of them.
    return hint.replace(ADDRESS, _address(first) or "")


def _listed(verdicts: Sequence[Verdict]) -> str:
    """Return all hosts' names as a shell, and our own options, take them: without blanks."""
    return shlex.quote(",".join(ranges(dict.fromkeys(v.host for v in verdicts if v.host))))


def _likeness(verdict: Verdict) -> Likeness:
    words = (_template(text or "", verdict) for text in (verdict.message, verdict.hint))
    message, hint = words
    return (verdict.status, verdict.id, message, hint)


def _template(text: str, verdict: Verdict) -> str:
    """Put signs for the names of the verdict's hosts; `gpu1` is no part of gpu10 or gpu1.lab."""
    names = (verdict.host, HOST), (verdict.peer, PEER), (_address(verdict), ADDRESS)
    for name, sign in names:
        if name:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", sign, text)
    return text


def _address(verdict: Verdict) -> str | None:
    """Return where a connection was tried, which says of one host what another's says of it."""
    tried = verdict.evidence.get("tried")
    return tried if isinstance(tried, str) else None


def _unmeasured_together(found: Iterable[Finding]) -> Iterator[Finding]:
    """What could not be had for one reason is one finding, whatever had been judged by it."""
    together: dict[tuple[str, str, str], Finding] = {}
    for finding in found:
        if finding.first.status != "unknown":
            yield finding
            continue
        _, _, message, hint = _likeness(finding.first)
        key = (message, hint, places(finding.verdicts, most=len(finding.verdicts)))
        if key in together:
            together[key].verdicts += finding.verdicts
            together[key].caused += finding.caused
        else:
            together[key] = finding
    yield from together.values()


class _Causes:
    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self._places: dict[tuple[str | None, ...], Verdict] = {}
        for verdict in verdicts:
            if verdict.status == "pass":
                continue
            for place in ((verdict.host, verdict.peer), (verdict.host,), (verdict.peer,)):
                if place != (None,) or verdict.scope == "cluster":
                    self._places.setdefault((verdict.id, *place), verdict)

    def root(self, verdict: Verdict) -> Verdict:
        """Follow what it is caused by, as far as that was found too, in the same place."""
        seen = {id(verdict)}
        root = verdict
        while cause := self._cause(root):
            if id(cause) in seen:
                return verdict  # in a circle nothing is the cause
            seen.add(id(cause))
            root = cause
        return root

    def _cause(self, verdict: Verdict) -> Verdict | None:
        if verdict.caused_by is None:
            return None
        places = ((verdict.host, verdict.peer), (verdict.host,), (verdict.peer,), (None,))
        found = (self._places.get((verdict.caused_by, *place)) for place in places)
        return next((cause for cause in found if cause), None)
