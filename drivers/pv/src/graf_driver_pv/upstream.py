"""What a site that follows asks of the active one, whichever way generations come."""

from __future__ import annotations

from typing import Protocol

from graf_driver_pv.client import Head
from graf_driver_pv.copying import Work
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.position import Position


class Upstream(Protocol):
    """Where generations come from. Every call raises ClientError when it cannot be answered."""

    @property
    def settle_s(self) -> float:
        """What a site that has just become active is given until it can be asked."""

    async def connect(self) -> None:
        """Before anything is asked; again after an error."""

    async def close(self) -> None:
        """Ends what `connect` began, if it did."""

    async def next(self, have: Position | None, begun_wall_ms: int, wait_s: float) -> Head:
        """How far the active site is; may wait for something newer."""

    async def look(self, asked_wall_ms: int) -> Head:
        """What the active site has, for a verdict.

        Args:
            asked_wall_ms: when the question came up; `Head.stale` says that the answer is older.
        """

    async def manifest(self, position: Position, have: Manifest | None) -> tuple[Manifest | None, bytes]:
        """A generation's manifest and its file; None when it is gone. `have` is the newest one here."""

    async def bring(self, work: Work, manifest: Manifest, newest: Manifest | None) -> None:
        """Brings what is wanted into `incoming`. Nothing is written there after this has ended.

        Raises:
            PullError: not all of it came.
        """

    def distrust(self, position: Position) -> None:
        """A generation came, and was not what its manifest says."""
