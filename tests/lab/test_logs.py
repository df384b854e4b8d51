"""`logs` as a user types it: of a run that has ended, from here or from its hosts; of others."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from inventory.load import load
from tests.reading import read_rest, read_until
from tests.workers import worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.lab import LabHost
    from tests.lab.conftest import Rooms

pytestmark = pytest.mark.slow

TOKEN = "tok-3141592653"  # noqa: S105  nobody's
LINES = 12


def text_of(rank: int, token: str = TOKEN) -> str:
    lines = [f"rank {rank} line {number}\n" for number in range(LINES)]
    return "".join(lines) + f"token {token} käse \x1b]0;title\x07\nthe end"


def shown(rank: int, token: str = TOKEN) -> list[str]:
    host = f"lab{rank + 1}[r{rank}]| "
    out = [host + line for line in text_of(rank, token).replace("\x1b]0;title\x07", "").split("\n")]
    return out + [f"{host}rank {rank} error {number}" for number in range(0, LINES, 2)]


def remember(rooms: Rooms, run: str, inventory: Path) -> None:
    """Leave the hosts' addresses with the run's record."""
    path = rooms.state / "runs" / run / "inventory.json"
    path.write_text(load(inventory).model_dump_json())


@pytest.fixture(scope="module")
def ended(_lab: Rooms) -> Path:
    """Return the inventory of a run that has ended."""
    inventory = _lab.inventory(2)
    done = _lab.ddp_orch(
        "up", "-n", "told", "--secret", "TOKEN", inventory, "--", worker("told"), LINES, TOKEN=TOKEN
    )
    assert done.returncode == 0, done.stdout + done.stderr
    remember(_lab, "told", inventory)
    return inventory


def test_a_run_that_has_ended_is_read_here_while_no_host_answers(rooms: Rooms, ended: Path) -> None:
    for host in rooms.hosts:
        host.stop()
    try:
        done = rooms.ddp_orch("logs", "tol")
    finally:
        for host in rooms.hosts:
            host.start()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == shown(0) + shown(1)
    assert done.stderr == ""


def test_its_hosts_tell_the_same(rooms: Rooms, ended: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "another machine's")
    done = rooms.ddp_orch("logs", "-i", ended, DDP_ORCH_STATE_DIR=state)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == shown(0) + shown(1)
    assert done.stderr == "ddp-orch: the newest run is told\n"


def test_what_is_on_no_host_that_answers_may_be_on_one_that_does_not(
    rooms: Rooms, ended: Path
) -> None:
    rooms.hosts[1].stop()
    try:
        done = rooms.ddp_orch("logs", "elsewhere", "-i", ended)
    finally:
        rooms.hosts[1].start()
    assert done.returncode == 4
    assert done.stderr.count("ddp-orch: ") == 1
    assert done.stderr.startswith("ddp-orch: lab2: ")
    done = rooms.ddp_orch("logs", "elsewhere", "-i", ended)
    assert done.returncode == 102
    assert "no run called elsewhere is known on these hosts" in done.stderr


@contextlib.contextmanager
def nothing_of(run: str, host: LabHost) -> Iterator[None]:
    """Take away what a host keeps of a run, as whoever deletes it does, and bring it back."""
    folder = host.home / ".ddp-orch/runs" / run
    away = folder.rename(host.home / "away")
    try:
        yield
    finally:
        away.rename(folder)


def test_a_host_that_has_nothing_of_it_any_more_keeps_none_from_the_others(
    rooms: Rooms, ended: Path, tmp_path: Path
) -> None:
    said = "it has nothing of run told: its folder is not there any more\n"
    there = ["logs", "told", "-i", ended]
    another = {"DDP_ORCH_STATE_DIR": str(tmp_path / "another machine's")}
    with nothing_of("told", rooms.hosts[1]):
        done = rooms.ddp_orch("logs", "told", "--since", "1h")  # what is here does not know when
        elsewhere = rooms.ddp_orch(*there, **another)
        fetched = rooms.ddp_orch(*there, "--fetch", "--to", tmp_path / "raw", **another)
        alone = rooms.ddp_orch("logs", "told", "--since", "1h", "--host", "lab2")
        with nothing_of("told", rooms.hosts[0]):
            nowhere = rooms.ddp_orch("logs", "told", "--since", "1h")
    assert done.returncode == 4, done.stderr
    assert done.stdout.splitlines() == shown(0) + shown(1)
    assert done.stderr.startswith(f"ddp-orch: lab2: {said}")
    assert elsewhere.returncode == 4, elsewhere.stderr
    assert elsewhere.stdout.splitlines() == shown(0)
    assert elsewhere.stderr == f"ddp-orch: lab2: {said}"
    assert fetched.returncode == 4, fetched.stderr
    assert (tmp_path / "raw" / "rank0.out").read_text() == text_of(0)
    assert fetched.stderr == f"ddp-orch: lab2: {said}"
    # Where all that were asked say so, there is no such run.
    assert (alone.returncode, nowhere.returncode) == (102, 102)
    assert f"ddp-orch: lab1: {said}ddp-orch: lab2: {said}" in nowhere.stderr


FROM = pytest.mark.parametrize("there", [False, True], ids=["here", "from hosts"])


@FROM
@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--tail", 2, "--stream", "out"], [
            f"lab1[r0]| token {TOKEN} käse ", "lab1[r0]| the end",
            f"lab2[r1]| token {TOKEN} käse ", "lab2[r1]| the end",
        ]),
        (["--rank", "1", "--grep", r"error [48]$"], [
            "lab2[r1]| rank 1 error 4", "lab2[r1]| rank 1 error 8",
        ]),
        (["--host", "lab[1-1]", "--tail", 1, "--grep", "line"], ["lab1[r0]| rank 0 line 11"]),
        (["--grep", "nowhere"], []),
    ],
)  # fmt: skip
def test_only_what_is_asked_for(rooms: Rooms, ended: Path, there: bool, words, lines) -> None:
    done = rooms.ddp_orch("logs", "told", *(["-i", ended] if there else []), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == lines


@FROM
def test_json_says_whose_each_line_is_and_where(rooms: Rooms, ended: Path, there: bool) -> None:
    words = ["logs", "told", *(["-i", ended] if there else []), "-o", "json", "--stream", "out"]
    objects = [json.loads(line) for line in rooms.ddp_orch(*words).stdout.splitlines()]
    assert {tuple(o[k] for k in ("run", "host", "node", "rank", "round")) for o in objects} == {
        ("told", "lab1", 0, 0, 0), ("told", "lab2", 1, 1, 0),
    }  # fmt: skip
    for rank in 0, 1:
        mine = [o for o in objects if o["rank"] == rank]
        assert "\n".join(o["line"] for o in mine) == text_of(rank)
        data = text_of(rank).encode()
        assert all(data[o["offset"] :].startswith(o["line"].encode()) for o in mine)


@FROM
def test_secrets_that_this_machine_has_are_masked(rooms: Rooms, ended: Path, there: bool) -> None:
    words = ["logs", "told", *(["-i", ended] if there else []), "--secret", "TOKEN"]
    for more in [], ["-o", "json"], ["--grep", "token"]:
        done = rooms.ddp_orch(*words, *more, TOKEN=TOKEN)
        assert done.stdout.count("token ********") == 2
        assert TOKEN not in done.stdout


def test_the_inventorys_secrets_are_masked_without_being_named(rooms: Rooms, ended: Path) -> None:
    path = rooms.inventory(2, job={"secrets": ["TOKEN", "ANOTHER"]})
    done = rooms.ddp_orch("logs", "told", "-i", path, TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == shown(0, "********") + shown(1, "********")
    assert "no value for it here, so it cannot be masked: ANOTHER" in done.stderr


def test_who_attaches_masks_what_this_machine_has(
    rooms: Rooms, ended: Path, tmp_path: Path
) -> None:
    path = rooms.inventory(2, job={"secrets": ["ANOTHER"]})
    env = {"TOKEN": TOKEN, "ANOTHER": "abc", "DDP_ORCH_STATE_DIR": str(tmp_path / "state")}
    done = rooms.ddp_orch("attach", "told", "-i", path, "--secret", "TOKEN", **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("token ********") == 2
    assert TOKEN not in done.stdout
    assert "no value for it here, so it cannot be masked: ANOTHER" in done.stderr


@FROM
def test_raw_files_are_brought_and_gone_on_with(
    rooms: Rooms, ended: Path, there: bool, tmp_path: Path
) -> None:
    words = ["logs", "told", "--fetch", *(["-i", ended] if there else [])]
    done = rooms.ddp_orch(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "told-logs"
    assert [(folder / f"rank{rank}.out").read_text() for rank in (0, 1)] == [text_of(0), text_of(1)]
    files = list(folder.iterdir())
    size = sum(path.stat().st_size for path in files)
    assert done.stdout == f"{len(files)} files, {size:,} new bytes: told-logs\n"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    with (folder / "rank1.out").open("r+b") as file:
        file.truncate(20)
    (folder / "rank0.err").unlink()
    again = rooms.ddp_orch(*words, "--to", folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "rank1.out").read_text() == text_of(1)
    brought = len(text_of(1).encode()) - 20 + (folder / "rank0.err").stat().st_size
    assert f" {brought:,} new bytes" in again.stdout


@pytest.mark.parametrize(
    ("there", "spoil"), [(True, "other"), (True, "longer"), (False, "other"), (False, "link")]
)
def test_what_is_there_and_something_else_is_not_touched(
    rooms: Rooms, ended: Path, there: bool, tmp_path: Path, spoil: str
) -> None:
    path = tmp_path / "rank1.out"
    if spoil == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text(text_of(1) + "more" if spoil == "longer" else "mine")
    words = ["logs", "told", "--fetch", *(["-i", ended] if there else []), "--to", tmp_path]
    done = rooms.ddp_orch(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{path}: is there already, and is no" in done.stderr
    assert "--to" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["rank1.out"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["told", "--rank", "7"], 2, "run told has no rank 7\n  -> there are: 0-1"),
        (["told", "--host", "lab9"], 2, "run told has no host lab9\n  -> there are: lab1, lab2"),
        (["told", "--grep", "("], 2, "--grep (: missing )"),
        (["told", "--since", "soon"], 2, "--since soon: it takes 90s, 5m"),
        (["told", "--stream", "both"], 2, "--stream both: there is out and err"),
        (["told", "--host", "lab[2-1]"], 2, "--host"),
        (["told", "--fetch", "-f"], 2, "--fetch brings whole files"),
        (["told", "--to", "x"], 2, "there is no --fetch"),
        (["nobody"], 102, "no run called nobody is known here"),
    ],
)
def test_mistakes_are_one_line(rooms: Rooms, ended: Path, words, code, said) -> None:
    done = rooms.ddp_orch("logs", *words)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("ddp-orch: ")
    assert said in done.stderr
    assert done.stdout == ""


def test_an_unknown_rank_is_known_to_be_one_by_the_hosts(rooms: Rooms, ended: Path) -> None:
    done = rooms.ddp_orch("logs", "told", "-i", ended, "--rank", "0,7")
    assert (done.returncode, done.stdout) == (2, "")
    assert "run told has no rank 7\n  -> there are: 0-1" in done.stderr
    done = rooms.ddp_orch("logs", "nobody", "-i", ended)
    assert done.returncode == 102
    assert "no run called nobody is known on these hosts" in done.stderr


def test_a_grep_that_takes_for_ever_ends(rooms: Rooms, ended: Path) -> None:
    hard = r"(\w|\d|\w\w| |\S|.)*!"
    done = rooms.ddp_orch("logs", "told", "-i", ended, "--rank", "0", "--grep", hard)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "lab1: --grep takes more than" in done.stderr


def test_since_when(rooms: Rooms, ended: Path) -> None:
    """The supervisor notes how its files grow, and at the end how long they are."""
    done = rooms.ddp_orch("logs", "told", "-i", ended, "--since", "0s")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = rooms.ddp_orch("logs", "told", "--since", "1h", "--tail", "1", "--stream", "out")
    assert done.stdout.splitlines() == [f"lab{n + 1}[r{n}]| the end" for n in (0, 1)]
    rooms.hosts[1].stop()
    try:
        done = rooms.ddp_orch("logs", "told", "--since", "0s")
    finally:
        rooms.hosts[1].start()
    assert done.returncode == 4
    assert done.stdout.splitlines() == shown(1)
    assert "lab2: when the lines were written is not known here: all are shown" in done.stderr


NOT_HERE = "when the lines were written is not known here"
NO_RECORD = "there is no record of when its lines were written"


def untimed(said: str) -> list[str]:
    return [line for line in said.splitlines() if NOT_HERE in line or NO_RECORD in line]


@pytest.mark.parametrize(
    ("words", "hosts"), [([], "lab1, lab2"), (["--rank", "1"], "lab2"), (["--rank", "0"], "lab1")]
)
def test_what_is_not_known_here_is_said_of_whose_lines_are_wanted(
    rooms: Rooms, ended: Path, words: list[str], hosts: str
) -> None:
    for host in rooms.hosts[:2]:
        host.stop()
    try:
        done = rooms.ddp_orch("logs", "told", "--since", "1h", *words)
    finally:
        for host in rooms.hosts[:2]:
            host.start()
    assert untimed(done.stderr) == [f"ddp-orch: {hosts}: {NOT_HERE}: all are shown"]


def test_a_reader_that_goes_away_is_no_mistake(rooms: Rooms, ended: Path) -> None:
    run = rooms.start("logs", "told")
    assert run.stdout is not None
    run.stdout.close()
    try:
        assert run.wait(60) == 0
    finally:
        run.kill()
        run.wait()


# ---- of a run that goes on ----


@pytest.fixture
def going(
    rooms: Rooms, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Path, Path]]:
    """Return the inventory of a run that goes on, and the file that ends it."""
    lines = getattr(request, "param", LINES)
    go = tmp_path / "go"
    inventory = rooms.inventory(2)
    name = f"going-{tmp_path.name[-30:].replace('_', '-').lower()}".rstrip("-")
    done = rooms.ddp_orch("up", "-d", "-n", name, inventory, "--", worker("told"), lines, go)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        remember(rooms, name, inventory)
        yield inventory, go
    finally:
        go.touch()
        until(lambda: '"ended"' in journal(rooms, 0, name) and '"ended"' in journal(rooms, 1, name))


def journal(rooms: Rooms, node: int, run: str) -> str:
    path = rooms.hosts[node].home / f".ddp-orch/runs/{run}/{node}/journal.jsonl"
    return path.read_text() if path.exists() else ""


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("going", [5000], indirect=True)  # more than a pipe takes: it has to write
def test_nobody_is_attached_for_a_reader_that_has_gone(
    rooms: Rooms, going: tuple[Path, Path]
) -> None:
    """`attach | head`: the run goes on, the watching does not."""
    _, go = going
    run = rooms.start("attach")
    try:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(120) == 101
    finally:
        run.kill()
        run.wait()
    assert not go.exists()


@pytest.mark.slow
def test_following_ends_with_the_run_and_survives_a_lost_link(
    rooms: Rooms, going: tuple[Path, Path]
) -> None:
    _, go = going
    run = rooms.start("logs", "-f")
    try:
        seen = read_until(run, r"(?s)r0\]\| token.*r1\]\| token|r1\]\| token.*r0\]\| token")
        rooms.hosts[1].drop_connections()
        seen += read_until(run, "lab2: no contact")
        go.touch()
        out = read_rest(run, 120)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 0, seen + out
    lines = (seen + out).splitlines()
    assert "ddp-orch: lab2: is back" in lines
    for rank in 0, 1:
        mine = [line for line in lines if line.startswith(f"lab{rank + 1}[")]
        assert sorted(mine) == sorted(shown(rank, "none")), "each line once"


@pytest.mark.slow
def test_what_cannot_be_timed_is_said_of_whose_lines_are_wanted_and_once(
    rooms: Rooms, going: tuple[Path, Path]
) -> None:
    _, go = going
    runs = (rooms.state / "runs").glob("going-*")
    name = max(runs, key=lambda folder: folder.stat().st_mtime).name
    for node, host in enumerate(rooms.hosts[:2]):
        unrecorded(host.home / f".ddp-orch/runs/{name}/{node}/growth.jsonl")
    words = ["--since", "1h", "--stream", "out"]
    done = rooms.ddp_orch("logs", name, *words, "--rank", "0")
    assert done.stdout.splitlines() == shown(0, "none")[: LINES + 1]
    assert untimed(done.stderr) == [f"ddp-orch: lab1: {NO_RECORD}: all are shown"]
    run = rooms.start("logs", name, "-f", *words, "--rank", "1")
    try:
        seen = read_until(run, "token")
        rooms.hosts[1].drop_connections()
        seen += read_until(run, "lab2: is back")
        go.touch()
        out = read_rest(run, 120)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 0, seen + out
    assert untimed(seen + out) == [f"ddp-orch: lab2: {NO_RECORD}: all are shown"]


def unrecorded(index: Path) -> None:
    """Put a folder where a supervisor notes how its files grow, whenever it does."""
    for _ in range(100):
        index.unlink(missing_ok=True)
        try:
            index.mkdir()
        except FileExistsError:  # it noted something just then
            continue
        return
    raise AssertionError(index)


@pytest.mark.slow
def test_ctrl_c_leaves_and_the_run_goes_on(rooms: Rooms, going: tuple[Path, Path]) -> None:
    inventory, go = going
    words = ["-f", "--tail", "1", "--rank", "0", "--stream", "out"]
    run = rooms.start("logs", "-i", inventory, *words)
    try:
        seen = read_until(run, "token")
        run.send_signal(signal.SIGINT)
        out = read_rest(run, 60)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 130, seen + out
    assert re.findall(r"^\w+\[.*", seen + out, re.MULTILINE) == ["lab1[r0]| token none käse "]
    done = rooms.ddp_orch("logs", "--tail", "1", "--stream", "out")
    assert done.stdout.splitlines() == [f"lab{n + 1}[r{n}]| token none käse " for n in (0, 1)]
    assert not go.exists()
