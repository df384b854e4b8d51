"""What is sent to hosts: the same program as in the repository, without what only people read."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import tokenize
from pathlib import Path

import pytest

from orchestrator import boot, node
from tests.test_node_agent import python_or_skip

MODULES = sorted(path.stem for path in Path(node.__file__).parent.glob("[!_]*.py"))
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef
# Reads sources as JSON; says what each one is worth to this Python.
COMPILES = """
import json, sys, warnings
warnings.simplefilter("error")
for name, text in json.load(sys.stdin).items():
    compile(text, name, "exec")
print(sys.version_info[:2])
"""
TRICKY = r'''
"""Says: # is no comment."""

from __future__ import annotations  # ours


class Empty:
    """Nothing else: # it stays a class."""


def hashes(of="#"):  # it's one quote
    """Several
    lines # of it.
    """
    # "a comment with quotes" and THREE
    a = "#" + '#' + "'#" + '"#'  # "
    b = "\"# \\" + '\'# \\' + r"\"#" + b"#\\".decode()  # '
    c = """ "# " ""\""""; d = 4 #comment
    e = f"{of}# {'#'}"
    f = (  # a "
        """# at the beginning
        of # a line"""
    )
    g = THREE "# ' ''THREE  # THREE

    def inner():
        "one # line"

    if d:

        def in_an_if():
            """It may stay, # and all."""

    return a, b, c, e, \
        f, g  # '''.replace("THREE", "'" * 3)


def comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def tree(text: str) -> ast.Module:
    """Read a program; all its docstrings say the same."""
    root = ast.parse(text)
    for place in ast.walk(root):
        place.end_lineno = place.end_col_offset = None  # of what ends with its docstring
        if isinstance(place, DOCUMENTED) and ast.get_docstring(place, clean=False) is not None:
            first = place.body[0]
            line, column = first.lineno, first.col_offset
            place.body[0] = ast.Expr(
                ast.Constant("", lineno=line, col_offset=column), lineno=line, col_offset=column
            )
    return root


def assert_the_same(bare: str, text: str) -> None:
    """Every expression with its value, and where it stands."""
    assert ast.dump(tree(bare), include_attributes=True) == ast.dump(
        tree(text), include_attributes=True
    )
    assert len(bare.splitlines()) == len(text.splitlines())
    assert comments(bare) == []


@pytest.mark.parametrize("module", MODULES)
def test_what_is_sent_is_the_program_without_comments(module):
    bare, text = boot.bare(module), boot.source(module)
    assert_the_same(bare, text)
    said = {ast.get_docstring(n) for n in ast.walk(ast.parse(bare)) if isinstance(n, DOCUMENTED)}
    assert said <= {"", None}


def test_strings_that_look_like_comments_are_kept():
    assert len(comments(TRICKY)) > 5, "else it shows nothing"
    assert_the_same(boot.without_remarks(TRICKY), TRICKY)
    found: dict[str, object] = {}
    exec(boot.without_remarks(TRICKY), found)  # noqa: S102  ours
    expected: dict[str, object] = {}
    exec(TRICKY, expected)  # noqa: S102  ours
    assert found["hashes"]() == expected["hashes"]()
    assert found["Empty"].__doc__ == ""


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_it_compiles_without_a_warning(version):
    sources = json.dumps({module: boot.bare(module) for module in MODULES})
    words = [python_or_skip(version), "-c", COMPILES]
    done = subprocess.run(
        words, input=sources, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str(tuple(map(int, version.split("."))))


def test_hosts_differ_in_their_first_requests_alone():
    """What they have in common is packed once for all."""
    requests = [[{"id": 1, "op": "network.tell", "args": {"to": to}}] for to in ("one", "another")]
    one, another = (boot.command_line(first, ["network"]) for first in requests)
    (head, mark, rest), (other_head, _, other_rest) = (
        command.partition(";exec(") for command in (one, another)
    )
    assert mark
    assert rest == other_rest
    assert head != other_head
    assert boot.command_line(requests[0], ["network", "facts"]).partition(mark)[2] != rest
