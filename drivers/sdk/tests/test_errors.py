"""The error table of driver.proto, row by row, through a real socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from graf_driver_sdk import errors
from graf_driver_sdk.client import DriverCallError, DriverClient, Recovery
from graf_driver_sdk.testing import running, spec
from graf_driver_sdk.types import (
    Capability,
    EnsureRole,
    FieldProblem,
    Info,
    Peer,
    Progress,
    RenewLease,
    ResyncStrategy,
    Role,
    Verdict,
)
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

SPEC = spec()
PROBLEM = FieldProblem("serviceAddress", "'x' is no address", "e.g. 198.19.255.1/32")


def renewal(after_ns: int) -> RenewLease:
    return RenewLease(SPEC, 1, time.monotonic_ns() + after_ns)


@pytest.mark.parametrize(
    ("error", "code", "reason", "running_still", "recovery"),
    [
        (errors.InvalidParametersError([PROBLEM]), "INVALID_ARGUMENT", "invalid-parameters", False, Recovery.REPORT),
        (errors.PreconditionError("m"), "FAILED_PRECONDITION", "precondition", False, Recovery.DECIDE_ANEW),
        (errors.NeedsResyncError("m"), "FAILED_PRECONDITION", "needs-resync", False, Recovery.DECIDE_ANEW),
        (errors.NotActiveError("m"), "FAILED_PRECONDITION", "not-active", False, Recovery.DECIDE_ANEW),
        (errors.BusyError("m"), "ABORTED", "busy", True, Recovery.WAIT),
        (errors.UnsupportedError("m"), "UNIMPLEMENTED", "unsupported", False, Recovery.DO_WITHOUT),
        (errors.DriverError("m"), "INTERNAL", "driver-failed", True, Recovery.ROLE_UNKNOWN),
        (errors.DriverError("m", reason="own-word"), "INTERNAL", "own-word", True, Recovery.ROLE_UNKNOWN),
        (KeyError("m"), "INTERNAL", "unexpected", True, Recovery.ROLE_UNKNOWN),
    ],
)
async def test_each_error_reaches_the_caller_as_its_row_of_the_table(
    driver: Any, error: Exception, code: str, reason: str, running_still: bool, recovery: Recovery
) -> None:
    async def fails(request: Any) -> Progress:
        raise error

    driver.scripts["EnsureRole"] = fails
    async with running(driver) as client:
        with pytest.raises(DriverCallError) as failed:
            await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 1))
    got = failed.value
    assert (got.code.name, got.reason, got.could_still_be_running, got.recovery) == (
        code,
        reason,
        running_still,
        recovery,
    )
    if isinstance(error, errors.DriverError):
        assert error.could_still_be_running == got.could_still_be_running


async def test_unusable_parameters_name_every_field(driver: Any) -> None:
    problems = [PROBLEM, FieldProblem("localAs", "is missing", "e.g. 65010")]

    async def fails(request: Any) -> Progress:
        raise errors.InvalidParametersError(problems)

    driver.scripts["EnsureRole"] = fails
    driver.problems = problems
    async with running(driver) as client:
        assert await client.validate(SPEC) == tuple(problems)
        with pytest.raises(DriverCallError, match=r"serviceAddress: .*localAs: is missing") as failed:
            await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 1))
        assert failed.value.problems == tuple(problems)


async def test_more_problems_than_metadata_can_hold_still_arrive_as_an_error(driver: Any) -> None:
    async def fails(request: Any) -> Progress:
        raise errors.InvalidParametersError([FieldProblem(f"f{n}", "c" * 50, "x" * 50) for n in range(500)])

    driver.scripts["EnsureRole"] = fails
    async with running(driver) as client:
        with pytest.raises(DriverCallError) as failed:
            await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 1))
        assert failed.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failed.value.problems[0].field == "f0"


async def test_what_nobody_foresaw_is_internal_without_its_text_and_logged_with_it(driver: Any, log_of: Any) -> None:
    async def fails(request: Any) -> Progress:
        raise ZeroDivisionError("of the very special kind")

    driver.scripts["EnsureRole"] = fails
    log = log_of(driver)
    async with running(driver) as client:
        with pytest.raises(DriverCallError, match="ZeroDivisionError") as failed:
            await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 1))
        assert "special" not in str(failed.value)
        assert "Traceback" not in str(failed.value)
        assert await client.probe()
    assert "special" in log()
    assert "Traceback" in log()


OPTIONAL: dict[str, tuple[Capability, Callable[[DriverClient], Any]]] = {
    "RenewLease": (Capability.GATE, lambda c: c.renew_lease(renewal(10**9))),
    "Quiesce": (Capability.POSITION, lambda c: c.quiesce(SPEC, 1)),
    "Unquiesce": (Capability.POSITION, lambda c: c.unquiesce(SPEC, 1)),
    "AwaitPosition": (Capability.POSITION, lambda c: c.await_position(SPEC, "7", 10)),
    "Assess": (Capability.RESYNC, lambda c: c.assess(SPEC, Peer("west"))),
    "Resync": (Capability.RESYNC, lambda c: c.resync(SPEC, Peer("west"), ResyncStrategy.REBUILD, 1)),
}


@pytest.mark.parametrize("call", OPTIONAL)
async def test_a_capability_that_was_not_declared_is_unimplemented_and_never_reaches_the_driver(
    call: str, make_driver: Any
) -> None:
    capability, make_call = OPTIONAL[call]
    without, full = make_driver(frozenset(Capability) - {capability}), make_driver()
    async with running(without) as client:
        with pytest.raises(DriverCallError, match=capability.name) as refused:
            await make_call(client)
        assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
        assert without.calls == []
    async with running(full) as client:
        await make_call(client)
        assert full.calls == [call]


async def test_answers_arrive_as_they_were_given(driver: Any) -> None:
    async with running(driver) as client:
        assert await client.info() == Info("scripted.graf.dev", "1.0", driver.capabilities)
        assert (await client.probe()).ready
        assert (await client.quiesce(SPEC, 1)).position == "7"
        assert (await client.resync(SPEC, Peer("west"), ResyncStrategy.REBUILD, 1)).archive == "/archive/1"
        assert (await client.assess(SPEC, Peer("west"))).verdict is Verdict.CLEAN


async def test_a_position_is_not_given_before_the_quiesce_is_complete(driver: Any) -> None:
    from graf_driver_sdk.types import Quiesced

    async def unfinished(request: Any) -> Quiesced:
        return Quiesced(Progress.pending("three writes in flight"), "6")

    driver.scripts["Quiesce"] = unfinished
    async with running(driver) as client:
        assert (await client.quiesce(SPEC, 1)).position == ""


@pytest.mark.parametrize("name", ["", "UPPER", "a_b", "../etc", "a/b", "x" * 64, "-a"])
async def test_names_that_could_leave_the_state_directory_are_refused(driver: Any, name: str) -> None:
    async with running(driver) as client:
        for bad in (spec(group=name), spec(component=name), spec(site=name)):
            with pytest.raises(DriverCallError, match="is no name") as refused:
                await client.ensure_role(EnsureRole(bad, Role.FENCED, 1))
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert driver.calls == []


async def test_numbers_outside_the_contract_are_refused(driver: Any) -> None:
    async with running(driver) as client, grpc.aio.insecure_channel(client.endpoint) as channel:
        stub = driver_pb2_grpc.ComponentStub(channel)
        where = pb.ComponentSpec(group="g", component="c", site="s")
        for request in (
            pb.EnsureRoleRequest(spec=where, role=99, epoch=1),  # type: ignore[arg-type]
            pb.EnsureRoleRequest(spec=where, epoch=1),
            pb.EnsureRoleRequest(spec=where, role=pb.ROLE_STANDBY, epoch=1, synchronous_set=["east"]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.EnsureRole(request, timeout=5)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert driver.calls == []


@pytest.mark.parametrize(
    ("deadline_ns", "code"),
    [
        (0, "INVALID_ARGUMENT"),
        (time.time_ns(), "INVALID_ARGUMENT"),  # the wall clock would hold the gate open for decades
        (1, "FAILED_PRECONDITION"),  # long past
    ],
    ids=["none", "of the wall clock", "over"],
)
async def test_no_gate_is_opened_by_a_lease_that_is_over_or_of_another_clock(
    driver: Any, deadline_ns: int, code: str
) -> None:
    async with running(driver) as client:
        for call in (
            lambda: client.renew_lease(RenewLease(SPEC, 1, deadline_ns)),
            lambda: client.ensure_role(EnsureRole(SPEC, Role.ACTIVE, 1, lease_deadline_ns=deadline_ns)),
        ):
            with pytest.raises(DriverCallError) as refused:
                await call()
            assert refused.value.code.name == code
    assert driver.calls == []


async def test_a_driver_without_a_gate_needs_no_lease(make_driver: Any) -> None:
    async with running(make_driver(frozenset())) as client:
        assert (await client.ensure_role(EnsureRole(SPEC, Role.ACTIVE, 1))).completed


async def test_a_driver_that_is_not_there_is_unavailable_and_could_still_be_running(tmp_path: Any) -> None:
    async with DriverClient(f"unix:{tmp_path}/nobody.sock") as client:
        with pytest.raises(DriverCallError, match=r"nobody.sock cannot be reached") as failed:
            await client.status(SPEC)
        assert failed.value.code is grpc.StatusCode.UNAVAILABLE
        assert failed.value.could_still_be_running
