"""Runs the application's own commands around a generation."""

from __future__ import annotations

import asyncio
import contextlib

from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.processes import start


class HookError(DriverError):
    """The application's command failed or did not end."""

    reason = "hook-failed"


async def run(command: tuple[str, ...], timeout_s: float) -> None:
    """Runs a command; nothing for an empty one.

    Raises:
        HookError: it cannot be run, failed, or was ended after its time.
    """
    if not command:
        return
    try:
        process = await start(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise HookError(f"the hook {command[0]} cannot be run: {error.strerror}; correct `hooks`") from error
    try:
        async with asyncio.timeout(timeout_s):
            _, told = await process.communicate()
    except TimeoutError as error:
        raise HookError(f"the hook {command[0]} did not end within {timeout_s:g} s and was killed") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        text = told.decode(errors="replace").strip()[-300:]
        raise HookError(f"the hook {command[0]} ended with {process.returncode}: {text}")
