"""Every way in which a site's hand-overs can go, in a small world: what is told late, twice, or never, and lost leases.

The search drives `graf.core.handover` itself, or a copy of it with a piece of the text replaced, through every order of
events and checks the world after each step.
"""

from __future__ import annotations

import types
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graf.api.timing import PROFILES
from graf.api.values import Electorate, Reason, Role, SetVersion, Stage, SyncSet, VoterList
from graf.core import handover
from graf.core import handover_effects as fx
from graf.core.handover_rules import ORDER_RULES, RELEASE_RULES, Handover, Order, OrderRule, Phase, ReleaseRule
from graf.core.lease import Lease
from graf.core.syncset import HolderSet
from graf.core.view import ComponentConfig, GroupConfig, PeerView, SiteView

if TYPE_CHECKING:
    from collections.abc import Callable

G = "vcu-db"
TIMING = PROFILES["metro"]
LIST = VoterList(1, ("east", "west", "witness"))
VOTERS = Electorate(LIST)
NOW = 100 * TIMING.ttl_ns
SET = SyncSet(SetVersion(3, 2), frozenset({"east", "west"}))
CONFIG = GroupConfig(
    G, "east", ("east", "west"), LIST, TIMING, lossless=True, automatic=True, initial_site="east",
    components=(ComponentConfig("db", Stage.DATA, synchronous=True), ComponentConfig("route", Stage.TRAFFIC)),
)  # fmt: skip
WEST = PeerView("west", True, Role.STANDBY, 3, promotable=True, ready=True, known_set=SET)
LOST = (Reason("DataComponentLost", "db is Dead at east"),)


def lease(epoch: int) -> Lease:
    return Lease(G, epoch, VOTERS, TIMING, dict.fromkeys(VOTERS.members, NOW))


def view(lease_epoch: int = 3, **changed: Any) -> SiteView:
    base = SiteView(
        CONFIG,
        Role.ACTIVE if lease_epoch else Role.FENCED,
        lease(lease_epoch) if lease_epoch else None,
        None,
        HolderSet(lease_epoch, VOTERS, SET, counter=2) if lease_epoch else None,
        None,
        holder_free_at_ns=0,
        silent_until_ns=0,
        released_at_ns=None,
        components={},
        peers={"west": WEST, "witness": PeerView("witness", True)},
    )
    return replace(base, **changed)


def order(operation: str = "op", **changed: Any) -> Order:
    return replace(Order(operation, "Switchover", "west", "maintenance"), **changed)


def mutated(old: str, new: str) -> Any:
    """A copy of the state machine with a piece of its text replaced."""
    source = Path(str(handover.__file__)).read_text()
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in the state machine"
    module = types.ModuleType("mutated_handover")
    exec(compile(source.replace(old, new), "mutated_handover", "exec"), module.__dict__)
    return module


class ViolationError(AssertionError):
    """The world is not safe, or hangs."""


@dataclass(frozen=True)
class World:
    """What is true, and what the site is still to be told.

    Attributes:
        pending: Effects whose event has not come yet.
        asked: Requests at the successor that may still be answered: number of the attempt, operation, epoch.
        rested, proved, shut: Numbers of attempts of which this is true.
        releases: Epochs that were released, each time.
        begun: Operations that were not refused; `ends` what the manager was told of them.
        given: Operations whose release the voters know.
    """

    link_up: bool = True
    state: Handover = field(default_factory=Handover)
    lease: int = 3
    highest: int = 3
    pending: frozenset[Any] = frozenset()
    asked: frozenset[tuple[int, str, int]] = frozenset()
    rested: frozenset[int] = frozenset()
    proved: frozenset[int] = frozenset()
    shut: frozenset[int] = frozenset()
    releases: tuple[int, ...] = ()
    loud: int = 0
    orders: int = 0
    begun: frozenset[str] = frozenset()
    ends: tuple[tuple[str, str], ...] = ()
    given: frozenset[str] = frozenset()


class Search:
    """Breadth first over all orders of events."""

    def __init__(
        self,
        machine: Any = handover,
        release_rules: tuple[ReleaseRule, ...] = RELEASE_RULES,
        order_rules: tuple[OrderRule, ...] = ORDER_RULES,
    ) -> None:
        self.machine = machine
        self.release_rules = release_rules
        self.order_rules = order_rules
        self.reached: set[str] = set()

    def run(self, limit: int = 200_000) -> int:
        """Returns how many states there are; the first that must not be is a `ViolationError`."""
        seen = {World(), World(link_up=False)}
        queue = deque(seen)
        while queue:
            world = queue.popleft()
            self.reached.add(world.state.phase.value)
            for after in self.next(world):
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
                    assert len(seen) <= limit, "the search does not end"
        return len(seen)

    def next(self, w: World) -> list[World]:
        machine = self.machine
        found: list[World] = []
        if w.orders < 2:
            for operation in ("op1", "op2"):
                asked = replace(w, orders=w.orders + 1)
                step = machine.ordered(w.state, order(operation), view(w.lease), NOW, 0, self.order_rules)
                if step[1] and isinstance(step[1][-1], fx.Quiesce):
                    asked = replace(asked, begun=asked.begun | {operation})
                after = self.do(asked, step)
                # What is told again about an operation that ended before is not another end.
                found.append(replace(after, ends=w.ends) if step[0] == w.state else after)
        if w.loud < 1 and w.lease:
            for successor in ("west", ""):
                step = machine.data_lost(w.state, successor, LOST, w.lease, NOW)
                found.append(self.do(replace(w, loud=w.loud + 1), step))
        for effect in w.pending:
            told = replace(w, pending=w.pending - {effect})
            found += self.outcomes(told, effect)
        for number, operation, epoch in w.asked:
            for ready in (True, False):
                told = replace(w, asked=w.asked - {(number, operation, epoch)})
                proved = replace(told, proved=told.proved | {number}) if ready else told
                found.append(self.tell(proved, self.answer(proved, operation, epoch, ready)))
        if w.lease and w.highest < 5:
            # It fences itself; later it may win another epoch.
            found.append(self.do(replace(w, lease=0), machine.lease_lost(w.state, CONFIG)))
            # Or it goes on to another epoch without a break, which nobody tells here.
            found.append(replace(w, lease=5, highest=5))
        if not w.lease and w.highest < 5:
            found.append(replace(w, lease=5, highest=5))
        if not w.lease:
            found.append(self.do(w, machine.lease_lost(w.state, CONFIG)))  # it may fence itself any time
        if not w.pending and w.state.phase is not Phase.IDLE:  # the successor may never answer
            raise ViolationError(f"hangs in {w.state.phase}")
        if not w.pending and w.state.phase is Phase.IDLE:
            for operation in w.begun:
                ends = [state for name, state in w.ends if name == operation]
                if len(ends) != 1 or (operation in w.given) != (ends[0] == "Running"):
                    raise ViolationError(f"{operation} ended with {ends}")
        return found

    def answer(self, w: World, operation: str, epoch: int, ready: bool) -> Callable[[Handover], Any]:
        return lambda s: self.machine.answered(s, CONFIG, operation, epoch, ready, "", w.lease, NOW, self.release_rules)

    def outcomes(self, w: World, effect: Any) -> list[World]:
        machine, number, rules = self.machine, effect.attempt, self.release_rules
        match effect:
            case fx.Quiesce():
                rested = replace(w, rested=w.rested | {number})
                return [
                    self.tell(rested, lambda s: machine.quiesced(s, number, types.MappingProxyType({"db": "p"}))),
                    self.tell(w, lambda s: machine.quiesce_failed(s, CONFIG, number, "no", w.lease)),
                ]
            case fx.ShutTraffic():
                shut = replace(w, shut=w.shut | {number})
                return [
                    self.tell(shut, lambda s: machine.gate_told(s, CONFIG, number, True, w.lease, NOW, rules)),
                    self.tell(w, lambda s: machine.gate_told(s, CONFIG, number, False, w.lease, NOW, rules)),
                ]
            case fx.AwaitProof():
                return [self.tell(w, lambda s: machine.proof_timed_out(s, CONFIG, number, w.lease, NOW, rules))]
            case fx.RollBack():
                return [self.tell(w, lambda s: machine.rolled_back(s, CONFIG, number, (), w.lease))]
            case fx.SendRelease():
                given = replace(w, given=w.given | {effect.release.operation})
                return [
                    self.tell(given, lambda s: machine.released(s, CONFIG, number)),
                    self.tell(w, lambda s: machine.release_failed(s, CONFIG, number, "no")),
                ]
        raise AssertionError(effect)

    def tell(self, w: World, event: Callable[[Handover], Any]) -> World:
        """What is told twice must come to the same as what is told once."""
        after = self.do(w, event(w.state))
        if again := event(after.state)[1]:
            raise ViolationError(f"told twice: {again}")
        return after

    def do(self, w: World, step: tuple[Handover, tuple[Any, ...]]) -> World:
        """Carries the effects out, at once where that is possible."""
        before = w
        w = replace(w, state=step[0])
        for effect in step[1]:
            w = self.one(before, w, effect)
        newest = frozenset({w.state.count})  # of older attempts nothing counts any more
        return replace(w, rested=w.rested & newest, proved=w.proved & newest, shut=w.shut & newest)

    def one(self, before: World, w: World, effect: Any) -> World:
        self.reached.add(type(effect).__name__)
        match effect:
            case fx.Prepare(number, _target, epoch, operation):
                if number not in w.rested:
                    raise ViolationError("the successor is asked before the data is at rest")
                asked = replace(w, asked=w.asked | {(number, operation, epoch)})
                if not w.link_up:
                    return self.do(w, self.machine.unreachable(w.state, CONFIG, number, w.lease))
                return self.do(asked, self.machine.asked(w.state, number))
            case fx.SendRelease(number, release):
                if before.lease != release.epoch:
                    raise ViolationError(f"epoch {release.epoch} is released under the lease of {before.lease}")
                if w.lease:
                    raise ViolationError("released and still claimed")
                if number not in w.shut:
                    raise ViolationError("released with the gate open")
                if release.operation and number not in w.proved:
                    raise ViolationError("released to a successor that has proved nothing")
                if release.epoch in w.releases:
                    raise ViolationError("released twice")
                return replace(w, releases=(*w.releases, release.epoch), pending=w.pending | {effect})
            case fx.RollBack(epoch=epoch) | fx.OpenTraffic(epoch=epoch):
                if w.lease != epoch or epoch in w.releases:
                    raise ViolationError(f"goes on in epoch {epoch} with the lease of {w.lease}")
                return replace(w, pending=w.pending | {effect}) if isinstance(effect, fx.RollBack) else w
            case fx.CannotServe():
                if not w.lease:
                    raise ViolationError("what cannot be served is noted when it is not held any more")
                return w
            case fx.StandDown():
                return replace(w, lease=0)
            case fx.FenceSelf():
                return self.do(replace(w, lease=0), self.machine.lease_lost(w.state, CONFIG))
            case fx.Abandon():
                kept = frozenset(e for e in w.pending if isinstance(e, fx.SendRelease))
                return replace(w, pending=kept)
            case fx.Report(operation, state, step):
                if state in ("Failed", "RolledBack") or step == "Released":
                    return replace(w, ends=(*w.ends, (operation, state)))
                return w
            case fx.Quiesce() | fx.ShutTraffic() | fx.AwaitProof():
                return replace(w, pending=w.pending | {effect})
        return w
