"""The fake driver behind the SDK: what the contract asks, in the backend's words, and what it observed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from typing import Any, Final, cast

from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import (
    DriverError,
    InvalidParametersError,
    NeedsResyncError,
    NotActiveError,
    UnsupportedError,
)
from graf_driver_sdk.types import (
    Assessment,
    Capability,
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Follower,
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

from graf_driver_fake.backend import Component, peer_writes
from graf_driver_fake.faults import FaultKind, FaultPlayer
from graf_driver_fake.parameters import Parameters, parse, parse_capabilities, parse_faults

CAPABILITIES_VARIABLE: Final = "GRAF_FAKE_CAPABILITIES"
_POLL_S: Final = 0.02
_NONSENSE: Final = 99


class FakeDriver(Driver):
    """Serves components that are lists of writes. `component` gives tests a hand on what it controls."""

    def __init__(self, capabilities: Collection[Capability] | None = None) -> None:
        """`capabilities`: what to declare; by default GRAF_FAKE_CAPABILITIES (comma separated), else all."""
        super().__init__()
        self._capabilities = frozenset(capabilities) if capabilities is not None else _from_environment()
        self._components: dict[ComponentKey, Component] = {}
        self._faults = FaultPlayer()
        self._ticker: asyncio.Task[None] | None = None

    def info(self) -> Info:
        """Constant."""
        return Info("fake.graf.dev", version("graf-driver-fake"), self._capabilities)

    async def start(self) -> None:
        """Begins to look for what changes by itself."""
        self._ticker = asyncio.create_task(self._tick(), name="fake-ticker")

    async def close(self) -> None:
        """Stops looking; the components stay as they are."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker

    def component(self, spec: Spec) -> Component:
        """The component, made at its first call.

        Raises:
            InvalidParametersError: see each problem.
        """
        parameters, problems = parse(spec.parameters)
        if parameters is None:
            raise InvalidParametersError(problems)
        component = self._components.setdefault(spec.key, Component(parameters))
        component.parameters = parameters
        return component

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Checks the parameters alone."""
        _, problems = parse(spec.parameters)
        return problems

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Every role but ACTIVE takes effect at once; ACTIVE after `promoteMs`, continued by further calls."""
        component = self.component(request.spec)
        if await self._play(request.spec, "EnsureRole") is FaultKind.LIE:
            return Progress.done(f"{request.role.name} (a lie)")
        active = request.active_peer
        if request.role is Role.ACTIVE:
            return self._promote(component, request)
        if request.role is Role.STANDBY and active is not None:
            if component.verdict(peer_writes(active)) is Verdict.DIVERGED:
                raise NeedsResyncError(
                    f"{request.spec.key} has writes that the active {active.site} lacks, so it cannot follow; "
                    f"call Assess, then Resync"
                )
            component.active = active
        component.role, component.quiesced, component.promoting_until_ns = request.role, False, 0
        if request.role is Role.STANDBY:
            component.follow()
        else:
            component.active = None
        return Progress.done(request.role.name)

    def _promote(self, component: Component, request: EnsureRole) -> Progress:
        now_ns = time.monotonic_ns()
        if component.role is not Role.ACTIVE:
            if component.promoting_until_ns == 0:
                component.promoting_until_ns = now_ns + component.parameters.promote_ms * 1_000_000
            left_ms = (component.promoting_until_ns - now_ns) // 1_000_000
            if left_ms > 0:
                return Progress.pending(f"promoting for another {left_ms} ms", int(left_ms))
        has_gate = self._can(component, Capability.GATE)
        component.lease_deadline_ns = request.lease_deadline_ns if has_gate else None
        component.synchronous_set = request.synchronous_set
        component.role, component.quiesced, component.promoting_until_ns = Role.ACTIVE, False, 0
        component.active = None
        return Progress.done("accepts writes")

    async def renew_lease(self, request: RenewLease) -> bool:
        """Moves the deadline of an open gate; a shut one stays shut."""
        component = self._capable(request.spec, Capability.GATE, "RenewLease")
        if await self._play(request.spec, "RenewLease") is FaultKind.LIE:
            return True
        if component.role is not Role.ACTIVE or not (component.lease_deadline_ns or 0) > time.monotonic_ns():
            return False
        component.lease_deadline_ns = request.lease_deadline_ns
        return True

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        """Accepts nothing more; no write is ever in flight here, so the position is final at once."""
        component = self._active(spec, "Quiesce")
        if await self._play(spec, "Quiesce") is not FaultKind.LIE:
            component.quiesced = True
        return Quiesced(Progress.done("quiesced"), str(len(component.writes)))

    async def unquiesce(self, spec: Spec, epoch: int) -> Progress:
        """Accepts again."""
        component = self._active(spec, "Unquiesce")
        if await self._play(spec, "Unquiesce") is not FaultKind.LIE:
            component.quiesced = False
        return Progress.done("accepts writes")

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        """Follows until the list is long enough."""
        component = self._capable(spec, Capability.POSITION, "AwaitPosition")
        if not position.isdecimal():
            problem = FieldProblem("position", f"{position!r} is no position", "a number of writes, e.g. 12")
            raise InvalidParametersError([problem], "the arguments")
        if await self._play(spec, "AwaitPosition") is FaultKind.LIE:
            return PositionReached(True, position)
        ends_ns = time.monotonic_ns() + timeout_ms * 1_000_000
        while True:
            if component.role is Role.STANDBY:
                component.follow()
            here = len(component.writes)
            if here >= int(position) or time.monotonic_ns() >= ends_ns:
                message = "" if here >= int(position) else f"{here} of {position} writes after {timeout_ms} ms"
                return PositionReached(here >= int(position), str(here), message)
            await asyncio.sleep(_POLL_S)

    async def assess(self, spec: Spec, active: Peer) -> Assessment:
        """Compares the two lists."""
        component = self._capable(spec, Capability.RESYNC, "Assess")
        kind = await self._play(spec, "Assess")
        theirs, ours = peer_writes(active), component.writes
        verdict = component.verdict(theirs)
        if kind is FaultKind.NONSENSE:
            verdict = cast(Verdict, _NONSENSE)
        elif kind is FaultKind.LIE:
            verdict = Verdict.CLEAN
        return Assessment(
            verdict,
            str(len(ours)),
            "" if theirs is None else str(len(theirs)),
            ",".join(identity for identity in ours if identity not in (theirs or ours)),
            f"the writes of {active.site} cannot be read" if theirs is None else "",
        )

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Copies what is missing, or archives everything and copies it all."""
        component = self._capable(spec, Capability.RESYNC, "Resync")
        if await self._play(spec, "Resync") is FaultKind.LIE:
            return Resynced(Progress.done("resynced (a lie)"))
        if component.role is Role.ACTIVE:
            raise NotActiveError(f"{spec.key} is the active and has nothing to resync from; fence it first")
        theirs = peer_writes(active)
        if theirs is None:
            return Resynced(Progress.pending(f"waiting for the writes of {active.site}", 200))
        diverged = component.verdict(theirs) is Verdict.DIVERGED
        if diverged and strategy is ResyncStrategy.FOLLOW:
            raise NeedsResyncError(f"{spec.key} has diverged from {active.site}: call Resync with REBUILD")
        if diverged or strategy is ResyncStrategy.REBUILD:
            archive = component.rebuild(theirs)
            return Resynced(Progress.done("rebuilt"), str(archive or ""))
        component.active = active
        component.follow()
        return Resynced(Progress.done("caught up"))

    async def status(self, spec: Spec) -> Status:
        """What is so now; then what the control file pretends."""
        component = self.component(spec)
        kind = await self._play(spec, "Status")
        following = component.role is Role.STANDBY and component.follow()
        in_force = component.synchronous_set if component.role is Role.ACTIVE else frozenset()
        status = Status(
            role=component.role,
            health=Health.HEALTHY,
            accepting=component.accepting,
            position=str(len(component.writes)),
            lag_seconds=0.0 if following else -1.0,
            lag_transactions=0 if following else -1,
            promotable=following,
            promotable_reason="" if following else "it follows no active",
            synchronous_set=in_force,
            followers=tuple(Follower(site, True, True) for site in sorted(in_force - {spec.key.site})),
        )
        if kind is FaultKind.NONSENSE:
            return dataclasses.replace(status, role=cast(Role, _NONSENSE), health=cast(Health, _NONSENSE))
        return _pretend(status, self._control(component).get("status", {}))

    async def _play(self, spec: Spec, call: str) -> FaultKind | None:
        component = self.component(spec)
        faults = dict(component.parameters.faults)
        problems: list[FieldProblem] = []
        faults.update(parse_faults(self._control(component).get("faults", {}), problems))
        if problems:
            raise InvalidParametersError(problems, str(component.parameters.control_file))
        return await self._faults.play(spec.key, call, faults.get(call))

    def _control(self, component: Component) -> dict[str, Any]:
        path = component.parameters.control_file
        if path is None:
            return {}
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DriverError(f"the control file {path} is no JSON object: {error}") from error

    def _can(self, component: Component, capability: Capability) -> bool:
        return capability in self._capabilities & component.parameters.capabilities

    def _capable(self, spec: Spec, capability: Capability, call: str) -> Component:
        component = self.component(spec)
        if not self._can(component, capability):
            raise UnsupportedError(f"{call} is not supported by {spec.key}: its parameters leave out {capability.name}")
        return component

    def _active(self, spec: Spec, call: str) -> Component:
        component = self._capable(spec, Capability.POSITION, call)
        if component.role is not Role.ACTIVE:
            raise NotActiveError(f"{call} of {spec.key} is refused: it is {component.role.name}, not ACTIVE")
        return component

    async def _tick(self) -> None:
        """A gate shuts, a control file changes, an active writes: nobody calls, so this looks and notifies."""
        seen: dict[ComponentKey, object] = {}
        while True:
            for key, component in list(self._components.items()):
                if component.role is Role.STANDBY:
                    component.follow()
                component.serve_clients()
                now = (component.accepting, len(component.writes), _changed_at(component.parameters))
                if seen.get(key, now) != now:
                    self.notify(key)
                seen[key] = now
            await asyncio.sleep(_POLL_S)


def _changed_at(parameters: Parameters) -> int:
    path = parameters.control_file
    try:
        return 0 if path is None else path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _pretend(status: Status, facts: dict[str, Any]) -> Status:
    """The status with facts of the control file instead of the observed ones; enums by name."""
    read: dict[str, Callable[[Any], Any]] = {
        "role": lambda name: Role[name],
        "health": lambda name: Health[name],
        "synchronous_set": frozenset,
        "followers": lambda followers: tuple(Follower(**follower) for follower in followers),
    }
    try:
        changes: dict[str, Any] = {name: read.get(name, lambda as_is: as_is)(value) for name, value in facts.items()}
        return dataclasses.replace(status, **changes)
    except (KeyError, TypeError) as error:
        raise DriverError(f"the control file pretends what no status has: {error!r}; see Status in the SDK") from error


def _from_environment() -> frozenset[Capability]:
    text = os.environ.get(CAPABILITIES_VARIABLE)
    problems: list[FieldProblem] = []
    names = None if text is None else [name.strip() for name in text.split(",") if name.strip()]
    capabilities = parse_capabilities(names, problems)
    if problems:
        raise DriverError(f"{CAPABILITIES_VARIABLE}: {problems[0].cause}; give {problems[0].fix}, comma separated")
    return capabilities
