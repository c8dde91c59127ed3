"""Programs started from the event loop, without losing one when the caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from typing import Any

from graf_driver_sdk.blocking import outlast

End = Callable[[Process], Awaitable[None]]


async def start(*command: str, end: End | None = None, **how: Any) -> Process:
    """Starts a program as `asyncio.create_subprocess_exec` does; cancelled meanwhile, it is ended before that goes on.

    asyncio's own call, cancelled between the fork and the last pipe, kills the one process and forgets pipes that are
    connected a moment later: what that process had started already lives on, beside whatever comes next, and a watcher
    that waits for the end of its standard input waits for as long as the driver lives.

    Args:
        command: program and arguments.
        end: ends it; `kill` unless it has to be asked in another way.
        how: as for `asyncio.create_subprocess_exec`.
    """
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*command, **how))
    cancelled = await outlast(starting)
    if cancelled is None:
        return starting.result()
    if not starting.cancelled() and starting.exception() is None:
        await (end or kill)(starting.result())
    raise cancelled


async def kill(process: Process) -> None:
    """Kills a program, with all that it started where it leads a session of its own, and closes its pipes."""
    if process.returncode is None:  # else its number may be another one's by now
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # else a pipe that was not read to its end stays open
