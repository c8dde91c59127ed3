"""The engines by their name in the parameters."""

from __future__ import annotations

from types import MappingProxyType

from graf_driver_mysql.engine import Engine
from graf_driver_mysql.mariadb import MariaDB
from graf_driver_mysql.mysqldb import MySQL

ENGINES = MappingProxyType({engine.name: engine for engine in (MariaDB(), MySQL())})


def engine(name: str) -> Engine:
    """The engine of that name; the names are checked where parameters are read."""
    return ENGINES[name]
