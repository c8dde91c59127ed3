"""For every test here: a run that is told to end leaves nothing behind."""

from __future__ import annotations

import os
import signal
from types import FrameType

_RUN = os.getpid()


def pytest_configure() -> None:
    """SIGTERM becomes Ctrl-C: fixtures end the servers that they started and remove their folders, also in /tmp."""
    signal.signal(signal.SIGTERM, _as_an_interrupt)


def _as_an_interrupt(number: int, frame: FrameType | None) -> None:
    if os.getpid() == _RUN:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a script has put in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)
    else:  # a process that a test forked
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
