"""One component at this site: what it was asked for, what is observed, and the calls in between."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import struct_pb2
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

from graf.api.timing import MILLISECOND_NS, REST_S
from graf.api.values import Role, Verdict
from graf.controller.calls import CallFailedError, answer_of, nonsense
from graf.controller.watching import StatusWatch
from graf.core.view import ComponentView, FollowerView, Health
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from graf.controller.dialing import Dial
    from graf.controller.groups import ComponentWiring
    from graf.core.view import ComponentConfig

LOG = logging.getLogger("graf.components")

Response = TypeVar("Response")

ROLE_TO_WIRE = {
    Role.ACTIVE: pb.ROLE_ACTIVE,
    Role.STANDBY: pb.ROLE_STANDBY,
    Role.FENCED: pb.ROLE_FENCED,
    Role.INVALIDATED: pb.ROLE_INVALIDATED,
}
ROLE_FROM_WIRE = {wire: role for role, wire in ROLE_TO_WIRE.items()}
HEALTH_FROM_WIRE = {
    pb.HEALTH_HEALTHY: Health.HEALTHY,
    pb.HEALTH_INITIALISING: Health.INITIALISING,
    pb.HEALTH_UNHEALTHY: Health.UNHEALTHY,
    pb.HEALTH_DEAD: Health.DEAD,
}
VERDICT_FROM_WIRE = {
    pb.VERDICT_CLEAN: Verdict.CLEAN,
    pb.VERDICT_BEHIND: Verdict.BEHIND,
    pb.VERDICT_DIVERGED: Verdict.DIVERGED,
    pb.VERDICT_EMPTY: Verdict.EMPTY,
}
ENSURE_TIMEOUT_S = 10.0

MEND_FIRST_NS = 200 * MILLISECOND_NS
MEND_LAST_NS = 3_000 * MILLISECOND_NS
MEND_FORGET_NS = 10_000 * MILLISECOND_NS
# A status that is older than this is Unknown: a driver tells its status at least once a second.
STATUS_FRESH_NS = 5_000 * MILLISECOND_NS
# What a driver may ask for at most between two calls.
RETRY_LAST_S = 5.0
LONGEST_RPO_S = 1e9
LONGEST_REST_S = 60.0


def limit_s(parameters: Mapping[str, Any]) -> float | None:
    """What may be lost of a copy, as declared; never more than can be told on the wire."""
    limit = parameters.get("rpoSeconds")
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        return None
    return min(float(limit), LONGEST_RPO_S)


def rest_s(parameters: Mapping[str, Any]) -> float:
    """How long a planned move waits for a component: by convention of slow copies their parameter `quiesceSeconds`."""
    wanted = parameters.get("quiesceSeconds")
    if not isinstance(wanted, int | float) or isinstance(wanted, bool):
        return REST_S
    return min(max(float(wanted), REST_S), LONGEST_REST_S)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a component is asked for. Equal values are one wish: nothing is called again for it."""

    role: Role
    epoch: int
    active_site: str
    synchronous_set: frozenset[str] = frozenset()


class Component:
    """Drives one component to what is wanted, with one mutating call in flight."""

    def __init__(
        self,
        group: str,
        site: str,
        config: ComponentConfig,
        wiring: ComponentWiring,
        dial: Callable[[], Dial],
        lease_deadline: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        self.config = config
        self.wiring = wiring
        self._group = group
        self._site = site
        self._dial = dial
        self._lease_deadline = lease_deadline
        self._on_change = on_change
        self._dialled = dial()
        self._channel = self._dialled.open(_CHANNEL_OPTIONS)
        self._stub = driver_pb2_grpc.ComponentStub(self._channel)
        self._lane = asyncio.Lock()
        self._wanted: Wanted | None = None
        self._settled_event = asyncio.Event()
        self._settled_at_ns = 0
        self._shut_at_ns = 0
        self._mend_after_ns = MEND_FIRST_NS
        self._changed = asyncio.Event()
        self._status: pb.ComponentStatus | None = None
        self._status_at_ns = 0
        self._troubled_since_ns: int | None = time.monotonic_ns()
        self._promotable_at_ns: int | None = None
        self._renewing = False
        self._renew_to_ns = 0
        self._info: pb.GetInfoResponse | None = None
        self._unheard = ""
        self._call_error = ""
        self.needs_resync = False
        self._refusal = ""
        self._resting = False
        watch = StatusWatch(group, config.name, self._reach, self._spec, self._introduced, self._observed, self._lost)
        self._tasks = [
            asyncio.create_task(self._keep_wanted(), name=f"{config.name}-ensure"),
            asyncio.create_task(watch.run(), name=f"{config.name}-watch"),
        ]

    @property
    def name(self) -> str:
        """Name of the component in its group."""
        return self.config.name

    @property
    def wanted(self) -> Wanted | None:
        """What was last asked for."""
        return self._wanted

    @property
    def settled(self) -> bool:
        """Whether the driver has said that it is so."""
        return self._settled_event.is_set()

    @property
    def status(self) -> pb.ComponentStatus | None:
        """The last observed status, whatever its age."""
        return self._status

    @property
    def status_age_ns(self) -> int:
        """Age of the last status."""
        return time.monotonic_ns() - self._status_at_ns

    def spare_ms(self) -> int | None:
        """For how much longer a copy stays within its declared RPO if nothing more comes; None where none is declared.

        The limit is the parameter `rpoSeconds`, by convention of the drivers whose copies are not synchronous.
        """
        limit, status = limit_s(self.wiring.parameters), self._status
        if limit is None:
            return None
        if status is None or status.lag_seconds < 0:
            return 0
        return max(0, int((limit - status.lag_seconds) * 1000) - self.status_age_ns // MILLISECOND_NS)

    @property
    def rest_s(self) -> float:
        """How long a planned move waits for it to come to rest, in seconds."""
        return rest_s(self.wiring.parameters)

    @property
    def last_error(self) -> str:
        """Why nothing is heard of the component, or why it is not (yet) as wanted; empty when all is well."""
        return self._unheard or self._call_error

    @property
    def driver(self) -> pb.GetInfoResponse | None:
        """Who the driver says it is."""
        return self._info

    def want(self, wanted: Wanted) -> None:
        """Asks for a role. Returns at once; `settled` and the view tell the rest."""
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._settled_event.clear()
        self.needs_resync = self._resting = False
        self._refusal = ""
        self._changed.set()

    def forget_wish(self) -> None:
        """Asks for nothing: what is dead stays dead until somebody decides."""
        self._wanted = None
        self._refusal = ""
        self._settled_event.clear()
        self._changed.set()

    def ask_again(self) -> None:
        """What was wanted is not so (any more): the driver is asked again."""
        if self.settled:
            self._settled_event.clear()
            self._changed.set()

    def mend(self, now_ns: int) -> None:
        """Asks again when a status observed after settling contradicts what is wanted; the driver may have restarted.

        Not in a hurry: a driver that says done and shows otherwise is not asked more often because of that.
        """
        if self._resting or now_ns - self._settled_at_ns < self._mend_after_ns or not self._deviates():
            if now_ns - self._settled_at_ns > MEND_FORGET_NS:
                self._mend_after_ns = MEND_FIRST_NS
            return
        status = self._status
        event(
            LOG,
            "component is not as wanted, asking again",
            logging.WARNING,
            component=self.name,
            wanted=str(self._wanted),
            observed=str(status).replace("\n", " ")[:300],
        )
        self._mend_after_ns = min(2 * self._mend_after_ns, MEND_LAST_NS)
        self.ask_again()

    def _deviates(self) -> bool:
        status, wanted = self._status, self._wanted
        if not self.settled or status is None or wanted is None or status.observed_at_ns <= self._settled_at_ns:
            return False
        if status.health == pb.HEALTH_DEAD:
            return wanted.role in (Role.ACTIVE, Role.STANDBY)
        if wanted.role is Role.INVALIDATED:
            return status.accepting  # the way back leads through other roles that serve nothing
        if ROLE_FROM_WIRE.get(status.role) not in (wanted.role, None):
            return True
        if wanted.role is Role.ACTIVE:
            in_force = frozenset(status.synchronous_set)
            return not status.accepting or (self.config.synchronous and in_force != wanted.synchronous_set)
        return status.accepting

    def view(self, now_ns: int) -> ComponentView:
        """The component for a decision."""
        status = self._status
        if status is None or now_ns - self._status_at_ns > STATUS_FRESH_NS:
            return ComponentView(
                self.name,
                Health.UNKNOWN,
                promotable_reason=self._unheard,
                troubled_since_ns=self._troubled_since_ns,
            )
        health = HEALTH_FROM_WIRE.get(status.health, Health.UNKNOWN)
        return ComponentView(
            name=self.name,
            health=health,
            role=ROLE_FROM_WIRE.get(status.role),
            # A driver's word that it is shut is newer than a status observed before it.
            accepting=status.accepting and status.observed_at_ns > self._shut_at_ns,
            promotable=status.promotable,
            promotable_reason=status.promotable_reason or status.message,
            settled=self.settled,
            troubled_since_ns=self._troubled_since_ns,
            promotable_at_ns=self._promotable_at_ns,
            refusal=self._refusal,
            set_in_force=frozenset(status.synchronous_set),
            followers={
                f.site: FollowerView(
                    f.connected, f.acknowledging, f.stalled_ms * MILLISECOND_NS, now_ns - self._status_at_ns
                )
                for f in status.followers
            },
        )

    async def until_settled(self, timeout_s: float) -> bool:
        """Waits for what is wanted now; False when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled_event.wait()
        except TimeoutError:
            return False
        return True

    def renew(self, deadline_ns: int) -> None:
        """Lets the gate stay open until a later end of the lease; calls never pile up."""
        self._renew_to_ns = max(self._renew_to_ns, deadline_ns)
        wanted = self._wanted
        if self._renewing or wanted is None or wanted.role is not Role.ACTIVE or not self.settled:
            return
        self._renewing = True
        self._tasks.append(asyncio.create_task(self._renew(wanted.epoch)))
        self._tasks = [task for task in self._tasks if not task.done()]

    async def quiesce(self, epoch: int, timeout_s: float) -> str:
        """Stops accepting writes and gives the final position.

        Raises:
            CallFailedError: it did not come to rest in time.
        """
        # To be asked for its role again would open it behind its final position, if its driver was restarted meanwhile.
        self._resting = True
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            request = pb.QuiesceRequest(spec=self._spec(), epoch=epoch)
            answer = await self._call("Quiesce", self._stub.Quiesce, request, max(left, 0.01))
            if answer.progress.completed:
                self._shut_at_ns = time.monotonic_ns()
                return str(answer.position)
            if left <= 0:
                raise CallFailedError(self.name, "Quiesce", grpc.StatusCode.DEADLINE_EXCEEDED, answer.progress.message)
            await asyncio.sleep(_retry_s(answer.progress, 0.02))

    async def unquiesce(self, epoch: int, timeout_s: float) -> None:
        """Takes a Quiesce back."""
        request = pb.UnquiesceRequest(spec=self._spec(), epoch=epoch)
        self._resting = False
        try:
            await self._call("Unquiesce", self._stub.Unquiesce, request, timeout_s)
        finally:
            self.ask_again()

    async def await_position(self, position: str, timeout_s: float) -> tuple[bool, str]:
        """Proves that a position is reached here; with a message when it is not."""
        request = pb.AwaitPositionRequest(spec=self._spec(), position=position, timeout_ms=int(timeout_s * 1000))
        answer = await self._answer("AwaitPosition", self._stub.AwaitPosition(request, timeout=timeout_s + 0.5))
        return answer.reached, answer.message

    async def assess(self, active: str, timeout_s: float) -> tuple[Verdict, pb.AssessResponse]:
        """The verdict on this site's data against the active site's."""
        request = pb.AssessRequest(spec=self._spec(), active=self._peer(active, active))
        try:
            answer = await self._answer("Assess", self._stub.Assess(request, timeout=timeout_s))
        except CallFailedError as error:
            self._complain(error)
            raise
        return VERDICT_FROM_WIRE.get(answer.verdict, Verdict.UNKNOWN), answer

    async def resync(
        self, active: str, epoch: int, *, rebuild: bool, timeout_s: float, on_pending: Callable[[str, str], None]
    ) -> str:
        """Archives what diverged and catches up, however long it takes; returns where the archive is.

        Args:
            active: The site whose data is taken.
            epoch: Its epoch.
            rebuild: Whether what is here is archived before, whole.
            timeout_s: How long the driver may take for one answer.
            on_pending: Is told how far the driver is, and where the archive is, as often as it says so.

        Raises:
            CallFailedError: it failed, or the driver does not answer; it can be called again.
        """
        strategy = pb.RESYNC_STRATEGY_REBUILD if rebuild else pb.RESYNC_STRATEGY_FOLLOW
        while True:
            request = pb.ResyncRequest(
                spec=self._spec(), active=self._peer(active, active), strategy=strategy, epoch=epoch
            )
            try:
                answer = await self._call("Resync", self._stub.Resync, request, timeout_s)
            except CallFailedError as error:
                # How far it was is no answer any more to why it is not done.
                self._complain(error)
                raise
            if answer.progress.completed:
                self._call_error = ""
                return str(answer.archive)
            self._call_error = answer.progress.message
            on_pending(answer.progress.message, str(answer.archive))
            await asyncio.sleep(_retry_s(answer.progress, 0.2))

    async def close(self) -> None:
        """Ends all calls; the component stays as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    def _reach(self) -> grpc.aio.Channel:
        """The channel, another one when the driver is to be reached in another way. Calls in flight end on the old."""
        dial = self._dial()
        if dial != self._dialled:
            old, self._dialled = self._channel, dial
            self._channel = dial.open(_CHANNEL_OPTIONS)
            self._stub = driver_pb2_grpc.ComponentStub(self._channel)
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks.append(asyncio.create_task(old.close(ENSURE_TIMEOUT_S)))
            event(LOG, "driver dialled anew", group=self._group, component=self.name, target=dial.target)
        return self._channel

    def _spec(self) -> pb.ComponentSpec:
        return pb.ComponentSpec(
            group=self._group, component=self.name, site=self._site, parameters=_struct(self.wiring.parameters)
        )

    def _peer(self, site: str, active_site: str) -> pb.Peer:
        role = pb.ROLE_ACTIVE if site == active_site else pb.ROLE_STANDBY
        return pb.Peer(site=site, role=role, parameters=_struct(self.wiring.peers.get(site, {})))

    async def _answer(self, name: str, call: Awaitable[Response]) -> Response:
        return await answer_of(self.name, name, call)

    async def _call(self, name: str, method: Any, request: Any, timeout_s: float) -> Any:
        async with self._lane:
            while True:
                try:
                    return await self._answer(name, method(request, timeout=timeout_s))
                except CallFailedError as error:
                    # The driver is still ending a call of ours that was cancelled: it says when it is free.
                    if error.code is not grpc.StatusCode.ABORTED:
                        raise
                    await asyncio.sleep(0.01)

    async def _renew(self, epoch: int) -> None:
        try:
            while True:
                deadline_ns = self._renew_to_ns
                request = pb.RenewLeaseRequest(spec=self._spec(), epoch=epoch, lease_deadline_ns=deadline_ns)
                answer = await self._answer("RenewLease", self._stub.RenewLease(request, timeout=1.0))
                if not answer.open:
                    self.ask_again()
                    return
                if self._renew_to_ns <= deadline_ns:
                    return
        except CallFailedError as error:
            self._complain(error)
        finally:
            self._renewing = False

    async def _keep_wanted(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            backoff_s = 0.05
            while (wanted := self._wanted) is not None and not self.settled:
                call = asyncio.create_task(self._ensure(wanted))
                while not call.done() and self._wanted is wanted:
                    self._changed.clear()
                    change = asyncio.create_task(self._changed.wait())
                    await asyncio.wait((call, change), return_when=asyncio.FIRST_COMPLETED)
                    change.cancel()
                if self._wanted is not wanted:
                    call.cancel()  # something else is wanted now; the driver continues from wherever it is
                    await asyncio.gather(call, return_exceptions=True)
                    backoff_s = 0.05
                    continue
                progress = await self._result(call)
                if progress is None:
                    await self._pause(backoff_s)
                    backoff_s = min(backoff_s * 2, 1.0)
                elif progress.completed:
                    self._settled_event.set()
                    self._settled_at_ns = time.monotonic_ns()
                    if wanted.role is not Role.ACTIVE:
                        self._shut_at_ns = self._settled_at_ns
                    self._call_error = ""
                    self._on_change()
                else:
                    self._call_error = progress.message
                    backoff_s = 0.05
                    await self._pause(_retry_s(progress, 0.05))

    async def _result(self, call: asyncio.Task[pb.Progress | None]) -> pb.Progress | None:
        try:
            return await call
        except Exception:
            # A defect must not leave the component without anybody who drives it.
            LOG.exception("driving failed", extra={"fields": {"group": self._group, "component": self.name}})
            return None

    async def _pause(self, seconds: float) -> None:
        """Waits, but not when something else is wanted meanwhile."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _ensure(self, wanted: Wanted) -> pb.Progress | None:
        deadline_ns = self._lease_deadline() if wanted.role is Role.ACTIVE and self.config.gate else 0
        request = pb.EnsureRoleRequest(
            spec=self._spec(),
            role=ROLE_TO_WIRE[wanted.role],
            epoch=wanted.epoch,
            peers=[self._peer(site, wanted.active_site) for site in self.wiring.peers],
            synchronous_set=sorted(wanted.synchronous_set),
            lease_deadline_ns=deadline_ns,
        )
        try:
            answer = await self._call("EnsureRole", self._stub.EnsureRole, request, ENSURE_TIMEOUT_S)
        except CallFailedError as error:
            # Which epoch it is about, or when, is no word about what is here.
            about_data = error.reason not in ("stale-epoch", "lease-over", "epoch-state")
            refused = error.code is grpc.StatusCode.FAILED_PRECONDITION and wanted.role is Role.ACTIVE
            self._refusal = error.told if refused and about_data else ""
            if error.code is grpc.StatusCode.FAILED_PRECONDITION:
                self.needs_resync = True
                if self._refusal:
                    # Under a set it is the evidence (`has_data`), which this refutes. Beside one it costs nothing: what
                    # was seen before this epoch was won is older than the end of any later holder's lease, before which
                    # nothing counts (`copies_are_within_rpo`), and of an epoch of its own a site is not asked.
                    self._promotable_at_ns = None
                self._on_change()
            self._complain(error)
            return None
        self._refusal = ""
        if not answer.HasField("progress"):
            self._complain(nonsense(self.name, "EnsureRole", "it has no progress"))
            return None
        progress: pb.Progress = answer.progress
        return progress

    def _complain(self, error: CallFailedError) -> None:
        if error.told != self._call_error:
            self._call_error = error.told
            event(LOG, str(error), logging.WARNING, group=self._group, component=self.name)

    def _introduced(self, info: pb.GetInfoResponse) -> None:
        self._info = info

    def _observed(self, status: pb.ComponentStatus) -> None:
        now_ns = time.monotonic_ns()
        self._status, self._status_at_ns, self._unheard = status, now_ns, ""
        if status.health in (pb.HEALTH_HEALTHY, pb.HEALTH_INITIALISING):
            self._troubled_since_ns = None
        elif self._troubled_since_ns is None:
            self._troubled_since_ns = now_ns
        if status.health != pb.HEALTH_HEALTHY:
            self._promotable_at_ns = None
        elif status.promotable:
            self._promotable_at_ns = now_ns
        self._on_change()

    def _lost(self, why: str) -> None:
        """The driver cannot be heard: nothing is known of the component, and it may have started anew."""
        if self._status is not None:
            event(LOG, "driver lost", logging.WARNING, group=self._group, component=self.name, cause=why)
        self._unheard = why
        self._promotable_at_ns = None
        if self._troubled_since_ns is None:
            self._troubled_since_ns = time.monotonic_ns()
        if self._status is not None:
            self._status = None
            self._refusal = ""
            if not self._resting:
                self.ask_again()
            self._on_change()


_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(dict(values))
    return struct


def _retry_s(progress: pb.Progress, default_s: float) -> float:
    return min(progress.retry_after_ms / 1000, RETRY_LAST_S) if progress.retry_after_ms else default_s
