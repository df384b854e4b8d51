"""The JSON Schema for editors: it takes what the loader takes, and refuses what it can tell."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from inventory.fields import field_tables
from inventory.load import InventoryError, load_text
from inventory.model import Host, Inventory, Job, Rendezvous, Sync
from inventory.schema import schema, schema_text

EXAMPLES = Path(__file__).parent.parent / "inventory" / "examples"


class Editor(yaml.SafeLoader):
    """Reads as editors do, by the core schema of YAML 1.2: no dates, no octal 010, no base 60."""


Editor.yaml_implicit_resolvers = {}
for kind, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    Editor.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"({pattern})$"), first)


def complaints(text: str) -> list[str]:
    validator = jsonschema.Draft7Validator(schema())
    return [error.message for error in validator.iter_errors(yaml.load(text, Editor))]  # noqa: S506


def test_it_is_a_schema():
    jsonschema.Draft7Validator.check_schema(schema())
    assert "$ref" not in schema_text()  # in draft 7 a description beside one would not count


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples(path):
    assert complaints(path.read_text()) == []


GOOD = [
    "hosts: [a]",
    "hosts: [1, 010, 1.10, no, me@b:22, {name: d, ssh: '[::1]:22'}, 'gpu[1-4]', 22:22, 2024-01-01]",
    "hosts:\n- name: gpu[1-4]\n  ssh: u@10.0.0.[1-4]:2222\n  addr: fe80::[1-4]\n",
    "hosts: [{name: 1, user: 7, port: 22, addr: 10.0.0.1, ssh: b}]",
    "hosts: [{name: a, gpus: [0, 7], nproc_per_node: 2, env: {A: 1, B: x, C: 1.5}}]",
    "hosts: [{name: a, nproc_per_node: auto, setup: module load, state_dir: /x}]",
    "hosts: [{name: a, setup: [a, b], python: env, workdir: ~/x, identity_file: $HOME/x}]",
    "hosts: [a]\ndefaults:\njob:\n  args:\n  env:\n  torchrun_args:\nrendezvous:\n",
    "hosts: [a]\ndefaults: {user: u, port: 1, env: {A: b}, gpus: [0], setup: x}",
    "hosts: [a]\nsame_machine: true\nrendezvous: {backend: c10d, port: auto, timeout: 10m}",
    "hosts: [a]\nrendezvous: {port: 29500, timeout: 30}",
    "hosts: [a]\nrendezvous: {timeout: 1.5h}",
    "hosts: [a]\njob: {lost_after: 2m}",
    "hosts: ['a[1-4]']\njob: {nnodes: 2:4}",
    "hosts: [a]\njob: {nnodes: 1, script: x.py, args: [1, -x, 2.5], max_restarts: 2}",
    "hosts: [a]\njob: {command: [x, 1], launcher: plain, secrets: [A], sync: {}}",
    "hosts: [a]\njob: {module: x, sync: {from: ., exclude: [a]}, torchrun_args: [--tee, 3]}",
]


@pytest.mark.parametrize("text", GOOD)
def test_both_take(text):
    load_text(text, "x.yaml")
    assert complaints(text) == []


BAD = [
    "hosts: []",
    "hosts:",
    "hosts: a",
    "{}",
    "- a",
    "hosts: [a]\nslurm: x",
    "hosts: [[a]]",
    "hosts: [-x]",
    "hosts: ['a b']",
    "hosts: [null]",
    "hosts: [{ssh: a}]",
    "hosts: [{name: a, colour: red}]",
    "hosts: [{name: -a}]",
    "hosts: [{name: a/b}]",
    "hosts: [{name: 'a[1'}, {name: a, port: 0}]",
    "hosts: [{name: a, addr: -b}]",
    "hosts: [{name: a, user: '-b'}]",
    "hosts: [{name: a, user: null}]",
    "hosts: [{name: a, port: 65536}]",
    'hosts: [{name: a, port: "22"}]',
    "hosts: [{name: a, port: 22.5}]",
    "hosts: [{name: a, nproc_per_node: 0}]",
    "hosts: [{name: a, nproc_per_node: tpu}]",
    "hosts: [{name: a, gpus: 0}]",
    "hosts: [{name: a, gpus: []}]",
    "hosts: [{name: a, gpus: ['0']}]",
    "hosts: [{name: a, python: ''}]",
    "hosts: [{name: a, setup: {a: b}}]",
    "hosts: [{name: a, env: [A]}]",
    "hosts: [{name: a, env: {1A: b}}]",
    "hosts: [{name: a, env: {A: true}}]",
    "hosts: [{name: a, env: {A: }}]",
    "hosts: [a]\ndefaults: {name: a}",
    "hosts: [a]\ndefaults: {addr: a}",
    "hosts: [a]\ndefaults: [user]",
    "hosts: [a]\nsame_machine: 1",
    "hosts: [a]\nsame_machine: yes",
    "hosts: [a]\nrendezvous: {backend: etcd}",
    "hosts: [a]\nrendezvous: {port: any}",
    "hosts: [a]\nrendezvous: {timeout: 10 days}",
    "hosts: [a]\nrendezvous: {timeout: 0}",
    "hosts: [a]\njob: {args: --epochs 3}",
    "hosts: [a]\njob: {args: [true]}",
    "hosts: [a]\njob: {command: []}",
    "hosts: [a]\njob: {command: a b}",
    "hosts: [a]\njob: {launcher: mpirun}",
    "hosts: [a]\njob: {nnodes: 0}",
    "hosts: [a]\njob: {nnodes: 1.5}",
    "hosts: [a]\njob: {nnodes: x}",
    "hosts: [a]\njob: {max_restarts: -1}",
    "hosts: [a]\njob: {sync: }",
    "hosts: [a]\njob: {sync: .}",
    "hosts: [a]\njob: {sync: {form: .}}",
    "hosts: [a]\njob: {secrets: A}",
    "hosts: [a]\njob: {secrets: [A=b]}",
    "hosts: [a]\njob: {jbo: x}",
]


@pytest.mark.parametrize("text", BAD)
def test_both_refuse(text):
    with pytest.raises(InventoryError):
        load_text(text, "x.yaml")
    assert complaints(text)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Inventory, schema()),
        (Host, schema()["properties"]["hosts"]["items"]["anyOf"][1]),
        (Rendezvous, schema()["properties"]["rendezvous"]),
        (Job, schema()["properties"]["job"]),
        (Sync, schema()["properties"]["job"]["properties"]["sync"]),
    ],
)
def test_every_field_is_there_with_what_its_model_says_and_in_the_tables(model, found):
    tables = field_tables()
    for name, field in model.model_fields.items():
        described = found["properties"][field.alias or name]["description"]
        assert described == " ".join(field.description.split())
        assert f"| `{field.alias or name}` |" in tables
    assert found["additionalProperties"] is False


ROWS = r"""
| `hosts` | a list | required | The hosts, in rank order; the first is the head. |
| `ssh_config` | text | `~/.ssh/config` | The ssh configuration to read; `none` reads none. A file \
on this machine, relative to the inventory's folder; `~` and `$VAR` are filled in. |
| `port` | a number from 1 to 65535 or `auto` | `auto` | The port on the first host. auto: one \
that preflight finds free there. |
| `addr` | a host name or address | found out by preflight | Where the other hosts reach it. |
| `same_machine` | `true`, `false` | `false` | Several hosts may be one machine (labs). |
"""


def test_rows_of_the_tables():
    rows = field_tables().splitlines()
    assert set(ROWS.replace("\\\n", "").strip().splitlines()) <= set(rows)
    assert all(row.count(" | ") == 3 for row in rows if row.startswith("| `"))
