"""A session's patience, with a connection of plain Python."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from graf_driver_mysql.engines import ENGINES
from graf_driver_mysql.sql import Session, SqlError


class SlowConnection:
    """Answers `slow` when it is let go, everything else at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()

    @contextlib.contextmanager
    def cursor(self) -> Iterator[SlowConnection]:
        yield self

    def execute(self, statement: str) -> None:
        if statement == "slow":
            self.begun.set()
            assert self.go.wait(10)

    def fetchall(self) -> list[Any]:
        return []

    def _force_close(self) -> None: ...


async def test_waiting_for_another_statement_of_the_session_is_no_silence_of_the_server() -> None:
    connection = SlowConnection()
    session = await Session(ENGINES["mariadb"], lambda: connection, "test").open(5)  # type: ignore[arg-type, return-value]
    slow = asyncio.create_task(session.rows("slow"))
    await asyncio.to_thread(connection.begun.wait, 5)
    quick = asyncio.create_task(session.rows("quick", timeout_s=0.05))
    await asyncio.sleep(0.2)  # far longer than its time-out: that is what must not count
    connection.go.set()
    assert await slow == []
    assert await quick == []
    assert not session.broken
    session.close()


async def test_a_server_that_does_not_answer_in_time_breaks_the_session() -> None:
    connection = SlowConnection()
    session = await Session(ENGINES["mariadb"], lambda: connection, "test").open(5)  # type: ignore[arg-type, return-value]
    with pytest.raises(SqlError, match="no answer within"):
        await session.rows("slow", timeout_s=0.05)
    assert session.broken
    connection.go.set()
