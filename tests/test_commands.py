"""NodePlan in, words and environment out; what a worker is given arrives as it was typed."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from string import Template

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.commands import as_typed, environment, quoted, torchrun
from orchestrator.plan import NodePlan, Program, RunPlan


def node(rank: int = 0, **more) -> NodePlan:
    fields = {
        "host": f"gpu{rank}",
        "rank": rank,
        "python": "/opt/venv/bin/python",
        "folder": f"/home/u/.ddp-orch/runs/brave-otter/{rank}",
        "workdir": None,
        "workers": 4,
        "threads": 2,
        "address": f"10.0.0.{10 - rank}",
        "interface": "eth0",
    }
    return NodePlan(**(fields | more))


def plan(*nodes: NodePlan, program: Program | None = None, **more) -> RunPlan:
    fields = {
        "name": "brave-otter",
        "rendezvous_id": "brave-otter-t0",
        "nodes": nodes,
        "program": program
        or Program(target="train.py", args=("--lr", "0.1"), ships=("/x/train.py",)),
        "port": 41000,
        "join_timeout": 600,
        "max_restarts": 2,
    }
    return RunPlan(**(fields | more))


# --- frozen: what a node runs -------------------------------------------------------------------

COMMAND = """\
/opt/venv/bin/python -m torch.distributed.run
--nnodes 2
--nproc-per-node 4
--max-restarts 2
--rdzv-backend ddp_orch
--rdzv-endpoint 10.0.0.10:41000
--rdzv-id brave-otter-t0
--rdzv-conf is_host=0,order=1,join_timeout=600,read_timeout=600
--local-addr 10.0.0.9
--log-dir /home/u/.ddp-orch/runs/brave-otter/1/worker-logs
--redirects 3
--logs-specs ddp_orch
/home/u/.ddp-orch/runs/brave-otter/1/code/train.py -- --lr 0.1
"""
FOLDER = "/home/u/.ddp-orch/runs/brave-otter/1"
DEFAULTS = {
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "2",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    "TORCH_FR_DUMP_TEMP_FILE": f"{FOLDER}/nccl_trace_rank_",
    "RES_OPTIONS": "timeout:1 attempts:1",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "eth0",
    "NCCL_SOCKET_IFNAME": "=eth0",
}
FIXED = {
    "DDP_ORCH_RUN": "brave-otter",
    "DDP_ORCH_NODE_RANK": "1",
    "DDP_ORCH_RUN_DIR": FOLDER,
    "DDP_ORCH_HOSTS": "gpu0,gpu1",
    "TORCHELASTIC_ERROR_FILE": f"{FOLDER}/torchrun.error.json",
}


def test_the_whole_command():
    two = plan(node(0), node(1))
    assert torchrun(two, two.nodes[1]) == COMMAND.split()


def test_the_whole_environment():
    two = plan(node(0), node(1))
    env = environment(two, two.nodes[1])
    assert env.defaults == DEFAULTS
    assert env.fixed == FIXED
    assert env.prepended == {"PYTHONPATH": f"{FOLDER}/lib"}


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_head_alone_hosts_the_store():
    two = plan(node(0), node(1))
    confs = [option(torchrun(two, n), "--rdzv-conf").split(",")[:2] for n in two.nodes]
    assert confs == [["is_host=1", "order=0"], ["is_host=0", "order=1"]]


@pytest.mark.parametrize(("join", "read"), [(1, 60), (60, 60), (900, 900)])
def test_the_store_is_read_no_shorter_than_torch_does(join, read):
    one = plan(node(), join_timeout=join)
    conf = option(torchrun(one, one.head), "--rdzv-conf")
    assert conf.endswith(f"join_timeout={join},read_timeout={read}")


def test_ipv6_stands_in_brackets_in_the_endpoint_alone():
    one = plan(node(address="fd00::1"))
    words = torchrun(one, one.head)
    assert option(words, "--rdzv-endpoint") == "[fd00::1]:41000"
    assert option(words, "--local-addr") == "fd00::1"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (Program(target="t.py", ships=("/x/t.py",)), f"{FOLDER}/code/t.py"),
        (Program(target="/abs/t.py"), "/abs/t.py"),
        (Program(target="pkg.train", module=True), "-m pkg.train"),
        (Program(target="pkg.train", module=True, args=("-m",)), "-m pkg.train -- -m"),
    ],
)
def test_what_is_run(program, words):
    two = plan(node(0), node(1), program=program)
    command = torchrun(two, two.nodes[1])
    assert command[command.index("--logs-specs") + 2 :] == words.split()


# --- the environment ----------------------------------------------------------------------------


def test_the_users_word_wins():
    said = {"OMP_NUM_THREADS": "1", "NCCL_SOCKET_IFNAME": "ib0", "DDP_ORCH_RUN": "mine", "X": ""}
    one = plan(node(env=said))
    env = environment(one, one.head)
    whole = env.defaults | env.fixed
    assert {k: whole[k] for k in said} == said
    assert not said.keys() & env.defaults.keys()  # else the host's own would win over the user's


def test_the_users_pythonpath_comes_after_ours_and_before_the_hosts():
    one = plan(node(env={"PYTHONPATH": "/mine:/too"}))
    env = environment(one, one.head)
    assert env.prepended == {"PYTHONPATH": f"{one.head.folder}/lib:/mine:/too"}
    assert "PYTHONPATH" not in env.fixed


def test_no_interface_is_set_where_none_is_known_to_carry_the_address():
    one = plan(node(interface=None))
    assert not [k for k in environment(one, one.head).defaults if k.endswith("SOCKET_IFNAME")]


def test_open_values_are_named():
    one = plan(node(workers=None, threads=None, address=None, interface=None), port=None)
    words = torchrun(one, one.head)
    assert option(words, "--nproc-per-node") == "<workers of gpu0>"
    assert option(words, "--local-addr") == "<address of gpu0>"
    assert option(words, "--rdzv-endpoint") == "<address of gpu0>:<a free port there>"
    assert environment(one, one.head).defaults["GLOO_SOCKET_IFNAME"] == "<interface of gpu0>"


# --- arguments arrive unchanged -----------------------------------------------------------------


def torchruns_parser() -> argparse.ArgumentParser:
    """The shape of torch.distributed.run's: many options, a script, and the rest."""
    parser = argparse.ArgumentParser()
    for name in (
        "nnodes nproc-per-node max-restarts rdzv-backend rdzv-endpoint rdzv-id rdzv-conf node-rank "
        "local-addr log-dir logs-specs local-ranks-filter monitor-interval start-method role "
        "master-addr master-port numa-binding shutdown-timeout"
    ).split():
        parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}")
    parser.add_argument("-r", "--redirects")
    parser.add_argument("-t", "--tee")
    parser.add_argument("-m", "--module", action="store_true")
    for name in ("standalone", "no-python", "run-path"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("training_script")
    parser.add_argument("training_script_args", nargs=argparse.REMAINDER)
    return parser


def arrives(args: tuple[str, ...], *, module: bool = False) -> list[str]:
    """What a worker finds in sys.argv[1:]: through torchrun's parser, then through its macros."""
    one = plan(node(), program=Program(target="t", args=args, module=module))
    words = torchrun(one, one.head)
    got = torchruns_parser().parse_args(words[words.index("torch.distributed.run") + 1 :])
    assert got.training_script == "t"
    assert got.module is module
    return [Template(arg).safe_substitute(local_rank="7") for arg in got.training_script_args]


NASTY = [
    "",
    "--",
    "-",
    "-m",
    "--log",  # short for --log-dir, --logs-specs
    "--n=3",
    "--nnodes",
    "-h",
    "--help",
    "${local_rank}",
    "$local_rank",
    "$${local_rank}",
    "$$",
    "$",
    "$HOME ${HOME}",
    "$1 $$2 ${local_rank",
    "$local_rankx",
    "a b",
    'it\'s "quoted"',
    "line\nbreak",
    "~",
    "~/data",
    "-1",
    "@file",
    "é ✓ 日本",
    "\udcff",  # a byte that is no UTF-8, as Python brings it in
    "*",
    "a\\b",
]


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("arg", NASTY)
def test_a_nasty_argument_arrives(arg, module):
    for args in ((arg,), ("x", arg, "y"), (arg, arg), ("--", arg), (arg, "--")):
        assert arrives(args, module=module) == list(args)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(NASTY),
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
            st.text("-$lo{}=_cal rnk", max_size=14),
        ),
        max_size=6,
    )
)
def test_any_arguments_arrive(args):
    assert arrives(tuple(args)) == args


# --- as a person would type it ------------------------------------------------------------------

typeable = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",), codec="utf-8"), max_size=12
)


def in_a_shell(line: str, home: str) -> list[str]:
    """Let a real sh take a line apart; a NUL after each word tells where it ended."""
    run = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\0' {line}"],
        capture_output=True,
        check=True,
        env={"HOME": home, "PATH": os.environ["PATH"]},
    )
    return [os.fsdecode(word) for word in run.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("word", [w for w in NASTY if "\udcff" not in w])
def test_quoted_survives_a_shell(word, tmp_path):
    expected = word.replace("~/", f"{tmp_path}/", 1) if word.startswith("~/") else word
    assert in_a_shell(quoted(word), str(tmp_path)) == [expected]


@settings(max_examples=30, deadline=None)
@given(st.lists(typeable.filter(lambda word: not word.startswith("~/")), min_size=1, max_size=20))
def test_any_words_survive_a_shell(words):
    assert in_a_shell(" ".join(map(quoted, words)), "/nowhere") == words


SHOW = """\
import json, os, sys
print(json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]))
"""


def typed(run_plan: RunPlan, home: str, **env: str) -> list:
    """Run the line in a real sh, with a Python that only says what it was given."""
    import json

    run = subprocess.run(
        ["/bin/sh", "-c", as_typed(run_plan, run_plan.head)],
        capture_output=True,
        check=True,
        env={"HOME": home, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **env},
    )
    return json.loads(run.stdout)


@pytest.fixture
def shower(tmp_path):
    """A program in a home with a space in its name, to stand for the host's Python."""
    home = tmp_path / "my home"
    (home / "run dir").mkdir(parents=True)
    script = home / "show it"
    script.write_text(f"#!{sys.executable}\n{SHOW}")
    script.chmod(0o755)
    return home


def test_typed_it_does_the_same(shower):
    args = tuple(w for w in NASTY if "\udcff" not in w)
    said = {"GREETING": "it's $HOME `x`\n", "TILDE": "~/stays", "PYTHONPATH": "/mine"}
    one = plan(
        node(python="~/show it", folder="~/run dir", env=said),
        program=Program(target="/t.py", args=args),
    )
    home = str(shower)
    cwd, argv, env = typed(one, home, PYTHONPATH="/theirs")
    assert cwd == f"{home}/run dir"
    given_words = torchrun(one, one.head)[1:]
    at = given_words.index("--log-dir") + 1
    assert argv[at] == f"{home}/run dir/worker-logs"  # ours: the shell knows the home
    assert argv[:at] + argv[at + 1 :] == given_words[:at] + given_words[at + 1 :]
    assert env["GREETING"] == said["GREETING"]
    assert env["TILDE"] == "~/stays"
    assert env["PYTHONPATH"] == f"{home}/run dir/lib:/mine:/theirs"
    assert env["DDP_ORCH_RUN_DIR"] == f"{home}/run dir"


def test_typed_where_there_is_no_pythonpath(shower):
    one = plan(node(python="~/show it", folder="~/run dir"))
    _, _, env = typed(one, str(shower))
    # An empty part would be the current folder.
    assert env["PYTHONPATH"] == f"{shower}/run dir/lib"


def test_typed_in_the_workdir():
    one = plan(node(workdir="/data/my work"))
    assert shlex.split(as_typed(one, one.head))[:3] == ["cd", "/data/my work", "&&"]
