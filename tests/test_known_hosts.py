"""known_hosts as ssh reads it; where ssh-keygen is, it is asked the same questions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.known_hosts import fingerprint, lookup, name_for, parse

KEY, OTHER = b"\0\0\0\x0bssh-ed25519 one", b"\0\0\0\x0bssh-ed25519 two"


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def hashed(name: str, salt: bytes = b"01234567890123456789") -> str:
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{text_of(salt)}|{text_of(digest)}"


def trusted(line: str, name: str) -> list[bytes]:
    return [key for _, key in lookup(parse(line), name).trusted]


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        ("gpu1", "gpu1", True),
        ("gpu1", "gpu11", False),
        ("gpu1", "xgpu1", False),
        ("gpu1", "[gpu1]:2222", False),
        ("GPU1", "gpu1", True),
        ("gpu1", "Gpu1", True),
        ("gpu1,10.0.0.1", "10.0.0.1", True),
        ("[gpu1]:2222", "[gpu1]:2222", True),
        ("[gpu1]:2222", "gpu1", False),
        ("[gpu1]:2222", "g:2222", False),  # brackets are no set of characters
        ("[fd00::1]:2222", "[fd00::1]:2222", True),
        ("fd00::1", "fd00::1", True),
        ("gpu?", "gpu1", True),
        ("gpu?", "gpu12", False),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*", "[gpu1]:2222", True),
        ("[*]:2222", "[gpu1]:2222", True),
        ("*,!gpu1", "gpu1", False),
        ("!gpu1,*", "gpu1", False),
        ("*,!gpu1", "gpu2", True),
        ("!gpu1", "gpu2", False),
        ("gpu.", "gpux", False),
        (hashed("gpu1"), "gpu1", True),
        (hashed("gpu1"), "gpu2", False),
        (hashed("[gpu1]:2222"), "[gpu1]:2222", True),
        ("|1|no|base64!", "gpu1", False),
        ("|1|", "gpu1", False),
        ("|1|é|é", "gpu1", False),
    ],
)
def test_names(names, asked, found):
    assert trusted(f"{names} ssh-ed25519 {text_of(KEY)}", asked) == [KEY] * found


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   ",
        "# gpu1 ssh-ed25519 AAAA",
        " # gpu1 ssh-ed25519 AAAA",
        "gpu1",
        "gpu1 ssh-ed25519",
        "gpu1 ssh-ed25519 not/base64!",
        "gpu1 ssh-ed25519 AAA",
        "ein schöner Rechnernäme",
        "gpu1 ssh-ed25519 ÄÖÜ",
        "@cert-authority gpu1 ssh-ed25519 " + text_of(KEY),
        "@unheard-of gpu1 ssh-ed25519 " + text_of(KEY),
        "@revoked gpu1",
        "<<<<<<< HEAD",
        "\0\0\0",
        "# comment\x0cgpu1 ssh-ed25519 " + text_of(KEY),  # still the comment's line
        "# comment\u2028gpu1 ssh-ed25519 " + text_of(KEY),
    ],
)
def test_lines_that_are_no_entries_are_passed_over(line):
    after = f"gpu1 ssh-ed25519 {text_of(OTHER)} me@home"
    assert trusted(f"{line}\n{after}\n", "gpu1") == [OTHER]


def test_windows_line_ends():
    assert trusted(f"gpu1 ssh-ed25519 {text_of(KEY)}\r\n", "gpu1") == [KEY]


def test_a_revoked_key_is_not_trusted():
    text = f"@revoked * ssh-ed25519 {text_of(OTHER)}\ngpu1 ssh-ed25519 {text_of(KEY)}"
    known = lookup(parse(text), "gpu1")
    assert known.trusted == (("ssh-ed25519", KEY),)
    assert known.revoked == (OTHER,)


def test_a_key_that_is_revoked_anywhere_is_not_trusted_anywhere():
    text = f"gpu1 ssh-ed25519 {text_of(KEY)}\n@revoked gpu1 ssh-ed25519 {text_of(KEY)}"
    known = lookup(parse(text), "gpu1")
    assert (known.trusted, known.revoked) == ((), (KEY,))


def test_all_keys_of_a_host_in_their_order():
    text = f"gpu1 ssh-ed25519 {text_of(OTHER)}\n* ssh-rsa {text_of(KEY)}"
    assert lookup(parse(text), "gpu1").trusted == (("ssh-ed25519", OTHER), ("ssh-rsa", KEY))


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [("gpu1", 22, "gpu1"), ("gpu1", 2222, "[gpu1]:2222"), ("fd00::1", 2222, "[fd00::1]:2222")],
)
def test_name_for(host, port, name):
    assert name_for(host, port) == name


@given(st.text(max_size=60) | st.text("gpu1*?!,|[]:@# \n\t=AZ", max_size=60), st.text(max_size=5))
def test_no_text_upsets_it(text, name):
    lookup(parse(text), name)
    lookup(parse(f"{text} ssh-ed25519 {text}"), name)


# --- what ssh-keygen says -----------------------------------------------------------------------

keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> list[str]:
    """Three public keys, each as `ssh-ed25519 AAAA...`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in "abc":
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return [" ".join((folder / f"{n}.pub").read_text().split()[:2]) for n in "abc"]


def by_keygen(file, name: str) -> list[str]:
    run = subprocess.run(["ssh-keygen", "-F", name, "-f", file], capture_output=True, text=True)
    lines = [line.split() for line in run.stdout.splitlines() if not line.startswith("#")]
    return [words[-1] for words in lines if not words[0].startswith("@")]


@keygen
@pytest.mark.parametrize("hash_it", [False, True])
def test_the_same_keys_as_ssh_finds(keys, tmp_path, hash_it):
    a, b, c = keys
    file = tmp_path / "known_hosts"
    file.write_text(
        f"# comment\n\ngpu1,10.0.0.1 {a}\n[gpu1]:2222 {b}\ngpu1 {c}\n"
        f"@cert-authority *.example.org {a}\n@revoked gpu9 {b}\n*.lab,!bad.lab {c}\ngpu? {b}\n"
    )
    if hash_it:  # which ssh-keygen does only where no line is broken
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=False, capture_output=True)
        assert "|1|" in file.read_text()
    else:
        file.write_text("broken line\n" + file.read_text())
    entries = parse(file.read_text())
    names = "gpu1 GPU1 gpu2 gpu11 10.0.0.1 [gpu1]:2222 [gpu1]:22 x.lab bad.lab x.example.org"
    for name in names.split():
        if hash_it and name == "GPU1":
            continue  # ssh itself asks for hashed names in lower case
        ours = [text_of(key) for _, key in lookup(entries, name).trusted]
        assert ours == by_keygen(file, name), name


@keygen
def test_the_same_fingerprint(keys, tmp_path):
    (tmp_path / "k.pub").write_text(keys[0])
    words = ["ssh-keygen", "-l", "-f", tmp_path / "k.pub"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert run.stdout.split()[1] == fingerprint(base64.b64decode(keys[0].split()[1]))
