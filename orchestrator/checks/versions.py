"""Have the hosts the same versions of what has to be the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, hosts_with_facts
from orchestrator.checks.drift import alike, differing, names, odd_one, version
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from orchestrator.facts import ClusterFacts, Interpreter


def _torch(cluster: ClusterFacts) -> Iterator[Verdict]:
    id_ = "env.torch_drift"
    found, unknown = _with(cluster, lambda python: python.torch)
    yield from _not_known(id_, unknown, found, "env.torch")
    # One whose build is not known may be of the same as the others.
    told = all(python.build for python in found.values())
    torches = {h: _plain(p.torch) + (f"+{p.build}" if told else "") for h, p in found.items()}
    if len(torches) < 2:
        return
    groups = alike(torches)
    if len(groups) == 1:
        yield _same(id_, f"torch {groups[0][0]}", torches)
        return
    minor = alike({host: _dotted(t) for host, t in torches.items()})
    apart = minor if len(minor) > 1 else groups
    odd, most = apart[0][1][0], groups[-1][0]
    yield Verdict(
        id=id_,
        status="fail" if apart is minor else "warn",
        scope="cluster",
        host=odd_one(apart),
        message=f"torch {differing(groups, str)}",
        evidence={"versions": torches},
        hint=_install(odd, found[odd], most),
    )


def _nccl(cluster: ClusterFacts) -> Iterator[Verdict]:
    """NCCL compares its whole version, the last number too, and refuses."""
    id_ = "env.nccl_drift"
    facts = {h: f for h, f in hosts_with_facts(cluster, id_) if not isinstance(f, Verdict)}
    with_gpus = {h: f for h, f in facts.items() if f.gpus or cluster.gpus.get(h)}
    asked = {h: f.interpreter for h, f in (with_gpus or facts).items() if f.interpreter.torch}
    found = {host: python.nccl for host, python in asked.items() if python.nccl}
    if not found or len(asked) < 2:
        return  # or each torch has its own built in: torch's version says it all
    groups = alike(found)
    unseen = [host for host in asked if host not in found]
    if len({version(text, 3) for text in found.values()}) == 1:
        if not unseen:
            yield _same(id_, f"NCCL {groups[-1][0]}", found)
        for host in unseen if with_gpus else ():
            yield Verdict(
                id=id_,
                status="unknown",
                scope="cluster",
                host=host,
                message="NCCL is built into torch there, and its version not known; elsewhere it "
                f"is {groups[-1][0]}",
                hint="install torch from the same place everywhere: pip on all, or conda on all",
            )
        return
    unused = "" if with_gpus else "; no GPU is there to use it"
    odd, like = groups[0][1][0], asked[groups[-1][1][0]]
    yield Verdict(
        id=id_,
        status="fail" if with_gpus else "info",
        scope="cluster",
        host=odd_one(groups),
        message=f"NCCL {differing(groups, str)}{unused}",
        evidence={"versions": found},
        hint="the same torch brings the same NCCL; "
        + _install(odd, asked[odd], _whole(like), "--force-reinstall "),
    )


def _python(cluster: ClusterFacts) -> Iterator[Verdict]:
    id_ = "env.python_drift"
    found, unknown = _with(cluster, lambda python: python.version)
    yield from _not_known(id_, unknown, found, "env.python")
    versions = {host: python.version or "" for host, python in found.items()}
    if len(versions) < 2:
        return
    groups = alike({host: _dotted(text) for host, text in versions.items()})
    if len(groups) == 1:
        yield _same(id_, f"Python {groups[0][0]}", versions)
        return
    yield Verdict(
        id=id_,
        status="warn",
        scope="cluster",
        host=odd_one(groups),
        message=f"Python {differing(groups, str)}",
        evidence={"versions": versions},
        hint=f"set `python:` of {groups[0][1][0]} to a Python {groups[-1][0]}",
    )


def _with(
    cluster: ClusterFacts, has: Callable[[Interpreter], str | None]
) -> tuple[dict[str, Interpreter], list[str]]:
    """Return the interpreters that have it, and the hosts of which that is not known."""
    told = dict(hosts_with_facts(cluster, ""))
    found = {
        host: facts.interpreter
        for host, facts in told.items()
        if not isinstance(facts, Verdict) and has(facts.interpreter)
    }
    return found, [host for host in told if host not in found]


def _not_known(
    id_: str, unknown: list[str], found: Collection[str], cause: str
) -> Iterator[Verdict]:
    """Say who cannot be compared, where there are others to compare with."""
    for host in unknown if len(unknown) + len(found) > 1 else ():
        yield Verdict(
            id=id_,
            status="unknown",
            scope="cluster",
            host=host,
            message="there is nothing to compare",
            caused_by=cause,
        )


def _same(id_: str, what: str, found: dict[str, str]) -> Verdict:
    return Verdict(
        id=id_,
        status="pass",
        scope="cluster",
        message=f"{what} on {names(found)}",
        evidence={"versions": found},
    )


def _whole(python: Interpreter) -> str:
    """Torch's version with its build, as its wheels write it: the metadata may lack that."""
    return _plain(python.torch) + (f"+{python.build}" if python.build else "")


def _plain(text: str | None) -> str:
    return (text or "").partition("+")[0]


def _install(host: str, python: Interpreter, wanted: str, how: str = "") -> str:
    number, _, build = wanted.partition("+")
    if not number.replace(".", "").isdigit():
        return f"have the same torch in {python.executable} on {host} as on the others"
    from_there = build == "cpu" or build.startswith(("cu", "rocm"))
    index = f" --index-url https://download.pytorch.org/whl/{build}" if from_there else ""
    return f"on {host}: {python.executable} -m pip install {how}torch=={number}{index}"


def _dotted(text: str) -> str:
    return ".".join(map(str, version(text)))


CHECKS = (
    Check(
        id="env.torch_drift",
        about="all hosts have the same torch",
        without="a hang at the rendezvous, or at the first collective that the two do differently",
        how="its package metadata and its version.py; nothing is imported",
        judge=_torch,
    ),
    Check(
        id="env.nccl_drift",
        about="all hosts with GPUs have the same NCCL",
        without="`Mismatched NCCL version detected`, or `ncclInvalidUsage` alone",
        how="its package metadata; what is built into torch has the version of that torch",
        judge=_nccl,
    ),
    Check(
        id="env.python_drift",
        about="all hosts run workers with the same Python, but for its last number",
        without="`bad marshal data`, `unsupported pickle protocol`, or a checkpoint that one host "
        "cannot read",
        how="each interpreter says",
        judge=_python,
        worst="warn",
    ),
)
