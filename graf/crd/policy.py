"""RedundancyPolicy: how a group detects failures, when it moves by itself, and when it goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from graf.crd.base import Cel, Column, Condition, FreeObject, Model, Resource, broken

Profile = Literal["metro", "regional", "wan"]


@dataclass(frozen=True, slots=True)
class ProfileTiming:
    """Heartbeat interval and lease time of a profile, milliseconds."""

    heartbeat_ms: int
    ttl_ms: int


PROFILES: dict[str, ProfileTiming] = {
    "metro": ProfileTiming(100, 700),
    "regional": ProfileTiming(300, 2000),
    "wan": ProfileTiming(1000, 6000),
}


def _effective(field: str, attribute: str) -> str:
    """CEL for the value of an override, or of its profile."""
    metro, regional, wan = (getattr(PROFILES[name], attribute) for name in ("metro", "regional", "wan"))
    by_profile = f"(self.profile == 'metro' ? {metro} : (self.profile == 'wan' ? {wan} : {regional}))"
    return f"(has(self.{field}) ? self.{field} : {by_profile})"


class Detection(Model):
    """Timing of heartbeats and leases."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            f"{_effective('heartbeatMs', 'heartbeat_ms')} * 4 <= {_effective('ttlMs', 'ttl_ms')}",
            "heartbeatMs * 4 must be at most ttlMs: a lease has to survive three lost heartbeats",
        ),
    )

    profile: Profile = Field(
        default="regional",
        description="metro: 100 ms / 700 ms; regional: 300 ms / 2 s; wan: 1 s / 6 s (heartbeat / lease).",
    )
    heartbeat_ms: int | None = Field(
        default=None, ge=20, le=60000, description="Overrides the profile's heartbeat interval, milliseconds."
    )
    ttl_ms: int | None = Field(
        default=None, ge=200, le=600000, description="Overrides the profile's lease time, milliseconds."
    )
    drift_ppm: int = Field(
        default=10000,
        ge=0,
        le=500000,
        description="Assumed worst difference of clock rates between voters, parts per million.",
    )

    @property
    def timing(self) -> ProfileTiming:
        """The timing after overrides."""
        profile = PROFILES[self.profile]
        return ProfileTiming(
            profile.heartbeat_ms if self.heartbeat_ms is None else self.heartbeat_ms,
            profile.ttl_ms if self.ttl_ms is None else self.ttl_ms,
        )

    @model_validator(mode="after")
    def _heartbeat_fits(self) -> Self:
        timing = self.timing
        if timing.heartbeat_ms * 4 > timing.ttl_ms:
            raise broken(
                "heartbeatMs" if self.heartbeat_ms is not None else "ttlMs",
                f"heartbeat {timing.heartbeat_ms} ms * 4 is more than the lease time {timing.ttl_ms} ms",
                f"set heartbeatMs to at most {timing.ttl_ms // 4} or ttlMs to at least {timing.heartbeat_ms * 4}",
            )
        return self


class RateLimit(Model):
    """Limit of automatic moves."""

    max_per_hour: int = Field(ge=1, le=60, description="Most automatic failovers of a group in an hour.")


class Failover(Model):
    """When the group moves by itself after a failure."""

    mode: Literal["Automatic", "Manual"] = Field(
        default="Automatic", description="Manual: only people move the group; status says why it holds."
    )
    rpo: Literal["lossless", "async"] = Field(
        default="lossless",
        description="RPO gate. lossless: a write is acknowledged when every site that may take over has it. async: no "
        "write waits; a site may take over that lacks no more than `rpoSeconds` of each component that is copied.",
    )
    timeout_seconds: int | None = Field(
        default=None, ge=1, description="How long to wait for a safe failover. Not yet supported."
    )
    on_timeout: Literal["Abort", "ForceWithPossibleDataLoss"] = Field(
        default="Abort",
        description="What happens then. ForceWithPossibleDataLoss is not yet supported.",
    )
    cooldown_seconds: int = Field(
        default=0,
        ge=0,
        le=86400,
        description="Pause after a completed operation before an automatic failback; never delays a failover.",
    )
    rate_limit: RateLimit | None = Field(default=None, description="Limit of automatic moves. Not yet supported.")


class Failback(Model):
    """When the group returns to its preferred site."""

    mode: Literal["Never", "Manual", "Automatic"] = Field(
        default="Manual", description="Automatic: once the preferred site has been ready for the whole window."
    )
    stabilisation_window_seconds: int = Field(
        default=300,
        ge=0,
        le=604800,
        description="For how long without a break the preferred site must be ready, seconds.",
    )
    maintenance_windows: list[FreeObject] = Field(
        default_factory=list, max_length=16, description="When a failback may run. Not yet supported."
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, description="Most failbacks at once over all groups. Not yet supported."
    )
    traffic_steps: list[int] = Field(
        default_factory=list, max_length=16, description="Per cent of traffic per step. Not yet supported."
    )


class Divergence(Model):
    """What happens to data that a returning site has and the active one has not."""

    handling: Literal["ArchiveAndRebuild", "Hold"] = Field(
        default="ArchiveAndRebuild",
        description="ArchiveAndRebuild: archive it, then resync. Hold is not yet supported.",
    )


class RedundancyPolicySpec(Model):
    """How groups of this policy behave."""

    detection: Detection = Field(default_factory=Detection, description="Timing of heartbeats and leases.")
    failover: Failover = Field(default_factory=Failover, description="When the group moves by itself.")
    failback: Failback = Field(default_factory=Failback, description="When the group returns.")
    divergence: Divergence = Field(default_factory=Divergence, description="What happens to divergent data.")


class RedundancyPolicyStatus(Model):
    """What the manager says about the policy."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    conditions: list[Condition] = Field(default_factory=list, description="Supported.")


class RedundancyPolicy(Resource):
    """How groups detect failures, when they move by themselves, and when they go back."""

    kind_name: ClassVar[str] = "RedundancyPolicy"
    plural: ClassVar[str] = "redundancypolicies"
    short_names: ClassVar[tuple[str, ...]] = ("rp",)
    folder: ClassVar[str] = "policies"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("PROFILE", ".spec.detection.profile"),
        Column("FAILOVER", ".spec.failover.mode"),
        Column("RPO", ".spec.failover.rpo"),
        Column("FAILBACK", ".spec.failback.mode"),
        Column("AGE", ".metadata.creationTimestamp", "date"),
    )

    kind: Literal["RedundancyPolicy"] = "RedundancyPolicy"
    spec: RedundancyPolicySpec = Field(
        default_factory=RedundancyPolicySpec, description="How groups of this policy behave."
    )
    status: RedundancyPolicyStatus | None = Field(default=None, description="What the manager says about it.")
