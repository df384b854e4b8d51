"""ssh's configuration, asked of ssh and, where there is none, read as ssh would."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.model import Host
from orchestrator.errors import HostError
from orchestrator.host import configfile
from orchestrator.host.configfile import read_configuration
from orchestrator.host.patterns import argv_split, fits_any, like
from orchestrator.host.proxy import ProxySocket
from orchestrator.host.sshconfig import ask_ssh
from orchestrator.host.target import resolve

SSH = shutil.which("ssh")
real_ssh = pytest.mark.skipif(SSH is None, reason="needs ssh")
# What decides where a connection goes, and by whom it is checked and made.
DECIDING = (
    "hostname user port proxyjump proxycommand addressfamily bindaddress bindinterface "
    "connecttimeout hostkeyalias stricthostkeychecking identityagent identitiesonly proxyusefdpass"
).split()
DEFAULTS = {
    "addressfamily": "any",
    "connecttimeout": "none",
    "stricthostkeychecking": "ask",
    "identitiesonly": "no",
    "proxyusefdpass": "no",
}


@pytest.fixture(autouse=True)
def no_system_file(monkeypatch):
    monkeypatch.setattr(configfile, "SYSTEM", "/nonexistent/ssh_config")


def decided(found: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key in DECIDING
        if (value := found.get(key, DEFAULTS.get(key, "none"))) != "none"
    }


def same(file, name="gpu1", user=None, port=None) -> dict[str, str]:
    """Return what both say, who must agree."""
    ours = decided(read_configuration(name, user, port, str(file)))
    assert SSH
    assert ours == decided(ask_ssh(SSH, name, user, port, str(file)))
    return ours


CONFIGS = {
    "the first value stands": "Host gpu1\n Port 1\nHost *\n Port 2\n User alice\n",
    "before any Host": "Port 3\nHost gpu1\n Port 1\n",
    "patterns": "Host g?u* !gpu2\n Port 4\nHost !gpu1 *\n Port 5\n",
    "a negated pattern ends it": "Host gpu1 !gpu* other\n Port 6\nHost !other\n Port 7\n",
    "brackets are no pattern": "Host gpu[12]\n Port 8\n",
    "letters' case": "Host GPU1\n Port 9\nhOST gpu1\n pORT 10\n",
    "equals signs and quotes": 'Host="gpu1"\n Port = 11\n User="bob"\n "HostName" \'x.lan\'\n',
    "a comment behind a value": "Host gpu1 # mine\n Port 12 # or so\n User bob#x\n",
    "a comment is a proxy command's own": "ProxyCommand nc %h %p # 5\n",
    "quotes are a proxy command's own": "ProxyCommand sh -c 'nc \"$0\" %p' %h \\# =\n",
    "tokens of HostName": "HostName %h.lan%%x\n",
    "HostName in capitals": "HostName GPU.Lan\n",
    "jump first": "ProxyJump g1,g2\nProxyCommand nc x\n",
    "command first": "ProxyCommand nc x\nProxyJump g1\n",
    "no jump": "ProxyJump none\nProxyCommand nc x\n",
    "no command": "ProxyCommand none\nProxyJump g1\n",
    "times": "ConnectTimeout 1m30s\n",
    "no time": "ConnectTimeout none\n",
    "spellings": "StrictHostKeyChecking off\nIdentitiesOnly true\nAddressFamily INET\n",
    "more spellings": "StrictHostKeyChecking accept-new\nIdentitiesOnly no\nProxyUseFdpass yes\n",
    "Match all": "Match all\n Port 13\n",
    "Match host sees HostName": "HostName x\nMatch host x\n Port 14\nMatch host gpu1\n Port 1\n",
    "Match host, no HostName yet": "Match host gpu1\n HostName x.lan\n Port 16\n",
    "Match originalhost": "HostName x\nMatch originalhost a,gpu*,!gpu2\n Port 17\n",
    "Match in capitals": "Match HOST GPU1\n Port 18\n",
    "Match user": "User alice\nMatch user al*,bob\n Port 19\n",
    "Match another user": "Match user nobody-at-all\n Port 20\n",
    "Match localuser": "Match localuser nobody-at-all\n Port 21\nMatch localuser *\n Port 22\n",
    "Match not": "Match !host gpu2 !user carol\n Port 23\n",
    "Match all of several": "Match host gpu1 user nobody-at-all\n Port 24\n",
    "Match with equals": "Match host=gpu1\n Port 25\n",
    "Match exec that does not matter": "Match host other exec true\n Port 26\n",
    "Include": "Include {dir}/in*.conf\nPort 27\n",
    "Include in a Host that fits not": "Host other\n Include {dir}/inc1.conf\nHost *\n Port 28\n",
    "Include does not end a Host": "Host gpu1\n Include {dir}/inc2.conf\n Port 29\n",
    "Include of nothing": "Include {dir}/absent*\nPort 30\n",
    "Include within Include": "Include {dir}/outer.conf\n",
    "Include of several": 'Include {dir}/absent "{dir}/inc1.conf"\n',
    "tabs and blanks": "\t Host \t gpu1\t\n\n#x\n  #y\n\tPort\t31\r\n",
    "an alias": "HostKeyAlias the-gpu\nBindAddress 127.0.0.1\nIdentityAgent /run/a\n",
}


@pytest.fixture
def included(tmp_path):
    for name, text in (
        ("inc1.conf", "User carol\nHost gpu1\n HostName one.lan\n"),
        ("inc2.conf", "Host other\n HostName two.lan\n"),
        (
            "outer.conf",
            f"Host gpu*\n Include {tmp_path}/inc1.conf\n Port 40\nMatch all\n Port 41\n",
        ),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@real_ssh
@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(("user", "port"), [(None, None), ("alice", 2200)])
def test_without_ssh_the_answers_are_those_of_ssh(included, text, user, port):
    file = included / "config"
    file.write_text(text.replace("{dir}", str(included)))
    found = same(file, user=user, port=port)
    if port:
        assert (found["user"], found["port"]) == (user, str(port))


NAMES = st.sampled_from(["gpu1", "gpu2", "x.lan", "GPU1", "g"])
PATTERNS = st.sampled_from(["gpu1", "gpu*", "!gpu2", "*", "?pu1", "*.lan", "!*.lan", "GPU?", "g"])
LINES = st.one_of(
    st.lists(PATTERNS, min_size=1, max_size=3).map(lambda p: f"Host {' '.join(p)}"),
    st.builds("Match {}host {}".format, st.sampled_from(["", "!", "original"]), PATTERNS),
    st.builds("Match host {},{} user {}".format, PATTERNS, PATTERNS, st.sampled_from(["a*", "!b"])),
    st.builds("HostName {}".format, st.sampled_from(["%h.lan", "x.lan", "gpu2", "10.0.0.1"])),
    st.builds("User {}".format, st.sampled_from(["a1", "b"])),
    st.builds("Port {}".format, st.integers(1, 9)),
    st.sampled_from(["ProxyJump a,b", "ProxyJump none", "ProxyCommand x %h", "ProxyCommand none"]),
)


@pytest.mark.slow
@real_ssh
@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINES, max_size=8), name=NAMES, user=st.sampled_from([None, "a1", "b"]))
def test_any_configuration_is_read_as_ssh_reads_it(tmp_path_factory, lines, name, user):
    file = tmp_path_factory.getbasetemp() / "any_config"
    file.write_text("\n".join(lines) + "\n")
    same(file, name, user)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('\nMatch exec "true"\n Port 1\n', 2, "Match exec"),
        ("Match tagged x\n", 1, "Match tagged"),
        ("Match host gpu1 !exec false\n", 1, "Match exec"),
        ("Match final\n", 1, "Match final"),
        ("Match canonical\n", 1, "Match canonical"),
        ("Match nonsense\n", 1, "Match nonsense"),
        ("Match host\n", 1, "Match host"),
        ("CanonicalizeHostname yes\n", 1, "CanonicalizeHostname"),
        ("User %i\n", 1, "%i: tokens"),
        ("User ${HOME}\n", 1, "${HOME}: variables"),
        ("Include ${X}/a\n", 1, "Include"),
        ("Port 0\n", 1, "Port 0"),
        ("Port ssh\n", 1, "Port ssh"),
        ("ConnectTimeout soon\n", 1, "soon"),
        ('Host "gpu1\n', 1, "Host"),
        ("HostName\n", 1, "HostName"),
    ],
)
def test_what_cannot_be_read_as_ssh_would_is_refused(tmp_path, text, line, words):
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(HostError) as caught:
        read_configuration("gpu1", None, None, str(file))
    assert caught.value.check == "ssh.config"
    assert caught.value.message.startswith(f"{file}:{line}: ")
    assert words in caught.value.message
    assert caught.value.hint


def test_only_where_it_matters(tmp_path):
    """For another host it is of no account."""
    file = tmp_path / "config"
    file.write_text("Host gpu1\n CanonicalizeHostname yes\nMatch host gpu1 exec false\n Port 1\n")
    assert read_configuration("gpu2", None, None, str(file))["port"] == "22"


def test_an_include_in_a_circle_and_one_that_others_can_write(tmp_path):
    file = tmp_path / "config"
    file.write_text(f"Include {file}\n")
    file.chmod(0o600)
    with pytest.raises(HostError, match="nested more than 16 deep"):
        read_configuration("gpu1", None, None, str(file))
    (tmp_path / "theirs").write_text("ProxyCommand mine\n")
    (tmp_path / "theirs").chmod(0o666)
    file.write_text(f"Include {tmp_path}/theirs\n")
    with pytest.raises(HostError, match="bad owner or permissions"):
        read_configuration("gpu1", None, None, str(file))


@real_ssh
def test_an_include_that_leads_nowhere_is_passed_over(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    file = tmp_path / "config"
    file.write_text(f"Include {tmp_path}/gone {tmp_path}/absent\nUser bob\n")
    assert same(file)["user"] == "bob"


def test_the_own_file_then_that_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(configfile, "SYSTEM", str(tmp_path / "etc/ssh_config"))
    for folder in (".ssh", "etc"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "more").write_text(f"User from-{folder.strip('.')}\n")
    assert read_configuration("gpu1", None, None, None)["port"] == "22"
    (tmp_path / "etc/ssh_config").write_text("Include more\nPort 1\nIdentityFile b\n")
    assert read_configuration("gpu1", None, None, None)["user"] == "from-etc"
    own = tmp_path / ".ssh/config"
    own.write_text("Include more\nIdentityFile a\nUserKnownHostsFile %d/%h-%n-%p-%r-%k %u\n")
    found = read_configuration("gpu1", None, None, None)
    assert (found["user"], found["port"], found["identityfile"]) == ("from-ssh", "1", "a\nb")
    assert found["userknownhostsfile"].startswith(f"{tmp_path}/gpu1-gpu1-1-from-ssh-gpu1 ")
    with pytest.raises(HostError, match="No such file"):
        read_configuration("gpu1", None, None, str(tmp_path / "absent"))


def test_words_and_patterns():
    assert argv_split(r"""a "b c" d\ e 'f"g' \" "" x#y #z""") == [
        "a", "b c", "d e", 'f"g', '"', "", "x#y",
    ]  # fmt: skip
    assert argv_split("'open") is None
    assert like("a?c*", "abcd")
    assert not like("a.c", "abc")
    assert not like("[a]", "a")
    assert not fits_any(["*", "!b"], "b")
    assert not like("*" * 60 + "x", "a" * 250)


# ---- nothing runs that the configuration does not say ----

TEXTS = st.text(st.sampled_from("ab1._-@%:\\/ $`'\"();|&<>\n\t{}*?!#~="), max_size=30)


@pytest.mark.slow
@real_ssh
@pytest.mark.parametrize("with_ssh", [True, False])
@settings(max_examples=150, deadline=None)
@given(name=TEXTS, user=TEXTS, hostname=TEXTS)
def test_no_shell_runs_what_a_name_says(tmp_path_factory, with_ssh, name, user, hostname):
    """Names are embellished so that every one would leave a trace if a shell saw it."""
    folder = tmp_path_factory.getbasetemp() / f"canary-{with_ssh}"
    folder.mkdir(exist_ok=True)
    canary = folder / "canary"
    trap = f"touch {canary}"
    exec_ = 'Match exec "test %h = x"\n Port 9\n' if with_ssh else ""
    command = "ProxyCommand true %h %n %r %k %p\n"
    # The user's own HostName in the user's own `Match exec` is for ssh to judge, as is the latter.
    own = f'HostName "{hostname.replace(chr(10), "")}$({trap});`{trap}`"\n'
    (folder / "config").write_text(command + own)
    (folder / "plain").write_text(command + exec_)
    path = os.environ["PATH"]
    for fields in (
        {"name": "gpu1", "ssh_config": str(folder / "config")},
        {"name": "gpu1", "ssh_config": str(folder / "plain"), "user": f"{user}$({trap})"},
        {"name": "gpu1", "ssh_config": str(folder / "plain"), "ssh": f"{name}$({trap})"},
        {"name": f"{name};{trap};", "ssh_config": str(folder / "plain")},
        {"name": "gpu1", "ssh_config": str(folder / "plain"), "user": user, "ssh": name},
    ):
        try:
            host = Host(**fields)
        except ValueError:
            continue
        try:
            if not with_ssh:
                os.environ["PATH"] = str(folder)
            target = resolve(host)
        except HostError:
            continue
        finally:
            os.environ["PATH"] = path
        assert target.proxy_command is not None
        assert len(target.proxy_command.split()) == 6, "a word for each token"
        ProxySocket(target).close()
    assert not canary.exists()
