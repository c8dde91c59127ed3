"""What several areas need: every call with good arguments."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import grpc
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.harness import Harness, Refused, struct

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
FORBIDDEN: Final = grpc.StatusCode.FAILED_PRECONDITION
UNSUPPORTED: Final = grpc.StatusCode.UNIMPLEMENTED
ABORTED: Final = grpc.StatusCode.ABORTED
DEADLINE: Final = grpc.StatusCode.DEADLINE_EXCEEDED
CANCELLED: Final = grpc.StatusCode.CANCELLED
UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE

# Each RPC of Component with the capability that it belongs to.
CALLS: Final[dict[str, tuple[Capability, ...]]] = {
    "Validate": (),
    "EnsureRole": (),
    "RenewLease": (Capability.GATE,),
    "Quiesce": (Capability.POSITION,),
    "Unquiesce": (Capability.POSITION,),
    "AwaitPosition": (Capability.POSITION,),
    "Assess": (Capability.RESYNC,),
    "Resync": (Capability.RESYNC,),
    "GetStatus": (),
}
MUTATING: Final = ("EnsureRole", "RenewLease", "Quiesce", "Unquiesce", "Resync")


def slug(call: str) -> str:
    """EnsureRole -> ensure-role."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in call).lstrip("-")


def active_peer(h: Harness) -> pb.Peer:
    """The peer as the active; one that is only named when there is none."""
    return h.peer_message(h.peer, "ACTIVE") if h.peer else pb.Peer(site="elsewhere", role=pb.ROLE_ACTIVE)


def second_components(h: Harness) -> tuple[pb.ComponentSpec, pb.ComponentSpec]:
    """Another component, and one of the same name in another group: with the parameters that share nothing."""
    specs = h.spec(), h.spec()
    specs[0].component = "sanity-second"
    specs[1].group = "sanity-second"
    for spec in specs:
        spec.parameters.CopyFrom(struct(h.config.second or {}))
    return specs


def request_of(h: Harness, call: str, epoch: int, role: str = "FENCED") -> Any:
    """A request that is well formed."""
    spec = h.spec()
    match call:
        case "Validate":
            return pb.ValidateRequest(spec=spec)
        case "EnsureRole":
            return h.request(role, epoch)
        case "RenewLease":
            return pb.RenewLeaseRequest(spec=spec, epoch=epoch, lease_deadline_ns=h.deadline())
        case "Quiesce":
            return pb.QuiesceRequest(spec=spec, epoch=epoch)
        case "Unquiesce":
            return pb.UnquiesceRequest(spec=spec, epoch=epoch)
        case "AwaitPosition":
            return pb.AwaitPositionRequest(spec=spec, position="1", timeout_ms=100)
        case "Assess":
            return pb.AssessRequest(spec=spec, active=active_peer(h))
        case "Resync":
            return pb.ResyncRequest(spec=spec, active=active_peer(h), epoch=epoch)
        case _:
            return pb.GetStatusRequest(spec=spec)


def facts(status: Any) -> tuple[Any, ...]:
    """What must not change by itself: role, epoch, whether it accepts, position."""
    return (status.role, status.epoch, status.accepting, status.position)


async def ended(call: Any) -> None:
    """Cancels a call in flight; its outcome does not matter here."""
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await call.code()


async def whatever(h: Harness, call: str, request: Any) -> None:
    """A call whose outcome does not matter here."""
    try:
        await h.site.call(call, request)
    except Refused:
        return
