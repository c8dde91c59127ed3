"""Executes `graf.core.handover` at one site, with its time limits; and the successor's part: the proof of its position.

What is decided is decided there: here an effect is carried out, and what came of it is told as an event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from graf.api.timing import REST_S
from graf.api.values import Reason, Role, Stage
from graf.controller.calls import CallFailedError
from graf.controller.components import Wanted
from graf.core import handover
from graf.core import handover_effects as effects
from graf.core.handover_rules import Handover, Phase
from graf.core.view import Health
from graf.shell.logs import event
from graf.shell.proto import manager_pb2
from graf.shell.proto import peer_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from graf.controller.agent import GroupAgent
    from graf.controller.components import Component
    from graf.core.handover_rules import Order

    # What became of an effect, as an event of the state that is there by then.
    Event = Callable[[Handover], handover.Step]

LOG = logging.getLogger("graf.switchover")

UNQUIESCE_TIMEOUT_S = 2.0
ANSWER_S = 1.0
LOOK_S = 0.2
TAKE_OVER_TIMEOUT_S = 15.0
# What only tells somebody: a hand-over goes on without it.
TELLING = (effects.Report, effects.RecordRefusal, effects.RecordRelease, effects.Ended)


class Switchover:
    """At most one hand-over at a time per group. Invariant: every effect that is told to have an event gets one."""

    def __init__(self, agent: GroupAgent) -> None:
        self._agent = agent
        self._state = Handover()
        self._todo: deque[effects.Effect] = deque()
        self._executing = False
        self._steps: set[asyncio.Task[None]] = set()
        self.on_update: Callable[[manager_pb2.OperationUpdate], None] = lambda _update: None

    @property
    def running(self) -> bool:
        """Whether the group is being handed over, planned or loudly."""
        return self._state.under_way

    # -- events ------------------------------------------------------------------------------------------------

    def start(self, order: Order) -> None:
        """Begins, or refuses with every reason."""
        now_ns, wall_ms = time.monotonic_ns(), time.time_ns() // 1_000_000
        self._take(handover.ordered(self._state, order, self._agent.view(now_ns), now_ns, wall_ms))

    def data_lost(self, successor: str, reasons: tuple[Reason, ...]) -> None:
        """A data component is lost here and a standby can take over: the epoch is released at once."""
        now_ns = time.monotonic_ns()
        views = [c.view(now_ns) for c in self._data]
        since = [c.troubled_since_ns for c in views if c.troubled_since_ns is not None]
        since_ns = min(since, default=now_ns)
        self._take(handover.data_lost(self._state, successor, reasons, self._lease_epoch, since_ns))

    def lease_lost(self) -> None:
        """The site fences itself: whatever was planned is off."""
        self._take(handover.lease_lost(self._state, self._agent.config))

    def ready(self, answer: pb.HandoverReady) -> None:
        """The successor answered."""
        self._take(
            handover.answered(
                self._state,
                self._agent.config,
                answer.operation,
                answer.epoch,
                answer.ready,
                answer.reason,
                self._lease_epoch,
                time.monotonic_ns(),
            )
        )

    @property
    def _lease_epoch(self) -> int:
        lease = self._agent.lease
        return lease.epoch if lease is not None else 0

    def _take(self, step: handover.Step) -> None:
        """An effect may bring the next event at once: its effects come after those that are still to be executed."""
        self._state, todo = step
        self._todo.extend(todo)
        if self._executing:
            return
        self._executing = True
        try:
            while self._todo:
                effect = self._todo.popleft()
                try:
                    self._execute(effect)
                except Exception:
                    # A defect here must not leave a group half given away, nor cost more than a message.
                    LOG.exception("hand-over failed", extra={"fields": {"group": self._agent.config.group}})
                    if not isinstance(effect, TELLING):
                        self._fail()
        finally:
            self._executing = False

    def _fail(self) -> None:
        self._todo.clear()
        self._state = replace(self._state, phase=Phase.IDLE, attempt=None)
        self._agent.fence((Reason("HandOverFailed", "a step of the hand-over failed; see this controller's log"),))

    # -- effects -----------------------------------------------------------------------------------------------

    def _execute(self, effect: effects.Effect) -> None:
        agent = self._agent
        match effect:
            case effects.Quiesce():
                self._begin(self._quiesce(effect))
            case effects.Prepare():
                self._ask_successor(effect)
            case effects.ShutTraffic(number):
                self._begin(self._shut_traffic(number))
            case effects.AwaitProof(number):
                self._begin(self._proof_limit(number))
            case effects.RollBack():
                self._begin(self._roll_back(effect))
            case effects.SendRelease():
                agent.spawn(self._then(self._release(effect)))
            case effects.WatchSuccessor():
                agent.spawn(self._watch_successor(effect))
            case effects.ForgetData():
                for component in self._data:
                    component.forget_wish()
            case effects.CannotServe(why):
                agent.protocol.cannot_serve(why)
            case effects.OpenTraffic(epoch):
                for component in agent.components.values():
                    if component.config.stage is Stage.TRAFFIC:
                        component.want(Wanted(Role.ACTIVE, epoch, agent.site))
            case effects.StandDown():
                agent.stand_down()
            case effects.FenceSelf(reasons):
                agent.fence(reasons)
            case effects.Abandon():
                for task in self._steps:
                    task.cancel()
            case effects.Report(operation, state, step, message):
                self.report(operation, state, step, message)
            case effects.RecordRefusal(kind, reasons):
                agent.refuse(kind, *reasons)
            case effects.RecordRelease():
                self._record_release(effect)
            case effects.Ended():
                agent.tell_peers()
                agent.wake()

    @property
    def _data(self) -> list[Component]:
        return [c for c in self._agent.components.values() if c.config.holds_data]

    def _begin(self, step: Coroutine[object, object, Event]) -> None:
        """Runs a step that a lost lease ends."""
        task = self._agent.spawn(self._then(step))
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)

    async def _then(self, step: Coroutine[object, object, Event]) -> None:
        """Every step gives its event; what a defect leaves open must not hang for ever."""
        try:
            happened = await step
        except Exception:
            LOG.exception("hand-over failed", extra={"fields": {"group": self._agent.config.group}})
            self._fail()
            return
        self._take(happened(self._state))

    async def _quiesce(self, effect: effects.Quiesce) -> Event:
        data, config = self._data, self._agent.config
        calls = [asyncio.ensure_future(c.quiesce(effect.epoch, c.rest_s)) for c in data]
        in_vain = ""
        try:
            while calls and not in_vain and (await asyncio.wait(calls, timeout=LOOK_S))[1]:
                in_vain = self._in_vain()
        finally:
            for call in calls:
                call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        positions: dict[str, str] = {}
        failures: list[str] = []
        for component, result in zip(data, results, strict=True):
            if isinstance(result, str):
                positions[component.name] = result
            else:
                failures.append(str(result) or in_vain)
        if failures:
            why = "; ".join(failures)
            return lambda state: handover.quiesce_failed(state, config, effect.attempt, why, self._lease_epoch)
        return lambda state: handover.quiesced(state, effect.attempt, positions)

    def _in_vain(self) -> str:
        """Why what is waited for cannot come any more: nothing fails over before a hand-over has ended."""
        attempt = self._state.attempt
        view = self._agent.view(time.monotonic_ns())
        successor = view.peers.get(attempt.successor) if attempt is not None else None
        if successor is not None and not successor.connected:
            return f"{successor.name} is not heard any more"
        dead = [c.name for c in self._data if view.components[c.name].health is Health.DEAD]
        return f"{', '.join(dead)} is Dead" if dead else ""

    def _ask_successor(self, effect: effects.Prepare) -> None:
        agent = self._agent
        request = pb.HandoverPrepare(
            group=agent.config.group, epoch=effect.epoch, operation=effect.operation, positions=effect.positions
        )
        if agent.links.send(effect.target, pb.PeerMessage(handover_prepare=request)):
            self._take(handover.asked(self._state, effect.attempt))
        else:
            self._take(handover.unreachable(self._state, agent.config, effect.attempt, self._lease_epoch))

    async def _shut_traffic(self, number: int) -> Event:
        is_shut = await self._agent.shut_traffic()
        return lambda state: handover.gate_told(
            state, self._agent.config, number, is_shut, self._lease_epoch, time.monotonic_ns()
        )

    async def _proof_limit(self, number: int) -> Event:
        deadline = time.monotonic() + max([REST_S, *(c.rest_s for c in self._data)])
        while time.monotonic() < deadline:
            if self._in_vain():
                break
            await asyncio.sleep(LOOK_S)
        return lambda state: handover.proof_timed_out(
            state, self._agent.config, number, self._lease_epoch, time.monotonic_ns()
        )

    async def _roll_back(self, effect: effects.RollBack) -> Event:
        problems: list[str] = []
        for component in self._data:
            try:
                await component.unquiesce(effect.epoch, UNQUIESCE_TIMEOUT_S)
            except CallFailedError as error:
                problems.append(str(error))
        return lambda state: handover.rolled_back(
            state, self._agent.config, effect.attempt, tuple(problems), self._lease_epoch
        )

    async def _release(self, effect: effects.SendRelease) -> Event:
        config = self._agent.config
        try:
            await self._agent.release(effect.release)
        except Exception as error:
            LOG.exception("the release failed", extra={"fields": {"group": config.group}})
            why = str(error) or type(error).__name__
            return lambda state: handover.release_failed(state, config, effect.attempt, why)
        return lambda state: handover.released(state, config, effect.attempt)

    def _record_release(self, effect: effects.RecordRelease) -> None:
        agent = self._agent
        agent.records.add(
            agent.config.group,
            effect.epoch,
            "Event",
            "Release",
            effect.reasons,
            from_site=agent.site,
            to_site=effect.successor,
            message=f"{agent.site} released epoch {effect.epoch} to {effect.successor or 'anybody'}",
        )

    async def _watch_successor(self, effect: effects.WatchSuccessor) -> None:
        agent = self._agent
        deadline = time.monotonic() + TAKE_OVER_TIMEOUT_S
        while time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            if agent.epoch > effect.epoch:
                return
        for told in handover.nobody_took_over(effect, f"{TAKE_OVER_TIMEOUT_S:.0f} s"):
            self._execute(told)

    def report(self, operation: str, state: str, step: str, message: str) -> None:
        """Tells the manager how far an operation is."""
        event(LOG, message, operation=operation, state=state, step=step, group=self._agent.config.group)
        self.on_update(
            manager_pb2.OperationUpdate(
                operation=operation,
                group=self._agent.config.group,
                state=state,
                step=step,
                message=message,
                wall_ms=time.time_ns() // 1_000_000,
            )
        )

    # -- at the successor --------------------------------------------------------------------------------------

    async def prepare(self, peer: str, request: pb.HandoverPrepare) -> None:
        """Proves that the positions are reached, and says so."""
        agent = self._agent
        problems = []
        for name, position in request.positions.items():
            component = agent.components.get(name)
            if component is None:
                problems.append(f"{name} is not a component here")
                continue
            try:
                reached, message = await component.await_position(position, component.rest_s - ANSWER_S)
            except CallFailedError as error:
                reached, message = False, str(error)
            if not reached:
                problems.append(f"{name} has not reached {position}: {message}")
        answer = pb.HandoverReady(
            group=request.group,
            epoch=request.epoch,
            operation=request.operation,
            ready=not problems,
            reason="; ".join(problems),
        )
        agent.links.send(peer, pb.PeerMessage(handover_ready=answer))
