"""The newest common version is spoken; a driver that cannot do what is required is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from graf_driver_sdk import convert
from graf_driver_sdk.testing import running
from graf_driver_sdk.types import Capability, Info
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.versions import NotUsableError, agree, check


@pytest.mark.parametrize(
    ("offered", "spoken", "common"),
    [
        (["v1"], ("v1",), "v1"),
        (["v1", "v2"], ("v2", "v1"), "v2"),
        (["v1"], ("v2", "v1"), "v1"),  # an old driver below a new controller
        (["v2", "v1"], ("v1",), "v1"),  # a new driver below an old controller
        (["v3", "v2"], ("v2", "v1"), "v2"),
    ],
)
def test_the_newest_version_that_both_speak_is_taken(offered: list[str], spoken: tuple[str, ...], common: str) -> None:
    assert agree(offered, spoken) == common


@pytest.mark.parametrize("offered", [[], ["v0"], ["v3"]])
def test_a_driver_without_a_common_version_is_refused_with_the_versions_of_both(offered: list[str]) -> None:
    with pytest.raises(NotUsableError, match="this controller speaks v2, v1") as refused:
        agree(offered, ("v2", "v1"))
    assert refused.value.reason == "ContractVersion"


def test_a_missing_required_capability_is_refused_by_name() -> None:
    info = Info("x.graf.dev", "1", frozenset({Capability.GATE}))
    assert check(info, {Capability.GATE}) == "v1"
    with pytest.raises(NotUsableError, match="cannot POSITION, RESYNC") as refused:
        check(info, {Capability.GATE, Capability.RESYNC, Capability.POSITION})
    assert refused.value.reason == "MissingCapability"


def test_a_capability_of_a_later_contract_is_ignored() -> None:
    message = pb.GetInfoResponse(name="x.graf.dev", vendor_version="1", contract_versions=["v1"])
    message.capabilities.extend([pb.CAPABILITY_GATE, 99])  # type: ignore[list-item]
    info = convert.info_from_pb(message)
    assert info.capabilities == {Capability.GATE}
    assert check(info, {Capability.GATE}) == "v1"


async def test_the_client_refuses_a_driver_that_lacks_what_it_is_needed_for(make_driver: Any) -> None:
    async with running(make_driver(frozenset({Capability.POSITION}))) as client:
        assert await client.negotiate({Capability.POSITION}) == "v1"
        with pytest.raises(NotUsableError, match="cannot GATE"):
            await client.negotiate({Capability.GATE})
