"""DriverServer: serves a Driver by the contract, with everything that every driver must do alike.

The order of checks is the same for each mutating call: names and arguments, capability, lane, epoch (durable), driver.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import grpc

from graf_driver_sdk import convert
from graf_driver_sdk.calls import Calls, Context, clean_problem
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import (
    EpochStateError,
    InvalidParametersError,
    LeaseOverError,
    UnsupportedError,
)
from graf_driver_sdk.lanes import Lane, Lanes
from graf_driver_sdk.types import (
    Capability,
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Peer,
    Progress,
    RenewLease,
    ResyncStrategy,
    Role,
    Spec,
    Status,
)
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc
from graf_driver_sdk.watch import Watcher

# RFC 1123 label: what Kubernetes allows, and what may be part of a file's name.
NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# No lease is this long; a deadline beyond it was read from another clock, and would hold a gate open for ever.
LONGEST_LEASE_NS: Final = 60_000_000_000
_SHORTEST_RETRY_MS: Final = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Times of the server; the defaults are for production.

    Attributes:
        refresh_s: longest silence on a watch: a status is sent again as a sign of life.
        patience_s: how long reading a status may take before a watch tells it as unknown.
        longest_call_s: deadline of a call that brings none.
        grace_s: how long calls in flight may go on when the server stops.
    """

    refresh_s: float = 1.0
    patience_s: float = 1.0
    longest_call_s: float = 60.0
    grace_s: float = 2.0


class IdentityService(driver_pb2_grpc.IdentityServicer):
    """`graf.driver.v1.Identity`."""

    def __init__(self, driver: Driver, calls: Calls) -> None:
        self._driver = driver
        self._calls = calls

    async def GetInfo(  # noqa: N802, D102 - the contract's names
        self, request: pb.GetInfoRequest, context: Context
    ) -> pb.GetInfoResponse:
        return convert.info_to_pb(self._driver.info())

    async def Probe(  # noqa: N802, D102
        self, request: pb.ProbeRequest, context: Context
    ) -> pb.ProbeResponse:
        async def work() -> pb.ProbeResponse:
            readiness = await self._driver.probe()
            return pb.ProbeResponse(ready=readiness.ready, message=self._driver.redactor.clean(readiness.message))

        return await self._calls.answer("Probe", "the driver", context, work)


class ComponentService(driver_pb2_grpc.ComponentServicer):
    """`graf.driver.v1.Component`."""

    def __init__(self, driver: Driver, guard: EpochGuard, calls: Calls, limits: Limits) -> None:
        self._driver = driver
        self._guard = guard
        self._calls = calls
        self._lanes = Lanes()
        self._watcher = Watcher(driver.changed, self._observe, limits.refresh_s, limits.patience_s)
        # Of its own: threads of the driver that hang must not keep an epoch from the disk.
        self._disk = ThreadPoolExecutor(max_workers=2, thread_name_prefix="epoch")

    def close(self) -> None:
        """After the last call."""
        self._disk.shutdown(wait=True)

    async def Validate(  # noqa: N802, D102
        self, request: pb.ValidateRequest, context: Context
    ) -> pb.ValidateResponse:
        async def work() -> pb.ValidateResponse:
            spec, peers = self._spec(request.spec), self._peers(request.peers)
            problems = await self._driver.validate(spec, peers)
            cleaned = [clean_problem(problem, self._driver.redactor) for problem in problems]
            return pb.ValidateResponse(problems=[convert.problem_to_pb(problem) for problem in cleaned])

        return await self._calls.answer("Validate", _name(request), context, work)

    async def EnsureRole(  # noqa: N802, D102
        self, request: pb.EnsureRoleRequest, context: Context
    ) -> pb.EnsureRoleResponse:
        async def work() -> pb.EnsureRoleResponse:
            spec, peers = self._spec(request.spec), self._peers(request.peers)
            role = _member(Role, request.role, "role")
            _check_role(role, request)
            ensure = EnsureRole(
                spec, role, request.epoch, peers, frozenset(request.synchronous_set), request.lease_deadline_ns
            )
            with self._lanes.hold(spec.key, Lane.CHANGE, "EnsureRole"):
                await self._admit(spec.key, request.epoch)
                if role is Role.ACTIVE and Capability.GATE in self._driver.info().capabilities:
                    _check_lease("EnsureRole", spec.key, request.lease_deadline_ns)
                try:
                    progress = await self._driver.ensure_role(ensure)
                finally:
                    self._driver.notify(spec.key)
            return pb.EnsureRoleResponse(progress=self._progress(progress))

        return await self._calls.answer("EnsureRole", _name(request), context, work)

    async def RenewLease(  # noqa: N802, D102
        self, request: pb.RenewLeaseRequest, context: Context
    ) -> pb.RenewLeaseResponse:
        async def work() -> pb.RenewLeaseResponse:
            spec = self._spec(request.spec)
            self._require(Capability.GATE, "RenewLease")
            _check_epoch_given("RenewLease", request.epoch)
            with self._lanes.hold(spec.key, Lane.RENEW, "RenewLease"):
                await self._admit(spec.key, request.epoch)
                _check_lease("RenewLease", spec.key, request.lease_deadline_ns)
                is_open = await self._driver.renew_lease(RenewLease(spec, request.epoch, request.lease_deadline_ns))
            if not is_open:
                self._driver.notify(spec.key)
            return pb.RenewLeaseResponse(open=is_open)

        return await self._calls.answer("RenewLease", _name(request), context, work)

    async def Quiesce(  # noqa: N802, D102
        self, request: pb.QuiesceRequest, context: Context
    ) -> pb.QuiesceResponse:
        async def work() -> pb.QuiesceResponse:
            spec = self._spec(request.spec)
            self._require(Capability.POSITION, "Quiesce")
            _check_epoch_given("Quiesce", request.epoch)
            with self._lanes.hold(spec.key, Lane.CHANGE, "Quiesce"):
                await self._admit(spec.key, request.epoch)
                try:
                    quiesced = await self._driver.quiesce(spec, request.epoch)
                finally:
                    self._driver.notify(spec.key)
            # A position before the end is not final, and nobody may hand over by it.
            position = quiesced.position if quiesced.progress.completed else ""
            return pb.QuiesceResponse(progress=self._progress(quiesced.progress), position=position)

        return await self._calls.answer("Quiesce", _name(request), context, work)

    async def Unquiesce(  # noqa: N802, D102
        self, request: pb.UnquiesceRequest, context: Context
    ) -> pb.UnquiesceResponse:
        async def work() -> pb.UnquiesceResponse:
            spec = self._spec(request.spec)
            self._require(Capability.POSITION, "Unquiesce")
            _check_epoch_given("Unquiesce", request.epoch)
            with self._lanes.hold(spec.key, Lane.CHANGE, "Unquiesce"):
                await self._admit(spec.key, request.epoch)
                try:
                    progress = await self._driver.unquiesce(spec, request.epoch)
                finally:
                    self._driver.notify(spec.key)
            return pb.UnquiesceResponse(progress=self._progress(progress))

        return await self._calls.answer("Unquiesce", _name(request), context, work)

    async def AwaitPosition(  # noqa: N802, D102
        self, request: pb.AwaitPositionRequest, context: Context
    ) -> pb.AwaitPositionResponse:
        async def work() -> pb.AwaitPositionResponse:
            spec = self._spec(request.spec)
            self._require(Capability.POSITION, "AwaitPosition")
            answer = await self._driver.await_position(spec, request.position, request.timeout_ms)
            return pb.AwaitPositionResponse(
                reached=answer.reached, position=answer.position, message=self._clean(answer.message)
            )

        return await self._calls.answer("AwaitPosition", _name(request), context, work)

    async def Assess(  # noqa: N802, D102
        self, request: pb.AssessRequest, context: Context
    ) -> pb.AssessResponse:
        async def work() -> pb.AssessResponse:
            spec = self._spec(request.spec)
            self._require(Capability.RESYNC, "Assess")
            assessment = await self._driver.assess(spec, self._active(request.active))
            return convert.assessment_to_pb(dataclasses.replace(assessment, message=self._clean(assessment.message)))

        return await self._calls.answer("Assess", _name(request), context, work)

    async def Resync(  # noqa: N802, D102
        self, request: pb.ResyncRequest, context: Context
    ) -> pb.ResyncResponse:
        async def work() -> pb.ResyncResponse:
            spec, active = self._spec(request.spec), self._active(request.active)
            self._require(Capability.RESYNC, "Resync")
            strategy = _member(ResyncStrategy, request.strategy, "strategy")
            with self._lanes.hold(spec.key, Lane.CHANGE, "Resync"):
                await self._admit(spec.key, request.epoch)
                try:
                    resynced = await self._driver.resync(spec, active, strategy, request.epoch)
                finally:
                    self._driver.notify(spec.key)
            return pb.ResyncResponse(progress=self._progress(resynced.progress), archive=resynced.archive)

        return await self._calls.answer("Resync", _name(request), context, work)

    async def GetStatus(  # noqa: N802, D102
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.ComponentStatus:
        async def work() -> pb.ComponentStatus:
            return convert.status_to_pb(await self._observe(self._spec(request.spec)))

        return await self._calls.answer("GetStatus", _name(request), context, work)

    async def WatchStatus(  # noqa: N802, D102
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.ComponentStatus]:
        async def work() -> Spec:
            return self._spec(request.spec)

        spec = await self._calls.answer("WatchStatus", _name(request), context, work)
        statuses = self._watcher.statuses(spec)
        try:
            async for status in statuses:
                yield convert.status_to_pb(dataclasses.replace(status, message=self._clean(status.message)))
        finally:
            await statuses.aclose()

    async def _observe(self, spec: Spec) -> Status:
        """The driver's status with the guard's epoch; a corrupt guard makes it unpromotable and says so."""
        asked_at_ns = time.monotonic_ns()
        status = await self._driver.status(spec)
        epoch, facts, reason, promotable = 0, dict(status.facts), status.promotable_reason, status.promotable
        try:
            epoch = self._guard.highest(spec.key.group, spec.key.component)
        except EpochStateError as error:
            facts["epoch_guard"] = reason = str(error)
            promotable = False
        return dataclasses.replace(
            status,
            epoch=epoch,
            observed_at_ns=status.observed_at_ns or asked_at_ns,
            promotable=promotable,
            promotable_reason=self._clean(reason),
            message=self._clean(status.message),
            facts={name: self._clean(str(value)) for name, value in facts.items()},
        )

    async def _admit(self, key: ComponentKey, epoch: int) -> None:
        """The epoch guard, on the disk's own threads unless there is nothing to read or write."""
        if self._guard.known(key.group, key.component) == epoch:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._guard.admit, key.group, key.component, epoch)

    def _spec(self, message: pb.ComponentSpec) -> Spec:
        spec = convert.spec_from_pb(message)
        self._driver.redactor.learn(spec.parameters)
        names = {"group": spec.key.group, "component": spec.key.component, "site": spec.key.site}
        problems = [
            FieldProblem(field, f"{name!r} is no name", "lower-case letters, digits and dashes, at most 63")
            for field, name in names.items()
            if not NAME.fullmatch(name)
        ]
        if problems:
            raise InvalidParametersError(problems, "the names in spec")
        return spec

    def _peers(self, messages: Any) -> tuple[Peer, ...]:
        for message in messages:
            _member(Role, message.role, "peers.role")
        peers = convert.peers_from_pb(messages)
        for peer in peers:
            self._driver.redactor.learn(peer.parameters)
        return peers

    def _active(self, message: pb.Peer) -> Peer:
        if not message.site:
            raise _bad_argument("active.site", "is missing", "name the site that is active")
        return self._peers([message])[0]

    def _require(self, capability: Capability, call: str) -> None:
        info = self._driver.info()
        if capability not in info.capabilities:
            raise UnsupportedError(
                f"{call} is not supported by driver {info.name}: it declares no capability {capability.name}. "
                f"Nothing was done; do without it"
            )

    def _progress(self, progress: Progress) -> pb.Progress:
        retry = 0 if progress.completed else max(_SHORTEST_RETRY_MS, progress.retry_after_ms)
        return convert.progress_to_pb(Progress(progress.completed, retry, self._clean(progress.message)))

    def _clean(self, text: str) -> str:
        return self._driver.redactor.clean(text)


class DriverServer:
    """A driver on an address. `start` and `stop` once each, on the same event loop."""

    def __init__(
        self,
        driver: Driver,
        guard: EpochGuard,
        address: str,
        limits: Limits | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """`address` is gRPC's: `unix:/path/to.sock` or `127.0.0.1:port`; with credentials it is served with TLS."""
        self._driver = driver
        self._limits = limits or Limits()
        calls = Calls(driver.redactor, self._limits.longest_call_s)
        self._component = ComponentService(driver, guard, calls, self._limits)
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        driver_pb2_grpc.add_IdentityServicer_to_server(IdentityService(driver, calls), self._server)
        driver_pb2_grpc.add_ComponentServicer_to_server(self._component, self._server)
        self._address, self._credentials = address, credentials

    async def start(self) -> None:
        """Starts the driver, then serves.

        Raises:
            RuntimeError: the address cannot be listened on.
            DriverError: the driver cannot start.
        """
        await self._driver.start()
        try:
            if self._credentials is None:
                self._server.add_insecure_port(self._address)
            else:
                self._server.add_secure_port(self._address, self._credentials)
            await self._server.start()
        except BaseException:
            await self._driver.close()
            raise

    async def stop(self) -> None:
        """Ends watches, lets calls in flight end within the grace, then closes the driver. The component goes on."""
        self._driver.changed.close()
        await self._server.stop(self._limits.grace_s)
        await self._driver.close()
        self._component.close()


def _name(request: Any) -> str:
    spec = request.spec
    return f"{spec.group}/{spec.component}@{spec.site}"


def _bad_argument(field: str, cause: str, fix: str) -> InvalidParametersError:
    return InvalidParametersError([FieldProblem(field, cause, fix)], "the arguments")


def _member(kind: Any, number: int, field: str) -> Any:
    try:
        return kind(number)
    except ValueError:
        known = ", ".join(member.name for member in kind)
        raise _bad_argument(field, f"{number} is not known to this driver", f"one of {known}") from None


def _check_role(role: Role, request: pb.EnsureRoleRequest) -> None:
    if role is Role.UNSPECIFIED:
        raise _bad_argument("role", "is missing", "ACTIVE, STANDBY, FENCED or INVALIDATED")
    if role is Role.ACTIVE:
        _check_epoch_given("EnsureRole(ACTIVE)", request.epoch)
    elif request.synchronous_set:
        raise _bad_argument("synchronous_set", f"has no meaning for {role.name}", "give it only with ACTIVE")


def _check_epoch_given(call: str, epoch: int) -> None:
    if epoch == 0:
        raise _bad_argument("epoch", f"{call} needs one", "the epoch that was won, from 1")


def _check_lease(call: str, key: ComponentKey, deadline_ns: int) -> None:
    left_ns = deadline_ns - time.monotonic_ns()
    if deadline_ns <= 0 or left_ns > LONGEST_LEASE_NS:
        raise _bad_argument(
            "lease_deadline_ns",
            f"{deadline_ns} is no end of a lease on this machine's CLOCK_MONOTONIC",
            "nanoseconds of CLOCK_MONOTONIC (not of the wall clock) on the machine of the driver, at most 60 s ahead",
        )
    if left_ns <= 0:
        raise LeaseOverError(
            f"{call} of {key} came {-left_ns // 1_000_000} ms after the end of its lease: nothing was opened. "
            f"Renew the lease with the voters, then call again"
        )
