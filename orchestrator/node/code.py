"""What is to be run here, where it is not sent along: is it there, and which version of it.

A file server that has gone answers to nobody: each look has its own deadline.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat

from . import facts, interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

# So much of a script is read: what is longer differs in its length as well, nearly always.
MOST = 10 << 20
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")

# Runs in the interpreter, as `python -m` would look from there. The top-level name alone is asked
# for, as to find what is in a package imports the package; the rest of the way is files.
MODULE = r"""
import sys
own = sys.path
# Not the current folder's: what it calls json is not this program's.
sys.path = [folder for folder in own if folder]
import glob, json, os
from importlib import util
sys.path = own if sys.argv[2] else sys.path

def files(folders, name):
    return [path for folder in folders for end in ("py", "pyc", "*.so")
            for path in glob.glob(os.path.join(glob.escape(folder), name + "." + end))]

def missing(name):
    top, *rest = name.split(".")
    spec = util.find_spec(top)
    if spec is None:
        return "there is no module " + top
    folders, sofar = spec.submodule_search_locations, top
    for part in rest:
        if folders is None:
            return sofar + " is a module, and no package"
        if not any(map(os.path.isdir, folders)):
            return None  # in an archive, or from a finder of its own: not for us to know
        inside = [os.path.join(folder, part) for folder in folders]
        inside = list(filter(os.path.isdir, inside))
        sofar += "." + part
        packages = [folder for folder in inside if files([folder], "__init__")]
        if not packages and files(folders, part):
            folders = None
        elif inside:
            folders = packages[:1] or inside
        else:
            return "there is no module " + sofar
    if folders is not None and any(map(os.path.isdir, folders)) and not files(folders, "__main__"):
        return sofar + " is a package without __main__.py"
    return None

print(json.dumps({"missing": missing(sys.argv[1])}))
"""
# For the environment around a wrapper.
PREFIX = "import sys, json; print(json.dumps({'prefix': sys.prefix}))"


def look(
    call: Call,
    kind: str,
    target: str,
    python: str,
    workdir: str | None = None,
    env: dict[str, str] | None = None,
    deadline: float = 8.0,
) -> dict[str, Any]:
    """Look for a script, module or command; `env` is what the inventory has of its environment."""
    folder, given = whole_path(workdir), env or {}
    script = whole_path(target) if kind == "script" else None
    parts = {
        "there": lambda: there(kind, script or target, python, folder, given, deadline),
        "content": lambda: content(script) if script else None,
        "workdir_commit": lambda: commit_of(folder) if folder else None,
        # Python looks for what a script imports beside the script.
        "script_commit": lambda: commit_of(os.path.dirname(script)) if script else None,
    }
    waits = {name: facts.within(deadline + 2, part) for name, part in parts.items()}
    return {name: wait() for name, wait in waits.items()}


def whole_path(path: str | None) -> str | None:
    """A relative path begins at the home, where a login would be."""
    if path is None:
        return None
    return os.path.normpath(os.path.join(os.path.expanduser("~"), os.path.expanduser(path)))


def there(
    kind: str,
    target: str,
    python: str,
    workdir: str | None,
    env: dict[str, str],
    deadline: float,
) -> dict[str, Any]:
    """Say what is missing, None if nothing is; a problem where that could not be found out."""
    if kind == "script":
        return {"path": target, "missing": why_not_run(target)}
    if kind == "command" and os.path.isabs(target):
        return {"path": target, "missing": why_not_run(target, program=True)}
    path, problem = interpreter.locate(python)
    if path is None:
        return {"problem": "%s: %s" % (python, problem)}
    if workdir is not None and not os.path.isdir(workdir):
        return {"problem": "the workdir %s is not there" % workdir}
    if kind == "command":
        return command(target, path, workdir, env, deadline)
    words = [MODULE, target, "here" if workdir else ""]
    return interpreter.answer(path, words, deadline, env=env, cwd=workdir)


def why_not_run(path: str, program: bool = False) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is not there"
    except PermissionError:
        return "may not be reached by this user"
    if stat.S_ISDIR(mode) and not (os.path.isfile(path + "/__main__.py") and not program):
        return "is a folder"
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        return "is no file"
    if not os.access(path, os.X_OK if program else os.R_OK):
        return "may not be %s by this user" % ("executed" if program else "read")
    return None


def command(
    target: str, python: str, workdir: str | None, env: dict[str, str], deadline: float
) -> dict[str, Any]:
    if "/" in target:
        # Without a workdir workers start in the run's folder, and nothing is there yet.
        path = os.path.join(workdir or "", target)
        return {
            "path": path,
            "missing": why_not_run(path, program=True) if workdir else "is not in the run's folder",
        }
    around = interpreter.environment_at(os.path.dirname(os.path.dirname(python)))
    if around is None:
        told = interpreter.answer(python, [PREFIX], deadline, env=env)
        around = interpreter.around_it(python, told)
    programs = env.get("PATH") or os.environ.get("PATH", os.defpath)
    if around:
        prefix = around.get("VIRTUAL_ENV") or around["CONDA_PREFIX"]
        programs = "%s/bin:%s" % (prefix, programs)
    found = shutil.which(target, path=programs)
    return {"path": found, "missing": None if found else "is not on PATH, %s" % programs}


def content(path: str) -> dict[str, Any] | None:
    """Say how long a file is and what its beginning hashes to; None: there is no file to read."""
    if not os.path.isfile(path):
        return None  # a FIFO would keep us
    known = hashlib.sha256()
    with open(path, "rb") as file:
        left = MOST
        while left:
            data = file.read(min(left, 1 << 18))
            if not data:
                break
            known.update(data)
            left -= len(data)
        return {"size": os.fstat(file.fileno()).st_size, "sha256": known.hexdigest()}


def commit_of(folder: str) -> dict[str, Any] | None:
    """Say which commit is checked out around a folder, by git's own files; None: no repository.

    What was changed since only git could say, and only by reading every file.
    """
    top = folder
    while not os.path.lexists(os.path.join(top, ".git")):
        top, below = os.path.dirname(top), top
        if top == below:
            return None
    git = os.path.join(top, ".git")
    if os.path.isfile(git):
        # Of another worktree, or a submodule: a line that says where.
        git = os.path.join(top, first_line(git)[len("gitdir: ") :])
    head = first_line(os.path.join(git, "HEAD"))
    if not head.startswith("ref: "):
        return {"top": top, "commit": head if COMMIT.match(head) else None}
    name, common = head[len("ref: ") :], git
    if os.path.isfile(os.path.join(git, "commondir")):
        common = os.path.join(git, first_line(os.path.join(git, "commondir")))
    return {"top": top, "commit": reference(name, git) or reference(name, common)}


def reference(name: str, git: str) -> str | None:
    try:
        found = first_line(os.path.join(git, name))
        return found if COMMIT.match(found) else None
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is packed, or in another folder, or there is no commit yet
    try:
        with open(os.path.join(git, "packed-refs"), encoding="utf-8", errors="replace") as file:
            for line in file:
                commit, _, named = line.rstrip("\n").partition(" ")
                if named == name and COMMIT.match(commit):
                    return commit
    except FileNotFoundError:
        pass
    return None


def first_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline(4096).strip()
