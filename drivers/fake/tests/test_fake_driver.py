"""The fake keeps the contract when it is well, and breaks it as scripted."""

# ruff: noqa: ASYNC240 - small files on a local disk

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from graf_driver_fake.driver import FakeDriver
from graf_driver_fake.parameters import parse
from graf_driver_sdk.client import DriverCallError, DriverClient
from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.testing import eventually, running, spec
from graf_driver_sdk.types import (
    Capability,
    EnsureRole,
    Health,
    Peer,
    RenewLease,
    ResyncStrategy,
    Role,
    Spec,
    Status,
    Verdict,
)

NO_GATE = frozenset(Capability) - {Capability.GATE, Capability.UNSPECIFIED}


def after(ms: int) -> int:
    return time.monotonic_ns() + ms * 1_000_000


def active(where: Spec, epoch: int = 1, ms: int = 5000, *sites: str) -> EnsureRole:
    return EnsureRole(where, Role.ACTIVE, epoch, (), frozenset(sites), after(ms))


def peer_of(where: Spec, role: Role = Role.ACTIVE) -> Peer:
    return Peer(where.key.site, role, where.parameters)


@pytest.fixture
def east(tmp_path: Path) -> Spec:
    (tmp_path / "east").mkdir()
    return spec("east", dataDir=str(tmp_path / "east"))


@pytest.fixture
def west(tmp_path: Path) -> Spec:
    (tmp_path / "west").mkdir()
    return spec("west", dataDir=str(tmp_path / "west"))


async def test_it_starts_without_a_role_and_accepts_nothing() -> None:
    async with running(FakeDriver()) as client:
        status = await client.status(spec())
        assert (status.role, status.health, status.accepting) == (Role.FENCED, Health.HEALTHY, False)


async def test_the_gate_shuts_when_the_lease_ends_and_only_ensure_role_opens_it() -> None:
    driver = FakeDriver()
    async with running(driver) as client:
        assert (await client.ensure_role(active(spec(), ms=300))).completed
        assert driver.component(spec()).write("one")
        assert await client.renew_lease(RenewLease(spec(), 1, after(100)))
        updates = client.watch(spec())
        async with asyncio.timeout(5):
            assert [status.accepting async for status in _statuses(updates, 2)] == [True, False]
        assert not driver.component(spec()).write("two")
        assert not await client.renew_lease(RenewLease(spec(), 1, after(5000)))
        assert not (await client.status(spec())).accepting
        await client.ensure_role(active(spec()))
        assert (await client.status(spec())).accepting
        await updates.aclose()


async def _statuses(updates: Any, number: int) -> Any:
    """The first statuses that differ in whether writes are accepted."""
    seen: list[bool] = []
    async for status in updates:
        if not seen or status.accepting != seen[-1]:
            seen.append(status.accepting)
            yield status
        if len(seen) == number:
            return


async def test_a_switchover_moves_every_write(east: Spec, west: Spec) -> None:
    driver = FakeDriver(NO_GATE)
    async with running(driver) as client:
        await client.ensure_role(active(east, 1, 0, "east", "west"))
        await client.ensure_role(EnsureRole(west, Role.STANDBY, 1, (peer_of(east),)))
        assert all(driver.component(east).write(f"w{n}") for n in range(5))
        status = await client.status(east)
        assert status.synchronous_set == {"east", "west"}
        assert [follower.site for follower in status.followers] == ["west"]
        quiesced = await client.quiesce(east, 1)
        assert (quiesced.position, driver.component(east).write("late")) == ("5", False)
        await client.unquiesce(east, 1)
        assert driver.component(east).write("more")
        assert (await client.quiesce(east, 1)).position == "6"
        assert (await client.await_position(west, "6", 1000)).reached
        assert not (await client.await_position(west, "7", 50)).reached
        assert (await client.status(west)).promotable
        await client.ensure_role(active(west, 2, 0, "west"))
        assert driver.component(west).writes == driver.component(east).writes


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (["a"], ["a"], Verdict.CLEAN),
        (["a"], ["a", "b"], Verdict.BEHIND),
        (["a", "x"], ["a", "b"], Verdict.DIVERGED),
        ([], ["a"], Verdict.EMPTY),
        (["a"], None, Verdict.UNKNOWN),
    ],
)
async def test_the_verdict_compares_the_two_histories(
    east: Spec, west: Spec, ours: list[str], theirs: list[str] | None, verdict: Verdict
) -> None:
    Path(west.parameters["dataDir"], "writes.json").write_text(json.dumps(ours))
    if theirs is None:
        Path(east.parameters["dataDir"]).rmdir()
    else:
        Path(east.parameters["dataDir"], "writes.json").write_text(json.dumps(theirs))
    async with running(FakeDriver()) as client:
        assessment = await client.assess(west, peer_of(east))
        assert assessment.verdict is verdict
        assert assessment.divergent == ("x" if verdict is Verdict.DIVERGED else "")


async def test_what_diverged_is_archived_before_it_is_rebuilt(east: Spec, west: Spec) -> None:
    Path(west.parameters["dataDir"], "writes.json").write_text('["a", "x"]')
    Path(east.parameters["dataDir"], "writes.json").write_text('["a", "b"]')
    async with running(FakeDriver()) as client:
        with pytest.raises(DriverCallError, match="call Assess, then Resync") as refused:
            await client.ensure_role(EnsureRole(west, Role.STANDBY, 1, (peer_of(east),)))
        assert refused.value.reason == "needs-resync"
        with pytest.raises(DriverCallError, match="REBUILD"):
            await client.resync(west, peer_of(east), ResyncStrategy.FOLLOW, 1)
        resynced = await client.resync(west, peer_of(east), ResyncStrategy.UNSPECIFIED, 1)
        assert json.loads(Path(resynced.archive).read_text()) == ["a", "x"]
        await client.ensure_role(EnsureRole(west, Role.STANDBY, 1, (peer_of(east),)))
        assert (await client.status(west)).promotable


async def test_a_slow_promotion_is_continued_by_further_calls() -> None:
    where = spec(promoteMs=150)
    async with running(FakeDriver(NO_GATE)) as client:
        first = await client.ensure_role(active(where))
        assert not first.completed
        assert 0 < first.retry_after_ms <= 150

        async def promoted() -> bool:
            return (await client.ensure_role(active(where))).completed

        await eventually("the promotion is complete", promoted)
        assert (await client.status(where)).accepting


async def test_its_data_outlives_the_driver_and_its_role_does_not(east: Spec, tmp_path: Path) -> None:
    driver = FakeDriver(NO_GATE)
    async with running(driver, state_dir=tmp_path) as client:
        await client.ensure_role(active(east))
        assert driver.component(east).write("kept")
    async with running(FakeDriver(NO_GATE), state_dir=tmp_path) as client:
        status = await client.status(east)
        assert (status.role, status.position, status.epoch) == (Role.FENCED, "1", 1)


def test_capabilities_come_from_the_environment_or_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAF_FAKE_CAPABILITIES", "GATE, RESYNC")
    assert FakeDriver().info().capabilities == {Capability.GATE, Capability.RESYNC}
    monkeypatch.setenv("GRAF_FAKE_CAPABILITIES", "GATES")
    with pytest.raises(DriverError, match=r"GATES.*unknown"):
        FakeDriver()


async def test_a_component_can_do_less_than_its_driver() -> None:
    async with running(FakeDriver()) as client:
        with pytest.raises(DriverCallError, match="leave out POSITION") as refused:
            await client.quiesce(spec(capabilities=["GATE"]), 1)
        assert refused.value.reason == "unsupported"


def test_every_problem_of_the_parameters_is_named() -> None:
    parameters, problems = parse(
        {
            "dataDir": "relative",
            "promoteMs": -1.0,
            "capabilities": ["FLY"],
            "typo": 1.0,
            "faults": {
                "Nap": {"kind": "slow"},
                "Status": {"kind": "sleepy"},
                "Assess": {"kind": "slow", "seconds": "x"},
            },
        }
    )
    assert parameters is None
    assert {problem.field for problem in problems} == {
        "dataDir", "promoteMs", "capabilities", "typo", "faults.Nap", "faults.Status", "faults.Assess",
    }  # fmt: skip
    assert all(problem.cause and problem.fix for problem in problems)


def faulty(call: str, kind: str, **more: float) -> Spec:
    return spec(faults={call: {"kind": kind, **more}})


async def test_faults_are_played_as_often_as_scripted() -> None:
    async with running(FakeDriver()) as client:
        where = faulty("EnsureRole", "error", times=2)
        for _ in range(2):
            with pytest.raises(DriverCallError, match="a fault is scripted"):
                await client.ensure_role(EnsureRole(where, Role.FENCED, 1))
        assert (await client.ensure_role(EnsureRole(where, Role.FENCED, 1))).completed


async def test_a_slow_call_is_slow_a_hanging_one_has_no_end_and_a_crash_is_internal() -> None:
    async with running(FakeDriver()) as client:
        began = time.monotonic()
        await client.ensure_role(EnsureRole(faulty("EnsureRole", "slow", seconds=0.2), Role.FENCED, 1))
        assert time.monotonic() - began >= 0.2
        with pytest.raises(DriverCallError, match="DEADLINE_EXCEEDED"):
            await client.status(faulty("Status", "hang"), timeout_s=0.1)
        with pytest.raises(DriverCallError, match="ZeroDivisionError"):
            await client.assess(faulty("Assess", "crash"), Peer("west"))


async def test_a_lie_claims_what_is_not_so_and_the_status_shows_it() -> None:
    where = faulty("EnsureRole", "lie")
    async with running(FakeDriver()) as client:
        assert (await client.ensure_role(active(where))).completed
        assert not (await client.status(where)).accepting


async def test_nonsense_is_recognised_by_the_client() -> None:
    async with running(FakeDriver()) as client:
        for call in (
            lambda: client.status(faulty("Status", "nonsense")),
            lambda: client.assess(faulty("Assess", "nonsense"), Peer("west")),
        ):
            with pytest.raises(DriverCallError, match="makes no sense"):
                await call()


async def test_a_control_file_changes_faults_and_facts_while_it_runs(tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    where = spec(controlFile=str(control))
    async with running(FakeDriver()) as client:
        updates = client.watch(where)
        first = await anext(updates)
        assert isinstance(first, Status)
        assert first.health is Health.HEALTHY
        control.write_text('{"status": {"health": "DEAD"}, "faults": {"RenewLease": {"kind": "error"}}}')

        async def dead() -> bool:
            update = await anext(updates)
            return isinstance(update, Status) and update.health is Health.DEAD

        await eventually("the watch tells DEAD", dead)
        await client.ensure_role(active(where))
        with pytest.raises(DriverCallError, match="scripted"):
            await client.renew_lease(RenewLease(where, 1, after(1000)))
        control.write_text('{"status": {"healt": "DEAD"}}')
        with pytest.raises(DriverCallError, match="pretends what no status has"):
            await client.status(where)
        await updates.aclose()


async def test_the_process_serves_and_dies_when_scripted(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "graf_driver_fake.main",
        env={**os.environ, "GRAF_DRIVER_SOCKET": f"{tmp_path}/f.sock", "GRAF_DRIVER_STATE_DIR": f"{tmp_path}/state"},
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with DriverClient(f"{tmp_path}/f.sock") as client:

            async def answers() -> bool:
                try:
                    return (await client.info()).name == "fake.graf.dev"
                except DriverCallError:
                    return False

            await eventually("the fake's process answers", answers, 20.0)
            with pytest.raises(DriverCallError, match="UNAVAILABLE") as lost:
                await client.ensure_role(EnsureRole(faulty("EnsureRole", "die"), Role.FENCED, 1))
            assert lost.value.could_still_be_running
        async with asyncio.timeout(10):
            assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
