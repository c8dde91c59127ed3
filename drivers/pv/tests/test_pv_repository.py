"""Generations go through a restic repository: real restic, real processes; the sites do not talk to each other."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from graf_driver_pv import catalog
from graf_driver_pv.catalog import Entry
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.position import Position
from graf_driver_pv.testing import SiteUnderTest, digest_of, two_sites
from graf_driver_pv.testing_restic import make_repository, restic
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import ResyncStrategy, Role, Verdict

Pair = tuple[SiteUnderTest, SiteUnderTest]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with two_sites(tmp_path, repository=make_repository(tmp_path / "shared"), rpoSeconds=30) as sites:
        yield sites


def fill(folder: Path, text: str, number: int = 12) -> None:
    for index in range(number):
        path = folder / f"d{index % 3}" / f"f[{index}]*"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text} {index}\n" * 50)


async def follow(east: SiteUnderTest, west: SiteUnderTest) -> dict[str, str]:
    """East serves a few files, and west has them; gives their digests."""
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, "east")
    fill(east.current, "one")
    await west.wait_generation_with(east.current)
    return digest_of(east.current)


def entries(site: SiteUnderTest) -> list[Entry]:
    if not Path(site.parameters["repository"]["location"], "config").exists():
        return []
    return catalog.read(json.loads(restic(site.parameters["repository"], "snapshots", "--json", "--no-lock")))


def put(site: SiteUnderTest, entry: Entry, folder: Path) -> None:
    """A snapshot that the driver did not make."""
    tags = [word for tag in entry.tags("vcu/pv") for word in ("--tag", tag)]
    restic(site.parameters["repository"], "backup", *tags, "tree", "manifest.json", folder=folder)


def has_generation(site: SiteUnderTest, than: str = "") -> Callable[[], bool]:
    """Whether the repository has a generation that is newer."""
    return lambda: any(e.kind == catalog.GENERATION and str(e.position) > than for e in entries(site))


async def test_a_standby_is_warm_and_knows_what_it_may_lack(pair: Pair) -> None:
    east, west = pair
    await follow(east, west)
    (east.current / "d0" / "link").symlink_to("f[0]*")
    (east.current / "d1" / "f[1]*").write_text("changed")
    (east.current / "d1" / "f[1]*").chmod(0o640)
    (east.current / "d2").rename(east.current / "moved")
    (east.current / "d0" / "f[3]*").unlink()
    (east.current / "new" / "deep").mkdir(parents=True)
    (east.current / "new" / "deep" / "file").write_text("new")
    await west.wait_generation_with(east.current)
    newest = west.volume / "generations" / west.generations[-1] / "tree"
    assert (newest / "d1" / "f[1]*").stat().st_mode & 0o777 == 0o640
    assert (newest / "d0" / "link").readlink() == Path("f[0]*")
    # Older ones may not have been taken away yet.
    before = west.volume / "generations" / west.generations[-2] / "tree"
    assert (before / "d0" / "f[6]*").stat().st_ino == (newest / "d0" / "f[6]*").stat().st_ino, "copied what is here"

    async def promotable() -> float | None:
        status = await west.status()
        return status.lag_seconds if status.promotable else None

    lag_s = await eventually("west to be promotable", promotable, 60, 0.1)
    assert isinstance(lag_s, float)
    assert 0 <= lag_s < 30
    facts = (await east.status()).facts
    assert float(facts["rpo_seconds_repository"]) < 30
    assert not list((west.volume).glob(".rsyncd.conf")), "nobody listens"


async def test_the_active_site_makes_a_repository_only_where_it_may(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "shared", made=False, create=False)
    async with two_sites(tmp_path, repository=repository, rpoSeconds=30) as (east, _):
        await east.ensure(Role.ACTIVE, 1)

        async def told() -> bool:
            return "there is no repository" in (await east.status()).message

        await eventually("east to say that there is none", told, 60, 0.05)
        assert (await east.status()).accepting, "a volume is served whether or not it can be copied"
        assert not (tmp_path / "shared" / "repository").exists()
        await east.stop()
        east.parameters["repository"] = {**repository, "create": True}
        await east.start()
        await east.ensure(Role.ACTIVE, 1)
        await eventually("a generation in the repository", has_generation(east), 60, 0.1)


async def test_the_lag_grows_when_the_active_is_gone_and_the_newest_generation_is_opened(pair: Pair) -> None:
    east, west = pair
    had = await follow(east, west)
    await east.kill()
    before = (await west.status()).lag_seconds

    async def grown() -> bool:
        return (await west.status()).lag_seconds > before + 1

    await eventually("the lag to grow", grown, 60, 0.1)
    await west.ensure(Role.ACTIVE, 2)
    assert digest_of(west.current) == had
    (west.current / "d0" / "f[0]*").write_text("written by the new active")

    def told() -> bool:
        return max(entry.epoch for entry in entries(west)) == 2

    await eventually("epoch 2 to be in the repository", told, 60, 0.1)


async def test_what_a_deposed_site_puts_there_is_taken_by_nobody(pair: Pair) -> None:
    """East was cut off from everybody but the repository: its tag has the older epoch, so what it writes is nothing."""
    east, west = pair
    had = await follow(east, west)
    await west.ensure(Role.ACTIVE, 2)
    (west.current / "west").write_text("of epoch 2")
    await eventually("west's generation", has_generation(west, "e0000000002"), 60, 0.1)

    async def told() -> bool:
        return "west is active in epoch 2 there" in (await east.status()).message

    await eventually("east to see that it is deposed", told, 60, 0.1)
    # A deposed site that never looked again: its snapshot is there, complete, newer by every clock, and of epoch 1.
    forged = Entry("", catalog.GENERATION, "east", 1, Position(1, 99), {}, 2**41, 2**41, "any")
    put(east, forged, east.volume / "generations" / east.generations[-1])
    (west.current / "more").write_text("of epoch 2")
    await east.ensure(Role.FENCED, 2)
    assert (await east.verdict(west)).verdict is Verdict.BEHIND
    await east.ensure(Role.STANDBY, 2, "west")
    await east.wait_generation_with(west.current)
    assert set(had) < set(digest_of(west.current))

    async def named() -> bool:
        return "e0000000001-0000000099" in (await west.status()).facts.get("divergent_in_repository", "")

    await eventually("west to name what counts for nothing", named, 60, 0.1)


async def test_a_standby_of_a_newer_epoch_takes_nothing_of_an_older_one(pair: Pair) -> None:
    east, west = pair
    await follow(east, west)
    await west.ensure(Role.STANDBY, 5, "east")
    newest = west.generations[-1]
    (east.current / "late").write_text("written in a deposed epoch")
    await eventually("it to be in the repository", has_generation(east, newest), 60, 0.1)

    async def refused() -> bool:
        return "deposed" in (await west.status()).message

    await eventually("west to say so", refused, 60, 0.1)
    assert west.generations[-1] == newest
    await east.ensure(Role.ACTIVE, 5)
    await west.wait_generation_with(east.current)


async def test_a_planned_move_loses_nothing_and_the_way_back_is_clean(pair: Pair) -> None:
    east, west = pair
    await follow(east, west)
    await east.stop()
    await east.start()
    await east.ensure(Role.ACTIVE, 1)
    await east.quiesce(1)  # there is nothing to put there: it is there already
    assert east.client is not None
    await east.client.unquiesce(east.spec, 1)
    (east.current / "last").write_text("just before the move")
    position = await east.quiesce(1)
    assert any(entry.kind == catalog.GENERATION and str(entry.position) == position for entry in entries(east))
    assert west.client is not None
    reached = await west.client.await_position(west.spec, position, 30_000)
    assert reached.reached, reached.message
    kept = digest_of(east.volume / "live" / "tree")
    await east.ensure(Role.FENCED, 1)
    await west.ensure(Role.ACTIVE, 2)
    assert digest_of(west.current) == kept
    assert (await east.verdict(west)).verdict is Verdict.CLEAN
    await east.ensure(Role.STANDBY, 2, "west")
    (west.current / "later").write_text("x")
    await east.wait_generation_with(west.current)


async def test_what_diverged_is_archived_and_a_resync_brings_the_rest(pair: Pair) -> None:
    east, west = pair
    await follow(east, west)
    await west.ensure(Role.FENCED, 1)
    (east.current / "only-here").write_text("never restored anywhere")
    await eventually("it to be in the repository", has_generation(east, west.generations[-1]), 60, 0.1)
    await east.ensure(Role.FENCED, 1)
    await west.ensure(Role.ACTIVE, 2)
    (west.current / "newer").write_text("of epoch 2")
    # What east itself said last is in the repository, too: it proves nothing of what west has.
    with pytest.raises(DriverCallError, match="call Assess, then Resync"):
        await east.ensure(Role.STANDBY, 2, "west")
    found = await east.verdict(west)
    assert found.verdict is Verdict.DIVERGED
    assert east.client is not None
    client, archive = east.client, ""

    async def resynced() -> bool:
        nonlocal archive
        answer = await client.resync(east.spec, west.peer(Role.ACTIVE), ResyncStrategy.REBUILD, 2, 30)
        archive = answer.archive
        return answer.progress.completed

    await eventually("the resync", resynced, 60, 0.05)
    assert [path for path in digest_of(Path(archive)) if path.endswith("/tree/only-here")]
    assert "newer" in digest_of(east.volume / "generations" / east.generations[-1] / "tree")


async def test_a_snapshot_that_lacks_a_file_is_never_opened_and_an_older_complete_one_is_taken(pair: Pair) -> None:
    east, west = pair
    await east.ensure(Role.ACTIVE, 1)
    fill(east.current, "one")
    await east.wait_generation_with(east.current)
    newest = east.generations[-1]
    there = lambda: newest in {str(e.position) for e in entries(east) if e.kind == catalog.GENERATION}  # noqa: E731
    await eventually("the generation in the repository", there, 60, 0.1)
    await east.stop()
    good = max(entries(east), key=lambda entry: entry.position)
    # As a site with a failing disk would leave it: the newest by its tags, and without one of its files.
    folder = east.volume / "generations" / str(good.position)
    next_one = Position(1, good.position.number + 1)
    copy = east.folder / "broken"
    shutil.copytree(folder, copy, symlinks=True)
    manifest = Manifest.decode((copy / "manifest.json").read_bytes())
    content = replace(manifest, position=next_one, texts={}).encode()
    (copy / "manifest.json").write_bytes(content)
    next((copy / "tree").rglob("f*")).unlink()
    until_ms, digest = good.until_wall_ms, catalog.digest_of(content)
    put(east, Entry("", catalog.GENERATION, "east", 1, next_one, {}, 0, until_ms, digest), copy)
    await west.ensure(Role.STANDBY, 1, "east")
    await eventually("the complete one at west", lambda: west.generations == [str(good.position)], 60, 0.1)

    async def said() -> bool:
        return "cannot be restored" in (await west.status()).message

    await eventually("west to say that a newer one is of no use", said, 60, 0.1)
    assert west.generations == [str(good.position)]
