"""What the README promises is there: its commands, its help, its inventory, its exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from inventory.fields import field_tables
from inventory.load import load_text
from orchestrator import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def ddp_orch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words], capture_output=True, text=True, check=False
    )


def test_the_help_is_the_programs_own() -> None:
    (shown,) = [block for block in blocks("text") if block.startswith("Usage:")]
    assert shown == ddp_orch("--help").stdout


def test_the_inventory_is_one() -> None:
    text, ranges = blocks("yaml")
    assert len(load_text(ranges, "README.yaml").hosts) == 11
    inventory = load_text(text, "README.md")
    assert [host.name for host in inventory.hosts] == ["gpu1", "gpu2", "gpu3"]
    assert inventory.hosts[1].destination == ("ubuntu", "203.0.113.8", 2222)


def test_the_fields_are_those_of_the_models() -> None:
    _, after = README.split("by a test -->\n\n")
    shown, _ = after.split("\n\n<!-- end of fields -->")
    assert shown == field_tables()
    assert ddp_orch("schema", "--fields").stdout == shown + "\n"


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"ddp-orch ([a-z]+)\b", README))))
def test_every_verb_exists(verb: str) -> None:
    assert ddp_orch(verb, "--help").returncode == 0


def test_the_exit_codes_are_those_of_the_program() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    there = {cls.exit_code for cls in vars(errors).values() if hasattr(cls, "exit_code")}
    more = {errors.OK, errors.INTERRUPTED, errors.STILL_RUNNING, errors.CANCELLED}
    assert listed == there | more


def test_its_files_and_targets_exist() -> None:
    for path in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / path).exists(), path
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
