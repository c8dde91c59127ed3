"""Which part of a server belongs to the group: whole databases, single tables, or (without a scope) everything. Pure.

What is in scope is replicated, fenced and rebuilt. What is not belongs to accounts of the site itself: they may write
at every site in every role, and nothing that they write is in the history that sites compare.

Two facts carry this. Who writes decides what is logged: the binary log's own filters (``binlog_do_db``) drop DDL of a
session that has selected no database (measured), so an acknowledged ``CREATE TABLE app.t`` would be at one site only.
Therefore everything is logged, and only the site's own accounts are taken out of the log, by ``init_connect``. And
``read_only`` stays on at a standby: the site's own accounts pass it by a privilege, nobody else does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DRIVERS_OWN = "graf"  # the driver's database: its probe is replicated, its procedure is not
ENTER = "CALL graf.enter()"  # what a session of anybody but an administrator begins with
SYSTEM = frozenset({"mysql", "information_schema", "performance_schema", "sys", DRIVERS_OWN})
ADMINISTRATORS = frozenset({"root", "mariadb.sys"})
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_FIX_NAME = "use letters, digits and underscores, at most 32, not starting with a digit"
Problem = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True, order=True)
class Local:
    """An account of the site itself, and its database."""

    database: str
    user: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Invariant: sorted; no database is in ``databases`` and in ``tables``; none is of the system or of ``local``."""

    databases: tuple[str, ...] = ()
    tables: tuple[tuple[str, str], ...] = ()  # database, table
    local: tuple[Local, ...] = ()

    @property
    def all_databases(self) -> tuple[str, ...]:
        """Those that are in scope, whole or in part."""
        return tuple(sorted({*self.databases, *(database for database, _ in self.tables)}))

    @property
    def local_users(self) -> frozenset[str]:
        """Names of the site's own accounts."""
        return frozenset(one.user for one in self.local)

    def __str__(self) -> str:
        return ", ".join((*(f"{name}.*" for name in self.databases), *(".".join(table) for table in self.tables)))

    def identity(self) -> str:
        """What the data of a server was made for; the site's own accounts are no part of it."""
        return json.dumps({"databases": self.databases, "tables": [".".join(table) for table in self.tables]})


def escaped(database: str) -> str:
    """A database's name where a pattern is expected: in grants and in ``replicate_wild_do_table``."""
    return database.replace("_", "\\_")


def read(raw: Any, problem: Problem) -> Scope | None:
    """Reads the parameter ``scope``; tells every problem. None: the whole server."""
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or not set(raw) <= {"databases", "tables", "local"}:
        problem("scope", "is not {databases, tables, local}", "leave it out for the whole server")
        return None
    databases = [name for name in _texts(raw, "databases", problem) if _usable("scope.databases", name, problem)]
    tables = []
    for text in _texts(raw, "tables", problem):
        database, _, table = text.partition(".")
        if not NAME.fullmatch(table):
            problem("scope.tables", f"{text!r} is not database.table of plain names", _FIX_NAME)
        elif _usable("scope.tables", database, problem):
            tables.append((database, table))
            if database in databases:
                problem("scope.tables", f"{database} is in scope as a whole", "list it once")
    local = _local(raw.get("local", []), problem)
    found = Scope(tuple(sorted(set(databases))), tuple(sorted(set(tables))), local)
    if not found.all_databases:
        problem("scope", "lists no database and no table", "list some, or leave it out for the whole server")
    for one in local:
        if one.database in found.all_databases:
            problem("scope.local", f"{one.database} is in scope", "a site's own account has databases of its own")
    return found


def _texts(raw: Mapping[str, Any], field: str, problem: Problem) -> list[str]:
    values = raw.get(field, [])
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        problem(f"scope.{field}", "is not a list of names", "e.g. [app]")
        return []
    return list(values)


def _usable(field: str, name: str, problem: Problem) -> bool:
    if not NAME.fullmatch(name):
        problem(field, f"{name!r} is not a plain name", _FIX_NAME)
        return False
    if name in SYSTEM:
        problem(field, f"{name} is a database of the server or of the driver", "list databases of applications")
        return False
    return True


def _local(raw: Any, problem: Problem) -> tuple[Local, ...]:
    if not isinstance(raw, list | tuple) or not all(
        isinstance(r, Mapping) and set(r) == {"database", "user"} for r in raw
    ):
        problem("scope.local", "is not a list of {database, user}", "set both names and nothing else")
        return ()
    found = []
    for one in raw:
        if not isinstance(one["user"], str) or not NAME.fullmatch(one["user"]):
            problem("scope.local", f"{one['user']!r} is not a plain name", _FIX_NAME)
        elif one["user"] in ADMINISTRATORS or one["user"].startswith("graf"):
            problem("scope.local", f"{one['user']} is an account of the server or of the driver", "choose another name")
        elif not isinstance(one["database"], str):
            problem("scope.local", f"{one['database']!r} is not a plain name", _FIX_NAME)
        elif _usable("scope.local", one["database"], problem):
            found.append(Local(one["database"], one["user"]))
    return tuple(sorted(set(found)))
