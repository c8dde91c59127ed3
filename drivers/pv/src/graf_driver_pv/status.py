"""Observed facts as the contract's status. Pure but for looking at the component."""

from __future__ import annotations

import time
from collections.abc import Mapping

from graf_driver_sdk.types import Follower as FollowerStatus
from graf_driver_sdk.types import Health, Role, Status

from graf_driver_pv.active import Active
from graf_driver_pv.component import Component
from graf_driver_pv.follow import Follower

_CONNECTED_S = 3.0


def observe(component: Component) -> Status:
    """What is so now."""
    if lost := component.lost():
        return _lost(component, lost)
    if component.is_open or (component.record.role is Role.ACTIVE and component.record.quiesced):
        return _active(component)
    if component.record.role is Role.STANDBY and component.follower is not None:
        return _standby(component, component.follower)
    role, message = component.record.role, ""
    if role is Role.ACTIVE or (role is Role.STANDBY and component.record.followed):
        message = f"nothing is open and nobody is followed since a restart; it was {role.name}"
        role = Role.FENCED
    positions = component.store.positions()
    return Status(
        role,
        Health.HEALTHY,
        position=str(positions[0]) if positions else "",
        message=message,
        promotable_reason=message or f"it is {role.name} and follows nobody",
        facts=_facts(component),
    )


def _lost(component: Component, why: str) -> Status:
    """Dead is proved: there is nothing left that could be opened here."""
    active = component.active
    return Status(
        component.record.role,
        Health.DEAD,
        position=active.position if active is not None else "",
        promotable_reason=why,
        message=f"{why}; put an empty volume in its place, it is filled by the site that serves",
        facts=_facts(component) | {"lost": "yes"} | ({"copying": active.problem} if active and active.problem else {}),
    )


def _active(component: Component) -> Status:
    active, facts = component.active, _facts(component)
    if active is None:
        message = "the volume is open; its driver was restarted and does not copy until it is asked again"
        return Status(
            Role.ACTIVE,
            Health.INITIALISING,
            accepting=component.is_served,
            promotable_reason="it is the active",
            message=message,
            facts=facts,
        )
    now_ns = time.monotonic_ns()
    rpo = {}
    followers = []
    for site in sorted(active.outlet.callers):
        heard = active.outlet.heard.get(site)
        age_s = (now_ns - heard.at_ns) / 1e9 if heard else -1.0
        behind_s = heard.behind_s + age_s if heard and heard.behind_s >= 0 else -1.0
        connected = 0 <= age_s < _CONNECTED_S
        followers.append(FollowerStatus(site, connected, False, int(max(behind_s, 0.0) * 1000)))
        rpo[f"rpo_seconds_{site}"] = f"{behind_s:.2f}" if behind_s >= 0 else "unknown"
    facts |= rpo | _active_facts(active) | active.outlet.facts()
    if component.quiescing is not None or component.record.quiesced:
        facts["quiesced"] = "yes"
    problem = active.problem
    if not problem:
        problem = _late(facts, component.parameters.rpo_s)
    if component.is_open and not component.is_served:
        problem = f"{component.layout.current} leads nowhere: the live copy is gone"
    return Status(
        Role.ACTIVE,
        Health.UNHEALTHY if problem else Health.HEALTHY,
        accepting=component.is_served,
        position=active.position,
        lag_seconds=0.0,
        promotable=False,
        promotable_reason="it is the active",
        followers=tuple(followers),
        message=problem,
        facts=facts,
    )


def _late(facts: Mapping[str, str], rpo_s: float) -> str:
    """Restic tries for minutes before it says what is wrong. Without the figure, which grows."""
    if float(facts.get("rpo_seconds_repository", 0)) <= rpo_s:
        return ""
    what = f": putting {facts['uploading']} there is under way" if "uploading" in facts else ""
    lacks = f"the repository lacks more than the {rpo_s:g} s of changes that may be lost"
    return f"{lacks}{what}; see that it can be written"


def _active_facts(active: Active) -> dict[str, str]:
    known = active.manifest
    facts = {
        "generations_made": str(active.seals),
        "full_scans": str(active.full_scans),
        "last_generation_seconds": f"{active.last_seal_s:.3f}",
        "last_comparison_seconds": f"{active.last_comparison_s:.3f}",
    }
    if known is not None:
        facts |= {"files": str(len(known.entries)), "consistency": known.consistency}
        facts["pending_change_seconds"] = f"{active.behind_s(str(known.position), known.begun_wall_ms):.2f}"
    if active.watcher is not None:
        facts["event_overflows"] = str(active.watcher.overflows)
        if active.watcher.problem:
            facts["events"] = active.watcher.problem
    return facts


def _standby(component: Component, follower: Follower) -> Status:
    lag_s, rpo_s = follower.lag_s(), component.parameters.rpo_s
    newest = follower.newest
    facts = _facts(component) | {
        "active": follower.peer_site,
        "rpo_seconds": f"{lag_s:.2f}" if lag_s >= 0 else "unknown",
        "generations_received": str(follower.pulls),
        "last_copy_seconds": f"{follower.last_pull_s:.3f}",
    }
    if newest is not None:
        facts |= {"files": str(len(newest.entries)), "consistency": newest.consistency}
    if follower.pulling:
        facts["receiving"] = follower.pulling
    reason = ""
    if newest is None:
        reason = f"no complete generation yet: {follower.problem or follower.pulling or 'waiting for the first'}"
    elif lag_s < 0:
        reason = f"how far {follower.peer_site} is ahead is unknown: {follower.problem or 'not asked yet'}"
    elif lag_s > rpo_s:
        reason = (
            # How much is told beside it, and changes all the time.
            f"more than the {rpo_s:g} s of changes that may be lost may be missing: {follower.problem or 'copying'}"
        )
    elif follower.diverged:
        reason = follower.problem
    return Status(
        Role.STANDBY,
        Health.INITIALISING if newest is None else Health.UNHEALTHY if follower.diverged else Health.HEALTHY,
        position=str(newest.position) if newest else "",
        lag_seconds=lag_s,
        promotable=not reason,
        promotable_reason=reason,
        message=follower.problem,
        facts=facts,
    )


def _facts(component: Component) -> dict[str, str]:
    return {
        "directory": str(component.layout.root),
        "rpo_declared_seconds": f"{component.parameters.rpo_s:g}",
        "generations": ",".join(str(position) for position in component.store.positions()),
        "served_epoch": str(component.record.served_epoch),
    }
