"""Mode ``volsync``: VolSync copies, this driver says which site's objects may run, and what a promotion opens.

Invariants: the destination is paused before the source runs, and the source before the destination. A source lives for
one epoch: VolSync goes on with a copy that was begun, and one of an earlier epoch would bring old data as the newest. A
PVC is deleted only when all that is in it is at the other site or in the archive.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import NeedsResyncError, NotActiveError, PreconditionError
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
from graf_driver_pv.volsync_claim import Facts, Opens, chosen
from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION, SNAPSHOT, SOURCE, Cluster, ClusterError
from graf_driver_pv.volsync_cluster import NotInstalledError as NotInstalled
from graf_driver_pv.volsync_notes import Notes, NotesFile, NotesUnreadableError
from graf_driver_pv.volsync_owned import Owned, Waits
from graf_driver_pv.volsync_parameters import VolSync
from graf_driver_pv.volsync_status import Seen, position_of, rendered

_WRITE_S: Final = 2.0
_LOOK_S: Final = 0.8
_RETRY_MS: Final = 300


class VolSyncComponent:
    """One PVC that VolSync copies, and its role."""

    def __init__(
        self, key: ComponentKey, parameters: VolSync, state_dir: Path | None, on_change: Callable[[], None]
    ) -> None:
        self.key = key
        self.parameters = parameters
        self._name = f"{key.group}/{key.component}"
        self._on_change = on_change
        at = state_dir / f"{key.group}_{key.component}" if state_dir is not None else None
        self._record_file = RecordFile(at.with_name(f"{at.name}.volsync.json")) if at is not None else None
        self._notes_file = NotesFile(at.with_name(f"{at.name}.volsync-copies.json")) if at is not None else None
        self._record: Record | None = None
        self._notes: Notes | None = None
        self._noting = threading.Lock()  # the status is asked for while a role is given
        self._own = Owned(self._name, parameters, Cluster(parameters.kubeconfig, parameters.namespace, _WRITE_S))
        self._quick = Cluster(parameters.kubeconfig, parameters.namespace, _LOOK_S)
        # The copies that Quiesce asks for: the one it waits for, and how many are still needed.
        self._asked = ""
        self._needed = 0

    # -- the contract's calls ----------------------------------------------------------------------------------------

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the role."""
        self._asked = ""
        give = {Role.ACTIVE: self._activate, Role.STANDBY: self._follow}.get(request.role, self._fence)
        progress = await self._progress(lambda: give(request))
        self._on_change()
        return progress

    async def quiesce(self, epoch: int) -> Quiesced:
        """Copies one after the other until the other site surely has what was written before this was asked for.

        VolSync says of whichever copy ends next that it was the one asked for, also of one that was going on already:
        such a one does not count. Of those that count two are needed. The second can only be sent when the other site
        waits for it, so when the first one's image is complete there; and its image ends after the first one has, by
        any clocks that differ by less than a copy takes. That is the position.
        """
        progress = await self._progress(lambda: self._quiesce(epoch))
        position = self._load_notes().position if progress.completed else ""
        self._on_change()
        return Quiesced(progress, position)

    async def unquiesce(self, epoch: int) -> Progress:
        """Copies by schedule again."""
        self._asked = ""

        def resume() -> str:
            record = self._active_record("Unquiesce")
            self._save(replace(record, quiesced=False))
            self._note(lambda notes: replace(notes, position=""))
            self._own.run(SOURCE, epoch, objects.source_spec(self.parameters))
            return "the source runs by its schedule"

        return await self._progress(resume)

    async def await_position(self, position: str, timeout_ms: int) -> PositionReached:
        """Whether the copy of a completed Quiesce is here. Quiesce has seen to it; the times say that it was here."""
        wanted, ends = objects.instant_of(position), time.monotonic() + timeout_ms / 1000

        def look() -> PositionReached:
            # The active has its own data, and tells when it was sent.
            active = self._load().role is Role.ACTIVE
            found = self._quick.get(SOURCE if active else DESTINATION, self.parameters.name)
            end = objects.last_sync(found)
            if end is not None and end >= wanted and (active or objects.image_of(found)):
                return PositionReached(True, position if active else position_of(found))
            told = f"VolSync tells of no copy here that ended after {wanted:%H:%M:%SZ}; do the clocks differ?"
            return PositionReached(False, position_of(found), objects.trouble_of(found) or told)

        while True:
            try:
                seen = await run_blocking(look)
            except ClusterError as error:
                seen = PositionReached(False, "", str(error))
            if seen.reached:
                return seen
            if time.monotonic() >= ends:
                return replace(seen, message=f"{position} is not here after {timeout_ms} ms: {seen.message}")
            await asyncio.sleep(min(0.2, max(0.0, ends - time.monotonic())))

    async def assess(self) -> Assessment:
        """By this site's record: what it served since its last complete copy nobody else has."""

        def look() -> Assessment:
            record, found = self._recalled(), self._own.get(DESTINATION)
            if _is_unsent(record):
                what = (
                    f"what was written to PersistentVolumeClaim {self.parameters.source} in epoch {record.served_epoch}"
                )
                return Assessment(Verdict.DIVERGED, position_of(found), divergent=f"{what} since its last copy")
            here = self._own.has(self._own.claim()) or objects.image_of(found)
            return Assessment(Verdict.BEHIND if here else Verdict.EMPTY, position_of(found))

        try:
            return await run_blocking(look)
        except (Waits, ClusterError) as error:
            return Assessment(Verdict.UNKNOWN, message=str(error))

    async def resync(self, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what only this site has, lets the destination run, and waits for a copy."""
        progress = await self._progress(lambda: self._resync(strategy, epoch))
        return Resynced(progress, self._load_notes().archive if progress.completed else "")

    async def status(self) -> Status:
        """What VolSync's objects say now."""
        return await run_blocking(self._observe)

    # -- roles; blocking -----------------------------------------------------------------------------------------------

    def _activate(self, request: EnsureRole) -> str:
        record, epoch = self._recalled(), request.epoch
        source = self._own.get(SOURCE)
        if source is not None:
            self._own.may_write(SOURCE, source, epoch)
        if record.role is not Role.ACTIVE:
            self._choice(record, self._own.get(DESTINATION))  # what is refused leaves the destination running
        target = self._own.pause(DESTINATION, epoch)
        if source is not None and (record.role, record.epoch) != (Role.ACTIVE, epoch):
            self._own.pause(SOURCE, epoch)
            self._own.remove(SOURCE)
        if record.role is Role.ACTIVE and self._own.claim() is None:
            raise PreconditionError(
                f"PersistentVolumeClaim {self.parameters.source} is gone while {self.key} is ACTIVE",
                reason="claim-gone",
            )
        if record.role is not Role.ACTIVE:
            self._open(record, target, epoch)
        # Served is written down before the source runs: after a crash in between it is asked about, not forgotten.
        served = Record(role=Role.ACTIVE, epoch=epoch, served_epoch=epoch)
        self._save(served)
        self._note(lambda notes: Notes(objects.last_sync(target), notes.last, notes.before))
        self._own.run(SOURCE, epoch, objects.source_spec(self.parameters))
        return f"the source runs for epoch {epoch}, the destination is paused"

    def _choice(self, record: Record, target: Mapping[str, Any] | None) -> tuple[Opens, Mapping[str, Any] | None]:
        """What a promotion opens, and the PVC that is there."""
        claim, notes = self._own.claim(), self._load_notes()
        now = Facts(
            component=self._name,
            source=self.parameters.source,
            claim=claim is not None,
            mine=self._own.has(claim),
            of_image=objects.annotation(claim, objects.IMAGE) if claim is not None else "",
            image=objects.image_of(target),
            # While it served a copy may still have ended that had come before: it has nothing of what was served.
            fresh=notes.is_fresh(objects.last_sync(target)) and not record.served_epoch,
            followed=record.followed,
            unsent=_is_unsent(record),
            forgotten=notes.forgotten,
        )
        return chosen(now), claim

    def _open(self, record: Record, target: Mapping[str, Any] | None, epoch: int) -> None:
        """The PVC has the newest complete data when this returns."""
        what, claim = self._choice(record, target)
        if what is Opens.REPLACE:
            self._own.remove(CLAIM, self.parameters.source)
        self._save(replace(record, served_epoch=epoch, followed=what is not Opens.AS_IS, quiesced=False))
        if what is Opens.AS_IS and claim is not None:
            self._own.adopt(CLAIM, claim)
        else:
            self._own.create(CLAIM, objects.claim_of_image(self.parameters), {objects.IMAGE: objects.image_of(target)})

    def _follow(self, request: EnsureRole) -> str:
        record, epoch = self._recalled(), request.epoch
        self._own.pause(SOURCE, epoch)
        if _is_unsent(record):
            self._save(replace(record, role=Role.FENCED, epoch=epoch))
            raise NeedsResyncError(
                f"{self.key} served epoch {record.served_epoch} and its last copy is not known to be at the other "
                "site; call Assess, then Resync"
            )
        self._own.remove(SOURCE)
        self._begin_to_follow(record)
        self._own.run(DESTINATION, epoch, objects.destination_spec(self.parameters))
        self._note(lambda notes: replace(notes, archive=""))
        followed = record.followed or request.active_peer is not None
        self._save(Record(role=Role.STANDBY, epoch=epoch, followed=followed))
        return "the source is gone, the destination runs"

    def _fence(self, request: EnsureRole) -> str:
        record = self._recalled()
        self._own.pause(SOURCE, request.epoch)
        self._own.pause(DESTINATION, request.epoch)
        self._save(replace(record, role=request.role, epoch=request.epoch))
        return "source and destination are paused"

    def _begin_to_follow(self, record: Record) -> None:
        """What counts as newer than what was served here: copies from now on."""
        if record.served_epoch:
            end = objects.last_sync(self._own.get(DESTINATION))
            self._note(lambda notes: replace(notes, since=end, position="", forgotten=False))

    # -- moving and coming back; blocking ------------------------------------------------------------------------------

    def _quiesce(self, epoch: int) -> str:
        record = self._active_record("Quiesce")
        if record.quiesced:
            return "the last copy is at the other site"
        found = self._own.get(SOURCE)
        if found is None:
            raise NotActiveError(f"Quiesce of {self.key} is refused: there is no ReplicationSource")
        if not self._asked or objects.tag_of(found) != self._asked:
            self._needed = 2 + objects.is_copying(self._ask(found, epoch))
        elif objects.status_of(found).get("lastManualSync") == self._asked and not objects.is_copying(found):
            done = objects.copy_of(found)
            if done is None:
                raise Waits("VolSync tells no lastSyncTime and lastSyncDuration of the copy")
            self._needed -= 1
            if self._needed == 1:
                position = objects.position_of(self._asked, done.end)
                self._note(lambda notes: replace(notes, position=position))
            elif self._needed == 0:
                self._save(replace(record, quiesced=True))
                return "the last copy is at the other site"
            self._ask(found, epoch)
        raise Waits(objects.trouble_of(found) or f"VolSync copies; {self._needed} of its copies are to be waited for")

    def _ask(self, found: Mapping[str, Any], epoch: int) -> Mapping[str, Any] | None:
        """Asks for one copy; the source as it was when that was written, so whether one was under way."""
        self._asked = objects.next_tag(found, epoch)
        return self._own.run(SOURCE, epoch, objects.source_spec(self.parameters, self._asked))

    def _resync(self, strategy: ResyncStrategy, epoch: int) -> str:
        record, claim = self._recalled(), self._own.claim()
        if record.role is Role.ACTIVE:
            raise NotActiveError(f"{self.key} is the active and has nothing to resync from; fence it first")
        unsent = _is_unsent(record)
        if unsent and strategy is ResyncStrategy.FOLLOW:
            raise NeedsResyncError(f"{self.key} has what the other site lacks; call Resync with REBUILD")
        self._own.pause(SOURCE, epoch)
        if unsent and claim is not None:
            name = objects.archive_name(self.parameters, record.served_epoch, claim)
            self._archive(name)
            self._note(lambda notes: replace(notes, archive=f"{SNAPSHOT.name}/{name}"))
            self._own.remove(CLAIM, self.parameters.source)
        self._own.remove(SOURCE)
        self._begin_to_follow(record)
        target = self._own.run(DESTINATION, epoch, objects.destination_spec(self.parameters))
        self._save(Record(role=record.role, epoch=epoch, followed=True))
        if not objects.image_of(target) or not self._load_notes().is_fresh(objects.last_sync(target)):
            raise Waits(objects.trouble_of(target) or "the destination runs; waiting for VolSync's next copy")
        return "a complete copy is here"

    def _archive(self, name: str) -> None:
        found = self._own.get(SNAPSHOT, name)
        if found is None:
            found = self._own.create(SNAPSHOT, objects.archive_of_claim(self.parameters, name), {})
        status = objects.status_of(found)
        if not status.get("readyToUse"):
            why = (status.get("error") or {}).get("message", "")
            raise Waits(f"waiting for the archive, {SNAPSHOT.name} {name}{f': {why}' if why else ''}")

    # -- what is told; blocking ----------------------------------------------------------------------------------------

    def _observe(self) -> Status:
        record = self._load()
        try:
            source, target = (self._quick.get(kind, self.parameters.name) for kind in (SOURCE, DESTINATION))
            claim = self._quick.get(CLAIM, self.parameters.source)
        except NotInstalled as error:
            return Status(record.role, Health.UNHEALTHY, message=str(error), promotable_reason=str(error))
        except ClusterError as error:
            return Status.unknown(str(error))
        if record.role is Role.STANDBY:
            self._note(lambda notes: notes.with_copy(objects.copy_of(target)))
        seen = Seen(source, target, claim, datetime.now(UTC))
        return rendered(self.parameters, self._name, record, self._load_notes(), seen)

    # -- what is remembered --------------------------------------------------------------------------------------------

    async def _progress(self, work: Callable[[], str]) -> Progress:
        try:
            return Progress.done(await run_blocking(work))
        except (Waits, ClusterError) as waits:
            return Progress.pending(str(waits), _RETRY_MS)

    def _recalled(self) -> Record:
        """The record. Where there is none and the PVC was served: one of a site that may have what the other lacks."""
        record = self._load()
        if record == Record() and self._own.has(self._own.claim()):
            source = self._own.get(SOURCE)
            record = replace(record, served_epoch=max(1, objects.epoch_of(source) if source is not None else 0))
            self._note(lambda notes: replace(notes, forgotten=True))
            self._save(record)
        return record

    def _load(self) -> Record:
        if self._record is None:
            try:
                self._record = self._record_file.load() if self._record_file is not None else Record()
            except RecordUnreadableError as error:
                raise PreconditionError(str(error), reason="record-unreadable") from error
        return self._record

    def _save(self, record: Record) -> None:
        if record != self._record and self._record_file is not None:
            self._record_file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._record_file.save(record)
        self._record = record

    def _load_notes(self) -> Notes:
        if self._notes is None:
            try:
                self._notes = self._notes_file.load() if self._notes_file is not None else Notes()
            except NotesUnreadableError as error:
                raise PreconditionError(str(error), reason="record-unreadable") from error
        return self._notes

    def _note(self, change: Callable[[Notes], Notes]) -> None:
        with self._noting:
            notes = change(self._load_notes())
            if notes != self._notes and self._notes_file is not None:
                self._notes_file.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._notes_file.save(notes)
            self._notes = notes

    def _active_record(self, call: str) -> Record:
        record = self._load()
        if record.role is not Role.ACTIVE:
            raise NotActiveError(f"{call} of {self.key} is refused: it is {record.role.name}, not ACTIVE")
        return record


def _is_unsent(record: Record) -> bool:
    """Whether this site served after what Quiesce is known to have copied."""
    return record.served_epoch > 0 and not record.quiesced
