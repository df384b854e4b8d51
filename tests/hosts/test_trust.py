"""Whom to trust: real sshds with keys and certificates of every sort, and ssh for a judge.

Most tests connect twice with the same files, by the ssh program and by us, and both have to agree.
Where we are stricter on purpose the test says so.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.cluster import Cluster
from tests.hosts.host import SSHD
from tests.hosts.processes import command, until

if TYPE_CHECKING:
    from collections.abc import Iterator

# Some twelve sshds and a hundred calls of ssh; the judging itself has quicker tests of its own.
pytestmark = pytest.mark.slow

ADDRESS = "10.77.0.9"
REPOSITORY = Path(__file__).parents[2]
# Where each sshd listens: the port says what it shows. 22 and 2222 show the same keys.
PORTS = {
    "plain": 2222,
    "good": 2301,
    "expired": 2302,
    "not-yet": 2303,
    "other-name": 2304,
    "user": 2305,
    "nobody": 2306,
    "critical": 2307,
    "by-ecdsa": 2311,
    "by-rsa": 2312,
    "by-sha1": 2313,
    "rsa-key": 2321,
    "ecdsa-key": 2322,
}
DAY = "-1d:+1d"
NAMES = f"{ADDRESS},gpu1.lab"
# The words of ssh-keygen that make the certificate, and the authority that signs it.
CERTIFICATES: dict[str, tuple[str, list[str]]] = {
    "good": ("ca_ed25519", ["-h", "-n", NAMES, "-V", DAY]),
    "expired": ("ca_ed25519", ["-h", "-n", NAMES, "-V", "-2d:-1d"]),
    "not-yet": ("ca_ed25519", ["-h", "-n", NAMES, "-V", "+1d:+2d"]),
    "other-name": ("ca_ed25519", ["-h", "-n", "gpu2.lab", "-V", DAY]),
    "user": ("ca_ed25519", ["-n", NAMES, "-V", DAY]),
    "nobody": ("ca_ed25519", ["-h", "-V", DAY]),
    "critical": ("ca_ed25519", ["-h", "-n", NAMES, "-V", DAY, "-O", "critical:later=1"]),
    "by-ecdsa": ("ca_ecdsa", ["-h", "-n", NAMES, "-V", DAY]),
    "by-rsa": ("ca_rsa", ["-h", "-n", NAMES, "-V", DAY]),
    "by-sha1": ("ca_rsa", ["-h", "-n", NAMES, "-V", DAY, "-t", "ssh-rsa"]),
    "rsa-key": ("ca_ed25519", ["-h", "-n", NAMES, "-V", DAY]),
    "ecdsa-key": ("ca_ed25519", ["-h", "-n", NAMES, "-V", DAY]),
}


@dataclass
class Grounds:
    """A host with many sshds, the controller, and someone who knocks at doors from there."""

    cluster: Cluster
    folder: Path
    knocker: subprocess.Popen[str]

    def key(self, name: str) -> str:
        """Return a public key as files have it: the kind and base64."""
        return " ".join((self.folder / f"{name}.pub").read_text().split()[:2])

    def fingerprint(self, name: str) -> str:
        return command("ssh-keygen", "-lf", self.folder / f"{name}.pub").split()[1]

    def ask(self, *hosts: dict[str, Any], accept_new: bool = False) -> dict[str, Any]:
        assert self.knocker.stdin
        assert self.knocker.stdout
        request = {"hosts": hosts, "accept_new": accept_new}
        self.knocker.stdin.write(json.dumps(request) + "\n")
        self.knocker.stdin.flush()
        answer: dict[str, Any] = json.loads(self.knocker.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with contextlib.ExitStack() as undo:
        cluster = undo.enter_context(Cluster(tmp_path_factory.mktemp("grounds"), (ADDRESS,)))
        folder = cluster.folder / "keys"  # there the host can see them
        folder.mkdir()
        make_keys(folder)
        start_sshds(cluster, folder)
        knocker = cluster.popen(
            [sys.executable, "-m", "tests.hosts.knock"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        undo.enter_context(knocker)
        undo.callback(knocker.kill)
        yield Grounds(cluster, folder, knocker)


def make_keys(folder: Path) -> None:
    kinds = {
        "host": ["ed25519"],
        "host_rsa": ["rsa", "-b", "2048"],
        "host_ecdsa": ["ecdsa", "-b", "384"],
        "other": ["ed25519"],
        "ca_ed25519": ["ed25519"],
        "ca_ecdsa": ["ecdsa", "-b", "521"],
        "ca_rsa": ["rsa", "-b", "2048"],
    }
    for name, words in kinds.items():
        command("ssh-keygen", "-q", "-N", "", "-C", "", "-f", folder / name, "-t", *words)
    for name, (authority, words) in CERTIFICATES.items():
        public = folder / f"{host_key(name)}.pub"
        # Each beside a public key of its own name: ssh-keygen says where the certificate goes.
        (folder / f"{name}.pub").write_text(public.read_text())
        command(
            "ssh-keygen", "-q", "-s", folder / authority, "-I", name, *words, folder / f"{name}.pub"
        )


def host_key(name: str) -> str:
    return {"rsa-key": "host_rsa", "ecdsa-key": "host_ecdsa"}.get(name, "host")


def start_sshds(cluster: Cluster, folder: Path) -> None:
    host = cluster["n1"]
    for name, port in PORTS.items():
        options = {**cluster.sshd_options, "Port": str(port)}
        options["HostKey"] = str(folder / host_key(name))
        if name in CERTIFICATES:
            options["HostCertificate"] = str(folder / f"{name}-cert.pub")
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        if name == "plain":
            words += ["-o", f"HostKey={folder / 'host_rsa'}", "-o", "Port=22"]
            host.stop_sshd()
        # They end with the host.
        assert SSHD
        with host.log.open("a") as log:
            host.popen([SSHD, "-D", "-e", "-f", "/dev/null", *words], stdout=log, stderr=log)

    def all_greet() -> bool:
        return all(greets(cluster, port) for port in (22, *PORTS.values()))

    try:
        until(all_greet, "all sshds greet", seconds=30)
    except TimeoutError as error:
        raise RuntimeError(host.log.read_text()) from error


def greets(cluster: Cluster, port: int) -> bool:
    with contextlib.suppress(OSError), cluster.connect(ADDRESS, port, 1.0) as sock:
        return sock.recv(4) == b"SSH-"
    return False


class Case:
    """One host behind one ssh configuration, known_hosts files and all."""

    def __init__(self, grounds: Grounds, folder: Path, port: int) -> None:
        self.grounds, self.folder, self.port = grounds, folder, port
        self.known_hosts = folder / "known_hosts"
        self.options: dict[str, str] = {
            "HostName": ADDRESS,
            "Port": str(port),
            "User": "root",
            "IdentityFile": str(grounds.cluster.identity),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "none",
        }

    def known(self, text: str, file: Path | None = None) -> None:
        """Write known_hosts; {host}, {other}, {ca_rsa} and so on stand for the public keys."""
        keys = {
            path.stem: self.grounds.key(path.stem) for path in self.grounds.folder.glob("*.pub")
        }
        text = re.sub(r"\{(\w+)\}", lambda found: keys[found[1]], text)
        (file or self.known_hosts).write_text(text)

    @property
    def config(self) -> Path:
        file = self.folder / "config"
        lines = [f"  {key} {value}\n" for key, value in self.options.items()]
        file.write_text("Host gpu1\n" + "".join(lines))
        return file

    def fields(self, **fields: Any) -> dict[str, Any]:
        return {"name": "gpu1", "ssh_config": str(self.config), **fields}

    def ours(self, *, accept_new: bool = False, **fields: Any) -> dict[str, Any]:
        answer = self.grounds.ask(self.fields(**fields), accept_new=accept_new)
        return {**answer["answers"][0], "warnings": answer["warnings"]}

    def ssh(self) -> subprocess.CompletedProcess[str]:
        return self.grounds.cluster.run(
            ["ssh", "-v", "-F", self.config, "-o", "BatchMode=yes", "gpu1", "true"]
        )

    def both(self) -> dict[str, Any] | None:
        """Connect by both; None: both are in. Otherwise what we say, where both refuse."""
        ours, theirs = self.ours(), self.ssh()
        if theirs.returncode == 0:
            assert ours["check"] is None, (ours, theirs.stderr)
            return None
        assert "Host key verification failed" in theirs.stderr
        assert ours["check"] == "ssh.hostkey", (ours, theirs.stderr)
        assert "\n" not in ours["message"]
        assert ours["hint"]
        return ours


@pytest.fixture
def case(grounds: Grounds, tmp_path: Path) -> Case:
    return Case(grounds, tmp_path, 22)


def at(case: Case, what: str) -> Case:
    case.options["Port"] = str(PORTS[what])
    return case


PORT = f"[{ADDRESS}]:{PORTS['plain']}"


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    ("options", "text", "accepted"),
    [
        ({}, f"{ADDRESS} {{host}}", True),
        ({}, f"{ADDRESS} {{host_rsa}}", True),  # the one of its keys that is known is asked for
        ({}, f"{ADDRESS} {{other}}\n{ADDRESS} {{host}}", True),
        ({}, f"{ADDRESS} {{other}}", False),
        ({}, f"{PORT} {{host}}", False),
        ({}, "gpu1 {host}", False),  # the name before HostName
        ({}, "", False),
        ({}, f"@revoked {ADDRESS} {{host}}\n{ADDRESS} {{host}}", False),
        ({"Port": "2222"}, f"{PORT} {{host}}", True),
        ({"Port": "2222"}, f"{ADDRESS} {{host}}", True),
        ({"Port": "2222"}, f"{ADDRESS} {{other}}", False),
        ({"Port": "2222"}, f"{PORT} {{other}}\n{ADDRESS} {{host}}", False),
        ({"Port": "2222"}, f"{PORT} {{other}}\n{PORT} {{host}}", True),
        ({"Port": "2222"}, f"[{ADDRESS}]:2223 {{host}}", False),
        ({"HostKeyAlias": "The-GPU"}, "the-gpu {host}", True),
        ({"HostKeyAlias": "The-GPU"}, f"{ADDRESS} {{host}}", False),
        ({"HostKeyAlias": "The-GPU", "Port": "2222"}, "the-gpu {host}", True),
        ({"HostKeyAlias": "The-GPU", "Port": "2222"}, "[the-gpu]:2222 {host}", False),
        ({"HostKeyAlias": "The-GPU", "Port": "2222"}, f"{PORT} {{host}}", False),
    ],
)
def test_names(case: Case, options: dict[str, str], text: str, accepted: bool, hashed: bool):
    case.options |= options
    case.known(text + "\n")
    if hashed and text:
        command("ssh-keygen", "-q", "-H", "-f", case.known_hosts)
        assert "|1|" in case.known_hosts.read_text()
    assert (case.both() is None) is accepted


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        ("10.77.*", True),
        ("10.77.0.?", True),
        ("gpu1,10.77.0.9", True),
        ("10.77.*,!10.77.0.9", False),
        ("!10.77.0.8,10.77.*", True),
        ("10.78.*", False),
    ],
)
def test_patterns(case: Case, names: str, accepted: bool):
    case.known(f"# a comment\n\nbroken line\n{names} {{host}} me@home\n")
    assert (case.both() is None) is accepted


# ---- files -------------------------------------------------------------------------------------


def test_several_files_and_a_blank_in_a_path(case: Case):
    folder = case.folder / "my files"
    folder.mkdir()
    first, second = folder / "known hosts", case.folder / "second"
    case.options["UserKnownHostsFile"] = f'"{first}" {second}'
    case.known(f"{ADDRESS} {{host}}\n", second)
    assert case.both() is None
    case.known(f"{ADDRESS} {{host}}\n", first)
    second.unlink()
    assert case.both() is None
    first.unlink()
    refused = case.both()
    assert refused
    assert f"{first} has none for it" in refused["message"]
    assert case.ours(accept_new=True)["check"] is None
    assert first.read_text() == f"{ADDRESS} {case.grounds.key('host')}\n"


def test_the_global_file_counts_and_a_revoked_key_there_too(case: Case):
    file = case.folder / "global"
    case.options["GlobalKnownHostsFile"] = str(file)
    case.known(f"{ADDRESS} {{host}}\n", file)
    assert case.both() is None
    case.known("@revoked * {host}\n", file)
    case.known(f"{ADDRESS} {{host}}\n")
    assert case.both()


def test_the_inventorys_known_hosts_is_the_only_one(case: Case):
    case.known(f"{ADDRESS} {{host}}\n")
    mine = case.folder / "mine"
    case.known(f"{ADDRESS} {{other}}\n", mine)
    assert case.ours()["check"] is None
    refused = case.ours(known_hosts=str(mine))
    assert refused["check"] == "ssh.hostkey"
    assert f"{mine}:1" in refused["message"]


@pytest.mark.parametrize(
    ("keys", "accepted"),
    [("{other}", True), ("{host}", False), ("# {host}\n\n{other} me\n{host}", False), ("?", False)],
)
def test_revoked_host_keys(case: Case, keys: str, accepted: bool):
    file = case.folder / "revoked"
    case.known(keys + "\n", file)
    case.known(f"{ADDRESS} {{host}}\n")
    case.options["RevokedHostKeys"] = str(file)
    refused = case.both()
    assert (refused is None) is accepted
    assert refused is None or str(file) in refused["message"]


def test_revoked_host_keys_that_cannot_be_read(case: Case):
    case.known(f"{ADDRESS} {{host}}\n")
    case.options["RevokedHostKeys"] = str(case.folder / "absent")
    assert case.both()
    # ssh can read these: here we say what we lack.
    krl = case.folder / "krl"
    command("ssh-keygen", "-q", "-k", "-f", krl, case.grounds.folder / "other.pub")
    case.options["RevokedHostKeys"] = str(krl)
    assert case.ssh().returncode == 0
    refused = case.ours()
    assert (refused["check"], "is a KRL" in refused["message"]) == ("ssh.hostkey", True)


def test_a_known_hosts_file_that_cannot_be_read(case: Case):
    case.known_hosts.mkdir()
    refused = case.ours(accept_new=True)
    assert refused["check"] == "ssh.hostkey"
    assert refused["message"] == f"cannot read the known keys in {case.known_hosts}: Is a directory"


# ---- strictness --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strict", "accepted"),
    [("yes", False), ("ask", False), ("accept-new", True), ("no", True), ("off", True)],
)
@pytest.mark.parametrize(("port", "hashed"), [("22", "no"), ("22", "yes"), ("2222", "yes")])
def test_a_new_key(case: Case, strict: str, accepted: bool, port: str, hashed: str):
    case.options |= {"StrictHostKeyChecking": strict, "Port": port, "HashKnownHosts": hashed}
    case.known("gpu9 {other}")  # its last line has no end
    before = case.known_hosts.read_text()
    first = case.ours()
    assert (first["check"] is None) is accepted
    ours = case.known_hosts.read_text()
    if not accepted:
        assert ours == before
        assert "its key is not known" in first["message"]
        assert case.grounds.fingerprint("host") in first["message"]
        assert "--accept-new-host-keys" in first["hint"]
        assert case.both()
        return
    # What we wrote is what ssh trusts, strictly.
    assert ours.startswith(before + "\n")
    assert ours.count("\n") == 2
    assert (ADDRESS in ours) is (hashed == "no")
    case.options["StrictHostKeyChecking"] = "yes"
    assert case.both() is None


@pytest.mark.parametrize("strict", ["yes", "accept-new", "no"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{ADDRESS} {{other}}", "has CHANGED"),
        (f"{ADDRESS} {{host}}\n@revoked * {{host}}", "is revoked"),
    ],
)
def test_a_changed_key_and_a_revoked_one_are_always_refused(
    case: Case, strict: str, text: str, says: str
):
    case.options["StrictHostKeyChecking"] = strict
    case.known(text + "\n")
    # With `no` ssh goes on, without passwords; we never do.
    assert (case.ssh().returncode == 0) is (strict == "no")
    for accept_new in (False, True):
        refused = case.ours(accept_new=accept_new)
        assert refused["check"] == "ssh.hostkey"
        assert says in refused["message"]
        told = "StrictHostKeyChecking no does not change that" in refused["message"]
        assert told is (strict == "no" and "CHANGED" in says)


def test_a_new_key_with_nowhere_to_write_it(case: Case):
    case.options |= {"StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": "none"}
    refused = case.both()
    assert refused
    assert "UserKnownHostsFile none" in refused["message"]


def test_dev_null_takes_all_keys_and_keeps_none(case: Case):
    case.options |= {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    case.options["HostKeyAlias"] = "the-gpu"
    assert case.both() is None
    other = {**case.fields(), "ssh": f"root@gpu1:{PORTS['ecdsa-key']}"}
    got = case.grounds.ask(case.fields(), other)["answers"]
    assert [answer["check"] for answer in got] == [None, None]


def test_a_file_that_cannot_be_written_stops_nobody(case: Case):
    case.options["StrictHostKeyChecking"] = "accept-new"
    case.options["UserKnownHostsFile"] = "/proc/known_hosts"
    assert case.both() is None
    got = case.ours()
    assert len(got["warnings"]) == 1
    assert re.fullmatch(
        "new keys were accepted, but not added to /proc/known_hosts: .+",
        got["warnings"][0],
    )


def test_one_host_under_one_name_is_added_once_and_shows_one_key(case: Case):
    """Two entries of the inventory may be one host; the second connection is held to the first."""
    case.options["HostKeyAlias"] = "the-gpu"
    other = {**case.fields(), "ssh": f"root@gpu1:{PORTS['ecdsa-key']}"}
    got = case.grounds.ask(case.fields(), case.fields(), other, accept_new=True)["answers"]
    assert [answer["check"] for answer in got] == [None, None, "ssh.hostkey"]
    assert "has CHANGED" in got[2]["message"]
    assert case.known_hosts.read_text() == f"the-gpu {case.grounds.key('host')}\n"
    assert case.known_hosts.stat().st_mode & 0o777 == 0o600


# ---- what is said ------------------------------------------------------------------------------


def test_a_changed_key_says_where_and_how_to_mend_it(case: Case):
    case.options["Port"] = "2222"
    case.known(f"gpu9 {{host}}\n{PORT} {{other}}\n")
    refused = case.both()
    assert refused
    for name in ("host", "other"):
        assert case.grounds.fingerprint(name) in refused["message"]
    assert f"({case.known_hosts}:2)" in refused["message"]
    removal = f"ssh-keygen -R '{PORT}' -f {case.known_hosts}"
    assert removal in refused["hint"]
    command("sh", "-c", removal)
    assert case.ours(accept_new=True)["check"] is None


def test_a_line_for_many_hosts_is_not_to_be_removed(case: Case):
    case.known("10.77.* {other}\n")
    refused = case.both()
    assert refused
    assert f"mend {case.known_hosts}:1, which is not for {ADDRESS} alone" in refused["hint"]
    assert "ssh-keygen -R" not in refused["hint"]


def test_a_command_for_known_hosts_is_not_supported(case: Case):
    case.options["KnownHostsCommand"] = "/bin/false"
    refused = case.ours()
    assert (refused["check"], "KnownHostsCommand" in refused["message"]) == ("ssh.config", True)
    case.known(f"{ADDRESS} {{host}}\n")
    assert case.ours(known_hosts=str(case.known_hosts))["check"] is None


@pytest.mark.parametrize(
    ("algorithms", "accepted"),
    [("ssh-ed25519", True), ("rsa-sha2-512", False), ("-ssh-ed25519*", False)],
)
def test_host_key_algorithms_limit(case: Case, algorithms: str, accepted: bool):
    case.options["HostKeyAlgorithms"] = algorithms
    case.known(f"{ADDRESS} {{host}}\n")
    assert (case.both() is None) is accepted


def test_host_key_algorithms_that_leave_nothing(case: Case):
    case.options["HostKeyAlgorithms"] = "sk-ssh-ed25519@openssh.com"
    refused = case.ours()
    assert refused["check"] == "ssh.hostkey"
    assert "of which none is supported" in refused["message"]


# ---- certificates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shows", "authority"),
    [
        ("good", "ca_ed25519"),
        ("by-ecdsa", "ca_ecdsa"),
        ("by-rsa", "ca_rsa"),
        ("rsa-key", "ca_ed25519"),
        ("ecdsa-key", "ca_ed25519"),
    ],
)
@pytest.mark.parametrize("pattern", ["10.77.*", f"[{ADDRESS}]:*", "*,!gpu9"])
def test_a_certificate_of_a_trusted_authority(case: Case, shows: str, authority: str, pattern: str):
    at(case, shows).known(f"@cert-authority {pattern} {{{authority}}}\n")
    assert case.both() is None


def test_a_certificate_goes_before_a_key_that_is_known(case: Case):
    at(case, "good").known(f"@cert-authority * {{ca_ed25519}}\n{ADDRESS} {{other}}\n")
    assert case.both() is None


def test_a_certificate_for_an_alias(case: Case):
    at(case, "good").options["HostKeyAlias"] = "GPU1.lab"
    case.known("@cert-authority *.lab {ca_ed25519}\n")
    assert case.both() is None
    case.options["HostKeyAlias"] = "gpu3.lab"
    assert case.both()


REFUSED = {
    "expired": "its certificate expired at ",
    "not-yet": "its certificate is not valid before ",
    "other-name": f"its certificate is for gpu2.lab, not for {ADDRESS}",
    "user": "its certificate is not a host's but a user's",
    "critical": "its certificate has options that must be known and are not: later",
    "by-sha1": "its certificate is signed with ssh-rsa, which is not accepted",
}


@pytest.mark.parametrize("shows", REFUSED)
def test_a_certificate_that_does_not_count(case: Case, shows: str):
    authority = CERTIFICATES[shows][0]
    at(case, shows).known(f"@cert-authority * {{{authority}}}\n")
    refused = case.both()
    assert refused
    assert REFUSED[shows] in refused["message"]
    assert refused["hint"].startswith("have a certificate made for it that counts")
    # Then the key itself is judged.
    case.known(f"@cert-authority * {{{authority}}}\n10.77.* {{host}}\n")
    assert case.both() is None
    case.known(f"@cert-authority * {{{authority}}}\n[{ADDRESS}]:* {{other}}\n")
    refused = case.both()
    assert refused
    assert "has CHANGED" in refused["message"]


def test_a_certificate_for_nobody_is_for_nobody(case: Case):
    """OpenSSH before 10.3 took it for any host: that is where we are stricter."""
    at(case, "nobody").known("@cert-authority * {ca_ed25519}\n")
    refused = case.ours()
    assert f"its certificate is for nobody, not for {ADDRESS}" in refused["message"]


def test_a_certificate_of_another_authority(case: Case):
    at(case, "good").known("@cert-authority * {ca_ecdsa}\n")
    refused = case.both()
    assert refused
    by = case.grounds.fingerprint("ca_ed25519")
    assert f"signed by {by}, which is no @cert-authority for it" in refused["message"]
    case.known("@cert-authority gpu9 {ca_ed25519}\n")  # trusted, but not for this host
    assert case.both()
    case.known(f"{ADDRESS} {{ca_ed25519}}\n")  # a host's key is no authority
    assert case.both()


@pytest.mark.parametrize("revoked", ["ca_ed25519", "host"])
def test_a_revoked_authority_and_a_revoked_key_with_a_certificate(case: Case, revoked: str):
    text = f"@cert-authority * {{ca_ed25519}}\n{ADDRESS} {{host}}\n"
    at(case, "good").known(text + f"@revoked * {{{revoked}}}\n")
    refused = case.both()
    assert refused
    assert f"is revoked in {case.known_hosts}:3" in refused["message"]
    assert case.grounds.fingerprint("ca_ed25519") in refused["message"]
    case.known(text)
    assert case.both() is None
    file = case.folder / "revoked"
    case.known(f"{{{revoked}}}\n", file)
    case.options["RevokedHostKeys"] = str(file)
    assert case.both()


@pytest.mark.parametrize("strict", ["accept-new", "no"])
def test_the_key_below_a_certificate_is_what_is_added(case: Case, strict: str):
    at(case, "good").options["StrictHostKeyChecking"] = strict
    assert case.ours()["check"] is None
    assert case.known_hosts.read_text().split()[1:] == case.grounds.key("host").split()
    case.options["StrictHostKeyChecking"] = "yes"
    assert case.both() is None
