"""The command as people run it, in a process of its own: exit codes, a line per error, no host."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__, errors

ROOT = Path(__file__).parent.parent


class Ran:
    def __init__(self, run: subprocess.CompletedProcess[bytes]) -> None:
        self.code = run.returncode
        self.out = run.stdout.decode()
        self.err = run.stderr.decode()


@pytest.fixture
def ddp(tmp_path):
    """A function that runs ddp-orch in an empty folder, with a home and a PATH of its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "inv.yaml").write_text("hosts: [gpu1, gpu2]\n")
    (tmp_path / "train.py").write_text("")

    def ran(*words: str | bytes, **env: str) -> Ran:
        base = {
            "HOME": str(tmp_path),
            "PATH": str(tmp_path / "bin"),  # no ssh: nothing may be reached from here
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DDP_ORCH_STATE_DIR": str(tmp_path / "state"),
        }
        command = [sys.executable, "-m", "orchestrator", *words]
        return Ran(
            subprocess.run(
                command, capture_output=True, env=base | env, cwd=tmp_path, stdin=subprocess.DEVNULL
            )
        )

    return ran


def two_lines(ran: Ran) -> tuple[str, str]:
    """An error: what and where, then what to do; nothing else, and never a traceback."""
    assert ran.out == ""
    what, hint = ran.err.splitlines()
    assert hint.startswith("  -> ")
    return what, hint


# --- usage --------------------------------------------------------------------------------------


def test_version(ddp):
    ran = ddp("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"ddp-orch {__version__}\n", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["up", "--help"], ["exec", "-h"]])
def test_help(ddp, words):
    ran = ddp(*words)
    assert ran.code == 0
    assert "Usage: ddp-orch" in ran.out
    assert ran.err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["up", "--fly"],
        ["plan", "inv.yaml", "two.yaml"],
        ["up", "inv.yaml", "--max-restarts", "-1"],
        ["up", "inv.yaml", "--max-restarts", "many"],
    ],
)
def test_wrong_usage(ddp, words):
    ran = ddp(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert "Error" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["up"], "no inventory"),
        (["check"], "no inventory"),
        (["down", "--strays"], "--strays is for the hosts of an inventory"),
        (["down", "--strays", "inv.yaml", "-H", "gpu1"], "an inventory and -H as well"),
        (["plan", "inv.yaml", "-H", "gpu1"], "an inventory and -H as well"),
        (["plan", "inv.yaml", "--env", "NOT_SET_HERE"], "--env NOT_SET_HERE: this machine has no"),
        (["up", "inv.yaml", "--skip-check", "net.x"], "--skip-check net.x: there is no such"),
        (["up", "inv.yaml", "--dry-run", "--skip-check", "net.x"], "--skip-check net.x: there"),
        (["check", "inv.yaml", "--skip-check", "net.x"], "--skip-check net.x: there is no such"),
        (["check", "inv.yaml", "--skip-check", "ssh.auth"], "--skip-check ssh.auth: without a"),
        (["check", "inv.yaml", "--skip-check", "ssh"], "--skip-check ssh: without a connection"),
        (["check", "inv.yaml", "--skip-check", "all"], "--skip-check all: there is no such check"),
        (["check", "inv.yaml", "--only", "net,disc"], "--only disc: there is no such check"),
        (["check", "inv.yaml", "--only", ""], "--only : there is no such check"),
        (["check", "--explain", "net.pings"], "--explain net.pings: there is no such check"),
        (["up", "inv.yaml", "train.py", "--lr", "1"], "train.py stands before --"),
        (["plan", "inv.yaml", "a/b.py"], "a/b.py stands before --"),
        (["up", "inv.yaml", "-n", "../x"], "'../x' is not a run's name"),
        (["up", "inv.yaml", "-n", "Brave"], "'Brave' is not a run's name"),
        (["up", "inv.yaml", "--", "absent.py"], "no such script here: absent.py"),
        (["plan", "inv.yaml", "--", "."], ". is a folder, not a script"),
        (["plan", "inv.yaml", "--env-file", "bad.env"], "bad.env:2: A: the value begins with"),
        (["up", "inv.yaml", "--secret", "NOT_SET"], "the secret NOT_SET is not set in this"),
        (["exec", "inv.yaml", "--secret", "NOT_SET", "--", "x"], "the secret NOT_SET is not set"),
        (["up", "inv.yaml", "--no-python"], "no command"),
        (["attach", "inv.yaml"], "inv.yaml is an inventory, and here a run's name is wanted"),
        (["logs", "-f", "inv.yaml"], "inv.yaml is an inventory, and here a run's name is wanted"),
        (["logs", "hosts"], "hosts is an inventory, and here a run's name is wanted"),
        (["attach", "a.yml", "-H", "gpu1"], "a.yml is an inventory, and here a run's name is"),
        (["prune", "--here"], "--here is for runs that are named"),
        (["exec", "inv.yaml"], "no command"),
        (["exec", "inv.yaml", "--"], "no command"),
    ],
)
def test_errors_are_a_line_and_a_hint(ddp, words, what, tmp_path):
    (tmp_path / "bad.env").write_text("# mine\nA='x'\n")
    (tmp_path / "hosts").write_text("gpu1 slots=2\n")
    ran = ddp(*words)
    assert two_lines(ran)[0].startswith(f"ddp-orch: {what}")
    assert ran.code == 2
    assert not (tmp_path / "state").exists()  # no record of what never began


@pytest.mark.parametrize("verb", ["attach", "logs"])
def test_who_gives_an_inventory_for_a_run_is_told_how_to_type_it(ddp, tmp_path, verb):
    (tmp_path / "my hosts.yaml").write_text("hosts: [{name: gpu1, ssh: 'x@127.0.0.1:1'}]\n")
    _, hint = two_lines(ddp(verb, "my hosts.yaml"))
    typed = hint.partition("ddp-orch ")[2]
    assert typed == f"{verb} -i 'my hosts.yaml'"
    ran = ddp(*shlex.split(typed))
    assert (ran.code, ran.err.startswith("ddp-orch: gpu1: ")) == (4, True), ran.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["plan", "inv.yaml", "--env", "1A=x"], "--env '1A=x' is not K or K=V"),
        (["plan", "inv.yaml", "--env", "=x"], "--env '=x' is not K or K=V"),
        (["plan", "inv.yaml", "--env-file", "absent"], "--env-file absent: No such file"),
        (["up", "inv.yaml", "-o", "xml"], "-o xml: there is table and json"),
        (["check", "inv.yaml", "--", "x"], "nothing is run here, but 'x' follows --"),
        (["ps", "--", "x"], "nothing is run here, but 'x' follows --"),
        (["ps", "-o", "xml"], "-o xml: there is table and json"),
        (["ps", "--include", "gpu1"], "--include and --exclude choose hosts of -i INVENTORY"),
        (["ps", "-i", "absent.yaml"], "absent.yaml: no such file ("),
        (["prune", "--older", "1w"], "--older: '1w' is not a duration such as 30s, 10m or 2h"),
        (["prune", "--here", "r", "-i", "inv.yaml"], "--here asks no host: -i and -H do not apply"),
        (["plan", "-H", "-oProxyCommand=x"], "-H: "),
        (["plan", "absent.yaml"], "absent.yaml: no such file ("),
        (["plan", "."], ".: is a folder ("),
    ],
)
def test_errors_that_say_it_all(ddp, words, what):
    ran = ddp(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith(f"ddp-orch: {what}")


def test_all_of_an_inventorys_errors(ddp, tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "hosts:\n  - name: gpu1\n    adress: x\n  - name: -bad\nrendezvous: {port: 0}\n"
    )
    ran = ddp("plan", "bad.yaml")
    assert ran.code == 2
    assert "Traceback" not in ran.err
    head, *lines = ran.err.splitlines()
    assert head == "ddp-orch: 3 mistakes in the inventory:"
    places = [line.split(": ")[:2] for line in lines]
    assert [place[0] for place in places] == ["bad.yaml:3:5", "bad.yaml:4:11", "bad.yaml:5:20"]
    assert [place[1] for place in places] == ["hosts[0].adress", "hosts[1].name", "rendezvous.port"]


# --- plan ---------------------------------------------------------------------------------------


def commands(ran: Ran) -> list[str]:
    assert ran.code == 0, ran.err
    assert ran.err == ""
    return [line for line in ran.out.splitlines() if line.startswith("cd ")]


def test_a_plan_touches_no_host_and_leaves_nothing(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text("hosts: [no-such-host.invalid, 192.0.2.1]\n")
    before = sorted(tmp_path.rglob("*"))
    ran = ddp("plan", "inv.yaml", "--", "train.py", "--lr", "0.1")
    head, other = commands(ran)
    assert head.startswith("cd ~/.ddp-orch/runs/NAME/0 && ")
    assert head.endswith(" ~/.ddp-orch/runs/NAME/0/code/train.py -- --lr 0.1")
    assert "--rdzv-endpoint '<address of no-such-host.invalid>:<a free port there>'" in other
    assert ran.out.splitlines()[1].split()[:2] == ["0", "no-such-host.invalid"]
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_and_a_dry_run_are_the_same(ddp):
    words = ("inv.yaml", "--env", "A=b", "--max-restarts", "2", "-m", "pkg.train", "--", "x")
    dry = ddp("up", "--dry-run", *words)
    assert ddp("plan", *words).out == dry.out
    assert all(" A=b " in line and line.endswith(" -m pkg.train -- x") for line in commands(dry))
    assert all("--max-restarts 2 " in line for line in commands(dry))


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--", "--"],
        ["-H", "x"],
        ["--env", "A"],
        ["a b", "it's", "$HOME", ""],
        ["é", "日本"],
    ],
)
def test_what_follows_the_dashes_is_the_workers(ddp, args):
    import shlex

    line = commands(ddp("plan", "inv.yaml", "--", "train.py", *args))[0]
    assert shlex.split(line)[-len(args) - 1 :] == ["--", *args]


def test_an_argument_that_is_no_text_is_shown_escaped(ddp):
    assert commands(ddp("plan", "inv.yaml", "--", "train.py", b"\xff"))[0].endswith(r"'\udcff'")


def test_a_terminal_that_lacks_a_letter(ddp):
    ran = ddp(
        "plan", "inv.yaml", "--", "train.py", "é", PYTHONIOENCODING="ascii"
    )  # fmt: skip
    assert commands(ran)[0].endswith(r"'\xe9'")


def test_env_of_this_machine(ddp):
    line = commands(ddp("plan", "inv.yaml", "--env", "MINE", "--env", "B=1=2", MINE="a b"))[0]
    assert " MINE='a b' " in line
    assert " B=1=2 " in line


def test_without_a_script_the_inventorys_job_and_else_our_own(ddp, tmp_path):
    assert commands(ddp("plan", "inv.yaml"))[0].endswith("/code/train.py")
    (tmp_path / "inv.yaml").write_text("hosts: [a]\njob: {module: pkg.m, args: [--x]}\n")
    assert commands(ddp("plan", "inv.yaml"))[0].endswith(" -m pkg.m -- --x")
    assert commands(ddp("plan", "inv.yaml", "--"))[0].endswith(" -m pkg.m -- --x")


def test_hosts_by_name(ddp):
    ran = ddp("plan", "-H", "gpu7, alice@gpu8:2222")
    assert [line.split()[1] for line in ran.out.splitlines()[1:3]] == ["gpu7", "gpu8"]


def test_the_inventory_of_the_environment(ddp, tmp_path):
    (tmp_path / "mine.yaml").write_text("hosts: [mine]\n")
    (tmp_path / "other.yaml").write_text("hosts: [other]\n")

    def host(*words: str) -> str:
        return ddp("plan", *words, DDP_ORCH_INVENTORY="mine.yaml").out.splitlines()[1].split()[1]

    assert host() == "mine"
    assert host("other.yaml") == "other"
    assert host("-H", "third") == "third"
    assert ddp("plan", DDP_ORCH_INVENTORY="").code == 2


SECRET = "hf_s3cr3t"  # noqa: S105  made up


def test_secrets_in_a_plan_are_stars(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text("hosts: [a]\njob: {secrets: [MINE]}\n")
    for words in (["plan", "inv.yaml"], ["up", "--dry-run", "inv.yaml"]):
        ran = ddp(*words, "--secret", "TOO", "--env", f"X=a{SECRET}", MINE=SECRET, TOO=SECRET + "2")
        (line,) = commands(ran)
        assert " MINE=******** TOO=******** " in line
        assert " X=a******** " in line
        assert SECRET not in ran.out + ran.err


def test_a_secret_in_an_argument_is_refused_and_not_repeated(ddp, tmp_path):
    for words in (
        ["plan", "inv.yaml", "--secret", "MINE", "--", "train.py", f"--token={SECRET}"],
        ["exec", "inv.yaml", "--secret", "MINE", "--", f"login {SECRET}"],
    ):
        ran = ddp(*words, MINE=SECRET)
        assert ran.code == 2
        assert "the value of the secret MINE stands in the" in two_lines(ran)[0]
        assert SECRET not in ran.err


def test_an_internal_error_is_masked_on_the_screen_and_in_its_report(ddp, tmp_path):
    """A bug's message may quote anything."""
    (tmp_path / "sitecustomize.py").write_text(
        "import orchestrator.run, os\n"
        "def broken(*_): raise RuntimeError('\\udcff broke on ' + os.environ['MINE'])\n"
        "orchestrator.run.plan = broken\n"
    )
    path = f"{tmp_path}:{ROOT}"
    words = ["plan", "inv.yaml", "--secret", "MINE"]
    ran = ddp(*words, MINE=SECRET, PYTHONPATH=path)
    assert ran.code == 1
    (report,) = (tmp_path / "state").glob("error-*.txt")
    assert r"RuntimeError: \udcff broke on ********" in report.read_text()
    assert SECRET not in report.read_text() + ran.out + ran.err
    assert report.stat().st_mode & 0o777 == 0o600
    ran = ddp(*words, MINE=SECRET, PYTHONPATH=path, DDP_ORCH_STATE_DIR="/dev/null")
    assert r"RuntimeError('\udcff broke on ********')" in ran.err
    assert SECRET not in ran.err


@pytest.mark.parametrize("more", [("hostname",), ("hostname", "-f"), ("--env", "A=b", "hostname")])
def test_a_command_before_the_dashes_is_told_where_it_belongs(ddp, more):
    ran = ddp("exec", "inv.yaml", *more)
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "ddp-orch: hostname stands before --; the command follows it",
        "  -> ddp-orch exec inventory.yaml -- hostname ...",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("words", [("schema",), ("plan", "inv.yaml")])
def test_output_that_cannot_be_written(tmp_path, words):
    (tmp_path / "inv.yaml").write_text("hosts: [gpu1, gpu2]\n")
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=tmp_path,
            env={"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "No space left on device" in run.stderr
    assert "internal error" not in run.stderr
    assert run.returncode == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_stream_that_is_closed_is_no_error(tmp_path, closed):
    """As who starts it in the background may leave it."""
    (tmp_path / "inv.yaml").write_text("hosts: [gpu1]\n")
    line = f'exec "$0" -m orchestrator plan inv.yaml {closed}'
    env = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable], capture_output=True, env=env, cwd=tmp_path
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert bool(ran.stdout) == (not closed.startswith(">"))
    assert [path.name for path in tmp_path.iterdir()] == ["inv.yaml"]


def test_env_files_stand_between_the_inventory_and_env(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text(
        "hosts: [{name: a, env: {B: host, C: host, D: host}}]\n"
        "job: {env: {A: job, B: job, C: job, D: job}}\n"
    )
    (tmp_path / "one").write_text("C=file\nD=file\n")
    line = commands(ddp("plan", "inv.yaml", "--env-file", "one", "--env", "D=flag"))[0]
    assert " A=job B=host C=file D=flag " in line


@pytest.mark.parametrize("verb", ["up", "plan"])
def test_what_is_not_there_yet_is_said_before_anything_else(ddp, verb, tmp_path):
    (tmp_path / "inv.yaml").write_text(
        "hosts: [a, b]\njob: {launcher: accelerate, nnodes: '1:2', sync: {}, script: absent.py}\n"
    )
    ran = ddp(verb, "inv.yaml", "--secret", "NOT_SET")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "ddp-orch: job.launcher: accelerate is not there yet; torchrun is",
        "job.nnodes: 1:2 of 2 hosts is not there yet; a run takes all of them",
        "job.sync: not there yet; a script is sent along, a folder is not",
    ]
    assert not (tmp_path / "state").exists()


def test_what_is_not_there_yet_does_not_keep_hosts_from_being_checked(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text(
        "hosts: [{name: here, ssh: '127.0.0.1:1'}]\njob: {launcher: accelerate, sync: {}}\n"
    )
    assert ddp("check", "inv.yaml").code == 4
    assert ddp("exec", "inv.yaml", "--", "true").code == 4


def test_a_program_that_is_no_script(ddp, tmp_path):
    line = commands(ddp("plan", "inv.yaml", "--no-python", "--", "prog", "-x", "a b"))[0]
    assert line.endswith(" --no-python prog -- -x 'a b'")
    (tmp_path / "inv.yaml").write_text("hosts: [a]\njob: {command: [prog, run], args: [x]}\n")
    assert commands(ddp("plan", "inv.yaml"))[0].endswith(" --no-python prog -- run x")


# --- which checks, and what they are ------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("net.pnig", "did you mean net.ping?"),
        ("ping", "did you mean net.ping?"),
        ("network", "did you mean net?"),
        ("zzz", "ddp-orch check --explain all lists them"),
    ],
)
def test_a_check_that_there_is_not_is_likened_to_one_that_there_is(ddp, word, hint):
    for option in ("--skip-check", "--only", "--explain"):
        ran = ddp("check", "inv.yaml", option, word)
        assert ran.code == 2
        assert two_lines(ran) == (
            f"ddp-orch: {option} {word}: there is no such check",
            f"  -> {hint}",
        )


def test_checks_of_the_inventory_that_there_are_not(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text(
        "hosts: [gpu1]\n"
        "checks:\n"
        "  net.pnig: off\n"
        "  ssh.reach: warn\n"
        "  ssh: off\n"
        "  ssh.auth: fail\n"
        "  env.torch: no\n"
    )
    ran = ddp("check", "inv.yaml")
    assert (ran.code, ran.out) == (2, "")
    no = "must be 'off', 'info', 'warn' or 'fail', found no, which YAML 1.1 reads as false"
    without = "without a connection nothing can be started (of ssh.* only ssh.noise can be less)"
    assert ran.err.splitlines() == [
        "ddp-orch: 4 mistakes in the inventory:",
        "inv.yaml:3:3: checks.net.pnig: there is no such check (did you mean net.ping?)",
        f"inv.yaml:4:3: checks.ssh.reach: {without}",
        f"inv.yaml:5:3: checks.ssh: {without}",
        f"inv.yaml:7:14: checks.env.torch: {no}",
    ]


def test_what_a_check_is_about_is_told_without_any_host(ddp):
    ran = ddp("check", "--explain", "net.rdzv")
    assert (ran.code, ran.err) == (0, "")
    title, *lines = ran.out.splitlines()
    assert title == "net.rdzv"
    assert [line.partition(":")[0].strip() for line in lines] == [
        "holds when it passes", "without it", "how it is found out", "at worst"
    ]  # fmt: skip
    assert lines[-1].endswith(" fail; tier instant")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["net"], {"net"}),
        (["net,env"], {"net", "env"}),
        (["net", "--explain", "net.ping"], {"net"}),
        (["all"], {"ssh", "host", "fs", "env", "gpu", "net"}),
    ],
)
def test_groups_of_checks_and_all_of_them(ddp, words, told):
    ran = ddp("check", "--explain", *words)
    titles = [line for line in ran.out.splitlines() if line and not line.startswith(" ")]
    assert {title.partition(".")[0] for title in titles} >= told
    assert len(set(titles)) == len(titles)
    as_json = ddp("check", "-o", "json", "--explain", *words)
    (line,) = as_json.out.splitlines()
    checks = json.loads(line)["checks"]
    assert [check["id"] for check in checks] == titles
    assert list(checks[0]) == ["id", "about", "without", "how", "worst", "tier"]


def judged(ran: Ran) -> dict[str, str]:
    *verdicts, summary = [json.loads(line) for line in ran.out.splitlines()]
    assert list(summary) == ["summary"]
    return {verdict["id"]: verdict["status"] for verdict in verdicts}


def test_the_command_lines_word_on_checks_counts_over_the_inventorys(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text(
        "hosts: [{name: here, ssh: '127.0.0.1:1'}]\nchecks: {net.ping: off}\n"
    )

    def found(*words: str) -> dict[str, str]:
        ran = ddp("check", "inv.yaml", "-o", "json", *words)
        assert ran.code == 4, "whatever is skipped: there is no connection"
        return judged(ran)

    told = {"ssh.reach": "fail", "net.port.rdzv": "unknown", "sec.rdzv_open": "skip"}
    assert found() == told
    assert found("--only", "net.ping").keys() == {"ssh.reach", "net.ping"}
    assert found("--only", "net", "--skip-check", "net.ping,net.port.rdzv") == {"ssh.reach": "fail"}
    assert found("--only", "env").keys() == {"ssh.reach"}
    assert found("--skip-check", "net").keys() == {"ssh.reach", "sec.rdzv_open"}


# --- hosts that cannot be reached ---------------------------------------------------------------


def test_check_as_json_is_json_alone_and_a_host_not_reached_is_4(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text("hosts: [{name: here, ssh: '127.0.0.1:1'}]\n")
    ran = ddp("check", "inv.yaml", "-o", "json")
    assert ran.code == 4
    *verdicts, summary = [json.loads(line) for line in ran.out.splitlines()]
    found = {v["id"]: v["status"] for v in verdicts}
    assert found["ssh.reach"] == "fail"
    assert summary["summary"]["fail"] == 1
    assert "Traceback" not in ran.err


def test_exec_where_nobody_listens(ddp, tmp_path):
    (tmp_path / "inv.yaml").write_text("hosts: [{name: here, ssh: '127.0.0.1:1'}]\n")
    ran = ddp("exec", "inv.yaml", "--", "true")
    assert ran.code == 4
    assert two_lines(ran)[0] == "ddp-orch: here: 127.0.0.1 refuses connections on port 1"


# --- the process --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["plan", "inv.yaml"]])
def test_a_reader_that_went_away_is_no_news(words, tmp_path):
    (tmp_path / "inv.yaml").write_text("hosts: [a]\n")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
        )
    finally:
        os.close(writer)
    assert run.stderr == b""


def test_the_command_is_quick_to_import():
    heavy = ["fabric", "paramiko", "invoke", "pydantic", "rich", "yaml", "torch", "cryptography"]
    code = f"import sys, orchestrator.cli; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert run.stdout == b"[]\n"


def test_a_check_does_not_load_what_starts_a_run(tmp_path):
    others = ["conductor", "setups", "watch", "attach", "down", "prune", "store", "lab"]
    names = [f"orchestrator.{name}" for name in others]
    (tmp_path / "inventory.yaml").write_text("hosts: [{name: here, ssh: nobody@127.0.0.1:1}]\n")
    code = (
        "import sys; from orchestrator import cli; sys.argv = ['ddp-orch', 'check', sys.argv[1]]\n"
        "try: cli.main()\n"
        f"finally: print([m for m in {names} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "inventory.yaml"],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        text=True,
        check=False,
    )
    assert run.returncode == errors.HOST, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


def test_hosts_may_be_given_more_than_once(ddp):
    """The last must not win in silence: one would train on fewer hosts than one named."""
    ran = ddp("plan", "-H", "gpu1,gpu2", "-H", "gpu3")
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("# ")] == [
        "# gpu1",
        "# gpu2",
        "# gpu3",
    ]


@pytest.mark.parametrize("option", [["--env", "SCRIPT=a.py"], ["-m", "pkg.py"]])
def test_an_options_value_is_not_taken_for_a_script(ddp, option):
    assert ddp("plan", "-H", "gpu1", *option).code == 0


# --- which hosts, and the schema ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hosts"),
    [
        (["-H", "gpu[1-3]"], ["gpu1", "gpu2", "gpu3"]),
        (["-H", "gpu[1-2],x", "-H", "y"], ["gpu1", "gpu2", "x", "y"]),
        (["hostfile"], ["worker-1", "worker-2"]),
        (["inv.yaml", "--include", "gpu2"], ["gpu2"]),
        (["inv.yaml", "--include", "gpu2", "--include", "gpu1"], ["gpu1", "gpu2"]),
        (["inv.yaml", "--exclude", "gpu1"], ["gpu2"]),
        (["hostfile", "--include", "worker-2:0,1"], ["worker-2"]),
    ],
)
def test_which_hosts(ddp, tmp_path, words, hosts):
    (tmp_path / "hostfile").write_text("worker-1 slots=4\nworker-2 slots=4\n")
    ran = ddp("plan", *words)
    assert (ran.code, ran.err) == (0, "")
    rows = ran.out.partition("\n#")[0].splitlines()[1:]
    assert [row.split()[1] for row in rows if row] == hosts
    if "worker-2:0,1" in words:
        assert "--nproc-per-node 2" in ran.out


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("up", "--include"),
        ("check", "--exclude"),
        ("plan", "--include"),
        ("exec", "--exclude"),
    ],
)
def test_hosts_that_are_not_there(ddp, tmp_path, verb, option):
    ran = ddp(verb, "inv.yaml", option, "worker", *(["--", "x"] if verb == "exec" else []))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"ddp-orch: {option}: no host is called worker (there are: gpu1, gpu2)\n"
    assert not (tmp_path / "state").exists()


def test_schema(ddp, tmp_path):
    shown = ddp("schema")
    assert (shown.code, shown.err) == (0, "")
    assert "hosts" in json.loads(shown.out)["properties"]
    written = ddp("schema", "inventory.schema.json")
    assert (written.code, written.out, written.err) == (0, "", "")
    assert (tmp_path / "inventory.schema.json").read_text() == shown.out
    assert ddp("schema", "--fields").out.startswith("An inventory:\n")


def test_schema_writes_over_no_inventory(ddp, tmp_path):
    ran = ddp("schema", "inv.yaml")
    assert two_lines(ran)[0] == "ddp-orch: inv.yaml would be written, and does not end in .json"
    assert ran.code == 2
    assert (tmp_path / "inv.yaml").read_text() == "hosts: [gpu1, gpu2]\n"


@pytest.mark.parametrize(
    ("path", "why"),
    [("no/folder.json", "No such file or directory"), ("x" * 300 + ".json", "File name too long")],
)
def test_schema_that_cannot_be_written(ddp, path, why):
    ran = ddp("schema", path)
    assert (ran.code, ran.out, ran.err) == (2, "", f"ddp-orch: {path} cannot be written: {why}\n")
