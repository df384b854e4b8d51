"""What all that writes has in common: the terminal, colours, questions, and plain lines."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import sys
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from orchestrator.errors import UsageError
from orchestrator.lines import safe
from orchestrator.masking import Mask
from orchestrator.screen.redrawn import make_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.errors import DdpOrchError


UNBOUNDED = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller: rich would end the program, and a run must not end so."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")


def console(stream: TextIO, *, colour: bool) -> _Console:
    return _Console(
        file=stream,
        no_color=not colour,
        force_terminal=colour,
        highlight=False,
        soft_wrap=True,
        emoji=False,
        # Off a terminal there is no edge to wrap a table at.
        width=None if stream.isatty() else UNBOUNDED,
    )


def coloured(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """What is asked for is written, all of it, or that it could not be is said."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # nobody reads any more, which is no mistake
    except OSError as error:
        raise UsageError(f"the output cannot be written: {error.strerror}") from None


@whole()
def show_text(text: str) -> None:
    make_way()
    sys.stdout.write(text + "\n")


def show_error(error: DdpOrchError, mask: Mask) -> None:
    show_lines([f"ddp-orch: {error}"] + ([f"  -> {error.hint}"] if error.hint else []), mask)


def show_warning(message: str, hint: str | None) -> None:
    show_lines([f"ddp-orch: {message}", *([f"  -> {hint}"] if hint else [])], Mask())


def show_lines(lines: Sequence[str], mask: Mask) -> None:
    make_way()
    sys.stderr.write("".join(safe(mask.text(line), colours=False) + "\n" for line in lines))


def agreed(question: str) -> bool:
    try:
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # the shell's prompt is not to stand behind the question
        raise
    sys.stderr.write("left as it is\n")
    return False


def asker() -> Callable[[str], str] | None:
    """Return who asks the person at the terminal for a passphrase; None where there is none.

    What is written goes to the terminal itself: stdout may be a file, or JSON for a program.
    """
    try:
        # In the background a question would only stop the program.
        there = sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return None
    return _asked if there else None


def _asked(prompt: str) -> str:
    make_way()
    try:
        return getpass.getpass(safe(prompt, colours=False))
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\n")  # what is said next is not to stand behind the prompt
        raise
