"""Driver: the class that an author of a driver writes. One instance serves every component of its DriverClass.

What the server has done before a method is called, so that no driver does it again:

- names are well formed; a capability that `info()` does not declare was refused;
- the epoch was compared with the highest ever seen and is durable (EnsureRole, RenewLease, Quiesce, Unquiesce, Resync);
- no other mutating call for the same component is in flight. RenewLease has a lane of its own: it can run beside a slow
  EnsureRole, so it must never open a gate that is shut;
- the caller's deadline is set as a cancellation.

What a driver must keep to:

- **Begin or continue, idempotent.** Do what can be done within the deadline, return `Progress.pending` for the rest;
  the next call, with the same request, continues. `completed` only when *observed* to be so.
- **Cancellation is normal.** Any `await` may raise CancelledError. A half-done step must be continued (or undone)
  by the next call. Blocking work goes through `graf_driver_sdk.blocking.run_blocking`: the lane stays taken until the
  thread has really ended.
- **Never block the event loop**: renewals of every component run on it.
- **Status is observation**, never an echo of what was asked for. Call `self.notify(key)` on each observed change.
- Raise the errors of `graf_driver_sdk.errors`; secrets that do not come from parameters are told to `self.protect`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path

from graf_driver_sdk.bus import StatusBus
from graf_driver_sdk.errors import UnsupportedError
from graf_driver_sdk.redact import Redactor
from graf_driver_sdk.types import (
    Assessment,
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Info,
    Peer,
    PositionReached,
    Progress,
    Quiesced,
    Readiness,
    RenewLease,
    Resynced,
    ResyncStrategy,
    Spec,
    Status,
)


class Driver(abc.ABC):
    """Base of every driver. The abstract methods are the minimum; the others belong to a capability.

    Critical for safety are `ensure_role` (FENCED and INVALIDATED complete only when provably nothing is accepted),
    `renew_lease` (never opens a shut gate) and `status` (never claims what was not observed).
    """

    def __init__(self) -> None:
        self.changed = StatusBus()
        self.redactor = Redactor()
        # Where epochs are kept; told before `start`. It outlives the process, and is not on what the driver controls.
        self.state_dir: Path | None = None

    @abc.abstractmethod
    def info(self) -> Info:
        """Name, version, capabilities; constant while the process lives."""

    @abc.abstractmethod
    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Every problem of the parameters here, none when usable. Changes nothing."""

    @abc.abstractmethod
    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the component its role; see the module's rules."""

    @abc.abstractmethod
    async def status(self, spec: Spec) -> Status:
        """Observes the component now. Quick (well under 1 s), changes nothing, runs beside any other call."""

    async def start(self) -> None:  # noqa: B027 - a hook; most drivers need none
        """Called once before the first call is served, on the event loop. Must be quick."""

    async def close(self) -> None:  # noqa: B027 - a hook; most drivers need none
        """Called once after the last call, on SIGTERM. Must not give up a role: the component outlives its driver."""

    async def probe(self) -> Readiness:
        """Whether the driver itself can work."""
        return Readiness(True)

    async def renew_lease(self, request: RenewLease) -> bool:
        """GATE: keeps an open gate open until the deadline. False: it had shut, and stays shut."""
        raise self._unsupported("RenewLease", "GATE")

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """POSITION: stops accepting writes, finishes those in flight, gives the final position."""
        raise self._unsupported("Quiesce", "POSITION")

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """POSITION: takes a quiesce back: active as before, in the same epoch."""
        raise self._unsupported("Unquiesce", "POSITION")

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """POSITION: waits up to `timeout_ms` for everything up to `position` to be here and applied."""
        raise self._unsupported("AwaitPosition", "POSITION")

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """RESYNC: the verdict on this site's data against the active peer. Changes nothing."""
        raise self._unsupported("Assess", "RESYNC")

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """RESYNC: archives what diverged and catches up. Begins or continues."""
        raise self._unsupported("Resync", "RESYNC")

    def notify(self, key: ComponentKey) -> None:
        """Says that a change of the component was observed; every watcher gets the new status. Any thread."""
        self.changed.notify(key)

    def protect(self, secret: str) -> None:
        """Keeps a secret that the driver read itself (a password file) out of every log line and message."""
        self.redactor.learn_value(secret)

    def _unsupported(self, call: str, capability: str) -> UnsupportedError:
        return UnsupportedError(
            f"{call} is not supported by driver {self.info().name}: it has no capability {capability}; do without it"
        )
