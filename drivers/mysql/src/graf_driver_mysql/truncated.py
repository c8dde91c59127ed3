"""TRUNCATE TABLE: the one change of a table that MariaDB's recovery neither undoes nor logs.

DROP, ALTER and the like are in its DDL log. A TRUNCATE that was done in the engine and not yet in the binary log when
the server died is simply done (measured: in 9 of 60 kills just after one was sent): the history says nothing of it,
and the rows stay at the other site. Such a table is empty, and its file was made when the log was last written, long
after its definition, which a TRUNCATE leaves as it is. It is truncated once more, this time with the log. Blocking,
files only.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graf_driver_mysql import binlog
from graf_driver_mysql.programs import program
from graf_driver_mysql.scope import SYSTEM, Scope
from graf_driver_mysql.text import named, quoted

LAST_S = 10.0  # from the engine's work to the log it is milliseconds; others may write into the log meanwhile
APART_S = 0.5  # CREATE and ALTER write the definition just before they make the file
_CLOCK_S = 1.0  # the log's times are of the statement's begin, in whole seconds
_SMALL_BYTES = 1 << 16
_AT_ONCE = 200
_ENCODED = re.compile(r"@([0-9a-f]{4})")


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """A table by its names."""

    database: str
    name: str

    def __str__(self) -> str:
        return f"{named(self.database)}.{named(self.name)}"


def suspects(data: Path, scope: Scope | None) -> tuple[Table, ...]:
    """The tables of a dead server that may have been truncated without the log; who of them is empty, is.

    Only what is replicated counts: what is not in a scope has no history.
    """
    last = _last_log(data)
    if last is None:
        return ()
    since_s = last.stat().st_mtime - LAST_S
    young = _born_s([path for path in _files(data, scope) if path.stat().st_ctime >= since_s])
    found = {_table(path): born for path, born in young if born >= since_s and born > _defined_s(path) + APART_S}
    if not found:
        return ()
    logged = [one for one in binlog.read(last).transactions if one.at_s >= since_s - _CLOCK_S and not one.tables]
    return tuple(
        sorted(
            table
            for table, born in found.items()
            if not any(_names(text, table) for one in logged if one.at_s >= born - _CLOCK_S for text in one.statements)
        )
    )


def there(table: Table) -> str:
    """The query that has a row if recovery left the table: what was being made when the server died is gone."""
    return (
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'"  # noqa: S608 - quoted
        f" AND TABLE_SCHEMA = {quoted(table.database)} AND TABLE_NAME = {quoted(table.name)}"
    )


def _last_log(data: Path) -> Path | None:
    """The newest file of the binary log that has a transaction: a start that came to nothing leaves one without."""
    for path in reversed(binlog.files(data)):
        if path.stat().st_size > _SMALL_BYTES or binlog.read(path).transactions:
            return path
    return None


def _files(data: Path, scope: Scope | None) -> Iterator[Path]:
    for path in data.glob("*/*.ibd"):
        table = _table(path)
        if table.database in SYSTEM or path.name.startswith("#"):
            continue
        if scope is None or table.database in scope.databases or (table.database, table.name) in scope.tables:
            yield path


def _table(path: Path) -> Table:
    """File names have other characters than letters and digits as numbers; a partition's have more behind a ``#``."""
    return Table(_decoded(path.parent.name), _decoded(path.stem.partition("#")[0]))


def _decoded(name: str) -> str:
    return _ENCODED.sub(lambda found: chr(int(found[1], 16)), name)


def _defined_s(path: Path) -> float:
    definition = path.with_name(f"{path.stem.partition('#')[0]}.frm")
    return definition.stat().st_mtime if definition.is_file() else 0.0


def _born_s(paths: list[Path]) -> Iterator[tuple[Path, float]]:
    """When each file was made, 0 where the file system does not say it. Python 3.11 has no call for it."""
    for first in range(0, len(paths), _AT_ONCE):
        some = paths[first : first + _AT_ONCE]
        command = [program("stat", "coreutils"), "--format=%.6W", *map(str, some)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        yield from zip(some, map(float, said.split()), strict=True)


def _names(statement: str, table: Table) -> bool:
    return re.search(rf"(?<![\w$]){re.escape(table.name)}(?![\w$])", statement, re.IGNORECASE) is not None
