"""One group at this site: reads what is known, lets graf.core decide, executes.

Every event only wakes the loop; the loop builds one view, asks `decide` and carries the actions out. The procedures
that take steps (contest, return, planned switchover) live in modules of their own and report back here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS
from graf.api.values import STAGES, Reason, Role, Stage, SyncSet
from graf.controller.activation import Activation, is_active
from graf.controller.components import Component, Wanted
from graf.controller.protocol import Protocol
from graf.controller.returning import follow, keep_following
from graf.controller.switchover import Switchover
from graf.core.messages import Release
from graf.core.site import decide
from graf.core.view import (
    Action,
    ComponentView,
    Contend,
    Decision,
    Fence,
    Follow,
    HandOver,
    Health,
    Join,
    PeerView,
    ProposeSet,
    SettleVoters,
    SiteView,
    StopJoining,
)
from graf.shell import wire
from graf.shell.logs import event
from graf.shell.proto import peer_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from graf.api.values import Electorate
    from graf.controller.dialing import Dial, Dialer
    from graf.controller.endpoints import Endpoints
    from graf.controller.groups import Assignment
    from graf.controller.protocol import Evidence
    from graf.controller.records import Records
    from graf.core.campaign import Contest
    from graf.core.lease import Lease
    from graf.shell.links import Links
    from graf.shell.voting import Voting

LOG = logging.getLogger("graf.agent")

GATE_SHUT_TIMEOUT_S = 0.5
SETTLING_WAITS_NS = 1_000 * MILLISECOND_NS
# A hold that is over at once is no news; one that lasts is what an operator asks about.
HOLD_RECORDED_AFTER_NS = 300 * MILLISECOND_NS


class GroupAgent:
    """State of one group at this site.

    Invariant: `role` is Active only while `lease` is held; without a lease no component is wanted Active.

    Attributes:
        active_since_epoch: Epoch since which this site has been Active without a break; a change of the voters goes
            on to another epoch without one. 0 when it is not Active.
    """

    def __init__(
        self,
        assignment: Assignment,
        dialer: Dialer,
        voting: Voting,
        links: Links,
        records: Records,
        endpoints: Endpoints,
    ) -> None:
        self.assignment = assignment
        self.config = assignment.config
        self.voting = voting
        self.links = links
        self.records = records
        self._endpoints = endpoints
        self.role = Role.FENCED
        self.protocol = Protocol(self)
        self.decision = Decision((), (Reason("Starting"),))
        self.verdict = ""
        self.stall_ended_ns = 0
        self.switchover = Switchover(self)
        self.peers: dict[str, pb.GroupStatus] = {}
        self._told_ns: dict[str, int] = {}  # when each of them told it
        self.last_release: Release | None = None
        self.last_release_ns = 0
        self.last_active = ("", 0)
        self.active_since_ns = 0
        self.active_since_epoch = 0
        self.following: tuple[str, int] | None = None
        self._follow_task: asyncio.Task[None] | None = None
        self._activation: Activation | None = None
        # An epoch that this site won and has not served yet, with who was active before it: whoever serves next takes
        # over from there, this site included.
        self.unserved: tuple[int, tuple[str, int]] | None = None
        self._last_reasons: tuple[str, ...] = ()
        self._hold_since_ns = 0
        self._wake = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self.components: dict[str, Component] = {
            component.name: Component(
                self.config.group,
                self.config.site,
                component,
                assignment.wiring[component.name],
                partial(self._dial, dialer, component.name),
                self._lease_end_ns,
                self.wake,
            )
            for component in self.config.components
        }
        if self.epoch:
            # After a restart of this process: clients stay out until there is a lease. What holds data is left alone
            # until it is known who is Active; a dead server accepts nothing.
            for component in self.components.values():
                if not component.config.synchronous:
                    component.want(Wanted(Role.FENCED, self.epoch, ""))
        self._loop_task = asyncio.create_task(self._run(), name=f"group-{self.config.group}")

    # -- what others tell ------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    def _dial(self, dialer: Dialer, component: str) -> Dial:
        return dialer.dial(self.assignment.wiring[component].driver_class)

    def update(self, assignment: Assignment) -> None:
        """Takes a newer assignment.

        Timing counts from the next epoch on. Voters are only wished for: which list is in force is the voters' own
        record, and the holder alone changes it (`graf.core.holder`, rule change-voters).
        """
        self.assignment = assignment
        # A component that is new is driven from the next start on: it has no part in any decision before.
        known = tuple(c for c in assignment.config.components if c.name in self.components)
        self.config = replace(assignment.config, components=known)
        for config in self.config.components:
            self.components[config.name].config = config
            self.components[config.name].wiring = assignment.wiring[config.name]
        self.wake()

    def peer_status(self, peer: str, status: pb.GroupStatus) -> None:
        """A peer told its part."""
        try:
            wire.electorate_from_wire(status.voters)
        except ValueError:
            status.ClearField("voters")  # none, or none that anybody could vote by
        before = self.peers.get(peer)
        self.peers[peer], self._told_ns[peer] = status, time.monotonic_ns()
        told_set = wire.set_from_wire(status.known_set)
        if status.role:
            self.protocol.heard_set(told_set)
        else:
            self.protocol.heard_record(told_set)
        if status.role == Role.ACTIVE.value:
            self.note_active(peer, status.epoch)
            if status.ready:
                self.protocol.heard_serving(status.epoch)
        if before != status:
            self.wake()

    def told_voters(self) -> dict[str, Electorate]:
        """By peer, the voters that it told to be in force, or on their way."""
        return {n: wire.electorate_from_wire(s.voters) for n, s in self.peers.items() if s.HasField("voters")}

    def note_active(self, site: str, epoch: int) -> None:
        """Remembers who was heard to be Active last; the own voter may have missed it."""
        if epoch > self.last_active[1]:
            self.last_active = (site, epoch)

    def released(self, peer: str, release: Release) -> None:
        """The holder gave the epoch back; the own voter has it on disk when this is called, if it knew the epoch."""
        self.last_release = release
        self.last_release_ns = time.monotonic_ns()
        self.note_active(peer, release.epoch)
        self.peers.pop(peer, None)
        self.wake()

    # -- what others read --------------------------------------------------------------------------------------

    def known_set(self) -> SyncSet:
        """Newest synchronous set that this site knows."""
        return self.view(time.monotonic_ns()).newest_set

    def status(self) -> pb.GroupStatus:
        """What this site tells its peers."""
        data = [c for c in self.components.values() if c.config.synchronous]
        now_ns = time.monotonic_ns()
        views = {c.name: c.view(now_ns) for c in self.components.values()}
        promotable, reason = self.promotable()
        lag = [c.status for c in data if c.status is not None]
        spares = [c.spare_ms() for c in self._copies()]
        promise, lease = self.voting.promise(self.config.group), self.lease
        voters = lease.voters if lease is not None else promise.voters if promise is not None else None
        return pb.GroupStatus(
            group=self.config.group,
            role=self.role.value,
            epoch=self.epoch,
            promotable=promotable,
            promotable_reason=reason,
            ready=all(self._settled(c) for c in self.components.values())
            and all(v.health is Health.HEALTHY for v in views.values()),
            known_set=wire.set_to_wire(self.known_set()),
            position=lag[0].position if lag else "",
            lag_seconds=max((s.lag_seconds for s in lag), default=0.0),
            lag_transactions=max((s.lag_transactions for s in lag), default=0),
            active_since_epoch=self.active_since_epoch,
            endpoints=self._endpoints.of(self.config.group),
            voters=wire.electorate_to_wire(voters) if voters is not None else None,
            copy_refusal=self._refusal(self._copies()),
            copy_spare_ms=min((s for s in spares if s is not None), default=None),
        )

    def _settled(self, component: Component) -> bool:
        """Whether it has its role; what it had when this site won is none."""
        wanted = component.wanted
        active = wanted is not None and wanted.role is Role.ACTIVE
        return component.settled and (active or self.role is not Role.ACTIVE)

    def promotable(self) -> tuple[bool, str]:
        """Whether every data component here could be promoted without losing an acknowledged write."""
        refusal = self._refusal([c for c in self.components.values() if c.config.synchronous])
        return not refusal, refusal

    def _copies(self) -> list[Component]:
        """Those whose word about what they lack counts: beside a synchronous set only with a declared limit."""
        return [c for c in self.components.values() if c.config.copied and (c.config.limited or not self.config.waits)]

    @staticmethod
    def _refusal(components: Iterable[Component]) -> str:
        """Why one of these could not be promoted here without losing more than it may; empty when all could."""
        now_ns = time.monotonic_ns()
        for view in (component.view(now_ns) for component in components):
            if not view.promotable:
                return f"{view.name}: {view.promotable_reason or view.health.value}"
        return ""

    @property
    def lease(self) -> Lease | None:
        """The lease while this site is the holder."""
        return self.protocol.lease

    @property
    def epoch(self) -> int:
        """Epoch of this site's role: the own one, or that of the site it follows, or the last promised."""
        if self.lease is not None:
            return self.lease.epoch
        if self.following is not None:
            return self.following[1]
        promise = self.voting.promise(self.config.group)
        return promise.epoch if promise is not None else 0

    def view_of(self, component: str) -> ComponentView:
        """One component as last observed."""
        return self.components[component].view(time.monotonic_ns())

    def view(self, now_ns: int) -> SiteView:
        """Everything that a decision may use, at one point in time."""
        group = self.config.group
        promise = self.voting.promise(group)
        voter, part = self.voting.state(group), self.protocol.state
        return SiteView(
            config=self.config,
            role=self.role,
            lease=part.lease,
            contest=part.contest,
            holder_set=part.held,
            promise=promise,
            holder_free_at_ns=voter.free_at_ns(group) if promise else 0,
            silent_until_ns=voter.silent_until_ns(group),
            released_at_ns=self.voting.released_at_ns(group),
            components={name: c.view(now_ns) for name, c in self.components.items()},
            peers={name: self._peer_view(name, now_ns) for name in self.protocol.voters if name != self.site},
            lost_since_ns=part.lost_since_ns,
            highest_promised=part.highest_promised,
            join_since_ns=part.join_since_ns,
            set_told_since_ns=part.set_told_since_ns,
            join_not_before_ns=part.join_not_before_ns,
            contend_not_before_ns=part.contend_not_before_ns,
            stall_ended_ns=self.stall_ended_ns,
            handing_over=self.switchover.running,
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

    @property
    def site(self) -> str:
        """This site."""
        return self.config.site

    # -- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                now_ns = time.monotonic_ns()
                data = [c.view(now_ns) for c in self.components.values() if self.config.under_set(c.config)]
                self.protocol.observe_followers(data, now_ns)
                if self.lease is not None:
                    self._advance_activation()
                self.decision = decide(self.view(now_ns), now_ns)
                self._log_decision()
                for action in self.decision.actions:
                    self._apply(action)
                self._maintain(now_ns)
            except Exception:
                # A defect here must not stop lease keeping or self-fencing of this or another group.
                LOG.exception("decision loop failed", extra={"fields": {"group": self.config.group}})
            recheck_s = (self.decision.recheck_after_ns or 1_000 * MILLISECOND_NS) / 1e9
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(recheck_s, 1.0)):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0)  # an event that is set already does not yield: the lease loop goes first

    def _log_decision(self) -> None:
        codes = tuple(f"{r.code}" for r in self.decision.reasons)
        if codes != self._last_reasons:
            self._last_reasons = codes
            event(
                LOG,
                "decision",
                group=self.config.group,
                role=self.role.value,
                actions=[type(a).__name__ for a in self.decision.actions],
                reasons=[str(r) for r in self.decision.reasons],
            )
            self._hold_since_ns = 0
            if self._worth_recording():
                if "LocalRestart" in codes:
                    # A failure was seen and nothing was moved: that is in the record however short it was.
                    self.refuse("Hold", *self.decision.reasons)
                else:
                    self._hold_since_ns = time.monotonic_ns()
        elif self._hold_since_ns and time.monotonic_ns() - self._hold_since_ns > HOLD_RECORDED_AFTER_NS:
            self._hold_since_ns = 0
            self.refuse("Hold", *self.decision.reasons)

    def _worth_recording(self) -> bool:
        """A hold that an operator would ask about: a failure was seen and nothing was moved."""
        asked_about = {
            "LocalRestart",
            "NotInSynchronousSet",
            "DataNotPromotable",
            "CopyBeyondRpo",
            "ManualFailover",
            "NoThirdVoter",
            "NoMajorityVisible",
            "NotAVoter",
            "ActiveNotOnNewList",
            "VoterChangeWaits",
        }
        return not self.decision.actions and any(r.code in asked_about for r in self.decision.reasons)

    def _apply(self, action: Action) -> None:
        match action:
            case Fence():
                self.fence(self.decision.reasons)
            case HandOver(successor):
                self.switchover.data_lost(successor, self.decision.reasons)
            case ProposeSet(members):
                self.protocol.propose_set(members)
            case Join(site):
                if self._activation is None:  # clients first
                    self.protocol.join(site)
            case StopJoining(site):
                self.protocol.stop_joining(site)
            case SettleVoters():
                # After the record of the change, for whoever reads them; a driver that hangs does not hold it up.
                if self._activation is None or self._activation.age_ns > SETTLING_WAITS_NS:
                    self.protocol.settle()
            case Follow(active, epoch):
                self._follow(active, epoch)
            case Contend():
                if self._activation is None:  # a holder changes the voters only after clients are served
                    self.protocol.contend(action, self.decision.reasons)

    def _maintain(self, now_ns: int) -> None:
        """Level-based upkeep: what deviates is asked for again, a set on its way is told again."""
        moving = any(isinstance(a, HandOver | Fence) for a in self.decision.actions) or self.switchover.running
        if not moving:
            for component in self.components.values():
                component.mend(now_ns)
        self.protocol.tell_again(now_ns)

    # -- holding -------------------------------------------------------------------------------------------------

    def won(self, contest: Contest, evidence: Evidence) -> None:
        """A majority granted: this is the commit point, the site is Active from now on.

        One that was Active already goes on: its components stay as they are and are told the epoch.
        """
        self._cancel_follow()
        self.following = None
        if not (evidence.serving and self.role is Role.ACTIVE):
            self.active_since_epoch = contest.campaign.epoch
            self.unserved = (contest.campaign.epoch, evidence.previous)
        self.role = Role.ACTIVE
        self.verdict = ""
        self._activation = Activation(self, contest, evidence)
        self.tell_peers()
        self.wake()

    def renew_gates(self, end_ns: int) -> None:
        """The lease ends later than before: clients may be served until then."""
        for component in self.components.values():
            if component.config.gate:
                component.renew(end_ns)

    def fence(self, reasons: tuple[Reason, ...]) -> None:
        """Gives the role up locally: the gate first, then everything else at once."""
        epoch = self._fencing_epoch()
        wish = Wanted(Role.FENCED, epoch, "")
        if self.lease is None and all(c.wanted == wish for c in self.components.values()):
            return  # under way
        had_lease = self.lease is not None
        self._cancel_follow()
        self.following = None
        self._give_up_lease()
        self.switchover.lease_lost()
        self._want_fenced(epoch)
        if had_lease:
            self.records.add(
                self.config.group,
                epoch,
                "Event",
                "Fence",
                reasons,
                from_site=self.site,
                message=f"{self.site} fenced itself in epoch {epoch}",
            )
        self.tell_peers()
        self.wake()

    def stand_down(self) -> None:
        """The lease is given up in order: from now on nothing claims it."""
        self._give_up_lease()
        for component in self.components.values():
            if component.wanted is not None and component.wanted.role is Role.ACTIVE:
                component.forget_wish()

    def _give_up_lease(self) -> None:
        self.protocol.give_up()
        self._activation = None
        self.role = Role.FENCED
        self.active_since_epoch = 0

    async def release(self, release: Release) -> None:
        """Tells every voter, the own one first and durably, that the epoch is free."""
        self.protocol.give_to(release.successor)
        await self.protocol.release(release, tuple(v for v in self.protocol.voters if v != self.site))

    async def shut_traffic(self, timeout_s: float = GATE_SHUT_TIMEOUT_S) -> bool:
        """Takes clients away; True only when every driver of the traffic stage proved it."""
        traffic = [c for c in self.components.values() if c.config.stage is Stage.TRAFFIC]
        for component in traffic:
            component.want(Wanted(Role.FENCED, self.epoch, ""))
        settled = await asyncio.gather(*(c.until_settled(timeout_s) for c in traffic))
        return all(settled)

    def want_active(self) -> None:
        """Asks the drivers for it, stage by stage: what a component depends on is settled first."""
        lease, held = self.lease, self.protocol.held
        if lease is None or held is None or self.switchover.running:
            return
        if self._activation is not None and self._activation.awaits_set(held):
            return
        must = self.protocol.must_acknowledge()
        for stage in STAGES:
            of_stage = [c for c in self.components.values() if c.config.stage is stage]
            for component in of_stage:
                if all(self.components[d].settled for d in component.config.depends_on):
                    sites = must if component.config.synchronous else frozenset()
                    component.want(Wanted(Role.ACTIVE, lease.epoch, self.site, sites))
            if self._activation is not None and not all(is_active(c, lease.epoch) for c in of_stage):
                return

    def _advance_activation(self) -> None:
        self.want_active()
        if self._activation is not None and self._activation.advance():
            self._activation = None
            self.unserved = None
            self.records.rebuilds.moot(self.config.group, self.epoch)
            self.active_since_ns = time.monotonic_ns()
            self.tell_peers()

    def _fencing_epoch(self) -> int:
        """Never below what the drivers have seen: a site whose voter has no record knows no epoch by itself."""
        seen = (c.status.epoch for c in self.components.values() if c.status is not None)
        return max(self.epoch, *seen, 0)

    def _want_fenced(self, epoch: int) -> None:
        for stage in reversed(STAGES):
            for component in self.components.values():
                if component.config.stage is stage:
                    component.want(Wanted(Role.FENCED, epoch, ""))

    # -- following ---------------------------------------------------------------------------------------------

    def _follow(self, active: str, epoch: int) -> None:
        if self.following == (active, epoch):
            return
        self._cancel_follow()
        status = self.peers.get(active)
        unbroken = status is not None and status.epoch == epoch and status.active_since_epoch > 0
        if unbroken and self.role is Role.STANDBY and self.following is not None:
            # It went on to another epoch without a break, to change the voters: what follows it goes on following.
            before, since = self.following
            if before == active and status is not None and status.active_since_epoch <= since:
                self.following = (active, epoch)
                self.tell_peers()
                self._follow_task = asyncio.create_task(keep_following(self, active, epoch))
                return
        self.following = (active, epoch)
        if self.role is not Role.STANDBY:
            self.role = Role.INVALIDATED
        self.tell_peers()
        self._follow_task = asyncio.create_task(follow(self, active, epoch))

    def _cancel_follow(self) -> None:
        if self._follow_task is not None:
            self._follow_task.cancel()
            self._follow_task = None

    # -- talking -------------------------------------------------------------------------------------------------

    def _peer_view(self, name: str, now_ns: int) -> PeerView:
        heard = self.links.link(name).heard_within(self.config.timing.suspect_ns, now_ns)
        status = self.peers.get(name)
        if status is None:
            return PeerView(name, heard)
        return PeerView(
            name=name,
            connected=heard,
            role=Role(status.role) if status.role else None,
            epoch=status.epoch,
            promotable=status.promotable,
            promotable_reason=status.promotable_reason,
            ready=status.ready,
            # A witness's record has no role; what counts of its set is in the protocol's `told_set`.
            known_set=wire.set_from_wire(status.known_set) if status.role else SyncSet(),
            voters=wire.electorate_from_wire(status.voters) if status.HasField("voters") else None,
            copy_refusal=status.copy_refusal,
            copy_spare_ns=status.copy_spare_ms * MILLISECOND_NS - (now_ns - self._told_ns.get(name, 0))
            if status.HasField("copy_spare_ms")
            else None,
        )

    def tell_peers(self) -> None:
        """Tells the other sites this site's part."""
        message = pb.PeerMessage(group_status=self.status())
        for name in self.config.sites:
            if name != self.site:
                self.links.send(name, message)

    def refuse(self, type_: str, *reasons: Reason) -> None:
        """Puts a refusal into the record."""
        self.records.add(
            self.config.group, self.epoch, "Refusal", type_, reasons, from_site=self.site, message=str(reasons[0])
        )

    def _lease_end_ns(self) -> int:
        return self.lease.end_ns if self.lease is not None else 0

    def spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Runs something beside the loop and keeps it alive until it ends."""
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Ends the loop; components stay as they are, the kernel ends the lease."""
        tasks = [self._loop_task, *self._background, *([self._follow_task] if self._follow_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(c.close() for c in self.components.values()))
