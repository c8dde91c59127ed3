"""Volumes follow the active site: real processes, real rsync, real TLS."""

import time
from pathlib import Path

import pytest
from graf_driver_pv import small
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.testing import SiteUnderTest, digest_of, two_sites
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import ResyncStrategy, Role, Verdict

Pair = tuple[SiteUnderTest, SiteUnderTest]


def fill(folder: Path, text: str, number: int = 20) -> None:
    for index in range(number):
        path = folder / f"d{index % 3}" / f"f{index}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text} {index}\n" * 50)


async def follow(east: SiteUnderTest, west: SiteUnderTest) -> None:
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, "east")


async def test_a_standby_gets_what_changes_without_a_scan_and_is_promotable(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one")
    (east.current / "link").symlink_to("d0/f0")
    (east.current / "d0" / "f3").chmod(0o640)
    await west.wait_generation_with(east.current)
    scans = (await east.status()).facts["full_scans"]
    (east.current / "d1" / "f1").write_text("changed")
    (east.current / "d2").rename(east.current / "moved")
    (east.current / "d0" / "f0").unlink()
    (east.current / "new" / "deep").mkdir(parents=True)
    (east.current / "new" / "deep" / "file").write_text("new")
    await west.wait_generation_with(east.current)
    status = await east.status()
    assert status.facts["full_scans"] == scans
    assert [f.site for f in status.followers if f.connected] == ["west"]
    seen = await eventually("west to be promotable", lambda: _promotable(west), 60, 0.1)
    assert 0 <= seen.lag_seconds < 60
    newest = west.volume / "generations" / west.generations[-1] / "tree"
    assert (newest / "d0" / "f3").stat().st_mode & 0o777 == 0o640
    assert (newest / "link").readlink() == Path("d0/f0")


async def _promotable(site: SiteUnderTest) -> object:
    status = await site.status()
    return status if status.promotable else None


async def test_a_promotion_serves_the_newest_complete_generation_and_it_can_be_written(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one")
    await west.wait_generation_with(east.current)
    before = digest_of(east.current)
    await east.kill()
    await west.ensure(Role.ACTIVE, 2)
    assert digest_of(west.current) == before
    (west.current / "d0" / "f0").write_text("written by the new active")
    status = await west.status()
    assert (status.role, status.accepting) == (Role.ACTIVE, True)


async def test_a_planned_move_loses_nothing_and_comes_back_clean(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one")
    assert east.client is not None
    assert west.client is not None
    position = await east.quiesce(1)
    assert not east.current.exists()
    assert await east.quiesce(1) == position
    reached = await west.client.await_position(west.spec, position, 30_000)
    assert reached.reached, reached.message
    kept = digest_of(east.volume / "live" / "tree")
    await east.ensure(Role.FENCED, 1)
    await west.ensure(Role.ACTIVE, 2)
    assert digest_of(west.current) == kept
    assert (await east.verdict(west)).verdict in (Verdict.CLEAN, Verdict.BEHIND)
    await east.ensure(Role.STANDBY, 2, "west")
    (west.current / "later").write_text("x")
    await east.wait_generation_with(west.current)


async def test_a_quiesce_can_be_taken_back(sites: Pair) -> None:
    east, _ = sites
    await east.ensure(Role.ACTIVE, 1)
    fill(east.current, "one", 3)
    await east.quiesce(1)
    assert not (await east.status()).accepting
    assert east.client is not None
    await east.client.unquiesce(east.spec, 1)
    assert (await east.status()).accepting
    (east.current / "again").write_text("x")


async def test_what_only_the_lost_site_has_is_archived_before_it_follows(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one")
    await west.wait_generation_with(east.current)
    await west.kill()
    (east.current / "only-here").write_text("never copied")
    await east.kill()
    await west.start()
    await west.ensure(Role.ACTIVE, 2)
    (west.current / "after").write_text("x")
    await east.start()
    assert (await east.status()).role is Role.FENCED
    assert not east.current.exists()
    assert east.client is not None
    with pytest.raises(DriverCallError, match="call Assess, then Resync"):
        await east.ensure(Role.STANDBY, 2, "west")
    await east.ensure(Role.INVALIDATED, 2, "west")
    assessment = await east.verdict(west)
    assert assessment.verdict is Verdict.DIVERGED
    assert "only-here" in assessment.divergent
    archive = await _resync(east, west, ResyncStrategy.REBUILD, 2)
    assert (Path(archive) / "live" / "tree" / "only-here").read_text() == "never copied"
    assert "only-here" in (Path(archive) / "divergent.txt").read_text()
    await east.ensure(Role.STANDBY, 2, "west")
    await east.wait_generation_with(west.current)
    assert (await east.verdict(west)).verdict in (Verdict.CLEAN, Verdict.BEHIND)


async def _resync(site: SiteUnderTest, active: SiteUnderTest, strategy: ResyncStrategy, epoch: int) -> str:
    assert site.client is not None
    client = site.client
    archive = ""

    async def done() -> bool:
        nonlocal archive
        answer = await client.resync(site.spec, active.peer(Role.ACTIVE), strategy, epoch, 30)
        archive = answer.archive
        return answer.progress.completed

    await eventually("the resync", done, 60)
    return archive


async def test_a_site_that_never_had_a_complete_generation_does_not_serve_an_empty_volume(sites: Pair) -> None:
    _, west = sites
    await west.ensure(Role.STANDBY, 1, "east")
    status = await west.status()
    assert not status.promotable
    with pytest.raises(DriverCallError, match="an empty volume would be served"):
        await west.ensure(Role.ACTIVE, 2)
    assert not west.current.exists()


async def test_nothing_is_taken_from_a_deposed_site(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one", 3)
    await west.wait_generation_with(east.current)
    await west.ensure(Role.STANDBY, 5, "east")
    newest = west.generations[-1]
    (east.current / "late").write_text("written in a deposed epoch")
    await eventually("east to make a generation", lambda: east.generations[-1] > newest, 60)

    async def refused() -> bool:
        return "deposed" in (await west.status()).message

    await eventually("west to say so", refused, 60, 0.1)
    assert west.generations[-1] == newest


async def test_a_volume_is_shut_after_a_crash_of_its_driver_and_open_after_its_orderly_restart(sites: Pair) -> None:
    east, _ = sites
    await east.ensure(Role.ACTIVE, 1)
    await east.stop()
    assert east.current.exists()
    await east.start()
    assert (await east.status()).role is Role.ACTIVE
    await east.kill()
    await east.start()
    assert (await east.status()).role is Role.FENCED
    assert not east.current.exists()
    await east.ensure(Role.ACTIVE, 1)
    assert east.current.exists()


async def test_a_site_with_a_generation_of_its_own_is_refused_as_standby_at_the_first_call(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one", 3)
    await west.wait_generation_with(east.current)
    await west.ensure(Role.FENCED, 1)
    (east.current / "only-here").write_text("never copied")
    await east.wait_generation_with(east.current)
    await east.ensure(Role.FENCED, 1)
    await west.ensure(Role.ACTIVE, 2)
    assert east.client is not None
    with pytest.raises(DriverCallError, match="call Assess, then Resync"):
        await east.ensure(Role.STANDBY, 2, "west")
    assert (await east.status()).role is Role.FENCED
    assert east.generations


async def test_a_promoted_volume_that_did_not_change_keeps_its_position(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one", 3)
    await west.wait_generation_with(east.current)
    position = await east.quiesce(1)
    assert west.client is not None
    assert (await west.client.await_position(west.spec, position, 30_000)).reached
    await east.ensure(Role.FENCED, 1)
    await west.ensure(Role.ACTIVE, 2)
    assert (await west.status()).position == position
    await west.wait_generation_with(west.current)
    assert west.generations == [position]

    async def clean() -> bool:
        return (await east.verdict(west)).verdict is Verdict.CLEAN

    await eventually("east to be clean", clean, 60, 0.05)
    await east.ensure(Role.STANDBY, 2, "west")
    (west.current / "later").write_text("x")
    await east.wait_generation_with(west.current)


async def test_a_resync_brings_what_was_written_just_before_it(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    fill(east.current, "one", 3)
    await west.wait_generation_with(east.current)
    await west.ensure(Role.FENCED, 1)
    (east.current / "last").write_text("written a moment ago")
    assert (await west.verdict(east)).verdict is Verdict.BEHIND
    await _resync(west, east, ResyncStrategy.FOLLOW, 1)
    assert (await west.verdict(east)).verdict is Verdict.CLEAN
    assert "last" in digest_of(west.volume / "generations" / west.generations[-1] / "tree")


async def test_a_live_copy_that_is_gone_is_not_told_as_served(sites: Pair) -> None:
    east, _ = sites
    await east.ensure(Role.ACTIVE, 1)
    fill(east.current, "one", 3)
    await east.wait_generation_with(east.current)
    kept = digest_of(east.current)
    (east.volume / "live" / "tree").rename(east.volume / "lost")
    status = await east.status()
    assert (status.role, status.accepting) == (Role.ACTIVE, False)
    assert "the live copy is gone" in status.message
    await east.ensure(Role.ACTIVE, 1)
    assert digest_of(east.current) == kept
    (east.current / "again").write_text("x")
    await east.wait_generation_with(east.current)


def _newest(site: SiteUnderTest, path: str) -> Path:
    names = site.generations or ["none"]
    return site.volume / "generations" / names[-1] / "tree" / path


async def test_a_link_that_becomes_a_folder_leaves_alone_what_it_led_to(sites: Pair, tmp_path: Path) -> None:
    east, west = sites
    await follow(east, west)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("not the volume's")
    (east.current / "x").symlink_to(outside)
    await eventually("the link at west", lambda: _newest(west, "x").is_symlink(), 60)
    (east.current / "x").unlink()
    (east.current / "x").mkdir()
    (east.current / "x" / "kept").symlink_to("elsewhere")
    await eventually(
        "the folder at west", lambda: _newest(west, "x").is_dir() and not _newest(west, "x").is_symlink(), 60
    )
    assert (outside / "kept").read_text() == "not the volume's"


async def test_large_and_small_files_both_come_whole(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)
    (east.current / "small").write_bytes(b"s" * small.FILE_BYTES)
    await west.wait_generation_with(east.current)
    (east.current / "large").write_bytes(b"l" * (small.FILE_BYTES + 1))
    (east.current / "empty").write_bytes(b"")
    await west.wait_generation_with(east.current)


async def test_a_scheduled_comparison_that_finds_nothing_new_says_that_nothing_is_missing(tmp_path: Path) -> None:
    async with two_sites(tmp_path, mode="Scheduled", intervalSeconds=0.1, rpoSeconds=60) as (east, west):
        await follow(east, west)
        fill(east.current, "one", 3)
        await west.wait_generation_with(east.current)
        made = Manifest.decode((east.volume / "generations" / east.generations[-1] / "manifest.json").read_bytes())
        before = int((await east.status()).facts["full_scans"])

        async def compared() -> bool:
            return int((await east.status()).facts["full_scans"]) >= before + 10

        await eventually("ten comparisons", compared, 60, 0.1)
        age_s = time.time() - made.begun_wall_ms / 1e3
        told_s = float((await east.status()).facts["pending_change_seconds"])
        assert 0 <= told_s < age_s - 0.5, "ten comparisons ago is no age of what may be missing"

        async def same() -> bool:
            return 0 <= (await west.status()).lag_seconds < time.time() - made.begun_wall_ms / 1e3 - 0.5

        await eventually("west to say so", same, 60, 0.1)
