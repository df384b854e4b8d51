"""What the README promises is there: its commands, its help, its inventory, its exit codes.

Its tables of fields and of checks are generated: `python -m tests.test_readme` writes them anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from inventory.fields import field_tables
from inventory.load import load_text
from orchestrator import errors
from orchestrator.checks import catalogue_table, refused

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GENERATED = {"fields": field_tables, "checks": catalogue_table}
"""By the comments around them: <!-- fields: ... --> and <!-- end of fields -->."""


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
    text, levels, ranges = blocks("yaml")
    assert load_text(f"hosts: [a]\n{levels}", "README.yaml", refused=refused).checks
    assert len(load_text(ranges, "README.yaml").hosts) == 11
    inventory = load_text(text, "README.md")
    assert [host.name for host in inventory.hosts] == ["gpu1", "gpu2", "gpu3"]
    assert inventory.hosts[1].destination == ("ubuntu", "203.0.113.8", 2222)


def place(name: str) -> re.Pattern[str]:
    begin, end = rf"<!-- {name}: [^\n]*-->\n\n", rf"\n\n<!-- end of {name} -->"
    return re.compile(f"({begin})(.*)({end})", re.DOTALL)


def generated(name: str) -> str:
    (found,) = place(name).finditer(README)
    return found[2]


def test_the_fields_are_those_of_the_models() -> None:
    assert generated("fields") == field_tables()
    assert ddp_orch("schema", "--fields").stdout == generated("fields") + "\n"


def test_the_checks_are_those_of_the_catalogue() -> None:
    assert generated("checks") == catalogue_table(), "python -m tests.test_readme"


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


if __name__ == "__main__":
    text = README
    for name, generate in GENERATED.items():
        found = place(name).search(text)
        assert found, name
        text = text[: found.start(2)] + generate() + text[found.end(2) :]
    (ROOT / "README.md").write_text(text)
