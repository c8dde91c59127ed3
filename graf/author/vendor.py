"""Packs an installed distribution as a wheel, so that a driver can be written before anything is on a package index.

A wheel is a zip file (PEP 427): the package's files, and `.dist-info` with METADATA, WHEEL, entry points and RECORD.
What is packed is what runs here, whether it was installed from a wheel or is the source of a checkout, so no build
program and no network take part. The same files give the same bytes: a lock that names the wheel's hash stays true.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from graf.author.errors import AuthorError

SDK: Final = "graf-driver-sdk"
KIT: Final = "graf-driver-sanity"
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: graf\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_COPIED: Final = ("METADATA", "entry_points.txt")


def pack(name: str, folder: Path) -> Path:
    """Writes the wheel of an installed distribution of ours into `folder` and returns its path.

    Raises:
        AuthorError: it is not installed here.
    """
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        raise AuthorError(
            f"{name} is not installed beside graf, so a new driver would be without it",
            "In a checkout of GRAF run `make setup`; elsewhere install graf-framework[author].",
        ) from error
    files = _package_files(name) | _metadata_files(name, found)
    wheel = folder / f"{name.replace('-', '_')}-{found.version}-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-{found.version}.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in sorted(files.items()):
            _add(archive, path, content)
        _add(archive, f"{info}/RECORD", _record(files, info))
    return wheel


def _package_files(name: str) -> dict[str, bytes]:
    package = name.replace("-", "_")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise AuthorError(f"the package {package} of {name} cannot be found", "Install GRAF again (`make setup`).")
    root = Path(next(iter(spec.submodule_search_locations)))
    return {
        f"{package}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _metadata_files(name: str, found: Distribution) -> dict[str, bytes]:
    info = f"{name.replace('-', '_')}-{found.version}.dist-info"
    texts = {path: found.read_text(path) for path in _COPIED}
    return {f"{info}/WHEEL": _WHEEL.encode()} | {
        f"{info}/{path}": text.encode() for path, text in texts.items() if text is not None
    }


def _record(files: dict[str, bytes], info: str) -> bytes:
    lines = []
    for path, content in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{info}/RECORD,,\n"]).encode()


def _add(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(path)  # its time is 1980, always
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
