"""Where a host is and how one gets in; ssh itself reads its configuration."""

from __future__ import annotations

import getpass
import shutil

import pytest

from inventory.model import Host
from orchestrator.errors import HostError
from orchestrator.host.target import expanded, resolve

real_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def configured(home):
    """A function that resolves a host under an ssh configuration."""

    def resolved(text: str, **fields):
        file = home / "config"
        file.write_text(text)
        return resolve(Host(**({"name": "gpu1", "ssh_config": str(file)} | fields)))

    return resolved


def key(home, name: str) -> str:
    file = home / ".ssh" / name
    file.write_text("a key")
    return str(file)


# --- with ssh -----------------------------------------------------------------------------------


@real_ssh
def test_the_users_configuration_is_read(configured, home):
    (home / "more").write_text("Host gpu1\n  Port 2222\n")
    mine = key(home, "mine")
    target = configured(
        f"Include {home}/more\nHost gpu*\n  HostName 192.0.2.7\n  User alice\n"
        f"  IdentityFile {mine}\n  IdentityFile {home}/absent\n  IdentitiesOnly yes\n"
        f"  HostKeyAlias the-gpu\n  UserKnownHostsFile {home}/kh1 {home}/kh2\n"
        f"  GlobalKnownHostsFile {home}/kh3\nHost other\n  User bob\n"
    )
    assert (target.host, target.port, target.user) == ("192.0.2.7", 2222, "alice")
    assert target.identity_files == (mine,)
    assert target.use_agent is False
    assert target.known_hosts == (f"{home}/kh1", f"{home}/kh2", f"{home}/kh3")
    assert target.host_key_name == "the-gpu"
    assert target.name == "gpu1"


@real_ssh
def test_the_inventory_wins(configured, home):
    named = key(home, "named")
    target = configured(
        f"Host *\n  Port 2222\n  User alice\n  IdentityFile {key(home, 'mine')}\n",
        ssh="bob@gpu9:2200",
        identity_file=named,
        known_hosts="~/kh",
    )
    assert (target.host, target.port, target.user) == ("gpu9", 2200, "bob")
    assert target.identity_files == (named,)
    assert target.use_agent is False
    assert target.known_hosts == (f"{home}/kh",)


@real_ssh
def test_an_empty_configuration(configured):
    target = configured("")
    assert (target.host, target.port, target.user) == ("gpu1", 22, getpass.getuser())
    assert target.use_agent is True
    assert target.host_key_name is None


@real_ssh
@pytest.mark.parametrize(
    ("line", "option"),
    [("ProxyJump gate", "proxyjump gate"), ("ProxyCommand nc %h %p", "proxycommand nc")],
)
def test_a_way_that_is_not_there_yet_is_refused(configured, line, option):
    with pytest.raises(HostError) as caught:
        configured(f"Host gpu1\n  {line}\n")
    assert caught.value.check == "ssh.jump"
    assert option in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@real_ssh
@pytest.mark.parametrize("line", ["ProxyJump none", "ProxyCommand none"])
def test_no_jump_is_no_jump(configured, line):
    assert configured(f"Host gpu1\n  {line}\n").host == "gpu1"


@real_ssh
def test_a_broken_configuration_is_told_in_ssh_s_words(configured):
    with pytest.raises(HostError, match=r"[Bb]ad configuration option") as e:
        configured("Nonsense yes\n")
    assert e.value.check == "ssh.config"
    assert "\n" not in e.value.message


# --- without ------------------------------------------------------------------------------------


@pytest.fixture
def no_ssh(home, monkeypatch):
    (home / "bin").mkdir()
    monkeypatch.setenv("PATH", str(home / "bin"))
    return home


def test_without_an_ssh_program(no_ssh):
    mine = key(no_ssh, "id_ed25519")
    target = resolve(Host(name="gpu1", user="alice"))
    assert (target.host, target.port, target.user) == ("gpu1", 22, "alice")
    assert target.identity_files == (mine,)
    assert target.known_hosts == (
        f"{no_ssh}/.ssh/known_hosts",
        "/etc/ssh/ssh_known_hosts",
    )


def test_the_inventory_may_want_no_configuration(configured):
    target = configured("Host gpu1\n  Port 2222\n", ssh_config="none")
    assert target.port == 22


def test_a_named_key_that_is_not_there(no_ssh):
    with pytest.raises(HostError) as caught:
        resolve(Host(name="gpu1", identity_file="~/.ssh/absent"))
    assert caught.value.message == f"no such key: {no_ssh}/.ssh/absent"
    assert caught.value.check == "ssh.auth"


@pytest.mark.parametrize("field", ["identity_file", "known_hosts"])
def test_a_home_that_is_nobodys_is_no_crash(no_ssh, field):
    fields = {"name": "gpu1", field: "~no-such-user-here/x"}
    if field == "identity_file":
        with pytest.raises(HostError, match="no such key"):
            resolve(Host(**fields))
    else:
        assert resolve(Host(**fields)).known_hosts == ("~no-such-user-here/x",)


def test_expanded(home):
    assert expanded("~/x") == f"{home}/x"
    assert expanded("/~/x") == "/~/x"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "ssh alice@gpu1"),
        ({"port": 2222}, "ssh -p 2222 alice@gpu1"),
        ({"identity_file": "~/.ssh/k"}, "ssh -i {home}/.ssh/k alice@gpu1"),
    ],
)
def test_the_same_by_hand(no_ssh, fields, line):
    key(no_ssh, "k")
    target = resolve(Host(name="gpu1", user="alice", **fields))
    assert target.by_hand == line.format(home=no_ssh)
