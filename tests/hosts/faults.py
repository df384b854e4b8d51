"""A cluster that something is wrong with, and what `check` has to say about it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import yaml

from tests.hosts.launched import DDP_ORCH

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

Verdict: TypeAlias = "dict[str, Any]"
# Says by which name the kernel refuses to connect, or that somebody accepts.
KNOCK = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.4).close()
except OSError as error:
    print(errno.errorcode.get(error.errno, "ETIMEDOUT"))
else:
    print("accepted")
"""


@dataclass(frozen=True)
class Expected:
    """The one finding: everything else is well, or follows from it."""

    id: str
    host: str | None
    peer: str | None = None
    hint: str = ""
    """Something that its hint says; a fail and a warn must have one."""

    message: str = ""
    status: str = "fail"

    def fits(self, verdict: Verdict) -> bool:
        return (verdict["id"], verdict["status"], verdict["host"], verdict["peer"]) == (
            self.id,
            self.status,
            self.host,
            self.peer,
        )


@dataclass(frozen=True)
class Checked:
    """What `check -o json` said."""

    code: int
    verdicts: list[Verdict]
    raw: str

    def of(self, status: str) -> list[Verdict]:
        return [v for v in self.verdicts if v["status"] == status]


@dataclass
class Ground:
    """The hosts, the inventory that will be checked, and how to undo what was done to them."""

    cluster: Cluster
    undo: ExitStack
    hosts: list[str] = field(default_factory=lambda: ["n1", "n2", "n3"])
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the inventory."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """More of a host's entry, by its name."""

    user: str = "root"
    afterwards: list[Callable[[Checked], None]] = field(default_factory=list)
    """What is to be asserted when it was checked: that the fault was there, for one."""

    def __getitem__(self, name: str) -> NsHost:
        return self.cluster[name]

    def __iter__(self) -> Iterator[NsHost]:
        return iter(self.cluster.hosts)

    # ---- faults ----

    def on(self, host: NsHost, *words: str | Path, then: Sequence[str | Path] = ()) -> str:
        """Run a command on a host; the words after it undo what it did."""
        done = host.run(list(words))
        assert done.returncode == 0, f"{words}: {done.stderr}"
        if then:
            self.undo.callback(host.run, list(then), check=True)
        return str(done.stdout)

    def firewall(self, host: NsHost, rule: str) -> None:
        """Add a rule about what comes in; restoring the host takes all of them away."""
        chain = "chain c { type filter hook input priority 0; policy accept; };"
        host.nft(f"table inet f {{ {chain} }}\nadd rule inet f c {rule}\n")

    def knock(self, here: NsHost, address: str, port: int) -> str:
        """Say what one host gets from a port of another: `accepted`, or an errno."""
        return self.on(here, sys.executable, "-ISc", KNOCK, address, str(port)).strip()

    def mount(self, host: NsHost, options: str, where: str | Path) -> None:
        """Put an empty tmpfs of some kind there."""
        host.run(["mkdir", "-p", where])
        self.on(
            host,
            *("mount", "-t", "tmpfs", "-o", options, "tmpfs", where),
            then=["umount", "-l", where],
        )

    def replace(self, host: NsHost, path: Path, text: str, mode: int = 0o755) -> None:
        """Let one host see another file there."""
        own = host.write(f"/run/replaced/{path.name}", text, mode)
        self.on(host, "mount", "--bind", own, path, then=["umount", path])

    def as_user(self) -> None:
        """Log in as an ordinary user."""
        for host in self:
            host.add_user("trainee")
        self.user = "trainee"

    # ---- what is said about it ----

    def inventory(self) -> Path:
        path = self.cluster.inventory([h for h in self.hosts if h in ("n1", "n2", "n3")])
        document = yaml.safe_load(path.read_text())
        by_name = {entry["name"]: entry for entry in document["hosts"]}
        document["hosts"] = [
            {**by_name.get(name, {"name": name}), **self.entries.get(name, {})}
            for name in self.hosts
        ]
        for entry in document["hosts"]:
            entry["ssh"] = entry["ssh"].replace("root@", f"{self.user}@")
        fields = dict(self.fields)
        document["defaults"] |= fields.pop("defaults", {})
        # By way of JSON: a value that stands twice would become an alias.
        text = yaml.safe_dump(json.loads(json.dumps({**document, **fields})), sort_keys=False)
        path.write_text(text)
        return path

    def check(self) -> Checked:
        words = [*DDP_ORCH, "check", "-o", "json", str(self.inventory())]
        done = self.cluster.run(words, timeout=100)
        assert "Traceback" not in done.stderr, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines, done.stderr
        assert "summary" in lines[-1], done.stdout
        return Checked(done.returncode, lines[:-1], told(lines[:-1]) + done.stderr)


def told(verdicts: Iterable[Verdict]) -> str:
    """Return all that is not well, for the message of a test that fails."""
    lines = []
    for v in verdicts:
        if v["status"] not in ("pass", "skip"):
            where = f"{v['host']}{'->' + v['peer'] if v['peer'] else ''}"
            cause = f" (by {v['caused_by']})" if v["caused_by"] else ""
            lines.append(f"{v['status']:7} {v['id']} {where}{cause}: {v['message']} | {v['hint']}")
    return "\n".join(lines) + "\n"


def assert_found(
    got: Checked, expected: Sequence[Expected], code: int, warns: Collection[str] = ()
) -> None:
    """Assert that these are what is wrong, all of it, and that all else follows from them."""
    failed = {v["id"] for v in got.of("fail")}
    # What a mere warning explains is a finding all the same.
    roots = [v for v in got.of("fail") if v["caused_by"] not in failed]
    failing = [e for e in expected if e.status == "fail"]
    named = sorted((e.id, e.host or "", e.peer or "") for e in failing)
    assert sorted((v["id"], v["host"] or "", v["peer"] or "") for v in roots) == named, got.raw
    known = {v["id"] for status in ("fail", "warn", "unknown") for v in got.of(status)}
    caused = [v["caused_by"] for v in got.verdicts if v["caused_by"]]
    assert known.issuperset(caused), got.raw
    warned = {v["id"] for v in got.of("warn") if v["caused_by"] is None}
    assert warned - set(warns) == {e.id for e in expected if e.status == "warn"}, got.raw
    for e in expected:
        (verdict,) = [v for v in got.verdicts if e.fits(v)]
        assert e.message in verdict["message"], got.raw
        if e.status in ("fail", "warn"):
            assert verdict["hint"], got.raw
            assert e.hint in verdict["hint"], got.raw
            assert "\n" not in verdict["hint"]
    assert got.code == code, got.raw


def exit_code(expected: Sequence[Expected]) -> int:
    failing = [e.id for e in expected if e.status == "fail"]
    if not failing:
        return 0
    return 4 if any(id_.startswith("ssh.") for id_ in failing) else 3


def fault(
    inject: Callable[[Ground], None],
    *expected: Expected,
    warns: Collection[str] = (),
    quick: bool = False,
) -> Any:
    """One row of the matrix; it is named after what injects it."""
    marks = () if quick else pytest.mark.slow
    return pytest.param(inject, expected, warns, id=inject.__name__.strip("_"), marks=marks)


def try_out(
    ground: Ground,
    inject: Callable[[Ground], None],
    expected: Sequence[Expected],
    warns: Collection[str],
) -> None:
    inject(ground)
    got = ground.check()
    assert_found(got, expected, exit_code(expected), warns)
    for look in ground.afterwards:
        look(got)
