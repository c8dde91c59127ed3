"""Quiesce, Unquiesce, AwaitPosition: capability POSITION."""

from __future__ import annotations

import asyncio
import time

import grpc
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import FORBIDDEN, INVALID, ended, facts, request_of, whatever
from graf_driver_sanity.harness import Harness, Refused, role_name
from graf_driver_sanity.registry import Violation, check, expect

POSITION = (Capability.POSITION,)


@check("position-quiesce-stops", "GD-POS-001", capabilities=POSITION)
async def quiesce_stops(h: Harness) -> None:
    """A quiesced component accepts nothing, is still ACTIVE, and gives a position."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    status = await h.status()
    expect(bool(position), "completed without a position")
    expect(not status.accepting, "quiesced, and it accepts")
    expect(status.role == pb.ROLE_ACTIVE, f"quiesced, and it is told as {role_name(status.role)}")


@check("position-quiesce-ten-times", "GD-POS-002", capabilities=POSITION)
async def quiesce_ten_times(h: Harness) -> None:
    """Quiesce ten times gives one position."""
    await h.reach("ACTIVE")
    said = {await h.quiesce() for _ in range(10)}
    expect(len(said) == 1, f"positions {sorted(said)}")


@check("position-quiesce-is-status", "GD-POS-002", "GD-STATUS-001", capabilities=POSITION)
async def quiesce_is_status(h: Harness) -> None:
    """The status of a quiesced component tells the position that Quiesce gave."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    told = (await h.status()).position
    expect(told == position, f"Quiesce gave {position!r}, the status {told!r}")


@check("position-quiesce-is-final", "GD-POS-002", "GD-POS-001", capabilities=POSITION)
async def quiesce_is_final(h: Harness) -> None:
    """Half a second after Quiesce the position is still that one: nothing was in flight."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    ends = time.monotonic() + 0.5
    while time.monotonic() < ends:
        told = (await h.status()).position
        expect(told == position, f"Quiesce gave {position!r}, later the status says {told!r}")
        await asyncio.sleep(0.05)
    again = await h.quiesce()
    expect(again == position, f"Quiesce gave {position!r}, half a second later {again!r}")


@check("position-after-unquiesce-without-writes", "GD-POS-002", "GD-POS-003", capabilities=POSITION)
async def reproducible(h: Harness) -> None:
    """Without a write in between, a second Quiesce gives the first one's position."""
    await h.reach("ACTIVE")
    first = await h.quiesce()
    await h.finish("Unquiesce", lambda: pb.UnquiesceRequest(spec=h.spec(), epoch=h.epoch))
    second = await h.quiesce()
    expect(first == second, f"first {first!r}, then {second!r}")


@check("position-write-moves", "GD-POS-009", capabilities=POSITION, needs=("hook:write",))
async def write_moves(h: Harness) -> None:
    """A write between two Quiesces moves the position."""
    await h.reach("ACTIVE")
    first = await h.quiesce()
    await h.finish("Unquiesce", lambda: pb.UnquiesceRequest(spec=h.spec(), epoch=h.epoch))
    await h.write()
    second = await h.quiesce()
    expect(first != second, f"a write was acknowledged and the position is still {first!r}")


@check("position-no-write-after-quiesce", "GD-POS-001", "GD-POS-009", capabilities=POSITION, needs=("hook:write",))
async def no_write_after(h: Harness) -> None:
    """A client cannot write after Quiesce."""
    await h.reach("ACTIVE")
    await h.quiesce()
    try:
        await h.hook("write", h.new_value())
    except Exception:
        return
    raise Violation("a client's write was accepted after Quiesce")


@check("position-unquiesce", "GD-POS-003", capabilities=POSITION)
async def unquiesce(h: Harness) -> None:
    """Unquiesce accepts again in the same epoch, ten times over."""
    await h.reach("ACTIVE")
    await h.quiesce()
    for _ in range(10):
        await h.finish("Unquiesce", lambda: pb.UnquiesceRequest(spec=h.spec(), epoch=h.epoch))
    status = await h.status()
    expect(status.accepting and status.epoch == h.epoch, f"accepting {status.accepting}, epoch {status.epoch}")


@check("position-renewal-keeps-quiesced", "GD-POS-001", "GD-GATE-002", capabilities=(*POSITION, Capability.GATE))
async def renewal_keeps_quiesced(h: Harness) -> None:
    """A renewal of the lease does not end Quiesce."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    await h.renew()
    status = await h.status()
    seen = f"accepting {status.accepting}, position {status.position!r} instead of {position!r}"
    expect(not status.accepting and status.position == position, f"after a renewal: {seen}")


@check("position-unquiesce-keeps-gate", "GD-POS-003", "GD-GATE-003", capabilities=(*POSITION, Capability.GATE))
async def unquiesce_keeps_gate(h: Harness) -> None:
    """Unquiesce after the end of the lease opens nothing."""
    await h.reach("FENCED")
    request = await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    await whatever(h, "Quiesce", request_of(h, "Quiesce", h.epoch))
    await asyncio.sleep(max(0.0, (request.lease_deadline_ns - time.monotonic_ns()) / 1e9 + 0.1))
    await whatever(h, "Unquiesce", request_of(h, "Unquiesce", h.epoch))
    expect(not (await h.status()).accepting, "the lease is over, and after Unquiesce it accepts")


@check("position-unquiesce-keeps-writes", "GD-POS-003", capabilities=POSITION, needs=("hook:write", "hook:read"))
async def unquiesce_keeps(h: Harness) -> None:
    """What was written before Quiesce is there after Unquiesce."""
    await h.reach("ACTIVE")
    value = await h.write()
    await h.quiesce()
    await h.finish("Unquiesce", lambda: pb.UnquiesceRequest(spec=h.spec(), epoch=h.epoch))
    expect(await h.has(value), f"{value} is gone")
    await h.write()


def _not_active(call: str, role: str) -> None:
    @check(
        f"position-{call.lower()}-{role.lower()}",
        "GD-POS-004",
        capabilities=POSITION,
        sentence=f"{call} of a component that is {role} is refused and changes nothing.",
    )
    async def body(h: Harness) -> None:
        await h.reach(role)
        before = await h.status()
        await h.refusal(call, request_of(h, call, h.epoch), FORBIDDEN)
        after = await h.status()
        expect(before.role == after.role and not after.accepting, f"before {facts(before)}, after {facts(after)}")


for _call in ("Quiesce", "Unquiesce"):
    for _role in ("STANDBY", "FENCED", "INVALIDATED"):
        _not_active(_call, _role)


def _await(h: Harness, position: str, timeout_ms: int) -> pb.AwaitPositionRequest:
    return pb.AwaitPositionRequest(spec=h.spec(), position=position, timeout_ms=timeout_ms)


@check("position-own-is-reached", "GD-POS-005", capabilities=POSITION)
async def own_reached(h: Harness) -> None:
    """The position that Quiesce gave is reached where it was given, and told."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    answer = await h.site.call("AwaitPosition", _await(h, position, 2000))
    expect(answer.reached and bool(answer.position), f"reached {answer.reached}, position {answer.position!r}")


@check("position-older-is-reached", "GD-POS-005", capabilities=POSITION, needs=("hook:write",))
async def older_reached(h: Harness) -> None:
    """A position that later writes have passed is reached too."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    await h.finish("Unquiesce", lambda: pb.UnquiesceRequest(spec=h.spec(), epoch=h.epoch))
    await h.write()
    answer = await h.site.call("AwaitPosition", _await(h, position, 2000))
    expect(answer.reached, f"{position} was passed, here is {answer.position}, and it is told as not reached")


@check("position-await-changes-nothing", "GD-POS-005", "GD-EPOCH-007", capabilities=POSITION)
async def await_changes_nothing(h: Harness) -> None:
    """AwaitPosition leaves role, epoch and position."""
    await h.reach("ACTIVE")
    position = await h.quiesce()
    before = await h.status()
    for _ in range(10):
        await h.site.call("AwaitPosition", _await(h, position, 100))
    after = await h.status()
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("position-nonsense", "GD-POS-007", capabilities=POSITION)
async def nonsense(h: Harness) -> None:
    """A text that is no position is refused."""
    await h.reach("ACTIVE")
    for text in ("no position at all!", "\x00", "-1;--"):
        await h.refusal("AwaitPosition", _await(h, text, 100), INVALID)


async def elsewhere(h: Harness) -> str:
    """The site is FENCED and lacks a write of the active peer; the peer's final position."""
    assert h.peer is not None
    await h.follow()
    await h.ensure("FENCED", epoch=h.epoch)  # follows nobody from here on
    await h.ensure("ACTIVE", h.peer, h.epoch)  # with itself alone: it waits for nobody's acknowledgement
    await h.write(h.peer)
    request = pb.QuiesceRequest(spec=h.spec(h.peer), epoch=h.epoch)
    return str((await h.finish("Quiesce", lambda: request, h.peer)).position)


@check("position-not-yet", "GD-POS-006", capabilities=POSITION, needs=("peer", "hook:write"))
async def not_yet(h: Harness) -> None:
    """A position that the site does not have is not reached, and the answer comes in time."""
    position = await elsewhere(h)
    began = time.monotonic()
    answer = await h.site.call("AwaitPosition", _await(h, position, 300))
    took_s = time.monotonic() - began
    expect(not answer.reached, f"{position} was written elsewhere and is told as reached; here is {answer.position}")
    expect(took_s < 0.3 + 1 + h.budget.status_s, f"timeout_ms was 300, the answer came after {took_s:.1f} s")


@check("position-not-yet-without-waiting", "GD-POS-006", capabilities=POSITION, needs=("peer", "hook:write"))
async def without_waiting(h: Harness) -> None:
    """With a timeout of 0 the answer comes at once."""
    position = await elsewhere(h)
    answer = await h.site.call("AwaitPosition", _await(h, position, 0), 1 + h.budget.status_s)
    expect(not answer.reached, f"{position} was written elsewhere and is told as reached; here is {answer.position}")


@check("position-is-reached-after-kill", "GD-POS-006", "GD-POS-008", capabilities=POSITION,
       needs=("peer", "hook:write", "process"))  # fmt: skip
async def reached_after_kill(h: Harness) -> None:
    """What a standby had got is told as reached after kill -9 of its driver too, once it stands by again."""
    assert h.peer is not None
    position = await elsewhere(h)
    await h.ensure("STANDBY", epoch=h.epoch, active=h.peer)
    timeout_ms = int(min(h.budget.transition_s, 50.0) * 1000)  # no call of the SDK's server takes more than a minute
    answer = await h.site.call("AwaitPosition", _await(h, position, timeout_ms), timeout_ms / 1000 + 5)
    expect(answer.reached, f"{position} was not reached by a standby: {answer.message}")
    await h.restart()
    await h.ensure("STANDBY", epoch=h.epoch, active=h.peer)
    answer = await h.site.call("AwaitPosition", _await(h, position, timeout_ms), timeout_ms / 1000 + 5)
    expect(answer.reached, f"{position} was reached before kill -9, here is {answer.position!r}: {answer.message}")


@check("position-is-waited-for", "GD-POS-011", capabilities=POSITION, needs=("peer", "hook:write"))
async def waited_for(h: Harness) -> None:
    """A position that arrives at a follower while AwaitPosition waits for it is told as reached."""
    assert h.peer is not None
    position = await elsewhere(h)
    timeout_s = min(h.budget.transition_s, 50.0)  # no call of the SDK's server takes more than a minute
    handle = await h.site.begun("AwaitPosition", _await(h, position, int(timeout_s * 1000)), timeout_s + 5, 0.1)
    at_once = handle.done()  # a site that follows nobody may say so without waiting
    await h.ensure("STANDBY", epoch=h.epoch, active=h.peer)
    if at_once:
        await h.finish("Unquiesce", lambda: pb.UnquiesceRequest(spec=h.spec(h.peer), epoch=h.epoch), h.peer)
        await h.write(h.peer)
        request = pb.QuiesceRequest(spec=h.spec(h.peer), epoch=h.epoch)
        position = str((await h.finish("Quiesce", lambda: request, h.peer)).position)
        handle = h.site.begin("AwaitPosition", _await(h, position, int(timeout_s * 1000)), timeout_s + 5)
    try:
        answer = await handle
    except grpc.aio.AioRpcError as error:
        raise Violation(str(Refused("AwaitPosition", error))) from None
    expect(answer.reached, f"{position} came meanwhile and is told as not reached: {answer.message}")


@check(
    "position-waiting-beside-fencing",
    "GD-CALL-007",
    "GD-STATUS-005",
    capabilities=POSITION,
    needs=("peer", "hook:write"),
)
async def waiting_beside_fencing(h: Harness) -> None:
    """The status comes and FENCED is completed while AwaitPosition waits for a position that does not come."""
    position = await elsewhere(h)
    timeout_s = h.budget.transition_s * 2 + 5
    handle = await h.site.begun("AwaitPosition", _await(h, position, int(timeout_s * 1000)), timeout_s + 5, 0.1)
    try:
        await h.status()
        await h.ensure("FENCED")
    finally:
        await ended(handle)


@check("position-moves-to-peer", "GD-POS-008", capabilities=POSITION, needs=("peer",))
async def moves_to_peer(h: Harness) -> None:
    """The active's position is reached at the standby that follows it."""
    assert h.peer is not None
    await h.lead()
    if "write" in h.config.hooks:
        await h.write()
    position = await h.quiesce()
    request = pb.AwaitPositionRequest(spec=h.spec(h.peer), position=position, timeout_ms=5000)
    answer = await h.peer.call("AwaitPosition", request, 20)
    expect(answer.reached, f"{position} was not reached at {h.peer.side.name}: {answer.message}")


@check(
    "position-reached-means-applied",
    "GD-POS-006",
    capabilities=POSITION,
    needs=("peer", "hook:write", "hook:read"),
    guards=POSITION,
    unproved="a driver that tells a position as reached without having its data",
)
async def reached_means_applied(h: Harness) -> None:
    """Once a position is reached at the standby, what was written before it can be found there after promotion."""
    assert h.peer is not None
    await h.lead()
    value = await h.write()
    position = await h.quiesce()
    request = pb.AwaitPositionRequest(spec=h.spec(h.peer), position=position, timeout_ms=5000)
    answer = await h.peer.call("AwaitPosition", request, 20)
    expect(answer.reached, f"{position} was not reached: {answer.message}")
    epoch = h.next_epoch()
    await h.ensure("FENCED", epoch=epoch)
    await h.ensure("ACTIVE", h.peer, epoch)
    expect(await h.has(value, h.peer), f"{position} was told as reached and {value} is missing")
