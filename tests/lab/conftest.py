"""Real processes to look at: living ones, and one that has ended and that nobody reaps."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def sleepers() -> Iterator[Callable[[int], list[int]]]:
    """Starts processes that only wait, each the leader of a group; they stay unreaped until the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(number: int) -> list[int]:
        new = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(number)]
        started.extend(new)
        return sorted(process.pid for process in new)

    yield start
    for process in started:
        process.kill()
        process.wait(10)


@pytest.fixture
def zombie() -> Iterator[int]:
    """A child that has ended and stays a zombie as long as the test runs."""
    process = subprocess.Popen(["true"], start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is left as it is
    yield process.pid
    process.wait(10)
