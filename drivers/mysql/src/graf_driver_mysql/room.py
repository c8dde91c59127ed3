"""Whether the server has room on its disk. Without, it waits with every write, and says so in its own log alone."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graf_driver_mysql.looking import Looking

log = logging.getLogger("graf.driver.mysql")

LITTLE_MIB: Final = 64
FULL_MIB: Final = 1
_INTERVAL_S: Final = 1.0
_DO = "make room: delete old folders of archive/, lower binlogMaxMiB, enlarge the disk"


@dataclass(frozen=True, slots=True)
class Left:
    """What is left, for people; empty where there is plenty. `full`: writes wait."""

    text: str = ""
    full: bool = False


def judged(left_mib: float, folder: Path) -> Left:
    """What so much room means."""
    if left_mib >= LITTLE_MIB:
        return Left()
    if left_mib >= FULL_MIB:
        return Left(f"only {left_mib:.0f} MiB are left on the disk of {folder}; {_DO}")
    return Left(
        f"the disk of {folder} is full: the server waits with every write until there is room; {_DO}, or move the "
        f"group to another site",
        full=True,
    )


def left_in(folder: Path) -> Left:
    """Plenty where it cannot be told. Blocking: call it in a thread."""
    try:
        seen = os.statvfs(folder)
    except OSError:
        return Left()
    blocks = seen.f_bfree if os.geteuid() == 0 else seen.f_bavail  # the server runs as the driver does
    return judged(blocks * seen.f_frsize / (1 << 20), folder)


class Room:
    """Looks by itself: a disk that does not answer holds up nothing else."""

    def __init__(self, site: str, folder: Path, ring: Callable[[], None]) -> None:
        self.left = Left()
        self._folder = folder
        self._ring = ring
        self._looking = Looking(log, site, _INTERVAL_S, "room unknown", "disk")

    def start(self) -> None:
        """Begins."""
        self._looking.start(self._look)

    async def stop(self) -> None:
        """Ends."""
        await self._looking.stop()

    async def _look(self) -> None:
        left = await asyncio.to_thread(left_in, self._folder)
        changed, self.left = left.full != self.left.full, left
        if changed:
            self._ring()
