"""Names, addresses and paths of a lab: values only, nothing here touches the machine.

A lab has an index `N` that fixes its wide-area subnet 198.18.N.0/24 (RFC 2544 benchmarking space, never routed
outside). Pod and Service ranges live inside the network namespaces, so every lab uses the same ones.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from graf.lab.errors import LabError

DEFAULT_LAB = "lab"
MANAGEMENT = "mgmt"
SITES = ("east", "west")
CLUSTERS = (MANAGEMENT, *SITES)
USERS = "users"
LOCATIONS = (*CLUSTERS, USERS)
SERVICE_ADDRESS = "198.19.255.1"
MAX_INDEX = 15
MANAGER_NODE_PORT = 30745
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")


@dataclass(frozen=True)
class Location:
    """One place of the lab: a whole cluster, or the users' side.

    Attributes:
        name: `mgmt`, `east`, `west` or `users`.
        address: IPv4 address on the wide-area network.
        pod_cidr: Range of the Pods, empty where no cluster is.
        service_cidr: Range of the Services, empty where no cluster is.
    """

    name: str
    address: str
    pod_cidr: str = ""
    service_cidr: str = ""

    @property
    def is_cluster(self) -> bool:
        return bool(self.pod_cidr)

    @property
    def kubernetes_service(self) -> str:
        """First address of the Service range: the API server as Pods see it."""
        a, b, c, _ = self.service_cidr.split("/")[0].split(".")
        return f"{a}.{b}.{c}.1"


def state_root() -> Path:
    """Directory that holds the state of every lab of this machine."""
    return Path(os.environ.get("GRAF_LAB_DIR", "/var/lib/graf-lab"))


def cache_root() -> Path:
    """Directory for what is built once per machine and kept when a lab ends."""
    return Path(os.environ.get("GRAF_CACHE_DIR") or Path.home() / ".cache" / "graf")


def check_name(name: str) -> None:
    """Refuse a name that no lab can have, before any path is made of it.

    Raises:
        LabError: It is no name.
    """
    if not _NAME.fullmatch(name):
        raise LabError(
            f"lab name {name!r} is refused",
            "it becomes part of network namespace and cgroup names",
            "use 1 to 12 lower-case letters and digits, a letter first",
        )


@dataclass(frozen=True)
class Topology:
    """Everything that follows from a lab's name and index."""

    name: str
    index: int

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 0 <= self.index <= MAX_INDEX:
            raise LabError(
                f"lab index {self.index} is refused",
                f"the lab's subnets are 198.18.0.0/24 to 198.18.{MAX_INDEX}.0/24",
                "end another lab first: graf lab down --name NAME",
            )

    # -- addresses -------------------------------------------------------------------------------------

    @property
    def subnet(self) -> str:
        return f"198.18.{self.index}.0/24"

    @property
    def host_address(self) -> str:
        """Address of the machine itself on this lab's wide-area network."""
        return f"198.18.{self.index}.1"

    @property
    def void_gateway(self) -> str:
        """Next hop of the default route. Nobody has it: a default route must exist for Service addresses."""
        return f"198.18.{self.index}.254"

    def location(self, name: str) -> Location:
        """Describe one location.

        Raises:
            LabError: There is no such location.
        """
        net = f"198.18.{self.index}"
        known = {
            "mgmt": Location("mgmt", f"{net}.10", "198.19.16.0/20", "198.19.64.0/20"),
            "east": Location("east", f"{net}.20", "198.19.32.0/20", "198.19.80.0/20"),
            "west": Location("west", f"{net}.30", "198.19.48.0/20", "198.19.96.0/20"),
            "users": Location("users", f"{net}.40"),
        }
        if name not in known:
            raise LabError(f"there is no location {name!r}", remedy=f"use one of {', '.join(known)}")
        return known[name]

    def cluster(self, name: str) -> Location:
        """Describe one location that is a cluster.

        Raises:
            LabError: There is no such cluster.
        """
        if name not in CLUSTERS:
            raise LabError(f"{name} is no cluster", remedy=f"use one of {', '.join(CLUSTERS)}")
        return self.location(name)

    @property
    def clusters(self) -> tuple[Location, ...]:
        return tuple(self.location(name) for name in CLUSTERS)

    @property
    def git_url(self) -> str:
        return f"git://{self.location(MANAGEMENT).address}/gitops.git"

    # -- names in the kernel ---------------------------------------------------------------------------

    def netns(self, location: str) -> str:
        return f"graf-{self.name}-{location}"

    @property
    def wan_netns(self) -> str:
        return self.netns("wan")

    @property
    def host_link(self) -> str:
        """The machine's own leg into the wide-area network."""
        return f"graf{self.index}"

    def cgroup(self, location: str = "", part: str = "") -> str:
        """Cgroup path below each hierarchy; `part` is `system`, `kubepods` or `clients`."""
        return "/".join(piece for piece in ("graf", self.name, location, part) if piece)

    # -- files -----------------------------------------------------------------------------------------

    @property
    def state_dir(self) -> Path:
        return state_root() / self.name

    def location_dir(self, location: str) -> Path:
        return self.state_dir / location

    def log_dir(self, location: str) -> Path:
        return self.location_dir(location) / "log"

    def kubeconfig(self, location: str) -> Path:
        return self.location_dir(location) / "admin.kubeconfig"

    @property
    def pki_dir(self) -> Path:
        """The GRAF certificate authority and the identities it signed (`NAME.crt`, `NAME.key`)."""
        return self.state_dir / "pki"

    @property
    def git_repository(self) -> Path:
        """The bare repository as a path on this machine."""
        return self.state_dir / "git" / "gitops.git"
