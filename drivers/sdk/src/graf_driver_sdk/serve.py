"""`serve`: the `main` of every driver."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from graf_driver_sdk import logs
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.listen import AddressError, Claim, claim, open_to_others
from graf_driver_sdk.server import DriverServer, Limits
from graf_driver_sdk.tls import TLS_DIR_VARIABLE, server_credentials

SOCKET_VARIABLE: Final = "GRAF_DRIVER_SOCKET"
ENDPOINT_VARIABLE: Final = "GRAF_DRIVER_ENDPOINT"
_CLOSE_S: Final = 5.0
_THREADS: Final = 32

_log = logging.getLogger("graf_driver_sdk.serve")


def serve(driver_factory: Callable[[], Driver], argv: Sequence[str] | None = None) -> int:
    """Serves a driver until SIGTERM or SIGINT.

    Args:
        driver_factory: makes the driver, on the event loop.
        argv: the arguments; those of the process when None.

    Returns:
        The process' exit status: 0 after a stop that was asked for, 2 when it could not start.
    """
    arguments = _parser().parse_args(argv)
    endpoint = arguments.endpoint or os.environ.get(ENDPOINT_VARIABLE) or os.environ.get(SOCKET_VARIABLE)
    if not endpoint:
        sys.stderr.write(
            f"no address to serve on: set {SOCKET_VARIABLE} to a socket's path, {ENDPOINT_VARIABLE} to host:port, "
            "or give --endpoint\n"
        )
        return 2
    import uvloop  # here, because whoever embeds the server needs no uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(driver_factory, endpoint, arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serves the contract graf.driver.v1.")
    parser.add_argument(
        "--endpoint", help=f"unix:/path or host:port; default: {ENDPOINT_VARIABLE}, else the path in {SOCKET_VARIABLE}"
    )
    parser.add_argument(
        "--tls-dir",
        type=Path,
        default=os.environ.get(TLS_DIR_VARIABLE) or None,
        help=f"ca.crt, tls.crt and tls.key for host:port; default: {TLS_DIR_VARIABLE}",
    )
    parser.add_argument("--state-dir", type=Path, help="where epochs are kept; default: GRAF_DRIVER_STATE_DIR")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


async def _serve(driver_factory: Callable[[], Driver], endpoint: str, arguments: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="driver"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    held: Claim | None = None
    try:
        driver = driver_factory()
        logs.set_up(driver.redactor, getattr(logging, arguments.log_level))
        held = claim(endpoint)
        guard = EpochGuard(arguments.state_dir)
        driver.state_dir = guard.directory
        tls_dir = None if held.address.startswith("unix:") else arguments.tls_dir
        if tls_dir is None and open_to_others(held.address):
            raise AddressError(
                f"{held.address} is open to whoever reaches it, without TLS; give --tls-dir or {TLS_DIR_VARIABLE}, "
                f"or serve on a unix socket or a loopback address"
            )
        credentials = None if tls_dir is None else server_credentials(Path(tls_dir))
        server = DriverServer(driver, guard, held.address, Limits(), credentials)
        await server.start()
    except Exception as error:
        foreseen = isinstance(error, AddressError | DriverError | OSError)
        _log.error(
            "cannot start",
            exc_info=None if foreseen else error,
            extra={"fields": {"endpoint": endpoint, "cause": str(error) or type(error).__name__}},
        )
        if held is not None:
            held.release()
        return 2
    info = driver.info()
    logs.event(
        _log,
        "serving",
        driver=info.name,
        version=info.vendor_version,
        capabilities=sorted(capability.name for capability in info.capabilities),
        endpoint=held.address,
        tls=tls_dir is not None,
        state_dir=str(guard.directory),
    )
    await stop.wait()
    logs.event(_log, "stopping", driver=info.name)
    try:
        async with asyncio.timeout(Limits().grace_s + _CLOSE_S):
            await server.stop()
    except TimeoutError:
        logs.event(_log, "did not stop in time, leaving", logging.WARNING, driver=info.name)
    held.release()
    return 0
