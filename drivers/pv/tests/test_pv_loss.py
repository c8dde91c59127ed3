"""A volume that is lost: it is told as dead, never served empty, and comes back as a whole copy."""

from pathlib import Path

import pytest
from graf_driver_pv.testing import SiteUnderTest, digest_of, two_sites
from graf_driver_pv.testing_restic import make_repository
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import EnsureRole, Health, ResyncStrategy, Role, Status, Verdict

Pair = tuple[SiteUnderTest, SiteUnderTest]


def lose(site: SiteUnderTest, empty: bool) -> Path:
    """As when a disk goes: all at once. `empty`: an empty folder is in its place, as where it was mounted."""
    gone = site.volume.with_name("gone")
    site.volume.rename(gone)
    if empty:
        site.volume.mkdir()
    return gone


async def serve(east: SiteUnderTest, west: SiteUnderTest) -> dict[str, str]:
    """East serves a few files, west has them; gives their digests."""
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, "east")
    for index in range(5):
        (east.current / f"f{index}").write_text(f"{index}\n" * 100)
    await west.wait_generation_with(east.current)
    return digest_of(east.current)


async def dead(site: SiteUnderTest) -> Status | None:
    status = await site.status()
    return status if status.health is Health.DEAD else None


async def refused(site: SiteUnderTest, epoch: int) -> str:
    assert site.client is not None
    peers = tuple(peer.peer(Role.STANDBY) for peer in site.peers)
    with pytest.raises(DriverCallError) as caught:
        await site.client.ensure_role(EnsureRole(site.spec, Role.ACTIVE, epoch, peers), 30)
    return str(caught.value)


async def come_back(site: SiteUnderTest, active: SiteUnderTest, epoch: int) -> None:
    """As the controller does it: verdict, resync, follow."""
    assert site.client is not None
    client = site.client
    await site.ensure(Role.INVALIDATED, epoch, active.name)

    async def told() -> Verdict | None:
        verdict = (await client.assess(site.spec, active.peer(Role.ACTIVE), 30)).verdict
        return None if verdict is Verdict.UNKNOWN else verdict

    assert await eventually("a verdict", told, 60, 0.05) is Verdict.EMPTY

    async def resynced() -> bool:
        answer = await client.resync(site.spec, active.peer(Role.ACTIVE), ResyncStrategy.FOLLOW, epoch, 30)
        return answer.progress.completed

    await eventually("the resync", resynced, 60, 0.05)
    await site.ensure(Role.STANDBY, epoch, active.name)


@pytest.mark.parametrize("empty", [True, False])
async def test_a_lost_volume_is_dead_and_never_opened_empty(sites: Pair, empty: bool) -> None:
    east, west = sites
    had = await serve(east, west)
    lose(east, empty)
    status = await eventually("the loss to be told", lambda: dead(east), 30, 0.05)
    assert isinstance(status, Status)
    assert (status.role, status.accepting, status.promotable) == (Role.ACTIVE, False, False)
    assert "is lost" in status.message
    assert "an empty volume would be served" in await refused(east, 1)
    assert not east.current.exists()
    await west.ensure(Role.ACTIVE, 2)
    assert digest_of(west.current) == had


async def test_a_lost_volume_is_not_made_anew_by_what_puts_it_into_a_repository(tmp_path: Path) -> None:
    async with two_sites(tmp_path, repository=make_repository(tmp_path / "shared"), rpoSeconds=30) as (east, west):
        had = await serve(east, west)
        lose(east, empty=False)
        await eventually("the loss to be told", lambda: dead(east), 30, 0.05)
        said = len(list((tmp_path / "shared" / "repository" / "snapshots").iterdir()))
        again = lambda: len(list((tmp_path / "shared" / "repository" / "snapshots").iterdir())) > said + 1  # noqa: E731
        await eventually("restic to be started again", again, 60, 0.1)
        assert not east.volume.exists()
        await west.ensure(Role.ACTIVE, 2)
        assert digest_of(west.current) == had


async def test_a_volume_that_was_lost_comes_back_with_a_whole_copy(sites: Pair) -> None:
    east, west = sites
    await serve(east, west)
    lose(east, empty=True)
    await west.ensure(Role.ACTIVE, 2)
    (west.current / "later").write_text("written by the new active")
    await come_back(east, west, 2)
    await east.wait_generation_with(west.current)
    status = await east.status()
    assert (status.role, status.health) == (Role.STANDBY, Health.HEALTHY)


async def test_the_loss_is_known_after_a_restart_too(sites: Pair) -> None:
    """The record went with the volume: that it was served is remembered beside it."""
    east, west = sites
    await serve(east, west)
    await east.kill()
    lose(east, empty=True)
    await east.start()
    assert (await east.status()).health is Health.DEAD
    assert "is lost" in await refused(east, 1)
    await west.ensure(Role.ACTIVE, 2)
    await come_back(east, west, 2)
    assert (await east.status()).health is Health.HEALTHY


async def test_a_volume_that_was_never_served_may_be_opened_empty(sites: Pair) -> None:
    east, _ = sites
    await east.ensure(Role.FENCED, 1)
    await east.kill()
    lose(east, empty=True)
    await east.start()
    await east.ensure(Role.ACTIVE, 7)
    assert list(east.current.iterdir()) == []


async def test_what_is_written_into_a_lost_volume_makes_no_generation(sites: Pair) -> None:
    """Who had a file open goes on writing where nobody finds it: the standby's copy stays what it was."""
    east, west = sites
    had = await serve(east, west)
    gone = lose(east, empty=True)
    for index in range(20):
        (gone / "live" / "tree" / "f0").write_text(f"unseen {index}")
    await eventually("the loss to be told", lambda: dead(east), 30, 0.05)

    async def tried() -> bool:
        return "gone" in (await east.status()).facts.get("copying", "")

    await eventually("a generation to be tried", tried, 30, 0.05)
    assert east.generations == []
    assert digest_of(west.volume / "generations" / west.generations[-1] / "tree") == had
    await west.ensure(Role.ACTIVE, 2)
    assert digest_of(west.current) == had


async def test_a_standby_whose_volume_is_lost_copies_everything_again(sites: Pair) -> None:
    east, west = sites
    await serve(east, west)
    lose(west, empty=True)

    async def not_promotable() -> bool:
        return not (await west.status()).promotable

    await eventually("west to be no longer promotable", not_promotable, 30, 0.01)
    await west.wait_generation_with(east.current)

    async def promotable() -> bool:
        return (await west.status()).promotable

    await eventually("west to be promotable again", promotable, 60, 0.1)


async def test_a_link_that_a_crash_has_left_is_gone_when_the_driver_answers(sites: Pair) -> None:
    """The site may have lost its lease meanwhile: who waits for the driver never finds a volume that is nobody's."""
    east, west = sites
    await serve(east, west)
    await east.kill()
    assert east.current.is_dir()
    await east.start()
    assert not east.current.exists()
    assert (east.volume / "live" / "tree" / "f0").exists()
