"""Whether a group may be handed over: what a site remembers of it, and the rules for its beginning and its release."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from graf.api.values import Reason
from graf.core.holder import take_over_refusals

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.core.handover_effects import Report
    from graf.core.view import SiteView


class Phase(StrEnum):
    """Where a hand-over is."""

    IDLE = "Idle"
    QUIESCING = "Quiescing"
    PROVING = "Proving"
    SHUTTING = "Shutting"
    RELEASING = "Releasing"
    ROLLING_BACK = "RollingBack"


@dataclass(frozen=True, slots=True)
class Order:
    """A planned move that the manager asked for."""

    operation: str
    type: str
    target: str
    reason: str
    not_after_wall_ms: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One hand-over.

    Attributes:
        number: Tells its events from late ones of an earlier hand-over.
        epoch: Of the lease that is handed over.
        order: None for a loud one.
        reasons: Why, for the record of a loud one.
        proved: Whether the successor has everything; None until it, or the end of its time, has said so.
        gate_shut: Whether no client is let in any more; None until it is known.
        failure: Why it is not `proved`, or why it is rolled back.
    """

    number: int
    epoch: int
    successor: str
    began_ns: int
    order: Order | None = None
    reasons: tuple[Reason, ...] = ()
    proved: bool | None = None
    gate_shut: bool | None = None
    failure: Reason | None = None


@dataclass(frozen=True, slots=True)
class Handover:
    """What a site remembers of handing its group over.

    Invariant: there is an attempt in every phase but Idle; each attempt is released at most once, and one that was
    released is never rolled back.

    Attributes:
        attempt: The hand-over under way.
        count: How many there were.
        ended: The last word on each of the last operations.
    """

    phase: Phase = Phase.IDLE
    attempt: Attempt | None = None
    count: int = 0
    ended: tuple[Report, ...] = ()

    @property
    def under_way(self) -> bool:
        """Whether the group is being given away: nothing else is decided about it. What is rolled back, stays."""
        return self.phase not in (Phase.IDLE, Phase.ROLLING_BACK)


# -- whether it may begin ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """An order and all that speaks for and against it."""

    order: Order
    state: Handover
    view: SiteView
    now_ns: int
    wall_ms: int


def holds_the_group(ask: Ask) -> tuple[Reason, ...]:
    """Only the holder has something to hand over."""
    lease, config = ask.view.lease, ask.view.config
    if lease is not None and lease.valid(ask.now_ns):
        return ()
    return (Reason("NotActive", f"{config.site} does not hold {config.group}; look at graf status"),)


def one_at_a_time(ask: Ask) -> tuple[Reason, ...]:
    """Not beside another hand-over, nor while one is taken back."""
    if ask.state.phase is Phase.IDLE:
        return ()
    return (Reason("Busy", "another operation of this group is under way; wait for its end"),)


def not_during_a_contest(ask: Ask) -> tuple[Reason, ...]:
    """A holder's contest changes the epoch that would be handed over."""
    if ask.view.contest is None:
        return ()
    return (Reason("Busy", "the voters of this group are being changed; ask again in a second"),)


def somewhere_else(ask: Ask) -> tuple[Reason, ...]:
    """To this site there is nothing to move."""
    if ask.order.target != ask.view.site:
        return ()
    return (Reason("AlreadyActive", f"{ask.order.target} is the active site"),)


def in_time(ask: Ask) -> tuple[Reason, ...]:
    """Nobody is surprised by a move that was asked for long ago."""
    limit = ask.order.not_after_wall_ms
    if not limit or ask.wall_ms <= limit:
        return ()
    return (Reason("TooLate", "notAfter has passed; create a new RedundancyOperation"),)


def target_can_take_over(ask: Ask) -> tuple[Reason, ...]:
    """Only to a site that can take over now without losing anything."""
    peer = ask.view.peers.get(ask.order.target)
    if peer is None:
        return (Reason("NotASite", f"{ask.order.target} is no site of {ask.view.config.group}"),)
    return take_over_refusals(ask.view, peer)


OrderRule = tuple[str, "Callable[[Ask], tuple[Reason, ...]]"]

# Each rule may say why the order is refused; when all are silent the hand-over begins.
ORDER_RULES: tuple[OrderRule, ...] = (
    ("holds-the-group", holds_the_group),
    ("one-at-a-time", one_at_a_time),
    ("not-during-a-contest", not_during_a_contest),
    ("somewhere-else", somewhere_else),
    ("in-time", in_time),
    ("target-can-take-over", target_can_take_over),
)


# -- whether the epoch may be released ---------------------------------------------------------------------------------

# Not known yet: nothing is released and nothing is rolled back.
WAIT = Reason("Wait")


def lease_is_the_same(attempt: Attempt, lease_epoch: int) -> Reason | None:
    """What was prepared under one lease says nothing about another one."""
    return None if lease_epoch == attempt.epoch else Reason("LeaseLost", "the lease was lost meanwhile")


def gate_is_shut(attempt: Attempt, lease_epoch: int) -> Reason | None:
    """Unknown is not shut: clients that still come in here would meet two active sites."""
    if attempt.gate_shut is None:
        return WAIT
    return None if attempt.gate_shut else Reason("GateUnknown", "the gate could not be proved shut")


def successor_has_everything(attempt: Attempt, lease_epoch: int) -> Reason | None:
    """Nothing is given to a site that has not proved that it can go on from where this one stopped."""
    if attempt.proved is None:
        return WAIT
    return None if attempt.proved else attempt.failure or Reason("SuccessorNotReady", attempt.successor)


ReleaseRule = tuple[str, "Callable[[Attempt, int], Reason | None]"]

# Each rule may say why the epoch is not released, or that it is too early to know; when all are silent it is.
RELEASE_RULES: tuple[ReleaseRule, ...] = (
    ("lease-is-the-same", lease_is_the_same),
    ("gate-is-shut", gate_is_shut),
    ("successor-has-everything", successor_has_everything),
)
