"""Certificates of hosts, as ssh-keygen makes them and as somebody in between might bend them."""

from __future__ import annotations

import base64
import shutil
import subprocess
from dataclasses import replace

import paramiko
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.certificate import Malformed, key_kind, packed, parse, problem
from orchestrator.errors import HostError
from orchestrator.host.publickey import public_key
from orchestrator.host.trust import CheckedKey, KnownHosts, _signature_holds
from tests.test_trust import target_of

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")

KINDS = {"ed25519": [], "ecdsa": ["-b", "256"], "rsa": ["-b", "2048"]}
NOW = 1_800_000_000


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder with a key of each kind."""
    folder = tmp_path_factory.mktemp("keys")
    for kind, words in KINDS.items():
        keygen("-t", kind, *words, "-N", "", "-C", "", "-f", folder / kind)
    return folder


def keygen(*words) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], check=True, stdin=subprocess.DEVNULL)


def blob_of(file) -> bytes:
    return base64.b64decode(file.read_text().split()[1])


def signed(keys, *words, key="ed25519", authority="ed25519") -> bytes:
    keygen("-s", keys / authority, "-I", "id", "-h", *words, keys / f"{key}.pub")
    return blob_of(keys / f"{key}-cert.pub")


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.parametrize("authority", KINDS)
def test_what_is_in_it(keys, key, authority):
    window = ["-V", f"{hex(NOW - 10)}:{hex(NOW + 10)}"]
    found = parse(signed(keys, "-n", "gpu1,gpu2", *window, key=key, authority=authority))
    assert found.kind.startswith(key_kind(blob_of(keys / f"{key}.pub")))
    assert found.key == blob_of(keys / f"{key}.pub")
    assert found.principals == ("gpu1", "gpu2")
    assert (found.valid_after, found.valid_before) == (NOW - 10, NOW + 10)
    assert found.authority == blob_of(keys / f"{authority}.pub")
    assert problem(found, "gpu2", NOW) is None


def test_a_security_key_s_leads_to_the_key(keys):
    """Which its agent knows it by."""
    blob = b"".join(map(packed, (b"sk-ssh-ed25519@openssh.com", bytes(range(32)), b"ssh:")))
    text = base64.b64encode(blob).decode()
    (keys / "sk.pub").write_text(f"sk-ssh-ed25519@openssh.com {text}\n")
    shown = public_key(signed(keys, "-n", "alice", key="sk"))
    assert shown.certified
    assert shown.plain == public_key(blob)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (NOW - 11, "is not valid before 2027-01-15 07:59 UTC"),
        (NOW - 10, None),
        (NOW + 9.9, None),
        (NOW + 10, "expired at 2027-01-15 08:00 UTC"),
    ],
)
def test_its_time(keys, now, says):
    found = parse(signed(keys, "-n", "gpu1", "-V", f"{hex(NOW - 10)}:{hex(NOW + 10)}"))
    assert problem(found, "gpu1", now) == says


def test_one_without_an_end(keys):
    assert problem(parse(signed(keys, "-n", "gpu1")), "gpu1", 1e12) is None


@pytest.mark.parametrize("name", ["gpu", "gpu11", "GPU1", "gpu1 ", "*", ""])
def test_names_are_taken_as_they_are(keys, name):
    assert "not for" in problem(parse(signed(keys, "-n", "gpu1,gp*")), name, NOW)


def test_what_a_stranger_wrote_is_fit_for_the_screen(keys):
    says = problem(parse(signed(keys, "-n", "a\x1b[2Jb\nc" + 300 * "x")), "gpu1", NOW)
    assert says.startswith("is for a?[2Jb?cxxx")
    assert len(says) < 150


@pytest.mark.parametrize("text", [b"", b"\0", b"\0\0\0\x03abc", b"\xff" * 40])
def test_what_is_none(text):
    with pytest.raises(Malformed):
        parse(text)
    assert key_kind(text) is None


def test_nothing_may_follow_it(keys):
    with pytest.raises(Malformed, match="follows"):
        parse(signed(keys, "-n", "gpu1") + b"\0")


def test_a_wrong_length_within_the_signature(keys):
    """paramiko reads what there is, and finds the right signature."""
    blob = bytearray(signed(keys, "-n", "gpu1"))
    blob[-68] ^= 1  # of the 64 bytes of an ed25519 signature, and the length before them
    with pytest.raises(Malformed):
        parse(bytes(blob))


def test_a_certificate_is_no_plain_key_and_the_other_way_round(keys):
    assert key_kind(signed(keys, "-n", "gpu1")) is None
    with pytest.raises(Malformed):
        parse(blob_of(keys / "ed25519.pub"))


@pytest.fixture(scope="module")
def blobs(keys):
    return [signed(keys, "-n", "gpu1", key=k, authority=a) for k in KINDS for a in KINDS]


def judged(blob: bytes, authorities: list[bytes], folder) -> None:
    """Judge a host that shows these bytes; paramiko has read the key out of them."""
    key = paramiko.PKey.from_type_string(*kind_and_key(blob))
    key.public_blob = paramiko.pkey.PublicBlob("", blob)
    file = folder / "known_hosts"
    file.write_text("".join(f"@cert-authority * {line}\n" for line in authorities))
    known = KnownHosts(accept_new=False)
    CheckedKey(target_of(file), known).missing_host_key(None, "", key)


def kind_and_key(blob: bytes) -> tuple[str, bytes]:
    """Any key will do: what is asked here is what becomes of the certificate."""
    key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + b"k" * 32
    return "ssh-ed25519", key


def test_whole_ones_are_accepted(blobs, keys, tmp_path):
    authorities = [(keys / f"{kind}.pub").read_text().strip() for kind in KINDS]
    for blob in blobs:
        judged(blob, authorities, tmp_path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_bent_ones_are_never_accepted(blobs, keys, tmp_path, data):
    """Each byte of it is signed, or is the signature, or says how long things are."""
    authorities = [(keys / f"{kind}.pub").read_text().strip() for kind in KINDS]
    blob = bytearray(data.draw(st.sampled_from(blobs)))
    at = data.draw(st.integers(0, len(blob) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert"])):
        case "change":
            blob[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del blob[at : at + data.draw(st.integers(1, 40))]
        case _:
            blob[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    with pytest.raises(HostError) as caught:
        judged(bytes(blob), authorities, tmp_path)
    assert caught.value.check == "ssh.hostkey"


@pytest.mark.parametrize(
    ("exponent", "modulus"),
    [(b"\x01\x00\x01", b"\xff" * 256), (b"\xff" * 9, b"\x7f" * 256), (b"\x01\x00\x01", b"")],
    ids=["negative", "a negative exponent", "nothing"],
)
def test_an_authority_whose_numbers_make_no_key_signs_nothing(blobs, exponent, modulus):
    parts = (b"ssh-rsa", exponent, modulus)
    key = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    for blob in blobs:
        assert _signature_holds(replace(parse(blob), authority=key)) is False
