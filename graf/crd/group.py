"""RedundancyGroup: one protected network function, its sites, voters, components and policy."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from graf.api.recorded import AssignedRole
from graf.crd.assignment import Stage, Voters
from graf.crd.base import (
    AdministrativeRole,
    Cel,
    Column,
    Condition,
    FreeObject,
    Model,
    Name,
    Resource,
    Timestamp,
    broken,
)
from graf.crd.voters import TRANSITIONS

MAP_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class PolicyRef(Model):
    """Reference to a RedundancyPolicy in the same namespace."""

    name: Name = Field(description="Name of the RedundancyPolicy.")


class GroupSite(Model):
    """A site of the group."""

    name: Name = Field(description="Name of the Site.")
    administrative_role: AdministrativeRole = Field(
        default="spare", description="preferred: where the group runs when all is well. Exactly one site."
    )


class GroupComponent(Model):
    """A component of the group, the same at every site but for its parameters."""

    name: Name = Field(description="Name of the component.")
    driver_class: Name = Field(description="Name of the DriverClass.")
    stage: Stage = Field(default="data", description="When it is activated: data, workload, traffic, peers.")
    depends_on: list[Name] = Field(
        default_factory=list, max_length=32, description="Components that must be active first."
    )
    parameters: FreeObject = Field(default_factory=dict, description="Parameters of all sites.")
    site_parameters: dict[str, FreeObject] = Field(
        default_factory=dict, description="Parameters by site; a field here wins over one of all sites."
    )

    def at(self, site: str) -> dict[str, Any]:
        """Its parameters at a site: the common ones, overlaid field by field with the site's own."""
        return {**self.parameters, **self.site_parameters.get(site, {})}

    def rpo_seconds(self, site: str) -> float | None:
        """What a promotion of this component at a site may lose, as its parameter `rpoSeconds` declares; None: nothing.

        Drivers whose copy is not synchronous have that parameter by convention.
        """
        value = self.at(site).get("rpoSeconds")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class GroupPeer(Model):
    """An outside neighbour that follows the function. Not yet supported."""

    name: Name = Field(description="Name of the peer.")
    kind: str = Field(default="", description="What it is: vDU, EMS, 5GC, NRF.")
    parameters: FreeObject = Field(default_factory=dict, description="How it is told.")


class RedundancyGroupSpec(Model):
    """What is protected, where, by which policy."""

    cel: ClassVar[tuple[Cel, ...]] = (
        *TRANSITIONS,
        Cel(
            "self.sites.size() == oldSelf.sites.size() && self.sites.all(s, oldSelf.sites.exists(o, o.name == s.name))",
            "changing the sites is not yet supported (their roles may change)",
            ".sites",
        ),
        Cel(
            "self.sites.exists_one(s, s.administrativeRole == 'preferred')",
            "exactly one site must be preferred",
            ".sites",
        ),
        Cel(
            "self.voters.members.size() % 2 == 1 || self.voters.members.size() == 2",
            "the number of voters must be odd (or two sites, which never fail over by themselves)",
            ".voters",
        ),
        Cel(
            "self.voters.readmit.all(n, self.voters.members.exists(v, v.name == n))",
            "only members can be admitted anew",
            ".voters",
        ),
        Cel(
            "self.sites.all(s, self.voters.members.exists(v, v.name == s.name && v.kind == 'Site'))",
            "every site must be among the voters, as kind Site",
            ".voters",
        ),
        Cel(
            "self.voters.members.all(v, v.kind == 'Witness' || self.sites.exists(s, s.name == v.name))",
            "a voter of kind Site must be one of the sites; use kind Witness for a voter alone",
            ".voters",
        ),
        Cel(
            "self.components.all(c, c.dependsOn.all(d, d != c.name && self.components.exists(o, o.name == d)))",
            "dependsOn must name another component of the group",
            ".components",
        ),
    )

    policy_ref: PolicyRef = Field(description="The policy of the group.")
    sites: list[GroupSite] = Field(
        min_length=2, max_length=8, description="Sites that can run it.", json_schema_extra=MAP_BY_NAME
    )
    voters: Voters = Field(description="Who votes for its leases. To change it, declare a list with a higher version.")
    components: list[GroupComponent] = Field(
        min_length=1, max_length=32, description="What has a role at each site.", json_schema_extra=MAP_BY_NAME
    )
    peers: list[GroupPeer] = Field(
        default_factory=list, max_length=32, description="Outside neighbours. Not yet supported."
    )

    @property
    def preferred_site(self) -> str:
        """Name of the preferred site."""
        return next(site.name for site in self.sites if site.administrative_role == "preferred")

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the group."""
        return tuple(site.name for site in self.sites)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        self._check_sites_and_voters()
        self._check_components()
        return self

    def _check_sites_and_voters(self) -> None:
        sites = [site.name for site in self.sites]
        voters = {member.name: member.kind for member in self.voters.members}
        if len(set(sites)) != len(sites):
            raise broken("sites", "names a site twice", "name every site once")
        if len(voters) != len(self.voters.members):
            raise broken("voters.members", "names a voter twice", "name every voter once")
        preferred = [site.name for site in self.sites if site.administrative_role == "preferred"]
        if len(preferred) != 1:
            raise broken(
                "sites",
                f"exactly one site must be preferred, here {len(preferred)} are",
                "set administrativeRole: preferred at one site and spare at the others",
            )
        if len(voters) % 2 == 0 and len(voters) != 2:
            raise broken(
                "voters.members",
                f"{len(voters)} voters are no better than {len(voters) - 1}",
                "declare an odd number of voters: add or leave out a witness",
            )
        for index, name in enumerate(self.voters.readmit):
            if name not in voters or name in self.voters.readmit[:index]:
                raise broken(
                    f"voters.readmit[{index}]",
                    f"{name} is not a member, or is named twice",
                    "name members that have lost their disk, once each",
                )
        for site in sites:
            if voters.get(site) != "Site":
                raise broken(
                    "voters.members",
                    f"the site {site} is not among the voters as kind Site",
                    f"add a member with name: {site}, kind: Site and the endpoint of its controller",
                )
        for voter, kind in voters.items():
            if kind == "Site" and voter not in sites:
                raise broken(
                    "voters.members",
                    f"the voter {voter} of kind Site is not a site of the group",
                    f"add {voter} to spec.sites, or make it kind: Witness",
                )

    def _check_components(self) -> None:
        names = [component.name for component in self.components]
        if len(set(names)) != len(names):
            raise broken("components", "names a component twice", "name every component once")
        order = {"data": 0, "workload": 1, "traffic": 2, "peers": 3}
        stages = {component.name: component.stage for component in self.components}
        for index, component in enumerate(self.components):
            for dependency in component.depends_on:
                field = f"components[{index}].dependsOn"
                if dependency not in stages or dependency == component.name:
                    raise broken(
                        field,
                        f"{dependency} is not another component of the group",
                        f"name one of {', '.join(n for n in names if n != component.name) or 'no component'}",
                    )
                if order[stages[dependency]] > order[component.stage]:
                    raise broken(
                        field,
                        f"{dependency} has the later stage {stages[dependency]}",
                        f"put {component.name} into that stage or a later one",
                    )
            for site in component.site_parameters:
                if site not in self.site_names:
                    raise broken(
                        f"components[{index}].siteParameters.{site}",
                        f"{site} is not a site of the group",
                        f"use one of {', '.join(self.site_names)}",
                    )
        self._check_cycles()

    def _check_cycles(self) -> None:
        waiting = {component.name: set(component.depends_on) for component in self.components}
        while ready := [name for name, needs in waiting.items() if not needs]:
            for name in ready:
                del waiting[name]
            for needs in waiting.values():
                needs.difference_update(ready)
        if waiting:
            raise broken(
                "components",
                f"dependsOn of {', '.join(sorted(waiting))} goes in a circle",
                "take one of these dependencies out",
            )


class ComponentStatus(Model):
    """A component at a site, as its driver reports it."""

    name: str = Field(description="Name of the component.")
    driver_class: str = Field(default="", description="Name of the DriverClass.")
    role: str = Field(default="Unknown", description="Observed role.")
    health: str = Field(default="Unknown", description="Observed health.")
    epoch: int = Field(default=0, description="Epoch that the driver has seen.")
    accepting: bool = Field(default=False, description="Whether it accepts clients or writes.")
    promotable: bool = Field(default=False, description="Whether it could be activated.")
    promotable_reason: str = Field(default="", description="Why not, if not.")
    lag_seconds: float | None = Field(default=None, description="Behind the active, seconds.")
    lag_transactions: int | None = Field(default=None, description="Behind the active, transactions.")
    predicted_activation_ms: int | None = Field(
        default=None, description="What activating it here would take now, milliseconds; negative: cannot be told."
    )
    predicted_reach_ms: int | None = Field(
        default=None,
        description="From its activation until its clients reach it, milliseconds; negative: cannot be told.",
    )
    position: str = Field(default="", description="Replication position.")
    message: str = Field(default="", description="For people.")


class GroupSiteStatus(Model):
    """The group at one site, as last heard from it."""

    name: str = Field(description="Name of the site.")
    administrative_role: str = Field(default="", description="Role that people want.")
    assigned_role: AssignedRole = Field(default="Standby", description="Role as last decided.")
    role: str = Field(default="Unknown", description="Operational role: Active, Standby, Fenced, Invalidated, Unknown.")
    connected: bool = Field(default=False, description="Whether the site's controller is connected.")
    epoch: int = Field(default=0, description="Epoch of the site.")
    ready: bool = Field(default=False, description="Active and serving, or able to take over.")
    promotable: bool = Field(default=False, description="Whether it could take over now.")
    promotable_reason: str = Field(default="", description="Why not, if not.")
    lease_left_ms: int | None = Field(
        default=None, description="Lease left when it was observed, milliseconds; absent without a lease."
    )
    lag_seconds: float | None = Field(default=None, description="Worst lag of its components, seconds.")
    lag_transactions: int | None = Field(default=None, description="Worst lag, transactions.")
    phase: str = Field(default="", description="What the controller is doing.")
    reasons: list[str] = Field(default_factory=list, description="Reasons of its newest decision.")
    verdict: str = Field(default="", description="Verdict on its data at its last return.")
    observed_at: Timestamp | None = Field(default=None, description="When the manager heard this.")
    components: list[ComponentStatus] = Field(default_factory=list, description="By component.")


class SynchronousSet(Model):
    """Sites that have every acknowledged write."""

    epoch: int = Field(default=0, description="Epoch of the version.")
    counter: int = Field(default=0, description="Counter of the version.")
    members: list[str] = Field(default_factory=list, description="The sites.")


class HistoryEntry(Model):
    """A decision, refusal or event, as the site recorded it."""

    id: str = Field(description="Id of the record.")
    kind: str = Field(default="Decision", description="Decision, Refusal or Event.")
    type: str = Field(
        description="Bootstrap, Failover, Switchover, Failback, VoterChange, VotersSettled, Fence, Hold, ..."
    )
    epoch: int = Field(default=0, description="Epoch after it.")
    epoch_from: int = Field(default=0, description="Epoch before it.")
    from_site: str = Field(default="", description="Active site before.")
    to_site: str = Field(default="", description="Active site after, or the site that it is about.")
    operation: str = Field(default="", description="RedundancyOperation, if there was one.")
    site: str = Field(default="", description="Site that recorded it.")
    reasons: list[str] = Field(default_factory=list, description="Machine-readable reasons.")
    message: str = Field(default="", description="For people.")
    at: Timestamp | None = Field(default=None, description="Wall clock of the recording site.")
    phases_ms: dict[str, float] = Field(
        default_factory=dict, description="detect, campaign, activate, traffic: milliseconds."
    )
    git_commit: str = Field(default="", description="Commit that records it; empty while it is queued.")


class LastOperation(Model):
    """The newest move of the group."""

    name: str = Field(default="", description="RedundancyOperation, empty for an automatic failover.")
    type: str = Field(default="", description="Failover, Switchover, Failback, Bootstrap.")
    from_site: str = Field(default="", description="Active site before.")
    to_site: str = Field(default="", description="Active site after.")
    epoch_from: int = Field(default=0, description="Epoch before.")
    epoch_to: int = Field(default=0, description="Epoch after.")
    result: str = Field(default="", description="How it ended.")
    completed_at: Timestamp | None = Field(default=None, description="When.")
    rto_ms: float | None = Field(default=None, description="Measured: sum of its phases, milliseconds.")
    rpo_writes: int | None = Field(
        default=None, description="0 where the lossless rule proves it; absent when unknown."
    )
    git_commit: str = Field(default="", description="Commit that records it.")


class PredictedRto(Model):
    """What a failover would cost now."""

    ms: int = Field(description="Predicted outage, milliseconds.")
    at_least: bool = Field(default=False, description="A driver cannot tell its part now: it may be longer.")
    basis: str = Field(default="", description="What the prediction rests on.")


class VoterListStatus(Model):
    """A list of voters."""

    version: int = Field(default=0, description="Its version.")
    members: list[str] = Field(default_factory=list, description="Names of its members.")
    readmitted: list[str] = Field(default_factory=list, description="Members that it admitted anew.")


class VoterStatus(Model):
    """One voter, as the active site hears it."""

    name: str = Field(description="Name of the voter.")
    state: str = Field(
        default="Unknown",
        description="Supports: renews the lease. NoRecord: it abstains, its record is lost. "
        "Silent: it does not answer. Anything else is its reason not to renew.",
    )


class VotersStatus(Model):
    """Which voters decide about the group."""

    state: str = Field(
        default="Unknown",
        description="InForce: the declared list decides alone. Changing: majorities of both lists are needed. "
        "Waiting: another list is declared and not begun. Unknown: no site has reported.",
    )
    declared_version: int = Field(default=0, description="Version of the declared list.")
    in_force: VoterListStatus | None = Field(default=None, description="The list in force.")
    proposed: VoterListStatus | None = Field(default=None, description="The list that follows, during a change.")
    voters: list[VoterStatus] = Field(default_factory=list, description="By voter, as the active site hears them.")
    message: str = Field(default="", description="For people: what a change waits for, who abstains, what to do.")


class RedundancyGroupStatus(Model):
    """What the manager knows of the group."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    active_site: str = Field(default="", description="Active site by the highest recorded epoch.")
    epoch: int = Field(default=0, description="Highest recorded epoch.")
    rpo: str = Field(default="", description="RPO gate of its policy: lossless or async.")
    ready: str = Field(default="", description="Sites that serve or could take over, of all: 2/2.")
    lag: str = Field(default="", description="Worst lag of a standby, for people.")
    rto: str = Field(default="", description="Predicted outage of a failover, for people.")
    predicted_rto: PredictedRto | None = Field(default=None, description="What a failover would cost now.")
    synchronous_set: SynchronousSet | None = Field(
        default=None,
        description="Sites that may take over: they have every acknowledged write; with `rpo: async` they lack no more "
        "than their components declare.",
    )
    voters: VotersStatus | None = Field(default=None, description="Which voters decide about the group.")
    sites: list[GroupSiteStatus] = Field(default_factory=list, description="By site.")
    last_operation: LastOperation | None = Field(default=None, description="The newest move.")
    history: list[HistoryEntry] = Field(
        default_factory=list, description="The last 20 decisions, refusals and events; newest last."
    )
    conditions: list[Condition] = Field(
        default_factory=list, description="Accepted, Protected, WithinRpo, FailbackPending, Recorded."
    )


class RedundancyGroup(Resource):
    """One protected network function."""

    kind_name: ClassVar[str] = "RedundancyGroup"
    plural: ClassVar[str] = "redundancygroups"
    short_names: ClassVar[tuple[str, ...]] = ("rg",)
    folder: ClassVar[str] = "groups"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("ACTIVE", ".status.activeSite", "string", "active site"),
        Column("EPOCH", ".status.epoch", "integer", "fencing epoch"),
        Column("READY", ".status.ready", "string", "sites that serve or could take over, of all"),
        Column("LAG", ".status.lag", "string", "worst lag of a standby"),
        Column("RTO", ".status.rto", "string", "predicted outage of a failover"),
        Column("AGE", ".metadata.creationTimestamp", "date"),
    )

    kind: Literal["RedundancyGroup"] = "RedundancyGroup"
    spec: RedundancyGroupSpec = Field(description="What is protected, where, by which policy.")
    status: RedundancyGroupStatus | None = Field(default=None, description="What the manager knows of it.")
