"""kill -9 in the middle of a call, and restarts."""

from __future__ import annotations

import asyncio
import contextlib

from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.calls import stays_shut
from graf_driver_sanity.checks.common import CALLS, FORBIDDEN, INVALID, request_of, slug
from graf_driver_sanity.checks.watch import read
from graf_driver_sanity.harness import ROLES, Harness, Refused, role_name
from graf_driver_sanity.registry import check, expect

PROCESS = ("process",)


async def killed_during(h: Harness, name: str, request: object, wait_s: float) -> None:
    """Begins a call, kills the driver while it is in flight, and starts the driver again."""
    call = h.site.begin(name, request)
    await asyncio.sleep(wait_s)
    await h.restart()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call.code()


def _role(role: str) -> None:
    @check(
        f"crash-ensure-role-{role.lower()}",
        "GD-CRASH-001",
        "GD-EPOCH-002",
        needs=PROCESS,
        sentence=f"kill -9 during EnsureRole({role}): the same call completes afterwards, and the epoch is kept.",
    )
    async def body(h: Harness) -> None:
        await h.reach("FENCED" if role == "ACTIVE" else "ACTIVE")
        if role == "STANDBY":
            await h.reach("STANDBY")
        seen = (await h.status()).epoch
        active = h.peer if role == "STANDBY" else None
        await killed_during(h, "EnsureRole", h.request(role, h.next_epoch(), active=active), 0.003)
        told = (await h.status()).epoch
        expect(told >= seen, f"the epoch fell from {seen} to {told}")
        await h.ensure(role, epoch=h.epoch, active=active)
        status = await h.status()
        expect(status.role == ROLES[role], f"it is {role_name(status.role)}")


for _name in ROLES:
    _role(_name)


def _call(call: str) -> None:
    @check(
        f"crash-{slug(call)}",
        "GD-CRASH-001",
        "GD-CRASH-003",
        capabilities=CALLS[call],
        needs=PROCESS,
        sentence=f"kill -9 during {call}: the driver starts again, answers the call, and can be fenced.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await killed_during(h, call, request_of(h, call, h.epoch), 0.002)
        await h.ensure("ACTIVE", epoch=h.epoch)
        try:
            await h.site.call(call, request_of(h, call, h.epoch), h.budget.transition_s)
        except Refused as refused:
            expect(refused.code in (FORBIDDEN, INVALID), f"after the crash: {refused}")
        await h.ensure("FENCED")
        expect(not (await h.status()).accepting, "it accepts")


for _name in CALLS:
    if _name != "EnsureRole":
        _call(_name)


@check("crash-watch", "GD-CRASH-001", "GD-WATCH-003", needs=PROCESS)
async def during_watch(h: Harness) -> None:
    """Kill -9 during a watch: the next watch works, with the epoch."""
    await h.reach("FENCED")
    stream = h.site.watch(h.spec())
    await read(stream, "the present status", h.budget.status_s)
    await h.restart()
    stream.cancel()
    stream = h.site.watch(h.spec())
    try:
        first = await read(stream, "the present status", h.budget.status_s)
        expect(first.epoch == h.epoch, f"epoch {first.epoch}, admitted was {h.epoch}")
    finally:
        stream.cancel()


def _stays_shut(role: str, kill: bool) -> None:
    @check(
        f"crash-{role.lower()}-stays-shut-after-{'kill' if kill else 'stop'}",
        "GD-CRASH-002",
        "GD-ROLE-004",
        needs=PROCESS,
        sentence=f"A component that was {role} accepts nothing after its driver was {'killed' if kill else 'stopped'}.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await h.reach(role)
        await h.restart(kill=kill)
        for _ in range(10):
            status = await h.status()
            expect(not status.accepting, f"after the restart it accepts, as {role_name(status.role)}")
            await asyncio.sleep(0.02)


for _name in ("FENCED", "INVALIDATED", "STANDBY"):
    _stays_shut(_name, True)
_stays_shut("FENCED", False)


@check(
    "crash-quiesced-stays-shut-after-kill",
    "GD-CRASH-002",
    "GD-POS-002",
    capabilities=(Capability.POSITION,),
    needs=PROCESS,
)
async def quiesced_stays_shut(h: Harness) -> None:
    """A quiesced component accepts nothing after its driver was killed: its position was handed over."""
    await h.reach("ACTIVE")
    await h.quiesce()
    await h.restart()
    for _ in range(10):
        status = await h.status()
        expect(not status.accepting, f"after the restart it accepts, as {role_name(status.role)}")
        await asyncio.sleep(0.02)


@check("crash-begun-active-loses-to-fenced", "GD-CRASH-002", "GD-ROLE-013", needs=PROCESS)
async def begun_loses(h: Harness) -> None:
    """FENCED after a kill during a promotion wins, and nothing carries on with the promotion later."""
    await h.reach("FENCED")
    await h.site.call("EnsureRole", h.request("ACTIVE", h.next_epoch()))
    await h.restart()
    await h.ensure("FENCED")
    await stays_shut(h)


@check("crash-active-comes-back", "GD-CRASH-001", "GD-ROLE-005", needs=PROCESS)
async def active_comes_back(h: Harness) -> None:
    """The active's driver is killed: the same epoch makes it ACTIVE again."""
    await h.reach("ACTIVE")
    await h.restart()
    await h.ensure("ACTIVE", epoch=h.epoch)
    status = await h.status()
    expect(status.accepting and status.role == pb.ROLE_ACTIVE, f"it is {role_name(status.role)}")


@check("crash-three-times", "GD-CRASH-003", needs=PROCESS)
async def three_times(h: Harness) -> None:
    """Three kills in a row: it starts on the same socket each time."""
    await h.reach("FENCED")
    for _ in range(3):
        await h.restart()
    await h.ensure("FENCED", epoch=h.epoch)


@check("crash-sigterm", "GD-CRASH-004", needs=PROCESS)
async def sigterm(h: Harness) -> None:
    """SIGTERM with a watch open ends the driver with status 0."""
    await h.reach("FENCED")
    stream = h.site.watch(h.spec())
    await read(stream, "the present status", h.budget.status_s)
    assert h.site.launcher is not None
    status = await h.site.launcher.stop()
    stream.cancel()
    await h.site.open()
    expect(status == 0, f"its exit status is {status}")
