"""A GRAF controller of the simulator: it executes what `graf.core` decides, as the real one does.

One view, one decision, actions carried out; every event only wakes that loop. The protocol itself is
`graf.core.participant`, `graf.core.voter` and `graf.core.site`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graf.api.timing import SECOND_NS
from graf.api.values import Electorate, Reason, Role, Stage, SyncSet
from graf.core import messages as m
from graf.core import participant as protocol
from graf.core import site as core_site
from graf.core.contender import CONTENDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.core.participant import Participation
from graf.core.planning import RecordView
from graf.core.view import (
    ComponentConfig,
    ComponentView,
    Contend,
    Decision,
    Fence,
    Follow,
    GroupConfig,
    HandOver,
    Join,
    PeerView,
    ProposeSet,
    SettleVoters,
    SiteView,
    StopJoining,
)
from graf.core.voterchange import bound_to
from graf.sim import database, gate
from graf.sim.handle import Handle, Wish
from graf.sim.moves import Moves
from graf.sim.returning import Return
from graf.sim.voting import GROUP, SimVoter, Told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from graf.api.values import VoterList
    from graf.core.handover_rules import Order
    from graf.core.view import Action
    from graf.sim.kernel import Process
    from graf.sim.world import World

GATE = ComponentConfig(gate.NAME, Stage.TRAFFIC, gate=True)
COMPONENTS = (ComponentConfig(database.NAME, Stage.DATA, synchronous=True), GATE)
COPIED = (ComponentConfig(database.NAME, Stage.DATA, copied=True, limited=True), GATE)


class Controller:
    """The controller of one site, its voter included.

    Invariant: `role` is Active only while there is a lease.

    Attributes:
        name: The site.
        part: The protocol's state; volatile.
        config: What this site has been told to protect; kept on the site's disk.
        records: What the site has decided and not yet got into Git; on the site's disk.
    """

    def __init__(self, world: World, process: Process, voters: VoterList) -> None:
        self.world = world
        self.process = process
        self.name = process.name
        settings = world.settings
        self.config = GroupConfig(
            group=GROUP,
            site=process.name,
            sites=settings.sites,
            voters=voters,
            timing=settings.timing,
            lossless=settings.lossless,
            automatic=settings.automatic,
            initial_site=settings.sites[0],
            components=COMPONENTS if settings.rpo_ns is None else COPIED,
            waits=settings.rpo_ns is None,
        )
        self.records: list[RecordView] = []
        self.db = world.databases[process.name]
        self.gate = world.gates[process.name]
        self.voter = SimVoter(world, process)
        self.start()

    def start(self) -> None:
        """A new incarnation: nothing is known but what is on the disk."""
        self.voter.start()
        self.voter.on_change = self.wake
        self.voter.on_release = self.released
        self.part = Participation()
        self.role = Role.FENCED
        self.verdict = ""
        self.peers: dict[str, Told] = {}
        self._seen: dict[str, tuple[PeerView, PeerView]] = {}
        self._told_ns: dict[str, int] = {}
        self.heard: dict[str, int] = {}
        self.last_active = ("", 0)
        self.last_release: m.Release | None = None
        self.stall_ended_ns = 0
        self.activating = False
        self.decision = Decision((), (Reason("Starting"),))
        self.handles = {
            database.NAME: Handle(self, database.NAME, self.db),
            gate.NAME: Handle(self, gate.NAME, self.gate),
        }
        self.moves = Moves(self)
        self.following = Return(self)
        self._waking = False
        self._timer_ns = 0
        self._codes: list[str] = []
        if self.epoch:
            self.handles[gate.NAME].want(Wish(Role.FENCED, self.epoch, ""))
        self.process.after(1, self._beat)
        self.wake()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed."""
        if not self._waking:
            self._waking = True
            self.process.after(0, self._loop)

    def _loop(self) -> None:
        self._waking = False
        now = self.process.clock()
        views = {name: handle.view() for name, handle in self.handles.items()}
        part = self.part
        if part.held is not None:
            self.part = part = protocol.observe_followers(part, self.config, (views[database.NAME],), now)
        if part.lease is not None:
            self._advance_activation()
        view = self._view(views, now)
        self.decision = decision = core_site.decide(view, now)
        self._note(decision, view, now)
        for action in decision.actions:
            self._apply(action, now)
        self._maintain(views, now)
        # At least once a second, as a real one; a world of long heartbeats is as slow as they are.
        longest = min(self.config.timing.ttl_ns, max(SECOND_NS, self.config.timing.heartbeat_ns))
        due = now + min(decision.recheck_after_ns or longest, longest)
        if self._timer_ns <= now or due < self._timer_ns:
            self._timer_ns = due
            self.process.after_local(due - now, self._timer, due)

    def _timer(self, due: int) -> None:
        if due == self._timer_ns:
            self._timer_ns = 0
            self.wake()

    def _view(self, components: dict[str, ComponentView], now: int) -> SiteView:
        part, voter = self.part, self.voter
        promise = voter.promise
        return SiteView(
            config=self.config,
            role=self.role,
            lease=part.lease,
            contest=part.contest,
            holder_set=part.held,
            promise=promise,
            holder_free_at_ns=voter.state.free_at_ns(GROUP) if promise else 0,
            silent_until_ns=voter.state.silent_until_ns(GROUP),
            released_at_ns=voter.released_at if promise is not None and promise.released else None,
            components=components,
            peers={name: self._peer(name, now) for name in self._voters() if name != self.name},
            lost_since_ns=part.lost_since_ns,
            highest_promised=part.highest_promised,
            join_since_ns=part.join_since_ns,
            set_told_since_ns=part.set_told_since_ns,
            join_not_before_ns=part.join_not_before_ns,
            contend_not_before_ns=part.contend_not_before_ns,
            stall_ended_ns=self.stall_ended_ns,
            handing_over=self.moves.running,
            settling=part.settling,
            won_at_ns=part.won_at_ns,
            continued=part.continued,
            served=part.served,
            astray=part.astray,
            voters_hint=part.voters_hint,
            refused_set=part.refused_set,
            told_set=part.told_set,
            given_to=part.given_to,
            given_at_ns=part.given_at_ns,
            tries=part.tries,
        )

    def _peer(self, name: str, now: int) -> PeerView:
        heard = now - self.heard.get(name, -(1 << 60)) <= self.config.timing.suspect_ns
        seen = self._seen.get(name)
        if seen is None:
            return PeerView(name, heard)
        peer = seen[heard]
        if peer.copy_spare_ns is None:
            return peer
        return replace(peer, copy_spare_ns=peer.copy_spare_ns - (now - self._told_ns[name]))

    def _told(self, name: str, status: Told) -> None:
        """Keeps what a peer tells, and how it is seen with that: silent, and heard."""
        self.peers[name] = status
        self._told_ns[name] = self.process.clock()
        role, epoch, promotable, ready, known_set, voters, spare_ns = status
        if role is None:
            known_set = SyncSet()  # a witness's record: what counts of it is in `told_set`
        silent = PeerView(name, False, role, epoch, promotable, "", ready, known_set, voters, copy_spare_ns=spare_ns)
        if not self.config.waits and not promotable:  # no component of it is synchronous: it is a matter of the copy
            silent = replace(silent, promotable=True, copy_refusal=database.NAME)
        self._seen[name] = (silent, replace(silent, connected=True))

    def _note(self, decision: Decision, view: SiteView, now: int) -> None:
        codes = [reason.code for reason in decision.reasons]
        if codes == self._codes:
            return
        self._codes = codes
        world = self.world
        world.monitors.decided(self, decision)
        # Which rule spoke is found out afterwards, so that the decision is taken exactly as in a controller.
        rules = HOLDER_RULES if view.lease is not None else CONTENDER_RULES
        spoke = next((name for name, rule in rules if rule(view, now) is not None), "")
        if spoke:
            world.kernel.count(f"rule {spoke}")
        for code in codes:
            world.kernel.count(f"reason {code}")
        for action in decision.actions:
            world.kernel.count(f"action {type(action).__name__}")
        if world.kernel.story is not None:
            what = ", ".join(type(a).__name__ for a in decision.actions) or "holds"
            world.kernel.tell(self.name, f"{self.role}: {what} ({'; '.join(str(r) for r in decision.reasons)})")

    def _apply(self, action: Action, now: int) -> None:
        match action:
            case Fence():
                self.fence()
            case HandOver(successor):
                self.moves.data_lost(successor, self.decision.reasons)
            case ProposeSet(members):
                self._step(protocol.propose_set(self.part, self.config, members, now))
            case Join(site):
                if not self.activating:
                    self._step(protocol.join(self.part, site, now))
            case StopJoining(_site):
                self._step(protocol.stop_joining(self.part, now))
            case SettleVoters():
                self._step(protocol.settle(self.part, self.config, now))
            case Follow(active, epoch):
                self.following.begin(active, epoch)
            case Contend(epoch, known_set, voters, told):
                self.world.monitors.contends(self.name, epoch)
                self._step(protocol.start_contest(self.part, self.config, epoch, known_set, voters, now, told))
                if self.part.contest is not None:
                    self.process.after_local(self.part.contest_ends_ns - now + 1, self._contest_over)

    def _contest_over(self) -> None:
        now = self.process.clock()
        if self.part.contest is None:
            return
        if now < self.part.contest_ends_ns:  # the machine stood still, and its clock with it
            self.process.after_local(self.part.contest_ends_ns - now + 1, self._contest_over)
            return
        self._step(protocol.contest_time_over(self.part, self.config, now))

    def _maintain(self, views: dict[str, ComponentView], now: int) -> None:
        moving = self.moves.running or [a for a in self.decision.actions if isinstance(a, HandOver | Fence)]
        if not moving:
            for name, handle in self.handles.items():
                handle.mend(views[name])
        if self.part.held is not None or self.part.giving_back:
            self._step(protocol.tell_again(self.part, self.config, now))

    # -- the protocol's effects ----------------------------------------------------------------------------------------

    def _step(self, step: protocol.Step) -> None:
        self.part, effects = step
        for effect in effects:
            match effect:
                case protocol.Ask(voters, request):
                    self.ask(voters, request)
                case protocol.Won(contest):
                    self._won(contest)
                case protocol.ContestLost(contest, _wait):
                    self.world.kernel.count("contest lost")
                    self.wake()
                case protocol.SetStored(before, after):
                    self.record("Grow" if after.members > before.members else "Shrink", after.describe())
                    self.wake()
                case protocol.RequirementChanged():
                    self.want_active()
                case protocol.LeaseRenewed(end_ns):
                    self._renewed(end_ns)
                case protocol.VotersSettled(voters):
                    self.world.monitors.voters_settled(self, voters)
                    self.record("VotersSettled", voters.describe())
                    self.wake()

    def ask(self, voters: Iterable[str], request: Any) -> None:
        """Sends a request to voters; the own one is asked like the others."""
        for voter in voters:
            if voter == self.name:
                self.voter.ask(self.name, request, self._own_answer)
            else:
                self.world.send(self.process, voter, "on_request", request)

    def _own_answer(self, answer: Any) -> None:
        self.on_answer(self.name, answer)

    def _won(self, contest: Any) -> None:
        self.world.monitors.won(self, contest)
        self.following.cancel()
        self.world.faults.won(self.name)
        self.role, self.verdict, self.activating = Role.ACTIVE, "", True
        release, self.last_release = self.last_release, None
        planned = release is not None and release.operation and release.epoch == self.last_active[1]
        kind = (
            release.cause if planned and release is not None else "VoterChange" if self.part.continued else "Failover"
        )
        operation = release.operation if planned and release is not None else ""
        self.record(kind, contest.campaign.voters.describe(), to_site=self.name, operation=operation)
        self.wake()

    def _renewed(self, end_ns: int) -> None:
        lease = self.part.lease
        handle = self.handles[gate.NAME]
        if lease is None or handle.wanted is None or handle.wanted.role is not Role.ACTIVE or not handle.settled:
            return
        if not self.gate.renew(handle.wanted.epoch, end_ns):
            handle.ask_again()

    # -- holding -------------------------------------------------------------------------------------------------------

    def want_active(self) -> None:
        """Asks the drivers for it, data before traffic."""
        lease = self.part.lease
        if lease is None or self.part.held is None or self.moves.running:
            return
        must = protocol.must_acknowledge(self.part, self.config)
        db = self.handles[database.NAME]
        db.want(Wish(Role.ACTIVE, lease.epoch, self.name, must))
        if not self.activating or self._is_active(db, lease.epoch):
            self.handles[gate.NAME].want(Wish(Role.ACTIVE, lease.epoch, self.name))

    @staticmethod
    def _is_active(handle: Handle, epoch: int) -> bool:
        wish = handle.wanted
        return handle.settled and wish is not None and wish.role is Role.ACTIVE and wish.epoch == epoch

    def _advance_activation(self) -> None:
        self.want_active()
        lease = self.part.lease
        if not self.activating or lease is None:
            return
        if all(self._is_active(handle, lease.epoch) for handle in self.handles.values()):
            self.activating = False
            self.world.monitors.activated(self, lease.epoch)
            self.wake()

    def fence(self) -> None:
        """Gives the role up locally: the gate first, then everything else at once."""
        # Never below what the drivers have seen: a site whose voter has no record knows no epoch by itself.
        epoch = max(self.epoch, self.db.guard, self.gate.guard)
        wish = Wish(Role.FENCED, epoch, "")
        if self.part.lease is None and all(h.wanted == wish for h in self.handles.values()):
            return
        had_lease = self.part.lease is not None
        self.stand_down()
        self.following.cancel()
        self.moves.lease_lost()
        for name in (gate.NAME, database.NAME):
            self.handles[name].want(wish)
        if had_lease:
            self.record("Fence", "")
        self.wake()

    def stand_down(self) -> None:
        """The lease is given up: from now on nothing claims it."""
        self.part = protocol.give_up(self.part)
        self.activating = False
        self.role = Role.FENCED
        for handle in self.handles.values():
            if handle.wanted is not None and handle.wanted.role is Role.ACTIVE:
                handle.forget_wish()

    def record(self, kind: str, text: str, *, to_site: str = "", operation: str = "") -> None:
        """Writes a record on the site's disk; it stays there until it is in Git."""
        world = self.world
        world.record_number += 1
        self.records.append(
            RecordView(
                id=f"{self.name}-{world.record_number}",
                group=GROUP,
                kind="Decision" if to_site else "Event",
                type=kind,
                epoch=self.epoch,
                from_site=self.name if not to_site else "",
                to_site=to_site,
                operation=operation,
                site=self.name,
                message=text,
            )
        )
        if world.kernel.story is not None:
            world.kernel.tell(self.name, f"records {kind} in epoch {self.epoch} {text}")

    # -- what others see and say ---------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epoch of this site's role: the own one, or that of the site it follows, or the last promised."""
        if self.part.lease is not None:
            return self.part.lease.epoch
        if self.following.target is not None:
            return self.following.target[1]
        return self.voter.promise.epoch if self.voter.promise is not None else 0

    def _electorate(self) -> Electorate:
        if self.part.lease is not None:
            return self.part.lease.voters
        promise = self.voter.promise
        return promise.voters if promise is not None else Electorate(self.config.voters)

    def _voters(self) -> dict[str, None]:
        """Everybody whose word may count: of the lists in force, on their way, or declared only."""
        hint = self.part.voters_hint
        named = hint.members if hint is not None else ()
        promise, told = self.voter.promise, {name: status[5] for name, status in self.peers.items()}
        if promise is None:
            # Without a record the lists in force are known from the others alone.
            named = (*named, *(v for voters in told.values() if voters is not None for v in voters.members))
        elif any(voters is not None and voters.joint for voters in told.values()):
            named = (*named, *(v for change in bound_to(promise.voters.current, told) for v in change.members))
        return dict.fromkeys((*self.config.voters.members, *self._electorate().members, *named))

    def known_set(self) -> SyncSet:
        """Newest synchronous set that this site knows of."""
        sets = [self.part.refused_set, self.part.told_set]
        if self.voter.promise is not None:
            sets.append(self.voter.promise.stored_set)
        if self.part.held is not None:
            sets.append(self.part.held.current)
        return max(sets, key=lambda s: s.version, default=SyncSet())

    @property
    def promotable(self) -> bool:
        """Whether its driver says that its data can serve."""
        return self.db.told_promotable and not self.db.stuck and not self.db.process.paused

    def status(self) -> Told:
        """What this site tells its peers."""
        ready = all(map(self._has_its_role, self.handles.values())) and self.db.process.runs and not self.gate.stuck
        promise = self.voter.promise
        voters = self._electorate() if promise is not None or self.part.lease is not None else None
        return (self.role, self.epoch, self.promotable, ready, self.known_set(), voters, self.db.spare_ns())

    def _has_its_role(self, handle: Handle) -> bool:
        """What it had when this site won is none."""
        active = handle.wanted is not None and handle.wanted.role is Role.ACTIVE
        return handle.settled and (active or self.role is not Role.ACTIVE)

    def _beat(self) -> None:
        now = self.process.clock()
        claim = protocol.claim(self.part, now)
        status: Told | None = self.status()
        for voter in self._voters():
            if voter == self.name:
                if claim is not None:
                    self.on_beat_answer(self.name, self.voter.claim(self.name, claim), now)
            else:
                self.world.beat(self.process, voter, claim, now, status)
        self.process.after_local(self.config.timing.heartbeat_ns, self._beat)

    def on_beat(self, src: str, claim: m.Claim | None, sent_ns: int, status: Any) -> None:
        """A peer's heartbeat: it is heard, and its claim is answered."""
        self.heard_beat(src, status)
        if claim is not None:
            self.world.reply(self.process, src, "on_beat_answer", self.voter.claim(src, claim), sent_ns)

    def heard_beat(self, src: str, status: Told | None) -> None:
        """A peer was heard, with what it tells of itself."""
        self.heard[src] = self.process.clock()
        if status is None:
            return
        if self.peers.get(src) != status:
            self._told(src, status)
            if status[0] is not None:
                self.part = protocol.heard_set(self.part, status[4])
            else:
                self.part = protocol.heard_record(self.part, self.config, status[4])
            self.wake()
        if status[0] is Role.ACTIVE:
            self._note_active(src, status[1])
            if status[3]:
                self.part = protocol.heard_serving(self.part, status[1])

    def on_beat_answer(self, src: str, answer: m.ClaimAnswer | None, sent_ns: int, record: Told | None = None) -> None:
        """A voter answered a heartbeat; a witness tells its record with that."""
        now = self.process.clock()
        self.heard[src] = now
        if record is not None:
            self.heard_beat(src, record)
        if answer is not None:
            self._step(protocol.claim_answered(self.part, self.config, src, answer, sent_ns, now))

    def on_request(self, src: str, request: Any) -> None:
        """Another site asks this site's voter."""
        self.heard[src] = self.process.clock()
        self.voter.ask(src, request, lambda answer: self.world.reply(self.process, src, "on_answer", answer))

    def on_answer(self, src: str, answer: Any) -> None:
        """A voter answered."""
        now = self.process.clock()
        if src != self.name:
            self.heard[src] = now
        match answer:
            case m.CampaignAnswer():
                self._step(protocol.campaign_answered(self.part, self.config, src, answer, now))
            case m.SetAnswer():
                self._step(protocol.set_answered(self.part, self.config, src, answer))
                self.wake()
            case m.SettleAnswer():
                self._step(protocol.settle_answered(self.part, src, answer))
            case m.ReleaseAnswer():
                self.part = protocol.release_answered(self.part, src, answer)
            case _:
                pass

    def on_prepare(self, src: str, epoch: int, operation: str, position: int) -> None:
        """At the successor of a planned move: proves that the position is reached."""
        self._prove(src, epoch, operation, position, 0)

    def _prove(self, src: str, epoch: int, operation: str, position: int, tries: int) -> None:
        if self.db.reached(position) or tries > 5:
            self.world.send(self.process, src, "on_ready", epoch, operation, self.db.reached(position))
        else:
            self.process.after(self.world.retry_ns(), self._prove, src, epoch, operation, position, tries + 1)

    def on_ready(self, _src: str, epoch: int, operation: str, is_ready: bool) -> None:
        """At the active site of a planned move: the successor answered."""
        self.moves.ready(epoch, operation, is_ready)

    def on_order(self, _src: str, order: Order) -> None:
        """A manager asks for a planned move."""
        self.moves.start(order)

    def released(self, peer: str, release: m.Release) -> None:
        """The holder gave the epoch back."""
        if not release.never_won and peer != self.name:
            self.last_release = release
            self._note_active(peer, release.epoch)
            self.peers.pop(peer, None)
            self._seen.pop(peer, None)
            self.wake()

    def _note_active(self, site: str, epoch: int) -> None:
        if epoch > self.last_active[1]:
            self.last_active = (site, epoch)

    def on_resume(self) -> None:
        """The stall meter sees that this process stood still, a moment after it goes on."""
        self.process.after(int(self.world.streams.schedule.random() * 20_000_000), self._stalled)

    def _stalled(self) -> None:
        self.stall_ended_ns = self.process.clock()
        self.wake()

    def on_assignment(self, _src: str, voters: VoterList, automatic: bool) -> None:
        """What a manager says is declared."""
        if voters == self.config.voters and automatic == self.config.automatic:
            return
        self.config = replace(self.config, voters=voters, automatic=automatic)
        self.wake()
