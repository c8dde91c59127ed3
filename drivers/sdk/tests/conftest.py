"""A driver that does what a test tells it, and the log that it leaves."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.logs import LineFormatter
from graf_driver_sdk.types import (
    Assessment,
    Capability,
    EnsureRole,
    FieldProblem,
    Health,
    Info,
    Peer,
    PositionReached,
    Progress,
    Quiesced,
    RenewLease,
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
    Verdict,
)

T = TypeVar("T")
Script = Callable[[Any], Awaitable[Any]]
EVERYTHING = frozenset({Capability.GATE, Capability.POSITION, Capability.RESYNC, Capability.SYNCHRONOUS})


class ScriptedDriver(Driver):
    """Remembers its calls; `scripts` replaces what a call does."""

    def __init__(self, capabilities: frozenset[Capability] = EVERYTHING) -> None:
        super().__init__()
        self.capabilities = capabilities
        self.calls: list[str] = []
        self.scripts: dict[str, Script] = {}
        self.now = Status(Role.STANDBY, Health.HEALTHY, promotable=True)
        self.problems: list[FieldProblem] = []
        self.running: set[str] = set()
        self.closed = False

    def info(self) -> Info:
        return Info("scripted.graf.dev", "1.0", self.capabilities)

    async def close(self) -> None:
        self.closed = True

    async def _do(self, call: str, request: Any, otherwise: T) -> T:
        self.calls.append(call)
        self.running.add(call)
        try:
            answer: T = await self.scripts[call](request) if call in self.scripts else otherwise
            return answer
        finally:
            self.running.discard(call)

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        return await self._do("Validate", spec, self.problems)

    async def ensure_role(self, request: EnsureRole) -> Progress:
        return await self._do("EnsureRole", request, Progress.done("done"))

    async def renew_lease(self, request: RenewLease) -> bool:
        return await self._do("RenewLease", request, True)

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        return await self._do("Quiesce", spec, Quiesced(Progress.done(), "7"))

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        return await self._do("Unquiesce", spec, Progress.done())

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        return await self._do("AwaitPosition", spec, PositionReached(True, position))

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        return await self._do("Assess", spec, Assessment(Verdict.CLEAN))

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        return await self._do("Resync", spec, Resynced(Progress.done(), "/archive/1"))

    async def status(self, spec: Spec) -> Status:
        return await self._do("Status", spec, self.now)


@pytest.fixture
def driver() -> ScriptedDriver:
    return ScriptedDriver()


@pytest.fixture
def make_driver() -> type[ScriptedDriver]:
    return ScriptedDriver


@pytest.fixture
def log_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Driver], Callable[[], str]]]:
    """Catches what a driver's process would write to standard error."""
    handlers: list[logging.Handler] = []
    root = logging.getLogger()
    level = root.level

    def attach(driver: Driver) -> Callable[[], str]:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(LineFormatter(driver.redactor))
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        handlers.append(handler)
        return stream.getvalue

    yield attach
    for handler in handlers:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def forever() -> Script:
    async def wait(request: Any) -> Any:
        await asyncio.Event().wait()

    return wait
