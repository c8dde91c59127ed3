"""The Redis server as a child process: start, kill, and notice of its death. Nothing about roles."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis.asyncio
from graf_driver_sdk.errors import DriverError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from graf_driver_redis.parameters import Parameters

START_S: Final = 60.0
PATIENCE_S: Final = 2.0
# More replicas than there can be: no write is accepted (NOREPLICAS), whatever else is configured.
NO_WRITES: Final = 1_000_000
# A replica of nobody: keeps its place in its history, expires no key by itself, and is read-only.
NOWHERE: Final = ("127.0.0.1", 1)


class Server:
    """One redis-server, never more. It dies with the driver (PR_SET_PDEATHSIG), and its death wakes the event loop.

    Invariant: every start is without a role: no TCP port is open, it is a replica of nobody and it accepts no write.
    """

    def __init__(self, parameters: Parameters, on_death: Callable[[], None]) -> None:
        self.parameters = parameters
        self.password = ""
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._dead = asyncio.Event()
        self.socket = parameters.data_dir / "redis.sock"
        self.local: Any = None

    @property
    def alive(self) -> bool:
        """Whether the process is not proved dead."""
        return self._process is not None

    async def start(self) -> None:
        """Starts it, unless it runs, and returns when it answers.

        Raises:
            DriverError: it did not; why, and the end of its log.
        """
        if self._process is None:
            await self._forget()
            self._spawn()
        try:
            async with asyncio.timeout(START_S):
                while not await self._answers():
                    if self._process is None:
                        raise DriverError(f"redis-server ended while it started: {self._log()}", reason="start-failed")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise DriverError(f"redis-server does not answer: {self._log()}", reason="start-failed") from None

    async def count(self) -> None:
        """Makes a master count offsets: Redis begins to when the first replica asks, so something asks like one."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            async with asyncio.timeout(START_S):
                writer.write(f"AUTH {self.password}\r\n".encode())
                await reader.readline()  # PSYNC is refused while an answer is on its way
                writer.write(b"PSYNC ? -1\r\n")
                counts = False
                while not counts:
                    counts = bool((await self.local.info("replication"))["repl_backlog_active"])
        except (OSError, TimeoutError, redis.exceptions.RedisError) as error:
            raise DriverError(
                f"redis-server does not begin a replication history: {error!r}", reason="redis"
            ) from error
        finally:
            writer.close()

    async def kill(self) -> None:
        """Ends it at once and returns when it is proved dead."""
        if self._process is not None:
            self._process.kill()
            await self._dead.wait()
        await self._forget()

    def client(self, *, patience_s: float = PATIENCE_S, **where: Any) -> Any:
        """A client of one connection that never waits long and never tries again by itself."""
        return redis.asyncio.Redis(
            **where,
            password=self.password or None,
            socket_timeout=patience_s,
            socket_connect_timeout=PATIENCE_S,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )

    async def _forget(self) -> None:
        """Closes the connections to a server that is gone."""
        client, self.local = self.local, None
        if client is not None:
            await client.aclose()

    def _spawn(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            # PR_SET_PDEATHSIG follows the thread that started the child, not the process.
            raise DriverError("redis-server must be started from the thread that lives as long as the driver")
        program, setpriv = shutil.which("redis-server"), shutil.which("setpriv")
        if program is None or setpriv is None:
            missing = "redis-server (package redis-server)" if program is None else "setpriv (package util-linux)"
            raise DriverError(f"the program {missing} is missing; install it", reason="missing-program")
        folder = self.parameters.data_dir
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.password = self.parameters.password_file.read_text().strip()
            self._check_password()
            self.socket.unlink(missing_ok=True)
            configuration = folder / "redis.conf"
            configuration.touch(mode=0o600)
            configuration.write_text(self._configuration())
        except OSError as error:
            raise DriverError(f"redis-server cannot be started: {error}", reason="start-failed") from error
        self._dead.clear()
        with (folder / "redis.log").open("wb") as log:
            self._process = subprocess.Popen(
                [setpriv, "--pdeathsig", "KILL", program, str(configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder,
            )  # fmt: skip
        self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    def _check_password(self) -> None:
        if not self.password or any(character in self.password for character in '"\\\n '):
            raise DriverError(
                f"{self.parameters.password_file} holds no usable password: one line, no quote, backslash or blank",
                reason="start-failed",
            )

    def _configuration(self) -> str:
        own = self.parameters
        lines = [
            *(f"bind {own.address}", "port 0", f"unixsocket {self.socket}", "unixsocketperm 600", "protected-mode no"),
            *(f"dir {own.data_dir}", "daemonize no", f'requirepass "{self.password}"', f'masterauth "{self.password}"'),
            *("appendonly yes", "appendfsync everysec", 'save ""', f"maxmemory {own.max_memory_mib}mb"),
            *(f"replicaof {NOWHERE[0]} {NOWHERE[1]}", "replica-read-only yes", f"min-replicas-to-write {NO_WRITES}"),
            *(f"replica-announce-ip {own.address}", f"replica-announce-port {own.port}"),
            *("repl-timeout 5", "repl-ping-replica-period 1", "repl-diskless-sync-delay 0", "repl-backlog-ttl 0"),
        ]
        return "\n".join([*lines, ""])

    async def _answers(self) -> bool:
        if self.local is None:
            self.local = self.client(unix_socket_path=str(self.socket))
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            return bool(await self.local.execute_command("PING"))
        return False  # not listening yet, or loading

    def _died(self) -> None:
        process = self._process
        if process is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        process.wait()
        self._process = None
        self._dead.set()
        self._on_death()

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return " | ".join(Path(self.parameters.data_dir, "redis.log").read_text(errors="replace").splitlines()[-4:])
        return "(no log)"
