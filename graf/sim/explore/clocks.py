"""Time in a few ticks: how long promises and leases last, and ages that stop where nothing changes any more.

Every node reads two clocks: as a holder the slowest that the drift allows, as a voter the fastest. So a lease lasts as
long as it ever can and a promise as short, whatever the real rates are and however they change within their bounds.
Both are just under `ticks` ticks: at age `ticks` the lease has ended and the promise no longer binds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.api.timing import PPM, Timing, hold_of

if TYPE_CHECKING:
    from graf.core.participant import Participation
    from graf.core.voter import VoterState

GROUP = "g"
NOW = 1_000_000  # both clocks of every node always read this: what moves is the past
LONG_AGO = -(1 << 60)
STEP = 120  # nanoseconds of a slow clock in one tick


@dataclass(frozen=True, slots=True)
class Clocks:
    """The bounds of time.

    Attributes:
        ticks: Life of a lease and of a promise, in ticks of real time.
        slow, fast: Nanoseconds in one tick on the clock of a holder and of a voter.
        voter_drift_ppm: Drift that voters allow for; a broken variant forgets it.
    """

    ticks: int
    timing: Timing
    slow: int
    fast: int
    voter_drift_ppm: int

    @classmethod
    def of(cls, ticks: int) -> Clocks:
        """Clocks whose rates differ by the whole declared drift.

        The drift is as large as it takes for a promise that forgets it to end one tick too early.
        """
        fast = STEP * ticks // (ticks - 1)
        timing = Timing(STEP // 8, STEP * ticks - 1, (fast - STEP) * PPM // STEP)
        return cls(ticks, timing, STEP, fast, timing.drift_ppm)

    @property
    def long_ago(self) -> int:
        """A time on a voter's clock that binds nobody any more."""
        return NOW - self.ticks * self.fast

    def aged_voter(self, state: VoterState) -> VoterState:
        """One tick later, as seen from now."""
        shifted = replace(state, started_ns=state.started_ns - self.fast)
        if GROUP in state.answered_ns:
            answered = MappingProxyType({GROUP: state.answered_ns[GROUP] - self.fast})
            shifted = replace(shifted, answered_ns=answered)
        return self.settled_voter(shifted)

    def settled_voter(self, state: VoterState) -> VoterState:
        """The same for all that can follow: ages are cut where no comparison depends on them any more."""
        started = max(state.started_ns, self.long_ago)
        answered = state.answered_ns.get(GROUP)
        promise = state.promises.get(GROUP)
        if answered is not None and (answered < self.long_ago or promise is None or promise.released):
            answered = self.long_ago
        if started == state.started_ns and answered == state.answered_ns.get(GROUP):
            return state
        times = MappingProxyType({} if answered is None else {GROUP: answered})
        return replace(state, started_ns=started, answered_ns=times)

    def aged_part(self, part: Participation) -> Participation:
        """One tick later, as seen from now."""
        lease, contest = part.lease, part.contest
        if lease is not None:
            lease = replace(lease, sent_ns=MappingProxyType({v: t - self.slow for v, t in lease.sent_ns.items()}))
        if contest is not None:
            contest = replace(contest, sent_ns=contest.sent_ns - self.slow)
        return replace(part, lease=lease, contest=contest, campaign_sent_ns=part.campaign_sent_ns - self.slow)

    def settled_part(self, part: Participation) -> Participation:
        """The same for all that can follow; what only paces or tells people is forgotten."""
        ended = NOW - self.ticks * self.slow
        lease, contest = part.lease, part.contest
        if lease is not None:
            live = {v: t for v, t in lease.sent_ns.items() if t > ended}
            if len(live) != len(lease.sent_ns):
                lease = replace(lease, sent_ns=MappingProxyType(live))
        if contest is not None:
            answers = {
                v: replace(
                    a,
                    retry_after_ns=0,
                    promised_epoch=0,
                    promised_site="",
                    reason=a.reason if a.reason in ("OtherVoterList", "NotDeclared") else "",
                )
                for v, a in contest.answers.items()
            }
            contest = replace(contest, sent_ns=max(contest.sent_ns, ended), answers=MappingProxyType(answers))
        nothing: MappingProxyType[str, int] = MappingProxyType({})
        return replace(
            part,
            lease=lease,
            contest=contest,
            campaign_sent_ns=max(part.campaign_sent_ns, ended) if lease is not None else 0,
            contest_ends_ns=0,
            won_at_ns=0,
            contend_not_before_ns=0,
            told_ns=LONG_AGO,
            join_since_ns=0,
            set_told_since_ns=0,
            join_not_before_ns=0,
            invited_ns=nothing,
            lost_since_ns=nothing,
        )

    def left(self, end_ns: int) -> int:
        """How many more ticks something on a holder's clock lasts, rounded up."""
        return max(0, -(-(end_ns - NOW) // self.slow))

    def hold_ns(self) -> int:
        """Life of a promise on a voter's clock."""
        return hold_of(self.timing.ttl_ns, self.voter_drift_ppm)
