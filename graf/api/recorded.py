"""What was decided last for a group, as the manager, Git and the assignments of the sites tell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

# A role that a decision gives; `graf.api.values.Role` is the one that a site holds.
AssignedRole = Literal["Active", "Standby", "Invalidated"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was decided last for a group. Invariant: `epoch` only rises (`graf.core.planning.advance`).

    Attributes:
        active_site: empty before the first activation.
        epoch: 0 before the first activation.
        roles: role of each site by that decision; a site that is missing is a standby.
    """

    active_site: str = ""
    epoch: int = 0
    roles: Mapping[str, AssignedRole] = field(default_factory=dict)


def role_of(site: str, recorded: Recorded) -> AssignedRole:
    """Role of a site by the last decision."""
    if site == recorded.active_site:
        return "Active"
    role = recorded.roles.get(site, "Standby")
    return "Standby" if role == "Active" else role
