"""A lab with a second group: on the same machines, with a database server of its own, active at the other site.

What the example protects stays as it is; a lab has a second group only when it was made with one. Both groups use one
network driver and one policy, and vote at the same three places. A database server belongs to one group, so the second
one has a DriverClass of its own, told apart by `instance`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

GROUP, DRIVER_CLASS = "ims-db", "mysql-ims"
DATABASE = "ims"
SERVICE_ADDRESS, PORT, COPY_PORT = "198.19.255.2", 3307, 13307
DATA_DIR, SOCKET_DIR, STATE_DIR = (
    "/var/lib/graf/mysql-ims",
    "/run/graf/mysql-ims",
    "/var/lib/graf/driver-state/mysql-ims",
)
_FIRST_GROUP, _FIRST_CLASS = Path("groups") / "vcu-db.yaml", Path("driverclasses") / "mysql.yaml"


def add_to_example(tree: Path) -> None:
    """Puts the second group and its DriverClass into a checkout of the example."""
    group = yaml.safe_load((tree / _FIRST_GROUP).read_text())
    _write(tree / "groups" / f"{GROUP}.yaml", _second(group))
    driver_class = yaml.safe_load((tree / _FIRST_CLASS).read_text())
    _write(tree / "driverclasses" / f"{DRIVER_CLASS}.yaml", _own_server(driver_class))


def _second(group: dict[str, Any]) -> dict[str, Any]:
    """The first group's twin: the sites the other way round, and nothing that only one of them can have."""
    group["metadata"]["name"] = GROUP
    sites = group["spec"]["sites"]
    sites[0]["administrativeRole"], sites[1]["administrativeRole"] = "spare", "preferred"
    database, route = group["spec"]["components"]
    database["driverClass"] = DRIVER_CLASS
    database["parameters"] |= {
        "port": PORT,
        "copyPort": COPY_PORT,
        "dataDir": DATA_DIR,
        "socketDir": SOCKET_DIR,
        "application": {"database": DATABASE, "user": DATABASE},
    }
    for own in database["siteParameters"].values():
        own["serverId"] += 1
        own["gtidDomainId"] += 1
    route["parameters"] |= {"serviceAddress": f"{SERVICE_ADDRESS}/32", "ports": [PORT]}
    return group


def _own_server(driver_class: dict[str, Any]) -> dict[str, Any]:
    """The same driver once more at each site: another instance, with another disk."""
    driver_class["metadata"]["name"] = DRIVER_CLASS
    driver_class["spec"]["instance"] = DATABASE
    pod = driver_class["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    places = {"state": STATE_DIR, "data": DATA_DIR}
    for volume in pod["volumes"]:
        if volume["name"] in places:
            volume["hostPath"]["path"] = places[volume["name"]]
    for mount in container["volumeMounts"]:
        if mount["name"] == "data":
            mount["mountPath"] = DATA_DIR
    return driver_class


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False))
