"""What a state of the check is made of: nodes, messages, and what is remembered of the past for the invariants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from graf.api.values import SyncSet
    from graf.core.participant import Participation
    from graf.core.voter import Promise, VoterState

Event = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a site, of which one write matters.

    Attributes:
        has: The write is on this site's disk.
        epoch: The newest epoch that the data driver has seen.
        follower_has: What the holder knows of the other site.
        at_join: Whether the write was here when the other site was asked to join.
    """

    has: bool = False
    epoch: int = 1
    follower_has: bool = False
    at_join: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A voter; at a site also the site's part in the protocol, its gate and its data.

    Attributes:
        disk: What a crash leaves of the voter. In the unbroken protocol it is the promise at all times.
        part: Volatile; None where no site is.
        gate_ns: Until when the kernel lets clients in, on the holder's clock; a crash does not shut it.
        data: Durable.
    """

    voter: VoterState
    disk: Promise | None
    part: Participation | None = None
    gate_ns: int = 0
    data: Data = Data()

    @property
    def name(self) -> str:
        """The location."""
        return self.voter.name


class Copy(NamedTuple):
    """The holder's data on the way to a follower, or what a follower says it has."""

    epoch: int
    has: bool
    answer: bool = False


class Message(NamedTuple):
    """Something in the network.

    Attributes:
        age: Ticks since the asker sent the request; an answer carries the request's. Only of claims.
    """

    src: str
    dst: str
    body: Any
    age: int = 0


class Win(NamedTuple):
    """A site has won an epoch; `known` is the newest set that its grants carried."""

    site: str
    epoch: int
    settled_list: int
    newest_list: int
    known: SyncSet


class Settled(NamedTuple):
    """A change of voters is done."""

    version: int


class Broken(NamedTuple):
    """An invariant does not hold, seen inside one step."""

    text: str


class Past(NamedTuple):
    """What the bounds and the invariants need to know of the past.

    Attributes:
        contests, crashes, writes, changes: How many more there may be.
        won: Epochs that were won, as bits.
        newest_list: Version of the newest voter list that has won an epoch.
        settled_list: Version of the newest list that was settled.
        acknowledged: The write was acknowledged to its client.
    """

    contests: int
    crashes: int = 0
    losses: int = 0
    writes: int = 0
    changes: int = 0
    won: int = 0
    newest_list: int = 1
    settled_list: int = 1
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One possible result of one event at one node.

    Attributes:
        sent: Messages into the network.
        instant: An answer that arrives at once or never.
        crashed: The node's streams ended.
        spent: Name of the budget in `Past` that it uses up, or empty.
    """

    node: Node
    sent: tuple[Message, ...] = ()
    instant: Message | None = None
    notes: tuple[Win | Settled | Broken, ...] = ()
    crashed: bool = False
    spent: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold and the steps that lead there."""

    invariant: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found.

    Attributes:
        complete: Every state within the bounds was visited.
        depth: Steps of the longest shortest way to a state.
    """

    configuration: str
    complete: bool
    states: int
    transitions: int
    depth: int
    violation: Violation | None = None
    bounds: dict[str, int] = field(default_factory=dict)
