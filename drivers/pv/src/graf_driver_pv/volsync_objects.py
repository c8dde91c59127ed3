"""Mode ``volsync``: the objects that are written, and what is read out of their status. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION, SNAPSHOT, VOLSYNC, Kind
from graf_driver_pv.volsync_notes import Copy
from graf_driver_pv.volsync_parameters import VolSync

EPOCH: Final = "graf.dev/epoch"
COMPONENT: Final = "graf.dev/component"
IMAGE: Final = "graf.dev/image"
_TAG: Final = re.compile(r"graf-(\d+)-(\d+)")
_POSITION: Final = re.compile(r"graf-\d+-\d+ (\S+Z)")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|μs|ns)")
_UNIT_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


def source_spec(own: VolSync, tag: str = "") -> dict[str, Any]:
    """The source of a site that is active; `tag` asks for one copy, and no other after it."""
    spec: dict[str, Any] = {
        "sourcePVC": own.source,
        "paused": False,
        "rsyncTLS": {
            "keySecret": own.key_secret,
            "address": own.address,
            "port": own.port,
            "copyMethod": own.copy_method,
        },
    }
    if tag:
        spec["trigger"] = {"manual": tag}
    elif own.schedule:
        spec["trigger"] = {"schedule": own.schedule}
    return spec


def destination_spec(own: VolSync) -> dict[str, Any]:
    """The destination of a site that follows.

    Always snapshots: an image that is the volume itself would be torn whenever a copy is under way.
    """
    mover = {"keySecret": own.key_secret, "copyMethod": "Snapshot", **own.destination}
    return {"paused": False, "rsyncTLS": mover}


def new_object(kind: Kind, own: VolSync, name: str) -> dict[str, Any]:
    """An object without a spec yet."""
    return {"apiVersion": kind.api, "kind": kind.name, "metadata": {"name": name, "namespace": own.namespace}}


def claim_of_image(own: VolSync) -> dict[str, Any]:
    """The PVC that a promotion opens: VolSync's populator fills it from the destination's newest complete image.

    Not from the snapshot by its name: a copy that ends at the moment of the promotion replaces that snapshot.
    """
    body = new_object(CLAIM, own, own.source)
    body["spec"] = {
        "accessModes": list(own.destination["accessModes"]),
        "resources": {"requests": {"storage": own.destination["capacity"]}},
        "dataSourceRef": {"apiGroup": VOLSYNC, "kind": DESTINATION.name, "name": own.name},
    }
    if storage_class := own.destination.get("storageClassName"):
        body["spec"]["storageClassName"] = storage_class
    return body


def archive_of_claim(own: VolSync, name: str) -> dict[str, Any]:
    """A snapshot of the PVC that was served; nothing of VolSync's owns it, so nothing of VolSync's deletes it."""
    body = new_object(SNAPSHOT, own, name)
    body["spec"] = {"source": {"persistentVolumeClaimName": own.source}}
    if snapshot_class := own.destination.get("volumeSnapshotClassName"):
        body["spec"]["volumeSnapshotClassName"] = snapshot_class
    return body


def archive_name(own: VolSync, epoch: int, claim: Mapping[str, Any]) -> str:
    """Of the archive of what was served in an epoch; each PVC its own, also when the epoch is not known."""
    return f"{own.source}-divergent-e{epoch}-{claim['metadata']['uid'][:8]}"


def annotation(found: Mapping[str, Any], name: str) -> str:
    """Empty when there is none."""
    return str((found["metadata"].get("annotations") or {}).get(name, ""))


def is_ending(found: Mapping[str, Any] | None) -> bool:
    """Whether it is being deleted."""
    return found is not None and bool(found["metadata"].get("deletionTimestamp"))


def epoch_of(found: Mapping[str, Any]) -> int:
    """The epoch it was written for; 0 when nobody says."""
    value = annotation(found, EPOCH)
    return int(value) if value.isdecimal() else 0


def is_paused(found: Mapping[str, Any] | None) -> bool:
    """Whether it copies nothing: what is not there does not either."""
    return found is None or bool((found.get("spec") or {}).get("paused"))


def status_of(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What VolSync says of it."""
    return (found or {}).get("status") or {}


def last_sync(found: Mapping[str, Any] | None) -> datetime | None:
    """When VolSync says that the last copy ended."""
    value = status_of(found).get("lastSyncTime")
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def copy_of(found: Mapping[str, Any] | None) -> Copy | None:
    """The last copy that ended. Its start is the end less the duration: `lastSyncStartTime` is of one under way.

    VolSync cuts the end to whole seconds and keeps the duration whole, so this start is never later than the real one.
    """
    end, duration = last_sync(found), status_of(found).get("lastSyncDuration")
    taken_s = _seconds(duration) if isinstance(duration, str) else None
    return None if end is None or taken_s is None else Copy(end - timedelta(seconds=taken_s), end)


def _seconds(duration: str) -> float | None:
    """Go's notation, e.g. 1m2.5s."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != duration:
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def is_copying(found: Mapping[str, Any] | None) -> bool:
    """Whether a copy is under way: VolSync takes the start away when it ends."""
    return bool(status_of(found).get("lastSyncStartTime"))


def image_of(found: Mapping[str, Any] | None) -> str:
    """``VolumeSnapshot/NAME`` of the newest complete copy; empty for none.

    Another kind would be the volume that copies are written into: never complete.
    """
    image = status_of(found).get("latestImage") or {}
    return f"{SNAPSHOT.name}/{image['name']}" if image.get("name") and image.get("kind") == SNAPSHOT.name else ""


def trouble_of(found: Mapping[str, Any] | None) -> str:
    """What VolSync says is wrong; empty for nothing."""
    status = status_of(found)
    for condition in status.get("conditions") or []:
        if str(condition.get("reason", "")).endswith("Error"):
            return f"VolSync says {condition['reason']}: {condition.get('message', '')}"
    mover = status.get("latestMoverStatus") or {}
    if mover.get("result") == "Failed":
        return f"VolSync's last copy failed: {str(mover.get('logs', ''))[-300:]}"
    return ""


def conditions_of(found: Mapping[str, Any] | None) -> str:
    """Conditions in one line."""
    told = status_of(found).get("conditions") or []
    return ",".join(f"{one.get('type')}={one.get('status')}({one.get('reason')})" for one in told)


def tag_of(found: Mapping[str, Any]) -> str:
    """The copy that was asked for last."""
    return str((found["spec"].get("trigger") or {}).get("manual", ""))


def next_tag(found: Mapping[str, Any], epoch: int) -> str:
    """A name for one copy that this source was never asked for."""
    seen = [_TAG.fullmatch(tag) for tag in (tag_of(found), str(status_of(found).get("lastManualSync", "")))]
    return f"graf-{epoch}-{1 + max((int(tag[2]) for tag in seen if tag), default=0)}"


def position_of(tag: str, end: datetime) -> str:
    """Of a copy that was asked for by name, and when it had surely ended at the source: VolSync cuts to seconds."""
    return f"{tag} {(end + timedelta(seconds=1)).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def instant_of(position: str) -> datetime:
    """When the copy of a position had ended at the source: an image from before then may be of another one.

    Raises:
        ValueError: it is no position of Quiesce.
    """
    found = _POSITION.fullmatch(position)
    if found is None:
        raise ValueError(f"{position!r} is no position of mode volsync")
    return datetime.fromisoformat(found[1])
