"""Ranges within an inventory: which hosts they are, and where their mistakes stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.load import InventoryError, load_text
from inventory.names import folded, ranges, written_out

PAIR = "(a range in name and one here pair up when they are as long)"


def test_ranges_are_hosts_in_their_order():
    text = """
hosts:
  - gpu[2-4,7]
  - me@node[08-10].dc:2222
  - name: c[1-2]
    ssh: root@10.0.0.[7-8]:22
    addr: fe80::[7-8]
    gpus: [0, 1]
    env: {A: x}
  - name: c[3]
defaults: {env: {B: y}, port: 22}
"""
    hosts = load_text(text, "inv.yaml").hosts
    assert [h.name for h in hosts] == [
        *("gpu2", "gpu3", "gpu4", "gpu7", "node08.dc", "node09.dc", "node10.dc"),
        *("c1", "c2", "c3"),
    ]
    assert [h.destination for h in hosts[4:6]] == [
        ("me", "node08.dc", 2222),
        ("me", "node09.dc", 2222),
    ]
    assert [h.destination for h in hosts[7:9]] == [("root", f"10.0.0.{i}", 22) for i in (7, 8)]
    assert [h.addr for h in hosts[7:9]] == ["fe80::7", "fe80::8"]
    assert [h.gpus for h in hosts[6:]] == [None, (0, 1), (0, 1), None]
    assert [h.env for h in hosts[6:9]] == [{"B": "y"}, *[{"A": "x", "B": "y"}] * 2]


def test_ports_of_one_machine_are_a_range_too():
    text = "hosts:\n- name: box[1-2]\n  ssh: root@server:[2201-2202]\n"
    hosts = load_text(text, "inv.yaml").hosts
    assert [h.destination for h in hosts] == [("root", "server", 2201), ("root", "server", 2202)]


REFUSED = {
    "counting down": (
        "hosts:\n  - gpu[4-2]\n",
        "inv.yaml:2:5: hosts[0]: gpu[4-2]: 4-2 counts down; write 2-4",
    ),
    "without an end": (
        "hosts:\n  - name: gpu[2-4\n",
        "inv.yaml:2:11: hosts[0].name: gpu[2-4 has a bracket without its other half",
    ),
    "without its quotes": (
        "hosts: [gpu[2-4]]\n",
        (
            "inv.yaml:1:12: expected ',' or ']', but got '[', while parsing a flow sequence "
            "(put the text in quotes)"
        ),
    ),
    "what its hosts share, once": (
        "hosts:\n  - name: gpu[1-9]\n    port: 0\n    identity_file: $NOT_SET/id\n    prot: 1\n",
        (
            "inv.yaml:3:11: hosts[0].port: must be at least 1, found 0\n"
            "inv.yaml:4:20: hosts[0].identity_file: $NOT_SET is not set in this machine's "
            "environment\n"
            "inv.yaml:5:5: hosts[0].prot: unknown field (did you mean port?)"
        ),
    ),
    "names that are options": (
        "hosts:\n  - -x[1-2]\n",
        ("inv.yaml:2:5: hosts[0]: '-x1' is not a host name (letters, digits, and . _ - inside)"),
    ),
    "a mistake behind it": (
        "hosts:\n  - gpu[1-9]\n  - {name: a, port: 0}\n",
        "inv.yaml:3:21: hosts[1].port: must be at least 1, found 0",
    ),
    "one way to many hosts": (
        "hosts:\n  - name: gpu[1-3]\n    ssh: gateway\n",
        f"inv.yaml:3:10: hosts[0].ssh: is one place for 3 hosts {PAIR}",
    ),
    "ways that are too few": (
        "hosts:\n  - {name: 'gpu[1-3]', ssh: 'gpu[1-3]', addr: '10.0.0.[1-2]'}\n",
        f"inv.yaml:2:47: hosts[0].addr: is 2 places for 3 hosts {PAIR}",
    ),
    "many ways to one host": (
        "hosts:\n  - {name: gpu, ssh: 'gpu[1-3]'}\n",
        f"inv.yaml:2:22: hosts[0].ssh: is 3 places for one host {PAIR}",
    ),
    "many ways to nobody": (
        "hosts:\n  - ssh: gpu[1-3]\n",
        "inv.yaml:2:5: hosts[0].name: is missing",
    ),
    "overlapping others": (
        "hosts:\n  - gpu[1-9]\n  - gpu[5-12]\n  - gpu[3,3]\n  - gpu9\n",
        (
            "inv.yaml:3:5: hosts[1]: the name gpu5 is taken by hosts[0], line 2\n"
            "inv.yaml:4:5: hosts[2]: the name gpu3 is taken by hosts[0], line 2\n"
            "inv.yaml:5:5: hosts[3]: the name gpu9 is taken by hosts[0], line 2"
        ),
    ),
    "overlapping itself": (
        "hosts:\n  - a[1-2,2]\n",
        "inv.yaml:2:5: hosts[0]: names a2 twice",
    ),
    "more than there may be": (
        "hosts:\n  - a[1-1025]\n",
        "inv.yaml:2:5: hosts[0]: a[1-1025] names more than 1,024 hosts",
    ),
    "more hosts than there may be": (
        "hosts:\n  - a[1-1000]\n  - b[1-25]\n  - c\n",
        "inv.yaml:3:5: hosts[1]: 1,024 hosts are the most",
    ),
}


@pytest.mark.parametrize(("text", "lines"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(text, lines):
    with pytest.raises(InventoryError) as caught:
        load_text(text, "inv.yaml")
    assert str(caught.value) == lines


@pytest.mark.timeout(60)
def test_ranges_do_not_multiply_what_a_file_may_hold():
    env = ", ".join(f"A{i}: x" for i in range(1000))
    hosts = load_text(f"hosts: ['a[1-1024]']\ndefaults: {{env: {{{env}}}}}\n", "inv.yaml").hosts
    assert (len(hosts), len(hosts[1023].env)) == (1024, 1000)
    with pytest.raises(InventoryError, match="1,024 hosts are the most"):
        load_text("hosts:\n" + "- 'a[1-1024]'\n" * 20_000, "inv.yaml")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("gpu1 gpu2 gpu3 gpu4 gpu7", "gpu[1-4,7]"),
        ("gpu7 gpu1 gpu3", "gpu[1,3,7]"),
        ("gpu1 gpu2", "gpu1, gpu2"),
        ("n08 n09 n10 n11", "n[08-11]"),
        ("n8 n9 n10 n11", "n[8-11]"),
        ("n0 n1 n2 n00 n01", "n[0-2,00-01]"),
        ("n8 n009 n010", "n[8,009-010]"),
        ("login gpu1 gpu2 gpu3 spare", "login, gpu[1-3], spare"),
        ("r1n1 r1n2 r1n3 r2n1 r2n2 r2n3", "r1n[1-3], r2n[1-3]"),
        ("10.0.0.9 10.0.0.10 10.0.0.11", "10.0.0.[9-11]"),
        ("a1.lab a2.lab a3.lab", "a[1-3].lab"),
        ("h1234567890 h1234567891 h1234567892", "h1234567890, h1234567891, h1234567892"),
        ("", ""),
    ],
)
def test_names_are_folded(names, words):
    assert folded(names.split()) == words


@given(st.sets(st.from_regex(r"[a-c]?[0-9]{0,3}[.n]?[0-9]{1,3}(lab)?", fullmatch=True)))
def test_what_is_folded_are_the_same_hosts_again(names):
    again = [name for word in ranges(names) for name in written_out(word)]
    assert sorted(again) == sorted(names)
