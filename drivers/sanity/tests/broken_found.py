"""More broken variants, written from the contract without a look at the checks: each passed the kit of that day.

They are added to `broken.VARIANTS` when this module is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from broken import add, changed_status, slow_role, with_methods
from graf_driver_fake.backend import Component, peer_writes
from graf_driver_fake.driver import FakeDriver
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import EpochStateError, PreconditionError, StaleEpochError
from graf_driver_sdk.lanes import Lane, Lanes
from graf_driver_sdk.server import ComponentService, DriverServer, _check_lease
from graf_driver_sdk.types import (
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Peer,
    PositionReached,
    Progress,
    RenewLease,
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
    Verdict,
)
from graf_driver_sdk.v1 import driver_pb2 as pb

# --- epochs


class SignedGuard(EpochGuard):
    """Epochs are signed."""

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        one, other = ((number + 2**63) % 2**64 for number in (epoch, highest))
        super()._compare(group, component, one, other)


class OneFileGuard(EpochGuard):
    """One file, for the component that came last."""

    def path(self, group: str, component: str) -> Path:
        return self.directory / "last.epoch"

    def _read(self, group: str, component: str) -> int:
        try:
            return super()._read(group, component)
        except EpochStateError:
            return 0


class JoinedGuard(EpochGuard):
    """Names are joined by what may be a part of them."""

    def admit(self, group: str, component: str, epoch: int) -> None:
        super().admit("all", f"{group}-{component}", epoch)

    def highest(self, group: str, component: str) -> int:
        return super().highest("all", f"{group}-{component}")

    def known(self, group: str, component: str) -> int | None:
        return super().known("all", f"{group}-{component}")


class StackGuard(EpochGuard):
    """A refusal says where in the program it was."""

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        try:
            super()._compare(group, component, epoch, highest)
        except StaleEpochError as error:
            where = "goroutine 17 [running]:\nmain.(*server).EnsureRole(0xc00011a000)\n\t/src/server.go:42"
            raise StaleEpochError(f"{error}\n\n{where}", asked=epoch, highest=highest) from error


Admit = Callable[[ComponentKey, int], Coroutine[Any, Any, None]]


def admitting(change: Callable[[DriverServer, Admit], Admit]) -> Callable[[DriverServer], None]:
    """Another way to admit an epoch; `change` gets the right one."""

    def tweak(server: DriverServer) -> None:
        service = server._component
        service._admit = change(server, service._admit)  # type: ignore[assignment,method-assign]

    return tweak


def component_of(server: DriverServer, key: ComponentKey) -> Component | None:
    driver = server._driver
    assert isinstance(driver, FakeDriver)
    return driver._components.get(key)


def in_memory(call: str) -> Callable[[DriverServer], None]:
    """What one call brings is not written down."""

    def change(server: DriverServer, admit: Admit) -> Admit:
        async def sloppy(key: ComponentKey, epoch: int) -> None:
            service, guard = server._component, server._component._guard
            held = {name for name, _ in service._lanes._held.values()}
            if call in held and epoch > guard.highest(key.group, key.component):
                guard._highest[key.group, key.component] = epoch
            else:
                await admit(key, epoch)

        return sloppy

    return admitting(change)


ENSURE_ROLE = ComponentService.EnsureRole
PATCHED = "graf_driver_sdk.server.ComponentService.EnsureRole"


def role_in_memory(role: Role) -> Mapping[str, Any]:
    """What comes with one role is not written down."""

    async def ensure_role(self: ComponentService, request: pb.EnsureRoleRequest, context: Any) -> pb.EnsureRoleResponse:
        key = request.spec.group, request.spec.component
        if request.role == role.value and request.epoch > self._guard.highest(*key):
            self._guard._highest[key] = request.epoch
        return await ENSURE_ROLE(self, request, context)

    return {PATCHED: ensure_role}


def refusing(change: Callable[[Component], None]) -> Callable[[DriverServer], None]:
    """A lower epoch is refused, and something was done to the active."""

    def around(server: DriverServer, admit: Admit) -> Admit:
        async def leaky(key: ComponentKey, epoch: int) -> None:
            try:
                await admit(key, epoch)
            except StaleEpochError:
                component = component_of(server, key)
                if component is not None and component.role is Role.ACTIVE:
                    change(component)
                raise

        return leaky

    return admitting(around)


def longer_lease(component: Component) -> None:
    component.lease_deadline_ns = time.monotonic_ns() + 50_000_000_000


def lonely_set(component: Component) -> None:
    component.synchronous_set = frozenset({"east"})


def any_epoch_when_quiesced(call: str) -> Callable[[DriverServer], None]:
    def change(server: DriverServer, admit: Admit) -> Admit:
        async def sloppy(key: ComponentKey, epoch: int) -> None:
            service, guard = server._component, server._component._guard
            component = component_of(server, key)
            held = {name for name, _ in service._lanes._held.values()}
            quiesced = component is not None and component.quiesced and call in held
            if not quiesced or epoch > guard.highest(key.group, key.component):
                await admit(key, epoch)

        return sloppy

    return admitting(change)


add("epochs are signed", "epoch-64-bits", guard=SignedGuard)
add("one file for the epoch of the last component", "epoch-per-component-survives-kill", guard=OneFileGuard)
add("names are joined by a dash", "epoch-names-are-kept-apart", guard=JoinedGuard)
add("a stack of Go in an error", "call-errors-have-words", guard=StackGuard)
for _call, _name in (
    ("RenewLease", "renew-lease"),
    ("Quiesce", "quiesce"),
    ("Unquiesce", "unquiesce"),
    ("Resync", "resync"),
):
    add(f"{_call}'s epoch dies with the process", f"epoch-raised-by-{_name}-survives-kill", tweak=in_memory(_call))
for _role in (Role.ACTIVE, Role.STANDBY, Role.INVALIDATED):
    add(
        f"{_role.name}'s epoch dies with the process",
        f"epoch-of-{_role.name.lower()}-survives-kill",
        patches=role_in_memory(_role),
    )
add("a refused call moves the lease", "epoch-stale-moves-no-lease", tweak=refusing(longer_lease))
add("a refused call moves the set", "epoch-stale-moves-no-set", tweak=refusing(lonely_set))
for _call, _check in (("Unquiesce", "epoch-stale-unquiesce"), ("RenewLease", "epoch-stale-renew-lease")):
    add(f"{_call} takes any epoch when quiesced", _check, tweak=any_epoch_when_quiesced(_call))

# --- roles


async def losing_invalidated(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self.component(request.spec)
    if request.role is Role.INVALIDATED and component.role is Role.ACTIVE:
        component._store(component.writes[:-1])
    return await FakeDriver.ensure_role(self, request)


def leaving(on: Callable[[Component, EnsureRole], bool]) -> Callable[[], FakeDriver]:
    """An ACTIVE that changes something goes by way of FENCED."""

    async def ensure_role(self: FakeDriver, request: EnsureRole) -> Progress:
        component = self.component(request.spec)
        if request.role is Role.ACTIVE is component.role and on(component, request):
            component.role = Role.FENCED
            await asyncio.sleep(0.2)
            component.role = Role.ACTIVE
        return await FakeDriver.ensure_role(self, request)

    return with_methods(ensure_role=ensure_role)


class OnlyFencedStops(FakeDriver):
    """A promotion in the background is stopped by FENCED alone."""

    promotion: asyncio.TimerHandle | None = None

    async def ensure_role(self, request: EnsureRole) -> Progress:
        component = self.component(request.spec)
        if request.role is Role.ACTIVE and component.role is not Role.ACTIVE:

            def later() -> None:
                component.role, component.lease_deadline_ns = Role.ACTIVE, request.lease_deadline_ns

            self.promotion = asyncio.get_running_loop().call_later(0.35, later)
            return Progress.pending("promoting", 50)
        if request.role is Role.FENCED and self.promotion is not None:
            self.promotion.cancel()
        return await super().ensure_role(request)


async def role_before_parameters(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self._components.get(request.spec.key)
    if component is not None and request.role is Role.FENCED:
        component.role = request.role
    return await FakeDriver.ensure_role(self, request)


class CarriesOn(FakeDriver):
    """Carries on after a restart with the promotion that was begun before, whatever has happened since."""

    def component(self, spec: Spec) -> Component:
        fresh = spec.key not in self._components
        component = super().component(spec)
        mark = self.mark(component)
        if fresh and mark is not None and mark.exists():
            deadline_ns = int(mark.read_text())

            def later() -> None:
                component.role, component.lease_deadline_ns = Role.ACTIVE, deadline_ns

            asyncio.get_running_loop().call_later(0.35, later)
        return component

    async def ensure_role(self, request: EnsureRole) -> Progress:
        progress = await super().ensure_role(request)
        mark = self.mark(self.component(request.spec))
        if mark is not None and not progress.completed:
            mark.write_text(str(request.lease_deadline_ns))
        return progress

    def mark(self, component: Component) -> Path | None:
        folder = component.parameters.data_dir
        return None if folder is None else folder / "promoting"


add("a restart carries on with a promotion", "crash-begun-active-loses-to-fenced", driver=CarriesOn,
    parameters={"promoteMs": 300})  # fmt: skip
add("INVALIDATED loses a write", "role-write-survives-invalidated", driver=with_methods(ensure_role=losing_invalidated))
add("ACTIVE again shuts and opens", "role-active-again-stays-open", driver=leaving(lambda component, request: True))
add(
    "another set goes by way of FENCED",
    "role-set-replaced-while-active",
    driver=leaving(lambda component, request: component.synchronous_set != request.synchronous_set),
)
add("a promotion goes on after INVALIDATED", "role-invalidated-after-begun-active", driver=OnlyFencedStops)
add(
    "refused for its parameters, and done",
    "validate-bad-parameters-give-no-role",
    driver=with_methods(ensure_role=role_before_parameters),
)

# --- gate

CHECK_LEASE = _check_lease


def any_lease_while_active(is_wrong: Callable[[int], bool]) -> Mapping[str, Any]:
    """Who is active already is given a lease of the driver's own making."""

    async def ensure_role(self: ComponentService, request: pb.EnsureRoleRequest, context: Any) -> pb.EnsureRoleResponse:
        driver = self._driver
        assert isinstance(driver, FakeDriver)
        component = driver._components.get(ComponentKey(request.spec.group, request.spec.component, request.spec.site))
        active = component is not None and component.accepting and request.role == pb.ROLE_ACTIVE
        if active and is_wrong(request.lease_deadline_ns - time.monotonic_ns()):
            request.lease_deadline_ns = time.monotonic_ns() + 1_000_000_000
        return await ENSURE_ROLE(self, request, context)

    return {PATCHED: ensure_role}


def writes_whatever_the_lease(self: Component, identity: str) -> bool:
    served = self.role is Role.ACTIVE and not self.quiesced
    if served:
        self._store([*self.writes, identity])
    return served


class OpenWhenDead(FakeDriver):
    """The gate is shut by the driver: without it nobody does."""

    async def close(self) -> None:
        await super().close()
        for component in self._components.values():
            component.lease_deadline_ns = None


async def slow_renewal(self: FakeDriver, request: RenewLease) -> bool:
    component = self.component(request.spec)
    was_open = component.role is Role.ACTIVE and component.accepting
    await asyncio.sleep(0.3)
    if was_open:
        component.role, component.lease_deadline_ns = Role.ACTIVE, request.lease_deadline_ns
    return was_open


add(
    "a lease that is over for who is active",
    "gate-unusable-deadline-while-active",
    patches=any_lease_while_active(lambda left_ns: left_ns <= 0),
)
add(
    "a lease of a day for who is active",
    "gate-unusable-deadline-while-active",
    patches=any_lease_while_active(lambda left_ns: left_ns > 60_000_000_000),
)


def none_below_zero(call: str, key: ComponentKey, deadline_ns: int) -> None:
    if deadline_ns >= 0:
        CHECK_LEASE(call, key, deadline_ns)


add(
    "a lease below 0 is none",
    "gate-negative-deadline",
    patches={"graf_driver_sdk.server._check_lease": none_below_zero},
)
add(
    "the gate shuts in the status only",
    "gate-refuses-write-after-lease",
    patches={"graf_driver_fake.backend.Component.write": writes_whatever_the_lease},
)
add("a dead driver leaves the gate open", "gate-killed-driver-refuses-write", driver=OpenWhenDead)
add(
    "a renewal in flight opens after FENCED", "gate-renew-beside-fencing", driver=with_methods(renew_lease=slow_renewal)
)

# --- position


async def zero_is_for_ever(self: FakeDriver, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
    return await FakeDriver.await_position(self, spec, position, timeout_ms or 60_000)


async def exactly(self: FakeDriver, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
    answer = await FakeDriver.await_position(self, spec, position, timeout_ms)
    return dataclasses.replace(answer, reached=answer.position == position)


class CountsSinceItsStart(FakeDriver):
    """Knows what came since it was started."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[ComponentKey, int] = {}

    def component(self, spec: Spec) -> Component:
        component = super().component(spec)
        self.before.setdefault(spec.key, len(component.writes))
        return component

    async def await_position(self, spec: Spec, position: str, timeout_ms: int) -> PositionReached:
        answer = await super().await_position(spec, position, timeout_ms)
        got = len(self.component(spec).writes) - self.before[spec.key]
        return dataclasses.replace(answer, reached=answer.reached and got > 0)


def one_lock(call: str) -> Callable[[DriverServer], None]:
    """The status waits for a call that waits."""

    def tweak(server: DriverServer) -> None:
        driver, lock = server._driver, asyncio.Lock()
        method, status = getattr(driver, call), driver.status

        async def waiting(spec: Spec, *arguments: Any) -> Any:
            async with lock:
                if call == "assess" and peer_writes(arguments[0]) is None:
                    await asyncio.sleep(20)
                return await method(spec, *arguments)

        async def locked(spec: Spec) -> Status:
            async with lock:
                return await status(spec)

        setattr(driver, call, waiting)
        driver.status = locked  # type: ignore[method-assign]

    return tweak


async def shielded_unquiesce(self: FakeDriver, spec: Spec, epoch: int) -> Progress:
    """It goes on when its caller has gone."""
    component = self.component(spec)
    answer = await FakeDriver.unquiesce(self, spec, epoch)
    component.quiesced = True

    async def work() -> Progress:
        await asyncio.sleep(0.25)
        component.role, component.quiesced = Role.ACTIVE, False
        return answer

    return await asyncio.shield(asyncio.ensure_future(work()))


def told_when_quiesced(**facts: Any) -> Callable[[], FakeDriver]:
    async def status(self: FakeDriver, spec: Spec) -> Status:
        seen = await FakeDriver.status(self, spec)
        return dataclasses.replace(seen, **facts) if self.component(spec).quiesced and not seen.accepting else seen

    return with_methods(status=status)


add(
    "a timeout of 0 has no end",
    "position-not-yet-without-waiting",
    driver=with_methods(await_position=zero_is_for_ever),
)
add("the status waits for AwaitPosition", "position-waiting-beside-fencing", tweak=one_lock("await_position"))
add("the status waits for Assess", "resync-unknown-beside-fencing", tweak=one_lock("assess"))
add("a position is reached exactly", "position-older-is-reached", driver=with_methods(await_position=exactly))
add("a restart forgets what had come", "position-is-reached-after-kill", driver=CountsSinceItsStart)
add(
    "a cancelled Unquiesce goes on",
    "call-cancelled-unquiesce-opens-nothing-later",
    driver=with_methods(unquiesce=shielded_unquiesce),
)
add("a quiesced one is told as STANDBY", "position-quiesce-stops", driver=told_when_quiesced(role=Role.STANDBY))

# --- status and watch


def watching(change: Callable[[Status, Status], Status]) -> Callable[[DriverServer], None]:
    """What a watch tells is made of its first status and the present one."""

    def tweak(server: DriverServer) -> None:
        watcher = server._component._watcher
        statuses = watcher.statuses

        async def told(spec: Spec) -> AsyncIterator[Status]:
            first: Status | None = None
            async for status in statuses(spec):
                first = first or status
                yield change(first, status)

        watcher.statuses = told  # type: ignore[assignment,method-assign]

    return tweak


def ten_watches(server: DriverServer) -> None:
    """Each watch takes a thread, and there are ten."""
    watcher = server._component._watcher
    statuses, threads = watcher.statuses, asyncio.Semaphore(10)

    async def served(spec: Spec) -> AsyncIterator[Status]:
        async with threads:
            async for status in statuses(spec):
                yield status

    watcher.statuses = served  # type: ignore[assignment,method-assign]


def last_changed(server: DriverServer) -> None:
    """A watch tells of whoever changed last."""
    driver, watcher = server._driver, server._component._watcher
    ensure_role, read = driver.ensure_role, watcher._read
    changed: list[Spec] = []

    async def noting(request: EnsureRole) -> Progress:
        changed.append(request.spec)
        return await ensure_role(request)

    async def read_last(spec: Spec) -> Status:
        return await read(changed[-1] if changed else spec)

    driver.ensure_role, watcher._read = noting, read_last  # type: ignore[method-assign]


async def hex_status(self: FakeDriver, spec: Spec) -> Status:
    seen = await FakeDriver.status(self, spec)
    return dataclasses.replace(seen, facts={"login": str(spec.parameters.get("password", "")).encode().hex()})


add(
    "a standby's lag has no end",
    "status-lag",
    driver=changed_status(lambda seen: {"lag_seconds": float("inf")} if seen.role is Role.STANDBY else {}),
)
add(
    "a standby is not promotable, without a reason",
    "status-promotable-reason",
    driver=changed_status(
        lambda seen: {"promotable": False, "promotable_reason": ""} if seen.role is Role.STANDBY else {}
    ),
)
add(
    "a watch tells the first epoch",
    "watch-change-fenced",
    tweak=watching(lambda first, status: dataclasses.replace(status, epoch=first.epoch)),
)
add(
    "a watch tells FENCED and accepting",
    "watch-change-fenced",
    tweak=watching(lambda first, status: dataclasses.replace(status, accepting=first.accepting)),
)
add(
    "a watch tells the first position",
    "watch-tells-quiesce",
    tweak=watching(lambda first, status: dataclasses.replace(status, position=first.position)),
)
add("ten watches and no more", "watch-sixteen-at-once", tweak=ten_watches)
add("a watch tells whoever changed last", "watch-beside-another-component", tweak=last_changed)
add("a secret in hex", "secret-in-status", driver=with_methods(status=hex_status))

# --- other components


class GlobalLane(Lanes):
    """One call at a time, whatever the component."""

    @contextlib.contextmanager
    def hold(self, key: ComponentKey, lane: Lane, call: str) -> Iterator[None]:
        with super().hold(dataclasses.replace(key, group="all", component="all"), lane, call):
            yield


def global_lane(server: DriverServer) -> None:
    server._component._lanes = GlobalLane()


def one_for_a_name(self: FakeDriver, spec: Spec) -> Component:
    return FakeDriver.component(self, dataclasses.replace(spec, key=dataclasses.replace(spec.key, group="all")))


class FirstOnly(FakeDriver):
    """The status is that of the component that was asked for first."""

    first: Spec | None = None

    async def status(self, spec: Spec) -> Status:
        self.first = self.first or spec
        return await super().status(self.first)


async def only_one_active(self: FakeDriver, request: EnsureRole) -> Progress:
    for key, component in self._components.items():
        if request.role is Role.ACTIVE is component.role and key != request.spec.key:
            component.role = Role.FENCED
    return await FakeDriver.ensure_role(self, request)


add(
    "one call at a time for all components",
    "call-many-components",
    driver=with_methods(ensure_role=slow_role),
    tweak=global_lane,
)
add(
    "one role for a name in all groups", "call-components-are-told-apart", driver=with_methods(component=one_for_a_name)
)
add("one status for all components", "call-components-are-told-apart", driver=FirstOnly)
add("one active among all components", "call-second-component-is-independent",
    driver=with_methods(ensure_role=only_one_active))  # fmt: skip

# --- validate


class Loose:
    """`$` takes a line's end too, and a dash is a letter."""

    def fullmatch(self, text: str) -> re.Match[str] | None:
        return re.match(r"^[a-z0-9-]{1,63}$", text)


class Short:
    """Names of 32 characters that begin with a letter."""

    def fullmatch(self, text: str) -> re.Match[str] | None:
        return re.fullmatch(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", text)


async def whole_numbers(self: FakeDriver, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
    for value in spec.parameters.values():
        if isinstance(value, float):
            int(value)  # there is none for infinity
    return await FakeDriver.validate(self, spec, peers)


add("names are matched loosely", "validate-bad-name-get-status", patches={"graf_driver_sdk.server.NAME": Loose()})
add("long names are refused", "validate-longest-names", patches={"graf_driver_sdk.server.NAME": Short()})
add("an odd number crashes Validate", "validate-odd-values", driver=with_methods(validate=whole_numbers))

# --- resync


class MarkedResync(FakeDriver):
    """What was cut short is "under way" for ever."""

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        component = self.component(spec)
        folder = component.parameters.data_dir
        if component.role is Role.ACTIVE or strategy is not ResyncStrategy.REBUILD or folder is None:
            return await super().resync(spec, active, strategy, epoch)
        mark = folder / "resyncing"
        if mark.exists():
            raise PreconditionError("a resync is under way")
        mark.touch()
        await asyncio.sleep(0.5)
        answer = await super().resync(spec, active, strategy, epoch)
        mark.unlink()
        return answer


async def removed_first(self: FakeDriver, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
    """What diverged is removed, and in memory until it is archived."""
    component, theirs = self.component(spec), peer_writes(active)
    folder = component.parameters.data_dir
    if folder is None or strategy is not ResyncStrategy.REBUILD or component.verdict(theirs) is not Verdict.DIVERGED:
        return await FakeDriver.resync(self, spec, active, strategy, epoch)
    ours = component.writes
    component._store([])
    await asyncio.sleep(0.5)
    archive = folder / f"archive-{time.time_ns()}.json"
    archive.write_text(json.dumps(ours))
    component._store(theirs or [])
    return Resynced(Progress.done("rebuilt"), str(archive))


async def one_archive(self: FakeDriver, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
    answer = await FakeDriver.resync(self, spec, active, strategy, epoch)
    if not answer.archive:
        return answer
    return dataclasses.replace(answer, archive=renamed(answer.archive, "archive.json"))


def renamed(archive: str, name: str) -> str:
    return str(Path(archive).replace(Path(archive).with_name(name)))


def resyncing_when(on: Verdict, strategy: ResyncStrategy, answer: Resynced | Exception) -> Callable[[], FakeDriver]:
    """One strategy with one verdict is answered, and nothing is done."""

    async def resync(self: FakeDriver, spec: Spec, active: Peer, asked: ResyncStrategy, epoch: int) -> Resynced:
        component = self.component(spec)
        met = asked is strategy and component.role is not Role.ACTIVE and component.verdict(peer_writes(active)) is on
        if met and isinstance(answer, Exception):
            raise answer
        return (
            answer
            if met and isinstance(answer, Resynced)
            else await FakeDriver.resync(self, spec, active, asked, epoch)
        )

    return with_methods(resync=resync)


async def emptied_first(self: FakeDriver, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
    """What is here is archived and removed before the active was asked; a later call does not know where it went."""
    component = self.component(spec)
    if component.role is not Role.ACTIVE and strategy is ResyncStrategy.REBUILD and peer_writes(active) is None:
        component.rebuild([])
    return await FakeDriver.resync(self, spec, active, strategy, epoch)


class ResyncOutside(Lanes):
    """A Resync excludes nobody."""

    @contextlib.contextmanager
    def hold(self, key: ComponentKey, lane: Lane, call: str) -> Iterator[None]:
        with contextlib.nullcontext() if call == "Resync" else super().hold(key, lane, call):
            yield


def resync_outside(server: DriverServer) -> None:
    server._component._lanes = ResyncOutside()


async def slow_rebuild(self: FakeDriver, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
    component, theirs = self.component(spec), peer_writes(active)
    if component.role is Role.ACTIVE or strategy is not ResyncStrategy.REBUILD or theirs is None:
        return await FakeDriver.resync(self, spec, active, strategy, epoch)
    for _ in range(40):  # well within its deadline, and once it has been written to the new active
        await asyncio.sleep(0.01)
        if component.accepting and component.writes != theirs:
            break
    return Resynced(Progress.done("rebuilt"), str(component.rebuild(theirs) or ""))


async def following_invalidated(self: FakeDriver, request: EnsureRole) -> Progress:
    component = self.component(request.spec)
    active = component.active if component.role is Role.STANDBY else None
    progress = await FakeDriver.ensure_role(self, request)
    if request.role is Role.INVALIDATED:
        component.active = active
    return progress


async def following_status(self: FakeDriver, spec: Spec) -> Status:
    component = self.component(spec)
    if component.role is Role.INVALIDATED:
        component.follow()
    return await FakeDriver.status(self, spec)


add("a resync that was cut short is under way for ever", "resync-cancelled-half-way", driver=MarkedResync)
add("a resync that was killed is under way for ever", "resync-killed-half-way", driver=MarkedResync)
add("removed before it is archived", "resync-cancelled-half-way", driver=with_methods(resync=removed_first))
add("emptied before the active was asked", "resync-from-nowhere", driver=with_methods(resync=emptied_first))
add("an archive that is written over", "resync-archive-stays", driver=with_methods(resync=one_archive))
add(
    "FOLLOW is only claimed",
    "resync-follow-catches-up",
    driver=resyncing_when(Verdict.BEHIND, ResyncStrategy.FOLLOW, Resynced(Progress.done("followed"))),
)
add(
    "REBUILD of a clean one is refused",
    "resync-rebuild-of-clean",
    driver=resyncing_when(Verdict.CLEAN, ResyncStrategy.REBUILD, PreconditionError("there is nothing to rebuild")),
)
add(
    "a resync goes on beside a promotion",
    "resync-beside-a-promotion",
    driver=with_methods(resync=slow_rebuild),
    tweak=resync_outside,
)
add(
    "INVALIDATED goes on following",
    "resync-invalidated-follows-nobody",
    driver=with_methods(ensure_role=following_invalidated, status=following_status),
)
