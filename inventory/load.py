"""An inventory file, or names from the command line -> Inventory; all errors are told at once.

Text becomes a tree that knows its lines (yamlsource), the tree becomes plain data (shape), and the
data an Inventory (assemble); a hostfile is read by itself. Only this file opens files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from inventory.assemble import assemble
from inventory.hostfile import is_hostfile, read_hostfile
from inventory.names import between_commas
from inventory.problems import InventoryError, Ledger, Mark, Problem
from inventory.yamlsource import Entry, Listing, Scalar, Table, read_tree

if TYPE_CHECKING:
    from inventory.assemble import Refusal
    from inventory.model import Inventory

__all__ = ["InventoryError", "Problem", "from_names", "load", "load_text"]

MAX_BYTES = 1024 * 1024


def load(path: Path | str, refused: Refusal | None = None) -> Inventory:
    """Read an inventory, or a hostfile. `refused` judges the entries of `checks:`, if it is given.

    It is asked with an id or a group and a level, and returns what is wrong with that, and a hint.
    """
    source = os.fspath(path)
    text = _decoded(_read(source), source)
    return load_text(text, source, folder=Path(source).absolute().parent, refused=refused)


def load_text(
    text: str, source: str, *, folder: Path = Path(), refused: Refusal | None = None
) -> Inventory:
    """Read an inventory's text; errors call it `source`, and relative paths start at `folder`."""
    _refuse_large(len(text.encode(errors="surrogatepass")), source)
    ledger = Ledger(source=source)
    if is_hostfile(text, source):
        return read_hostfile(text, ledger)
    return assemble(read_tree(text, ledger), ledger, folder, refused)


def from_names(names: str) -> Inventory:
    """Read what `-H` takes: gpu1,user@host:2222,gpu[2-4]."""
    items = tuple(Scalar(text=name, plain=False) for name in between_commas(names))
    hosts = Entry(key=None, value=Listing(items=items))
    return assemble(Table(entries={"hosts": hosts}), Ledger(source="-H"), Path())


def _read(source: str) -> bytes:
    try:
        with Path(source).open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # one more shows that there is too much
    except FileNotFoundError as error:
        hint = "give the path of an inventory, or write one there: it names your hosts"
        raise _unread(source, "no such file", hint) from error
    except IsADirectoryError as error:
        raise _unread(source, "is a folder", "name a file in it") from error
    except PermissionError as error:
        raise _unread(source, "may not be read", "see who owns it, and its mode") from error
    except OSError as error:
        raise _unread(source, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise _unread(ascii(source), "is no path") from error
    _refuse_large(len(data), source)
    return data


def _refuse_large(size: int, source: str) -> None:
    if size > MAX_BYTES:
        raise _unread(source, "is over 1 MiB", "an inventory is a few lines per host")


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Positions count from behind a byte order mark, as utf-8-sig has decoded from there.
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        byte = error.object[error.start]
        raise _unread(
            source,
            f"the byte 0x{byte:02x} is not UTF-8",
            "save the file as UTF-8",
            Mark(line=line, column=column),
        ) from error


def _unread(source: str, message: str, hint: str = "", mark: Mark | None = None) -> InventoryError:
    ledger = Ledger(source=source)
    ledger.note(mark, (), message, hint)
    return ledger.error()
