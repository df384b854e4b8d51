"""What is to be run is not there, or not the same; or what was run before is still there."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.hosts.faults import Expected, Ground, fault, try_out
from tests.hosts.launched import launch
from tests.hosts.processes import until
from tests.hosts.test_environment import venv
from tests.hosts.test_faults_net import PORT, is_open, names

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hosts.host import NsHost

SCRIPT = "/tmp/job/train.py"


# ---- interpreters ----


def use(ground: Ground, python: object) -> None:
    ground.entries["n3"] = {"python": str(python)}


def python_is_missing(ground: Ground) -> None:
    use(ground, "/opt/venvs/train/bin/python")


def python_hangs(ground: Ground) -> None:
    """As one on a file server that has gone."""
    use(ground, ground["n3"].write("slow/python", "#!/bin/sh\nsleep 3600\n", 0o755))


def python_is_something_else(ground: Ground) -> None:
    use(ground, ground["n3"].write("bin/python", "#!/bin/sh\necho hello\n", 0o755))


def torch_is_missing(ground: Ground) -> None:
    folder = ground["n3"].home / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    use(ground, folder)


def own_torch(host: NsHost, version: str) -> Path:
    """Make an environment with what is looked at of a torch; it could not be imported."""
    folder = venv(host.home / "venv")
    (packages,) = folder.glob("lib/python*/site-packages")
    own = packages / "torch"
    (own / "distributed").mkdir(parents=True)
    (own / "distributed/run.py").touch()
    (own / "__init__.py").touch()
    (own / "version.py").write_text(f"__version__ = '{version}'\ncuda = None\nhip = None\n")
    info = packages / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return folder


def torch_is_another(ground: Ground) -> None:
    use(ground, own_torch(ground["n3"], "2.9.0+cpu"))


def torch_is_too_old(ground: Ground) -> None:
    use(ground, own_torch(ground["n3"], "2.1.0+cpu"))


def torchrun_is_missing(ground: Ground) -> None:
    folder = own_torch(ground["n3"], importlib.metadata.version("torch"))
    (run,) = folder.glob("lib/python*/site-packages/torch/distributed/run.py")
    run.unlink()
    use(ground, folder)


# ---- code ----


def script(ground: Ground, **texts: str | None) -> None:
    """Put the job's script on the hosts: what is said, or the same as on the others."""
    ground.fields["job"] = {"script": SCRIPT}
    for host in ground:
        text = texts.get(host.name, "print('the same')\n")
        ground.undo.callback(host.run, ["rm", "-rf", "/tmp/job"])
        if text is None:
            host.run(["mkdir", "/tmp/job"])
        else:
            host.write(SCRIPT, text)


def script_is_everywhere(ground: Ground) -> None:
    script(ground)


def script_is_missing(ground: Ground) -> None:
    script(ground, n3=None)


def script_differs(ground: Ground) -> None:
    script(ground, n3="print('an older one')\n")


COMMIT = """
cd /tmp/job; export HOME=/tmp/job GIT_CONFIG_NOSYSTEM=1
git init -q; git add .
export GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z
git -c user.name=x -c user.email=x@invalid commit -q -m "$1"
git rev-parse HEAD
"""


def commits_differ(ground: Ground) -> None:
    script(ground)
    said = {h.name: "old" if h.name == "n3" else "new" for h in ground}
    heads = {h.name: ground.on(h, "sh", "-euc", COMMIT, "commit", said[h.name]) for h in ground}
    assert heads["n1"] == heads["n2"] != heads["n3"]


def workdir_is_missing(ground: Ground) -> None:
    ground.fields["defaults"] = {"workdir": "/tmp/work"}
    for name in ("n1", "n2"):
        ground.on(ground[name], "mkdir", "/tmp/work", then=["rmdir", "/tmp/work"])


# ---- what was left ----


def leave(ground: Ground, host: NsHost, *words: str, env: str = "") -> None:
    """Start something that outlives the connection it was started in, as nohup does."""
    line = f"{env} setsid nohup {shlex.join(words)} >/dev/null 2>&1 </dev/null &"
    done = ground.cluster.ssh(host, line)
    ground.undo.callback(host.kill_all)
    assert done.returncode == 0, done.stderr
    last = words[-1]
    until(lambda: any(last in line for line in host.pids().values()), "it runs")


def torchrun_was_left(ground: Ground) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "3", "--rdzv-backend"]
    words += ["c10d", "--rdzv-endpoint", "10.77.0.250:29400", "--rdzv-id", "old", "train.py"]
    leave(ground, ground["n2"], *words)


def its_store_was_left(ground: Ground) -> None:
    """The next run's torchrun would find it at the rendezvous port, and take it for its own."""
    head = ground["n1"]
    names(ground)
    ground.fields["rendezvous"] = {"port": PORT}
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "3", "--rdzv-backend"]
    words += ["c10d", "--rdzv-endpoint", f"{head.hostname}:{PORT}", "--rdzv-id", "old", "train.py"]
    leave(ground, head, *words)
    until(lambda: is_open(ground, head, PORT), "its store is there", 120)


def worker_was_left(ground: Ground) -> None:
    """Its torchrun was killed: it has a rank still, and a GPU."""
    env = "RANK=1 WORLD_SIZE=3 LOCAL_RANK=0 GROUP_RANK=1 MASTER_ADDR=10.77.0.9 MASTER_PORT=29500 "
    env += "TORCHELASTIC_RUN_ID=old"
    words = [sys.executable, "-ISc", "import time; time.sleep(3600)"]
    leave(ground, ground["n2"], *words, env=env)


def runs_of_ours_are_there(ground: Ground) -> None:
    """On n1 one that goes on; on n2 one of which nobody takes care any more."""
    goes_on = launch(ground.cluster, "going", [ground["n1"]], "sleep", 3600)
    ground.undo.callback(goes_on.down, "--grace", 1)
    lost = launch(ground.cluster, "lost", [ground["n2"]], "sleep", 3600)
    ground.undo.callback(ground["n2"].kill_all)
    for pid in lost.keepers(ground["n2"]):
        ground["n2"].kill(pid)


def at_n3(id_: str, hint: str = "", message: str = "") -> Expected:
    return Expected(id_, "n3", hint=hint, message=message)


FAULTS = [
    fault(python_is_missing, at_n3("env.python", "python:")),
    fault(python_hangs, at_n3("env.python", "python:", "did not answer in")),
    fault(python_is_something_else, at_n3("env.python", "python:", "no Python")),
    fault(torch_is_missing, at_n3("env.torch", "python:")),
    fault(torch_is_another, at_n3("env.torch_drift", "pip install", "2.9.0"), quick=True),
    fault(torch_is_too_old, at_n3("env.torch", "pip install", "2.1.0")),
    fault(torchrun_is_missing, at_n3("env.torchrun", "pip install")),
    fault(script_is_everywhere),
    fault(script_is_missing, at_n3("env.script", f"n3:{SCRIPT}", SCRIPT)),
    fault(script_differs, at_n3("env.code_drift", f"n3:{SCRIPT}", SCRIPT)),
    fault(commits_differ, Expected("env.code_drift", "n3", hint="git", status="warn")),
    fault(workdir_is_missing, at_n3("env.workdir", "workdir:", "/tmp/work")),
    fault(torchrun_was_left, Expected("run.leftover", "n2", hint="ddp-orch down --strays")),
    fault(its_store_was_left, Expected("run.leftover", "n1", hint="ddp-orch down --strays")),
    fault(worker_was_left, Expected("run.leftover", "n2", hint="ddp-orch down --strays")),
    fault(
        runs_of_ours_are_there,
        Expected("run.leftover", "n1", hint="ddp-orch down going", status="warn"),
        Expected("run.leftover", "n2", hint="ddp-orch down lost"),
    ),
]


@pytest.mark.parametrize(("inject", "expected", "warns"), FAULTS)
def test_fault(ground: Ground, inject, expected, warns) -> None:
    try_out(ground, inject, expected, warns)
