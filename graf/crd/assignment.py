"""GroupAssignment: a group as one of its sites has to see it. Compiled by the manager, applied by the site."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from graf.api.recorded import AssignedRole
from graf.crd.base import (
    AdministrativeRole,
    Column,
    Condition,
    Endpoint,
    FreeObject,
    Model,
    Name,
    Resource,
    Timestamp,
)

Stage = Literal["data", "workload", "traffic", "peers"]


class VoterMember(Model):
    """A process that votes for the group."""

    name: Name = Field(description="Name of the site or witness; its certificate says <name>.voter.graf.dev.")
    endpoint: Endpoint = Field(description="host:port where it listens for its peers.")
    kind: Literal["Site", "Witness"] = Field(
        default="Site", description="Site: votes and may run the function. Witness: only votes."
    )


class Voters(Model):
    """The declared voters. A majority is counted against this list, never against who is visible."""

    version: int = Field(
        default=1, ge=1, description="Version of the list; must rise whenever the names in members or readmit change."
    )
    members: list[VoterMember] = Field(
        min_length=1,
        max_length=9,
        description="The voters.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    readmit: list[Name] = Field(
        default_factory=list,
        max_length=9,
        description="Members that have lost their disk, and so abstain, and are admitted anew by this version.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members in one order, whatever order they were written in: the order is no part of the list."""
        return tuple(sorted(member.name for member in self.members))


class Timing(Model):
    """Timing of heartbeats and leases, after profile and overrides."""

    heartbeat_ms: int = Field(ge=20, description="Interval of heartbeats, milliseconds.")
    ttl_ms: int = Field(ge=200, description="Lease time, milliseconds.")
    drift_ppm: int = Field(default=10000, ge=0, description="Assumed worst difference of clock rates, ppm.")


class ComponentPeer(Model):
    """The same component at another site."""

    site: Name = Field(description="The other site.")
    parameters: FreeObject = Field(default_factory=dict, description="The component's parameters there.")


class AssignedComponent(Model):
    """A component as the site has to run it."""

    name: Name = Field(description="Name of the component.")
    driver_class: Name = Field(description="Name of the DriverClass.")
    stage: Stage = Field(default="data", description="When it is activated: data, workload, traffic, peers.")
    depends_on: list[Name] = Field(
        default_factory=list, max_length=32, description="Components that must be active first."
    )
    parameters: FreeObject = Field(default_factory=dict, description="This site's parameters.")
    peers: list[ComponentPeer] = Field(default_factory=list, max_length=16, description="The component elsewhere.")


class GroupAssignmentSpec(Model):
    """The group for one site."""

    group: Name = Field(description="Name of the RedundancyGroup.")
    site: Name = Field(description="The site that this is for.")
    role: AssignedRole = Field(
        default="Standby", description="Role of the site as last decided; only the lease makes it so."
    )
    epoch: int = Field(default=0, ge=0, description="Epoch of that decision; 0 before the first activation.")
    active_site: str = Field(default="", description="Active site as last decided; empty before the first activation.")
    initial_site: Name = Field(description="Site that campaigns first for a group that was never active.")
    administrative_role: AdministrativeRole = Field(default="spare", description="Role that people want for the site.")
    voters: Voters = Field(description="The declared voters.")
    timing: Timing = Field(description="Timing of heartbeats and leases.")
    lossless: bool = Field(default=True, description="Whether writes wait for every site that may take over.")
    failover_mode: Literal["Automatic", "Manual"] = Field(
        default="Automatic", description="Whether the site may campaign by itself after a failure."
    )
    components: list[AssignedComponent] = Field(
        default_factory=list, max_length=32, description="Components, in the order of the group."
    )


class AssignedComponentStatus(Model):
    """A component as the controller observes it."""

    name: str = Field(description="Name of the component.")
    role: str = Field(default="Unknown", description="Observed role.")
    health: str = Field(default="Unknown", description="Observed health.")
    epoch: int = Field(default=0, description="Epoch that the driver has seen.")
    message: str = Field(default="", description="For people.")


class GroupAssignmentStatus(Model):
    """The assignment as the controller observes it."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    role: str = Field(default="Unknown", description="Operational role of the site.")
    epoch: int = Field(default=0, description="Epoch of the site's role.")
    phase: str = Field(default="", description="What the controller is doing.")
    observed_at: Timestamp | None = Field(default=None, description="When this was observed.")
    components: list[AssignedComponentStatus] = Field(default_factory=list, description="By component.")
    conditions: list[Condition] = Field(default_factory=list, description="Applied, Ready.")


class GroupAssignment(Resource):
    """A group as one of its sites has to see it; lives in the site's own cluster."""

    kind_name: ClassVar[str] = "GroupAssignment"
    plural: ClassVar[str] = "groupassignments"
    short_names: ClassVar[tuple[str, ...]] = ("ga",)
    folder: ClassVar[str] = "clusters"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("ASSIGNED", ".spec.role"),
        Column("ROLE", ".status.role"),
        Column("EPOCH", ".status.epoch", "integer"),
        Column("PHASE", ".status.phase"),
        Column("AGE", ".metadata.creationTimestamp", "date"),
    )

    kind: Literal["GroupAssignment"] = "GroupAssignment"
    spec: GroupAssignmentSpec = Field(description="The group for this site.")
    status: GroupAssignmentStatus | None = Field(
        default=None, description="The assignment as the controller observes it."
    )
