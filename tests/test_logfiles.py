"""What a stream's file is called on its host and here: each name leads back to the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.journal import NodeFiles
from orchestrator.logfiles import LogFile, log_file, log_name

NUMBERS = st.integers(0, 300)
STREAMS = st.sampled_from(["out", "err"])
FILES = st.one_of(
    st.builds(LogFile, node=NUMBERS, rank=NUMBERS, round=NUMBERS, stream=STREAMS),
    st.builds(LogFile, node=NUMBERS, stream=STREAMS),
    st.builds(LogFile, node=NUMBERS, setup=NUMBERS, stream=STREAMS),
)
WORKERS = st.lists(st.integers(0, 64), max_size=20)


@given(FILES, WORKERS)
def test_a_name_here_leads_back(file, workers):
    assert log_file(file.here(workers), workers) == file


@given(st.lists(FILES, unique=True, max_size=30), WORKERS)
def test_no_two_share_a_file(files, workers):
    assert len({file.here(workers) for file in files}) == len(files)


@given(st.builds(LogFile, node=NUMBERS, rank=NUMBERS, round=NUMBERS, stream=STREAMS), WORKERS)
def test_what_a_host_calls_it_is_what_arrives_under_that_name(file, workers):
    (event,) = NodeFiles(file.node, "gpu1", float).feed(file.there, 0, b"x")
    assert log_name(event, workers) == file.here(workers)


@given(st.text())
def test_any_other_name_is_none(name):
    found = log_file(name, (2, 2))
    assert found is None or found.here((2, 2)) == name


@pytest.mark.parametrize(
    "name",
    [
        "rank0.round0.out",  # the first round is not named
        "rank00.out",
        "rank4.out",  # it was planned for no node
        "node0.rank0.out",  # it is where it was planned
        "torchrun.out",
        "setup1.out",
        "rank0.out\n",
        "rank0.log",
        ".rank0.out",
    ],
)
def test_what_we_do_not_call_so_is_not_ours(name):
    assert log_file(name, (2, 2)) is None
