"""Read what a run's processes have written: all, its end, what matches, what is yet to come.

A stream is what one rank, torchrun or a setup command writes to one of its two outputs. It is one
file, or, of a rank whose workers were restarted, one per round.
"""

from __future__ import annotations

import hashlib
import os
import re
import time

from . import follow, growth, outputs, reader, record, sieve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .agent import Call

    Begun = dict[str, tuple[int, str]]

PULSE = 0.1
CHUNK = 1 << 18
WORKER = re.compile(r"%s/(\d{1,4})/r(\d{1,5})\.(out|err)\Z" % outputs.LOGS)
OUTPUT = re.compile(r"(?:setup/(\d{1,4})/setup|torchrun)\.(out|err)\Z")


# ---- requests ----


def look(call: Call, folder: str) -> dict[str, Any]:
    """Tell which files there are, by their streams and rounds, and how long they are."""
    names = [name for stream in streams(folder) for name in stream]
    sizes = {}
    for name in names:
        try:
            sizes[name] = os.lstat(os.path.join(folder, name)).st_size
        except OSError:
            continue
    return {"state": record.state_of(folder), "files": sizes}


def differing(call: Call, folder: str, begun: Begun) -> list[str]:
    """Name the files that do not begin with what was brought of them: its length and SHA-256."""
    found = []
    for name, (size, digest) in begun.items():
        seen = hashlib.sha256()
        with open(os.path.join(folder, name), "rb", opener=record.reading) as file:
            while size:
                data = file.read(min(CHUNK, size))
                if not data:
                    break
                seen.update(data)
                size -= len(data)
        if size or seen.hexdigest() != digest:
            found.append(name)
    return found


def read(
    call: Call,
    folder: str,
    ranks: list[int] | None = None,
    ends: tuple[str, ...] = ("out", "err"),
    own: bool = True,
    tail: int | None = None,
    since: float | None = None,
    grep: str | None = None,
    on: bool = False,
    cursors: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Emit {"file", "offset", "next"} with bytes, stream by stream; with `on` until the run's end.

    First comes {"from": {file: offset}, "dated"}: where each begins, and whether `since` could be
    heeded. `cursors` say so instead. With `grep` the lines that match come, and "at" is where each
    of them begins; "next" is from where on to ask again after a lost connection.
    """
    picker = sieve.Sieve(grep, call.body) if grep is not None else None
    files_of = reader.Reader(
        folder, call.emit, call.cancelled.is_set, picker.pick if picker else None
    )
    try:
        wanted = streams(folder, ranks, ends, own)
        then = sizes_then(folder, time.time() - since) if since is not None else {}
        if cursors is None:
            files_of.begin(wanted, tail, then or {})
        files_of.offsets.update(cursors or {})
        call.emit({"from": files_of.cursors(), "dated": then is not None})
        if not on:
            for name in [name for stream in wanted for name in stream]:
                files_of.send(name, final=True)
            return {"state": record.state_of(folder)}
        end = follow.End(folder)
        while True:
            over = end.reached(files_of.open(record.JOURNAL)) or call.cancelled.is_set()
            for stream in streams(folder, ranks, ends, own):
                for name in stream:
                    files_of.send(name, final=over)
            if over:
                return {"state": end.state}
            time.sleep(PULSE)
    finally:
        files_of.close()
        if picker:
            picker.close()


# ---- their steps ----


def streams(
    folder: str,
    ranks: list[int] | None = None,
    ends: tuple[str, ...] = ("out", "err"),
    own: bool = True,
) -> list[list[str]]:
    """Return the streams in the order of ranks, each as its files; with `ranks` no others."""
    setup = outputs.listed(os.path.join(folder, "setup"))
    found = ["setup/%s/%s" % (n, name) for n in setup for name in ("setup.out", "setup.err")]
    found += outputs.names(folder)
    by_stream: dict[tuple[int, int, int], list[tuple[int, str]]] = {}
    for name in found:
        worker = WORKER.match(name)
        output = OUTPUT.match(name)
        if worker and worker[3] in ends and (ranks is None or int(worker[2]) in ranks):
            key = (2, int(worker[2]), ends.index(worker[3]))
            by_stream.setdefault(key, []).append((int(worker[1]), name))
        elif output and output[2] in ends and ranks is None and (own or output[1]):
            key = (0 if output[1] else 1, int(output[1] or 0), ends.index(output[2]))
            by_stream[key] = [(0, name)]
    return [[name for _, name in sorted(by_stream[key])] for key in sorted(by_stream)]


def sizes_then(folder: str, when: float) -> dict[str, int] | None:
    """Return how long the files were at a time; of setup commands, too."""
    sizes = growth.sizes_at(folder, when)
    for place in record.setups(folder):
        for name, size in (growth.sizes_at(place, when) or {}).items():
            sizes = dict(sizes or {}, **{"setup/%s/%s" % (os.path.basename(place), name): size})
    return sizes
