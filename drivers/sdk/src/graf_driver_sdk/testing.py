"""For tests of drivers: a real server on a real unix socket, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from graf_driver_sdk.client import Deadlines, DriverClient
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.server import DriverServer, Limits
from graf_driver_sdk.types import ComponentKey, Spec

LIMITS = Limits(refresh_s=0.5, patience_s=0.5, grace_s=0.2)


@contextlib.asynccontextmanager
async def running(
    driver: Driver,
    *,
    state_dir: Path | None = None,
    guard: EpochGuard | None = None,
    limits: Limits = LIMITS,
    deadlines: Deadlines | None = None,
) -> AsyncIterator[DriverClient]:
    """Serves `driver` on a temporary unix socket; gives a client for it, and stops both at the end.

    Args:
        driver: what to serve; `start` and `close` are called.
        state_dir: where epochs are kept; of this run alone when None. Give the same twice to test a restart.
        guard: an epoch guard to use instead.
        limits: the server's times.
        deadlines: the client's.
    """
    with tempfile.TemporaryDirectory(prefix="graf-driver-") as directory:
        own_guard = guard or EpochGuard(state_dir or Path(directory, "state"))
        address = f"unix:{directory}/d.sock"
        server = DriverServer(driver, own_guard, address, limits)
        await server.start()
        try:
            async with DriverClient(address, deadlines) as client:
                yield client
        finally:
            await server.stop()


@contextlib.contextmanager
def small_disk(where: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB at `where`, which is made; needs root, who may fill it to the last block."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


async def eventually(
    what: str, check: Callable[[], Any | Awaitable[Any]], timeout_s: float = 20.0, pause_s: float = 0.01
) -> Any:
    """Polls until `check()` (awaited if needed) is true, and returns it.

    Raises:
        AssertionError: it never was; says what was waited for, how long, and the last value.
    """
    ends = time.monotonic() + timeout_s
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() >= ends:
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {what}; last seen: {value!r}")
        await asyncio.sleep(pause_s)


def spec(site: str = "east", *, group: str = "vcu-db", component: str = "db", **parameters: Any) -> Spec:
    """A spec of the example group."""
    return Spec(ComponentKey(group, component, site), parameters)
