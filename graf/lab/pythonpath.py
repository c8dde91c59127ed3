"""The Python parts of an image: locked dependencies, and the workspace's own packages, for Debian 12's Python 3.11."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from graf.lab.build import REPOSITORY
from graf.lab.errors import LabError

IMAGE_PYTHON = "3.11"
_INTERPRETER = "/usr/bin/python3"
# Parts of dependencies that are large and that nothing of ours imports.
_UNUSED = ("kubernetes/aio",)


def _members() -> dict[str, Path]:
    """Distribution name to folder, for every member of the workspace."""
    root = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    folders = [REPOSITORY, *(REPOSITORY / m for m in root["tool"]["uv"]["workspace"]["members"])]
    return {tomllib.loads((f / "pyproject.toml").read_text())["project"]["name"]: f for f in folders}


def source_dirs(packages: tuple[str, ...]) -> list[Path]:
    """What the workspace's packages are made of: their metadata and their import packages.

    Raises:
        LabError: A name is no member of the workspace.
    """
    members = _members()
    found: list[Path] = []
    for name in packages:
        if name not in members:
            raise LabError(f"{name} is no package of this workspace", remedy=f"one of {', '.join(members)}")
        folder = members[name]
        data = tomllib.loads((folder / "pyproject.toml").read_text())
        found.append(folder / "pyproject.toml")
        found += [folder / p for p in data["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    return found


def requirements(packages: tuple[str, ...]) -> str:
    """The locked dependencies of workspace packages, as a requirements file with hashes.

    Raises:
        LabError: uv is missing or failed.
    """
    export = [_uv(), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-workspace", "--no-header"]
    for name in packages:
        export += ["--package", name]
    return _run(export)


def fill_dependencies(target: Path, locked: str) -> None:
    """Install locked dependencies into a folder.

    Raises:
        LabError: uv is missing or failed.
    """
    listed = target.with_name("requirements.txt")
    listed.write_text(locked)
    only = ["--only-binary", ":all:", "-r", str(listed)]
    _run([_uv(), "pip", "install", *_for_image(), "--target", str(target), *only])
    listed.unlink()
    for unused in _UNUSED:
        shutil.rmtree(target / unused, ignore_errors=True)
    _finish(target)


def fill_code(target: Path, packages: tuple[str, ...]) -> None:
    """Install workspace packages, without their dependencies, into a folder.

    Raises:
        LabError: uv is missing or failed.
    """
    members = _members()
    folders = [str(members[name]) for name in packages]
    _run([_uv(), "pip", "install", *_for_image(), "--no-deps", "--target", str(target), *folders])
    _finish(target)


def _uv() -> str:
    uv = shutil.which("uv")
    if uv is None:
        raise LabError("uv is not installed", "it resolves what the images hold", "pip install uv")
    return uv


def _for_image() -> list[str]:
    return ["--python-version", IMAGE_PYTHON, "--python", sys.executable, "--quiet", "--link-mode", "copy"]


def _finish(directory: Path) -> None:
    """Compile, and make scripts start the image's own interpreter."""
    for script in (directory / "bin").glob("*") if (directory / "bin").is_dir() else []:
        if script.is_file():
            text = script.read_text(errors="replace")
            script.write_text(re.sub(r"\A#!.*\n(?:'''exec'.*\n' ''' *\n)?", f"#!{_INTERPRETER}\n", text))
    for unwanted in (".lock",):
        (directory / unwanted).unlink(missing_ok=True)
    for tests in directory.glob("*/tests"):
        shutil.rmtree(tests)
    # Byte code that needs no look at file times: image layers do not keep them reliably.
    _run(
        [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "-j0",
            "--invalidation-mode",
            "unchecked-hash",
            "-s",
            str(directory.parent),
            "-p",
            "/opt/graf",
            str(directory),
        ]
    )


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{Path(argv[0]).name} {argv[1]} failed", (done.stderr.strip() or done.stdout.strip())[-700:])
    return done.stdout
