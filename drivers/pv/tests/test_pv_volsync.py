"""Mode volsync against a real kube-apiserver. VolSync's controller does not run: a stand-in does what it does."""

import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv import volsync
from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.entry import Entry
from graf_driver_pv.testing_volsync import CLAIM_NAME, NAME, Api, api_server, kubeconfig_of, parameters
from graf_driver_pv.testing_volsync_controller import StandIn
from graf_driver_pv.volsync import VolSyncComponent
from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION, SNAPSHOT, SOURCE, Cluster, ConflictError, Kind
from graf_driver_pv.volsync_notes import Notes
from graf_driver_pv.volsync_objects import COMPONENT, EPOCH, IMAGE, copy_of
from graf_driver_pv.volsync_owned import Owned
from graf_driver_pv.volsync_parameters import read
from graf_driver_sdk.errors import NeedsResyncError, PreconditionError, StaleEpochError
from graf_driver_sdk.types import (
    ComponentKey,
    EnsureRole,
    Health,
    Peer,
    PositionReached,
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
    Verdict,
)

from graf.lab.binaries import located


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_server(tmp_path_factory.mktemp("api"), located()) as found:
        yield found


@pytest.fixture(scope="module")
def installed(server: Api) -> Api:
    server.install()
    return server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no API server that does not answer."""
    monkeypatch.setattr(volsync, "_WRITE_S", 30.0)
    monkeypatch.setattr(volsync, "_LOOK_S", 30.0)


class Site:
    """A site's driver, in this process, with its own namespace."""

    def __init__(self, api: Api, folder: Path, **more: Any) -> None:
        self.name = f"site-{uuid.uuid4().hex[:8]}"
        self.api, self.folder = api, folder / self.name
        self.spec = Spec(ComponentKey("vcu", "files", self.name), parameters(api, self.name, **more))
        self.world = StandIn(api)
        api.add_site(self.name)
        self.restart()

    def restart(self) -> None:
        self.driver = Entry()
        self.driver.state_dir = self.folder

    async def once(self, role: Role, epoch: int, active: "Site | None" = None) -> str:
        """One call; empty when it is completed."""
        peers = (active.peer,) if active is not None else ()
        progress = await self.driver.ensure_role(EnsureRole(self.spec, role, epoch, peers))
        return "" if progress.completed else progress.message

    async def ensure(self, role: Role, epoch: int, active: "Site | None" = None) -> None:
        """Calls until it is completed, as the controller does."""

        async def done() -> bool:
            return not await self.once(role, epoch, active)

        await self.stepping(f"{self.name} to be {role.name}", done)

    async def stepping(self, what: str, seen: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(60):
            if await seen():
                return
            self.world.step()
        raise AssertionError(f"waited in vain for {what}")

    async def quiesce(self, epoch: int) -> str:
        position = ""

        async def done() -> bool:
            nonlocal position
            answer = await self.driver.quiesce(self.spec, epoch)
            position = answer.position
            return answer.progress.completed

        await self.stepping("the last copy", done)
        return position

    async def resync(self, active: "Site", strategy: ResyncStrategy, epoch: int) -> Resynced:
        answer: Resynced | None = None

        async def done() -> bool:
            nonlocal answer
            answer = await self.driver.resync(self.spec, active.peer, strategy, epoch)
            return answer.progress.completed

        await self.stepping("the resync", done)
        assert answer is not None
        return answer

    async def status(self) -> Status:
        return await self.driver.status(self.spec)

    async def reached(self, position: str) -> PositionReached:
        return await self.driver.await_position(self.spec, position, 0)

    @property
    def peer(self) -> Peer:
        return Peer(self.name, Role.ACTIVE, self.spec.parameters)

    def object(self, kind: Kind) -> dict[str, Any]:
        found = self.api.get(kind, self.name)
        assert found is not None
        return found

    def write(self, value: str) -> None:
        self.world.write(self.name, value)

    def read(self) -> set[str]:
        return self.world.read(self.name)

    def lose_claim(self) -> None:
        """Somebody deletes the PVC."""
        admin = self.world.sites[self.name].admin
        admin.delete(CLAIM, self.object(CLAIM))
        self.world.until("the end of the PVC", lambda: self.api.get(CLAIM, self.name) is None)

    async def copies(self, to: "Site", count: int = 1) -> None:
        """That many whole copies, and the other site's driver has seen each."""
        for _ in range(count):
            before = to.world.sites[to.name].images.copy()
            self.world.until(f"a copy at {to.name}", lambda old=before: len(to.world.sites[to.name].images) > len(old))  # type: ignore[misc]
            await to.status()


@pytest.fixture
def pair(installed: Api, tmp_path: Path) -> tuple[Site, Site]:
    east, west = Site(installed, tmp_path), Site(installed, tmp_path)
    east.world = west.world = StandIn(installed, east.name, west.name)
    return east, west


async def test_without_volsync_it_is_told_and_nothing_is_completed(server: Api, tmp_path: Path) -> None:
    site = Site(server, tmp_path)  # the first test of this file: nobody has installed it yet
    status = await site.status()
    assert status.health is Health.UNHEALTHY
    assert "VolSync is not installed" in status.message
    assert "VolSync is not installed" in await site.once(Role.ACTIVE, 1)


async def test_only_one_side_runs_in_each_role_and_the_epoch_is_written(pair: tuple[Site, Site]) -> None:
    east, west = pair
    west.lose_claim()
    await east.ensure(Role.ACTIVE, 3)
    source = east.object(SOURCE)
    assert source["metadata"]["annotations"] == {EPOCH: "3", COMPONENT: "vcu/files"}
    assert source["spec"]["sourcePVC"] == CLAIM_NAME
    assert source["spec"]["trigger"] == {"schedule": "*/4 * * * *"}
    assert source["spec"]["rsyncTLS"]["address"] == "198.51.100.7"
    assert not source["spec"]["paused"]
    assert east.api.get(DESTINATION, east.name) is None
    await west.ensure(Role.STANDBY, 3, east)
    assert west.object(DESTINATION)["spec"]["rsyncTLS"]["copyMethod"] == "Snapshot"
    await east.copies(west)
    for role in (Role.FENCED, Role.INVALIDATED):
        await east.ensure(role, 4)
        assert east.object(SOURCE)["spec"]["paused"]
    await west.ensure(Role.ACTIVE, 5)
    assert west.object(DESTINATION)["spec"]["paused"]
    assert not west.object(SOURCE)["spec"]["paused"]
    west.restart()
    status = await west.status()
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True), status


async def test_a_promotion_makes_the_claim_from_the_newest_complete_image(pair: tuple[Site, Site]) -> None:
    east, west = pair
    await east.ensure(Role.ACTIVE, 1)
    east.write("first")
    await west.ensure(Role.STANDBY, 1, east)
    status = await west.status()
    assert (status.lag_seconds, status.promotable, status.health) == (-1.0, False, Health.INITIALISING)
    with pytest.raises(PreconditionError, match="empty volume"):
        await west.once(Role.ACTIVE, 2)
    await east.copies(west, 2)
    with pytest.raises(PreconditionError, match="delete the claim"):  # somebody else's: it may be the only copy
        await west.once(Role.ACTIVE, 2)
    assert "not of vcu/files" in (await west.status()).promotable_reason
    west.lose_claim()
    await west.ensure(Role.ACTIVE, 2)
    claim = west.object(CLAIM)
    assert claim["spec"]["dataSourceRef"]["kind"] == "ReplicationDestination"
    assert claim["metadata"]["annotations"][IMAGE] == objects.image_of(west.object(DESTINATION))
    assert west.read() == {"first"}


async def test_a_claim_that_a_pod_still_uses_is_waited_for(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    east.write("second")
    await move(east, west, 2)
    await move(west, east, 3)
    await west.copies(east, 0)
    west.world.sites[west.name].in_use = True
    west.world.until("a newer copy", lambda: west.world.image(west.name) >= {"second"})
    await east.copies(west, 2)
    await east.ensure(Role.FENCED, 4)
    for _ in range(3):
        assert "a Pod still uses it?" in await west.once(Role.ACTIVE, 4)
        west.world.step()
    west.world.sites[west.name].in_use = False
    await west.ensure(Role.ACTIVE, 4)
    assert west.read() == {"first", "second"}


async def followed(pair: tuple[Site, Site]) -> tuple[Site, Site]:
    """East is active in epoch 1, west has two copies of it."""
    east, west = pair
    west.lose_claim()
    await east.ensure(Role.ACTIVE, 1)
    east.write("first")
    await west.ensure(Role.STANDBY, 1, east)
    await east.copies(west, 2)
    return east, west


async def move(giver: Site, taker: Site, epoch: int) -> None:
    """A planned move."""
    position = await giver.quiesce(epoch - 1)
    reached = await taker.reached(position)
    assert reached.reached, reached
    await giver.ensure(Role.FENCED, epoch)
    await taker.ensure(Role.ACTIVE, epoch)
    await giver.ensure(Role.STANDBY, epoch, taker)


async def test_a_planned_move_there_and_back_loses_nothing(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    for epoch, (giver, taker) in enumerate(((east, west), (west, east), (east, west)), start=2):
        giver.write(f"of-{epoch}")
        await move(giver, taker, epoch)
        assert taker.read() == {"first"} | {f"of-{one}" for one in range(2, epoch + 1)}
        assert taker.api.get(SOURCE, giver.name) is None
        assert (await giver.driver.assess(giver.spec, taker.peer)).verdict is Verdict.BEHIND
        await taker.copies(giver)


async def test_a_copy_that_was_under_way_is_not_taken_for_the_last_one(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    world = east.world
    world.until("a copy has begun", lambda: bool(world.sites[east.name].taken))
    east.write("late")
    asked = []

    async def done() -> bool:
        answer = await east.driver.quiesce(east.spec, 1)
        asked.append(objects.tag_of(east.object(SOURCE)))
        return answer.progress.completed

    await east.stepping("the last copy", done)
    assert len(set(asked)) == 3  # the one under way, the first that counts, and the one that proves it
    assert world.image(west.name) == {"first", "late"}
    status = await east.status()
    assert not status.accepting
    east.restart()
    assert (await east.driver.quiesce(east.spec, 1)).position == status.position
    assert (await east.driver.unquiesce(east.spec, 1)).completed
    assert east.object(SOURCE)["spec"]["trigger"] == {"schedule": "*/4 * * * *"}


async def test_a_copy_that_ended_before_is_not_the_position(pair: tuple[Site, Site]) -> None:
    _, west = await followed(pair)
    later = (copy_of(west.object(DESTINATION)) or pytest.fail("no copy")).end.replace(year=2100)
    answer = await west.reached(objects.position_of("graf-1-7", later))
    assert not answer.reached
    assert "do the clocks differ" in answer.message


async def test_a_claim_that_is_gone_is_not_replaced_by_something_older(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    await east.ensure(Role.FENCED, 2)
    await west.ensure(Role.ACTIVE, 2)
    west.lose_claim()
    status = await west.status()
    assert (status.health, status.accepting) == (Health.DEAD, False)
    for role in (Role.ACTIVE, Role.FENCED):
        if role is Role.FENCED:
            await west.ensure(role, 3)
        with pytest.raises(PreconditionError, match="is gone"):
            await west.ensure(Role.ACTIVE, 3)
    assert west.api.get(CLAIM, west.name) is None


async def test_a_driver_without_its_record_opens_nothing_that_may_be_the_older_one(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    await move(east, west, 2)
    await west.copies(east, 2)
    for left in east.folder.iterdir():
        left.unlink()
    east.restart()
    with pytest.raises(PreconditionError, match="is not known"):
        await east.once(Role.ACTIVE, 3)
    with pytest.raises(NeedsResyncError):
        await east.once(Role.STANDBY, 3, west)


# -- what a safeguard is there for: each of these is also run without it, and must fail then --------------------------


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
    world.behind_s = 600
    east, west = await followed(pair)
    world.images = False
    world.until("a copy has come", lambda: world.sites[west.name].whole)
    world.until("the next one has begun", lambda: bool(world.sites[east.name].taken))
    east.write("missing")  # 600 s ago
    world.behind_s, world.images = 0, True
    # The image of the first one is made now, so now begins the wait for the next one: it does not say how old that is.
    await east.copies(west, 2)
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


# -- objects ----------------------------------------------------------------------------------------------------------


async def test_what_volsync_says_is_wrong_is_told(pair: tuple[Site, Site]) -> None:
    _, west = await followed(pair)
    broken = [{"type": "Synchronizing", "status": "False", "reason": "Error", "message": "no such secret"}]
    body = west.object(DESTINATION)
    body["status"]["conditions"] = broken
    west.world.sites[west.name].admin.put_status(DESTINATION, body)
    status = await west.status()
    assert status.health is Health.UNHEALTHY
    assert "no such secret" in status.message
    assert "Synchronizing=False(Error)" in status.facts["destination_conditions"]


async def test_a_higher_epoch_and_somebody_elses_object_are_left_alone(pair: tuple[Site, Site]) -> None:
    east, _ = pair
    await east.ensure(Role.ACTIVE, 5)
    at = (f"{SOURCE.plural}.volsync.backube", NAME, "-n", east.name, "--overwrite")
    east.api.kubectl("annotate", *at, f"{EPOCH}=9")
    with pytest.raises(StaleEpochError, match="epoch 9"):
        await east.once(Role.ACTIVE, 6)
    assert east.object(SOURCE)["metadata"]["annotations"][EPOCH] == "9"
    assert "deposed" in (await east.status()).message
    east.api.kubectl("annotate", *at, f"{COMPONENT}=a/b")
    with pytest.raises(PreconditionError, match="belongs to a/b"):
        await east.once(Role.FENCED, 10)
    assert not east.object(SOURCE)["spec"]["paused"]


async def test_a_write_that_meets_another_one_is_made_anew(
    pair: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    east, _ = pair
    await east.ensure(Role.ACTIVE, 1)
    real = Cluster.replace
    met: list[Kind] = []

    def write(self: Cluster, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        if not met:
            at = (f"{kind.plural}.volsync.backube", NAME, "-n", east.name)
            east.api.kubectl("label", *at, "theirs=yes")
        try:
            return real(self, kind, body)
        except ConflictError:
            met.append(kind)
            raise

    monkeypatch.setattr(Cluster, "replace", write)
    await east.ensure(Role.FENCED, 2)
    assert met == [SOURCE]
    found = east.object(SOURCE)
    assert found["spec"]["paused"]
    assert found["metadata"]["labels"] == {"theirs": "yes"}


async def test_a_missing_permission_is_told(installed: Api, tmp_path: Path) -> None:
    site = Site(installed, tmp_path, kubeconfig=str(installed.work / "powerless"))
    assert "lacks the permission" in await site.once(Role.FENCED, 1)


async def test_an_api_server_that_does_not_answer_is_waited_for_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volsync, "_WRITE_S", 0.3)
    monkeypatch.setattr(volsync, "_LOOK_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
        nobody = Api(tmp_path, tmp_path, mute.getsockname()[1], 1)
        content = kubeconfig_of(nobody, "none").replace("certificate-authority", "unused")
        nobody.kubeconfig.write_text(content)
        parsed, problems = read(parameters(nobody, "east"))
        assert parsed is not None, problems
        key = ComponentKey("vcu", "files", "east")
        component = VolSyncComponent(key, parsed, tmp_path, lambda: None)
        assert (await component.status()).health is Health.UNKNOWN
        progress = await component.ensure_role(EnsureRole(Spec(key), Role.FENCED, 1))
        assert not progress.completed
        assert "does not answer" in progress.message
        assert (await component.assess()).verdict is Verdict.UNKNOWN
