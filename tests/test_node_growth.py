"""When files grew: an index that is small, cheap while nothing happens, and never says too much."""

from __future__ import annotations

import json
import os
import secrets
import stat
import sys
import time

import pytest

from orchestrator import boot
from orchestrator.node import growth, record, runs

OUT = "worker-logs/0/r0.out"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "worker-logs/0").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(growth.time, "time", lambda: Clock.now)
    return Clock


def entries(folder):
    path = folder / growth.INDEX
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_only_what_grew_is_noted_and_only_when_it_is_time(folder, clock):
    index = growth.Growth(str(folder))
    index.tick(0.0)
    assert entries(folder) == []
    (folder / OUT).write_bytes(b"12345")
    index.tick(14.9)
    assert entries(folder) == []
    index.tick(15.0)
    (folder / "torchrun.err").write_bytes(b"1")
    clock.now = 1015.0
    index.tick(30.0)
    index.tick(45.0)
    assert entries(folder) == [
        {"time": 1000.0, "sizes": {OUT: 5}},
        {"time": 1015.0, "sizes": {"torchrun.err": 1}},
    ]
    assert stat.S_IMODE((folder / growth.INDEX).stat().st_mode) == 0o600


def test_the_sleep_ends_in_time_and_is_never_negative(folder):
    index = growth.Growth(str(folder))
    index.tick(100.0)
    assert index.timeout(100.0, 30.0) == growth.EVERY
    assert index.timeout(110.0, 30.0) == 5.0
    assert index.timeout(110.0, 1.0) == 1.0
    assert index.timeout(200.0, 30.0) == 0.0


def test_what_was_there_before_a_time(folder, clock):
    index = growth.Growth(str(folder))
    for at, size in ((1000.0, 5), (1015.0, 9), (1030.0, 12)):
        clock.now = at
        (folder / OUT).write_bytes(b"x" * size)
        index.note()
    assert growth.sizes_at(str(folder), 999.0) == {}
    assert growth.sizes_at(str(folder), 1015.0) == {OUT: 9}
    assert growth.sizes_at(str(folder), 1029.9) == {OUT: 9}
    assert growth.sizes_at(str(folder), 5000.0) == {OUT: 12}


def test_without_an_index_nothing_is_known(folder):
    assert growth.sizes_at(str(folder), 1.0) is None


def test_what_makes_no_sense_is_left_out(folder):
    good = '{"time": 1.0, "sizes": {"a": 1}}\n'
    bad = '[1]\n{"time": "x", "sizes": {}}\n{"time": 2.0}\nno json\n{"time": 3.0, "si'
    (folder / growth.INDEX).write_text(good + bad)
    assert growth.sizes_at(str(folder), 9.0) == {"a": 1}


def test_it_stays_small_and_knows_less_but_nothing_wrong(folder, clock, monkeypatch):
    monkeypatch.setattr(growth, "LARGEST", 4000)
    index = growth.Growth(str(folder))
    truth = []
    for step in range(1, 400):
        clock.now = 1000.0 + step
        (folder / OUT).write_bytes(b"x" * step)
        if step == 1:
            (folder / "torchrun.out").write_bytes(b"once")
        if step % 7 == 0:
            (folder / "torchrun.err").write_bytes(b"x" * step)
        index.note()
        truth.append((clock.now, {OUT: step, "torchrun.err": step - step % 7, "torchrun.out": 4}))
        assert (folder / growth.INDEX).stat().st_size <= 4000
    for when, sizes in truth:
        known = growth.sizes_at(str(folder), when)
        assert all(known.get(name, 0) <= size for name, size in sizes.items())
    assert growth.sizes_at(str(folder), clock.now) == {
        OUT: 399,
        "torchrun.err": 399,
        "torchrun.out": 4,
    }
    assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == []


def test_what_a_full_disk_refused_is_told_with_the_next(folder, clock, monkeypatch):
    index = growth.Growth(str(folder))
    (folder / OUT).write_bytes(b"12345")

    def full(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as there:
        there.setattr(growth, "append", full)
        index.note()
    index.note()
    assert entries(folder) == [{"time": 1000.0, "sizes": {OUT: 5}}]


def test_one_who_takes_over_goes_on_with_the_same_index(folder, clock):
    (folder / OUT).write_bytes(b"12345")
    growth.Growth(str(folder)).note()
    clock.now = 1015.0
    (folder / OUT).write_bytes(b"1234567")
    growth.Growth(str(folder)).note()
    assert [entry["sizes"] for entry in entries(folder)] == [{OUT: 5}, {OUT: 7}]


def test_the_supervisor_notes_it_while_the_run_goes_on(tmp_path):
    class Call:
        body = boot.program(boot.in_order(["guard"]), "").replace("EVERY = 15.0", "EVERY = 0.2")
        body = body.encode()

    # A setup command's, as nothing else wakes that.
    folder = runs.prepare(Call(), "grown", 0, str(tmp_path), {}) + "/setup/1"
    go = tmp_path / "go"
    script = (
        "import os, sys, time\nprint('1234', flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.02)\nprint('67')\n"
    )
    argv = [sys.executable, "-c", script, str(go)]
    env = {"defaults": {}, "fixed": {}, "prepended": {}}
    runs.start(Call(), folder, argv, env, str(tmp_path), secrets.token_hex(16), 5.0, "setup")
    try:
        until(lambda: growth.sizes_at(folder, time.time()) == {"setup.out": 5}, 20.0)
        assert record.read(folder, record.EXIT) is None
    finally:
        go.touch()
        until(lambda: record.read(folder, record.EXIT))
    assert growth.sizes_at(folder, time.time()) == {"setup.out": 8}


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
