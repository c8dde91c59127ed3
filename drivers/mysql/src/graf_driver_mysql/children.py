"""Programs that run for long beside the server: they never outlive the driver, and nobody forgets one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from graf_driver_sdk.processes import kill, start

from graf_driver_mysql.programs import BootstrapError, program

_TAIL_LINES = 4
# The parent may have died before setpriv asked for the signal: it is looked at once more after asking.
_ONLY_WITH_PARENT = 'test "$PPID" = "$0" && exec "$@"'


@contextlib.asynccontextmanager
async def child(
    command: Sequence[str], log: Path, *, stdin: int = asyncio.subprocess.DEVNULL, stdout: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a program for as long as the block; what it says goes to ``log``. At the end of the block it is dead."""
    prefix = [program("setpriv", "util-linux"), "--pdeathsig", "KILL", "/bin/sh", "-c", _ONLY_WITH_PARENT]
    with log.open("ab") as said:
        process = await start(
            *prefix, str(os.getpid()), *command, stdin=stdin, stdout=said if stdout is None else stdout, stderr=said,
            cwd="/", start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        await kill(process)


async def finished(process: asyncio.subprocess.Process, name: str, log: Path, timeout_s: float) -> None:
    """Waits for the end of a program; raises BootstrapError with what it said where it failed."""
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
    except TimeoutError:
        raise BootstrapError(f"{name} did not end within {timeout_s:g} s: {last_words(log)}") from None
    if code != 0:
        raise BootstrapError(f"{name} failed (status {code}): {last_words(log)}")


def last_words(log: Path) -> str:
    """The end of what a program said; where it names errors, those."""
    try:
        text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return "(nothing said)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower()]
    return " | ".join((wrong or lines)[-_TAIL_LINES:]) or "(nothing said)"
