"""Decisions that are not in Git yet, on disk and in order. A site keeps its record too, until it is acknowledged."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graf.core.planning import RecordView
from graf.shell.disk import write_durably
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOG = logging.getLogger("graf.manager.journal")
RECORD_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


@dataclass(frozen=True, slots=True)
class Decision:
    """A record of a site, with the files that its commit writes.

    Attributes:
        record: the site's record; its id sorts by time.
        files: path in the repository -> content; empty when the record changes no assignment.
        file_epoch: epoch that the files stand for; files of an older epoch than Git's are not written.
    """

    record: RecordView
    files: Mapping[str, bytes]
    file_epoch: int

    def to_json(self) -> bytes:
        """For the disk."""
        content: dict[str, Any] = {
            "record": {**dataclasses.asdict(self.record), "phases_ms": dict(self.record.phases_ms)},
            "files": {path: base64.b64encode(data).decode() for path, data in self.files.items()},
            "file_epoch": self.file_epoch,
        }
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Decision:
        """From the disk. Raises ValueError, KeyError or TypeError for what is damaged."""
        content = json.loads(data)
        record = content["record"]
        record["reasons"] = tuple(record["reasons"])
        files = {path: base64.b64decode(text) for path, text in content["files"].items()}
        return cls(RecordView(**record), files, int(content["file_epoch"]))


class Journal:
    """A directory with one file per decision. Used under the lock of the Git loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, decision: Decision) -> None:
        """Keeps a decision; it is on disk when this returns."""
        write_durably(self._path(decision.record.id), decision.to_json())

    def remove(self, record_id: str) -> None:
        """The decision is in Git."""
        self._path(record_id).unlink(missing_ok=True)

    def pending(self) -> list[Decision]:
        """All decisions, oldest first. A damaged file is set aside: its site sends the record again."""
        decisions: list[Decision] = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                decisions.append(Decision.from_json(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                event(LOG, "unreadable decision set aside", logging.ERROR, file=str(path), error=str(error))
                path.rename(path.with_suffix(".damaged"))
        return decisions

    def _path(self, record_id: str) -> Path:
        if not RECORD_ID.match(record_id):
            raise ValueError(f"record id {record_id!r} is no file name")
        return self._directory / f"{record_id}.json"
