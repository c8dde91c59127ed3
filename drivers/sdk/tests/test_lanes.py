"""One mutating call in flight per component; a renewal never waits behind a slow change; deadlines really end calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.client import DriverCallError, Recovery
from graf_driver_sdk.server import Limits
from graf_driver_sdk.testing import eventually, running, spec
from graf_driver_sdk.types import EnsureRole, Peer, Progress, RenewLease, ResyncStrategy, Role

SPEC = spec()
FENCE = EnsureRole(SPEC, Role.FENCED, 5)


def renewal(epoch: int = 5) -> RenewLease:
    return RenewLease(SPEC, epoch, time.monotonic_ns() + 5_000_000_000)


async def begun(driver: Any, call: str) -> None:
    await eventually(f"{call} is running in the driver", lambda: call in driver.running)


@pytest.mark.parametrize("second", ["EnsureRole", "Quiesce", "Unquiesce", "Resync"])
async def test_a_second_mutating_call_is_aborted_and_names_the_first(driver: Any, forever: Any, second: str) -> None:
    driver.scripts["EnsureRole"] = forever
    async with running(driver) as client:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "EnsureRole": lambda: client.ensure_role(FENCE),
            "Quiesce": lambda: client.quiesce(SPEC, 5),
            "Unquiesce": lambda: client.unquiesce(SPEC, 5),
            "Resync": lambda: client.resync(SPEC, Peer("west"), ResyncStrategy.FOLLOW, 5),
        }
        first = asyncio.ensure_future(client.ensure_role(FENCE))
        await begun(driver, "EnsureRole")
        with pytest.raises(DriverCallError, match="EnsureRole has been in flight") as refused:
            await calls[second]()
        assert refused.value.code is grpc.StatusCode.ABORTED
        assert refused.value.recovery is Recovery.WAIT
        assert driver.calls.count(second) == (1 if second == "EnsureRole" else 0)
        first.cancel()


async def test_other_components_and_readings_go_on_beside_a_slow_change(driver: Any) -> None:
    async def slow_for_db(request: EnsureRole) -> Progress:
        if request.spec.key.component == "db":
            await asyncio.Event().wait()
        return Progress.done()

    driver.scripts["EnsureRole"] = slow_for_db
    async with running(driver) as client:
        first = asyncio.ensure_future(client.ensure_role(FENCE))
        await begun(driver, "EnsureRole")
        assert (await client.ensure_role(EnsureRole(spec(component="route"), Role.FENCED, 5))).completed
        assert (await client.status(SPEC)).role is Role.STANDBY
        assert (await client.await_position(SPEC, "7", 10)).reached
        first.cancel()


async def test_a_renewal_is_answered_while_a_change_hangs(driver: Any, forever: Any) -> None:
    driver.scripts["EnsureRole"] = forever
    async with running(driver) as client:
        first = asyncio.ensure_future(client.ensure_role(FENCE))
        await begun(driver, "EnsureRole")
        for _ in range(5):
            assert await client.renew_lease(renewal(), timeout_s=1.0)
        assert not first.done()
        first.cancel()


async def test_a_renewal_is_answered_while_the_disk_is_slow_for_another_epoch(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(driver) as client:
        await client.ensure_role(FENCE)
        disk_works, disk_busy = threading.Event(), threading.Event()

        def slow(descriptor: int) -> None:
            disk_busy.set()
            disk_works.wait(10)

        monkeypatch.setattr("os.fsync", slow)
        change = asyncio.ensure_future(client.ensure_role(EnsureRole(SPEC, Role.FENCED, 6)))
        await eventually("the new epoch is on its way to the disk", disk_busy.is_set)
        try:
            assert await client.renew_lease(renewal(epoch=5), timeout_s=1.0)
            assert not change.done()
        finally:
            disk_works.set()
        await change


async def test_renewals_exclude_each_other(driver: Any, forever: Any) -> None:
    driver.scripts["RenewLease"] = forever
    async with running(driver) as client:
        first = asyncio.ensure_future(client.renew_lease(renewal(), timeout_s=5.0))
        await begun(driver, "RenewLease")
        with pytest.raises(DriverCallError, match="RenewLease has been in flight"):
            await client.renew_lease(renewal())
        first.cancel()


async def test_the_deadline_cancels_the_driver_and_the_next_call_continues(driver: Any, forever: Any) -> None:
    cancelled = asyncio.Event()

    async def half_way(request: Any) -> Progress:
        if driver.calls.count("EnsureRole") > 1:
            return Progress.done("continued")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("unreachable")

    driver.scripts["EnsureRole"] = half_way
    async with running(driver) as client:
        with pytest.raises(DriverCallError) as late:
            await client.ensure_role(FENCE, timeout_s=0.1)
        assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert late.value.could_still_be_running
        assert late.value.recovery is Recovery.ROLE_UNKNOWN
        await asyncio.wait_for(cancelled.wait(), 20.0)
        await eventually("the lane is free", lambda: not driver.running)
        assert (await client.ensure_role(FENCE)).message == "continued"


async def test_a_caller_that_goes_away_cancels_the_driver(driver: Any, forever: Any) -> None:
    driver.scripts["EnsureRole"] = forever
    async with running(driver) as client:
        call = asyncio.ensure_future(client.ensure_role(FENCE, timeout_s=30))
        await begun(driver, "EnsureRole")
        call.cancel()
        await eventually("the driver's coroutine has ended", lambda: not driver.running)


async def test_a_call_without_a_deadline_gets_one(driver: Any, forever: Any) -> None:
    driver.scripts["Status"] = forever
    async with running(driver, limits=Limits(longest_call_s=0.1, grace_s=0.1)) as client:
        with pytest.raises(DriverCallError) as late:
            await client.status(SPEC, timeout_s=30)
        assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert late.value.reason == "deadline"


async def test_a_time_out_inside_the_driver_is_its_failure_and_not_the_deadline(driver: Any) -> None:
    async def times_out(request: Any) -> Progress:
        raise TimeoutError("of a socket")

    driver.scripts["EnsureRole"] = times_out
    async with running(driver) as client:
        with pytest.raises(DriverCallError, match="TimeoutError") as failed:
            await client.ensure_role(FENCE)
        assert failed.value.code is grpc.StatusCode.INTERNAL


async def test_the_lane_stays_taken_until_a_cancelled_thread_has_ended(driver: Any) -> None:
    may_end, ended = threading.Event(), threading.Event()

    def blocks() -> None:
        may_end.wait(10)
        ended.set()

    async def blocking(request: Any) -> Progress:
        await run_blocking(blocks)
        return Progress.done()

    driver.scripts["EnsureRole"] = blocking
    async with running(driver) as client:
        with pytest.raises(DriverCallError):
            await client.ensure_role(FENCE, timeout_s=0.1)
        with pytest.raises(DriverCallError) as busy:
            await client.ensure_role(FENCE)
        assert busy.value.code is grpc.StatusCode.ABORTED
        may_end.set()
        await eventually("the thread has ended and the lane is free", lambda: ended.is_set() and not driver.running)
        assert (await client.ensure_role(FENCE)).completed


async def test_blocking_work_passes_its_result_and_its_error_on() -> None:
    assert await run_blocking(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await run_blocking(int, "seven")
