"""Mode ``volsync``: what this site has seen of its copies, durable, and how old they may be.

VolSync tells at the destination when a copy ended and for how long it had been *waited* for, not when the source was
read: the source may have read its volume hours before, and have failed to send it until now. What is known is the
order. A source reads for its next copy only after the one before has ended; that one was received here, so after this
site had begun to wait for it. **So what the newest copy shows is not older than the start of the copy before it**, by
this site's clock alone. Copies that were not seen in between make it only older.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from graf_driver_pv.durable import replace_file


@dataclass(frozen=True, slots=True)
class Copy:
    """One complete copy, as VolSync told of it: when it began to be waited for, or to be sent, and when it ended."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Notes:
    """What must still be known after a restart.

    Attributes:
        since: end of the newest copy when this site began to follow: only later ones have what it did not serve itself.
        last: the newest copy that was seen.
        before: the one that was seen before that.
        archive: where Resync has put what had diverged, until this site serves again.
        position: of the Quiesce that was completed; empty while this site serves.
        forgotten: the record was gone when this site had served: whether a copy is newer is not known.
    """

    since: datetime | None = None
    last: Copy | None = None
    before: Copy | None = None
    archive: str = ""
    position: str = ""
    forgotten: bool = False

    def with_copy(self, copy: Copy | None) -> Notes:
        """After a look at the destination. A copy that ended no later than the newest one is no new one."""
        if copy is None or (self.last is not None and copy.end <= self.last.end):
            return self
        return replace(self, last=copy, before=self.last)

    def is_fresh(self, end: datetime | None) -> bool:
        """Whether the copy that ended then came after this site began to follow."""
        return end is not None and (self.since is None or end > self.since)

    @property
    def not_older_than(self) -> datetime | None:
        """Everything written before that is in the newest copy; None when that is not known."""
        return self.before.start if self.before is not None else None


class NotesUnreadableError(RuntimeError):
    """The file exists and cannot be understood: unknown means hold."""


class NotesFile:
    """Reads and durably replaces the notes. Blocking: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Notes:
        """The notes, or empty ones where none were ever written.

        Raises:
            NotesUnreadableError: There are some, and they cannot be understood.
        """
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            return Notes(
                since=_instant(raw["since"]),
                last=_copy(raw["last"]),
                before=_copy(raw["before"]),
                archive=str(raw["archive"]),
                position=str(raw["position"]),
                forgotten=bool(raw["forgotten"]),
            )
        except FileNotFoundError:
            return Notes()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotesUnreadableError(
                f"{self.path} cannot be understood ({error}): which copy is newer than what was served is unknown; "
                "restore the file"
            ) from error

    def save(self, notes: Notes) -> None:
        """Returns only when the notes would survive a power cut."""
        raw = {
            "since": notes.since.isoformat() if notes.since is not None else None,
            "last": _plain(notes.last),
            "before": _plain(notes.before),
            "archive": notes.archive,
            "position": notes.position,
            "forgotten": notes.forgotten,
        }
        replace_file(self.path, json.dumps(raw).encode())


def _instant(raw: Any) -> datetime | None:
    return None if raw is None else datetime.fromisoformat(raw)


def _copy(raw: Any) -> Copy | None:
    return None if raw is None else Copy(datetime.fromisoformat(raw[0]), datetime.fromisoformat(raw[1]))


def _plain(copy: Copy | None) -> list[str] | None:
    return None if copy is None else [copy.start.isoformat(), copy.end.isoformat()]
