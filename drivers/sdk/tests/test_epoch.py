"""Epochs only rise at every driver (I5): on disk before anybody acts, across restarts, and never by mistake zero."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from graf_driver_sdk.client import DriverCallError, DriverClient
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.errors import EpochStateError, StaleEpochError
from graf_driver_sdk.repair_epoch import main as repair_epoch
from graf_driver_sdk.testing import running, spec
from graf_driver_sdk.types import EnsureRole, Peer, RenewLease, ResyncStrategy, Role

SPEC = spec()


def soon() -> int:
    return time.monotonic_ns() + 5_000_000_000


MUTATING: dict[str, Callable[[DriverClient, int], Any]] = {
    "EnsureRole": lambda c, epoch: c.ensure_role(EnsureRole(SPEC, Role.ACTIVE, epoch, lease_deadline_ns=soon())),
    "RenewLease": lambda c, epoch: c.renew_lease(RenewLease(SPEC, epoch, soon())),
    "Quiesce": lambda c, epoch: c.quiesce(SPEC, epoch),
    "Unquiesce": lambda c, epoch: c.unquiesce(SPEC, epoch),
    "Resync": lambda c, epoch: c.resync(SPEC, Peer("west"), ResyncStrategy.FOLLOW, epoch),
}
READING: dict[str, Callable[[DriverClient], Any]] = {
    "AwaitPosition": lambda c: c.await_position(SPEC, "7", 10),
    "Assess": lambda c: c.assess(SPEC, Peer("west")),
    "GetStatus": lambda c: c.status(SPEC),
    "Validate": lambda c: c.validate(SPEC),
}


@pytest.mark.parametrize("call", MUTATING)
async def test_every_mutating_call_with_a_lower_epoch_is_refused_after_a_restart(
    call: str, make_driver: Any, tmp_path: Path
) -> None:
    async with running(make_driver(), state_dir=tmp_path) as client:
        await MUTATING[call](client, 7)
    restarted = make_driver()
    async with running(restarted, state_dir=tmp_path) as client:
        with pytest.raises(DriverCallError, match=r"epoch 6 .*has seen epoch 7") as refused:
            await MUTATING[call](client, 6)
        assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert (refused.value.reason, refused.value.highest_epoch) == ("stale-epoch", 7)
        assert not refused.value.could_still_be_running
        assert call not in restarted.calls
        await MUTATING[call](client, 7)
        assert call in restarted.calls


@pytest.mark.parametrize("call", MUTATING)
async def test_the_epoch_is_on_the_disk_before_the_driver_acts(call: str, driver: Any, tmp_path: Path) -> None:
    found: list[int] = []

    async def look(request: Any) -> Any:
        found.append(EpochGuard(tmp_path).highest("vcu-db", "db"))
        raise RuntimeError("seen enough")

    driver.scripts[call] = look
    async with running(driver, state_dir=tmp_path) as client:
        with pytest.raises(DriverCallError, match="unexpectedly"):
            await MUTATING[call](client, 9)
    assert found == [9]


@pytest.mark.parametrize("damage", [b"", b"7\n", b'{"epoch": 7}\n', b"\xff\xfe", b"\x00" * 120])
async def test_a_corrupt_epoch_file_stops_every_mutating_call_and_no_other(
    damage: bytes, driver: Any, tmp_path: Path
) -> None:
    path = EpochGuard(tmp_path).path("vcu-db", "db")
    path.write_bytes(damage)
    async with running(driver, state_dir=tmp_path) as client:
        for call in MUTATING.values():
            with pytest.raises(DriverCallError, match=r"cannot be trusted.*repair_epoch") as refused:
                await call(client, 8)
            assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refused.value.reason == "epoch-state"
        assert driver.calls == []
        for read in READING.values():
            await read(client)
        status = await client.status(SPEC)
        assert not status.promotable
        assert "cannot be trusted" in status.promotable_reason
    assert path.read_bytes() == damage


async def test_a_repaired_epoch_file_is_trusted_again(
    driver: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EpochGuard(tmp_path).path("vcu-db", "db").write_bytes(b"?")
    assert repair_epoch([str(tmp_path), "vcu-db", "db", "12"]) == 0
    assert "holds epoch 12 now" in capsys.readouterr().err
    async with running(driver, state_dir=tmp_path) as client:
        assert (await client.status(SPEC)).epoch == 12
        with pytest.raises(DriverCallError, match="has seen epoch 12"):
            await MUTATING["EnsureRole"](client, 11)


def test_repairing_a_component_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        repair_epoch([str(tmp_path), "vcu-db", "typo", "12"])
    assert "nothing to repair" in capsys.readouterr().err


async def test_a_disk_that_cannot_be_written_stops_the_call_before_the_driver(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with running(driver, state_dir=tmp_path / "file" / "state") as client:
        with pytest.raises(DriverCallError, match=r"cannot be (made durable|trusted)") as refused:
            await MUTATING["EnsureRole"](client, 3)
        assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "EnsureRole" not in driver.calls


def test_an_epoch_that_could_not_be_synced_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = EpochGuard(tmp_path)
    guard.admit("g", "c", 3)

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(EpochStateError, match=r"epoch 4 .*Input/output error"):
            guard.admit("g", "c", 4)
    assert guard.highest("g", "c") == 3


def test_components_do_not_share_an_epoch(tmp_path: Path) -> None:
    guard = EpochGuard(tmp_path)
    guard.admit("a", "b-c", 9)
    guard.admit("a-b", "c", 1)
    assert (guard.highest("a", "b-c"), guard.highest("a-b", "c"), guard.highest("a", "other")) == (9, 1, 0)


def test_a_file_of_another_component_is_not_trusted(tmp_path: Path) -> None:
    guard = EpochGuard(tmp_path)
    guard.admit("g", "one", 3)
    guard.path("g", "one").rename(guard.path("g", "two"))
    with pytest.raises(EpochStateError, match="belongs to g/one"):
        EpochGuard(tmp_path).admit("g", "two", 5)


def test_the_same_epoch_again_costs_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = EpochGuard(tmp_path)
    guard.admit("g", "c", 3)
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("an equal epoch was written again"))
    for _ in range(3):
        guard.admit("g", "c", 3)


async def test_a_component_without_any_epoch_may_be_fenced_but_not_activated(driver: Any) -> None:
    async with running(driver) as client:
        await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 0))
        with pytest.raises(DriverCallError, match=r"epoch: .*needs one") as refused:
            await MUTATING["EnsureRole"](client, 0)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


# The checks of the guard as functions, so that guards with a planted bug can be shown to fail them.


def check_lower_is_refused(guard: type[EpochGuard], directory: Path) -> None:
    one = guard(directory)
    one.admit("g", "c", 5)
    said = ""
    try:
        one.admit("g", "c", 4)
    except StaleEpochError as error:
        said = str(error)
    assert "epoch 4" in said, "epoch 4 was admitted after epoch 5"
    assert "epoch 5" in said


def check_survives_restart(guard: type[EpochGuard], directory: Path) -> None:
    guard(directory).admit("g", "c", 5)
    assert guard(directory).highest("g", "c") == 5, "a restart forgot the epoch"


def check_corrupt_is_not_zero(guard: type[EpochGuard], directory: Path) -> None:
    one = guard(directory)
    one.admit("g", "c", 5)
    one.path("g", "c").write_bytes(one.path("g", "c").read_bytes().replace(b"5", b"1", 1))
    try:
        guard(directory).admit("g", "c", 2)
    except EpochStateError:
        return
    raise AssertionError("a corrupt file let a lower epoch pass")


def check_file_and_directory_are_synced(guard: type[EpochGuard], directory: Path) -> None:
    synced: list[int] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    one = guard(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", spy)
        one.admit("g", "c", 5)
    wanted = [one.path("g", "c").stat().st_ino, directory.stat().st_ino]
    assert synced == wanted, "admit returned before file and directory were on the disk, in this order"


CHECKS = [
    check_lower_is_refused,
    check_survives_restart,
    check_corrupt_is_not_zero,
    check_file_and_directory_are_synced,
]


class ComparesNothing(EpochGuard):
    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        return


class WritesNothing(EpochGuard):
    def _store(self, group: str, component: str, epoch: int) -> None:
        return


class SyncsNothing(EpochGuard):
    def _sync(self, descriptor: int) -> None:
        return


class SyncsFileOnly(EpochGuard):
    def _sync(self, descriptor: int) -> None:
        if not Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            super()._sync(descriptor)


class TakesCorruptForZero(EpochGuard):
    def _read(self, group: str, component: str) -> int:
        try:
            return super()._read(group, component)
        except EpochStateError:
            return 0


@pytest.mark.parametrize("check", CHECKS)
def test_the_guard_passes_each_check(check: Callable[[type[EpochGuard], Path], None], tmp_path: Path) -> None:
    check(EpochGuard, tmp_path)


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (ComparesNothing, check_lower_is_refused),
        (WritesNothing, check_survives_restart),
        (SyncsNothing, check_file_and_directory_are_synced),
        (SyncsFileOnly, check_file_and_directory_are_synced),
        (TakesCorruptForZero, check_corrupt_is_not_zero),
    ],
)
def test_a_guard_with_a_planted_bug_is_caught(
    planted: type[EpochGuard], check: Callable[[type[EpochGuard], Path], None], tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, FileNotFoundError)):
        check(planted, tmp_path)


@pytest.mark.parametrize("planted", [ComparesNothing, WritesNothing])
async def test_a_planted_bug_lets_a_deposed_controller_through_and_the_whole_server_shows_it(
    planted: type[EpochGuard], make_driver: Any, tmp_path: Path
) -> None:
    async with running(make_driver(), guard=planted(tmp_path)) as client:
        await MUTATING["EnsureRole"](client, 7)
    stale = make_driver()
    async with running(stale, guard=planted(tmp_path)) as client:
        await MUTATING["EnsureRole"](client, 6)
    assert stale.calls == ["EnsureRole"]
