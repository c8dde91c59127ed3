"""A lab with a volume: the example's group gets one component more, `files`, whose driver is pv.

The folder lies on each site's own disk. What every drill measures without it, milliseconds of a database's promotion,
stays as it is: a lab has a volume only when it was made with one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from graf.lab import process
from graf.lab.errors import LabError
from graf.lab.topology import SITES, Topology

COMPONENT, DRIVER_CLASS = "files", "pv"
DIRECTORY = "/var/lib/graf/pv/files"
CERTIFICATES = "/etc/graf/pv"
SECRET = "graf-pv"  # noqa: S105 - a name
PORT = 7873
RPO_SECONDS = 10
_GROUP_FILE = Path("groups") / "vcu-db.yaml"
_LOST = ".lost"


def identity(location: str) -> str:
    """Name of a site's certificate for its volume, among the files of the lab's authority."""
    return f"{location}-pv"


def dns_name(location: str) -> str:
    """The name in that certificate."""
    return f"{location}.pv.graf.dev"


def component(topology: Topology) -> dict[str, Any]:
    """The component, as the group's owner writes it."""
    return {
        "name": COMPONENT,
        "driverClass": DRIVER_CLASS,
        "stage": "data",
        "parameters": {"directory": DIRECTORY, "rpoSeconds": RPO_SECONDS},
        "siteParameters": {
            site: {
                "endpoint": f"{topology.location(site).address}:{PORT}",
                "tls": {
                    "caFile": f"{CERTIFICATES}/ca.crt",
                    "certFile": f"{CERTIFICATES}/tls.crt",
                    "keyFile": f"{CERTIFICATES}/tls.key",
                    "name": dns_name(site),
                },
            }
            for site in SITES
        },
    }


def add_to_example(tree: Path, topology: Topology) -> None:
    """Puts the component into a checkout of the example."""
    path = tree / _GROUP_FILE
    group = yaml.safe_load(path.read_text())
    group["spec"]["components"].insert(1, component(topology))
    path.write_text(yaml.safe_dump(group, sort_keys=False))


def secret_files(topology: Topology, location: str) -> dict[str, Path]:
    """The Secret that the DriverClass of the example mounts: key to file."""
    name = identity(location)
    return {
        "ca.crt": topology.pki_dir / "ca.crt",
        "tls.crt": topology.pki_dir / f"{name}.crt",
        "tls.key": topology.pki_dir / f"{name}.key",
    }


def folder(topology: Topology, location: str) -> Path:
    """Where a site's volume is on this machine."""
    return process.disk_path(topology, location, DIRECTORY)


def lose(topology: Topology, location: str) -> None:
    """The volume is gone at once, as when its disk goes; an empty folder is where it was mounted.

    Who has a file open goes on writing where nobody finds it.

    Raises:
        LabError: There is none.
    """
    volume = folder(topology, location)
    if not volume.is_dir():
        raise LabError(
            f"{location} has no volume in {volume}",
            "it is made when the group serves or follows for the first time",
            "bring a lab with one up: graf lab up --volume",
        )
    gone = volume.with_name(_LOST)
    shutil.rmtree(gone, ignore_errors=True)
    volume.rename(gone)
    volume.mkdir(mode=0o755)


def forget_lost(topology: Topology, location: str) -> None:
    """Deletes what `lose` put aside."""
    shutil.rmtree(folder(topology, location).with_name(_LOST), ignore_errors=True)
