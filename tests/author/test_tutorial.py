"""The tutorial does what it says: its files are written and its commands are run, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "write-a-driver.md"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BY_HAND = 120


def blocks() -> list[tuple[str, str, str]]:
    """Language, file and text of each block."""
    return BLOCK.findall(PAGE.read_text())


def test_a_real_driver_takes_few_lines_by_hand() -> None:
    lines = [line for _, file, text in blocks() if file.startswith("src/") for line in text.splitlines()]
    assert 0 < len(lines) <= BY_HAND


@pytest.mark.timeout(900)
def test_a_reader_who_follows_the_page_has_a_driver_that_passes(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    environment.pop("VIRTUAL_ENV", None)
    folder = tmp_path
    for language, file, text in blocks():
        if file:
            (folder / file).write_text(text)
            continue
        assert language == "sh", f"a block of {language} that nobody runs"
        for line in text.splitlines():
            if line.startswith("cd "):
                folder = folder / line.removeprefix("cd ")
                continue
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
