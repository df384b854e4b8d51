"""Hosts that cannot be reached or talked to: each has one finding, and the others are well."""

from __future__ import annotations

import pytest

from tests.hosts.faults import Expected, Ground, fault, try_out
from tests.hosts.host import new_key


def port_is_wrong(ground: Ground) -> None:
    ground.entries["n2"] = {"ssh": "root@10.77.0.10:2222"}


def sshd_is_frozen(ground: Ground) -> None:
    ground["n2"].freeze_sshd()


def sshd_is_down(ground: Ground) -> None:
    ground["n2"].stop_sshd()


def firewall_drops(ground: Ground) -> None:
    ground.firewall(ground["n2"], "tcp dport 22 drop")
    assert not ground.cluster.greeted("10.77.0.10")


def machine_is_off(ground: Ground) -> None:
    ground["n2"].power_off()
    ground.undo.callback(ground["n2"].power_on)


def key_is_unknown(ground: Ground) -> None:
    known = "".join(ground[name].known_hosts_line() for name in ("n1", "n3"))
    ground.cluster.known_hosts.write_text(known)


def key_has_changed(ground: Ground) -> None:
    ground["n2"].new_host_key()


def user_is_wrong(ground: Ground) -> None:
    ground.entries["n2"] = {"ssh": "nobody-here@10.77.0.10"}


def key_is_not_let_in(ground: Ground) -> None:
    other = ground.cluster.home / "other"
    new_key(other)
    ground.entries["n2"] = {"identity_file": str(other)}


def identity_is_missing(ground: Ground) -> None:
    ground.entries["n2"] = {"identity_file": "/no/such/key"}


def name_does_not_resolve(ground: Ground) -> None:
    ground.entries["n2"] = {"ssh": "root@gpu7.invalid"}


def bashrc_exits(ground: Ground) -> None:
    ground["n2"].write(".bashrc", "exit 0\n")


def bashrc_says_why_and_exits(ground: Ground) -> None:
    ground["n2"].write(".bashrc", "echo go away >&2; exit 3\n")


def startup_files_hang(ground: Ground) -> None:
    """One eats what the agent is to be told, one goes on for ever: the same deadline ends both."""
    ground["n2"].write(".bashrc", "cat > /dev/null\n")
    ground["n3"].write(".bashrc", "sleep 3600\n")
    # What sshd started does not end with the connection while nobody writes to it.
    ground.undo.callback(ground["n3"].kill_all)


def bashrc_prints(ground: Ground) -> None:
    ground["n2"].write(".bashrc", "echo welcome to $HOSTNAME\n")


def nobody_may_log_in(ground: Ground) -> None:
    ground["n2"].set_shell("/bin/false")


WITHOUT_PYTHON = """
mkdir /run/bin; mount --bind /usr/bin /run/bin; mount -t tmpfs tmpfs /usr/bin
/run/bin/ln -s /run/bin/* /usr/bin; rm -f /usr/bin/python3*
"""


def there_is_no_python(ground: Ground) -> None:
    host = ground["n2"]
    undo = "umount -l /usr/bin; umount -l /run/bin; rmdir /run/bin"
    ground.on(host, "sh", "-euc", WITHOUT_PYTHON, then=["sh", "-euc", undo])
    host.restart_sshd({"SetEnv": "PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
    assert ground.cluster.ssh(host, "python3 --version").returncode == 127


def sessions_are_used_up(ground: Ground) -> None:
    ground["n2"].restart_sshd({"MaxSessions": "0"})


def through_n1(ground: Ground) -> None:
    """Let n2 be reached by way of n1 alone."""
    ground.hosts = ["n3", "n2"]
    ground.firewall(ground["n2"], "tcp dport 22 ip saddr != 10.77.0.9 drop")
    config = ground.cluster.home / "ssh_config"
    config.write_text(
        "Host n1\n  HostName 10.77.0.9\nHost n2\n  HostName 10.77.0.10\n  ProxyJump n1\n"
        f"Host n3\n  HostName 10.77.0.100\nHost *\n  User root\n  ConnectTimeout 2\n"
        f"  IdentityFile {ground.cluster.identity}\n  GlobalKnownHostsFile /dev/null\n"
        f"  UserKnownHostsFile {ground.cluster.known_hosts}\n"
    )
    ground.fields["defaults"] = {"ssh_config": str(config)}
    ground.entries = {name: {"ssh": name} for name in ground.hosts}


def gateway_is_down(ground: Ground) -> None:
    through_n1(ground)
    ground.firewall(ground["n1"], "drop")


def gateway_forwards_nothing(ground: Ground) -> None:
    through_n1(ground)
    ground["n1"].restart_sshd({"AllowTcpForwarding": "no"})


def at_n2(id_: str, hint: str = "", message: str = "", status: str = "fail") -> Expected:
    return Expected(id_, "n2", hint=hint, message=message, status=status)


FAULTS = [
    fault(port_is_wrong, at_n2("ssh.reach", "user@host:port", "2222")),
    fault(sshd_is_frozen, at_n2("ssh.banner", message="is open, but says nothing for 10 s")),
    fault(
        sshd_is_down,
        at_n2("ssh.reach", message="10.77.0.10 refuses connections on port 22"),
        quick=True,
    ),
    fault(firewall_drops, at_n2("ssh.reach", message="no answer from 10.77.0.10 port 22")),
    fault(machine_is_off, at_n2("ssh.reach")),
    fault(key_is_unknown, at_n2("ssh.hostkey", "--accept-new-host-keys")),
    fault(key_has_changed, at_n2("ssh.hostkey", "ssh-keygen -R 10.77.0.10")),
    fault(user_is_wrong, at_n2("ssh.auth", "ssh -S none -F none -i ")),
    fault(
        key_is_not_let_in,
        at_n2("ssh.auth", "/other -o IdentitiesOnly=yes ", "refuses to log in root"),
        quick=True,
    ),
    fault(identity_is_missing, at_n2("ssh.auth")),
    fault(name_does_not_resolve, at_n2("ssh.name")),
    fault(bashrc_exits, at_n2("ssh.agent", "exit", "ended with code 0 before the agent started")),
    fault(bashrc_says_why_and_exits, at_n2("ssh.agent", message="started: go away")),
    fault(
        startup_files_hang,
        at_n2("ssh.agent", message="did not start the agent"),
        Expected("ssh.agent", "n3", message="did not start the agent"),
    ),
    fault(bashrc_prints, at_n2("ssh.noise", "$- == *i*", "welcome", "warn")),
    fault(nobody_may_log_in, at_n2("ssh.agent", "/bin/false")),
    fault(there_is_no_python, at_n2("ssh.agent", "install Python")),
    fault(sessions_are_used_up, at_n2("ssh.agent")),
    fault(gateway_is_down, at_n2("ssh.jump", "ProxyJump")),
    fault(gateway_forwards_nothing, at_n2("ssh.jump")),
]


@pytest.mark.parametrize(("inject", "expected", "warns"), FAULTS)
def test_fault(ground: Ground, inject, expected, warns) -> None:
    try_out(ground, inject, expected, warns)
