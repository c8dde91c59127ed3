"""What the reconcile remembers of a group and of an operation between two rounds, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from graf.api.recorded import Recorded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.crd.assignment import GroupAssignment


@dataclass(slots=True)
class StatusWriter:
    """When an object's status was written last, and what it was."""

    written: dict[str, Any] | None = None
    written_at_s: float = float("-inf")


@dataclass(slots=True)
class GroupMemory:
    """A group between two rounds. Single writer: the reconcile of the leading manager.

    Attributes:
        recorded: what was decided last; only `planning.advance` and `planning.newer` change it.
        status: the newest computed status.
        compiled: the last valid assignments, by site: they stay in force while the group is invalid.
        ready_since_s: since when the preferred site could take over.
        ack_after_write: (site, record id) to acknowledge once the status that has them is written.
        refused: the problems that were told last, so that each is told once.
    """

    recorded: Recorded
    status: dict[str, Any]
    compiled: dict[str, GroupAssignment] = field(default_factory=dict)
    ready_since_s: float | None = None
    ack_after_write: list[tuple[str, str]] = field(default_factory=list)
    refused: str = ""
    writer: StatusWriter = field(default_factory=StatusWriter)


@dataclass(slots=True)
class OperationMemory:
    """An operation between two rounds."""

    status: dict[str, Any]
    known_since_s: float
    written: dict[str, Any] | None = None
    succeeded_at_s: float | None = None  # its site said so; the record of the move is still awaited
    moved_at_s: float | None = None  # the epoch rose without a word about this operation

    @property
    def state(self) -> str:
        """`status.state`."""
        return str(self.status.get("state", "Pending"))


def recorded_from_status(status: Mapping[str, Any]) -> Recorded:
    """What an earlier manager wrote into a group's status."""
    return Recorded(
        str(status.get("activeSite", "")),
        int(status.get("epoch", 0)),
        {site["name"]: site.get("assignedRole", "Standby") for site in status.get("sites") or []},
    )


def wall_seconds(text: str | None) -> float | None:
    """An RFC 3339 time as Unix seconds; None for what is missing or unreadable."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
