"""The model by itself: what Python callers may build, and what they may not."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from inventory.model import Host, Inventory, Job, Rendezvous


@pytest.mark.parametrize(
    ("host", "destination"),
    [
        (Host(name="gpu1"), (None, "gpu1", None)),
        (Host(name="gpu1", user="me", port=2222), ("me", "gpu1", 2222)),
        (Host(name="a", ssh="10.0.0.1"), (None, "10.0.0.1", None)),
        (Host(name="a", ssh="me@b:2222"), ("me", "b", 2222)),
        (Host(name="a", ssh="me@corp@b"), ("me@corp", "b", None)),
        (Host(name="a", ssh="fe80::1%eth0"), (None, "fe80::1%eth0", None)),
        (Host(name="a", ssh="me@[fe80::1]:22"), ("me", "fe80::1", 22)),
        (Host(name="a", ssh="b:2222", user="me"), ("me", "b", 2222)),
        (Host(name="a", ssh="me@b", user="me", port=1), ("me", "b", 1)),
    ],
)
def test_destination(host, destination):
    assert host.destination == destination


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "-oProxyCommand=x"}, "'-oProxyCommand=x' is not a host name"),
        ({"name": "a`id`"}, "is not a host name"),
        ({"name": "a\n"}, "is not a host name"),
        ({"name": "a", "ssh": "b;id"}, "'b;id' is not a host name or address"),
        ({"name": "a", "ssh": "-x@b"}, "'-x' is not a user name"),
        ({"name": "a", "ssh": "b:0"}, "port 0 is not between 1 and 65535"),
        ({"name": "a", "ssh": "b:65536"}, "port 65536 is not between 1 and 65535"),
        ({"name": "a", "ssh": "b:٣"}, "is not of the form [user@]host[:port]"),
        ({"name": "a", "ssh": "x@b", "user": "y"}, "ssh says user x, but user says y"),
        ({"name": "a", "ssh": "b:22", "port": 23}, "ssh says port 22, but port says 23"),
        ({"name": "a", "addr": "$(id)"}, "'$(id)' is not a host name or address"),
        ({"name": "a", "workdir": ""}, "at least 1 character"),
        ({"name": "a", "python": "py\0thon"}, "holds no NUL"),
        ({"name": "a", "env": {"A=B": "1"}}, "'A=B' is not an environment variable's name"),
        ({"name": "a", "env": {"A": True}}, "put the value in quotes"),
        ({"name": "a", "env": {"A": "\0"}}, "an environment value holds no NUL"),
        ({"name": "a", "colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_a_host_is_refused(fields, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        Host.model_validate(fields)


def test_an_ipv6_address_with_many_colons_is_judged_at_once():
    with pytest.raises(ValidationError, match="is not of the form"):
        Host(name="a", ssh=":" * 100_000 + "[")  # cubic backtracking would take years


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("30", 30), ("30s", 30), ("1.5m", 90), ("2h", 7200), (" 10 m ", 600), ("2d", 172800), (5, 5)],
)
def test_durations(written, seconds):
    assert Rendezvous(timeout=written).timeout == seconds


@pytest.mark.parametrize("written", ["", "10 w", "-1", "0", "1e3", "9" * 400, float("inf"), "٣"])
def test_what_is_no_duration(written):
    with pytest.raises(ValidationError):
        Rendezvous(timeout=written)


def test_numbers_in_an_environment_become_text():
    assert Job.model_validate({"env": {"A": 1, "B": 1.5}}).env == {"A": "1", "B": "1.5"}


@pytest.mark.parametrize("written", ["/scratch/me", "/", "~", "~/ddp runs/x"])
def test_a_state_folder(written):
    assert Host(name="a", state_dir=written).state_dir == written


@pytest.mark.parametrize("written", ["", "scratch", "./x", "~me/x", "~x", "$TMPDIR/x", "/a\0b"])
def test_what_is_no_state_folder(written):
    with pytest.raises(ValidationError, match="state_dir"):
        Host(name="a", state_dir=written)


def test_a_job_has_one_thing_to_run():
    with pytest.raises(ValidationError, match="give script or module, not both"):
        Job(script="a.py", module="a")


def test_names_differ():
    with pytest.raises(ValidationError, match="given more than once: a"):
        Inventory(hosts=(Host(name="a"), Host(name="b"), Host(name="a")))


def test_an_inventory_is_frozen():
    inventory = Inventory(hosts=(Host(name="a"),))
    with pytest.raises(ValidationError, match="frozen"):
        inventory.same_machine = True


@pytest.mark.parametrize("model", [Host, Job, Rendezvous, Inventory])
def test_every_field_is_documented(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []
