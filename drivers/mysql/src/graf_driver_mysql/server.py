"""The database server as a child process: start, kill, and notice of its death. Nothing about SQL or roles."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from graf_driver_mysql.engines import engine
from graf_driver_mysql.layout import Layout
from graf_driver_mysql.parameters import Parameters
from graf_driver_mysql.programs import program

START_TIMEOUT_S = 60.0
PREDECESSOR_TIMEOUT_S = 10.0
_LOG_LIMIT_BYTES = 16 << 20


class StartFailedError(RuntimeError):
    """The server ended while it was starting; the message has the end of its log."""


class Server:
    """One server process, never more. Invariant: ``pid`` is set exactly while the process is not proved dead.

    The server dies with the driver (PR_SET_PDEATHSIG), and its death wakes the event loop at once (pidfd).
    It is always ended by SIGKILL: a clean shutdown would let go of commits that wait for the standby.
    """

    def __init__(self, site: str, parameters: Parameters, on_death: Callable[[str], None]) -> None:
        self.site = site
        self.parameters = parameters
        self.engine = engine(parameters.engine)
        self.layout = Layout(parameters.data_dir)
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._dead = asyncio.Event()
        self._dead.set()
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process, None when it is proved dead."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is not proved dead."""
        return self._process is not None

    async def start(self, *, truncate: bool, continues: bool) -> None:
        """Starts the server without a role and returns when it listens.

        Args:
            truncate: Recovery cuts off what is in the binary log and not yet committed in the engine.
            continues: What recovery writes into the binary log goes on with this site's history.

        Raises:
            StartFailedError: It ended, or did not listen in time (then it was killed).
        """
        if self._process is not None:
            raise RuntimeError("the server is running already")
        if threading.current_thread() is not threading.main_thread():
            # PR_SET_PDEATHSIG follows the thread that started the child, not the process.
            raise RuntimeError("the server must be started from the main thread, which lives as long as the driver")
        await self._outlive_predecessor()
        self._spawn(self.engine.arguments(truncate, continues=continues))
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._listening()
        except TimeoutError:
            await self.kill()
            raise StartFailedError(f"did not listen within {START_TIMEOUT_S:g} s: {self.log_tail()}") from None
        except asyncio.CancelledError:
            await self.kill()
            raise

    async def kill(self) -> None:
        """Ends the server at once and returns when it is proved dead."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGKILL)
        await self._dead.wait()

    def log_tail(self, lines: int = 6) -> str:
        """The end of what this run of the server wrote to its log."""
        try:
            with self.layout.log.open("rb") as log:
                log.seek(self._log_start)
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return "(no log)"
        wanted = [line for line in text.splitlines() if "ERROR" in line or "Aborting" in line]
        return " | ".join((wanted or text.splitlines())[-lines:]) or "(empty log)"

    async def _outlive_predecessor(self) -> None:
        """The server of a driver that was killed is being killed as well: its files are free only when it is dead."""
        ends = time.monotonic() + PREDECESSOR_TIMEOUT_S
        while (pid := _running_with(self.layout)) is not None:
            if time.monotonic() >= ends:
                raise StartFailedError(
                    f"process {pid} runs a server on {self.layout.root} already: end the driver that it belongs to"
                )
            await asyncio.sleep(0.01)

    def _spawn(self, arguments: tuple[str, ...]) -> None:
        setpriv = program("setpriv", "util-linux")
        executable = program(*self.engine.server)
        layout = self.layout
        self.parameters.socket_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.parameters.socket.unlink(missing_ok=True)
        Path(f"{self.parameters.socket}.lock").unlink(missing_ok=True)  # MySQL believes any process that has its number
        layout.config.write_text(self.engine.configuration(self.site, self.parameters, layout), encoding="utf-8")
        if layout.log.exists() and layout.log.stat().st_size > _LOG_LIMIT_BYTES:
            layout.log.replace(layout.log.with_suffix(".log.1"))
        # A driver that is killed before setpriv has asked for the signal would leave a server behind, and the next
        # driver could not start another on the same data. So the parent is looked at once more after asking.
        only_with_parent = ["/bin/sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
        command = [setpriv, "--pdeathsig", "KILL", *only_with_parent, executable, f"--defaults-file={layout.config}"]
        command.extend(arguments)
        with layout.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self._dead.clear()
        self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    def _died(self) -> None:
        process = self._process
        if process is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = process.wait()
        self._process = None
        self._dead.set()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._on_death(f"{self.engine.server[0]} ended by {how}")

    async def _listening(self) -> None:
        path = str(self.parameters.socket)
        while True:
            if self._process is None:
                raise StartFailedError(f"the server ended while it started: {self.log_tail()}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(path)
                writer.close()
                return
            # The server tells readiness to systemd only; a look every 3 ms costs nothing beside a start of 200 ms.
            await asyncio.sleep(0.003)


def _running_with(layout: Layout) -> int | None:
    """The process that runs a server on these files, by its pid file and its command line; None without one."""
    try:
        pid = int(layout.pid.read_text(encoding="ascii"))
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if f"--defaults-file={layout.config}".encode() in arguments else None
