"""Locales that are not UTF-8, on the hosts and here: bytes arrive as they were given."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts.test_up import DDP_ORCH

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster

# What a person types, and a byte that is no UTF-8.
WORDS = ["gr\u00fc\u00df \u20ac".encode(), b"\xff\xe4"]
VALUE = "s\u00fc\u00df\u2713"
DUMP = 'printf "%s|" "$@" "$VALUE" "$GIVEN" | od -An -tx1 -v | tr -d " \\n"; echo'
WORKER = rb"""
import os, sys
os.write(1, b"|".join(map(os.fsencode, [*sys.argv, os.environ["VALUE"]])) + b"\n")
os.write(2, b"latin \xe4, UTF-8 \xc3\xa4\n")
"""


@pytest.fixture
def latin_1(cluster: Cluster) -> dict[str, str]:
    """A locale where the hosts, too, find it."""
    folder = cluster.folder / "locales"
    folder.mkdir(exist_ok=True)
    localedef = shutil.which("localedef") or pytest.skip("no localedef here")
    made = [localedef, "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")]
    if subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("localedef has no sources here (Debian: locales)")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.ISO-8859-1"}


def of_all_kinds(cluster: Cluster, latin_1: dict[str, str]) -> None:
    odd = " ".join(f"{name}={value}" for name, value in latin_1.items())
    lines = ["export LC_ALL=C", f"export {odd}", "export LC_ALL=xx_YY.UTF-8 PYTHONIOENCODING=ascii"]
    for host, line in zip(cluster.hosts, lines, strict=True):
        host.write(".bashrc", line + "\n")


def ran(cluster: Cluster, words: list, env: dict[str, str]) -> tuple[int, bytes, bytes]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": False}
    with cluster.popen([*DDP_ORCH, *words], env=env, **pipes) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("here", ["C.UTF-8", "C", "ISO-8859-1"])
def test_words_and_values_arrive_byte_by_byte(
    cluster: Cluster, latin_1: dict[str, str], here: str
) -> None:
    of_all_kinds(cluster, latin_1)
    inventory = cluster.inventory(job={"env": {"VALUE": VALUE}})
    given = b"GIVEN=" + WORDS[1]
    argv = ["exec", inventory, "--env", given, "--", "sh", "-c", DUMP, "sh", *WORDS]
    env = latin_1 if here == "ISO-8859-1" else {"LC_ALL": here}
    code, out, err = ran(cluster, argv, env)
    assert (code, err) == (0, b"")
    expected = b"".join(word + b"|" for word in (*WORDS, VALUE.encode(), WORDS[1])).hex()
    assert sorted(out.decode().splitlines()) == [f"n{n}| {expected}" for n in (1, 2, 3)]


@pytest.mark.slow
def test_a_run_on_a_terminal_that_shows_only_ascii(
    cluster: Cluster, latin_1: dict[str, str], tmp_path: Path
) -> None:
    of_all_kinds(cluster, latin_1)
    inventory = cluster.inventory(job={"env": {"VALUE": VALUE}})
    script = os.fsencode(tmp_path) + b"/w\xc3\xa4.py"
    Path(os.fsdecode(script)).write_bytes(WORKER)
    argv = ["up", "-n", "bytes", inventory, "--", script, *WORDS]
    code, out, err = ran(cluster, argv, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert (code, err) == (0, b""), out
    text = out.decode("ascii")
    assert "run bytes: w\\xe4.py on 3 hosts" in text
    assert text.count("latin \\ufffd, UTF-8 \\xe4") == 3
    logs = cluster.home / ".local/state/ddp-orch/runs/bytes/logs"
    for rank, host in enumerate(cluster.hosts):
        name = os.fsencode(host.home / f".ddp-orch/runs/bytes/{rank}/code") + b"/w\xc3\xa4.py"
        words = b"|".join([name, *WORDS, VALUE.encode()])
        assert (logs / f"rank{rank}.out").read_bytes() == words + b"\n"
        assert (logs / f"rank{rank}.err").read_bytes() == b"latin \xe4, UTF-8 \xc3\xa4\n"
