"""What the server says about itself, as values. Only reads."""

from __future__ import annotations

from graf_driver_mysql import acks
from graf_driver_mysql.history import History
from graf_driver_mysql.sql import Session
from graf_driver_mysql.values import Observation, Replica, SemiSync

__all__ = ["Observation", "Replica", "SemiSync", "kept", "observe", "positions", "replica", "semi_sync"]


async def positions(session: Session) -> tuple[bool, History, History]:
    """read_only, what is in the binary log, and everything this server has applied; raises SqlError."""
    row = await session.row(session.engine.read_positions, timeout_s=2.0)
    read_only, logged, applied, _ = session.engine.positions(row)
    return read_only, logged, applied


async def kept(session: Session) -> tuple[bool, History]:
    """read_only, and everything that a follower may have got from this server; raises SqlError."""
    row = await session.row(session.engine.read_positions, timeout_s=2.0)
    read_only, _, _, everything = session.engine.positions(row)
    return read_only, everything


async def replica(session: Session) -> Replica | None:
    """The replication's state, None where none is configured; raises SqlError."""
    rows = await session.rows(session.engine.read_replica, timeout_s=2.0)
    return session.engine.replica(rows[0]) if rows else None


async def semi_sync(session: Session) -> SemiSync:
    """The source's counters; raises SqlError."""
    return session.engine.semi_sync(await session.rows(session.engine.read_semi_sync, timeout_s=2.0))


async def observe(session: Session, *, permits: bool = False) -> Observation:
    """One whole look (about 1 ms), with ``permits`` at who acknowledges too; raises SqlError."""
    engine = session.engine
    statements = [engine.read_positions, engine.read_semi_sync, engine.read_followers, engine.read_replica]
    variables, counters, hosts, replicas, *more = await session.batch(
        *statements, *(["SHOW PROCESSLIST"] if permits else []), timeout_s=2.0
    )
    read_only, logged, applied, _ = engine.positions(variables[0])
    return Observation(
        read_only=read_only,
        logged=logged,
        applied=applied,
        semi_sync_enabled=engine.acknowledging(variables[0]),
        semi_sync=engine.semi_sync(counters),
        replica=engine.replica(replicas[0]) if replicas else None,
        followers=tuple(sorted({host["Host"] for host in hosts if host["Host"]})),
        acknowledgers=acks.connected(more[0]) if more else frozenset(),
    )
