"""What one node does with one event, by the functions of `graf.core.participant`, `graf.core.site` and the voter."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graf.api.values import Electorate, SyncSet
from graf.core import messages as m
from graf.core import participant as protocol
from graf.core import site as core_site
from graf.core.contender import CONTENDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.core.participant import Ask, ContestLost, LeaseRenewed, VotersSettled, Won
from graf.core.view import Contend, GroupConfig, ProposeSet, SettleVoters
from graf.sim.explore import invariants, replication, seeing
from graf.sim.explore.clocks import GROUP, NOW
from graf.sim.explore.patches import NewListAlone
from graf.sim.explore.values import Broken, Copy, Event, Message, Node, Outcome, Settled, Win
from graf.sim.explore.voting import CrashedError, judge, restarted, stored

if TYPE_CHECKING:
    from graf.core.voter import VoterStep
    from graf.sim.explore.setting import Setting

FOR_EVER = 1 << 60


class Acting:
    """The steps of one node. Nothing is kept between two calls."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.patch = setting.patch
        self.clocks = setting.clocks
        self.configs = {
            site: GroupConfig(
                group=GROUP,
                site=site,
                sites=setting.sites,
                voters=setting.declared,
                timing=setting.clocks.timing,
                lossless=setting.lossless,
                automatic=True,
                initial_site=setting.sites[0],
                components=(),
            )
            for site in setting.sites
        }
        without_own_silence = tuple(r for r in CONTENDER_RULES if r[0] != "own-voter-is-silent")
        # The set of a group without data judges nobody: it is the record that the group has served, and beside the
        # lease alone its messages would only multiply the states.
        no_set = tuple(r for r in HOLDER_RULES if r[0] != "new-holder-shrinks")
        self.holder_rules = HOLDER_RULES if setting.lossless else no_set
        self.contender_rules = without_own_silence if self.patch.no_restart_silence else CONTENDER_RULES

    # -- events --------------------------------------------------------------------------------------------------------

    def step(self, node: Node, event: Event) -> tuple[Outcome, ...]:
        """Every possible result of the event at this node; none when nothing comes of it."""
        try:
            outcome = self._step(node, event)
        except CrashedError as crash:
            fresh = restarted(crash.node, crash.node.disk, self.clocks, self.patch)
            outcome = Outcome(fresh, crashed=True, spent="crashes")
        else:
            if outcome is not None and event[0] == "deliver and crash":
                return ()  # nothing was written, so it is a crash like any other
        if outcome is None:
            return ()
        return (replace(outcome, node=self.settled(outcome.node)),)

    def _step(self, node: Node, event: Event) -> Outcome | None:
        match event:
            case ("deliver", message):
                return self._deliver(node, message, crash=False)
            case ("deliver and crash", message):
                return self._deliver(node, message, crash=True)
            case ("decide",):
                return self._decide(node, None)
            case ("decide otherwise",):
                return self._decide(node, None, redeclared=True)
            case ("decide", told):
                return self._decide(node, told)
            case ("heartbeat",):
                return self._heartbeat(node)
            case ("time out",):
                return self._run(node, protocol.contest_time_over(self._part(node), self._config(node), NOW))
            case ("fence",):
                return Outcome(self._given_up(node))
            case ("hand over",):
                return self._hand_over(node)
            case ("promise ends", voter, site, epoch):
                return Outcome(self._promise_ended(node, voter, site, epoch))
            case ("claim", voter):
                return self._heartbeat(node, (voter,))
            case ("tell again",):
                return self._run(node, protocol.tell_again(self._part(node), self._config(node), NOW))
            case ("crash",):
                fresh = restarted(node, node.disk, self.clocks, self.patch)
                return Outcome(fresh, crashed=True, spent="crashes")
            case ("lose disk",):
                return Outcome(restarted(node, None, self.clocks, self.patch), crashed=True, spent="losses")
        return replication.step(self, node, event)

    def events(self, node: Node) -> tuple[Event, ...]:
        """What the node may do by itself; the bounds are not looked at."""
        part = node.part
        events: list[Event] = [("crash",)]
        if node.name in self.setting.may_lose_disk and node.disk is not None:
            events.append(("lose disk",))
        if part is None:
            return tuple(events)
        if part.contest is not None:
            events.append(("time out",))
        if part.lease is None:
            if part.contest is None and node.disk is not None:
                events.append(("decide",))
            return tuple(events)
        events.append(("fence",))
        if part.lease.valid(NOW):
            if self.setting.timed:
                events.append(("heartbeat",))
            if self.setting.hands_over:
                events.append(("hand over",))
            if part.contest is None:
                events.append(("decide",))
                if self.setting.redeclared is not None:
                    events.append(("decide otherwise",))
            if (part.held is not None and part.held.proposed is not None) or part.settling is not None:
                events.append(("tell again",))
            if self.setting.data:
                events.extend(replication.events(self, node))
        return tuple(events)

    def aged(self, node: Node) -> Node:
        """The node one tick later."""
        part = None if node.part is None else self.clocks.aged_part(node.part)
        gate = node.gate_ns if node.gate_ns in (0, FOR_EVER) else node.gate_ns - self.clocks.slow
        return self.settled(replace(node, voter=self.clocks.aged_voter(node.voter), part=part, gate_ns=gate))

    def settled(self, node: Node) -> Node:
        """The node without what nothing depends on any more."""
        part = node.part
        if part is not None:
            # What was sent may arrive again in this network anyhow, so telling it again is nothing new.
            part = replace(self.clocks.settled_part(part), giving_back=frozenset())
            promise = node.voter.promises.get(GROUP)
            over = part.lease is not None and part.contest is None and not part.lease.valid(NOW)
            if over and not self.setting.timed:
                part = protocol.give_up(part)  # it never counts again, and nothing is done with it
            if promise is not None and part.refused_set.version <= promise.stored_set.version:
                part = replace(part, refused_set=SyncSet())
            if part.lease is None and promise is not None and part.highest_promised <= promise.epoch:
                part = replace(part, highest_promised=0)
        gate = node.gate_ns if node.gate_ns > NOW else 0
        return replace(node, voter=self.clocks.settled_voter(node.voter), part=part, gate_ns=gate)

    def fresh(self, node: Node) -> tuple[int, str | None] | None:
        """The epoch and site that the voter still has to wait for; None when it is free."""
        voter = node.voter
        promise = voter.promises.get(GROUP)
        latest = max(voter.started_ns, voter.answered_ns.get(GROUP, self.clocks.long_ago))
        if latest <= self.clocks.long_ago:
            return None
        return (0, None) if promise is None else (promise.epoch, promise.site)

    # -- the voter -----------------------------------------------------------------------------------------------------

    def _deliver(self, node: Node, message: Message, *, crash: bool) -> Outcome | None:
        body = message.body
        if isinstance(body, Copy):
            return replication.on_copy(self, node, message)
        if isinstance(body, m.Campaign | m.Claim | m.Release | m.SetUpdate | m.Settle):
            step = judge(node, message.src, body, self.patch)
            node, broken = self._stored(node, step, crash=crash)
            reply = Message(node.name, message.src, step.answer, message.age)
            match step.answer:
                case m.CampaignAnswer(granted=True) | m.ClaimAnswer(accepted=True):
                    if self.setting.timed:
                        return Outcome(node, sent=(reply,), notes=broken)
                    return Outcome(node, instant=reply, notes=broken)
                case m.SetAnswer(stored=True) | m.SettleAnswer(stored=True):
                    return Outcome(node, instant=reply, notes=broken)
                case m.CampaignAnswer() | m.ClaimAnswer():
                    return Outcome(node, instant=reply, notes=broken)
            return Outcome(node, notes=broken)
        return self._run(node, self._answered(node, message), crash=crash)

    def _stored(self, node: Node, step: VoterStep[Any], *, crash: bool) -> tuple[Node, tuple[Broken, ...]]:
        node, broken = stored(node, step, self.patch)
        if crash and step.durable is not None:
            raise CrashedError(node)
        return node, broken

    def _answered(self, node: Node, message: Message) -> protocol.Step:
        part, config, voter = self._part(node), self._config(node), message.src
        match message.body:
            case m.CampaignAnswer() as answer:
                return protocol.campaign_answered(part, config, voter, answer, NOW)
            case m.ClaimAnswer() as answer:
                age = 0 if self.patch.lease_from_receive_time else message.age
                return protocol.claim_answered(part, config, voter, answer, NOW - age * self.clocks.slow, NOW)
            case m.SetAnswer() as answer:
                return protocol.set_answered(part, config, voter, answer)
            case m.SettleAnswer() as answer:
                return protocol.settle_answered(part, voter, answer)
        return part, ()

    # -- the site ------------------------------------------------------------------------------------------------------

    def run(self, node: Node, step: protocol.Step) -> Outcome:
        """Carries out what a step of the participant says; the own voter answers at once."""
        return self._run(node, step)

    def _run(self, node: Node, step: protocol.Step, *, crash: bool = False) -> Outcome:
        sent: list[Message] = []
        notes: list[Win | Settled | Broken] = []
        pending = [step]
        while pending:
            part, effects = pending.pop(0)
            had_lease = self._part(node).lease
            node = replace(node, part=part)
            for effect in effects:
                match effect:
                    case Ask(voters, request):
                        for voter in voters:
                            if voter != node.name:
                                sent.append(Message(node.name, voter, request))
                                continue
                            judged = judge(node, node.name, request, self.patch)
                            node, broken = self._stored(node, judged, crash=crash)
                            notes.extend(broken)
                            answer = Message(node.name, node.name, judged.answer)
                            pending.append(self._answered(node, answer))
                            node = replace(node, part=pending[-1][0])
                    case Won(contest):
                        notes.extend(invariants.judged_win(node.name, contest))
                        node = self._renewed(replace(node, data=replication.won(node.data, contest.campaign.epoch)))
                        node = self._adopted(node)
                    case LeaseRenewed():
                        node = self._renewed(node)
                    case VotersSettled(voters):
                        notes.append(Settled(voters.version))
                    case ContestLost(contest, _) if had_lease is not None and self.patch.lost_change_releases:
                        release = m.Release(GROUP, contest.campaign.epoch, cause=m.CONTEST_LOST)
                        pending.append((self._part(node), (Ask(tuple(sorted(contest.asked)), release),)))
        return Outcome(node, tuple(sent), notes=tuple(notes))

    def _adopted(self, node: Node) -> Node:
        part = self._part(node)
        if self.patch.adopted_without_doubt and part.held is not None:
            part = replace(part, held=replace(part.held, doubtful=frozenset()))
        if self.patch.settled_by_new_list and part.settling is not None:
            voters = part.settling.voters
            part = replace(part, settling=replace(part.settling, voters=NewListAlone(voters.current, voters.proposed)))
        return replace(node, part=part)

    def _renewed(self, node: Node) -> Node:
        lease = self._part(node).lease
        if lease is None or not lease.valid(NOW):
            return node
        end = FOR_EVER if self.patch.gate_left_to_the_process else lease.end_ns
        return replace(node, gate_ns=max(node.gate_ns, end))

    def _given_up(self, node: Node) -> Node:
        return replace(node, part=protocol.give_up(self._part(node)), gate_ns=0)

    def _decide(self, node: Node, told: Electorate | None, *, redeclared: bool = False) -> Outcome | None:
        settling = self._part(node).settling
        if self.patch.settled_before_set_is_stored and settling is not None and not settling.begun:
            return self._run(node, protocol.settle(self._part(node), self._config(node), NOW))
        part, config = self._part(node), self._config(node)
        if redeclared and self.setting.redeclared is not None:
            config = replace(config, voters=self.setting.redeclared)
        view = seeing.view(self.setting, config, node, told)
        decision = core_site.decide(view, NOW, self.holder_rules, self.contender_rules)
        for action in decision.actions:
            match action:
                case Contend(epoch, known_set, voters):
                    part, effects = protocol.start_contest(part, config, epoch, known_set, self._counted(voters), NOW)
                    if self.patch.epoch_asked_again:
                        part = replace(part, highest_promised=0)
                    return replace(self._run(node, (part, effects)), spent="contests")
                case ProposeSet(members):
                    return replication.propose(self, node, members)
                case SettleVoters():
                    return self._run(node, protocol.settle(part, config, NOW))
        return None

    def _counted(self, voters: Electorate) -> Electorate:
        if self.patch.new_list_alone_decides and voters.joint:
            return NewListAlone(voters.current, voters.proposed)
        return voters

    def _heartbeat(self, node: Node, to: tuple[str, ...] = ()) -> Outcome | None:
        part = self._part(node)
        claim = protocol.claim(part, NOW)
        if claim is None or part.lease is None:
            return None
        voters = tuple(v for v in part.lease.voters.members if not to or v in to)
        return self._run(node, (part, (Ask(voters, claim),)))

    def _promise_ended(self, node: Node, voter: str, site: str, epoch: int) -> Node:
        """A voter has been silent for longer than any lease that counts on it: those have ended before.

        The same holds for a lease that would start when the campaign was sent which that voter granted.
        """
        part, ended = node.part, NOW - self.clocks.ticks * self.clocks.slow
        if node.name == voter:
            answered = MappingProxyType(dict.fromkeys(node.voter.answered_ns, self.clocks.long_ago))
            node = replace(node, voter=replace(node.voter, started_ns=self.clocks.long_ago, answered_ns=answered))
        if part is None:
            return node
        lease, contest = part.lease, part.contest
        if contest is not None and (voter in contest.grants or (node.name, contest.campaign.epoch) == (site, epoch)):
            part = replace(part, contest=replace(contest, sent_ns=ended))
        if lease is not None:
            sent = {v: t for v, t in lease.sent_ns.items() if v != voter}
            part = replace(part, lease=replace(lease, sent_ns=MappingProxyType(sent)))
            if (node.name, lease.epoch) == (site, epoch):
                part = replace(part, campaign_sent_ns=ended)
        return replace(node, part=part)

    def _hand_over(self, node: Node) -> Outcome | None:
        lease = self._part(node).lease
        if lease is None:
            return None
        left = self._given_up(node)
        if self.patch.gate_open_after_release:
            left = replace(left, gate_ns=node.gate_ns)
        return self._run(left, (self._part(left), (Ask(lease.voters.members, m.Release(GROUP, lease.epoch)),)))

    def _part(self, node: Node) -> protocol.Participation:
        if node.part is None:
            raise TypeError(f"{node.name} is no site")
        return node.part

    def _config(self, node: Node) -> GroupConfig:
        return self.configs[node.name]

    def config(self, node: Node) -> GroupConfig:
        """What the site has been told to protect."""
        return self.configs[node.name]
