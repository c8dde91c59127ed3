"""Mode ``volsync``: its parameters, read once, checked completely, frozen. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from graf_driver_sdk.types import FieldProblem

MODE: Final = "volsync"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_CRON: Final = re.compile(r"(@(yearly|monthly|weekly|daily|hourly))|(\S+(\s+\S+){4})")
_EVERY: Final = re.compile(r"\*/(\d+)( \*){4}")
TOP: Final = frozenset({"mode", "rpoSeconds", "quiesceSeconds", "volsync"})
OWN: Final = frozenset({"namespace", "source", "name", "copyMethod", "mover", "schedule", "destination", "kubeconfig"})
MOVER: Final = frozenset({"type", "keySecret", "address", "port"})
DESTINATION: Final = frozenset(
    {"capacity", "accessModes", "storageClassName", "volumeSnapshotClassName", "serviceType"}
)
_PERIODS: Final = 3  # the age is counted from the start of the copy before the newest one, and a third is under way


@dataclass(frozen=True, slots=True)
class VolSync:
    """One site's parameters.

    Attributes:
        source: the PVC that applications use, copied while this site is active, made from the image by a promotion.
        name: of the ReplicationSource and of the ReplicationDestination.
        address: where this site's copies go while it is active: the other site's destination.
        schedule: cron; empty for copying without a pause.
        destination: fields of the destination's mover, as VolSync names them; its volumes are as large as `source`'s.
    """

    namespace: str
    source: str
    name: str
    key_secret: str
    address: str
    port: int = 8000
    copy_method: str = "Snapshot"
    schedule: str = ""
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

    known("", raw, TOP)
    if raw.get("mode") != MODE:
        problem("mode", f"{raw.get('mode')!r} with `volsync`", "mode: volsync")
    own = mapping("volsync", raw.get("volsync"))
    known("volsync.", own, OWN)
    mover = mapping("volsync.mover", own.get("mover"))
    known("volsync.mover.", mover, MOVER)
    target = mapping("volsync.destination", own.get("destination"))
    known("volsync.destination.", target, DESTINATION)
    if mover.get("type", "rsyncTLS") != "rsyncTLS":
        # A restic destination tells when it restored, not how old that was: a standby could not say what may be lost.
        problem("volsync.mover.type", f"{mover['type']!r} is not supported", "rsyncTLS, or the parameter repository")
    if not isinstance(mover.get("address"), str) or not mover.get("address"):
        problem("volsync.mover.address", "is missing", "address of the other site's destination")
    port = mover.get("port", 8000)
    if isinstance(port, bool) or not isinstance(port, int | float) or not 0 < port < 65536 or port != int(port):
        problem("volsync.mover.port", f"{port!r} is no port", "1 to 65535")
        port = 8000
    for field_name in ("capacity", "accessModes"):
        if not target.get(field_name):
            problem(f"volsync.destination.{field_name}", "is missing", "as the PVC `source` has it")
    for field_name, value in target.items():
        # A quantity without a unit comes as a float, which is none.
        right = (
            isinstance(value, list) and all(isinstance(mode, str) for mode in value)
            if field_name == "accessModes"
            else isinstance(value, str)
        )
        if not right:
            problem(f"volsync.destination.{field_name}", f"{value!r} is no text", "text; a list of it for accessModes")
    method = own.get("copyMethod", "Snapshot")
    if method not in ("Snapshot", "Clone", "Direct"):
        problem("volsync.copyMethod", f"{method!r} is no method", "Snapshot, Clone or Direct")
    schedule = own.get("schedule", "")
    if not isinstance(schedule, str) or (schedule and not _CRON.fullmatch(schedule)):
        problem("volsync.schedule", f"{schedule!r} is no schedule", 'cron, e.g. "*/5 * * * *"')
    rpo = raw.get("rpoSeconds", 900)
    if isinstance(rpo, bool) or not isinstance(rpo, int | float) or not 1 <= rpo <= 604_800:
        problem("rpoSeconds", f"{rpo!r} is no number from 1 to 604800", "seconds that may be lost")
        rpo = 900
    rest = raw.get("quiesceSeconds", 2)  # for the controllers
    if isinstance(rest, bool) or not isinstance(rest, int | float) or not 2 <= rest <= 60:
        problem("quiesceSeconds", f"{rest!r} is no number from 2 to 60", "seconds that a planned move may take")
    every = _EVERY.fullmatch(schedule) if isinstance(schedule, str) else None
    if every is not None and rpo <= _PERIODS * 60 * int(every[1]):
        cause = f"{rpo:g} s cannot be kept with a copy every {every[1]} min"
        problem("rpoSeconds", cause, f"more than {_PERIODS} periods of volsync.schedule")
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
        destination=dict(target),
        kubeconfig=str(kubeconfig),
        rpo_s=float(rpo),
    )
    return (None, problems) if problems else (found, [])
