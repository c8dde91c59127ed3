"""The contract's values as plain Python: frozen, free of protobuf, the same numbers as the enums of `driver.proto`.

Durations and points in time are whole nanoseconds of CLOCK_MONOTONIC unless a name says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Role(enum.IntEnum):
    """What a component is at a site."""

    UNSPECIFIED = 0
    ACTIVE = 1
    STANDBY = 2
    FENCED = 3
    INVALIDATED = 4


class Health(enum.IntEnum):
    """How a component is doing; UNKNOWN could not be observed, DEAD is proved not to be running."""

    UNSPECIFIED = 0
    HEALTHY = 1
    INITIALISING = 2
    UNHEALTHY = 3
    UNKNOWN = 4
    DEAD = 5


class Capability(enum.IntEnum):
    """Optional parts of the contract."""

    UNSPECIFIED = 0
    GATE = 1
    POSITION = 2
    RESYNC = 3
    SYNCHRONOUS = 4


class Verdict(enum.IntEnum):
    """What a returning site's data is worth, against the active's; UNKNOWN means hold."""

    UNSPECIFIED = 0
    CLEAN = 1
    BEHIND = 2
    DIVERGED = 3
    EMPTY = 4
    UNKNOWN = 5


class ResyncStrategy(enum.IntEnum):
    """How to catch up; UNSPECIFIED lets the driver choose by its own verdict."""

    UNSPECIFIED = 0
    FOLLOW = 1
    REBUILD = 2


@dataclass(frozen=True, slots=True, order=True)
class ComponentKey:
    """Which component a call or a change is about."""

    group: str
    component: str
    site: str

    def __str__(self) -> str:
        return f"{self.group}/{self.component}@{self.site}"


@dataclass(frozen=True, slots=True)
class Spec:
    """A component at this site. `parameters` is as it came out of a protobuf Struct: every number is a float."""

    key: ComponentKey
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """The same component at another site; `role` is the last known one."""

    site: str
    role: Role = Role.UNSPECIFIED
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Info:
    """A driver's name (e.g. mysql.graf.dev), version and capabilities."""

    name: str
    vendor_version: str
    capabilities: frozenset[Capability] = frozenset()
    contract_versions: tuple[str, ...] = ("v1",)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the driver itself can work; `message` says why not."""

    ready: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One parameter that cannot be used: path inside the parameters, what is wrong, what to write instead."""

    field: str
    cause: str
    fix: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call has come. Not completed: call again, with the same request, after `retry_after_ms`."""

    completed: bool
    retry_after_ms: int = 0
    message: str = ""

    @classmethod
    def done(cls, message: str = "") -> Progress:
        """Observed to be so, not only asked for."""
        return cls(True, 0, message)

    @classmethod
    def pending(cls, message: str, retry_after_ms: int = 100) -> Progress:
        """Begun; the caller continues it by calling again."""
        return cls(False, retry_after_ms, message)


@dataclass(frozen=True, slots=True)
class EnsureRole:
    """Begin or continue giving a component its role.

    Attributes:
        epoch: already admitted by the epoch guard and durable when the driver sees it.
        synchronous_set: only for ACTIVE: sites, this one included, that must have a write before it is acknowledged.
        lease_deadline_ns: only for ACTIVE with GATE: end of the lease on CLOCK_MONOTONIC; in the future.
    """

    spec: Spec
    role: Role
    epoch: int
    peers: tuple[Peer, ...] = ()
    synchronous_set: frozenset[str] = frozenset()
    lease_deadline_ns: int = 0

    @property
    def active_peer(self) -> Peer | None:
        """The peer known to be ACTIVE, if exactly one is."""
        active = [peer for peer in self.peers if peer.role is Role.ACTIVE]
        return active[0] if len(active) == 1 else None


@dataclass(frozen=True, slots=True)
class RenewLease:
    """Keep an open gate open until `lease_deadline_ns` (CLOCK_MONOTONIC) and not longer."""

    spec: Spec
    epoch: int
    lease_deadline_ns: int


@dataclass(frozen=True, slots=True)
class Quiesced:
    """Answer of Quiesce; `position` is final and only given when the progress is completed."""

    progress: Progress
    position: str = ""


@dataclass(frozen=True, slots=True)
class PositionReached:
    """Answer of AwaitPosition: whether everything up to the position is here and applied."""

    reached: bool
    position: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Assessment:
    """Verdict on this site's data, with the evidence in the component's own notation."""

    verdict: Verdict
    local_position: str = ""
    active_position: str = ""
    divergent: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Resynced:
    """Answer of Resync; `archive` is where divergent data went."""

    progress: Progress
    archive: str = ""


@dataclass(frozen=True, slots=True)
class Follower:
    """A site that follows, as the active component sees it; `stalled_ms` 0 means that nothing is outstanding."""

    site: str
    connected: bool
    acknowledging: bool
    stalled_ms: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """Observed facts of one component; see `ComponentStatus` in driver.proto for each field.

    A driver leaves `epoch` (and may leave `observed_at_ns`) at 0: the server fills in what the epoch guard holds, and
    the time just before it asked.
    """

    role: Role
    health: Health
    epoch: int = 0
    observed_at_ns: int = 0
    accepting: bool = False
    position: str = ""
    lag_seconds: float = -1.0
    lag_transactions: int = -1
    promotable: bool = False
    promotable_reason: str = ""
    synchronous_set: frozenset[str] = frozenset()
    followers: tuple[Follower, ...] = ()
    message: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    predicted_activation_ms: int = 0
    predicted_reach_ms: int = 0

    @classmethod
    def unknown(cls, message: str) -> Status:
        """Nothing could be observed, and why. Means hold."""
        return cls(Role.UNSPECIFIED, Health.UNKNOWN, message=message, promotable_reason=message)
