"""The source of a standby's replication: does its history fit, and how to let go of it."""

from __future__ import annotations

import asyncio

from graf_driver_sdk.errors import NeedsResyncError

from graf_driver_mysql import sockets
from graf_driver_mysql.backend import Backend
from graf_driver_mysql.gtid import Position
from graf_driver_mysql.observe import Replica, kept, positions
from graf_driver_mysql.parameters import Endpoint
from graf_driver_mysql.sql import SqlError


async def compare(backend: Backend, source: Endpoint) -> bool:
    """Refuses a diverged history if the source answers; if not, the source itself refuses a stranger (1236).

    Returns:
        Whether only transactions of the source's own domain can come, so that parallel applying keeps their order.
    """
    _, _, mine = await positions(backend.control)
    try:
        session = await backend.remote_session(source)
    except SqlError:
        return False
    try:
        read_only, theirs = await kept(session)
        domain = 0 if backend.engine.ordered else int((await session.row("SELECT @@global.gtid_domain_id AS d"))["d"])
    except SqlError:
        return False
    finally:
        session.close()
    extra = mine.beyond(theirs)
    if extra:
        raise NeedsResyncError(
            f"this site has transactions that {source.site} does not have: {', '.join(extra)}; "
            "Resync archives them and starts from the active's data"
        )
    if not isinstance(theirs, Position) or not isinstance(mine, Position):
        return False
    return not read_only and theirs.domains_beyond(mine) <= {domain}


async def left_behind(backend: Backend, source: Endpoint) -> str:
    """What this site lacks and the source's log has no more, told for people; "" where it can follow, or is empty.

    Raises:
        SqlError: one of the two cannot be asked.
    """
    _, _, mine = await positions(backend.control)
    session = await backend.remote_session(source)
    try:
        gone = await backend.engine.gone(session)
    finally:
        session.close()
    if gone is None or not mine or mine.covers(gone):
        return ""
    return f"the binary log of {source.site} has no more what is lacking here ({', '.join(gone.beyond(mine))})"


async def stop_receiving(backend: Backend, now: Replica) -> None:
    """Stops the receiver and returns when it is stopped; a silent source does not make it wait."""
    side = await backend.side_session("stop-receiving")
    stop = asyncio.create_task(side.run(backend.engine.stop_receiver, timeout_s=10))
    try:
        while not (await asyncio.wait({stop}, timeout=0.015))[0]:
            pid = backend.server.pid
            if pid is not None:
                await asyncio.to_thread(sockets.cut, pid, now.host, now.port)
        await stop
    finally:
        stop.cancel()
        side.close()
