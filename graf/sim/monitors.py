"""The invariants of the design, checked between all steps with knowledge that no site has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.api.values import Electorate, Role, SyncSet, VoterList
from graf.core.voter import CAMPAIGN_RULES, Asked
from graf.sim.manager import FINAL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from graf.core.campaign import Contest
    from graf.core.messages import Campaign
    from graf.core.view import Decision
    from graf.core.voter import Promise, VoterStep
    from graf.sim.controller import Controller
    from graf.sim.database import Database
    from graf.sim.voting import SimVoter
    from graf.sim.world import World

# Types of moves that nobody has to ask for and that change no site.
INVARIANTS = {
    "I1": "at most one site holds a valid lease, and at most one gate is open",
    "I2": "no acknowledged write is lost",
    "I3": "loss stays within the declared RPO (without one, I2)",
    "I4": "nothing is acknowledged by a deposed site",
    "I5": "epochs only rise, at every voter and driver, and none is won twice",
    "I6": "no win without grants of a majority of every list in force",
    "I7": "no unplanned move in a run where nothing must move",
    "I8": "after healing the group converges within the stated bound",
    "I9": "an outage of manager, Git or API server changes nothing",
    "I10": "every decision has reasons, and every move is in the record in the end",
    "I11": "no site outside the newest committed synchronous set wins",
}


def carried(electorate: Electorate, voters: Collection[str]) -> bool:
    """Whether voters are a majority of every list, counted here: what the core counts may be what is broken.

    A member that is admitted anew by the list that follows has lost what it had promised before, so it does not count
    for the list in force.
    """
    current, proposed = electorate.current, electorate.proposed
    anew = proposed.readmitted if proposed is not None else frozenset()
    lists = [(current.members, [v for v in current.members if v in voters and v not in anew])]
    if proposed is not None:
        lists.append((proposed.members, [v for v in proposed.members if v in voters]))
    return all(2 * len(for_it) > len(members) for members, for_it in lists)


class InvariantError(AssertionError):
    """An invariant does not hold; `str` begins with its id."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


class Monitors:
    """Knows everything; says nothing but a violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.acked: list[int] = []
        self.acked_ns: dict[int, int] = {}
        self.acked_at: dict[int, str] = {}
        self.won_epochs: dict[int, str] = {}
        self.given_back: set[int] = set()
        self.contended_in: dict[tuple[str, int], int] = {}
        self.granted: dict[int, dict[str, str]] = {}
        self.stored: dict[tuple[int, int], tuple[SyncSet, set[str]]] = {}
        self.committed = SyncSet()
        self.in_force = Electorate(VoterList(1, world.settings.voters))
        self.lists = {self.in_force.current}
        self.wins: list[tuple[int, str, str]] = []
        self.machine_paused: dict[str, int] = {}
        self.healed_ns = 0
        self.first_ack_after_healing_ns = 0
        self.writes: dict[int, str] = {}
        self.stale_refused = 0
        self.driver_epochs: dict[tuple[str, str], int] = {}

    def fail(self, invariant: str, what: str) -> None:
        """Ends the run."""
        raise InvariantError(invariant, what)

    # -- leases and gates ----------------------------------------------------------------------------------------------

    def _lease_valid(self, controller: Controller) -> bool:
        lease = controller.part.lease
        return controller.process.alive and lease is not None and lease.valid(controller.process.clock())

    def gate_opened(self, site: str) -> None:
        """A gate was opened or stays open for longer."""
        world = self._world
        if not world.gates[site].is_open:
            return
        others = [name for name, gate in world.gates.items() if name != site and gate.is_open]
        if others and not self._machine_excused((*others, site)):
            self.fail("I1", f"the gates of {site} and {', '.join(others)} are open at once")

    def _machine_excused(self, sites: tuple[str, ...]) -> bool:
        """A machine paused as a whole breaks the assumption on clock rates, for less than one lease after it wakes."""
        return any(site in self.machine_paused for site in sites)

    # -- voters --------------------------------------------------------------------------------------------------------

    def contends(self, site: str, epoch: int) -> None:
        """A site asks for an epoch."""
        self.contended_in.setdefault((site, epoch), self._world.processes[site].incarnation)

    def campaign_judged(self, voter: SimVoter, site: str, campaign: Campaign, step: VoterStep[Any]) -> None:
        """A voter has decided on a campaign."""
        count = self._world.kernel.count
        if step.answer.granted:
            count("grant")
            return
        asked = Asked(voter.state, voter.promise, site, campaign, self._world.processes[voter.name].clock())
        for name, rule in CAMPAIGN_RULES:
            if rule(asked) is not None:
                count(f"rule {name}")
                return

    def promise_stored(self, voter: str, before: Promise | None, promise: Promise) -> None:
        """A promise is on a voter's disk."""
        if before is not None:
            if promise.epoch < before.epoch:
                self.fail("I5", f"{voter} stored epoch {promise.epoch} after {before.epoch}")
            if promise.epoch == before.epoch and promise.site != before.site:
                self.fail("I5", f"{voter} promised epoch {promise.epoch} to {before.site} and to {promise.site}")
            if promise.stored_set.version < before.stored_set.version:
                self.fail("I11", f"{voter} went back from set {before.stored_set.describe()}")
            if promise.voters.current.version < before.voters.current.version:
                self.fail("I6", f"{voter} went back from voters {before.voters.describe()}")
        if before is None or promise.epoch > before.epoch:
            self.granted.setdefault(promise.epoch, {})[voter] = promise.site
        if promise.released and not promise.never_won:
            self.given_back.add(promise.epoch)
        if before is None or promise.stored_set != before.stored_set:
            self._set_stored(voter, promise.stored_set)

    def _set_stored(self, voter: str, value: SyncSet) -> None:
        key = (value.version.epoch, value.version.counter)
        known, voters = self.stored.setdefault(key, (value, set()))
        if known.members != value.members:
            self.fail("I11", f"two sets have the version of {value.describe()}: {known.describe()}")
        voters.add(voter)
        if value.version > self.committed.version and carried(self.in_force, voters):
            self.committed = value

    def won(self, controller: Controller, contest: Contest) -> None:
        """A site holds a majority of grants: the commit point."""
        world, site = self._world, controller.name
        epoch, voters = contest.campaign.epoch, contest.campaign.voters
        kernel = world.kernel
        kernel.mark(epoch * 64 + world.settings.sites.index(site))
        if kernel.story is not None:
            kernel.tell(site, f"WINS epoch {epoch} of {voters.describe()} by {', '.join(contest.grants)}")
        if epoch in self.won_epochs:
            self.fail("I5", f"epoch {epoch} was won by {self.won_epochs[epoch]} and by {site}")
        if self.won_epochs and epoch < max(self.won_epochs):
            # A late winner of an older epoch would serve beside, or after, a newer one.
            if not self._machine_excused((site,)):
                self.fail("I1", f"{site} won epoch {epoch} after epoch {max(self.won_epochs)} was won")
            # It stood still between the grants and their count. Its lease is over in less than one time to live.
            if not carried(voters, {voter for voter, to in self.granted.get(epoch, {}).items() if to == site}):
                self.fail("I6", f"{site} won epoch {epoch} of {voters.describe()} without their grants")
            kernel.count("late win of a machine that was paused")
            self.won_epochs[epoch] = site
            return
        if voters.current not in self.lists:
            self.fail("I6", f"{site} won with voters {voters.describe()}, but that list was never in force")
        granted = {voter for voter, to in self.granted.get(epoch, {}).items() if to == site}
        if voters.newest.version < self.in_force.current.version:
            self.fail("I6", f"{site} won with voters {voters.describe()} after {self.in_force.describe()} was in force")
        if not carried(voters, granted) or not self._old_list_agrees(voters, granted):
            self.fail("I6", f"{site} won epoch {epoch} of {voters.describe()} by {', '.join(sorted(granted))} alone")
        for other in world.controllers.values():
            beside = other is not controller and self._lease_valid(other)
            if beside and not self._machine_excused((other.name, site)):
                self.fail("I1", f"{site} won epoch {epoch} while {other.name} holds a valid lease")
        for name, gate in world.gates.items():
            if name != site and gate.is_open and not self._machine_excused((name, site)):
                self.fail("I1", f"{site} won epoch {epoch} while the gate of {name} is open")
        # A set that was told and is not committed yet is as good: its members were required before it was told.
        told = [value for value, _ in self.stored.values() if value.version >= self.committed.version]
        lossless = world.settings.lossless
        if lossless and self.won_epochs and not any(site in value.members for value in told):
            self.fail("I11", f"{site} won epoch {epoch} outside the committed set {self.committed.describe()}")
        missing = self._missing(world.databases[site].has_all())
        # What a driver says wrongly of its data may win an epoch; it must never serve one (`activated`).
        database = world.databases[site]
        lied = not database.promotable and database.may_have_lied(2 * world.settings.timing.ttl_ns)
        if missing and not lied:
            self.fail("I2", f"{site} won epoch {epoch} without acknowledged writes {missing[:5]}")
        last = self.wins[-1][1] if self.wins else ""
        planned = controller.voter.promise is not None and self._planned(site, epoch)
        if world.settings.must_not_move and last not in ("", site) and not planned and not self._given_away():
            self.fail("I7", f"{site} took over from {last} though nothing but harmless faults happened")
        if world.settings.always_manual and not self.healed_ns and last not in ("", site) and not planned:
            self.fail("I7", f"{site} took over from {last} though the policy leaves failover to people")
        self.won_epochs[epoch] = site
        self.wins.append((epoch, site, voters.describe()))
        kernel.count("win joint" if voters.joint else "win")
        if last not in ("", site):
            kernel.count("takeover planned" if planned else "takeover")
        self._in_force(voters.current)  # its holder may have died before it counted the answers that settled it
        if voters.newest.version > self.in_force.newest.version:
            self.in_force = Electorate(self.in_force.current, voters.newest)
            self.lists.add(voters.newest)

    def _old_list_agrees(self, voters: Electorate, granted: set[str]) -> bool:
        """Until a change is settled, no win counts without both of its lists."""
        if not self.in_force.joint or voters.current == self.in_force.newest:
            return True
        return carried(self.in_force, granted)

    def _given_away(self) -> bool:
        """Whether a planned move has released the newest epoch; where its successor cannot win, another may."""
        newest = max(self.won_epochs)
        ordered = any(operation.epoch == newest for operation in self._world.managers.api.operations.values())
        return ordered and newest in self.given_back

    def _planned(self, site: str, epoch: int) -> bool:
        """Whether a release of a planned move named this site."""
        return any(
            operation.target == site and operation.epoch and operation.epoch < epoch
            for operation in self._world.managers.api.operations.values()
        )

    def voters_settled(self, controller: Controller, voters: VoterList) -> None:
        """A change of voters is done."""
        self._in_force(voters)
        self._world.kernel.count("voters settled")

    def _in_force(self, voters: VoterList) -> None:
        """A list is alone in force: sets that wait for the list before wait no more."""
        if voters.version > self.in_force.current.version:
            self.in_force = Electorate(voters)
            for value, stored_by in self.stored.values():
                if value.version > self.committed.version and carried(self.in_force, stored_by):
                    self.committed = value

    # -- data ----------------------------------------------------------------------------------------------------------

    def _missing(self, present: frozenset[int]) -> list[int]:
        return [number for number in self.acked if number not in present]

    def written(self, site: str, number: int) -> None:
        """A write got to a site's database."""
        self.writes[number] = site

    def acknowledged(self, database: Database, number: int, protected: bool) -> None:
        """A client was told that its write is safe."""
        site = database.site
        newest = max(self.won_epochs, default=0)
        if self.won_epochs.get(newest) != site and site not in self.machine_paused:
            self.fail(
                "I4", f"{site} acknowledged a write after epoch {newest} was won by {self.won_epochs.get(newest)}"
            )
        if not protected:
            self._world.kernel.count("unprotected acknowledgement")
            return
        if self._world.settings.rpo_ns is not None:
            # What a deposed site told its clients because its machine was paused is no matter of how old a copy is.
            if self.won_epochs.get(newest) == site:
                self.acked_ns[number] = self._world.kernel.now
        elif self._world.settings.lossless:
            self.acked.append(number)
        if self.healed_ns and not self.first_ack_after_healing_ns:
            self.first_ack_after_healing_ns = self._world.kernel.now

    def waiting(self, database: Database, age_ns: int) -> None:
        """A write that an active site has taken is not acknowledged yet."""
        world, settings = self._world, self._world.settings
        if not settings.only_standbys_lost or age_ns <= 12 * settings.timing.heartbeat_ns:
            return
        # One loss after the other has a suspicion time of its own; without a majority of the voters nothing goes on.
        undisturbed_ns = world.kernel.now - world.faults.came_or_went_ns
        alive = [name for name, process in world.processes.items() if process.alive]
        if undisturbed_ns > 12 * settings.timing.heartbeat_ns and carried(self.in_force, alive):
            self.fail("I8", f"a write hangs at {database.site} because a standby is lost: {self._states()}")

    def rebuilt(self, site: str) -> None:
        """A site's data was replaced by the active's."""
        missing = self._missing(self._world.databases[site].has_all())
        if missing:
            self.fail("I2", f"{site} was rebuilt from an active site that lacks {missing[:5]}")

    def activated(self, controller: Controller, epoch: int) -> None:
        """Every component of a site is active."""
        missing = self._missing(self._world.databases[controller.name].has_all())
        if missing and not self._machine_excused((controller.name,)):
            self.fail("I2", f"{controller.name} serves epoch {epoch} without acknowledged writes {missing[:5]}")
        self._count_loss(controller, epoch)

    def _count_loss(self, controller: Controller, epoch: int) -> None:
        """Where no write waits for a copy: what is lost was acknowledged in the last moments before it ended."""
        rpo_ns = self._world.settings.rpo_ns
        if rpo_ns is None or not self.acked_ns:
            return
        present = self._world.databases[controller.name].has_all()
        lost = [number for number in self.acked_ns if number not in present]
        if not lost:
            return
        span_ns = max(self.acked_ns.values()) - min(self.acked_ns[number] for number in lost)
        self._world.kernel.count("loss within the RPO")
        if span_ns > rpo_ns and not self._machine_excused((controller.name,)):
            detail = f"writes of {span_ns / 1e6:.0f} ms, {rpo_ns / 1e6:.0f} ms may be lost: {lost[:5]}"
            self.fail("I3", f"{controller.name} serves epoch {epoch} without {detail}")
        for number in lost:
            del self.acked_ns[number]

    # -- drivers -------------------------------------------------------------------------------------------------------

    def driver_called(self, site: str, component: str, epoch: int, *, taken: bool) -> None:
        """A driver was called with an epoch, and took or refused the call."""
        if not taken:
            self.stale_refused += 1
            self._world.kernel.count("stale epoch refused")
            return
        highest = self.driver_epochs.get((site, component), 0)
        if epoch < highest:
            self.fail("I5", f"{component} of {site} took a call of epoch {epoch} after one of epoch {highest}")
        self.driver_epochs[site, component] = epoch

    # -- decisions and the record --------------------------------------------------------------------------------------

    def decided(self, controller: Controller, decision: Decision) -> None:
        """A site decided."""
        if not decision.reasons:
            self.fail("I10", f"{controller.name} decided {decision.actions} without a reason")

    def overrun(self) -> None:
        """More has happened than a run can need."""
        self.fail("I8", f"something goes round and round: {self._states()}")

    def healed(self) -> None:
        """No fault is on any more."""
        self.healed_ns = self._world.kernel.now

    def ended(self) -> None:
        """The quiet time is over: everything must be well."""
        for invariant, what in self.unwell():
            self.fail(invariant, what)

    def unwell(self) -> Iterator[tuple[str, str]]:
        """What is not as it must be some time after all faults have healed."""
        world = self._world
        active = [c for c in world.controllers.values() if self._lease_valid(c)]
        if not active and (self._left_to_people() or self._contests_left_open()):
            world.kernel.count("left to people")
            return
        if len(active) != 1:
            yield "I8", f"{len(active)} sites are active after the quiet time: {self._states()}"
            return
        (holder,) = active
        if not world.gates[holder.name].is_open or not world.databases[holder.name].serving:
            yield "I8", f"{holder.name} is active and does not serve: {self._states()}"
        if not self.first_ack_after_healing_ns:
            yield "I8", f"nothing was acknowledged after the faults had healed: {self._states()}"
        missing = self._missing(world.databases[holder.name].has_all())
        if missing:
            yield "I2", f"{holder.name} serves in the end without acknowledged writes {missing[:5]}"
        for controller in world.controllers.values():
            if controller is not holder and controller.role is not Role.STANDBY:
                yield "I8", f"{controller.name} does not follow in the end: {self._states()}"
        held, lease = holder.part.held, holder.part.lease
        members = held.current.members if held is not None else frozenset()
        if world.settings.lossless and members != frozenset(world.settings.sites):
            yield "I8", f"the synchronous set is {sorted(members)} in the end: {self._states()}"
        if lease is not None and lease.voters != Electorate(world.voters):
            yield (
                "I8",
                f"in force is {lease.voters.describe()}, declared is {world.voters.describe()}: {self._states()}",
            )
        yield from self._unfinished()

    def _left_to_people(self) -> bool:
        """Whether the group holds for a reason that only a forced failover can overcome, and every site says so.

        No site of the newest set that was told can prove that its data is whole: each of them has lost its disk, or its
        server died with writes that it had received and not applied, or the whole site died before it was promoted.
        """
        world = self._world
        newest = max((value for value, _voters in self.stored.values()), key=lambda v: v.version, default=SyncSet())
        members = newest.members
        reasons = {reason.code for c in world.controllers.values() for reason in c.decision.reasons}
        proved = any(world.databases[site].promotable for site in members)
        return bool(members) and not proved and reasons <= {"DataNotPromotable", "NotInSynchronousSet"}

    def _contests_left_open(self) -> bool:
        """Whether sites died under a manual policy with what they were granted, each site's voter bound to one of them.

        None of them won, but no voter can know that: it may be a failover, and the policy leaves those to people. A
        site that lives gives back what it was granted; only where messages overtake each other can that come too early.
        """
        world = self._world
        overtaken = "reorder" in world.settings.faults
        if world.automatic:
            return False
        reasons = {reason.code for c in world.controllers.values() for reason in c.decision.reasons}
        promises = [c.voter.promise for c in world.controllers.values()]
        return reasons == {"ManualFailover"} and all(
            promise is not None
            and not promise.released
            and promise.epoch not in self.won_epochs
            and (
                overtaken or world.processes[promise.site].incarnation > self.contended_in[promise.site, promise.epoch]
            )
            for promise in promises
        )

    def _unfinished(self) -> Iterator[tuple[str, str]]:
        world = self._world
        bound_ns = 60 * world.settings.timing.heartbeat_ns
        nobody_died = all(process.incarnation == 1 for process in world.processes.values())
        undisturbed = nobody_died and world.settings.only_planned_moves
        for operation in world.managers.api.operations.values():
            if operation.state not in FINAL and world.kernel.now - operation.created_ns > bound_ns:
                yield "I8", f"{operation.name} hangs as {operation.state}"
            if operation.state == "Failed" and undisturbed:
                yield "I8", f"{operation.name} failed though nothing else happened: {operation.message}"
        left = [record for c in world.controllers.values() for record in c.records]
        if left:
            yield "I10", f"{len(left)} records are not in Git: {left[:3]}"
        git = world.managers.git
        recorded = {record.epoch for record in git.commits if record.is_move}
        unrecorded = [epoch for epoch in self.won_epochs if epoch not in recorded]
        newest = max(self.won_epochs)
        if unrecorded:
            yield "I10", f"the moves of epochs {unrecorded} are not in the record"
        elif (git.recorded.active_site, git.recorded.epoch) != (self.won_epochs[newest], newest):
            yield "I10", f"Git says {git.recorded}, won was {newest} by {self.won_epochs[newest]}"

    def _states(self) -> str:
        return "; ".join(
            f"{c.name} {c.role} {'up' if c.process.runs else 'down'} ({', '.join(str(r) for r in c.decision.reasons)})"
            for c in self._world.controllers.values()
        )
