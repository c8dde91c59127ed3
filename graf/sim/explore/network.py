"""The network: everything that was ever sent may arrive at any time, any number of times, in any order, or never.

So a message is not taken out of the network when it arrives. It goes when it cannot matter any more: each function here
says for one kind of message when its arrival at the receiver as it is now, or as it can ever become, changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.core import messages as m
from graf.sim.explore.clocks import GROUP, NOW
from graf.sim.explore.values import Copy, Message, Node

if TYPE_CHECKING:
    from graf.core.voter import Promise


def alive(message: Message, receiver: Node, ticks: int) -> bool:
    """Whether it can still matter to its receiver."""
    body = message.body
    promise = receiver.voter.promises.get(GROUP)
    if isinstance(body, m.Campaign):
        return promise is None or promise.epoch < body.epoch
    if isinstance(body, m.Claim):
        return message.age < ticks and _may_concern(promise, message.src, body.epoch)
    if isinstance(body, m.Release | m.Settle):
        return _may_concern(promise, message.src, body.epoch)
    if isinstance(body, m.SetUpdate):
        older = promise is not None and promise.stored_set.version > body.new_set.version
        return not older and _may_concern(promise, message.src, body.epoch)
    if isinstance(body, Copy) and not body.answer:
        return receiver.data.epoch < body.epoch or (receiver.data.epoch == body.epoch and body.has)
    return _answer_alive(message, receiver, ticks)


def _may_concern(promise: Promise | None, site: str, epoch: int) -> bool:
    """Whether the voter has promised that epoch to the sender, or may do so later."""
    if promise is None or promise.epoch < epoch:
        return True
    return promise.epoch == epoch and promise.site == site and not promise.released


def _answer_alive(message: Message, receiver: Node, ticks: int) -> bool:
    part, body = receiver.part, message.body
    if part is None:
        return False
    lease, voter = part.lease, message.src
    if isinstance(body, m.CampaignAnswer):
        contest = part.contest
        if contest is not None and contest.campaign.epoch == body.epoch:
            return voter in contest.campaign.voters.members and voter not in contest.answers
        return lease is not None and lease.epoch == body.epoch and voter not in lease.sent_ns
    if isinstance(body, m.ClaimAnswer):
        if lease is None or lease.epoch != body.epoch or message.age >= ticks:
            return False
        return voter in lease.voters.members
    if isinstance(body, m.SetAnswer):
        held = part.held
        return held is not None and held.proposed == body.new_set and voter not in held.stored_by
    if isinstance(body, m.SettleAnswer):
        settling = part.settling
        return settling is not None and settling.epoch == body.epoch and voter not in settling.told
    if isinstance(body, Copy):
        held = part.held
        return held is not None and held.epoch == body.epoch and body.has and not receiver.data.follower_has
    raise TypeError(f"unknown message {body!r}")


def renews(message: Message, receiver: Node, slow: int) -> bool:
    """Whether an answer to a claim is newer than what the lease has of that voter."""
    lease = receiver.part.lease if receiver.part is not None else None
    return lease is not None and lease.sent_ns.get(message.src, 0) < NOW - message.age * slow


def waits_for_its_campaign(message: Message, receiver: Node) -> bool:
    """A release that can only matter once the campaign before it has arrived."""
    promise = receiver.voter.promises.get(GROUP)
    return isinstance(message.body, m.Release) and (promise is None or promise.epoch < message.body.epoch)


def is_campaign_of(message: Message, epoch: int) -> bool:
    """Whether it asks for that epoch."""
    return isinstance(message.body, m.Campaign) and message.body.epoch == epoch


def is_claim_answer(message: Message) -> bool:
    """Whether it may renew a lease."""
    return isinstance(message.body, m.ClaimAnswer)


def ages(message: Message) -> bool:
    """Whether the time at which its request was sent matters."""
    return isinstance(message.body, m.Claim | m.ClaimAnswer)
