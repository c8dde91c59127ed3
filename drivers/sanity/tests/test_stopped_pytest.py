"""The repository's own conftest: a `make ...-sanity` that is told to end takes its servers and folders away."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEST = """
import asyncio, pathlib
import pytest

@pytest.fixture
def folder():
    path = pathlib.Path({folder!r})
    path.mkdir()
    yield path
    path.rmdir()

async def test_that_takes_long(folder):
    try:
        (folder / "part").touch()
        print("it runs", flush=True)
        await asyncio.sleep(60)
    finally:
        (folder / "part").unlink()
"""


@pytest.mark.parametrize("interrupt", ["", "trap '' INT; "], ids=["by-hand", "in-a-background-job"])
def test_sigterm_lets_the_test_and_its_fixtures_clean_up(interrupt: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "test_long.py").write_text(TEST.format(folder=str(tmp_path / "left")))
    settings = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    (tmp_path / "pytest.ini").write_text(settings)
    pytest_ = (sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--rootdir", ".", ".")
    command = ("sh", "-c", f'{interrupt}exec "$@"', "sh", *pytest_)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("it runs" in line for line in process.stdout)
        assert (tmp_path / "left").is_dir()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output  # pytest's own status of an interrupted run
    assert not (tmp_path / "left").exists()
