"""What the command line gives the workers, to the byte."""

from __future__ import annotations

import os

import pytest

from orchestrator.errors import UsageError
from orchestrator.given import environment, parse, secrets

ODD = b"caf\xe9 \xff\n\t$HOME `x` \\ 'q' \"d\" \xe2\x9c\x93"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", {}),
        (b"A=1\nB=2\n", {"A": "1", "B": "2"}),
        (b"A=1", {"A": "1"}),
        (b"\n  \n# A=1\n  # B=2\nC=3\n", {"C": "3"}),
        (b"export A=1\n  export\tB=2\n", {"A": "1", "B": "2"}),
        (b"A=\n", {"A": ""}),
        # To the line's end, byte for byte.
        (b"A= x \t\n", {"A": " x \t"}),
        (b"A=x=y==\n", {"A": "x=y=="}),
        (b"A=a#b\n", {"A": "a#b"}),
        (b"A=$HOME ${B} `id` \\n %d\n", {"A": "$HOME ${B} `id` \\n %d"}),
        (b'A={"k": "v"}\n', {"A": '{"k": "v"}'}),
        (b"A=it's\n", {"A": "it's"}),
        ("A=käse 🧀\n".encode(), {"A": "käse 🧀"}),
        (b"A=\xff\xfe\n", {"A": "\udcff\udcfe"}),
        (b"\xef\xbb\xbfA=1\n", {"A": "1"}),
        (b"A=x\x0by\x85z\n", {"A": "x\x0by\udc85z"}),  # lines end with \n alone
        (b"exported=1\n", {"exported": "1"}),
    ],
)
def test_a_file(text, found):
    assert parse(text, "f") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"A=1\nA\n", "f:2: no = in this line"),
        (b"\nexport A\n", "f:2: no = in this line"),
        (b"A =1\n", "f:1: what stands before = is not a variable's name"),
        (b"1A=x\n", "f:1: what stands before = is not a variable's name"),
        (b"=x\n", "f:1: what stands before = is not a variable's name"),
        (b"A-B=x\n", "f:1: what stands before = is not a variable's name"),
        (b"A='x'\n", "f:1: A: the value begins with a quote"),
        (b'A="x y"\n', "f:1: A: the value begins with a quote"),
        (b'A="x\nB=2\n', "f:1: A: the value begins with a quote"),
        (b"A=x # why\n", "f:1: A: # after a blank"),
        (b"A=1\r\n", "f:1: A: the line ends as in Windows"),
        (b"A=-----BEGIN KEY-----\nMIIEvQIBADAN+g==\n", "f:2: what stands before = is not"),
        (b"A=x\0y\n", "f:1: A: a value holds no NUL"),
        (b"A=1\nB=2\nA=3\n", "f:3: A stands in line 1 already"),
    ],
)
def test_what_readers_of_such_files_do_not_agree_on_is_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text, "f")
    assert caught.value.message.startswith(message)
    assert caught.value.hint
    assert "x y" not in caught.value.message, "a value may be private"


def test_the_command_line_comes_before_its_files_and_a_later_file_before_an_earlier(
    tmp_path, monkeypatch
):
    (tmp_path / "one").write_bytes(b"A=1\nB=1\nC=1\nD=1\n")
    (tmp_path / "two").write_bytes(b"B=2\nC=2\n")
    monkeypatch.setitem(os.environb, b"D", ODD)
    files = [str(tmp_path / "one"), str(tmp_path / "two")]
    got = environment(files, ["C=3", "E=", "F=x=y", "D"])
    assert got.pop("D").encode("utf-8", "surrogateescape") == ODD
    assert got == {"A": "1", "B": "2", "C": "3", "E": "", "F": "x=y"}


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(UsageError, match=r"--env-file .*: (No such file|Is a directory)"):
        environment([str(tmp_path / name)], [])


def test_a_file_that_is_no_file_of_settings(tmp_path):
    (tmp_path / "big").write_bytes(b"A=" + b"x" * (1 << 20))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        environment([str(tmp_path / "big")], [])


def test_a_pipe_is_a_file():
    reader, writer = os.pipe()
    os.write(writer, b"A=1\n")
    os.close(writer)
    try:
        assert environment([f"/dev/fd/{reader}"], []) == {"A": "1"}
    finally:
        os.close(reader)


def test_secrets_come_from_this_machine_as_they_are(monkeypatch):
    monkeypatch.setitem(os.environb, b"TOKEN", ODD)
    (secret,) = secrets(["TOKEN", "TOKEN"]).values()
    assert secret.reveal().encode("utf-8", "surrogateescape") == ODD


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TOKEN", None, "the secret TOKEN is not set in this machine's environment"),
        ("TOKEN", "", "the secret TOKEN is empty in this machine's environment"),
        ("TOKEN", "abc", "the secret TOKEN is shorter than 4 characters"),
        ("TOKEN", " \n\n  a ", "the secret TOKEN is shorter than 4 characters"),
        ("TOKEN", "abc\nd\n efg", "the secret TOKEN is shorter than 4 characters"),
        ("TOKEN=hf_visible", None, "--secret TOKEN=...: a value does not belong"),
        ("hf-visible", None, "--secret takes the name of a variable"),
    ],
)
def test_a_secret_that_is_none(monkeypatch, name, value, message):
    monkeypatch.delenv("TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKEN", value)
    with pytest.raises(UsageError) as caught:
        secrets([name])
    assert caught.value.message.startswith(message)
    assert "visible" not in f"{caught.value.message} {caught.value.hint}"
