"""The way back: a site that is not Active gets its verdict, catches up and follows the active one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from graf.api.values import Reason, Role, Stage, Verdict
from graf.controller.calls import NEEDS_RESYNC, CallFailedError
from graf.controller.components import Component, Wanted
from graf.shell.logs import event

if TYPE_CHECKING:
    from graf.controller.agent import GroupAgent

LOG = logging.getLogger("graf.returning")

ASSESS_TIMEOUT_S = 5.0
# For one answer: a driver may archive a whole directory within one call. How long all of it takes is up to the data.
RESYNC_ANSWER_S = 600.0
SETTLE_TIMEOUT_S = 60.0
RETRY_S = 0.3


async def follow(agent: GroupAgent, active: str, epoch: int) -> None:
    """Makes this site Standby of `active`. Begins again from the verdict whenever a step fails; ends when it follows.

    Until every data component has its verdict and is resynced the site is Invalidated and serves nothing.
    """
    for component in agent.components.values():
        if not component.config.holds_data:
            component.want(Wanted(Role.STANDBY, epoch, active))
    verdicts: dict[str, Verdict] = {}
    while True:
        try:
            for component in agent.components.values():
                if component.config.holds_data and component.config.stage is Stage.DATA:
                    verdicts[component.name] = await _bring_back(agent, component, active, epoch)
            break
        except CallFailedError as error:
            event(LOG, "return delayed", logging.WARNING, group=agent.config.group, cause=str(error))
            agent.records.rebuilds.under_way(agent.config.group, error.component, epoch, error.told)
            await asyncio.sleep(RETRY_S)
    agent.role = Role.STANDBY
    agent.verdict = worst(verdicts).value
    agent.records.add(
        agent.config.group,
        epoch,
        "Event",
        "Return",
        tuple(Reason("Verdict", f"{name} was {verdict.value}") for name, verdict in verdicts.items()),
        from_site=agent.site,
        to_site=active,
        message=f"{agent.site} follows {active}, its data was {agent.verdict}",
    )
    agent.tell_peers()
    agent.wake()
    await _stay_behind(agent, active, epoch)


async def keep_following(agent: GroupAgent, active: str, epoch: int) -> None:
    """Goes on as Standby of a site that went on to another epoch without a break; only the epoch is told."""
    for component in agent.components.values():
        component.want(Wanted(Role.STANDBY, epoch, active))
    await _stay_behind(agent, active, epoch)


def worst(verdicts: dict[str, Verdict]) -> Verdict:
    """The verdict of a site is the worst of its data components'."""
    order = (Verdict.CLEAN, Verdict.EMPTY, Verdict.BEHIND, Verdict.DIVERGED, Verdict.UNKNOWN)
    return max(verdicts.values(), key=order.index, default=Verdict.CLEAN)


async def _bring_back(agent: GroupAgent, component: Component, active: str, epoch: int) -> Verdict:
    component.want(Wanted(Role.INVALIDATED, epoch, active))
    if not await component.until_settled(SETTLE_TIMEOUT_S):
        raise _not_settled(component, Role.INVALIDATED)
    told = ""
    while True:
        verdict, answer = await component.assess(active, ASSESS_TIMEOUT_S)
        if verdict is not Verdict.UNKNOWN:
            break
        if answer.message != told:
            told = answer.message
            event(LOG, "verdict unknown, holding", group=agent.config.group, cause=told)
        agent.records.rebuilds.under_way(agent.config.group, component.name, epoch, told)
        await asyncio.sleep(RETRY_S)
        # A driver may wait with the start of its server until the active one is seen to serve.
        component.ask_again()
    event(
        LOG,
        "verdict",
        group=agent.config.group,
        component=component.name,
        verdict=verdict.value,
        local=answer.local_position,
        active=answer.active_position,
        divergent=answer.divergent,
    )
    group, rebuilds = agent.config.group, agent.records.rebuilds
    archive: str | None = None

    async def resync(why: Reason | None, what: str) -> str:
        if why is not None:
            rebuilds.begin(group, component.name, why, what)
        return await component.resync(
            active,
            epoch,
            rebuild=why is not None,
            timeout_s=RESYNC_ANSWER_S,
            on_pending=lambda message, where: rebuilds.under_way(group, component.name, epoch, message, where),
        )

    if verdict is Verdict.DIVERGED:
        archive = await resync(Reason("Diverged", f"{component.name} had {answer.divergent}"), "had diverged")
    elif verdict is not Verdict.CLEAN:
        try:
            archive = await resync(None, "")
        except CallFailedError as error:
            if error.reason != NEEDS_RESYNC:
                raise
            # Nothing is too much here, but what is missing cannot be followed any more.
            event(LOG, "cannot follow, rebuilding", logging.WARNING, group=group, cause=str(error))
            archive = await resync(Reason("CannotFollow", error.told), "could not follow any more")
    # Also one that another run of this controller began, or that ended while none ran.
    rebuilds.ended(group, component.name, epoch, active, archive)
    component.want(Wanted(Role.STANDBY, epoch, active))
    if not await component.until_settled(SETTLE_TIMEOUT_S):
        raise _not_settled(component, Role.STANDBY)
    return verdict


async def _stay_behind(agent: GroupAgent, active: str, epoch: int) -> None:
    """A standby whose data turns out to have diverged later on starts over."""
    while True:
        await asyncio.sleep(RETRY_S)
        if any(c.needs_resync for c in agent.components.values() if c.config.holds_data):
            agent.role = Role.INVALIDATED
            agent.tell_peers()
            await follow(agent, active, epoch)
            return


def _not_settled(component: Component, role: Role) -> CallFailedError:
    import grpc

    detail = component.last_error or "no answer"
    return CallFailedError(component.name, f"EnsureRole({role.value})", grpc.StatusCode.DEADLINE_EXCEEDED, detail)
