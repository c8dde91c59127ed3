"""Leases and gates: capability GATE."""

from __future__ import annotations

import asyncio
import time

import grpc
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import FORBIDDEN, INVALID
from graf_driver_sanity.harness import Harness, Refused
from graf_driver_sanity.registry import Violation, check, expect

GATE = (Capability.GATE,)


async def until_shut(h: Harness) -> None:
    """Waits for the end of a short lease."""

    async def shut() -> bool:
        return not (await h.status()).accepting

    await h.eventually("the gate is shut", shut, h.budget.short_lease_s + h.budget.transition_s)


@check("gate-renew-keeps-open", "GD-GATE-001", capabilities=GATE)
async def renew_keeps_open(h: Harness) -> None:
    """A gate that is renewed is open after the first lease would have ended."""
    for _ in range(5):
        await h.reach("FENCED")
        request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
        is_open = await h.renew()
        in_time = time.monotonic_ns() < request.lease_deadline_ns
        if is_open or in_time:
            break  # else this machine stood still until the first lease had ended
    expect(is_open, "the renewal of an open gate says that it was shut")
    await asyncio.sleep(max(0.0, (request.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.3))
    expect((await h.status()).accepting, "it was renewed and is shut at the end of the first lease")


@check("gate-active-again-moves-lease", "GD-ROLE-005", "GD-GATE-001", capabilities=GATE)
async def active_again_moves(h: Harness) -> None:
    """ACTIVE again in the same epoch, with a longer lease, keeps the gate open for that one."""
    await h.reach("FENCED")
    first = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await h.ensure("ACTIVE", epoch=h.epoch)
    await asyncio.sleep(max(0.0, (first.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.3))
    expect((await h.status()).accepting, "it was given a longer lease and is shut at the end of the first one")


@check("gate-renew-ten-times", "GD-GATE-001", capabilities=GATE)
async def renew_ten_times(h: Harness) -> None:
    """Ten renewals in a row all say open."""
    await h.reach("ACTIVE")
    said = [await h.renew() for _ in range(10)]
    expect(all(said), f"they said {said}")


@check("gate-shut-stays-shut", "GD-GATE-002", capabilities=GATE)
async def shut_stays_shut(h: Harness) -> None:
    """A renewal after the end of the lease opens nothing and says so."""
    await h.reach("FENCED")
    await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await until_shut(h)
    for _ in range(3):
        expect(not await h.renew(), "a renewal after the end of the lease says that the gate is open")
        expect(not (await h.status()).accepting, "a renewal after the end of the lease opened the gate")


@check("gate-ensure-role-opens-again", "GD-GATE-002", "GD-ROLE-005", capabilities=GATE)
async def ensure_role_opens(h: Harness) -> None:
    """EnsureRole(ACTIVE) opens a gate that its lease had shut."""
    await h.reach("FENCED")
    await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await until_shut(h)
    await h.ensure("ACTIVE", epoch=h.epoch)
    expect((await h.status()).accepting, "completed, and the gate is shut")


@check("gate-shuts-by-itself", "GD-GATE-003", capabilities=GATE)
async def shuts_by_itself(h: Harness) -> None:
    """At the end of the lease the gate is shut, not later."""
    await h.reach("FENCED")
    request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await asyncio.sleep(max(0.0, (request.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.1))
    expect(not (await h.status()).accepting, "the gate is open 100 ms after the end of its lease")


@check("gate-renewal-shuts-by-itself", "GD-GATE-003", capabilities=GATE)
async def renewal_shuts(h: Harness) -> None:
    """At the end of a renewed lease the gate is shut."""
    await h.reach("FENCED")
    await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    deadline_ns = h.deadline(h.budget.short_lease_s + 0.5)
    await h.renew(deadline_ns=deadline_ns)
    await asyncio.sleep(max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9 + 0.1))
    expect(not (await h.status()).accepting, "the gate is open 100 ms after the end of its renewed lease")


@check("gate-past-deadline-ensure-role", "GD-GATE-004", capabilities=GATE)
async def past_deadline(h: Harness) -> None:
    """ACTIVE with a lease that is over is refused and opens nothing."""
    await h.reach("FENCED")
    request = h.request("ACTIVE", h.next_epoch())
    request.lease_deadline_ns = time.monotonic_ns() - 5_000_000
    await h.refusal("EnsureRole", request, FORBIDDEN)
    expect(not (await h.status()).accepting, "the gate is open")


@check("gate-unusable-deadline-while-active", "GD-GATE-004", "GD-GATE-005", capabilities=GATE)
async def unusable_while_active(h: Harness) -> None:
    """ACTIVE again with a lease that is over, missing or of a day is refused by an active too."""
    await h.reach("ACTIVE")
    for deadline_ns, code in (
        (time.monotonic_ns() - 5_000_000, FORBIDDEN), (0, INVALID), (time.monotonic_ns() + 90_000_000_000, INVALID)
    ):  # fmt: skip
        request = h.request("ACTIVE", h.epoch)
        request.lease_deadline_ns = deadline_ns
        await h.refusal("EnsureRole", request, code)


@check("gate-negative-deadline", "GD-GATE-004", "GD-GATE-005", capabilities=GATE)
async def negative(h: Harness) -> None:
    """A deadline below 0 is refused by EnsureRole and RenewLease, and opens nothing."""
    await h.reach("FENCED")
    request = h.request("ACTIVE", h.next_epoch())
    request.lease_deadline_ns = -1
    await h.refusal("EnsureRole", request, INVALID, FORBIDDEN)
    expect(not (await h.status()).accepting, "the gate is open")
    await h.reach("ACTIVE")
    renewal = pb.RenewLeaseRequest(spec=h.spec(), epoch=h.epoch, lease_deadline_ns=-1)
    await h.refusal("RenewLease", renewal, INVALID, FORBIDDEN)


@check("gate-past-deadline-renew", "GD-GATE-004", capabilities=GATE)
async def past_renewal(h: Harness) -> None:
    """A renewal whose deadline has passed is refused."""
    await h.reach("ACTIVE")
    request = pb.RenewLeaseRequest(spec=h.spec(), epoch=h.epoch, lease_deadline_ns=time.monotonic_ns() - 5_000_000)
    await h.refusal("RenewLease", request, FORBIDDEN)


def _unusable(call: str, what: str, deadline_ns: int) -> None:
    @check(
        f"gate-{what}-deadline-{'renew' if call == 'RenewLease' else 'ensure-role'}",
        "GD-GATE-005",
        capabilities=GATE,
        sentence=f"{call} with a deadline that is {what} is refused with INVALID_ARGUMENT.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE" if call == "RenewLease" else "FENCED")
        at = time.monotonic_ns() + deadline_ns if deadline_ns > 0 else deadline_ns
        if call == "RenewLease":
            await h.refusal(call, pb.RenewLeaseRequest(spec=h.spec(), epoch=h.epoch, lease_deadline_ns=at), INVALID)
            return
        request = h.request("ACTIVE", h.next_epoch())
        request.lease_deadline_ns = at
        await h.refusal(call, request, INVALID)
        expect(not (await h.status()).accepting, "the gate is open")


for _call in ("EnsureRole", "RenewLease"):
    _unusable(_call, "missing", 0)
    _unusable(_call, "distant", 90_000_000_000)


def _not_active(role: str) -> None:
    @check(
        f"gate-renew-{role.lower()}",
        "GD-GATE-006",
        "GD-GATE-002",
        capabilities=GATE,
        sentence=f"A renewal of a component that is {role} opens nothing and says so.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await h.reach(role)
        try:
            expect(not await h.renew(), f"a renewal as {role} says that the gate is open")
        except Refused as refused:
            expect(refused.code is FORBIDDEN, str(refused))
        expect(not (await h.status()).accepting, f"a renewal as {role} opened the gate")


def _shuts(role: str) -> None:
    @check(
        f"gate-{role.lower()}-shuts",
        "GD-GATE-008",
        "GD-ROLE-004",
        capabilities=GATE,
        sentence=f"{role} shuts a gate though its lease goes on.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await h.reach(role)
        expect(not (await h.status()).accepting, f"{role} was completed and the gate is open")


for _role in ("STANDBY", "FENCED", "INVALIDATED"):
    _not_active(_role)
    _shuts(_role)


@check("gate-renew-beside-change", "GD-GATE-007", capabilities=GATE)
async def renew_beside_change(h: Harness) -> None:
    """A renewal is answered while EnsureRole for the same component is in flight."""
    await h.reach("ACTIVE")
    change = await h.site.begun("EnsureRole", h.request("ACTIVE", h.epoch), h.budget.call_s)
    for _ in range(10):
        try:
            expect(await h.renew(), "a renewal beside EnsureRole(ACTIVE) says that the gate is shut")
        except Refused as refused:
            raise Violation(f"beside EnsureRole(ACTIVE): {refused}") from None
        if change.done():
            break
        await asyncio.sleep(0.01)
    code: grpc.StatusCode = await change.code()
    expect(code is grpc.StatusCode.OK, f"EnsureRole(ACTIVE) beside renewals ended with {code.name}")


@check("gate-renew-beside-fencing", "GD-GATE-008", "GD-GATE-002", capabilities=GATE)
async def renew_beside_fencing(h: Harness) -> None:
    """A renewal in flight while FENCED is completed opens nothing afterwards."""
    for _ in range(3):
        await h.reach("ACTIVE")
        request = pb.RenewLeaseRequest(spec=h.spec(), epoch=h.epoch, lease_deadline_ns=h.deadline())
        renewal = await h.site.begun("RenewLease", request, h.budget.call_s)
        await h.ensure("FENCED")
        await renewal.code()
        status = await h.status()
        expect(not status.accepting, "FENCED was completed, and a renewal that was in flight has opened the gate")


async def until_over(request: pb.EnsureRoleRequest) -> None:
    """Sleeps until a lease is over for sure."""
    await asyncio.sleep(max(0.0, (request.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.1))


async def refused_at_the_gate(h: Harness, when: str) -> None:
    """A client is refused."""
    try:
        await h.hook("write", h.new_value())
    except Exception:  # whatever a client meets: it was refused
        return
    raise Violation(f"{when} a client's write was accepted")


@check("gate-refuses-write-after-lease", "GD-GATE-003", "GD-ROLE-012", capabilities=GATE, needs=("hook:write",))
async def refuses_write(h: Harness) -> None:
    """A client cannot write after the end of the lease."""
    await h.reach("FENCED")
    request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await until_over(request)
    await refused_at_the_gate(h, "after the end of the lease")


@check("gate-killed-driver-refuses-write", "GD-GATE-009", capabilities=GATE, needs=("hook:write", "process"))
async def dead_refuses_write(h: Harness) -> None:
    """A client cannot write after the end of the lease though the driver that would shut the gate is dead."""
    assert h.site.launcher is not None
    await h.reach("FENCED")
    request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await h.site.launcher.kill()
    try:
        await until_over(request)
        await refused_at_the_gate(h, "with the driver dead and the lease over")
    finally:
        await h.site.open()


@check("gate-killed-driver-shuts", "GD-GATE-009", "GD-GATE-003", capabilities=GATE, needs=("process",))
async def killed_driver(h: Harness) -> None:
    """A driver that was killed and came back does not open the gate, and it is shut after the deadline."""
    await h.reach("FENCED")
    request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await h.restart()
    await asyncio.sleep(max(0.0, (request.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.1))
    expect(not (await h.status()).accepting, "the gate is open after the deadline")
    try:
        expect(not await h.renew(), "a renewal after the deadline and a restart says open")
    except Refused as refused:
        expect(refused.code is FORBIDDEN, str(refused))
    expect(not (await h.status()).accepting, "a renewal after the deadline and a restart opened the gate")
