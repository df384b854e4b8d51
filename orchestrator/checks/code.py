"""Is what is to be run there, and is it the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.checks.check import Check, each
from orchestrator.checks.drift import alike, differing, names, odd_one
from orchestrator.events import Verdict
from orchestrator.facts import Code, Commit, Content, HostFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.facts import ClusterFacts, Wanted

SENT_ALONG = "a path that is here as well as a script, and it is sent along"


def _script(cluster: ClusterFacts) -> Iterator[Verdict]:
    id_, wanted = "env.script", cluster.wanted
    if wanted is None:
        return
    told = cluster.code.items()
    have = [h for h, code in told if isinstance(code, Code) and not (code.missing or code.problem)]
    for host, code in each(cluster, id_, cluster.code):
        if isinstance(code, Verdict):
            yield code
        elif code.problem:
            yield Verdict(
                id=id_,
                status="unknown",
                host=host,
                message=f"{_called(wanted, code)}: {code.problem}",
                caused_by=_cause(cluster, host),
            )
        elif code.missing:
            yield Verdict(
                id=id_,
                status="fail",
                host=host,
                message=f"{_called(wanted, code)} {code.missing}"
                if wanted.kind != "module"
                else f"-m {wanted.target}: {code.missing}",
                evidence={"kind": wanted.kind, "target": wanted.target, "path": code.path},
                hint=_get_it(wanted, code, host, have),
            )
        else:
            yield Verdict(
                id=id_,
                status="pass",
                host=host,
                message=_called(wanted, code),
                evidence={"kind": wanted.kind, "target": wanted.target, "path": code.path},
            )


def _called(wanted: Wanted, code: Code) -> str:
    return f"-m {wanted.target}" if wanted.kind == "module" else code.path or wanted.target


def _cause(cluster: ClusterFacts, host: str) -> str | None:
    """Return the check that has said already why nobody could be asked, or where."""
    facts = cluster.facts.get(host)
    if not isinstance(facts, HostFacts):
        return None
    if facts.interpreter.executable is None:
        return "env.python"
    return "env.workdir" if facts.workdir_problem else None


def _get_it(wanted: Wanted, code: Code, host: str, have: list[str]) -> str:
    if wanted.kind == "script" and have and code.path:
        path = quote(code.path)
        return f"scp -3 {have[0]}:{path} {host}:{path}; or give {SENT_ALONG}"
    if wanted.kind == "script":
        return f"put it there; or give {SENT_ALONG}"
    if wanted.kind == "module":
        return (
            "set `workdir:` to the folder that holds its top-level package, or PYTHONPATH in "
            "`env:`, or install it in what `python:` names"
        )
    return "give its absolute path, or set PATH in `env:`, or install it there"


@dataclass(frozen=True)
class Finding:
    """One of the things that may differ: together they are one verdict."""

    status: Literal["fail", "warn", "pass"]
    message: str
    evidence: dict[str, Any]
    host: str | None = None
    hint: str | None = None


def _drift(cluster: ClusterFacts) -> Iterator[Verdict]:
    id_ = "env.code_drift"
    if cluster.wanted is None:
        return
    codes = {}
    for host, code in each(cluster, id_, cluster.code):
        if isinstance(code, Verdict):
            yield code
            continue
        codes[host] = code
        parts = (code.content, code.script_commit, code.workdir_commit)
        # What one dead file server keeps from us is one sentence.
        if problems := list(dict.fromkeys(part for part in parts if isinstance(part, str))):
            yield Verdict(id=id_, status="unknown", host=host, message="; ".join(problems))
    found = [*_contents(codes), *_commits({h: c.script_commit for h, c in codes.items()})]
    around = {h: c.workdir_commit for h, c in codes.items()}
    # The same repository's again would say the same again.
    if any(_top(c.script_commit) != _top(c.workdir_commit) for c in codes.values()):
        found += _commits(around)
    if not found:
        return
    worst = min(found, key=lambda finding: ("fail", "warn", "pass").index(finding.status))
    yield Verdict(
        id=id_,
        status=worst.status,
        scope="cluster",
        host=worst.host,
        message="; ".join(
            finding.message
            for finding in found
            if finding.status != "pass" or worst.status == "pass"
        ),
        evidence={name: value for finding in found for name, value in finding.evidence.items()},
        hint=worst.hint,
    )


def _top(found: Commit | str | None) -> str | None:
    return found.top if isinstance(found, Commit) else None


def _contents(codes: Mapping[str, Code]) -> Iterator[Finding]:
    found = {h: c.content for h, c in codes.items() if isinstance(c.content, Content)}
    if len(found) < 2:
        return
    groups = alike(found)
    source, odd = groups[-1][1][0], groups[0][1][0]
    path = codes[source].path or ""
    evidence = {"script": {h: {"sha256": c.sha256, "size": c.size} for h, c in found.items()}}
    if len(groups) == 1:
        yield Finding("pass", f"{path} is {_short(groups[0][0])} on {names(found)}", evidence)
        return
    there = quote(codes[odd].path or "")
    yield Finding(
        "fail",
        f"{path} differs: {differing(groups, _short)}",
        evidence,
        odd_one(groups),
        f"scp -3 {source}:{quote(path)} {odd}:{there}; or give {SENT_ALONG}",
    )


def _commits(told: Mapping[str, Commit | str | None]) -> Iterator[Finding]:
    tops = {h: c.top for h, c in told.items() if isinstance(c, Commit)}
    found = {h: c.commit for h, c in told.items() if isinstance(c, Commit) and c.commit}
    if len(found) < 2:
        return
    groups = alike(found)
    odd = [host for _, hosts in groups[:-1] for host in hosts]
    top = tops[(odd or groups[0][1])[0]]
    evidence = {f"commits in {top}": found}
    if odd:
        git = f"git -C {quote(top)}"
        yield Finding(
            "warn",
            f"the commit in {top} differs: {differing(groups, _twelve)}",
            evidence,
            odd_one(groups),
            f"on {names(odd)}: {git} pull, or {git} checkout {_twelve(groups[-1][0])}",
        )
    elif len(found) == len(told):
        at = f"{top} is at commit {_twelve(groups[0][0])} on {names(found)}"
        yield Finding("pass", at, evidence)


def _short(content: Content) -> str:
    return f"{content.sha256[:12]} ({content.size} bytes)"


def _twelve(commit: str) -> str:
    return commit[:12]


CHECKS = (
    Check(
        id="env.script",
        about="the script, module or command is there, unless it is sent along",
        without="`can't open file`, `No module named` or `No such file or directory` on one host, "
        "while the others wait",
        how="stat; a module's files, with nothing imported; a command on the workers' PATH",
        judge=_script,
    ),
    Check(
        id="env.code_drift",
        about="what runs in place is the same on every host: the script, the commit around it",
        without="a hang at the first collective that differs",
        how="a hash of the script's first 10 MiB, and git's HEAD by its files; no change that is "
        "not committed is seen",
        judge=_drift,
    ),
)
