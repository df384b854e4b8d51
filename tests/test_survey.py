"""Asking hosts what runs there, and having them forget it: with hosts that fit on a page."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from inventory.load import load_text
from orchestrator import survey as survey_module
from orchestrator.errors import HostError, NoSuchRun, RequestFailed
from orchestrator.events import Ended
from orchestrator.fleet import Fleet
from orchestrator.node import reports as node_reports
from orchestrator.prune import prune
from orchestrator.ps import ps
from orchestrator.run import Options
from orchestrator.state import RunState
from orchestrator.store import RunStore
from orchestrator.survey import Survey
from tests.test_fleet import FakeHost, Making
from tests.test_reports import EXIT, PLANNED, RECORD, raw

INVENTORY = load_text("hosts: [gpu1, gpu2]", "inventory.yaml")
NOW = 1000.0 + 60 * 86400
DAY = 86400.0


class Hosts:
    """Hosts that answer: what they have by name, what was asked of whom."""

    def __init__(self) -> None:
        self.has: dict[str, object] = {}
        self.down: set[str] = set()
        self.keeps: set[str] = set()
        self.forgotten: list[tuple[str, str]] = []
        self.made: list[str] = []
        self.names: list[list[str] | None] = []
        """Which runs were asked about, each time."""

        self.opening = lambda host: None
        self.says = iter(())
        self.removing: threading.Event | None = None
        """When it is set the hosts have removed what they were asked to."""

    def make(self, hosts, doors) -> Fleet:
        making = Making()
        making.then = self._prepare
        return Fleet(lambda key, on_lost: making(hosts[key].name, on_lost), hosts)

    def _prepare(self, host: FakeHost) -> None:
        self.made.append(host.name)

        def answer(call, args, body):
            if call.op == "reports.tell":
                self.names.append(args["names"])
                self._list(host.name, call)
            elif host.name in self.keeps:
                call.future.set_exception(RequestFailed("it is kept", host=host.name))
            else:
                assert call.op == "reports.forget"
                threading.Thread(target=self._forget, args=(host.name, call, args)).start()

        def opening():
            self.opening(host)
            if host.name in self.down:
                said = next(self.says, "no answer")
                raise HostError(said, check="ssh.reach", host=host.name, hint="wake it")

        host.answer, host.opening = answer, opening

    def _forget(self, name, call, args):
        if self.removing:
            self.removing.wait(60)
        self.forgotten.append((name, args["folder"]))
        call.future.set_result(None)

    def _list(self, name, call):
        has = self.has.get(name, [])
        if isinstance(has, Exception):
            call.future.set_exception(has)
        else:
            call.future.set_result(has)


@pytest.fixture
def hosts(monkeypatch, tmp_path):
    made = Hosts()
    monkeypatch.setattr(survey_module, "fleet_of", made.make)
    monkeypatch.setenv("DDP_ORCH_STATE_DIR", str(tmp_path / "state"))
    return made


def asked(*inventories):
    survey = Survey(inventories, Options())
    try:
        survey.ask(lambda _: None)
    finally:
        survey.close()
    return survey


def told(run="brave-otter", rank=0, **more):
    return raw(run=run, rank=rank, record=RECORD | {"plan": None}, **more)


def planned(rank, **more):
    return raw(rank=rank, **more)


def record(name="brave-otter", time=PLANNED.time, *more):
    store = RunStore(name, INVENTORY.model_dump_json())
    for event in (replace(PLANNED, run=name, time=time), *more):
        store(event, RunState())
    store.close()
    return store.folder


def pruned(*names, inventory=None, older=30 * DAY, confirm=lambda _: True):
    return prune(names, inventory, older, Options(), NOW, confirm, lambda _: None)


# --- asking ---------------------------------------------------------------------------------------


def test_a_host_of_several_runs_is_connected_once(hosts):
    more = load_text("hosts: [gpu2, {name: gpu3, env: {A: b}}]", "x.yaml")
    again = load_text("hosts: [{name: gpu3, workdir: /x, setup: make}]", "x.yaml")
    hosts.has = {"gpu2": [told()], "gpu3": [told(rank=1)]}
    survey = asked(INVENTORY, more, INVENTORY, again)
    assert sorted(hosts.made) == ["gpu1", "gpu2", "gpu3"]
    assert [node.node for node in survey.of(INVENTORY).reports] == [0]
    assert [node.node for node in survey.of(more).reports] == [0, 1]
    assert survey.of(again).answered == ["gpu3"]


def test_two_hosts_of_one_name_are_both_asked(hosts):
    other = load_text("hosts: [{name: gpu1, ssh: me@10.0.0.7}]", "x.yaml")
    kept = load_text("hosts: [{name: gpu1, state_dir: /scratch}]", "x.yaml")
    survey = asked(INVENTORY, other, kept)
    assert sorted(hosts.made) == ["gpu1", "gpu1", "gpu1", "gpu2"]
    assert survey.of(other).answered == survey.of(kept).answered == ["gpu1"]


def test_hosts_of_one_name_are_asked_side_by_side_and_told_apart(hosts):
    """Addresses are given out anew, and the records of old runs stay."""
    others = [load_text(f"hosts: [{{name: gpu1, ssh: me@10.0.0.{n}}}]", "x.yaml") for n in range(4)]
    all_there = threading.Barrier(4, timeout=20)
    hosts.opening = lambda host: all_there.wait()
    hosts.down = {"gpu1"}
    hosts.says = iter(["no answer", "refused", "no answer", "no route"])
    survey = asked(*others)
    said = sorted(f"{error}" for error in survey.unreachable())
    assert said == ["gpu1: no answer", "gpu1: no route", "gpu1: refused"]


def test_those_that_do_not_answer_are_named_together(hosts):
    hosts.down = {"gpu1", "gpu2"}
    hosts.has = {"gpu3": RequestFailed("/h: chmod go-w", host="gpu3"), "gpu4": {"x": 1}}
    more = load_text("hosts: [gpu3, gpu4]", "x.yaml")
    survey = asked(INVENTORY, more)
    assert survey.of(INVENTORY).failures == [("gpu1", "no answer"), ("gpu2", "no answer")]
    assert [str(e) for e in survey.unreachable()] == [
        "gpu1, gpu2: no answer",
        "gpu3: /h: chmod go-w",
    ]
    assert survey.of(more).answered == ["gpu4"]
    assert survey.problems() == ["gpu4: its report makes no sense"]


def test_without_hosts_nobody_is_asked(hosts):
    assert asked().unreachable() == []
    assert hosts.made == []


# --- ps -------------------------------------------------------------------------------------------


def test_a_run_on_hosts_that_are_away_is_not_said_to_be_none(hosts):
    hosts.down = {"gpu1"}
    with pytest.raises(HostError):
        ps("brave", INVENTORY, Options(), NOW, lambda _: None)
    hosts.down = set()
    with pytest.raises(NoSuchRun):
        ps("brave", INVENTORY, Options(), NOW, lambda _: None)


@pytest.mark.parametrize("down", [{"gpu1", "gpu2"}, {"gpu1"}])
def test_a_host_of_the_inventory_that_could_not_be_asked_is_no_success(hosts, down):
    assert ps(None, INVENTORY, Options(), NOW, lambda _: None).exit_code == 0
    hosts.down = down
    assert ps(None, INVENTORY, Options(), NOW, lambda _: None).exit_code == 4


def test_only_the_runs_that_are_meant_are_asked_about(hosts):
    """On one home of many hosts each tells of all nodes of all runs."""
    record("brave-otter")
    ended = Ended(
        run="calm-owl", exit_code=0, seconds=9.0, hosts=("gpu1",), why="w", failure=None,
        survivors=(), logs="",
    )  # fmt: skip
    record("calm-owl", 5.0, ended)
    for wanted, inventory, names in [
        ("brave", None, ["brave"]),
        (None, None, ["brave-otter"]),
        ("calm", INVENTORY, ["calm"]),
        (None, INVENTORY, None),
    ]:
        hosts.names.clear()
        ps(wanted, inventory, Options(), NOW, lambda _: None)
        assert hosts.names == [names, names]
    for wanted, inventory, names in [
        ((), None, ["brave-otter", "calm-owl"]),
        (("brave",), INVENTORY, ["brave", "brave-otter"]),
        ((), INVENTORY, None),
    ]:
        hosts.names.clear()
        pruned(*wanted, inventory=inventory, confirm=lambda _: False)
        assert hosts.names == [names, names]


def test_a_run_here_is_not_listed_again_for_its_hosts(hosts):
    record()
    hosts.has = {"gpu1": [planned(0, state="running")], "gpu2": [planned(1, state="running")]}
    (run,) = ps(None, INVENTORY, Options(), NOW, lambda _: None).runs
    assert (run.here, run.state) == (True, "running")
    # Another machine's of the same name is another run.
    record("calm-owl", 5.0)
    theirs = RECORD | {"plan": RECORD["plan"] | {"run": "calm-owl"}}
    hosts.has["gpu1"] += [raw("ended", run="calm-owl", record=theirs)]
    runs = ps("calm", INVENTORY, Options(), NOW, lambda _: None).runs
    assert [(run.name, run.here) for run in runs] == [("calm-owl", True)]
    every = ps(None, INVENTORY, Options(), NOW, lambda _: None).runs
    assert [(run.name, run.here) for run in every] == [
        ("calm-owl", False),
        ("brave-otter", True),
        ("calm-owl", True),
    ]


# --- prune ----------------------------------------------------------------------------------------


def test_each_folder_is_removed_once_and_by_who_knows_it(hosts):
    """With a home that both share, both report both."""
    folder = record()
    hosts.has = {name: [planned(0), planned(1)] for name in ("gpu1", "gpu2")}
    done = pruned(inventory=INVENTORY)
    assert (done.removed, done.kept, done.exit_code) == (("brave-otter",), (), 0)
    assert sorted(path[-1] for _, path in hosts.forgotten) == ["0", "1"]
    assert not folder.exists()


def test_those_found_on_hosts_alone_go_as_well_when_they_are_old(hosts):
    hosts.has = {"gpu1": [planned(0)], "gpu2": [planned(1)]}
    assert pruned().removed == (), "without -i nobody asks"
    assert pruned(inventory=INVENTORY, older=90 * DAY).removed == ()
    assert pruned(inventory=INVENTORY).removed == ("brave-otter",)
    assert len(hosts.forgotten) == 2


def test_nothing_goes_unless_it_is_confirmed(hosts):
    folder = record()
    hosts.has = {"gpu1": [planned(0)], "gpu2": [planned(1)]}
    shown = []
    done = pruned("brave", confirm=shown.append)
    assert [run.name for run in shown[0]] == ["brave-otter"]
    assert (done.removed, hosts.forgotten, folder.exists()) == ((), [], True)


def test_what_a_host_keeps_keeps_the_record_here(hosts):
    folder = record()
    hosts.has = {"gpu1": [planned(0)], "gpu2": [planned(1)]}
    hosts.keeps = {"gpu2"}
    done = pruned("brave")
    assert done.kept == (("brave-otter", "gpu2: it is kept"),)
    assert (done.exit_code, folder.exists()) == (4, True)
    hosts.keeps = set()
    hosts.has["gpu1"] = []
    assert pruned("brave").removed == ("brave-otter",)
    assert not folder.exists()


def test_what_could_not_all_be_removed_is_asked_for_again(hosts):
    """Its folder is hidden by then: were it not told of, all would seem removed."""
    folder = record()
    left = node_reports.blank(planned(0)["folder"], "not all of it is removed")
    hosts.has = {"gpu1": [left | {"state": "forgotten"}], "gpu2": []}
    hosts.keeps = {"gpu1"}
    shown = ps("brave-otter", INVENTORY, Options(), NOW, lambda _: None)
    assert (shown.runs[0].state, shown.exit_code) == ("gone", 102)
    assert shown.runs[0].problems == ("gpu1: not all of it is removed",)
    done = pruned("brave")
    assert done.kept == (("brave-otter", "gpu1: it is kept"),)
    assert folder.exists()
    hosts.keeps = set()
    assert pruned("brave").removed == ("brave-otter",)
    assert hosts.forgotten == [("gpu1", left["folder"])]


def test_a_host_that_takes_long_to_remove_is_waited_for(hosts, monkeypatch):
    """The agent ends with its connection, half-way."""
    record()
    hosts.has = {"gpu1": [planned(0)], "gpu2": [planned(1)]}
    hosts.removing = threading.Event()
    monkeypatch.setattr(survey_module, "ANSWER", 0.05)
    threading.Timer(0.5, hosts.removing.set).start()
    assert pruned("brave").removed == ("brave-otter",)
    assert len(hosts.forgotten) == 2


OLD = {"record": None, "exit": None, "problem": node_reports.OLDER, "state": "unreadable"}


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (raw("running"), {}, "it is not over on gpu1 (running); to end it: ddp-orch down"),
        (raw("lost"), {}, "it is not over on gpu1 (lost)"),
        (raw("starting"), {}, "it is not over on gpu1 (starting)"),
        (raw("elsewhere"), {}, "it may run where gpu1 cannot see it"),
        (raw("unreadable", problem="use that one"), {}, "on gpu1: use that one"),
        (raw() | OLD, {}, f"on gpu1: {node_reports.OLDER}"),
        (raw() | OLD | {"last_log_age": 40 * DAY}, {}, None),
        (raw("rebooted"), {}, None),
        (raw(), {"state": "rebooted"}, None),
        (raw("absent"), {}, None),
    ],
)
def test_what_is_over_goes_and_what_may_not_be_stays(hosts, first, second, why):
    folder = record()
    hosts.has = {"gpu1": [first], "gpu2": [planned(1) | second]}
    done = pruned("brave")
    assert folder.exists() is (why is not None)
    if why:
        assert done.exit_code == 101
        assert done.kept[0][1].startswith(why)
        assert hosts.forgotten == []


def test_of_a_run_whose_end_is_known_only_what_is_over_is_asked_for(hosts):
    """A machine that shared the home may be gone for good; nobody else can say that it is over."""
    ended = Ended(
        run="brave-otter", exit_code=100, seconds=9.0, hosts=("gpu1",), why="w", failure=None,
        survivors=(), logs="", unverified=("gpu2",),
    )  # fmt: skip
    folder = record("brave-otter", PLANNED.time, ended)
    hosts.has = {"gpu1": [planned(0), planned(1, state="elsewhere")]}
    assert pruned("brave").removed == ("brave-otter",)
    assert [path[-1] for _, path in hosts.forgotten] == ["0"]
    assert not folder.exists()


def test_of_runs_nobody_named_those_that_run_are_passed_over(hosts):
    record("runs", time=1.0)
    record("over", time=2.0)
    ended = EXIT | {"time": 50.0}
    hosts.has = {
        "gpu1": [told("runs", state="running", last_log_age=40 * DAY), told("over", exit=ended)],
        "gpu2": [told("over", 1, exit=ended)],
    }
    done = pruned()
    assert (done.removed, done.kept, done.exit_code) == (("over",), (), 0)


def test_a_name_may_be_of_a_run_on_the_hosts_alone(hosts):
    hosts.has = {"gpu1": [planned(0)], "gpu2": [planned(1)]}
    with pytest.raises(NoSuchRun):
        pruned("brave")
    with pytest.raises(NoSuchRun):
        pruned("calm", inventory=INVENTORY)
    assert pruned("brave", inventory=INVENTORY).removed == ("brave-otter",)


def test_a_run_that_began_lately_is_not_asked_after(hosts):
    record(time=time.time())
    prune((), None, DAY, Options(), time.time(), lambda _: True, lambda _: None)
    assert hosts.made == []
