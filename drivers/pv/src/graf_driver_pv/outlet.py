"""How the other sites get the generations that the active one makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from graf_driver_pv.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Heard:
    """A site that follows, when it last asked."""

    have: str
    at_ns: int
    behind_s: float


class Outlet(Protocol):
    """Runs while the component is ACTIVE.

    Attributes:
        allowed: the sites of the group, with the names in their certificates.
        heard: what sites asked last.
        problem: why the others cannot get generations; empty for nothing.
    """

    allowed: Mapping[str, str]
    problem: str

    @property
    def heard(self) -> Mapping[str, Heard]:
        """Who asked, and what."""

    @property
    def callers(self) -> Collection[str]:
        """Sites that are expected to ask."""

    @property
    def pinned(self) -> set[str]:
        """Generations that must not be taken away now."""

    async def start(self) -> None:
        """Begins."""

    async def stop(self) -> None:
        """Ends all of it."""

    async def delivered(self, manifest: Manifest) -> None:
        """Waits until the others can have a generation."""

    def facts(self) -> dict[str, str]:
        """For the status."""
