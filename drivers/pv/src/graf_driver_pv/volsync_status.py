"""Mode ``volsync``: what is told of a component, out of what was read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from graf_driver_sdk.types import Health, Role, Status

from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.record import Record
from graf_driver_pv.volsync_notes import Notes
from graf_driver_pv.volsync_parameters import VolSync

_AHEAD_S: Final = 2.0
UNKNOWN_S: Final = -1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at this site's objects; None for what is not there."""

    source: Mapping[str, Any] | None
    destination: Mapping[str, Any] | None
    claim: Mapping[str, Any] | None
    now: datetime


def position_of(found: Mapping[str, Any] | None) -> str:
    """Of the last copy that VolSync tells of."""
    synced = objects.last_sync(found)
    return f"{synced.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {objects.image_of(found)}".strip() if synced else ""


def age_s(notes: Notes, found: Mapping[str, Any] | None, now: datetime) -> tuple[float, str]:
    """An upper bound of what the newest image lacks, in seconds, and why it is not known (then it is negative)."""
    end = objects.last_sync(found)
    if end is None or not objects.image_of(found):
        return UNKNOWN_S, "VolSync has no complete copy here"
    if not notes.is_fresh(end):
        return UNKNOWN_S, "no copy has come since it follows"
    oldest = notes.not_older_than
    if notes.last is not None and end < notes.last.end:
        return (
            UNKNOWN_S,
            "VolSync's last copy ended before one that was seen earlier: a clock of this site was set back",
        )
    if notes.last is None or oldest is None:
        return UNKNOWN_S, "only one copy has been seen here: how old it was when it came is known after the next one"
    if (now - end).total_seconds() < -_AHEAD_S:
        return UNKNOWN_S, "VolSync's last copy ended in the future: a clock of this site was set"
    return max(0.0, (now - oldest).total_seconds()), ""


def rendered(own: VolSync, component: str, record: Record, notes: Notes, seen: Seen) -> Status:
    """The status of one component."""
    facts = {
        "source": _runs(seen.source),
        "destination": _runs(seen.destination),
        "claim": _claim(seen.claim),
        "rpo_declared_seconds": f"{own.rpo_s:g}",
        "served_epoch": str(record.served_epoch),
    }
    for name, found in (("source_conditions", seen.source), ("destination_conditions", seen.destination)):
        if told := objects.conditions_of(found):
            facts[name] = told
    if record.role is Role.ACTIVE:
        return _active(own, record, notes, seen, facts)
    if record.role is Role.STANDBY:
        return _standby(own, component, record, notes, seen, facts)
    reason = f"it is {record.role.name}"
    trouble = "" if objects.is_paused(seen.source) else "its source runs: somebody else let it; fence it again"
    health = Health.UNHEALTHY if trouble else Health.HEALTHY
    position = position_of(seen.destination)
    return Status(record.role, health, position=position, promotable_reason=reason, message=trouble, facts=facts)


def _active(own: VolSync, record: Record, notes: Notes, seen: Seen, facts: dict[str, str]) -> Status:
    trouble, health = objects.trouble_of(seen.source), Health.UNHEALTHY
    if seen.claim is None or objects.is_ending(seen.claim):
        trouble, health = f"PersistentVolumeClaim {own.source} is gone", Health.DEAD
    elif objects.is_paused(seen.source):
        trouble = "its source is paused or gone: nothing is copied"
    elif objects.epoch_of(seen.source or {}) > record.epoch:
        trouble = f"its source is of epoch {objects.epoch_of(seen.source or {})}: this site is deposed"
    elif not objects.is_paused(seen.destination):
        trouble = "its destination runs: somebody else let it"
    if record.quiesced:
        facts["quiesced"] = "yes"
    if copied := objects.copy_of(seen.source):
        # By this site's clock alone; what is on the way to the other site may be there already.
        facts["rpo_seconds"] = f"{max(0.0, (seen.now - copied.start).total_seconds()):.0f}"
    return Status(
        Role.ACTIVE,
        health if trouble else Health.HEALTHY,
        accepting=not record.quiesced and health is not Health.DEAD,
        position=notes.position if record.quiesced else "",  # of what is written since the last copy there is none
        lag_seconds=0.0,
        promotable_reason="it is the active",
        message=trouble,
        facts=facts,
    )


def _standby(
    own: VolSync, component: str, record: Record, notes: Notes, seen: Seen, facts: dict[str, str]
) -> Status:  # fmt: skip
    end, image = objects.last_sync(seen.destination), objects.image_of(seen.destination)
    waits = not image or not notes.is_fresh(end)
    trouble = objects.trouble_of(seen.destination)
    if objects.is_paused(seen.destination):
        trouble = "its destination is paused or gone: somebody else did that; it follows nobody"
    elif not objects.is_paused(seen.source):
        trouble = "its source runs: somebody else let it; fence it again"
    lag_s, reason = age_s(notes, seen.destination, seen.now)
    if not reason and lag_s > own.rpo_s:
        reason = f"what it lacks may be older than the {own.rpo_s:g} s that may be lost"
    if not waits and seen.claim is not None and objects.annotation(seen.claim, objects.COMPONENT) != component:
        reason = (
            f"PersistentVolumeClaim {own.source} is not of {component}: a promotion would not replace it; delete it"
        )
        trouble = trouble or reason
    if not waits:
        facts["promote_image"] = image
    facts["rpo_seconds"] = f"{lag_s:.0f}" if lag_s >= 0 else "unknown"
    return Status(
        Role.STANDBY,
        Health.UNHEALTHY if trouble else Health.INITIALISING if waits else Health.HEALTHY,
        position=position_of(seen.destination),
        lag_seconds=lag_s,
        promotable=not reason,
        promotable_reason=reason,
        message=trouble,
        facts=facts,
    )


def _runs(found: Mapping[str, Any] | None) -> str:
    return "none" if found is None else "paused" if objects.is_paused(found) else "running"


def _claim(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none"
    image = objects.annotation(found, objects.IMAGE)
    phase = "Terminating" if objects.is_ending(found) else str(objects.status_of(found).get("phase", "Pending"))
    return f"{phase} of {image}" if image else phase
