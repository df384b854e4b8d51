"""What is to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inventory.model import Host, Inventory, Job
from orchestrator.errors import UsageError
from orchestrator.plan import Program
from orchestrator.program import bundled_trainer, new_name, program_for


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "folder").mkdir()
    return tmp_path


def found(*argv: str, m: str | None = None, no_python: bool = False, **job) -> Program:
    inventory = Inventory(hosts=(Host(name="a"),), job=Job(**job))
    return program_for(inventory, argv, m, no_python=no_python)


SHIPPED = Program(target="train.py", args=("--x", "1"), ships=("train.py",))


@pytest.mark.parametrize(
    ("argv", "module", "job", "expected"),
    [
        (("train.py", "--x", "1"), None, {}, SHIPPED),
        ((), None, {"script": "train.py", "args": ("--x", "1")}, SHIPPED),
        # The command line's word, arguments and all.
        (("train.py", "--x", "1"), None, {"module": "m", "args": ("--y",)}, SHIPPED),
        (
            ("a",),
            "pkg.m",
            {"script": "train.py"},
            Program(target="pkg.m", args=("a",), module=True),
        ),
        ((), None, {"module": "m", "args": ("b",)}, Program(target="m", args=("b",), module=True)),
        (("/on/the/hosts.py",), None, {}, Program(target="/on/the/hosts.py")),
        # Options alone are for the program that the inventory names.
        (("--x", "1"), None, {"script": "train.py", "args": ("--y",)}, SHIPPED),
        (("--x",), None, {"module": "m"}, Program(target="m", args=("--x",), module=True)),
        (
            ("--x",),
            None,
            {"command": ("p", "a"), "args": ("b",)},
            Program(target="p", args=("a", "--x"), python=False),
        ),
    ],
)
def test_what_is_run(argv, module, job, expected):
    assert found(*argv, m=module, **job) == expected


@pytest.mark.parametrize(
    ("argv", "no_python", "job", "expected"),
    [
        (("prog", "-x"), True, {}, Program(target="prog", args=("-x",), python=False)),
        # Not sent along, even where one of that name is here.
        (("train.py",), True, {}, Program(target="train.py", python=False)),
        ((), False, {"command": ("p", "a")}, Program(target="p", args=("a",), python=False)),
        (
            (),
            True,
            {"command": ("p", "a"), "args": ("b",)},
            Program(target="p", args=("a", "b"), python=False),
        ),
        (("train.py", "--x", "1"), False, {"command": ("p",)}, SHIPPED),
        (("q",), True, {"command": ("p", "a")}, Program(target="q", python=False)),
    ],
)
def test_a_program_that_is_no_script(argv, no_python, job, expected):
    assert found(*argv, no_python=no_python, **job) == expected


@pytest.mark.parametrize(
    ("argv", "m", "job", "message"),
    [
        ((), None, {}, "no command"),
        ((), None, {"script": "train.py"}, "no command"),
        (("x",), "pkg.m", {}, "--no-python and -m: a module is run by Python"),
        (("-x",), None, {}, "'-x' is not a program"),
        ((), None, {"command": ("",)}, "'' is not a program"),
    ],
)
def test_no_program(argv, m, job, message):
    with pytest.raises(UsageError) as caught:
        found(*argv, m=m, no_python=True, **job)
    assert caught.value.message == message


def test_a_script_elsewhere_here_keeps_its_name_alone(here):
    (here / "folder" / "go.py").write_text("")
    path = str(here / "folder" / "go.py")
    assert found(path) == Program(target="go.py", ships=(path,))
    assert found("folder/go.py").target == "go.py"


def test_without_a_word_the_bundled_trainer():
    program = found(args=("--epochs", "3"))
    assert program == bundled_trainer(("--epochs", "3"))
    assert program == found("--epochs", "3")
    assert program.target == "train.py"
    assert Path(program.ships[0]).name == "train.py"
    assert all(Path(file).is_file() for file in program.ships)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.py", "no such script here: absent.py"),
        ("folder", "folder is a folder, not a script"),
        ("~no-such-user-here/x.py", "no such script here"),
        ("x" * 5000, "no such script here"),
        ("train.py/x", "no such script here"),
        ("-m", "-m follows --; it is an option of ours"),
        ("", "is a folder"),
    ],
)
def test_no_script(path, message):
    with pytest.raises(UsageError, match=message) as caught:
        found(path)
    assert len(caught.value.message) < 300


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_script_that_may_not_be_read(here):
    (here / "train.py").chmod(0)
    with pytest.raises(UsageError, match="may not be read"):
        found("train.py")


LATIN_1 = """
import sys
from pathlib import Path
from orchestrator.program import files_to_ship, from_locale, program_for
from inventory.model import Host, Inventory
inventory = Inventory(hosts=(Host(name="a"),))
words = [from_locale(word) for word in sys.argv[1:]]
program = program_for(inventory, words, None)
print(sys.getfilesystemencoding())
print(ascii([program.target, *program.args, *files_to_ship(program)]))
"""


def latin_1(tmp_path):
    """A locale that is not UTF-8, made here: hardly a machine has one."""
    localedef = shutil.which("localedef")
    made = localedef and subprocess.run(
        [localedef, "-i", "de_DE", "-f", "ISO-8859-1", tmp_path / "de_DE.ISO-8859-1"], check=False
    )
    if not made or made.returncode:
        pytest.skip("no localedef here, or not what it needs (Debian: locales)")
    return {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.ISO-8859-1"}


@pytest.mark.parametrize("where", ["UTF-8", "C", "ISO-8859-1"])
def test_words_go_to_hosts_byte_by_byte_whatever_the_locale(where, tmp_path):
    env = {"UTF-8": {"LC_ALL": "C.UTF-8"}, "C": {"LC_ALL": "C"}}.get(where) or latin_1(tmp_path)
    script = os.fsencode(tmp_path) + b"/w\xc3\xa4.py"
    Path(os.fsdecode(script)).touch()
    run = subprocess.run(
        [sys.executable, "-c", LATIN_1, script, b"\xc3\xbc", b"\xff\xe4"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    encoding, words = run.stdout.splitlines()
    assert (encoding == "iso8859-1") == (where == "ISO-8859-1")
    assert words == ascii(["w\u00e4.py", "\u00fc", "\udcff\udce4", "w\u00e4.py"])


def test_names():
    assert new_name(lambda _: False, "mine", lambda _: False) == "mine"
    first = new_name(lambda _: False, None, lambda _: False)
    assert new_name(lambda name: name == first, None, lambda _: False) != first


@pytest.mark.parametrize(
    ("ended", "hint"),
    [
        (False, "choose another --name"),
        (True, "to forget it, logs and all: ddp-orch prune mine; or choose another --name"),
    ],
)
def test_a_name_that_is_taken(ended, hint):
    with pytest.raises(UsageError, match="there is a run called mine already") as refused:
        new_name(lambda _: True, "mine", lambda name: ended and name == "mine")
    assert refused.value.hint == hint
