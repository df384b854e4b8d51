"""Getting in, and being told why not: real keys, certificates, agents and sshds; ssh is the judge.

Where real ssh has the same configuration, it must get in where we do, and offer the same keys.
"""

from __future__ import annotations

import base64
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.hosts.keys import Agent, at_a_terminal, certify, make_key
from tests.hosts.processes import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

# Each restarts an sshd or two; what needs none is in tests/test_login.py.
pytestmark = pytest.mark.slow


class AsIf(NamedTuple):
    name: str
    address: str


class Site:
    """A folder of keys, an ssh configuration, and what logs in with them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.hosts: list[NsHost] | list[AsIf] = cluster.hosts[:1]
        self.config = "none"
        self.env: dict[str, str] = {}
        self.defaults: dict[str, str] = {}

    def key(self, name: str, *words: str, passphrase: str = "") -> Path:
        return make_key(self.folder / name, *words, passphrase=passphrase)

    def lets_in(self, *keys: Path, **options: str) -> None:
        """Start the hosts' sshds anew: they take these keys."""
        allowed = self.folder / "authorized_keys"
        allowed.write_text("".join(Path(f"{key}.pub").read_text() for key in keys))
        for host in self.hosts:
            assert not isinstance(host, AsIf)
            host.restart_sshd({"AuthorizedKeysFile": str(allowed), **options})

    def configure(self, *lines: str) -> None:
        file = self.folder / "config"
        file.write_text("\n".join(lines) + "\n")
        self.config = str(file)

    def argv(self, *verb: str) -> list[str]:
        inventory = self.folder / "inventory.yaml"
        defaults = {
            "known_hosts": str(self.cluster.known_hosts),
            "ssh_config": self.config,
            "python": sys.executable,
            **self.defaults,
        }
        hosts = "".join(f"- {{name: {h.name}, ssh: root@{h.address}}}\n" for h in self.hosts)
        lines = "".join(f"  {key}: {value}\n" for key, value in defaults.items())
        inventory.write_text(f"hosts:\n{hosts}defaults:\n{lines}")
        return [sys.executable, "-m", "orchestrator", verb[0], str(inventory), *verb[1:]]

    def exec(self) -> subprocess.CompletedProcess[str]:
        return self.cluster.run(self.argv("exec", "--", "echo in"), env=self.env, timeout=120)

    def gets_in(self) -> str:
        """Say what it printed: everybody must be in."""
        done = self.exec()
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(done.stdout.splitlines()) == sorted(f"{h.name}| in" for h in self.hosts)
        return done.stderr

    def refused(self) -> str:
        """Return the two lines that say why, and what to do."""
        done = self.exec()
        assert done.returncode == 4, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 2, done.stderr
        return done.stderr

    def ssh(self, *options: str) -> subprocess.CompletedProcess[str]:
        words = [word for option in ("BatchMode=yes", *options) for word in ("-o", option)]
        words += ["-o", f"UserKnownHostsFile={self.cluster.known_hosts}"]
        host = f"root@{self.hosts[0].address}"
        argv = ["ssh", "-v", "-F", self.config, *words, host, "true"]
        return self.cluster.run(argv, env=self.env)

    def ssh_gets_in(self, *options: str) -> bool:
        return self.ssh(*options).returncode == 0


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Site]:
    folder = cluster.folder / "site"  # where the hosts see it too
    folder.mkdir()
    yield Site(cluster, folder)
    shutil.rmtree(folder)


@pytest.fixture
def agent(site: Site) -> Iterator[Agent]:
    running = Agent(site.folder)
    yield running
    running.end()


# --- key files ----------------------------------------------------------------------------------

KINDS = (
    "-t ed25519",
    "-t ecdsa -b 256",
    "-t ecdsa -b 521",
    "-t ecdsa -b 384 -m PEM",
    "-t rsa -b 2048",
    "-t rsa -b 2048 -m PEM",
    "-t rsa -b 2048 -m PKCS8",
)


def test_every_kind_of_key_in_every_format_logs_in(site: Site) -> None:
    for kind in KINDS:
        key = site.key(kind.replace(" ", ""), *kind.split())
        site.lets_in(key)
        site.configure(f"IdentityFile {key}", "IdentitiesOnly yes")
        site.gets_in()


def test_tokens_and_a_home_in_the_name_of_a_key(site: Site) -> None:
    key = make_key(site.cluster.home / ".ssh/root at 10.77.0.9:22")
    site.lets_in(key)
    site.configure('IdentityFile "~/.ssh/%r at %h:%p"', "IdentityFile none")
    site.gets_in()
    site.configure('IdentityFile "${KEYS}/%r at %n:%p"')
    site.env = {"KEYS": str(key.parent)}
    site.gets_in()
    assert site.ssh_gets_in()


def test_a_key_that_others_can_read_is_left_out_as_ssh_does(site: Site) -> None:
    key = site.key("open")
    key.chmod(0o640)
    site.lets_in(key)
    site.configure(f"IdentityFile {key}")
    said = site.refused()
    assert f"n1: takes {key}, but that is left out: others can read it (mode 0640)" in said
    assert f"-> chmod 600 {key}" in said
    assert not site.ssh_gets_in()
    key.chmod(0o600)
    site.gets_in()
    assert site.ssh_gets_in()


def test_keys_that_nobody_takes_are_named_and_so_is_what_was_left_out(site: Site) -> None:
    site.lets_in(site.key("other"))
    mine, junk = site.key("mine"), site.folder / "junk"
    junk.write_text("hello\n")
    site.configure(f"IdentityFile {mine}", f"IdentityFile {junk}", "IdentityFile /absent")
    said = site.refused()
    assert f"n1: refuses to log in root (keys offered: {mine}; left out: " in said
    assert f"{junk} is no private key" in said
    assert "/absent is not there" in said
    assert "-> try it by hand: ssh -S none -F " in said
    assert f" root@{site.hosts[0].address}\n" in said


def test_a_security_key_and_a_dsa_key_are_told_of(site: Site) -> None:
    other = site.key("other")
    sk = site.folder / "sk"
    blob = ssh_strings(b"sk-ssh-ed25519@openssh.com", bytes(range(32)), b"ssh:")
    sk.write_text(openssh_private(blob))
    sk.chmod(0o600)
    Path(f"{sk}.pub").write_text(f"sk-ssh-ed25519@openssh.com {b64(blob)} sk\n")
    site.lets_in(sk)
    site.configure(f"IdentityFile {sk}")
    said = site.refused()
    assert (
        f"n1: takes {sk}, but that is on a security key, which is used by way of ssh-agent" in said
    )
    assert f"-> ssh-add {sk}" in said
    site.lets_in(other)
    dsa = site.key("dsa", "-t", "dsa")
    site.configure(f"IdentityFile {dsa}")
    said = site.refused()
    assert f"(keys offered: none; left out: {dsa} is a DSA key, which is not supported" in said


def ssh_strings(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def openssh_private(public: bytes) -> str:
    """Make up the file of a key whose private half is nowhere, as ssh-keygen would write it."""
    body = b"openssh-key-v1\0" + ssh_strings(b"none", b"none", b"") + (1).to_bytes(4, "big")
    body += ssh_strings(public, bytes(64))
    begin, end = (f"-----{word} OPENSSH PRIVATE KEY-----\n" for word in ("BEGIN", "END"))
    return f"{begin}{b64(body)}\n{end}"


# --- certificates -------------------------------------------------------------------------------


@pytest.fixture
def certified(site: Site) -> Path:
    """A key that is good with its certificate alone."""
    ca = site.key("ca")
    for host in site.hosts:
        host.restart_sshd({"AuthorizedKeysFile": "none", "TrustedUserCAKeys": f"{ca}.pub"})
    return site.key("key")


def test_a_certificate_beside_its_key(site: Site, certified: Path) -> None:
    site.configure(f"IdentityFile {certified}")
    assert f"(keys offered: {certified})" in site.refused()
    certify(site.folder / "ca", certified)
    site.gets_in()
    assert site.ssh_gets_in()
    site.config, site.defaults = "none", {"identity_file": str(certified)}
    site.gets_in()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_certificate_that_the_configuration_names(site: Site, certified: Path, kind: str) -> None:
    key = site.key("named", "-t", kind)
    elsewhere = certify(site.folder / "ca", key).rename(site.folder / "elsewhere")
    site.configure(f"IdentityFile {key}", f"CertificateFile {elsewhere}")
    site.gets_in()
    assert site.ssh_gets_in()
    # Named alone, it has nothing that signs.
    site.configure(f"IdentityFile {certified}", f"CertificateFile {elsewhere}")
    assert f"left out: {elsewhere} has no private key here" in site.refused()
    assert not site.ssh_gets_in()


@pytest.mark.parametrize(
    ("words", "principal", "expected"),
    [
        (("-V", "20200101:20210101"), "root", "a certificate for root, expired at 202"),
        (("-V", "20990101:21000101"), "root", "a certificate for root, not valid before 209"),
        ((), "alice", "a certificate for alice)"),
    ],
)
def test_a_certificate_that_is_not_good_says_its_limits(
    site: Site, certified: Path, words: tuple[str, ...], principal: str, expected: str
) -> None:
    certify(site.folder / "ca", certified, *words, principal=principal)
    site.configure(f"IdentityFile {certified}")
    assert f"(keys offered: {certified}, {certified}-cert.pub ({expected}" in site.refused()


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_certificate_in_the_agent(site: Site, certified: Path, agent: Agent, kind: str) -> None:
    key = site.key("mine", "-t", kind)
    certify(site.folder / "ca", key)
    agent.add(key)
    for file in site.folder.glob("mine*"):
        file.unlink()
    site.env = agent.env
    site.configure("IdentityFile none")
    site.gets_in()
    assert site.ssh_gets_in()


# --- agents -------------------------------------------------------------------------------------


def test_a_key_with_a_passphrase_that_the_agent_holds(site: Site, agent: Agent) -> None:
    key = site.key("secret", passphrase="open sesame")
    site.lets_in(key)
    agent.add(key, passphrase="open sesame")
    site.env = agent.env
    site.configure(f"IdentityFile {key}")
    site.gets_in()
    site.config, site.defaults = "none", {"identity_file": str(key)}
    site.gets_in()
    # Its public half is enough to name it.
    key.unlink()
    site.gets_in()
    site.defaults = {"identity_file": f"{key}.pub"}
    site.gets_in()


@pytest.fixture
def crowd(site: Site, agent: Agent) -> Path:
    """An agent with eight keys, of which the last one is good, and an sshd of little patience."""
    keys = [site.key(f"key{i}") for i in range(8)]
    for key in keys:
        agent.add(key)
    site.lets_in(keys[-1], MaxAuthTries="6")
    site.env = agent.env
    return keys[-1]


def test_an_agent_with_many_keys(site: Site, crowd: Path) -> None:
    site.configure("IdentityFile none")
    said = site.refused()
    assert re.search(r"n1: hangs up after \d keys that it does not know", said), said
    assert "key0 in ssh-agent, key1 in ssh-agent" in said
    assert "`identity_file:` in the inventory, or IdentityFile and `IdentitiesOnly yes`" in said
    assert not site.ssh_gets_in()
    # One that a file names is offered first.
    site.configure(f"IdentityFile {crowd}")
    site.gets_in()
    assert site.ssh_gets_in()
    # One that is in a file alone comes after the agent's, and too late.
    mine = site.key("mine")
    site.lets_in(mine, MaxAuthTries="6")
    site.configure(f"IdentityFile {mine}")
    assert "n1: hangs up after" in site.refused()
    assert not site.ssh_gets_in()
    site.configure(f"IdentityFile {mine}", "IdentitiesOnly yes")
    site.gets_in()
    assert site.ssh_gets_in()


def test_one_of_many_keys_of_an_agent_named_by_its_public_half(site: Site, crowd: Path) -> None:
    crowd.unlink()
    site.configure(f"IdentityFile {crowd}")
    site.gets_in()
    site.config, site.defaults = "none", {"identity_file": f"{crowd}.pub"}
    site.gets_in()


def test_the_order_is_that_of_ssh(site: Site, agent: Agent, certified: Path) -> None:
    """Nobody is let in: sshd tells in which order keys were tried, by ssh and by us."""
    first, both, last = (site.key(name) for name in ("first", "both", "last"))
    in_agent = site.key("agents-own")
    certify(site.folder / "ca", last)
    for key in (in_agent, both):
        agent.add(key)
    site.env = agent.env
    lines = [f"IdentityFile {key}" for key in (first, both, last)]
    for host in site.hosts:
        host.restart_sshd(
            {"AuthorizedKeysFile": "none", "LogLevel": "VERBOSE", "MaxAuthTries": "20"}
        )
    named = certify(site.folder / "ca", first).rename(site.folder / "named-cert.pub")
    for more in ((), ("IdentitiesOnly yes",), (f"CertificateFile {named}",)):
        site.configure(*lines, *more)
        tried = []
        for log_in in (site.ssh, site.exec):
            before = len(site.hosts[0].log.read_text())
            log_in()
            found = re.findall(
                r"Failed publickey for root from .*? ssh2: (.*)",
                site.hosts[0].log.read_text()[before:],
            )
            tried.append(found)
        assert tried[0], site.hosts[0].log.read_text()
        assert tried[0] == tried[1]


@pytest.mark.parametrize("where", ["environment", "path", "variable", "none"])
def test_the_agent_that_the_configuration_names(site: Site, agent: Agent, where: str) -> None:
    key = site.key("mine")
    site.lets_in(key)
    agent.add(key)
    for file in site.folder.glob("mine*"):
        file.unlink()
    lines = {
        "environment": "IdentityAgent SSH_AUTH_SOCK",
        "path": f"IdentityAgent {agent.socket}",
        "variable": "IdentityAgent $MY_AGENT",
        "none": "IdentityAgent none",
    }
    environments = {"path": {}, "variable": {"MY_AGENT": str(agent.socket)}}
    site.env = environments.get(where, agent.env)
    site.configure(lines[where], "IdentityFile none")
    if where == "none":
        assert "(keys offered: none)" in site.refused()
    else:
        site.gets_in()
    assert site.ssh_gets_in() == (where != "none")


def test_an_agent_that_is_not_there_or_silent_costs_no_login(site: Site) -> None:
    key = site.key("mine")
    gone = str(site.folder / "gone")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(site.folder / "silent"))
        silent.listen()
        for path, said in ((gone, f"no ssh-agent is at {gone}"), (silent.getsockname(), "in 5 s")):
            site.env = {"SSH_AUTH_SOCK": path}
            site.lets_in(key)
            site.configure(f"IdentityFile {key}")
            site.gets_in()
            site.lets_in()
            assert said in site.refused()


def test_an_agent_that_is_locked_or_will_not_sign(site: Site, agent: Agent) -> None:
    """A key that wants a confirmation, which nobody gives: there is no askpass program."""
    key, other = site.key("mine"), site.key("other")
    agent.end()
    agent.socket.unlink(missing_ok=True)
    env = {"SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    refusing = Agent(site.folder, env=env)
    try:
        refusing.add("-c", key)
        site.env = refusing.env
        for file in site.folder.glob("mine*"):
            if file.suffix != ".pub":
                file.unlink()
        site.lets_in(key)
        site.configure(f"IdentityFile {key}", f"IdentityFile {other}")
        assert f"takes {key}, but that is with ssh-agent, which did not sign" in site.refused()
        # The connection lives on, and the next key may do.
        site.lets_in(key, other)
        site.gets_in()
    finally:
        refusing.end()


def test_one_agent_signs_for_many_at_once(site: Site, agent: Agent) -> None:
    key = site.key("mine")
    site.hosts = site.cluster.hosts
    site.lets_in(key)
    agent.add(key)
    site.env = agent.env
    site.configure(f"IdentityFile {key}.pub")
    # The same three machines, under many names.
    site.hosts = [AsIf(f"h{i}", h.address) for i, h in enumerate(site.cluster.hosts * 8)]
    site.gets_in()


# --- passphrases --------------------------------------------------------------------------------

PROMPT = "Passphrase for the key "


@pytest.fixture
def locked(site: Site) -> Path:
    """A key with a passphrase that three hosts want, behind one that none of them wants."""
    site.hosts = site.cluster.hosts
    unwanted = site.key("unwanted", passphrase="never asked for")
    key = site.key("locked", passphrase="open sesame")
    site.lets_in(key)
    site.configure(f"IdentityFile {unwanted}", f"IdentityFile {key}")
    return key


def test_one_prompt_for_all_hosts(site: Site, locked: Path) -> None:
    with at_a_terminal(site.cluster, site.argv("exec", "--", "echo in")) as terminal:
        terminal.read_until(PROMPT)
        assert f"{PROMPT}{locked}: " in terminal.seen
        terminal.type("open sesame\n")
        assert terminal.end() == 0, terminal.seen
        assert terminal.echoes
    assert terminal.seen.count(PROMPT) == 1, "the other key was not asked for either"
    assert "open sesame" not in terminal.seen
    assert all(f"{host.name}| in" in terminal.seen for host in site.hosts)


@pytest.mark.parametrize("words", [("-m", "PEM", "-t", "rsa"), ("-m", "PKCS8", "-t", "ecdsa")])
def test_a_key_that_does_not_tell_its_public_half(site: Site, words: tuple[str, ...]) -> None:
    key = site.key("old", *words, passphrase="open sesame")
    site.lets_in(key)
    Path(f"{key}.pub").unlink()
    site.configure(f"IdentityFile {key}")
    with at_a_terminal(site.cluster, site.argv("exec", "--", "echo in")) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("wrong\n")
        terminal.read_until(f"Wrong. {PROMPT}")
        terminal.type("open sesame\n")
        assert terminal.end() == 0, terminal.seen


def test_three_wrong_passphrases(site: Site, locked: Path) -> None:
    with at_a_terminal(site.cluster, site.argv("exec", "--", "echo in")) as terminal:
        for tried in range(1, 4):
            terminal.read_until(PROMPT, times=tried)
            terminal.type("close sesame\n")
        assert terminal.end() == 4, terminal.seen
    assert terminal.seen.count(PROMPT) == 3
    said = f"n1, n2, n3: takes {locked}, but that has a passphrase, and none of 3 was right"
    assert terminal.seen.count(said) == 1, "the same sentence of three hosts is one line"
    assert "close sesame" not in terminal.seen


def test_ctrl_c_at_the_prompt(site: Site, locked: Path) -> None:
    with at_a_terminal(site.cluster, site.argv("check")) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("open ses\x03")
        assert terminal.end() == 130, terminal.seen
        assert terminal.echoes
    assert terminal.seen.endswith(f"{locked}: \r\n"), terminal.seen


def test_ctrl_d_at_the_prompt_is_no_answer(site: Site, locked: Path) -> None:
    with at_a_terminal(site.cluster, site.argv("check")) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("\x04")
        assert terminal.end() == 4, terminal.seen
    assert f"{locked}: \r\nhost " in terminal.seen, "the table begins on a line of its own"
    assert "has a passphrase, and none was given" in terminal.seen


def test_a_slow_typist_costs_no_host(site: Site, locked: Path) -> None:
    """sshd hangs up on who does not log in; the passphrase is good for another try."""
    site.lets_in(locked, LoginGraceTime="3")
    with at_a_terminal(site.cluster, site.argv("exec", "--", "echo in")) as terminal:
        terminal.read_until(PROMPT)
        until(lambda: not any(h.pids() for h in site.cluster.hosts), "the sshds hung up", 30)
        terminal.type("open sesame\n")
        assert terminal.end() == 0, terminal.seen
    assert terminal.seen.count(PROMPT) == 1


def behind_the_first(site: Site, key: Path) -> NsHost:
    """Let all hosts but the first one be reached through that one, which is returned."""
    gateway, *behind = site.cluster.hosts
    site.hosts = behind
    site.configure(
        f"UserKnownHostsFile {site.cluster.known_hosts}",
        f"IdentityFile {key}",
        f"Host {' '.join(host.address for host in site.hosts)}",
        f"  ProxyJump root@{gateway.address}",
    )
    return gateway


def test_a_gateway_whose_key_has_a_passphrase(site: Site, locked: Path) -> None:
    """It is asked for once, and the gateway is tried again; those behind it wait as long."""
    site.lets_in(locked, LoginGraceTime="3")
    gateway = behind_the_first(site, locked)
    with at_a_terminal(site.cluster, site.argv("exec", "--", "echo in")) as terminal:
        terminal.read_until(PROMPT)
        until(lambda: not gateway.pids(), "the gateway's sshd hung up", 30)
        terminal.type("open sesame\n")
        assert terminal.end() == 0, terminal.seen
    assert terminal.seen.count(PROMPT) == 1
    assert all(f"{host.name}| in" in terminal.seen for host in site.hosts)


def test_ctrl_c_at_the_prompt_for_a_gateway(site: Site, locked: Path) -> None:
    gateway = behind_the_first(site, locked)
    with at_a_terminal(site.cluster, site.argv("check")) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("open ses\x03")
        assert terminal.end() == 130, terminal.seen
        assert terminal.echoes
    assert terminal.seen.endswith(f"{locked}: \r\n"), terminal.seen
    until(lambda: not gateway.pids(), "it was left")


def test_without_a_terminal_nobody_is_asked(site: Site, locked: Path) -> None:
    reason = f"takes {locked}, but that has a passphrase, and there is no terminal to ask for it"
    done = site.cluster.run(site.argv("exec", "--", "true"))
    assert done.returncode == 4
    told = [f"ddp-orch: n1, n2, n3: {reason}", f"  -> ssh-add {locked}"]
    assert done.stderr.splitlines() == told
    check = site.cluster.run(site.argv("check"))
    assert check.stdout.count(reason) == 1, "the same sentence of three hosts is one line"
    assert "FAIL ssh.auth  n[1-3]: takes" in check.stdout


# --- what is not supported ----------------------------------------------------------------------

UNSUPPORTED: Mapping[str, tuple[dict[str, str], str]] = {
    "password": (
        {"AuthenticationMethods": "password"},
        "takes no keys, but only a password; only keys can be given here",
    ),
    "keyboard-interactive": (
        {"AuthenticationMethods": "keyboard-interactive", "UsePAM": "yes"},
        "takes no keys, but only answers to questions (a password, a second factor)",
    ),
    "kerberos": (
        {"AuthenticationMethods": "gssapi-with-mic", "GSSAPIAuthentication": "yes"},
        "takes no keys, but only Kerberos (GSSAPI)",
    ),
    "second step": (
        {"AuthenticationMethods": "publickey,password"},
        "takes {key}, but wants a password as well",
    ),
    "two keys": (
        {"AuthenticationMethods": "publickey,publickey"},
        "takes {key}, but wants another key as well",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_said(site: Site, case: str) -> None:
    options, expected = UNSUPPORTED[case]
    key = site.key("mine")
    site.lets_in(key, **options)
    site.configure(f"IdentityFile {key}")
    said = site.refused()
    assert f"n1: {expected.format(key=key)}" in said
    assert "ControlMaster" in said


def test_two_keys_that_are_both_wanted(site: Site, agent: Agent) -> None:
    one, two, three = (site.key(name) for name in ("one", "two", "three"))
    agent.add(three)
    site.env = agent.env
    site.lets_in(two, three, AuthenticationMethods="publickey,publickey")
    site.configure(*(f"IdentityFile {key}" for key in (one, two)))
    site.gets_in()
    assert site.ssh_gets_in()


def test_a_password_that_would_do_too_is_told(site: Site) -> None:
    key = site.key("mine")
    site.lets_in(AuthenticationMethods="any", PasswordAuthentication="yes")
    site.configure(f"IdentityFile {key}")
    said = re.escape(f"or put a key there: ssh-copy-id -F {site.config} ")
    assert re.search(rf"{said}.*root@{site.hosts[0].address}\n", site.refused())


@pytest.mark.skipif(not Path("/etc/pam.d/sshd").exists(), reason="needs sshd's PAM rules")
def test_an_account_that_has_expired(site: Site) -> None:
    key = site.key("mine")
    shadow = site.hosts[0].folder / "etc/shadow"
    before = shadow.read_text()
    try:
        # In place: another inode would not be the one that is mounted over /etc/shadow.
        shadow.write_text(before.replace("root:*:19000:0:99999:7:::", "root:*:19000:0:99999:7::1:"))
        site.lets_in(key, UsePAM="yes")
        site.configure(f"IdentityFile {key}")
        said = site.refused()
    finally:
        shadow.write_text(before)
    assert f"n1: hangs up when {key} is used; it says: " in said
    assert "has expired" in said
