"""The data component of a site: one writer's log, semi-synchronous replication, relay logs, and its driver's rules.

It follows what the MariaDB driver guarantees (docs/reference/drivers/mysql.md): an active component acknowledges only
what the set in force has received durably; a relay log is lost when replication starts anew; `promotable` is this
site's own evidence; what an active has is never cut off on somebody's word.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from graf.api.values import Role, Verdict
from graf.core.view import ComponentView, FollowerView, Health

if TYPE_CHECKING:
    from graf.sim.kernel import Process
    from graf.sim.world import World

NAME = "db"


class Outcome(Enum):
    """What a driver call came to."""

    DONE = "done"
    PENDING = "pending"
    REFUSED = "refused"
    NEEDS_RESYNC = "needs resync"
    NO_ANSWER = "no answer"


@dataclass(slots=True)
class Follower:
    """A replication connection, as the active's server sees it."""

    token: int
    acked: int
    sent: int


class Database:
    """A server and its driver at one site; they live and die together and need no controller.

    Invariant: `log` is durable and only grows at its end, but for a rebuild; `guard` (the highest epoch ever called
    with) is durable and only rises.

    Attributes:
        site: Where it is.
        log: Writes that are applied here, in order.
        relay: Writes that are received durably and not applied yet; gone when replication starts anew.
        required: Sites whose receipt a write waits for before the client is told.
        evidence: Since replication was started, everything that the active had then has been applied here.
        current_ns: When everything that the active had was last seen to be here.
        pending: Writes that wait for receipts: (position after it, id, since when).
    """

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.site = process.name.removesuffix(".db")
        self.log: list[int] = []
        self.relay: list[int] = []
        self.guard = 0
        self.was_active = False
        self.quiesced = False
        self.hold_apply = False
        self.mute = False
        self.semi_sync_off = False
        self.stuck = False
        self.lies = ""
        self.lied_ns = -(1 << 60)
        self.archived = 0
        self.death_told = True
        self._reset()

    def _reset(self) -> None:
        self.role: Role | None = None
        self.writable = False
        self.quiesced = False
        self.set_in_force: frozenset[str] = frozenset()
        self.required: frozenset[str] = frozenset()
        self.followers: dict[str, Follower] = {}
        self.pending: deque[tuple[int, int, int]] = deque()
        self.source = ""
        self.connected = False
        self.token = 0
        self.evidence = False
        self.current_ns: int | None = None
        self._goal = 0
        self._probe = -1

    @property
    def received(self) -> int:
        """How many writes are durably here."""
        return len(self.log) + len(self.relay)

    @property
    def serving(self) -> bool:
        """Whether it would take a write from a client that gets to it."""
        return self.process.runs and self.role is Role.ACTIVE and self.writable

    def has_all(self) -> frozenset[int]:
        """Every write that is durably here."""
        return frozenset(self.log).union(self.relay)

    # -- the server ----------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Kill -9 of the server, with or without its machine."""
        if self.process.alive:
            self.process.die()
            self._reset()
            self.relay.clear()  # replication starts anew after it: what was not applied is received again
            if self.world.kernel.story is not None:
                self.world.kernel.tell(self.site, "the database server dies")
            self.world.database_died(self)

    def wipe(self) -> None:
        """The disk is lost, with everything on it."""
        self.log.clear()
        self.relay.clear()
        self.was_active = False

    def start(self) -> None:
        """Starts without a role: read-only, not following."""
        if not self.process.alive:
            self.process.born()
            self._reset()

    def write(self, number: int) -> bool:
        """A client's write reaches the server; the client is told later, or never."""
        if not self.serving:
            return False
        self.log.append(number)
        self.pending.append((len(self.log), number, self.process.clock()))
        for site, follower in self.followers.items():
            self._ship(site, follower)
        self._release()
        return True

    def _ship(self, site: str, follower: Follower) -> None:
        batch = tuple(self.log[follower.sent :])
        if batch and self.world.network.replicates(self.site, site):
            target = self.world.databases[site]
            first, follower.sent = follower.sent, len(self.log)
            self.world.replication.send(self.process, target.process, target.receive, follower.token, first, batch)

    def receive(self, _src: str, token: int, first: int, batch: tuple[int, ...]) -> None:
        """At a standby: writes arrive, are made durable and acknowledged."""
        if not self.connected or token != self.token:
            return
        if first != self.received:
            if first > self.received:
                self._disconnect()  # something was lost on the way: connect again from the own position
                return
            batch = batch[self.received - first :]
        self.relay.extend(batch)
        self._acknowledge()
        if not self.hold_apply:
            self.process.after(self.world.apply_ns(), self.apply)

    def _acknowledge(self) -> None:
        """At a standby: tells the active what is durably here, if that gets through."""
        if not self.mute and self.world.network.replicates(self.site, self.source):
            source = self.world.databases[self.source]
            self.world.replication.send(self.process, source.process, source.acknowledged, self.token, self.received)

    def apply(self) -> None:
        """Applies what was received."""
        if self.role is Role.ACTIVE or self.hold_apply:
            return
        self.log.extend(self.relay)
        self.relay.clear()
        if self.connected and not self.evidence and len(self.log) >= self._goal:
            self.evidence = True
            self.world.component_changed(self.site)

    def acknowledged(self, src: str, token: int, position: int) -> None:
        """At the active: a standby has everything up to `position` on its disk."""
        follower = self.followers.get(src.removesuffix(".db"))
        if follower is None or follower.token != token:
            return
        follower.acked = max(follower.acked, position)
        self._release()

    def _release(self) -> None:
        """Tells the clients whose writes every required site has."""
        if self.role is not Role.ACTIVE or not self.pending:
            return
        required = frozenset() if self.semi_sync_off else self.required - {self.site}
        while self.pending:
            position, number, _since = self.pending[0]
            for site in required:
                follower = self.followers.get(site)
                if follower is None or follower.acked < position:
                    return
            self.pending.popleft()
            self.world.answer_client(self, number, protected=not self.semi_sync_off)

    # -- following -----------------------------------------------------------------------------------------------------

    def _connect(self, active: str) -> Outcome:
        source = self.world.databases[active]
        if not source.serving or not self.world.network.replicates(self.site, active):
            return Outcome.PENDING
        n = self.received
        last = (self.relay or self.log)[-1] if n else None
        if n > len(source.log) or (n and source.log[n - 1] != last):
            return Outcome.NEEDS_RESYNC
        self.world.tokens += 1
        self.token = self.world.tokens
        self.connected = True
        self.was_active = False  # the driver writes this down before it follows, whoever asked for the connection
        source.followers[self.site] = follower = Follower(self.token, n, n)
        if not self.evidence:
            self._goal = len(source.log)
            self.evidence = len(self.log) >= self._goal
        source._ship(self.site, follower)
        source._release()
        self.world.component_changed(self.site)
        self.world.component_changed(active)
        return Outcome.DONE

    def _disconnect(self) -> None:
        """Ends the connection at this side; the other side sees it when it looks."""
        self.connected = False
        self.token = 0

    def look(self) -> None:
        """What both sides of a connection notice by themselves after a while."""
        if not self.process.runs:
            return
        if self.role is Role.ACTIVE:
            for site, follower in list(self.followers.items()):
                other = self.world.databases[site]
                if other.token != follower.token or not other.process.alive:
                    del self.followers[site]
                    self.world.component_changed(self.site)
                elif self.world.network.replicates(self.site, site):
                    self._ship(site, follower)
                    if other.process.runs and follower.acked < other.received:
                        other._acknowledge()  # a connection sends again what was lost on its way
            if self.semi_sync_off and not self.stuck:
                # Found out by the driver's own look and switched on again.
                self.semi_sync_off = False
                self._release()
        elif self.role is Role.STANDBY and self.source:
            source = self.world.databases[self.source]
            mine = source.followers.get(self.site)
            if self.connected and (mine is None or mine.token != self.token or not source.serving):
                self._disconnect()
            if not self.connected:
                self._connect(self.source)
            elif self.received == len(source.log):
                self.current_ns = self.process.clock()
        if self.relay and not self.hold_apply:
            self.apply()

    # -- the driver ----------------------------------------------------------------------------------------------------

    def _admits(self, epoch: int) -> bool:
        """The epoch guard: whether a mutating call of that epoch may be taken; it is noted before anything is done."""
        taken = epoch >= self.guard
        self.world.monitors.driver_called(self.site, NAME, epoch, taken=taken)
        self.guard = max(self.guard, epoch)
        return taken

    def ensure(self, role: Role, epoch: int, active: str, members: frozenset[str], _lease_end_ns: int) -> Outcome:
        """EnsureRole: begins or continues."""
        if self.stuck or self.process.paused:
            return Outcome.NO_ANSWER
        if not self._admits(epoch):
            return Outcome.REFUSED
        if role is Role.ACTIVE:
            return self._activate(members)
        if role is Role.STANDBY:
            return self._follow(active)
        return self._fence()

    def _activate(self, members: frozenset[str]) -> Outcome:
        if not self.process.alive:
            self.start()
            return Outcome.PENDING
        if self.role is not Role.ACTIVE:
            if not self._whole and not self._first_of_all():
                return Outcome.REFUSED
            if self.relay and self.hold_apply:
                return Outcome.PENDING  # what was received is applied first, however long that takes
            self.apply_all()
            self._reset()
            self.role, self.writable, self.was_active = Role.ACTIVE, True, True
            self.set_in_force = self.required = members
            return Outcome.DONE
        if self.quiesced:
            self.quiesced, self.writable = False, True
        if members <= self.set_in_force:
            self.set_in_force = self.required = members
            self._probe = -1
            self._release()
            return Outcome.DONE
        if self._probe < 0:
            self._probe = len(self.log)
        self.required = self.set_in_force | members
        for site in members - self.set_in_force - {self.site}:
            follower = self.followers.get(site)
            if follower is None or follower.acked < self._probe:
                return Outcome.PENDING
        self.set_in_force = self.required = members
        self._probe = -1
        self._release()
        return Outcome.DONE

    def _follow(self, active: str) -> Outcome:
        if active == self.site:
            return Outcome.REFUSED
        if not self.process.alive:
            self.start()
            return Outcome.PENDING
        if self.role is Role.ACTIVE:
            self.crash()
            return Outcome.PENDING
        if self.role is not Role.STANDBY or self.source != active:
            self.relay.clear()
            self.evidence = False
            self._disconnect()
            self.role, self.source = Role.STANDBY, active
        if self.connected:
            return Outcome.DONE
        return self._connect(active)

    def _fence(self) -> Outcome:
        if not self.process.alive:
            return Outcome.DONE
        if self.role is Role.ACTIVE and not self.quiesced:
            self.crash()
            return Outcome.DONE
        if self.role is Role.ACTIVE:
            self.role, self.writable = Role.FENCED, False
            self.pending.clear()
            self.followers.clear()
        elif self.role is Role.STANDBY:
            self._disconnect()
            self.role, self.source = Role.FENCED, ""
        else:
            self.role = Role.FENCED
        return Outcome.DONE

    def apply_all(self) -> None:
        """Applies the rest of the relay log."""
        self.log.extend(self.relay)
        self.relay.clear()

    @property
    def _whole(self) -> bool:
        """The driver's evidence that what is here is all that once was at an active: what a promotion rests on."""
        return self.was_active or self.evidence

    @property
    def promotable(self) -> bool:
        """Whether no more is missing than may be: nothing that was acknowledged, or no more than is declared."""
        if self.world.settings.rpo_ns is None or self.was_active:
            return self._whole
        return self.evidence and (self.spare_ns() or 0) > 0

    def spare_ns(self) -> int | None:
        """For how much longer this copy lacks no more than declared if nothing more comes; None where none is."""
        rpo_ns = self.world.settings.rpo_ns
        if rpo_ns is None:
            return None
        if self.current_ns is None:
            return rpo_ns if self.was_active else 0
        return rpo_ns - (self.process.clock() - self.current_ns)

    @property
    def told_promotable(self) -> bool:
        """What its status says of that; a wrong word may win an epoch, and then nothing is promoted."""
        return self.promotable or self.lies == "promotable"

    def may_have_lied(self, window_ns: int) -> bool:
        """Whether its status said so wrongly at some time in the last `window_ns`."""
        return self.lies == "promotable" or self.world.kernel.now - self.lied_ns <= window_ns

    def _first_of_all(self) -> bool:
        """An empty server beside no reachable one that has data may be the first active one."""
        return not self.received and not any(
            other.log or other.was_active
            for other in self.world.databases.values()
            if other is not self and self.world.network.both_ways(self.site, other.site)
        )

    def quiesce(self, epoch: int) -> int | None:
        """Stops accepting writes; the final position, or None while commits hang."""
        if self.stuck or not self.serving or epoch < self.guard:
            return None
        self.writable = False
        if self.pending:
            self.writable = True
            return None
        self.quiesced = True
        return len(self.log)

    def unquiesce(self) -> None:
        """Takes a quiesce back."""
        if self.process.runs and self.role is Role.ACTIVE and self.quiesced:
            self.quiesced, self.writable = False, True

    def reached(self, position: int) -> bool:
        """Whether everything up to a position is applied here."""
        return self.process.runs and not self.stuck and len(self.log) >= position

    def assess(self, active: str) -> Verdict:
        """This site's data against the active site's."""
        source = self.world.databases[active]
        if (
            self.stuck
            or self.process.paused
            or not source.serving
            or not self.world.network.both_ways(self.site, active)
        ):
            return Verdict.UNKNOWN
        if not self.process.alive:
            self.start()
        if not self.log:
            return Verdict.EMPTY if source.log else Verdict.CLEAN
        n = len(self.log)
        if n > len(source.log) or source.log[n - 1] != self.log[-1]:
            return Verdict.DIVERGED
        return Verdict.CLEAN if n == len(source.log) else Verdict.BEHIND

    def rebuild(self, active: str, epoch: int) -> bool:
        """Archives what diverged and takes the active's data; False while that cannot be done."""
        source = self.world.databases[active]
        if self.stuck or not self.process.runs or epoch < self.guard or not source.serving:
            return False
        if self.role is Role.ACTIVE or not self.world.network.both_ways(self.site, active):
            return False
        self.archived += 1
        self.log = list(source.log)
        self.relay.clear()
        self.was_active = self.evidence = False
        self.role, self.source = None, ""
        self._disconnect()
        return True

    def view(self, settled: bool, troubled_since_ns: int | None) -> ComponentView:
        """As the driver's status shows it."""
        if self.stuck or self.process.paused:
            return ComponentView(NAME, Health.UNKNOWN, troubled_since_ns=troubled_since_ns)
        dead = not self.process.alive
        if self.lies == "dead":
            dead = True
        if dead and self.death_told:
            return ComponentView(
                NAME, Health.DEAD, promotable=self.told_promotable, settled=settled, troubled_since_ns=troubled_since_ns
            )
        now = self.process.clock()
        followers: dict[str, FollowerView] = {}
        for site, follower in self.followers.items():
            due = next((since for position, _n, since in self.pending if position > follower.acked), None)
            followers[site] = FollowerView(
                connected=True, acknowledging=due is None, stalled_ns=0 if due is None else now - due
            )
        return ComponentView(
            NAME,
            Health.HEALTHY,
            role=self.role,
            accepting=self.role is Role.ACTIVE and self.writable,
            promotable=self.told_promotable,
            settled=settled,
            troubled_since_ns=None,
            set_in_force=self.set_in_force,
            followers=followers,
        )
