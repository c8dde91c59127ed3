"""What the driver must still know after a power cut: the role of the data and the set that acknowledged.

The record decides how a crashed server is recovered (see ``recovery.py``), so it is on disk (fsync) before the
server acknowledges anything under the new rule.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from graf_driver_sdk.kept import keep_room, replace_kept


class DataRole(StrEnum):
    """What was last done with this data directory."""

    NONE = "none"  # fresh: never served, never followed
    ACTIVE = "active"  # served; its last transactions may be unacknowledged or acknowledged and not yet flushed
    STANDBY = "standby"  # followed; what it received and had not applied is gone after a restart
    REBUILDING = "rebuilding"  # a copy is in the archive, and what is in scope is being emptied: only a resync goes on
    TRUNCATED = "truncated"  # was active, its tail was cut off: may lack acknowledged writes until it has followed


@dataclass(frozen=True, slots=True)
class Record:
    """Invariant: ``synchronous_set`` has another site only if that site has every write acknowledged so far."""

    role: DataRole = DataRole.NONE
    synchronous_set: tuple[str, ...] = ()
    epoch: int = 0

    def lone(self) -> bool:
        """Whether writes were acknowledged by this site alone."""
        return len(self.synchronous_set) <= 1


class RecordUnreadableError(RuntimeError):
    """The record exists and cannot be understood: unknown means hold."""


class RecordFile:
    """Reads and durably replaces the record. Blocking: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # a look that makes room must not write beside `save`

    def load(self) -> Record:
        """The record, or an empty one where none was ever written."""
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            record = Record(DataRole(raw["role"]), tuple(raw["synchronous_set"]), int(raw["epoch"]))
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordUnreadableError(
                f"{self.path} cannot be understood ({error}): whether the last writes may be cut off is unknown, "
                f"the server is not started; restore the file, or move the data directory away to start empty"
            ) from error
        with self._lock:
            keep_room(self.path)
        return record

    def save(self, record: Record) -> None:
        """Returns only when the record would survive a power cut."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            replace_kept(self.path, json.dumps(asdict(record)).encode())
