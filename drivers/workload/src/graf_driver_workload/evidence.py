"""Evidence: what the driver has written on an object, and how many replicas it is to have. Pure.

The count of an active workload belongs to whoever scales it: an operator, an autoscaler. The driver reads it when it
scales in, keeps it on the object itself, and gives it back when it scales out. It never guesses one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graf_driver_sdk.types import Role

from graf_driver_workload import names
from graf_driver_workload.parameters import Mode


@dataclass(frozen=True, slots=True)
class Evidence:
    """The annotations of an object; `role` UNSPECIFIED and `epoch` 0: none has been given yet."""

    owner: str = ""
    role: Role = Role.UNSPECIFIED
    epoch: int = 0
    replicas: int | None = None

    def annotations(self) -> dict[str, str]:
        """As they are written."""
        written = {names.OWNER: self.owner, names.ROLE: self.role.name, names.EPOCH: str(self.epoch)}
        return written | ({} if self.replicas is None else {names.REPLICAS: str(self.replicas)})


def read(item: Mapping[str, Any]) -> Evidence:
    """The evidence of an object. What cannot be read counts as not written: a count is then unknown."""
    annotations = item.get("metadata", {}).get("annotations") or {}
    role = annotations.get(names.ROLE, "")
    return Evidence(
        annotations.get(names.OWNER, ""),
        Role[role] if role in Role.__members__ else Role.UNSPECIFIED,
        _count(annotations.get(names.EPOCH)) or 0,
        _count(annotations.get(names.REPLICAS)) or None,
    )


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def is_full(mode: Mode, role: Role) -> bool:
    """Whether all replicas run in this role."""
    return role is Role.ACTIVE or (mode is Mode.HOT and role is Role.STANDBY)


def remembered(mode: Mode, standby: int, evidence: Evidence, current: int, declared: int | None) -> int | None:
    """How many replicas the object has when it is scaled out; None when nobody has said so.

    Args:
        mode: of the component.
        standby: replicas that a standby keeps.
        evidence: what is written on the object.
        current: its `spec.replicas` now.
        declared: what parameters say.
    """
    if declared is not None:
        return declared
    if current > 0 and is_full(mode, evidence.role):
        return current
    if evidence.replicas is not None:
        return evidence.replicas
    # Never touched by this driver: what runs there now is what somebody wanted, unless it may be a standby's share.
    if evidence.role is Role.UNSPECIFIED and current > standby:
        return current
    return None
