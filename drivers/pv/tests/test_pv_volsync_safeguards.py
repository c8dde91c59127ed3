"""Mode volsync: what its safeguards are for, at a real kube-apiserver with the stand-in. Each is also taken out."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.testing_volsync_site import Site, followed, move
from graf_driver_pv.volsync import VolSyncComponent
from graf_driver_pv.volsync_cluster import SNAPSHOT, SOURCE, Kind
from graf_driver_pv.volsync_notes import Notes
from graf_driver_pv.volsync_owned import Owned
from graf_driver_sdk.errors import NeedsResyncError
from graf_driver_sdk.types import ResyncStrategy, Role, Verdict


async def a_lost_site_is_archived_and_rebuilt(pair: tuple[Site, Site]) -> None:
    """East is lost while active, has written what nobody else has, and comes back."""
    east, west = await followed(pair)
    east.write("only-here")
    east.world.until("a copy has begun", lambda: bool(east.world.sites[east.name].taken))
    await west.ensure(Role.ACTIVE, 2)
    west.write("of-west")
    east.restart()
    with pytest.raises(NeedsResyncError):
        await east.once(Role.STANDBY, 2, west)
    assert (await east.driver.assess(east.spec, west.peer)).verdict is Verdict.DIVERGED
    with pytest.raises(NeedsResyncError):
        await east.driver.resync(east.spec, west.peer, ResyncStrategy.FOLLOW, 2)
    resynced = await east.resync(west, ResyncStrategy.REBUILD, 2)
    archive = resynced.archive.removeprefix(f"{SNAPSHOT.name}/")
    assert east.world.sites[east.name].images[archive] == {"first", "only-here"}
    await east.ensure(Role.STANDBY, 2, west)
    await west.copies(east, 2)
    await move(west, east, 3)
    assert east.read() == {"first", "of-west"}


async def a_deposed_site_copies_nothing(pair: tuple[Site, Site]) -> None:
    """East is fenced while it copies; west takes over, hands back, and the copy of epoch 1 is never the newest."""
    east, west = await followed(pair)
    world = east.world
    east.write("of-1")
    world.until("a copy has begun", lambda: bool(world.sites[east.name].taken))
    await east.ensure(Role.FENCED, 2)
    before = world.image(west.name)
    for _ in range(12):
        world.step()
    assert world.image(west.name) == before, "a fenced site has copied"


async def a_copy_of_an_earlier_epoch_is_not_gone_on_with(pair: tuple[Site, Site]) -> None:
    """A copy that was begun in epoch 1 could not be sent then; in epoch 3 only what is served then is copied."""
    east, west = await followed(pair)
    world = east.world
    world.link = False
    world.until("a copy has begun", lambda: bool(world.sites[east.name].taken))
    east.write("later-in-1")
    await east.ensure(Role.FENCED, 2)
    await east.ensure(Role.ACTIVE, 3)
    world.link = True
    await east.copies(west)
    assert world.image(west.name) == {"first", "later-in-1"}


async def what_is_opened_is_complete(pair: tuple[Site, Site]) -> None:
    """The site is promoted while half of a copy has come."""
    east, west = await followed(pair)
    world = east.world
    for number in range(4):
        east.write(f"w{number}")
    complete = [set(world.image(west.name)), east.read()]
    world.until(
        "half of a copy has come", lambda: world.sites[west.name].half and len(world.sites[west.name].received) > 1
    )
    await east.ensure(Role.FENCED, 2)
    await west.ensure(Role.ACTIVE, 2)
    assert west.read() in complete, f"{west.read()} was never at {east.name}"


async def what_is_told_as_lost_is_an_upper_bound(pair: tuple[Site, Site]) -> None:
    """The source read its volume 600 s ago, and could not send that until now."""
    world = pair[0].world
    world.behind_s = 900
    east, west = await followed(pair)
    world.images = False
    world.until("a copy has come", lambda: world.sites[west.name].whole)
    world.until("the next one has begun", lambda: bool(world.sites[east.name].taken))
    east.write("missing")
    assert world.behind_s >= 600
    world.behind_s, world.images = 300, True
    # The image of the first one is made now, so now begins the wait for the next one: it does not say how old that is.
    await east.copies(west)
    world.behind_s = 100
    await east.copies(west)
    assert "missing" not in world.image(west.name)
    status = await west.status()
    assert status.lag_seconds < 0 or status.lag_seconds >= 600, f"{status.lag_seconds} s, and 600 are missing"


Scenario = Callable[[tuple[Site, Site]], Awaitable[None]]
SCENARIOS = (
    a_lost_site_is_archived_and_rebuilt,
    a_deposed_site_copies_nothing,
    a_copy_of_an_earlier_epoch_is_not_gone_on_with,
    what_is_opened_is_complete,
    what_is_told_as_lost_is_an_upper_bound,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one.__name__ for one in SCENARIOS])
async def test_it_holds(scenario: Scenario, pair: tuple[Site, Site]) -> None:
    await scenario(pair)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """FENCED leaves the source running."""
    real = Owned.pause

    def pause(self: Owned, kind: Kind, epoch: int) -> dict[str, Any] | None:
        return self.get(kind) if kind is SOURCE else real(self, kind, epoch)

    patch.setattr(Owned, "pause", pause)


def kept_source(patch: pytest.MonkeyPatch) -> None:
    """The source of an earlier epoch runs again, instead of a new one."""
    real = Owned.remove

    def remove(self: Owned, kind: Kind, name: str = "") -> None:
        if kind is not SOURCE:
            real(self, kind, name)

    patch.setattr(Owned, "remove", remove)


def volume_as_image(patch: pytest.MonkeyPatch) -> None:
    """The image is the volume itself that copies are written into."""
    real = objects.destination_spec

    def spec(own: Any) -> dict[str, Any]:
        made = real(own)
        made["rsyncTLS"]["copyMethod"] = "Direct"
        return made

    def image(found: Any) -> str:
        return str((objects.status_of(found).get("latestImage") or {}).get("name", ""))

    patch.setattr(objects, "destination_spec", spec)
    patch.setattr(objects, "image_of", image)


def age_of_the_last_wait(patch: pytest.MonkeyPatch) -> None:
    """The age is counted from when this site began to wait for the newest copy."""
    patch.setattr(Notes, "not_older_than", property(lambda notes: notes.last and notes.last.start))


def no_archive(patch: pytest.MonkeyPatch) -> None:
    """What only this site has is deleted without an archive."""
    patch.setattr(VolSyncComponent, "_archive", lambda *_: None)


@pytest.mark.parametrize(
    ("planted", "scenario"),
    [
        (no_fence, a_deposed_site_copies_nothing),
        (kept_source, a_copy_of_an_earlier_epoch_is_not_gone_on_with),
        (volume_as_image, what_is_opened_is_complete),
        (age_of_the_last_wait, what_is_told_as_lost_is_an_upper_bound),
        (no_archive, a_lost_site_is_archived_and_rebuilt),
    ],
    ids=lambda one: one.__name__,
)
async def test_a_planted_bug_is_seen(
    planted: Callable[[pytest.MonkeyPatch], None],
    scenario: Scenario,
    pair: tuple[Site, Site],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        await scenario(pair)
