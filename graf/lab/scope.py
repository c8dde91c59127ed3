"""A lab whose database is a part of a server: the example's group gets a scope, the rest of each server is its site's.

What every other drill measures is a whole server, and stays so: a lab has a scope only when it was made with one, as a
server's data is made for one scope.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DRIVER_CLASS = "mysql"
TABLES_DATABASE, TABLE = "shared", "orders"
LOCAL_DATABASE, LOCAL_USER = "sitelog", "sitelog"
_GROUP_FILE = Path("groups") / "vcu-db.yaml"


def scope_of(database: str) -> dict[str, Any]:
    """The parameter, as the group's owner writes it: the application's database, one table more, the site's own."""
    return {
        "databases": [database],
        "tables": [f"{TABLES_DATABASE}.{TABLE}"],
        "local": [{"database": LOCAL_DATABASE, "user": LOCAL_USER}],
    }


def add_to_example(tree: Path) -> None:
    """Puts the scope into a checkout of the example."""
    path = tree / _GROUP_FILE
    group = yaml.safe_load(path.read_text())
    for component in group["spec"]["components"]:
        if component["driverClass"] == DRIVER_CLASS:
            parameters = component["parameters"]
            parameters["scope"] = scope_of(parameters["application"]["database"])
    path.write_text(yaml.safe_dump(group, sort_keys=False))
