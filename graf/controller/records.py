"""Decisions and refusals of this site, kept on disk until the manager has put them into the record."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

from google.protobuf import message as protobuf_message

from graf.controller.rebuilds import Rebuilds
from graf.shell.disk import remove_durably, write_durably
from graf.shell.logs import event
from graf.shell.proto import manager_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from graf.api.values import Reason

LOG = logging.getLogger("graf.records")
KEEP_AT_MOST = 10_000


class Records:
    """A durable queue. Nothing on the failover path waits for it: writing runs in `spool`, after the fact.

    Attributes:
        rebuilds: Those that are under way, of which more is to be recorded.
    """

    def __init__(self, directory: Path, site: str, spool: Callable[[Callable[[], None]], None]) -> None:
        self._directory = directory
        self._site = site
        self._spool = spool
        self._pending: dict[str, pb.Record] = {}
        self.on_record: Callable[[], None] = lambda: None
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.glob("*.record")):
            record = pb.Record()
            try:
                record.ParseFromString(path.read_bytes())
            except (OSError, protobuf_message.DecodeError) as error:
                event(LOG, "unreadable record set aside", logging.ERROR, file=str(path), error=str(error))
                path.rename(path.with_suffix(".damaged"))
                continue
            self._pending[record.id] = record
        self.rebuilds = Rebuilds(directory, site, self.add, spool)

    @property
    def pending(self) -> tuple[pb.Record, ...]:
        """Records without acknowledgement, oldest first."""
        return tuple(self._pending.values())

    def add(
        self,
        group: str,
        epoch: int,
        kind: str,
        type_: str,
        reasons: tuple[Reason, ...] = (),
        *,
        message: str = "",
        operation: str = "",
        from_site: str = "",
        to_site: str = "",
        epoch_from: int = 0,
        phases_ms: dict[str, float] | None = None,
        evidence_json: str = "",
    ) -> None:
        """Adds a record; its id sorts by time, so that the manager commits in order."""
        wall_ms = time.time_ns() // 1_000_000
        record = pb.Record(
            id=f"{wall_ms:014d}-{self._site}-{uuid.uuid4().hex[:8]}",
            group=group,
            epoch=epoch,
            kind=kind,
            type=type_,
            operation=operation,
            from_site=from_site,
            to_site=to_site,
            epoch_from=epoch_from,
            reasons=[str(reason) for reason in reasons],
            message=message,
            wall_ms=wall_ms,
            phases_ms=phases_ms or {},
            evidence_json=evidence_json,
        )
        event(LOG, message or type_, group=group, epoch=epoch, kind=kind, type=type_, reasons=list(record.reasons))
        if len(self._pending) >= KEEP_AT_MOST:
            oldest = next((r for r in self._pending.values() if r.kind != "Decision"), None)
            if oldest is not None:
                self.acknowledged(oldest.id)
        self._pending[record.id] = record
        path = self._path(record.id)
        self._spool(lambda: write_durably(path, record.SerializeToString()))
        self.on_record()

    def acknowledged(self, record_id: str) -> None:
        """The record is in Git; forget it."""
        if self._pending.pop(record_id, None) is not None:
            path = self._path(record_id)
            self._spool(lambda: remove_durably(path))

    def _path(self, record_id: str) -> Path:
        return self._directory / f"{record_id}.record"
