"""NodePlan in, words and environment out; what a worker is given arrives as it was typed."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
from string import Template

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.commands import as_typed, environment, quoted, torchrun
from orchestrator.masking import Secret
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
        (Program(target="train", python=False), "--no-python train"),
        (
            Program(target="/opt/t", python=False, args=("--", "-x")),
            "--no-python /opt/t -- -- -x",
        ),
        # A path there: its ~ is the home there, and no shell will say so.
        (Program(target="~/t.py", args=("~/d",)), "/home/u/t.py -- ~/d"),
        (Program(target="~/bin/t", python=False), "--no-python /home/u/bin/t"),
    ],
)
def test_what_is_run(program, words):
    two = plan(node(0), node(1, home="/home/u"), program=program)
    command = torchrun(two, two.nodes[1])
    assert command[command.index("--logs-specs") + 2 :] == words.split()


def test_torchruns_other_options_come_before_ours():
    """A value that is lacking, or a short form of one of ours, cannot change ours."""
    one = plan(node(), torchrun_args=("--numa-binding", "node", "--nnode", "7"))
    words = torchrun(one, one.head)
    assert words[3:8] == ["--numa-binding", "node", "--nnode", "7", "--nnodes"]
    assert words[7:] == torchrun(dataclasses.replace(one, torchrun_args=()), one.head)[3:]


# --- the environment ----------------------------------------------------------------------------


VENV = {"VIRTUAL_ENV": "/v"}
CONDA = {"CONDA_PREFIX": "/c/envs/t", "CONDA_DEFAULT_ENV": "t", "CONDA_SHLVL": "1"}


@pytest.mark.parametrize(("activated", "programs"), [(VENV, "/v/bin"), (CONDA, "/c/envs/t/bin")])
def test_an_environment_is_as_activation_makes_it(activated, programs):
    one = plan(node(activated=activated))
    env = environment(one, one.head)
    assert env.fixed.items() >= activated.items()
    assert env.prepended["PATH"] == programs
    assert env.removed == ("PYTHONHOME",)


def test_an_environment_comes_before_the_users_own_path():
    """As activation does; and the user's takes the place of the host's."""
    said = {"PATH": "/mine:/usr/bin", "VIRTUAL_ENV": "/other", "PYTHONHOME": "/h"}
    one = plan(node(activated=VENV, env=said))
    env = environment(one, one.head)
    assert env.fixed["PATH"] == "/v/bin:/mine:/usr/bin"
    assert "PATH" not in env.prepended
    assert (env.fixed["VIRTUAL_ENV"], env.fixed["PYTHONHOME"], env.removed) == ("/other", "/h", ())


def test_without_an_environment_the_users_path_is_the_path():
    one = plan(node(env={"PATH": "/mine"}))
    env = environment(one, one.head)
    assert (env.fixed["PATH"], env.removed) == ("/mine", ())
    assert "PATH" not in env.prepended


def test_an_empty_path_adds_no_current_folder():
    one = plan(node(activated=VENV, env={"PATH": ""}))
    assert environment(one, one.head).prepended["PATH"] == "/v/bin"


def test_gpus_are_those_that_nvidia_smi_numbers():
    one = plan(node(gpus=(0, 2)))
    fixed = environment(one, one.head).fixed
    assert fixed["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert fixed["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in environment(plan(node()), one.nodes[0]).defaults


def test_secrets_are_in_what_a_host_is_told_and_nowhere_else():
    one = plan(node(activated=VENV), secrets={"TOKEN": Secret("hf_secret")})
    env = environment(one, one.head)
    assert env.for_the_host()["secrets"] == {"TOKEN": "hf_secret"}
    assert "hf_secret" not in f"{env} {one} {as_typed(one, one.head)} {torchrun(one, one.head)}"
    assert " TOKEN=******** " in as_typed(one, one.head)


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


def arrives(args: tuple[str, ...], *, module: bool = False, python: bool = True) -> list[str]:
    """What a worker finds in sys.argv[1:]: through torchrun's parser, then through its macros."""
    program = Program(target="t", args=args, module=module, python=python)
    one = plan(node(), program=program, torchrun_args=("--numa-binding", "node"))
    words = torchrun(one, one.head)
    got = torchruns_parser().parse_args(words[words.index("torch.distributed.run") + 1 :])
    assert got.training_script == "t"
    assert (got.module, got.no_python) == (module, not python)
    assert got.numa_binding == "node"
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


@pytest.mark.parametrize("how", [{}, {"module": True}, {"python": False}], ids=str)
@pytest.mark.parametrize("arg", NASTY)
def test_a_nasty_argument_arrives(arg, how):
    for args in ((arg,), ("x", arg, "y"), (arg, arg), ("--", arg), (arg, "--")):
        assert arrives(args, **how) == list(args)


def test_a_scripts_own_path_is_an_argument_to_torchrun_and_a_programs_is_not():
    """Python gets a script's path behind -u, and torchrun fills in what stands behind a program."""
    for path in ("/d/$$x/t.py", "/d/${local_rank}/t.py"):
        script = plan(node(), program=Program(target=path))
        (target,) = torchrun(script, script.head)[-1:]
        assert Template(target).safe_substitute(local_rank="7") == path
        program = plan(node(), program=Program(target=path, python=False))
        assert torchrun(program, program.head)[-2:] == ["--no-python", path]


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


def test_typed_in_an_environment(shower):
    one = plan(
        node(
            python="~/show it",
            folder="~/run dir",
            activated={"VIRTUAL_ENV": "/my venv"},
            env={"GREETING": "x"},
            gpus=(1,),
        )
    )
    _, _, env = typed(one, str(shower), PYTHONHOME="")
    assert env["PATH"] == f"/my venv/bin:{os.environ['PATH']}"
    assert (env["VIRTUAL_ENV"], env["CUDA_VISIBLE_DEVICES"]) == ("/my venv", "1")
    assert "PYTHONHOME" not in env


def test_typed_in_the_workdir():
    one = plan(node(workdir="/data/my work"))
    assert shlex.split(as_typed(one, one.head))[:3] == ["cd", "/data/my work", "&&"]
