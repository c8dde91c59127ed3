"""EnsureRole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import INVALID, facts
from graf_driver_sanity.harness import ROLES, Harness, Refused, role_name
from graf_driver_sanity.registry import Violation, check, expect


async def shows(h: Harness, role: str) -> None:
    """The status, right after completion, is that of the role."""
    status = await h.status()
    wanted = "ACTIVE" if role == "QUIESCED" else role
    expect(status.role == ROLES[wanted], f"{wanted} was completed, the status says {role_name(status.role)}")
    accepts = role == "ACTIVE"
    expect(status.accepting == accepts, f"as {role} accepting is {status.accepting}")


def _transition(origin: str, target: str) -> None:
    capabilities = (Capability.POSITION,) if origin == "QUIESCED" else ()

    @check(
        f"role-{origin.lower()}-to-{target.lower()}",
        "GD-ROLE-002",
        "GD-ROLE-003",
        "GD-ROLE-005" if target == "ACTIVE" else "GD-ROLE-004",
        capabilities=capabilities,
        sentence=f"{origin} becomes {target}, and the status shows it at once.",
    )
    async def body(h: Harness) -> None:
        await h.reach(origin)
        await h.reach(target)
        await shows(h, target)


def _fresh(target: str) -> None:
    @check(
        f"role-fresh-to-{target.lower()}",
        "GD-ROLE-002",
        "GD-ROLE-003",
        needs=("process",),
        sentence=f"A driver that was just started gives the component {target}.",
    )
    async def body(h: Harness) -> None:
        await h.reach("FENCED")
        await h.restart(kill=False)
        await h.reach(target)
        await shows(h, target)


def _idempotent(role: str) -> None:
    @check(
        f"role-ten-times-{role.lower()}",
        "GD-ROLE-001",
        sentence=f"{role} ten times over changes nothing more.",
    )
    async def body(h: Harness) -> None:
        await h.reach(role)
        active = h.peer if role == "STANDBY" else None
        before = await h.status()
        for time in range(10):
            request = h.request(role, h.epoch, active=active)
            answer = await h.site.call("EnsureRole", request)
            expect(answer.progress.completed, f"time {time + 1} is not completed any more: {answer.progress.message}")
            after = await h.status()
            last = 3 if role == "STANDBY" else 4  # what follows moves its position by itself
            same = facts(before)[:last] == facts(after)[:last]
            expect(same, f"before {facts(before)}, after time {time + 1} {facts(after)}")


for _origin in ("ACTIVE", "STANDBY", "FENCED", "INVALIDATED", "QUIESCED"):
    for _target in ROLES:
        _transition(_origin, _target)
for _role in ROLES:
    _fresh(_role)
    _idempotent(_role)


@check("role-unspecified", "GD-ROLE-006")
async def unspecified(h: Harness) -> None:
    """No role is refused, and the component stays as it is."""
    await _refused_role(h, 0)


@check("role-unknown", "GD-ROLE-006")
async def unknown(h: Harness) -> None:
    """A role that the contract does not know is refused, and the component stays as it is."""
    await _refused_role(h, 77)


async def _refused_role(h: Harness, number: int) -> None:
    await h.reach("ACTIVE")
    before = await h.status()
    request = h.request("FENCED", h.epoch)
    request.role = number  # type: ignore[assignment]
    await h.refusal("EnsureRole", request, INVALID)
    after = await h.status()
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("role-set-without-active", "GD-ROLE-007")
async def set_without_active(h: Harness) -> None:
    """A synchronous set with STANDBY, FENCED or INVALIDATED is refused."""
    for role in ("STANDBY", "FENCED", "INVALIDATED"):
        request = h.request(role, h.epoch)
        request.synchronous_set.append(h.config.site.name)
        await h.refusal("EnsureRole", request, INVALID)


@check("role-active-without-epoch", "GD-ROLE-008")
async def active_without_epoch(h: Harness) -> None:
    """ACTIVE without an epoch is refused and opens nothing."""
    await h.reach("FENCED")
    await h.refusal("EnsureRole", h.request("ACTIVE", 0), INVALID)
    expect(not (await h.status()).accepting, "it accepts")


@check("role-progress", "GD-ROLE-009")
async def progress(h: Harness) -> None:
    """Answers on the way say when to call again and what is waited for."""
    await h.reach("FENCED")
    await h.ensure("ACTIVE")  # `finish` looks at each answer
    await h.ensure("FENCED")


@check("role-completed-means-observed", "GD-ROLE-003", "GD-STATUS-001")
async def completed_means_observed(h: Harness) -> None:
    """As long as ACTIVE is not completed, nobody is accepted for it; once completed, it is."""
    await h.reach("FENCED")
    epoch = h.next_epoch()
    for _ in range(int(h.budget.transition_s / 0.05)):
        answer = await h.site.call("EnsureRole", h.request("ACTIVE", epoch))
        status = await h.status()
        if answer.progress.completed:
            expect(status.accepting, "completed, and not accepting")
            return
        await asyncio.sleep(0.05)
    raise Violation("ACTIVE was never completed")


@check("role-set-in-force", "GD-ROLE-010", capabilities=(Capability.SYNCHRONOUS,))
async def set_in_force(h: Harness) -> None:
    """The status of the active tells the synchronous set that was given."""
    await h.reach("ACTIVE")
    told = set((await h.status()).synchronous_set)
    expect(told == {h.config.site.name}, f"given was {h.config.site.name}, told is {told}")


@check("role-set-replaced", "GD-ROLE-010", capabilities=(Capability.SYNCHRONOUS,), needs=("peer",))
async def set_replaced(h: Harness) -> None:
    """A larger and then a smaller set replaces the one in force, and the component stays ACTIVE."""
    assert h.peer is not None
    await h.lead()
    for names in ((h.config.site.name, h.peer.side.name), (h.config.site.name,)):
        await h.ensure("ACTIVE", epoch=h.epoch, synchronous=names)
        status = await h.status()
        expect(status.role == pb.ROLE_ACTIVE, f"it is {role_name(status.role)} with the set {names}")
        expect(set(status.synchronous_set) == set(names), f"given {names}, told {list(status.synchronous_set)}")


@check("role-set-not-for-others", "GD-ROLE-010", capabilities=(Capability.SYNCHRONOUS,))
async def set_not_for_others(h: Harness) -> None:
    """A fenced component has no set in force."""
    await h.reach("ACTIVE")
    await h.reach("FENCED")
    told = list((await h.status()).synchronous_set)
    expect(not told, f"told is {told}")


def _after_begun(role: str) -> None:
    @check(
        f"role-{role.lower()}-after-begun-active",
        "GD-ROLE-013",
        "GD-ROLE-004",
        sentence=f"{role} after an ACTIVE that was begun wins, and nothing opens later.",
    )
    async def body(h: Harness) -> None:
        await h.reach("FENCED")
        await h.site.call("EnsureRole", h.request("ACTIVE", h.next_epoch()))
        await h.ensure(role)
        for _ in range(20):
            status = await h.status()
            expect(not status.accepting and status.role == ROLES[role], f"later it is {role_name(status.role)}")
            await asyncio.sleep(0.02)


_after_begun("FENCED")
_after_begun("INVALIDATED")


async def _while_changing(h: Harness, change: Coroutine[Any, Any, Any], kept: Callable[[Any], bool], what: str) -> None:
    """Looks at the status without a pause until a change has ended."""
    task = asyncio.create_task(change)
    try:
        while not task.done():
            status = await h.status()
            expect(kept(status), f"{what}: it is {role_name(status.role)}, accepting {status.accepting}")
    finally:
        await task


@check("role-active-again-stays-open", "GD-ROLE-001")
async def again_stays_open(h: Harness) -> None:
    """ACTIVE again in the same epoch never leaves ACTIVE, nor stops accepting."""
    await h.reach("ACTIVE")

    def kept(status: Any) -> bool:
        return bool(status.role == ROLES["ACTIVE"] and status.accepting)

    for _ in range(3):
        await _while_changing(h, h.ensure("ACTIVE", epoch=h.epoch), kept, "while the same ACTIVE came again")


@check("role-set-replaced-while-active", "GD-ROLE-010", capabilities=(Capability.SYNCHRONOUS,), needs=("peer",))
async def set_replaced_while_active(h: Harness) -> None:
    """The component is ACTIVE all the time while another synchronous set takes the place of the one in force."""
    assert h.peer is not None
    await h.lead()

    def kept(status: Any) -> bool:
        return bool(status.role == ROLES["ACTIVE"])

    for names in ((h.config.site.name,), (h.config.site.name, h.peer.side.name)):
        change = h.ensure("ACTIVE", epoch=h.epoch, synchronous=names)
        await _while_changing(h, change, kept, f"while the set became {', '.join(names)}")


@check("role-active-accepts-write", "GD-ROLE-005", needs=("hook:write",))
async def active_accepts_write(h: Harness) -> None:
    """A client can write to the active."""
    await h.reach("ACTIVE")
    await h.write()


def _refuses(role: str) -> None:
    capabilities = (Capability.POSITION,) if role == "QUIESCED" else ()
    # With data behind it, whoever tells FENCED and serves on has a second active.
    guards = (Capability.POSITION, Capability.RESYNC, Capability.SYNCHRONOUS) if role == "FENCED" else ()

    @check(
        f"role-{role.lower()}-refuses-write",
        "GD-ROLE-012",
        "GD-ROLE-004",
        capabilities=capabilities,
        needs=("hook:write",),
        guards=guards,
        unproved="a driver that tells FENCED and goes on serving clients" if guards else "",
        sentence=f"A client cannot write while the component is {role}.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        await h.reach(role)
        value = h.new_value()
        try:
            await h.hook("write", value)
        except Exception:  # whatever a client meets: it was refused
            return
        raise Violation(f"a client could write to a component that is {role}")


for _role in ("STANDBY", "FENCED", "INVALIDATED", "QUIESCED"):
    _refuses(_role)


@check("role-write-survives-fencing", "GD-ROLE-011", needs=("hook:write", "hook:read"))
async def write_survives_fencing(h: Harness) -> None:
    """An acknowledged write is still there after FENCED and ACTIVE again."""
    await h.reach("ACTIVE")
    value = await h.write()
    await h.reach("FENCED")
    await h.reach("ACTIVE")
    expect(await h.has(value), f"{value} was acknowledged and is gone")


@check("role-write-survives-invalidated", "GD-ROLE-011", needs=("hook:write", "hook:read"))
async def write_survives_invalidated(h: Harness) -> None:
    """An acknowledged write is still there after INVALIDATED and ACTIVE again."""
    await h.reach("ACTIVE")
    value = await h.write()
    await h.reach("INVALIDATED")
    await h.reach("ACTIVE")
    expect(await h.has(value), f"{value} was acknowledged and is gone")


@check(
    "role-write-survives-restart",
    "GD-ROLE-011",
    needs=("hook:write", "hook:read", "process"),
    guards=(Capability.POSITION,),
    unproved="a driver that loses acknowledged writes when it is killed",
)
async def write_survives_restart(h: Harness) -> None:
    """An acknowledged write is still there after kill -9 of the driver and ACTIVE again."""
    await h.reach("ACTIVE")
    value = await h.write()
    await h.restart()
    await h.reach("ACTIVE")
    expect(await h.has(value), f"{value} was acknowledged and is gone")


@check(
    "role-write-follows",
    "GD-ROLE-011",
    needs=("hook:write", "hook:read", "peer"),
    capabilities=(Capability.SYNCHRONOUS,),
    guards=(Capability.SYNCHRONOUS,),
    unproved="a driver that loses acknowledged writes in a planned move",
)
async def write_follows(h: Harness) -> None:
    """A write at the active is at the promoted standby after a planned move."""
    assert h.peer is not None
    await h.lead()
    value = await h.write()
    position = await h.quiesce()
    request = pb.AwaitPositionRequest(spec=h.spec(h.peer), position=position, timeout_ms=5000)
    answer = await h.peer.call("AwaitPosition", request, 20)
    expect(answer.reached, f"the standby did not reach {position}: {answer.message}")
    epoch = h.next_epoch()
    await h.ensure("FENCED", epoch=epoch)
    await h.ensure("ACTIVE", h.peer, epoch)
    expect(await h.has(value, h.peer), f"{value} was acknowledged and is not at {h.peer.side.name}")


@check("role-unreachable-peer-fences", "GD-ROLE-002", "GD-ROLE-004", needs=("unreachable",))
async def unreachable_peer_fences(h: Harness) -> None:
    """FENCED completes though the peer cannot be reached."""
    await h.reach("ACTIVE")
    request = h.request("FENCED", h.next_epoch())
    del request.peers[:]
    peer = request.peers.add(site="elsewhere", role=pb.ROLE_ACTIVE)
    peer.parameters.update(dict(h.config.unreachable_peer or {}))
    try:
        await h.finish("EnsureRole", lambda: request)
    except Refused as refused:
        raise Violation(str(refused)) from None
    await shows(h, "FENCED")
