"""A Debian base image without a registry: mmdebstrap with the machine's own package sources.

The sources (mirrors, proxies) are this machine's business: they are used for the build and never end up in an image.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from graf.lab.errors import LabError

SUITE = "bookworm"
_APT = Path("/etc/apt")
_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")


def packages(path: Path) -> list[str]:
    """Names in a package list; lines with # are comments."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def identity(path: Path) -> str:
    """What a package list contributes to the hash of an image."""
    return hashlib.sha256(" ".join([SUITE, *packages(path)]).encode()).hexdigest()


def host_sources() -> list[Path]:
    """The machine's package sources that are for the image's Debian release."""
    candidates = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*.sources"))]
    candidates += sorted((_APT / "sources.list.d").glob("*.list"))
    return [path for path in candidates if path.is_file() and SUITE in path.read_text()]


def host_options() -> list[str]:
    """The machine's settings of how packages are fetched, as apt.conf lines."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith(_OPTIONS) and '""' not in line]


def lend(directory: Path) -> None:
    """Fill a folder that stands in for /etc/apt while an image is built."""
    (directory / "apt.conf.d").mkdir(parents=True)
    (directory / "preferences.d").mkdir()
    (directory / "apt.conf.d" / "90host").write_text("\n".join(host_options()) + "\n")
    for name in ("trusted.gpg.d", "keyrings", "auth.conf.d"):
        if (_APT / name).is_dir():
            shutil.copytree(_APT / name, directory / name)
    (directory / "sources.list.d").mkdir()
    sources = host_sources()
    for path in sources:
        shutil.copy(path, directory / "sources.list.d" / f"host-{path.name}.{path.suffix.lstrip('.')}")
    if not sources:
        (directory / "sources.list").write_text(f"deb http://deb.debian.org/debian {SUITE} main\n")


def make(package_list: Path, archive: Path) -> Path:
    """Make the base's file system as a tar archive; an archive that is there is used as it is.

    Raises:
        LabError: mmdebstrap failed.
    """
    if archive.is_file():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_suffix(".part.tar")
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages(package_list))}"]
    argv += [f"--aptopt={line}" for line in host_options()]
    argv += [
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        '--customize-hook=rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* '
        '"$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin',
        SUITE,
        str(temporary),
        *(str(path) for path in host_sources()),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(
            "mmdebstrap could not make the Debian base",
            done.stderr.strip()[-700:],
            "check that apt-get update works, or set GRAF_BASE_IMAGE to an image of Debian 12",
        )
    temporary.replace(archive)
    return archive
