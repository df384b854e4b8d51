"""Hostfiles as MPI and DeepSpeed have them, and how they are told from YAML."""

from __future__ import annotations

import pytest

from inventory.hostfile import is_hostfile
from inventory.load import InventoryError, load, load_text
from inventory.model import Host


def errors(text: str, source: str = "hosts") -> list[str]:
    with pytest.raises(InventoryError) as caught:
        load_text(text, source)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("line", "hosts"),
    [
        ("gpu1", [Host(name="gpu1")]),
        ("gpu1 slots=8", [Host(name="gpu1", nproc_per_node=8)]),
        ("gpu1 slots = 8 # eight", [Host(name="gpu1", nproc_per_node=8)]),
        ("\tgpu1\tslots=8\tmax_slots=8\r", [Host(name="gpu1", nproc_per_node=8)]),
        ("gpu1 max-slots=8", [Host(name="gpu1")]),
        ("gpu1:8", [Host(name="gpu1", nproc_per_node=8)]),
        ("gpu1:8 max_slots=9", [Host(name="gpu1", nproc_per_node=8)]),
        ("me@gpu1 slots=4", [Host(name="gpu1", ssh="me@gpu1", nproc_per_node=4)]),
        ("me@gpu1:4", [Host(name="gpu1", ssh="me@gpu1", nproc_per_node=4)]),
        ("10.0.0.5 slots=1", [Host(name="10.0.0.5", nproc_per_node=1)]),
        (
            "gpu[1-2] slots=8",
            [Host(name="gpu1", nproc_per_node=8), Host(name="gpu2", nproc_per_node=8)],
        ),
        ("gpu[1-2]:8", [Host(name=f"gpu{i}", nproc_per_node=8) for i in (1, 2)]),
        ("010", [Host(name="010")]),
        ("no", [Host(name="no")]),
    ],
)
def test_a_line(line, hosts):
    text = f"# a comment\n\n   # and another\n{line}\n"
    assert list(load_text(text, "hosts").hosts) == hosts


def test_a_hostfile_is_an_inventory_wherever_one_is(tmp_path):
    path = tmp_path / "hostfile"
    path.write_text("worker-1 slots=4\nworker-2 slots=2\n")
    inventory = load(path)
    assert [(h.name, h.nproc_per_node) for h in inventory.hosts] == [
        ("worker-1", 4),
        ("worker-2", 2),
    ]


REFUSED = {
    "twice": (
        "a slots=4\nb\na slots=4\n",
        "hosts:3:1: a stands on line 1 already (one line has all its slots)",
    ),
    "twice through a user": (
        "a\nme@a\n",
        "hosts:2:1: a stands on line 1 already (one line has all its slots)",
    ),
    "twice through ranges": (
        "a[1-3]\na[3-5]\n",
        "hosts:2:1: a3 stands on line 1 already (one line has all its slots)",
    ),
    "twice in one range": (
        "b\na[1,1]\n",
        "hosts:2:1: a1 stands on line 2 already (one line has all its slots)",
    ),
    "a port": (
        "gpu1:2222\n",
        (
            "hosts:1:1: 2222 is not a number from 1 to 1024 "
            "(host:N is a number of workers here; a port is written in an inventory)"
        ),
    ),
    "slots that are none": (
        "gpu1 slots=0\ngpu2 slots=many\ngpu3 slots=\n",
        (
            "hosts:1:6: 0 is not a number from 1 to 1024\n"
            "hosts:2:6: many is not a number from 1 to 1024\n"
            "hosts:3:6: '' is not a number from 1 to 1024"
        ),
    ),
    "slots twice": ("gpu1:8 slots=8\n", "hosts:1:8: slots is given twice"),
    "fewer than slots": (
        "gpu1 slots=8 max_slots=4\n",
        "hosts:1:14: max_slots=4 is less than slots=8",
    ),
    "an option that is not known": (
        "gpu1 slots=8\ngpu2 slot=8\n",
        "hosts:2:6: slot=8 is not known; what may follow a host is slots=N",
    ),
    "a name that is an option": (
        "gpu1\n  -oProxyCommand=x slots=1\n",
        "hosts:2:3: '-oProxyCommand=x' is not a host name (letters, digits, and . _ - inside)",
    ),
    "a range that counts down": (
        "gpu[4-1] slots=8\n",
        "hosts:1:1: gpu[4-1]: 4-1 counts down; write 1-4",
    ),
    "an address with colons": (
        "gpu1 slots=2\n[::1]:8\n",
        "hosts:2:1: ::1 cannot be the name of a host (write {name: ..., ssh: '[::1]'})",
    ),
    "a group, as Ansible has them": (
        "[gpus]\ngpu1\n",
        (
            "hosts:1:1: is neither YAML nor a hostfile: [gpus] is no host; brackets stand around "
            "an address with colons "
            "(an inventory begins with hosts: and a hostfile has lines such as gpu1 slots=8)"
        ),
    ),
    "too many": ("a\nb[1-1024]\n", "hosts:2:1: 1,024 hosts are the most"),
    "YAML that forgot its colon": (
        "hosts\n  - gpu1\n",
        (
            "hosts:2:3: '-' is not a host name (letters, digits, and . _ - inside) "
            "(is this YAML? then it begins with hosts:)"
        ),
    ),
    "something else, once": (
        "import os\nimport sys\n",
        (
            "hosts:1:8: is neither YAML nor a hostfile: os is not known; what may follow a host "
            "is slots=N "
            "(an inventory begins with hosts: and a hostfile has lines such as gpu1 slots=8)"
        ),
    ),
}


@pytest.mark.parametrize(("text", "lines"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(text, lines):
    assert "\n".join(errors(text)) == lines


@pytest.mark.parametrize(
    ("text", "source", "hostfile"),
    [
        ("gpu1\n", "hosts", True),
        ("gpu1\n", "hosts.yaml", False),
        ("gpu1\n", "hosts.YML", False),
        ("gpu1 slots=8\n", "inventory", True),
        ("gpu1: slots=8\n", "inventory", True),
        ("gpu1:8\n", "inventory", True),
        ("# hosts:\ngpu1\n", "inventory", True),
        ("hosts: [a]\n", "inventory", False),
        ("hosts:\n- a\n", "inventory", False),
        ("hosts :\n- a\n", "inventory", False),
        ('"hosts": [a]\n', "inventory", False),
        ("{hosts: [a]}\n", "inventory", False),
        ("---\nhosts: [a]\n", "inventory", False),
        ("%YAML 1.2\n---\n", "inventory", False),
        ("- a\n", "inventory", False),
        ("? a\n", "inventory", False),
        ("", "inventory", False),
        ("# nothing\n", "inventory", False),
    ],
)
def test_told_from_yaml(text, source, hostfile):
    assert is_hostfile(text, source) is hostfile


@pytest.mark.parametrize("source", ["inv.yaml", "inventory"])
def test_broken_yaml_gets_the_error_of_yaml(source):
    (line,) = errors("hosts:\n  - [a\n", source)
    assert line.startswith(f"{source}:3:1: expected ',' or ']', but got '<stream end>',")
