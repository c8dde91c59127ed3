"""Broken variants of the fake driver: each breaks one thing, and names the check that must find it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet
from graf_driver_fake.backend import Component, peer_writes
from graf_driver_fake.driver import FakeDriver
from graf_driver_sdk import convert
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import PreconditionError, StaleEpochError, UnsupportedError
from graf_driver_sdk.lanes import Lane, Lanes
from graf_driver_sdk.server import ComponentService, DriverServer, Limits
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
    Readiness,
    RenewLease,
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
    Verdict,
)
from graf_driver_sdk.v1 import driver_pb2 as pb

LIMITS = Limits(refresh_s=0.5, patience_s=0.5, grace_s=0.1)


@dataclass(frozen=True)
class Variant:
    """What is broken, and the id of the check that must fail."""

    name: str
    check: str
    driver: Callable[[], FakeDriver] = FakeDriver
    guard: Callable[[Path], EpochGuard] = EpochGuard
    tweak: Callable[[DriverServer], None] = lambda server: None
    patches: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = LIMITS
    parameters: Mapping[str, Any] = field(default_factory=dict)


VARIANTS: list[Variant] = []


def add(name: str, check: str, **how: Any) -> None:
    VARIANTS.append(Variant(name, check, **how))


def with_methods(**methods: Any) -> Callable[[], FakeDriver]:
    """The fake with other methods."""
    return type("Broken", (FakeDriver,), methods)


def changed_info(**changes: Any) -> Callable[[], FakeDriver]:
    def info(self: FakeDriver) -> Info:
        return dataclasses.replace(FakeDriver.info(self), **changes)

    return with_methods(info=info)


def changed_status(change: Callable[[Status], Mapping[str, Any]]) -> Callable[[], FakeDriver]:
    async def status(self: FakeDriver, spec: Spec) -> Status:
        seen = await FakeDriver.status(self, spec)
        return dataclasses.replace(seen, **change(seen))

    return with_methods(status=status)


def lying_role(role: Role, otherwise: Role | None = None) -> Callable[[], FakeDriver]:
    """Claims to have given the role, and gives none or another one."""

    async def ensure_role(self: FakeDriver, request: EnsureRole) -> Progress:
        if request.role is not role:
            return await FakeDriver.ensure_role(self, request)
        if otherwise is not None:
            await FakeDriver.ensure_role(self, dataclasses.replace(request, role=otherwise))
        return Progress.done("a lie")

    return with_methods(ensure_role=ensure_role)


def before_role(do: Callable[[Component, EnsureRole], None]) -> Callable[[], FakeDriver]:
    async def ensure_role(self: FakeDriver, request: EnsureRole) -> Progress:
        do(self.component(request.spec), request)
        return await FakeDriver.ensure_role(self, request)

    return with_methods(ensure_role=ensure_role)


def answering(method: str, answer: Any) -> Callable[[], FakeDriver]:
    """A method that always gives the same."""

    async def body(self: FakeDriver, *arguments: Any) -> Any:
        return answer

    return with_methods(**{method: body})


# --- identity


class Counting(FakeDriver):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def info(self) -> Info:
        self.asked += 1
        return dataclasses.replace(super().info(), vendor_version=f"0.{self.asked}")


class Undeclared(FakeDriver):
    def info(self) -> Info:
        return dataclasses.replace(super().info(), capabilities=frozenset({Capability.GATE, Capability.RESYNC}))


def no_capability_check(server: DriverServer) -> None:
    server._component._require = lambda capability, call: None  # type: ignore[method-assign]


async def unsupported(self: FakeDriver, *arguments: Any) -> Any:
    raise UnsupportedError("not written yet")


add("a name that is no DNS name", "identity-name", driver=changed_info(name="Fake Driver"))
add("no version", "identity-name", driver=changed_info(vendor_version=""))
add("an info that changes", "identity-constant", driver=Counting)
add("no contract version", "identity-contract-version", driver=changed_info(contract_versions=("v0",)))
add("capability 0", "identity-capabilities", driver=changed_info(capabilities=frozenset(Capability)))
add("never ready, without a word", "identity-probe", driver=answering("probe", Readiness(False)))
add("an undeclared Quiesce is served", "identity-undeclared-quiesce", driver=Undeclared, tweak=no_capability_check)
add("a declared Quiesce is not served", "identity-declared-quiesce", driver=with_methods(quiesce=unsupported))
add("a declared Resync is not served", "identity-declared-resync", driver=with_methods(resync=unsupported))

# --- validate


def changed_problems(change: Callable[[Sequence[FieldProblem]], Sequence[FieldProblem]]) -> Callable[[], FakeDriver]:
    async def validate(self: FakeDriver, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        return change(await FakeDriver.validate(self, spec, peers))

    return with_methods(validate=validate)


async def fencing_validate(self: FakeDriver, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
    with contextlib.suppress(Exception):
        self.component(spec).role = Role.FENCED
    return await FakeDriver.validate(self, spec, peers)


def unchecked_names(server: DriverServer) -> None:
    component = server._component
    component._spec = lambda message: convert.spec_from_pb(message)  # type: ignore[method-assign]


def careless_component(self: FakeDriver, spec: Spec) -> Component:
    if spec.parameters.get("promoteMs") == "soon":
        raise KeyError("promoteMs")
    return FakeDriver.component(self, spec)


def nagging(problems: Sequence[FieldProblem]) -> Sequence[FieldProblem]:
    return [*problems, FieldProblem("x", "y", "z")]


add("good parameters are refused", "validate-good", driver=changed_problems(nagging))
add("only the first problem", "validate-all-at-once", driver=changed_problems(lambda found: found[:1]))
add(
    "problems without a fix",
    "validate-cause-and-fix",
    driver=changed_problems(lambda found: [dataclasses.replace(one, fix="") for one in found]),
)
add(
    "problems of another field",
    "validate-names-field",
    driver=changed_problems(lambda found: [dataclasses.replace(one, field="spec") for one in found]),
)
add("Validate fences", "validate-changes-nothing", driver=with_methods(validate=fencing_validate))
add("names are not looked at", "validate-bad-name-get-status", tweak=unchecked_names)
add("bad parameters crash", "validate-bad-parameters-ensure-role", driver=with_methods(component=careless_component))

# --- roles


async def toggling(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self.component(request.spec)
    if component.role is request.role is Role.ACTIVE:
        component.role = Role.FENCED
        return Progress.done("shut again")
    return await FakeDriver.ensure_role(self, request)


async def stuck_when_quiesced(self: FakeDriver, request: EnsureRole) -> Progress:
    if self.component(request.spec).quiesced and request.role is Role.FENCED:
        raise PreconditionError("it is quiesced; call Unquiesce first")
    return await FakeDriver.ensure_role(self, request)


async def early(self: FakeDriver, request: EnsureRole) -> Progress:
    await FakeDriver.ensure_role(self, request)
    return Progress.done("begun")


async def wordless(self: FakeDriver, request: EnsureRole) -> Progress:
    return dataclasses.replace(await FakeDriver.ensure_role(self, request), message="")


async def in_the_background(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self.component(request.spec)
    if request.role is Role.ACTIVE and component.role is not Role.ACTIVE:

        def later() -> None:
            component.role, component.lease_deadline_ns = Role.ACTIVE, request.lease_deadline_ns

        asyncio.get_running_loop().call_later(0.35, later)
        return Progress.pending("promoting", 50)
    return await FakeDriver.ensure_role(self, request)


async def stubborn_set(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self.component(request.spec)
    before, was = component.synchronous_set, component.role
    progress = await FakeDriver.ensure_role(self, request)
    if was is Role.ACTIVE:
        component.synchronous_set = before
    return progress


def always_writes(self: Component, identity: str) -> bool:
    self._store([*self.writes, identity])
    return True


def writes_when_quiesced(self: Component, identity: str) -> bool:
    if self.role is Role.ACTIVE:
        self._store([*self.writes, identity])
    return self.role is Role.ACTIVE


def forgets(component: Component, request: EnsureRole) -> None:
    if request.role is Role.FENCED:
        component._store([])


def forgetful_component(self: FakeDriver, spec: Spec) -> Component:
    fresh = spec.key not in self._components
    component = FakeDriver.component(self, spec)
    if fresh:
        component._store([])
    return component


def lenient_role(role: Role, request: Any) -> None:
    """No check of the arguments."""


add("ACTIVE again demotes", "role-ten-times-active", driver=with_methods(ensure_role=toggling))
add("FENCED is only claimed", "role-active-to-fenced", driver=lying_role(Role.FENCED))
add("INVALIDATED is only claimed", "role-active-to-invalidated", driver=lying_role(Role.INVALIDATED))
add("STANDBY is only claimed", "role-active-to-standby", driver=lying_role(Role.STANDBY))
add("ACTIVE is only claimed", "role-fenced-to-active", driver=lying_role(Role.ACTIVE))
add("INVALIDATED is FENCED", "role-fenced-to-invalidated", driver=lying_role(Role.INVALIDATED, Role.FENCED))
add("a quiesced one cannot be fenced", "role-quiesced-to-fenced", driver=with_methods(ensure_role=stuck_when_quiesced))
add(
    "completed as soon as begun",
    "role-completed-means-observed",
    driver=with_methods(ensure_role=early),
    parameters={"promoteMs": 300},
)
add("pending without a word", "role-progress", driver=with_methods(ensure_role=wordless), parameters={"promoteMs": 100})
add(
    "a role that nobody knows is FENCED",
    "role-unspecified",
    patches={"graf_driver_sdk.server._check_role": lenient_role},
)
add("a set with any role", "role-set-without-active", patches={"graf_driver_sdk.server._check_role": lenient_role})
add("the set is not told", "role-set-in-force", driver=changed_status(lambda seen: {"synchronous_set": frozenset()}))
add("the first set stays", "role-set-replaced", driver=with_methods(ensure_role=stubborn_set))
add(
    "a fenced one tells a set",
    "role-set-not-for-others",
    driver=changed_status(lambda seen: {"synchronous_set": frozenset({"east"})}),
)
add(
    "a promotion goes on after FENCED",
    "role-fenced-after-begun-active",
    driver=with_methods(ensure_role=in_the_background),
)
add(
    "the active refuses clients",
    "role-active-accepts-write",
    patches={"graf_driver_fake.backend.Component.write": lambda self, identity: False},
)
add(
    "a fenced one serves clients",
    "role-fenced-refuses-write",
    patches={"graf_driver_fake.backend.Component.write": always_writes},
)
add(
    "a standby serves clients",
    "role-standby-refuses-write",
    patches={"graf_driver_fake.backend.Component.write": always_writes},
)
add(
    "a quiesced one serves clients",
    "position-no-write-after-quiesce",
    patches={"graf_driver_fake.backend.Component.write": writes_when_quiesced},
)
add("FENCED loses writes", "role-write-survives-fencing", driver=before_role(forgets))
add("a restart loses writes", "role-write-survives-restart", driver=with_methods(component=forgetful_component))

# --- epochs


class NoGuard(EpochGuard):
    """Lets everything pass."""

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        return


class MemoryGuard(EpochGuard):
    """Forgets with the process."""

    def _store(self, group: str, component: str, epoch: int) -> None:
        return


class SharedGuard(EpochGuard):
    """One epoch for all components of a group."""

    def admit(self, group: str, component: str, epoch: int) -> None:
        super().admit(group, "all", epoch)

    def highest(self, group: str, component: str) -> int:
        return super().highest(group, "all")

    def known(self, group: str, component: str) -> int | None:
        return super().known(group, "all")


class FloatGuard(EpochGuard):
    """Keeps epochs as a double does."""

    def admit(self, group: str, component: str, epoch: int) -> None:
        super().admit(group, component, int(float(epoch)))


class SilentGuard(EpochGuard):
    """Tells no epoch."""

    def highest(self, group: str, component: str) -> int:
        return 0


class WordlessGuard(EpochGuard):
    """Refuses without saying why to machines."""

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        try:
            super()._compare(group, component, epoch, highest)
        except StaleEpochError as error:
            raise PreconditionError(str(error)) from error


class PickyGuard(EpochGuard):
    """Refuses an epoch that it has seen already."""

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        super()._compare(group, component, epoch - 1, highest)

    def known(self, group: str, component: str) -> int | None:
        return None


def unguarded(call: str) -> Callable[[DriverServer], None]:
    """One call whose epoch nobody compares."""

    def tweak(server: DriverServer) -> None:
        service = server._component
        admit = service._admit

        async def sloppy(key: Any, epoch: int) -> None:
            held = {name for name, _ in service._lanes._held.values()}
            if call not in held:
                await admit(key, epoch)

        service._admit = sloppy  # type: ignore[method-assign]

    return tweak


def validate_admits(server: DriverServer) -> None:
    driver, guard = server._driver, server._component._guard
    validate = driver.validate

    async def raising(spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        key = spec.key
        guard.admit(key.group, key.component, guard.highest(key.group, key.component) + 1)
        return await validate(spec, peers)

    driver.validate = raising  # type: ignore[method-assign]


add(
    "a call without an epoch",
    "epoch-zero-quiesce",
    guard=NoGuard,
    patches={"graf_driver_sdk.server._check_epoch_given": lenient_role},
)
add("stale epochs pass", "epoch-stale-ensure-role", guard=NoGuard)
add("epochs die with the process", "epoch-stale-ensure-role-after-kill", guard=MemoryGuard)
add("epochs die when stopped", "epoch-in-status-after-stop", guard=MemoryGuard)
add("the epoch is durable too late", "epoch-durable-before-effect", guard=MemoryGuard)
for _call, _check in (
    ("Quiesce", "epoch-stale-quiesce"),
    ("Unquiesce", "epoch-stale-unquiesce"),
    ("RenewLease", "epoch-stale-renew-lease"),
    ("Resync", "epoch-stale-resync"),
):
    add(f"{_call} takes any epoch", _check, tweak=unguarded(_call))
add("the status tells no epoch", "epoch-in-status", guard=SilentGuard)
add("epochs of 53 bits", "epoch-64-bits", guard=FloatGuard)
add("one epoch for all components", "epoch-per-component", guard=SharedGuard)
add("a refusal without its reason", "epoch-refusal-tells-highest", guard=WordlessGuard)
add("the same epoch is stale", "epoch-same-again", guard=PickyGuard)
add("Validate raises the epoch", "epoch-reads-do-not-raise", tweak=validate_admits)

# --- status and watch


async def writing_status(self: FakeDriver, spec: Spec) -> Status:
    component = self.component(spec)
    component._store([*component.writes, "read"])
    return await FakeDriver.status(self, spec)


class OneReader(FakeDriver):
    """Fails when it is asked twice at once."""

    reading = False

    async def status(self, spec: Spec) -> Status:
        if self.reading:
            raise RuntimeError("busy")
        self.reading = True
        try:
            await asyncio.sleep(0.01)
            return await super().status(spec)
        finally:
            self.reading = False


class Echo(FakeDriver):
    """Tells the role that was asked for last."""

    asked = Role.FENCED

    async def ensure_role(self, request: EnsureRole) -> Progress:
        self.asked = request.role
        return await super().ensure_role(request)

    async def status(self, spec: Spec) -> Status:
        seen = await super().status(spec)
        return dataclasses.replace(seen, role=self.asked, accepting=self.asked is Role.ACTIVE)


class Deaf(FakeDriver):
    """Tells no change."""

    def notify(self, key: Any) -> None:
        return


def first_is_old(server: DriverServer) -> None:
    """A watch begins with what was so at the first one."""
    watcher = server._component._watcher
    statuses = watcher.statuses
    kept: list[Status] = []

    async def stale(spec: Spec) -> Any:
        async for status in statuses(spec):
            kept.append(status)
            yield kept[0] if len(kept) > 1 else dataclasses.replace(status, role=Role.FENCED)

    watcher.statuses = stale  # type: ignore[method-assign]


add("wall clock", "status-time", driver=changed_status(lambda seen: {"observed_at_ns": time.time_ns()}))
_STARTED_NS = time.monotonic_ns()
add(
    "a time that stands still", "status-time-rises", driver=changed_status(lambda seen: {"observed_at_ns": _STARTED_NS})
)
add("accepts as standby", "status-accepting-standby", driver=changed_status(lambda seen: {"accepting": True}))
add("accepts when fenced", "status-accepting-fenced", driver=changed_status(lambda seen: {"accepting": True}))
add("reading writes", "status-changes-nothing", driver=with_methods(status=writing_status))
add("one reader at a time", "status-in-another-call", driver=OneReader)
add("no health", "status-enums", driver=changed_status(lambda seen: {"health": Health.UNSPECIFIED}))
add("never healthy", "status-healthy-active", driver=changed_status(lambda seen: {"health": Health.INITIALISING}))
add("a lag that is no number", "status-lag", driver=changed_status(lambda seen: {"lag_seconds": float("nan")}))
add("always promotable", "resync-wiped-not-promotable", driver=changed_status(lambda seen: {"promotable": True}))
add("never promotable", "status-promotable-follower", driver=changed_status(lambda seen: {"promotable": False}))
add("no reason", "status-promotable-reason", driver=changed_status(lambda seen: {"promotable_reason": ""}))
add("no followers", "status-followers", driver=changed_status(lambda seen: {"followers": ()}))
add("a position that stands still", "status-position-after-write", driver=changed_status(lambda s: {"position": "0"}))
add(
    "an echo of the request",
    "role-active-accepts-write",
    driver=Echo,
    patches={"graf_driver_fake.driver.FakeDriver._promote": lambda *arguments: Progress.done("a lie")},
)
add("an echo after the lease", "status-ended-lease-shows", driver=Echo)
add("a watch begins with the past", "watch-present-active", tweak=first_is_old)
add("a watch after a loss begins with the past", "watch-reconnect", tweak=first_is_old)
add("changes are not told", "watch-change-active", driver=Deaf, limits=Limits(refresh_s=60, grace_s=0.1))
add("the end of a lease is not told", "watch-ended-lease", driver=Deaf, limits=Limits(refresh_s=60, grace_s=0.1))
add("no sign of life", "watch-sign-of-life", limits=Limits(refresh_s=60, grace_s=0.1))

# --- gate


def renewing(do: Callable[[Component, RenewLease], bool]) -> Callable[[], FakeDriver]:
    async def renew_lease(self: FakeDriver, request: RenewLease) -> bool:
        return do(self.component(request.spec), request)

    return with_methods(renew_lease=renew_lease)


def reopening(component: Component, request: RenewLease) -> bool:
    component.lease_deadline_ns = request.lease_deadline_ns
    return True


def promoting(component: Component, request: RenewLease) -> bool:
    component.role = Role.ACTIVE
    return reopening(component, request)


def lenient_lease(call: str, key: Any, deadline_ns: int) -> None:
    """Any deadline will do."""


def timeless(self: Component) -> bool:
    return self.role is Role.ACTIVE and not self.quiesced


class OneLane(Lanes):
    """Renewals wait in the lane of the changes."""

    @contextlib.contextmanager
    def hold(self, key: Any, lane: Lane, call: str) -> Iterator[None]:
        with super().hold(key, Lane.CHANGE, call):
            yield


def one_lane(server: DriverServer) -> None:
    server._component._lanes = OneLane()


async def slow_role(self: FakeDriver, request: EnsureRole) -> Progress:
    await asyncio.sleep(0.3)
    return await FakeDriver.ensure_role(self, request)


class Reviving(FakeDriver):
    """Takes up after a restart what it was before, whatever has happened since."""

    def component(self, spec: Spec) -> Component:
        fresh = spec.key not in self._components
        component = super().component(spec)
        if fresh:
            component.role, component.lease_deadline_ns = Role.ACTIVE, time.monotonic_ns() + 50_000_000_000
        return component


add("a renewal opens", "gate-shut-stays-shut", driver=renewing(reopening))
add("a renewal promotes", "gate-renew-fenced", driver=renewing(promoting))
add("a renewal does nothing", "gate-renew-keeps-open", driver=renewing(lambda component, request: True))
add("a renewal says shut", "gate-renew-ten-times", driver=renewing(lambda component, request: False))
add("any deadline", "gate-past-deadline-renew", patches={"graf_driver_sdk.server._check_lease": lenient_lease})
add("a lease of a day", "gate-distant-deadline-renew", patches={"graf_driver_sdk.server._check_lease": lenient_lease})
add("a lease of 0", "gate-missing-deadline-ensure-role", patches={"graf_driver_sdk.server._check_lease": lenient_lease})
add(
    "the gate has no end",
    "gate-shuts-by-itself",
    patches={"graf_driver_fake.backend.Component.accepting": property(timeless)},
)
add(
    "a renewal waits",
    "gate-renew-beside-change",
    driver=with_methods(ensure_role=slow_role),
    tweak=one_lane,
)
add("a restart opens the gate", "gate-killed-driver-shuts", driver=Reviving)
add("a restart revives a fenced one", "crash-fenced-stays-shut-after-kill", driver=Reviving)
add("it accepts before any role", "status-before-any-role", driver=Reviving)

# --- position


class Numbering(FakeDriver):
    number = 0

    async def quiesce(self, spec: Spec, epoch: int) -> Quiesced:
        await super().quiesce(spec, epoch)
        self.number += 1
        return Quiesced(Progress.done(), str(self.number))


async def sloppy_quiesce(self: FakeDriver, spec: Spec, epoch: int) -> Quiesced:
    return Quiesced(Progress.done(), str(len(self.component(spec).writes)))


async def old_position(self: FakeDriver, spec: Spec, epoch: int) -> Quiesced:
    await FakeDriver.quiesce(self, spec, epoch)
    return Quiesced(Progress.done(), "0")


async def anything_goes(self: FakeDriver, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
    here = len(self.component(spec).writes)
    return PositionReached(position.isdecimal() and here >= int(position), str(here), "")


async def moving_await(self: FakeDriver, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
    component = self.component(spec)
    component._store([*component.writes, "moved"])
    return await FakeDriver.await_position(self, spec, position, timeout_ms)


add("Quiesce stops nothing", "position-quiesce-stops", driver=with_methods(quiesce=sloppy_quiesce))
add("Quiesce anywhere", "position-quiesce-fenced", driver=with_methods(quiesce=sloppy_quiesce))
add("a position each time", "position-quiesce-ten-times", driver=Numbering)
add("no position", "position-quiesce-stops", driver=answering("quiesce", Quiesced(Progress.done(), "")))
add("a position from before", "position-write-moves", driver=with_methods(quiesce=old_position))
add("Unquiesce does nothing", "position-unquiesce", driver=answering("unquiesce", Progress.done()))
add("Unquiesce anywhere", "position-unquiesce-fenced", driver=answering("unquiesce", Progress.done()))
add("always reached", "position-not-yet", driver=answering("await_position", PositionReached(True, "9")))
add("never reached", "position-own-is-reached", driver=answering("await_position", PositionReached(False, "0", "no")))
add("any text is a position", "position-nonsense", driver=with_methods(await_position=anything_goes))
add("waiting moves", "position-await-changes-nothing", driver=with_methods(await_position=moving_await))

# --- resync


def assessing(verdict: Verdict, divergent: str = "") -> Callable[[], FakeDriver]:
    return answering("assess", Assessment(verdict, divergent=divergent))


async def by_length(self: FakeDriver, spec: Spec, active: Peer) -> Assessment:
    ours, theirs = self.component(spec).writes, peer_writes(active) or []
    return Assessment(Verdict.CLEAN if len(ours) >= len(theirs) else Verdict.BEHIND)


async def following_assess(self: FakeDriver, spec: Spec, active: Peer) -> Assessment:
    answer = await FakeDriver.assess(self, spec, active)
    self.component(spec).rebuild(peer_writes(active) or [])
    return answer


async def nameless(self: FakeDriver, spec: Spec, active: Peer) -> Assessment:
    return dataclasses.replace(await FakeDriver.assess(self, spec, active), divergent="")


def resyncing(archive: bool, claims: bool = False) -> Callable[[], FakeDriver]:
    async def resync(self: FakeDriver, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        if not claims:
            self.component(spec)._store(peer_writes(active) or [])
        return Resynced(Progress.done(), "/archive" if archive else "")

    return with_methods(resync=resync)


async def discarding(self: FakeDriver, request: EnsureRole) -> Progress:
    if request.role is Role.STANDBY and request.active_peer is not None:
        self.component(request.spec)._store(peer_writes(request.active_peer) or [])
    return await FakeDriver.ensure_role(self, request)


def lenient_member(kind: Any, number: int, name: str) -> Any:
    try:
        return kind(number)
    except ValueError:
        return kind(0)


add("always CLEAN", "resync-verdict-diverged", driver=assessing(Verdict.CLEAN))
add("lengths instead of histories", "resync-verdict-ahead", driver=with_methods(assess=by_length))
add("always DIVERGED", "resync-verdict-clean", driver=assessing(Verdict.DIVERGED, "x"))
add("never BEHIND", "resync-verdict-behind", driver=assessing(Verdict.CLEAN))
add("EMPTY is BEHIND", "resync-verdict-empty", driver=assessing(Verdict.BEHIND))
add("unreadable is CLEAN", "resync-verdict-unknown", driver=assessing(Verdict.CLEAN))
add("Assess repairs", "resync-assess-ten-times", driver=with_methods(assess=following_assess))
add("Assess removes what diverged", "resync-assess-keeps-divergent", driver=with_methods(assess=following_assess))
add("divergence without its name", "resync-names-divergent", driver=with_methods(assess=nameless))
add("a resync that is only claimed", "resync-catches-up", driver=resyncing(True, claims=True))
add("a rebuild that is only claimed", "resync-rebuilds", driver=resyncing(True, claims=True))
add("nothing is archived", "resync-archives", driver=resyncing(False))
add("nothing is archived by its own choice", "resync-driver-chooses", driver=resyncing(False))
add("the active is resynced", "resync-refused-by-active", driver=resyncing(True))
add("FOLLOW discards", "resync-follow-of-diverged", driver=resyncing(True))
add("STANDBY discards", "resync-diverged-does-not-follow", driver=with_methods(ensure_role=discarding))
add(
    "any strategy",
    "resync-unknown-strategy",
    patches={"graf_driver_sdk.server._member": lenient_member},
)

# --- calls, secrets


class LeakingLanes(Lanes):
    """A call that is cut short keeps its lane."""

    @contextlib.contextmanager
    def hold(self, key: Any, lane: Lane, call: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().hold(key, lane, call))
            try:
                yield
            except asyncio.CancelledError:
                _KEPT.append(stack.pop_all())
                raise


_KEPT: list[contextlib.ExitStack] = []


def leaking(server: DriverServer) -> None:
    server._component._lanes = LeakingLanes()


def wordless_errors(server: DriverServer) -> None:
    server._driver.redactor.clean = lambda text: ""  # type: ignore[method-assign]


def telling(server: DriverServer) -> None:
    server._driver.redactor.clean = lambda text: text  # type: ignore[method-assign]


async def told_status(self: FakeDriver, spec: Spec) -> Status:
    seen = await FakeDriver.status(self, spec)
    return dataclasses.replace(seen, message=f"parameters {dict(spec.parameters)}")


async def waiting_role(self: FakeDriver, request: EnsureRole) -> Progress:
    await asyncio.sleep(0.3)
    return await FakeDriver.ensure_role(self, request)


add(
    "a call that is cancelled blocks the next",
    "call-cancel-ensure-role",
    driver=with_methods(ensure_role=waiting_role),
    tweak=leaking,
)
add("errors without words", "call-errors-have-words", tweak=wordless_errors)
add("a secret in a problem", "secret-in-problems", tweak=telling)
add("a secret in the status", "secret-in-status", driver=with_methods(status=told_status), tweak=telling)

# --- what was only found by looking for it: each of these once passed the whole kit


async def late_write(self: FakeDriver, spec: Spec, epoch: int) -> Quiesced:
    """A write was in flight, and ends after the position was given."""
    component = self.component(spec)
    fresh = not component.quiesced
    answer = await FakeDriver.quiesce(self, spec, epoch)
    if fresh:
        asyncio.get_running_loop().call_later(0.15, lambda: component._store([*component.writes, "late"]))
    return answer


async def impatient(self: FakeDriver, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
    here = len(self.component(spec).writes)
    return PositionReached(here >= int(position), str(here), "not here yet")


async def only_when_asked(self: FakeDriver) -> None:
    """No look of its own: one between two calls would fetch what is to be waited for."""
    await asyncio.Event().wait()


def eight_statuses(then: Callable[[], Any]) -> Callable[[DriverServer], None]:
    """A watch tells eight of them."""

    def tweak(server: DriverServer) -> None:
        watcher = server._component._watcher
        statuses = watcher.statuses

        async def some(spec: Spec) -> Any:
            told = 0
            async for status in statuses(spec):
                if told == 8:
                    await then()
                    return
                told += 1
                yield status

        watcher.statuses = some  # type: ignore[method-assign]

    return tweak


async def at_once() -> None:
    """The end comes now."""


async def never() -> None:
    await asyncio.Event().wait()


async def shielded(self: FakeDriver, request: EnsureRole) -> Progress:
    """The work goes on when its caller has gone."""

    async def work() -> Progress:
        if request.role is Role.ACTIVE:
            await asyncio.sleep(0.1)
        return await FakeDriver.ensure_role(self, request)

    return await asyncio.shield(asyncio.ensure_future(work()))


class NoLanes(Lanes):
    """Changes of one component run beside each other."""

    @contextlib.contextmanager
    def hold(self, key: Any, lane: Lane, call: str) -> Iterator[None]:
        yield


def no_lanes(server: DriverServer) -> None:
    server._component._lanes = NoLanes()


async def slow_active(self: FakeDriver, request: EnsureRole) -> Progress:
    if request.role is Role.ACTIVE:
        await asyncio.sleep(0.3)
    return await FakeDriver.ensure_role(self, request)


async def empty_archive(self: FakeDriver, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
    """Names an archive and throws the data away."""
    component, theirs = self.component(spec), peer_writes(active)
    if theirs is None or component.role is Role.ACTIVE or strategy is not ResyncStrategy.REBUILD:
        return await FakeDriver.resync(self, spec, active, strategy, epoch)
    component._store(theirs)
    return Resynced(Progress.done("rebuilt"), "/var/lib/archive/1.json")


def telling_watch(server: DriverServer) -> None:
    """A watch tells the parameters; a status does not."""
    watcher = server._component._watcher
    statuses = watcher.statuses

    async def telling_statuses(spec: Spec) -> Any:
        async for status in statuses(spec):
            yield dataclasses.replace(status, facts={"source": f"fake:{spec.parameters.get('password')}@east"})

    watcher.statuses = telling_statuses  # type: ignore[method-assign]


async def basic_authentication(self: FakeDriver, spec: Spec) -> Status:
    seen = await FakeDriver.status(self, spec)
    credentials = base64.b64encode(f"root:{spec.parameters.get('password')}".encode()).decode()
    return dataclasses.replace(seen, facts={"authorization": f"Basic {credentials}"})


def compared_only(call: str) -> Callable[[DriverServer], None]:
    """One call refuses older epochs, and does not keep a newer one."""

    def tweak(server: DriverServer) -> None:
        service = server._component
        admit, guard = service._admit, service._guard

        async def sloppy(key: Any, epoch: int) -> None:
            held = {name for name, _ in service._lanes._held.values()}
            if call not in held or epoch < guard.highest(key.group, key.component):
                await admit(key, epoch)

        service._admit = sloppy  # type: ignore[method-assign]

    return tweak


class NameGuard(EpochGuard):
    """One epoch for all components of a name, whatever their group."""

    def admit(self, group: str, component: str, epoch: int) -> None:
        super().admit("all", component, epoch)

    def highest(self, group: str, component: str) -> int:
        return super().highest("all", component)

    def known(self, group: str, component: str) -> int | None:
        return super().known("all", component)


class Resuming(FakeDriver):
    """Goes on after a restart as the active that it was, and forgets that it was quiesced."""

    def component(self, spec: Spec) -> Component:
        fresh = spec.key not in self._components
        component = super().component(spec)
        mark = self.mark(component)
        if fresh and mark is not None and mark.exists():
            component.role, component.lease_deadline_ns = Role.ACTIVE, int(mark.read_text())
        return component

    async def ensure_role(self, request: EnsureRole) -> Progress:
        progress = await super().ensure_role(request)
        component = self.component(request.spec)
        mark = self.mark(component)
        if mark is not None and component.role is Role.ACTIVE:
            mark.write_text(str(component.lease_deadline_ns or 0))
        elif mark is not None:
            self.forget(mark)
        return progress

    def mark(self, component: Component) -> Path | None:
        folder = component.parameters.data_dir
        return None if folder is None else folder / "active"

    def forget(self, mark: Path) -> None:
        mark.unlink(missing_ok=True)


class LateFence(Resuming):
    """That it is active is durable at once, that it is not any more a little later."""

    late: asyncio.TimerHandle | None = None

    def forget(self, mark: Path) -> None:
        later = asyncio.get_running_loop().call_later
        self.late = later(5.0, lambda: mark.unlink(missing_ok=True))

    async def close(self) -> None:
        if self.late is not None:
            self.late.cancel()  # a kill
        await super().close()


def in_the_lane(call: str) -> Callable[[DriverServer], None]:
    """A call that changes nothing waits in the lane of the changes."""

    def tweak(server: DriverServer) -> None:
        method = getattr(server._driver, call)
        lanes = server._component._lanes

        async def held(spec: Spec, *arguments: Any) -> Any:
            with lanes.hold(spec.key, Lane.CHANGE, call):
                if call == "assess" and peer_writes(arguments[0]) is None:
                    await asyncio.sleep(20)
                return await method(spec, *arguments)

        setattr(server._driver, call, held)

    return tweak


class EarlyFence(FakeDriver):
    """Tells the role that it has begun to take; clients are cut off a little later."""

    begun: Role | None = None

    async def ensure_role(self, request: EnsureRole) -> Progress:
        component = self.component(request.spec)
        if request.role is Role.ACTIVE or component.role is not Role.ACTIVE:
            self.begun = None
            return await super().ensure_role(request)
        self.begun = request.role

        async def later() -> None:
            await asyncio.sleep(2.0)
            if self.begun is not None:
                await FakeDriver.ensure_role(self, request)

        self.later = asyncio.ensure_future(later())
        return Progress.done(request.role.name)

    async def status(self, spec: Spec) -> Status:
        seen = await super().status(spec)
        return seen if self.begun is None else dataclasses.replace(seen, role=self.begun, accepting=False)


async def unquiescing_renewal(self: FakeDriver, request: RenewLease) -> bool:
    self.component(request.spec).quiesced = False
    return await FakeDriver.renew_lease(self, request)


async def opening_unquiesce(self: FakeDriver, spec: Spec, epoch: int) -> Progress:
    self.component(spec).lease_deadline_ns = time.monotonic_ns() + 50_000_000_000
    return await FakeDriver.unquiesce(self, spec, epoch)


async def first_lease(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self.component(request.spec)
    before = component.lease_deadline_ns if component.accepting else None
    progress = await FakeDriver.ensure_role(self, request)
    if before is not None and request.role is Role.ACTIVE:
        component.lease_deadline_ns = before
    return progress


def shut_takes_any_epoch(server: DriverServer) -> None:
    """What looks harmless, FENCED of a fenced one, is answered whatever its epoch."""
    service = server._component
    admit, guard = service._admit, service._guard

    async def sloppy(key: Any, epoch: int) -> None:
        driver = server._driver
        assert isinstance(driver, FakeDriver)
        component = driver._components.get(key)
        fenced = component is not None and component.role is Role.FENCED
        if not fenced or epoch >= guard.highest(key.group, key.component):
            await admit(key, epoch)

    service._admit = sloppy  # type: ignore[method-assign]


add("a write in flight ends after Quiesce", "position-quiesce-is-final", driver=with_methods(quiesce=late_write))
add(
    "AwaitPosition does not wait",
    "position-is-waited-for",
    driver=with_methods(await_position=impatient, _tick=only_when_asked),
    limits=dataclasses.replace(LIMITS, refresh_s=60.0),
)
add("a watch ends after eight statuses", "watch-goes-on", tweak=eight_statuses(at_once))
add("a watch says no more after eight statuses", "watch-goes-on", tweak=eight_statuses(never))
add(
    "a cancelled promotion goes on",
    "call-cancelled-active-opens-nothing-later",
    driver=with_methods(ensure_role=shielded),
)
add(
    "a promotion outlives its deadline",
    "call-late-active-opens-nothing-later",
    driver=with_methods(ensure_role=shielded),
)
add(
    "changes run beside each other",
    "call-fenced-beside-active-wins",
    driver=with_methods(ensure_role=slow_active),
    tweak=no_lanes,
)
add("an archive without anything in it", "resync-archive-holds", driver=with_methods(resync=empty_archive))
add("a secret in a watch", "secret-in-status", tweak=telling_watch)
add("a secret in base64", "secret-in-status", driver=with_methods(status=basic_authentication))
for _call, _check in (
    ("RenewLease", "epoch-raised-by-renew-lease"),
    ("Quiesce", "epoch-raised-by-quiesce"),
    ("Unquiesce", "epoch-raised-by-unquiesce"),
    ("Resync", "epoch-raised-by-resync"),
):
    add(f"{_call} forgets its epoch", _check, tweak=compared_only(_call))
add("one epoch for a name in all groups", "epoch-per-group", guard=NameGuard)
add("a restart ends Quiesce", "crash-quiesced-stays-shut-after-kill", driver=Resuming)
add("a fence is durable too late", "crash-fenced-stays-shut-after-kill", driver=LateFence)
add("a position is waited for in the lane", "position-waiting-beside-fencing", tweak=in_the_lane("await_position"))
add("a silent peer keeps FENCED waiting", "resync-unknown-beside-fencing", tweak=in_the_lane("assess"))
add(
    "a lag of 0 that nobody knows",
    "resync-behind-is-no-lag-of-0",
    driver=changed_status(lambda seen: {"lag_seconds": 0.0, "lag_transactions": 0}),
)
add("a lag below -1", "status-lag", driver=changed_status(lambda seen: {"lag_seconds": -5.0}))
add(
    "a health that nobody knows as standby",
    "status-enums",
    driver=changed_status(lambda seen: {"health": 99 if seen.role is Role.STANDBY else seen.health}),
)
add("a status of 2 MB", "call-answers-are-small", driver=changed_status(lambda seen: {"message": "x" * 2_000_000}))
add("FENCED is told before it is so", "role-fenced-refuses-write", driver=EarlyFence)
add("a renewal ends Quiesce", "position-renewal-keeps-quiesced", driver=with_methods(renew_lease=unquiescing_renewal))
add("Unquiesce opens a shut gate", "position-unquiesce-keeps-gate", driver=with_methods(unquiesce=opening_unquiesce))
add("ACTIVE again keeps the old lease", "gate-active-again-moves-lease", driver=with_methods(ensure_role=first_lease))
add("a fenced one takes any epoch", "epoch-stale-ensure-role", tweak=shut_takes_any_epoch)
add(
    "promotable without data when fenced",
    "resync-wiped-not-promotable",
    driver=changed_status(
        lambda seen: {"promotable": True, "promotable_reason": ""} if seen.role is Role.FENCED else {}
    ),
)

# --- one of each requirement that no variant above breaks


class ForgottenGuard(EpochGuard):
    """Takes no epoch again that it had seen before a restart."""

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        before = self.__dict__.setdefault("before", {}).setdefault((group, component), highest)
        super()._compare(group, component, epoch - 1 if epoch == before else epoch, highest)

    def known(self, group: str, component: str) -> int | None:
        return None


GET_STATUS = ComponentService.GetStatus


async def strict_status(self: ComponentService, request: pb.GetStatusRequest, context: Any) -> pb.ComponentStatus:
    if len(UnknownFieldSet(request)):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is a field that nobody knows")
    return await GET_STATUS(self, request, context)


def open_until_the_lease_ends(self: Component) -> bool:
    return (self.lease_deadline_ns or 0) > time.monotonic_ns() and not self.quiesced


async def own_notation(self: FakeDriver, spec: Spec, epoch: int) -> Quiesced:
    answer = await FakeDriver.quiesce(self, spec, epoch)
    return dataclasses.replace(answer, position=f"east:{answer.position}")


class OneResync(FakeDriver):
    """What is done is refused the second time."""

    done = 0

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        if self.done == epoch:
            raise PreconditionError("it was resynced in this epoch already")
        self.done = epoch
        return await super().resync(spec, active, strategy, epoch)


def newest_watch_only(server: DriverServer) -> None:
    """A watch is told of changes until the next one begins."""
    watcher = server._component._watcher
    statuses = watcher.statuses
    begun: list[object] = []

    async def mine(spec: Spec) -> Any:
        own = object()
        begun.append(own)
        first = True
        async for status in statuses(spec):
            if first or begun[-1] is own:
                yield status
            first = False

    watcher.statuses = mine  # type: ignore[method-assign]


def one_ends_all(server: DriverServer) -> None:
    """A watch that is cancelled ends the others."""
    watcher = server._component._watcher
    statuses = watcher.statuses
    ended: list[int] = []

    async def shared(spec: Spec) -> Any:
        before = len(ended)
        try:
            async for status in statuses(spec):
                if len(ended) > before:
                    return
                yield status
        finally:
            ended.append(1)

    watcher.statuses = shared  # type: ignore[method-assign]


add("a field that it does not know is an error", "call-unknown-field-get-status",
    patches={"graf_driver_sdk.server.ComponentService.GetStatus": strict_status})  # fmt: skip
add("a restart makes the epoch stale", "crash-active-comes-back", guard=ForgottenGuard)
add("FENCED leaves the gate to its lease", "gate-fenced-shuts",
    patches={"graf_driver_fake.backend.Component.accepting": property(open_until_the_lease_ends)})  # fmt: skip
add("a notation of its own", "position-moves-to-peer", driver=with_methods(quiesce=own_notation))
add("a resync only once", "resync-ten-times", driver=OneResync)
add("ACTIVE without an epoch is only stale", "role-active-without-epoch",
    patches={"graf_driver_sdk.server._check_epoch_given": lenient_role})  # fmt: skip
add("only the newest watch is told", "watch-several", tweak=newest_watch_only)
add("a watch that ends takes others with it", "watch-cancelled", tweak=one_ends_all)


def compared_too_early(server: DriverServer) -> None:
    """An epoch is compared when the call arrives, and stored when its turn comes."""
    service = server._component
    guard = service._guard
    admit = service._admit

    async def early(key: Any, epoch: int) -> None:
        if epoch < guard.highest(key.group, key.component):
            await admit(key, epoch)
        await asyncio.sleep(0.1)
        guard._store(key.group, key.component, epoch)
        guard._highest[key.group, key.component] = epoch

    service._lanes, service._admit = NoLanes(), early  # type: ignore[method-assign]


add("an epoch is compared before its turn", "call-falling-epochs-at-once", tweak=compared_too_early)
