"""The repository's own conftest: a `make ...-sanity` that is told to end takes its servers and folders away."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEST = """
import pathlib, time
import pytest

@pytest.fixture
def folder():
    path = pathlib.Path({folder!r})
    path.mkdir()
    yield path
    path.rmdir()

def test_that_takes_long(folder):
    print("it runs", flush=True)
    time.sleep(60)
"""


def test_sigterm_lets_the_fixtures_clean_up(tmp_path: Path) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "test_long.py").write_text(TEST.format(folder=str(tmp_path / "left")))
    command = (sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--rootdir", ".", "-c", "/dev/null", ".")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("it runs" in line for line in process.stdout)
        assert (tmp_path / "left").is_dir()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output  # pytest's own status of an interrupted run
    assert not (tmp_path / "left").exists()
