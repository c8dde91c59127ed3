"""What must outlive the Redis server: whether its data may hold what no other site has. On disk before it can be so."""

from __future__ import annotations

import enum
import os
from pathlib import Path

from graf_driver_sdk.errors import PreconditionError


class Data(enum.Enum):
    """What the data of this site is."""

    NONE = "none"
    # A copy of the active's, complete up to some point of it.
    COPY = "copy"
    # Written here, in a history of its own.
    OWN = "own"


class Record:
    """Invariant: what `data` returns is on disk, file and directory synced."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "graf-data"
        self._known: Data | None = None

    @property
    def data(self) -> Data:
        """What was written last; NONE when nothing ever was.

        Raises:
            PreconditionError: it cannot be read. It is never taken for NONE.
        """
        if self._known is None:
            try:
                self._known = Data(self.path.read_text().strip())
            except FileNotFoundError:
                self._known = Data.NONE
            except (OSError, ValueError) as error:
                raise PreconditionError(
                    f"{self.path} cannot be trusted ({error}), so nothing is known of the data beside it. "
                    f"If it may be replaced by the active's, write `own` into that file, then Resync",
                    reason="record-unreadable",
                ) from error
        return self._known

    def write(self, data: Data) -> None:
        """Makes it durable; free when nothing changes."""
        if self._known is data:
            return
        temporary = self.path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(f"{data.value}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._known = data
