"""Mode ``volsync``: VolSync copies, this driver says which site's objects may run. Nothing else of the driver is used
but the record of the role.

Invariants: an object is written only when it is this component's and of no higher epoch, and as it was read
(resourceVersion). The destination is paused before the source runs, and the source before the destination.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import NeedsResyncError, NotActiveError, PreconditionError, StaleEpochError
from graf_driver_sdk.types import (
    Assessment,
    ComponentKey,
    EnsureRole,
    Health,
    PositionReached,
    Progress,
    Quiesced,
    Resynced,
    ResyncStrategy,
    Role,
    Status,
    Verdict,
)

from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.record import Record, RecordFile, RecordUnreadableError
from graf_driver_pv.volsync_cluster import DESTINATION, KINDS, SOURCE, Cluster, ClusterError, ConflictError
from graf_driver_pv.volsync_cluster import NotInstalledError as NotInstalled
from graf_driver_pv.volsync_objects import VolSync

_WRITE_S: Final = 2.0
_LOOK_S: Final = 0.8
_TRIES: Final = 4
_AHEAD_S: Final = 2.0
_RETRY_MS: Final = 300


class VolSyncComponent:
    """One PVC that VolSync copies, and its role."""

    def __init__(
        self, key: ComponentKey, parameters: VolSync, state_dir: Path | None, on_change: Callable[[], None]
    ) -> None:
        self.key = key
        self.parameters = parameters
        self._on_change = on_change
        path = state_dir / f"{key.group}_{key.component}.volsync.json" if state_dir is not None else None
        self._file = RecordFile(path) if path is not None else None
        self._record: Record | None = None
        self._cluster = Cluster(parameters.kubeconfig, parameters.namespace, _WRITE_S)
        self._quick = Cluster(parameters.kubeconfig, parameters.namespace, _LOOK_S)
        # The copies that Quiesce asks for: (first tag, when it ended); then the second one's tag.
        self._first = ""
        self._first_end: datetime | None = None
        self._second = ""
        self._final = ""

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the role."""
        self._forget_quiesce()
        try:
            progress = await run_blocking(self._ensure, request)
        except ClusterError as error:
            return Progress.pending(str(error), _RETRY_MS)
        self._on_change()
        return progress

    def _ensure(self, request: EnsureRole) -> Progress:
        record, epoch = self._load(), request.epoch
        if request.role is Role.ACTIVE:
            if record.followed and not record.served_epoch and not objects.image_of(self._get(DESTINATION)):
                raise PreconditionError(
                    f"{self.key} has followed another site and VolSync has no complete copy here: it would serve "
                    "an empty volume; wait for a first copy",
                    reason="no-copy",
                )
            source = self._get(SOURCE)
            if source is not None:
                self._may_write(SOURCE, source, epoch)
            self._pause(DESTINATION, epoch)
            # Served is written down first: after a crash in between it is asked about, not forgotten.
            self._save(replace(record, role=Role.ACTIVE, epoch=epoch, served_epoch=epoch, quiesced=False))
            self._write(SOURCE, epoch, objects.source_spec(self.parameters, epoch))
            return Progress.done(f"the source runs for epoch {epoch}, the destination is paused")
        self._pause(SOURCE, epoch)
        if request.role is Role.STANDBY:
            if _unsent(record):
                self._save(replace(record, role=Role.FENCED, epoch=epoch))
                raise NeedsResyncError(
                    f"{self.key} served epoch {record.served_epoch} and its last copy is not known to be at the other "
                    "site; call Assess, then Resync"
                )
            self._write(DESTINATION, epoch, objects.destination_spec(self.parameters))
            followed = record.followed or request.active_peer is not None
            self._save(replace(record, role=Role.STANDBY, epoch=epoch, followed=followed))
            return Progress.done("the source is paused, the destination runs")
        self._pause(DESTINATION, epoch)
        self._save(replace(record, role=request.role, epoch=epoch))
        return Progress.done("source and destination are paused")

    async def quiesce(self, epoch: int) -> Quiesced:
        """Two copies one after the other: only the second has surely begun after this was asked for.

        VolSync says of whichever copy ends next that it was the one asked for, also of one that was going on already.
        """
        try:
            message = await run_blocking(self._quiesce, epoch)
        except ClusterError as error:
            return Quiesced(Progress.pending(str(error), _RETRY_MS))
        if not self._final:
            return Quiesced(Progress.pending(message, 500))
        self._on_change()
        return Quiesced(Progress.done(message), self._final)

    def _quiesce(self, epoch: int) -> str:
        record = self._active_record("Quiesce")
        if self._final:
            return "the last copy is there"
        found = self._get(SOURCE)
        if found is None:
            raise NotActiveError(f"Quiesce of {self.key} is refused: there is no ReplicationSource")
        done, asked = str(objects.status_of(found).get("lastManualSync", "")), objects.tag_of(found)
        if not asked or asked not in (self._first, self._second):
            self._forget_quiesce()
            self._first = objects.next_tag(found, epoch)
            self._write(SOURCE, epoch, objects.source_spec(self.parameters, epoch, self._first))
            return "waiting for what VolSync is copying"
        ended = objects.last_sync(found)
        if asked == self._first and done == asked and ended is not None:
            self._first_end, self._second = ended, objects.next_tag(found, epoch)
            self._write(SOURCE, epoch, objects.source_spec(self.parameters, epoch, self._second))
        elif asked == self._second and done == asked and ended is not None and self._first_end is not None:
            self._save(replace(record, quiesced=True))
            self._final = objects.position_of(epoch, self._first_end, ended)
        return objects.trouble_of(found) or "waiting for VolSync's last copy"

    async def unquiesce(self, epoch: int) -> Progress:
        """Copies by schedule again."""
        self._forget_quiesce()

        def resume() -> None:
            record = self._active_record("Unquiesce")
            self._save(replace(record, quiesced=False))
            self._write(SOURCE, epoch, objects.source_spec(self.parameters, epoch))

        try:
            await run_blocking(resume)
        except ClusterError as error:
            return Progress.pending(str(error), _RETRY_MS)
        return Progress.done("the source runs by its schedule")

    async def await_position(self, position: str, timeout_ms: int) -> PositionReached:
        """Waits until VolSync has a complete copy here that ended after the position."""
        wanted, ends = objects.instant_of(position), time.monotonic() + timeout_ms / 1000
        while True:
            here, why = "", "VolSync has not ended that copy here"
            try:
                found = await run_blocking(self._quick.get, DESTINATION, self.parameters.name)
                here, synced = _position(found), objects.last_sync(found)
                if synced is not None and synced >= wanted and objects.image_of(found):
                    return PositionReached(True, here)
                why = objects.trouble_of(found) or why
            except ClusterError as error:
                why = str(error)
            if time.monotonic() >= ends:
                return PositionReached(False, here, f"{position} is not here after {timeout_ms} ms: {why}")
            await asyncio.sleep(min(0.2, max(0.0, ends - time.monotonic())))

    async def assess(self) -> Assessment:
        """By this site's record: what it served since its last complete copy nobody else has."""

        def look() -> Assessment:
            record, found = self._load(), self._get(DESTINATION)
            if _unsent(record):
                what = f"what was written to {self.parameters.source} in epoch {record.served_epoch}"
                return Assessment(Verdict.DIVERGED, _position(found), divergent=f"{what} since its last copy")
            verdict = Verdict.BEHIND if record.served_epoch or objects.image_of(found) else Verdict.EMPTY
            return Assessment(verdict, _position(found))

        try:
            return await run_blocking(look)
        except ClusterError as error:
            return Assessment(Verdict.UNKNOWN, message=str(error))

    async def resync(self, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Lets the destination run. VolSync writes a new image; the PVC that was served is kept as it is."""

        def rebuild() -> Resynced:
            record = self._load()
            if record.role is Role.ACTIVE:
                raise NotActiveError(f"{self.key} is the active and has nothing to resync from; fence it first")
            if _unsent(record) and strategy is ResyncStrategy.FOLLOW:
                raise NeedsResyncError(f"{self.key} has what the other site lacks; call Resync with REBUILD")
            kept = f"PersistentVolumeClaim/{self.parameters.source}" if _unsent(record) else ""
            self._pause(SOURCE, epoch)
            self._write(DESTINATION, epoch, objects.destination_spec(self.parameters))
            self._save(replace(record, epoch=epoch, served_epoch=0, quiesced=False, followed=True))
            message = "the destination runs; VolSync makes a new image"
            return Resynced(Progress.done(f"{message}{f', {kept} is kept' if kept else ''}"), kept)

        try:
            return await run_blocking(rebuild)
        except ClusterError as error:
            return Resynced(Progress.pending(str(error), _RETRY_MS))

    async def status(self) -> Status:
        """What VolSync's objects say now."""
        return await run_blocking(self._observe)

    def _observe(self) -> Status:
        record = self._load()
        try:
            source = self._quick.get(SOURCE, self.parameters.name)
            target = self._quick.get(DESTINATION, self.parameters.name)
        except NotInstalled as error:
            return Status(record.role, Health.UNHEALTHY, message=str(error), promotable_reason=str(error))
        except ClusterError as error:
            return Status.unknown(str(error))
        facts = {
            "source": "paused" if objects.is_paused(source) else "running",
            "destination": "paused" if objects.is_paused(target) else "running",
            "rpo_declared_seconds": f"{self.parameters.rpo_s:g}",
            "served_epoch": str(record.served_epoch),
        }
        for name, found in (("source_conditions", source), ("destination_conditions", target)):
            if told := objects.conditions_of(found):
                facts[name] = told
        if image := objects.image_of(target):
            facts["promote_image"] = image
        if record.role is Role.ACTIVE:
            return self._active(record, source, target, facts)
        trouble = "" if objects.is_paused(source) else "its source runs: somebody else let it; fence it again"
        lag_s, reason = -1.0, f"it is {record.role.name}"
        if record.role is Role.STANDBY:
            trouble = trouble or objects.trouble_of(target)
            if objects.is_paused(target):
                trouble = trouble or "its destination is paused or gone: somebody else did that; it follows nobody"
            lag_s, reason = self._lag(target, image)
            facts["rpo_seconds"] = f"{lag_s:.0f}" if lag_s >= 0 else "unknown"
        waits = record.role is Role.STANDBY and not image
        return Status(
            record.role,
            Health.UNHEALTHY if trouble else Health.INITIALISING if waits else Health.HEALTHY,
            position=_position(target),
            lag_seconds=lag_s,
            promotable=not reason,
            promotable_reason=reason,
            message=trouble,
            facts=facts,
        )

    def _active(self, record: Record, source: Any, target: Any, facts: dict[str, str]) -> Status:
        trouble = objects.trouble_of(source)
        if objects.is_paused(source):
            trouble = "its source is paused or gone: nothing is copied"
        elif objects.epoch_of(source) > record.epoch:
            trouble = f"its source is of epoch {objects.epoch_of(source)}: this site is deposed"
        elif not objects.is_paused(target):
            trouble = "its destination runs: somebody else let it"
        if record.quiesced:
            facts["quiesced"] = "yes"
        return Status(
            Role.ACTIVE,
            Health.UNHEALTHY if trouble else Health.HEALTHY,
            accepting=not record.quiesced,
            position=_position(source),
            lag_seconds=0.0,
            promotable_reason="it is the active",
            message=trouble,
            facts=facts,
        )

    def _lag(self, target: Any, image: str) -> tuple[float, str]:
        synced = objects.last_sync(target)
        if synced is None:
            return -1.0, "VolSync has not ended a copy here yet"
        lag_s = (datetime.now(UTC) - synced).total_seconds()
        if lag_s < -_AHEAD_S:
            return -1.0, "VolSync's last copy ended in the future: the clocks differ"
        lag_s = max(0.0, lag_s)
        if not image:
            return lag_s, "VolSync has no complete image here"
        if lag_s > self.parameters.rpo_s:
            return lag_s, f"the last copy is older than the {self.parameters.rpo_s:g} s that may be lost"
        return lag_s, ""

    # -- objects; blocking -------------------------------------------------------------------------------------------

    def _get(self, plural: str) -> dict[str, Any] | None:
        return self._cluster.get(plural, self.parameters.name)

    def _pause(self, plural: str, epoch: int) -> None:
        self._write(plural, epoch, None)

    def _write(self, plural: str, epoch: int, spec: dict[str, Any] | None) -> None:
        """The whole spec; None pauses what is there and makes nothing."""
        for tried in range(_TRIES):
            found = self._get(plural)
            if found is None and spec is None:
                return
            if found is not None:
                self._may_write(plural, found, epoch)
            body = copy.deepcopy(found) if found is not None else objects.new_object(plural, self.parameters)
            body["spec"] = spec if spec is not None else {**body.get("spec", {}), "paused": True}
            marks = body["metadata"].get("annotations") or {}
            body["metadata"]["annotations"] = {**marks, objects.EPOCH: str(epoch), objects.COMPONENT: self._name}
            if body == found:
                return
            try:
                if found is None:
                    self._cluster.create(plural, body)
                else:
                    self._cluster.replace(plural, body)
                return
            except ConflictError:
                if tried == _TRIES - 1:
                    raise

    def _may_write(self, plural: str, found: dict[str, Any], epoch: int) -> None:
        what = f"{KINDS[plural]} {self.parameters.name}"
        if objects.component_of(found) != self._name:
            whose = objects.component_of(found) or "somebody who is no GRAF driver"
            raise PreconditionError(
                f"{what} belongs to {whose}; give {self.key} a name of its own, or annotate the object with "
                f"{objects.COMPONENT}={self._name}",
                reason="not-mine",
            )
        there = objects.epoch_of(found)
        if there > epoch:
            raise StaleEpochError(f"{what} is of epoch {there}, {epoch} is refused", asked=epoch, highest=there)

    @property
    def _name(self) -> str:
        return f"{self.key.group}/{self.key.component}"

    def _load(self) -> Record:
        if self._record is None:
            try:
                self._record = self._file.load() if self._file is not None else Record()
            except RecordUnreadableError as error:
                raise PreconditionError(str(error), reason="record-unreadable") from error
        return self._record

    def _save(self, record: Record) -> None:
        if record != self._record and self._file is not None:
            self._file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.save(record)
        self._record = record

    def _active_record(self, call: str) -> Record:
        record = self._load()
        if record.role is not Role.ACTIVE:
            raise NotActiveError(f"{call} of {self.key} is refused: it is {record.role.name}, not ACTIVE")
        return record

    def _forget_quiesce(self) -> None:
        self._first, self._first_end, self._second, self._final = "", None, "", ""


def _unsent(record: Record) -> bool:
    """Whether this site served after what Quiesce is known to have copied."""
    return record.served_epoch > 0 and not record.quiesced


def _position(found: Any) -> str:
    synced = objects.last_sync(found)
    return f"{synced.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {objects.image_of(found)}".strip() if synced else ""
