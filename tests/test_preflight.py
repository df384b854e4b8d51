"""What the answers of hosts are taken for."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from inventory.load import from_names
from inventory.model import Host, Inventory, Job
from orchestrator import preflight
from orchestrator.asked import AT_ONCE, NEXT, Asked
from orchestrator.connection import Joined
from orchestrator.errors import HostError, LinkLost, RequestFailed
from orchestrator.facts import StateFolder, Wanted
from orchestrator.link import Link
from orchestrator.plan import Program, around_python
from orchestrator.preflight import (
    _state_folder,
    _wanted_of_gpus,
    code_question,
    given_to,
    wanted_there,
)
from tests.test_plan import facts


def test_a_disk_that_does_not_answer_is_a_finding_and_a_lost_host_is_none():
    call = Link("a", lambda _: None).prepare("files.try_out")
    late = _state_folder("~/x", call, RequestFailed("no answer to files.try_out in 10 s"))
    problem = "its disk, or file server, does not answer"
    assert late == StateFolder(asked="~/x", problem=problem, late=True)
    assert _state_folder("~/x", call, LinkLost("gone", check="ssh.reach")) == "gone"
    call.future.set_result(None)
    assert _state_folder("~/x", call, {"problem": None, "free": 7}) == StateFolder(
        asked="~/x", free=7
    )
    assert _state_folder("~/x", call, {"problem": 3}).startswith("what it told makes no sense (")
    broken = _state_folder("~/x", call, RequestFailed("no such request"))
    assert broken == StateFolder(asked="~/x", problem="no such request")


def test_hosts_are_asked_for_what_is_not_sent_along():
    def asked(program: Program | None) -> tuple[str, str] | None:
        wanted = wanted_there(program)
        return wanted and (wanted.kind, wanted.target)

    assert asked(None) is None
    assert asked(Program(target="train.py", ships=("train.py",))) is None
    assert asked(Program(target="/x/train.py")) == ("script", "/x/train.py")
    assert asked(Program(target="pkg.train", module=True)) == ("module", "pkg.train")
    assert asked(Program(target="tool", args=("-x",), python=False)) == ("command", "tool")


def test_a_host_looks_with_the_environment_that_workers_will_have():
    wanted = Wanted(kind="command", target="tool")
    job = {"PATH": "/job", "PYTHONPATH": "/job", "TOKEN": "of job", "LD_LIBRARY_PATH": ""}
    host = Host(name="a", python="~/v", workdir="~/w", env={"PATH": "/host", "OTHER": "x"})
    inventory = Inventory(hosts=(host,), job=Job(env=job))
    around = around_python(given_to(host, inventory, {"PYTHONPATH": "/mine"}))
    question = code_question(wanted, {"a": around})
    assert question.op == "code.look"
    assert question.args(host) == {
        "kind": "command",
        "target": "tool",
        "python": "~/v",
        "workdir": "~/w",
        "env": {"PATH": "/host", "PYTHONPATH": "/mine"},
    }


def test_which_gpus_workers_will_see_and_how_many_workers_there_are():
    hosts = (
        Host(name="plain"),
        Host(name="said", nproc_per_node=3),
        Host(name="some", gpus=(0, 2)),
        Host(name="cores", nproc_per_node="cpu"),
        Host(name="own", env={"CUDA_VISIBLE_DEVICES": "1"}),
        Host(name="silent", nproc_per_node="gpu"),
    )
    known = {host.name: facts("10.0.0.1", gpus=8, cores=6) for host in hosts[:-1]}
    wanted = _wanted_of_gpus(Inventory(hosts=hosts), {**known, "silent": "no answer"}, {})
    assert wanted["workers"] == {
        "plain": 8, "said": 3, "some": 2, "cores": 6, "own": 1, "silent": None,
    }  # fmt: skip
    assert wanted["visible"] == {"cores": "", "own": "1"}
    assert wanted["counted"] == {"plain", "own", "silent"}
    assert wanted["per_gpu"] == {"silent"}
    job = Job(env={"CUDA_VISIBLE_DEVICES": "0,1"})
    given = _wanted_of_gpus(Inventory(hosts=hosts[:1], job=job), known, {})
    assert (given["visible"], given["workers"]) == ({"plain": "0,1"}, {"plain": 2})
    # What is said on the command line comes last.
    given = _wanted_of_gpus(
        Inventory(hosts=hosts[:1], job=job), known, {"CUDA_VISIBLE_DEVICES": "5"}
    )
    assert (given["visible"], given["workers"]) == ({"plain": "5"}, {"plain": 1})


def test_a_ping_that_is_under_way_when_all_else_is_known_has_no_answer(monkeypatch):
    """Networks that drop pings are many: nobody waits two seconds for each to be sure of it."""
    on_their_way, answered = threading.Semaphore(0), threading.Event()

    def ping(address):
        on_their_way.release()
        answered.wait(60)

    def hangs():
        answered.wait(60)
        raise HostError("given up", check="ssh.config")

    monkeypatch.setattr(preflight.ping, "ping", ping)
    dropped = SimpleNamespace(ping_address=lambda: "192.0.2.1")
    unresolved = SimpleNamespace(ping_address=hangs)
    pings = preflight.Pings({"a": dropped, "b": unresolved, "c": dropped})
    for _ in range(2):
        assert on_their_way.acquire(timeout=30)
    assert pings.collect() == {"a": None, "b": "no answer in time", "c": None}
    answered.set()


def test_every_part_of_every_host_is_told_once_when_it_has_come():
    told = []
    links = {name: Link(name, lambda _: None) for name in ("a", "b", "c")}
    doors = {
        name: SimpleNamespace(call=lambda op, _, link=link: link.prepare(op))
        for name, link in links.items()
    }
    fleet, inventory = SimpleNamespace(hosts=doors), from_names("a,b,c")
    asked = Asked(fleet, inventory, lambda *part: told.append(part), NEXT, {})
    for name, link in links.items():
        calls = [link.prepare(question.op) for question in AT_ONCE]
        asked.then(name, Joined(0.1, "", calls))
    assert told == [(name, "ssh", True) for name in links]
    ops = [question.op for question in (*AT_ONCE, *NEXT)]
    for op in ops:
        for name, call in asked.calls[op].items():
            late = threading.Timer(0.05, call.future.set_result, [{}])
            if (op, name) == (ops[-1], "b"):
                late = threading.Timer(
                    0.05, call.future.set_exception, [LinkLost("gone", check="ssh.reach")]
                )
            late.start()
        asked.raw(op)
        assert {(n, part) for n, part, _ in told if part == op} == {(n, op) for n in links}
    assert len(told) == len(set(told)) == 3 * (1 + len(ops))
    assert [part[:2] for part in told if not part[2]] == [("b", ops[-1])]
