"""GetStatus."""

from __future__ import annotations

import asyncio
import math
import time

from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import facts, request_of, whatever
from graf_driver_sanity.harness import ROLES, Harness, Refused, role_name
from graf_driver_sanity.registry import check, expect


@check("status-refused-role-does-not-show", "GD-STATUS-001", "GD-EPOCH-003")
async def refused_role(h: Harness) -> None:
    """A role that was refused does not show."""
    await h.reach("FENCED")
    await whatever(h, "EnsureRole", h.request("ACTIVE", h.epoch - 1))
    status = await h.status()
    expect(status.role == ROLES["FENCED"] and not status.accepting, f"it says {role_name(status.role)}")


@check("status-refused-lease-does-not-show", "GD-STATUS-001", "GD-GATE-004", capabilities=(Capability.GATE,))
async def refused_lease(h: Harness) -> None:
    """An ACTIVE that was refused because its lease is over does not show."""
    await h.reach("FENCED")
    request = h.request("ACTIVE", h.next_epoch())
    request.lease_deadline_ns = time.monotonic_ns() - 1_000_000
    await whatever(h, "EnsureRole", request)
    status = await h.status()
    expect(status.role == ROLES["FENCED"] and not status.accepting, f"it says {role_name(status.role)}")


@check("status-ended-lease-shows", "GD-STATUS-001", "GD-GATE-003", capabilities=(Capability.GATE,))
async def ended_lease(h: Harness) -> None:
    """A lease that ended shows without any call that changes something."""
    await h.reach("FENCED")
    await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)

    async def shut() -> bool:
        return not (await h.status()).accepting

    await h.eventually(
        "accepting is false after the end of the lease", shut, h.budget.short_lease_s + h.budget.transition_s
    )


@check("status-not-from-parameters", "GD-STATUS-001", "GD-STATUS-004")
async def not_from_peers(h: Harness) -> None:
    """The role is the same whoever asks, however often."""
    await h.reach("ACTIVE")
    seen = {(await h.status()).role for _ in range(10)}
    expect(seen == {ROLES["ACTIVE"]}, f"seen were {[role_name(role) for role in seen]}")


@check("status-broken-component-shows", "GD-STATUS-009", needs=("hook:break",))
async def broken_component(h: Harness) -> None:
    """A component that was broken behind the driver's back is not told as healthy and accepting."""
    await h.reach("ACTIVE")
    await h.hook("break")

    async def shows() -> bool:
        status = await h.status()
        return not (status.accepting and status.health == pb.HEALTH_HEALTHY)

    await h.eventually("the status shows that the component is broken", shows)
    await h.reach("FENCED")


@check("status-time", "GD-STATUS-002")
async def observed_at(h: Harness) -> None:
    """observed_at_ns is of this call, on CLOCK_MONOTONIC."""
    before = time.monotonic_ns()
    told = (await h.status()).observed_at_ns
    after = time.monotonic_ns()
    expect(before - 1_000_000_000 <= told <= after, f"called from {before} to {after}, told is {told}")


@check("status-time-rises", "GD-STATUS-002")
async def observed_at_rises(h: Harness) -> None:
    """observed_at_ns never falls."""
    times = [(await h.status()).observed_at_ns for _ in range(10)]
    expect(times == sorted(times) and times[0] < times[-1], f"told were {times}")


def _accepting(role: str) -> None:
    @check(
        f"status-accepting-{role.lower()}",
        "GD-STATUS-003",
        "GD-ROLE-004",
        sentence=f"accepting is false as {role}, and stays so.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await h.reach(role)
        for _ in range(10):
            status = await h.status()
            expect(not status.accepting, f"as {role_name(status.role)} it accepts")
            await asyncio.sleep(0.01)


for _role in ("STANDBY", "FENCED", "INVALIDATED"):
    _accepting(_role)


@check("status-changes-nothing", "GD-STATUS-004")
async def changes_nothing(h: Harness) -> None:
    """Twenty reads leave role, epoch and position."""
    await h.reach("ACTIVE")
    before = await h.status()
    await asyncio.gather(*(h.status() for _ in range(20)))
    after = await h.status()
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("status-beside-change", "GD-STATUS-005", "GD-CALL-006")
async def beside_change(h: Harness) -> None:
    """The status answers while a role is changed."""
    await h.reach("FENCED")
    change = asyncio.create_task(h.ensure("ACTIVE"))
    try:
        for _ in range(10):
            await h.status()
    except Refused as refused:
        expect(refused.code is None, f"beside EnsureRole: {refused}")
    finally:
        await change


@check("status-before-any-role", "GD-STATUS-005", "GD-CRASH-002", needs=("process",))
async def before_any_role(h: Harness) -> None:
    """A driver that was just started answers GetStatus before any role was given."""
    await h.reach("FENCED")
    await h.restart(kill=False)
    status = await h.status()
    expect(not status.accepting, "it accepts before any role was given")


@check("status-enums", "GD-STATUS-007")
async def enums(h: Harness) -> None:
    """Role and health are values of the contract, in each role."""
    for role in ("FENCED", "ACTIVE", "INVALIDATED", *(("STANDBY",) if h.peer else ())):
        await h.reach(role)
        status = await h.status()
        expect(0 <= status.role <= 4 and 1 <= status.health <= 5, f"role {status.role}, health {status.health}")


@check("status-healthy-active", "GD-STATUS-007", "GD-ROLE-005")
async def healthy_active(h: Harness) -> None:
    """An active that accepts is told as HEALTHY within a transition's time."""
    await h.reach("ACTIVE")

    async def healthy() -> bool:
        return bool((await h.status()).health == pb.HEALTH_HEALTHY)

    await h.eventually("the active is HEALTHY", healthy)


@check("status-lag", "GD-STATUS-008")
async def lag(h: Harness) -> None:
    """Lag is finite, and -1 or more."""
    for role in ("FENCED", "ACTIVE", *(("STANDBY",) if h.peer else ())):
        await h.reach(role)
        status = await h.status()
        finite = math.isfinite(status.lag_seconds)
        expect(finite and status.lag_seconds >= -1 and status.lag_transactions >= -1, f"as {role}: {status}")


@check("status-lag-of-follower", "GD-STATUS-008", needs=("peer",), capabilities=(Capability.SYNCHRONOUS,))
async def lag_of_follower(h: Harness) -> None:
    """A standby that follows comes to tell its lag."""
    await h.follow()

    async def known() -> bool:
        status = await h.status()
        return bool(status.lag_seconds >= 0 or status.lag_transactions >= 0)

    await h.eventually("the lag of a standby that follows is known", known)


@check("status-promotable-reason", "GD-STATUS-006", capabilities=(Capability.SYNCHRONOUS,))
async def promotable_reason(h: Harness) -> None:
    """A component that is not active is promotable by its own evidence, or says why it is not."""
    for role in ("FENCED", "INVALIDATED", *(("STANDBY",) if h.peer else ())):
        await h.reach(role)
        status = await h.status()
        expect(status.promotable is not bool(status.promotable_reason), f"as {role}: promotable {status.promotable}, "
               f"reason {status.promotable_reason!r}")  # fmt: skip


@check("status-promotable-follower", "GD-STATUS-006", capabilities=(Capability.SYNCHRONOUS,), needs=("peer",))
async def promotable_follower(h: Harness) -> None:
    """A standby of the synchronous set that follows without a gap becomes promotable."""
    assert h.peer is not None
    await h.follow()
    await h.ensure("ACTIVE", h.peer, h.epoch, synchronous=(h.peer.side.name, h.config.site.name))

    async def promotable() -> bool:
        return bool((await h.status()).promotable)

    await h.eventually("a standby that follows is promotable", promotable)


@check("status-followers", "GD-STATUS-001", needs=("peer",), capabilities=(Capability.SYNCHRONOUS,))
async def followers(h: Harness) -> None:
    """The active tells that the peer of its synchronous set follows."""
    assert h.peer is not None
    await h.lead()
    name = h.peer.side.name
    await h.ensure("ACTIVE", epoch=h.epoch, synchronous=(h.config.site.name, name))

    async def connected() -> bool:
        return any(one.site == name and one.connected for one in (await h.status()).followers)

    await h.eventually(f"{name} is told as a connected follower", connected)


@check("status-position-after-write", "GD-STATUS-001", needs=("hook:write",), capabilities=(Capability.POSITION,))
async def position_after_write(h: Harness) -> None:
    """A write moves the position of the active."""
    await h.reach("ACTIVE")
    before = (await h.status()).position
    await h.write()

    async def moved() -> bool:
        return bool((await h.status()).position != before)

    await h.eventually(f"the position moves on from {before!r} after a write", moved)


@check("status-in-another-call", "GD-STATUS-005")
async def many_readers(h: Harness) -> None:
    """Fifty reads at once are all answered."""
    await h.reach("FENCED")
    answers = await asyncio.gather(*(h.status() for _ in range(50)), return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    expect(not failed, f"{len(failed)} of 50 failed: {failed[:1]}")
    await whatever(h, "Validate", request_of(h, "Validate", 0))
