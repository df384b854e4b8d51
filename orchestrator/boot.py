"""How the node room gets to a host: inside the command line that sshd runs, with the first request.

No file, no SFTP, nothing to race on a shared home, and one round trip less than sending it after.
Where it does not get there, `failure` says why.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import threading
import zlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from orchestrator.errors import AgentFailed
from orchestrator.node import frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SIBLING = re.compile(r"^from \. import (\w+(?:, \w+)*)", re.MULTILINE)
# A string begins and ends as Python 3.8 has it, whatever its prefix: what is left is a comment.
_STRING_OR_COMMENT = re.compile(
    r'''
    (?P<string>
        """(?:\\.|[^\\])*?""" | \'{3}(?:\\.|[^\\])*?\'{3}
        | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'
    )
    | [ \t]*\#[^\n]*
    ''',
    re.VERBOSE | re.DOTALL,
)
_packing = threading.Lock()

# The package's name on the host is its own: a controller installed there stays out of the way.
_LOADER = """
import sys,types
p=types.ModuleType('ddp_orch_node');p.__path__=[];sys.modules[p.__name__]=p
def install(n):
 m=types.ModuleType('ddp_orch_node.'+n);m.__package__=p.__name__;sys.modules[m.__name__]=m
 exec(compile(S[n],'<'+m.__name__+'>','exec'),m.__dict__);return m
for n in S:m=install(n)
"""

# A machine may have python3.11, and no python3, or one that is too old.
NUMBERED = [f"python3.{number}" for number in range(14, 7, -1)]
PLACES = " ".join(["python3", "/usr/bin/python3", "/usr/local/bin/python3", *NUMBERED])
# Where python3 is too old another takes its place: RHEL 8 and SLES 15 have 3.6 by that name for
# good. Once, which "again" tells. Written for any Python 3 to read, and to stand in sh's quotes.
_ANOTHER = (
    "sys.version_info<(3,8) and ([__import__('os').execv(p,[p]+open('/proc/self/cmdline').read()"
    ".split(chr(0))[1:-1]+['again']) for p in map(__import__('shutil').which,"
    f"{NUMBERED}) if p and not sys.argv[1:]],sys.exit({frames.EXIT_OLD_PYTHON}));"
).replace("'", '\\"')
# Said on the way by what fails for no reason of ours, and ends nothing.
HARMLESS = re.compile(r"setlocale|^stty: |^mesg: |LD_PRELOAD")
# Our own command line, said back by a shell that could make nothing of it.
OURS = re.compile(r"for p in python3 .*", re.DOTALL)
STARTUP = "a startup file (.bashrc, .profile)"
# What is said, and what to do about it; the first that fits.
HINTS = {
    "restricted": "its login shell is a restricted one; there: sudo chsh -s /bin/bash USER",
    "not available": "its login shell lets nobody in; there: sudo chsh -s /bin/bash USER",
    "not a terminal|be connected to a terminal": f"look for tmux or screen in {STARTUP}; they "
    "are for interactive shells: [[ $- == *i* ]] || return, above them",
    "Bad file descriptor": f"look for {STARTUP} that closes stdout",
    ".": f"look for {STARTUP} or a forced command that says so",
    "": f"look for an `exit` in {STARTUP}, a forced command, or a shell such as /bin/false",
}


@cache
def source(module: str) -> str:
    return files("orchestrator.node").joinpath(f"{module}.py").read_text(encoding="utf-8")


@cache
def bare(module: str) -> str:
    """Return its source without what only people read: a quarter less to send to every host.

    Every line keeps its number: an error there names one.
    """
    return without_remarks(source(module))


def without_remarks(text: str) -> str:
    lines = _STRING_OR_COMMENT.sub(lambda found: found["string"] or "", text).splitlines()
    # Only where docstrings are: a walk through every expression takes longer than a login.
    bodies: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [ast.parse(text)]
    for node in bodies:
        bodies += [n for n in node.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        if ast.get_docstring(node, clean=False):
            said = node.body[0]
            blank = [said.col_offset * " " + '""', *[""] * ((said.end_lineno or 0) - said.lineno)]
            lines[said.lineno - 1 : said.end_lineno] = blank
    return "\n".join(lines) + "\n"


@cache
def _siblings(module: str) -> list[str]:
    return [name for names in _SIBLING.findall(source(module)) for name in names.split(", ")]


def in_order(modules: Iterable[str]) -> list[str]:
    """The modules and the siblings they import, each after what it needs."""
    ordered: list[str] = []

    def visit(module: str) -> None:
        for sibling in _siblings(module):
            visit(sibling)
        if module not in ordered:
            ordered.append(module)

    for module in modules:
        visit(module)
    return ordered


def program(modules: Sequence[str], entry: str) -> str:
    """A Python program that is those modules and then runs `entry`, with S as their sources."""
    sources = {module: bare(module) for module in modules}
    return f"S={sources!r}{_LOADER}{entry}"


def command_line(first: Sequence[dict[str, Any]], modules: Iterable[str]) -> str:
    """What sshd is asked to run: constant but for what is encoded in it, safe in every login shell.

    sh picks the interpreter, so that its absence has one exit code whatever the login shell is.
    -X utf8: names and values are bytes to the system, whatever encoding the locale there has.
    """
    with _packing:  # all hosts ask at once: the first one packs for all
        agent = _agent(tuple(modules))
    python = (
        f"import sys;{_ANOTHER}"
        "import zlib,base64,json;u=lambda p:zlib.decompress(base64.b64decode(p)).decode();"
        f'F=json.loads(u(\\"{_packed(json.dumps(first))}\\"));exec(u(\\"{agent}\\"))'
    )
    shell = (
        f"for p in {PLACES};"
        'do command -v $p >/dev/null 2>&1 && exec $p -X utf8 -I -S -c "%s";done;exit %d'
    )
    return f"exec /bin/sh -c '{shell % (python, frames.EXIT_NO_PYTHON)}'"


@cache
def _agent(modules: tuple[str, ...]) -> str:
    """Return the agent with those modules, packed: the same for all hosts but for F, the first."""
    ordered = in_order([*modules, "agent"])
    ordered.append(ordered.pop(ordered.index("agent")))
    return _packed(program(ordered, "m.main(F)"))


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def failure(host: str, code: int | None, stderr: str, noise: bytes) -> AgentFailed:
    """Say why the agent did not come up: each way has its own exit code or its own trace."""
    said = _last_words(stderr) or first_line(noise)
    if code == frames.EXIT_NO_PYTHON:
        message, hint = "there is no python3", "install Python 3.8 or newer on it"
    elif code == frames.EXIT_OLD_PYTHON:
        message = "its python3 is older than 3.8, and there is no python3.8 to python3.14"
        hint = "install a newer one beside it, such as python3.11: it need not be called python3"
    elif code is None:
        message = "the connection was closed before the agent started"
        hint = "try it by hand; sshd's log on the host may say more"
    else:
        words = f": {said}" if said else ", without a word"
        message = f"the login shell ended with code {code} before the agent started{words}"
        hint = next(hint for saying, hint in HINTS.items() if re.search(saying, said))
    return AgentFailed(message, check="ssh.agent", hint=hint, host=host)


def _last_words(stderr: str) -> str:
    lines = [line for line in stderr.strip().splitlines() if not HARMLESS.search(line)]
    return OURS.sub("...", lines[-1])[:200] if lines else ""


def first_line(noise: bytes) -> str:
    lines = noise.decode("utf-8", "replace").strip().splitlines()
    return OURS.sub("...", lines[0])[:200] if lines else ""
