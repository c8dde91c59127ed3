"""What the driver must still know after a power cut: the role of the volume, and whether it ever followed anybody."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from graf_driver_sdk.types import Role

from graf_driver_pv.durable import replace_file


@dataclass(frozen=True, slots=True)
class Record:
    """Invariant: it is on disk before the volume is opened or shut in another role.

    Attributes:
        role: the last role that was completed.
        epoch: the epoch of the last change of role.
        served_epoch: the last epoch in which the live copy was open; 0 when it never was.
        followed: it has followed an active site: without a complete generation it must not serve.
        quiesced: ACTIVE, and shut by Quiesce.
        boot: identity of the machine's start when the driver ended in order, else empty.
    """

    role: Role = Role.FENCED
    epoch: int = 0
    served_epoch: int = 0
    followed: bool = False
    quiesced: bool = False
    boot: str = ""


class RecordUnreadableError(RuntimeError):
    """The record exists and cannot be understood: unknown means hold."""


class Mark:
    """Remembers outside the volume that it was served: an empty disk cannot tell whether it is new or another one's.

    Blocking: call it in a thread.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def is_set(self) -> bool:
        """Whether the volume was ever served; False where nothing can be remembered."""
        return self._path is not None and self._path.exists()

    def set(self) -> None:
        """Returns only when it would survive a power cut."""
        if self._path is not None and not self._path.exists():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path, b"this volume was served; an empty one in its place is a loss\n")


class RecordFile:
    """Reads and durably replaces the record. Blocking: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Record:
        """The record, or an empty one where none was ever written.

        Raises:
            RecordUnreadableError: There is one, and it cannot be understood.
        """
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            return Record(**{**raw, "role": Role[raw["role"]]})
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordUnreadableError(
                f"{self.path} cannot be understood ({error}): which role the volume had is unknown, it stays shut; "
                f"restore the file, or move the volume's folder away to start empty"
            ) from error

    def save(self, record: Record) -> None:
        """Returns only when the record would survive a power cut."""
        replace_file(self.path, json.dumps(asdict(record) | {"role": record.role.name}).encode())
