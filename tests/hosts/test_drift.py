"""Hosts that have not the same: versions of torch, and what is to be run."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from tests import site_packages
from tests.hosts.test_up import ddp_orch, nothing_was_started

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hosts.cluster import Cluster
    from tests.hosts.host import NsHost

BAD = ("fail", "warn")


def verdicts(cluster: Cluster, code: int, inventory: Path) -> list[dict[str, Any]]:
    """Return what a check says that ends with that code."""
    done = ddp_orch(cluster, "check", inventory, "-o", "json")
    assert done.returncode == code, done.stdout + done.stderr
    return [told for line in done.stdout.splitlines() if "id" in (told := json.loads(line))]


def bad(told: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return [(v["id"], v["status"], v["host"]) for v in told if v["status"] in BAD]


def of(told: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    return [verdict for verdict in told if verdict["id"] == check]


def commit(host: NsHost, folder: str, message: str) -> str:
    """Make a repository of a folder of the host's; return its only commit."""
    who = ["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    env = {"PATH": os.environ["PATH"], "HOME": str(host.home), "GIT_CONFIG_NOSYSTEM": "1"}
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", message]):
        where = host.home / folder
        subprocess.run(["git", *who, *words], cwd=where, env=env, check=True, capture_output=True)
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.check_output(words, cwd=host.home / folder, env=env, text=True).strip()


def test_another_torch_on_one_host_fails_and_nothing_else_does(cluster: Cluster) -> None:
    hosts = cluster.hosts[:3]
    for host, version in zip(hosts, ("2.9.0", "2.10.1", "2.9.0"), strict=True):
        # To import it would end the interpreter.
        site = site_packages.environment(host.home / "venv")
        site_packages.torch(site, version, built=f"{version}+cu128", cuda="12.8")
    told = verdicts(cluster, 3, cluster.inventory(hosts, defaults={"python": "~/venv"}))
    assert bad(told) == [("env.torch_drift", "fail", "n2")]
    (drift,) = of(told, "env.torch_drift")
    assert drift["message"] == "torch 2.10.1+cu128 on n2, 2.9.0+cu128 on the other 2"
    assert drift["hint"].startswith(f"on n2: {hosts[1].home}/venv/bin/python -m pip install torch")
    two = verdicts(cluster, 3, cluster.inventory(hosts[:2], defaults={"python": "~/venv"}))
    assert bad(two) == [("env.torch_drift", "fail", None)]
    assert of(two, "env.torch_drift")[0]["message"].endswith(" on n2, 2.9.0+cu128 on n1")
    nothing_was_started(cluster)


def test_a_script_that_is_not_on_all_hosts_or_not_the_same(cluster: Cluster) -> None:
    first, second = cluster.hosts[:2]
    first.write("ours/train.py", "print(1)\n")
    inventory = cluster.inventory([first, second], job={"script": "~/ours/train.py"})
    told = verdicts(cluster, 3, inventory)
    assert bad(told) == [("env.script", "fail", "n2")]
    assert of(told, "env.script")[1]["message"] == f"{second.home}/ours/train.py is not there"
    done = ddp_orch(cluster, "up", inventory)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"FAIL env.script  n2: {second.home}/ours/train.py is not there" in done.stdout
    # There, but not the same.
    second.write("ours/train.py", "print(2)\n")
    told = verdicts(cluster, 3, inventory)
    assert bad(told) == [("env.code_drift", "fail", None)]
    assert "/ours/train.py differs: " in of(told, "env.code_drift")[0]["message"]
    # The same, of another commit.
    second.write("ours/train.py", "print(1)\n")
    commits = [commit(first, "ours", "one"), commit(second, "ours", "two")]
    told = verdicts(cluster, 0, inventory)
    assert bad(told) == [("env.code_drift", "warn", None)]
    for found in commits:
        assert found[:12] in of(told, "env.code_drift")[0]["message"]
    nothing_was_started(cluster)


def test_a_module_and_a_command_that_are_not_on_all_hosts(cluster: Cluster) -> None:
    first, second = cluster.hosts[:2]
    for host in (first, second):
        host.write("work/pkg/__init__.py", "raise SystemExit('imported')\n")
    first.write("work/pkg/train.py", "")
    # Hosts see each other's homes; this is theirs alone.
    tool = first.write("/run/home/bin/tool", "#!/bin/sh\n", 0o755)
    work = {"defaults": {"workdir": "~/work"}}
    told = verdicts(
        cluster, 3, cluster.inventory([first, second], job={"module": "pkg.train"}, **work)
    )
    assert bad(told) == [("env.script", "fail", "n2")]
    assert of(told, "env.script")[1]["message"] == "-m pkg.train: there is no module pkg.train"
    # By the PATH that workers will have.
    job = {"command": ["tool"], "env": {"PATH": f"{tool.parent}:/usr/bin:/bin"}}
    told = verdicts(cluster, 3, cluster.inventory([first, second], job=job, **work))
    assert bad(told) == [("env.script", "fail", "n2")]
    # Without a job nothing of that is looked for.
    told = verdicts(cluster, 0, cluster.inventory([first, second], **work))
    assert not of(told, "env.script")
    assert not of(told, "env.code_drift")
    nothing_was_started(cluster)
