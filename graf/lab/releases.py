"""Download of the official releases, where they can be reached.

Each file is checked against the checksum that its project publishes beside it over TLS. What cannot be reached is
left to the next source: a short connection attempt decides, so that a machine without access loses seconds only.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graf.lab import build
from graf.lab.errors import LabError

Tell = Callable[[str], None]

_CONNECT_TIMEOUT_S = 4.0
_READ_TIMEOUT_S = 60.0
_GITHUB = "https://github.com"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class UnreachableError(Exception):
    """A release server cannot be reached; no error for the lab, the next source is tried."""


@dataclass(frozen=True)
class Release:
    """One file of a release.

    Attributes:
        url: Where the file is.
        checksum_url: Where its project publishes the SHA-256 of it.
        programs: Program name to its path inside the archive; empty path: the file is the program.
    """

    url: str
    checksum_url: str
    programs: dict[str, str]


def plan(architecture: str) -> list[Release]:
    """The release files that hold all programs."""
    v = build.KUBERNETES_VERSION
    kubernetes = [
        Release(
            f"https://dl.k8s.io/v{v}/bin/linux/{architecture}/{name}",
            f"https://dl.k8s.io/v{v}/bin/linux/{architecture}/{name}.sha256",
            {name: ""},
        )
        for name in next(g for g in build.GROUPS if g.name == "kubernetes").programs
        if name != "etcd"
    ]
    etcd = f"etcd-v{build.ETCD_VERSION}-linux-{architecture}"
    etcd_base = f"{_GITHUB}/etcd-io/etcd/releases/download/v{build.ETCD_VERSION}"
    ctrd = f"containerd-{build.CONTAINERD_VERSION}-linux-{architecture}.tar.gz"
    ctrd_base = f"{_GITHUB}/containerd/containerd/releases/download/v{build.CONTAINERD_VERSION}"
    cni = f"cni-plugins-linux-{architecture}-v{build.CNI_VERSION}.tgz"
    cni_base = f"{_GITHUB}/containernetworking/plugins/releases/download/v{build.CNI_VERSION}"
    runc_base = f"{_GITHUB}/opencontainers/runc/releases/download/v{build.RUNC_VERSION}"
    return [
        *kubernetes,
        Release(f"{etcd_base}/{etcd}.tar.gz", f"{etcd_base}/SHA256SUMS", {"etcd": f"{etcd}/etcd"}),
        Release(
            f"{ctrd_base}/{ctrd}",
            f"{ctrd_base}/{ctrd}.sha256sum",
            {name: f"bin/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        ),
        Release(
            f"{cni_base}/{cni}",
            f"{cni_base}/{cni}.sha256",
            {name: f"./{name}" for name in ("host-local", "loopback", "ptp", "portmap")},
        ),
        Release(f"{runc_base}/runc.{architecture}", f"{runc_base}/runc.sha256sum", {"runc": ""}),
    ]


def published_checksum(text: str, file_name: str) -> str:
    """Read a file's SHA-256 out of a checksum file: the sum alone, or lines of `sum  name`.

    Raises:
        LabError: The text has no sum for that file.
    """
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 1 and len(fields[0]) == 64:
            return fields[0].lower()
        if len(fields) >= 2 and fields[1].lstrip("*").rsplit("/", 1)[-1] == file_name:
            return fields[0].lower()
    raise LabError(f"the published checksums do not name {file_name}", text[:200])


def download(target: Path, tell: Tell, missing: set[str]) -> None:
    """Download missing programs into `target`; what cannot be reached stays missing.

    Raises:
        LabError: A file does not have its published checksum.
    """
    architecture = _ARCHITECTURES.get(os.uname().machine)
    if architecture is None or os.environ.get("GRAF_LAB_NO_DOWNLOAD"):
        return
    unreachable: set[str] = set()
    for release in plan(architecture):
        host = release.url.split("/")[2]
        if host in unreachable or not missing & set(release.programs):
            continue
        tell(f"downloading {release.url.rsplit('/', 1)[-1]}")
        try:
            checksum = _fetch(release.checksum_url, _CONNECT_TIMEOUT_S).decode()
            content = _fetch(release.url, _READ_TIMEOUT_S)
        except UnreachableError:
            unreachable.add(host)
            continue
        expected = published_checksum(checksum, release.url.rsplit("/", 1)[-1])
        if hashlib.sha256(content).hexdigest() != expected:
            raise LabError(
                f"{release.url} does not have its published checksum",
                f"expected SHA-256 {expected}",
                "try again; when it stays, something on the way changes the file",
            )
        install(target, release, content)


def install(target: Path, release: Release, content: bytes) -> None:
    """Put a checked release file's programs in place, each by an atomic rename."""
    target.mkdir(parents=True, exist_ok=True)
    if list(release.programs.values()) == [""]:
        _put(target, next(iter(release.programs)), content)
        return
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        names = {name.removeprefix("./"): name for name in archive.getnames()}
        for program, path in release.programs.items():
            member = names.get(path.removeprefix("./"))
            stream = archive.extractfile(member) if member else None
            if stream is None:
                raise LabError(f"{release.url} holds no {path}", "the release is laid out differently")
            _put(target, program, stream.read())


def _put(target: Path, name: str, content: bytes) -> None:
    temporary = target / f".{name}.{os.getpid()}"
    temporary.write_bytes(content)
    temporary.chmod(0o755)
    temporary.replace(target / name)


def _fetch(url: str, timeout_s: float) -> bytes:
    if not url.startswith("https://"):
        raise ValueError(f"only https is fetched, not {url}")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            return bytes(answer.read())
    except (urllib.error.URLError, TimeoutError, OSError) as problem:
        raise UnreachableError(str(problem)) from problem
