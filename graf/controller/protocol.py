"""This site's part in the protocol of one group: holds the state of `graf.core.participant`, carries out its effects.

What is decided here is nothing: every event goes into a function of the core, and what that says to do is done, which
is sending, the own voter with its disk, timers and records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS
from graf.api.values import Reason
from graf.core import participant
from graf.core.messages import CampaignAnswer, Release, ReleaseAnswer, SetAnswer, SettleAnswer
from graf.core.participant import (
    Ask,
    ContestLost,
    LeaseRenewed,
    Participation,
    RequirementChanged,
    SetStored,
    VotersSettled,
    Won,
)
from graf.core.voterchange import bound_to
from graf.shell import wire
from graf.shell.logs import event

if TYPE_CHECKING:
    from graf.api.values import Electorate, SyncSet
    from graf.controller.agent import GroupAgent
    from graf.core.campaign import Contest
    from graf.core.lease import Lease
    from graf.core.messages import Claim, ClaimAnswer, Request
    from graf.core.syncset import HolderSet
    from graf.core.view import ComponentView, Contend
    from graf.shell.wire import Answer

LOG = logging.getLogger("graf.protocol")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a contest was begun, for the record of its win.

    Attributes:
        previous: Active site and epoch before it.
        began_ns: When it was begun.
        silent_since_ns: Since when the holder was silent; 0 when it was not.
        serving: This site held the lease already: the contest is about the voters.
    """

    reasons: tuple[Reason, ...] = ()
    previous: tuple[str, int] = ("", 0)
    began_ns: int = 0
    silent_since_ns: int = 0
    serving: bool = False


class Protocol:
    """Runs `Participation` for one group."""

    def __init__(self, agent: GroupAgent) -> None:
        self._agent = agent
        self.state = Participation()
        self.electorate: Electorate | None = None
        self.refusals: dict[str, str] = {}
        self._evidence = Evidence()
        self._timer: asyncio.TimerHandle | None = None

    # -- what others read ------------------------------------------------------------------------------------------

    @property
    def lease(self) -> Lease | None:
        """The lease while this site is the holder."""
        return self.state.lease

    @property
    def held(self) -> HolderSet | None:
        """The holder's synchronous set."""
        return self.state.held

    @property
    def voters(self) -> tuple[str, ...]:
        """Everybody whose word may count for this group: of the lists in force, on their way, or declared only."""
        promise = self._agent.voting.promise(self._agent.config.group)
        known = (
            self.electorate,
            self.state.voters_hint,
            promise.voters if promise is not None else None,
        )
        members = [v for electorate in known if electorate is not None for v in electorate.members]
        told = self._agent.told_voters()
        if promise is None:
            # Without a record the lists in force are known from the others alone.
            members += [v for electorate in told.values() for v in electorate.members]
        else:
            members += [v for change in bound_to(promise.voters.current, told) for v in change.members]
        return tuple(dict.fromkeys((*members, *self._agent.config.voters.members)))

    def voter_states(self, now_ns: int) -> dict[str, str]:
        """How the voters of the lists in force answer the holder; empty without a lease."""
        lease = self.lease
        if lease is None:
            return {}
        supporters = lease.supporters(now_ns)
        return {v: "Supports" if v in supporters else self.refusals.get(v, "Silent") for v in lease.voters.members}

    def must_acknowledge(self) -> frozenset[str]:
        """Sites whose acknowledgement the data drivers have to wait for, this one included."""
        return participant.must_acknowledge(self.state, self._agent.config)

    def claim(self) -> Claim | None:
        """What a heartbeat says for this group; nothing without a lease."""
        return participant.claim(self.state, time.monotonic_ns())

    # -- what the site decides -------------------------------------------------------------------------------------

    def contend(self, wish: Contend, reasons: tuple[Reason, ...]) -> None:
        """Asks for an epoch."""
        if self.state.contest is not None:
            return
        agent = self._agent
        now_ns = time.monotonic_ns()
        promise = agent.voting.promise(agent.config.group)
        known = (promise.site, promise.epoch) if promise is not None else ("", 0)
        if self.lease is not None:
            known = (agent.site, self.lease.epoch)
        elif agent.unserved is not None and known == (agent.site, agent.unserved[0]):
            known = agent.unserved[1]
        silent = promise is not None and promise.site != agent.site and not promise.released
        self._evidence = Evidence(
            reasons=reasons,
            previous=max(known, agent.last_active, key=lambda pair: pair[1]),
            began_ns=now_ns,
            silent_since_ns=agent.voting.state(agent.config.group).answered_ns.get(agent.config.group, 0)
            if silent
            else 0,
            serving=self.lease is not None,
        )
        self.electorate = wish.voters
        self.refusals.clear()
        event(
            LOG,
            "campaign",
            group=agent.config.group,
            epoch=wish.epoch,
            voters=wish.voters.describe(),
            reasons=[str(r) for r in reasons],
        )
        self._take(
            participant.start_contest(
                self.state, agent.config, wish.epoch, wish.known_set, wish.voters, now_ns, wish.told
            )
        )

    def give_up(self) -> None:
        """The lease is over or given back: nothing is claimed from now on."""
        self._take((participant.give_up(self.state), ()))

    def give_to(self, successor: str) -> None:
        """The epoch is being released to a successor."""
        self._take((participant.give_to(self.state, successor, time.monotonic_ns()), ()))

    def cannot_serve(self, why: str) -> None:
        """The epoch that was won cannot be served."""
        self.state = participant.cannot_serve(self.state, why, time.monotonic_ns())

    def heard_serving(self, epoch: int) -> None:
        """A peer serves in an epoch."""
        self.state = participant.heard_serving(self.state, epoch)

    def heard_set(self, known_set: SyncSet) -> None:
        """A peer tells the newest synchronous set that it knows."""
        self.state = participant.heard_set(self.state, known_set)

    def heard_record(self, stored_set: SyncSet) -> None:
        """A witness tells the set on its disk."""
        self.state = participant.heard_record(self.state, self._agent.config, stored_set)

    def propose_set(self, members: frozenset[str]) -> None:
        """Tells the voters a newer set."""
        self._take(participant.propose_set(self.state, self._agent.config, members, time.monotonic_ns()))

    def join(self, site: str) -> None:
        """Begins to require a site's acknowledgements."""
        self._take(participant.join(self.state, site, time.monotonic_ns()))

    def stop_joining(self, site: str) -> None:
        """Gives a joining up; it is tried again after a while."""
        event(LOG, "joining given up", logging.WARNING, group=self._agent.config.group, site=site)
        self._take(participant.stop_joining(self.state, time.monotonic_ns()))

    def settle(self) -> None:
        """Begins to tell that a change of voters is done."""
        self._take(participant.settle(self.state, self._agent.config, time.monotonic_ns()))

    def tell_again(self, now_ns: int) -> None:
        """Repeats what has no majority yet."""
        self._take(participant.tell_again(self.state, self._agent.config, now_ns))

    def observe_followers(self, data: list[ComponentView], now_ns: int) -> None:
        """Notes since when the data drivers miss a site whose acknowledgement is required."""
        self.state = participant.observe_followers(self.state, self._agent.config, data, now_ns)

    # -- what voters answer ----------------------------------------------------------------------------------------

    def claim_answered(self, voter: str, answer: ClaimAnswer, sent_ns: int) -> None:
        """A voter answered a claim that was sent at `sent_ns`."""
        if answer.accepted:
            self.refusals.pop(voter, None)
        elif answer.reason != "Busy":
            self.refusals[voter] = answer.reason
        config = self._agent.config
        self._take(participant.claim_answered(self.state, config, voter, answer, sent_ns, time.monotonic_ns()))

    def answered(self, voter: str, answer: Answer) -> None:
        """A voter answered something else."""
        config, now_ns = self._agent.config, time.monotonic_ns()
        match answer:
            case CampaignAnswer():
                self._take(participant.campaign_answered(self.state, config, voter, answer, now_ns))
            case SetAnswer():
                self._take(participant.set_answered(self.state, config, voter, answer))
                self._agent.wake()
            case SettleAnswer():
                self._take(participant.settle_answered(self.state, voter, answer))
                self._agent.wake()
            case ReleaseAnswer():
                self.state = participant.release_answered(self.state, voter, answer)
            case _:
                return

    # -- effects ---------------------------------------------------------------------------------------------------

    def _take(self, step: participant.Step) -> None:
        self.state, effects = step
        self._keep_time()
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: participant.Effect) -> None:
        agent = self._agent
        match effect:
            case Ask(voters, request):
                self.ask(voters, request)
            case Won(contest):
                agent.won(contest, self._evidence)
            case ContestLost(contest, wait_ns):
                self._tell_lost(contest, wait_ns)
            case LeaseRenewed(end_ns):
                agent.renew_gates(end_ns)
            case RequirementChanged():
                agent.want_active()
            case SetStored(before, after):
                if not self.state.continued or after.members != before.members:
                    self._record_set(before, after)  # not when the epoch alone is another one
                agent.tell_peers()
            case VotersSettled(voters):
                lease = self.lease
                if lease is None:
                    return
                self.electorate = lease.voters
                agent.records.add(
                    agent.config.group,
                    lease.epoch,
                    "Decision",
                    "VotersSettled",
                    (Reason("VotersInForce", voters.describe()),),
                    from_site=agent.site,
                    to_site=agent.site,
                    message=f"the voters in force are {voters.describe()}",
                )
                agent.tell_peers()

    def ask(self, voters: tuple[str, ...], request: Request) -> None:
        """Sends a request; the own voter is asked like the others, but waits for the disk of this site."""
        agent = self._agent
        own = agent.site in voters
        others = tuple(v for v in voters if v != agent.site)
        if own and isinstance(request, Release):
            agent.spawn(self.release(request, others))
            return
        message = wire.request_to_wire(request)  # type: ignore[arg-type]
        for voter in others:
            agent.links.send(voter, message)
        if own:
            agent.spawn(self._ask_own_voter(request))

    async def release(self, release: Release, others: tuple[str, ...]) -> None:
        """Tells every voter, the own one first and durably, that the epoch is free."""
        await self._ask_own_voter(release)
        message = wire.request_to_wire(release)
        for voter in others:
            self._agent.links.send(voter, message)

    async def _ask_own_voter(self, request: Request) -> None:
        agent = self._agent
        try:
            answer = await agent.voting.ask(agent.site, request)  # type: ignore[arg-type]
        except OSError as error:
            # No answer is the safe answer: what is not on the disk has not been promised.
            event(LOG, "cannot store a promise", logging.ERROR, group=agent.config.group, cause=str(error))
            return
        self.answered(agent.site, answer)

    def _tell_lost(self, contest: Contest, wait_ns: int) -> None:
        event(
            LOG,
            "campaign lost",
            group=contest.campaign.group,
            epoch=contest.campaign.epoch,
            refusals={v: a.reason for v, a in contest.answers.items() if not a.granted},
            retry_ms=wait_ns // MILLISECOND_NS,
        )
        self._agent.wake()

    def _record_set(self, before: SyncSet, after: SyncSet) -> None:
        agent = self._agent
        agent.records.add(
            agent.config.group,
            after.version.epoch,
            "Decision",
            "Grow" if after.members > before.members else "Shrink",
            (Reason("SynchronousSet", after.describe()), *agent.decision.reasons),
            message=f"the synchronous set is {after.describe()}",
            to_site=agent.site,
        )

    # -- time --------------------------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        """One timer while a contest is open; it is set again when it was early by a rounding."""
        contest = self.state.contest
        if contest is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            left_s = max(self.state.contest_ends_ns - time.monotonic_ns(), 0) / 1e9
            self._timer = asyncio.get_running_loop().call_later(left_s, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        self._take(participant.contest_time_over(self.state, self._agent.config, time.monotonic_ns()))
