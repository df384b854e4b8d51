"""What holds for all tests, wherever they are run from."""

from __future__ import annotations

import signal

import hypothesis

# An example that a busy machine pauses for a moment is no bad one.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")


def pytest_configure() -> None:
    """Ignore no signal: what `nohup`, or the `&` of a script, has us ignore, our children do too.

    Tests send signals and look at what they do.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
