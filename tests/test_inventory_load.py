"""Inventories as people write them, right and wrong; every error is asserted by its whole line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inventory.load import InventoryError, Problem, from_names, load, load_text
from inventory.model import Host, Inventory


def errors(text: str) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        load_text(text, "inv.yaml")
    return [str(problem) for problem in caught.value.problems]


def host(fields: str) -> Host:
    """Load an inventory of one host, its fields given in YAML's flow style."""
    return load_text(f"hosts: [{fields}]", "inv.yaml").hosts[0]


# --- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("gpu1", Host(name="gpu1")),
        ("me@gpu1", Host(name="gpu1", ssh="me@gpu1")),
        ("gpu1:2222", Host(name="gpu1", ssh="gpu1:2222")),
        ("'me@[gpu1]:2222'", Host(name="gpu1", ssh="me@[gpu1]:2222")),
        ("no", Host(name="no")),
        ("010", Host(name="010")),
        ("1_000", Host(name="1_000")),
        ("1e3", Host(name="1e3")),
        ("1.10", Host(name="1.10")),
        ("2024-01-01", Host(name="2024-01-01")),
        ("22:22", Host(name="22", ssh="22:22")),
        ("{name: no}", Host(name="no")),
        ("{name: 010, user: on, addr: 1.10}", Host(name="010", user="on", addr="1.10")),
        ("{name: a, port: 22}", Host(name="a", port=22)),
        ("{name: a, python: 0x10, workdir: yes}", Host(name="a", python="0x10", workdir="yes")),
        ("{name: a, env: }", Host(name="a")),
        ('{name: a, env: {NO: "no"}}', Host(name="a", env={"NO": "no"})),
    ],
)
def test_a_host(written, expected):
    assert host(written) == expected


@pytest.mark.parametrize(
    "written",
    ["1", "010", "0x1F", "1.10", "1e-3", "1_000", "22:22", "2024-01-01", ".inf", "y", "=", "<<"],
)
def test_numbers_and_their_like_stay_as_written_in_args_and_env(written):
    text = f"hosts: [a]\njob:\n  args: [{written}]\n  env: {{A: {written}}}\n"
    job = load_text(text, "inv.yaml").job
    assert (job.args, job.env) == ((written,), {"A": written})


def test_sections_may_be_empty():
    text = "hosts:\n- a\ndefaults:\njob:\n  args:\n  env:\nrendezvous:\n"
    assert load_text(text, "inv.yaml") == Inventory(hosts=(Host(name="a"),))


def test_same_machine():
    assert load_text("hosts: [a]\nsame_machine: true\n", "inv.yaml").same_machine is True
    assert load_text("hosts: [a]\nsame_machine: false\n", "inv.yaml").same_machine is False


def test_a_host_comes_before_the_defaults_within_ssh_too():
    text = """
hosts: [a, root@b, "c:2222", {name: d, port: 23, env: {X: d}}]
defaults: {user: me, port: 22, env: {X: all, Y: all}}
"""
    hosts = load_text(text, "inv.yaml").hosts
    assert [h.destination for h in hosts] == [
        ("me", "a", 22),
        ("root", "b", 22),
        ("me", "c", 2222),
        ("me", "d", 23),
    ]
    assert hosts[0].env == {"X": "all", "Y": "all"}
    assert hosts[3].env == {"X": "d", "Y": "all"}


def test_files_on_this_machine_are_found_from_the_inventory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "inv.yaml"
    path.write_text(
        """
hosts:
  - {name: a, identity_file: keys/id, python: venv/python, workdir: ~/x}
  - {name: b, ssh_config: none, identity_file: /etc/key}
defaults: {identity_file: ~/.ssh/id, known_hosts: hosts.txt, ssh_config: ./config}
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path.parent)
    for written in (path, str(path), path.relative_to(tmp_path.parent)):
        a, b = load(written).hosts
        assert a.identity_file == f"{tmp_path}/keys/id"
        assert a.known_hosts == b.known_hosts == f"{tmp_path}/hosts.txt"
        assert a.ssh_config == f"{tmp_path}/config"
        assert (a.python, a.workdir) == ("venv/python", "~/x")
        assert (b.ssh_config, b.identity_file) == ("none", "/etc/key")
    path.write_text("hosts: [a]\ndefaults: {identity_file: ~/.ssh/id}\n", encoding="utf-8")
    assert load(path).hosts[0].identity_file == "/home/me/.ssh/id"


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "inv.yaml"
    path.write_bytes(b"\xef\xbb\xbfhosts: [a]\n")
    assert load(path).hosts[0].name == "a"


# --- what is refused ----------------------------------------------------------------------------

REFUSED = {
    "a misspelt field": (
        "hosts:\n  - name: a\n    adress: 10.0.0.5\n",
        "inv.yaml:3:5: hosts[0].adress: unknown field (did you mean addr?)",
    ),
    "a field of nowhere": (
        "hosts: [a]\nsurprise: [X]\n",
        (
            "inv.yaml:2:1: surprise: unknown field "
            "(known here: hosts, same_machine, rendezvous, job, checks, defaults)"
        ),
    ),
    "a field of another section": (
        "hosts: [a]\nargs: [x]\n",
        "inv.yaml:2:1: args: unknown field (did you mean job.args?)",
    ),
    "a field that looks like nothing": (
        'hosts: [a]\n"a\\nb": 1\n',
        (
            "inv.yaml:2:1: 'a\\nb': unknown field "
            "(known here: hosts, same_machine, rendezvous, job, checks, defaults)"
        ),
    ),
    "no hosts": ("job: {script: a.py}\n", "inv.yaml:1:1: hosts: is missing"),
    "hosts that are none": (
        "hosts:\n",
        "inv.yaml:1:7: hosts: must have at least 1 entry",
    ),
    "hosts that are no list": (
        "hosts: {a: b}\n",
        (
            "inv.yaml:1:8: hosts: must be a list, found a mapping "
            "(- name: gpu1, and so on for each host)"
        ),
    ),
    "a host without a name": (
        "hosts:\n  - ssh: a\n",
        "inv.yaml:2:5: hosts[0].name: is missing",
    ),
    "a host that is a list": (
        "hosts: [[a]]\n",
        "inv.yaml:1:9: hosts[0]: must be a name or a mapping, found a list",
    ),
    "a host that is nothing": (
        "hosts:\n  - a\n  -\n",
        "inv.yaml:3:4: hosts[1]: has no value (give one, or leave it out)",
    ),
    "a host that is null": (
        "hosts: [null]\n",
        (
            "inv.yaml:1:9: hosts[0]: null is YAML's word for no value "
            '(leave it out, or quote it: "null")'
        ),
    ),
    "a name that is an option": (
        "hosts: [-oProxyCommand=x]\n",
        (
            "inv.yaml:1:9: hosts[0]: '-oProxyCommand=x' is not a host name "
            "(letters, digits, and . _ - inside)"
        ),
    ),
    "a name that is a command": (
        "hosts:\n  - name: $(id)\n",
        (
            "inv.yaml:2:11: hosts[0].name: '$(id)' is not a host name "
            "(letters, digits, and . _ - inside)"
        ),
    ),
    "a name with a port": (
        "hosts:\n  - name: 22:22\n",
        (
            "inv.yaml:2:11: hosts[0].name: '22:22' is not a host name "
            "(letters, digits, and . _ - inside)"
        ),
    ),
    "an address as a name": (
        "hosts: ['me@[fe80::1]:22']\n",
        (
            "inv.yaml:1:9: hosts[0]: fe80::1 cannot be the name of a host "
            "(write {name: ..., ssh: 'me@[fe80::1]:22'})"
        ),
    ),
    "no destination": (
        "hosts: ['a:b']\n",
        "inv.yaml:1:9: hosts[0]: a:b is not of the form [user@]host[:port]",
    ),
    "a user that is an option": (
        "hosts: ['-l@a']\n",
        "inv.yaml:1:9: hosts[0]: '-l' is not a user name",
    ),
    "ssh with a bad port": (
        "hosts:\n  - name: a\n    ssh: b:70000\n",
        "inv.yaml:3:10: hosts[0].ssh: port 70000 is not between 1 and 65535",
    ),
    "ssh that disagrees": (
        "hosts:\n  - {name: a, ssh: x@b, user: y}\n",
        "inv.yaml:2:5: hosts[0]: ssh says user x, but user says y",
    ),
    "the same name twice": (
        "hosts:\n  - a\n  - b\n  - name: a\n",
        "inv.yaml:4:11: hosts[2].name: the name a is taken by hosts[0], line 2",
    ),
    "a name that is taken through ssh": (
        "hosts:\n  - a\n  - me@a\n",
        "inv.yaml:3:5: hosts[1]: the name a is taken by hosts[0], line 2",
    ),
    "a port in hexadecimal": (
        "hosts: [{name: a, port: 0x16}]\n",
        (
            "inv.yaml:1:25: hosts[0].port: must be a number in plain decimal digits, "
            "found 0x16, which YAML 1.1 reads as 22"
        ),
    ),
    "a port in octal": (
        "hosts: [{name: a, port: 010}]\n",
        (
            "inv.yaml:1:25: hosts[0].port: must be a number in plain decimal digits, "
            "found 010, which YAML 1.1 reads as 8"
        ),
    ),
    "a port in base sixty": (
        "hosts: [a]\nrendezvous: {port: 22:22}\n",
        (
            "inv.yaml:2:20: rendezvous.port: must be a number in plain decimal digits, "
            "found 22:22, which YAML 1.1 reads as 1342"
        ),
    ),
    "a port with an underscore": (
        "hosts: [{name: a, port: 1_000}]\n",
        (
            "inv.yaml:1:25: hosts[0].port: must be a number in plain decimal digits, "
            "found 1_000, which YAML 1.1 reads as 1000"
        ),
    ),
    "a port that only looks like a number": (
        "hosts: [{name: a, port: 0b_}]\n",
        (
            "inv.yaml:1:25: hosts[0].port: must be a number in plain decimal digits, "
            "found 0b_, which YAML 1.1 reads as a number"
        ),
    ),
    "a port in quotes": (
        'hosts: [{name: a, port: "22"}]\n',
        "inv.yaml:1:25: hosts[0].port: must be a whole number, found the text '22'",
    ),
    "a port with an exponent": (
        "hosts: [{name: a, port: 1e3}]\n",
        "inv.yaml:1:25: hosts[0].port: must be a whole number, found 1e3",
    ),
    "a port that is a date": (
        "hosts: [{name: a, port: 2024-01-01}]\n",
        "inv.yaml:1:25: hosts[0].port: must be a whole number, found 2024-01-01",
    ),
    "a port that is null": (
        "hosts: [{name: a, port: null}]\n",
        (
            "inv.yaml:1:25: hosts[0].port: null is YAML's word for no value "
            '(leave it out, or quote it: "null")'
        ),
    ),
    "a port that is a truth": (
        "hosts: [{name: a, port: yes}]\n",
        (
            "inv.yaml:1:25: hosts[0].port: must be a whole number, "
            "found yes, which YAML 1.1 reads as true"
        ),
    ),
    "a port that is a fraction": (
        "hosts: [{name: a, port: 22.5}]\n",
        "inv.yaml:1:25: hosts[0].port: must be a whole number, found 22.5",
    ),
    "a port that is too large": (
        "hosts: [{name: a, port: 65536}]\n",
        "inv.yaml:1:25: hosts[0].port: must be at most 65535, found 65536",
    ),
    "a port of a thousand digits": (
        f"hosts: [{{name: a, port: {'1' * 5000}}}]\n",
        f"inv.yaml:1:25: hosts[0].port: must be a whole number, found '{'1' * 57}...'",
    ),
    "workers that are none": (
        "hosts: [{name: a, nproc_per_node: 0}]\n",
        (
            "inv.yaml:1:35: hosts[0].nproc_per_node: must be at least 1 or 'gpu', 'cpu' or 'auto', "
            "found 0"
        ),
    ),
    "workers of another kind": (
        "hosts: [{name: a, nproc_per_node: tpu}]\n",
        (
            "inv.yaml:1:35: hosts[0].nproc_per_node: must be a whole number or "
            "'gpu', 'cpu' or 'auto', found tpu"
        ),
    ),
    "a truth in YAML 1.1's words": (
        "hosts: [a]\nsame_machine: yes\n",
        (
            "inv.yaml:2:15: same_machine: must be true or false, "
            "found yes, which YAML 1.1 reads as true"
        ),
    ),
    "a truth in quotes": (
        "hosts: [a]\nsame_machine: 'true'\n",
        "inv.yaml:2:15: same_machine: must be true or false, found the text 'true'",
    ),
    "a section that is a number": (
        "hosts: [a]\njob: 0x16\n",
        "inv.yaml:2:6: job: must be a mapping, found 0x16, which YAML 1.1 reads as 22",
    ),
    "a mapping for a value": (
        "hosts: [{name: {a: b}}]\n",
        "inv.yaml:1:16: hosts[0].name: must be a single value, found a mapping",
    ),
    "a bare truth in env": (
        "hosts: [{name: a, env: {A: on}}]\n",
        (
            "inv.yaml:1:28: hosts[0].env.A: on is a truth value to YAML, not text "
            '(put it in quotes: "on")'
        ),
    ),
    "nothing in env": (
        "hosts: [a]\njob:\n  env:\n    A:\n",
        "inv.yaml:4:7: job.env.A: has no value (give one, or leave it out)",
    ),
    "a name in env": (
        "hosts: [a]\njob:\n  env:\n    A=1: 2\n",
        "inv.yaml:4:5: job.env.A=1: 'A=1' is not an environment variable's name",
    ),
    "env that is a list": (
        "hosts: [a]\njob:\n  env: [A=1]\n",
        ("inv.yaml:3:8: job.env: must be a mapping, found a list (NAME: value, on a line each)"),
    ),
    "a bare null in args": (
        "hosts: [a]\njob: {args: [a, ~]}\n",
        (
            "inv.yaml:2:17: job.args[1]: ~ is YAML's word for no value "
            '(leave it out, or quote it: "~")'
        ),
    ),
    "a bare truth in args": (
        "hosts: [a]\njob: {args: [--amp, True]}\n",
        (
            "inv.yaml:2:21: job.args[1]: True is a truth value to YAML, not text "
            '(put it in quotes: "True")'
        ),
    ),
    "a list in args": (
        "hosts: [a]\njob: {args: [[a]]}\n",
        "inv.yaml:2:14: job.args[0]: must be text, found a list",
    ),
    "args in one line": (
        "hosts: [a]\njob: {args: --epochs 3}\n",
        "inv.yaml:2:13: job.args: must be a list, found '--epochs 3' (write [--epochs, 3])",
    ),
    "a NUL in args": (
        'hosts: [a]\njob: {args: ["\\0"]}\n',
        "inv.yaml:2:14: job.args[0]: an argument holds no NUL",
    ),
    "an empty script": (
        "hosts: [a]\njob: {script: ''}\n",
        "inv.yaml:2:15: job.script: must be text that is not empty, found the text ''",
    ),
    "a home that is null": (
        "hosts: [{name: a, workdir: ~}]\n",
        (
            "inv.yaml:1:28: hosts[0].workdir: ~ is YAML's word for no value "
            '(leave it out, or quote it: "~")'
        ),
    ),
    "a home of nobody": (
        "hosts: [{name: a, identity_file: ~no.such.user/id}]\n",
        "inv.yaml:1:34: hosts[0].identity_file: ~no.such.user has no home folder on this machine",
    ),
    "script and module": (
        "hosts: [a]\njob: {script: a.py, module: a}\n",
        "inv.yaml:2:6: job: give script or module, not both",
    ),
    "a duration": (
        "hosts: [a]\nrendezvous: {timeout: 10 days}\n",
        "inv.yaml:2:23: rendezvous.timeout: '10 days' is not a duration such as 30s, 10m or 2h",
    ),
    "no time at all": (
        "hosts: [a]\nrendezvous: {timeout: 0}\n",
        "inv.yaml:2:23: rendezvous.timeout: must be more than 0, found 0",
    ),
    "too little patience": (
        "hosts: [a]\njob: {lost_after: 5s}\n",
        "inv.yaml:2:19: job.lost_after: must be at least 10, found 5s",
    ),
    "another backend": (
        "hosts: [a]\nrendezvous: {backend: etcd}\n",
        "inv.yaml:2:23: rendezvous.backend: must be 'c10d', found etcd",
    ),
    "a default that is wrong, once": (
        "hosts: [a, b]\ndefaults: {port: 0, env: {1: x}}\n",
        (
            "inv.yaml:2:18: defaults.port: must be at least 1, found 0\n"
            "inv.yaml:2:27: defaults.env.1: '1' is not an environment variable's name"
        ),
    ),
    "a default that differs from host to host": (
        "hosts: [a]\ndefaults: {addr: 10.0.0.1}\n",
        "inv.yaml:2:12: defaults.addr: unknown field (it differs from host to host: give it there)",
    ),
    "defaults that are a list": (
        "hosts: [a]\ndefaults: [user]\n",
        "inv.yaml:2:11: defaults: must be a mapping, found a list",
    ),
    # YAML itself
    "an empty file": ("", "inv.yaml: is empty (an inventory names at least its hosts)"),
    "comments alone": ("# x\n", "inv.yaml: is empty (an inventory names at least its hosts)"),
    "a list": ("- a\n", "inv.yaml:1:1: must be a mapping with an entry hosts, found a list"),
    "a word": ("gpu1\n", "inv.yaml:1:1: must be a mapping with an entry hosts, found gpu1"),
    "an empty document": (
        "---\n",
        "inv.yaml:2:1: must be a mapping with an entry hosts, found nothing",
    ),
    "a second document": (
        "hosts: [a]\n---\nhosts: [b]\n",
        "inv.yaml:2:1: a second document begins here (a file is one inventory)",
    ),
    "a key twice": (
        "hosts:\n  - name: a\n    port: 1\n    port: 2\n",
        "inv.yaml:4:5: hosts[0].port: stands here a second time; the first is on line 3",
    ),
    "an anchor and an alias": (
        "hosts:\n  - &x a\n  - *x\n",
        (
            "inv.yaml:2:5: hosts[0]: the anchor &x is refused (leave it out)\n"
            "inv.yaml:3:5: hosts[1]: the alias *x is refused (write it out)"
        ),
    ),
    "a merge key": (
        "hosts:\n  - name: a\n    <<: *x\n",
        "inv.yaml:3:5: hosts[0]: the merge key << is refused (write the entries out)",
    ),
    "a tag": (
        "hosts: [!!str a]\n",
        "inv.yaml:1:9: hosts[0]: the tag !!str is refused (leave it out)",
    ),
    "a tag that would run code": (
        "hosts: !!python/object/apply:os.system [id]\n",
        "inv.yaml:1:8: hosts: the tag !!python/object/apply:os.system is refused (leave it out)",
    ),
    "a key that is a list": (
        "hosts: [a]\n? [b]\n: c\n",
        "inv.yaml:2:3: a key must be a word (a { may want quotes)",
    ),
    "half a surrogate pair": (
        'hosts: [a, "\\ud800"]\n',
        "inv.yaml:1:12: hosts[1]: half of a surrogate pair is no character",
    ),
    "a tab": (
        "hosts:\n\t- a\n",
        (
            "inv.yaml:2:1: found character '\\t' that cannot start any token, "
            "while scanning for the next token (indent with spaces, not tabs)"
        ),
    ),
    "a bare star": (
        "hosts: [a]\njob: {args: [*.pt]}\n",
        (
            "inv.yaml:2:15: expected alphabetic or numeric character, but found '.', "
            "while scanning an alias (put the text in quotes)"
        ),
    ),
    "an open bracket": (
        "hosts: [a\n",
        (
            "inv.yaml:2:1: expected ',' or ']', but got '<stream end>', while parsing a flow "
            "sequence (a [ or { is not closed)"
        ),
    ),
    "an entry that is not beneath the others": (
        "hosts:\n  - name: a\n   port: 3\n",
        (
            "inv.yaml:3:4: expected <block end>, but found '<block mapping start>', while parsing "
            "a block collection (entries of one list or mapping begin in the same column)"
        ),
    ),
    "a control character": (
        "hosts:\n  - a\x07\n",
        "inv.yaml:2:6: the character '\\x07' is not allowed in YAML",
    ),
    "an escape beyond Unicode": (
        'hosts: ["\\UFFFFFFFF"]\n',
        "inv.yaml:1:9: an escape or a number after this cannot be read",
    ),
    "deep nesting": (
        "[" * 100_000,
        "inv.yaml:1:33: nested more than 32 deep",
    ),
    "many values": (
        "hosts: [a]\njob: {args: [" + "a," * 100_000 + "]}\n",
        "inv.yaml:2:99998: holds more than 50,000 values",
    ),
    "a large text": (
        "#" * (1024 * 1024 + 1),
        "inv.yaml: is over 1 MiB (an inventory is a few lines per host)",
    ),
}


@pytest.mark.parametrize(("text", "lines"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(text, lines):
    assert "\n".join(errors(text)) == lines


def test_all_problems_are_told_at_once_in_the_order_of_their_lines():
    text = """
hosts:
  - name: a
    port: 0x16
    prot: 1
  - gpu[4-2]
  - {ssh: "a b", addr: *x}
  - a
defaults: {user: -x}
job: {max_restarts: -1}
gpus: 3
"""
    assert errors(text) == [
        (
            "inv.yaml:4:11: hosts[0].port: must be a number in plain decimal digits, "
            "found 0x16, which YAML 1.1 reads as 22"
        ),
        "inv.yaml:5:5: hosts[0].prot: unknown field (did you mean port?)",
        "inv.yaml:6:5: hosts[1]: gpu[4-2]: 4-2 counts down; write 2-4",
        "inv.yaml:7:5: hosts[2].name: is missing",
        "inv.yaml:7:11: hosts[2].ssh: 'a b' is not a host name or address",
        "inv.yaml:7:24: hosts[2].addr: the alias *x is refused (write it out)",
        "inv.yaml:8:5: hosts[3]: the name a is taken by hosts[0], line 3",
        "inv.yaml:9:18: defaults.user: '-x' is not a user name",
        "inv.yaml:10:21: job.max_restarts: must be at least 0, found -1",
        "inv.yaml:11:1: gpus: unknown field (did you mean defaults.gpus?)",
    ]


def test_hundreds_of_problems_are_counted():
    text = "hosts: [a]\n" + "".join(f"x{i}: 1\n" for i in range(300))
    assert len(errors(text)) == 300
    with pytest.raises(InventoryError) as caught:
        load_text(text, "inv.yaml")
    assert len(str(caught.value).splitlines()) == 51
    assert str(caught.value).endswith("\n... and 250 more")


def test_a_problem_can_be_taken_apart():
    with pytest.raises(InventoryError) as caught:
        load_text("hosts: [a]\njbo: {}\n", "inv.yaml")
    assert caught.value.problems == (
        Problem(
            source="inv.yaml",
            line=2,
            column=1,
            field="jbo",
            message="unknown field",
            hint="did you mean job?",
        ),
    )
    assert str(caught.value) == "inv.yaml:2:1: jbo: unknown field (did you mean job?)"


# --- files that cannot be read ------------------------------------------------------------------


def load_error(path: Path | str) -> str:
    with pytest.raises(InventoryError) as caught:
        load(path)
    return str(caught.value)


def test_a_missing_file(tmp_path):
    path = tmp_path / "none.yaml"
    assert load_error(path) == (
        f"{path}: no such file (give the path of an inventory, or write one there: "
        "it names your hosts)"
    )


def test_a_folder(tmp_path):
    assert load_error(tmp_path) == f"{tmp_path}: is a folder (name a file in it)"


def test_a_file_that_may_not_be_read(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so ask nobody
    assert load_error("inv.yaml") == "inv.yaml: may not be read (see who owns it, and its mode)"


def test_a_path_through_a_file(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "inv.yaml"
    assert load_error(path) == f"{path}: cannot be read: Not a directory"


def test_a_path_that_is_none():
    assert load_error("a\0b") == "'a\\x00b': is no path"


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "inv.yaml"
    path.write_bytes("hosts:\n  - ä".encode() + b"\xff\n")
    assert load_error(path) == f"{path}:2:6: the byte 0xff is not UTF-8 (save the file as UTF-8)"


def test_a_large_file_is_large_even_where_it_is_torn(tmp_path):
    path = tmp_path / "inv.yaml"
    path.write_bytes("ä".encode() * 1024 * 1024)
    assert load_error(path) == f"{path}: is over 1 MiB (an inventory is a few lines per host)"


# --- names on the command line ------------------------------------------------------------------


def test_names():
    assert from_names("gpu1,user@host:2222, gpu[2,4],me@n[1-2]:22") == Inventory(
        hosts=(
            Host(name="gpu1"),
            Host(name="host", ssh="user@host:2222"),
            Host(name="gpu2"),
            Host(name="gpu4"),
            Host(name="n1", ssh="me@n1:22"),
            Host(name="n2", ssh="me@n2:22"),
        )
    )


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("", "-H: hosts[0]: '' is not of the form [user@]host[:port]"),
        ("a,,b", "-H: hosts[1]: '' is not of the form [user@]host[:port]"),
        ("a,b,me@a", "-H: hosts[2]: the name a is taken by hosts[0]"),
        (
            "a,-b",
            "-H: hosts[1]: '-b' is not a host name (letters, digits, and . _ - inside)",
        ),
        (
            "a,gpu[1,4-3]",
            "-H: hosts[1]: gpu[1,4-3]: 4-3 counts down; write 3-4",
        ),
        ("a:0", "-H: hosts[0]: port 0 is not between 1 and 65535"),
    ],
)
def test_names_that_are_refused(names, line):
    with pytest.raises(InventoryError) as caught:
        from_names(names)
    assert str(caught.value) == line
