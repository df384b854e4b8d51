"""known_hosts as ssh reads it; where ssh-keygen is, it is asked the same questions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestrator.known_hosts import (
    Known,
    KnownFile,
    Signed,
    fingerprint,
    judge,
    name_for,
    new_line,
    writable,
)


def ed25519(name: str) -> bytes:
    """Return a public key that is well formed, if nobody's."""
    secret = hashlib.sha256(name.encode()).digest()
    return b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x20" + secret


KEY, OTHER, THIRD = ed25519("one"), ed25519("two"), ed25519("three")


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def hashed(name: str, salt: bytes = b"01234567890123456789") -> str:
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{text_of(salt)}|{text_of(digest)}"


def known(text: str, name: str) -> Known:
    return Known(name=name, entries=tuple(KnownFile(text).lookup(name)))


def trusted(text: str, name: str) -> list[bytes]:
    return [entry.key for entry in known(text, name).marked("")]


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        ("gpu1", "gpu1", True),
        ("gpu1", "gpu11", False),
        ("gpu1", "xgpu1", False),
        ("gpu1", "[gpu1]:2222", False),
        ("GPU1", "gpu1", True),
        ("GPU?", "gpu1", True),
        ("gpu1,10.0.0.1", "10.0.0.1", True),
        ("gpu1,gpu1", "gpu1", True),
        ("[gpu1]:2222", "[gpu1]:2222", True),
        ("[gpu1]:2222", "gpu1", False),
        ("[gpu1]:2222", "g:2222", False),  # brackets are no set of characters
        ("[gpu*]:2222", "[gpu1]:2222", True),
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
        (hashed("gpu1") + ",gpu2", "gpu1", False),  # a hashed name stands alone
        (hashed("gpu1") + ",gpu2", "gpu2", False),
        (hashed("gpu1", b"short"), "gpu1", False),
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
        "gpu1 # ssh-ed25519 " + text_of(KEY),
        "gpu1 ssh-ed25519 not/base64!",
        "gpu1 ssh-ed25519 AAA",
        "gpu1 ssh-ed25519 " + text_of(KEY[:-1]),
        "gpu1 ssh-ed25519 " + text_of(KEY + b"\0\0\0\0"),
        "gpu1 ssh-rsa " + text_of(KEY),
        "gpu1\x0bssh-ed25519 " + text_of(KEY),
        "gpu1 ssh-unheard-of " + text_of(b"\0\0\0\x0essh-unheard-of"),
        "ein schöner Rechnernäme",
        "gpu1 ssh-ed25519 ÄÖÜ",
        "@unheard-of gpu1 ssh-ed25519 " + text_of(KEY),
        "@revoked @revoked gpu1 ssh-ed25519 " + text_of(KEY),
        "@revoked\tgpu1 ssh-ed25519 " + text_of(KEY),  # its marker does not end at the tab
        "@revoked gpu1",
        "@revoked",
        "gpu1 ssh-\0ed25519 " + text_of(KEY),
        "<<<<<<< HEAD",
        "\0\0\0",
        "# comment\x0cgpu1 ssh-ed25519 " + text_of(KEY),  # still the comment's line
        "# comment\u2028gpu1 ssh-ed25519 " + text_of(KEY),
        "# comment\rgpu1 ssh-ed25519 " + text_of(KEY),
    ],
)
def test_lines_that_are_no_entries_are_passed_over(line):
    after = f"gpu1 ssh-ed25519 {text_of(OTHER)} me@home"
    found = known(f"{line}\n{after}\n", "gpu1")
    assert [(entry.key, entry.line) for entry in found.entries] == [(OTHER, 2)]


@pytest.mark.parametrize(
    "line",
    [
        "gpu1 ssh-ed25519 {}\r",
        "\t gpu1\t \tssh-ed25519  {} \t",
        "gpu1 ssh-ed25519 {} a comment # and more",
        "gpu1 ssh-ed25519 {}\0what C does not see",
        "@revoked\tgpu1\tssh-ed25519\t{}",
    ],
)
def test_ways_to_write_a_line(line):
    (entry,) = known(line.format(text_of(KEY)), "gpu1").entries
    assert (entry.key, entry.marker) == (KEY, "@revoked" if "@" in line else "")


def test_an_rsa_key_under_the_name_of_its_signature():
    key = b"".join(len(s).to_bytes(4, "big") + s for s in (b"ssh-rsa", b"\x01\0\x01", b"\x7f" * 64))
    (entry,) = known(f"gpu1 rsa-sha2-512 {text_of(key)}", "gpu1").entries
    assert entry.kind == "ssh-rsa"


def test_all_keys_of_a_host_in_their_order_and_where_they_stand():
    text = f"* ssh-ed25519 {text_of(OTHER)}\n\n{hashed('gpu1')} ssh-ed25519 {text_of(THIRD)}\n"
    text += f"gpu1,gpu2 ssh-ed25519 {text_of(KEY)}\n@revoked gpu1 ssh-ed25519 {text_of(KEY)}\n"
    found = KnownFile(text, "file").lookup("gpu1")
    assert [(e.file, e.line, e.key, e.marker, e.shared) for e in found] == [
        ("file", 1, OTHER, "", True),
        ("file", 3, THIRD, "", False),
        ("file", 4, KEY, "", True),
        ("file", 5, KEY, "@revoked", False),
    ]


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("gpu1", 22, "gpu1"),
        ("GPU1", 22, "gpu1"),
        ("Gpu1", 2222, "[gpu1]:2222"),
        ("fd00::1", 2222, "[fd00::1]:2222"),
        ("fd00::1", 22, "fd00::1"),
    ],
)
def test_name_for(host, port, name):
    assert name_for(host, port) == name


@given(st.text(max_size=60) | st.text("gpu1*?!,|[]:@# \n\t=AZ", max_size=60), st.text(max_size=5))
def test_no_text_upsets_it(text, name):
    KnownFile(text).lookup(name)
    KnownFile(f"{text} ssh-ed25519 {text_of(KEY)}").lookup(name)


# --- judging ------------------------------------------------------------------------------------

LINES = {
    "key": f"{{}} ssh-ed25519 {text_of(KEY)}\n",
    "other": f"{{}} ssh-ed25519 {text_of(OTHER)}\n",
    "revoked": f"@revoked {{}} ssh-ed25519 {text_of(KEY)}\n",
    "authority": f"@cert-authority {{}} ssh-ed25519 {text_of(THIRD)}\n",
    "no-authority": f"@cert-authority {{}} ssh-ed25519 {text_of(OTHER)}\n",
    "revoked-authority": f"@revoked {{}} ssh-ed25519 {text_of(THIRD)}\n",
}
PORT, PLAIN = "[gpu1]:2222", "gpu1"


@pytest.mark.parametrize(
    ("port", "plain", "certificate", "word"),
    [
        ("", "", None, "new"),
        ("key", "", None, "known"),
        ("other", "", None, "changed"),
        ("other key", "", None, "known"),
        ("key revoked", "", None, "revoked"),
        ("revoked", "", None, "revoked"),
        # The name without the port counts where the one with it has nothing.
        ("", "key", None, "known"),
        ("other", "key", None, "changed"),
        ("", "other", None, "new"),
        ("", "revoked", None, "revoked"),
        ("authority", "key", None, "known"),
        # An authority vouches by certificates alone.
        ("authority", "", None, "new"),
        ("authority", "", "good", "known"),
        ("authority", "", "bad", "new"),
        ("authority key", "", "bad", "known"),
        ("authority other", "", "bad", "changed"),
        ("authority other", "", "good", "known"),
        ("no-authority", "", "good", "new"),
        ("no-authority key", "", "good", "known"),
        ("", "", "good", "new"),
        ("key", "", "good", "known"),
        ("", "authority", "good", "known"),
        ("", "authority", "bad", "new"),
        ("other", "authority", "good", "known"),
        ("other", "key", "good", "known"),  # as ssh has it: nothing is known of authorities there
        ("authority revoked-authority", "", "good", "revoked"),
        ("authority revoked", "", "good", "revoked"),
        ("key revoked-authority", "", "good", "revoked"),
    ],
)
def test_judging(port, plain, certificate, word):
    text = "".join(LINES[line].format(PORT) for line in port.split())
    text += "".join(LINES[line].format(PLAIN) for line in plain.split())
    signed = Signed(authority=THIRD, problem=None if certificate == "good" else "expired")
    found = judge(
        known(text, PORT), known(text, PLAIN), KEY, None if certificate is None else signed
    )
    assert found.word == word


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("salt", [None, b"01234567890123456789"])
def test_what_is_written_is_found(salt):
    line = new_line(PORT, "ssh-ed25519", KEY, salt)
    assert line.endswith("\n")
    assert trusted(line, PORT) == [KEY]
    assert trusted(line, PLAIN) == []
    assert (PORT in line) is (salt is None)


@pytest.mark.parametrize(
    "name", ["", "a b", "a\nb", "*", "!a", "a,b", "@revoked", "|1|", "#a", "a'"]
)
def test_a_name_that_no_line_can_begin_with(name):
    assert not writable(name)
    assert writable("gpu-1.example.org")
    assert writable("fe80::1%eth0")


# --- what ssh-keygen says -----------------------------------------------------------------------

keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


def by_keygen(file, name: str) -> set[tuple[int, str, str]]:
    """Return line, marker and fingerprint of what ssh-keygen finds; it reads the keys, as ssh."""
    argv = ["ssh-keygen", "-l", "-F", name, "-f", file]
    run = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    found, line, marker = set(), 0, ""
    for words in map(str.split, run.stdout.splitlines()):
        if words[:2] == ["#", "Host"]:
            line = int(words[words.index("line", 3) + 1])
            marker = {"CA": "@cert-authority", "REVOKED": "@revoked"}.get(words[-1], "")
        else:
            prints = next(word for word in words if word.startswith("SHA256:"))
            found.add((line, marker, prints))
    return found


def by_us(text: str, name: str) -> set[tuple[int, str, str]]:
    return {(e.line, e.marker, fingerprint(e.key)) for e in KnownFile(text).lookup(name)}


NAMES = ["gpu1", "[gpu1]:2222", "x.lab", "fd00::1"]
name = st.sampled_from(NAMES)
pattern = st.one_of(
    name,
    name.map(str.upper),
    st.text("gpu1*?[]:.2l", min_size=1, max_size=8),
    st.sampled_from(["*", "gpu?", "*.lab", "[*]:2222", "[gpu*", "?"]),
)
one_name = st.tuples(st.sampled_from(["", "", "", "!"]), pattern).map("".join)
names = st.one_of(
    st.lists(one_name, min_size=1, max_size=3).map(",".join),
    name.map(hashed),
    st.tuples(name.map(hashed), one_name).map(",".join),
    st.sampled_from(["|1|AAAA|AAAA", "|1|", "|2|x|y", hashed("gpu1").rstrip("=")]),
)
blank = st.sampled_from([" ", " ", " ", "\t", "  ", " \t"])
key_text = st.one_of(
    st.sampled_from([f"ssh-ed25519 {text_of(key)}" for key in (KEY, OTHER, THIRD)]),
    st.sampled_from(
        [
            f"ssh-rsa {text_of(KEY)}",
            f"ssh-ed25519 {text_of(KEY[:-1])}",
            "ssh-ed25519",
            "ssh-ed25519 !",
            "#",
        ]
    ),
)
line = st.tuples(
    st.sampled_from(["", "", " ", "\t"]),
    st.sampled_from(["", "", "", "@revoked", "@cert-authority", "@else"]),
    blank,
    names,
    blank,
    key_text,
    st.sampled_from(["", "\r", " comment", "\t# comment @revoked"]),
).map(lambda parts: "".join(parts if parts[1] else (parts[0], *parts[3:])))
junk = st.sampled_from(["", "# comment", "gpu1", "<<<<", "@revoked", "  "])


@keygen
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(line | junk, max_size=5))
def test_the_same_lines_as_ssh_finds(tmp_path, lines):
    text = "\n".join(lines) + "\n"
    # ssh-keygen gives up where a line that matches ends after the host names; ssh goes on.
    assume(all(len(text.split()) != 1 or text == "" for text in lines))
    file = tmp_path / "known_hosts"
    file.write_bytes(text.encode())
    for asked in NAMES:
        assert by_us(text, asked) == by_keygen(file, asked), asked


@keygen
@pytest.mark.parametrize("hash_it", [False, True])
def test_the_same_lines_in_a_file_of_the_usual_kind(tmp_path, hash_it):
    a, b, c = (f"ssh-ed25519 {text_of(key)}" for key in (KEY, OTHER, THIRD))
    file = tmp_path / "known_hosts"
    file.write_text(
        f"# comment\n\ngpu1,10.0.0.1 {a}\n[gpu1]:2222 {b}\ngpu1 {c}\n"
        f"@cert-authority *.lab {a}\n@revoked gpu9 {b}\n*.lab,!bad.lab {c}\ngpu? {b}\n"
    )
    if hash_it:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
        assert "|1|" in file.read_text()
    for asked in "gpu1 gpu2 gpu9 gpu11 10.0.0.1 [gpu1]:2222 [gpu1]:22 x.lab bad.lab".split():
        assert by_us(file.read_text(), asked) == by_keygen(file, asked), asked


@keygen
def test_ssh_finds_what_we_write(tmp_path):
    file = tmp_path / "known_hosts"
    file.write_text(new_line(PORT, "ssh-ed25519", KEY, None))
    with file.open("a") as lines:
        lines.write(new_line(PLAIN, "ssh-ed25519", OTHER, b"01234567890123456789"))
    assert by_keygen(file, PORT) == {(1, "", fingerprint(KEY))}
    assert by_keygen(file, PLAIN) == {(2, "", fingerprint(OTHER))}
