"""What `python:` means on this host: which program, which environment around it, and has it torch.

`python:` is an interpreter (a path, or a name on PATH), the folder of a virtual or conda
environment, or a conda environment's name. Nothing is sourced and conda is not run: what activation
would set is known from the folder alone.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import subprocess

from . import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Runs inside the user's interpreter, whatever that is: nothing is imported that costs anything,
# torch least of all (importing it takes seconds; its files say what it is). Not even
# find_spec("torch.distributed"): finding a module imports what it is in.
# Packages and their versions are known by their metadata's folders: to ask all distributions is to
# read a file of each, and they may be hundreds on a file server. To import importlib.metadata alone
# would cost more than all the rest.
QUESTION = r"""
import sys
# A json.py or a torch folder in the current directory is not what the workers would import.
sys.path = [folder for folder in sys.path if folder]
import json, os, re
found = {"executable": sys.executable, "version": sys.version.split()[0], "prefix": sys.prefix}
try:
    from importlib import util
    spec = util.find_spec("torch")
    # An empty folder called torch is found as well, but has no origin.
    if spec is not None and spec.origin:
        torch = os.path.dirname(spec.origin)
        found["torchrun"] = any(
            os.path.isfile(torch + "/distributed/run" + end) for end in (".py", ".pyc"))
        told = {}
        try:
            with open(torch + "/version.py", "rb") as file:
                text = file.read(65536).decode("utf-8", "replace")
            told = dict(re.findall(
                r'''(?m)^(__version__|cuda|hip)\b[^=\n]*=\s*['"]([^'"\n]*)['"]''', text))
        except OSError:
            pass  # its metadata is enough
        found.update((name, told[name]) for name in ("cuda", "hip") if name in told)
        found["built"] = told.get("__version__")
        installed = {}
        for folder in filter(os.path.isdir, sys.path):
            for name in os.listdir(folder):
                package = re.match(
                    r"(torch|nvidia[-_.]nccl.*?)-(\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info$",
                    name, re.I)
                if package:
                    installed.setdefault(package.group(1).lower(), package.group(2))
        # Copied, or built in place, it has no metadata.
        version = installed.pop("torch", found["built"])
        if not version:
            raise ValueError("its torch does not say its version")
        found.update(torch=version, nccl=installed)
except Exception as error:
    found["problem"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""
# Where conda and its kin are put; their environments lie in envs/ there.
KINDS = "miniconda3 anaconda3 miniforge3 mambaforge micromamba conda miniconda anaconda .conda"
# What is a Python by its name is looked for on PATH first; any other name is an environment first.
PYTHON = re.compile(r"(?:python|pypy)[0-9.]*\Z")


def ask(python: str, deadline: float, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Ask the interpreter that is to run the workers what it is, in what `env` has for them."""
    path, problem = locate(python)
    if path is None:
        return {"problem": problem}
    found = answer(path, [QUESTION], deadline, env=env)
    if "executable" not in found:
        return found
    return dict(found, path=path, environment=around_it(path, found))


def answer(
    path: str,
    words: list[str],
    deadline: float,
    *,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
) -> dict[str, Any]:
    """Have the interpreter run a program that prints JSON last; why there is none is a problem."""
    # Another Python's home would keep this one from starting; activation unsets it as well.
    bare = environment_at(os.path.dirname(os.path.dirname(path)))
    whole = {k: v for k, v in os.environ.items() if not (bare and k == "PYTHONHOME")}
    whole.update(env or {})
    # As at the launch: it comes before the host's own.
    folders = ":".join(filter(None, [(env or {}).get("PYTHONPATH"), os.environ.get("PYTHONPATH")]))
    if folders:
        whole["PYTHONPATH"] = folders
    try:
        process = subprocess.Popen(
            [path, "-c", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or files.home_or_root(),
            env=whole,
            # A session of its own, as start_new_session would make; but with that alone newer
            # Pythons use vfork, and all threads here would wait with a program on a file server
            # that does not answer.
            preexec_fn=os.setsid,
        )
    except OSError as error:
        return {"problem": error.strerror}
    with process:
        try:
            printed, said = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            # With all that it started: it may be a wrapper.
            os.killpg(process.pid, signal.SIGKILL)
            return {"problem": "did not answer in %g s" % deadline}
    try:
        found = json.loads(printed.decode("utf-8", "replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = None
    if isinstance(found, dict) and found:
        return found
    if whole.get("PYTHONHOME"):
        return {"problem": "does not start with PYTHONHOME=%s" % whole["PYTHONHOME"]}
    last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
    return {"problem": "is no Python: " + (last[0][:160] if last else "it printed nothing of use")}


def around_it(path: str, found: dict[str, Any]) -> dict[str, str] | None:
    """What activating the environment around an interpreter sets, by its path and its answer."""
    # A link or a wrapper elsewhere may lead into an environment: the interpreter itself knows.
    return environment_at(os.path.dirname(os.path.dirname(path))) or environment_at(
        str(found.get("prefix"))
    )


def locate(python: str) -> tuple[str | None, str]:
    """Return the program that `python:` means, or None and why there is none."""
    wanted = os.path.expanduser(python)
    if "/" in wanted:
        # A relative path begins at the home, as it does for ssh and scp.
        path: str | None = os.path.join(os.path.expanduser("~"), wanted)
        if os.path.isdir(str(path)):
            path = inside(str(path))
            if path is None:
                return None, "a folder without bin/python: no virtual or conda environment"
    else:
        on_path = shutil.which(wanted)
        path = on_path if PYTHON.match(wanted) and on_path else conda(wanted) or on_path
    if path is None or not os.path.exists(path):
        more = "" if "/" in wanted else ": no program on PATH, and no conda environment"
        return None, "not found" + more
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        return None, "not an executable file"
    return path, ""


def inside(folder: str) -> str | None:
    places = (os.path.join(folder, "bin", name) for name in ("python", "python3"))
    return next((place for place in places if os.path.exists(place)), None)


def conda(name: str) -> str | None:
    """Return the interpreter of a conda environment: of the user's own list, or a usual place."""
    home = os.path.expanduser("~")
    try:
        with open(os.path.join(home, ".conda/environments.txt"), encoding="utf-8") as file:
            listed = [line.strip() for line in file]
    except (OSError, ValueError):
        listed = []
    exe, roots = os.environ.get("CONDA_EXE"), [os.environ.get("MAMBA_ROOT_PREFIX", "")]
    roots += [os.path.dirname(os.path.dirname(exe))] if exe else []
    roots += [os.path.join(top, kind) for top in (home, "/opt") for kind in KINDS.split()]
    named = [prefix for prefix in listed if os.path.basename(prefix) == name]
    below = () if name == "base" else ("envs", name)
    named += [os.path.join(root, *below) for root in roots if root]
    found = (inside(folder) for folder in named if os.path.isdir(folder + "/conda-meta"))
    return next((path for path in found if path), None)


def environment_at(folder: str) -> dict[str, str] | None:
    """Return what activating this environment would set, but PATH; None when it is none."""
    if os.path.isfile(os.path.join(folder, "pyvenv.cfg")):
        return {"VIRTUAL_ENV": folder}
    if not os.path.isdir(os.path.join(folder, "conda-meta")):
        return None
    above, name = os.path.split(folder)
    if os.path.basename(above) != "envs":
        # conda calls its own root base, and an environment outside of envs/ by its path.
        name = "base" if os.path.isdir(os.path.join(folder, "condabin")) else folder
    return {"CONDA_PREFIX": folder, "CONDA_DEFAULT_ENV": name, "CONDA_SHLVL": "1"}


def seen() -> list[str]:
    """Virtual and conda environments in the usual places that have torch: a hint for `python:`."""
    home = os.path.expanduser("~")
    places = ("*", ".*", "venvs/*", ".venvs/*", ".virtualenvs/*", "*/envs/*", "*/.venv")
    folders = [folder for place in places for folder in glob.glob(os.path.join(home, place))]
    pythons: list[str] = []
    for folder in folders[:2000]:
        if glob.glob(
            os.path.join(glob.escape(folder), "lib/python3*/site-packages/torch/version.py")
        ):
            pythons.append(os.path.join(folder, "bin/python"))
    return sorted(set(pythons))[:5]
