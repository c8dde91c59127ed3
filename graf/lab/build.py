"""The last source of the cluster programs: a build from pinned Go modules.

Each group under `tools/go/` is a module of its own with a committed `go.sum`, so what is built is what was pinned.
Every program is built to a temporary name and renamed when complete: an interrupted build goes on where it stopped,
and Go's own build cache keeps the packages that were compiled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graf.lab.errors import LabError

KUBERNETES_VERSION = "1.36.3"
ETCD_VERSION = "3.6.8"
CONTAINERD_VERSION = "2.3.7"
CNI_VERSION = "1.9.1"
RUNC_VERSION = "1.5.2"

REPOSITORY = Path(__file__).resolve().parents[2]
_K8S_VERSION = "k8s.io/component-base/version"
_CONTAINERD_VERSION = "github.com/containerd/containerd/v2/version"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Group:
    """Programs that come from one Go module.

    Attributes:
        name: Folder under `tools/go`.
        version: Release that the programs are.
        programs: Program name to Go package.
        stamps: Values set at link time, `package.variable=value`.
        tags: Build tags.
        cgo: Whether a C compiler takes part.
    """

    name: str
    version: str
    programs: dict[str, str]
    stamps: tuple[str, ...] = ()
    tags: str = ""
    cgo: bool = False

    @property
    def directory(self) -> Path:
        return REPOSITORY / "tools" / "go" / self.name

    def flags(self) -> list[str]:
        """Flags of `go build`, the same on every machine."""
        linker = " ".join(["-s -w", *(f"-X {stamp}" for stamp in self.stamps)])
        flags = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", linker]
        return [*flags, "-tags", self.tags] if self.tags else flags


_K8S = "k8s.io/kubernetes/cmd/"
_CTRD = "github.com/containerd/containerd/v2/cmd/"
_PLUGINS = "github.com/containernetworking/plugins/plugins/"
GROUPS = (
    Group(
        "runc",
        RUNC_VERSION,
        {"runc": "github.com/opencontainers/runc"},
        stamps=(f"main.version={RUNC_VERSION}",),
        tags="seccomp",
        cgo=True,
    ),
    Group(
        "cni",
        CNI_VERSION,
        {
            "host-local": _PLUGINS + "ipam/host-local",
            "loopback": _PLUGINS + "main/loopback",
            "ptp": _PLUGINS + "main/ptp",
            "portmap": _PLUGINS + "meta/portmap",
        },
        stamps=(f"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v{CNI_VERSION}",),
    ),
    Group(
        "containerd",
        CONTAINERD_VERSION,
        {name: _CTRD + name for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        stamps=(f"{_CONTAINERD_VERSION}.Version=v{CONTAINERD_VERSION}",),
        tags="no_btrfs no_devmapper no_zfs",
    ),
    Group(
        "kubernetes",
        KUBERNETES_VERSION,
        {
            **{
                name: _K8S + name
                for name in (
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "kubelet",
                    "kubectl",
                    "kube-proxy",
                    "kubeadm",
                )
            },
            "etcd": "go.etcd.io/etcd/server/v3",
        },
        stamps=(
            f"{_K8S_VERSION}.gitVersion=v{KUBERNETES_VERSION}",
            f"{_K8S_VERSION}.gitMajor=1",
            f"{_K8S_VERSION}.gitMinor=36",
            f"{_K8S_VERSION}.gitTreeState=clean",
        ),
    ),
)
PROGRAMS = tuple(name for group in GROUPS for name in group.programs)


def fingerprint() -> str:
    """Hash of everything that decides what the programs are: pinned modules and build flags."""
    digest = hashlib.sha256()
    for group in GROUPS:
        for name in ("go.mod", "go.sum"):
            path = group.directory / name
            if not path.is_file():
                raise LabError(
                    f"{path} is missing",
                    "the lab's programs are pinned in the repository's tools/go",
                    "run graf from a checkout of the repository (make setup)",
                )
            digest.update(path.read_bytes())
        digest.update(repr((group.programs, group.flags(), group.cgo)).encode())
    return digest.hexdigest()[:16]


def check_tools(needs_c: bool) -> None:
    """Check that what a build needs is installed.

    Raises:
        LabError: Names the missing tool and the command that installs it.
    """
    if shutil.which("go") is None:
        raise LabError(
            "Go is not installed",
            "the release downloads were not reachable, so the cluster programs are built from Go modules",
            "install Go 1.26 or newer (https://go.dev/dl), or set GRAF_CONTROL_PLANE_DIR to a folder with "
            + ", ".join(PROGRAMS),
        )
    if needs_c:
        for tool, package in (("gcc", "gcc"), ("pkg-config", "pkg-config")):
            if shutil.which(tool) is None:
                raise LabError(f"{tool} is not installed", "runc is built with it", f"apt-get install {package}")
        found = subprocess.run(["pkg-config", "--exists", "libseccomp"], check=False)
        if found.returncode != 0:
            raise LabError(
                "libseccomp's headers are not installed",
                "runc is built with seccomp",
                "apt-get install libseccomp-dev",
            )


def build(target: Path, tell: Tell, missing: set[str]) -> None:
    """Build the missing programs into `target`.

    Args:
        target: The versioned cache directory.
        tell: Told the program that is being built.
        missing: Names of the programs to build.

    Raises:
        LabError: A tool is missing or a build failed.
    """
    target.mkdir(parents=True, exist_ok=True)
    check_tools(any(group.cgo and missing & set(group.programs) for group in GROUPS))
    for group in GROUPS:
        for name, package in group.programs.items():
            if name in missing:
                tell(f"building {name} {group.version}")
                _build_one(group, name, package, target)


def _build_one(group: Group, name: str, package: str, target: Path) -> None:
    temporary = target / f".{name}.{os.getpid()}"
    # The toolchain named in go.mod is fetched by Go itself when the installed one is older.
    env = {**os.environ, "CGO_ENABLED": "1" if group.cgo else "0", "GOWORK": "off"}
    try:
        done = subprocess.run(
            ["go", "build", *group.flags(), "-o", str(temporary), package],
            cwd=group.directory,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(
                f"building {name} {group.version} failed",
                done.stderr.strip()[-800:],
                "when the Go module proxy is not reachable, set GOPROXY, or GRAF_CONTROL_PLANE_DIR to a folder "
                "that holds the programs; a new attempt goes on where this one stopped",
            )
        temporary.replace(target / name)
    finally:
        temporary.unlink(missing_ok=True)
