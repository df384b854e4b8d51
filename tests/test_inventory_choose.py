"""--include and --exclude: which hosts are kept, with which GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.choose import choose
from inventory.load import InventoryError, from_names, load_text
from inventory.model import Host, Inventory, Job

HOSTS = Inventory(
    hosts=(
        Host(name="a"),
        Host(name="b1", nproc_per_node=4),
        Host(name="b2", gpus=(3, 1, 2), nproc_per_node="gpu"),
        Host(name="b3", gpus=(0, 1), nproc_per_node=4),
    )
)


def kept(include: list[str], exclude: list[str], inventory: Inventory = HOSTS) -> list[object]:
    return [
        host.name
        if (host.gpus, host.nproc_per_node) == (was.gpus, was.nproc_per_node)
        # A host that changed is shown with what it has now.
        else (host.name, host.gpus, host.nproc_per_node)
        for host in choose(inventory, include, exclude).hosts
        for was in inventory.hosts
        if was.name == host.name
    ]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], ["a", "b1", "b2", "b3"]),
        (["a"], [], ["a"]),
        (["b2,a"], [], ["a", "b2"]),
        (["b2", "a"], [], ["a", "b2"]),
        (["b2@a"], [], ["a", "b2"]),
        (["b[1-2]"], [], ["b1", "b2"]),
        (["a,a", "a"], [], ["a"]),
        (["b1:0,2"], [], [("b1", (0, 2), 2)]),
        (["b1:2,0"], [], [("b1", (0, 2), 2)]),
        (["b1:0-2"], [], [("b1", (0, 1, 2), 3)]),
        (["b1:[0,2-3]"], [], [("b1", (0, 2, 3), 3)]),
        (["b1:0,2,a"], [], ["a", ("b1", (0, 2), 2)]),
        (["a@b1:0,2"], [], [("a"), ("b1", (0, 2), 2)]),
        (["a:5"], [], [("a", (5,), None)]),
        (["b1:0", "b1:1"], [], [("b1", (0, 1), 2)]),
        (["b1:0", "b1"], [], ["b1"]),
        (["b[2-3]:1"], [], [("b2", (1,), "gpu"), ("b3", (1,), 1)]),
        (["b2:1,3"], [], [("b2", (3, 1), "gpu")]),
        ([], ["a"], ["b1", "b2", "b3"]),
        ([], ["b[1-3]"], ["a"]),
        ([], ["b1:0"], ["a", ("b1", (1, 2, 3), 3), "b2", "b3"]),
        ([], ["b1:0-3"], ["a", "b2", "b3"]),
        ([], ["b2:3", "b3:0"], ["a", "b1", ("b2", (1, 2), "gpu"), ("b3", (1,), 1)]),
        (["b[1-3]"], ["b2"], ["b1", "b3"]),
        (["b1:0-1"], ["b1:0"], [("b1", (1,), 1)]),
        (["a:0-1"], ["a:0"], [("a", (1,), None)]),
        (["a"], ["b1"], ["a"]),
    ],
)
def test_chosen(include, exclude, expected):
    assert kept(include, exclude) == expected


@pytest.mark.parametrize(
    ("include", "exclude", "line"),
    [
        (["b4"], [], "--include: no host is called b4 (there are: a, b1, b2, b3)"),
        ([], ["xyz"], "--exclude: no host is called xyz (there are: a, b1, b2, b3)"),
        (["b[1-4]"], [], "--include: no host is called b4 (there are: a, b1, b2, b3)"),
        ([""], [], "--include: '' is not of the form host or host:0,2"),
        (["a:"], [], "--include: a: is not of the form host or host:0,2"),
        (["a:x"], [], "--include: a:x is not of the form host or host:0,2"),
        (["a,2"], [], "--include: no host is called 2 (did you mean b2?)"),
        (["b[3-1]"], [], "--include: b[3-1]: 3-1 counts down; write 1-3"),
        (["a:1024"], [], "--include: 1024 is not the number of a GPU"),
        (["b2:0"], [], "--include: b2 has no GPU 0 (it has 3, 1, 2)"),
        ([], ["b1:4"], "--exclude: b1 has no GPU 4 (it has 0, 1, 2, 3)"),
        (["a:0"], ["a:1"], "--exclude: a has no GPU 1 (it has 0)"),
        (
            [],
            ["a:0"],
            (
                "--exclude: the inventory does not say which GPUs a has "
                "(give it gpus: there, or --include those to use)"
            ),
        ),
        (["a"], ["a"], "--exclude: no host is left"),
        ([], ["a,b[1-3]"], "--exclude: no host is left"),
        (
            ["x"],
            ["a:"],
            (
                "--include: no host is called x (there are: a, b1, b2, b3)\n"
                "--exclude: a: is not of the form host or host:0,2"
            ),
        ),
    ],
)
def test_refused(include, exclude, line):
    with pytest.raises(InventoryError) as caught:
        choose(HOSTS, include, exclude)
    assert str(caught.value) == line


def test_a_name_that_is_nearly_right():
    with pytest.raises(InventoryError, match=r"called wokrer-1 \(did you mean worker-1\?\)"):
        choose(from_names("worker-[0-9]"), ["wokrer-1"], [])


def test_fewer_hosts_than_the_job_asks_for():
    inventory = Inventory(hosts=HOSTS.hosts, job=Job(nnodes="3"))
    with pytest.raises(InventoryError) as caught:
        choose(inventory, ["a"], [])
    assert str(caught.value) == "--include: job.nnodes asks for 3 hosts; the inventory has 1"
    elastic = Inventory(hosts=HOSTS.hosts, job=Job(nnodes="2:4"))
    assert kept([], ["a"], elastic) == ["b1", "b2", "b3"]


def test_the_rest_of_the_inventory_stays():
    text = "hosts: [a, b]\njob: {script: x}\nrendezvous: {port: 1}\nsame_machine: true\n"
    inventory = load_text(text, "x.yaml")
    chosen = choose(inventory, ["b"], [])
    assert chosen == inventory.model_copy(update={"hosts": inventory.hosts[1:]})


OPTION = st.lists(
    st.text(alphabet="ab123,:@[]-0", max_size=12)
    | st.sampled_from(["a", "b1", "b1:0", "b[1-3]", "b2:1,3", "a:0-3", "gpu[0-9]"]),
    max_size=3,
)


@given(OPTION, OPTION)
def test_whatever_is_chosen_is_a_part_or_an_error(include, exclude):
    names = [host.name for host in HOSTS.hosts]
    try:
        hosts = choose(HOSTS, include, exclude).hosts
    except InventoryError:
        return
    assert hosts
    assert [n for n in names if n in {h.name for h in hosts}] == [h.name for h in hosts]
    for host in hosts:
        Host.model_validate(dict(host))


@pytest.mark.timeout(60)
def test_a_thousand_hosts_are_chosen_from_at_once():
    inventory = from_names("gpu[1-1024]")
    assert len(choose(inventory, ["gpu[1-1000]:0-7"], ["gpu[1-10]"]).hosts) == 990
