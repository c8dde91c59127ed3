"""Reads the files of a binary log: which transactions are in them, and where. Only reads, and needs no server.

The event headers are followed with seeks, so a look at a file costs its number of events and not its size. Formats:
MariaDB's knowledge base ("Replication Protocol") and MySQL's internals manual ("Binary Log Event").
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"\xfebin"
HEADER = struct.Struct("<IBIIIH")  # time, type, server, size, next position, flags
IN_USE = 0x1  # a flag of the first event: the server died with this file open
_CHECKSUM_BYTES = 4

_QUERY, _STOP, _ROTATE, _FORMAT, _TABLE_MAP = 2, 3, 4, 15, 19
_ROWS_QUERY, _MYSQL_GTID, _PREVIOUS_GTIDS, _TAGGED_GTID = 29, 33, 35, 42
_ANNOTATE_ROWS, _CHECKPOINT, _MARIADB_GTID, _GTID_LIST = 160, 161, 162, 163
# Between transactions: they belong to the file.
_OF_THE_FILE = frozenset({_STOP, _ROTATE, _PREVIOUS_GTIDS, _CHECKPOINT, _GTID_LIST, 34})
_TEXT_LIMIT = 2000


class BinlogError(RuntimeError):
    """A file that is no binary log."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction in a file. ``gtid`` is "" where its name cannot be read (a tagged one of MySQL)."""

    gtid: str
    at_s: int  # Unix time at which it was written
    start: int
    end: int
    tables: tuple[str, ...]
    statements: tuple[str, ...]  # where they were logged; of changes to rows, MariaDB notes the statement beside them


@dataclass(frozen=True, slots=True)
class Log:
    """One file: how it begins, what had been written before it, and its transactions.

    ``before`` is None where the file does not say it in a form that is known here.
    """

    path: Path
    head: bytes  # magic and the format's description: what a copy of any part of it must begin with
    before: str | None
    transactions: tuple[Transaction, ...]


@dataclass(slots=True)
class _Open:
    """The transaction that is being read."""

    gtid: str
    at_s: int
    start: int
    tables: dict[str, None]
    statements: list[str]

    def closed(self, end: int) -> Transaction:
        return Transaction(self.gtid, self.at_s, self.start, end, tuple(self.tables), tuple(self.statements))


@dataclass(frozen=True, slots=True)
class _Event:
    at_s: int
    kind: int
    server: int
    start: int
    end: int


def files(data: Path) -> tuple[Path, ...]:
    """The binary log's files of a data directory, the oldest first."""
    found = (path for path in data.glob("binlog.*") if path.suffix[1:].isdigit())
    return tuple(sorted(found, key=lambda path: int(path.suffix[1:])))


def read(path: Path) -> Log:
    """Reads one file; an event that a crash cut short ends it. Raises BinlogError, OSError."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BinlogError(f"{path} is no binary log (or an encrypted one)")
        events = _events(file, path.stat().st_size)
        first = next(events, None)
        if first is None or first.kind != _FORMAT:
            raise BinlogError(f"{path} does not begin with the description of its format")
        head = _body(file, first, whole=True)
        checksum = _CHECKSUM_BYTES if head[-_CHECKSUM_BYTES - 1] == 1 else 0
        before: str | None = None
        found: list[Transaction] = []
        open_: _Open | None = None
        end = first.end
        for event in events:
            begins = event.kind in (_MARIADB_GTID, _MYSQL_GTID, _TAGGED_GTID)
            if open_ is not None and (begins or event.kind in _OF_THE_FILE):
                found.append(open_.closed(end))
                open_ = None
            end = event.end
            if begins:
                open_ = _Open(_gtid(file, event), event.at_s, event.start, {}, [])
            elif event.kind in (_GTID_LIST, _PREVIOUS_GTIDS):
                before = _before(event.kind, _body(file, event)[: -checksum or None])
            elif open_ is not None:
                _note(open_, event, file, checksum)
        if open_ is not None:
            found.append(open_.closed(end))
    return Log(path, MAGIC + _not_in_use(head), before, tuple(found))


def _events(file: BinaryIO, size: int) -> Iterator[_Event]:
    position = len(MAGIC)
    while position + HEADER.size <= size:
        file.seek(position)
        at_s, kind, server, length, _, _ = HEADER.unpack(file.read(HEADER.size))
        if length < HEADER.size or position + length > size:
            return
        yield _Event(at_s, kind, server, position, position + length)
        position += length


def _body(file: BinaryIO, event: _Event, *, whole: bool = False) -> bytes:
    start = event.start if whole else event.start + HEADER.size
    file.seek(start)
    return file.read(event.end - start)


def _not_in_use(head: bytes) -> bytes:
    """The checksum of this event is made without the flag, so it stays right."""
    *rest, flags = HEADER.unpack_from(head)
    return HEADER.pack(*rest, flags & ~IN_USE) + head[HEADER.size :]


def _gtid(file: BinaryIO, event: _Event) -> str:
    body = _body(file, event)
    if event.kind == _MARIADB_GTID:
        sequence, domain = struct.unpack_from("<QI", body)
        return f"{domain}-{event.server}-{sequence}"
    if event.kind == _MYSQL_GTID:
        return f"{uuid.UUID(bytes=body[1:17])}:{struct.unpack_from('<q', body, 17)[0]}"
    return ""


def _before(kind: int, body: bytes) -> str | None:
    if kind == _GTID_LIST:
        number = struct.unpack_from("<I", body)[0] & 0x0FFFFFFF
        parts = (struct.unpack_from("<IIQ", body, 4 + 16 * index) for index in range(number))
        return ",".join(f"{domain}-{server}-{sequence}" for domain, server, sequence in parts)
    try:
        return _mysql_set(body)
    except (struct.error, ValueError):
        return None  # with tags, the set is written in another way


def _mysql_set(body: bytes) -> str | None:
    sources = struct.unpack_from("<Q", body)[0]
    position, found = 8, []
    for _ in range(sources):
        if position + 24 > len(body):
            return None
        name = uuid.UUID(bytes=body[position : position + 16])
        intervals = struct.unpack_from("<Q", body, position + 16)[0]
        position += 24
        words = []
        for _ in range(intervals):
            low, after = struct.unpack_from("<qq", body, position)
            words.append(f"{low}-{after - 1}")
            position += 16
        found.append(":".join((str(name), *words)))
    return ",".join(found) if position == len(body) else None


def _note(transaction: _Open, event: _Event, file: BinaryIO, checksum: int) -> None:
    if event.kind == _TABLE_MAP:
        body = _body(file, event)
        database_length = body[8]
        database = body[9 : 9 + database_length]
        table_at = 9 + database_length + 1
        table = body[table_at + 1 : table_at + 1 + body[table_at]]
        transaction.tables[f"{_text(database)}.{_text(table)}"] = None
    elif event.kind in (_QUERY, _ANNOTATE_ROWS, _ROWS_QUERY):
        body = _body(file, event)
        body = body[: len(body) - checksum]
        if event.kind == _ROWS_QUERY:
            body = body[1:]
        elif event.kind == _QUERY:
            database_length, status_length = body[8], struct.unpack_from("<H", body, 11)[0]
            body = body[13 + status_length + database_length + 1 :]
        if body not in (b"BEGIN", b"COMMIT"):
            transaction.statements.append(_text(body[:_TEXT_LIMIT]))


def _text(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", "replace").split())
