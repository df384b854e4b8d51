"""Scripts that tests run as workers. They import torch only where a test is about it."""

import signal
from pathlib import Path


def heed_ctrl_c() -> None:
    """Undo, in a child, what a shell does to commands in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def worker(name: str) -> str:
    return str(Path(__file__).parent / f"{name}.py")
