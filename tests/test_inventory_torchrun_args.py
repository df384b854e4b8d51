"""Options for torchrun that ddp-orch sets itself are refused, however they are written."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from inventory.model import Job


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--tee", "3"],
        ["--tee=3", "--numa-binding", "node"],
        ["--numa_binding=node"],
        ["--monitor-interval", "0.5", "--role", "trainer"],
        ["--local-ranks-filter", "0"],
        ["-t", "3"],
        ["--event-log-handler=console", "--virtual-local-rank"],
        ["--signals-to-handle", "SIGTERM,SIGUSR1"],
        ["--shutdown-timeout", "5"],
    ],
)
def test_taken(words):
    assert Job.model_validate({"torchrun_args": words}).torchrun_args == tuple(words)


@pytest.mark.parametrize(
    "word",
    [
        *("--nnodes", "--nnodes=2", "--nno", "--nn=2"),
        *("--nproc-per-node", "--nproc_per_node=8", "--nproc", "--max-restarts", "--max_r=3"),
        *("--rdzv-backend", "--rdzv_endpoint", "--rdzv-id=x", "--rdzv_conf", "--rdzv", "--rd"),
        *("--local-addr", "--local_addr=x", "--local-a", "--log-dir", "--log_dir", "--logs-specs"),
        *("--redirects", "--redirects=3", "-r", "-r3", "--node-rank", "--node_rank=1"),
        *("--master-addr", "--master_port=1", "--master", "--standalone", "--stand"),
        *("--no-python", "--no_python", "--no", "-m", "-mx", "--module", "--mod"),
        *("--help", "-h", "--"),
    ],
)
def test_refused(word):
    with pytest.raises(ValidationError, match=r"set by ddp-orch itself|-- would end torchrun's"):
        Job.model_validate({"torchrun_args": ["--tee", "3", word]})


@pytest.mark.parametrize(
    "words", [["train.py"], ["--tee", "3", "train.py"], ["--tee=3", "train.py"], ["", "--tee", "3"]]
)
def test_a_word_alone_would_be_the_script(words):
    with pytest.raises(ValidationError, match="follows no option: torchrun would run it"):
        Job.model_validate({"torchrun_args": words})


@pytest.mark.slow
def test_torchruns_own_parser_finds_nothing_of_ours_in_what_is_taken():
    run = pytest.importorskip("torch.distributed.run")
    parser = run.get_args_parser()
    ours = "nnodes nproc_per_node max_restarts rdzv_backend rdzv_endpoint rdzv_id rdzv_conf "
    ours += "local_addr log_dir redirects logs_specs node_rank master_addr master_port standalone "
    ours += "no_python module"
    plain = vars(parser.parse_args(["x.py"]))
    tried = 0
    for action in parser._actions:
        for option in action.option_strings:
            for end in range(3 if option.startswith("--") else 2, len(option) + 1):
                words = [option[:end], *(["7"] if action.nargs != 0 else [])]
                try:
                    Job.model_validate({"torchrun_args": words})
                    read = vars(parser.parse_args([*words, "x.py"]))
                except (ValidationError, SystemExit):
                    continue  # refused, by us or by torchrun
                tried += 1
                assert all(read[name] == plain[name] for name in ours.split()), words
                assert read["training_script"] == "x.py", words
    assert tried > 50
