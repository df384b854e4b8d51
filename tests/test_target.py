"""Where a host is and how one gets in; ssh itself reads its configuration."""

from __future__ import annotations

import getpass
import shutil

import pytest

from inventory.model import Host
from orchestrator.errors import HostError
from orchestrator.host.rules import files
from orchestrator.host.target import Target, resolve
from orchestrator.host.tokens import expanded

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
    # One that is named and not there is kept, to be told of.
    assert target.identity_files == (mine, f"{home}/absent")
    assert target.identities_only is True
    assert target.known_hosts == (f"{home}/kh1", f"{home}/kh2", f"{home}/kh3")
    assert target.new_keys == f"{home}/kh1"
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
    assert target.identities_only is True
    assert target.known_hosts == (f"{home}/kh",)


@real_ssh
def test_an_empty_configuration(configured):
    target = configured("")
    assert (target.host, target.port, target.user) == ("gpu1", 22, getpass.getuser())
    assert target.identities_only is False
    assert target.host_key_name is None


def ways(target: Target) -> list[str]:
    return [f"{t.user}@{t.host}:{t.port}" for t in target.jumps]


GATES = """
Host g1
  HostName 192.0.2.1
  User one
Host g2
  HostName 192.0.2.2
  User two
  ProxyJump g1
Host *
  User alice
"""


@real_ssh
@pytest.mark.parametrize(
    ("jump", "expected"),
    [
        ("g1", ["one@192.0.2.1:22"]),
        ("bob@g1:2222", ["bob@192.0.2.1:2222"]),
        ("ssh://bob@g1:2222", ["bob@192.0.2.1:2222"]),
        ("[2001:db8::1]:2222", ["alice@2001:db8::1:2222"]),
        ("g2", ["one@192.0.2.1:22", "two@192.0.2.2:22"]),
        # What stands before it wins over its own; the first one's own counts.
        ("g3,g2", ["alice@g3:22", "two@192.0.2.2:22"]),
        ("g2,g3", ["one@192.0.2.1:22", "two@192.0.2.2:22", "alice@g3:22"]),
        ("%n.gw,%r-%p@g3", ["alice@gpu1.gw:22", "alice-22@g3:22"]),
    ],
)
def test_gateways_are_resolved_as_hosts_are(configured, jump, expected):
    target = configured(f"Host gpu1\n  ProxyJump {jump}\n{GATES}")
    assert ways(target) == expected
    assert target.proxy_command is None
    # Each knows those before it, so that who shares them shares the connection.
    for number, gateway in enumerate(target.jumps):
        assert gateway.jumps == target.jumps[:number]


@real_ssh
def test_one_gateway_is_one_whatever_it_is_called(configured):
    text = f"Host gpu1\n  ProxyJump g1\nHost gpu2\n  ProxyJump one@192.0.2.1\n{GATES}"
    first, second = configured(text), configured(text, name="gpu2")
    assert first.jumps == second.jumps
    assert hash(first.jumps) == hash(second.jumps)
    assert [jump.name for jump in (*first.jumps, *second.jumps)] == ["g1", "192.0.2.1"]


@real_ssh
@pytest.mark.parametrize(
    "text",
    [
        "Host *\n  ProxyJump g1\n",
        "Host gpu1\n  ProxyJump a\nHost a\n  ProxyJump b\nHost b\n  ProxyJump a\n",
        "Host gpu1\n  ProxyJump a,a\n",
    ],
)
def test_a_way_that_leads_back_is_refused(configured, text):
    with pytest.raises(
        HostError, match=r"through itself: (gpu1 -> .* -> |jumphost loop)"
    ) as caught:
        configured(text)
    assert caught.value.check == "ssh.jump"
    assert "ProxyJump none" in caught.value.hint


@real_ssh
def test_another_port_or_user_of_the_same_host_is_no_way_back(configured):
    text = "Match host gpu1 user inner\n  ProxyJump outer@gpu1:2222\n"
    assert ways(configured(text, user="inner")) == ["outer@gpu1:2222"]


@real_ssh
def test_a_proxy_command_and_its_tokens(configured):
    target = configured(
        "Host gpu1\n  ProxyCommand ssh -W %h:%p %r@gate -x '%n %%h %k'\n  HostName %h.lan\n"
        "  HostKeyAlias the-gpu\n",
        user="bob",
        port=2222,
    )
    assert target.proxy_command == "ssh -W gpu1.lan:2222 bob@gate -x 'gpu1 %h the-gpu'"
    assert target.jumps == ()


@real_ssh
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ProxyCommand nc %h %L\n", "there is no token %L"),
        ("ProxyCommand nc %", "there is no token %"),
        ('HostName "x y"\nProxyCommand nc %h\n', "'x y' is not filled in for %h"),
        ("User a\\\nProxyCommand nc %r x\n", "is not filled in for %r"),
        ("HostKeyAlias $(id)\nProxyCommand nc %k\n", "is not filled in for %k"),
        ("ProxyUseFdpass yes\nProxyCommand nc %h\n", "proxyusefdpass yes, which is not"),
        ("BindInterface lo\n", "bindinterface lo, which is not supported"),
        ("ProxyJump a;b\n", "the gateway 'a;b' in ProxyJump is not"),
        ("ProxyJump $(id)\n", "in ProxyJump is not"),
    ],
)
def test_what_is_not_gone_as_ssh_would_is_refused(configured, text, words):
    with pytest.raises(HostError) as caught:
        configured(text)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.check == "ssh.config"


@real_ssh
def test_the_inventory_s_user_and_port_are_seen_by_match(configured):
    text = (
        'Match user bob exec "test %r:%p:%n = bob:2222:gpu1"\n  HostName 192.0.2.5\n'
        "Match user alice\n  HostName 192.0.2.6\nHost *\n  User carol\n  Port 23\n"
    )
    assert configured(text, user="bob", port=2222).host == "192.0.2.5"
    assert configured(text, ssh="alice@gpu1").host == "192.0.2.6"
    target = configured(text)
    assert (target.host, target.user, target.port) == ("gpu1", "carol", 23)


@real_ssh
def test_addresses_and_times(configured):
    text = "AddressFamily inet6\nBindAddress ::1\nConnectTimeout 3\nHostName ::1\n"
    target = configured(text)
    assert (target.family, target.bind_address, target.reach) == ("inet6", "::1", 3.0)
    assert target.host == "::1"
    target = configured("", ssh="bob@[fe80::1%eth0]:2222")
    assert (target.host, target.port, target.user) == ("fe80::1%eth0", 2222, "bob")
    assert configured("", ssh="2001:db8::1").host == "2001:db8::1"


@real_ssh
def test_what_concerns_a_session_alone_is_passed_over(configured):
    target = configured("RemoteCommand tmux\nRequestTTY force\nSessionType none\n")
    assert target.host == "gpu1"


@real_ssh
def test_the_same_by_hand_with_a_configuration(configured, home):
    file = home / "config"
    text = "Host gpu1\n  ProxyJump g3,bob@g1:2222\nHost g3\n  User three\n"
    target = configured(text, user="alice", known_hosts="~/kh")
    assert target.by_hand == f"ssh -F {file} -o UserKnownHostsFile={home}/kh alice@gpu1"
    assert [jump.by_hand for jump in target.jumps] == [
        f"ssh -F {file} g3",
        f"ssh -F {file} -o ProxyJump=g3 -p 2222 bob@g1",
    ]
    # A key is put there on the same way.
    assert [jump.copying_a_key for jump in target.jumps] == [
        f"ssh-copy-id -F {file} g3",
        f"ssh-copy-id -F {file} -o ProxyJump=g3 -p 2222 bob@g1",
    ]


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


# --- whom to trust ------------------------------------------------------------------------------


@real_ssh
@pytest.mark.parametrize(
    ("word", "strict"),
    [("yes", "yes"), ("ask", "yes"), ("no", "no"), ("off", "no"), ("accept-new", "accept-new")],
)
def test_strictness(configured, word, strict):
    assert configured(f"StrictHostKeyChecking {word}\n").strict == strict


@real_ssh
def test_what_ssh_says_of_host_keys(configured, home):
    target = configured(
        "HashKnownHosts yes\nHostKeyAlias The-GPU\nHostKeyAlgorithms ssh-ed25519,rsa-sha2-512\n"
        "RevokedHostKeys ~/revoked\nUserKnownHostsFile %d/kh-%p\n"
    )
    assert target.hash_names is True
    assert target.host_key_name == "the-gpu"  # in lower case, as ssh looks it up
    assert target.key_algorithms == ("ssh-ed25519", "rsa-sha2-512")
    assert target.revoked_keys == (f"{home}/revoked",)
    assert target.new_keys.endswith("/kh-22")


@real_ssh
def test_no_files_at_all(configured):
    target = configured("UserKnownHostsFile none\nGlobalKnownHostsFile none\n")
    assert (target.known_hosts, target.new_keys) == ((), None)


@real_ssh
def test_known_hosts_by_a_command_is_refused(configured):
    with pytest.raises(HostError, match="KnownHostsCommand") as caught:
        configured("KnownHostsCommand /bin/echo %H\n")
    assert caught.value.check == "ssh.config"
    assert configured("KnownHostsCommand /bin/echo %H\n", known_hosts="/kh").new_keys == "/kh"


@pytest.mark.parametrize(
    ("existing", "printed", "parts"),
    [
        ([], "/a /b", ["/a", "/b"]),
        ([], "/my files/kh", ["/my files/kh"]),
        ([], "/my files/kh /b", ["/my files/kh", "/b"]),
        ([], "~/a ~/b", ["HOME/a", "HOME/b"]),
        (["a", "b"], "HOME/a HOME/b", ["HOME/a", "HOME/b"]),
        (["my files/kh"], "HOME/my files/kh HOME/b", ["HOME/my files/kh", "HOME/b"]),
        (["b"], "HOME/my files/kh HOME/b", ["HOME/my files/kh", "HOME/b"]),
        (["odd /kh"], "HOME/odd /kh /b", ["HOME/odd /kh", "/b"]),
        (["two  blanks"], "HOME/two  blanks", ["HOME/two  blanks"]),
        (["a"], "HOME/a relative", ["HOME/a", "relative"]),
        ([], "none", []),
    ],
)
def test_files_with_blanks_in_their_paths(home, existing, printed, parts):
    for name in existing:
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()
    assert files(printed.replace("HOME", str(home))) == [
        part.replace("HOME", str(home)) for part in parts
    ]


# --- without ------------------------------------------------------------------------------------


@pytest.fixture
def no_ssh(home, monkeypatch):
    (home / "bin").mkdir()
    monkeypatch.setenv("PATH", str(home / "bin"))
    return home


def test_without_an_ssh_program_its_configuration_is_read_all_the_same(no_ssh):
    (no_ssh / ".ssh/more").write_text("Host gpu1\n  ProxyJump g1\nHost g1\n  Port 2222\n")
    (no_ssh / ".ssh/config").write_text("Include more\nHost *\n  User bob\n")
    target = resolve(Host(name="gpu1"))
    assert target.user == "bob"
    assert [(t.host, t.port, t.user) for t in target.jumps] == [("g1", 2222, "bob")]
    (no_ssh / ".ssh/config").write_text('Match exec "true"\n  User bob\n')
    with pytest.raises(HostError, match="config:1: Match exec"):
        resolve(Host(name="gpu1"))
    (no_ssh / ".ssh/config").write_text("ProxyJump 2001:db8::1\n")
    with pytest.raises(HostError, match="stands in brackets"):
        resolve(Host(name="gpu1"))


def test_without_an_ssh_program(no_ssh):
    mine = key(no_ssh, "id_ed25519")
    target = resolve(Host(name="gpu1", user="alice"))
    assert (target.host, target.port, target.user) == ("gpu1", 22, "alice")
    assert target.identity_files == (mine,)
    assert target.known_hosts == (
        f"{no_ssh}/.ssh/known_hosts",
        f"{no_ssh}/.ssh/known_hosts2",
        "/etc/ssh/ssh_known_hosts",
        "/etc/ssh/ssh_known_hosts2",
    )
    assert target.new_keys == f"{no_ssh}/.ssh/known_hosts"
    assert (target.strict, target.key_algorithms) == ("yes", None)


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
        (
            {"identity_file": "~/.ssh/k"},
            "ssh -i {home}/.ssh/k -o IdentitiesOnly=yes alice@gpu1",
        ),
        ({"ssh": "[2001:db8::1]:22"}, "ssh -p 22 alice@2001:db8::1"),
        ({"ssh_config": "none"}, "ssh -F none alice@gpu1"),
    ],
)
def test_the_same_by_hand(no_ssh, fields, line):
    key(no_ssh, "k")
    target = resolve(Host(name="gpu1", user="alice", **fields))
    assert target.by_hand == line.format(home=no_ssh)
