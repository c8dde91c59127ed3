"""The plain types say the same as the contract."""

from __future__ import annotations

from typing import Any

import pytest
from graf_driver_sdk import convert, types
from graf_driver_sdk.v1 import driver_pb2 as pb


@pytest.mark.parametrize(
    ("plain", "wire"),
    [
        (types.Role, pb.Role),
        (types.Health, pb.Health),
        (types.Capability, pb.Capability),
        (types.Verdict, pb.Verdict),
        (types.ResyncStrategy, pb.ResyncStrategy),
    ],
)
def test_enums_have_the_names_and_numbers_of_the_contract(plain: Any, wire: Any) -> None:
    prefix = wire.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    assert {prefix + member.name: int(member) for member in plain} == dict(wire.items())


def test_a_status_survives_the_wire_with_every_field() -> None:
    status = types.Status(
        role=types.Role.ACTIVE,
        health=types.Health.INITIALISING,
        epoch=2**40,
        observed_at_ns=123,
        accepting=True,
        position="0-20-7",
        lag_seconds=0.5,
        lag_transactions=-1,
        promotable=True,
        promotable_reason="r",
        synchronous_set=frozenset({"east", "west"}),
        followers=(types.Follower("west", True, False, 12),),
        message="m",
        facts={"a": "b"},
        predicted_activation_ms=-1,
        predicted_reach_ms=5000,
    )
    message = convert.status_to_pb(status)
    assert {field.name for field, _ in message.ListFields()} == set(message.DESCRIPTOR.fields_by_name)
    assert convert.status_from_pb(pb.ComponentStatus.FromString(message.SerializeToString())) == status


def test_parameters_survive_the_wire_with_numbers_as_floats() -> None:
    parameters = {"a": "x", "b": 3306.0, "c": True, "d": None, "e": ["x", {"y": [1.0]}], "f": {}}
    spec = types.Spec(types.ComponentKey("g", "c", "s"), parameters)
    assert convert.spec_from_pb(convert.spec_to_pb(spec)) == spec


def test_the_active_peer_is_known_only_when_there_is_exactly_one() -> None:
    def request(*roles: types.Role) -> types.EnsureRole:
        peers = tuple(types.Peer(f"s{n}", role) for n, role in enumerate(roles))
        return types.EnsureRole(types.Spec(types.ComponentKey("g", "c", "s")), types.Role.STANDBY, 1, peers)

    active, standby = types.Role.ACTIVE, types.Role.STANDBY
    assert request(standby, active).active_peer == types.Peer("s1", active)
    assert request(standby).active_peer is None
    assert request(active, active).active_peer is None
