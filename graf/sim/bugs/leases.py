"""Bugs of contests and leases: how votes are counted, and from when to when a lease lasts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graf.api.values import Electorate, Role, VoterList
from graf.core import participant as protocol
from graf.core.campaign import Contest
from graf.core.lease import Lease
from graf.core.voter import BOOTSTRAP_EPOCH
from graf.sim.bugs.bug import Bug, Patch, planting
from graf.sim.gate import Gate
from graf.sim.settings import Planned

if TYPE_CHECKING:
    from collections.abc import Collection

    from graf.core.messages import CampaignAnswer, ClaimAnswer
    from graf.core.participant import Participation, Step
    from graf.core.view import GroupConfig

FOR_EVER_NS = 1 << 62

_end_by, _carried_by = Lease._end_by, Contest._carried_by
_lost, _won, _start_contest = protocol._lost, protocol._won, protocol.start_contest
_campaign_answered, _claim_answered = protocol.campaign_answered, protocol.claim_answered
_ensure_gate, _renew_gate = Gate.ensure, Gate.renew


# -- counting ----------------------------------------------------------------------------------------------------------


def _one_too_few(self: VoterList) -> int:
    return max(len(self.members) // 2, 1)


def _majority_of_the_view(self: Contest, voters: Collection[str]) -> bool:
    """A majority of those that support it and are there is enough; the first epoch still takes every voter."""
    if self.campaign.epoch == BOOTSTRAP_EPOCH:
        return _carried_by(self, voters)
    seen = [v for v in self.campaign.voters.members if v in self.grants or v == self.site]
    return 2 * sum(1 for v in seen if v in voters) > len(seen)


def _refusals_count(self: Contest) -> tuple[str, ...]:
    return tuple(v for v in self.campaign.voters.members if v in self.answers)


def _epoch_asked_twice(
    part: Participation,
    config: GroupConfig,
    epoch: int,
    known_set: Any,
    voters: Electorate,
    now_ns: int,
    told: str = "",
) -> Step:
    highest = part.highest_promised
    part, effects = _start_contest(part, config, epoch, known_set, voters, now_ns, told)
    return replace(part, highest_promised=highest), effects


# -- how long ----------------------------------------------------------------------------------------------------------


def _from_receive_time(
    part: Participation, config: GroupConfig, voter: str, answer: ClaimAnswer, _sent_ns: int, now_ns: int
) -> Step:
    return _claim_answered(part, config, voter, answer, now_ns, now_ns)


def _late_grant_from_now(
    part: Participation, config: GroupConfig, voter: str, answer: CampaignAnswer, now_ns: int
) -> Step:
    sent_ns = part.campaign_sent_ns
    part, effects = _campaign_answered(replace(part, campaign_sent_ns=now_ns), config, voter, answer, now_ns)
    return (part if part.campaign_sent_ns != now_ns else replace(part, campaign_sent_ns=sent_ns)), effects


def _later_list_counts(self: Lease) -> int:
    return max(self._end_by(needed, counted) for needed, counted in self.voters.tallies)


def _newest_answer_counts(self: Lease, _needed: int, counted: tuple[str, ...]) -> int:
    return _end_by(self, 1, counted)


def _all_that_ever_answered(self: Lease, voter: str, sent_ns: int) -> Lease:
    """An answer renews what the other voters have answered before."""
    if voter not in self.voters.members or self.sent_ns.get(voter, -1) >= sent_ns:
        return self
    return replace(self, sent_ns=dict.fromkeys((*self.sent_ns, voter), sent_ns))


def _never_given_up(part: Participation, _config: GroupConfig, _now_ns: int) -> Step:
    return part, ()


def _never_again(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    part, effects = _lost(part, config, now_ns)
    return replace(part, contend_not_before_ns=FOR_EVER_NS), effects


def _holder_gives_its_voters_away(part: Participation, config: GroupConfig, now_ns: int) -> Step:
    """A holder that loses a contest for a change releases what it was granted, like any contender."""
    lease = part.lease
    part, effects = _lost(replace(part, lease=None), config, now_ns)
    return replace(part, lease=lease), effects


# -- the kernel's gate -------------------------------------------------------------------------------------------------


def _open_for_ever(self: Gate) -> bool:
    return self.role is Role.ACTIVE


def _renewed_one_lease_longer(self: Gate, epoch: int, lease_end_ns: int) -> bool:
    return _renew_gate(self, epoch, lease_end_ns + self.world.settings.timing.ttl_ns)


def _opens_by_a_renewal(self: Gate, _epoch: int, lease_end_ns: int) -> bool:
    if self.stuck:
        return True
    self.role, self.end_ns = Role.ACTIVE, lease_end_ns
    self.world.monitors.gate_opened(self.site)
    return True


def _one_lease_longer(
    self: Gate, role: Any, epoch: int, active: str, members: frozenset[str], lease_end_ns: int
) -> Any:
    return _ensure_gate(self, role, epoch, active, members, lease_end_ns + self.world.settings.timing.ttl_ns)


BUGS = (
    Bug(
        "off-by-one-majority",
        "Half of the voters are taken for a majority.",
        ("I1", "I5", "I6"),
        planting(Patch(VoterList, "majority", property(_one_too_few))),
    ),
    Bug(
        "majority-of-the-view",
        "A contest counts a majority of the voters that are there for it instead of the declared list.",
        ("I1", "I5", "I6", "I8"),
        planting(Patch(Contest, "_carried_by", _majority_of_the_view)),
        needs=("cut-pair",),
    ),
    Bug(
        "refusals-counted-as-grants",
        "Every answer to a campaign counts as a grant.",
        ("I1", "I6"),
        planting(Patch(Contest, "grants", property(_refusals_count))),
    ),
    Bug(
        "epoch-asked-for-twice",
        "A site asks for an epoch again that it has asked for before, so a late release of the first takes the second.",
        ("I1", "I5", "I6"),
        planting(Patch(protocol, "start_contest", _epoch_asked_twice)),
        needs=("reorder", "delay", "cut-pair"),
        unseen="streams keep order and a voter grants an epoch once (epoch-granted-twice)",
    ),
    Bug(
        "lease-from-receive-time",
        "A renewal counts from the time at which its answer arrived.",
        ("I1",),
        planting(Patch(protocol, "claim_answered", _from_receive_time)),
        needs=("pause-controller",),
    ),
    Bug(
        "late-grant-counted-from-now",
        "A grant that comes after the win renews the lease from now.",
        ("I1",),
        planting(Patch(protocol, "campaign_answered", _late_grant_from_now)),
        needs=("delay",),
        unseen="every other voter would have to be lost while the grant is late; the next renewal puts it right",
    ),
    Bug(
        "joint-lease-by-the-later-list",
        "During a change of voters the lease lasts as long as the later of the two lists says.",
        ("I1",),
        planting(Patch(Lease, "end_ns", property(_later_list_counts))),
        needs=("change-voters", "crash-witness", "flap-link"),
        unseen="no epoch is won without both lists, so a lease on either one keeps others out",
    ),
    Bug(
        "lease-by-the-newest-answer",
        "The newest answer of any voter renews the lease, not the majority-th newest.",
        ("I1",),
        planting(Patch(Lease, "_end_by", _newest_answer_counts)),
        needs=("cut-pair", "cut-one-way"),
        lossless=False,
    ),
    Bug(
        "one-answer-renews-all",
        "An answer of one voter is noted for all that have ever answered.",
        ("I1",),
        planting(Patch(Lease, "accepted", _all_that_ever_answered)),
        needs=("cut-pair", "cut-one-way"),
        lossless=False,
    ),
    Bug(
        "contest-never-given-up",
        "A contest that gets no answer is waited for without an end.",
        ("I8",),
        planting(Patch(protocol, "contest_time_over", _never_given_up)),
    ),
    Bug(
        "cooldown-blocks-recovery",
        "After one lost contest a site never asks again.",
        ("I8",),
        planting(Patch(protocol, "_lost", _never_again)),
    ),
    Bug(
        "lost-change-contest-releases",
        "A holder that loses the contest for a change of voters releases voters on which its older lease still counts.",
        ("I1",),
        planting(Patch(protocol, "_lost", _holder_gives_its_voters_away)),
        lossless=False,
        script=(
            Planned(2, "cut-pair", 0.0001, 60),  # east and west do not hear each other
            Planned(15, "disk-full", 0.05, 40),  # east's own voter stores nothing, so its contest is lost
            Planned(20, "change-voters", 0.01, 0),
        ),
    ),
    Bug(
        "gate-without-an-end",
        "The kernel's gate stays open until somebody shuts it.",
        ("I1", "I4"),
        planting(Patch(Gate, "is_open", property(_open_for_ever))),
    ),
    Bug(
        "gate-outlives-the-lease",
        "The gate is opened for one lease time longer than the lease.",
        ("I1", "I4"),
        planting(Patch(Gate, "ensure", _one_lease_longer), Patch(Gate, "renew", _renewed_one_lease_longer)),
        needs=("crash-controller",),
    ),
    Bug(
        "gate-opened-by-a-renewal",
        "A renewal opens a gate that has shut, whatever epoch it is of.",
        ("I1", "I4"),
        planting(Patch(Gate, "renew", _opens_by_a_renewal)),
        unseen="a site renews the gate only of a lease that it holds, and a settled one",
    ),
)
