"""The whole of the gathering, with hosts that fit on a page."""

from __future__ import annotations

import threading

import pytest

from inventory.model import Host, Inventory, Job, Rendezvous
from orchestrator import preflight
from orchestrator.checks import judge
from orchestrator.errors import HostError, LinkLost, RequestFailed
from orchestrator.facts import Dialled, Listening
from orchestrator.fleet import Fleet
from orchestrator.mesh import cluster_address
from tests.test_fleet import FakeHost


class Asked(FakeHost):
    """A host that answers; `told` is what, by op: a value, an error, or None for never."""

    def __init__(self, name, on_lost):
        super().__init__(name, on_lost)
        number = int(name[1:])
        self.address = f"10.0.0.{number}"
        self.asked = []
        self.waiting = []
        self.told = {
            "network.tell": {
                "addresses": [["lo", "127.0.0.1", 8], ["eth0", self.address, 24]],
                "ssh_address": self.address,
                "hostname": f"{name}.lab",
                "machine": name,
            },
            "listening.hold": {"mesh": {"port": 4000 + number}, "rendezvous": {"port": 29400}},
            "interfaces.tell": {"interfaces": [], "ephemeral": [1, 2], "infiniband": [], "env": {}},
            "probe.dial": self.dial,
        }

    def dial(self, args):
        # An agent that is asked for facts may take half a minute; nobody waits for it with this.
        for call in self.waiting:
            if not call.future.done():
                call.future.set_exception(RequestFailed("in the end", host=self.name))
        dials = [{"ms": 1.0, "local": self.address} for _ in args["targets"]]
        return {"dials": dials, "name": {"addresses": ["10.0.0.1"]}}

    def open(self, first):
        calls = super().open(first)
        for call, (_, args) in zip(calls, first, strict=True):
            self.respond(call, args)
        return calls

    def call(self, op, args, body=b"", on_event=None):
        call = self._link.prepare(op, on_event)
        self.respond(call, args)
        return call

    def respond(self, call, args):
        self.asked.append((call.op, args))
        told = self.told.get(call.op, RequestFailed("not now", host=self.name))
        told = told(args) if callable(told) else told
        if call.op == "listening.release":
            call.future.set_result(None)
        elif isinstance(told, Exception):
            call.future.set_exception(told)
        elif told is not None:
            call.future.set_result(told)
        else:
            self.waiting.append(call)

    def args(self, op):
        return [args for asked, args in self.asked if asked == op]

    def ping_address(self):
        raise HostError("reached through gate; not pinged", check="net.ping")

    def clock(self):
        return 0.0, float("inf")


def no_one(host, part, came):
    pass


def gathered(inventory, change=lambda hosts: None, looked=no_one, env=None):
    hosts = {}

    def make(name, on_lost):
        hosts[name] = Asked(name, on_lost)
        return hosts[name]

    fleet = Fleet(make, [host.name for host in inventory.hosts])
    change(hosts)
    try:
        return preflight.gather(fleet, inventory, "token", looked, env=env), hosts
    finally:
        fleet.close()


def of(count, **more):
    return Inventory(hosts=tuple(Host(name=f"n{i}") for i in range(1, count + 1)), **more)


def test_every_pair_is_tried_before_what_is_slow_has_answered():
    """Were facts waited for first, they would be given up, and not end as they do here."""

    def slow(hosts):
        for host in hosts.values():
            host.told["facts.gather"] = None

    cluster, hosts = gathered(of(3), slow)
    assert set(cluster.dialled) == {(a, b) for a in hosts for b in hosts if a != b}
    assert cluster.dialled["n3", "n2"] == (Dialled(address="10.0.0.2", ms=1.0, local="10.0.0.3"),)
    assert set(cluster.rendezvous) == {"n2", "n3"}
    assert cluster.facts["n1"] == "in the end"
    assert cluster.listening == Listening(port=29400)
    assert cluster.from_here == "not tried: it is reached through another host, or a command"
    assert cluster.head_named["n2"].addresses == ("10.0.0.1",)
    (asked,) = hosts["n3"].args("probe.dial")
    assert asked["targets"] == [
        ["n1", "10.0.0.1", 4001],
        ["n2", "10.0.0.2", 4002],
        ["n1", "10.0.0.1", 29400],
    ]
    assert (asked["token"], asked["name"]) == ("token", "n1.lab")
    for host in hosts.values():
        ops = [op for op, _ in host.asked]
        assert ops.index("listening.release") > ops.index("probe.dial")


@pytest.mark.parametrize(("port", "asked"), [("auto", 0), (29500, 29500)])
def test_the_head_opens_the_rendezvous_port_too(port, asked):
    _, hosts = gathered(of(2, rendezvous=Rendezvous(port=port)))
    (held,) = hosts["n1"].args("listening.hold")
    assert held == {"token": "token", "name": "n1", "ports": {"mesh": 0, "rendezvous": asked}}
    (held,) = hosts["n2"].args("listening.hold")
    assert held["ports"] == {"mesh": 0}


def test_who_holds_a_port_is_asked_when_somebody_does():
    def taken(hosts):
        taken = {"mesh": {"port": 4001}, "rendezvous": {"error": "EADDRINUSE"}}
        hosts["n1"].told["listening.hold"] = taken
        hosts["n1"].told["probe.who_holds"] = {"pid": 7, "command": "python x.py", "age": 61.0}

    cluster, hosts = gathered(of(2, rendezvous=Rendezvous(port=29500)), taken)
    assert cluster.listening == Listening(
        error="EADDRINUSE", holder="7 (python x.py)", pid=7, age=61.0
    )
    assert hosts["n1"].args("probe.who_holds") == [{"port": 29500}]
    assert ("n2", "n1") in cluster.dialled
    assert cluster.rendezvous == {}


def test_a_holder_that_makes_no_sense_is_not_named():
    def taken(hosts):
        taken = {"mesh": {"port": 4001}, "rendezvous": {"error": "EADDRINUSE"}}
        hosts["n1"].told["listening.hold"] = taken
        hosts["n1"].told["probe.who_holds"] = {"pid": 7, "command": "x", "age": "long"}

    cluster, _ = gathered(of(2, rendezvous=Rendezvous(port=29500)), taken)
    assert cluster.listening == Listening(error="EADDRINUSE")


@pytest.mark.parametrize(
    ("op", "told", "why"),
    [
        ("listening.hold", 7, "what it told makes no sense"),
        ("listening.hold", {"mesh": {"port": float("inf")}}, "what it told makes no sense"),
        ("listening.hold", {"mesh": {"error": "EMFILE"}}, "it could open no port: EMFILE"),
        ("listening.hold", RequestFailed("no such request"), "no such request"),
        ("probe.dial", {"dials": []}, "what it told makes no sense"),
        ("probe.dial", {"dials": [None] * 3}, "what it told makes no sense"),
        ("probe.dial", RequestFailed("no answer in 15 s"), "no answer in 15 s"),
    ],
)
def test_a_host_that_takes_no_part_costs_the_others_nothing(op, told, why):
    cluster, _ = gathered(of(3), lambda hosts: hosts["n2"].told.update({op: told}))
    assert cluster.unheard["n2"].startswith(why)
    assert {("n1", "n3"), ("n3", "n1")} <= set(cluster.dialled)
    assert not any(host == "n2" for host, _ in cluster.dialled)


def in_networks(*working: int):
    """Every host is in networks 1 to 4, our ssh comes by the first, and only some let them talk."""

    def change(hosts):
        for host in hosts.values():
            number = int(host.name[1:])
            own = [f"10.{net}.0.{number}" for net in (1, 2, 3, 4)]
            addresses = [[f"eth{i}", address, 24] for i, address in enumerate(own, 1)]
            host.told["network.tell"] |= {"addresses": addresses, "ssh_address": own[0]}
            host.told["probe.dial"] = dial

    def dial(args):
        good = tuple(f"10.{net}.0." for net in working)
        dropped = {"error": "ETIMEDOUT", "phase": "connect", "local": "10.1.0.1"}
        tried = (address.startswith(good) for _, address, _ in args["targets"])
        return {"dials": [{"ms": 1.0} if got_in else dropped for got_in in tried], "name": None}

    return change


@pytest.mark.parametrize("count", [3, 9, 33])
def test_a_network_that_works_is_found_however_many_they_are(count):
    """Each is tried at few of its addresses first; by another one they reach the head."""
    cluster, hosts = gathered(of(count), in_networks(4))
    net = [v for v in judge(cluster) if v.id.startswith("net.") and v.status != "skip"]
    assert {v.status for v in net if v.id != "net.name.self"} == {"pass"}, net
    assert cluster_address(cluster, f"n{count}") == f"10.4.0.{count}"
    asked = [len(host.args("probe.dial")) for host in hosts.values()]
    assert asked == [1 if count == 3 else 2] * count


def test_where_no_network_works_each_is_dialled_no_more_than_twice():
    cluster, hosts = gathered(of(9), in_networks())
    assert {len(host.args("probe.dial")) for host in hosts.values()} == {2}
    targets = [args["targets"] for args in hosts["n2"].args("probe.dial")]
    assert [t[1] for t in targets[0] if t[0] == "n3"] == ["10.1.0.3", "10.2.0.3"]
    assert [t[1] for t in targets[1] if t[0] == "n3"] == ["10.3.0.3", "10.4.0.3"]
    (finding,) = [v for v in judge(cluster) if v.id == "net.pair" and v.status == "fail"]
    assert finding.scope == "cluster"


def test_who_does_not_report_the_second_time_has_told_the_first():
    def change(hosts):
        in_networks(4)(hosts)
        first = hosts["n2"].told["probe.dial"]
        answers = [first, lambda _: RequestFailed("no answer in 15 s")]
        hosts["n2"].told["probe.dial"] = lambda args: answers.pop(0)(args)

    cluster, hosts = gathered(of(9), change)
    assert cluster.unheard == {}
    assert len(hosts["n2"].args("probe.dial")) == 2, "and is not asked a third time"
    assert {dial.address for dial in cluster.dialled["n2", "n3"]} == {"10.1.0.3", "10.2.0.3"}
    assert {dial.address for dial in cluster.dialled["n3", "n2"]} >= {"10.1.0.2", "10.4.0.2"}


def test_a_host_that_is_lost_while_it_dials_is_not_connected():
    def lost(hosts):
        hosts["n2"].told["probe.dial"] = LinkLost("gone", check="ssh.reach", host="n2")

    cluster, _ = gathered(of(2), lost)
    assert cluster.ssh["n2"].check == "ssh.reach"
    assert cluster.ssh["n2"].message == "lost again: gone"
    assert cluster.ssh["n2"].address == "10.0.0.2"


def test_a_host_that_has_fallen_silent_is_not_connected():
    """A cable that is pulled says nothing; the link finds it out after the checks are done."""

    def silent(hosts):
        hosts["n2"].silent = preflight.SILENT_SECONDS

    cluster, _ = gathered(of(2), silent)
    assert cluster.ssh["n2"].message == "lost again: nothing was heard from it for 15 s"
    assert cluster.ssh["n1"].check is None


def test_what_no_time_was_left_for_is_not_known():
    def late(hosts):
        dials = [{"error": "UNTRIED"}, {"ms": 1.0}]
        hosts["n2"].told["probe.dial"] = {"dials": dials}

    cluster, _ = gathered(of(2), late)
    assert ("n2", "n1") not in cluster.dialled
    assert len(cluster.rendezvous["n2"]) == 1


def test_what_the_inventory_says_of_interfaces_and_addresses():
    job = Job(env={"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0", "OTHER": "x"})
    hosts = Host(name="n1"), Host(name="n2", addr="n2.lab", env={"GLOO_SOCKET_IFNAME": "eth1"})
    cluster, _ = gathered(Inventory(hosts=hosts, job=job))
    both = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
    assert cluster.socket_names == {"n1": both, "n2": both | {"GLOO_SOCKET_IFNAME": "eth1"}}
    # What the command line says comes over both.
    cluster, _ = gathered(Inventory(hosts=hosts, job=job), env={"GLOO_SOCKET_IFNAME": "lo"})
    assert cluster.socket_names["n2"] == both | {"GLOO_SOCKET_IFNAME": "lo"}
    assert cluster.given_addresses == ("n2",)
    assert cluster.candidates["n2"] == ("n2.lab",)


def test_the_interpreter_is_asked_in_what_the_workers_will_have_around_it():
    job = Job(env={"PYTHONPATH": "/job", "LD_LIBRARY_PATH": "/lib", "TOKEN": "for workers alone"})
    hosts = Host(name="n1"), Host(name="n2", env={"PYTHONPATH": "/own"})
    _, asked = gathered(Inventory(hosts=hosts, job=job), env={"LD_LIBRARY_PATH": "/mine"})
    for name, path in (("n1", "/job"), ("n2", "/own")):
        (args,) = asked[name].args("facts.gather")
        assert args["env"] == {"PYTHONPATH": path, "LD_LIBRARY_PATH": "/mine"}


def test_the_workers_folder_for_temporary_files_is_looked_at():
    hosts = Host(name="n1"), Host(name="n2", env={"TMPDIR": "/scratch"})
    _, asked = gathered(Inventory(hosts=hosts, job=Job()))
    told = [asked[name].args("conditions.gather")[0]["tmpdir"] for name in ("n1", "n2")]
    assert told == [None, "/scratch"]


def test_what_has_come_is_told_while_another_host_is_still_waited_for():
    """A table that is filled in only with the last one says of all that they are slow."""
    told, came, in_time = set(), threading.Condition(), []

    def looked(host, part, _):
        with came:
            told.add((host, part))
            came.notify_all()

    def slow(hosts):
        def open_late():
            with came:
                assert came.wait_for(lambda: ("n1", "ssh") in told, 30)
            (call,) = hosts["n1"].waiting
            call.future.set_result({})
            with came:
                in_time.append(came.wait_for(lambda: ("n1", "strays.find") in told, 30))

        hosts["n1"].told["strays.find"] = None
        hosts["n2"].opening = open_late

    gathered(of(2), slow, looked)
    assert in_time == [True]
