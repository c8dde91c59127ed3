"""Broken variants of the fake driver: each breaks one thing, and names the check that must find it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graf_driver_fake.backend import Component, peer_writes
from graf_driver_fake.driver import FakeDriver
from graf_driver_sdk import convert
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import PreconditionError, StaleEpochError, UnsupportedError
from graf_driver_sdk.lanes import Lane, Lanes
from graf_driver_sdk.server import DriverServer, Limits
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

        asyncio.get_running_loop().call_later(0.2, later)
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
    await asyncio.sleep(0.05)
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
