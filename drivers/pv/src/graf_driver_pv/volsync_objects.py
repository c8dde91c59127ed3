"""Mode ``volsync``: its parameters, the objects that are written, and what is read out of their status. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from graf_driver_sdk.types import FieldProblem

from graf_driver_pv.volsync_cluster import GROUP, KINDS, VERSION

EPOCH: Final = "graf.dev/epoch"
COMPONENT: Final = "graf.dev/component"
MODE: Final = "volsync"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_CRON: Final = re.compile(r"(@(yearly|monthly|weekly|daily|hourly))|(\S+(\s+\S+){4})")
_TAG: Final = re.compile(r"graf-(\d+)-(\d+)")
_POSITION: Final = re.compile(r"e(\d+) (\S+Z)")
_TOP: Final = frozenset({"mode", "rpoSeconds", "volsync"})
_KNOWN: Final = frozenset(
    {"namespace", "source", "name", "copyMethod", "mover", "schedule", "manual", "destination", "kubeconfig"}
)
_MOVER: Final = frozenset({"type", "keySecret", "address", "port"})
_DESTINATION: Final = frozenset(
    {"capacity", "accessModes", "storageClassName", "volumeSnapshotClassName", "destinationPVC", "serviceType"}
)


@dataclass(frozen=True, slots=True)
class VolSync:
    """One site's parameters.

    Attributes:
        source: the PVC that is copied while this site is active.
        name: of both objects.
        address: where this site's copies go while it is active: the other site's destination.
        schedule: cron; empty for copying without a pause, or only when asked (`manual`).
        destination: fields of the destination's mover, as VolSync names them.
    """

    namespace: str
    source: str
    name: str
    key_secret: str
    address: str
    port: int = 8000
    copy_method: str = "Snapshot"
    schedule: str = ""
    manual: bool = False
    destination: Mapping[str, Any] = field(default_factory=dict)
    kubeconfig: str = ""
    rpo_s: float = 900.0


def is_volsync(raw: Mapping[str, Any]) -> bool:
    """Whether these parameters are of this mode."""
    return raw.get("mode") == MODE


def read(raw: Mapping[str, Any]) -> tuple[VolSync | None, list[FieldProblem]]:
    """The parameters and no problem, or None and every problem that there is."""
    problems: list[FieldProblem] = []

    def problem(at: str, cause: str, fix: str) -> None:
        problems.append(FieldProblem(at, cause, fix))

    def known(at: str, value: Mapping[str, Any], names: frozenset[str]) -> None:
        for name in sorted(set(value) - names):
            problem(f"{at}{name}", "unknown with mode volsync", f"one of {', '.join(sorted(names))}")

    def mapping(at: str, value: object) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        problem(at, f"{value!r} is no mapping", "see docs/reference/drivers/pv.md")
        return {}

    def name(at: str, value: object) -> str:
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
        problem(at, "is missing" if value is None else f"{value!r} is no name", "a name as Kubernetes has them")
        return ""

    known("", raw, _TOP)
    if raw.get("mode") != MODE:
        problem("mode", f"{raw.get('mode')!r} with `volsync`", "mode: volsync")
    own = mapping("volsync", raw.get("volsync"))
    known("volsync.", own, _KNOWN)
    mover = mapping("volsync.mover", own.get("mover"))
    known("volsync.mover.", mover, _MOVER)
    target = mapping("volsync.destination", own.get("destination"))
    known("volsync.destination.", target, _DESTINATION)
    if mover.get("type", "rsyncTLS") != "rsyncTLS":
        # A restic destination tells when it restored, not how old that was: a standby could not say what may be lost.
        problem("volsync.mover.type", f"{mover['type']!r} is not supported", "rsyncTLS, or the parameter repository")
    if not isinstance(mover.get("address"), str) or not mover.get("address"):
        problem("volsync.mover.address", "is missing", "address of the other site's destination")
    port = mover.get("port", 8000)
    if isinstance(port, bool) or not isinstance(port, int | float) or not 0 < port < 65536 or port != int(port):
        problem("volsync.mover.port", f"{port!r} is no port", "1 to 65535")
        port = 8000
    if not target.get("destinationPVC") and not (target.get("capacity") and target.get("accessModes")):
        problem("volsync.destination", "says no volume", "capacity and accessModes, or destinationPVC")
    for field_name, value in target.items():
        # A quantity without a unit comes as a float, which is none.
        right = (
            isinstance(value, list) and all(isinstance(mode, str) for mode in value)
            if field_name == "accessModes"
            else isinstance(value, str)
        )
        if not right:
            problem(f"volsync.destination.{field_name}", f"{value!r} is no text", "text; a list of it for accessModes")
    if target.get("destinationPVC") and target["destinationPVC"] == own.get("source"):
        problem("volsync.destination.destinationPVC", "is the source", "another PVC: a copy would overwrite what runs")
    method = own.get("copyMethod", "Snapshot")
    if method not in ("Snapshot", "Clone", "Direct"):
        problem("volsync.copyMethod", f"{method!r} is no method", "Snapshot, Clone or Direct")
    schedule, manual = own.get("schedule", ""), own.get("manual", False)
    if not isinstance(schedule, str) or (schedule and not _CRON.fullmatch(schedule)):
        problem("volsync.schedule", f"{schedule!r} is no schedule", 'cron, e.g. "*/5 * * * *"')
    if not isinstance(manual, bool) or (manual and schedule):
        problem("volsync.manual", "with a schedule, or no boolean", "true, or a schedule, or neither")
    rpo = raw.get("rpoSeconds", 900)
    if isinstance(rpo, bool) or not isinstance(rpo, int | float) or not 1 <= rpo <= 604_800:
        problem("rpoSeconds", f"{rpo!r} is no number from 1 to 604800", "seconds that may be lost")
        rpo = 900
    kubeconfig = own.get("kubeconfig", "")
    if not isinstance(kubeconfig, str) or (kubeconfig and not kubeconfig.startswith("/")):
        problem("volsync.kubeconfig", f"{kubeconfig!r} is no absolute path", "a mounted file, or leave it out")
    found = VolSync(
        namespace=name("volsync.namespace", own.get("namespace")),
        source=name("volsync.source", own.get("source")),
        name=name("volsync.name", own.get("name")),
        key_secret=name("volsync.mover.keySecret", mover.get("keySecret")),
        address=str(mover.get("address")),
        port=int(port),
        copy_method=str(method),
        schedule=str(schedule),
        manual=manual is True,
        destination=dict(target),
        kubeconfig=str(kubeconfig),
        rpo_s=float(rpo),
    )
    return (None, problems) if problems else (found, [])


def source_spec(own: VolSync, epoch: int, tag: str = "") -> dict[str, Any]:
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
    if own.manual and not tag:
        tag = f"graf-{epoch}-0"
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


def new_object(plural: str, own: VolSync) -> dict[str, Any]:
    """An object without a spec yet."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KINDS[plural],
        "metadata": {"name": own.name, "namespace": own.namespace},
    }


def epoch_of(found: Mapping[str, Any]) -> int:
    """The epoch it was written for; 0 when nobody says."""
    value = (found["metadata"].get("annotations") or {}).get(EPOCH, "")
    return int(value) if value.isdecimal() else 0


def component_of(found: Mapping[str, Any]) -> str:
    """Whose it is; empty when nobody says."""
    return str((found["metadata"].get("annotations") or {}).get(COMPONENT, ""))


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


def image_of(found: Mapping[str, Any] | None) -> str:
    """``VolumeSnapshot/NAME`` or ``PersistentVolumeClaim/NAME`` of the last complete copy; empty for none."""
    image = status_of(found).get("latestImage") or {}
    return f"{image.get('kind', '')}/{image['name']}" if image.get("name") else ""


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


def position_of(epoch: int, before: datetime, end: datetime) -> str:
    """Of the copy that ended at `end`, when the one before had ended at `before`.

    The other site's VolSync writes the end of the same copy a moment earlier or later, by its own clock. The middle
    between the two tells them apart as long as that differs by less than half of what the copy took.
    """
    half = max(1, -(-int((end - before).total_seconds()) // 2))
    return f"e{epoch} {(before + timedelta(seconds=half)).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def instant_of(position: str) -> datetime:
    """When a copy must have ended to have this position.

    Raises:
        ValueError: it is no position of Quiesce.
    """
    found = _POSITION.fullmatch(position)
    if found is None:
        raise ValueError(f"{position!r} is no position of mode volsync")
    return datetime.fromisoformat(found[2])
