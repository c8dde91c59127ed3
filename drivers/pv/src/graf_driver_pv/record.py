"""What the driver must still know after a power cut: the role of the volume, and whether it ever followed anybody."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from graf_driver_sdk.kept import keep_room, replace_kept
from graf_driver_sdk.types import Role

from graf_driver_pv.durable import replace_file

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MARK = ".served"


def this_boot() -> str:
    """Identity of the machine's start."""
    return _BOOT.read_text().strip()


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

    @property
    def stays_open(self) -> bool:
        """Whether the volume may be open while its driver starts: it was left so in order, on this boot."""
        return self.role is Role.ACTIVE and self.boot == this_boot()


class RecordUnreadableError(RuntimeError):
    """The record exists and cannot be understood: unknown means hold."""


class Mark:
    """Remembers outside the volume that it was served, and where it is.

    An empty disk cannot tell whether it is new or in another one's place; and a link that a crash has left must be
    taken away before anybody has called. Blocking: call it in a thread.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @staticmethod
    def of(state_dir: Path | None, group: str, component: str) -> Mark:
        """The mark of a component; without a directory nothing is remembered."""
        return Mark(state_dir / Mark.name_of(group, component) if state_dir is not None else None)

    @staticmethod
    def name_of(group: str, component: str) -> str:
        """Name of the file."""
        return f"{group}_{component}{_MARK}"

    @staticmethod
    def volumes(state_dir: Path | None) -> list[tuple[Path, str]]:
        """Every volume that was ever served by the driver that keeps its state there, with the mark's name."""
        if state_dir is None:
            return []
        marks = sorted(state_dir.glob(f"*{_MARK}"))
        return [(Path(os.fsdecode(mark.read_bytes())), mark.name) for mark in marks]

    def is_set(self) -> bool:
        """Whether the volume was ever served; False where nothing can be remembered."""
        return self._path is not None and self._path.exists()

    def set(self, volume: Path) -> None:
        """Returns only when it would survive a power cut."""
        content = os.fsencode(volume)
        if self._path is None or (self._path.exists() and self._path.read_bytes() == content):
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._path, content)


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
        replace_kept(self.path, _encode(record))

    def save_in_place(self, record: Record) -> None:
        """Over the last one, for a disk without any room.

        A power cut amid it leaves a record that cannot be understood: with that the volume stays shut.

        Raises:
            OSError: it could not be written.
        """
        descriptor = os.open(self.path, os.O_WRONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(record))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    def keep_room(self) -> None:
        """For the next `save`: a volume that is full must still be shut."""
        keep_room(self.path)


def _encode(record: Record) -> bytes:
    return json.dumps(asdict(record) | {"role": record.role.name}).encode()
