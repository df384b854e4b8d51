"""Login shells, and what people have in the files that these read before they run a command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.hosts.processes import until
from tests.hosts.test_up import ddp_orch, said
from tests.workers import worker

if TYPE_CHECKING:
    from tests.hosts.cluster import Cluster

# Many checks of one host each: a second, and there are dozens.
pytestmark = pytest.mark.slow
SILENT = ""


def verdicts(cluster: Cluster, count: int, code: int | None = None) -> dict[str, list[str]]:
    """Check so many hosts; return by host what is not as it should be."""
    done = ddp_orch(cluster, "check", "-o", "json", cluster.inventory(cluster.hosts[:count]))
    found: dict[str, list[str]] = {host.name: [] for host in cluster.hosts[:count]}
    for verdict in map(json.loads, done.stdout.splitlines()):
        if verdict.get("status") in ("warn", "fail"):
            found[verdict["host"]].append(
                f"{verdict['status']} {verdict['id']} {verdict['message']} -> {verdict['hint']}"
            )
    fails = [line for lines in found.values() for line in lines if line.startswith("fail ")]
    ssh = any(line.startswith("fail ssh.") for line in fails)
    assert done.returncode == (4 if ssh else 3 if fails else 0), done.stdout + done.stderr
    assert not done.stderr
    return found


def judge(cluster: Cluster, cases: dict[str, str]) -> None:
    """Compare what is said of each host, in order, with what the cases expect of it."""
    found = verdicts(cluster, len(cases))
    for (what, expected), lines in zip(cases.items(), found.values(), strict=True):
        assert len(lines) == bool(expected), (what, lines)
        assert expected in "".join(lines), what


# By startup file: the shell, a line in it, and what is said of the host.
SHELLS = {
    "dash": ("/bin/dash", "", "", SILENT),
    "fish": ("/usr/bin/fish", "", "", SILENT),
    "tcsh": ("/bin/tcsh", "", "", SILENT),
    "zsh": ("/usr/bin/zsh", "", "", SILENT),
    "noisy fish": (
        "/usr/bin/fish", ".config/fish/config.fish", "echo hello from fish",
        "warn ssh.noise a startup file of the shell prints: hello from fish",
    ),
    "noisy tcsh": (
        "/bin/tcsh", ".cshrc", "echo hello from tcsh\nset history=100\nset noclobber",
        "warn ssh.noise a startup file of the shell prints: hello from tcsh",
    ),
    "noisy zsh": (
        "/usr/bin/zsh", ".zshenv", "echo hello from zsh\nsetopt BANG_HIST ERR_EXIT KSH_ARRAYS",
        "warn ssh.noise a startup file of the shell prints: hello from zsh",
    ),
    "rbash": ("/bin/rbash", "", "", "-> its login shell is a restricted one"),
    "nologin": ("/usr/sbin/nologin", "", "", "-> its login shell lets nobody in"),
    "false": ("/bin/false", "", "", "or a shell such as /bin/false"),
    "absent": ("/no/such/shell", "", "", "fail ssh.auth refuses to log in root"),
    "python": ("/usr/bin/python3", "", "", "fail ssh.agent the login shell ended with code 1"),
}  # fmt: skip


def in_threes(cases: dict) -> list[list[str]]:
    """As many cases at once as there are hosts: each is a check of one host."""
    names = list(cases)
    return [names[at : at + 3] for at in range(0, len(names), 3)]


@pytest.mark.parametrize("names", in_threes(SHELLS), ids="+".join)
def test_login_shells(cluster: Cluster, names: list[str]) -> None:
    expected = {}
    for host, name in zip(cluster.hosts, names, strict=False):
        shell, file, text, expected[name] = SHELLS[name]
        host.set_shell(shell)
        if file:
            host.write(file, text + "\n")
    judge(cluster, expected)


def test_a_run_and_a_command_where_every_host_has_another_shell(cluster: Cluster) -> None:
    files = {"fish": ".config/fish/config.fish", "tcsh": ".cshrc", "zsh": ".zshenv"}
    for host, (shell, file) in zip(cluster.hosts, files.items(), strict=True):
        host.set_shell(f"/usr/bin/{shell}")
        host.write(file, "echo welcome\n")
    inventory = cluster.inventory()
    words = ["printf", "%s|", "a  b", "$HOME", "it's", "!!", "`id`", "\\", "é"]
    done = ddp_orch(cluster, "exec", inventory, "--", *words)
    expected = [f"n{n}| " + "|".join(words[2:]) + "|" for n in (1, 2, 3)]
    assert sorted(done.stdout.splitlines()) == expected, done.stdout + done.stderr
    done = ddp_orch(cluster, "up", inventory, "--", worker("ranks"), "meet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sum 3") == 3


NOISE = "warn ssh.noise a startup file of the shell prints: "
ENDED = "fail ssh.agent the login shell ended with code "
# By what is wrong with it: a .bashrc, and what is said of the host. bash reads it for ssh, too.
STARTUP_FILES = {
    "prints megabytes": ("head -c 5000000 /dev/zero | tr '\\0' x", NOISE + "xxx"),
    "prints binary": ("printf 'a\\377\\001\\000b'; head -c 3000 /dev/urandom", NOISE + "a"),
    "prints the marker's beginning": (
        "printf '\\n\\001ddp-orch-agent/'", NOISE + "\x01ddp-orch-agent/"
    ),
    "prints no newline": ("printf hello", NOISE + "hello"),
    "prints on stderr": ("echo hello >&2; stty -ixon; mesg n", SILENT),
    "exits": ("exit 0", ENDED + "0 before the agent started, without a word"),
    "complains and exits": (
        "export LC_ALL=xx_YY.UTF-8; echo too many jobs >&2; stty -ixon; exit 3",
        ENDED + "3 before the agent started: too many jobs",
    ),
    "returns": ("[[ $- == *i* ]] || return; echo hello", SILENT),
    "takes its time": ("sleep 2", SILENT),
    "starts what is not there": ("exec /no/such", ENDED + "127 before the agent started: "),
    "starts tmux": (
        "echo 'open terminal failed: not a terminal' >&2; exit 1",
        "look for tmux or screen in a startup file",
    ),
    "sets options": ("set -eu; set -x; set -f; set -o posix; IFS=c", SILENT),
    "sets traps": ("trap 'echo bye' EXIT; trap '' TERM HUP INT PIPE", SILENT),
    "shadows python3": ("python3() { echo no; }; export -f python3; alias python3='echo'", SILENT),
    "shadows exec": ("exec() { echo no: $1; }", ENDED + "0 before the agent started: no: /bin/sh"),
    "breaks PATH": ("export PATH=/nowhere", SILENT),
    "preloads what is not there": ("export LD_PRELOAD=/no/such.so", SILENT),
    "allows few files": (
        "ulimit -n 16; ulimit -u 20; ulimit -v 400000",
        "fail lim.nofile hard limit 16 open files",
    ),
    "closes stdin": ("exec <&-", "fail ssh.agent the agent's input ended"),
    "has stdin elsewhere": ("exec </dev/null", "fail ssh.agent the agent's input ended"),
    "closes stdout": ("exec >&-", "look for a startup file (.bashrc, .profile) that closes stdout"),
    "closes stderr": ("exec 2>&-", SILENT),
    "goes elsewhere": ("mkdir -p /tmp/gone && cd /tmp/gone && rmdir /tmp/gone", SILENT),
    "kills its shell": ("kill -9 $$", "the connection was closed before the agent started"),
}  # fmt: skip


@pytest.mark.parametrize("names", in_threes(STARTUP_FILES), ids="+".join)
def test_startup_files(cluster: Cluster, names: list[str]) -> None:
    for host, name in zip(cluster.hosts, names, strict=False):
        host.write(".bashrc", STARTUP_FILES[name][0] + "\n")
    judge(cluster, {name: STARTUP_FILES[name][1] for name in names})


def test_startup_files_that_never_come_to_an_end(cluster: Cluster) -> None:
    for host, text in zip(cluster.hosts, ["read x", "exec fish", "exec >/tmp/log"], strict=True):
        host.write(".bashrc", text + "\n")
    for lines in verdicts(cluster, 3).values():
        (line,) = lines
        assert line.startswith("fail ssh.agent logged in, but the shell did not start the agent")
        assert "waits for input, sleeps, redirects its output or starts another shell" in line


def test_what_a_startup_file_leaves_running_holds_nobody_up(cluster: Cluster) -> None:
    """It keeps our channel's output open; it is the user's own, and stays."""
    host = cluster.hosts[0]
    host.write(".bashrc", "sleep 3600 &\n")
    judge(cluster, {"left": SILENT})
    until(lambda: list(host.pids().values()) == ["sleep 3600"], "nothing of ours is left")
    host.kill_all()


@pytest.mark.parametrize(
    ("forced", "expected"),
    [
        ("echo backups only", ENDED + "0 before the agent started: backups only"),
        ("internal-sftp", ENDED + "1 before the agent started: This service allows sftp"),
        ("true", "an `exit` in a startup file (.bashrc, .profile), a forced command, or"),
        ('eval "$SSH_ORIGINAL_COMMAND"', SILENT),
    ],
)
def test_forced_commands(cluster: Cluster, forced: str, expected: str) -> None:
    cluster.hosts[0].restart_sshd({"ForceCommand": forced})
    judge(cluster, {forced: expected})


def test_a_wrong_pythonhome_is_named(cluster: Cluster) -> None:
    """It breaks whatever Python the workers are to run in, not the agent."""
    cluster.hosts[0].write(".bashrc", "export PYTHONHOME=/nowhere PYTHONPATH=/nowhere\n")
    inventory = cluster.inventory(["n1"], defaults={"python": "/usr/bin/python3"})
    done = ddp_orch(cluster, "check", inventory)
    assert done.returncode == 3, done.stdout + done.stderr
    said = "FAIL env.python  n1: /usr/bin/python3: does not start with PYTHONHOME=/nowhere"
    assert said in done.stdout


def test_the_runs_files_are_private_whatever_the_umask(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    host.write(".bashrc", "umask 000\n")
    done = ddp_orch(
        cluster, "up", "-n", "open", cluster.inventory(["n1"]), "--", worker("args"), "x"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(said(done.stdout, "n1", 0)[0])["argv"] == ["x"]
    kept = host.home / ".ddp-orch"
    for folder in (kept, kept / "runs", kept / "runs/open", kept / "runs/open/0"):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    for name in ("code/args.py", "journal.jsonl", "exit.json", "torchrun.err"):
        assert (kept / "runs/open/0" / name).stat().st_mode & 0o077 == 0, name
