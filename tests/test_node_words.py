"""Of another process' command line no secret is shown."""

from __future__ import annotations

import pytest

from orchestrator.node.words import shown


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["python", "train.py", "--lr", "0.1"], "python train.py --lr 0.1"),
        (["t", "--token", "abc", "--lr", "1"], "t --token ******** --lr 1"),
        (["t", "--hf-token=abc", "x"], "t --hf-token=******** x"),
        (["t", "-api_key", "abc"], "t -api_key ********"),
        (["t", "--ask-password", "--lr", "1"], "t --ask-password --lr 1"),
        (
            ["t", "--tokenizer", "gpt2", "--tokenization=bpe"],
            "t --tokenizer gpt2 --tokenization=bpe",
        ),
        (["sh", "-c", "WANDB_API_KEY=abc python t.py"], "sh -c WANDB_API_KEY=******** python t.py"),
        (["t", "hf_abcdefghijkl", "sk-proj-abcdefgh"], "t ******** ********"),
        (["t", "https://me:abc@host/x?y"], "t https://me:********@host/x?y"),
        (["t", "Secret.Name=abc"], "t Secret.Name=********"),
        (["", ""], ""),
    ],
)
def test_secrets_are_stars_and_all_else_stands(argv, told):
    assert shown(argv, 200) == told


def test_it_is_cut_after_it_is_masked():
    assert shown(["t", "--token", "x" * 100], 14) == "t --token ****"
