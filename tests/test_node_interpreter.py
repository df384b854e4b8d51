"""What `python:` means on a host, and what it says when that is no Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.facts import Interpreter
from orchestrator.node import interpreter, processes
from tests import site_packages
from tests.test_node_agent import find_python
from tests.test_node_facts import home, until

__all__ = ["home"]

DEADLINE = 30.0
# Found before a test changes HOME, below which they may lie.
PYTHONS = {version: find_python(version) for version in ("3.8", "3.9", "3.13")}


@pytest.fixture
def script(tmp_path):
    def make(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def bare_python(script):
    """A real Python without site-packages, so that only PYTHONPATH has torch."""
    return script(f'exec "{sys.executable}" -S "$@"')


def install_torch(folder, version):
    (folder / "torch").mkdir(parents=True)
    (folder / "torch/__init__.py").write_text("raise SystemExit('imported')\n")
    information = folder / f"torch-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
    )


def test_a_torch_is_known_by_its_metadata_without_being_imported(
    bare_python, tmp_path, monkeypatch
):
    install_torch(tmp_path / "path", "2.9.1+cpu")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    got = interpreter.ask(bare_python, DEADLINE)
    assert got["torch"] == "2.9.1+cpu"
    assert "problem" not in got
    assert got["version"] == sys.version.split()[0]


def test_an_empty_folder_called_torch_is_no_torch(bare_python, tmp_path, monkeypatch):
    (tmp_path / "path/torch").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    got = interpreter.ask(bare_python, DEADLINE)
    assert "torch" not in got


def test_a_torch_that_the_inventory_s_environment_brings(bare_python, tmp_path, monkeypatch):
    """As with `pip install --target`: workers get it before what the host has of its own."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "of the host"))
    install_torch(tmp_path / "of the host", "2.7.0")
    assert interpreter.ask(bare_python, DEADLINE)["torch"] == "2.7.0"
    install_torch(tmp_path / "given", "2.9.0")
    given = {"PYTHONPATH": str(tmp_path / "given")}
    assert interpreter.ask(bare_python, DEADLINE, given)["torch"] == "2.9.0"


def test_a_python_that_starts_with_the_inventory_s_environment_alone(script):
    """As one of `module load`, which needs its libraries to be found."""
    lib = "error while loading shared libraries: libpython3.12.so.1.0: cannot open it"
    start = f'exec "{sys.executable}" "$@"'
    moody = script(
        f'[ "$LD_LIBRARY_PATH" = /opt/lib ] && {start}; echo "python: {lib}" >&2; exit 127'
    )
    assert interpreter.ask(moody, DEADLINE)["problem"] == f"is no Python: python: {lib}"
    assert "version" in interpreter.ask(moody, DEADLINE, {"LD_LIBRARY_PATH": "/opt/lib"})


def test_an_environment_that_has_torch_is_seen_for_a_hint(home):
    site = home / "venvs/train/lib/python3.11/site-packages/torch"
    site.mkdir(parents=True)
    (site / "version.py").touch()
    assert interpreter.seen() == [f"{home}/venvs/train/bin/python"]


def test_files_in_the_home_do_not_pass_for_modules(bare_python, home):
    (home / "json.py").write_text("raise SystemExit('the wrong json')\n")
    install_torch(home, "1.0")
    got = interpreter.ask(bare_python, DEADLINE)
    assert got["version"] == sys.version.split()[0]
    assert "torch" not in got


@pytest.mark.parametrize(
    ("python", "problem"),
    [
        ("/no/such/python", "not found"),
        ("no/such/python", "not found"),
        ("no-such-python", "not found: no program on PATH, and no conda environment"),
    ],
)
def test_a_missing_interpreter(python, problem):
    assert interpreter.ask(python, DEADLINE) == {"problem": problem}


def test_a_directory_and_a_plain_file_are_no_interpreters(tmp_path):
    (tmp_path / "plain").touch(mode=0o644)
    problem = interpreter.ask(str(tmp_path / "plain"), DEADLINE)["problem"]
    assert problem == "not an executable file"
    problem = interpreter.ask(str(tmp_path), DEADLINE)["problem"]
    assert problem == "a folder without bin/python: no virtual or conda environment"


def test_a_tilde_is_the_home(home, bare_python):
    (home / "mine").symlink_to(bare_python)
    assert "version" in interpreter.ask("~/mine", DEADLINE)


@pytest.mark.parametrize("prints", ["echo hello", "echo 42", "echo '[1, 2]'", "true"])
def test_a_program_that_prints_something_else_is_no_python(script, prints):
    assert "is no Python" in interpreter.ask(script(prints), DEADLINE)["problem"]


def test_the_last_line_of_its_stderr_is_told(script):
    got = interpreter.ask(script("echo first >&2; echo wrong libc >&2; exit 1"), DEADLINE)
    assert got["problem"] == "is no Python: wrong libc"


def test_one_that_hangs_is_ended_with_all_that_it_started(script, tmp_path):
    pids = tmp_path / "pids"
    hanging = script(f'sleep 60 & echo $$ $! > "{pids}"; wait')
    assert interpreter.ask(hanging, 2.0)["problem"] == "did not answer in 2 s"
    for pid in map(int, pids.read_text().split()):
        until(lambda pid=pid: (now := processes.find(pid)) is None or now.dead)


# --- environments -------------------------------------------------------------------------------


def activated(python: str) -> dict[str, str] | None:
    got = interpreter.ask(python, DEADLINE)
    assert "problem" not in got, got
    return got["environment"]


@pytest.fixture(scope="module")
def venv(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("venvs") / "train"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def conda_at(prefix: Path, *more: str) -> Path:
    """What tells a conda prefix: conda itself is not on the machines that test this."""
    for name in ("conda-meta", "bin", *more):
        (prefix / name).mkdir(parents=True, exist_ok=True)
    (prefix / "conda-meta/history").touch()
    python = prefix / "bin/python"
    # No link: a conda environment's Python is a program of its own, and so is its prefix.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return prefix


def conda_env(prefix: Path, name: str) -> dict[str, str]:
    return {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": name, "CONDA_SHLVL": "1"}


def test_a_virtual_environment_by_its_folder_and_by_its_interpreter(venv, home):
    (home / "venv").symlink_to(venv)
    for python, folder in [
        (str(venv), venv),
        (f"{venv}/", f"{venv}/"),
        (f"{venv}/bin/python", venv),
        ("~/venv", home / "venv"),
        ("venv/bin/python3", home / "venv"),
    ]:
        got = interpreter.ask(python, DEADLINE)
        assert os.path.normpath(got["environment"]["VIRTUAL_ENV"]) == os.path.normpath(folder)
        assert got["path"].startswith(str(folder))


def test_a_wrapper_leads_into_the_environment_it_starts(venv, script):
    wrapper = script(f'exec "{venv}/bin/python" "$@"')
    got = interpreter.ask(wrapper, DEADLINE)
    assert (got["path"], got["environment"]) == (wrapper, {"VIRTUAL_ENV": str(venv)})


def test_a_python_outside_of_any_environment_has_none(bare_python):
    system = os.path.realpath(sys.executable)
    assert activated(system) is None


def test_another_pythons_home_does_not_keep_an_environment_from_answering(venv, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/no/such/home")
    assert activated(str(venv)) == {"VIRTUAL_ENV": str(venv)}


def test_conda_environments_by_their_name(home, tmp_path, monkeypatch):
    root = conda_at(home / "miniforge3", "condabin")
    train = conda_at(root / "envs/train")
    assert activated("train") == conda_env(train, "train")
    assert activated("base") == conda_env(root, "base")
    assert activated(f"{root}/bin/python") == conda_env(root, "base")
    assert activated(str(train)) == conda_env(train, "train")
    elsewhere = conda_at(tmp_path / "scratch/big")
    monkeypatch.setenv("MAMBA_ROOT_PREFIX", str(tmp_path / "mamba"))
    micro = conda_at(tmp_path / "mamba/envs/micro")
    assert activated("micro") == conda_env(micro, "micro")
    assert "problem" in interpreter.ask("big", DEADLINE)
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"/gone/big\n{elsewhere}\n{train}\n")
    # One outside of envs/ is called by its path, as conda does.
    assert activated("big") == conda_env(elsewhere, str(elsewhere))


def test_an_environment_without_a_python_is_not_taken(home):
    (home / "miniconda3/envs/tools/conda-meta").mkdir(parents=True)
    assert "not found" in interpreter.ask("tools", DEADLINE)["problem"]


def test_a_name_that_is_a_program_and_an_environment(home, script, tmp_path, monkeypatch):
    """What is a Python by its name is the program; any other name the environment first."""
    program = Path(script(f'exec "{sys.executable}" "$@"'))  # it is called python
    other = tmp_path / "train"
    other.symlink_to(program)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert interpreter.locate("train") == (str(other), "")
    for name in ("python", "train"):
        conda_at(home / "miniconda3/envs" / name)
    assert interpreter.locate("python") == (str(program), "")
    assert interpreter.locate("train") == (f"{home}/miniconda3/envs/train/bin/python", "")


# --- torch and what came with it ------------------------------------------------------------------


@pytest.mark.parametrize("version", PYTHONS)
def test_versions_come_from_the_files_of_a_real_environment(version, tmp_path):
    python = PYTHONS[version] or pytest.skip(f"no Python {version} here")
    site = site_packages.environment(tmp_path / "venv", python)
    site_packages.torch(site, "2.9.0", built="2.9.0+cu128", cuda="12.8")
    site_packages.distribution(site, "nvidia_nccl_cu12", "2.27.5")
    site_packages.distribution(site, "nvidia_cublas_cu12", "12.8.4.1")
    got = interpreter.ask(str(tmp_path / "venv"), DEADLINE)
    assert got["version"].startswith(version + ".")
    assert got["torch"] == "2.9.0"
    assert (got["built"], got["cuda"], got["torchrun"]) == ("2.9.0+cu128", "12.8", True)
    assert "hip" not in got
    assert got["nccl"] == {"nvidia_nccl_cu12": "2.27.5"}
    known = Interpreter.parse("v", json.loads(json.dumps(got)))
    assert (known.torch, known.build, known.nccl) == ("2.9.0", "cu128", "2.27.5")
    assert known.torchrun


def test_torch_without_metadata_is_known_by_its_own_file(tmp_path):
    """Such as one built in place, or copied: `import torch` works, and so does the run."""
    site = site_packages.environment(tmp_path / "venv")
    site_packages.torch(site, "2.9.0", built="2.9.0a0+git1234", launcher=False, metadata=False)
    got = interpreter.ask(str(tmp_path / "venv"), DEADLINE)
    assert (got["torch"], got["torchrun"], got["nccl"]) == ("2.9.0a0+git1234", False, {})
    (site / "torch/version.py").unlink()
    got = interpreter.ask(str(tmp_path / "venv"), DEADLINE)
    assert "torch" not in got
    assert "torch" in got["problem"]


def test_an_interpreter_that_is_not_one_gives_no_such_answer(script):
    assert "is no Python" in interpreter.ask(script("echo '{}'"), DEADLINE)["problem"]
