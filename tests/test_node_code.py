"""What is to be run, looked for by its files: scripts, modules, commands and commits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.facts import Code, Commit, Content
from orchestrator.node import code
from tests import site_packages
from tests.test_node_agent import find_python
from tests.test_node_facts import home

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["home"]

DEADLINE = 30.0
# Found before a test changes HOME, below which they may lie.
PYTHONS = {version: find_python(version) for version in ("3.8", "3.13")}


def look(kind: str, target: object, python: object = sys.executable, **more: Any) -> Code:
    more.setdefault("deadline", DEADLINE)
    return Code.parse(code.look(None, kind, str(target), str(python), **more))


# --- scripts --------------------------------------------------------------------------------------


def test_a_script_is_there_and_known_by_its_content(home):
    (home / "train.py").write_bytes(b"print()\n" * 9)
    found = look("script", "~/train.py")
    assert (found.path, found.missing, found.problem) == (f"{home}/train.py", None, None)
    assert found.content == Content(size=72, sha256=hashlib.sha256(b"print()\n" * 9).hexdigest())
    assert (found.script_commit, found.workdir_commit) == (None, None)


def test_of_a_huge_script_the_beginning_is_read(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_bytes(b"x" * 300_000)
    monkeypatch.setattr(code, "MOST", 270_000)
    beginning = hashlib.sha256(b"x" * 270_000).hexdigest()
    assert look("script", script).content == Content(size=300_000, sha256=beginning)


def test_what_is_no_script(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, missing in [
        ("nowhere", "is not there"),
        ("file/below", "is not there"),
        ("folder", "is a folder"),
        ("pipe", "is no file"),
    ]:
        found = look("script", tmp_path / name)
        assert (found.path, found.missing) == (str(tmp_path / name), missing)
        assert found.content is None
    # Python runs such a folder.
    (tmp_path / "folder/__main__.py").touch()
    assert look("script", tmp_path / "folder").missing is None


# --- modules --------------------------------------------------------------------------------------


@pytest.fixture
def workdir(tmp_path):
    """Packages that must not be imported to be looked at."""
    top = tmp_path / "work"
    (top / "pkg/deep").mkdir(parents=True)
    for package in ("pkg", "pkg/deep"):
        (top / package / "__init__.py").write_text("raise SystemExit('imported')\n")
    for name in ("train.py", "deep/worker.py", "deep/__main__.py"):
        (top / "pkg" / name).touch()
    (top / "names/space").mkdir(parents=True)
    (top / "names/space/run.py").touch()
    (top / "alone.py").touch()
    # What the look itself imports must not be taken from here.
    (top / "json.py").write_text("raise SystemExit('the wrong json')\n")
    return top


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("pkg.train", None),
        ("pkg.deep", None),
        ("pkg.deep.worker", None),
        ("names.space.run", None),
        ("alone", None),
        ("pkg", "pkg is a package without __main__.py"),
        ("pkg.other", "there is no module pkg.other"),
        ("pkg.deep.other.more", "there is no module pkg.deep.other"),
        ("names.space", "names.space is a package without __main__.py"),
        ("alone.more", "alone is a module, and no package"),
        ("gone", "there is no module gone"),
        ("gone.train", "there is no module gone"),
    ],
)
def test_a_module_in_the_workdir(workdir, module, missing):
    found = look("module", module, workdir=str(workdir))
    assert (found.missing, found.problem) == (missing, None)
    # What it says is what Python does, where that runs to an end: none of these is imported.
    if "pkg" not in module:
        words = [sys.executable, "-m", module]
        done = subprocess.run(words, cwd=workdir, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is (missing is None), done.stderr


@pytest.mark.parametrize("version", PYTHONS)
def test_a_module_in_an_environment_and_on_the_path(version, tmp_path, workdir, home, monkeypatch):
    python = PYTHONS[version] or pytest.skip(f"no Python {version} here")
    site = site_packages.environment(tmp_path / "venv", python)
    (site / "installed").mkdir()
    (site / "installed/__init__.py").write_text("raise SystemExit('imported')\n")
    (site / "installed/train.py").touch()
    venv = tmp_path / "venv"
    assert look("module", "installed.train", venv).missing is None
    assert look("module", "installed.train", venv, workdir=str(workdir)).missing is None
    # Without a workdir the home is not where workers start.
    (home / "alone.py").touch()
    assert look("module", "alone", venv).missing == "there is no module alone"
    assert look("module", "alone", venv, env={"PYTHONPATH": str(workdir)}).missing is None
    monkeypatch.setenv("PYTHONPATH", str(workdir))
    assert look("module", "alone", venv).missing is None


def test_a_module_that_nobody_can_be_asked_for(tmp_path):
    assert look("module", "pkg", "/no/such/python").problem == "/no/such/python: not found"
    gone = str(tmp_path / "gone")
    assert look("module", "pkg", workdir=gone).problem == f"the workdir {gone} is not there"
    assert look("module", "sys..b").missing == "sys is a module, and no package"


# --- commands -------------------------------------------------------------------------------------


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_command_on_the_workers_path(tmp_path, monkeypatch):
    site_packages.environment(tmp_path / "venv")
    installed = program(tmp_path / "venv/bin/mdl-toolkit")
    hosts_own = program(tmp_path / "own/its-tool")
    users = program(tmp_path / "users/my-tool")
    (tmp_path / "own/no-program").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}/own:/usr/bin:/bin")
    venv = tmp_path / "venv"
    assert look("command", "mdl-toolkit", venv).path == str(installed)
    # A wrapper leads into it: the interpreter knows.
    wrapper = program(tmp_path / "wrapper")
    wrapper.write_text(f'#!/bin/sh\nexec "{venv}/bin/python" "$@"\n')
    assert look("command", "mdl-toolkit", wrapper).path == str(installed)
    assert look("command", "its-tool", venv).path == str(hosts_own)
    path = {"PATH": f"{tmp_path}/users"}
    assert look("command", "my-tool", venv, env=path).path == str(users)
    # The inventory's PATH takes the place of the host's.
    gone = look("command", "its-tool", venv, env=path)
    assert gone.missing == f"is not on PATH, {venv}/bin:{tmp_path}/users"
    assert look("command", "no-program", venv).missing.startswith("is not on PATH")


def test_a_command_by_its_path(tmp_path):
    tool = program(tmp_path / "work/bin/tool")
    assert look("command", tool).missing is None
    assert look("command", tmp_path / "gone").missing == "is not there"
    assert look("command", tmp_path).missing == "is a folder"
    (tmp_path / "work/plain").touch(mode=0o644)
    plain = look("command", tmp_path / "work/plain")
    assert plain.missing == "may not be executed by this user"
    assert look("command", "bin/tool", workdir=str(tmp_path / "work")).path == str(tool)
    assert look("command", "./gone", workdir=str(tmp_path / "work")).missing == "is not there"
    assert look("command", "bin/tool").missing == "is not in the run's folder"


# --- commits --------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    top = tmp_path / "repository"
    (top / "src").mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    (top / "src/train.py").touch()
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "first")
    return top


def test_the_commit_is_what_git_says_however_it_keeps_it(repository, tmp_path):
    def told(folder: Path = repository) -> str:
        found = Commit.parse(code.commit_of(str(folder)), "commit")
        assert isinstance(found, Commit)
        assert found.commit == git(folder, "rev-parse", "HEAD")
        assert found.top == git(folder, "rev-parse", "--show-toplevel")
        return found.commit

    first = told()
    git(repository, "commit", "-q", "--allow-empty", "-m", "aside")
    git(repository, "branch", "aside")
    git(repository, "reset", "-q", "--hard", first)
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git/refs/heads/main").exists()
    assert told(repository / "src") == first
    git(repository, "commit", "-q", "--allow-empty", "-m", "second")
    second = told()
    assert second != first
    git(repository, "checkout", "-q", "--detach", first)
    assert told() == first
    git(repository, "checkout", "-q", "-b", "a/branch", second)
    assert told() == second
    git(repository, "worktree", "add", "-q", str(tmp_path / "other"), "main")
    assert (tmp_path / "other/.git").is_file()
    assert told(tmp_path / "other") == second
    git(repository, "pack-refs", "--all")
    assert told(tmp_path / "other") == second


def test_no_repository_and_none_with_a_commit(tmp_path):
    assert code.commit_of(str(tmp_path)) is None
    git(tmp_path, "init", "-q", "-b", "main")
    assert code.commit_of(str(tmp_path)) == {"top": str(tmp_path), "commit": None}


def test_a_script_and_the_repository_around_it(repository, home):
    (home / "work").mkdir()
    found = look("script", repository / "src/train.py", workdir="work")
    commit = git(repository, "rev-parse", "HEAD")
    assert found.script_commit == Commit(top=str(repository), commit=commit)
    assert found.workdir_commit is None
    found = look("module", "train", workdir=str(repository / "src"))
    assert (found.missing, found.script_commit) == (None, None)
    assert found.workdir_commit == Commit(top=str(repository), commit=commit)


# --- what hangs -----------------------------------------------------------------------------------


def test_what_hangs_costs_nothing_else(repository):
    """A pipe that nobody writes to, as a file server that has gone."""
    (repository / ".git/HEAD").unlink()
    os.mkfifo(repository / ".git/HEAD")
    (repository / "src/train.py").write_text("x")
    try:
        found = look("script", repository / "src/train.py", deadline=0.5)
    finally:
        # Whoever still waits for it goes on.
        os.close(os.open(repository / ".git/HEAD", os.O_RDWR))
    assert found.script_commit == "no answer in 2.5 s"
    assert found.missing is None
    assert found.content == Content(size=1, sha256=hashlib.sha256(b"x").hexdigest())
