"""Whatever stands in a file or on the command line: an inventory, or errors, each one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inventory.kinds import MOST_HOSTS
from inventory.load import InventoryError, from_names, load_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from inventory.model import Inventory

EXAMPLES = sorted((Path(__file__).parent.parent / "inventory" / "examples").iterdir())

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SAFE_ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
SAFE_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*")

WORDS = st.sampled_from(
    "a gpu1 no 010 22:22 ~ -x $(id) gpu[1-2] gpu[01-3,7] a[1-2]b[1-2] gpu[9-1] a[1-9999] me@b:22 "
    "me@b[1-3]:22 ::1 [::1] [a] hosts defaults job name ssh addr port env args user timeout [key] "
    "identity_file $HOME/x $NOT_SET ${HOME} sync from exclude nnodes 2:4 gpus setup secrets true "
    "launcher plain command torchrun_args --tee --nnodes nproc_per_node rendezvous 1 0 1e3".split()
)
DATA = st.recursive(
    WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
SIGNS = st.text(alphabet="ab:-?[]{}#&*!|>'\"%@`\\ \n\t,~01.<=xU_$;", max_size=40)


def as_yaml(data: object) -> str:
    if isinstance(data, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(value)}" for key, value in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(as_yaml(value) for value in data) + "]"
    text = str(data)
    return f"'{text}'" if "[" in text and "'" not in text else text


def assert_loads_or_says_why(read: Callable[[str], Inventory], text: str, lines: int) -> None:
    hosts, problems = (), ()
    try:
        hosts = read(text).hosts
    except InventoryError as error:
        problems = error.problems
    assert bool(hosts) != bool(problems)
    for problem in problems:
        assert len(str(problem).splitlines()) == 1
        if lines and problem.message != "is empty":
            assert problem.line is not None
            assert 1 <= problem.line <= lines
    assert len(hosts) <= MOST_HOSTS
    assert len({each.name for each in hosts}) == len(hosts)
    for each in hosts:
        user, address, port = each.destination
        assert SAFE_NAME.fullmatch(each.name)
        assert SAFE_ADDRESS.fullmatch(address)
        assert user is None or SAFE_USER.fullmatch(user)
        assert port is None or 1 <= port <= 65535
        assert each.addr is None or SAFE_ADDRESS.fullmatch(each.addr)


def check_file(text: str, sources: tuple[str, ...] = ("x.yaml", "x")) -> None:
    for source in sources:  # as YAML; and as what it looks like
        # YAML counts more signs as ends of lines than \n.
        lines = len(re.split("\r\n|[\r\n\x85\u2028\u2029]", text))
        assert_loads_or_says_why(lambda written: load_text(written, source), text, lines)  # noqa: B023


@given(st.text())
@example("\ufeff")
@example("hosts: [a]\n...\n- b")
def test_any_text(text):
    check_file(text)


@given(SIGNS)
def test_any_signs_within_hosts(text):
    check_file(f"hosts:\n- {text}\n")


@given(st.lists(WORDS | DATA, min_size=1, max_size=4), DATA, DATA)
def test_any_tree(hosts, defaults, job):
    check_file(as_yaml({"hosts": hosts, "defaults": defaults, "job": job}))


@settings(max_examples=300)
@given(st.sampled_from(EXAMPLES), st.data())
def test_examples_with_a_mistake(path, data):
    text = path.read_text()
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 12))
    check_file(text[:start] + data.draw(SIGNS | WORDS) + text[start + length :])


HOSTFILE = st.lists(
    st.lists(
        WORDS | st.sampled_from("slots=8 slots = max_slots=4 gpu1:8 # gpu[1-4]:2 -".split()),
        max_size=4,
    ).map(" ".join)
    | SIGNS,
    max_size=5,
).map("\n".join)


@given(HOSTFILE)
def test_any_hostfile(text):
    check_file(text)


@given(st.text(max_size=20) | st.lists(WORDS, max_size=5).map(",".join) | SIGNS)
def test_any_names(names):
    assert_loads_or_says_why(from_names, names, 0)


def test_the_strategies_reach_both_ends():
    assert len(load_text(as_yaml({"hosts": ["a", {"name": "gpu[1-2]"}]}), "x.yaml").hosts) == 3
    with pytest.raises(InventoryError):
        load_text(as_yaml({"hosts": ["$(id)"]}), "x.yaml")


FULL = {
    "arguments": "hosts: [a]\njob: {args: [" + "a," * 524_000 + "]}",
    "hosts": "hosts: [" + "a," * 524_000 + "]",
    "ranges": "hosts:\n" + "- a[1-1024]\n" * 24_000,
    "one long range": "hosts: ['" + "a[1-9]" * 170_000 + "']",
    "a range with an environment": "hosts:\n- name: a[1-1024]\n  env: {"
    + ", ".join(f"A{i}: x" for i in range(24_000))
    + "}",
    "a range with a setup": "hosts: ['a[1-1024]']\ndefaults: {setup: [" + "x," * 49_000 + "]}",
    "fields that are not known": "hosts: [a]\n" + "".join(f"x{i}: 1\n" for i in range(24_000)),
    "options of torchrun": "hosts: [a]\njob: {torchrun_args: [" + "--n," * 49_000 + "]}",
    "variables": "hosts: [a]\ndefaults: {identity_file: '" + "$A" * 500_000 + "'}",
    "brackets": "[" * 1_000_000,
    "questions": "? " * 500_000,
    "lines of a hostfile": "\n".join(f"a{i} slots=0" for i in range(70_000)),
    "names in a hostfile": "a\n" * 500_000,
}


@pytest.mark.slow
@pytest.mark.timeout(120)  # what is quadratic takes an hour
@pytest.mark.parametrize("text", FULL.values(), ids=FULL.keys())
def test_a_full_file_takes_seconds(text):
    assert len(text) <= 1 << 20
    check_file(text, ("x",))
