"""What a host does with those who log in, and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.checks.check import Check, each, user_of
from orchestrator.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.facts import ClusterFacts

# systemd's own users and services: nothing of theirs is removed.
FIRST_USER = 1000


def _logind(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "host.logind", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
            continue
        session = found.session
        user = user_of(cluster, host) or ("root" if found.uid == 0 else "USER")
        if isinstance(session, str):
            yield Verdict(id="host.logind", status="unknown", host=host, message=session)
        elif session and session.ends_runs_of(user):
            yield Verdict(
                id="host.logind",
                status="fail",
                host=host,
                message="logind kills what a session leaves behind (KillUserProcesses=yes): "
                "a run would end with its connection",
                # Lingering does not help: the scope of a session is killed all the same.
                hint=f"there, in /etc/systemd/logind.conf: KillExcludeUsers=root {user}; "
                "then sudo systemctl restart systemd-logind",
            )
        elif session and _loses_ipc(found.uid, session.removes_ipc, session.lingers):
            # The default of systemd, and it waits for what is left of the last session.
            yield Verdict(
                id="host.logind",
                status="info",
                host=host,
                message="once nothing of this user is logged in, logind removes his shared memory "
                "(RemoveIPC=yes)",
                hint=f"sudo loginctl enable-linger {user}",
            )
        else:
            message = "leaves alone what a session leaves behind" if session else "no logind"
            yield Verdict(id="host.logind", status="pass", host=host, message=message)


def _loses_ipc(uid: int, removes: bool, lingers: bool) -> bool:
    return removes and not lingers and uid >= FIRST_USER


def _hidepid(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "host.hidepid", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
        elif found.hides and found.uid != 0:
            yield Verdict(
                id="host.hidepid",
                status="info",
                host=host,
                message=f"/proc hides others' processes ({found.hides}): who holds a port or a GPU "
                "is not named, and a stop cannot always be proven",
                hint="sudo mount -o remount,hidepid=0 /proc, or live with `unverified` now and "
                "then",
            )
        else:
            yield Verdict(
                id="host.hidepid", status="pass", host=host, message="/proc shows all processes"
            )


def _locale(cluster: ClusterFacts) -> Iterator[Verdict]:
    for host, found in each(cluster, "env.locale", cluster.conditions):
        if isinstance(found, Verdict):
            yield found
        elif found.locale:
            yield Verdict(
                id="env.locale",
                status="info",
                host=host,
                message=f"{found.locale} is not installed: programs complain of it, and fall back "
                "to plain ASCII",
                hint="`env: {LC_ALL: C.UTF-8}`",
            )
        else:
            yield Verdict(
                id="env.locale", status="pass", host=host, message="the login's locale is there"
            )


CHECKS = (
    Check(
        id="host.logind",
        about="a run may stay when its connection goes",
        without="the job dies at logout, or `could not unlink the shared memory file /torch_`",
        how="logind's own settings, asked of busctl and loginctl",
        judge=_logind,
    ),
    Check(
        id="host.hidepid",
        about="/proc shows other users' processes",
        without="a stop that cannot be verified, a port held by nobody",
        how="the options of /proc",
        judge=_hidepid,
        worst="info",
    ),
    Check(
        id="env.locale",
        about="the login's locale is there",
        without="`setlocale: LC_ALL: cannot change locale` in every log",
        how="newlocale() of libc",
        judge=_locale,
        worst="info",
    ),
)
