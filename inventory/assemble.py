"""A tree -> an Inventory: defaults merged beneath hosts, files located, the model's errors told.

Each step goes on after a mistake, so that one reading tells all of them; a value that was refused
is REFUSED in the data, and what the model says about that is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from inventory.kinds import CHECK, DESTINATION, Misplaced
from inventory.model import Host, Inventory, Sync
from inventory.paths import located
from inventory.problems import shown
from inventory.shape import DEFAULTS, REFUSED, Shaper, describe
from inventory.yamlsource import Listing, Refused, Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path as FilePath

    from pydantic_core import ErrorDetails

    from inventory.problems import Ledger, Mark, Path
    from inventory.yamlsource import Node

    Refusal = Callable[[str, str], tuple[str, str] | None]

FILES = ("identity_file", "known_hosts", "ssh_config")
"""A host's fields that name files on this machine; python, workdir and state_dir are the host's."""


def assemble(
    tree: Node, ledger: Ledger, folder: FilePath, refused: Refusal | None = None
) -> Inventory:
    """Make the inventory, or raise all that is in the ledger by then.

    `refused` knows the checks that there are: what is wrong with one at a level, and a hint.
    """
    if isinstance(tree, Table):
        inventory = _Assembly(tree, ledger, folder, refused).inventory()
        if inventory and not ledger.problems:
            return inventory
    elif not isinstance(tree, Refused):
        message = f"must be a mapping with an entry hosts, found {describe(tree)}"
        ledger.note(tree.mark, (), message)
    raise ledger.error()


class _Assembly:
    def __init__(
        self, tree: Table, ledger: Ledger, folder: FilePath, refused: Refusal | None
    ) -> None:
        self._tree = tree
        self._ledger = ledger
        self._folder = folder
        self._refused = refused
        self._shaper = Shaper(ledger)

    def inventory(self) -> Inventory | None:
        entries = {key: entry for key, entry in self._tree.entries.items() if key != "defaults"}
        rest = Table(entries=entries, mark=self._tree.mark)
        fields = (*Inventory.model_fields, "defaults")
        data = self._shaper.model(rest, (), Inventory, fields)
        shared = self._shared()
        self._locate_sync(data)
        self._note_checks(data.get("checks"))
        if isinstance(data.get("hosts"), list):
            self._note_twins(data["hosts"])
            data["hosts"] = [
                self._merged(shared, host, index) for index, host in enumerate(data["hosts"])
            ]
        try:
            return Inventory.model_validate(data)
        except ValidationError as error:
            self._note_errors(error)
            return None

    def _note_checks(self, checks: Any) -> None:  # noqa: ANN401
        if self._refused is None or not isinstance(checks, dict):
            return
        table = self._tree.entries["checks"].value
        for word, level in checks.items():
            if not CHECK.match(word):
                continue  # the model says so
            if isinstance(table, Table) and (wrong := self._refused(word, str(level))):
                self._ledger.note(table.entries[word].key, ("checks", word), *wrong)

    def _shared(self) -> dict[str, Any]:
        """Judge the defaults by themselves, so that a mistake in them is told once, where it is."""
        entry = self._tree.entries.get("defaults")
        if entry is None:
            return {}
        data = self._shaper.model(entry.value, ("defaults",), Host, DEFAULTS)
        if data is REFUSED:
            return {}
        self._locate(data, ("defaults",), FILES)
        wrong = {field for field, value in data.items() if value is REFUSED}
        try:
            Host.model_validate({**data, "name": "defaults"})
        except ValidationError as error:
            self._note_errors(error, "defaults")
            wrong |= {str(each["loc"][0]) for each in error.errors()}
        return {field: value for field, value in data.items() if field not in wrong}

    def _merged(self, shared: dict[str, Any], host: Any, index: int) -> Any:  # noqa: ANN401
        if host is REFUSED:
            return REFUSED
        self._locate(host, self._place(index), FILES)
        destination = DESTINATION.match(host["ssh"]) if isinstance(host.get("ssh"), str) else None
        # What a host says itself comes first, also where it says it within `ssh`.
        said = {part for part in ("user", "port") if destination and destination[part]}
        beneath = {field: value for field, value in shared.items() if field not in said}
        merged = {**beneath, **host}
        if isinstance(host.get("env"), dict):
            merged["env"] = {**beneath.get("env", {}), **host["env"]}
        return merged

    def _locate_sync(self, data: dict[str, Any]) -> None:
        sync = data["job"].get("sync") if isinstance(data.get("job"), dict) else None
        if isinstance(sync, dict):
            sync.setdefault("from", Sync.model_fields["from_"].default)
            self._locate(sync, ("job", "sync"), ("from",))

    def _locate(self, data: dict[str, Any], path: Path, fields: tuple[str, ...]) -> None:
        for field in fields:
            text = data.get(field)
            # The model refuses an empty name and a NUL; neither is a path to look into.
            if not isinstance(text, str) or not text or "\0" in text:
                continue
            if field == "ssh_config" and text == "none":
                continue
            try:
                data[field] = located(text, self._folder)
            except ValueError as error:
                self._ledger.note(self._spot((*path, field))[1], (*path, field), str(error))
                data[field] = REFUSED

    def _place(self, index: int) -> tuple[str, int]:
        """Say where in the file the host with this index is: a range there is many hosts."""
        return "hosts", self._shaper.written[index]

    def _note_twins(self, hosts: list[Any]) -> None:
        first: dict[str, int] = {}
        told = set()
        for index, host in enumerate(hosts):
            name = host.get("name") if isinstance(host, dict) else None
            if not isinstance(name, str) or first.setdefault(name, index) == index:
                continue
            place, earlier = self._place(index), self._place(first[name])
            if (place, earlier) in told:
                continue  # ranges that overlap: one name shows it
            told.add((place, earlier))
            path, mark, _ = self._spot((*place, "name"))
            where = self._spot((*earlier, "name"))[1]
            line = f", line {where.line}" if where else ""
            message = f"the name {shown(name)} is taken by hosts[{earlier[1]}]{line}"
            if place == earlier:
                message = f"names {shown(name)} twice"
            self._ledger.note(mark, path, message)

    def _note_errors(self, error: ValidationError, *prefix: str) -> None:
        """Translate the model's errors; the branches of a union become one sentence."""
        together: dict[Path, list[ErrorDetails]] = {}
        for each in error.errors(include_url=False):
            loc = (*prefix, *each["loc"])
            index = loc[1] if loc[:1] == ("hosts",) and loc[1:] else None
            if isinstance(index, int):
                loc = (*self._place(index), *loc[2:])
            mistake = each.get("ctx", {}).get("error")
            if isinstance(mistake, Misplaced):
                loc = (*loc, *mistake.path)
            elif not each["loc"] and self._ledger.problems:
                continue  # names that stand there twice: told already, with their lines
            if each["type"] == "too_short" and each["input"]:
                continue  # entries are there; pydantic counts those without a mistake
            if each["type"] == "missing":
                self._ledger.note(self._spot(loc)[1], loc, "is missing")
            elif each["input"] is not REFUSED:
                together.setdefault(self._spot(loc)[0], []).append(each)
        for path, errors in together.items():
            _, mark, node = self._spot((*path, *errors[0]["loc"][-1:]))
            self._ledger.note(mark, path, _sentence(errors, node))

    def _spot(self, loc: Path) -> tuple[Path, Mark | None, Node]:
        """Find the node that a location of pydantic's leads to, or the last on the way to it.

        Locations go on where the file does not: into the branch of a union, to the fields of a
        host that is written as a text, and to [key] for a key that is wrong itself.
        """
        node: Node = self._tree
        mark = node.mark
        for depth, part in enumerate(loc):
            if isinstance(node, Table) and part in node.entries:
                entry = node.entries[str(part)]
                node, mark = entry.value, entry.value.mark
                if loc[depth + 1 :] == ("[key]",):
                    mark = entry.key
            elif isinstance(node, Listing) and isinstance(part, int):
                node = node.items[part]
                mark = node.mark
            else:
                return loc[:depth], mark, node
        return loc, mark, node


def _sentence(errors: list[ErrorDetails], node: Node) -> str:
    for error in errors:
        if error["type"] == "value_error":
            message = str(error["ctx"]["error"])
            return message if len(message) <= 240 else f"{message[:120]} ... {message[-80:]}"
        if error["type"] == "too_short":
            return f"must have at least {error['ctx']['min_length']} entry"
        if error["type"] == "too_long":
            return f"must have at most {error['ctx']['max_length']} entries"
    # A range brings the same mistake once per host.
    wanted = " or ".join(dict.fromkeys(map(_wanted, errors)))
    return f"must be {wanted}, found {describe(node)}"


def _wanted(error: ErrorDetails) -> str:
    ctx = error.get("ctx", {})
    phrases = {
        "int_type": "a whole number",
        "literal_error": str(ctx.get("expected")),
        "greater_than": f"more than {ctx.get('gt'):g}" if "gt" in ctx else "",
        "greater_than_equal": f"at least {ctx.get('ge')}",
        "less_than_equal": f"at most {ctx.get('le')}",
        "finite_number": "a shorter time",
        "string_too_short": "text that is not empty",
    }
    return phrases.get(error["type"], error["msg"])
