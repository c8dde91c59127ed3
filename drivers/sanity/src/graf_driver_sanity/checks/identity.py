"""GetInfo and Probe."""

from __future__ import annotations

import re

from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import CALLS, UNSUPPORTED, facts, request_of, slug
from graf_driver_sanity.harness import Harness, Refused
from graf_driver_sanity.registry import CannotCheck, check, expect


@check("identity-name", "GD-INFO-001")
async def name(h: Harness) -> None:
    """GetInfo gives a DNS name and a version."""
    info = await h.site.call("GetInfo", pb.GetInfoRequest())
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    expect(re.fullmatch(rf"{label}(\.{label})+", info.name) is not None, f"name {info.name!r} is no DNS name")
    expect(bool(info.vendor_version), "vendor_version is empty")


@check("identity-constant", "GD-INFO-002")
async def constant(h: Harness) -> None:
    """GetInfo gives the same ten times, whatever the role."""
    first = await h.site.call("GetInfo", pb.GetInfoRequest())
    for role in ("FENCED", "ACTIVE"):
        await h.reach(role)
        for _ in range(5):
            again = await h.site.call("GetInfo", pb.GetInfoRequest())
            expect(again == first, f"first {first}, later as {role} {again}")


@check("identity-contract-version", "GD-INFO-003")
async def contract_version(h: Harness) -> None:
    """GetInfo lists contract version v1."""
    info = await h.site.call("GetInfo", pb.GetInfoRequest())
    expect("v1" in info.contract_versions, f"contract_versions is {list(info.contract_versions)}")


@check("identity-capabilities", "GD-INFO-003", "GD-INFO-005")
async def capabilities(h: Harness) -> None:
    """Capabilities are listed once each, without UNSPECIFIED."""
    listed = list((await h.site.call("GetInfo", pb.GetInfoRequest())).capabilities)
    expect(0 not in listed and len(set(listed)) == len(listed), f"capabilities are {listed}")


@check("identity-probe", "GD-INFO-006")
async def probe(h: Harness) -> None:
    """Probe becomes ready, and says why while it is not."""

    async def ready() -> bool:
        answer = await h.site.call("Probe", pb.ProbeRequest(), h.budget.status_s)
        expect(answer.ready or bool(answer.message), "not ready, without a message")
        return bool(answer.ready)

    await h.eventually("Probe is ready", ready, h.budget.start_s)


def _refused(call: str, capability: Capability) -> None:
    @check(
        f"identity-undeclared-{slug(call)}",
        "GD-INFO-004",
        sentence=f"{call} is refused with UNIMPLEMENTED when {capability.name} is not declared, and nothing is done.",
    )
    async def body(h: Harness) -> None:
        if capability in h.capabilities:
            raise CannotCheck(f"the driver declares {capability.name}")
        before = await h.status()
        await h.refusal(call, request_of(h, call, h.next_epoch()), UNSUPPORTED)
        after = await h.status()
        expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


def _served(call: str, capability: Capability) -> None:
    @check(
        f"identity-declared-{slug(call)}",
        "GD-INFO-005",
        capabilities=(capability,),
        sentence=f"{call} is served when {capability.name} is declared.",
    )
    async def body(h: Harness) -> None:
        await h.reach("FENCED" if call in ("Assess", "Resync") else "ACTIVE")
        try:
            await h.site.call(call, request_of(h, call, h.epoch))
        except Refused as refused:
            expect(refused.code is not UNSUPPORTED, str(refused))


for _call, _needed in CALLS.items():
    for _capability in _needed:
        _refused(_call, _capability)
        _served(_call, _capability)
