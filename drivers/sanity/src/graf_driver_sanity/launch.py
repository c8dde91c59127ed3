"""Starting and killing a driver: as a process, in this process, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from graf_driver_sdk.driver import Driver
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.listen import MAX_PATH_BYTES
from graf_driver_sdk.server import DriverServer, Limits


class Launcher(Protocol):
    """A driver that can be started, stopped and killed; state that must outlive it does."""

    @property
    def endpoint(self) -> str:
        """Where it listens; the same after a restart."""

    async def start(self) -> None:
        """Starts it; the kit then waits until it answers."""

    async def stop(self) -> int:
        """Asks it to end (SIGTERM) and waits; its exit status."""

    async def kill(self) -> None:
        """Ends it without a warning (SIGKILL)."""

    def alive(self) -> bool:
        """Whether it runs."""

    def log(self) -> str:
        """Everything that it wrote to its output so far."""

    def cleanup(self) -> None:
        """Removes what `start` made. Called once, after the last `stop` or `kill`."""


def _short_directory() -> tempfile.TemporaryDirectory[str]:
    """A new folder whose sockets have paths that the kernel takes, also where TMPDIR is long."""
    is_long = len(os.fsencode(tempfile.gettempdir())) > MAX_PATH_BYTES - len("/gsan-12345678/d.sock")
    return tempfile.TemporaryDirectory(prefix="gsan-", dir="/tmp" if is_long else None)  # noqa: S108 - its folder is private


class Process:
    """A driver's process in a session of its own, its output in a file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], endpoint: str = "", cwd: Path | None = None
    ) -> None:
        self._directory = _short_directory()
        root = Path(self._directory.name)
        self._command = tuple(command)
        self._cwd = cwd
        self._endpoint = endpoint or f"unix:{root}/d.sock"
        is_socket = self._endpoint.startswith("unix:")
        where = {"GRAF_DRIVER_SOCKET": self._endpoint.removeprefix("unix:")}
        temporary = root / "tmp"  # what a killed driver could not take away goes with the kit's folder
        temporary.mkdir()
        own = {
            **(where if is_socket else {"GRAF_DRIVER_ENDPOINT": self._endpoint}),
            "GRAF_DRIVER_STATE_DIR": str(root / "state"),
            "TMPDIR": str(temporary),
        }
        self._environment = {**os.environ, **own, **environment}
        self._log = root / "log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        """The unix socket in the kit's folder, unless one was given."""
        return self._endpoint

    async def start(self) -> None:
        """Starts the command."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, cwd=self._cwd, stdout=log, stderr=log, start_new_session=True
            )

    async def stop(self) -> int:
        """SIGTERM; SIGKILL when that does not help within 20 s."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(20):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL

    async def kill(self) -> None:
        """SIGKILL of the driver alone: what it controls may outlive it, as in production."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.returncode is None

    def log(self) -> str:
        """Standard output and error of all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def cleanup(self) -> None:
        """Removes the folder with socket, state and log."""
        self._directory.cleanup()


class InProcess:
    """A Python driver served in this process: quick, for an author's own unit tests. `kill` drops it as it is."""

    def __init__(
        self,
        driver: Callable[[], Driver],
        guard: Callable[[Path], EpochGuard] = EpochGuard,
        limits: Limits | None = None,
        tweak: Callable[[DriverServer], None] = lambda server: None,
    ) -> None:
        self._directory = _short_directory()
        self._make, self._make_guard, self._tweak = driver, guard, tweak
        self._limits = limits or Limits(refresh_s=0.5, patience_s=0.5, grace_s=0.1)
        self._server: DriverServer | None = None
        self.driver: Driver | None = None

    @property
    def endpoint(self) -> str:
        """A unix socket in a folder of its own."""
        return f"unix:{self._directory.name}/d.sock"

    async def start(self) -> None:
        """A new instance of the driver on the same state."""
        (Path(self._directory.name) / "d.sock").unlink(missing_ok=True)
        self.driver = self._make()
        guard = self._make_guard(Path(self._directory.name, "state"))
        self._server = DriverServer(self.driver, guard, self.endpoint, self._limits)
        self._tweak(self._server)
        await self._server.start()

    async def stop(self) -> int:
        """Stops the server and closes the driver."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
        return 0

    async def kill(self) -> None:
        """The nearest to a kill that one process can do to a part of itself."""
        await self.stop()

    def alive(self) -> bool:
        """Whether it serves."""
        return self._server is not None

    def log(self) -> str:
        """Nothing: the log is this process' own."""
        return ""

    def cleanup(self) -> None:
        """Removes the folder."""
        self._directory.cleanup()
