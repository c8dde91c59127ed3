"""DriverClient: calls one driver. Used by the GRAF controller and by tests.

Every call has a deadline, and every failure is a `DriverCallError` that answers the only question that matters to the
caller: could it still be running? An answer that makes no sense is a failure too.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError

from graf_driver_sdk import convert, versions
from graf_driver_sdk.calls import EPOCH_KEY, PROBLEMS_KEY, REASON_KEY
from graf_driver_sdk.listen import socket_path
from graf_driver_sdk.tls import ClientTls
from graf_driver_sdk.types import (
    Assessment,
    Capability,
    EnsureRole,
    FieldProblem,
    Info,
    Peer,
    PositionReached,
    Progress,
    Quiesced,
    Readiness,
    RenewLease,
    Resynced,
    ResyncStrategy,
    Spec,
    Status,
)
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

T = TypeVar("T")

# gRPC's own backoff starts at 1 s and grows to 120 s: far too slow for a driver that restarts on the same machine.
CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)
_RECONNECT_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)


class Recovery(enum.Enum):
    """What the caller does next; the last column of the table in driver.proto."""

    REPORT = "report; do not retry"
    DECIDE_ANEW = "read the status again and decide anew"
    WAIT = "wait for the other call, then call again"
    ROLE_UNKNOWN = "treat the role as Unknown"
    DO_WITHOUT = "do without it"


# Code -> (what to do, could it still be running?). Every other code: (ROLE_UNKNOWN, True).
TABLE: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: (Recovery.REPORT, False),
    grpc.StatusCode.FAILED_PRECONDITION: (Recovery.DECIDE_ANEW, False),
    grpc.StatusCode.ABORTED: (Recovery.WAIT, True),
    grpc.StatusCode.UNIMPLEMENTED: (Recovery.DO_WITHOUT, False),
}


class DriverCallError(Exception):
    """A call that failed.

    Attributes:
        call: the RPC.
        code: the gRPC status; INTERNAL for an answer that makes no sense.
        reason: the driver's word for machines, e.g. "stale-epoch"; "" when the driver gave none.
        problems: fields that cannot be used (INVALID_ARGUMENT).
        highest_epoch: what the driver has seen (stale epoch), else 0.
        could_still_be_running: whether the call's effect may yet happen.
        recovery: what to do.
    """

    def __init__(
        self,
        call: str,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        problems: Sequence[FieldProblem] = (),
        highest_epoch: int = 0,
    ) -> None:
        super().__init__(f"{call}: {code.name}: {message}")
        self.call = call
        self.code = code
        self.message = message
        self.reason = reason
        self.problems = tuple(problems)
        self.highest_epoch = highest_epoch
        self.recovery, self.could_still_be_running = TABLE.get(code, (Recovery.ROLE_UNKNOWN, True))


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds each call may take unless the call says otherwise."""

    info_s: float = 1.0
    validate_s: float = 5.0
    ensure_role_s: float = 5.0
    renew_lease_s: float = 0.5
    quiesce_s: float = 5.0
    assess_s: float = 10.0
    resync_s: float = 10.0
    status_s: float = 1.0
    # A watch repeats its status every second; this much silence is a driver that hangs.
    watch_silence_s: float = 3.0


class DriverClient:
    """One driver, at one address. The channel connects when it is first used and again whenever it must."""

    def __init__(self, endpoint: str, deadlines: Deadlines | None = None, tls: ClientTls | None = None) -> None:
        """`endpoint` is `unix:/path`, `/path`, or `host:port`; `tls` is for the last one."""
        path = socket_path(endpoint)
        self.endpoint = f"unix:{path}" if path is not None else endpoint
        self.deadlines = deadlines or Deadlines()
        self._channel = (
            grpc.aio.insecure_channel(self.endpoint, options=CHANNEL_OPTIONS)
            if tls is None or path is not None
            else tls.open(self.endpoint, CHANNEL_OPTIONS)
        )
        self._identity = driver_pb2_grpc.IdentityStub(self._channel)
        self._component = driver_pb2_grpc.ComponentStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what is in flight and closes the channel."""
        await self._channel.close()

    async def info(self, timeout_s: float | None = None) -> Info:
        """Identity.GetInfo."""
        return await self._call(
            "GetInfo",
            self._identity.GetInfo,
            pb.GetInfoRequest(),
            timeout_s or self.deadlines.info_s,
            convert.info_from_pb,
        )

    async def negotiate(self, required: Iterable[Capability] = (), timeout_s: float | None = None) -> str:
        """The newest contract version that both sides speak.

        Raises:
            NotUsableError: there is none, or the driver does not declare a capability that is required.
        """
        return versions.check(await self.info(timeout_s), required)

    async def probe(self, timeout_s: float | None = None) -> Readiness:
        """Identity.Probe."""
        return await self._call(
            "Probe",
            self._identity.Probe,
            pb.ProbeRequest(),
            timeout_s or self.deadlines.info_s,
            lambda answer: Readiness(answer.ready, answer.message),
        )

    async def validate(
        self, spec: Spec, peers: Iterable[Peer] = (), timeout_s: float | None = None
    ) -> tuple[FieldProblem, ...]:
        """Component.Validate: every problem, none when usable."""
        request = pb.ValidateRequest(spec=convert.spec_to_pb(spec), peers=[convert.peer_to_pb(peer) for peer in peers])
        return await self._call(
            "Validate",
            self._component.Validate,
            request,
            timeout_s or self.deadlines.validate_s,
            lambda answer: tuple(convert.problem_from_pb(problem) for problem in answer.problems),
        )

    async def ensure_role(self, request: EnsureRole, timeout_s: float | None = None) -> Progress:
        """Component.EnsureRole. `synchronous_set` is refused for roles other than ACTIVE."""
        message = pb.EnsureRoleRequest(
            spec=convert.spec_to_pb(request.spec),
            role=convert.role_to_pb(request.role),
            epoch=request.epoch,
            peers=[convert.peer_to_pb(peer) for peer in request.peers],
            synchronous_set=sorted(request.synchronous_set),
            lease_deadline_ns=request.lease_deadline_ns,
        )
        return await self._call(
            "EnsureRole",
            self._component.EnsureRole,
            message,
            timeout_s or self.deadlines.ensure_role_s,
            _progress,
        )

    async def renew_lease(self, request: RenewLease, timeout_s: float | None = None) -> bool:
        """Component.RenewLease: false when the gate had shut."""
        message = pb.RenewLeaseRequest(
            spec=convert.spec_to_pb(request.spec), epoch=request.epoch, lease_deadline_ns=request.lease_deadline_ns
        )
        return await self._call(
            "RenewLease",
            self._component.RenewLease,
            message,
            timeout_s or self.deadlines.renew_lease_s,
            lambda answer: bool(answer.open),
        )

    async def quiesce(self, spec: Spec, epoch: int, timeout_s: float | None = None) -> Quiesced:
        """Component.Quiesce."""
        return await self._call(
            "Quiesce",
            self._component.Quiesce,
            pb.QuiesceRequest(spec=convert.spec_to_pb(spec), epoch=epoch),
            timeout_s or self.deadlines.quiesce_s,
            lambda answer: Quiesced(_progress(answer), answer.position),
        )

    async def unquiesce(self, spec: Spec, epoch: int, timeout_s: float | None = None) -> Progress:
        """Component.Unquiesce."""
        return await self._call(
            "Unquiesce",
            self._component.Unquiesce,
            pb.UnquiesceRequest(spec=convert.spec_to_pb(spec), epoch=epoch),
            timeout_s or self.deadlines.quiesce_s,
            _progress,
        )

    async def await_position(
        self, spec: Spec, position: str, timeout_ms: int, timeout_s: float | None = None
    ) -> PositionReached:
        """Component.AwaitPosition; by default the deadline is half a second after `timeout_ms`."""
        return await self._call(
            "AwaitPosition",
            self._component.AwaitPosition,
            pb.AwaitPositionRequest(spec=convert.spec_to_pb(spec), position=position, timeout_ms=timeout_ms),
            timeout_s or timeout_ms / 1000 + 0.5,
            lambda answer: PositionReached(answer.reached, answer.position, answer.message),
        )

    async def assess(self, spec: Spec, active: Peer, timeout_s: float | None = None) -> Assessment:
        """Component.Assess."""
        return await self._call(
            "Assess",
            self._component.Assess,
            pb.AssessRequest(spec=convert.spec_to_pb(spec), active=convert.peer_to_pb(active)),
            timeout_s or self.deadlines.assess_s,
            convert.assessment_from_pb,
        )

    async def resync(
        self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int, timeout_s: float | None = None
    ) -> Resynced:
        """Component.Resync."""
        request = pb.ResyncRequest(
            spec=convert.spec_to_pb(spec),
            active=convert.peer_to_pb(active),
            strategy=convert.strategy_to_pb(strategy),
            epoch=epoch,
        )
        return await self._call(
            "Resync",
            self._component.Resync,
            request,
            timeout_s or self.deadlines.resync_s,
            lambda answer: Resynced(_progress(answer), answer.archive),
        )

    async def status(self, spec: Spec, timeout_s: float | None = None) -> Status:
        """Component.GetStatus."""
        return await self._call(
            "GetStatus",
            self._component.GetStatus,
            pb.GetStatusRequest(spec=convert.spec_to_pb(spec)),
            timeout_s or self.deadlines.status_s,
            convert.status_from_pb,
        )

    async def watch(self, spec: Spec) -> AsyncGenerator[Status | DriverCallError, None]:
        """Component.WatchStatus, for ever: each status, and each time that the driver was lost.

        A `DriverCallError` among the items says that nothing is known from now on; it is given once per loss, at
        once, and a status follows when the driver is back. Errors that no retry mends (INVALID_ARGUMENT) are raised.
        """
        lost = 0
        while True:
            try:
                async for status in self._watch_once(spec):
                    lost = 0
                    yield status
                raise DriverCallError("WatchStatus", grpc.StatusCode.UNAVAILABLE, "the driver ended the stream")
            except DriverCallError as error:
                if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                    raise
                if lost == 0:
                    yield error
                await asyncio.sleep(_RECONNECT_S[min(lost, len(_RECONNECT_S) - 1)])
                lost += 1

    async def _watch_once(self, spec: Spec) -> AsyncGenerator[Status, None]:
        stream = self._component.WatchStatus(pb.WatchStatusRequest(spec=convert.spec_to_pb(spec)))
        silence_s = self.deadlines.watch_silence_s
        try:
            while True:
                try:
                    async with asyncio.timeout(silence_s):
                        message = await stream.read()
                except TimeoutError as error:
                    raise DriverCallError(
                        "WatchStatus",
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                        f"no sign of life from {self.endpoint} for {silence_s:g} s: the driver hangs",
                    ) from error
                except grpc.aio.AioRpcError as error:
                    raise _failed("WatchStatus", self.endpoint, error) from error
                if message is grpc.aio.EOF:
                    return
                yield self._understood("WatchStatus", convert.status_from_pb, message)
        finally:
            stream.cancel()

    async def _call(self, name: str, method: Any, request: Any, timeout_s: float, understand: Callable[[Any], T]) -> T:
        try:
            answer = await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _failed(name, self.endpoint, error) from error
        return self._understood(name, understand, answer)

    def _understood(self, name: str, understand: Callable[[Any], T], answer: Any) -> T:
        try:
            return understand(answer)
        except ValueError as error:
            raise DriverCallError(
                name,
                grpc.StatusCode.INTERNAL,
                f"the driver at {self.endpoint} gave an answer that makes no sense: {error}",
                reason="nonsense-answer",
            ) from error


def _progress(answer: Any) -> Progress:
    if not answer.HasField("progress"):
        raise ValueError("an answer without progress")
    return convert.progress_from_pb(answer.progress)


def _failed(name: str, endpoint: str, error: grpc.aio.AioRpcError) -> DriverCallError:
    code = error.code()
    message = error.details() or "no details"
    if code is grpc.StatusCode.UNAVAILABLE:
        message = f"the driver at {endpoint} cannot be reached: {message}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"no answer from the driver at {endpoint} in time: {message}"
    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())
    return DriverCallError(
        name,
        code,
        message,
        reason=str(metadata.get(REASON_KEY, "")),
        problems=_problems(metadata.get(PROBLEMS_KEY, b"")),
        highest_epoch=_number(metadata.get(EPOCH_KEY, "0")),
    )


def _problems(content: bytes) -> tuple[FieldProblem, ...]:
    try:
        return tuple(convert.problem_from_pb(problem) for problem in pb.ValidateResponse.FromString(content).problems)
    except DecodeError:
        return ()  # the message says the same for people


def _number(text: Any) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
