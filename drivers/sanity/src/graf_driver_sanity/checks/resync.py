"""Assess and Resync: capability RESYNC."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import FORBIDDEN, INVALID, active_peer, ended, facts
from graf_driver_sanity.harness import Harness, HookError, Refused, struct
from graf_driver_sanity.registry import CannotCheck, Violation, check, expect

RESYNC = (Capability.RESYNC,)
WRITES = ("peer", "hook:write")


async def behind(h: Harness) -> str:
    """The site lacks a write of the active peer; its value."""
    assert h.peer is not None
    await h.follow()
    await h.ensure("FENCED", epoch=h.epoch)
    await h.ensure("ACTIVE", h.peer, h.epoch)  # with itself alone: it waits for nobody's acknowledgement
    return await h.write(h.peer)


async def common(h: Harness) -> None:
    """Both sites have the same, at least one write."""
    assert h.peer is not None
    await h.follow()
    value = await h.write(h.peer)
    answer: Any = None

    async def here() -> bool:
        nonlocal answer
        answer = await h.assess()
        return bool(answer.verdict == pb.VERDICT_CLEAN)

    try:
        await h.eventually(f"the standby follows up to {value}", here)
    except Violation as violation:
        told = (
            f"{name_of(answer.verdict)}, here {answer.local_position}, there {answer.active_position}: {answer.message}"
        )
        raise Violation(f"{violation}; {told}") from None


async def diverged(h: Harness) -> str:
    """Both sites have a write that the other lacks, after a common history; the site's is given."""
    assert h.peer is not None
    await common(h)
    await h.ensure("FENCED", h.peer, h.epoch)
    await h.ensure("ACTIVE")
    value = await h.write()
    await h.ensure("FENCED", epoch=h.epoch)
    await h.ensure("ACTIVE", h.peer)
    await h.ensure("INVALIDATED", epoch=h.epoch)
    await h.write(h.peer)
    return value


def name_of(verdict: int) -> str:
    """For people."""
    return pb.Verdict.Name(verdict) if verdict in pb.Verdict.values() else str(verdict)  # type: ignore[arg-type]


async def expect_verdict(h: Harness, *wanted: int) -> pb.AssessResponse:
    """The verdict is one of those wanted."""
    answer: pb.AssessResponse = await h.assess()
    names = " or ".join(map(name_of, wanted))
    expect(answer.verdict in wanted, f"wanted {names}, the verdict is {name_of(answer.verdict)} ({answer.message})")
    return answer


@check("resync-verdict-clean", "GD-RESYNC-001", capabilities=RESYNC, needs=WRITES)
async def clean(h: Harness) -> None:
    """A site that has what the active has is CLEAN."""
    await common(h)
    await h.ensure("INVALIDATED", epoch=h.epoch)
    await expect_verdict(h, pb.VERDICT_CLEAN)


@check("resync-verdict-behind", "GD-RESYNC-002", capabilities=RESYNC, needs=WRITES)
async def is_behind(h: Harness) -> None:
    """A site that only lacks something is BEHIND."""
    await common(h)
    await behind(h)
    await expect_verdict(h, pb.VERDICT_BEHIND)


@check(
    "resync-verdict-diverged",
    "GD-RESYNC-003",
    capabilities=RESYNC,
    needs=WRITES,
    guards=RESYNC,
    unproved="a driver that never sees that a site has diverged",
)
async def is_diverged(h: Harness) -> None:
    """A site that has what the active lacks is DIVERGED."""
    await diverged(h)
    await expect_verdict(h, pb.VERDICT_DIVERGED)
    await _rebuild(h)


@check("resync-verdict-ahead", "GD-RESYNC-003", capabilities=RESYNC, needs=WRITES)
async def is_ahead(h: Harness) -> None:
    """A site that only has too much is DIVERGED, though nothing is missing."""
    assert h.peer is not None
    await common(h)
    await h.ensure("FENCED", h.peer, h.epoch)
    await h.ensure("ACTIVE")
    await h.write()
    await h.ensure("FENCED", epoch=h.epoch)
    await h.ensure("ACTIVE", h.peer)
    await expect_verdict(h, pb.VERDICT_DIVERGED)
    await _rebuild(h)


@check("resync-names-divergent", "GD-RESYNC-003", capabilities=RESYNC, needs=WRITES)
async def names_divergent(h: Harness) -> None:
    """The verdict DIVERGED names what only this site has; CLEAN names nothing."""
    await diverged(h)
    answer = await h.assess()
    expect(bool(answer.divergent), "divergent is empty")
    await _rebuild(h)
    answer = await h.assess()
    expect(not answer.divergent, f"after the rebuild divergent is {answer.divergent!r}")


@check("resync-verdict-empty", "GD-RESYNC-004", capabilities=RESYNC, needs=(*WRITES, "hook:wipe"))
async def empty(h: Harness) -> None:
    """A site without data is EMPTY."""
    await common(h)
    await h.ensure("INVALIDATED", epoch=h.epoch)
    await h.hook("wipe")
    await expect_verdict(h, pb.VERDICT_EMPTY)
    await _rebuild(h)


@check(
    "resync-wiped-not-promotable",
    "GD-STATUS-006",
    capabilities=(*RESYNC, Capability.SYNCHRONOUS),
    needs=(*WRITES, "hook:wipe"),
    guards=(Capability.SYNCHRONOUS,),
    unproved="a driver that always says promotable, also without any data",
)
async def wiped_not_promotable(h: Harness) -> None:
    """A component whose data is gone is not promotable, whatever its role, and says why."""
    await common(h)
    await h.ensure("INVALIDATED", epoch=h.epoch)
    await h.hook("wipe")
    for role in ("INVALIDATED", "FENCED"):
        await h.ensure(role, epoch=h.epoch)
        status = await h.status()
        seen = f"without data, as {role}: promotable {status.promotable}, reason {status.promotable_reason!r}"
        expect(not status.promotable and bool(status.promotable_reason), seen)
    await _rebuild(h)


@check("resync-verdict-unknown", "GD-RESYNC-005", capabilities=RESYNC, needs=("unreachable",))
async def unknown(h: Harness) -> None:
    """An active that cannot be read gives UNKNOWN or an error, never CLEAN."""
    await h.reach("FENCED")
    peer = pb.Peer(site="elsewhere", role=pb.ROLE_ACTIVE, parameters=struct(h.config.unreachable_peer or {}))
    try:
        answer = await h.site.call("Assess", pb.AssessRequest(spec=h.spec(), active=peer), h.budget.transition_s)
    except Refused:
        return
    expect(answer.verdict == pb.VERDICT_UNKNOWN, f"the verdict is {name_of(answer.verdict)}")
    expect(bool(answer.message), "UNKNOWN comes without a message")


@check("resync-unknown-beside-fencing", "GD-CALL-007", "GD-STATUS-005", capabilities=RESYNC, needs=("unreachable",))
async def unknown_beside_fencing(h: Harness) -> None:
    """The status comes and FENCED is completed while Assess waits for an active that cannot be reached."""
    await h.reach("FENCED")
    peer = pb.Peer(site="elsewhere", role=pb.ROLE_ACTIVE, parameters=struct(h.config.unreachable_peer or {}))
    timeout_s = h.budget.transition_s * 2 + 5
    handle = await h.site.begun("Assess", pb.AssessRequest(spec=h.spec(), active=peer), timeout_s, 0.05)
    try:
        await h.status()
        await h.ensure("FENCED")
    finally:
        await ended(handle)


@check("resync-invalidated-follows-nobody", "GD-RESYNC-002", "GD-ROLE-004", capabilities=RESYNC, needs=WRITES)
async def invalidated_follows_nobody(h: Harness) -> None:
    """A standby that was made INVALIDATED gets nothing more: it is BEHIND after a write of the active."""
    assert h.peer is not None
    await common(h)
    await h.ensure("INVALIDATED", epoch=h.epoch)
    await h.ensure("ACTIVE", h.peer, h.epoch)  # with itself alone: it waits for nobody's acknowledgement
    await h.write(h.peer)
    await h.status()
    await expect_verdict(h, pb.VERDICT_BEHIND)


@check("resync-behind-is-no-lag-of-0", "GD-STATUS-008", capabilities=RESYNC, needs=WRITES)
async def behind_is_told(h: Harness) -> None:
    """A site that lacks a write for more than a second comes to tell a lag of as much, or that it does not know."""
    await behind(h)
    await asyncio.sleep(1.2)
    told: Any = None

    async def is_told() -> bool:
        nonlocal told
        told = await h.status()
        return bool((told.lag_seconds < 0 or told.lag_seconds >= 1) and told.lag_transactions != 0)

    def words() -> str:
        return f"told are {told.lag_seconds:g} s and {told.lag_transactions} transactions"

    ends = time.monotonic() + h.budget.transition_s  # who looks each few seconds tells it at the next look
    while not await is_told():
        expect(time.monotonic() < ends, f"a write is missing for more than 1.2 s, {words()}")
        await asyncio.sleep(0.05)
    for _ in range(5):
        expect(await is_told(), f"a write is missing and was told so, later {words()}")
        await asyncio.sleep(0.02)


@check("resync-assess-ten-times", "GD-RESYNC-006", capabilities=RESYNC, needs=WRITES)
async def assess_ten_times(h: Harness) -> None:
    """Assess ten times gives one verdict and changes nothing."""
    await behind(h)
    before = await h.status()
    said = {(await h.assess()).verdict for _ in range(10)}
    after = await h.status()
    expect(said == {pb.VERDICT_BEHIND}, f"verdicts {sorted(map(name_of, said))}")
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("resync-assess-keeps-divergent", "GD-RESYNC-006", capabilities=RESYNC, needs=(*WRITES, "hook:read"))
async def assess_keeps(h: Harness) -> None:
    """Assess leaves what diverged."""
    await diverged(h)
    before = await h.status()
    await h.assess()
    after = await h.status()
    if not before.position:  # a server that is down has none to tell
        before.position = after.position
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")
    await expect_verdict(h, pb.VERDICT_DIVERGED)
    await _rebuild(h)


async def _rebuild(h: Harness) -> str:
    assert h.peer is not None
    answer = await h.resync(h.site, h.peer, h.epoch, pb.RESYNC_STRATEGY_REBUILD)
    return str(answer.archive)


async def catch_up(h: Harness, strategy: pb.ResyncStrategy.ValueType) -> None:
    """Resync until the verdict is CLEAN: an active that gives a copy now and then may give the next one meanwhile."""

    async def caught_up() -> bool:
        assert h.peer is not None
        await h.resync(h.site, h.peer, h.epoch, strategy)
        return bool((await h.assess()).verdict == pb.VERDICT_CLEAN)

    await h.eventually("the verdict is CLEAN after a Resync that was completed", caught_up)


@check("resync-catches-up", "GD-RESYNC-007", capabilities=RESYNC, needs=WRITES)
async def catches_up(h: Harness) -> None:
    """After Resync of a site that was behind the verdict is CLEAN, and it can stand by."""
    assert h.peer is not None
    await behind(h)
    await catch_up(h, pb.RESYNC_STRATEGY_UNSPECIFIED)
    await h.ensure("STANDBY", epoch=h.epoch, active=h.peer)


@check("resync-follow-catches-up", "GD-RESYNC-007", capabilities=RESYNC, needs=WRITES)
async def follow_catches_up(h: Harness) -> None:
    """After Resync with FOLLOW of a site that was behind the verdict is CLEAN."""
    assert h.peer is not None
    await common(h)
    await behind(h)
    try:
        await catch_up(h, pb.RESYNC_STRATEGY_FOLLOW)
    except Refused as refused:
        expect(refused.code is FORBIDDEN, str(refused))
        raise CannotCheck(f"what is missing cannot be got by following here: {refused.message[:120]}") from None


@check("resync-rebuild-of-clean", "GD-RESYNC-007", "GD-RESYNC-010", capabilities=RESYNC, needs=(*WRITES, "hook:read"))
async def rebuild_of_clean(h: Harness) -> None:
    """REBUILD of a site that lacks nothing completes, twice, and leaves it with all that the active has."""
    assert h.peer is not None
    await common(h)
    value = await h.write(h.peer)
    await h.ensure("FENCED", epoch=h.epoch)
    for _ in range(2):
        await _rebuild(h)
        await expect_verdict(h, pb.VERDICT_CLEAN)
    await h.reach("ACTIVE")
    expect(await h.has(value), f"{value} is missing after two rebuilds")


@check("resync-rebuilds", "GD-RESYNC-007", capabilities=RESYNC, needs=WRITES)
async def rebuilds(h: Harness) -> None:
    """After Resync with REBUILD of a diverged site the verdict is CLEAN, and it can stand by."""
    assert h.peer is not None
    await diverged(h)
    await _rebuild(h)
    await expect_verdict(h, pb.VERDICT_CLEAN)
    await h.ensure("STANDBY", epoch=h.epoch, active=h.peer)


@check("resync-driver-chooses", "GD-RESYNC-007", "GD-RESYNC-008", capabilities=RESYNC, needs=WRITES)
async def driver_chooses(h: Harness) -> None:
    """Resync without a strategy brings a diverged site back too, with an archive."""
    assert h.peer is not None
    await diverged(h)
    answer = await h.resync(h.site, h.peer, h.epoch)
    expect(bool(answer.archive), "diverged data was removed and no archive named")
    await expect_verdict(h, pb.VERDICT_CLEAN)


@check("resync-archives", "GD-RESYNC-008", capabilities=RESYNC, needs=WRITES)
async def archives(h: Harness) -> None:
    """REBUILD of a diverged site says where its data went."""
    await diverged(h)
    archive = await _rebuild(h)
    expect(bool(archive), "archive is empty")


@check(
    "resync-archive-holds",
    "GD-RESYNC-008",
    capabilities=RESYNC,
    needs=(*WRITES, "hook:archived"),
    guards=RESYNC,
    unproved="a driver that names an archive and throws away what diverged",
)
async def archive_holds(h: Harness) -> None:
    """What only this site had can be found in the archive that REBUILD names."""
    only_here = await diverged(h)
    await _in_archive(h, only_here, await _rebuild(h))


@check("resync-archive-stays", "GD-RESYNC-008", capabilities=RESYNC, needs=(*WRITES, "hook:archived"))
async def archive_stays(h: Harness) -> None:
    """An archive still holds what diverged after the same REBUILD again, and after that of another divergence."""
    first = await diverged(h)
    archive = await _rebuild(h)
    await _rebuild(h)
    await _in_archive(h, first, archive)
    second = await diverged(h)
    await _in_archive(h, second, await _rebuild(h))
    await _in_archive(h, first, archive)


async def _in_archive(h: Harness, value: str, archive: str) -> None:
    expect(bool(archive), "archive is empty")
    try:
        found = (await h.hook("archived", archive)).split()
    except HookError as error:
        raise Violation(f"the archive {archive} cannot be read: {error}") from error
    expect(value in found, f"{value} is not in {archive}, where {len(found)} values are")


def _cut_short(how: str) -> None:
    @check(
        f"resync-{how}-half-way",
        "GD-RESYNC-007",
        "GD-RESYNC-008",
        "GD-CRASH-001" if how == "killed" else "GD-CALL-003",
        capabilities=RESYNC,
        needs=(*WRITES, "process") if how == "killed" else WRITES,
        sentence=f"A REBUILD that was {how} half-way is completed by the same call, and what diverged is archived.",
    )
    async def body(h: Harness) -> None:
        assert h.peer is not None
        for pause_s in (0.03, 0.3, 1.5):  # the later ones are for components that take their time
            only_here = await diverged(h)
            request = pb.ResyncRequest(
                spec=h.spec(),
                active=h.peer_message(h.peer, "ACTIVE"),
                strategy=pb.RESYNC_STRATEGY_REBUILD,
                epoch=h.epoch,
            )
            handle = await h.site.begun("Resync", request, h.budget.transition_s, pause_s)
            whole = handle.done() and await handle.code() is grpc.StatusCode.OK and (await handle).progress.completed
            if how == "killed" and not whole:
                await h.restart()
            await ended(handle)
            await h.ensure("INVALIDATED", epoch=h.epoch)  # once what could not be stopped has ended
            # What was done to the end after its caller had gone was told to nobody: its archive is not known here.
            before = None if whole else (await h.assess()).verdict
            archive = str((await handle).archive) if whole else await _rebuild(h)
            await expect_verdict(h, pb.VERDICT_CLEAN)
            if "archived" in h.config.hooks and before != pb.VERDICT_CLEAN:
                await _in_archive(h, only_here, archive)
            if whole:
                return


_cut_short("cancelled")
_cut_short("killed")


@check("resync-from-nowhere", "GD-RESYNC-007", "GD-RESYNC-008", capabilities=RESYNC, needs=(*WRITES, "unreachable"))
async def from_nowhere(h: Harness) -> None:
    """REBUILD from an active that cannot be read is not completed, and costs nothing of what diverged."""
    assert h.peer is not None
    only_here = await diverged(h)
    nowhere = pb.Peer(site="elsewhere", role=pb.ROLE_ACTIVE, parameters=struct(h.config.unreachable_peer or {}))
    request = pb.ResyncRequest(
        spec=h.spec(), active=nowhere, strategy=pb.RESYNC_STRATEGY_REBUILD, epoch=h.epoch
    )  # fmt: skip
    try:
        answer = await h.site.call("Resync", request)
        expect(not answer.progress.completed, "REBUILD from an active that cannot be read was completed")
    except Refused as refused:
        allowed = (FORBIDDEN, INVALID, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        expect(refused.code in (*allowed, grpc.StatusCode.INTERNAL), str(refused))
    archive = await _rebuild(h)
    await expect_verdict(h, pb.VERDICT_CLEAN)
    if "archived" in h.config.hooks:
        await _in_archive(h, only_here, archive)


@check("resync-beside-a-promotion", "GD-CALL-001", capabilities=RESYNC, needs=(*WRITES, "hook:read"))
async def beside_a_promotion(h: Harness) -> None:
    """ACTIVE beside a Resync in flight: what a client writes to the active is not removed by the Resync's end."""
    assert h.peer is not None
    await common(h)
    await h.ensure("FENCED", h.peer)
    await h.ensure("FENCED", epoch=h.epoch)
    request = pb.ResyncRequest(
        spec=h.spec(), active=h.peer_message(h.peer, "ACTIVE"), strategy=pb.RESYNC_STRATEGY_REBUILD, epoch=h.epoch
    )
    # Its end lets the promotion in, where a driver works on a Resync for as long as its caller waits.
    handle = await h.site.begun("Resync", request, h.budget.transition_s / 2)
    try:
        await h.ensure("ACTIVE")
        value = await h.write()
        await handle.code()
        expect(await h.has(value), f"{value} was acknowledged beside a Resync, and is gone")
    except Refused as refused:  # after a Resync, without having followed, it may lack the evidence for a promotion
        expect(refused.code is FORBIDDEN, str(refused))
    finally:
        await ended(handle)


@check(
    "resync-brings-data",
    "GD-RESYNC-007",
    capabilities=RESYNC,
    needs=(*WRITES, "hook:read"),
    guards=RESYNC,
    unproved="a driver whose Resync brings nothing",
)
async def brings_data(h: Harness) -> None:
    """What the site lacked is there once it is promoted after Resync, and what diverged is not."""
    assert h.peer is not None
    only_here = await diverged(h)
    missing = await h.write(h.peer)
    await _rebuild(h)
    await h.reach("ACTIVE")
    expect(await h.has(missing), f"{missing} is missing after Resync")
    expect(not await h.has(only_here), f"{only_here} is still there after a rebuild")


@check("resync-refused-by-active", "GD-RESYNC-009", capabilities=RESYNC)
async def refused_by_active(h: Harness) -> None:
    """Resync of the active is refused, and it stays active."""
    await h.reach("ACTIVE")
    before = await h.status()
    request = pb.ResyncRequest(spec=h.spec(), active=active_peer(h), epoch=h.epoch)
    await h.refusal("Resync", request, FORBIDDEN)
    after = await h.status()
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("resync-ten-times", "GD-RESYNC-010", capabilities=RESYNC, needs=WRITES)
async def ten_times(h: Harness) -> None:
    """Resync ten times over completes each time and leaves the site CLEAN."""
    assert h.peer is not None
    await behind(h)
    for _ in range(10):
        await h.resync(h.site, h.peer, h.epoch)
    await expect_verdict(h, pb.VERDICT_CLEAN)


@check("resync-without-active", "GD-RESYNC-011", capabilities=RESYNC)
async def without_active(h: Harness) -> None:
    """Assess and Resync without the active's site are refused."""
    await h.reach("FENCED")
    await h.refusal("Assess", pb.AssessRequest(spec=h.spec()), INVALID)
    await h.refusal("Resync", pb.ResyncRequest(spec=h.spec(), epoch=h.epoch), INVALID)


@check("resync-unknown-strategy", "GD-RESYNC-011", capabilities=RESYNC)
async def unknown_strategy(h: Harness) -> None:
    """A strategy that the contract does not know is refused."""
    await h.reach("FENCED")
    request = pb.ResyncRequest(spec=h.spec(), active=active_peer(h), epoch=h.epoch)
    request.strategy = 77  # type: ignore[assignment]
    await h.refusal("Resync", request, INVALID)


@check("resync-diverged-does-not-follow", "GD-RESYNC-012", capabilities=RESYNC, needs=WRITES)
async def does_not_follow(h: Harness) -> None:
    """STANDBY of a diverged site is refused or not completed, and its data is still there."""
    assert h.peer is not None
    await diverged(h)
    before = (await h.assess()).divergent
    try:
        answer = await h.site.call("EnsureRole", h.request("STANDBY", h.epoch, active=h.peer))
        expect(not answer.progress.completed, "STANDBY was completed")
    except Refused as refused:
        expect(refused.code in (FORBIDDEN, grpc.StatusCode.DEADLINE_EXCEEDED), str(refused))
    await h.ensure("FENCED", epoch=h.epoch)
    after = (await h.assess()).divergent
    expect(before == after, f"only here was {before!r}, and is now {after!r}")
    await _rebuild(h)


@check("resync-follow-of-diverged", "GD-RESYNC-013", capabilities=RESYNC, needs=WRITES)
async def follow_of_diverged(h: Harness) -> None:
    """FOLLOW of a diverged site is refused or not completed, and removes nothing."""
    assert h.peer is not None
    await diverged(h)
    request = pb.ResyncRequest(
        spec=h.spec(), active=h.peer_message(h.peer, "ACTIVE"), strategy=pb.RESYNC_STRATEGY_FOLLOW, epoch=h.epoch
    )
    try:
        answer = await h.site.call("Resync", request, h.budget.transition_s)
        if answer.progress.completed:
            raise Violation("FOLLOW of a diverged site was completed")
    except Refused as refused:
        expect(refused.code is FORBIDDEN, str(refused))
    await expect_verdict(h, pb.VERDICT_DIVERGED)
    await _rebuild(h)
