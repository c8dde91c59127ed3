"""The shell around rsync: it tells how rsync ended, ends with the driver, and leaves nothing that nobody collects."""

import subprocess
import sys
import time

from graf_driver_pv.copying import WITH_THE_DRIVER

# Like process 1 of a container: what loses its parent becomes a child of this one.
KEEPER = """
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
copy = subprocess.Popen(["sh", "-c", sys.argv[1], "copy", "sh", "-c", "exit 7"], stdin=subprocess.PIPE)
print(copy.wait(), open(f"/proc/self/task/{os.getpid()}/children").read().split())
"""


def test_a_copy_tells_how_it_ended_and_leaves_no_process() -> None:
    told = subprocess.run(
        [sys.executable, "-c", KEEPER, WITH_THE_DRIVER], capture_output=True, text=True, timeout=20, check=True
    )
    assert told.stdout.strip() == "7 []", told.stderr


def test_a_copy_ends_when_the_driver_lets_go_of_the_pipe() -> None:
    command = ["sh", "-c", WITH_THE_DRIVER, "copy", "sh", "-c", "trap '' TERM; sleep 60 & wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as copy:
        assert copy.stdin is not None
        assert copy.stdout is not None
        time.sleep(0.1)
        assert copy.poll() is None
        copy.stdin.close()
        assert copy.stdout.read() == b"", "the end of the output is that of every process of the copy"
        assert copy.wait(10) != 0
