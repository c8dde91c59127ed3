"""Between the contract's messages and the plain types. Pure.

Reading is strict: a number that is no member of its enum raises ValueError, so nonsense is seen where it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import struct_pb2

from graf_driver_sdk import types
from graf_driver_sdk.v1 import driver_pb2 as pb

U32_MAX = 2**32 - 1


def struct_to_pb(parameters: Mapping[str, Any]) -> struct_pb2.Struct:
    """Parameters as a Struct; numbers become doubles."""
    struct = struct_pb2.Struct()
    struct.update(dict(parameters))
    return struct


def struct_from_pb(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as plain dicts, lists, texts, floats, booleans and None."""
    return {name: _value_from_pb(value) for name, value in struct.fields.items()}


def _value_from_pb(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return struct_from_pb(value.struct_value)
        case "list_value":
            return [_value_from_pb(item) for item in value.list_value.values]
        case None | "null_value":
            return None
        case kind:
            return getattr(value, kind)


def spec_to_pb(spec: types.Spec) -> pb.ComponentSpec:
    """Spec as a message."""
    key = spec.key
    return pb.ComponentSpec(
        group=key.group, component=key.component, site=key.site, parameters=struct_to_pb(spec.parameters)
    )


def spec_from_pb(message: pb.ComponentSpec) -> types.Spec:
    """Spec from a message; names are not checked here."""
    key = types.ComponentKey(message.group, message.component, message.site)
    return types.Spec(key, struct_from_pb(message.parameters))


def peer_to_pb(peer: types.Peer) -> pb.Peer:
    """Peer as a message."""
    return pb.Peer(site=peer.site, role=_enum(peer.role), parameters=struct_to_pb(peer.parameters))


def peer_from_pb(message: pb.Peer) -> types.Peer:
    """Peer from a message."""
    return types.Peer(message.site, types.Role(message.role), struct_from_pb(message.parameters))


def peers_from_pb(messages: Iterable[pb.Peer]) -> tuple[types.Peer, ...]:
    """Peers from messages."""
    return tuple(peer_from_pb(message) for message in messages)


def info_to_pb(info: types.Info) -> pb.GetInfoResponse:
    """Info as a message."""
    return pb.GetInfoResponse(
        name=info.name,
        vendor_version=info.vendor_version,
        capabilities=[_enum(capability) for capability in sorted(info.capabilities)],
        contract_versions=info.contract_versions,
    )


def info_from_pb(message: pb.GetInfoResponse) -> types.Info:
    """Info from a message. A capability that this side does not know yet is left out: it cannot be used."""
    known = {int(capability) for capability in types.Capability}
    return types.Info(
        message.name,
        message.vendor_version,
        frozenset(types.Capability(number) for number in message.capabilities if number in known),
        tuple(message.contract_versions),
    )


def problem_to_pb(problem: types.FieldProblem) -> pb.FieldProblem:
    """FieldProblem as a message."""
    return pb.FieldProblem(field=problem.field, cause=problem.cause, fix=problem.fix)


def problem_from_pb(message: pb.FieldProblem) -> types.FieldProblem:
    """FieldProblem from a message."""
    return types.FieldProblem(message.field, message.cause, message.fix)


def progress_to_pb(progress: types.Progress) -> pb.Progress:
    """Progress as a message."""
    return pb.Progress(
        completed=progress.completed, retry_after_ms=_u32(progress.retry_after_ms), message=progress.message
    )


def progress_from_pb(message: pb.Progress) -> types.Progress:
    """Progress from a message."""
    return types.Progress(message.completed, message.retry_after_ms, message.message)


def assessment_to_pb(assessment: types.Assessment) -> pb.AssessResponse:
    """Assessment as a message."""
    return pb.AssessResponse(
        verdict=_enum(assessment.verdict),
        local_position=assessment.local_position,
        active_position=assessment.active_position,
        divergent=assessment.divergent,
        message=assessment.message,
    )


def assessment_from_pb(message: pb.AssessResponse) -> types.Assessment:
    """Assessment from a message. No verdict at all is nonsense."""
    verdict = types.Verdict(message.verdict)
    if verdict is types.Verdict.UNSPECIFIED:
        raise ValueError("an assessment without a verdict")
    return types.Assessment(
        verdict, message.local_position, message.active_position, message.divergent, message.message
    )


def status_to_pb(status: types.Status) -> pb.ComponentStatus:
    """Status as a message."""
    return pb.ComponentStatus(
        role=_enum(status.role),
        health=_enum(status.health),
        epoch=status.epoch,
        observed_at_ns=status.observed_at_ns,
        accepting=status.accepting,
        position=status.position,
        lag_seconds=status.lag_seconds,
        lag_transactions=status.lag_transactions,
        promotable=status.promotable,
        promotable_reason=status.promotable_reason,
        synchronous_set=sorted(status.synchronous_set),
        followers=[
            pb.Follower(
                site=follower.site,
                connected=follower.connected,
                acknowledging=follower.acknowledging,
                stalled_ms=_u32(follower.stalled_ms),
            )
            for follower in status.followers
        ],
        message=status.message,
        facts=dict(status.facts),
        predicted_activation_ms=status.predicted_activation_ms,
        predicted_reach_ms=status.predicted_reach_ms,
    )


def status_from_pb(message: pb.ComponentStatus) -> types.Status:
    """Status from a message. No health at all is nonsense: a driver that cannot tell says UNKNOWN."""
    health = types.Health(message.health)
    if health is types.Health.UNSPECIFIED:
        raise ValueError("a status without a health")
    return types.Status(
        role=types.Role(message.role),
        health=health,
        epoch=message.epoch,
        observed_at_ns=message.observed_at_ns,
        accepting=message.accepting,
        position=message.position,
        lag_seconds=message.lag_seconds,
        lag_transactions=message.lag_transactions,
        promotable=message.promotable,
        promotable_reason=message.promotable_reason,
        synchronous_set=frozenset(message.synchronous_set),
        followers=tuple(types.Follower(f.site, f.connected, f.acknowledging, f.stalled_ms) for f in message.followers),
        message=message.message,
        facts=dict(message.facts),
        predicted_activation_ms=message.predicted_activation_ms,
        predicted_reach_ms=message.predicted_reach_ms,
    )


def role_to_pb(role: types.Role) -> Any:
    """Role as the stubs' enum."""
    return _enum(role)


def strategy_to_pb(strategy: types.ResyncStrategy) -> Any:
    """ResyncStrategy as the stubs' enum."""
    return _enum(strategy)


def _enum(value: int) -> Any:
    """The number, typed for the stubs: the enums of both sides have the same numbers."""
    return int(value)


def _u32(value: int) -> int:
    return max(0, min(int(value), U32_MAX))
