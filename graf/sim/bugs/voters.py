"""Bugs of a voter: what it promises, whom it renews, and what it has on its disk when it answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graf.api.values import Electorate, SetVersion, SyncSet
from graf.core import messages as m
from graf.core import voter
from graf.core.voter import Asked, Refusal, VoterState, VoterStep
from graf.sim.bugs.bug import Bug, Patch, no_campaign_rule, no_site_rule, planting
from graf.sim.settings import Planned
from graf.sim.voting import SimVoter

if TYPE_CHECKING:
    from collections.abc import Callable

_on_campaign, _on_claim, _on_release = voter.on_campaign, voter.on_claim, voter.on_release
_on_set_update = voter.on_set_update
_free_at_ns = VoterState.free_at_ns


# -- renewals ----------------------------------------------------------------------------------------------------------


def _renews_though(*reasons: str) -> Callable[[VoterState, str, m.Claim, int], VoterStep[m.ClaimAnswer]]:
    """Claims that are refused for these reasons are accepted."""

    def on_claim(state: VoterState, site: str, claim: m.Claim, now_ns: int) -> VoterStep[m.ClaimAnswer]:
        step = _on_claim(state, site, claim, now_ns)
        if step.answer.reason not in reasons:
            return step
        answer = replace(step.answer, accepted=True, reason="")
        return VoterStep(voter._answered(state, claim.group, now_ns), answer)

    return on_claim


def _claim_by_the_holders_clock(self: SimVoter, site: str, claim: m.Claim) -> m.ClaimAnswer:
    """The time of the last answer is read from the clock of the machine that asked."""
    if self._writing:
        return m.ClaimAnswer(claim.group, claim.epoch, accepted=False, reason="Busy")
    step = voter.on_claim(self.state, site, claim, self._world.clocks[site]())
    self.state = step.state
    return step.answer


# -- grants ------------------------------------------------------------------------------------------------------------


def _grant_is_no_answer(state: VoterState, site: str, campaign: m.Campaign, now_ns: int) -> VoterStep[m.CampaignAnswer]:
    step = _on_campaign(state, site, campaign, now_ns)
    return replace(step, state=replace(step.state, answered_ns=state.answered_ns))


def _grant_resets_the_set(
    state: VoterState, site: str, campaign: m.Campaign, now_ns: int
) -> VoterStep[m.CampaignAnswer]:
    step = _on_campaign(state, site, campaign, now_ns)
    if step.durable is None or not campaign.lossless:
        return step
    alone = SyncSet(SetVersion(campaign.epoch, 0), frozenset({site}))
    promise = replace(step.durable, stored_set=alone)
    return VoterStep(voter._with(step.state, promise), step.answer, promise)


def _rules_with(name: str, rule: Callable[[Asked], Refusal | None]) -> tuple[voter.CampaignRule, ...]:
    return tuple((n, rule if n == name else r) for n, r in voter.CAMPAIGN_RULES)


def _with_rule(name: str, rule: Callable[[Asked], Refusal | None]) -> Patch:
    return Patch(voter.on_campaign, "__defaults__", (_rules_with(name, rule),))


def _same_epoch_once_more(asked: Asked) -> Refusal | None:
    """An epoch that was granted is granted again, to whom it may be."""
    if asked.promise is not None and asked.campaign.epoch < asked.promise.epoch:
        return Refusal("EpochNotHigher")
    return None


def _a_restart_frees(self: VoterState, group: str) -> int:
    return _free_at_ns(self, group) if group in self.answered_ns else self.started_ns


# -- releases, sets, settling ------------------------------------------------------------------------------------------


def _a_lost_contest_drops_the_change(state: VoterState, site: str, release: m.Release) -> VoterStep[m.ReleaseAnswer]:
    step = _on_release(state, site, release)
    if step.durable is None or not release.never_won or not step.durable.voters.joint:
        return step
    promise = replace(step.durable, voters=Electorate(step.durable.voters.current), proposed_in=0)
    return VoterStep(voter._with(step.state, promise), step.answer, promise)


def _a_release_is_forgotten(state: VoterState, site: str, release: m.Release) -> VoterStep[m.ReleaseAnswer]:
    step = _on_release(state, site, release)
    return VoterStep(state, step.answer)


def _stores_though(*reasons: str) -> Callable[[VoterState, str, m.SetUpdate], VoterStep[m.SetAnswer]]:
    """Sets that are refused for these reasons are stored."""

    def on_set_update(state: VoterState, site: str, update: m.SetUpdate) -> VoterStep[m.SetAnswer]:
        step = _on_set_update(state, site, update)
        promise = state.promises.get(update.group)
        if promise is None or step.answer.reason not in reasons:
            return step
        changed = replace(promise, stored_set=update.new_set)
        answer = replace(step.answer, stored=True, reason="")
        return VoterStep(voter._with(state, changed), answer, changed)

    return on_set_update


def _a_set_is_not_kept(state: VoterState, site: str, update: m.SetUpdate) -> VoterStep[m.SetAnswer]:
    """It is answered as stored and is not."""
    return VoterStep(state, _on_set_update(state, site, update).answer)


# -- the disk ----------------------------------------------------------------------------------------------------------


def _answers_before_the_disk(self: SimVoter) -> None:
    """The answer is on its way while the promise behind it is still being written."""
    while self._queue and not self._writing:
        site, request, reply = self._queue.popleft()
        step = self._judge(site, request)
        self.state = step.state
        self._answer(site, request, step, reply)
        if step.durable is None:
            continue
        self._writing = True
        if self.crash_next:
            self.crash_next = ""
            self._world.faults.crash_in_step(self._process, "after the answer, before the disk")
            return
        self._process.after(self._world.disk_ns() * self.slow, self._written, site, request, step, _nobody)


def _nobody(_answer: Any) -> None:
    """Nobody waits for it any more."""


def _answers_without_the_disk(self: SimVoter, step: VoterStep[Any]) -> None:
    """Nothing is ever written: a promise lives as long as its process."""
    if step.durable is not None:
        self._world.monitors.promise_stored(self.name, self.promise, step.durable)


BUGS = (
    Bug(
        "claim-of-another-epoch",
        "A voter renews whoever claims, whatever epoch it has promised to whom.",
        ("I1", "I4"),
        planting(Patch(voter, "on_claim", _renews_though("PromisedOther"))),
        needs=("slow-disk", "cut-pair", "isolate-site"),
        lossless=False,
    ),
    Bug(
        "wall-clock-in-a-term",
        "A voter notes its last answer by the clock of the machine that asked instead of its own.",
        ("I1", "I8"),
        planting(Patch(SimVoter, "claim", _claim_by_the_holders_clock)),
        needs=("cut-pair",),
    ),
    Bug(
        "grant-not-counted-as-an-answer",
        "A voter that has just granted an epoch gives the next one away at once.",
        ("I1",),
        planting(Patch(voter, "on_campaign", _grant_is_no_answer)),
        needs=("cut-pair",),
        lossless=False,
    ),
    Bug(
        "set-reset-by-the-grant",
        "A grant makes the contender the only member of the synchronous set, before it has won anything.",
        ("I2", "I8", "I11"),
        planting(Patch(voter, "on_campaign", _grant_resets_the_set)),
    ),
    Bug(
        "grant-after-restart-without-silence",
        "A restarted voter takes a missing note of its last answer for a promise that has ended.",
        ("I1",),
        planting(
            no_campaign_rule("restart-silence"),
            no_site_rule(contender=("own-voter-is-silent",)),
            Patch(VoterState, "free_at_ns", _a_restart_frees),
        ),
        needs=("crash-witness", "cut-pair"),
        lossless=False,
    ),
    Bug(
        "hold-without-drift",
        "A voter holds a promise for the bare lease time, as if all clocks ran at one rate.",
        ("I1",),
        planting(Patch(voter, "hold_of", lambda ttl_ns, _drift_ppm: ttl_ns)),
        needs=("pause-controller",),
    ),
    Bug(
        "epoch-granted-twice",
        "A voter grants the epoch that it has promised already to another site.",
        ("I1", "I5"),
        planting(_with_rule("epoch-rises", _same_epoch_once_more)),
    ),
    Bug(
        "contest-lost-release-drops-a-committed-change",
        "A contender that loses takes a change of voters back that an earlier epoch has brought and may have won.",
        ("I1", "I6"),
        planting(Patch(voter, "on_release", _a_lost_contest_drops_the_change)),
        needs=("change-voters", "crash-site", "cut-pair"),
        unseen="a contender that carries a committed change on and loses meets voters that have it settled",
    ),
    Bug(
        "release-forgotten",
        "A voter answers that a release is on its disk and forgets it.",
        ("I8",),
        planting(Patch(voter, "on_release", _a_release_is_forgotten)),
        # A move to west, while nobody dies.
        script=(Planned(5, "operator-switchover", 0.53, 1), Planned(45, "operator-switchover", 0.53, 1)),
    ),
    Bug(
        "same-version-other-members",
        "A voter takes other members under a version that it has stored already.",
        ("I11",),
        planting(Patch(voter, "on_set_update", _stores_though("OtherSetOfSameVersion"))),
        unseen="a holder never uses a counter twice, and no epoch is won twice (epoch-granted-twice)",
    ),
    Bug(
        "set-answered-and-not-stored",
        "A voter answers that a set is on its disk and does not keep it.",
        ("I2", "I8", "I11"),
        planting(Patch(voter, "on_set_update", _a_set_is_not_kept)),
    ),
    Bug(
        "answer-before-the-disk",
        "A voter answers before its promise is durable.",
        ("I1", "I5", "I6"),
        planting(Patch(SimVoter, "_next", _answers_before_the_disk)),
    ),
    Bug(
        "answer-without-the-disk",
        "A voter never writes its promises down.",
        ("I1", "I5", "I6"),
        planting(Patch(SimVoter, "_store", _answers_without_the_disk)),
    ),
)
