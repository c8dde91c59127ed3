"""When two states of a node are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.sim.explore.clocks import GROUP

if TYPE_CHECKING:
    from graf.core.participant import Participation
    from graf.core.voter import Promise
    from graf.sim.explore.values import Node


def node_key(node: Node) -> tuple[Any, ...]:
    """Equal for equal nodes: everything that `Clocks` has left of them."""
    voter = node.voter
    return (
        voter.name,
        _promise_key(voter.promises.get(GROUP)),
        voter.answered_ns.get(GROUP),
        voter.started_ns,
        _promise_key(node.disk),
        None if node.part is None else _part_key(node.part),
        node.gate_ns,
        node.data,
    )


def _promise_key(promise: Promise | None) -> tuple[Any, ...] | None:
    """Without `never_won`, `unserved` and `entitled`: nothing that is played here reads them."""
    if promise is None:
        return None
    return (
        promise.epoch,
        promise.site,
        promise.voters,
        promise.stored_set,
        promise.released,
        promise.successor,
        promise.proposed_in,
    )


def _part_key(part: Participation) -> tuple[Any, ...]:
    lease, contest = part.lease, part.contest
    return (
        None if lease is None else (lease.epoch, lease.voters, tuple(sorted(lease.sent_ns.items()))),
        None
        if contest is None
        else (contest.campaign, contest.sent_ns, tuple(sorted(contest.answers.items())), contest.asked),
        part.held,
        part.settling,
        part.campaign_sent_ns,
        part.highest_promised,
        part.voters_hint,
        part.continued,
        part.admits,
        part.refused_set,
    )
