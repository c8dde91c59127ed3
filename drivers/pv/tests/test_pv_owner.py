"""A volume belongs to one component, whatever driver is asked."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv import owner
from graf_driver_pv.driver import PvDriver
from graf_driver_pv.record import Mark
from graf_driver_pv.testing import SiteUnderTest, digest_of
from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import ComponentKey, EnsureRole, Role, Spec

Pair = tuple[SiteUnderTest, SiteUnderTest]
MINE, OTHER = ComponentKey("vcu", "pv", "east"), ComponentKey("ims", "files", "east")


async def test_the_driver_of_another_class_is_refused_and_touches_nothing(sites: Pair, tmp_path: Path) -> None:
    """A group's parameters were copied to another group, and the directory was left as it was."""
    east, _ = sites
    await east.ensure(Role.ACTIVE, 5)
    (east.current / "file").write_text("of vcu")
    before = digest_of(east.volume / "live")
    other = PvDriver()
    other.state_dir = tmp_path / "other-class"
    other.state_dir.mkdir()
    spec = Spec(OTHER, east.parameters)
    for role in (Role.FENCED, Role.ACTIVE, Role.STANDBY):
        with pytest.raises(PreconditionError, match="is the volume of vcu/pv: give ims/files another") as refused:
            await other.ensure_role(EnsureRole(spec, role, 9))
        assert refused.value.reason == "not-mine"
    assert "is the volume of vcu/pv" in (await other.status(spec)).message
    await other.close()
    assert east.current.exists()
    assert digest_of(east.volume / "live") == before
    assert (await east.status()).accepting


async def test_the_owner_outlives_its_driver_until_somebody_deletes_it(sites: Pair, tmp_path: Path) -> None:
    east, _ = sites
    await east.ensure(Role.FENCED, 1)
    await east.stop()
    other = PvDriver()
    other.state_dir = tmp_path / "other-class"
    other.state_dir.mkdir()
    spec = Spec(OTHER, east.parameters)
    with pytest.raises(PreconditionError, match=r"then delete .*/owner"):
        await other.ensure_role(EnsureRole(spec, Role.FENCED, 1))
    (east.volume / "owner").unlink()
    assert (await other.ensure_role(EnsureRole(spec, Role.FENCED, 1))).completed
    await other.close()
    assert (east.volume / "owner").read_text() == "ims/files\n"


async def test_who_served_a_volume_once_does_not_shut_it_when_it_is_anothers(sites: Pair) -> None:
    east, _ = sites
    await east.ensure(Role.ACTIVE, 1)
    await east.stop()
    assert not east.current.exists() or east.current.is_symlink()
    (east.volume / "owner").write_text("ims/files\n")
    east.current.unlink(missing_ok=True)
    east.current.symlink_to("live/tree")
    await east.start()
    assert east.current.is_symlink(), "its mark names a volume that is not its own any more"


def is_open(volume: Path) -> bool:
    return os.path.lexists(volume / "current")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("cannot", ["read", "unlink"])
async def test_one_volume_that_does_not_answer_keeps_no_other_from_being_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cannot: str
) -> None:
    """Its owner is unknown: what can be shut there is shut all the same."""
    driver = PvDriver()
    driver.state_dir = tmp_path / "state"
    broken, left = tmp_path / "a", tmp_path / "b"
    for name, folder in (("a", broken), ("b", left)):
        folder.mkdir()
        (folder / "current").symlink_to("live/tree")
        (folder / "owner").write_text(f"g/{name}\n")
        Mark.of(driver.state_dir, "g", name).set(folder)
    method = "read_text" if cannot == "read" else "unlink"
    real = getattr(Path, method)

    def fails(path: Path, *rest: Any, **more: Any) -> Any:
        if broken in path.parents:
            raise OSError(number, os.strerror(number), os.fspath(path))
        return real(path, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, method, fails)
        await driver.start()
    await driver.close()
    assert not is_open(left)
    assert is_open(broken) is (cannot == "unlink")


async def test_a_file_in_a_volumes_place_keeps_no_other_from_being_shut(tmp_path: Path) -> None:
    driver = PvDriver()
    driver.state_dir = tmp_path / "state"
    (tmp_path / "a").write_text("no folder")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "current").symlink_to("live/tree")
    for name in "ab":
        Mark.of(driver.state_dir, "g", name).set(tmp_path / name)
    await driver.start()
    await driver.close()
    assert not is_open(tmp_path / "b")


def test_a_volume_of_a_release_without_owners_is_taken_and_a_full_disk_is_no_reason_to_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "record.json").write_text("{}")
    with monkeypatch.context() as patched:
        patched.setattr(owner, "replace_file", full)
        owner.take(tmp_path / "owner", MINE)
    assert owner.owner_of(tmp_path / "owner") == ""
    owner.take(tmp_path / "owner", MINE)
    owner.take(tmp_path / "owner", replace(MINE, site="west"))
    assert owner.owner_of(tmp_path / "owner") == "vcu/pv"


def test_a_disk_that_cannot_be_read_is_no_volume_without_an_owner(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        owner.take(tmp_path / "owner", MINE)
