"""Watching: at once, on each change within milliseconds, and Unknown instead of silence."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from graf_driver_sdk.client import Deadlines, DriverCallError, DriverClient
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.server import DriverServer, Limits
from graf_driver_sdk.testing import eventually, running, spec
from graf_driver_sdk.types import EnsureRole, Health, Role, Status

SPEC = spec()
QUIET = Limits(refresh_s=30.0, patience_s=0.2, grace_s=0.2)
# Far below the refresh, so that only a notification can explain a message; the machine may be busy.
SOON_S = 2.0


async def following(updates: AsyncIterator[Any], within_s: float = SOON_S) -> Any:
    async with asyncio.timeout(within_s):
        return await anext(updates)


async def test_the_present_status_comes_at_once_and_each_change_as_it_is_notified(driver: Any) -> None:
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        assert (await following(updates)).role is Role.STANDBY
        for position in range(20):
            driver.now = dataclasses.replace(driver.now, position=str(position))
            began = time.monotonic()
            driver.notify(SPEC.key)
            assert (await following(updates)).position == str(position)
            assert time.monotonic() - began < 15  # the next look would come after 30 s
        await updates.aclose()


async def test_a_change_told_by_a_thread_is_pushed_too(driver: Any) -> None:
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        await following(updates)
        driver.now = dataclasses.replace(driver.now, health=Health.DEAD)
        threading.Thread(target=driver.notify, args=(SPEC.key,)).start()
        assert (await following(updates)).health is Health.DEAD
        await updates.aclose()


async def test_a_notification_without_a_change_sends_nothing_and_many_are_one(driver: Any) -> None:
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        await following(updates)
        reads = driver.calls.count("Status")
        for _ in range(1000):
            driver.notify(SPEC.key)
        await eventually("the status was read again", lambda: driver.calls.count("Status") > reads)
        assert driver.calls.count("Status") <= reads + 2
        driver.now = dataclasses.replace(driver.now, position="1")
        driver.notify(SPEC.key)
        assert (await following(updates)).position == "1"
        await updates.aclose()


async def test_a_notification_for_another_component_wakes_nobody(driver: Any) -> None:
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        await following(updates)
        reads = driver.calls.count("Status")
        driver.notify(spec(component="route").key)
        assert await client.probe()
        assert driver.calls.count("Status") == reads
        await updates.aclose()


async def test_a_change_while_the_status_is_being_read_is_not_lost(driver: Any) -> None:
    async def changes_meanwhile(request: Any) -> Status:
        seen = driver.now
        if seen.position == "old":
            driver.now = dataclasses.replace(seen, position="new")
            driver.notify(SPEC.key)
            await asyncio.sleep(0)
        return cast(Status, seen)

    driver.now = dataclasses.replace(driver.now, position="old")
    driver.scripts["Status"] = changes_meanwhile
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        assert [(await following(updates)).position for _ in range(2)] == ["old", "new"]
        await updates.aclose()


async def test_a_role_change_is_pushed_without_the_drivers_help(driver: Any) -> None:
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        assert (await following(updates)).epoch == 0
        await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 8))
        assert (await following(updates)).epoch == 8
        await updates.aclose()


async def test_a_sign_of_life_comes_without_any_change(driver: Any) -> None:
    async with running(driver, limits=Limits(refresh_s=0.05)) as client:
        updates = client.watch(SPEC)
        times = [(await following(updates)).observed_at_ns for _ in range(3)]
        assert times == sorted(set(times))
        assert abs(times[-1] - time.monotonic_ns()) < 5_000_000_000
        await updates.aclose()


async def test_a_status_that_hangs_is_told_as_unknown_and_read_once_only(driver: Any) -> None:
    stuck = asyncio.Event()

    async def hangs(request: Any) -> Status:
        await stuck.wait()
        return cast(Status, driver.now)

    driver.scripts["Status"] = hangs
    async with running(driver, limits=Limits(refresh_s=0.05, patience_s=0.05, grace_s=0.1)) as client:
        updates = client.watch(SPEC)
        for _ in range(3):
            status = await following(updates)
            assert status.health is Health.UNKNOWN
            assert "could not be read within" in status.message
        assert driver.calls.count("Status") == 1
        stuck.set()
        async with asyncio.timeout(SOON_S):
            while (await following(updates)).health is not Health.HEALTHY:
                pass
        await updates.aclose()


@pytest.mark.parametrize("error", [DriverError("the server is gone"), KeyError("x")])
async def test_a_status_that_fails_is_told_as_unknown_and_the_stream_goes_on(driver: Any, error: Exception) -> None:
    async def fails(request: Any) -> Status:
        raise error

    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        assert (await following(updates)).health is Health.HEALTHY
        driver.scripts["Status"] = fails
        driver.notify(SPEC.key)
        assert (await following(updates)).health is Health.UNKNOWN
        del driver.scripts["Status"]
        driver.notify(SPEC.key)
        assert (await following(updates)).health is Health.HEALTHY
        await updates.aclose()


async def test_the_client_tells_a_loss_once_and_comes_back(make_driver: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/d.sock"

    async def serving() -> DriverServer:
        server = DriverServer(make_driver(), EpochGuard(tmp_path / "state"), address, QUIET)
        await server.start()
        return server

    server = await serving()
    async with DriverClient(address) as client:
        updates = client.watch(SPEC)
        assert isinstance(await following(updates), Status)
        await server.stop()
        lost = await following(updates)
        assert isinstance(lost, DriverCallError)
        assert lost.could_still_be_running
        again = asyncio.ensure_future(following(updates, 10.0))
        server = await serving()
        assert isinstance(await again, Status)
        await updates.aclose()
    await server.stop()


async def test_a_driver_that_is_silent_is_lost(driver: Any) -> None:
    async with running(driver, limits=QUIET, deadlines=Deadlines(watch_silence_s=0.2)) as client:
        updates = client.watch(SPEC)
        assert isinstance(await following(updates), Status)
        lost = await following(updates)
        assert isinstance(lost, DriverCallError)
        assert lost.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await updates.aclose()


@pytest.mark.parametrize("nonsense", [{"role": 99}, {"health": 99}, {"health": 0}])
async def test_a_status_that_makes_no_sense_is_a_loss_and_not_a_crash(driver: Any, nonsense: dict[str, Any]) -> None:
    driver.now = dataclasses.replace(driver.now, **nonsense)
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        lost = await following(updates)
        assert isinstance(lost, DriverCallError)
        assert lost.reason == "nonsense-answer"
        with pytest.raises(DriverCallError, match="makes no sense"):
            await client.status(SPEC)
        await updates.aclose()


async def test_watching_what_has_no_name_is_an_error_that_no_retry_mends(driver: Any) -> None:
    async with running(driver) as client:
        with pytest.raises(DriverCallError, match="is no name"):
            await following(client.watch(spec(group="")))


async def test_a_watcher_that_leaves_is_forgotten(driver: Any) -> None:
    async with running(driver, limits=QUIET) as client:
        updates = client.watch(SPEC)
        await following(updates)
        await updates.aclose()
        await eventually("the bus has no subscriptions", lambda: not driver.changed._subscriptions)
