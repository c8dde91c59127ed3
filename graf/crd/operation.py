"""RedundancyOperation: one planned move of a group, asked for once and recorded step by step."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from graf.crd.base import Cel, Column, Condition, Model, Name, Resource, Timestamp, broken

OperationState = Literal["Pending", "Running", "Succeeded", "RolledBack", "Failed", "Refused"]
FINAL_STATES: frozenset[str] = frozenset({"Succeeded", "RolledBack", "Failed", "Refused"})


class GroupRef(Model):
    """Reference to a RedundancyGroup in the same namespace."""

    name: Name = Field(description="Name of the RedundancyGroup.")


class RedundancyOperationSpec(Model):
    """What to do. Immutable: another operation is another object."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self == oldSelf", "an operation is asked for once: create another object instead of changing it"),
        Cel("self.type == 'Failback' || has(self.target)", "target is required for this type"),
    )

    type: Literal["Switchover", "Failover", "Failback", "Drill"] = Field(
        description="Switchover: planned move. Failback: planned return. Failover and Drill are not yet supported."
    )
    group_ref: GroupRef = Field(description="The group to move.")
    target: Name | None = Field(
        default=None, description="Site to move to; for a Failback the preferred site when left out."
    )
    not_after: Timestamp | None = Field(
        default=None, description="The operation is refused when it has not begun by then (RFC 3339)."
    )
    reason: str = Field(default="", max_length=1024, description="Why, for the record.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.type != "Failback" and self.target is None:
            raise broken("target", f"is required for a {self.type}", "name the site to move to")
        if self.not_after is not None:
            try:
                moment = datetime.fromisoformat(self.not_after)
            except ValueError:
                moment = datetime.min
            if moment.tzinfo is None:
                raise broken(
                    "notAfter",
                    f"{self.not_after!r} is not a date and time with a zone",
                    "write it by RFC 3339, such as 2026-01-31T12:00:00Z",
                )
        return self


class OperationStep(Model):
    """One step of an operation."""

    name: str = Field(description="What was done.")
    state: str = Field(default="Running", description="Running or how it ended.")
    started_at: Timestamp | None = Field(default=None, description="When it began.")
    ended_at: Timestamp | None = Field(default=None, description="When it ended.")
    message: str = Field(default="", description="Evidence or reason, for people.")


class RedundancyOperationStatus(Model):
    """How far it is and what came of it."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    state: OperationState = Field(default="Pending", description="How far the operation is.")
    message: str = Field(default="", description="Result or refusal, for people.")
    plan: list[str] = Field(default_factory=list, description="What will be done, in order.")
    steps: list[OperationStep] = Field(default_factory=list, description="What was done, in order.")
    evidence: list[str] = Field(default_factory=list, description="Facts of the pre-check and the result.")
    from_site: str = Field(default="", description="Active site before.")
    to_site: str = Field(default="", description="Site that it moves to.")
    epoch_from: int = Field(default=0, description="Epoch before.")
    epoch_to: int = Field(default=0, description="Epoch after.")
    started_at: Timestamp | None = Field(default=None, description="When the command went to the active site.")
    completed_at: Timestamp | None = Field(default=None, description="When it ended.")
    rto_ms: float | None = Field(default=None, description="Measured outage, milliseconds.")
    rpo_writes: int | None = Field(default=None, description="Measured loss of acknowledged writes.")
    git_commit: str = Field(default="", description="Commit that records the decision.")
    conditions: list[Condition] = Field(default_factory=list, description="Complete.")


class RedundancyOperation(Resource):
    """One planned move of a group."""

    kind_name: ClassVar[str] = "RedundancyOperation"
    plural: ClassVar[str] = "redundancyoperations"
    short_names: ClassVar[tuple[str, ...]] = ("rop",)
    folder: ClassVar[str] = "operations"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("TYPE", ".spec.type"),
        Column("GROUP", ".spec.groupRef.name"),
        Column("TARGET", ".status.toSite"),
        Column("STATE", ".status.state"),
        Column("RTO", ".status.rtoMs", "number", "measured outage, milliseconds"),
        Column("AGE", ".metadata.creationTimestamp", "date"),
        Column("MESSAGE", ".status.message", priority=1),
    )

    kind: Literal["RedundancyOperation"] = "RedundancyOperation"
    spec: RedundancyOperationSpec = Field(description="What to do.")
    status: RedundancyOperationStatus | None = Field(default=None, description="How far it is and what came of it.")
