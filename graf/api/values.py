"""Roles, voter lists, synchronous sets and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Role(StrEnum):
    """Operational role of a site in a group: what it holds now."""

    ACTIVE = "Active"
    STANDBY = "Standby"
    FENCED = "Fenced"
    INVALIDATED = "Invalidated"


class Verdict(StrEnum):
    """What a site that comes back holds, compared with the active site's data."""

    CLEAN = "Clean"
    BEHIND = "Behind"
    DIVERGED = "Diverged"
    EMPTY = "Empty"
    UNKNOWN = "Unknown"


class Stage(StrEnum):
    """Order of activation; deactivation is the reverse."""

    DATA = "data"
    WORKLOAD = "workload"
    TRAFFIC = "traffic"
    PEERS = "peers"


STAGES = (Stage.DATA, Stage.WORKLOAD, Stage.TRAFFIC, Stage.PEERS)


@dataclass(frozen=True, slots=True, order=True)
class SetVersion:
    """Version of a synchronous set: the epoch of the holder that made it and a counter inside the epoch."""

    epoch: int = 0
    counter: int = 0


@dataclass(frozen=True, slots=True)
class SyncSet:
    """The sites that have every acknowledged write, under a version."""

    version: SetVersion = SetVersion()
    members: frozenset[str] = frozenset()

    def describe(self) -> str:
        """For people: `v3.1 {east, west}`."""
        return f"v{self.version.epoch}.{self.version.counter} {{{', '.join(sorted(self.members))}}}"


@dataclass(frozen=True, slots=True)
class VoterList:
    """The declared voters of a group. A majority is counted against this list, never against who is visible.

    Attributes:
        readmitted: Members that have lost their disk and are admitted anew by this list: until it is settled their word
            counts for this list alone, not for the one before it.
    """

    version: int
    members: tuple[str, ...]
    readmitted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) != len(self.members):
            raise ValueError(f"voters must be named once each and at least one, got {self.members!r}")
        if not self.readmitted <= set(self.members):
            raise ValueError(f"only members can be readmitted, got {sorted(self.readmitted)} of {self.members!r}")

    @property
    def majority(self) -> int:
        """How many voters a decision needs."""
        return len(self.members) // 2 + 1

    def describe(self) -> str:
        """For people: `v1 {east, west, witness}`."""
        return f"v{self.version} {{{', '.join(self.members)}}}"


@dataclass(frozen=True, slots=True)
class Electorate:
    """Who decides about a group: the list in force and, during a change, also the one that follows it.

    Invariant: while both are there, nothing counts without a majority of each (joint consensus; Ongaro and Ousterhout,
    "In Search of an Understandable Consensus Algorithm", section 6). `current` is a fact: it was settled, and no
    epoch can be won by an older list any more.
    """

    current: VoterList
    proposed: VoterList | None = None

    def __post_init__(self) -> None:
        if self.proposed is not None and self.proposed.version <= self.current.version:
            raise ValueError(f"voter list {self.proposed.version} cannot follow {self.current.version}")

    @property
    def joint(self) -> bool:
        """Whether a change is under way."""
        return self.proposed is not None

    @property
    def lists(self) -> tuple[VoterList, ...]:
        """The lists that have to agree."""
        return (self.current,) if self.proposed is None else (self.current, self.proposed)

    @property
    def newest(self) -> VoterList:
        """The list that is wanted: the proposed one if there is one."""
        return self.current if self.proposed is None else self.proposed

    @property
    def members(self) -> tuple[str, ...]:
        """Everybody on any of the lists, each once."""
        if self.proposed is None:
            return self.current.members
        return (*self.current.members, *(v for v in self.proposed.members if v not in self.current.members))

    @property
    def newcomers(self) -> tuple[str, ...]:
        """Voters that only the proposed list has, or that it admits anew."""
        proposed = self.proposed
        if proposed is None:
            return ()
        return tuple(v for v in proposed.members if v not in self.current.members or v in proposed.readmitted)

    @property
    def tallies(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Per list, how many voters are needed and who of them counts."""
        current, proposed = self.current, self.proposed
        if proposed is None:
            return ((current.majority, current.members),)
        counted = tuple(v for v in current.members if v not in proposed.readmitted)
        return ((current.majority, counted), (proposed.majority, proposed.members))

    def carried_by(self, voters: Collection[str]) -> bool:
        """Whether these voters are a majority of every list."""
        carried = [len([v for v in counted if v in voters]) >= needed for needed, counted in self.tallies]
        return all(carried)

    def describe(self) -> str:
        """For people: `v1 {east, west, witness}`, with ` -> v2 {...}` during a change."""
        return " -> ".join(voters.describe() for voters in self.lists)


@dataclass(frozen=True, slots=True)
class Reason:
    """Machine-readable reason of a decision or refusal.

    Attributes:
        code: A stable word in CamelCase, e.g. `NotInSynchronousSet`.
        detail: One sentence for people: what, where, what next.
    """

    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code
