"""The job, and what a host says about its GPUs, its setup and its paths: right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from inventory.load import InventoryError, load, load_text
from inventory.model import Sync


def test_the_whole_job():
    text = """
hosts: [a, b]
job:
  command: [mdl-toolkit, train]
  args: [-x]
  launcher: plain
  nnodes: 2
  max_restarts: 3
  lost_after: 2m
  sync: {from: src, exclude: [data/, "*.pt"]}
  env: {A: 010}
  secrets: [HF_TOKEN]
"""
    job = load_text(text, "inv.yaml", folder=Path("/inv")).job
    assert (job.command, job.args, job.launcher) == (("mdl-toolkit", "train"), ("-x",), "plain")
    assert (job.nnodes, job.max_restarts, job.env) == ("2", 3, {"A": "010"})
    assert job.lost_after == 120.0
    assert job.sync == Sync(from_="/inv/src", exclude=("data/", "*.pt"))
    assert job.secrets == ("HF_TOKEN",)


@pytest.mark.parametrize(
    ("written", "nnodes"), [("2:4", "2:4"), ("'2:4'", "2:4"), ("1:2", "1:2"), ("2", "2")]
)
def test_nodes(written, nnodes):
    job = load_text(f"hosts: ['a[1-4]']\njob: {{nnodes: {written}}}\n", "inv.yaml").job
    assert job.nnodes == nnodes  # in YAML 1.1 a plain 2:4 is 124


@pytest.mark.parametrize(
    ("written", "setup"),
    [
        ("module load cuda", ("module load cuda",)),
        ("[a, b c]", ("a", "b c")),
        ("|\n    a\n    b\n", ("a\nb\n",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_setup_is_one_text_or_a_list(written, setup):
    hosts = load_text(f"hosts: [a]\ndefaults:\n  setup: {written}", "inv.yaml").hosts
    assert hosts[0].setup == setup


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("$KEYS/id", "/keys/id"),
        ("${KEYS}/id", "/keys/id"),
        ("x$SUB/id", "/inv/x/sub/id"),
        ("~/$WHO", "/home/me/~me"),
        ("$WHO", "/inv/~me"),
        ("~", "/home/me"),
        ("/a b", "/a b"),
    ],
)
def test_variables_in_paths_on_this_machine(written, found, monkeypatch):
    for name, value in {"KEYS": "/keys", "SUB": "/sub", "WHO": "~me", "HOME": "/home/me"}.items():
        monkeypatch.setenv(name, value)
    text = f"""
hosts: [a]
defaults: {{identity_file: '{written}', known_hosts: '{written}', ssh_config: '{written}'}}
job: {{sync: {{from: '{written}'}}}}
"""
    inventory = load_text(text, "inv.yaml", folder=Path("/inv"))
    host = inventory.hosts[0]
    assert (host.identity_file, host.known_hosts, host.ssh_config) == (found, found, found)
    assert inventory.job.sync == Sync(from_=found)


def test_what_is_the_hosts_stays_as_it_is(monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    fields = ("python", "workdir", "state_dir", "setup")
    written = ", ".join(f"{field}: /$NOT_SET/~" for field in fields)
    text = f"hosts: [{{name: a, {written}, env: {{A: $NOT_SET}}}}]"
    host = load_text(text, "inv.yaml").hosts[0]
    assert {host.python, host.workdir, host.state_dir, *host.setup} == {"/$NOT_SET/~"}
    assert host.env == {"A": "$NOT_SET"}


@pytest.mark.parametrize("written", ["{}", "{from: .}", "{exclude: [x]}"])
def test_sync_starts_at_the_inventory(tmp_path, written):
    path = tmp_path / "inv.yaml"
    path.write_text(f"hosts: [a]\njob: {{sync: {written}}}\n")
    sync = load(path).job.sync
    assert sync is not None
    assert sync.from_ == str(tmp_path)


NODES = "is not a number of hosts, such as 4, nor a range, such as 2:4"

JOBS = {
    "a command in one line": (
        "{command: mdl train}",
        "16: job.command: must be a list, found 'mdl train' (write [mdl, train])",
    ),
    "text that is many lines": (
        "{args: 'say \"$x\"'}",
        ("13: job.args: must be a list, found the text 'say \"$x\"' (- and an entry on each line)"),
    ),
    "an empty command": ("{command: []}", "16: job.command: must have at least 1 entry"),
    "three things to run": (
        "{command: [a], script: b, module: c}",
        "6: job: give script or module or command, not all",
    ),
    "plain without a command": (
        "{launcher: plain, script: a.py}",
        "17: job.launcher: plain runs job.command, and there is none",
    ),
    "plain with options for torchrun": (
        "{launcher: plain, command: [a], torchrun_args: [--tee, 3]}",
        "53: job.torchrun_args: launcher plain starts no torchrun",
    ),
    "another launcher": (
        "{launcher: mpirun}",
        "17: job.launcher: must be 'torchrun', 'accelerate' or 'plain', found mpirun",
    ),
    "options of torchrun that are ours": (
        "{torchrun_args: [--tee, 3, --rdzv_id=x, -m]}",
        "33: job.torchrun_args[2]: torchrun's --rdzv-id is set by ddp-orch itself",
        "46: job.torchrun_args[3]: torchrun's -m is set by ddp-orch itself",
    ),
    "more nodes than hosts": (
        "{nnodes: 3}",
        "15: job.nnodes: asks for 3 hosts; the inventory has 1",
    ),
    "nodes that count down": ("{nnodes: 2:1}", f"15: job.nnodes: '2:1' {NODES}"),
    "nodes in octal": ("{nnodes: 01}", f"15: job.nnodes: '01' {NODES}"),
    "nodes in hexadecimal": ("{nnodes: 0x1}", f"15: job.nnodes: '0x1' {NODES}"),
    "sync without saying what": (
        "{sync: }",
        "12: job.sync: must be a mapping, found nothing (write {from: .})",
    ),
    "sync as a truth": (
        "{sync: true}",
        "13: job.sync: must be a mapping, found true (write {from: .})",
    ),
    "sync by its name in Python": (
        "{sync: {from_: .}}",
        "14: job.sync.from_: unknown field (did you mean from?)",
    ),
    "a variable that is not there": (
        "{sync: {from: $NOT_SET}}",
        "20: job.sync.from: $NOT_SET is not set in this machine's environment",
    ),
    "a variable that is empty": (
        "{sync: {from: $EMPTY/x}}",
        "20: job.sync.from: $EMPTY is empty in this machine's environment",
    ),
    "a command for a path": (
        "{sync: {from: $(pwd)}}",
        "20: job.sync.from: $(pwd) has a $ that is neither $NAME nor ${NAME}",
    ),
    "a variable that is not closed": (
        "{sync: {from: '${HOME'}}",
        "20: job.sync.from: ${HOME has a $ that is neither $NAME nor ${NAME}",
    ),
    "a home of nobody": (
        "{sync: {from: ~no.such.user/x}}",
        "20: job.sync.from: ~no.such.user has no home folder on this machine",
    ),
    "a secret that has a value": (
        "{env: {T: x}, secrets: [S, T]}",
        "33: job.secrets[1]: T stands in the env of the job as well; keep one of the two",
    ),
    "a secret that has a value on a host": (
        "{secrets: [S, ON_HOST]}",
        "20: job.secrets[1]: ON_HOST stands in the env of a as well; keep one of the two",
    ),
    "a secret that has a value among the defaults": (
        "{secrets: [SHARED]}",
        "17: job.secrets[0]: SHARED stands in the env of a as well; keep one of the two",
    ),
    "a secret that is a value": (
        "{secrets: [T=sesame]}",
        (
            "17: job.secrets[0]: takes the name of a variable alone; "
            "its value does not belong in a file"
        ),
    ),
    "a secret that is a value and no list": (
        "{secrets: T=sesame}",
        "16: job.secrets: must be a list (write [NAME])",
    ),
    "a setup in the wrong place": (
        "{setup: [ls]}",
        "7: job.setup: unknown field (did you mean defaults.setup?)",
    ),
    "an environment that is a list": (
        "{env: [A=1]}",
        "12: job.env: must be a mapping, found a list (NAME: value, on a line each)",
    ),
}


@pytest.mark.parametrize(("job", "lines"), [(j, e) for j, *e in JOBS.values()], ids=JOBS.keys())
def test_a_job_is_refused(job, lines, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    rest = "hosts: [{name: a, env: {ON_HOST: x}}]\ndefaults: {env: {SHARED: x}}\n"
    with pytest.raises(InventoryError) as caught:
        load_text(f"---\n{rest}job: {job}\n", "inv.yaml")
    assert str(caught.value).splitlines() == [f"inv.yaml:4:{line}" for line in lines]


HOSTS = {
    "a GPU that is no list": (
        "{gpus: 0}",
        "18: defaults.gpus: must be a list, found 0 (write [0])",
    ),
    "GPUs that are a word": (
        "{gpus: all}",
        "18: defaults.gpus: must be a list, found all (numbers, such as [0, 1])",
    ),
    "GPUs with commas": (
        "{gpus: '0,1, 2'}",
        "18: defaults.gpus: must be a list, found the text '0,1, 2' (write [0, 1, 2])",
    ),
    "a state folder that begins nowhere": (
        "{state_dir: scratch}",
        ("23: defaults.state_dir: 'scratch' is not an absolute path on the host, nor one below ~"),
    ),
    "secrets of a host": (
        "{secrets: [A]}",
        "12: defaults.secrets: unknown field (did you mean job.secrets?)",
    ),
    "a command with a colon in it": (
        "{setup: [echo a: b]}",
        (
            "20: defaults.setup[0]: must be text, found a mapping "
            "(a colon before a blank wants quotes around the text)"
        ),
    ),
    "GPUs that are none": (
        "{gpus: [-1, x, 010, '0', 1024]}",
        "19: defaults.gpus[0]: must be at least 0, found -1",
        "23: defaults.gpus[1]: must be a whole number, found x",
        (
            "26: defaults.gpus[2]: must be a number in plain decimal digits, "
            "found 010, which YAML 1.1 reads as 8"
        ),
        "31: defaults.gpus[3]: must be a whole number, found the text '0'",
        "36: defaults.gpus[4]: must be at most 1023, found 1024",
    ),
    "no GPU at all": ("{gpus: []}", "18: defaults.gpus: must have at least 1 entry"),
    "a GPU twice": ("{gpus: [0, 1, 0]}", "18: defaults.gpus: given more than once: 0"),
    "setup that is a mapping": (
        "{setup: {a: b}}",
        "19: defaults.setup: must be text or a list, found a mapping",
    ),
    "setup that is a truth": (
        "{setup: true}",
        '19: defaults.setup: true is a truth value to YAML, not text (put it in quotes: "true")',
    ),
    "more environment than a host may have": (
        "{env: {" + ",".join(f"A{i}: 1" for i in range(1025)) + "}}",
        "17: defaults.env: must have at most 1024 entries",
    ),
    "more setup than a host may have": (
        "{setup: [" + "x," * 1025 + "]}",
        "19: defaults.setup: must have at most 1024 entries",
    ),
}


@pytest.mark.parametrize(("said", "lines"), [(h, e) for h, *e in HOSTS.values()], ids=HOSTS.keys())
def test_a_host_is_refused(said, lines):
    with pytest.raises(InventoryError) as caught:
        load_text(f"hosts: [a]\ndefaults: {said}\n", "inv.yaml")
    assert str(caught.value).splitlines() == [f"inv.yaml:2:{line}" for line in lines]
