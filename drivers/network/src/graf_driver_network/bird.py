"""BIRD as the driver's child: its process, its control socket, and what it has announced.

BIRD dies with the driver (``PR_SET_PDEATHSIG``): a speaker that nobody supervises would announce for ever. It is
started again when it dies, with what is to be announced *then*: the configuration is rendered anew each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_LOG = logging.getLogger(__name__)
_END = re.compile(r"^(\d{4}) (.*)$")
_ROUTE = re.compile(r"^(?:\d{4}-)?\s*([0-9a-f.:]+/\d+)\s")
_MED = re.compile(r"BGP\.med: (\d+)")
_START_TIMEOUT_S: Final = 3.0
_COMMAND_TIMEOUT_S: Final = 1.0
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_LAST_S: Final = 5.0
_STABLE_AFTER_S: Final = 5.0


class BirdError(Exception):
    """BIRD is not running, does not answer, or refused; the message says which."""


class BirdHungError(BirdError):
    """BIRD runs and does not answer."""


class BirdConfigError(BirdError):
    """BIRD runs and goes on with an older configuration: the new one could not be written, or was refused."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What BIRD exports over one session now, prefix to MED; its state and its last error, in BIRD's words."""

    session: str
    state: str
    routes: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def established(self) -> bool:
        """The neighbour can hear."""
        return self.state == "Established"


class Bird:
    """One BIRD process, supervised.

    Invariant: what BIRD announces was rendered by ``render`` after the last call of :meth:`apply` began, or BIRD
    is not running, or :meth:`apply` has raised and the process is being replaced.
    """

    def __init__(
        self,
        run_dir: Path,
        render: Callable[[], str],
        *,
        on_change: Callable[[], None] = lambda: None,
        program: str = "bird",
    ) -> None:
        """``render`` gives the configuration for now; ``on_change`` is told of each start and each death."""
        self.config_path = run_dir / "bird.conf"
        self.control_path = run_dir / "bird.ctl"
        self._run_dir = run_dir
        self._render = render
        self._on_change = on_change
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._starting = False
        self._lock = asyncio.Lock()
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._last_death = ""
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process' id, None when it is not ready to announce."""
        return self._process.pid if self._process is not None and self._ready.is_set() else None

    @property
    def why_not_running(self) -> str:
        """The last death in words; empty while it runs."""
        return "" if self._ready.is_set() else (self._last_death or "has not been started yet")

    async def apply(self) -> None:
        """Makes BIRD announce what ``render`` says now; starts BIRD when it was never started.

        Raises:
            BirdError: it is not running (it is started again with the same configuration as soon as it can be),
                or it refused the configuration.
        """
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name="bird-supervisor")
            self._starting = True
        if self._starting:
            await self._await_ready()
        if not self._ready.is_set():
            raise BirdError(f"BIRD is not running: {self.why_not_running}")
        async with self._lock:
            self._write_config()
            answer = await self._command("configure")
        check_configured(answer)

    async def announcements(self, sessions: Iterable[str]) -> dict[str, Announcement]:
        """Asks BIRD for each session's state and for what it exports there.

        Raises:
            BirdError: it is not running or does not answer.
        """
        if not self._ready.is_set():
            raise BirdError(f"BIRD is not running: {self.why_not_running}")
        found: dict[str, Announcement] = {}
        async with self._lock:
            states = parse_protocols(await self._command("show protocols"))
            for name in sessions:
                state, error = states.get(name, ("not configured", ""))
                routes: dict[str, int] = {}
                if state == "Established":
                    routes = parse_routes(await self._command(f"show route export {name} all"))
                found[name] = Announcement(name, state, routes, error)
        return found

    async def close(self) -> None:
        """Ends BIRD (the neighbours withdraw its routes at once) and its supervision."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end_process()

    def kill(self) -> None:
        """Kills a BIRD that does not answer; the supervisor starts another."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _await_ready(self) -> None:
        """Until the start under way has ended one way or the other; it is bounded itself."""
        while self._starting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await self._ready.wait()

    async def _supervise(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._starting = True
            try:
                await self._start()
                self._ready.set()
                self._starting = False
                self._on_change()
                assert self._process is not None
                code = await self._process.wait()
                self._last_death = f"it ended by itself with status {code}"
            except (BirdError, OSError) as error:
                self._last_death = str(error)
            self._starting = False
            await self._end_process()
            self._on_change()
            if loop.time() - began > _STABLE_AFTER_S:
                backoff_s = _BACKOFF_FIRST_S
            _LOG.error("bird is not running: %s; starting it again in %.1f s", self._last_death, backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_LAST_S)
            self.restarts += 1

    async def _start(self) -> None:
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._end_leftover()
        async with self._lock:
            self._write_config()
        command = ("setpriv", "--pdeathsig", "KILL", "--", self._program, "-f")
        files = ("-c", str(self.config_path), "-s", str(self.control_path), "-P", str(self._run_dir / "bird.pid"))
        try:
            self._process = await asyncio.create_subprocess_exec(*command, *files, stdin=asyncio.subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise BirdError(f"{error.filename} is not installed; packages bird2 and util-linux have it") from error
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while True:
            if self._process.returncode is not None:
                raise BirdError(
                    f"{self._program} ended with status {self._process.returncode} while starting; its own words "
                    "are on the driver's standard error (is it installed, is TCP port 179 free?)"
                )
            try:
                async with self._lock:
                    await self._command("show status")
            except BirdHungError:
                raise
            except BirdError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise BirdError(f"no control socket {self.control_path}: {error}") from error
                await asyncio.sleep(0.002)
            else:
                _LOG.info("bird is running pid=%d", self._process.pid)
                return

    async def _end_leftover(self) -> None:
        """A BIRD of a former driver process that outlived it would hold port 179, and announce."""
        if not self.control_path.exists():
            return
        with contextlib.suppress(BirdError):
            async with self._lock:
                await self._command("down")
                _LOG.warning("a former driver's bird was still running and has been told to go")
                with contextlib.suppress(TimeoutError):
                    assert self._stream is not None
                    async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                        await self._stream[0].read()
        self._drop_stream()
        self.control_path.unlink(missing_ok=True)

    async def _end_process(self) -> None:
        self._ready.clear()
        self._drop_stream()
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = None

    def _write_config(self) -> None:
        """Atomically: a BIRD that starts meanwhile must not read half of it."""
        draft = self.config_path.with_suffix(".new")
        try:
            # It may hold the passwords of sessions. A draft that was left behind keeps the mode that it had.
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(self._render())
            draft.replace(self.config_path)
        except OSError as error:
            raise BirdConfigError(f"{draft} cannot be written: {error.strerror}; is the volume full?") from error

    async def _command(self, command: str) -> list[str]:
        """One command over the control socket; the caller holds the lock."""
        try:
            # Not wait_for: in Python 3.11 it can lose a cancellation.
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                return await self._exchange(command)
        except TimeoutError:
            self._drop_stream()
            raise BirdHungError(f"BIRD gave no answer to {command!r} within {_COMMAND_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            self._drop_stream()
            raise BirdError(f"BIRD's control socket {self.control_path}: {error.strerror or error}") from error
        except asyncio.CancelledError:
            self._drop_stream()  # half an answer may be on its way
            raise

    async def _exchange(self, command: str) -> list[str]:
        if self._stream is None:
            self._stream = await asyncio.open_unix_connection(str(self.control_path))
            await _answer(self._stream[0])  # the greeting
        reader, writer = self._stream
        writer.write(command.encode() + b"\n")
        await writer.drain()
        return await _answer(reader)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None


async def _answer(reader: asyncio.StreamReader) -> list[str]:
    """Lines up to the one whose code is followed by a space instead of a dash (BIRD's ``doc/reply_codes``)."""
    lines: list[str] = []
    while True:
        raw = await reader.readline()
        if not raw:
            raise ConnectionResetError("closed by BIRD")
        lines.append(raw.decode(errors="replace").rstrip("\n"))
        if _END.match(lines[-1]):
            return lines


def check_configured(answer: Sequence[str]) -> None:
    """Judges the answer to ``configure``.

    Raises:
        BirdConfigError: it was refused, and BIRD goes on with what it had.
        BirdError: BIRD will do it, and is not ready yet.
    """
    codes = {line[:4] for line in answer}
    if "0005" in codes:
        # A session that was changed a moment ago is still going down. BIRD has read the new text, and takes it next.
        raise BirdError("BIRD is still busy with the configuration before; the new one is queued")
    if not codes & {"0003", "0004", "0018"}:
        raise BirdConfigError(f"BIRD refused its configuration: {' '.join(answer)}")


def parse_protocols(lines: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Protocol to its own words for its state and for its last error, from ``show protocols``.

    A line is ``[1002-]name proto table state since info...``; for BGP the info is its state and the error.
    """
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        columns = re.sub(r"^\d{4}[- ]", "", line).split()
        if len(columns) >= 5 and columns[1] == "BGP":
            # "Since" is one column or two, by BIRD's time format.
            info = [c for c in columns[4:] if not re.fullmatch(r"[\d:.-]+", c)]
            found[columns[0]] = (info[0] if info else columns[3], " ".join(info[1:]))
    return found


def parse_routes(lines: Iterable[str]) -> dict[str, int]:
    """Prefix to MED (0 when it has none), from ``show route ... all``."""
    found: dict[str, int] = {}
    current = ""
    for line in lines:
        if match := _ROUTE.match(line):
            current = match[1]
            found[current] = 0
        elif current and (match := _MED.search(line)):
            found[current] = int(match[1])
    return found
