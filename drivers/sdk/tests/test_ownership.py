"""One folder, one driver: also when the other one is of another process, and after any end of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.ownership import OwnedFolder

HOLDER = """
import subprocess, sys
from pathlib import Path
from graf_driver_sdk.ownership import OwnedFolder
OwnedFolder(Path(sys.argv[1]), "dataDir").take()
child = subprocess.Popen(["sleep", "30"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_folder_of_another_process_is_refused_until_that_one_is_dead_whatever_it_started(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    argv = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(PreconditionError, match="belongs to another driver that runs") as refused:
                OwnedFolder(folder, "dataDir").take()
            assert refused.value.reason == "in-use"
            holder.kill()
            holder.wait()
            OwnedFolder(folder, "dataDir").take()
        finally:
            subprocess.run(["kill", str(child)], check=False)


def test_what_is_given_back_can_be_taken_again(tmp_path: Path) -> None:
    one, other = OwnedFolder(tmp_path, "dataDir"), OwnedFolder(tmp_path, "dataDir")
    one.take()
    with pytest.raises(PreconditionError):
        other.take()
    one.release()
    one.release()
    other.take()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreconditionError, match=r"dataDir: .*file/data cannot be used: Not a directory") as refused:
        OwnedFolder(tmp_path / "file" / "data", "dataDir").take()
    assert refused.value.reason == "folder-unusable"
