"""What the drill's child processes share: they end with their standard input, and look from inside namespaces."""

from __future__ import annotations

import signal
import sys
import threading


def until_end_of_input() -> threading.Event:
    """An event that is set when the drill closes this process's standard input, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the drill's: it ends this process when it has healed
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=watch, name="end-of-input", daemon=True).start()
    return stop


def enter(namespace: str) -> None:
    """Puts the calling thread into a network namespace; one that is gone is an error, and is not made anew."""
    from pyroute2 import netns

    netns.setns(namespace, flags=0)
