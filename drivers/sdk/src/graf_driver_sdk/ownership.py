"""A folder that belongs to one driver at a time.

Two drivers are told apart by their class and instance, and only their parameters say where their data is. A path
that was copied from one group to the other would give two groups the same data: each would fence, rebuild and promote
what the other one serves. Process numbers do not help, as each driver sees only those of its own Pod.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from graf_driver_sdk.errors import PreconditionError

IN_USE, UNUSABLE = "in-use", "folder-unusable"


class OwnedFolder:
    """Held from `take` until `release` or the end of the process, however it ends; not by programs that it starts."""

    def __init__(self, path: Path, parameter: str) -> None:
        self.path = path
        self._parameter = parameter
        self._descriptor = -1

    def take(self) -> None:
        """Makes the folder where it is missing, and takes it. Nothing is written into it: its disk may be full.

        Raises:
            PreconditionError: Another driver has it (reason `in-use`), or there is no such folder and none can be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._refused(f"cannot be used: {error.strerror or error}: mount a folder there", UNUSABLE) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise self._refused(
                "belongs to another driver that runs: give each component a folder of its own. After a restart: the "
                "one before it has not ended yet",
                IN_USE,
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise self._refused(
                f"cannot be locked: {error.strerror or error}: use a local disk, or a file system that knows flock",
                UNUSABLE,
            ) from error
        self._descriptor = descriptor

    def _refused(self, why: str, reason: str) -> PreconditionError:
        return PreconditionError(f"{self._parameter}: {self.path} {why}", reason=reason)

    def release(self) -> None:
        """Gives it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
