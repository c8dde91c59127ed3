"""What the machine must offer, looked at before anything is made; every gap is named with what closes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from graf.lab import cgroups
from graf.lab.errors import LabError

# Program -> Debian package.
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
    "sysctl": "procps",
    "git": "git",
    "bird": "bird2",
    "birdc": "bird2",
    "conntrack": "conntrack",
    "uv": "",
}
# Feature of the kernel -> how it is seen to work, in a network namespace that is thrown away.
_PROBES = {
    "network bridges (CONFIG_BRIDGE)": "ip link add probe0 type bridge",
    "virtual link pairs (CONFIG_VETH)": "ip link add probe1 type veth peer name probe2",
    "nftables for bridges (CONFIG_NF_TABLES_BRIDGE)": "nft add table bridge probe",
    "nftables with address translation (CONFIG_NFT_NAT)": (
        "nft add table ip probe && nft add chain ip probe c '{ type nat hook prerouting priority 0; }'"
    ),
}


def missing_programs() -> dict[str, str]:
    """Programs that are not installed, each with the command that installs it."""
    found: dict[str, str] = {}
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            found[program] = f"apt-get install {package}" if package else "pip install uv"
    return found


def require_root() -> None:
    """Refuse to go on without root.

    Raises:
        LabError: This is not root.
    """
    if os.geteuid() != 0:
        raise LabError(
            "the lab needs root",
            "it makes network namespaces, mounts and cgroups",
            "run it with sudo, or as root in a virtual machine",
        )


# Limits of the kernel that several clusters on one machine reach, and what the lab raises them to.
_LIMITS = {"fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524288}


def raise_limits() -> list[str]:
    """Raise kernel limits that are too low for several clusters; a higher one is left alone.

    Returns:
        What was raised, for people.

    Raises:
        LabError: A limit is too low and may not be raised here.
    """
    raised: list[str] = []
    for name, wanted in _LIMITS.items():
        path = Path("/proc/sys") / name
        if int(path.read_text()) >= wanted:
            continue
        key = name.replace("/", ".")
        try:
            path.write_text(str(wanted))
        except OSError as problem:
            raise LabError(
                f"{key} is too low and cannot be raised here",
                f"API servers and kubelets watch their files: {problem}",
                f"on the machine itself: sysctl -w {key}={wanted}",
            ) from problem
        raised.append(f"{key}={wanted}")
    return raised


def machine() -> None:
    """Check that this machine can hold a lab.

    Raises:
        LabError: Something is missing; names all of it that was found.
    """
    require_root()
    if missing := missing_programs():
        raise LabError(
            f"programs are missing: {', '.join(missing)}",
            "the lab is made with them",
            "make setup  (or: " + "; ".join(dict.fromkeys(missing.values())) + ")",
        )
    cgroups.hierarchies()
    if "overlay" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "overlay"], capture_output=True, check=False)
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise LabError(
            "the kernel has no overlay file system",
            "containerd puts image layers together with it",
            "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS",
        )
    _probe_kernel()


def _probe_kernel() -> None:
    lacking = [name for name, command in _PROBES.items() if not _works(command)]
    if lacking:
        raise LabError(
            "the kernel does not offer: " + ", ".join(lacking),
            "tried each in a new network namespace",
            "load the modules (modprobe bridge veth nf_tables nft_chain_nat nf_tables_bridge), use another "
            "kernel, or, inside a container, run privileged",
        )


def _works(command: str) -> bool:
    argv = ["unshare", "--net", "sh", "-c", command]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
