"""Fencing by epochs."""

from __future__ import annotations

import asyncio
import time

from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import CALLS, FORBIDDEN, INVALID, MUTATING, facts, request_of, slug, whatever
from graf_driver_sanity.harness import Harness, Refused
from graf_driver_sanity.registry import CannotCheck, check, expect


def for_staleness(refused: Refused) -> None:
    """The epoch was the reason, as far as the driver says one."""
    expect(refused.reason in ("", "stale-epoch"), f"refused for {refused.reason}, before the epoch: {refused.message}")


def _stale(call: str) -> None:
    @check(
        f"epoch-stale-{slug(call)}",
        "GD-EPOCH-001",
        "GD-EPOCH-003",
        capabilities=CALLS[call],
        sentence=f"{call} with a lower epoch is refused and changes nothing.",
    )
    async def body(h: Harness) -> None:
        # Elsewhere it would be refused for another reason; EnsureRole never is, also where the role is there already.
        places = {"Resync": ("FENCED",), "EnsureRole": ("FENCED", "ACTIVE")}.get(call, ("ACTIVE", "QUIESCED"))
        for place in places:
            if place == "QUIESCED" and Capability.POSITION not in h.capabilities:
                continue
            await h.reach(place)
            stale = h.epoch
            await h.reach(place)
            before = await h.status()
            for role in ("FENCED", "STANDBY", "INVALIDATED", "ACTIVE") if call == "EnsureRole" else ("",):
                for_staleness(await h.refusal(call, request_of(h, call, stale, role), FORBIDDEN))
            after = await h.status()
            expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


def _restart(call: str, kill: bool) -> None:
    @check(
        f"epoch-stale-{slug(call)}-after-{'kill' if kill else 'stop'}",
        "GD-EPOCH-001",
        "GD-EPOCH-002",
        capabilities=CALLS[call],
        needs=("process",),
        sentence=f"{call} with a lower epoch is refused by a driver that was {'killed' if kill else 'stopped'} since.",
    )
    async def body(h: Harness) -> None:
        await h.reach("FENCED")
        stale = h.epoch
        await h.reach("FENCED")
        await h.restart(kill=kill)
        for_staleness(await h.refusal(call, request_of(h, call, stale, "ACTIVE"), FORBIDDEN))
        expect(not (await h.status()).accepting, "it accepts")


for _call in MUTATING:
    _stale(_call)
    _restart(_call, True)
_restart("EnsureRole", False)


def _zero(call: str) -> None:
    @check(
        f"epoch-zero-{slug(call)}",
        "GD-POS-010",
        capabilities=CALLS[call],
        sentence=f"{call} without an epoch is refused.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await h.refusal(call, request_of(h, call, 0), INVALID, FORBIDDEN)


for _call in ("Quiesce", "Unquiesce", "RenewLease"):
    _zero(_call)


@check("epoch-in-status", "GD-EPOCH-004")
async def in_status(h: Harness) -> None:
    """The status tells the highest epoch, also after a lower one was refused."""
    await h.reach("FENCED")
    told = (await h.status()).epoch
    expect(told == h.epoch, f"admitted was {h.epoch}, told is {told}")
    await whatever(h, "EnsureRole", h.request("FENCED", h.epoch - 1))
    told = (await h.status()).epoch
    expect(told == h.epoch, f"admitted was {h.epoch}, told after a refusal is {told}")


@check("epoch-in-status-after-kill", "GD-EPOCH-002", "GD-EPOCH-004", needs=("process",))
async def in_status_after_kill(h: Harness) -> None:
    """The status tells the highest epoch after kill -9."""
    await h.reach("FENCED")
    await h.restart()
    told = (await h.status()).epoch
    expect(told == h.epoch, f"admitted was {h.epoch}, told after the restart is {told}")


@check("epoch-in-status-after-stop", "GD-EPOCH-002", needs=("process",))
async def in_status_after_stop(h: Harness) -> None:
    """The status tells the highest epoch after SIGTERM."""
    await h.reach("FENCED")
    await h.restart(kill=False)
    told = (await h.status()).epoch
    expect(told == h.epoch, f"admitted was {h.epoch}, told after the restart is {told}")


@check("epoch-survives-three-kills", "GD-EPOCH-002", needs=("process",))
async def three_kills(h: Harness) -> None:
    """The epoch rises over three kills and never falls."""
    for _ in range(3):
        await h.ensure("FENCED")
        await h.restart()
        told = (await h.status()).epoch
        expect(told == h.epoch, f"admitted was {h.epoch}, told after the restart is {told}")


@check("epoch-durable-before-effect", "GD-EPOCH-005", needs=("process",))
async def durable_before_effect(h: Harness) -> None:
    """A kill as soon as a role shows never forgets the epoch that gave it."""
    await h.reach("FENCED")
    epoch = h.next_epoch()
    call = h.site.begin("EnsureRole", h.request("ACTIVE", epoch))

    async def shows() -> bool:
        status = await h.status()
        return bool(status.role == pb.ROLE_ACTIVE or status.epoch == epoch or call.done())

    await h.eventually("the role or the epoch shows", shows)
    await h.restart()
    call.cancel()
    told = (await h.status()).epoch
    expect(told >= epoch, f"epoch {epoch} showed before the kill, told after it is {told}")


@check("epoch-refusal-tells-highest", "GD-EPOCH-006")
async def refusal_tells_highest(h: Harness) -> None:
    """The refusal says stale-epoch and the highest epoch in its metadata."""
    await h.reach("FENCED")
    refused = await h.refusal("EnsureRole", h.request("FENCED", h.epoch - 1), FORBIDDEN)
    expect(
        (refused.reason, refused.highest) == ("stale-epoch", str(h.epoch)),
        f"reason {refused.reason!r}, highest {refused.highest!r}, admitted was {h.epoch}",
    )


@check("epoch-same-again", "GD-EPOCH-001")
async def same_again(h: Harness) -> None:
    """The same epoch is admitted again."""
    await h.reach("FENCED")
    await h.ensure("FENCED", epoch=h.epoch)


@check("epoch-jump", "GD-EPOCH-001", "GD-EPOCH-009")
async def jump(h: Harness) -> None:
    """An epoch may be left out; those between are refused afterwards."""
    await h.reach("FENCED")
    before, h.epoch = h.epoch, h.epoch + 1000
    await h.ensure("FENCED", epoch=h.epoch)
    await h.refusal("EnsureRole", h.request("FENCED", before + 500), FORBIDDEN)


@check("epoch-reads-do-not-raise", "GD-EPOCH-007")
async def reads_do_not_raise(h: Harness) -> None:
    """Calls that change nothing leave the epoch."""
    await h.reach("FENCED")
    for call, needed in CALLS.items():
        if call not in MUTATING and set(needed) <= h.capabilities:
            await whatever(h, call, request_of(h, call, 0))
            told = (await h.status()).epoch
            expect(told == h.epoch, f"{call} moved the epoch from {h.epoch} to {told}")


def _other(h: Harness, epoch: int, component: str = "sanity-other") -> pb.EnsureRoleRequest:
    request = h.request("FENCED", epoch)
    request.spec.component = component
    return request


@check("epoch-per-component", "GD-EPOCH-008", "GD-CALL-006")
async def per_component(h: Harness) -> None:
    """A low epoch of another component is not refused as stale, and does not lower this one's."""
    await h.reach("FENCED")
    await h.reach("FENCED")  # above 1, which the other one begins with
    await _taken(h, _other(h, 1))
    told = (await h.status()).epoch
    expect(told == h.epoch, f"this component's epoch went from {h.epoch} to {told}")


@check("epoch-per-group", "GD-EPOCH-008", "GD-CALL-006")
async def per_group(h: Harness) -> None:
    """A low epoch of a component of the same name in another group is not refused as stale."""
    await h.reach("FENCED")
    await h.reach("FENCED")  # above 1, which the other one begins with
    request = h.request("FENCED", 1)
    request.spec.group = "sanity-other"
    await _taken(h, request)
    told = (await h.status()).epoch
    expect(told == h.epoch, f"this component's epoch went from {h.epoch} to {told}")


async def _bring(h: Harness, call: str) -> int:
    """A call that is admitted brings a new epoch; the one before."""
    if call == "Resync":
        await h.follow()
        await h.ensure("FENCED", epoch=h.epoch)
    else:
        await h.reach("QUIESCED" if call == "Unquiesce" else "ACTIVE")
    older = h.epoch
    await h.site.call(call, request_of(h, call, h.next_epoch()), h.budget.transition_s)
    return older


async def _taken(h: Harness, request: pb.EnsureRoleRequest) -> None:
    """Another component takes a role, in an epoch that is its own."""
    try:
        await h.site.call("EnsureRole", request)
    except Refused as refused:
        name = f"{request.spec.group}/{request.spec.component}"
        expect(refused.reason != "stale-epoch", f"{name} at epoch {request.epoch}: {refused}")
        raise CannotCheck(f"the driver takes one component only: {refused.message[:120]}") from None


def _raises(call: str) -> None:
    @check(
        f"epoch-raised-by-{slug(call)}",
        "GD-EPOCH-001",
        "GD-EPOCH-004",
        capabilities=CALLS[call],
        needs=("peer",) if call == "Resync" else (),
        sentence=f"A higher epoch that {call} brings is the highest from then on.",
    )
    async def body(h: Harness) -> None:
        older = await _bring(h, call)
        told = (await h.status()).epoch
        expect(told == h.epoch, f"{call} brought epoch {h.epoch}, the status tells {told}")
        for_staleness(await h.refusal("EnsureRole", h.request("FENCED", older), FORBIDDEN))


def _raised_for_good(call: str) -> None:
    @check(
        f"epoch-raised-by-{slug(call)}-survives-kill",
        "GD-EPOCH-002",
        capabilities=CALLS[call],
        needs=("peer", "process") if call == "Resync" else ("process",),
        sentence=f"An epoch that only {call} brought is the highest after kill -9 too.",
    )
    async def body(h: Harness) -> None:
        await _bring(h, call)
        await h.restart()
        told = (await h.status()).epoch
        expect(told == h.epoch, f"{call} brought epoch {h.epoch}, the status after kill -9 tells {told}")


def _role_for_good(role: str) -> None:
    @check(
        f"epoch-of-{role.lower()}-survives-kill",
        "GD-EPOCH-002",
        needs=("process",),
        sentence=f"An epoch that came with {role} is the highest after kill -9 too.",
    )
    async def body(h: Harness) -> None:
        await h.reach("STANDBY" if role == "STANDBY" else "ACTIVE")
        await h.ensure(role, active=h.peer if role == "STANDBY" else None)
        await h.restart()
        told = (await h.status()).epoch
        expect(told == h.epoch, f"{role} brought epoch {h.epoch}, the status after kill -9 tells {told}")


for _call in MUTATING:
    if _call != "EnsureRole":
        _raises(_call)
        _raised_for_good(_call)
for _role in ("ACTIVE", "STANDBY", "INVALIDATED"):
    _role_for_good(_role)


@check("epoch-stale-moves-no-lease", "GD-EPOCH-003", "GD-GATE-003", capabilities=(Capability.GATE,))
async def moves_no_lease(h: Harness) -> None:
    """Calls with a lower epoch leave the lease: the gate shuts at the end of the one in force."""
    await h.reach("FENCED")
    stale = h.epoch
    request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await whatever(h, "EnsureRole", h.request("ACTIVE", stale))
    await whatever(h, "RenewLease", request_of(h, "RenewLease", stale))
    await asyncio.sleep(max(0.0, (request.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.1))
    expect(
        not (await h.status()).accepting, "a lower epoch's lease keeps the gate open after the end of the one in force"
    )


@check(
    "epoch-stale-moves-no-set", "GD-EPOCH-003", "GD-ROLE-010", capabilities=(Capability.SYNCHRONOUS,), needs=("peer",)
)
async def moves_no_set(h: Harness) -> None:
    """ACTIVE with a lower epoch and another synchronous set leaves the set in force."""
    assert h.peer is not None
    stale = h.epoch
    await h.lead()
    names = {h.config.site.name, h.peer.side.name}
    await h.refusal("EnsureRole", h.request("ACTIVE", stale), FORBIDDEN)
    told = set((await h.status()).synchronous_set)
    expect(told == names, f"in force was {sorted(names)}, after a refused call it is {sorted(told)}")


@check("epoch-per-component-survives-kill", "GD-EPOCH-002", "GD-EPOCH-008", needs=("process",))
async def per_component_after_kill(h: Harness) -> None:
    """Two components' epochs are both there after kill -9."""
    await h.reach("FENCED")
    await _taken(h, _other(h, 1))
    await h.restart()
    told = (await h.status()).epoch
    expect(told == h.epoch, f"admitted was {h.epoch}, told after kill -9 is {told}; another component had come since")
    other = _other(h, 1)
    told = (await h.site.call("GetStatus", pb.GetStatusRequest(spec=other.spec))).epoch
    expect(told == 1, f"another component was at epoch 1, told after kill -9 is {told}")


@check("epoch-names-are-kept-apart", "GD-EPOCH-008")
async def names_apart(h: Harness) -> None:
    """`sanity-a`/`b` and `sanity`/`a-b` are two components."""
    one, other = _other(h, 5, "b"), _other(h, 1, "a-b")
    one.spec.group, other.spec.group = "sanity-a", "sanity"
    await _taken(h, one)
    await _taken(h, other)
    told = (await h.site.call("GetStatus", pb.GetStatusRequest(spec=other.spec))).epoch
    expect(told == 1, f"sanity/a-b is at epoch 1, told is {told}; sanity-a/b is at 5")


@check("epoch-64-bits", "GD-EPOCH-009")
async def wide(h: Harness) -> None:
    """Epochs beyond 53 and 63 bits are kept exactly (of another component, for one's own would be spent)."""
    for highest in (2**62 + 1, 2**63 + 1):
        await _kept_exactly(h, highest, f"sanity-wide-{highest.bit_length()}")


async def _kept_exactly(h: Harness, highest: int, name: str) -> None:
    try:
        await h.site.call("EnsureRole", _other(h, highest, name))
    except Refused as refused:
        if refused.code is FORBIDDEN and refused.reason != "stale-epoch":
            raise CannotCheck(f"the driver takes one component only: {refused.message[:120]}") from None
    spec = h.spec()
    spec.component = name
    told = (await h.site.call("GetStatus", pb.GetStatusRequest(spec=spec))).epoch
    expect(told == highest, f"admitted was {highest}, told is {told}")
    for lower in (highest - 1, 1):
        await h.refusal("EnsureRole", _other(h, lower, name), FORBIDDEN)
