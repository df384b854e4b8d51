"""`checks:`, read as it is written, and held to the checks that there are where they are known."""

from __future__ import annotations

import pytest

from inventory.load import InventoryError, load_text
from inventory.schema import schema
from orchestrator.checks import refused


def checks(text: str, **known) -> dict[str, str]:
    return load_text(f"hosts: [a]\nchecks: {text}\n", "x.yaml", **known).checks


def problem(text: str, **known) -> str:
    with pytest.raises(InventoryError) as caught:
        checks(text, **known)
    assert len(caught.value.problems) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("{net.ping: off, host.clock: warn}", {"net.ping": "off", "host.clock": "warn"}),
        ("{net: info, env.torch: fail}", {"net": "info", "env.torch": "fail"}),
        ("{net.ping: 'off'}", {"net.ping": "off"}),
        ("", {}),
        ("{}", {}),
    ],
)
def test_levels_are_words(text, read):
    """A bare `off` is false to YAML 1.1; here it is what it says."""
    assert checks(text) == read


WANTED = "checks.net.ping: must be 'off', 'info', 'warn' or 'fail', found"
NO_MAPPING = "checks: must be a mapping, found a list (net.ping: off, on a line each)"
NO_WORD = "checks.net: must be a single word, found a mapping (write net.NAME: off)"
NO_ID = "'NET' is not the id of a check, such as net.ping, nor a group of them, such as net"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{net.ping: no}", f"2:20: {WANTED} no, which YAML 1.1 reads as false"),
        ("{net.ping: Off}", f"2:20: {WANTED} Off, which YAML 1.1 reads as false"),
        ("{net.ping: loud}", f"2:20: {WANTED} loud"),
        ("{net.ping: 1}", f"2:20: {WANTED} 1"),
        ("{net.ping: }", "2:19: checks.net.ping: has no value (give one, or leave it out)"),
        ("{net: {ping: off}}", f"2:15: {NO_WORD}"),
        ("[net.ping]", f"2:9: {NO_MAPPING}"),
        ("{NET: off}", f"2:10: checks.NET: {NO_ID}"),
    ],
)
def test_what_is_no_level_or_no_id(text, told):
    assert problem(text) == f"x.yaml:{told}"
    assert problem(text, refused=refused) == f"x.yaml:{told}"


def test_ids_are_judged_by_who_knows_them():
    unheard = "{net.pnig: off}"
    assert checks(unheard) == {"net.pnig": "off"}
    said = "x.yaml:2:10: checks.net.pnig: there is no such check (did you mean net.ping?)"
    assert problem(unheard, refused=refused) == said
    assert checks("{net.ping: off, ssh.noise: off}", refused=refused)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InventoryError) as caught:
        checks("{x.y: off, ssh.auth: info, net.ping: loud}\nsame_machine: 1", refused=refused)
    assert [p.field for p in caught.value.problems] == [
        "checks.x.y", "checks.ssh.auth", "checks.net.ping", "same_machine"
    ]  # fmt: skip


def test_the_schema_has_the_levels():
    field = schema()["properties"]["checks"]
    assert field["additionalProperties"]["enum"] == ["off", "info", "warn", "fail"]
