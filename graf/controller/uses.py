"""What the drivers of this site serve now: whether replacing one would interrupt anybody."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from graf.api.values import Role
from graf.controller.rollout import Use

if TYPE_CHECKING:
    from graf.controller.agent import GroupAgent
    from graf.controller.keeper import Keeper

_ORDER = (Use.NOTHING, Use.STANDBY, Use.UNSETTLED, Use.ACTIVE)


def uses_of(keeper: Keeper) -> dict[str, tuple[Use, str]]:
    """Driver class -> the most that it serves, and of which component in words."""
    found: dict[str, tuple[Use, str]] = {}
    for agent in keeper.agents.values():
        use, why = _use(agent, _heard(agent, keeper))
        for component in agent.components.values():
            name = component.wiring.driver_class
            if name not in found or _ORDER.index(use) > _ORDER.index(found[name][0]):
                found[name] = (use, f"{agent.config.group}/{component.name} {why}")
    return found


def _use(agent: GroupAgent, active: str) -> tuple[Use, str]:
    if agent.role is Role.ACTIVE or agent.lease is not None:
        return Use.ACTIVE, "is Active here"
    if agent.role is not Role.STANDBY:
        return Use.UNSETTLED, f"is {agent.role.value} here, and on its way to another role"
    if not active:
        return Use.UNSETTLED, "could be needed here: no active site is heard and well"
    return Use.STANDBY, f"is Standby here, {active} is Active"


def _heard(agent: GroupAgent, keeper: Keeper) -> str:
    """The active site that is heard now and says that it is well; empty when there is none."""
    now_ns = time.monotonic_ns()
    span_ns = 4 * keeper.heartbeat_ns
    return next(
        (
            name
            for name, status in agent.peers.items()
            if status.role == Role.ACTIVE.value
            and status.ready
            and keeper.links.link(name).heard_within(span_ns, now_ns)
        ),
        "",
    )
