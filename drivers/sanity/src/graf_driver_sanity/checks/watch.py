"""WatchStatus."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import grpc
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import INVALID, second_components
from graf_driver_sanity.harness import ROLES, Harness, Refused, role_name
from graf_driver_sanity.registry import Violation, check, expect


async def read(stream: Any, what: str, timeout_s: float) -> Any:
    """The next status of a stream."""
    try:
        async with asyncio.timeout(timeout_s):
            message = await stream.read()
    except TimeoutError:
        raise Violation(f"no status within {timeout_s:g} s: {what}") from None
    except grpc.aio.AioRpcError as error:
        raise Violation(f"the watch ended with {error.code().name}: {error.details()}") from None
    if message is grpc.aio.EOF:
        raise Violation(f"the watch ended: {what}")
    return message


async def until(h: Harness, stream: Any, what: str, wanted: Callable[[Any], bool]) -> Any:
    """Reads until a status is as wanted."""
    try:
        async with asyncio.timeout(h.budget.transition_s):
            while True:
                status = await read(stream, what, h.budget.transition_s)
                if wanted(status):
                    return status
    except TimeoutError:
        raise Violation(f"never told: {what}") from None


def _is(role: int, status: Any) -> bool:
    return bool(status.role == role)


def _present(role: str) -> None:
    @check(f"watch-present-{role.lower()}", "GD-WATCH-001", sentence=f"The first status of a watch is {role} at once.")
    async def body(h: Harness) -> None:
        await h.reach(role)
        stream = h.site.watch(h.spec())
        try:
            first = await read(stream, "the present status", h.budget.status_s)
            expect(first.role == ROLES[role], f"the first status says {role_name(first.role)}")
            expect(first.epoch == h.epoch, f"the first status says epoch {first.epoch}, admitted was {h.epoch}")
        finally:
            stream.cancel()


def _change(role: str, start: str) -> None:
    @check(f"watch-change-{role.lower()}", "GD-WATCH-002", sentence=f"A change to {role} is told.")
    async def body(h: Harness) -> None:
        await h.reach(start)
        stream = h.site.watch(h.spec())
        try:
            await read(stream, "the present status", h.budget.status_s)
            await h.reach(role)

            def told(status: Any) -> bool:
                said = (status.role, status.accepting, status.epoch)
                return bool(said == (ROLES[role], role == "ACTIVE", h.epoch))

            await until(h, stream, f"the change to {role} in epoch {h.epoch}, accepting {role == 'ACTIVE'}", told)
        finally:
            stream.cancel()


for _role, _start in (("ACTIVE", "FENCED"), ("FENCED", "ACTIVE"), ("STANDBY", "FENCED"), ("INVALIDATED", "ACTIVE")):
    _present(_role)
    _change(_role, _start)


@check("watch-ended-lease", "GD-WATCH-002", "GD-GATE-003", capabilities=(Capability.GATE,))
async def ended_lease(h: Harness) -> None:
    """The end of a lease is told though nobody calls."""
    await h.reach("FENCED")
    await h.ensure("ACTIVE", lease_s=h.budget.short_lease_s)
    stream = h.site.watch(h.spec())
    try:
        await until(h, stream, "the end of the lease", lambda status: not status.accepting)
    finally:
        stream.cancel()


@check("watch-reconnect", "GD-WATCH-003")
async def reconnect(h: Harness) -> None:
    """A watch on a new connection begins with the present status."""
    await h.reach("FENCED")
    stream = h.site.watch(h.spec())
    await read(stream, "the present status", h.budget.status_s)
    stream.cancel()
    await h.reach("ACTIVE")
    await h.site.connect()
    stream = h.site.watch(h.spec())
    try:
        first = await read(stream, "the present status", h.budget.status_s)
        expect(first.role == ROLES["ACTIVE"], f"the first status says {role_name(first.role)}")
    finally:
        stream.cancel()


@check("watch-restart", "GD-WATCH-003", needs=("process",))
async def restarted(h: Harness) -> None:
    """A watch after kill -9 and restart begins with the present status and the epoch."""
    await h.reach("FENCED")
    stream = h.site.watch(h.spec())
    await read(stream, "the present status", h.budget.status_s)
    await h.restart()
    stream.cancel()
    stream = h.site.watch(h.spec())
    try:
        first = await read(stream, "the present status", h.budget.status_s)
        expect(first.epoch == h.epoch and not first.accepting, f"epoch {first.epoch}, accepting {first.accepting}")
    finally:
        stream.cancel()


@check("watch-several", "GD-WATCH-004")
async def several(h: Harness) -> None:
    """Three watches are all told of a change."""
    await h.reach("FENCED")
    streams = [h.site.watch(h.spec()) for _ in range(3)]
    try:
        for stream in streams:
            await read(stream, "the present status", h.budget.status_s)
        await h.reach("ACTIVE")
        for stream in streams:
            await until(h, stream, "the change to ACTIVE", lambda status: bool(status.role == ROLES["ACTIVE"]))
    finally:
        for stream in streams:
            stream.cancel()


@check("watch-sign-of-life", "GD-WATCH-005")
async def sign_of_life(h: Harness) -> None:
    """A watch is never silent for long, though nothing changes."""
    await h.reach("FENCED")
    stream = h.site.watch(h.spec())
    try:
        await read(stream, "the present status", h.budget.status_s)
        for _ in range(2):
            await read(stream, "a sign of life, due every 2 s", 2.0 + h.budget.status_s)
    finally:
        stream.cancel()


@check("watch-goes-on", "GD-WATCH-007", "GD-WATCH-002")
async def goes_on(h: Harness) -> None:
    """One watch tells twelve changes of role, one after the other."""
    await h.reach("FENCED")
    stream = h.site.watch(h.spec())
    try:
        await read(stream, "the present status", h.budget.status_s)
        for number in range(12):
            role = "FENCED" if number % 2 else "ACTIVE"
            await h.reach(role)
            await until(h, stream, f"change {number + 1}, to {role}", functools.partial(_is, ROLES[role]))
    finally:
        stream.cancel()


@check("watch-sixteen-at-once", "GD-CALL-006", "GD-WATCH-001")
async def sixteen(h: Harness) -> None:
    """Sixteen open watches are all served, and calls beside them."""
    await h.reach("FENCED")
    streams: list[Any] = []
    try:
        for number in range(16):
            streams.append(h.site.watch(h.spec()))
            await read(streams[-1], f"the present status of watch {number + 1}", h.budget.status_s)
        await h.reach("ACTIVE")
    finally:
        for stream in streams:
            stream.cancel()


@check("watch-tells-quiesce", "GD-WATCH-005", "GD-STATUS-001", capabilities=(Capability.POSITION,))
async def tells_quiesce(h: Harness) -> None:
    """That it does not accept any more, and the final position if any, come with the next sign of life."""
    await h.reach("ACTIVE")
    stream = h.site.watch(h.spec())
    try:
        await read(stream, "the present status", h.budget.status_s)
        if "write" in h.config.hooks:
            await h.write()
        position = await h.quiesce()

        def told(status: Any) -> bool:
            # A component that stands still may have no server left to ask: then its status has no position.
            return bool(not status.accepting and status.position in ("", position))

        await until(h, stream, f"that it is quiesced at {position}", told)
    finally:
        stream.cancel()


@check("watch-beside-another-component", "GD-CALL-006", "GD-WATCH-004", needs=("second",))
async def beside_another(h: Harness) -> None:
    """A change of another component, which shares nothing with this one, is not told on this one's watch."""
    await h.reach("ACTIVE")
    stream = h.site.watch(h.spec())
    try:
        await read(stream, "the present status", h.budget.status_s)
        other = second_components(h)[0]
        known = await h.site.call("GetStatus", pb.GetStatusRequest(spec=other), h.budget.status_s)
        request = h.request("FENCED", known.epoch + 1)
        request.spec.CopyFrom(other)
        await h.finish("EnsureRole", lambda: request)
        told = await read(stream, "a sign of life, due every 2 s", 2.0 + h.budget.status_s)
        mine = told.role == ROLES["ACTIVE"] and told.epoch == h.epoch
        expect(mine, f"this one is ACTIVE in epoch {h.epoch}, its watch says {role_name(told.role)} in {told.epoch}")
    finally:
        stream.cancel()


@check("watch-cancelled", "GD-WATCH-006")
async def cancelled(h: Harness) -> None:
    """Twenty watches that are cancelled disturb neither each other nor a call."""
    await h.reach("FENCED")
    kept = h.site.watch(h.spec())
    try:
        await read(kept, "the present status", h.budget.status_s)
        for _ in range(20):
            stream = h.site.watch(h.spec())
            await read(stream, "the present status", h.budget.status_s)
            stream.cancel()
        await h.reach("ACTIVE")
        await until(h, kept, "the change to ACTIVE", lambda status: bool(status.role == ROLES["ACTIVE"]))
    finally:
        kept.cancel()


@check("watch-bad-name", "GD-VALID-005")
async def bad_name(h: Harness) -> None:
    """A watch of a name that is no label is refused."""
    spec = h.spec()
    spec.component = "../etc"
    stream = h.site.watch(spec)
    try:
        async with asyncio.timeout(h.budget.status_s):
            await stream.read()
        raise Violation("a status was given")
    except grpc.aio.AioRpcError as error:
        refused = Refused("WatchStatus", error)
        expect(refused.code is INVALID, str(refused))
    except TimeoutError:
        raise Violation("no answer") from None
    finally:
        stream.cancel()


@check("watch-tells-as-status", "GD-WATCH-001", "GD-STATUS-001")
async def as_status(h: Harness) -> None:
    """A watch and GetStatus tell the same facts."""
    await h.reach("ACTIVE")
    stream = h.site.watch(h.spec())
    try:
        first: pb.ComponentStatus = await read(stream, "the present status", h.budget.status_s)
        status = await h.status()
        one, other = ((said.role, said.epoch, said.accepting) for said in (first, status))
        expect(one == other, f"the watch says {one}, GetStatus {other}")
    finally:
        stream.cancel()
