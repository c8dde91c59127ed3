"""Mode volsync against a real kube-apiserver. VolSync's controller does not run: a stand-in writes its status."""

import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv import volsync
from graf_driver_pv.entry import Entry
from graf_driver_pv.testing_volsync import NAME, Api, api_server, kubeconfig_of, parameters
from graf_driver_pv.volsync import VolSyncComponent
from graf_driver_pv.volsync_cluster import DESTINATION, GROUP, SOURCE, Cluster, ConflictError
from graf_driver_pv.volsync_objects import COMPONENT, EPOCH, instant_of, position_of, read
from graf_driver_sdk.errors import NeedsResyncError, PreconditionError, StaleEpochError
from graf_driver_sdk.types import ComponentKey, EnsureRole, Health, Peer, ResyncStrategy, Role, Spec, Verdict

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
        api.kubectl("create", "namespace", self.name)
        self.restart()

    def restart(self) -> None:
        self.driver = Entry()
        self.driver.state_dir = self.folder

    async def ensure(self, role: Role, epoch: int, active: "Site | None" = None) -> str:
        peers = (active.peer,) if active is not None else ()
        progress = await self.driver.ensure_role(EnsureRole(self.spec, role, epoch, peers))
        assert progress.completed, progress
        return progress.message

    @property
    def peer(self) -> Peer:
        return Peer(self.name, Role.ACTIVE, self.spec.parameters)

    def object(self, plural: str) -> dict[str, Any]:
        found = self.api.get(plural, self.name)
        assert found is not None
        return found


@pytest.fixture
def pair(installed: Api, tmp_path: Path) -> tuple[Site, Site]:
    return Site(installed, tmp_path), Site(installed, tmp_path)


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def test_without_volsync_it_is_told_and_nothing_is_completed(server: Api, tmp_path: Path) -> None:
    site = Site(server, tmp_path)  # the first test of this file: nobody has installed it yet
    status = await site.driver.status(site.spec)
    assert status.health is Health.UNHEALTHY
    assert "VolSync is not installed" in status.message
    progress = await site.driver.ensure_role(EnsureRole(site.spec, Role.ACTIVE, 1))
    assert not progress.completed
    assert "VolSync is not installed" in progress.message


async def test_only_one_side_runs_in_each_role_and_the_epoch_is_written(pair: tuple[Site, Site]) -> None:
    east, west = pair
    await east.ensure(Role.ACTIVE, 3)
    source = east.object(SOURCE)
    assert source["metadata"]["annotations"] == {EPOCH: "3", COMPONENT: "vcu/files"}
    assert source["spec"]["sourcePVC"] == "files-data"
    assert source["spec"]["trigger"] == {"schedule": "*/5 * * * *"}
    assert source["spec"]["rsyncTLS"]["address"] == "198.51.100.7"
    assert not source["spec"]["paused"]
    assert east.api.get(DESTINATION, east.name) is None
    await west.ensure(Role.STANDBY, 3, east)
    assert west.object(DESTINATION)["spec"]["rsyncTLS"]["copyMethod"] == "Snapshot"
    assert west.api.copy(east.name, west.name, ago(1))
    for role in (Role.FENCED, Role.INVALIDATED):
        await east.ensure(role, 4)
        assert east.object(SOURCE)["spec"]["paused"]
        assert not west.api.copy(east.name, west.name, ago(0))
    await west.ensure(Role.ACTIVE, 5)
    assert west.object(DESTINATION)["spec"]["paused"]
    assert not west.object(SOURCE)["spec"]["paused"]
    west.restart()
    status = await west.driver.status(west.spec)
    assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True), status


async def test_a_standby_tells_what_may_be_lost_and_which_image_is_promoted(pair: tuple[Site, Site]) -> None:
    east, west = pair
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, east)
    status = await west.driver.status(west.spec)
    assert (status.lag_seconds, status.promotable, status.health) == (-1.0, False, Health.INITIALISING)
    with pytest.raises(PreconditionError, match="empty volume"):
        await west.ensure(Role.ACTIVE, 2)
    assert west.api.copy(east.name, west.name, ago(100))
    status = await west.driver.status(west.spec)
    assert status.promotable, status
    assert 100 <= status.lag_seconds < 900
    assert status.facts["promote_image"].startswith("VolumeSnapshot/image-")
    assert west.api.copy(east.name, west.name, ago(1000))
    status = await west.driver.status(west.spec)
    assert not status.promotable
    assert "older than the 900 s" in status.promotable_reason
    assert west.api.copy(east.name, west.name, ago(-3600))
    assert (await west.driver.status(west.spec)).lag_seconds == -1.0
    broken = [{"type": "Synchronizing", "status": "False", "reason": "Error", "message": "no such secret"}]
    west.api.say(DESTINATION, west.name, conditions=broken)
    status = await west.driver.status(west.spec)
    assert status.health is Health.UNHEALTHY
    assert "no such secret" in status.message
    assert "Synchronizing=False(Error)" in status.facts["destination_conditions"]


async def test_a_planned_move_waits_for_a_copy_that_began_after_it_was_asked_for(pair: tuple[Site, Site]) -> None:
    east, west = pair
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, east)
    assert not (await east.driver.quiesce(east.spec, 1)).progress.completed
    assert east.object(SOURCE)["spec"]["trigger"] == {"manual": "graf-1-1"}
    assert west.api.copy(east.name, west.name, ago(60), late_s=3)  # it may have begun before
    assert not (await east.driver.quiesce(east.spec, 1)).progress.completed
    assert east.object(SOURCE)["spec"]["trigger"] == {"manual": "graf-1-2"}
    assert not (await east.driver.quiesce(east.spec, 1)).progress.completed
    assert east.api.copy(east.name, west.name, ago(20), late_s=-3)
    quiesced = await east.driver.quiesce(east.spec, 1)
    assert quiesced.progress.completed
    assert (await west.driver.await_position(west.spec, quiesced.position, 5000)).reached
    assert not (await east.driver.status(east.spec)).accepting
    await east.ensure(Role.FENCED, 2)
    await west.ensure(Role.ACTIVE, 2)
    assert (await east.driver.assess(east.spec, west.peer)).verdict is Verdict.BEHIND
    await east.ensure(Role.STANDBY, 2, west)
    assert east.object(SOURCE)["spec"]["paused"]
    assert not east.object(DESTINATION)["spec"]["paused"]


async def test_the_copy_before_the_last_one_is_not_the_position(pair: tuple[Site, Site]) -> None:
    east, west = pair
    await west.ensure(Role.STANDBY, 1, east)
    first, last = ago(60), ago(20)
    position = position_of(1, first, last)
    assert first < instant_of(position) < last
    await east.ensure(Role.ACTIVE, 1)
    assert west.api.copy(east.name, west.name, first, late_s=3)
    reached = await west.driver.await_position(west.spec, position, 300)
    assert not reached.reached
    assert "not here" in reached.message


async def test_unquiesce_copies_by_schedule_again(pair: tuple[Site, Site]) -> None:
    east, _ = pair
    await east.ensure(Role.ACTIVE, 1)
    await east.driver.quiesce(east.spec, 1)
    assert (await east.driver.unquiesce(east.spec, 1)).completed
    assert east.object(SOURCE)["spec"]["trigger"] == {"schedule": "*/5 * * * *"}


async def test_a_site_that_was_lost_while_active_is_diverged_and_rebuilt(pair: tuple[Site, Site]) -> None:
    east, west = pair
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, east)
    assert west.api.copy(east.name, west.name, ago(5))
    await west.ensure(Role.ACTIVE, 2)
    east.restart()
    with pytest.raises(NeedsResyncError):
        await east.ensure(Role.STANDBY, 2, west)
    assert east.object(SOURCE)["spec"]["paused"]
    assert (await east.driver.assess(east.spec, west.peer)).verdict is Verdict.DIVERGED
    with pytest.raises(NeedsResyncError):
        await east.driver.resync(east.spec, west.peer, ResyncStrategy.FOLLOW, 2)
    resynced = await east.driver.resync(east.spec, west.peer, ResyncStrategy.REBUILD, 2)
    assert resynced.progress.completed
    assert resynced.archive == "PersistentVolumeClaim/files-data"
    await east.ensure(Role.STANDBY, 2, west)
    assert east.api.copy(west.name, east.name, ago(0))


async def test_a_higher_epoch_and_somebody_elses_object_are_left_alone(pair: tuple[Site, Site]) -> None:
    east, _ = pair
    await east.ensure(Role.ACTIVE, 5)
    east.api.kubectl("annotate", f"{SOURCE}.{GROUP}", NAME, "-n", east.name, "--overwrite", f"{EPOCH}=9")
    with pytest.raises(StaleEpochError, match="epoch 9"):
        await east.ensure(Role.ACTIVE, 6)
    assert east.object(SOURCE)["metadata"]["annotations"][EPOCH] == "9"
    assert "deposed" in (await east.driver.status(east.spec)).message
    east.api.kubectl("annotate", f"{SOURCE}.{GROUP}", NAME, "-n", east.name, "--overwrite", f"{COMPONENT}=a/b")
    with pytest.raises(PreconditionError, match="belongs to a/b"):
        await east.ensure(Role.FENCED, 10)
    assert not east.object(SOURCE)["spec"]["paused"]


async def test_a_write_that_meets_another_one_is_made_anew(
    pair: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    east, _ = pair
    await east.ensure(Role.ACTIVE, 1)
    real = Cluster.replace
    met: list[str] = []

    def replace(self: Cluster, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        if not met:
            east.api.kubectl("label", f"{plural}.{GROUP}", NAME, "-n", east.name, "theirs=yes")
        try:
            return real(self, plural, body)
        except ConflictError:
            met.append(plural)
            raise

    monkeypatch.setattr(Cluster, "replace", replace)
    await east.ensure(Role.FENCED, 2)
    assert met == [SOURCE]
    found = east.object(SOURCE)
    assert found["spec"]["paused"]
    assert found["metadata"]["labels"] == {"theirs": "yes"}


async def test_a_missing_permission_is_told(installed: Api, tmp_path: Path) -> None:
    site = Site(installed, tmp_path, kubeconfig=str(installed.work / "powerless"))
    progress = await site.driver.ensure_role(EnsureRole(site.spec, Role.FENCED, 1))
    assert not progress.completed
    assert "lacks the permission" in progress.message


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


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mover": {"type": "restic", "keySecret": "a", "address": "b"}}, "volsync.mover.type"),
        ({"mover": {"keySecret": "a"}}, "volsync.mover.address"),
        ({"destination": {}}, "volsync.destination"),
        ({"destination": {"capacity": 5.0, "accessModes": ["ReadWriteOnce"]}}, "volsync.destination.capacity"),
        ({"schedule": "often"}, "volsync.schedule"),
        ({"manual": True}, "volsync.manual"),
        ({"nonsense": 1}, "volsync.nonsense"),
        ({"source": "Not A Name"}, "volsync.source"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    parsed, problems = read(parameters(Api(tmp_path, tmp_path, 1, 1), "east", **change))
    assert parsed is None
    assert field in [problem.field for problem in problems]
