"""The trainer as a user runs it: in processes of its own, under the real torchrun."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "trainer"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def start(tmp_path, *words, **env):
    """Run in tmp_path, and let nothing outlive the test: torchrun ends its workers on SIGTERM."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DDP_ORCH_", "TORCHELASTIC"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        kept.pop(name, None)
    scratch = tmp_path / "tmp"  # torch and torchrun leave folders there
    scratch.mkdir(exist_ok=True)
    kept |= {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | env
    with subprocess.Popen(
        [str(word) for word in words],
        cwd=tmp_path,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                out, err = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            pytest.fail(f"no end after 200 s\n{out}\n{err}")
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def accuracy(result):
    assert result.returncode == 0, result.stdout + result.stderr
    (value,) = re.findall(r"^accuracy: (\d\.\d{4})$", result.stdout, re.MULTILINE)
    return float(value)


def metrics(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_data_is_what_the_readme_says():
    rows = gzip.decompress((FOLDER / "digits.bin.gz").read_bytes())
    assert len(rows) == 1797 * 65
    assert sorted(set(rows[64::65])) == list(range(10))
    assert max(rows) == 16


def test_one_process_without_torchrun(tmp_path):
    result = start(tmp_path, sys.executable, FOLDER / "train.py", "--steps", 20)
    assert accuracy(result) > 0.3
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"rank 0 of 1: host \S+, device cpu, backend gloo", lines[0])
    assert "step 20/20" in result.stdout
    assert result.stderr == ""  # no word about numpy
    assert [path.name for path in tmp_path.iterdir()] == [
        "tmp"
    ]  # and no file that nobody asked for


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--step", "3"], "unrecognized arguments: --step 3"),
        (["--steps", "0"], "argument --steps: invalid at_least_1 value: '0'"),
        (["--lr", "nan"], "argument --lr: invalid above_0 value: 'nan'"),
        (["--backend", "nccl"], "--backend nccl: local rank 0 needs a GPU, this host has 0"),
        (["--metrics", "no/such/file"], "--metrics: [Errno 2] No such file or directory"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_clear_line(tmp_path, words, complaint):
    result = start(tmp_path, sys.executable, FOLDER / "train.py", *words)
    assert result.returncode == 2
    usage, error = result.stderr.splitlines()
    assert usage.startswith("usage: train.py")
    assert error.startswith(f"train.py: error: {complaint}")


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    result = start(tmp_path, sys.executable, FOLDER / "train.py", "--lr", "1e30")
    assert result.returncode == 1
    assert re.search(r"ValueError: the loss is \w+ at step \d+: try --lr below", result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_world_learns_the_digits(tmp_path, world):
    result = start(tmp_path, *TORCHRUN, world, FOLDER / "train.py", "--seed", world)
    assert accuracy(result) >= 0.97
    for rank in range(world):
        greeting = rf"^rank {rank} of {world}: host \S+, device cpu, backend gloo$"
        assert len(re.findall(greeting, result.stdout, re.MULTILINE)) == 1
    assert f"parameters: equal on {world} ranks" in result.stdout


@pytest.mark.slow
def test_metrics_are_one_line_per_step_from_rank_0(tmp_path):
    # As a host runs it: the two files alone in some folder, the metrics in the run's own.
    (tmp_path / "shipped").mkdir()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("train.py", "digits.bin.gz"):
        shutil.copy(FOLDER / name, tmp_path / "shipped")
    script = tmp_path / "shipped" / "train.py"
    command = [*TORCHRUN, 3, script, "--steps", 60, "--batch-size", 64]
    first = start(tmp_path, *command, DDP_ORCH_RUN_DIR=str(run_dir))
    accuracy(first)
    lines = metrics(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 61))
    keys = {"step", "loss", "seconds", "samples_per_s", "world_size"}
    assert all(set(line) == keys and line["world_size"] == 3 for line in lines)
    assert lines[0]["loss"] > 2 > 0.5 > lines[-1]["loss"]
    assert lines[0]["samples_per_s"] == pytest.approx(66 / lines[0]["seconds"], rel=0.01)

    # The same seed on another world starts alike; --metrics wins over the run's folder.
    command = [*TORCHRUN, 1, script, "--steps", 60, "--batch-size", 66, "--metrics", "m.jsonl"]
    accuracy(start(tmp_path, *command, DDP_ORCH_RUN_DIR=str(run_dir)))
    alone = [line["loss"] for line in metrics(tmp_path / "m.jsonl")][:5]
    assert alone == pytest.approx([line["loss"] for line in lines[:5]], rel=1e-3)
    assert metrics(run_dir / "metrics.jsonl") == lines
