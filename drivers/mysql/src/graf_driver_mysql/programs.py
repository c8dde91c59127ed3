"""Programs that the driver runs: where they are, and a bounded run of one. Blocking."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_TIMEOUT_S = 120


class MissingProgramError(RuntimeError):
    """A program that the driver runs is not installed."""


class BootstrapError(RuntimeError):
    """The data directory could not be made."""


def program(name: str, package: str) -> str:
    """The path of a program; raises MissingProgramError that names the package."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise MissingProgramError(f"{name} is not installed: install Debian's {package} in the driver's image")
    return path


def bootstrap_run(command: list[str], stdin: str) -> None:
    """Runs a program to its end; raises BootstrapError with what it said."""
    try:
        result = subprocess.run(
            command, input=stdin.encode(), capture_output=True, timeout=_TIMEOUT_S, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired as error:
        raise BootstrapError(f"{command[0]} did not end within {_TIMEOUT_S} s") from error
    if result.returncode != 0 or b"ERROR:" in result.stderr or b"[ERROR]" in result.stderr:
        output = (result.stdout + result.stderr).decode("utf-8", "replace").strip().splitlines()
        wanted = [line for line in output if "ERROR" in line] or output
        raise BootstrapError(f"{Path(command[0]).name} failed (status {result.returncode}): {' | '.join(wanted[-5:])}")
