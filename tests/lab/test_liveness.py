from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from graf.lab import liveness
from graf.lab.process import wait_for

Sleepers = Callable[[int], list[int]]


def test_a_child_that_nobody_reaps_is_there_and_not_alive(zombie: int) -> None:
    stat = liveness.stat_of(zombie)
    assert stat is not None
    assert stat.state == "Z"
    assert not liveness.is_alive(zombie)
    assert liveness.stats_of([zombie]) == []
    assert liveness.members(zombie) == []


def test_a_process_is_alive_while_it_sleeps_and_while_it_is_stopped(sleepers: Sleepers) -> None:
    (pid,) = sleepers(1)
    assert liveness.is_alive(pid)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: str(liveness.stat_of(pid)) == f"{pid} sleep (state T)", "the process to stop", 5)
    assert liveness.is_alive(pid)
    assert [stat.pid for stat in liveness.members(pid)] == [pid]


def test_a_leader_that_ended_is_alive_as_long_as_another_thread_of_it_runs() -> None:
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            wait_for(lambda: "state Z" in str(liveness.stat_of(process.pid)), "the leader to end", 10)
            assert liveness.is_alive(process.pid)
        finally:
            process.kill()


def test_a_number_without_a_process_is_not_alive(zombie: int) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    assert liveness.stat_of(gone.pid) is None
    assert not liveness.is_alive(gone.pid)


def test_a_number_that_was_used_again_is_not_the_process_that_was_known(sleepers: Sleepers) -> None:
    (pid,) = sleepers(1)
    known = liveness.stat_of(pid)
    assert known is not None
    assert [stat.pid for stat in liveness.still_alive([known])] == [pid]
    assert liveness.still_alive([replace(known, started=known.started - 1)]) == []


@pytest.mark.parametrize("name", ["sleep", "a b", "x) S 1 (y", ")"])
def test_a_name_may_hold_anything(name: str) -> None:
    line = f"42 ({name}) Z 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n"
    stat = liveness.parse(line)
    assert (stat.pid, stat.name, stat.state, stat.group, stat.threads, stat.started) == (42, name, "Z", 7, 1, 12345)


def test_text_that_is_no_line_of_a_process_is_refused() -> None:
    with pytest.raises(ValueError, match="no line"):
        liveness.parse("42 (sleep) S 1")
