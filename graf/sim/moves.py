"""Executes `graf.core.handover` at one site of the simulator, as `graf.controller.switchover` does at a real one.

What is decided is decided there: here an effect takes its simulated time, and what came of it is told as an event.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS
from graf.api.values import Role
from graf.core import handover
from graf.core import handover_effects as effects
from graf.core import participant as protocol
from graf.core.handover_rules import ORDER_RULES, Ask, Handover
from graf.sim import database, gate
from graf.sim.handle import Wish

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.api.values import Reason
    from graf.core.handover_rules import Order
    from graf.sim.controller import Controller

# How often a component is asked, or looked at, until the answer is no.
DATA_TRIES = 8
GATE_TRIES = 4
# The successor's time to prove its position, in retries; the successor itself looks six times.
PROOF_RETRIES = 12
# For how long somebody is expected to take over.
TAKE_OVER_HEARTBEATS = 10


class Moves:
    """At most one hand-over at a time. Invariant: every effect that is told to have an event gets one.

    Attributes:
        state: The hand-over's state, as `graf.core.handover` has it; volatile.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.state = Handover()
        self._todo: deque[effects.Effect] = deque()
        self._executing = False
        self._token = 0

    @property
    def running(self) -> bool:
        """Whether the group is being handed over, planned or loudly."""
        return self.state.under_way

    # -- events --------------------------------------------------------------------------------------------------------

    def start(self, order: Order) -> None:
        """Begins, or refuses with every reason."""
        controller = self._controller
        now_ns, wall_ms = controller.process.clock(), controller.world.kernel.now // MILLISECOND_NS
        views = {name: handle.view() for name, handle in controller.handles.items()}
        ask = Ask(order, self.state, controller._view(views, now_ns), now_ns, wall_ms)
        step = handover.ordered(self.state, order, ask.view, now_ns, wall_ms)
        for effect in step[1]:
            if isinstance(effect, effects.RecordRefusal):
                self._count_refusal(ask, effect)
        self._take(step)

    def data_lost(self, successor: str, reasons: tuple[Reason, ...]) -> None:
        """The data component is lost here and a standby has everything: the epoch is released at once."""
        view = self._controller.handles[database.NAME].view()
        since_ns = view.troubled_since_ns
        if since_ns is None:
            since_ns = self._controller.process.clock()
        self._take(handover.data_lost(self.state, successor, reasons, self._lease_epoch, since_ns))

    def lease_lost(self) -> None:
        """The site fences itself: whatever was planned is off."""
        self._take(handover.lease_lost(self.state, self._controller.config))

    def ready(self, epoch: int, operation: str, is_ready: bool) -> None:
        """The successor answered."""
        controller = self._controller
        now_ns, why = controller.process.clock(), "" if is_ready else "the position was not reached"
        self._take(
            handover.answered(self.state, controller.config, operation, epoch, is_ready, why, self._lease_epoch, now_ns)
        )

    def _gate_told(self, number: int, is_shut: bool) -> None:
        controller = self._controller
        now_ns = controller.process.clock()
        self._take(handover.gate_told(self.state, controller.config, number, is_shut, self._lease_epoch, now_ns))

    @property
    def _lease_epoch(self) -> int:
        lease = self._controller.part.lease
        return lease.epoch if lease is not None else 0

    def _take(self, step: handover.Step) -> None:
        """An effect may bring the next event at once: its effects come after those that are still to be executed."""
        self.state, todo = step
        self._todo.extend(todo)
        if self._executing:
            return
        self._executing = True
        while self._todo:
            self._execute(self._todo.popleft())
        self._executing = False

    # -- effects -------------------------------------------------------------------------------------------------------

    def _execute(self, effect: effects.Effect) -> None:
        controller, world = self._controller, self._controller.world
        match effect:
            case effects.Quiesce():
                self._later(world.call_ns(), self._quiesce, effect, 0)
            case effects.Prepare():
                self._ask_successor(effect)
            case effects.ShutTraffic(number):
                self._shut_traffic(number)
            case effects.AwaitProof(number):
                self._later(PROOF_RETRIES * world.retry_ns(), self._proof_timed_out, number)
            case effects.RollBack():
                self._count_failure()
                self._later(world.call_ns(), self._roll_back, effect, 0)
            case effects.SendRelease():
                self._release(effect)
            case effects.WatchSuccessor():
                self._watch_successor(effect, 0)
            case effects.ForgetData():
                controller.handles[database.NAME].forget_wish()
            case effects.CannotServe(why):
                controller.part = protocol.cannot_serve(controller.part, why, controller.process.clock())
            case effects.OpenTraffic(epoch):
                controller.handles[gate.NAME].want(Wish(Role.ACTIVE, epoch, controller.name))
            case effects.StandDown():
                controller.stand_down()
            case effects.FenceSelf(reasons):
                if any(reason.code == "GateUnknown" for reason in reasons):
                    world.kernel.count("gate unknown")
                controller.fence()
            case effects.Abandon():
                self._token += 1
            case effects.Report(operation, state, step, message):
                self._report(operation, state, step, message)
            case effects.RecordRefusal(kind, reasons):
                controller.record(kind, "; ".join(str(reason) for reason in reasons))
            case effects.RecordRelease(_epoch, successor):
                controller.record("Release", successor)
            case effects.Ended():
                controller.wake()

    def _later(self, delay_ns: int, step: Callable[..., None], *args: object) -> None:
        """Goes on with a step that a lost lease ends."""
        self._controller.process.after(delay_ns, self._run, self._token, step, args)

    def _run(self, token: int, step: Callable[..., None], args: tuple[object, ...]) -> None:
        if token == self._token:
            step(*args)

    def _quiesce(self, effect: effects.Quiesce, tries: int) -> None:
        controller = self._controller
        position = controller.db.quiesce(effect.epoch)
        if position is not None:
            self._take(handover.quiesced(self.state, effect.attempt, {database.NAME: str(position)}))
        elif tries < DATA_TRIES:
            self._later(controller.world.retry_ns(), self._quiesce, effect, tries + 1)
        else:
            why = f"{database.NAME} did not come to rest"
            self._take(handover.quiesce_failed(self.state, controller.config, effect.attempt, why, self._lease_epoch))

    def _ask_successor(self, effect: effects.Prepare) -> None:
        """A link over which nothing is heard is down and says so; what is sent over another one may still be lost."""
        controller = self._controller
        if not controller._peer(effect.target, controller.process.clock()).connected:
            controller.world.kernel.count("successor unreachable")
            self._take(handover.unreachable(self.state, controller.config, effect.attempt, self._lease_epoch))
            return
        position = int(effect.positions[database.NAME])
        controller.world.send(controller.process, effect.target, "on_prepare", effect.epoch, effect.operation, position)
        self._take(handover.asked(self.state, effect.attempt))

    def _shut_traffic(self, number: int) -> None:
        controller = self._controller
        controller.handles[gate.NAME].want(Wish(Role.FENCED, controller.epoch, ""))
        self._later(controller.world.retry_ns(), self._look, number, 0)

    def _look(self, number: int, tries: int) -> None:
        controller = self._controller
        handle = controller.handles[gate.NAME]
        if not handle.settled and tries < GATE_TRIES:
            self._later(controller.world.retry_ns(), self._look, number, tries + 1)
        else:
            self._gate_told(number, handle.settled)

    def _proof_timed_out(self, number: int) -> None:
        controller = self._controller
        now_ns = controller.process.clock()
        self._take(handover.proof_timed_out(self.state, controller.config, number, self._lease_epoch, now_ns))

    def _roll_back(self, effect: effects.RollBack, tries: int) -> None:
        controller, db = self._controller, self._controller.db
        problems: tuple[str, ...] = ()
        if db.stuck or not db.process.runs or effect.epoch < db.guard:
            if tries < DATA_TRIES:
                self._later(controller.world.retry_ns(), self._roll_back, effect, tries + 1)
                return
            controller.world.kernel.count("not accepting after a roll-back")
            problems = (f"{database.NAME} did not take the call",)
        else:
            db.unquiesce()
            controller.handles[database.NAME].ask_again()
        self._take(handover.rolled_back(self.state, controller.config, effect.attempt, problems, self._lease_epoch))

    def _release(self, effect: effects.SendRelease) -> None:
        """The own voter first and durably, then the others. No lost lease ends it: it was given up before."""
        controller, release = self._controller, effect.release
        controller.world.kernel.count("switchover released" if release.operation else "loud release")
        controller.part = protocol.give_to(controller.part, release.successor, controller.process.clock())

        def stored(_answer: object) -> None:
            # One that could not store it promised nothing and answers nothing; the others are told all the same.
            controller.ask(tuple(v for v in controller._voters() if v != controller.name), release)
            self._take(handover.released(self.state, controller.config, effect.attempt))

        controller.voter.ask(controller.name, release, stored)

    def _watch_successor(self, effect: effects.WatchSuccessor, beats: int) -> None:
        controller = self._controller
        if controller.epoch > effect.epoch:
            return
        if beats < TAKE_OVER_HEARTBEATS:
            controller.process.after(controller.config.timing.heartbeat_ns, self._watch_successor, effect, beats + 1)
            return
        controller.world.kernel.count("nobody took over")
        for told in handover.nobody_took_over(effect, f"{TAKE_OVER_HEARTBEATS} heartbeats"):
            self._execute(told)

    # -- what is told --------------------------------------------------------------------------------------------------

    def _report(self, operation: str, state: str, step: str, message: str) -> None:
        world = self._controller.world
        if world.kernel.story is not None:
            world.kernel.tell(self._controller.name, f"{operation}: {state} at {step}: {message}")
        if state == "RolledBack":
            world.kernel.count("switchover rolled back")
        if state != "Running":  # so it is at the manager already
            world.operation_told(operation, state, message)

    def _count_refusal(self, ask: Ask, refusal: effects.RecordRefusal) -> None:
        """Which rule spoke is found out afterwards, so that the order is judged exactly as in a controller."""
        count = self._controller.world.kernel.count
        for reason in refusal.reasons:
            count(f"switchover refused {reason.code}")
        spoke = next((name for name, rule in ORDER_RULES if rule(ask)), "")
        if spoke:
            count(f"rule {spoke}")

    def _count_failure(self) -> None:
        attempt = self.state.attempt
        if attempt is not None and attempt.failure is not None:
            self._controller.world.kernel.count(f"switchover failed {attempt.failure.code}")
