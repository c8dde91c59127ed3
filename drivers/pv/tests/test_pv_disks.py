"""Disks that are full or do not answer, and what the kernel does not watch: told, and nothing is lost by it."""

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv import events, follow, problems, status
from graf_driver_pv.active import Active
from graf_driver_pv.client import Head
from graf_driver_pv.component import Component
from graf_driver_pv.copying import PullError, Work
from graf_driver_pv.deposit import Deposit
from graf_driver_pv.driver import PvDriver
from graf_driver_pv.events import Changes, Watcher
from graf_driver_pv.follow import Follower
from graf_driver_pv.layout import Layout
from graf_driver_pv.manifest import Manifest, walk
from graf_driver_pv.outlet import Heard
from graf_driver_pv.parameters import Repository, parse
from graf_driver_pv.position import Position
from graf_driver_pv.record import Record, RecordFile, RecordUnreadableError, this_boot
from graf_driver_pv.seal import seal
from graf_driver_pv.store import Store
from graf_driver_pv.testing import SiteUnderTest, make_authority, make_identity, two_sites
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.testing import eventually, small_disk
from graf_driver_sdk.types import ComponentKey, EnsureRole, Role, Spec
from inotify_simple import INotify

MIB = 1 << 20


@pytest.fixture(name="small_disk")
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 24) as where:
        yield where


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(10_000):
            file.write(b"f" * 4096)
    assert shutil.disk_usage(path.parent).free == 0


async def says(site: SiteUnderTest, text: str) -> None:
    async def told() -> bool:
        return text in (await site.status()).message

    await eventually(f"{site.name} to say {text!r}", told, 60, 0.05)


async def test_a_site_whose_disk_is_full_is_fenced_all_the_same(tmp_path: Path, small_disk: Path) -> None:
    async with two_sites(tmp_path) as (east, west):
        east.parameters["directory"] = str(small_disk / "volume")
        await east.ensure(Role.ACTIVE, 1)
        await west.ensure(Role.STANDBY, 1, "east")
        (east.current / "had").write_bytes(os.urandom(MIB))
        await west.wait_generation_with(east.current)
        fill(east.current / "log")
        await says(east, "No space left on device; enlarge the volume")
        await says(east, str(east.volume))
        with pytest.raises(DriverCallError, match="No space left on device; enlarge the volume"):
            await east.quiesce(1)
        await east.client.unquiesce(east.spec, 1) if east.client else None
        assert east.current.exists()
        fill(east.current / "log2")
        await east.ensure(Role.FENCED, 1)
        assert not east.current.exists()
        await east.kill()
        await east.start()
        assert (await east.status()).role is Role.FENCED


async def test_what_a_full_active_could_not_copy_gives_its_room_back(tmp_path: Path, small_disk: Path) -> None:
    """The rest of each try would fill the disk until nothing can be copied, nor written by the application."""
    async with two_sites(tmp_path) as (east, west):
        east.parameters["directory"] = str(small_disk / "volume")
        await east.ensure(Role.ACTIVE, 1)
        await west.ensure(Role.STANDBY, 1, "east")
        (east.current / "large").write_bytes(os.urandom(15 * MIB))
        await says(east, "No space left")
        (east.current / "large").write_bytes(os.urandom(8 * MIB))
        await west.wait_generation_with(east.current)
        await says(east, "")


async def test_a_full_standby_follows_again_when_there_is_less(tmp_path: Path, small_disk: Path) -> None:
    async with two_sites(tmp_path) as (east, west):
        west.parameters["directory"] = str(small_disk / "volume")
        await east.ensure(Role.ACTIVE, 1)
        await west.ensure(Role.STANDBY, 1, "east")
        (east.current / "had").write_bytes(os.urandom(MIB))
        await west.wait_generation_with(east.current)
        for index in range(20):
            (east.current / f"more{index}").write_bytes(os.urandom(2 * MIB))
        await says(west, "No space left")
        assert (await west.status()).health.name == "HEALTHY", "what it has can still be served"
        for index in range(20):
            (east.current / f"more{index}").unlink()
        (east.current / "had").write_text("less")
        await west.wait_generation_with(east.current)


def left_open(small_disk: Path) -> Component:
    """A volume that the version before, which kept no room, has left in order: served, and its disk full."""
    layout = Layout(small_disk / "volume")
    layout.make()
    layout.tree.mkdir(parents=True)
    layout.current.symlink_to("live/tree")
    RecordFile(layout.record).save(Record(Role.ACTIVE, 3, 3, boot=this_boot()))
    for spare in layout.root.glob(".record*"):
        spare.unlink()
    where = {"directory": str(layout.root), "repository": {"location": "/r", "passwordFile": "/p"}}
    parameters, _ = parse(where)
    assert parameters is not None
    return Component(ComponentKey("g", "c", "east"), parameters, lambda: None)


async def fenced(component: Component, epoch: int) -> None:
    await component.open()
    await component.ensure_role(EnsureRole(Spec(component.key, {}), Role.FENCED, epoch))
    assert not component.is_open
    known = RecordFile(component.layout.record).load()
    assert (known.role, known.epoch, known.boot) == (Role.FENCED, epoch, "")


async def test_a_full_volume_of_the_version_before_is_fenced(small_disk: Path) -> None:
    component = left_open(small_disk)
    fill(small_disk / "filler")
    await fenced(component, 4)
    await fenced(component, 5)


async def test_what_was_being_received_makes_room_for_the_record(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_needed(file: RecordFile, record: Record) -> None:
        raise AssertionError("there was room")

    monkeypatch.setattr(RecordFile, "save_in_place", not_needed)
    component = left_open(small_disk)
    component.layout.incoming.mkdir()
    (component.layout.incoming / "part").write_bytes(b"p" * MIB)
    fill(small_disk / "filler")
    await fenced(component, 4)


async def test_a_record_that_cannot_be_replaced_at_all_keeps_no_volume_open(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: RecordFile, record: Record) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    component = left_open(small_disk)
    with monkeypatch.context() as patched:
        patched.setattr(RecordFile, "save", full)
        patched.setattr(RecordFile, "save_in_place", full)
        await component.open()
        with pytest.raises(OSError, match="No space left"):
            await component.ensure_role(EnsureRole(Spec(component.key, {}), Role.FENCED, 4))
        assert not component.is_open
    await fenced(component, 4)


def test_a_record_that_was_torn_in_its_place_is_not_understood(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "record.json")
    file.save(Record(Role.ACTIVE, 3, 3, boot=this_boot()))
    before = file.path.read_bytes()
    file.save_in_place(Record(Role.FENCED, 4, 3))
    after = file.path.read_bytes()
    assert file.load() == Record(Role.FENCED, 4, 3)
    for length in range(1, len(after)):
        file.path.write_bytes(after[:length] + before[length:])
        with contextlib.suppress(RecordUnreadableError):
            assert not file.load().stays_open or after[:length] == before[:length]


class TooLarge:
    """An active whose generations no disk has room for."""

    settle_s = 0.0

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.number = 1
        self.asked = 0
        self.brought: list[int] = []

    async def connect(self) -> None:
        self.asked += 1

    async def close(self) -> None:
        return

    async def look(self, asked_wall_ms: int) -> Head:
        raise AssertionError("nobody asks for a verdict")

    async def next(self, have: Position | None, begun_wall_ms: int, wait_s: float) -> Head:
        newest = Position(1, self.number)
        return Head(1, newest, 1, 0.0, time.monotonic_ns(), newest, {})

    async def manifest(self, position: Position, have: Manifest | None) -> tuple[Manifest | None, bytes]:
        return Manifest(position, {}, "point-in-time", 1, {}, (0o755, 0, 0)), b""

    async def bring(self, work: Work, manifest: Manifest, newest: Manifest | None) -> None:
        self.brought.append(self.number)
        raise self.error

    def distrust(self, position: Position) -> None:
        return


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), PullError("rsync ended with 11: No space left on device (28)")],
    ids=["own", "rsync"],
)
async def test_a_full_standby_copies_a_generation_anew_only_when_there_may_be_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(follow, "_RETRY_S", (0.001,))
    monkeypatch.setattr(follow, "_FULL_S", 3600)
    store = volume(tmp_path)
    parameters, _ = parse({"directory": str(tmp_path), "repository": {"location": "/r", "passwordFile": "/p"}})
    assert parameters is not None
    peer = TooLarge(error)
    follower = Follower(store, parameters, "west", peer, 1, lambda: None)
    try:
        await eventually("many looks", lambda: peer.asked >= 10, 30, 0.01)
        assert peer.brought == [1]
        assert "No space left" in follower.problem
        assert not store.layout.incoming.exists(), "its room is given back"
        peer.number = 2
        await eventually("another generation to be tried", lambda: len(peer.brought) > 1, 30, 0.01)
        assert peer.brought == [1, 2]
        monkeypatch.setattr(follow, "_FULL_S", 0)
        peer.number = 3
        await eventually("one to be tried again after a time", lambda: peer.brought[2:4] == [3, 3], 30, 0.01)
    finally:
        await follower.stop()


def volume(tmp_path: Path) -> Store:
    layout = Layout(tmp_path / "volume")
    layout.make()
    layout.tree.mkdir(parents=True)
    return Store(layout)


def everything() -> Changes:
    return Changes(everything=True, since_ns=1)


def test_a_file_that_cannot_be_read_is_not_taken_for_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = volume(tmp_path)
    (store.layout.tree / "kept").write_text("x")
    before = seal(store, 1, everything(), None, lambda _: None)
    assert before is not None
    (store.layout.tree / "kept").write_text("changed")
    real = os.open

    def broken(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if os.fspath(path) == os.fspath(store.layout.tree / "kept"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", broken)
    with pytest.raises(OSError, match="kept"):
        seal(store, 1, Changes(paths={"kept"}, since_ns=1), Changes, lambda _: None)
    assert store.newest() == before


def test_a_place_that_cannot_be_watched_does_not_end_the_watching(tmp_path: Path) -> None:
    """A path that is too long for the driver is none for who goes there step by step."""
    tree = tmp_path / "live" / "tree"
    tree.mkdir(parents=True)
    heard = threading.Event()
    watcher = Watcher(tree, heard.set)
    try:
        watcher.take()
        deep = "p=$1; for i in $(seq 25); do mkdir $p && cd -P $p || exit 1; done"
        subprocess.run(["sh", "-c", deep, "deep", "d" * 200], cwd=tree, check=True)
        watcher.settle()
        assert "File name too long" in watcher.problem
        assert len(watcher.problem) < 500
        assert watcher.take().everything
        subprocess.run(["rm", "-rf", "d" * 200], cwd=tree, check=True)
        watcher.settle()
        watcher.mend()
        assert watcher.problem == ""
        watcher.take()
        (tree / "after").write_text("x")
        watcher.settle()
        assert "after" in watcher.take().paths
    finally:
        watcher.close()


def test_without_an_inotify_instance_it_says_which_limit_and_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "live" / "tree"
    tree.mkdir(parents=True)

    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(events, "INotify", none_left)
        watcher = Watcher(tree, lambda: None)
    try:
        assert "fs.inotify.max_user_instances" in watcher.problem
        watcher.settle()
        watcher.mend()
        assert watcher.problem == ""
        (tree / "after").write_text("x")
        watcher.settle()
        assert "after" in watcher.take().paths
    finally:
        watcher.close()


def test_an_error_says_where_and_what_to_do() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert problems.told(full, "/volume").startswith("/volume: No space left on device; enlarge the volume")
    assert "\\xff" in problems.told(OSError(errno.EIO, "bad", os.fsdecode(b"/v/\xff")), "/v")
    assert problems.told(ConnectionResetError(errno.ECONNRESET, "reset"), "/v") == "[Errno 104] reset"


class NoOutlet:
    """Nobody asks."""

    def __init__(self) -> None:
        self.problem = ""
        self.allowed: Mapping[str, str] = {}
        self.heard: Mapping[str, Heard] = {}
        self.callers: Sequence[str] = ()
        self.pinned: set[str] = set()

    def facts(self) -> dict[str, str]:
        return {}

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def delivered(self, manifest: Manifest) -> None:
        return


async def test_a_clock_that_is_set_back_makes_no_generation_younger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = volume(tmp_path)
    parameters, _ = parse({"directory": str(tmp_path), "repository": {"location": "/r", "passwordFile": "/p"}})
    assert parameters is not None
    own = replace(parameters, interval_s=0.1)
    active = Active(store, own, 1, {}, None, lambda: None, lambda _: NoOutlet())
    try:
        await eventually("a first generation", lambda: active.manifest, 30, 0.01)
        first = active.manifest
        (store.layout.tree / "changed").write_text("x")
        await eventually("a second generation", lambda: active.manifest is not first, 30, 0.01)
        assert first is not None
        hour_ago_ns = time.time_ns() - 3_600_000_000_000
        monkeypatch.setattr(time, "time_ns", lambda: hour_ago_ns)
        assert active.behind_s(str(first.position), first.begun_wall_ms) > 0
        assert active.behind_s("e0000000000-0000000001", first.begun_wall_ms) == -1, "what is not known is told as such"
    finally:
        await active.stop()


async def test_what_is_written_while_a_folder_is_not_watched_is_found_when_it_is_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is met by one folder, and nothing is in the way any more when the next generation is made."""
    store = volume(tmp_path)
    where = {"directory": str(tmp_path), "repository": {"location": "/r", "passwordFile": "/p"}}
    parameters, _ = parse({**where, "rpoSeconds": 3600})
    assert parameters is not None
    late = store.layout.tree / "sub" / "late"
    watch = INotify.add_watch

    def limited(inotify: INotify, path: str, mask: int) -> Any:
        if path.endswith("/sub") and not late.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return watch(inotify, path, mask)

    def walked(root: str, below: str) -> Any:
        found = list(walk(root, below))
        if below == "sub":
            late.write_text("after the look into the folder")
        return found

    monkeypatch.setattr(INotify, "add_watch", limited)
    monkeypatch.setattr(events, "walk", walked)
    own = replace(parameters, interval_s=0.01)
    active = Active(store, own, 1, {}, None, lambda: None, lambda _: NoOutlet())

    async def settled() -> bool:
        known = active.manifest
        return known is not None and "sub" in known.entries and not await active.pending()

    try:
        await eventually("a first look", lambda: active._looked.is_set(), 30, 0.01)
        late.parent.mkdir()
        await eventually("nothing to be pending", settled, 30, 0.01)
        assert active.manifest is not None
        assert "sub/late" in active.manifest.entries
    finally:
        await active.stop()


async def test_a_key_of_another_certificate_is_told_by_validate(tmp_path: Path) -> None:
    make_authority(tmp_path)
    east, west = (make_identity(tmp_path, f"{name}.pv.test") for name in ("east", "west"))
    parameters = {"directory": str(tmp_path / "v"), "endpoint": "127.0.0.1:1", "tls": east}
    spec = Spec(ComponentKey("g", "c", "east"), parameters)
    assert not await PvDriver().validate(spec, [])
    east["keyFile"] = west["keyFile"]
    problems = await PvDriver().validate(Spec(spec.key, parameters), [])
    assert [problem.field for problem in problems] == ["tls"]
    assert east["keyFile"] in problems[0].cause


class Lost:
    """A repository in whose place another one comes: a snapshot of the one before is not in it."""

    location = "/r"
    repository = Repository("/r", Path("/p"))

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parents: list[str] = []

    def former_hosts(self, here: str) -> set[str]:
        return set()

    async def snapshots(self, tags: str) -> list[dict[str, Any]]:
        return []

    async def mark(self, tags: list[str], site: str) -> str:
        return "mark"

    async def backup(self, folder: Path, paths: list[str], tags: list[str], site: str, parent: str) -> str:
        self.parents.append(parent)
        if parent:
            raise PullError("no matching ID found")
        return f"snapshot-{len(self.parents)}"


class Serves:
    """An active site with one generation after the other."""

    def __init__(self, first: Manifest) -> None:
        self.epoch = 1
        self.manifest = self.base = first

    async def complete_until(self) -> int:
        return 0

    async def wait_newer(self, have: str, timeout_s: float) -> None:
        await asyncio.sleep(0.01)


async def test_a_repository_that_is_another_one_is_filled_anew(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first = Manifest(Position(1, 1), {}, "point-in-time", 1, {}, (0o755, 0, 0))
    for number in (1, 2):
        layout.generation(str(Position(1, number))).mkdir(parents=True)
    lost, serves = Lost(tmp_path / "restic"), Serves(first)
    deposit = Deposit(lost, layout, "g/c", "east", serves, lambda: None)  # type: ignore[arg-type]
    await deposit.start()
    try:
        await eventually("a first upload", lambda: deposit.uploads == 1, 30, 0.01)
        serves.manifest = serves.base = replace(first, position=Position(1, 2))
        await eventually("a second upload", lambda: deposit.uploads == 2, 30, 0.01)
    finally:
        await deposit.stop()
    assert lost.parents == ["", "snapshot-1", ""]


@pytest.mark.parametrize(("missing", "told"), [("29.99", False), ("30.01", True)])
def test_an_active_says_when_the_repository_lacks_too_much(missing: str, told: bool) -> None:
    """restic tries again for minutes, and says nothing until it gives up."""
    late = status._late({"rpo_seconds_repository": missing, "uploading": "e1"}, 30)
    assert ("putting e1 there is under way" in late) is told


def test_another_file_system_in_the_volume_is_told_and_never_taken_for_deleted(tmp_path: Path) -> None:
    store = volume(tmp_path)
    inner = store.layout.tree / "inner"
    inner.mkdir()
    before = seal(store, 1, everything(), None, lambda _: None)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(inner)], check=True)
    try:
        (inner / "data").write_text("precious")
        with pytest.raises(OSError, match="another file system is mounted there") as caught:
            seal(store, 1, everything(), None, lambda _: None)
        assert "unmount it" in problems.told(caught.value, tmp_path)
        assert store.newest() == before
    finally:
        subprocess.run(["umount", "-l", str(inner)], check=True)
    assert seal(store, 1, everything(), None, lambda _: None) is None


def test_folders_that_are_gone_take_along_what_is_below_and_nothing_beside(tmp_path: Path) -> None:
    store = volume(tmp_path)
    tree = store.layout.tree
    for name in ("a", "a-b", "a.b", "a0", "ab", "b"):
        (tree / name / "sub").mkdir(parents=True)
        (tree / name / "sub" / "file").touch()
    seal(store, 1, everything(), None, lambda _: None)
    for name in ("a", "b"):
        shutil.rmtree(tree / name)
    (tree / "b" / "sub").mkdir(parents=True)
    made = seal(store, 1, Changes(paths={"a", "b", "b/sub"}, folders={"a", "b"}, since_ns=1), Changes, lambda _: None)
    assert made is not None
    left = {name for path in ("a-b", "a.b", "a0", "ab") for name in (path, f"{path}/sub", f"{path}/sub/file")}
    assert set(made.entries) == left | {"b", "b/sub"}
