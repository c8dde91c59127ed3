"""Mode volsync against a real kube-apiserver. VolSync's controller does not run: a stand-in does what it does."""

import socket
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv import volsync
from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.testing_volsync import CLAIM_NAME, NAME, Api, parameters
from graf_driver_pv.testing_volsync_site import Site, followed, move
from graf_driver_pv.volsync import VolSyncComponent
from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION, SOURCE, Cluster, ClusterError, ConflictError, Kind
from graf_driver_pv.volsync_objects import COMPONENT, EPOCH, IMAGE, copy_of
from graf_driver_pv.volsync_parameters import read
from graf_driver_sdk.errors import NeedsResyncError, PreconditionError, StaleEpochError
from graf_driver_sdk.testing_kubernetes import kubeconfig
from graf_driver_sdk.types import (
    ComponentKey,
    EnsureRole,
    Health,
    Role,
    Spec,
    Verdict,
)


async def test_without_volsync_it_is_told_and_nothing_is_completed(
    pair: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    east, _ = pair
    monkeypatch.setattr(volsync, "SOURCE", Kind("volsync.backube/v0", SOURCE.plural, SOURCE.name))
    status = await east.status()
    assert status.health is Health.UNHEALTHY
    assert "VolSync is not installed" in status.message
    assert "VolSync is not installed" in await east.once(Role.ACTIVE, 1)


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


async def test_a_planned_move_there_and_back_loses_nothing(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    for epoch, (giver, taker) in enumerate(((east, west), (west, east)), start=2):
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


async def test_a_copy_that_ends_after_the_promotion_is_not_newer_than_what_was_served(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    world = east.world
    world.images, world.spare = False, True
    world.until("a copy has come", lambda: world.sites[west.name].whole)
    await east.ensure(Role.FENCED, 2)
    await west.ensure(Role.ACTIVE, 2)
    world.images = True
    world.until("its image", lambda: not world.sites[west.name].whole)
    west.write("of-west")
    await west.quiesce(2)  # to somebody else: the move was not carried out
    await west.ensure(Role.FENCED, 3)
    await west.ensure(Role.ACTIVE, 3)
    assert west.read() == {"first", "of-west"}


async def test_a_driver_without_its_record_opens_nothing_that_may_be_the_older_one(pair: tuple[Site, Site]) -> None:
    east, west = await followed(pair)
    await move(east, west, 2)
    await west.copies(east, 2)
    for left in east.folder.iterdir():
        left.unlink()
    east.restart()
    with pytest.raises(PreconditionError, match="is not known"):
        await east.once(Role.ACTIVE, 3)
    await east.ensure(Role.FENCED, 3)
    east.restart()
    with pytest.raises(PreconditionError, match="is not known"):
        await east.once(Role.ACTIVE, 3)
    with pytest.raises(NeedsResyncError):
        await east.once(Role.STANDBY, 3, west)


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


def test_a_kubeconfig_that_was_replaced_is_used_from_the_next_call_on(installed: Api, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes((installed.work / "powerless").read_bytes())
    cluster = Cluster(str(file), "default", 30)
    with pytest.raises(ClusterError, match="lacks the permission"):
        cluster.get(SOURCE, NAME)
    fresh = tmp_path / "fresh"
    fresh.write_bytes(installed.kubeconfig.read_bytes())
    fresh.rename(file)
    assert cluster.get(SOURCE, NAME) is None


async def test_an_api_server_that_does_not_answer_is_waited_for_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volsync, "_WRITE_S", 0.3)
    monkeypatch.setattr(volsync, "_LOOK_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing
        nobody = Api(tmp_path, tmp_path, mute.getsockname()[1], 1)
        content = kubeconfig(nobody.work, nobody.port, "none").replace("certificate-authority", "unused")
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
